"""What Seq2Seq and its parts refuse, in errors that name the argument; names, copies and other frameworks' arrays."""

import copy
import pickle
import re

import numpy as np
import pytest

import fastrnn as fr

SOURCE, TARGET, E, H, S, T, N = 9, 8, 4, 6, 5, 3, 2
KW = {"attention": "general", "input_feeding": True, "rng": 0}


def build(**options):
    return fr.Seq2Seq(SOURCE, TARGET, E, H, **KW | options)


def batch():
    rng = np.random.default_rng(0)
    return {"source": rng.integers(0, SOURCE, (S, N)), "target": rng.integers(3, TARGET, (T, N))}


def refused(name, error=ValueError):
    """A context in which a call has to fail with a message that begins with the argument's name."""
    return pytest.raises(error, match=rf"^{re.escape(name)}(?!\w)")


def gradients(model):
    loss, tape = model.forward(**batch())
    g = model.backward(tape)
    return {"loss": loss, "x": g.x} | g.params


def results(model):
    """What a model gives, all kinds of it."""
    found, source = gradients(model), batch()["source"]
    for search in (model.greedy, model.sample, model.beam_search):
        chance = {"rng": 0} if search == model.sample else {}
        found |= {f"{search.__name__}.{k}": v for k, v in vars(search(source, max_length=6, **chance)).items()}
    return found


def same(got, want):
    assert got.keys() == want.keys()
    for key in want:
        np.testing.assert_array_equal(got[key], want[key], key)


# --- building


@pytest.mark.parametrize(("name", "options"), [
    ("kind", {"attention": "multi"}), ("kind", {"attention": True}), ("cell", {"cell": "LSTM"}),
    ("cell", {"decoder_cell": "rnn"}), ("bridge", {"bridge": "sum"}), ("bridge", {"bridge": None}),
    ("hidden_size", {"hidden_size": 7, "bidirectional": True}), ("hidden_size", {"hidden_size": 0}),
    ("num_layers", {"num_layers": 0}), ("size", {"embedding_size": 0}), ("size", {"attention_size": 0}),
    ("num_tokens", {"source_tokens": 0}), ("num_tokens", {"target_tokens": -1}),
    ("tie", {"tie": True, "attention": None}), ("coverage", {"coverage": True, "attention": None}),
    ("share_embeddings", {"share_embeddings": True}), ("label_smoothing", {"label_smoothing": 1}),
    ("label_smoothing", {"label_smoothing": -0.1}), ("label_smoothing", {"label_smoothing": np.nan}),
    ("bos", {"bos": TARGET}), ("eos", {"eos": TARGET}), ("pad", {"pad": -1}), ("eos", {"eos": [1, 2]}),
    ("dropout", {"dropout": 1.5}),
], ids=str)  # fmt: skip
def test_values_of_a_model(name, options):
    sizes = {"source_tokens": SOURCE, "target_tokens": TARGET, "embedding_size": E, "hidden_size": H}
    with refused(name):
        fr.Seq2Seq(**sizes | KW | options)


@pytest.mark.parametrize(("name", "options"), [
    ("bidirectional", {"bidirectional": 1}), ("coverage", {"coverage": "yes"}),
    ("input_feeding", {"input_feeding": None}), ("tie", {"tie": 1}), ("share_embeddings", {"share_embeddings": "no"}),
    ("freeze_embeddings", {"freeze_embeddings": "no"}), ("num_layers", {"num_layers": 1.5}),
    ("hidden_size", {"hidden_size": "6"}), ("num_tokens", {"source_tokens": 9.0}), ("dtype", {"dtype": np.float16}),
    ("dtype", {"dtype": None}), ("eos", {"eos": 2.0}), ("pad", {"pad": None}),
], ids=str)  # fmt: skip
def test_types_of_a_model(name, options):
    sizes = {"source_tokens": SOURCE, "target_tokens": SOURCE, "embedding_size": E, "hidden_size": H}
    with refused(name, (TypeError, ValueError)):
        fr.Seq2Seq(**sizes | KW | options)


