"""Decoding on a device beside decoding on the host, in double precision: tokens, scores, attention."""

import numpy as np
import pytest

from fastrnn.cuda.kinds import stored_as
from fastrnn.seq2seq.attention import KINDS
from tests.test_seq2seq_decoding import ATTENDING, COVERED, EOS, LENGTHS, MODELS, PAD, build, sources

pytestmark = [pytest.mark.cudasim, pytest.mark.gpu]
NAMES = ["plain", "attending", "covered", "dot"]
MODEL = pytest.mark.parametrize("options", MODELS, ids=NAMES)
FIELDS = ("tokens", "lengths", "scores", "log_probs", "attention")


def host(x):
    return None if x is None else x.copy_to_host()


def both(device, model, search, source, lengths, **rules):
    """What is decoded on the device, on the host."""
    frozen = model.freeze(device.to_device)
    got = getattr(frozen, search)(device.to_device(source), lengths, **rules)
    want = getattr(model, search)(source, lengths, **rules)
    return [[f(getattr(x, name)) for name in FIELDS] for x, f in ((got, host), (want, lambda a: a))]


def same(device, model, search, source, lengths, **rules):
    got, want = both(device, model, search, source, lengths, **rules)
    for name, a, b in zip(FIELDS, got, want, strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.dtype == b.dtype, name
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=name)


@MODEL
@pytest.mark.parametrize(
    ("search", "rules"),
    [("greedy", {}), ("beam_search", {"beam_size": 3, "n_best": 2}), ("sample", {"rng": 0, "top_p": 0.8, "top_k": 5})],
    ids=["greedy", "beam", "sample"],
)
def test_as_on_the_host(device, options, search, rules):
    same(device, build(**options), search, sources(), LENGTHS, max_length=5, **rules)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
def test_every_cell_with_layers_and_bridge(device, cell):
    options = {"attention": "additive", "num_layers": 2, "bridge": "tanh", "bidirectional": True}
    same(device, build(cell=cell, **options), "greedy", sources(), None, max_length=4)


