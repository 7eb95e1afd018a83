"""Same rows, same bits: whatever the threads, the batch around a row, the padding, the way a result is asked for."""

import numpy as np
import pytest

import fastrnn as fr
from fastrnn.cpu import team, threads
from fastrnn.cpu.target import panel_vectors
from tests.helpers import divide_small_calls, forget_plans

CELLS = {
    "rnn_tanh": ("rnn", 1, {"nonlinearity": "tanh"}),
    "rnn_relu": ("rnn", 1, {"nonlinearity": "relu"}),
    "gru": ("gru", 3, {}),
    "lstm": ("lstm", 4, {}),
}
DTYPES = {"f32": np.float32, "f64": np.float64}
# T, N, I, H: one unit, odd sizes, a batch split by rows, a single row and a few rows split by units; a single row that
# takes its input's product along
SIZES = [(4, 1, 3, 1), (9, 2, 6, 33), (7, 13, 5, 65), (5, 1, 3, 260), (4, 3, 7, 131), (41, 1, 97, 97), (41, 1, 193, 193)]
STATEFUL = {"rnn": fr.RNN, "gru": fr.GRU, "lstm": fr.LSTM}

cells = pytest.mark.parametrize("cell", CELLS)
dtypes = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
sizes = pytest.mark.parametrize("size", SIZES, ids=lambda s: "T{}-N{}-I{}-H{}".format(*s))
ways = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


@pytest.fixture(autouse=True, scope="module")
def small_calls_are_divided_as_large_ones():
    with pytest.MonkeyPatch.context() as patch:
        divide_small_calls(patch)
        yield
    forget_plans()


def problem(cell, dtype, size, seed=0):
    """Arguments and cotangents of one call."""
    (name, G, _), (T, N, I, H) = CELLS[cell], size
    rng = np.random.default_rng(seed)
    shapes = [(T, N, I), (G * H, I), (G * H, H), (G * H,), (G * H,), *[(N, H)] * (1 + (name == "lstm"))]
    args = [(rng.standard_normal(s) * (H**-0.5 if len(s) == 2 and s[0] == G * H else 1)).astype(dtype) for s in shapes]
    cotangents = [rng.standard_normal(s).astype(dtype) for s in [(T, N, H), *shapes[5:]]]
    return args, cotangents


def infer(cell, args, **options):
    name, _, more = CELLS[cell]
    return list(getattr(fr, name)(*args, **more, **options))


def keep(cell, args, **options):
    name, _, more = CELLS[cell]
    out, tape = getattr(fr, f"{name}_forward")(*args, **more, **options)
    return list(out), tape


def pull(cell, tape, cotangents):
    """Gradients by name, those that there are."""
    g = getattr(fr, f"{CELLS[cell][0]}_backward")(tape, *cotangents)
    return {name: value for name, value in vars(g).items() if value is not None}


def everything(cell, args, cotangents, **options):
    out, tape = keep(cell, args, **options)
    return out + list(pull(cell, tape, cotangents).values())


def same(got, wanted):
    """Equal to the last bit, the sign of zero included."""
    got, wanted = list(got), list(wanted)
    return len(got) == len(wanted) and all(
        a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(got, wanted, strict=True)
    )


def row(args, cotangents, n, steps, dtype=None):
    """The problem of row n alone, its first `steps` steps."""
    x, *weights, states = args[0], *args[1:5], args[5:]
    alone = [x[:steps, n : n + 1], *weights, *(s[n : n + 1] for s in states)]
    return alone, [cotangents[0][:steps, n : n + 1], *(d[n : n + 1] for d in cotangents[1:])]


def test_sizes_cover_every_way_to_divide_the_work():
    with fr.num_threads(2):
        teams = {team.choose(N, 4, H, I + H, T, "float32", 1, 2).now() for T, N, I, H in SIZES}
    assert {(team.size, team.by_units) for team in teams} == {(1, False), (2, False), (2, True)}


@cells
@dtypes
@sizes
@ways
def test_one_and_two_threads(cell, dtype, size, reverse):
    args, cotangents = problem(cell, dtype, size)
    found = []
    for n in (1, 2):
        with fr.num_threads(n):
            found.append(everything(cell, args, cotangents, reverse=reverse))
    assert same(*found)


