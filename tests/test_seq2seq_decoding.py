"""Decoding: beam search beside all sequences there are, sampling beside probabilities, and what every search promises."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn as fr
from tests.helpers import DECODED, DECODED_FLOAT32

SOURCE, V, S, N = 9, 12, 6, 3
BOS, EOS, PAD = 1, 2, 0
LENGTHS = np.array([4, 6, 1])
ATTENDING = {"attention": "general", "input_feeding": True}
COVERED = {"attention": "concat", "coverage": True, "input_feeding": True, "cell": "gru", "num_layers": 2}
MODELS = [{}, ATTENDING, COVERED, {"attention": "dot", "cell": "rnn_tanh", "tie": True, "bidirectional": True}]


def build(seed=0, tokens=V, peak=3.0, dtype=np.float64, **options):
    """A model that is not as undecided as a fresh one is."""
    model = fr.Seq2Seq(SOURCE, tokens, 5, 8, dtype=dtype, rng=seed, **options)
    for name, value in model.params.items():
        value[...] *= {"decoder.output.weight": peak, "encoder.embedding.weight": 2.0}.get(name, 1.5)
    return model


def sources(seed=0, N=N):
    return np.random.default_rng(seed).integers(0, SOURCE, (S, N))


def forced(model, source, lengths, tokens):
    """log p (T, N, V) of every token after those before, attention's weights (T, N, S) or None."""
    memory, state = model.encoder(source, lengths)
    inputs = np.concatenate([np.full((1, tokens.shape[1]), model.bos), tokens[:-1]])
    if model.decoder.attention is None:
        memory = lengths = None
    (x, weights), _ = model.decoder.forward(inputs, model.bridge.forward(state)[0], memory, memory_lengths=lengths)
    x = x.astype(float)
    top = x.max(-1, keepdims=True)
    return x - top - np.log(np.exp(x - top).sum(-1, keepdims=True)), weights


def log_probs(model, source, lengths, tokens, ends):
    """log p of each row's tokens, and attention's weights, zero from its end."""
    log_p, weights = forced(model, source, lengths, tokens)
    within = np.arange(len(tokens))[:, None] < ends
    of_tokens = np.take_along_axis(log_p, tokens[:, :, None], 2)[:, :, 0]
    return (of_tokens * within).sum(0), None if weights is None else weights * within[:, :, None]


def scored(log_p, ends, attention, lengths, length_penalty="none", alpha=1.0, coverage_penalty=0.0):
    """What hypotheses score. log_p (...), attention (T, ..., S)."""
    penalty = {"none": 1.0, "average": ends**alpha, "gnmt": ((5 + ends) / 6) ** alpha}[length_penalty]
    score = log_p / np.maximum(penalty, 1e-300)
    if coverage_penalty:
        seen = np.minimum(attention.sum(0), 1.0)
        known = np.arange(S) < lengths[..., None]
        score = score + coverage_penalty * np.log(seen, out=np.zeros_like(seen), where=known).sum(-1)
    return score


def close(got, want):
    np.testing.assert_allclose(got, want, **DECODED)


def same(got, want):
    for name, value in vars(want).items():
        np.testing.assert_array_equal(getattr(got, name), value, name)


def alike(got, want):
    """The same tokens, and numbers the same but for rounding."""
    np.testing.assert_array_equal(got.tokens, want.tokens)
    np.testing.assert_array_equal(got.lengths, want.lengths)
    close(got.scores, want.scores)
    close(got.log_probs, want.log_probs)
    assert (got.attention is None) == (want.attention is None)
    if want.attention is not None:
        close(got.attention, want.attention)


def row(found, n):
    """A row of what was decoded, as if it had been alone."""
    T = int(found.lengths[n].max(initial=0))
    part = {"tokens": found.tokens[:T, n : n + 1]}
    part["attention"] = None if found.attention is None else found.attention[:T, n : n + 1]
    return fr.Decoded(**part, **{k: getattr(found, k)[n : n + 1] for k in ("lengths", "scores", "log_probs")})


# --- all sequences there are


def repeats(tokens, n):
    """Whether the last n tokens have been there before."""
    grams = [tuple(tokens[k : k + n]) for k in range(len(tokens) - n + 1)]
    return n > 0 and len(grams) > 0 and grams[-1] in grams[:-1]


