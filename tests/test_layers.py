"""Layers: parameters, copies, dropout, serving forms, threads, and work in proportion to the sequences."""

import copy
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastrnn as fr

LAYERS = {"rnn": fr.RNN, "gru": fr.GRU, "lstm": fr.LSTM}
GATES = {"rnn": 1, "gru": 3, "lstm": 4}
T, N, I, H = 6, 4, 5, 9

names = pytest.mark.parametrize("name", LAYERS)


def build(name, seed=0, **options):
    return LAYERS[name](I, H, rng=seed, **options)


def sequence(dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal((T, N, I)).astype(dtype)


def flat(out):
    """y, state -> arrays."""
    y, state = out
    return [y, *(state if isinstance(state, tuple) else (state,))]


def same(got, wanted):
    got, wanted = flat(got), flat(wanted)
    return all(a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in zip(got, wanted, strict=True))


# --- parameters


def of_copy(layer, x):
    """What a layer that has never been called gives: nothing of an earlier call can be left in it."""
    return copy.deepcopy(layer)(x)


@names
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=["plain", "stack"])
def test_a_call_takes_the_weights_as_they_are_now(name, options):
    layer, x = build(name, **options), sequence()
    first = layer(x)
    assert same(first, layer(x)) and same(first, of_copy(layer, x))
    key = "weight_hh_l0"
    layer.params[key] *= 0.5  # in place
    second = layer(x)
    assert same(second, of_copy(layer, x)) and not same(first, second)
    layer.params[key] = layer.params[key] * 2  # another array
    assert same(layer(x), first)
    layer.params[key] = np.asfortranarray(layer.params[key])  # one that has to be converted at every call
    assert same(layer(x), first)
    layer.params[key] *= 0.5
    assert same(layer(x), second)
    (y, _), tape = layer.forward(x)
    assert np.array_equal(y, second[0])
    assert layer.backward(tape, y).params[key].shape == layer.params[key].shape


@names
def test_wrong_weights_are_told_after_a_call(name):
    layer, x = build(name), sequence()
    layer(x)
    layer.params["weight_hh_l0"] = np.zeros((3, 4), np.float32)
    for call in (layer, layer.forward):
        with pytest.raises(ValueError, match="weight_hh_l0"):
            call(x)


