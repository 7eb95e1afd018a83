"""Memory for kernels, and the words by which they are called."""

import ctypes
import threading
import weakref
from math import prod
from typing import Any, NamedTuple

import numpy as np

from fastrnn.contract import Array
from fastrnn.cpu.target import ITEMSIZE

LINE = 64  # bytes: vectors that straddle two cache lines cost two loads
_ITEMSIZE = ITEMSIZE | {"intp": np.dtype(np.intp).itemsize}
_NAMES = {np.dtype(np.float32): "float32", np.dtype(np.float64): "float64"}


def name_of(array: Array) -> str:
    """The dtype's name (NumPy's own dtype.name takes microseconds)."""
    return _NAMES[array.dtype]


class Piece(NamedTuple):
    """An array and its address, known beforehand: asking NumPy for it takes microseconds."""

    array: Array
    address: int

    @classmethod
    def of(cls, array: Array) -> "Piece":
        return cls(array, array.ctypes.data)

    def __reduce__(self) -> Any:
        # a copy lives elsewhere
        return Piece.of, (self.array,)


class _Lent(np.ndarray):
    """Memory on loan: when the last array that lives in it is gone, it goes back to the pool."""


class _Pool:
    """Large buffers that are used again: fresh ones cost a page fault every 4 KiB, up to a sixth of a training step."""

    LEAST, MOST = 1 << 17, 1 << 29  # bytes of a buffer that is kept; bytes kept in all

    def __init__(self) -> None:
        self._free: list[Array] = []
        self._lock = threading.RLock()  # a garbage collection inside may give back

    def take(self, size: int) -> Array:
        if size < self.LEAST:
            return np.empty(size, np.uint8)
        with self._lock:
            fit = [k for k, raw in enumerate(self._free) if size <= raw.size <= size + size // 4]
            raw: Any = self._free.pop(fit[-1]) if fit else np.empty(size, np.uint8)
        # by way of a ctypes array: NumPy would make arrays refer to `raw` itself, past the loan
        whole: Any = (ctypes.c_ubyte * raw.size).from_buffer(raw)
        lent = np.ndarray.__new__(_Lent, raw.size, np.uint8, whole)
        weakref.finalize(lent, self._give, raw).atexit = False
        return lent

    def _give(self, raw: Array) -> None:
        with self._lock:
            self._free.append(raw)
            while sum(kept.size for kept in self._free) > self.MOST:
                self._free.pop(0)


_POOL = _Pool()


class Block:
    """One allocation, cut into pieces that start on cache lines."""

    def __init__(self, *pieces: tuple[Any, str]):
        sizes = [-(-prod(shape) * _ITEMSIZE[dtype] // LINE) * LINE for shape, dtype in pieces]
        raw = _POOL.take(sum(sizes) + LINE)
        start = raw.ctypes.data
        offset = -start % LINE
        self.pieces = []
        for (shape, dtype), size in zip(pieces, sizes, strict=True):
            self.pieces.append(Piece(np.ndarray(shape, dtype, raw, offset), start + offset))
            offset += size


def empty(shape: tuple[int, ...], dtype: str) -> Piece:
    return Block((shape, dtype)).pieces[0]


def zeros(shape: tuple[int, ...], dtype: str) -> Piece:
    piece = empty(shape, dtype)
    piece.array[...] = 0
    return piece


def words(names: tuple[str, ...], values: dict[str, Any]) -> Array:
    """A kernel's arguments, in the order of `names`: integers, and the addresses of pieces, arrays or None."""
    return np.array([v if type(v) is int else _word(v) for v in map(values.__getitem__, names)], np.intp)


def _word(value: Any) -> int:
    if type(value) is Piece:
        return value.address
    if isinstance(value, np.ndarray):
        return int(value.ctypes.data)
    return 0 if value is None else value