def permitted(tokens, min_length=0, ngram=0, prefix=(), banned=()):
    if list(tokens[: len(prefix)]) != list(prefix[: len(tokens)]):
        return False
    for t in range(len(prefix), len(tokens)):
        if tokens[t] in banned or repeats(tokens[: t + 1], ngram) or (tokens[t] == EOS and t < min_length):
            return False
    return True


def sequences(T, alphabet):
    """All that end within T tokens, or have T and no end."""
    others = [v for v in alphabet if v != EOS]
    for n in range(T):
        yield from ((*start, EOS) for start in product(others, repeat=n))
    yield from product(others, repeat=T)


def best_of(model, source, lengths, T, every, F, **how):
    """The F best of the sequences `every` of one row: scores, log p, tokens, lengths, attention."""
    K, ends = len(every), np.array([len(s) for s in every])
    tokens = np.array([[*s, *[PAD] * (T - len(s))] for s in every]).T
    log_p, attention = log_probs(model, np.repeat(source, K, 1), np.repeat(lengths, K), tokens, ends)
    score = scored(log_p, ends, attention, np.repeat(lengths, K), **how)
    best = np.argsort(-score)[:F]
    return score[best], log_p[best], tokens[:, best], ends[best], None if attention is None else attention[:, best]


def of_all(model, source, lengths, T, alphabet, F, prefix=None, rules=None, **how):
    """The F best of all sequences, of each row."""
    found = []
    for n in range(source.shape[1]):
        start = [] if prefix is None else [v for v in prefix[:, n] if v != PAD]
        every = [s for s in sequences(T, alphabet) if permitted(s, prefix=start, **rules)]
        found.append(best_of(model, source[:, n : n + 1], lengths[n], T, every, F, **how))
    return found


def matches(got, want):
    for n, (score, log_p, tokens, ends, attention) in enumerate(want):
        K, T = len(score), len(got.tokens)
        close(got.scores[n, :K], score)
        close(got.log_probs[n, :K], log_p)
        np.testing.assert_array_equal(got.tokens[:, n, :K], tokens[:T])
        np.testing.assert_array_equal(got.lengths[n, :K], ends)
        assert attention is None or np.allclose(got.attention[:, n, :K], attention[:T], **DECODED)
        # there is nothing besides
        assert np.isneginf(got.scores[n, K:]).all() and np.isneginf(got.log_probs[n, K:]).all()
        assert not got.lengths[n, K:].any() and (got.tokens[:, n, K:] == PAD).all()


MANY, FEW = 50, (EOS, 5, 7)  # a beam of as many as there are tokens, all but three of which are banned, holds everything
BANNED = [v for v in range(MANY) if v not in FEW]
PREFIX = np.array([[5, 7, 7], [7, 0, 7], [0, 0, 9]])  # 9 is banned, but a prefix may
RULES = [
    {}, {"min_length": 2}, {"ngram": 1}, {"ngram": 2}, {"prefix": PREFIX}, {"prefix": PREFIX, "ngram": 1, "min_length": 2},
    {"length_penalty": "average"}, {"length_penalty": "average", "alpha": 0.5}, {"length_penalty": "gnmt", "alpha": 0.6},
    {"length_penalty": "gnmt", "alpha": 2.0, "ngram": 2}, {"length_penalty": "average", "alpha": -0.5}, {"alpha": 3.0},
]  # fmt: skip
WEIGHED = [{"coverage_penalty": 0.4}, {"coverage_penalty": 2.0, "length_penalty": "gnmt", "alpha": 0.8, "min_length": 1}]


def named(options):
    return "-".join(v if isinstance(v, str) else k if isinstance(v, np.ndarray) else f"{k}={v}" for k, v in options.items())


@pytest.mark.parametrize("early_stop", [True, False], ids=["early", "late"])
@pytest.mark.parametrize(("options", "rules"), [(o, r) for o in MODELS[1:3] for r in RULES + WEIGHED]
                         + [(MODELS[0], r) for r in RULES], ids=named)  # fmt: skip