@names
def test_a_layer_shared_by_threads(name):
    # each call has weights and memory of its own for as long as it runs
    layer, inputs = build(name), [sequence(seed=k) for k in range(8)]
    wanted = [of_copy(layer, x) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            assert all(map(same, pool.map(layer, inputs), wanted))


@names
def test_names_and_shapes_are_pytorchs(name):
    layer, rows = build(name, num_layers=2, bidirectional=True), GATES[name] * H
    assert {k: v.shape for k, v in layer.params.items()} == {
        f"{part}_l{k}{way}": shape
        for k, width in enumerate((I, 2 * H))
        for way in ("", "_reverse")
        for part, shape in zip(
            ("weight_ih", "weight_hh", "bias_ih", "bias_hh"), ((rows, width), (rows, H), (rows,), (rows,)), strict=True
        )
    }
    assert set(build(name, bias=False).params) == {"weight_ih_l0", "weight_hh_l0"}


@names
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_initial_values(name, dtype):
    layer = build(name, dtype=dtype)
    values = np.concatenate([v.ravel() for v in layer.params.values()])
    assert values.dtype == dtype and np.abs(values).max() <= H**-0.5 and np.abs(values).max() > 0.9 * H**-0.5
    assert all(np.array_equal(v, build(name, dtype=dtype).params[k]) for k, v in layer.params.items())
    assert not np.array_equal(build(name, seed=1).params["weight_hh_l0"], build(name).params["weight_hh_l0"])


@names
def test_state_dict_round_trip(name):
    one, other, x = build(name, num_layers=2), build(name, seed=1, num_layers=2), sequence()
    saved = one.state_dict()
    other.load_state_dict(saved)
    wanted = one(x)
    assert same(other(x), wanted)
    for value in saved.values():
        value[...] = np.nan  # copies, both ways
    assert same(one(x), wanted) and same(other(x), wanted)


@names
def test_state_dict_takes_other_floats_and_tensors(name):
    one, other, x = build(name), build(name, seed=1), sequence()
    other.load_state_dict({k: v.astype(np.float64) for k, v in one.params.items()})
    assert same(other(x), one(x)) and other.params["weight_ih_l0"].dtype == np.float32
    torch = pytest.importorskip("torch")
    other = build(name, seed=1)
    other.load_state_dict({k: torch.nn.Parameter(torch.from_numpy(v.copy())) for k, v in one.params.items()})
    assert same(other(x), one(x))


@names
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
def test_copies(name, duplicate):
    layer, x = build(name, num_layers=2, bidirectional=True, dropout=0.5), sequence()
    other, wanted = duplicate(layer), layer(x)
    assert same(other(x), wanted) and repr(other) == repr(layer)
    # the generator travels along, and is no longer shared
    assert same(other.forward(x)[0], layer.forward(x)[0])
    for value in other.params.values():
        value[...] = 0
    assert same(layer(x), wanted) and not same(other(x), wanted)


@names
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
def test_copies_of_frozen_layers(name, duplicate):
    layer, x = build(name), sequence()
    frozen, wanted = layer.freeze(), layer(x)
    other = duplicate(frozen)
    # a copy that kept addresses inside the original's memory would read what is written there now
    for stage in frozen._prepared:
        for prepared in stage:
            for name in prepared.addresses:
                prepared.panels[name][...] = np.nan
    assert same(other(x), wanted)
    assert np.stack([y for stream in [other.stream(N)] for y in map(stream.step, x)]).tobytes() == wanted[0].tobytes()


@names
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
def test_copies_of_streams(name, duplicate):
    layer, x = build(name), sequence()
    stream = layer.stream(N)
    try:
        other = duplicate(stream)
    except (TypeError, AttributeError, pickle.PicklingError):
        return  # a stream that refuses to be copied is an answer too; one that shares the original's state is not
    for _ in range(2):
        stream.step(np.full((N, I), np.nan, np.float32))
    assert np.stack([other.step(x_t) for x_t in x]).tobytes() == layer(x)[0].tobytes()


@names
def test_repr(name):
    kind = type(build(name)).__name__
    assert repr(build(name)) == f"{kind}(5, 9, dtype=float32)"
    text = repr(build(name, num_layers=2, bias=False, batch_first=True, dropout=0.5, bidirectional=True, dtype=np.float64))
    for part in (kind, "num_layers=2", "bias=False", "batch_first=True", "dropout=0.5", "bidirectional=True", "float64"):
        assert part in text
    assert kind in repr(build(name).freeze())


def test_repr_tells_the_nonlinearity():
    assert repr(fr.RNN(I, H, nonlinearity="relu")) != repr(fr.RNN(I, H))


@names
def test_parameters_edited_in_place_are_used_at_the_next_call(name):
    layer, x = build(name), sequence()
    frozen, before = layer.freeze(), layer(x)
    layer.params["weight_hh_l0"][...] *= 0.5
    layer.params["bias_ih_l0"] = layer.params["bias_ih_l0"] + 1
    other = build(name, seed=1)
    other.load_state_dict(layer.params)
    assert same(layer(x), other(x)) and not same(layer(x), before)
    assert same(layer.forward(x)[0], other(x))
    assert same(frozen(x), before)
    layer.load_state_dict(build(name, seed=2).params)
    assert same(layer(x), build(name, seed=2)(x)) and same(frozen(x), before)


@names
def test_stream_is_on_the_weights_as_they_were(name):
    layer, x = build(name), sequence()
    stream, wanted = layer.stream(N), layer(x)[0]
    for value in layer.params.values():
        value[...] = 0
    assert np.stack([stream.step(x_t) for x_t in x]).tobytes() == wanted.tobytes()


# --- calls


@names
@pytest.mark.parametrize("batch_first", [False, True])
def test_unbatched(name, batch_first):
    layer, x = build(name, num_layers=2, bidirectional=True, batch_first=batch_first), sequence()[:, 1]
    batch = x[None] if batch_first else x[:, None]
    wanted, at = flat(layer(batch)), 0 if batch_first else 1
    got = flat(layer(x))
    assert got[0].tobytes() == wanted[0].take(0, at).tobytes() and got[0].shape == (T, 2 * H)
    assert all(a.tobytes() == b[:, 0].tobytes() and a.shape == (4, H) for a, b in zip(got[1:], wanted[1:], strict=True))
    state = tuple(got[1:]) if name == "lstm" else got[1]
    (y, _), tape = layer.forward(x, state)
    g = layer.backward(tape, y, state)
    assert g.x.shape == x.shape and [s.shape for s in flat((y, g.state))[1:]] == [s.shape for s in got[1:]]


@names
def test_state_carries_a_sequence_on(name):
    layer, x = build(name, num_layers=2), sequence()
    y, state = layer(x)
    first, half = layer(x[:2])
    second, end = layer(x[2:], half)
    assert np.concatenate([first, second]).tobytes() == y.tobytes()
    assert same((second, end), (second, state))


def test_one_part_of_an_lstms_state_or_cotangent():
    layer, x = build("lstm"), sequence()
    h, zero = np.random.default_rng(0).standard_normal((1, N, H)).astype(np.float32), np.zeros((1, N, H), np.float32)
    assert same(layer(x, (h, None)), layer(x, (h, zero))) and same(layer(x, (None, h)), layer(x, (zero, h)))
    _, tape = layer.forward(x)
    for one, other in (((h, None), (h, zero)), ((None, h), (zero, h))):
        assert layer.backward(tape, None, one).x.tobytes() == layer.backward(tape, None, other).x.tobytes()


@names
@pytest.mark.parametrize("sizes", [(0, 3), (4, 0), (0, 0)])
def test_no_steps_and_no_rows(name, sizes):
    layer = build(name, num_layers=2, bidirectional=True)
    out, tape = layer.forward(np.zeros((*sizes, I), np.float32))
    y, *state = flat(out)
    assert y.shape == (*sizes, 2 * H) and all(s.shape == (4, sizes[1], H) and not s.any() for s in state)
    g = layer.backward(tape, y)
    assert g.x.shape == (*sizes, I) and not any(v.any() for v in g.params.values())
    assert {k: v.shape for k, v in g.params.items()} == {k: v.shape for k, v in layer.params.items()}


@names
def test_gradients_have_the_names_and_shapes_of_parameters(name):
    for bias in (True, False):
        layer = build(name, num_layers=2, bidirectional=True, bias=bias)
        (y, _), tape = layer.forward(sequence())
        g = layer.backward(tape, y)
        assert list(g.params) == list(layer.params)
        assert all(g.params[k].shape == v.shape and g.params[k].dtype == v.dtype for k, v in layer.params.items())


@names
@pytest.mark.parametrize("bias", [True, False])
def test_short_training_is_training(name, bias):
    layer, x = build(name, bias=bias), sequence()
    zero = np.zeros((1, x.shape[1], H), np.float32)
    state = (zero, zero) if name == "lstm" else zero
    # with a state that is given, and gradients of the last one's, nothing is short
    (y, end), tape = layer.forward(x)
    (wanted_y, wanted_end), wanted_tape = layer.forward(x, state)
    got, wanted = layer.backward(tape, y), layer.backward(wanted_tape, y, state)
    assert same((y, end), (wanted_y, wanted_end)) and tape.nbytes == wanted_tape.nbytes
    assert same((got.x, got.state), (wanted.x, wanted.state)) and list(got.params) == list(wanted.params)
    assert all(got.params[key].tobytes() == value.tobytes() for key, value in wanted.params.items())
    # whatever the strides, and the byte order
    (y_back, _), tape_back = layer.forward(x[::-1])
    assert y_back.tobytes() == layer.forward(np.ascontiguousarray(x[::-1]))[0][0].tobytes()
    wide = np.zeros((*y.shape[:2], 2 * H), np.float32)
    wide[:, :, ::2] = y
    for dy in (wide[:, :, ::2], y.astype(">f4")):
        assert layer.backward(tape, dy).x.tobytes() == got.x.tobytes()
    assert not any(v.any() for v in layer.backward(tape_back).params.values())
    with pytest.raises(ValueError, match="dy: got shape"):
        layer.backward(tape, y[:-1])
    with pytest.raises(TypeError, match="dy: got dtype"):
        layer.backward(tape, y.astype(np.float64))


@names
def test_gradients_keep_nothing_of_the_directions(name):
    layer = build(name, bidirectional=True)
    (y, _), tape = layer.forward(sequence())
    assert layer.backward(tape, y).first == ()  # their dx are summed, and gone


# --- dropout


@names
def test_dropout_is_for_training_only(name):
    layer, x = build(name, num_layers=2, dropout=0.5), sequence()
    plain = build(name, num_layers=2)
    assert same(layer(x), plain(x)) and same(layer.freeze()(x), plain(x))
    assert not same(layer.forward(x, rng=0)[0], plain(x))
    # one layer has nothing below it to drop
    assert same(build(name, dropout=0.5).forward(x)[0], build(name)(x))


@names
def test_dropout_is_reproducible(name):
    x = sequence()

    def train(rng=None):
        layer = build(name, num_layers=3, dropout=0.5)
        return [layer.forward(x, rng=rng)[0] for _ in range(2)]

    first, second = train()
    again = train()
    assert same(again[0], first) and same(again[1], second) and not same(first, second)
    one, other = train(rng=5)
    assert same(one, other) and same(train(rng=np.random.default_rng(5))[0], one)
    assert same(train(rng=np.random.default_rng(5))[1], train(rng=np.random.default_rng(5))[1])


def test_drawing_from_a_generator_of_the_callers_leaves_the_layers_own_alone():
    x, layer, other = sequence(), *(build("gru", num_layers=2, dropout=0.5) for _ in range(2))
    layer.forward(x, rng=1)
    assert same(layer.forward(x)[0], other.forward(x)[0])


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_preserves_the_mean(p):
    layer = fr.GRU(2, 64, num_layers=2, dropout=p, rng=0)
    _, tape = layer.forward(np.ones((50, 64, 2), np.float32), rng=0)
    first, mask = tape.masks
    assert first is None and set(np.unique(mask)) == {np.float32(0), np.float32(1 / (1 - p))}
    # four standard deviations of the mean of so many draws
    assert abs(mask.mean(dtype=np.float64) - 1) < 4 * (p / (1 - p) / mask.size) ** 0.5


def test_dropout_of_everything():
    layer, x = build("gru", num_layers=2, dropout=1.0), sequence()
    (y, _), tape = layer.forward(x)
    assert y.tobytes() == layer.forward(2 * x)[0][0].tobytes() and np.isfinite(y).all()
    assert not layer.backward(tape, y).x.any()


@names
@pytest.mark.parametrize("batch_first", [False, True])
def test_gradient_is_of_the_mask_that_was_drawn(name, batch_first):
    layer = build(name, num_layers=3, dropout=0.4, bidirectional=True, batch_first=batch_first, dtype=np.float64)
    rng, x = np.random.default_rng(1), sequence(np.float64)
    x = x.swapaxes(0, 1).copy() if batch_first else x
    (y, _), tape = layer.forward(x, rng=7)
    dy = rng.standard_normal(y.shape)
    g = layer.backward(tape, dy)

    def loss():
        return float((layer.forward(x, rng=7)[0][0] * dy).sum())

    for value, gradient in (
        (x, g.x),
        *((layer.params[k], g.params[k]) for k in ("weight_ih_l0", "weight_hh_l1", "bias_hh_l2")),
    ):
        # one direction for all numbers at once; central differences err by the square of the step
        way, start, step = rng.standard_normal(value.shape), value.copy(), 1e-5
        value[...] = start + step * way
        above = loss()
        value[...] = start - step * way
        below = loss()
        value[...] = start
        exact = float((gradient * way).sum())
        assert abs((above - below) / (2 * step) - exact) < 1e-6 * max(1, abs(exact))


# --- short frozen calls


@names
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (7, 3), (5, 1)], ids=str)
def test_short_frozen_calls(name, shape):
    layer = build(name)
    frozen, rng = layer.freeze(), np.random.default_rng(3)
    kept = []
    for _ in range(3):
        # another sequence each time: nothing of the one before may be left, in the state or in what was returned
        x = rng.standard_normal((*shape, I)).astype(np.float32)
        kept.append((frozen(x), layer(x)))
    for got, want in kept:
        assert same(got, want)
    x = np.full((*shape, I), np.nan, np.float32)
    frozen(x)
    x = np.ones((*shape, I), np.float32)
    assert same(frozen(x), layer(x))
    assert same(frozen(x[::-1]), layer(x[::-1])) and same(frozen(x.astype(">f4")), layer(x))
    with pytest.raises(ValueError, match="x: got shape"):
        frozen(x[..., :-1])


