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
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import numba
import numpy as np
from llvmlite import ir
from numba import cfunc, types
from numba.extending import intrinsic

from fastrnn.cpu.simd import I64, NUMBA
from fastrnn.cpu.target import TARGET

# no fast-math (NaN, infinity and the order of sums are promises), no bounds checks (pointers have none to check)
OPTIONS: dict[str, Any] = {"error_model": "numpy", "boundscheck": False}
_warned = False  # said once a process
SIGNATURE = types.void(types.intp, types.intp, types.CPointer(types.intp))


@cache
def digest() -> str:
    """Of everything that shapes the machine code: sources, options, target, versions."""
    package = Path(__file__).parent.parent
    state = hashlib.sha256(repr((OPTIONS, TARGET, numba.__version__, llvmlite.__version__)).encode())
    for path in sorted(
        [package / "cell.py", package / "pointwise.py", *package.glob("cells/*.py"), *package.glob("cpu/*.py")]
    ):
        state.update(path.read_bytes())
    return state.hexdigest()


class Kernel(NamedTuple):
    address: int
    cached: bool  # whether it came from the disk cache
    function: Any  # keeps the machine code alive


def compile_kernel(function: Callable[..., None]) -> Kernel:
    """Compile `function`, or load it from the disk cache."""
    compiled = with_or_without_cache(lambda cache: cfunc(SIGNATURE, cache=cache, **OPTIONS)(function))
    return Kernel(int(compiled.address), compiled.cache_hits > 0, compiled)


class Task:
    """A kernel and the words it is called with: addresses and integers, by the names of its arguments."""

    __slots__ = ("_places", "address", "words")

    def __init__(self, kernel: Kernel, names: tuple[str, ...], **values: int):
        self.address, self._places = kernel.address, _places(names)
        self.words = np.zeros(len(names), np.intp)
        self.set(**values)

    def set(self, **values: int) -> None:
        words, places = self.words, self._places
        for name, value in values.items():
            words[places[name]] = value


@cache
def _places(names: tuple[str, ...]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}


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


@intrinsic(prefer_literal=True)
def pointers(typing, args, first, count, dtype):
    """`count` pointers to numbers of `dtype`, from the words of a kernel's arguments."""
    n, name = count.literal_value, dtype.literal_value
    target = types.CPointer(types.intp if name == "intp" else NUMBA[name])

    def codegen(context, builder, signature, values):
        kind = context.get_value_type(target).as_pointer()
        words = [builder.gep(values[0], [builder.add(values[1], I64(k))]) for k in range(n)]
        found = [builder.load(builder.bitcast(word, kind)) for word in words]
        return context.make_tuple(builder, signature.return_type, found)

    return types.UniTuple(target, n)(args, types.intp, count, dtype), codegen


@intrinsic(prefer_literal=True)
def integers(typing, args, first, count):
    """`count` integers from the words of a kernel's arguments."""
    n = count.literal_value

    def codegen(context, builder, signature, values):
        found = [builder.load(builder.gep(values[0], [builder.add(values[1], I64(k))])) for k in range(n)]
        return context.make_tuple(builder, signature.return_type, found)

    return types.UniTuple(types.intp, n)(args, types.intp, count), codegen


@intrinsic
def call_kernel(typing, address, member, team, args):
    """Call the compiled kernel at `address`."""

    def codegen(context, builder, signature, values):
        kind = ir.FunctionType(ir.VoidType(), [I64, I64, I64.as_pointer()])
        function = builder.inttoptr(values[0], kind.as_pointer())
        data = context.make_array(signature.args[3])(context, builder, values[3]).data
        builder.call(function, [values[1], values[2], data])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, args), codegen