def test_a_beam_that_holds_everything_finds_the_best(options, rules, early_stop):
    model, source, T = build(1, MANY, **options), sources(), 5
    rules = {"banned": BANNED} | rules
    got = model.beam_search(source, LENGTHS, max_length=T, beam_size=MANY, n_best=8, early_stop=early_stop, **rules)
    of_rules = {k: rules.pop(k) for k in ("min_length", "ngram", "banned") if k in rules}
    of_rules["banned"] = set(of_rules["banned"])
    alphabet = (*FEW, 9) if "prefix" in rules else FEW
    matches(got, of_all(model, source, LENGTHS, T, alphabet, 8, rules=of_rules, **rules))


@pytest.mark.parametrize("options", MODELS, ids=named)
@pytest.mark.parametrize("how", [{}, {"length_penalty": "average"}, {"length_penalty": "gnmt", "alpha": 0.7}], ids=named)
def test_a_beam_of_all_tokens_for_two_steps(options, how):
    # without a coverage penalty the best of the last step are those with the highest probability
    model, source = build(2, 6, **options), sources()
    got = model.beam_search(source, LENGTHS, max_length=2, beam_size=6, n_best=6, **how)
    matches(got, of_all(model, source, LENGTHS, 2, range(6), 6, rules={}, **how))


@pytest.mark.parametrize("options", MODELS[:2], ids=["plain", "attention"])
def test_where_nothing_is_allowed_there_is_no_hypothesis(options):
    model, source = build(1, MANY, **options), sources()
    rules = {"banned": BANNED, "ngram": 1, "min_length": 4, "max_length": 5}
    got = model.beam_search(source, LENGTHS, beam_size=4, n_best=2, **rules)
    matches(got, [(np.empty(0), np.empty(0), np.empty((5, 0)), np.empty(0), None)] * N)
    assert got.tokens.shape == (0, N, 2)
    for found in (model.greedy(source, LENGTHS, **rules), model.sample(source, LENGTHS, rng=0, **rules)):
        assert (found.lengths == 3).all() and (found.tokens[2] == EOS).all()  # one at a time, a row ends then


# --- searches beside each other

COMMON = [
    {},
    {"min_length": 3},
    {"ngram": 2},
    {"banned": [4, 5, EOS]},
    {"prefix": np.array([[3, 4, 4], [6, 0, 4]]), "ngram": 1},
]


def rules_of(rules):
    return pytest.mark.parametrize("rules", rules, ids=named)


models = pytest.mark.parametrize("options", MODELS, ids=named)


@models
@rules_of(COMMON)
def test_a_beam_of_one_is_greedy(options, rules):
    for seed in range(4):
        model, source = build(seed, **options), sources(seed)
        wanted = model.greedy(source, LENGTHS, max_length=9, **rules)
        got = model.beam_search(source, LENGTHS, beam_size=1, max_length=9, **rules)
        attention = None if got.attention is None else got.attention[:, :, 0]
        of_one = {k: getattr(got, k)[..., 0] for k in ("tokens", "lengths", "scores", "log_probs")}
        alike(fr.Decoded(**of_one, attention=attention), wanted)


RANKED = [{}, {"length_penalty": "average"}, {"length_penalty": "gnmt", "alpha": 2.0},
          {"coverage_penalty": 0.5, "length_penalty": "average", "alpha": 0.5}]  # fmt: skip


def by_definition(model, source, lengths, T, B, F, rules, **how):
    """The F best of a row that a beam of B finds: its 2 B best continuations at a time."""
    live, done = [(0.0, ())], []
    for t in range(T):
        K = len(live)
        log_p, _ = forced(model, np.repeat(source, K, 1), np.repeat(lengths, K), np.array([[*s, 0] for _, s in live]).T)
        ways = [(score + log_p[t, k, v], (*s, v)) for k, (score, s) in enumerate(live) for v in range(log_p.shape[2])]
        ways = sorted((way for way in ways if permitted(way[1], **rules)), reverse=True)[: 2 * B]
        done += [s for rank, (_, s) in enumerate(ways) if rank < B and (s[-1] == EOS or t + 1 == T)]
        live = [(score, s) for score, s in ways if s[-1] != EOS][:B]
        if not live:
            break
    return best_of(model, source, lengths, T, done, F, **how)