@cells
@dtypes
def test_ragged_batch_at_one_and_two_threads(cell, dtype):
    args, cotangents = problem(cell, dtype, (9, 13, 5, 65))
    lengths = np.array([9, 0, 3, 1, 8, 9, 2, 5, 5, 7, 4, 6, 1])
    found = []
    for n in (1, 2):
        with fr.num_threads(n):
            found.append(everything(cell, args, cotangents, lengths=lengths))
    assert same(*found)


@cells
@dtypes
@pytest.mark.parametrize("ragged", [False, True], ids=["dense", "ragged"])
def test_two_threads_cut_into_pieces_and_two_that_turn_out_to_be_one(cell, dtype, ragged, monkeypatch):
    # threads that divide rows keep states of their own, between the steps of a piece
    args, _ = problem(cell, dtype, (9, 13, 5, 65))
    options = {"lengths": np.array([9, 0, 3, 1, 8, 9, 2, 5, 5, 7, 4, 6, 1])} if ragged else {}
    with fr.num_threads(1):
        alone = infer(cell, args, **options)
    with fr.num_threads(2):
        forget_plans()
        with threads._launching:
            assert same(infer(cell, args, **options), alone)
        monkeypatch.setattr(team, "CALL_FLOPS", 1e6)
        forget_plans()
        assert same(infer(cell, args, **options), alone)
    forget_plans()


@cells
@dtypes
@pytest.mark.parametrize("N", [13, 49])
@pytest.mark.parametrize("ragged", [False, True], ids=["dense", "ragged"])
def test_uneven_rows_whose_units_two_threads_divide(cell, dtype, N, ragged, monkeypatch):
    # as where threads meet at once; 49 rows fill the room for what is computed ahead
    monkeypatch.setattr(team, "time_to_meet", lambda team: 0.0)
    monkeypatch.setattr(team, "_LEAST_MEETING", 0.0)
    args, _ = problem(cell, dtype, (9, N, 5, 128))
    G, kind = CELLS[cell][1], np.dtype(dtype).name
    assert team.choose(N, G, 128, 133, 9, kind, panel_vectors(G), 2).now() == team.Team(2, True)
    lengths = np.random.default_rng(1).integers(0, 10, N)
    forget_plans()
    found = []
    for n in (1, 2):
        with fr.num_threads(n):
            found.append(infer(cell, args, **({"lengths": lengths, "reverse": True} if ragged else {})))
    forget_plans()
    assert same(*found)


@cells
@dtypes
def test_weight_gradients_of_a_long_sequence_at_one_and_two_threads(cell, dtype):
    # more rows of the tape than one block of the sum holds
    args, cotangents = problem(cell, dtype, (150, 3, 5, 33))
    found = []
    for n in (1, 2):
        with fr.num_threads(n):
            found.append(pull(cell, keep(cell, args)[1], cotangents))
    for name in ("w_ih", "w_hh", "b_ih", "b_hh"):
        assert same([found[0][name]], [found[1][name]]), name


@cells
@dtypes
@pytest.mark.parametrize("inputs", [300, 4100])
def test_row_of_many_with_many_inputs_and_alone(cell, dtype, inputs, threads):
    # in a large batch the input's product is part of the step, alone it runs ahead; its sums are longer than a run; rows
    # of so many numbers go through the panels some at a time
    args, cotangents = problem(cell, dtype, (3, 110, inputs, 33))
    out, tape = keep(cell, args)
    g = pull(cell, tape, cotangents)
    for n in (0, 54, 55, 109):
        alone, pulled = row(args, cotangents, n, 3)
        out_n, tape_n = keep(cell, alone)
        assert same(out_n, [out[0][:, n : n + 1], *(s[n : n + 1] for s in out[1:])])
        assert same([pull(cell, tape_n, pulled)["x"]], [g["x"][:, n : n + 1]])


