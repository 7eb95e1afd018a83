"""The vector functions against their definitions in double, or extended, precision: every float32 on a dense sweep."""

import numpy as np
import pytest

from fastrnn import pointwise
from tests.helpers import FLOAT64_ULPS, apply_vector, ulps

FUNCTIONS = {"exp": np.exp, "sigmoid": lambda x: np.exp(x) / (1 + np.exp(x)), "tanh": np.tanh}
SPECIAL = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1e-45,
    -1e-45,
    1e-38,
    88.72,
    88.73,
    -87.4,
    -103.9,
    -104.1,
    1e30,
    -1e30,
    np.inf,
    -np.inf,
    np.nan,
]


def truth(name, x):
    wide = np.longdouble if x.dtype == np.float64 else np.float64
    x = x.astype(wide)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        if name == "sigmoid":
            return np.where(
                x < 0, np.exp(np.minimum(x, 0)) / (1 + np.exp(np.minimum(x, 0))), 1 / (1 + np.exp(-np.maximum(x, 0)))
            )
        return FUNCTIONS[name](x)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_sweep_is_within_two_ulp(name):
    # every 997th float32 of either sign, over all exponents
    bits = np.arange(0, 0x7F800001, 997, dtype=np.uint32)
    x = np.concatenate([bits, bits | 0x80000000]).astype(np.uint32).view(np.float32)
    assert ulps(apply_vector(name, x), truth(name, x)).max() <= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_float32_is_within_two_ulp(name):
    worst = 0.0
    for sign in (0, 0x80000000):
        for start in range(0, 0x7F800001, 1 << 24):
            bits = np.arange(start, min(start + (1 << 24), 0x7F800001), dtype=np.uint32) | np.uint32(sign)
            x = bits.view(np.float32)
            worst = max(worst, ulps(apply_vector(name, x), truth(name, x)).max())
    print(f"{name}: {worst:.3f} ulp")
    assert worst <= 2


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float64(name):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-750, 715, 200_000), rng.normal(0, 3, 400_000), rng.normal(0, 1e-3, 100_000)])
    assert ulps(apply_vector(name, x), truth(name, x)).max() <= FLOAT64_ULPS


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(name, dtype):
    x = np.array(SPECIAL, dtype)
    with np.errstate(over="ignore"):
        got, want = apply_vector(name, x), truth(name, x).astype(dtype)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(want))
    assert np.nanmax(ulps(got[np.isfinite(want)], truth(name, x)[np.isfinite(want)])) <= 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tanh_is_odd_to_the_bit(dtype):
    x = np.random.default_rng(0).normal(0, 4, 10_000).astype(dtype)
    np.testing.assert_array_equal(apply_vector("tanh", x), -apply_vector("tanh", -x))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_relu_keeps_nan_and_drops_negatives(dtype):
    x = np.array([-np.inf, -1, -0.0, 0, 2, np.inf, np.nan], dtype)
    np.testing.assert_array_equal(apply_vector("relu", x), pointwise.relu(x))