@models
@rules_of([{}, {"min_length": 2}, {"ngram": 1}, {"ngram": 2, "banned": [3, 6]}])
@pytest.mark.parametrize("how", RANKED, ids=named)
def test_a_narrow_beam(options, rules, how):
    if "coverage_penalty" in how and not options:
        return
    for B, F in ((1, 1), (2, 2), (4, 3)):
        model, source, lengths = build(B, 7, 4.0, **options), sources(B, 2), LENGTHS[:2]
        got = model.beam_search(source, lengths, beam_size=B, n_best=F, max_length=6, **rules, **how)
        matches(got, [by_definition(model, source[:, n : n + 1], lengths[n], 6, B, F, rules, **how) for n in range(2)])


@models
@rules_of(COMMON)
def test_greedy_takes_the_likeliest_that_is_allowed(options, rules):
    model, source, T = build(5, **options), sources(5), 7
    got = model.greedy(source, LENGTHS, max_length=T, **rules)
    prefix = rules.get("prefix", np.zeros((0, N), int))
    of_rules = {k: v for k, v in rules.items() if k != "prefix"}
    log_p, _ = forced(model, source, LENGTHS, got.tokens)
    for n in range(N):
        start = [v for v in prefix[:, n] if v != PAD]
        for t in range(got.lengths[n]):
            before = tuple(got.tokens[:t, n])
            ways = [v for v in range(V) if permitted((*before, v), prefix=start, **of_rules)]
            assert got.tokens[t, n] == (max(ways, key=lambda v: log_p[t, n, v]) if ways else EOS)


@given(st.integers(0, 2**31), st.sampled_from(MODELS), st.integers(1, 5), st.data())
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_stopping_early_changes_nothing(seed, options, beam_size, data):
    model, source = build(seed, 7, peak=data.draw(st.sampled_from([1.0, 4.0, 8.0])), **options), sources(seed)
    how = {"beam_size": beam_size, "n_best": data.draw(st.integers(1, beam_size)), "max_length": 8,
           "min_length": data.draw(st.integers(0, 2)), "ngram": data.draw(st.integers(0, 3))}  # fmt: skip
    if options.get("attention"):
        how["coverage_penalty"] = data.draw(st.sampled_from([0.0, 0.5]))
    # of alpha the bound is made: below zero, what comes soon is best, and above it what comes late
    for penalty, alpha in product(("none", "average", "gnmt"), (-1.0, 0.0, 0.7, 1.5, 4.0)):
        how |= {"length_penalty": penalty, "alpha": alpha}
        same(model.beam_search(source, LENGTHS, **how), model.beam_search(source, LENGTHS, early_stop=False, **how))


def test_peaky_models_end():
    ends = [build(seed, 7, 4.0).beam_search(sources(seed), LENGTHS, max_length=8).lengths for seed in range(20)]
    assert 0.2 < np.mean(np.array(ends) < 8) < 1


@models
@pytest.mark.parametrize("how", [{}, {"length_penalty": "average", "alpha": 0.8}, {"length_penalty": "gnmt"}], ids=named)
@pytest.mark.parametrize("coverage_penalty", [0.0, 0.7])
def test_what_a_beam_search_returns(options, how, coverage_penalty):
    if coverage_penalty and not options:
        return
    for seed in range(4):
        model, source = build(seed, **options), sources(seed)
        how = how | {"coverage_penalty": coverage_penalty}
        best = model.beam_search(source, LENGTHS, beam_size=6, n_best=4, max_length=6, **how)
        T = best.lengths.max()
        assert best.tokens.shape == (T, N, 4) and best.scores.shape == best.log_probs.shape == best.lengths.shape == (N, 4)
        assert (np.diff(best.scores, axis=1) <= 0).all()
        for n in range(N):
            hypotheses = {tuple(best.tokens[:, n, k]) for k in range(4)}
            assert len(hypotheses) == 4  # no two are the same
        for k in range(4):
            tokens, ends = best.tokens[:, :, k], best.lengths[:, k]
            check_ends(tokens, ends, 6)
            log_p, attention = log_probs(model, source, LENGTHS, tokens, ends)
            close(best.log_probs[:, k], log_p)
            if attention is not None:
                close(best.attention[:, :, k], attention)
        close(best.scores, scored(best.log_probs, best.lengths, best.attention, np.repeat(LENGTHS[:, None], 4, 1), **how))
        one = model.beam_search(source, LENGTHS, beam_size=6, max_length=6, **how)
        np.testing.assert_array_equal(one.scores[:, 0], best.scores[:, 0])


