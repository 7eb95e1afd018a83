"""Arguments checked and brought into the form that backends take. Errors say which argument, what was got and wanted."""

import operator
from typing import Any

import numpy as np

from fastrnn.contract import Array

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def as_array(name: str, value: Any, shape: tuple[int | str, ...], dtype: Any = None) -> Array:
    """`value` as a native, aligned array of that shape with contiguous rows; a copy only where it has to be one.

    shape : numbers are required, letters stand for any size. dtype : required; None takes float32 and float64.
    """
    if type(value) is np.ndarray and value.dtype == dtype and (value.shape == shape or _fits(value.shape, shape)):
        flags = value.flags
        if flags.c_contiguous and flags.aligned:
            return value  # the common case, at once
    array = from_any(name, value)
    native = array.dtype.newbyteorder("=")
    check_form(name, array.shape, shape, native, DTYPES if dtype is None else (np.dtype(dtype),), array.dtype)
    if array.dtype != native:
        array = array.astype(native)
    item = native.itemsize
    rows = array.ndim == 0 or array.shape[-1] == 1 or array.strides[-1] == item
    if not rows or not array.flags.aligned or any(step % item for step in array.strides):
        array = np.ascontiguousarray(array)
    return array if array.flags.aligned else array.copy()


def check_form(
    name: str, got: tuple[int, ...], shape: tuple[int | str, ...], dtype: Any, dtypes: tuple[Any, ...], said: Any = None
) -> None:
    """Raise unless `dtype` is among `dtypes` and `got` is a `shape`. said : how the dtype is called in an error."""
    if dtype not in dtypes:
        raise TypeError(f"{name}: got dtype {said or dtype}, wanted {' or '.join(map(str, dtypes))}")
    if not _fits(got, shape):
        text = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        raise ValueError(f"{name}: got shape {got}, wanted ({text})")


def on_device(value: Any) -> bool:
    """Whether `value` is an array in a GPU's memory, as Numba, CuPy and PyTorch have them."""
    if isinstance(value, np.ndarray):
        return False
    if hasattr(value, "is_cuda"):  # PyTorch's: its interface takes long, and refuses a tensor that requires a gradient
        return bool(value.is_cuda)
    return hasattr(value, "__cuda_array_interface__") or hasattr(value, "__cuda_ndarray__")


def _fits(got: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
    if len(got) != len(wanted):
        return False
    for n, m in zip(wanted, got, strict=True):  # noqa: SIM110  a generator takes twice as long
        if n != m and type(n) is not str:
            return False
    return True


def optional(name: str, value: Any, shape: tuple[int | str, ...], dtype: Any) -> Array | None:
    return None if value is None else as_array(name, value, shape, dtype)


def contiguous(name: str, value: Any, shape: tuple[int | str, ...], dtype: Any) -> Array:
    array = as_array(name, value, shape, dtype)
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def from_any(name: str, value: Any) -> Array:
    """`value` as an array of whatever shape and dtype."""
    if type(value) is np.ndarray:
        return value  # the common case, at once
    if on_device(value):
        raise TypeError(f"{name}: got an array on a device, wanted one on the host, where the call's others are")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: got a masked array, wanted a plain one (say what the masked entries are: .filled())")
    try:
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            value = np.from_dlpack(value)
        return np.asarray(value)
    except Exception as problem:
        raise TypeError(f"{name}: got {type(value).__name__}, which is no array ({problem})") from problem


def check_tokens(name: str, tokens: Array, size: int) -> None:
    """Raise unless all of them are from 0 to size - 1."""
    if tokens.size and (tokens.min() < 0 or tokens.max() >= size):
        got = tokens.min() if tokens.min() < 0 else tokens.max()
        raise ValueError(f"{name}: got token {got}, wanted 0 to {size - 1}")


def as_lengths(value: Any, N: int, T: int, name: str = "lengths") -> Array | None:
    """`lengths` as int64 of its own, or None."""
    if value is None:
        return None
    array = from_any(name, value)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name}: got dtype {array.dtype}, wanted integers")
    if array.shape != (N,):
        raise ValueError(f"{name}: got shape {array.shape}, wanted ({N},), one for each row of the batch")
    if array.size and (array.min() < 0 or array.max() > T):
        raise ValueError(f"{name}: got values from {array.min()} to {array.max()}, wanted 0 to {T}, the time steps")
    return array.astype(np.int64)


def as_flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: got {value!r}, wanted True or False")
    return bool(value)


def as_size(name: str, value: Any, least: int = 1) -> int:
    try:
        size = operator.index(str(value) if isinstance(value, bool) else value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: got {value!r}, wanted an integer") from None
    if size < least:
        raise ValueError(f"{name}: got {size}, wanted {least} or more")
    return size


def as_dtype(name: str, value: Any) -> Any:
    """float32 or float64, however it is said."""
    try:
        dtype = np.dtype(value)
    except TypeError:
        dtype = None
    # None would pass: NumPy takes it for float64
    if value is None or dtype is None or dtype not in DTYPES:
        raise TypeError(f"{name}: got {value!r}, wanted {' or '.join(map(str, DTYPES))}")
    return dtype


# --- what layers do with arrays between the time loops; on a device: fastrnn/cuda/arrays.py


def to_host(x: Array) -> Array:
    return x


def type_of(x: Array) -> Any:
    """The dtype that what comes with x has to have."""
    return x.dtype


def placed(x: Array, like: Array) -> Array:
    """An array of the host where `like` is."""
    return x


def copied(x: Array) -> Array:
    return x.copy()


def empty(shape: tuple[int, ...], like: Array) -> Array:
    """A new array of the type of `like`."""
    return np.empty(shape, like.dtype)


def lifted(x: Array) -> Array:
    """(T, I) -> (T, 1, I)"""
    return x[:, None]


def swapped(x: Array) -> Array:
    """(T, N, I) -> (N, T, I), a view."""
    return x.swapaxes(0, 1)


def columns(x: Array, start: int, end: int) -> Array:
    return x[:, :, start:end]


def plus(a: Array, b: Array) -> Array:
    return a + b


def times(a: Array, b: Array) -> Array:
    return a * b


def stacked(states: list[Array]) -> Array:
    """Arrays of a shape, one behind the other."""
    # np.stack takes microseconds, even of one
    return np.stack(states) if len(states) > 1 else states[0][None]
