"""Arrays of other libraries, by a stand-in for CuPy: NumPy's memory that says it is on a device."""

import importlib.util
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import fastrnn as fr
from tests.helpers import DEVICE, rms

pytestmark = pytest.mark.cudasim


class Device(nullcontext):
    id = 0


class ndarray(np.ndarray):
    @property
    def __cuda_array_interface__(self):
        return self.__array_interface__ | {"version": 3, "stream": 1}

    device = property(lambda self: Device())

    def get(self):
        return np.array(self)


ndarray.__module__ = "cupy"


@pytest.fixture
def cupy(device, monkeypatch):
    """The stand-in, and what Numba's simulator lacks for it."""
    from fastrnn import arrays

    module = ModuleType("cupy")
    module.empty = lambda shape, dtype: np.full(shape, np.nan if "f" in np.dtype(dtype).str else -99, dtype).view(ndarray)
    module.asarray = lambda x, dtype=None: np.array(x, dtype).view(ndarray)
    module.ascontiguousarray = lambda x: np.ascontiguousarray(x).view(ndarray)
    module.zeros = lambda shape, dtype: np.zeros(shape, dtype).view(ndarray)
    module.ones = lambda shape, dtype: np.ones(shape, dtype).view(ndarray)
    module.zeros_like = np.zeros_like
    module.cuda = SimpleNamespace(get_current_stream=lambda: SimpleNamespace(ptr=7))
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(arrays, "on_device", lambda x: isinstance(x, ndarray))

    def view(said, owner, sync):
        assert not sync
        from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

        array = FakeCUDAArray(np.asarray(owner))
        # a device's arrays are not copied to be flat
        array.ravel = lambda: FakeCUDAArray(array._ary.reshape(-1, copy=False))
        return array

    monkeypatch.setattr(device, "from_cuda_array_interface", view, raising=False)
    return module


def test_results_are_of_the_callers_kind(cupy):
    one, two = (fr.GRU(3, 5, 2, bidirectional=True, dropout=0.5, rng=0, dtype=np.float64) for _ in range(2))
    two.convert(cupy.asarray)
    x = np.random.default_rng(1).normal(size=(4, 2, 3))
    (y, h_n), tape = one.forward(x, rng=5)
    (got, got_h), got_tape = two.forward(cupy.asarray(x), rng=5)
    grads, want = two.backward(got_tape, got), one.backward(tape, y)
    pairs = [(got, y), (got_h, h_n), (grads.x, want.x), *((grads.params[k], p) for k, p in want.params.items())]
    for mine, exact in pairs:
        assert type(mine) is ndarray
        assert rms(mine, exact) < DEVICE["float64"]
    assert all(type(p) is np.ndarray for p in two.state_dict().values())


def test_strided_states_and_gradients_are_copied(cupy):
    rng = np.random.default_rng(0)
    x, w_ih, w_hh, h0 = rng.normal(size=(4, 2, 3)), rng.normal(size=(5, 3)), rng.normal(size=(5, 5)), rng.normal(size=(5, 2))
    dy = rng.normal(size=(4, 5, 2))
    results = []
    for put in (np.asarray, cupy.asarray):
        (y, h_n), tape = fr.rnn_forward(put(x), put(w_ih), put(w_hh), h0=put(h0).T)
        g = fr.rnn_backward(tape, put(dy).swapaxes(1, 2), put(h0).T)
        results.append((y, h_n, g.x, g.w_ih, g.w_hh, g.h0))
    for want, got in zip(*results, strict=True):
        assert type(got) is ndarray
        assert rms(got, want) < DEVICE["float64"]


def test_strided_weights_are_copied(cupy):
    rng = np.random.default_rng(0)
    x, w_ih, w_hh = rng.normal(size=(4, 2, 3)), rng.normal(size=(5, 3)), rng.normal(size=(5, 5))
    y, _ = fr.rnn(cupy.asarray(x).swapaxes(0, 1).copy().swapaxes(0, 1), cupy.asarray(w_ih.T).T, cupy.asarray(w_hh.T).T)
    assert rms(y, fr.rnn(x, w_ih, w_hh)[0]) < DEVICE["float64"]


def test_a_tensor_that_requires_a_gradient_is_refused(cupy):
    x = cupy.asarray(np.ones((4, 2, 3)))
    x.requires_grad = True
    with pytest.raises(TypeError, match=r"x: got a tensor that requires a gradient, wanted one without: x\.detach\(\)"):
        fr.rnn(x, x, x)


def test_decoded_arrays_are_of_the_kind_that_the_weights_were_brought_to(cupy):
    model = fr.Seq2Seq(9, 12, 5, 8, attention="general", input_feeding=True, dtype=np.float64, rng=0)
    source = np.random.default_rng(0).integers(0, 9, (6, 3))
    frozen, lengths = model.freeze(cupy.asarray), cupy.asarray([6, 2, 4])
    for search in ("greedy", "beam_search"):
        got = getattr(frozen, search)(cupy.asarray(source).T.copy().T, lengths, max_length=4)
        want = getattr(model, search)(source, [6, 2, 4], max_length=4)
        for name, value in vars(want).items():
            found = getattr(got, name)
            assert type(found) is ndarray, name
            np.testing.assert_allclose(np.array(found), value, rtol=1e-9, atol=1e-12, err_msg=name)


def test_the_example_trains_on_either(cupy):
    """examples/adding.py: only the module that makes the arrays differs."""
    spec = importlib.util.spec_from_file_location("adding", Path(__file__).parents[2] / "examples" / "adding.py")
    adding = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(adding)
    sizes = {"T": 5, "N": 3, "H": 6}
    one, two = adding.train(np, 3, **sizes), adding.train(cupy, 3, **sizes)
    np.testing.assert_allclose(two, one, rtol=1e-5)