def check_ends(tokens, ends, T):
    """The end is a row's last token, unless it has T of them, and pad follows."""
    for n, end in enumerate(ends):
        assert EOS not in tokens[: end - 1, n] and (tokens[end:, n] == PAD).all()
        assert tokens[end - 1, n] == EOS or end == T


def check_attention(weights, ends, lengths):
    """Rows sum to one over the source's length, and are zero past it, and past the row's end."""
    for n, end in enumerate(ends):
        close(weights[:end, n].sum(-1), 1.0)
        assert not weights[end:, n].any() and not weights[:, n, lengths[n] :].any() and (weights >= 0).all()


@models
@pytest.mark.parametrize("search", ["greedy", "sample"])
def test_what_greedy_and_sample_return(options, search):
    for seed in range(4):
        model, source = build(seed, **options), sources(seed)
        chance = {"rng": seed, "temperature": 1.3, "top_k": 7, "top_p": 0.9} if search == "sample" else {}
        found = getattr(model, search)(source, LENGTHS, max_length=6, **chance)
        assert found.tokens.shape == (found.lengths.max(), N)
        check_ends(found.tokens, found.lengths, 6)
        log_p, attention = log_probs(model, source, LENGTHS, found.tokens, found.lengths)
        close(found.log_probs, log_p)
        close(found.scores, log_p)
        assert (found.attention is None) == (attention is None)
        if attention is not None:
            close(found.attention, attention)
            check_attention(found.attention, found.lengths, LENGTHS)


@pytest.mark.parametrize("options", MODELS[1:], ids=named)
def test_attention_of_a_beam(options):
    model, lengths = build(3, **options), np.array([4, 0, 6])
    best = model.beam_search(sources(3), lengths, beam_size=4, n_best=3, max_length=6)
    for k in range(3):
        weights, ends = best.attention[:, :, k], best.lengths[:, k]
        check_attention(weights[:, [0, 2]], ends[[0, 2]], lengths[[0, 2]])
        assert not weights[:, 1].any() and np.isfinite(best.scores).all()


SEARCHES = [("greedy", {}), ("sample", {"top_k": 1}), ("beam_search", {"beam_size": 4, "n_best": 2}),
            ("beam_search", {"beam_size": 3, "length_penalty": "average", "early_stop": False})]  # fmt: skip
searches = pytest.mark.parametrize(("search", "how"), SEARCHES, ids=str)


@models
@searches
def test_rows_do_not_know_of_each_other(options, search, how, threads):
    model, lengths = build(4, **options), np.array([4, 6, 1, 3, 6, 2, 5])
    source = sources(4, len(lengths))
    run = getattr(model, search)
    together = run(source, lengths, max_length=8, **how)
    for n, length in enumerate(lengths):
        alone = run(source[:, n : n + 1], lengths[n : n + 1], max_length=8, **how)
        alike(row(together, n), alone)
        short = run(source[:length, n : n + 1], max_length=8, **how)
        if alone.attention is not None:
            assert not alone.attention[..., length:].any()
            alone = fr.Decoded(**vars(alone) | {"attention": alone.attention[..., :length]})
        alike(short, alone)


@searches
def test_a_call_is_repeatable(search, how):
    model, source = build(6, **COVERED), sources(6)
    run = getattr(model, search)
    first = run(source, LENGTHS, max_length=8, **how)
    kept = fr.Decoded(**{k: v.copy() for k, v in vars(first).items()})
    run(sources(7), LENGTHS, max_length=8, **how)
    same(first, kept)  # an array of its own
    same(run(source, LENGTHS, max_length=8, **how), kept)


def test_single_precision():
    for seed in range(5):
        double = build(seed, **ATTENDING)
        single = build(seed, dtype=np.float32, **ATTENDING)
        for name, value in single.params.items():
            double.params[name][...] = value
        for search, how in SEARCHES:
            got, want = (getattr(m, search)(sources(seed), LENGTHS, max_length=6, **how) for m in (single, double))
            np.testing.assert_array_equal(got.tokens, want.tokens)
            np.testing.assert_allclose(got.scores, want.scores, rtol=DECODED_FLOAT32)


