"""What a call takes and what it refuses: errors that name the argument, and every layout of the same numbers."""

import re
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn as fr

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
LAYERS = {"rnn": fr.RNN, "gru": fr.GRU, "lstm": fr.LSTM}
NAMES = ("x", "w_ih", "w_hh", "b_ih", "b_hh", "h0", "c0")
T, N, I, H = 5, 3, 4, 6

names = pytest.mark.parametrize("name", GATES)


def problem(name, dtype=np.float32, T=T, N=N, I=I, H=H, seed=0):
    """Arguments by name, and cotangents by name."""
    rng, G = np.random.default_rng(seed), GATES[name]
    shapes = [(T, N, I), (G * H, I), (G * H, H), (G * H,), (G * H,), (N, H), (N, H)]
    memory = name == "lstm"
    args = {k: rng.standard_normal(s).astype(dtype) for k, s in zip(NAMES, shapes, strict=True) if memory or k != "c0"}
    pulled = {"dy": (T, N, H), "dh_n": (N, H)} | ({"dc_n": (N, H)} if memory else {})
    return args, {k: rng.standard_normal(s).astype(dtype) for k, s in pulled.items()}


def refused(error, *texts):
    """A context in which a call has to fail with a message that holds all texts, the argument's name first."""
    return pytest.raises(error, match=r"(?s)^" + re.escape(texts[0]) + "".join(f"(?=.*{re.escape(t)})" for t in texts[1:]))


# --- functional


def wrong_shapes(name):
    G = GATES[name]
    rows = G * H
    yield "x", (N, I), ("(3, 4)", "(T, N, I)")
    yield "x", (T, N, I, 1), ("(5, 3, 4, 1)", "(T, N, I)")
    yield "w_ih", (rows, I + 1), (f"({rows}, 5)", f"({rows}, 4)")
    yield "w_ih", (rows + 1, I), (f"({rows + 1}, 4)", f"({rows}, 4)")
    yield "w_ih", (I, rows), (f"({I}, {rows})", f"({rows}, {I})")
    yield "w_hh", (rows + 1, H), (f"({rows + 1}, 6)", "H, H)")
    yield "w_hh", (rows,), (f"({rows},)", "H, H)")
    yield "w_hh", (0, 0), ("(0, 0)", "at least 1")
    yield "b_ih", (rows, 1), (f"({rows}, 1)", f"({rows},)")
    yield "b_hh", (H + rows,), (f"({H + rows},)", f"({rows},)")
    yield "h0", (N + 1, H), ("(4, 6)", "(3, 6)")
    yield "h0", (1, N, H), ("(1, 3, 6)", "(3, 6)")
    if name == "lstm":
        yield "c0", (H,), ("(6,)", "(3, 6)")


@names
@pytest.mark.parametrize("suffix", ["", "_forward"])
def test_shapes(name, suffix):
    for which, shape, texts in wrong_shapes(name):
        args, _ = problem(name)
        args[which] = np.zeros(shape, np.float32)
        with refused(ValueError, f"{which}: got shape", *texts):
            getattr(fr, name + suffix)(**args)


@names
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda a: a.astype(np.int64), "int64"),
        (lambda a: a.astype(np.float16), "float16"),
        (lambda a: a.astype(np.longdouble), np.dtype(np.longdouble).name),
        (lambda a: a.astype(complex), "complex128"),
        (lambda a: a > 0, "bool"),
        (lambda a: a.astype(object), "object"),
        (lambda a: a.astype(str), "<U"),
        (lambda a: a.astype("M8[s]"), "datetime64"),
        (lambda a: np.zeros(a.shape, [("re", "f4"), ("im", "f4")]), "re"),
        (np.ma.masked_array, "masked"),
        (lambda a: np.ma.masked_less(a, 0), "masked"),
        (lambda a: None if a.ndim == 1 else object(), "object"),
        (lambda a: [a, a[:1]], "list"),
    ],
    ids=[
        "int",
        "half",
        "longdouble",
        "complex",
        "bool",
        "object",
        "str",
        "time",
        "structured",
        "masked-none",
        "masked-some",
        "thing",
        "ragged-list",
    ],
)
def test_dtypes_and_things(name, change, text):
    for which in problem(name)[0]:
        args, _ = problem(name)
        args[which] = change(args[which])
        if args[which] is None:
            continue
        with refused(TypeError, f"{which}: got", text):
            getattr(fr, name)(**args)


