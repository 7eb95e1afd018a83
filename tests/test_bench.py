"""What the measurements rest on: workloads, implementations that give the same answer, processes, limits, models."""

import importlib.util
import time

import numpy as np
import pytest

from fastrnn.bench import implementations, limits, parts, process, rows
from fastrnn.bench.workloads import GROUPS, Workload, parse
from fastrnn.cpu import threads

BRIEF = [Workload(cell, 9, 3, 5, 18, dtype, work) for cell in ("lstm", "gru", "rnn") for dtype in ("float32", "float64")
         for work in ("inference", "training")]  # fmt: skip


def test_names_go_both_ways():
    every = [w for group in GROUPS.values() for w in group]
    assert every and all(parse(str(w)) == w for w in every)
    assert max(w.T for w in GROUPS["length"]) == 65536
    assert {(w.T, w.N, w.I, w.H) for w in GROUPS["fastrnns"]} == {(100, 64, 512, 512)}


@pytest.mark.parametrize("name", ["", "lstm", "lstm-inference-T1-N1-I1-H0-float32", "tanh-step-T1-N1-I1-H1-float32"])
def test_a_wrong_name_is_told(name):
    with pytest.raises(ValueError, match="wanted"):
        parse(name)


def test_flops_by_hand():
    # 2 (multiply, add) x 10 steps x 3 rows x 4 gates x 7 units x (5 + 7) terms; twice more for the two products of backward
    assert Workload("lstm", 10, 3, 5, 7).flops == 2 * 10 * 3 * 4 * 7 * 12
    assert Workload("lstm", 10, 3, 5, 7, work="training").flops == 3 * 2 * 10 * 3 * 4 * 7 * 12
    assert Workload("gru", 10, 3, 5, 7, "float64").weight_bytes == 3 * 7 * 7 * 8


@pytest.mark.parametrize("name", implementations.IMPLEMENTATIONS)
@pytest.mark.parametrize("w", [*BRIEF, *(w._replace(T=1, work="step") for w in BRIEF[::2])], ids=str)
@pytest.mark.filterwarnings("ignore")
def test_implementations_give_the_right_answer(name, w):
    for module in implementations.IMPLEMENTATIONS[name].modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    try:
        implementations.check(name, w)
    except implementations.Unsupported:
        alone = (("frozen", "training"), ("frozen", "step"), ("onnxruntime", "training"))
        assert (name, w.work) in alone or (name, w.dtype) == ("onnxruntime", "float64")


def test_a_wrong_answer_is_not_timed(monkeypatch):
    wrong = implementations.Implementation(lambda w, threads: lambda: (np.zeros((w.T, w.N, w.H)),))
    monkeypatch.setitem(implementations.IMPLEMENTATIONS, "wrong", wrong)
    with pytest.raises(ArithmeticError, match="off by"):
        implementations.check("wrong", BRIEF[0])


def test_a_process_answers_fails_and_is_replaced():
    one = process.Process("frozen", 1)
    try:
        w = Workload("gru", 5, 2, 3, 4)
        assert one.time(w, 0.01) > 0
        assert one.time(w._replace(work="training"), 0.01) is None
        assert "training" in one.failed[w._replace(work="training")]
        one._child.kill()
        assert one.time(w, 0.01) is None and "ended" in one.failed[w]
        assert one.time(w._replace(T=6), 0.01) > 0
    finally:
        one.close()


def test_limits_are_of_one_machine():
    found = limits.measure("float32", 1)
    assert found.flops > 1e8
    assert found.bandwidth["L1"] > found.bandwidth["memory"] > 1e8
    # what fits the first cache is read from there, of what does not only the rest from further away
    size, L1, L2 = found.sizes["L1"], found.bandwidth["L1"], found.bandwidth["L2"]
    assert found.reading(size / 2) == pytest.approx(size / 2 / L1)
    assert found.reading(1.5 * size) == pytest.approx(size / L1 + size / 2 / L2)
    small, large = Workload("lstm", 100, 1, 8, 8), Workload("lstm", 100, 64, 512, 512)
    # with many rows the products bound, and every further step costs the same
    assert found.floor(large) == pytest.approx(large.flops / found.flops)
    assert found.floor(large._replace(T=200)) == pytest.approx(2 * found.floor(large))
    assert 0 < found.floor(small) < found.floor(small._replace(work="training"))


def test_a_limit_survives_a_slow_start(monkeypatch):
    """What is measured is the product, not the operating system that gives the first launches no time."""
    launches, launch, undisturbed = [], threads.launch, limits.measure("float32", 1)

    def slow_at_first(*arguments):
        launches.append(arguments)
        if len(launches) <= 3:
            time.sleep(limits._SECONDS)
        launch(*arguments)

    monkeypatch.setattr(threads, "launch", slow_at_first)
    limits.measure.cache_clear()
    assert limits.measure("float32", 1).flops > undisturbed.flops / 2


@pytest.mark.parametrize("N", [1, 64])
def test_the_floor_of_the_moment_knows_a_slower_machine(monkeypatch, N):
    found, w, launch = limits.measure("float32", 1), Workload("lstm", 100, N, 256, 256), threads.launch
    # no quicker than undisturbed, but for what a turn is measured by
    assert found.now(w) > found.floor(w) / 1.5

    def slower(*arguments):
        launch(*arguments)
        time.sleep(10 * limits._SECONDS)

    monkeypatch.setattr(threads, "launch", slower)
    assert found.now(w) > 2 * found.floor(w)


def test_a_row_takes_its_limit_by_turns(monkeypatch):
    w, floors = Workload("rnn", 5, 2, 3, 4), iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(process.Process, "floor", lambda self, w, limits: next(floors))
    one = process.Process("fastrnn", 1)
    try:
        row = rows.row_of(w, 1, [one], 3, 0.01)
    finally:
        one.close()
    assert row["limit_ms"] == 2e3 and next(floors, None) is None


def test_a_process_tells_the_floor_of_the_moment():
    w, found = Workload("lstm", 100, 64, 256, 256), limits.measure("float32", 1)
    one = process.Process("fastrnn", 1)
    try:
        assert one.floor(w, found) > found.floor(w) / 1.5
    finally:
        one.close()


def test_a_model_is_fitted_and_read():
    T = np.array([16, 64, 256, 1024])
    one, two = parts.fit(T, (5 + 2.0 * T) * 1e-6), parts.fit(T, (25 + 1.0 * T) * 1e-6)
    assert (one.a, one.b, one.error) == pytest.approx((5e-6, 2e-6, 0), abs=1e-9)
    assert one.meets(two) == pytest.approx(20)
    assert two.meets(one) is None and one.meets(parts.Model(1e-6, 1e-6, 0)) == 0


@pytest.mark.parametrize("work", ["inference", "training"])
def test_parts_add_up(work):
    found = parts.parts(Workload("lstm", 20, 4, 16, 32, work=work), 1)
    assert tuple(found) == parts.PARTS and min(found.values()) >= 0
    assert found["recurrent product and gates"] > 0
    # weights that nobody changes between calls are packed once; those of a training step anew
    for part in ("packing", "backward loop", "weight gradients"):
        assert (found[part] > 0) == (work == "training"), part