@pytest.mark.parametrize(("name", "make"), [
    ("kind", lambda: fr.Attention("luong", 4, 4)), ("memory_size", lambda: fr.Attention("dot", 4, 5)),
    ("memory_size", lambda: fr.Attention("scaled_dot", 4, 5)), ("query_size", lambda: fr.Attention("dot", 0, 5)),
    ("size", lambda: fr.Attention("additive", 4, 5, 0)), ("padding", lambda: fr.Embedding(5, 3, 5)),
    ("num_tokens", lambda: fr.Embedding(0, 3)), ("size", lambda: fr.Embedding(3, 0)),
    ("hidden_size", lambda: fr.Encoder(5, 3, 5, bidirectional=True)), ("cell", lambda: fr.Encoder(5, 3, 4, cell="rnn")),
    ("memory_size", lambda: fr.Decoder(5, 3, 4, attention="dot", memory_size=6)),
    ("tie", lambda: fr.Decoder(5, 3, 4, tie=True)), ("coverage", lambda: fr.Decoder(5, 3, 4, coverage=True)),
    ("embedding", lambda: fr.Encoder(5, 3, 4, embedding=fr.Embedding(5, 4))),
    ("embedding", lambda: fr.Encoder(5, 3, 4, embedding=fr.Embedding(6, 3))),
    ("embedding", lambda: fr.Decoder(5, 3, 4, embedding=fr.Embedding(5, 4))),
    ("embedding", lambda: fr.Decoder(5, 3, 4, embedding=fr.Embedding(4, 3))),
    ("embedding", lambda: fr.Decoder(5, 3, 4, embedding=fr.Embedding(5, 3, dtype=np.float64))),
    ("embedding", lambda: fr.Decoder(5, 3, 4, embedding=np.zeros((5, 3), np.float32))),
], ids=lambda a: a if isinstance(a, str) else "")  # fmt: skip
def test_values_of_parts(name, make):
    with refused(name, (TypeError, ValueError)):
        make()


# --- tokens and lengths

TOKENS = [
    (ValueError, lambda a, size: np.where(np.arange(a.shape[1]) == 1, size, a)), (ValueError, lambda a, size: a - 100),
    (ValueError, lambda a, size: a[0]), (ValueError, lambda a, size: a[:, :, None]),
    (TypeError, lambda a, size: a.astype(float)), (TypeError, lambda a, size: a > 0),
    (TypeError, lambda a, size: a.astype(str)), (TypeError, lambda a, size: None),
    (TypeError, lambda a, size: np.ma.masked_array(a)),
]  # fmt: skip
tokens = pytest.mark.parametrize(
    ("error", "change"), TOKENS, ids=["high", "negative", "row", "deep", "float", "bool", "str", "none", "masked"]
)


def searches(model):
    return model.greedy, model.sample, model.beam_search


@tokens
@pytest.mark.parametrize("which", ["source", "target"])
def test_tokens_of_training(which, error, change):
    args = batch()
    args[which] = change(args[which], {"source": SOURCE, "target": TARGET}[which])
    with refused(which, error):
        build().forward(**args)


@tokens
def test_tokens_of_decoding(error, change):
    for search in searches(build()):
        with refused("source", error):
            search(change(batch()["source"], SOURCE), max_length=3)


@tokens
def test_tokens_of_parts(error, change):
    rng = np.random.default_rng(0)
    tokens = change(rng.integers(0, 5, (S, N)), 5)
    encoder, decoder, embedding = fr.Encoder(5, E, H), fr.Decoder(5, E, H), fr.Embedding(5, E)
    dy = np.zeros((S, N, E), np.float32)
    for call in (encoder, encoder.forward, decoder.forward, embedding, lambda a: embedding.backward(a, dy)):
        with refused("tokens", error):
            call(tokens)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64, ">i4"])
def test_any_integers_are_tokens(dtype):
    model, args = build(), batch()
    same(
        vars(model.beam_search(args["source"].astype(dtype), max_length=4)),
        vars(model.beam_search(args["source"], max_length=4)),
    )
    assert model.forward(args["source"].tolist(), args["target"].astype(dtype))[0] == model.forward(**args)[0]
    assert model.forward(np.asfortranarray(args["source"]), args["target"][:, ::-1][:, ::-1])[0] == model.forward(**args)[0]


def test_a_batch_of_nothing():
    model, args = build(), batch()
    with refused("source"):
        model.forward(args["source"][:, :0], args["target"][:, :0])
    for search in searches(model):
        with refused("source"):
            search(args["source"][:, :0], max_length=3)