@names
@pytest.mark.parametrize(("dtype", "other"), [("float32", "float64"), ("float64", "float32")])
def test_one_dtype_for_all(name, dtype, other):
    for which in list(problem(name)[0])[1:]:
        args, _ = problem(name, dtype)
        args[which] = args[which].astype(other)
        with refused(TypeError, f"{which}: got dtype {other}, wanted {dtype}"):
            getattr(fr, name)(**args)


@names
def test_required_arguments(name):
    for which in ("x", "w_ih", "w_hh"):
        args, _ = problem(name)
        with refused((TypeError, ValueError), f"{which}: got"):
            getattr(fr, name)(**args | {which: None})


BAD_LENGTHS = [
    (ValueError, [1, 2], "(2,)", "(3,)"),
    (ValueError, [[1, 2, 3]], "(1, 3)", "(3,)"),
    (ValueError, 3, "()", "(3,)"),
    (ValueError, [1, 2, 6], "6", "0 to 5"),
    (ValueError, [-1, 2, 3], "-1", "0 to 5"),
    (ValueError, np.array([1, 2, 2**64 - 1], np.uint64), str(2**64 - 1), "0 to 5"),
    (TypeError, [1.0, 2.0, 3.0], "float64", "integers"),
    (TypeError, [True, False, True], "bool", "integers"),
    (TypeError, ["1", "2", "3"], "<U1", "integers"),
    (TypeError, np.ma.masked_array([1, 2, 3]), "masked", "plain"),
]


@names
@pytest.mark.parametrize(("error", "value", "got", "wanted"), BAD_LENGTHS)
def test_lengths(name, error, value, got, wanted):
    with refused(error, "lengths: got", got, wanted):
        getattr(fr, name)(**problem(name)[0], lengths=value)
    with refused(error, "lengths: got", got, wanted):
        LAYERS[name](I, H)(problem(name)[0]["x"], lengths=value)


@names
@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", ">i4"])
def test_lengths_of_any_integer_type(name, dtype):
    args, _ = problem(name)
    wanted = getattr(fr, name)(**args, lengths=[5, 0, 2])[0]
    np.testing.assert_array_equal(getattr(fr, name)(**args, lengths=np.array([5, 0, 2], dtype))[0], wanted)


@names
@pytest.mark.parametrize("value", [1, "yes", None, np.array([True])])
def test_reverse(name, value):
    with refused(TypeError, "reverse: got", "True or False"):
        getattr(fr, name)(**problem(name)[0], reverse=value)


@pytest.mark.parametrize("value", ["sigmoid", "Tanh", "", None, 1])
def test_nonlinearity(value):
    for call in (fr.rnn, fr.rnn_forward):
        with refused(ValueError, f"nonlinearity: got {value!r}", "'tanh' or 'relu'"):
            call(**problem("rnn")[0], nonlinearity=value)
    with refused(ValueError, f"nonlinearity: got {value!r}", "'tanh' or 'relu'"):
        fr.RNN(I, H, nonlinearity=value)


@names
def test_tape_of_something_else(name):
    tapes = {other: getattr(fr, f"{other}_forward")(**problem(other)[0])[1] for other in GATES}
    wrong = [tape for other, tape in tapes.items() if other != name]
    for tape in (*wrong, None, 3, LAYERS[name](I, H).forward(problem(name)[0]["x"])[1]):
        with refused(TypeError, "tape: got", f"{name}_forward"):
            getattr(fr, f"{name}_backward")(tape)


@names
def test_cotangents(name):
    args, pulled = problem(name)
    tape = getattr(fr, f"{name}_forward")(**args)[1]
    back = getattr(fr, f"{name}_backward")
    for which, value in pulled.items():
        with refused(ValueError, f"{which}: got shape", str(value[:-1].shape), str(value.shape)):
            back(tape, **pulled | {which: value[:-1]})
        with refused(TypeError, f"{which}: got dtype float64, wanted float32"):
            back(tape, **pulled | {which: value.astype(np.float64)})
        with refused(TypeError, f"{which}: got", "masked"):
            back(tape, **pulled | {which: np.ma.masked_array(value)})