@cells
@dtypes
@ways
@pytest.mark.parametrize("H", [1, 33, 65, 260])
@pytest.mark.parametrize("N", [2, 3, 13])
def test_row_in_a_batch_and_alone(cell, dtype, reverse, H, N, threads):
    # two and three rows take two panels together
    T = 5
    args, cotangents = problem(cell, dtype, (T, N, 5, H))
    out, tape = keep(cell, args, reverse=reverse)
    assert same(infer(cell, args, reverse=reverse), out)
    g = pull(cell, tape, cotangents)
    for n in (n for n in (0, 1, 2, 5, 12) if n < N):
        alone, pulled = row(args, cotangents, n, T)
        out_n, tape_n = keep(cell, alone, reverse=reverse)
        g_n = pull(cell, tape_n, pulled)
        assert same(out_n, [out[0][:, n : n + 1], *(s[n : n + 1] for s in out[1:])])
        assert same([g_n["x"], g_n["h0"]], [g["x"][:, n : n + 1], g["h0"][n : n + 1]])
        if "c0" in g:
            assert same([g_n["c0"]], [g["c0"][n : n + 1]])


@cells
@dtypes
@ways
@pytest.mark.parametrize("H", [7, 16, 32, 50])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "pieces"])
def test_long_row_in_a_batch_and_alone(cell, dtype, reverse, H, whole, monkeypatch):
    # alone, as many steps as were looked ahead for follow each other within a function; the last one's state goes elsewhere
    T, N = 103, 3
    if not whole:
        monkeypatch.setattr(team, "CALL_FLOPS", 1e5)
        forget_plans()
    args, cotangents = problem(cell, dtype, (T, N, H, H))
    out, tape = keep(cell, args, reverse=reverse)
    g = pull(cell, tape, cotangents)
    alone, pulled = row(args, cotangents, 1, T)
    out_n, tape_n = keep(cell, alone, reverse=reverse)
    assert same(out_n, [out[0][:, 1:2], *(s[1:2] for s in out[1:])])
    assert same(infer(cell, alone, reverse=reverse), out_n)
    assert same([pull(cell, tape_n, pulled)["x"]], [g["x"][:, 1:2]])
    # of a longer one, which stops in time
    longer = [np.concatenate([alone[0], alone[0][:9]]), *alone[1:]]
    if not reverse:
        y, *ends = infer(cell, longer, lengths=np.array([T]))
        assert same([y[:T], *ends], out_n) and not y[T:].any()
    forget_plans()


@cells
@dtypes
@ways
@pytest.mark.parametrize("H", [9, 65])
def test_ragged_row_and_alone(cell, dtype, reverse, H, threads):
    T, lengths = 9, np.array([4, 9, 0, 1, 7, 9, 3, 5, 5, 8, 2, 6, 1])
    args, cotangents = problem(cell, dtype, (T, len(lengths), 5, H))
    out, tape = keep(cell, args, reverse=reverse, lengths=lengths)
    g = pull(cell, tape, cotangents)
    for n, steps in enumerate(lengths):
        alone, pulled = row(args, cotangents, n, steps)
        out_n, tape_n = keep(cell, alone, reverse=reverse)
        g_n = pull(cell, tape_n, pulled)
        assert same(out_n, [out[0][:steps, n : n + 1], *(s[n : n + 1] for s in out[1:])])
        assert same([g_n["x"], g_n["h0"]], [g["x"][:steps, n : n + 1], g["h0"][n : n + 1]])
        assert not out[0][steps:, n].any() and not g["x"][steps:, n].any()


@cells
@dtypes
def test_full_lengths_are_no_lengths(cell, dtype, threads):
    args, cotangents = problem(cell, dtype, (6, 5, 4, 33))
    assert same(everything(cell, args, cotangents, lengths=[6] * 5), everything(cell, args, cotangents))


@cells
@dtypes
@pytest.mark.parametrize("size", [(7, 13, 5, 65), (5, 1, 3, 260)], ids=["rows", "units"])
def test_repeated_runs(cell, dtype, size):
    args, cotangents = problem(cell, dtype, size)
    with fr.num_threads(2):
        first = everything(cell, args, cotangents)
        assert all(same(everything(cell, args, cotangents), first) for _ in range(25))


@cells
@dtypes
@sizes
@ways
def test_inference_and_training(cell, dtype, size, reverse, threads):
    args, _ = problem(cell, dtype, size)
    lengths = np.arange(size[1]) % (size[0] + 1)
    for options in ({}, {"lengths": lengths}):
        assert same(infer(cell, args, reverse=reverse, **options), keep(cell, args, reverse=reverse, **options)[0])


def layer_of(cell, I, H, **options):
    name, _, more = CELLS[cell]
    return STATEFUL[name](I, H, rng=3, **more, **options)