# --- rules


@searches
@models
def test_the_longest_there_may_be(search, how, options):
    model = build(0, **options)
    for T in (1, 4):
        found = getattr(model, search)(sources(), LENGTHS, max_length=T, banned=[EOS], **how)
        assert (found.lengths == T).all() and len(found.tokens) == T and EOS not in found.tokens


@searches
def test_rules(search, how):
    for seed in range(6):
        model, source = build(seed, 7, **ATTENDING), sources(seed)
        run = lambda **rules: getattr(model, search)(source, LENGTHS, max_length=8, **rules, **how)  # noqa: B023, E731
        assert (run(min_length=3).lengths >= 4).all()
        assert not np.isin(run(banned=[3, 6]).tokens, [3, 6]).any()
        prefix = np.array([[3, 4, 5], [3, 4, 0], [6, 0, 0]])
        found = run(prefix=prefix).tokens
        for n, start in enumerate(([3, 3, 6], [4, 4], [5])):
            assert (found[: len(start), n].reshape(len(start), -1) == np.array(start)[:, None]).all()
        for ngram in (1, 2, 3):
            found = run(ngram=ngram)
            tokens, ends = found.tokens.reshape(len(found.tokens), -1), found.lengths.reshape(-1)
            for column, end in zip(tokens.T.tolist(), ends, strict=True):
                grams = [tuple(column[k : k + ngram]) for k in range(end - ngram + 1)]
                assert len(set(grams)) == len(grams)


def test_a_prefix_of_no_tokens_changes_nothing():
    model = build(0, **ATTENDING)
    for search in ("greedy", "beam_search"):
        found, want = (
            getattr(model, search)(sources(), LENGTHS, max_length=4, prefix=prefix).tokens
            for prefix in (np.zeros((0, N), int), None)
        )
        np.testing.assert_array_equal(found, want)


def test_a_prefix_may_hold_the_end_or_be_longer_than_allowed():
    model, prefix = build(0, **ATTENDING), np.array([[3, 4, 5], [EOS, 4, 5], [6, 4, 5], [6, 4, 5]])
    for search, how in SEARCHES:
        found = getattr(model, search)(sources(), LENGTHS, max_length=3, prefix=prefix, **how)
        beam = found.tokens.ndim == 3
        tokens, ends = (found.tokens[..., 0], found.lengths[..., 0]) if beam else (found.tokens, found.lengths)
        np.testing.assert_array_equal(ends, [2, 3, 3])
        np.testing.assert_array_equal(tokens, [[3, 4, 5], [EOS, 4, 5], [PAD, 4, 5]])


# --- sampling


def allowed_by(p, top_k=0, top_p=1.0):
    """Those of the probabilities p (V,) that may be drawn."""
    order = np.argsort(-p)[: top_k or None]
    share = np.cumsum(p[order]) / p[order].sum()
    return order[: int(np.searchsorted(share, top_p * (1 - 1e-12))) + 1]


def shares(log_p, temperature=1.0, **how):
    """The probabilities (V,) that tokens are drawn with."""
    p = np.exp(log_p / temperature - (log_p / temperature).max())
    kept = allowed_by(p / p.sum(), **how)
    out = np.zeros_like(p)
    out[kept] = p[kept]
    return out / out.sum()


CHANCES = [{}, {"temperature": 0.5}, {"temperature": 3.0}, {"top_k": 2}, {"top_p": 0.6}, {"top_p": 0.95, "top_k": 3},
           {"temperature": 2.0, "top_k": 4, "top_p": 0.8}]  # fmt: skip