@names
@pytest.mark.parametrize("T", [3, 300])
def test_short_calls_read_x_where_it_is(name, T):
    layer, rng = build(name), np.random.default_rng(4)
    x = rng.standard_normal((T, N, I)).astype(np.float32)
    wanted = layer(x)
    unaligned = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    unaligned[...] = x
    fixed = x.copy()
    fixed.setflags(write=False)
    every_other = np.repeat(x, 2, axis=1)[:, ::2], np.repeat(x, 2, axis=2)[..., ::2]
    for other in (unaligned, fixed, np.asfortranarray(x), *every_other):
        before = other.copy()
        assert same(layer(other), wanted) and same(layer.freeze()(other), wanted) and np.array_equal(other, before)


@names
def test_short_frozen_calls_from_several_threads(name):
    layer = build(name)
    frozen = layer.freeze()
    xs = [np.full((3, 2, I), k, np.float32) for k in range(8)]
    wanted = [layer(x) for x in xs]

    def work(k):
        return all(same(frozen(xs[k]), wanted[k]) for _ in range(200))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


# --- streams


@names
@pytest.mark.parametrize("layers", [1, 3])
def test_stream_state_and_reset(name, layers):
    layer, x = build(name, num_layers=layers), sequence()
    stream = layer.stream(N)
    parts = stream.state if name == "lstm" else (stream.state,)
    assert all(p.shape == (layers, N, H) and not p.any() for p in parts)
    for x_t in x[:3]:
        stream.step(x_t)
    wanted = layer(x[:3])[1]
    assert same((x, stream.state), (x, wanted))
    for part in stream.state if name == "lstm" else (stream.state,):
        part[...] = np.nan  # a copy
    stream.reset([1, 3])
    state = [np.array(p) for p in (wanted if name == "lstm" else (wanted,))]
    for part in state:
        part[:, [1, 3]] = 0
    fresh = tuple(state) if name == "lstm" else state[0]
    assert same((x, stream.state), (x, fresh))
    rest = np.stack([stream.step(x_t) for x_t in x[3:]])
    assert rest.tobytes() == layer(x[3:], fresh)[0].tobytes()
    stream.reset()
    assert np.stack([stream.step(x_t) for x_t in x]).tobytes() == layer(x)[0].tobytes()


