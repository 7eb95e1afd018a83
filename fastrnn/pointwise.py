"""The elementwise functions that cells are written in, by their mathematical definition.

σ(x) = 1 / (1 + e⁻ˣ)      tanh(x) = (eˣ - e⁻ˣ) / (eˣ + e⁻ˣ)      relu(x) = max(x, 0)

On arrays and complex numbers these definitions run as they stand; a backend registers its own version for its own
kind of value (`functools.singledispatch`), so the text of a cell never changes.
"""

from functools import singledispatch

import numpy as np


@singledispatch
def exp(x):
    return np.exp(x)


@singledispatch
def sigmoid(x):
    # e⁻ˣ overflows to infinity where σ underflows to zero: the quotient is right, the warning is not
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


@singledispatch
def tanh(x):
    return np.tanh(x)


@singledispatch
def relu(x):
    # "not below zero" rather than "above zero": NaN comes through
    return np.where(np.real(x) <= 0, np.zeros_like(x), x)


@singledispatch
def relu_gradient(dy, y):
    """dy where relu's output y is not zero, else 0."""
    return np.where(np.real(y) <= 0, np.zeros_like(dy), dy)
