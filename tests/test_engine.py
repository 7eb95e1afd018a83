"""The compiled kernels against the reference in double precision, into memory full of NaN: every cell, dtype, odd size."""

import subprocess
import sys

import numba
import numpy as np
import pytest

import fastrnn as fr
from fastrnn import reference
from fastrnn.cells import REGISTRY
from fastrnn.cpu import bound, caches, engine, memory, plan, team, timeloop
from fastrnn.cpu.target import tile_beside
from tests.helpers import ENGINE, forget_plans, rms
from tests.problems import problem

SIZES = [
    (1, 1, 3, 5),
    (6, 9, 3, 4),
    (7, 3, 5, 65),
    (4, 13, 3, 7),
    (9, 20, 33, 130),
    (5, 2, 4, 16),
    (3, 8, 40, 64),
    (6, 1, 70, 300),
    # the input's product beside that of a single row: windows of steps that grow, whole panels and one that is not
    (3, 1, 100, 100),
    (61, 1, 190, 190),
    (140, 2, 97, 97),
    # steps of a single row that follow each other within a function, several turns each, or one
    (100, 1, 70, 70),
    (100, 1, 6, 30),
]
SIZE = pytest.mark.parametrize("size", SIZES, ids=lambda s: "T{}-N{}-I{}-H{}".format(*s))
CELL = pytest.mark.parametrize("name", REGISTRY)
DTYPE = pytest.mark.parametrize("dtype", ["float32", "float64"])


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """Every buffer starts as NaN: what a kernel does not write, or reads too early, shows."""

    def take(self, size):
        return np.full(size, 0xFF, np.uint8)

    monkeypatch.setattr(memory._Pool, "take", take)


def agree(p, dtype):
    single = p.cast(dtype)
    got, want = single.run(engine), single.cast(np.float64).run(reference)
    assert got.keys() == want.keys()
    for key in want:
        assert got[key].dtype == dtype
        assert rms(got[key], want[key]) < ENGINE[dtype], key