def test_source_and_target_have_as_many_rows():
    with refused("target"):
        build().forward(batch()["source"], batch()["target"][:, :1])


@pytest.mark.parametrize(("error", "lengths"), [
    (ValueError, [1, 6]), (ValueError, [-1, 1]), (ValueError, [1]), (ValueError, [1, 1, 1]), (ValueError, 2),
    (TypeError, [1.0, 2.0]), (TypeError, [True, True]),
], ids=["above", "below", "few", "many", "one", "float", "bool"])  # fmt: skip
def test_lengths(error, lengths):
    model, args = build(), batch()
    for which in ("source_lengths", "target_lengths"):
        with refused(which, error):
            model.forward(**args, **{which: lengths})
    for search in searches(model):
        with refused("source_lengths", error):
            search(args["source"], lengths, max_length=3)
    memory = np.zeros((S, N, H), np.float32)
    with refused("lengths", error):
        fr.Encoder(SOURCE, E, H)(args["source"], lengths)
    with refused("lengths", error):
        fr.Attention("dot", H, H)(memory, memory, lengths)
    with refused("memory_lengths", error):
        fr.Decoder(SOURCE, E, H, attention="dot").forward(args["source"], None, memory, memory_lengths=lengths)


# --- training


@pytest.mark.parametrize(("error", "own"), [
    (ValueError, np.zeros((T, N + 1), bool)), (ValueError, np.zeros(T, bool)), (ValueError, np.zeros((T - 1, N), bool)),
    (ValueError, 1.5), (ValueError, -0.1), (ValueError, np.nan), ((TypeError, ValueError), np.zeros((T, N))),
    ((TypeError, ValueError), np.zeros((T, N), int)),
], ids=lambda a: str(getattr(a, "shape", a)))  # fmt: skip
def test_own(error, own):
    with refused("own", error):
        build().forward(**batch(), own=own)


def test_tapes():
    model, other = build(), fr.GRU(3, 4)
    _, wrong = other.forward(np.zeros((2, 1, 3), np.float32))
    encoder, decoder, attention = model.encoder, model.decoder, model.decoder.attention
    zeros = np.zeros((T, N, TARGET), np.float32)
    for call in (
        model.backward,
        encoder.backward,
        lambda t: decoder.backward(t, zeros),
        lambda t: attention.backward(t, zeros),
    ):
        for tape in (wrong, None):
            with refused("tape", TypeError):
                call(tape)


@pytest.mark.parametrize("change", [lambda a: a[:, :, :-1], lambda a: a[:-1], lambda a: a[0], lambda a: a.astype(float)])
def test_pulled_back(change):
    decoder, attention = build().decoder, build().decoder.attention
    (logits, _), tape = decoder.forward(batch()["target"], None, np.zeros((S, N, H), np.float32))
    with refused("d_logits", (TypeError, ValueError)):
        decoder.backward(tape, change(logits))
    rows = np.zeros((S, N, H), np.float32)
    (context, _), tape = attention.forward(rows, rows)
    with refused("d_context", (TypeError, ValueError)):
        attention.backward(tape, change(context))
    with refused("dy", (TypeError, ValueError)):
        decoder.embedding.backward(batch()["target"], change(np.zeros((T, N, E), np.float32)))


def test_arrays_of_a_decoder():
    target, memory = batch()["target"], np.zeros((S, N, H), np.float32)
    decoder, state = build(num_layers=2).decoder, np.zeros((2, N, H), np.float32)
    for wrong in (state, (state,), (state, state, state), (state[:1], state), (state, state[:, :1])):
        with refused("state"):
            decoder.forward(target, wrong, memory)
    with refused("state[1]", TypeError):
        decoder.forward(target, (state, state.astype(float)), memory)
    for wrong in (memory[:, :1], memory[:, :, :-1], memory[0]):
        with refused("memory"):
            decoder.forward(target, None, wrong)
    with refused("memory", TypeError):
        decoder.forward(target, None, None)
    attention = fr.Attention("general", H, H)
    for query, wrong in ((memory, memory[:, :1]), (memory, memory[:, :, :-1]), (memory, memory.astype(float))):
        with refused("memory", (TypeError, ValueError)):
            attention(query, wrong)
    with refused("query"):
        attention(memory[:, :, 1:], memory)


