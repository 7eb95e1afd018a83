"""Functions and layers on device arrays: the host's numbers, in arrays of the caller's kind; errors name the argument."""

import subprocess
import sys

import numpy as np
import pytest

import fastrnn as fr
from tests.helpers import DEVICE, rms

pytestmark = [pytest.mark.cudasim, pytest.mark.gpu]
LAYER = pytest.mark.parametrize("cls", [fr.RNN, fr.GRU, fr.LSTM], ids=lambda c: c.__name__)


def host(value):
    if isinstance(value, tuple):
        return tuple(map(host, value))
    return value.copy_to_host()


def close(got, want, bound=DEVICE["float64"]):
    for a, b in zip(*(v if isinstance(v, tuple) else (v,) for v in (host(got), want)), strict=True):
        assert rms(a, b) < bound


@LAYER
@pytest.mark.parametrize("batch_first", [False, True], ids=["TN", "NT"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "both"])
def test_a_stack_computes_what_the_host_does(device, cls, batch_first, bidirectional):
    options = {"num_layers": 2, "bidirectional": bidirectional, "batch_first": batch_first, "dropout": 0.3}
    one = cls(3, 5, **options, rng=0, dtype=np.float64)
    two = cls(3, 5, **options, rng=0, dtype=np.float64).convert(device.to_device)
    x = np.random.default_rng(1).normal(size=(2, 4, 3) if batch_first else (4, 2, 3))
    (y, state), tape = one.forward(x, lengths=[4, 2], rng=3)
    (dy, dstate), dtape = two.forward(device.to_device(x), lengths=[4, 2], rng=3)
    close(dy, y)
    close(dstate, state)
    weights = np.random.default_rng(2).normal(size=y.shape)
    want, got = one.backward(tape, weights, state), two.backward(dtape, device.to_device(weights), dstate)
    close(got.x, want.x)
    close(got.state, want.state)
    assert got.params.keys() == want.params.keys()
    for name, gradient in want.params.items():
        close(got.params[name], gradient)


@LAYER
def test_unbatched(device, cls):
    one, two = (cls(3, 5, rng=0, dtype=np.float64) for _ in range(2))
    x = np.random.default_rng(1).normal(size=(4, 3))
    y, state = one(x)
    got, dstate = two.convert(device.to_device)(device.to_device(x))
    close(got, y)
    close(dstate, state)


@LAYER
def test_frozen_keeps_the_weights_that_it_had(device, cls):
    layer = cls(3, 5, rng=0).convert(device.to_device)
    x = device.to_device(np.ones((4, 2, 3), np.float32))
    frozen, want = layer.freeze(), host(layer(x)[0])
    layer.load_state_dict({name: np.zeros_like(p) for name, p in layer.state_dict().items()})
    np.testing.assert_array_equal(host(frozen(x)[0]), want)
    assert abs(host(layer(x)[0]) - want).max() > 0.01


@LAYER
def test_parameters_there_and_back(device, cls):
    layer = cls(3, 5, rng=0)
    before = layer.state_dict()
    layer.convert(lambda p: device.to_device(p.astype(np.float16)))
    assert layer.dtype == np.float16
    assert f"dtype={layer.dtype}" in repr(layer)
    for name, p in layer.state_dict().items():
        assert isinstance(p, np.ndarray)
        np.testing.assert_array_equal(p, before[name].astype(np.float16))
    layer.load_state_dict(before)
    y, _ = layer(device.to_device(np.ones((4, 2, 3), np.float16)))
    assert host(y).dtype == np.float16
    layer.convert(lambda p: p.copy_to_host().astype(np.float32))
    assert layer(np.ones((4, 2, 3), np.float32))[0].dtype == np.float32