@CELL
@DTYPE
@SIZE
@pytest.mark.parametrize("ragged", [False, True], ids=["dense", "ragged"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_outputs_and_all_gradients(name, dtype, size, ragged, reverse, threads):
    agree(problem(name, *size, ragged=ragged, reverse=reverse), dtype)


@CELL
@DTYPE
@pytest.mark.parametrize("N", [1, 7])
def test_any_number_of_units(name, dtype, N):
    # the gates of a last panel that is not whole follow each other closely
    for H in (*range(1, 36), 50, 61, 102):
        agree(problem(name, 3, N, 2, H, seed=H), dtype)


@CELL
@pytest.mark.parametrize("missing", ["b_ih", "b_hh", "both"])
def test_without_biases(name, missing):
    p = problem(name, 4, 3, 5, 18)
    drop = dict.fromkeys(("b_ih", "b_hh") if missing == "both" else (missing,))
    p.weights = p.weights._replace(**drop)
    agree(p, "float64")


@CELL
@pytest.mark.parametrize("missing", [("h0", "c0"), ("dy",), ("dh_n", "dc_n"), ("dy", "dh_n", "dc_n")], ids=str)
def test_without_states_or_cotangents(name, missing):
    p = problem(name, 4, 3, 5, 18, ragged=True)
    for key in missing:
        setattr(p, key, None)
    agree(p, "float64")


@CELL
@pytest.mark.parametrize("size", [(0, 3, 5, 18), (4, 0, 5, 18), (4, 3, 0, 18)], ids=str)
def test_nothing_to_do(name, size):
    agree(problem(name, *size), "float64")


@CELL
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_all_lengths_zero(name, reverse):
    p = problem(name, 4, 3, 5, 18, ragged=True, reverse=reverse)
    p.lengths[:] = 0
    agree(p, "float64")
    y, h_n, _, _ = engine.forward(REGISTRY[name], engine.prepare(REGISTRY[name], p.weights), p.x, p.h0, p.c0, p.lengths)
    assert not y.any()
    np.testing.assert_array_equal(h_n, p.h0)


def teams_of(monkeypatch, *homes):
    """The sizes of the teams that modules launch from now on."""
    teams = []
    for home in homes:

        def launch(address, words, team, launch=home.launch):
            teams.append(team)
            launch(address, words, team)

        monkeypatch.setattr(home, "launch", launch)
    return teams


def test_a_short_call_uses_the_threads_that_are_allowed_by_then(monkeypatch):
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one thread")
    layer, x, teams = fr.LSTM(4, 512, rng=0), np.ones((20, 1, 4), np.float32), teams_of(monkeypatch, bound)
    for n in (1, 2, 1):
        with fr.num_threads(n):
            layer(x)
    assert teams == [1, 2, 1]


# seconds that two threads take to meet: on cores that share a cache, on others of one chip, elsewhere
MEETINGS = (8e-8, 2.3e-7, 3.6e-7)
# step of an LSTM: N, H; what the threads divide then
DIVIDED = {(1, 32): (None, None, None), (1, 128): ("units", "units", None), (1, 512): ("units",) * 3,
           (4, 16): ("rows", "rows", None), (9, 48): ("rows",) * 3, (8, 32): ("rows", "rows", None),
           (2, 64): ("units", "rows", None), (4, 256): ("units",) * 3, (2, 8): (None, None, None)}  # fmt: skip


@pytest.mark.parametrize("meeting", range(len(MEETINGS)))
@pytest.mark.parametrize("N, H", DIVIDED)
def test_what_threads_divide_depends_on_how_fast_they_meet(N, H, meeting, monkeypatch):
    monkeypatch.setattr(team, "time_to_meet", lambda team: MEETINGS[meeting])
    divided = DIVIDED[N, H][meeting]
    assert team.choose(N, 4, H, 2 * H, 10_000, "float32", 1, 2).now() == team.Team(2 if divided else 1, divided == "units")


@pytest.mark.parametrize("N, H, keep, units", [
    (9, 256, False, True), (13, 512, False, True), (37, 512, False, True),  # 10, 7 and 2 % less time than by rows
    (8, 256, False, False), (12, 512, False, False),  # as even
    (17, 128, False, True), (9, 48, False, False),  # 3 % less; too short a step
    (9, 130, False, False),  # of nine panels, one thread would have five
    (9, 256, True, False),
])  # fmt: skip
def test_units_are_divided_where_rows_cannot_be_divided_as_evenly(N, H, keep, units, monkeypatch):
    monkeypatch.setattr(team, "time_to_meet", lambda team: MEETINGS[0])
    assert team.choose(N, 4, H, 2 * H, 100, "float32", 1, 2, keep=keep).now() == team.Team(2, units)


def test_units_of_uneven_rows_are_divided_by_neighbours_only(monkeypatch):
    monkeypatch.setattr(team, "time_to_meet", lambda team: MEETINGS[2])
    assert team.choose(9, 4, 256, 512, 100, "float32", 1, 2).now() == team.Team(2, False)


@pytest.mark.parametrize("keep, size", [(False, 2), (True, 1)])
def test_cores_apart_divide_rows_of_a_tape_where_steps_are_longer(keep, size, monkeypatch):
    """Measured between cores 370 ns apart, steps of 166 to 262 thousand flops: 1.3-1.7 in inference, 0.9-1.2 in training."""
    monkeypatch.setattr(team, "time_to_meet", lambda team: MEETINGS[2])
    assert team.choose(8, 4, 40, 80, 10_000, "float32", 1, 2, keep=keep).now() == team.Team(size, False)


def test_threads_are_chosen_anew_when_cores_move_apart(monkeypatch):
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one thread")
    layer, x, teams = fr.RNN(256, 256, rng=0), np.ones((100, 1, 256), np.float32), teams_of(monkeypatch, bound, timeloop)
    with fr.num_threads(2):
        for seconds in (8e-8, 3.6e-7, 8e-8):
            monkeypatch.setattr(team, "time_to_meet", lambda team, seconds=seconds: seconds)
            layer(x)  # a short call
            layer(x, x[:1])
    assert teams == [2, 2, 1, 1, 2, 2]


def test_the_first_meeting_of_a_process_is_not_that_of_starting_threads():
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one thread")
    code = "from fastrnn.cpu.meeting import time_to_meet; print(time_to_meet(2))"

    def first():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
        return float(done.stdout)

    # other processes may have the second core for a while: of some first meetings one is without them
    assert any(0 < first() < 5e-5 for _ in range(5))


def same_bits_with(monkeypatch, p, home, constant, value):
    """The outputs and gradients of a problem do not depend on a constant of a module."""
    wanted = p.run(engine)
    monkeypatch.setattr(home, constant, value)
    forget_plans()
    got = p.run(engine)
    forget_plans()
    for key in wanted:
        np.testing.assert_array_equal(got[key], wanted[key])


@CELL
@pytest.mark.parametrize("size", [(9, 20, 33, 130), (40, 3, 40, 64)], ids=str)
@pytest.mark.parametrize("ragged, reverse", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("rows", [0, 3])
def test_asking_for_what_the_next_step_needs_changes_nothing(name, size, ragged, reverse, rows, threads, monkeypatch):
    p = problem(name, *size, ragged=ragged, reverse=reverse).cast("float32")
    same_bits_with(monkeypatch, p, plan, "_rows_asked", lambda *_: rows)


@CELL
def test_what_a_single_row_takes_along_changes_nothing(name, threads, monkeypatch):
    # 0.14 to 0.6 MB of weights, which the second-level cache holds: taken along, and then not
    same_bits_with(monkeypatch, problem(name, 61, 1, 190, 190).cast("float32"), plan, "take_along", lambda *_: False)


# seconds in which a weight comes from beyond the second-level cache, of those in which it is multiplied: what pays for a
# tile of eight rows (of five, for a GRU)
@pytest.mark.parametrize("name, slower, pays", [("lstm", 12, False), ("lstm", 6, True), ("gru", 6, False), ("gru", 4, True)])
def test_far_weights_are_read_again_where_they_come_fast(name, slower, pays, monkeypatch):
    if tile_beside(REGISTRY[name].n_gates)[0] != (5 if name == "gru" else 8):
        pytest.skip("other tiles")
    monkeypatch.setattr(caches, "_times", lambda name, dtype: (slower * 1e-12, 1e-12))
    caches._far_is_fast.cache_clear()
    assert caches.take_along(name, "float32", caches.sizes()["L2"])
    assert caches.take_along(name, "float32", caches.sizes()["L2"] + 1) == pays
    caches._far_is_fast.cache_clear()


@CELL
def test_reading_and_computing_are_measured(name):
    reading, computing = caches._times(name, "float32")
    assert 1e-13 < computing < 1e-8 and 1e-12 < reading < 1e-7


def test_long_calls_are_cut_into_short_ones(monkeypatch):
    # a kernel cannot be interrupted: Ctrl-C is heard between the pieces, whose bits are those of the whole
    p = problem("lstm", 20, 3, 5, 33, ragged=True).cast("float32")
    same_bits_with(monkeypatch, p, team, "CALL_FLOPS", 1e5)