@names
def test_missing_cotangent_is_zero(name):
    args, pulled = problem(name)
    tape = getattr(fr, f"{name}_forward")(**args)[1]
    back = getattr(fr, f"{name}_backward")
    for which in pulled:
        zeroed = back(tape, **{k: v if k == which else np.zeros_like(v) for k, v in pulled.items()})
        alone = back(tape, **{which: pulled[which]})
        for key, value in vars(zeroed).items():
            np.testing.assert_array_equal(getattr(alone, key), value)
    assert not any(value.any() for value in vars(back(tape)).values() if value is not None)


# --- layers


@pytest.mark.parametrize("make", LAYERS.values())
@pytest.mark.parametrize("which", ["input_size", "hidden_size", "num_layers"])
def test_sizes(make, which):
    good = {"input_size": I, "hidden_size": H}
    for value in (0, -1):
        with refused(ValueError, f"{which}: got {value}, wanted 1 or more"):
            make(**good | {which: value})
    for value in (1.0, "3", None, True, np.array([3, 4])):
        with refused(TypeError, f"{which}: got", "integer"):
            make(**good | {which: value})
    make(**good | {which: np.int16(2)})


@pytest.mark.parametrize("make", LAYERS.values())
@pytest.mark.parametrize("which", ["bias", "batch_first", "bidirectional"])
def test_flags(make, which):
    for value in (1, "no", None):
        with refused(TypeError, f"{which}: got {value!r}", "True or False"):
            make(I, H, **{which: value})


@pytest.mark.parametrize("make", LAYERS.values())
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), "0.5", None, True])
def test_dropout(make, value):
    with refused((ValueError, TypeError), f"dropout: got {value!r}", "0 to 1"):
        make(I, H, dropout=value)


@pytest.mark.parametrize("make", LAYERS.values())
@pytest.mark.parametrize("value", ["float16", "int32", complex, "nonsense"])
def test_layer_dtype(make, value):
    with refused(TypeError, "dtype: got", "float32 or float64"):
        make(I, H, dtype=value)


def test_projections_are_not_implemented():
    for make in (fr.LSTM, fr.GRU):
        with refused(NotImplementedError, "proj_size: got 2", "wanted 0"):
            make(I, H, proj_size=2)
        with refused(ValueError, "proj_size: got -1"):
            make(I, H, proj_size=-1)


@names
def test_layer_input(name):
    layer = LAYERS[name](I, H)
    for call in (layer, layer.forward, layer.freeze()):
        with refused(ValueError, "x: got shape (5, 3, 5)", "4"):
            call(np.zeros((T, N, I + 1), np.float32))
        with refused(ValueError, "x: got shape (5, 3)", "4"):
            call(np.zeros((T, 3), np.float32))
        with refused(ValueError, "x: got shape (4,)"):
            call(np.zeros(I, np.float32))
        with refused(TypeError, "x: got dtype float64, wanted float32"):
            call(np.zeros((T, N, I)))
        with refused((TypeError, ValueError), "x: got"):
            call([[1.0, 2.0, 3.0, 4.0], [1.0]])
        with refused(TypeError, "x: got"):
            call(None)


@names
def test_layer_state(name):
    layer, x = LAYERS[name](I, H, num_layers=2), problem(name)[0]["x"]
    good, bad = np.zeros((2, N, H), np.float32), np.zeros((1, N, H), np.float32)
    if name != "lstm":
        with refused(ValueError, "state: got shape (1, 3, 6)", "(2, 3, 6)"):
            layer(x, bad)
        return
    with refused(ValueError, "state[0]: got shape (1, 3, 6)", "(2, 3, 6)"):
        layer(x, (bad, good))
    with refused(ValueError, "state[1]: got shape (1, 3, 6)", "(2, 3, 6)"):
        layer(x, (good, bad))
    for value in (good, (good,), (good, good, good)):
        with refused(TypeError, "state: got", "pair (h, c)"):
            layer(x, value)


