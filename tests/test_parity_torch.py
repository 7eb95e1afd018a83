"""The compiled kernels beside PyTorch: every output and gradient, every cell, both dtypes, odd sizes."""

import numpy as np
import pytest

import fastrnn as fr
from fastrnn.backend import backend
from fastrnn.cells import REGISTRY
from tests.helpers import PEER_FLOOR, PEER_RATIO, REFERENCE_FLOAT64, rms
from tests.peer_torch import run_torch
from tests.problems import problem

torch = pytest.importorskip("torch")
SIZES = [
    (1, 1, 3, 1), (5, 3, 3, 7), (7, 1, 5, 65), (9, 13, 33, 65), (30, 8, 128, 128), (100, 16, 64, 64), (200, 1, 20, 33),
    (100, 64, 48, 40),
]  # fmt: skip
SIZE = pytest.mark.parametrize("size", SIZES, ids=lambda s: "T{}-N{}-I{}-H{}".format(*s))
CELL = pytest.mark.parametrize("name", REGISTRY)


@CELL
@SIZE
@pytest.mark.parametrize("ragged", [False, True], ids=["dense", "ragged"])
def test_float64(name, size, ragged):
    p = problem(name, *size, ragged=ragged)
    if ragged:
        p.lengths[:] = np.maximum(p.lengths, 1)  # PyTorch takes no empty sequence
    got, want = p.run(backend()), run_torch(p)
    assert got.keys() == want.keys()
    for key in want:
        assert rms(got[key], want[key]) < REFERENCE_FLOAT64, key


@CELL
@SIZE
def test_float32_error_is_no_worse_than_pytorchs(name, size, threads):
    _, N, _, H = size
    # of a few numbers an error says nothing: many small problems are taken together
    runs = [single_and_truth(name, size, seed) for seed in range(max(1, 256 // (N * H)))]
    for key in runs[0][0]:
        ours, peers, truth = (np.stack([run[k][key] for run in runs]) for k in range(3))
        assert rms(ours, truth) <= max(PEER_RATIO * rms(peers, truth), PEER_FLOOR), key


def single_and_truth(name, size, seed):
    exact = problem(name, *size, seed=seed).cast(np.float32).cast(np.float64)
    single = exact.cast(np.float32)
    return single.run(backend()), run_torch(single), run_torch(exact)


@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("options", [
    {"num_layers": 2, "bidirectional": True}, {"batch_first": True, "num_layers": 3}, {"bias": False},
], ids=str)  # fmt: skip
def test_layers(cell, options):
    peer = getattr(torch.nn, cell)(5, 7, dtype=torch.float64, **options)
    layer = getattr(fr, cell)(5, 7, dtype=np.float64, **options)
    layer.load_state_dict(peer.state_dict())
    x = np.random.default_rng(0).normal(size=(6, 4, 5))
    tx = torch.from_numpy(x.copy()).requires_grad_(True)
    want, want_state = peer(tx)
    (got, state), tape = layer.forward(x)
    flat = lambda s: s if isinstance(s, tuple) else (s,)  # noqa: E731
    assert rms(got, want.detach().numpy()) < REFERENCE_FLOAT64
    for a, b in zip(flat(state), flat(want_state), strict=True):
        assert rms(a, b.detach().numpy()) < REFERENCE_FLOAT64
    dy = np.random.default_rng(1).normal(size=got.shape)
    dstate = tuple(np.cos(s) for s in flat(state))
    torch.autograd.backward([want, *flat(want_state)], [torch.from_numpy(d.copy()) for d in (dy, *dstate)])
    grads = layer.backward(tape, dy, dstate if cell == "LSTM" else dstate[0])
    assert rms(grads.x, tx.grad.numpy()) < REFERENCE_FLOAT64
    for name, parameter in peer.named_parameters():
        assert rms(grads.params[name], parameter.grad.numpy()) < REFERENCE_FLOAT64, name


def test_unbatched():
    peer = torch.nn.LSTM(5, 7, dtype=torch.float64)
    layer = fr.LSTM(5, 7, dtype=np.float64)
    layer.load_state_dict(peer.state_dict())
    x = np.random.default_rng(0).normal(size=(6, 5))
    want, (h, c) = peer(torch.from_numpy(x))
    y, (h_n, c_n) = layer(x)
    for got, truth in ((y, want), (h_n, h), (c_n, c)):
        assert rms(got, truth.detach().numpy()) < REFERENCE_FLOAT64


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("size", [(100, 1, 64), (50, 16, 96)], ids=str)
def test_keeps_no_more_for_backward_than_pytorch(name, size):
    (T, N, H), kept = size, {}

    def pack(tensor):
        own = not tensor.is_mkldnn
        kept[tensor.untyped_storage().data_ptr() if own else id(tensor)] = tensor.numel() * tensor.element_size()
        return tensor

    x = torch.zeros(T, N, H, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = getattr(torch.nn, name)(H, H)(x)[0]
    _, tape = getattr(fr, name)(H, H).forward(np.zeros((T, N, H), np.float32))
    del y
    # fastrnn's tape owns its x and its weights; PyTorch keeps the caller's
    assert tape.nbytes <= 1.05 * sum(kept.values())
