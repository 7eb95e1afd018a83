"""How a kernel is compiled, cached and called.

A kernel is a plain function (member, team, args) over raw pointers, built for one cell and dtype by a function that
closes over names and numbers only. It is compiled to a C function, so that one launcher serves every kernel. Numba's
disk cache knows a function's own file, not what it calls: the digest below, closed over by every kernel, makes the key
change with any source of the package, any option and the versions of Numba and llvmlite.
"""

import hashlib
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import numba
import numpy as np
from numba import types
from numba.core.datamodel.models import PrimitiveModel
from numba.core.imputils import lower_getattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import intrinsic, register_model

from fastrnn.cpu.memory import Block, Layout
from fastrnn.cpu.pipeline import OPTIONS, KernelFunction
from fastrnn.cpu.simd import I64, NUMBA, call_address
from fastrnn.cpu.target import TARGET, lanes

SIGNATURE = types.void(types.intp, types.intp, types.CPointer(types.intp))
_warned = False  # said once a process


@cache
def digest() -> str:
    """Of everything that shapes the machine code: sources, options, target, versions."""
    package = Path(__file__).parent.parent
    state = hashlib.sha256(repr((OPTIONS, TARGET, numba.__version__, llvmlite.__version__)).encode())
    for path in sorted(
        [
            package / "cell.py",
            package / "choices.py",
            package / "pointwise.py",
            *package.glob("cells/*.py"),
            *package.glob("cpu/*.py"),
        ]
    ):
        state.update(path.read_bytes())
    return state.hexdigest()


class Kernel(NamedTuple):
    address: int
    cached: bool  # whether it came from the disk cache
    function: Any  # keeps the machine code alive


def compile_kernel(function: Callable[..., None]) -> Kernel:
    """Compile `function`, or load it from the disk cache."""
    compiled = with_or_without_cache(lambda cache: KernelFunction(function, SIGNATURE, cache))
    return Kernel(int(compiled.address), compiled.cache_hits > 0, compiled)


class Task:
    """A kernel and the words it is called with: addresses and integers, by the names of its arguments."""

    __slots__ = ("_places", "address", "words")

    def __init__(self, kernel: Kernel, fields: "Fields", **values: int):
        self.address, self._places = kernel.address, _places(fields)
        self.words = np.zeros(len(self._places), np.intp)
        self.set(**values)

    def set(self, **values: int) -> None:
        words, places = self.words, self._places
        for name, value in values.items():
            words[places[name]] = value

    def get(self, name: str) -> int:
        return int(self.words[self._places[name]])

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def place(self, name: str) -> int:
        """Where the word of that name stands."""
        return self._places[name]


def links(layout: Layout, *pieces: tuple[Task, dict[str, str]]) -> Callable[[Block], None]:
    """What tells tasks where pieces of a block of that layout lie. pieces : of each task, by its words"""
    found = [
        (task.words, task.place(word), layout.places[piece][0])
        for task, of_task in pieces
        for word, piece in of_task.items()
    ]

    def tell(block: Block) -> None:
        address = block.address
        for words, place, offset in found:
            words[place] = address + offset

    return tell


@cache
def _places(fields: "Fields") -> dict[str, int]:
    return {name: place for place, name in enumerate(fields.names)}


def with_or_without_cache(make: Callable[[bool], Any]) -> Any:
    """make(True), and make(False) where there is no place for a cache or an entry is damaged: neither may stop a call."""
    global _warned
    try:
        return make(True)
    except Exception as problem:
        found = make(False)
        if not _warned:
            _warned = True
            warnings.warn(
                f"fastrnn compiles in every process: no use of the disk cache ({type(problem).__name__}: {problem}); "
                "set NUMBA_CACHE_DIR to a folder that can be written, or empty the one that is damaged",
                RuntimeWarning,
                stacklevel=2,
            )
        return found


def _lanes_only(name: str, dtype: str) -> dict[str, int]:
    return {"L": lanes(dtype)}


class Fields(NamedTuple):
    """The words of a kernel's call: addresses of numbers and of integers, integers, addresses of doubles, of functions."""

    numbers: tuple[str, ...]
    tables: tuple[str, ...]
    integers: tuple[str, ...]
    doubles: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    # of the cell of a name and a dtype: what is known while compiling
    constants: Callable[[str, str], dict[str, int]] = _lanes_only

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.numbers, *self.tables, *self.integers, *self.doubles, *self.functions)


class Words(types.Type):
    """A kernel's words while it runs, each an attribute: a pointer, or an integer; and so are its constants."""

    def __init__(self, fields: Fields, name: str, dtype: str):
        pointers = {"numbers": NUMBA[dtype], "tables": types.intp, "doubles": types.float64}
        kinds: dict[str, types.Type] = {group: types.CPointer(kind) for group, kind in pointers.items()}
        kinds |= {"integers": types.intp, "functions": types.intp}
        self.kinds = {name: kinds[group] for group in kinds for name in getattr(fields, group)}
        self.places, self.constants = _places(fields), fields.constants(name, dtype)
        self.kinds |= dict.fromkeys(self.constants, types.intp)
        super().__init__(f"words({dtype}: {' '.join(fields.names)} {self.constants})")


@register_model(Words)
class _WordsModel(PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, I64.as_pointer())


@infer_getattr
class _WordsAttributes(AttributeTemplate):
    key = Words

    def generic_resolve(self, words, name):
        return words.kinds.get(name)


@lower_getattr_generic(Words)
def _word(context, builder, words, value, name):
    if name in words.constants:
        return I64(words.constants[name])
    kind = context.get_value_type(words.kinds[name])
    place = builder.gep(value, [I64(words.places[name])])
    word = builder.load(place if kind == I64 else builder.bitcast(place, kind.as_pointer()))
    # they do not change while the kernel runs
    word.set_metadata("invariant.load", builder.module.add_metadata([]))
    return word


@intrinsic(prefer_literal=True)
def words_of(typing, args, home, fields, name, dtype):
    """The words of a kernel, for the cell of a name: `fields` in the module `home` of this package says which."""
    found = getattr(import_module(f"fastrnn.cpu.{home.literal_value}"), fields.literal_value)

    def codegen(context, builder, signature, values):
        return values[0]

    return Words(found, name.literal_value, dtype.literal_value)(args, home, fields, name, dtype), codegen


@intrinsic
def call_kernel(typing, address, member, team, args):
    """Call the compiled kernel at `address`."""

    def codegen(context, builder, signature, values):
        data = context.make_array(signature.args[3])(context, builder, values[3]).data
        return call_address(context, builder, signature, [*values[:3], data])

    return types.void(types.intp, types.intp, types.intp, args), codegen


@intrinsic
def call_at(typing, address, member, team, words):
    """Call the compiled kernel at `address` with the words that a pointer points to."""
    return types.void(types.intp, types.intp, types.intp, words), call_address
