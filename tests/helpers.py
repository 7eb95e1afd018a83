"""What the tests share; every tolerance of the suite stands here."""

from functools import cache

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

import fastrnn.cpu.activations  # noqa: F401
from fastrnn import pointwise
from fastrnn.cpu.simd import Lanes, Vector, load_part, store_part
from fastrnn.cpu.target import lanes


@cache
def _vector_function(name):
    @intrinsic
    def apply(typing, x):
        def codegen(context, builder, signature, args):
            return getattr(pointwise, name)(Lanes(builder, args[0], x.dtype)).value

        return x(x), codegen

    @intrinsic
    def pointer(typing, array):
        def codegen(context, builder, signature, args):
            return context.make_array(signature.args[0])(context, builder, args[0]).data

        return types.CPointer(array.dtype)(array), codegen

    @njit
    def sweep(x, y, step):
        for i in range(0, x.size, step):
            store_part(pointer(y), i, 0, (apply(load_part(pointer(x), i, x.size - i)),), x.size - i)

    return sweep


def apply_vector(name, x):
    """A function of pointwise.py as the kernels compute it, on an array."""
    y = np.full_like(x, np.nan)
    _vector_function(name)(x, y, lanes(x.dtype.name))
    return y


def ulps(got, exact):
    """Distance from the exact value in units of the last place of got's dtype; zero where both are the same special value."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        rounded = exact.astype(got.dtype)
        distance = np.abs(got.astype(exact.dtype) - exact) / np.spacing(np.abs(rounded)).astype(exact.dtype)
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    return np.where(same, np.where(np.isfinite(rounded), np.nan_to_num(distance), 0), np.where(np.isnan(distance), np.inf, distance))


__all__ = ["Vector", "apply_vector", "ulps"]
