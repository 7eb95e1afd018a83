"""Training of Seq2Seq and its parts beside PyTorch: loss, every gradient, every option."""

import numpy as np
import pytest

import fastrnn as fr
from fastrnn.cells import REGISTRY
from fastrnn.seq2seq.attention import KINDS
from tests import peer_seq2seq as peers
from tests.helpers import CENTRAL_DIFFERENCE, PEER_FLOOR, PEER_RATIO, SEQ2SEQ_FLOAT64, rms
from tests.peer_seq2seq import run_torch, tensor, torch

SOURCE, TARGET, S, T, N, E, H = 11, 9, 7, 5, 4, 5, 6
SUMMED = ("additive", "concat")


def build(dtype=np.float64, seed=0, sizes=(SOURCE, TARGET, E, H), **options):
    return fr.Seq2Seq(*sizes, dtype=dtype, rng=seed, **options)


def batch(seed=0, ragged=True, S=S, T=T, N=N, vocabularies=(SOURCE, TARGET)):
    """source, target, source_lengths, target_lengths, both unsorted."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocabularies[0], (S, N)), rng.integers(0, vocabularies[1], (T, N))
    if not ragged:
        return *tokens, None, np.full(N, T)
    lengths = rng.integers(1, S + 1, N), rng.integers(0, T + 1, N)
    lengths[0][:2] = 2, S
    lengths[1][:2] = 1, T
    return *tokens, *lengths


def run(model, *args, **kwargs):
    loss, tape = model.forward(*args, **kwargs)
    g = model.backward(tape)
    return {"loss": np.asarray(loss), "x": g.x} | g.params


def agree(got, want, tolerance=SEQ2SEQ_FLOAT64):
    assert got.keys() == want.keys()
    for key in want:
        assert rms(got[key], want[key]) < tolerance, key


def same(got, want):
    assert got.keys() == want.keys()
    for key in want:
        np.testing.assert_array_equal(got[key], want[key], key)


# --- options beside PyTorch

ATTENDING = {"attention": "general", "input_feeding": True}
OPTIONS = (
    [{"attention": kind, "input_feeding": feeding} for kind in (None, *KINDS) for feeding in (False, True)]
    + [{"attention": kind, "coverage": True, "input_feeding": True} for kind in KINDS]
    + [{"attention": kind, "coverage": True, "attention_size": 9} for kind in SUMMED]
    + [{"cell": cell, "num_layers": 2} | more for cell in REGISTRY for more in ({}, ATTENDING)]
    + [{"cell": a, "decoder_cell": b, "bridge": bridge} | ATTENDING
       for a, b in (("gru", "lstm"), ("lstm", "gru"), ("rnn_tanh", "lstm"), ("lstm", "rnn_relu"), ("gru", "rnn_tanh"))
       for bridge in ("copy", "linear")]
    + [{"bidirectional": True, "num_layers": L, "cell": cell} | ATTENDING for cell in ("lstm", "gru") for L in (1, 2)]
    + [{"bridge": bridge, "cell": cell, "num_layers": 2}
       for bridge in ("linear", "tanh", "relu") for cell in ("lstm", "gru")]
    + [{"tie": True} | ATTENDING, {"tie": True, "attention": "additive"}, {"tie": True, "sizes": (SOURCE, TARGET, H, H)},
       {"tie": True, "input_feeding": True, "sizes": (SOURCE, TARGET, H, H)}]
    + [{"share_embeddings": True, "tie": tie, "sizes": (SOURCE, SOURCE, E, H)} | ATTENDING for tie in (False, True)]
    + [{"label_smoothing": 0.1}, {"label_smoothing": 0.9, "tie": True} | ATTENDING]
    + [{"bos": 4, "pad": 3, "eos": 0}]
)  # fmt: skip


def named(options):
    return "-".join(str(v) if isinstance(v, str | tuple) else f"{k}={v}" for k, v in options.items())


@pytest.mark.parametrize("options", OPTIONS, ids=named)
def test_float64(options):
    model = build(**options)
    for ragged in (False, True):
        args = batch(ragged=ragged, vocabularies=(SOURCE, model.decoder.embedding.num_tokens))
        agree(run(model, *args), run_torch(model, *args))


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (3, 17, 2, 9, 18), (2, 1, 3, 33, 35), (9, 13, 12, 40, 66)],
                         ids=lambda s: "S{}-N{}-T{}-E{}-H{}".format(*s))  # fmt: skip
@pytest.mark.parametrize("attention", [None, *KINDS])
def test_sizes(sizes, attention, threads):
    S, N, T, E, H = sizes
    model = build(sizes=(37, 41, E, H), attention=attention, coverage=attention in SUMMED, input_feeding=True, num_layers=2)
    args = batch(1, S=S, T=T, N=max(N, 2), vocabularies=(37, 41))
    args = tuple(a[..., -N:] for a in args)
    agree(run(model, *args), run_torch(model, *args))


def test_a_target_ends_before_its_first_pad_by_default():
    model, (source, target, lengths, ends) = build(**ATTENDING), batch()
    target = np.where(np.arange(T)[:, None] < ends, np.maximum(target, 1), model.pad)
    got = run(model, source, target, lengths)
    agree(got, run_torch(model, source, target, lengths))
    same(got, run(model, source, target, lengths, ends))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_a_batch_of_nothing_but_padding_has_no_loss(smoothing):
    model, (source, target, *_) = build(label_smoothing=smoothing), batch()
    found = run(model, source, target, None, np.zeros(N, int))
    assert not any(np.any(value) for value in found.values())


def test_rows_add_up():
    model, (source, target, lengths, ends) = build(**ATTENDING), batch()
    whole = run(model, source, target, lengths, ends)
    alone = [run(model, *(a[..., n : n + 1] for a in (source, target, lengths, ends))) for n in range(N)]
    for key in whole.keys() - {"x"}:
        summed = sum(n * one[key] for n, one in zip(ends, alone, strict=True)) / ends.sum()
        assert rms(whole[key], summed) < SEQ2SEQ_FLOAT64, key


def test_what_follows_a_rows_end_is_of_no_matter():
    model, (source, target, lengths, ends) = build(**ATTENDING), batch()
    wanted = run(model, source, target, lengths, ends)
    source = np.where(np.arange(S)[:, None] < lengths, source, 0)
    target = np.where(np.arange(T)[:, None] < ends, target, 0)
    agree(run(model, source, target, lengths, ends), wanted)


@pytest.mark.parametrize("attention", [None, *KINDS])
def test_a_source_of_length_zero(attention):
    model, (source, target, lengths, ends) = build(attention=attention, input_feeding=True), batch()
    lengths[2] = 0
    found = run(model, source, target, lengths, ends)
    assert all(np.isfinite(value).all() for value in found.values()) and not found["x"][:, 2].any()


@pytest.mark.parametrize("options", [{}, {"tie": True} | ATTENDING, {"share_embeddings": True, "tie": True} | ATTENDING],
                         ids=named)  # fmt: skip
def test_frozen_embeddings_have_no_gradient(options):
    sizes = (SOURCE, SOURCE, H, H)
    model, free = (build(freeze_embeddings=freeze, sizes=sizes, **options) for freeze in (True, False))
    args = batch()
    got, want = run(model, *args), run_torch(model, *args)
    assert {key for key in want if key.endswith("embedding.weight")} == want.keys() - got.keys()
    agree(got, {key: want[key] for key in got})
    agree(got, {key: value for key, value in run(free, *args).items() if key in got})


def test_d_loss_scales():
    model, args = build(**ATTENDING), batch()
    wanted = run(model, *args)
    g = model.backward(model.forward(*args)[1], -2.0)
    agree(g.params, {name: -2 * wanted[name] for name in g.params})


# --- scheduled sampling

CHOOSING = [{}, {"attention": "concat", "coverage": True, "input_feeding": True},
            {"tie": True, "label_smoothing": 0.1, "cell": "gru"} | ATTENDING]  # fmt: skip


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("options", CHOOSING, ids=named)
def test_own_choices(options, share):
    model, args = build(**options), batch()
    own = np.random.default_rng(5).random((T, N)) < share
    got = run(model, *args, own=own)
    agree(got, run_torch(model, *args, own=own))
    assert rms(got["loss"], run(model, *args)["loss"]) > SEQ2SEQ_FLOAT64  # other tokens went in


def test_own_choices_by_chance():
    model, args = build(**ATTENDING), batch()
    once = run(model, *args, own=0.5, rng=3)
    same(run(model, *args, own=0.5, rng=3), once)
    same(run(model, *args, own=0.5, rng=np.random.default_rng(3)), once)
    assert len({float(run(model, *args, own=0.5, rng=seed)["loss"]) for seed in range(8)}) > 1
    agree(run(model, *args, own=0.0), run(model, *args))
    agree(run(model, *args, own=1.0), run(model, *args, own=np.ones((T, N), bool)))


def test_a_first_step_has_no_choice_before_it():
    model, args, own = build(**ATTENDING), batch(), np.zeros((T, N), bool)
    own[0] = True
    same(run(model, *args, own=own), run(model, *args))


# --- single precision

SINGLE = [
    {"attention": None, "cell": "gru"},
    *({"attention": kind, "coverage": kind != "scaled_dot", "input_feeding": True} for kind in KINDS),
    {"tie": True, "bidirectional": True, "bridge": "tanh", "label_smoothing": 0.1, "attention": "general"},
]


@pytest.mark.parametrize("options", SINGLE, ids=named)
def test_float32_error_is_no_worse_than_pytorchs(options, threads):
    # of a few numbers an error says nothing: many small problems are taken together
    runs = []
    for seed in range(16):
        model, args = build(np.float32, seed, sizes=(SOURCE, TARGET, 8, 20), **options), batch(seed)
        runs.append((run(model, *args), run_torch(model, *args), run_torch(model, *args, dtype=np.float64)))
    for key in runs[0][0]:
        ours, theirs, truth = (np.stack([one[k][key] for one in runs]) for k in range(3))
        assert rms(ours, truth) <= max(PEER_RATIO * rms(theirs, truth), PEER_FLOOR), key


# --- tapes

EVERYTHING = {"attention": "concat", "coverage": True, "input_feeding": True, "bridge": "tanh", "num_layers": 2,
              "bidirectional": True, "cell": "lstm"}  # fmt: skip
TAPES = [
    EVERYTHING,
    EVERYTHING | {"attention": "dot", "tie": True, "cell": "gru"},
    EVERYTHING | {"attention": "additive", "bridge": "copy"},
    {"attention": "general"},
    {"bridge": "linear"},
]


@pytest.mark.parametrize("options", TAPES, ids=named)
def test_a_tape_can_be_used_twice(options):
    model, args = build(**options), batch()
    _, tape = model.forward(*args)
    first, other = model.backward(tape), model.forward(*batch(1))[1]
    model.backward(other)
    second = model.backward(tape)
    same({"x": second.x} | second.params, {"x": first.x} | first.params)


@pytest.mark.parametrize("options", TAPES, ids=named)
def test_a_tape_owns_its_memory(options):
    args = batch()
    wanted = run(build(**options), *args)
    model = build(**options)
    _, tape = model.forward(*args)
    for value in model.params.values():
        value[...] = np.nan
    for a in args:
        a[...] = 1
    g = model.backward(tape)
    same({"x": g.x} | g.params, {key: value for key, value in wanted.items() if key != "loss"})


@pytest.mark.parametrize("options", TAPES, ids=named)
def test_gradients_are_arrays_of_their_own(options):
    model, args = build(**options), batch()
    _, tape = model.forward(*args)
    first = model.backward(tape)
    wanted = {name: value.copy() for name, value in first.params.items()}
    for value in (first.x, *first.params.values()):
        value[...] = np.nan
    same(model.backward(tape).params, wanted)


def test_dropout_is_of_the_rng():
    model, args = build(dropout=0.5, num_layers=3, **ATTENDING), batch()
    once = run(model, *args, rng=1)
    same(run(model, *args, rng=1), once)
    assert run(model, *args, rng=2)["loss"] != once["loss"]
    model.encoder.rnn.dropout = 0.0
    plain = build(num_layers=3, **ATTENDING)
    plain.load_state_dict(model.state_dict())
    agree(run(model, *args), run(plain, *args))


# --- attention alone


def attention_problem(kind, seed=0, lengths=(2, 7, 1, 5), sizes=(3, 4), **options):
    rng, (T, N) = np.random.default_rng(seed), sizes
    M = H if kind in ("dot", "scaled_dot") else 8
    ours = fr.Attention(kind, H, M, dtype=np.float64, rng=seed, **options)
    query, memory, pulled = rng.normal(size=(T, N, H)), rng.normal(size=(S, N, M)), rng.normal(size=(T, N, M))
    return ours, query, memory, None if lengths is None else np.array(lengths), pulled


def attended(ours, query, memory, lengths, pulled):
    (context, weights), tape = ours.forward(query, memory, lengths)
    g = ours.backward(tape, pulled)
    return {"context": context, "weights": weights, "d_query": g.query, "d_memory": g.memory} | g.params


def attended_by_torch(ours, query, memory, lengths, pulled):
    peer = peers.load(peers.Attention(ours), ours)
    query, memory = (tensor(a).requires_grad_() for a in (query, memory))
    context, weights = peer.steps(query, memory, None if lengths is None else tensor(lengths))
    context.backward(tensor(pulled))
    found = {"context": context.detach(), "weights": weights.detach(), "d_query": query.grad, "d_memory": memory.grad}
    return {key: value.numpy() for key, value in found.items()} | peers.gradients(peer)


@pytest.mark.parametrize("coverage", [False, True], ids=["plain", "coverage"])
@pytest.mark.parametrize("lengths", [None, (2, 7, 1, 5)], ids=["dense", "ragged"])
@pytest.mark.parametrize("kind", KINDS)
def test_attention(kind, lengths, coverage):
    problem = attention_problem(kind, lengths=lengths, coverage=coverage)
    found = attended(*problem)
    agree(found, attended_by_torch(*problem))
    ours, query, memory, lengths, _ = problem
    context, weights = ours(query, memory, lengths)
    agree({"context": context, "weights": weights}, {key: found[key] for key in ("context", "weights")})


@pytest.mark.parametrize("kind", SUMMED)
def test_attention_size(kind):
    problem = attention_problem(kind, size=19)
    agree(attended(*problem), attended_by_torch(*problem))


@pytest.mark.parametrize("coverage", [False, True], ids=["plain", "coverage"])
@pytest.mark.parametrize("kind", KINDS)
def test_attention_to_nothing_is_zero(kind, coverage):
    ours, query, memory, lengths, pulled = attention_problem(kind, lengths=(2, 0, 1, 5), coverage=coverage)
    found, rest = attended(ours, query, memory, lengths, pulled), [0, 2, 3]
    for key in ("context", "weights", "d_query", "d_memory"):
        assert not found[key][:, 1].any(), key
        found[key] = found[key][:, rest]
    agree(found, attended_by_torch(ours, query[:, rest], memory[:, rest], lengths[rest], pulled[:, rest]))


def test_attention_to_nothing_at_all():
    ours, query, memory, _, pulled = attention_problem("additive", coverage=True)
    found = attended(ours, query, memory[:0], None, pulled)
    assert found["weights"].shape == (3, 4, 0) and not any(value.any() for value in found.values())


@pytest.mark.parametrize("kind", KINDS)
def test_scores_too_large_for_exp(kind):
    ours, query, memory, lengths, pulled = attention_problem(kind)
    for value in ours.params.values():
        value[...] *= 500
    problem = ours, 500 * query, memory, lengths, pulled
    found, want = attended(*problem), attended_by_torch(*problem)
    for key in ("context", "weights"):
        assert rms(found[key], want[key]) < SEQ2SEQ_FLOAT64, key
    assert all(np.isfinite(value).all() for value in found.values())


@pytest.mark.parametrize("coverage", [False, True], ids=["plain", "coverage"])
@pytest.mark.parametrize("kind", KINDS)
def test_attentions_tape(kind, coverage):
    wanted = attended(*attention_problem(kind, coverage=coverage))
    ours, query, memory, lengths, pulled = attention_problem(kind, coverage=coverage)
    (context, weights), tape = ours.forward(query, memory, lengths)
    for value in (query, memory, context, weights, *ours.params.values()):
        value[...] = np.nan
    lengths[...] = 1
    for _ in range(2):
        g = ours.backward(tape, pulled)
        found = {"d_query": g.query, "d_memory": g.memory} | g.params
        same(found, {key: wanted[key] for key in found})
    assert tape.nbytes > 0


# --- the other parts


@pytest.mark.parametrize("padding", [None, 2])
def test_embedding(padding):
    ours = fr.Embedding(SOURCE, E, padding, dtype=np.float64, rng=0)
    peer = peers.load(torch.nn.Embedding(SOURCE, E, padding), ours)
    rng = np.random.default_rng(0)
    tokens, dy = rng.integers(0, 4, (S, N)), rng.normal(size=(S, N, E))
    want = peer(tensor(tokens))
    want.backward(tensor(dy))
    got = ours(tokens)
    np.testing.assert_array_equal(got, want.detach().numpy())
    agree(ours.backward(tokens, dy), {"weight": peer.weight.grad.numpy()})
    if padding is not None:
        assert not got[tokens == padding].any() and not ours.backward(tokens, dy)["weight"][padding].any()


ENCODERS = [{}, {"cell": "gru", "bidirectional": True}, {"num_layers": 2, "bidirectional": True}, {"cell": "rnn_relu"}]


@pytest.mark.parametrize("options", ENCODERS, ids=named)
@pytest.mark.parametrize("pulled", ["memory", "state", "both"])
def test_encoder(options, pulled):
    source, _, lengths, _ = batch()
    ours = fr.Encoder(SOURCE, E, H, dtype=np.float64, rng=0, **options)
    peer = peers.load(peers.Encoder(ours), ours)
    (memory, state), tape = ours.forward(source, lengths)
    x, want_memory, want_state = peer(tensor(source), tensor(lengths))
    x.retain_grad()
    called_memory, called_state = ours(source, lengths)
    wanted = (want_memory, *want_state)
    for a, b, c in zip((memory, *state), wanted, (called_memory, *called_state), strict=True):
        assert rms(a, b.detach().numpy()) < SEQ2SEQ_FLOAT64 and rms(c, a) < SEQ2SEQ_FLOAT64
    rng = np.random.default_rng(0)
    d_memory, *d_state = (rng.normal(size=a.shape) for a in (memory, *state))
    first, last = (0 if pulled != "state" else 1), (None if pulled != "memory" else 1)
    torch.autograd.backward(wanted[first:last], [tensor(d) for d in (d_memory, *d_state)[first:last]])
    for value in (memory, *state, source, lengths, *ours.params.values()):
        value[...] = 1
    for _ in range(2):
        g = ours.backward(tape, d_memory if first == 0 else None, d_state if last is None else None)
        found = {name: p.grad for name, p in peer.named_parameters()}
        found = {name: np.zeros(g.params[name].shape) if d is None else d.numpy() for name, d in found.items()}
        agree({"x": g.x} | g.params, {"x": x.grad.numpy()} | found)


DECODERS = [{}, {"cell": "gru", "attention": "dot"}, ATTENDING | {"memory_size": 9, "num_layers": 2},
            {"attention": "concat", "coverage": True, "tie": True, "memory_size": 3, "input_feeding": True}]  # fmt: skip


@pytest.mark.parametrize("options", DECODERS, ids=named)
@pytest.mark.parametrize("start", [True, False], ids=["state", "zeros"])
def test_decoder(options, start):
    _, tokens, lengths, _ = batch()
    rng = np.random.default_rng(0)
    ours = fr.Decoder(TARGET, E, H, dtype=np.float64, rng=0, **options)
    peer = peers.load(peers.Decoder(ours), ours)
    draw = rng.standard_normal if start else np.zeros
    state = [draw((ours.rnn.num_layers, N, H)) for _ in range(2 if ours.rnn._cell == "lstm" else 1)]
    memory = rng.normal(size=(S, N, ours.memory_size)) if ours.attention else None
    extra = {} if memory is None else {"memory": memory, "memory_lengths": lengths}
    (logits, weights), tape = ours.forward(tokens, tuple(state) if start else None, **extra)

    leaves = [tensor(s).requires_grad_() for s in state]
    held = None if memory is None else tensor(memory).requires_grad_()
    of_peer = tuple(leaves) if len(leaves) > 1 else leaves[0]
    want, want_weights = peer(tensor(tokens), of_peer, held, None if held is None else tensor(lengths))
    assert rms(logits, want.detach().numpy()) < SEQ2SEQ_FLOAT64
    assert (weights is None) == (memory is None)
    assert memory is None or rms(weights, want_weights.detach().numpy()) < SEQ2SEQ_FLOAT64
    d_logits = rng.normal(size=logits.shape)
    want.backward(tensor(d_logits))
    for value in (logits, tokens, *state, *extra.values(), *ours.params.values(), *(() if memory is None else (weights,))):
        value[...] = 1
    for _ in range(2):
        g = ours.backward(tape, d_logits)
        agree(g.params, peers.gradients(peer))
        assert len(g.state) == len(state) and (g.memory is None) == (memory is None)
        for a, b in zip(g.state, leaves, strict=True):
            assert rms(a, b.grad.numpy()) < SEQ2SEQ_FLOAT64
        assert memory is None or rms(g.memory, held.grad.numpy()) < SEQ2SEQ_FLOAT64


def test_training_lowers_the_loss():
    model, rng = build(np.float32, sizes=(8, 8, 8, 16), **ATTENDING), np.random.default_rng(0)
    source = rng.integers(3, 8, (3, 32))
    target = np.concatenate([source[::-1], np.full((1, 32), model.eos)])
    losses = []
    for _ in range(100):
        loss, tape = model.forward(source, target)
        losses.append(loss)
        for name, gradient in model.backward(tape).params.items():
            model.params[name] -= np.float32(2) * gradient
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_the_weights(kind):
    """A pointer's loss is one of the weights; central differences in double precision."""
    rng, (T, N, S, Q, M) = np.random.default_rng(3), (3, 2, 5, 6, 6)
    attention = fr.Attention(kind, Q, M, 4, coverage=True, dtype=np.float64, rng=3)
    query, memory = rng.normal(size=(T, N, Q)), rng.normal(size=(S, N, M))
    d_weights, d_context = rng.normal(size=(T, N, S)), rng.normal(size=(T, N, M))

    def scalar():
        context, weights = attention(query, memory, [5, 3])
        return (weights * d_weights).sum() + (context * d_context).sum()

    grads = attention.backward(attention.forward(query, memory, [5, 3])[1], d_context, d_weights)
    of_params = [(attention.params[name], gradient) for name, gradient in grads.params.items()]
    for array, gradient in ((query, grads.query), (memory, grads.memory), *of_params):
        at = tuple(rng.integers(0, n) for n in array.shape)
        before, change = array[at], 1e-5
        array[at] = before + change
        above = scalar()
        array[at] = before - change
        slope, array[at] = (above - scalar()) / (2 * change), before
        assert abs(slope - gradient[at]) < CENTRAL_DIFFERENCE * (1 + abs(slope))