@names
def test_layer_backward(name):
    layer = LAYERS[name](I, H, bidirectional=True)
    (y, _), tape = layer.forward(problem(name)[0]["x"])
    with refused(ValueError, "dy: got shape (5, 3, 6)", "(5, 3, 12)"):
        layer.backward(tape, y[..., :H])
    with refused(ValueError, "dstate", "got shape (2, 2, 6)", "(2, 3, 6)"):
        layer.backward(tape, None, (np.zeros((2, 2, H), np.float32),) * 2 if name == "lstm" else np.zeros((2, 2, H), "f4"))
    others = [LAYERS[k](I, H, bidirectional=True) for k in LAYERS if k != name] + [LAYERS[name](I, H)]
    others.append(LAYERS[name](I, H, num_layers=2, bidirectional=True))
    functional = getattr(fr, f"{name}_forward")(**problem(name)[0])[1]
    for wrong in (None, functional, *(other.forward(problem(name)[0]["x"])[1] for other in others)):
        with refused(TypeError, "tape: got", "this layer's forward"):
            layer.backward(wrong, y)


def test_tape_of_another_nonlinearity():
    tanh, relu = (fr.RNN(I, H, nonlinearity=n, rng=0) for n in ("tanh", "relu"))
    (y, _), tape = tanh.forward(problem("rnn")[0]["x"])
    with refused(TypeError, "tape: got", "this layer's forward"):
        relu.backward(tape, y)


@names
def test_load_state_dict(name):
    layer = LAYERS[name](I, H, num_layers=2)
    before, good = layer.state_dict(), LAYERS[name](I, H, num_layers=2, rng=1).state_dict()
    short = {k: v for k, v in good.items() if k != "bias_hh_l1"}
    with refused(ValueError, "state: got", "bias_hh_l1", "weight_ih_l0"):
        layer.load_state_dict(short)
    with refused(ValueError, "state: got", "weight_ih_l2"):
        layer.load_state_dict(good | {"weight_ih_l2": good["weight_ih_l1"]})
    # the last of all names, so that everything before it would have been taken
    with refused(ValueError, "bias_hh_l1: got shape (1,)", str(good["bias_hh_l1"].shape)):
        layer.load_state_dict(good | {"bias_hh_l1": np.zeros(1, np.float32)})
    for dtype in (int, complex, bool, object):
        with refused(TypeError, "bias_hh_l1: got dtype", "floating point"):
            layer.load_state_dict(good | {"bias_hh_l1": good["bias_hh_l1"].astype(dtype)})
    with refused(TypeError, "bias_hh_l1: got", "masked"):
        layer.load_state_dict(good | {"bias_hh_l1": np.ma.masked_array(good["bias_hh_l1"])})
    for value in (None, 3, list(good)):
        with refused((TypeError, ValueError), "state: got"):
            layer.load_state_dict(value)
    for key, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


@names
def test_parameters_set_by_hand(name):
    layer = LAYERS[name](I, H)
    layer.params["weight_ih_l0"] = np.zeros((GATES[name] * H, I + 1), np.float32)
    with refused(ValueError, "weight_ih_l0: got shape", f"({GATES[name] * H}, {I})"):
        layer(problem(name)[0]["x"])
    layer.params["weight_ih_l0"] = np.zeros((GATES[name] * H, I))
    with refused(TypeError, "weight_ih_l0: got dtype float64, wanted float32"):
        layer(problem(name)[0]["x"])


# --- streams and threads


@names
def test_stream(name):
    layer = LAYERS[name](I, H, rng=0)
    for error, value in ((ValueError, 0), (TypeError, 1.0), (TypeError, None), (TypeError, True)):
        with refused(error, "batch_size: got"):
            layer.stream(value)
    with refused(ValueError, "stream: got a bidirectional layer"):
        LAYERS[name](I, H, bidirectional=True).stream()
    stream, x_t = layer.stream(N), np.ones((N, I), np.float32)
    stream.step(x_t)
    before = np.array(stream.state)
    for shape in ((N, I + 1), (N + 1, I), (I,), (1, N, I), ()):
        with refused(ValueError, f"x_t: got shape {shape}", "(3, 4)" if len(shape) == 2 else ""):
            stream.step(np.zeros(shape, np.float32))
    for value in (x_t.astype(float), x_t.astype(int), np.ma.masked_array(x_t), x_t.astype(complex)):
        with refused(TypeError, "x_t: got"):
            stream.step(value)
    for out in (np.zeros((N, H)), np.zeros((N, H + 1), np.float32), np.zeros(H, np.float32), [[0.0] * H] * N):
        with refused((ValueError, TypeError), "out: got", "float32 (3, 6)"):
            stream.step(x_t, out=out)
    np.testing.assert_array_equal(np.array(stream.state), before)


