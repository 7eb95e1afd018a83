"""What the tests share; every tolerance of the suite stands here."""

from functools import cache

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

import fastrnn.cpu.activations  # noqa: F401
from fastrnn import pointwise
from fastrnn.cpu import plan, team
from fastrnn.cpu.simd import Lanes, load_part, store_part
from fastrnn.cpu.target import lanes


def forget_plans():
    """As if no call had been made."""
    for cached in (plan.choice_of, plan.forward_plan, plan.backward_plan):
        cached.cache_clear()


def divide_small_calls(patch):
    """Divide them among threads as large ones are, however far threads are apart; to be followed by forget_plans."""
    patch.setattr(team, "LEAST", team.Least(*(0,) * len(team.Least._fields)))
    forget_plans()


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
    """Distance from the exact value in units of the last place of got's dtype; zero for the same special value."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        rounded = exact.astype(got.dtype)
        distance = np.abs(got.astype(exact.dtype) - exact) / np.spacing(np.abs(rounded)).astype(exact.dtype)
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    return np.where(
        same, np.where(np.isfinite(rounded), np.nan_to_num(distance), 0), np.where(np.isnan(distance), np.inf, distance)
    )


# --- tolerances: relative root mean square errors, but for this one

FLOAT64_ULPS = 2.5  # float32 is held to 2; measured in float64: exp 0.98, sigmoid 1.99, tanh 2.09

COMPLEX_STEP = 1e-14  # a complex step is exact: what is left is rounding
REFERENCE_FLOAT64 = 1e-12  # two orders of summation in double precision
ENGINE = {"float32": 2e-6, "float64": 1e-13}  # kernels against the reference in double precision
DEVICE = {
    "float32": 2e-6,
    "float64": 1e-13,
    "float16": 1e-3,
    "bfloat16": 4e-3,
}  # the same of CUDA kernels; half precision rounds what it stores
CENTRAL_DIFFERENCE = 1e-8  # absolute, or relative where the slope is above 1: steps of 1e-5 in double precision
SEQ2SEQ_FLOAT64 = 1e-10  # a whole model, loss and gradients, in double precision
DECODED = {"rtol": 1e-10, "atol": 1e-12}  # scores, log probabilities and weights of two ways to the same tokens
DECODED_FLOAT32 = 1e-4  # scores in single precision beside those in double
PEER_RATIO = 1.5  # our float32 error over PyTorch's own
PEER_FLOOR = 2e-7  # where PyTorch's error is smaller than a rounding


def rms(got, want):
    """The relative root mean square error; absolute where the truth is zero."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    scale = np.sqrt(np.mean(want**2)) if want.size else 0
    return float(np.sqrt(np.mean((got - want) ** 2)) / (scale or 1)) if want.size else 0.0
