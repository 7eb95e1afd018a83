"""Arguments checked where they are, and what layers do with arrays between the time loops. The host's: fastrnn/arrays.py."""

from math import prod
from typing import Any

import numpy as np

from fastrnn import arrays as host
from fastrnn.cuda import moves
from fastrnn.cuda.call import Call
from fastrnn.cuda.kinds import dtype_of, kind_of

DTYPES = ("float32", "float64", "float16", "bfloat16")


def from_any(name: str, value: Any) -> Any:
    """`value` as it is, known to be an array on a device."""
    if not host.on_device(value):
        raise TypeError(f"{name}: got {type(value).__name__}, wanted an array on the device, where the call's others are")
    if getattr(value, "requires_grad", False):
        raise TypeError(f"{name}: got a tensor that requires a gradient, wanted one without: {name}.detach()")
    kind_of(value, name)
    return value


def as_array(name: str, value: Any, shape: tuple[int | str, ...], dtype: Any = None) -> Any:
    """`value`, known to be of that shape and dtype, of any strides."""
    value = from_any(name, value)
    host.check_form(name, tuple(value.shape), shape, dtype_of(value), DTYPES if dtype is None else (dtype_of(dtype),))
    return value


def optional(name: str, value: Any, shape: tuple[int | str, ...], dtype: Any) -> Any:
    return None if value is None else contiguous(name, value, shape, dtype)


def contiguous(name: str, value: Any, shape: tuple[int | str, ...], dtype: Any) -> Any:
    value = as_array(name, value, shape, dtype)
    return kind_of(value).contiguous(value, name)


def tokens(name: str, value: Any, size: int, shape: tuple[int | str, ...]) -> Any:
    """`value` as contiguous integers from 0 to size - 1, which are read on the host for that."""
    value = from_any(name, value)
    host.check_form(name, tuple(value.shape), shape, dtype_of(value), ("int64", "int32"))
    host.check_tokens(name, to_host(value), size)
    return kind_of(value).contiguous(value, name)


def as_lengths(value: Any, N: int, T: int) -> Any:
    """`lengths`, on the host, where the work is planned."""
    return host.as_lengths(to_host(value) if host.on_device(value) else value, N, T)


def to_host(x: Any) -> Any:
    return kind_of(x).to_host(x)


def type_of(x: Any) -> Any:
    """NumPy's dtype, or a name where NumPy has none."""
    name = dtype_of(x)
    return name if name == "bfloat16" else np.dtype(name)


def placed(x: Any, like: Any) -> Any:
    """An array of the host on the device of `like`, of its kind."""
    return kind_of(like).from_host(x, like)


def empty(shape: Any, like: Any) -> Any:
    """A new array of the kind, type and device of `like`."""
    return kind_of(like).empty(shape, dtype_of(like), like)


def zeros(shape: Any, like: Any) -> Any:
    into, n = empty(shape, like), prod(shape)
    call, dtype = Call(like), dtype_of(like)
    call.convert(None, dtype, call.flat(into), dtype, 0, n)
    return into


def copy(x: Any, into: Any) -> Any:
    """x, contiguous, to `into`, of its shape; returns it."""
    kind_of(into).contiguous(into, "out")
    call, dtype = Call(x), dtype_of(x)
    call.convert(x, dtype, call.flat(into), dtype, 0, prod(x.shape))
    return into


def copied(x: Any) -> Any:
    return copy(x, empty(tuple(x.shape), x))


def lifted(x: Any) -> Any:
    """(T, I) -> (T, 1, I)"""
    return kind_of(x).lifted(x)


def swapped(x: Any) -> Any:
    """(T, N, I) -> (N, T, I), a view."""
    return kind_of(x).swapped(x)


def columns(x: Any, start: int, end: int) -> Any:
    """x[:, :, start:end], a view."""
    return kind_of(x).columns(x, start, end)


def plus(a: Any, b: Any) -> Any:
    return _combined(a, b, moves.SUM)


def times(a: Any, b: Any) -> Any:
    return _combined(a, b, moves.PRODUCT)


def _combined(a: Any, b: Any, how: int) -> Any:
    call, into, n = Call(a), empty(tuple(a.shape), a), prod(a.shape)
    call.each(moves.combine(dtype_of(a), how), n, n, call.flat(a), call.flat(b), call.flat(into))
    return into


def stacked(states: list[Any]) -> Any:
    """Arrays of a shape, one behind the other; of a single one, a view."""
    states = [kind_of(state).contiguous(state, "array") for state in states]
    if len(states) == 1:
        return kind_of(states[0]).first(states[0])
    call, dtype, n = Call(states[0]), dtype_of(states[0]), prod(states[0].shape)
    into = empty((len(states), *states[0].shape), states[0])
    for i, state in enumerate(states):
        call.convert(state, dtype, call.flat(into), dtype, i * n, n)
    return into