@names
@pytest.mark.parametrize("rows", [0, slice(1, 3), np.array([True, False, False, True]), [], -1], ids=repr)
def test_stream_reset_of_some_rows(name, rows):
    layer, x = build(name), sequence()
    stream, other = layer.stream(N), layer.stream(N)
    for x_t in x[:3]:
        stream.step(x_t)
        other.step(x_t)
    stream.reset(rows)
    chosen = np.zeros(N, bool)
    chosen[rows] = True
    got, kept = np.atleast_2d(stream.step(x[3])), other.step(x[3])
    fresh = layer.stream(N).step(x[3])
    assert got.tobytes() == np.where(chosen[:, None], fresh, kept).tobytes()


@names
def test_stream_out(name):
    layer, x = build(name, num_layers=2), sequence()
    wanted = layer(x)[0]
    stream, out = layer.stream(N), np.full((N, H), np.nan, np.float32)
    for x_t, y_t in zip(x, wanted, strict=True):
        assert stream.step(x_t, out=out) is out and out.tobytes() == y_t.tobytes()
    stream.reset()
    wide = np.full((T, N, 2 * H), np.nan, np.float32)
    for x_t, part in zip(x, wide[..., ::2], strict=True):
        stream.step(x_t, out=part)
    assert np.ascontiguousarray(wide[..., ::2]).tobytes() == wanted.tobytes() and np.isnan(wide[..., 1::2]).all()
    stream.reset()
    first = stream.step(x[0])
    kept = first.copy()
    stream.step(x[1])
    assert first.tobytes() == kept.tobytes()  # a new array at every step