@pytest.mark.parametrize("kinds", [("lstm", "gru"), ("gru", "lstm")])
@pytest.mark.parametrize("bridge", ["copy", "linear", "relu"])
def test_a_decoder_of_another_cell(device, kinds, bridge):
    model = build(cell=kinds[0], decoder_cell=kinds[1], bridge=bridge)
    same(device, model, "greedy", sources(), LENGTHS, max_length=3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("coverage", [False, True])
def test_every_attention(device, kind, coverage):
    model = build(attention=kind, coverage=coverage, input_feeding=True)
    same(device, model, "beam_search", sources(), [0, 6, 3], beam_size=2, max_length=4)


@pytest.mark.parametrize("options", [ATTENDING, COVERED], ids=["attending", "covered"])
def test_the_rules_of_a_beam(device, options):
    rules = {"length_penalty": "gnmt", "coverage_penalty": 0.4, "min_length": 2, "ngram": 2, "banned": [5, 7]}
    same(device, build(**options), "beam_search", sources(), LENGTHS, beam_size=4, n_best=4, max_length=6, **rules)


def test_a_prefix(device):
    prefix = np.array([[4, 5, PAD], [6, PAD, PAD]])
    same(device, build(**ATTENDING), "greedy", sources(), LENGTHS, prefix=prefix, max_length=5, ngram=1)


def test_a_prefix_of_no_tokens(device):
    same(device, build(), "greedy", sources(), LENGTHS, prefix=np.zeros((0, 3), int), max_length=3)


@pytest.mark.parametrize("strided", [np.asfortranarray, lambda w: np.repeat(w, 2, 0)[::2]], ids=["columns", "rows"])
@pytest.mark.parametrize("kind", ["concat", "general"])
def test_strided_weights(device, strided, kind):
    model = build(attention=kind, bridge="tanh", cell="gru")
    for name, value in model.params.items():
        if value.ndim == 2:
            model.params[name] = strided(value)
    same(device, model, "greedy", sources(), LENGTHS, max_length=3)


def test_equal_logits_are_taken_as_they_lie(device):
    model = build(**ATTENDING)
    for name in ("weight", "bias"):
        model.params[f"decoder.output.{name}"][...] = 0
    for search, rules in (("greedy", {}), ("beam_search", {"beam_size": 3, "n_best": 3})):
        same(device, model, search, sources(), LENGTHS, max_length=3, **rules)


def test_more_tokens_and_rows_than_threads(device):
    model = build(tokens=150, attention="dot", peak=6.0)
    same(device, model, "beam_search", sources(N=11), None, beam_size=3, max_length=3)


def test_a_sentence_that_has_ended_stays_ended(device):
    model = build(**ATTENDING)
    model.params["decoder.output.bias"][EOS] = 50
    same(device, model, "greedy", sources(), LENGTHS, max_length=6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_other_types(device, dtype):
    model = build(dtype=np.float32, attention="general", input_feeding=True)
    for value in model.params.values():
        value[...] = value.astype(np.float16)
    frozen = model.freeze(lambda p: device.to_device(p.astype(stored_as(dtype))))
    got = frozen.greedy(device.to_device(sources().astype(np.int32)), LENGTHS, max_length=5)
    want = model.greedy(sources(), LENGTHS, max_length=5)
    assert host(got.attention).dtype == dtype
    np.testing.assert_array_equal(host(got.tokens), want.tokens)
    np.testing.assert_allclose(host(got.scores), want.scores, rtol=1e-2 if dtype == "float16" else 1e-4)


@pytest.mark.parametrize("search", ["greedy", "beam_search"])
def test_a_sentence_has_the_same_bits_in_every_batch(device, search):
    frozen, source, lengths = build(**COVERED).freeze(device.to_device), sources(N=7), [4, 6, 1, 0, 3, 5, 6]
    decode = lambda chosen: getattr(frozen, search)(  # noqa: E731
        device.to_device(np.ascontiguousarray(source[:, chosen])), np.take(lengths, chosen), max_length=4
    )
    together = decode(range(7))
    for n in (0, 3, 6):
        alone, T = decode([n]), int(host(decode([n]).lengths).max())
        np.testing.assert_array_equal(host(alone.scores)[0], host(together.scores)[n])
        np.testing.assert_array_equal(host(alone.tokens)[:, 0], host(together.tokens)[:T, n])
        np.testing.assert_array_equal(host(alone.attention)[:, 0], host(together.attention)[:T, n])


def test_a_frozen_model_keeps_its_weights(device):
    model = build(**ATTENDING)
    frozen, source = model.freeze(device.to_device), device.to_device(sources())
    want = host(frozen.greedy(source, max_length=4).scores)
    model.params["decoder.output.weight"][...] = 0
    np.testing.assert_array_equal(host(frozen.greedy(source, max_length=4).scores), want)
    assert "on a device" in repr(frozen)


def test_what_is_wrong_is_said(device):
    model = build(**ATTENDING)
    with pytest.raises(TypeError, match="convert: got a function that gives ndarray"):
        model.freeze(np.asarray)
    frozen = model.freeze(device.to_device)
    with pytest.raises(TypeError, match="source: got ndarray, wanted an array on the device"):
        frozen.greedy(sources())
    with pytest.raises(ValueError, match="source: got token 99, wanted 0 to 8"):
        frozen.greedy(device.to_device(np.full((2, 2), 99)))
    with pytest.raises(TypeError, match="source: got dtype float64"):
        frozen.greedy(device.to_device(np.ones((2, 2))))
    with pytest.raises(ValueError, match="source_lengths: got values from 7 to 7"):
        frozen.greedy(device.to_device(sources(N=1)), [7])
    with pytest.raises(ValueError, match="at least one sentence"):
        frozen.greedy(device.to_device(np.ones((2, 0), np.int64)))
