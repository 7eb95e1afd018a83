"""The reference loops: against a complex step through themselves, against PyTorch, and against stored numbers of PyTorch."""

import numpy as np
import pytest

from fastrnn import reference
from fastrnn.cells import REGISTRY
from fastrnn.contract import Weights
from tests.helpers import COMPLEX_STEP, REFERENCE_FLOAT64, rms
from tests.peer_torch import run_torch
from tests.problems import problem

CELLS = pytest.mark.parametrize("name", REGISTRY)
STEP = 1e-30


@CELLS
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_backward_is_the_derivative_of_forward(name, reverse):
    p = problem(name, 4, 3, 2, 3, ragged=True, reverse=reverse)
    p.lengths[:] = (4, 0, 2)
    got = p.run(reference)
    parts = {"x": p.x, "h0": p.h0, **p.weights._asdict()} | ({"c0": p.c0} if p.c0 is not None else {})
    for key, value in parts.items():
        want = np.empty_like(value)
        for at in np.ndindex(value.shape):
            moved = {k: v.astype(complex) for k, v in parts.items()}
            moved[key][at] += 1j * STEP
            want[at] = loss(p, moved).imag / STEP
        assert rms(got[f"d{key}"], want) < COMPLEX_STEP * 10, key


def loss(p, parts):
    weights = Weights(*(parts[k] for k in Weights._fields))
    y, h_n, c_n, _ = reference.forward(
        REGISTRY[p.cell], weights, parts["x"], parts["h0"], parts.get("c0"), p.lengths, p.reverse
    )
    return (y * p.dy).sum() + (h_n * p.dh_n).sum() + (0 if c_n is None else (c_n * p.dc_n).sum())


@CELLS
@pytest.mark.parametrize("ragged", [False, True], ids=["dense", "ragged"])
def test_conventions_are_pytorchs(name, ragged):
    pytest.importorskip("torch")
    p = problem(name, 6, 4, 3, 5, ragged=ragged)
    if ragged:
        p.lengths[:] = (2, 6, 1, 4)
    want = run_torch(p)
    got = p.run(reference)
    assert got.keys() == want.keys()
    for key in want:
        assert rms(got[key], want[key]) < REFERENCE_FLOAT64, key


# of torch.nn in float64 on the pattern below: the last step of y, and the sum of dL/dW_hh for L = sum of y
GOLDENS = {
    "rnn_tanh": [-0.9491611456171244, -0.9640189617698267, -0.7484655658503744, -14.43005062406952],
    "rnn_relu": [0.0, 0.0, 0.0, 0.0],
    "lstm": [0.06981368634656403, 0.008237462515588823, 0.12342594476708356, 0.9266174551157871],
    "gru": [0.9323650221681169, 0.8600842193662832, 0.5412565758062539, 1.0621924410289878],
}


@CELLS
def test_stored_numbers_of_pytorch(name):
    p = pattern(name)
    y, _, _, tape = reference.forward(REGISTRY[name], p.weights, p.x, keep=True)
    gradients = reference.backward(REGISTRY[name], tape, np.ones_like(y))
    got = [*y[-1, 0], gradients.w_hh.sum()]
    np.testing.assert_allclose(got, GOLDENS[name], rtol=1e-12)


def pattern(name):
    """A problem without chance: sines."""
    p = problem(name, 5, 2, 2, 3)
    for k, array in enumerate((p.x, *p.weights)):
        array[...] = np.sin(np.arange(array.size) * 0.7 + k).reshape(array.shape)
    p.h0[...] = 0
    if p.c0 is not None:
        p.c0[...] = 0
    return p
