"""Memory for kernels, and the words by which they are called."""

from typing import Any

import numpy as np

from fastrnn.contract import Array

LINE = 64  # bytes: vectors that straddle two cache lines cost two loads


def empty(shape: int | tuple[int, ...], dtype: str) -> Array:
    """An array that starts on a cache line."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + size].view(dtype).reshape(shape)


def zeros(shape: int | tuple[int, ...], dtype: str) -> Array:
    array = empty(shape, dtype)
    array[...] = 0
    return array


def words(names: tuple[str, ...], values: dict[str, Any]) -> Array:
    """A kernel's arguments: the addresses of arrays and the integers, in the order of `names`."""
    found = (values[name] for name in names)
    return np.array([v.ctypes.data if isinstance(v, np.ndarray) else int(v or 0) for v in found], np.intp)
