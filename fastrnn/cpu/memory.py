"""Memory for kernels: laid out once for calls of a shape, aligned, and used again."""

import ctypes
import threading
from math import prod
from typing import Any

import numpy as np

from fastrnn.contract import Array
from fastrnn.cpu.target import ITEMSIZE

LINE = 64  # bytes: vectors that straddle two cache lines cost two loads
_ITEMSIZE = ITEMSIZE | {"intp": np.dtype(np.intp).itemsize}
_BYTE = ctypes.c_char.from_buffer
_NAMES = {np.dtype(np.float32): "float32", np.dtype(np.float64): "float64"}
_DTYPES = {name: np.dtype(name) for name in _ITEMSIZE}

Pieces = dict[str, tuple[tuple[int, ...], str]]  # name -> shape, dtype


def name_of(array: Array) -> str:
    """The dtype's name (NumPy's own dtype.name takes microseconds)."""
    return _NAMES[array.dtype]


def name_of_dtype(dtype: Any) -> str:
    return _NAMES[np.dtype(dtype)]


def address_of(array: Any) -> int:
    """Of an array: at once where it is contiguous and may be written to, for its `ctypes.data` takes a microsecond."""
    flags = array.flags
    return ctypes.addressof(_BYTE(array)) if flags.carray and array.size else int(array.ctypes.data)


def spread(n: int, dtype: str) -> int:
    """n numbers rounded up to an odd number of cache lines: rows a power of two apart fall into few sets of the caches."""
    lines = -(-n * ITEMSIZE[dtype] // LINE)
    return (lines + 1 - lines % 2) * LINE // ITEMSIZE[dtype]


class _Lent(np.ndarray):
    """Memory on loan: when the last array that lives in it is gone, it goes back to the pool."""

    _loan: Any = None  # whose, and of what; arrays made of it by slicing have nothing to give back

    def __del__(self) -> None:
        if self._loan is not None:
            pool, whole = self._loan
            pool.give(whole)


class _Pool:
    """Large buffers that are used again: fresh ones cost a page fault every 4 KiB, up to a sixth of a training step.

    They come in sizes an eighth of a power of two apart, so that finding one takes no search.
    """

    LEAST, MOST = 1 << 17, 1 << 29  # bytes of a buffer that is kept; bytes kept in all

    def __init__(self) -> None:
        self._free: dict[int, list[Any]] = {}  # by size, that of the last one given back behind the others
        self._kept = 0
        self._lock = threading.RLock()  # a garbage collection inside may give back

    def take(self, size: int) -> Array:
        if size < self.LEAST:
            return np.empty(size, np.uint8)
        step = 1 << (size.bit_length() - 4)
        size = -(-size // step) * step
        with self._lock:
            free = self._free.get(size)
            # by way of a ctypes array: NumPy would make arrays refer to the buffer itself, past the loan
            if free:
                whole = free.pop()
                self._kept -= size
            else:
                fresh: Any = np.empty(size, np.uint8)
                whole = (ctypes.c_ubyte * size).from_buffer(fresh)
        lent = np.ndarray.__new__(_Lent, size, np.uint8, whole)
        lent._loan = self, whole
        return lent

    def give(self, whole: Any) -> None:
        # made before the table is touched: a garbage collection may come here again for every new list
        none: list[Any] = []
        size = len(whole)
        with self._lock:
            free: list[Any] = self._free.pop(size, none)
            free.append(whole)
            self._free[size] = free
            self._kept += size
            while self._kept > self.MOST:
                oldest = next(iter(self._free))
                if self._free[oldest]:
                    self._free[oldest].pop(0)
                    self._kept -= oldest
                else:
                    del self._free[oldest]


_POOL = _Pool()


class Layout:
    """Where the pieces of one allocation start, each on a cache line."""

    def __init__(self, pieces: Pieces):
        self.places: dict[str, tuple[int, tuple[int, ...], Any]] = {}
        self.size = 0  # bytes
        for name, (shape, dtype) in pieces.items():
            self.places[name] = self.size, shape, _DTYPES[dtype]
            self.size += -(-prod(shape) * _ITEMSIZE[dtype] // LINE) * LINE


class Block:
    """One allocation, its pieces by name: as an array, or only its address, which NumPy takes a microsecond to say."""

    __slots__ = ("_raw", "_start", "address", "layout")

    def __init__(self, layout: Layout):
        self.layout = layout
        raw: Any = _POOL.take(layout.size + LINE)
        self._raw, start = raw, ctypes.addressof(_BYTE(raw))
        self._start = -start % LINE
        self.address = start + self._start

    def __getitem__(self, name: str) -> Array:
        offset, shape, dtype = self.layout.places[name]
        return np.ndarray(shape, dtype, self._raw, self._start + offset)

    def __contains__(self, name: str) -> bool:
        return name in self.layout.places

    def get(self, name: str) -> Array | None:
        return self[name] if name in self.layout.places else None

    def span(self, first: str, last: str) -> Array:
        """The bytes from where one piece begins to where another one ends."""
        start, (offset, shape, dtype) = self.layout.places[first][0], self.layout.places[last]
        return np.ndarray(offset + prod(shape) * dtype.itemsize - start, np.uint8, self._raw, self._start + start)

    def at(self, name: str) -> int:
        return self.address + self.layout.places[name][0]

    def __reduce__(self) -> Any:
        # a copy lives elsewhere
        return _copy, (self.layout, {name: self[name] for name in self.layout.places})


def _copy(layout: Layout, arrays: dict[str, Array]) -> Block:
    block = Block(layout)
    for name, array in arrays.items():
        block[name][...] = array
    return block


def empty(shape: tuple[int, ...], dtype: str) -> Array:
    """An array for the caller to keep."""
    if prod(shape) * _ITEMSIZE[dtype] < _Pool.LEAST:
        return np.empty(shape, _DTYPES[dtype])
    return Block(Layout({"": (shape, dtype)}))[""]
