"""A complex step through a cell's forward is its derivative to the last digits: backward must be the same."""

import numpy as np
import pytest

from fastrnn.cells import REGISTRY
from tests.helpers import COMPLEX_STEP, rms

CELLS = pytest.mark.parametrize("cell", REGISTRY.values(), ids=lambda cell: cell.name)
STEP = 1e-30


def point(cell, seed, n=50):
    rng = np.random.default_rng(seed)
    draw = lambda count: tuple(rng.normal(0, 1, n) for _ in range(count))  # noqa: E731
    return draw(cell.n_gates), draw(cell.n_gates), *draw(3)


@CELLS
def test_backward_is_the_derivative_of_forward(cell):
    x, u, c, dh, dc = point(cell, 0)
    if not cell.memory:
        dc = np.zeros_like(dc)
    _, _, tape = cell.forward(x, u, c)
    dx, du, dc_prev = cell.backward(dh, dc, c, tape)
    got = [*dx, *du, np.zeros_like(c) + dc_prev]
    inputs = [*x, *u, c]
    for k, gradient in enumerate(got):
        moved = [v.astype(complex) for v in inputs]
        moved[k] += 1j * STEP
        G = cell.n_gates
        h, c_next, _ = cell.forward(tuple(moved[:G]), tuple(moved[G : 2 * G]), moved[2 * G])
        want = (dh * h.imag + dc * c_next.imag) / STEP
        assert rms(gradient, want) < COMPLEX_STEP


@CELLS
def test_what_the_loops_know_of_a_cell(cell):
    x, u, c, dh, dc = point(cell, 1)
    h, c_next, tape = cell.forward(x, u, c)
    dx, du, _ = cell.backward(dh, dc, c, tape)
    assert len(tape) == cell.n_tape
    assert len(dx) == len(du) == cell.n_gates == len(cell.gates)
    assert cell.shares_gradient == (dx is du)
    assert cell.memory or h is c_next


def test_relu_has_no_slope_at_zero():
    cell = REGISTRY["rnn_relu"]
    zero = np.zeros(1)
    _, _, tape = cell.forward((zero,), (zero,), zero)
    assert cell.backward(np.ones(1), zero, zero, tape)[0][0] == 0


@CELLS
def test_what_a_cell_says_of_itself(cell):
    assert cell.tapes_output == cell.name.startswith("rnn") and cell.shares_gradient == (cell.name != "gru")
    assert cell.n_tape == {"lstm": 5, "gru": 4}.get(cell.name, 1)
