"""CuPy's and Numba's arrays on a device: a stack of both directions and its gradients, beside the host's."""

import numpy as np
import pytest

import fastrnn as fr
from tests.helpers import DEVICE, rms

pytestmark = pytest.mark.gpu
LENGTHS = [30, 30, 22, 10, 1, 5]


def cupy():
    module = pytest.importorskip("cupy")
    return module.asarray, module.asnumpy


def numba():
    from numba import cuda

    return cuda.to_device, lambda a: a.copy_to_host()


@pytest.mark.parametrize("library", [cupy, numba])
@pytest.mark.parametrize("kind", [fr.RNN, fr.GRU, fr.LSTM])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_stack_and_its_gradients(library, kind, dtype):
    put, get = library()
    rng = np.random.default_rng(0)
    x, dy = (rng.normal(size=(30, 6, n)).astype(dtype) for n in (20, 140))
    layers = [kind(20, 70, 2, bidirectional=True, dtype=np.dtype(dtype), rng=0) for _ in range(2)]
    layers[1].convert(put)
    (want, _), tape = layers[0].forward(x, lengths=LENGTHS)
    (got, _), kept = layers[1].forward(put(x), lengths=LENGTHS)
    grads, exact = layers[1].backward(kept, put(dy)), layers[0].backward(tape, dy)
    pairs = [(got, want), (grads.x, exact.x), *((grads.params[name], p) for name, p in exact.params.items())]
    for mine, theirs in pairs:
        assert rms(get(mine), theirs) < 4 * DEVICE[dtype]  # two layers