# --- decoding


@pytest.mark.parametrize(("name", "error", "how"), [
    ("max_length", ValueError, {"max_length": 0}), ("max_length", TypeError, {"max_length": 2.5}),
    ("min_length", ValueError, {"min_length": -1}), ("ngram", ValueError, {"ngram": -1}),
    ("banned", ValueError, {"banned": [TARGET]}), ("banned", ValueError, {"banned": [-1]}),
    ("banned", TypeError, {"banned": [1.5]}), ("banned", ValueError, {"banned": 3}),
    ("prefix", ValueError, {"prefix": np.full((1, N), TARGET)}), ("prefix", ValueError, {"prefix": np.full((1, N), -1)}),
    ("prefix", ValueError, {"prefix": np.full((1, N + 1), 3)}), ("prefix", ValueError, {"prefix": np.full(N, 3)}),
    ("prefix", TypeError, {"prefix": np.full((1, N), 3.0)}),
], ids=str)  # fmt: skip
def test_rules(name, error, how):
    for search in searches(build()):
        with refused(name, error):
            search(batch()["source"], **{"max_length": 3} | how)


@pytest.mark.parametrize(("name", "error", "how"), [
    ("temperature", ValueError, {"temperature": 0}), ("temperature", ValueError, {"temperature": -1.0}),
    ("temperature", ValueError, {"temperature": np.nan}), ("top_p", ValueError, {"top_p": 0}),
    ("top_p", ValueError, {"top_p": 1.1}), ("top_p", ValueError, {"top_p": np.nan}), ("top_k", ValueError, {"top_k": -1}),
    ("top_k", TypeError, {"top_k": 2.0}),
], ids=str)  # fmt: skip
def test_sample(name, error, how):
    with refused(name, error):
        build().sample(batch()["source"], max_length=3, **how)


@pytest.mark.parametrize(("name", "error", "how"), [
    ("beam_size", ValueError, {"beam_size": TARGET + 1}), ("beam_size", ValueError, {"beam_size": 0}),
    ("beam_size", TypeError, {"beam_size": 2.0}), ("n_best", ValueError, {"n_best": 3, "beam_size": 2}),
    ("n_best", ValueError, {"n_best": 0}), ("length_penalty", ValueError, {"length_penalty": "wu"}),
    ("length_penalty", ValueError, {"length_penalty": None}), ("coverage_penalty", ValueError, {"coverage_penalty": -0.1}),
    ("coverage_penalty", ValueError, {"coverage_penalty": np.nan}), ("early_stop", TypeError, {"early_stop": 1}),
], ids=str)  # fmt: skip
def test_beam_search(name, error, how):
    with refused(name, error):
        build().beam_search(batch()["source"], max_length=3, **how)


def test_a_coverage_penalty_is_of_attention():
    with refused("coverage_penalty"):
        build(attention=None).beam_search(batch()["source"], coverage_penalty=0.1)


# --- parameters

OPTIONS = [
    {},
    {"bridge": "tanh", "cell": "gru", "tie": True, "bidirectional": True, "coverage": True, "attention": "concat"},
    {"share_embeddings": True, "tie": True, "target_tokens": SOURCE},
    {"attention": None, "num_layers": 2},
]
options = pytest.mark.parametrize("options", OPTIONS, ids=["plain", "tied", "shared", "stack"])


def model_of(options, seed=0, dtype=np.float32):
    options = KW | {"rng": seed, "dtype": dtype} | options
    return fr.Seq2Seq(SOURCE, options.pop("target_tokens", TARGET), E, H, **options)


@options
def test_state_dict(options):
    model, other = model_of(options), model_of(options, seed=1)
    state, wanted = model.state_dict(), results(model)
    assert list(state) == list(model.params) and all(state[k].dtype == np.float32 for k in state)
    other.load_state_dict(state)
    same(results(other), wanted)
    for value in state.values():
        value[...] = 0  # copies
    same(results(other), wanted)
    same(results(model), wanted)
    double = model_of(options, dtype=np.float64)
    double.load_state_dict(model.state_dict())
    same(double.state_dict(), {k: v.astype(float) for k, v in model.params.items()})