@names
def test_stream_of_one_row(name):
    layer, x = build(name), sequence()[:, 0]
    wanted, _ = layer(x)
    flat_stream, row_stream = layer.stream(), layer.freeze().stream()
    out = np.empty(H, np.float32)
    for x_t, y_t in zip(x, wanted, strict=True):
        assert flat_stream.step(x_t, out=out).tobytes() == y_t.tobytes()
        got = row_stream.step(x_t[None])
        assert got.shape == (1, H) and got.tobytes() == y_t.tobytes()


@names
def test_streams_of_one_layer_are_apart(name):
    frozen, x = build(name).freeze(), sequence()
    one, other = frozen.stream(N), frozen.stream(N)
    first = [one.step(x_t) for x_t in x]
    assert all(a.tobytes() == other.step(x_t).tobytes() for a, x_t in zip(first, x, strict=True))


# --- threads, versions


def test_thread_settings_nest_and_end():
    most = fr.get_num_threads()
    fr.set_num_threads(1)
    try:
        assert fr.get_num_threads() == 1
        with fr.num_threads(most):
            assert fr.get_num_threads() == most
            with fr.num_threads(1):
                assert fr.get_num_threads() == 1
            fr.set_num_threads(1)  # of the process: the context's own holds until it ends
            assert fr.get_num_threads() == most
        assert fr.get_num_threads() == 1
        with pytest.raises(KeyError), fr.num_threads(most):
            raise KeyError
        assert fr.get_num_threads() == 1
    finally:
        fr.set_num_threads(most)


