"""A layer packs its weights anew exactly where somebody may have changed them, however they got at them."""

import copy
import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastrnn as fr
from fastrnn.cpu import engine

X = np.random.default_rng(1).standard_normal((3, 2, 5)).astype(np.float32)
LONG = np.random.default_rng(1).standard_normal((3, 4000, 5)).astype(np.float32)  # no short call
INPUTS = pytest.mark.parametrize("x", [X, LONG], ids=["short", "any"])
KEY = "weight_hh_l0"


@pytest.fixture
def layer():
    return fr.GRU(5, 18, rng=0)


@pytest.fixture
def packed(monkeypatch):
    """How often weights were packed."""
    times, pack = [], engine.refresh
    monkeypatch.setattr(engine, "refresh", lambda prepared: (times.append(1), pack(prepared)))
    return times


def is_right(layer, x):
    """Whether a call gives what a layer gives that has never been called."""
    fresh = type(layer)(layer.input_size, layer.hidden_size, layer.num_layers, dtype=layer.dtype)
    fresh.load_state_dict(layer.state_dict())
    return np.array_equal(layer(x)[0], fresh(x)[0])


@INPUTS
def test_weights_that_nobody_has_asked_for_are_packed_once(layer, packed, x):
    for _ in range(4):
        layer(x)
    assert len(packed) == 1
    _ = layer.params
    for _ in range(4):
        layer(x)
    assert len(packed) == 2
    kept = layer.params[KEY]
    for _ in range(4):
        layer(x)
    assert len(packed) == 6
    del kept
    for _ in range(4):
        layer(x)
    assert len(packed) == 7


def test_several_forms_are_packed_once_each(layer, packed):
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            list(pool.map(lambda _: layer(LONG), range(4)))
    before = len(packed)
    for _ in range(4):
        layer(LONG)
    assert len(packed) <= before + 1


def of_array(layer):
    return layer.params[KEY]


def of_dictionary(layer):
    params = layer.params
    return lambda: params[KEY]


def of_view(layer):
    return layer.params[KEY][2:]


def of_buffer(layer):
    return np.asarray(memoryview(layer.params[KEY]))


def of_capsule(layer):
    return np.from_dlpack(layer.params[KEY])


def of_items(layer):
    return next(iter(layer.params.values()))


def of_cycle(layer):
    cycle = [layer.params[KEY]]
    cycle.append(cycle)
    return cycle[0]


def of_copy(layer):
    return copy.copy(layer).params[KEY]


def of_foreign_memory(layer):
    memory = bytearray(layer.params[KEY].tobytes())
    layer.params[KEY] = np.frombuffer(memory, np.float32).reshape(layer.params[KEY].shape)
    return np.frombuffer(memory, np.float32)


def of_another_layer(layer):
    other = type(layer)(layer.input_size, layer.hidden_size)
    other.params[KEY] = layer.params[KEY]
    other(X)
    return other.params[KEY]


WAYS = (of_array, of_dictionary, of_view, of_buffer, of_capsule, of_items, of_cycle, of_copy, of_foreign_memory,
        of_another_layer)  # fmt: skip


@INPUTS
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("calls", [0, 1, 2])
@pytest.mark.parametrize("gone", [True, False], ids=["gone", "kept"])
def test_a_change_counts_however_the_array_was_had(layer, way, x, calls, gone):
    for _ in range(calls):
        layer(x)
    had = way(layer)
    for _ in range(calls):
        layer(x)
    array = had() if callable(had) else had
    array *= np.float32(0.5)
    if gone:
        del array, had
        gc.collect()
    assert is_right(layer, x)
    assert is_right(layer, x)


@INPUTS
def test_a_change_counts_that_is_made_within_one_expression(layer, x):
    for factor in (0.5, 3.0):
        for key in list(layer.params):
            layer(x)
            layer.params[key] *= np.float32(factor)
            assert is_right(layer, x)
        layer.params = {key: value * 2 for key, value in layer.params.items()}
        assert is_right(layer, x)
        layer.load_state_dict({key: -value for key, value in layer.state_dict().items()})
        assert is_right(layer, x)


def test_a_change_through_a_copy_that_is_gone_counts(layer):
    layer(X)
    shared = copy.copy(layer)
    layer(X)
    shared.params[KEY] *= np.float32(0.5)
    del shared
    assert is_right(layer, X)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_training_sees_what_an_optimizer_did(dtype):
    layer = fr.LSTM(5, 18, 2, dtype=dtype, rng=0)
    x = X.astype(dtype)
    for _ in range(3):
        (y, _), tape = layer.forward(x)
        assert is_right(layer, x)
        for name, gradient in layer.backward(tape, y).params.items():
            layer.params[name] -= dtype(0.1) * gradient
        assert np.array_equal(layer.forward(x)[0][0], layer(x)[0])
        assert is_right(layer, x)


def test_changes_between_calls_of_other_threads_count(layer):
    # each change is followed by a call that must see it, while others call without a break
    def change(k):
        layer.params[KEY] *= np.float32(0.9)
        return True

    with ThreadPoolExecutor(4) as pool:
        for k in range(50):
            calls = [pool.submit(layer, X) for _ in range(3)]
            pool.submit(change, k).result()
            assert is_right(layer, X)
            for call in calls:
                call.result()