@LAYER
@pytest.mark.parametrize("N", [1, 3])
def test_a_stream_goes_on_where_it_was(device, cls, N):
    one, two = (cls(3, 5, 2, rng=0, dtype=np.float64) for _ in range(2))
    ours, theirs = one.stream(N), two.convert(device.to_device).stream(N)
    close(theirs.state, ours.state)
    out = device.device_array((N, 5), np.float64)
    for t, x_t in enumerate(np.random.default_rng(1).normal(size=(4, N, 3))):
        if t == 2:
            ours.reset([0])
            theirs.reset([0])
        y_t = theirs.step(device.to_device(x_t), out) if t % 2 else theirs.step(device.to_device(x_t))
        assert (y_t is out) == (t % 2)
        close(y_t, ours.step(x_t))
        close(theirs.state, ours.state)
    if N == 1:
        close(theirs.step(device.to_device(x_t[0])), ours.step(x_t[0]))
    ours.reset()
    theirs.reset()
    close(theirs.state, ours.state)


def test_functions_take_and_give_device_arrays(device):
    rng = np.random.default_rng(0)
    x, w_ih, w_hh = rng.normal(size=(4, 2, 3)), rng.normal(size=(20, 3)), rng.normal(size=(20, 5))
    (y, h_n, c_n), tape = fr.lstm_forward(
        *map(device.to_device, (x, w_ih, w_hh)), lengths=device.to_device(np.array([2, 4]))
    )
    want, kept = fr.lstm_forward(x, w_ih, w_hh, lengths=[2, 4])
    close((y, h_n, c_n), want)
    g, exact = fr.lstm_backward(tape, dy=y), fr.lstm_backward(kept, dy=want[0])
    for name in ("x", "w_ih", "w_hh", "h0", "c0"):
        close(getattr(g, name), getattr(exact, name))
    assert g.b_ih is None
    assert type(y) is type(device.to_device(x))


def test_errors_name_the_argument(device):
    put = device.to_device
    x, w_ih, w_hh = np.ones((4, 2, 3)), np.ones((20, 3)), np.ones((20, 5))
    with pytest.raises(TypeError, match="w_ih: got ndarray, wanted an array on the device"):
        fr.lstm(put(x), w_ih, put(w_hh))
    with pytest.raises(TypeError, match="w_hh: got an array on a device, wanted one on the host"):
        fr.lstm(x, w_ih, put(w_hh))
    with pytest.raises(ValueError, match=r"w_ih: got shape \(20, 4\), wanted \(20, 3\)"):
        fr.lstm(put(x), put(np.ones((20, 4))), put(w_hh))
    with pytest.raises(TypeError, match="h0: got dtype float32, wanted float64"):
        fr.lstm(put(x), put(w_ih), put(w_hh), h0=put(np.ones((2, 5), np.float32)))
    with pytest.raises(TypeError, match="x: got dtype int64, wanted float32 or float64 or float16 or bfloat16"):
        fr.lstm(put(np.ones((4, 2, 3), int)), put(w_ih), put(w_hh))
    layer = fr.LSTM(3, 5)
    with pytest.raises(TypeError, match="x: got an array on a device"):
        layer(put(np.ones((4, 2, 3), np.float32)))
    with pytest.raises(TypeError, match="x: got ndarray, wanted an array on the device"):
        layer.convert(put)(np.ones((4, 2, 3), np.float32))
    with pytest.raises(ValueError, match=r"x_t: got shape \(2, 4\), wanted \(2, 3\)"):
        layer.stream(2).step(put(np.ones((2, 4), np.float32)))


def test_a_device_without_its_kernels_is_an_error():
    code = """
import importlib.util, sys
import numpy as np
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "numba_cuda" else found(name, *rest)
import fastrnn as fr
class Array:
    __cuda_array_interface__ = {}
try:
    fr.lstm(Array(), np.ones((20, 3)), np.ones((20, 5)))
except ImportError as problem:
    print(problem)
print(sorted(name for name in sys.modules if name.startswith(("fastrnn.cuda", "numba.cuda.cudadrv"))))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0] == "x: got an array on a device, which takes the CUDA kernels: pip install 'fastrnn[cuda]'"
    assert said[1] == "[]"
