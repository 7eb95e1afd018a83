"""Tapes of training calls whose words are laid out once: what somebody still has is never overwritten."""

import copy
import gc
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastrnn as fr

T, N, I, H = 6, 3, 5, 18
LAYERS = {"rnn": fr.RNN, "gru": fr.GRU, "lstm": fr.LSTM}
MANY = 6  # tapes alive at a time
names = pytest.mark.parametrize("name", LAYERS)
COPIES = {"shallow": copy.copy, "deep": copy.deepcopy, "pickled": lambda tape: pickle.loads(pickle.dumps(tape))}


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def bits(result):
    """Every array of y and a state, or of gradients, as bytes."""
    if isinstance(result, np.ndarray):
        return result.tobytes()
    if isinstance(result, tuple | list):
        return tuple(map(bits, result))
    return bits((result.x, result.state, list(result.params.values())))


def wanted(layer, x, dy):
    """What a call gives that is not short, because its state and the gradient of the state at the end are given."""
    zero = np.zeros((1, x.shape[1], layer.hidden_size), np.float32)
    state = (zero, zero) if isinstance(layer, fr.LSTM) else zero
    result, tape = layer.forward(x, state)
    return bits(result), bits(layer.backward(tape, dy, state))


@names
def test_tapes_that_are_alive_are_apart(name):
    layer = LAYERS[name](I, H, rng=0)
    xs, dys = ([numbers(T, N, width, seed=k) for k in range(MANY)] for width in (I, H))
    for _ in range(2):  # the second time in what the first one left
        calls = [layer.forward(x) for x in xs]
        gradients = [layer.backward(tape, dy) for (_, tape), dy in reversed(list(zip(calls, dys, strict=True)))]
        found = [(bits(result), bits(g)) for (result, _), g in zip(calls, reversed(gradients), strict=True)]
        assert found == [wanted(layer, x, dy) for x, dy in zip(xs, dys, strict=True)]


@names
def test_nothing_of_the_call_before_is_left(name):
    layer, dy = LAYERS[name](I, H, rng=0), numbers(T, N, H)
    for x in (np.full((T, N, I), np.nan, np.float32), numbers(T, N, I)):
        result, tape = layer.forward(x)
        gradients = layer.backward(tape, dy)
        del tape
    assert (bits(result), bits(gradients)) == wanted(layer, x, dy)


@names
def test_what_was_returned_stays(name):
    layer, dy = LAYERS[name](I, H, rng=0), numbers(T, N, H)
    result, tape = layer.forward(numbers(T, N, I))
    gradients = layer.backward(tape, dy)
    before = bits(result), bits(gradients)
    del tape
    for seed in range(3):
        layer.backward(layer.forward(numbers(T, N, I, seed=seed + 1))[1], 2 * dy)
    assert (bits(result), bits(gradients)) == before


@names
@pytest.mark.parametrize("duplicate", COPIES)
def test_copies_of_tapes(name, duplicate):
    layer, dy = LAYERS[name](I, H, rng=0), numbers(T, N, H)
    _, tape = layer.forward(numbers(T, N, I))
    before, other = bits(layer.backward(tape, dy)), COPIES[duplicate](tape)
    del tape
    gc.collect()
    alive = [layer.forward(numbers(T, N, I, seed=seed + 1)) for seed in range(MANY)]
    assert bits(layer.backward(other, dy)) == before and len(alive) == MANY


def test_memory_is_used_again_once_nobody_has_the_tape():
    if fr.backend.backend().__name__.endswith("reference"):
        pytest.skip("the reference lays nothing out")
    layer, x = fr.GRU(I, H, rng=0), numbers(300, N, I)
    where = lambda tape: tape.stages[0][0].block.address  # noqa: E731
    _, tape = layer.forward(x)
    first = where(tape)
    _, other = layer.forward(x)
    assert where(other) != first
    del tape
    assert where(layer.forward(x)[1]) == first


@names
def test_training_from_several_threads(name):
    layer = LAYERS[name](I, H, rng=0)
    xs, dy = [numbers(T, N, I, seed=k) for k in range(8)], numbers(T, N, H)
    each = [wanted(layer, x, dy) for x in xs]
    _, shared = layer.forward(xs[0])

    def work(k):
        for _ in range(100):
            result, tape = layer.forward(xs[k])
            if (bits(result), bits(layer.backward(tape, dy))) != each[k] or bits(layer.backward(shared, dy)) != each[0][1]:
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


@names
def test_threads_may_change_between_forward_and_backward(name):
    layer, x, dy = LAYERS[name](64, 64, rng=0), numbers(100, 8, 64), numbers(100, 8, 64)
    result, seen = wanted(layer, x, dy), []
    for before, after in ((2, 1), (1, 2), (2, 2), (1, 1)):
        with fr.num_threads(before):
            found, tape = layer.forward(x)
        with fr.num_threads(after):
            seen.append((bits(found), bits(layer.backward(tape, dy))))
    assert seen == [result] * 4


@names
def test_strides(name):
    layer, x, dy = LAYERS[name](I, H, rng=0), numbers(N, T, I).swapaxes(0, 1), numbers(T, N, 2 * H)[..., ::2]
    result, tape = layer.forward(x)
    assert (bits(result), bits(layer.backward(tape, dy))) == wanted(layer, x.copy(), dy.copy())


def test_loops_and_products_keep_to_the_threads_of_now():
    """The first layer's loop is worth one thread of one and of two, its products two of two; the second one's loop two."""
    script = """
import fastrnn as fr, numpy as np
from fastrnn.cpu import threads
teams, together = [], threads._launch_together
threads._launch_together = lambda address, words, team: teams.append(team) or together(address, words, team)
for T, H in (60000, 16), (100, 512):
    layer, x = fr.LSTM(H, H, rng=0), np.ones((T, 1, H), np.float32)
    for n in (2, 1):
        teams.clear()
        with fr.num_threads(n):
            _, tape = layer.forward(x)
            layer.backward(tape, x)
        print(n, max(teams, default=1))
"""
    threads = dict.fromkeys(("NUMBA_NUM_THREADS", "FASTRNN_NUM_THREADS"), "2")
    environment = {**os.environ, **threads, "NUMBA_DISABLE_JIT": "0"}  # of the engine, whatever this process runs on
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines() == ["2 2", "1 1"] * 2


@names
def test_members_that_divide_units_wait_for_each_other_at_every_step(name):
    layer, x, dy = LAYERS[name](256, 256, rng=0), numbers(50, 1, 256), numbers(50, 1, 256)
    with fr.num_threads(1):
        result = wanted(layer, x, dy)
    for _ in range(30):
        found, tape = layer.forward(x)
        assert (bits(found), bits(layer.backward(tape, dy))) == result