@options
def test_gradients_have_the_names_and_shapes_of_parameters(options):
    model = model_of(options)
    loss, tape = model.forward(**batch())
    g = model.backward(tape)
    assert isinstance(loss, float) and g.x.shape == (S, N, E) and g.x.dtype == np.float32
    assert list(g.params) == list(model.params)
    assert all(g.params[k].shape == v.shape and g.params[k].dtype == v.dtype for k, v in model.params.items())


def wrong_states(state):
    first = next(iter(state))
    rest = {k: v for k, v in state.items() if k != first}
    yield ValueError, "state", rest
    yield ValueError, "state", state | {"decoder.other": state[first]}
    yield ValueError, "state", rest | {"encoder": state[first]}
    yield ValueError, first, state | {first: state[first][:-1]}
    yield TypeError, first, state | {first: state[first].astype(int)}
    yield TypeError, "state", list(state.items())


@options
def test_load_state_dict_refuses(options):
    model = model_of(options)
    for error, name, wrong in wrong_states(model_of(options, seed=1).state_dict()):
        # a part's own name for a parameter is enough
        with pytest.raises(error, match=name):
            model.load_state_dict(wrong)
    same(model.state_dict(), model_of(options).state_dict())  # nothing was changed


def test_parameters_by_name():
    model = build()
    for name in ("decoder.other", "other.weight", "decoder", "bridge.h.weight"):
        with pytest.raises(KeyError):
            model.params[name]
        with pytest.raises(KeyError):
            model.params[name] = np.zeros(1)
        assert name not in model.params
    with pytest.raises(TypeError):
        del model.params["decoder.output.bias"]
    assert len(model.params) == len(list(model.params)) and "decoder.output.bias: (8,)" in repr(model.params)


@pytest.mark.parametrize(
    "part", ["encoder.embedding", "encoder.rnn", "decoder.attention", "decoder.combine", "decoder.output"]
)
def test_a_parameter_of_a_wrong_shape_or_dtype(part):
    for change in (lambda a: a[..., :-1], lambda a: a.astype(float), lambda a: a[None]):
        model = build()
        name = next(name for name in model.params if name.startswith(part))
        model.params[name] = change(model.params[name])
        with refused(name.removeprefix(f"{part}."), (TypeError, ValueError)):
            model.forward(**batch())


@options
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"])
def test_copies(options, copied):
    model = model_of(options)
    before = copied(model)
    wanted = results(model)
    after = copied(model)
    for other in (before, after):
        same(results(other), wanted)
        for value in other.params.values():
            value[...] *= 1.5  # what was shared still is, and nothing with the first
    same(results(before), results(after))
    same(results(model), wanted)
    fresh = model_of(options, seed=1)
    fresh.load_state_dict(before.state_dict())
    same(results(fresh), results(before))


@pytest.mark.parametrize("options", [OPTIONS[1], OPTIONS[2]], ids=["tied", "shared"])
def test_one_table_has_one_name(options):
    model, plain = model_of(options), build()
    assert "decoder.output.weight" not in model.params and "decoder.output.weight" in plain.params
    assert ("decoder.embedding.weight" in model.params) != ("share_embeddings" in options)
    name = "encoder.embedding.weight" if "share_embeddings" in options else "decoder.embedding.weight"
    before = gradients(model)["loss"]
    model.params[name] = model.params[name] * 2  # another array
    doubled = gradients(model)["loss"]
    assert before != doubled
    other = model_of(options)
    other.params[name] *= 2
    assert gradients(other)["loss"] == doubled


# --- other frameworks


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    model, args = build(), batch()
    tensors = {name: torch.from_numpy(value) for name, value in args.items()}
    lengths = [3, 5]
    assert (
        model.forward(**tensors, source_lengths=torch.tensor(lengths))[0] == model.forward(**args, source_lengths=lengths)[0]
    )
    for search in searches(model):
        chance = {"rng": 0} if search == model.sample else {}
        got, want = (vars(search(a["source"], max_length=4, **chance)) for a in (tensors, args))
        same(got, want)
    other = build(rng=1)
    other.load_state_dict({name: torch.from_numpy(value).requires_grad_() for name, value in model.params.items()})
    same(results(other), results(model))
