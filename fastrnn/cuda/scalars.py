"""A cell's text on the scalars of a CUDA thread: the functions of pointwise.py in the precision that sums are in.

Both exponentials take an argument that is not positive, so that nothing overflows on the way to a finite value.
"""

import math
from functools import cache
from operator import getitem
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
from numba import config, cuda

from fastrnn import pointwise

device = cuda.jit(device=True)
place = np.uint64  # of a number in an array, where it counts: a signed one is looked at for negative indices at each access


@cache
def functions(real):
    """pointwise.py's functions for one type of number, by name."""
    zero, one = real(0), real(1)

    def exp(x):
        return math.exp(x)

    def sigmoid(x):
        e = math.exp(-abs(x))
        return (one if x >= zero else e) / (one + e)

    def tanh(x):
        return math.tanh(x)

    def relu(x):
        # "not below zero" rather than "above zero": NaN comes through
        return zero if x <= zero else x

    def relu_gradient(dy, y):
        return zero if y <= zero else dy

    return {f.__name__: device(f) for f in (exp, sigmoid, tanh, relu, relu_gradient)}


@cache
def text(function, real):
    """One of a cell's functions as a device function: the same code, calling the functions above."""
    known = functions(real)
    own = {name: known[name] for name in function.__code__.co_names if name in known and hasattr(pointwise, name)}
    return device(FunctionType(function.__code__, function.__globals__ | own, function.__name__))


@cache
def reader(n, dtype=""):
    """(array, at, step) -> the n numbers array[at], array[at + step], ...; in the type of sums, if a storage is named."""
    load = loader(dtype) if dtype else device(lambda x: x)
    rest = reader(n - 1, dtype) if n > 1 else None

    def read(array, at, step):
        return (load(array[place(at)]), *rest(array, at + step, step))

    def read_one(array, at, step):
        return (load(array[place(at)]),)

    return device(read if n > 1 else read_one)


@device
def put(array, at, x):
    array[place(at)] = x


@cache
def writer(n, each=put):
    """(array, at, step, values): the inverse of `reader`; each : a device function (array, at, value) that writes one."""
    rest = writer(n - 1, each) if n > 1 else None

    def write(array, at, step, values):
        each(array, at, values[0])
        rest(array, at + step, step, values[1:])

    def write_one(array, at, step, values):
        each(array, at, values[0])

    return device(write if n > 1 else write_one)


@cache
def adder(n):
    """The sums of two tuples of n numbers."""
    rest = adder(n - 1) if n > 1 else None

    def add(a, b):
        return (a[0] + b[0], *rest(a[1:], b[1:]))

    def add_one(a, b):
        return (a[0] + b[0],)

    return device(add if n > 1 else add_one)


def real_of(dtype):
    """The type in which numbers of that storage are added up, as a function."""
    return np.float64 if dtype == "float64" else np.float32


def real_name(dtype):
    """The same, its name."""
    return real_of(dtype).__name__


def stored_as(dtype):
    """The type that arrays have in a kernel: NumPy's, but for bfloat16, which is 16 bits to Numba's shared memory."""
    return np.int16 if dtype == "bfloat16" else getattr(np, dtype)


def bits_of(dtype):
    """The type of integers of the same size."""
    return np.dtype(f"i{np.dtype(stored_as(dtype)).itemsize}").type


@cache
def loader(dtype):
    """A stored number -> the same in the type of sums."""
    real = real_of(dtype)
    if dtype == "bfloat16":
        return device(lambda bits: as_float(np.int32(bits) << 16))  # the upper half of a float32
    return device(lambda x: real(x))  # noqa: PLW0108 (a type is no function to compile)


@cache
def storer(dtype):
    """The nearest number that can be stored, ties to the even one."""
    if dtype != "bfloat16":
        stored = stored_as(dtype)
        return device(lambda x: stored(x))  # noqa: PLW0108

    def store(x):
        bits = as_int(x)
        # half a unit of the last place that stays; a little less where that is even
        rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        return np.int16(0x7FC0 if x != x else rounded)

    return device(store)


if config.ENABLE_CUDASIM:  # type: ignore[attr-defined]

    def as_float(bits):
        return np.int32(bits).view(np.float32)

    def as_int(x):
        return int(np.float32(x).view(np.int32))

    def upper_half(x):
        return int(np.float64(x).view(np.int64) >> 32)

    @device
    def fresh(array, i):
        # tests/cuda/blocks.py has one, at which other threads get their turn
        return getattr(cuda, "ldcv", getitem)(array, i)

else:
    from numba.cuda.libdevice import double2hiint as upper_half
    from numba.cuda.libdevice import float_as_int as as_int
    from numba.cuda.libdevice import int_as_float as as_float

    @device
    def fresh(array, i):
        """array[i] as it is in the second-level cache now."""
        return cuda.ldcv(array, i)


class Exchange(NamedTuple):
    """Device functions for memory through which blocks pass numbers: all-ones where none has been written yet."""

    written: Any  # x -> what is stored for it
    missing: Any  # whether a number that was read is not there yet
    first: Any  # (array, i) -> array[i], there or not
    again: Any  # (array, i, x) -> array[i] once more, after it gave x, which is missing


@device
def lower(word):
    """The lower half of 64 bits."""
    return np.int32(((word & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000)


@device
def upper(word):
    return np.int32(word >> 32)


@device
def absent(bits):
    return -256 <= bits < 0


@cache
def exchange(real, pairs=False):
    """For numbers of that type, written one by one. pairs : they are read as words of two, which come twice as fast

    They are looked at as integers: to a compiler one NaN is as good as another.
    All-ones is a NaN that no arithmetic gives, but that a caller may. The 256 words up to it are taken together, and all of
    them stored as the usual NaN: that a number is missing then does not tell the compiler its bits, see `again`.
    """
    top, nan = upper_half if real is np.float64 else as_int, real(np.nan)
    positive = np.uint64(2**63 - 1)  # no index is looked at for being negative

    def of_pair(x):
        return lower(x) if absent(lower(x)) else upper(x)

    bits = device(of_pair) if pairs else top

    @device
    def missing(x):
        return absent(bits(x))

    @device
    def written(x):
        return nan if absent(top(x)) else x

    @device
    def first(array, i):
        return fresh(array, place(i) & positive)

    @device
    def again(array, i, x):
        # The compiler takes a load for a function of its address: one of an address that stays it would make once, before
        # the loop, which would never end. So the address follows from what the load before gave: -1 - bits further on, which
        # is nothing, since what is missing is all-ones; the compiler knows no more than that it is 0 to 255.
        return fresh(array, place(i + (-1 - bits(x))) & positive)

    return Exchange(written, missing, first, again)