@pytest.mark.parametrize("how", CHANCES, ids=named)
def test_frequencies_are_probabilities(how):
    model, draws, tokens = build(3, 5, peak=1.5, **ATTENDING), 4000, 5
    source = np.repeat(sources(3, 1), draws, 1)
    found = model.sample(source, max_length=2, rng=0, **how)
    first = shares(forced(model, source[:, :1], None, np.zeros((1, 1), int))[0][0, 0], **how)
    expected = {}
    for a in range(tokens):
        second = shares(forced(model, source[:, :1], None, np.array([[a], [0]]))[0][1, 0], **how)
        for b in range(tokens):
            if a != EOS:
                expected[a, b] = first[a] * second[b]
    expected[EOS, PAD] = first[EOS]
    pairs = [tuple(pair) for pair in np.concatenate([found.tokens, np.full((2 - len(found.tokens), draws), PAD)]).T.tolist()]
    assert all(expected[pair] > 0 for pair in pairs)
    outcomes = np.array([(pairs.count(pair), draws * p) for pair, p in expected.items() if p > 0])
    rare = outcomes[:, 1] < 5
    seen, wanted = np.concatenate([outcomes[~rare], outcomes[rare].sum(0, keepdims=True)]).T
    statistic, degrees = float(((seen - wanted) ** 2 / np.maximum(wanted, 1)).sum()), len(seen) - 1
    assert statistic < degrees + 4 * (2 * degrees) ** 0.5 + 4  # chi-square: mean and variance of as many degrees


@pytest.mark.parametrize(
    "how", [{"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-4}, {"top_k": 3, "top_p": 1e-9}], ids=named
)
@models
def test_sampling_the_likeliest_is_greedy(options, how):
    for seed in range(5):
        model, source = build(seed, **options), sources(seed)
        alike(model.sample(source, LENGTHS, max_length=8, rng=seed, **how), model.greedy(source, LENGTHS, max_length=8))


KEPT = [{"top_k": 2}, {"top_k": 5}, {"top_p": 0.3}, {"top_p": 0.8}, {"top_k": 4, "top_p": 0.7},
        {"temperature": 4.0, "top_p": 0.7}, {"temperature": 4.0, "top_k": V + 5}]  # fmt: skip


@pytest.mark.parametrize("how", KEPT, ids=named)
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_nothing_else_is_drawn(how, dtype):
    drawn = 0
    for seed in range(6):
        model, source = build(seed, peak=1.5, dtype=dtype, **ATTENDING), sources(seed, 8)
        found = model.sample(source, max_length=6, rng=seed, **how)
        log_p, _ = forced(model, source, None, found.tokens)
        for n in range(8):
            for t in range(found.lengths[n]):
                assert shares(log_p[t, n], **how)[found.tokens[t, n]] > 0
                drawn += found.tokens[t, n] != log_p[t, n].argmax()
    assert drawn > 0


def test_ties_are_drawn_too():
    model = build(0, 7)
    for name in ("decoder.output.weight", "decoder.output.bias"):
        model.params[name][...] = 0
    source = np.repeat(sources(0, 1), 600, 1)
    for how, kept in (({}, 7), ({"top_k": 3}, 3), ({"top_p": 0.5}, 4)):
        found = model.sample(source, max_length=1, rng=0, **how).tokens[0]
        counts = np.bincount(found, minlength=7)
        assert (counts[:kept] > 0.7 * 600 / kept).all() and not counts[kept:].any()  # of equals, the first come first
    assert (model.greedy(source, max_length=2).tokens == 0).all()


def test_chance_is_of_the_rng():
    model, source = build(0, peak=1.0, **ATTENDING), sources(0, 8)
    draw = lambda rng: model.sample(source, max_length=6, rng=rng)  # noqa: E731
    same(draw(1), draw(1))
    same(draw(np.random.default_rng(1)), draw(1))
    assert len({draw(seed).tokens.tobytes() for seed in range(6)}) > 1
    assert len({draw(None).tokens.tobytes() for _ in range(6)}) > 1
    rng = np.random.default_rng(2)
    assert len({draw(rng).tokens.tobytes() for _ in range(6)}) > 1


def test_hotter_is_less_likely():
    model, source = build(0, **ATTENDING), np.repeat(sources(0, 1), 300, 1)
    means = [model.sample(source, max_length=4, temperature=c, rng=0).log_probs.mean() for c in (0.2, 1.0, 5.0)]
    assert all(a > b for a, b in pairwise(means))


def test_decoding_takes_the_parameters_as_they_are_now():
    model, source = build(0, **ATTENDING), sources()
    model.greedy(source, LENGTHS, max_length=6)
    other = build(1, **ATTENDING)
    for name, value in other.params.items():
        model.params[name][...] = value
    for search, how in SEARCHES:
        got, want = (getattr(m, search)(source, LENGTHS, max_length=6, **how) for m in (model, other))
        same(got, want)
