"""PyTorch's tensors on a device: kinds, types, and streams that wait for no other."""

import numpy as np
import pytest

import fastrnn as fr
from tests.helpers import DEVICE, rms

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_a_layer_on_a_stream_of_its_own(dtype):
    torch = pytest.importorskip("torch")
    put = lambda a: torch.as_tensor(a, device="cuda", dtype=getattr(torch, dtype))  # noqa: E731
    numbers = lambda t: t.double().cpu().numpy()  # noqa: E731
    one = fr.GRU(30, 65, 2, bidirectional=True, batch_first=True, rng=0, dtype=np.float64)
    two = fr.GRU(30, 65, 2, bidirectional=True, batch_first=True, rng=0, dtype=np.float64).convert(put)
    one.load_state_dict({name: numbers(p) for name, p in two.params.items()})
    x = put(np.random.default_rng(1).normal(size=(7, 20, 30)))
    lengths = np.arange(7) + 14
    (want, _), tape = one.forward(numbers(x), lengths=lengths)
    torch.cuda.synchronize()
    for _ in range(3):
        with torch.cuda.stream(torch.cuda.Stream()):
            (y, _), kept = two.forward(x, lengths=lengths)
            grads = two.backward(kept, y)
        torch.cuda.synchronize()
        assert y.dtype == x.dtype
        bound = 4 * DEVICE[dtype]  # two layers, and y rounded between them
        assert rms(numbers(y), want) < bound
        assert rms(numbers(grads.x), one.backward(tape, numbers(y)).x) < bound


def test_parameters_whose_memory_is_another_one_now():
    torch = pytest.importorskip("torch")
    layer = fr.LSTM(16, 32, rng=0).convert(lambda p: torch.as_tensor(p, device="cuda").half())
    x = torch.ones(5, 3, 16, device="cuda", dtype=torch.float16)
    before = layer(x)[0]
    for p in layer.params.values():
        p.data = p.data * 0
    after = layer(x)[0]
    assert before.abs().max() > 0
    assert after.abs().max() == 0