def test_show_versions(capsys):
    fr.show_versions()
    text = capsys.readouterr().out
    for word in ("fastrnn", fr.__version__, "numpy", np.__version__, "numba", "python", "kernels", "threads"):
        assert word in text


# --- work


@names
@pytest.mark.parametrize("reverse", [False, True])
def test_work_is_the_sum_of_lengths(name, reverse):
    G, lengths = GATES[name], np.array([6, 0, 3, 1])
    w = [np.ones(s, np.float32) for s in ((G * H, I), (G * H, H))]
    x = sequence()
    for given, wanted in ((lengths, 10), (None, T * N), ([0] * N, 0)):
        tape = getattr(fr, f"{name}_forward")(x, *w, lengths=given, reverse=reverse)[1].kept
        assert tape.rows.total == len(tape.block["x"]) == len(tape.block["saved"]) == wanted


@pytest.mark.slow
@names
def test_half_the_steps_take_about_half_the_time(name):
    G, T, N, H = GATES[name], 400, 32, 128
    rng = np.random.default_rng(0)
    args = [rng.standard_normal(s).astype(np.float32) * 0.05 for s in ((T, N, 64), (G * H, 64), (G * H, H))]
    full, half = [T] * N, [T if n % 4 == 0 else T // 3 for n in range(N)]

    def once(lengths):
        start = time.perf_counter()
        (y, *_), tape = getattr(fr, f"{name}_forward")(*args, lengths=lengths)
        getattr(fr, f"{name}_backward")(tape, y)
        return time.perf_counter() - start

    with fr.num_threads(1):
        once(full), once(half)
        ratio = min(once(half) for _ in range(7)) / min(once(full) for _ in range(7))
    assert sum(half) / sum(full) < 0.51 and ratio < 0.8


def test_convert_keeps_shapes_and_one_type():
    layer = fr.LSTM(3, 4, rng=0)
    before = layer.state_dict()
    y, _ = layer.convert(lambda p: p.astype(np.float64))(np.ones((5, 2, 3)))
    assert y.dtype == np.float64
    for name, p in layer.params.items():
        np.testing.assert_array_equal(p, before[name])
    with pytest.raises(TypeError, match="weight_ih_l0: got dtype float16, wanted float32 or float64"):
        layer.convert(lambda p: p.astype(np.float16))
    with pytest.raises(ValueError, match=r"weight_ih_l0: got shape \(3, 16\), wanted \(16, 3\)"):
        layer.convert(np.transpose)
    with pytest.raises(TypeError, match="bias_ih_l0: got dtype float32, wanted float64"):
        layer.convert(lambda p: p.astype(np.float32) if p.ndim == 1 else p)
    assert layer.dtype == np.float64