def flat(out):
    """y, state -> arrays."""
    y, state = out
    return [y, *(state if isinstance(state, tuple) else (state,))]


@cells
@dtypes
@pytest.mark.parametrize(("N", "H"), [(1, 9), (3, 33), (13, 65), (1, 260), (3, 131)])
@pytest.mark.parametrize("layers", [1, 2])
def test_stream_and_the_whole_sequence(cell, dtype, N, H, layers, threads):
    layer = layer_of(cell, 5, H, num_layers=layers, dtype=dtype)
    x = np.random.default_rng(0).standard_normal((7, N, 5)).astype(dtype)
    y, *state = flat(layer(x))
    stream = layer.stream(N)
    steps = np.stack([stream.step(x_t) for x_t in x])
    found = stream.state if isinstance(stream.state, tuple) else (stream.state,)
    assert same([steps, *found], [y, *state])


@cells
@dtypes
@pytest.mark.parametrize("H", [9, 65, 260])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "both-ways"])
def test_frozen_and_layer(cell, dtype, H, bidirectional, threads):
    layer = layer_of(cell, 5, H, num_layers=2, bidirectional=bidirectional, dtype=dtype)
    frozen, rng = layer.freeze(), np.random.default_rng(0)
    for N in (1, 4):
        x = rng.standard_normal((6, N, 5)).astype(dtype)
        assert same(flat(frozen(x)), flat(layer(x)))
        assert same(flat(frozen(x, lengths=[3] * N)), flat(layer(x, lengths=[3] * N)))
        assert same(flat(layer.forward(x)[0]), flat(layer(x)))


@cells
@dtypes
def test_batch_first_is_a_transpose(cell, dtype):
    by_time, by_row = (layer_of(cell, 5, 33, batch_first=flag, bidirectional=True, dtype=dtype) for flag in (False, True))
    x = np.random.default_rng(0).standard_normal((6, 4, 5)).astype(dtype)
    y, *state = flat(by_time(x, lengths=[6, 2, 0, 5]))
    assert same(flat(by_row(x.swapaxes(0, 1), lengths=[6, 2, 0, 5])), [y.swapaxes(0, 1), *state])


@cells
@dtypes
@sizes
def test_tape_used_twice(cell, dtype, size, threads):
    args, cotangents = problem(cell, dtype, size)
    _, tape = keep(cell, args)
    first = pull(cell, tape, cotangents)
    kept = [value.copy() for value in first.values()]
    for value in first.values():
        value[...] = np.nan  # what backward gave is the caller's
    everything(cell, *problem(cell, dtype, size, seed=1))
    assert same(pull(cell, tape, cotangents).values(), kept)


@cells
@dtypes
@ways
@pytest.mark.parametrize("ragged", [False, True], ids=["dense", "ragged"])
def test_mutation_after_forward_never_changes_backward(cell, dtype, reverse, ragged):
    args, cotangents = problem(cell, dtype, (6, 4, 5, 16))  # a whole number of vectors: nothing needs a padded copy
    lengths = np.array([6, 2, 0, 5]) if ragged else None
    out, tape = keep(cell, args, lengths=lengths, reverse=reverse)
    wanted = [value.copy() for value in pull(cell, tape, cotangents).values()]
    for value in (*args, *out):
        value[...] = np.nan
    if ragged:
        lengths[...] = 1
    assert same(pull(cell, tape, cotangents).values(), wanted)


@cells
@dtypes
def test_mutation_after_a_layers_forward_never_changes_backward(cell, dtype):
    layer = layer_of(cell, 5, 16, num_layers=2, bidirectional=True, dtype=dtype)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 4, 5)).astype(dtype)
    start = [rng.standard_normal((4, 4, 16)).astype(dtype) for _ in range(1 + (cell == "lstm"))]
    out, tape = layer.forward(x, tuple(start) if cell == "lstm" else start[0])
    dy = rng.standard_normal((6, 4, 32)).astype(dtype)
    g = layer.backward(tape, dy)
    for value in (x, *start, *flat(out), *layer.params.values()):
        value[...] = np.nan
    again = layer.backward(tape, dy)
    assert same(flat((again.x, again.state)), flat((g.x, g.state)))
    assert same(again.params.values(), g.params.values())
