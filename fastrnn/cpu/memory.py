"""Memory for kernels, and the words by which they are called."""

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


class Block:
    """One allocation, cut into pieces that start on cache lines."""

    def __init__(self, *pieces: tuple[Any, str]):
        sizes = [-(-prod(shape) * _ITEMSIZE[dtype] // LINE) * LINE for shape, dtype in pieces]
        raw = np.empty(sum(sizes) + LINE, np.uint8)
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
    return np.array([_word(values[name]) for name in names], np.intp)


def _word(value: Any) -> int:
    if type(value) is Piece:
        return value.address
    if isinstance(value, np.ndarray):
        return int(value.ctypes.data)
    return 0 if value is None else value
