"""Launches by the driver itself: a kernel compiled for its arguments' types, and the words that it is given.

Numba's own launch makes an array of Numba's of every other library's, types each one anew, and asks the driver how many
blocks fit: for the five launches of an inference 1.5 ms beside an H100, the time of 500 steps; this way 0.3.
"""

import struct
import threading
from array import array
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numba import cuda
from numba.cuda import types

from fastrnn.cuda.devices import limits
from fastrnn.cuda.target import SIMULATED

if not SIMULATED:
    from cuda.bindings import driver as binding
    from numba.cuda.cudadrv.driver import driver


class Memory:
    """An array on a device as kernels see it: where it is, its shape, strides in bytes, and type. It holds its owner."""

    __slots__ = ("form", "item", "matrices", "owner", "pointer", "shape", "size", "strides")

    def __init__(self, pointer: int, shape: tuple[int, ...], strides: tuple[int, ...] | None, dtype: str, owner: Any):
        """strides : None for those of a contiguous array"""
        self.pointer, self.shape, self.owner, item = pointer, shape, owner, _SIZES[dtype]
        self.strides: tuple[int, ...]
        self.matrices: dict | None = None  # its library's views of memory that serves many calls, see kinds.py
        if len(shape) == 1 and strides is None:  # most are, and a call has many
            self.size, self.item, self.strides, self.form = shape[0], item, (item,), _ON_ONE_AXIS[dtype]
            return
        dense = _dense(shape, item)
        contiguous = strides is None or _same(shape, strides, dense)
        self.size, self.item, self.strides = prod(shape), item, dense if strides is None or contiguous else strides
        self.form = dtype, len(shape), "C" if contiguous else "A"

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.form[0])

    def is_c_contiguous(self) -> bool:
        return self.form[2] == "C"

    def ravel(self) -> "Memory":
        """The same numbers on one axis."""
        assert self.is_c_contiguous()
        return self if len(self.shape) == 1 else Memory(self.pointer, (self.size,), None, self.form[0], self.owner)

    def view(self, dtype: Any) -> "Memory":
        """The same memory on one axis of another type."""
        name = _name(dtype)
        return Memory(self.pointer, (self.size * self.item // _SIZES[name],), None, name, self.owner)

    def __getitem__(self, part: slice) -> "Memory":
        """A part of one axis."""
        start, end, _ = part.indices(self.size)
        return Memory(self.pointer + start * self.item, (max(end - start, 0),), None, self.form[0], self.owner)


_SIZES = {name: np.dtype(name).itemsize for name in ("float64", "float32", "float16", "int64", "int32", "int16")}
_ON_ONE_AXIS = {name: (name, 1, "C") for name in _SIZES}


@lru_cache(64)
def _name(dtype: Any) -> str:
    return np.dtype(dtype).name


@lru_cache(4096)
def _dense(shape: tuple[int, ...], item: int) -> tuple[int, ...]:
    """The strides of a contiguous array."""
    strides = []
    for n in reversed(shape):
        strides.append(item)
        item *= n
    return tuple(reversed(strides))


def _same(shape: tuple[int, ...], strides: tuple[int, ...], dense: tuple[int, ...]) -> bool:
    """Whether strides are those of a contiguous array: of an axis of one any is, and of an array without numbers."""
    if strides == dense or 0 in shape:
        return True
    return all(n == 1 or a == b for n, a, b in zip(shape, strides, dense, strict=True))


class Grid(NamedTuple):
    """Where and how large a launch is."""

    device: int
    stream: int  # the driver's handle
    blocks: tuple[int, ...]
    threads: int
    shared: int = 0  # bytes of shared memory, besides those that the kernel names
    together: bool = False  # blocks wait for each other: all of them run at the same time, or none


def launch(kernel: Any, grid: Grid, args: tuple[Any, ...]) -> None:
    if SIMULATED:
        kernel[grid.blocks, grid.threads, grid.stream, grid.shared](*args)
        return
    words: list[int] = []
    forms: list[Any] = []
    _spell(args, words, forms)
    function = _function(kernel, grid, tuple(forms), args)
    x, y, z = (*grid.blocks, 1, 1)[:3]
    sizes = x, y, z, grid.threads, 1, 1, grid.shared, grid.stream, _written.put(words)
    check(
        binding.cuLaunchCooperativeKernel(function, *sizes) if grid.together else binding.cuLaunchKernel(function, *sizes, 0)
    )


class _Written(threading.local):
    """A thread's memory for the words of a launch, which the driver copies before it returns."""

    def __init__(self) -> None:
        self._hold(256)

    def _hold(self, size: int) -> None:
        self._words = array("q", bytes(8 * size))
        start = self._words.buffer_info()[0]
        self._places = array("q", range(start, start + 8 * size, 8))

    def put(self, words: list[int]) -> int:
        """Where the place of each word is, which is what the driver takes."""
        if len(words) > len(self._words):
            self._hold(2 * len(words))
        _packing(len(words)).pack_into(self._words, 0, *words)
        return self._places.buffer_info()[0]


_written = _Written()


@lru_cache(64)
def _packing(size: int) -> struct.Struct:
    return struct.Struct(f"{size}q")


def fill(memory: Memory, word: int, stream: int) -> None:
    """Every 32 bits of it, after what was launched on the stream before."""
    if memory.size:
        check(binding.cuMemsetD32Async(memory.pointer, word & 0xFFFFFFFF, memory.size * memory.item // 4, stream))


def check(answer: tuple[Any, ...]) -> None:
    """RuntimeError where the driver says that something went wrong."""
    if answer[0]:
        raise RuntimeError(f"CUDA: {answer[0].name}")


def current_device() -> int:
    """The number of the device in use; a thread that has none yet gets Numba's."""
    problem, number = binding.cuCtxGetDevice()
    return cuda.get_current_device().id if problem else int(number)


def _spell(args: Any, words: list[int], forms: list[Any]) -> None:
    """Arguments as words of 64 bits, in the order of Numba's kernels, and what their types depend on."""
    for x in args:
        if type(x) is Memory:
            # no object of Numba's that holds it, no parent
            words += (0, 0, x.size, x.item, x.pointer, *x.shape, *x.strides)
            forms.append(x.form)
        elif isinstance(x, tuple):
            forms.append((type(x), len(x)))
            if all(type(n) is int for n in x):  # what a kernel is told of a call's sizes
                words += x
                forms.append(int)
            else:
                _spell(x, words, forms)
        elif isinstance(x, float):
            words.append(struct.unpack("q", struct.pack("d", x))[0])
            forms.append(float)
        else:
            words.append(int(x))
            forms.append(int)


def _type_of(x: Any) -> Any:
    """An argument's type, as Numba's."""
    if type(x) is Memory:
        name, axes, layout = x.form
        return types.Array(getattr(types, name), axes, layout)  # type: ignore[attr-defined]
    if isinstance(x, tuple):
        return types.BaseTuple.from_types([_type_of(y) for y in x], type(x))  # type: ignore[attr-defined]
    return getattr(types, "float64" if isinstance(x, float) else "int64")


_functions: dict[Any, Any] = {}
_compiling = threading.Lock()


def _function(kernel: Any, grid: Grid, forms: tuple[Any, ...], args: Any) -> Any:
    """What the driver launches."""
    key = kernel, forms, grid.together, grid.device
    if key not in _functions:
        with _compiling:
            compiled = kernel.compile(tuple(map(_type_of, args)))
            function = compiled._codelibrary.get_cufunc()
            if grid.together:
                _allow(compiled, function)
            # the library of the code lives as long as its function can be launched
            _functions[key] = compiled, binding.CUfunction(int(function.handle))
    return _functions[key][1]


def _allow(compiled: Any, function: Any) -> None:
    """Let a kernel have all the shared memory that a block of the device can have."""
    most = limits(function.device.id).shared - compiled.shared_mem_per_block  # of which it has some of a size that is known
    attribute = binding.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    driver.cuKernelSetAttribute(attribute, most, function.handle, function.device.id)