@names
def test_stream_refuses_a_read_only_out_before_it_moves_on(name):
    stream = LAYERS[name](I, H, rng=0).stream(N)
    out = np.zeros((N, H), np.float32)
    out.flags.writeable = False
    before = np.array(stream.state)
    with refused(ValueError, "out: got", "read-only"):
        stream.step(np.ones((N, I), np.float32), out=out)
    np.testing.assert_array_equal(np.array(stream.state), before)


@pytest.mark.parametrize("call", [fr.set_num_threads, lambda n: fr.num_threads(n).__enter__()], ids=["set", "with"])
def test_thread_counts(call):
    before = fr.get_num_threads()
    for value in (0, -1, 10**6):
        with refused(ValueError, f"n: got {value}", "integer from 1 to"):
            call(value)
    for value in (1.0, "2", None, True, np.array([1, 2])):
        with refused(TypeError, "n: got", "integer from 1 to"):
            call(value)
    assert fr.get_num_threads() == before


# --- layouts


class OnlyDLPack:
    """What another library's array looks like to NumPy."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


class OnlyArray:
    def __init__(self, array):
        self._array = array

    def __array__(self, dtype=None, copy=None):
        return self._array


def strided(a):
    big = np.full(tuple(2 * n + 1 for n in a.shape), np.nan, a.dtype)
    view = big[tuple(slice(1, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def reversed_axes(a):
    back = (slice(None, None, -1),) * a.ndim
    return np.ascontiguousarray(a[back])[back]


def reversed_first(a):
    return np.ascontiguousarray(a[::-1])[::-1]


def padded_rows(a):
    big = np.full((*a.shape[:-1], a.shape[-1] + 3), np.nan, a.dtype)
    big[..., 1:-2] = a
    return big[..., 1:-2]


def unaligned(a):
    view = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def unaligned_steps(a):
    """Rows that are not a whole number of items apart."""
    kind = np.dtype({"names": ["row"], "formats": [(a.dtype, a.shape[-1:])], "itemsize": a.shape[-1] * a.itemsize + 1})
    view = np.zeros(a.shape[:-1], kind)["row"]
    view[...] = a
    return view


def read_only(a):
    view = a.copy()
    view.flags.writeable = False
    return view


def memory_mapped(a):
    with tempfile.TemporaryFile() as file:
        view = np.memmap(file, a.dtype, "w+", shape=a.shape)
    view[...] = a
    return view


class Subclass(np.ndarray):
    pass


LAYOUTS = {
    "same": lambda a: a,
    "strided": strided,
    "reversed": reversed_axes,
    "reversed-first": reversed_first,
    "fortran": lambda a: np.array(a, order="F"),
    "middle-first": lambda a: np.ascontiguousarray(np.moveaxis(a, 0, -1)).transpose(a.ndim - 1, *range(a.ndim - 1)),
    "padded": padded_rows,
    "read-only": read_only,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "unaligned": unaligned,
    "unaligned-steps": unaligned_steps,
    "memmap": memory_mapped,
    "subclass": lambda a: a.copy().view(Subclass),
    "dlpack": lambda a: OnlyDLPack(a.copy()),
    "__array__": lambda a: OnlyArray(a.copy()),
    "list": lambda a: a.tolist(),
}


def numbers(value):
    """The bytes of whatever array-like, for a comparison."""
    if isinstance(value, OnlyDLPack | OnlyArray):
        value = value._array
    return np.array(value).tobytes()


def both_ways(name, args, cotangents, **options):
    out, tape = getattr(fr, f"{name}_forward")(**args, **options)
    g = getattr(fr, f"{name}_backward")(tape, **cotangents)
    return [a.tobytes() for a in (*out, *vars(g).values()) if a is not None]


@settings(max_examples=120, deadline=None, database=None)
@given(data=st.data())
def test_every_layout_gives_the_same_bits(data):
    name, dtype = data.draw(st.sampled_from(list(GATES))), data.draw(st.sampled_from(["float32", "float64"]))
    # a list has no dtype of its own, NumPy makes it float64
    layouts = [key for key in LAYOUTS if key != "list" or dtype == "float64"]
    sizes = {k: data.draw(st.integers(1, n), label=k) for k, n in (("T", 4), ("N", 5), ("I", 4), ("H", 9))}
    args, cotangents = problem(name, dtype, **sizes)
    options = {"reverse": data.draw(st.booleans(), label="reverse")}
    if data.draw(st.booleans(), label="ragged"):
        options["lengths"] = data.draw(st.lists(st.integers(0, sizes["T"]), min_size=sizes["N"], max_size=sizes["N"]))
    wanted = both_ways(name, args, cotangents, **options)
    given_args = {k: LAYOUTS[data.draw(st.sampled_from(layouts), label=k)](v) for k, v in args.items()}
    given_pull = {k: LAYOUTS[data.draw(st.sampled_from(layouts), label=k)](v) for k, v in cotangents.items()}
    before = [numbers(v) for v in (*given_args.values(), *given_pull.values())]
    assert both_ways(name, given_args, given_pull, **options) == wanted
    assert [numbers(v) for v in (*given_args.values(), *given_pull.values())] == before


@names
@pytest.mark.parametrize("layout", [key for key in LAYOUTS if key != "list"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layout_of_all_arguments_at_once(name, layout, dtype, threads):
    args, cotangents = problem(name, dtype, T=3, N=9, I=5, H=33)
    changed = [{k: LAYOUTS[layout](v) for k, v in group.items()} for group in (args, cotangents)]
    assert both_ways(name, *changed) == both_ways(name, args, cotangents)


@names
@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (0, 2), (0, 1, 2)])
def test_broadcast(name, axes):
    args, cotangents = problem(name)

    def spread(a, along):
        thin = a[tuple(slice(0, 1) if k in along else slice(None) for k in range(a.ndim))]
        return np.broadcast_to(thin, a.shape)

    args = {k: spread(v, [k for k in axes if k < v.ndim] or [0]) for k, v in args.items()}
    cotangents = {k: spread(v, [k for k in axes if k < v.ndim] or [0]) for k, v in cotangents.items()}
    plain = [{k: np.ascontiguousarray(v) for k, v in group.items()} for group in (args, cotangents)]
    assert all(0 in v.strides for v in args.values())
    assert both_ways(name, args, cotangents) == both_ways(name, *plain)


@names
def test_results_share_no_memory_with_arguments(name):
    args, cotangents = problem(name)
    out, tape = getattr(fr, f"{name}_forward")(**args, lengths=[0] * N)  # a state that only passes through
    g = getattr(fr, f"{name}_backward")(tape, **cotangents)
    found = [a for a in (*out, *vars(g).values()) if a is not None]
    for a in found:
        assert a.flags.writeable and not any(np.shares_memory(a, b) for b in (*args.values(), *cotangents.values()))
        assert not any(np.shares_memory(a, b) for b in found if b is not a)


@names
@pytest.mark.parametrize("layout", [key for key in LAYOUTS if key != "list"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_layers_take_every_layout(name, layout, batch_first):
    layer = LAYERS[name](I, H, bidirectional=True, batch_first=batch_first, rng=0)
    x = problem(name)[0]["x"]
    x = x.swapaxes(0, 1).copy() if batch_first else x
    for value in (x, x[0]):  # a batch, and one sequence
        (y, _), tape = layer.forward(value)
        (z, _), other = layer.forward(LAYOUTS[layout](value))
        assert z.tobytes() == y.tobytes()
        assert layer.backward(other, LAYOUTS[layout](y)).x.tobytes() == layer.backward(tape, y).x.tobytes()


@names
@pytest.mark.parametrize("layout", [key for key in LAYOUTS if key != "list"])
def test_streams_take_every_layout(name, layout):
    layer, x_t = LAYERS[name](I, H, rng=0), problem(name)[0]["x"][0]
    for value in (x_t, x_t[0]):
        plain, other = layer.stream(len(value) if value.ndim == 2 else 1), layer.stream(len(value) if value.ndim == 2 else 1)
        for _ in range(2):
            assert other.step(LAYOUTS[layout](value)).tobytes() == plain.step(value).tobytes()


@names
@pytest.mark.parametrize("layout", ["strided", "fortran", "byte-swapped", "unaligned", "read-only", "memmap", "dlpack"])
def test_parameters_of_every_layout(name, layout):
    layer, x = LAYERS[name](I, H, rng=0), problem(name)[0]["x"]
    y = layer(x)[0]
    other = LAYERS[name](I, H, rng=1)
    other.load_state_dict({k: LAYOUTS[layout](v) for k, v in layer.params.items()})
    assert other(x)[0].tobytes() == y.tobytes()
