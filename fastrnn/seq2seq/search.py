"""Decoding: greedy, by sampling, by beam search. What a hypothesis scores and how it is chosen: choices.py."""

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrnn import choices
from fastrnn.arrays import as_flag, as_size
from fastrnn.backend import operations
from fastrnn.contract import Array
from fastrnn.seq2seq.decoder import choice_words
from fastrnn.seq2seq.parts import as_tokens, every, until
from fastrnn.seq2seq.steps import Steps

_PENALTIES = {"none": choices.NO_PENALTY, "average": choices.AVERAGE, "gnmt": choices.GNMT}


@dataclass(frozen=True, eq=False)
class Decoded:
    """What was decoded; T is the longest's length. A beam search adds an axis of the n best, in order, after N."""

    tokens: Array  # (T, N), the end included, `pad` after it
    lengths: Array  # (N,), the end included
    scores: Array  # (N,), what the hypotheses were ranked by; -inf where there is none
    log_probs: Array  # (N,)
    attention: Array | None  # (T, N, S)


class Rules:
    """The words of the decodings of N sources, B rows each, T steps at most: what is allowed, and what was chosen."""

    def __init__(self, model, N, B, T, **words):
        self.model, self.N, self.B, self.T, self.R = model, N, B, T, N * B
        R, V = N * B, model.decoder.embedding.num_tokens
        self.tokens, self.parents = np.empty((T + 1, R), np.intp), np.empty((T + 1, R), np.intp)
        self.done, no_prefix = np.zeros(N, np.intp), {"prefix": np.zeros(1, np.intp), "prefix_length": np.zeros(N, np.intp)}
        self._plain = no_prefix | {"eos": model.eos, "pad": model.pad, "top_k": 0, "penalty": 0, "early": 0}
        self.words = choice_words(
            V, self.tokens, self.parents, sentences=N, done=self.done, scores=np.zeros(R), length=np.zeros(N, np.intp),
            history=np.zeros(R * T, np.intp), source_length=np.zeros(N, np.intp), **words,
        )  # fmt: skip

    def begin(self, lengths, min_length, ngram, prefix, banned) -> None:
        """Before the first step, with these rules. lengths : of the sources"""
        words, model, V = self.words, self.model, self.words["V"]
        self.tokens[...], self.tokens[0], self.done[...] = model.pad, model.bos, 0
        self.parents[0] = np.arange(self.R) // self.B * self.B  # all rows of a sentence begin as one
        # in their places, so that a program that was laid out for them still fits
        words["scores"][...] = words["length"][...] = words["banned"][...] = 0
        words["source_length"][...] = lengths
        if np.size(banned):
            words["banned"][as_tokens("banned", banned, V, ("tokens",))] = 1
        words |= self._plain | {"least": as_size("min_length", min_length, 0), "ngram": as_size("ngram", ngram, 0)}
        if prefix is not None:
            prefix = as_tokens("prefix", prefix, V, ("P", self.N))
            words |= {"prefix": prefix, "prefix_length": until(prefix, model.pad)}

    def room(self, name: str, shape: tuple[int, ...], value: float = 0, dtype: Any = np.float64) -> Array:
        """An array for the words, of one value: that of the last search of this shape."""
        array = self.words[name]
        if array.shape != shape:
            array = self.words[name] = np.empty(shape, dtype)
        array[...] = value
        return array


class Decoding(Rules):
    """The steps of one decoding, laid out for N sources of S tokens, B rows each, and T steps at most; to be used again."""

    def __init__(self, model, S, N, B, T, covered):
        decoder, snapshot = model.decoder, model._snapshot()
        R, V = N * B, decoder.embedding.num_tokens
        self.logits, self.norm = every(np.zeros((R, V), decoder.dtype), T), every(np.zeros(R), T)
        super().__init__(model, N, B, T, logits=self.logits, norm=self.norm, coverage=np.zeros(1, decoder.dtype))
        self.held = held = None
        if decoder.attention is not None:
            self.held = held = decoder.attention.hold(snapshot.attention, S, N, B, snapshot.through)
            decoder.attention.track(held, T, R, always=covered)
            held.parents = self.parents[:-1]
            if held.coverage is not None:
                self.words |= {"coverage": held.coverage, "S": S}
        self.steps = Steps(decoder, snapshot, self.tokens[:-1], held, keep=False, parents=self.parents[:-1])
        work = operations()
        self.program = [
            *self.steps.operations, work.linear(self.steps.features, snapshot.packed_output, self.logits),
            work.log_sum(self.logits, self.norm),
        ]  # fmt: skip
        self.flops = self.steps.flops + 2.0 * R * V * decoder.feature_size
        self._laid_out: tuple[Any, Any] = None, None  # the words of the program that was run last, and that program

    def start(self, state, memory, lengths, *rules) -> None:
        """What is decoded, and the rules."""
        held = self.held
        if held is not None:
            self.model.decoder.attention.fill(held, memory, lengths)
            if held.coverage is not None:
                held.coverage[0] = 0
        self.steps.start(state if self.B == 1 else tuple(np.repeat(s, self.B, 1) for s in state))
        self.begin(lengths, *rules)

    def run(self, text: Any, **words: Any) -> None:
        """Take the steps, choosing by a function of choices.py; the words it reads besides."""
        self.words |= words
        now = text, {name: id(w) if isinstance(w, np.ndarray) else w for name, w in self.words.items()}
        known, program = self._laid_out
        if now != known:
            work = operations()
            steps = [*self.program, work.choose(text, self.words, self.N)]
            program = work.Program(steps, range(self.T), rows=self.R, together=self.B, flops=self.flops, done=self.done)
            self._laid_out = now, program
        program.run()

    def one_each(self) -> Decoded:
        """The result of a search that keeps one hypothesis a sentence."""
        length, scores = self.words["length"].copy(), self.words["scores"].copy()
        T = int(length.max(initial=0))
        attention = None
        if self.held is not None:
            attention = self.held.weights[:T] * (np.arange(T)[:, None] < length)[:, :, None]
        return Decoded(self.tokens[1 : T + 1].copy(), length, scores, scores.copy(), attention)

    def several_each(self, F: int) -> Decoded:
        """The result of a beam search: every hypothesis followed back to its beginning."""
        N, w = self.N, self.words
        count, length = w["count"], w["final_step"].reshape(N, F)
        known = np.arange(F) < count[:, None]
        length = np.where(known, length, 0)
        T = int(length.max(initial=0))
        tokens, rows = np.full((T, N, F), self.model.pad, np.intp), np.zeros((T, N, F), np.intp)
        work, words = operations(), w | {"found": tokens, "at": rows}
        work.run([work.choose(choices.follow, words, N)], range(1), rows=N)
        attention = None
        if self.held is not None:
            step = np.arange(T)[:, None, None]
            attention = self.held.weights[step, rows] * (step < length)[:, :, :, None]
        scores, log_p = (np.where(known, w[name].reshape(N, F), -np.inf) for name in ("final", "final_log_p"))
        return Decoded(tokens, length, scores, log_p, attention)


class Search:
    """What a model decodes with. All take source (S, N) tokens and source_lengths (N,), and the rules

    max_length, min_length : tokens, with and without the end; ngram : no n-gram of that many tokens twice (0: any)
    prefix : (P, N) tokens to begin with, rows of their own lengths ended by `pad`; banned : tokens never to be used
    """

    def greedy(self, source, source_lengths=None, *, max_length=100, min_length=0, ngram=0, prefix=None, banned=()):
        """The likeliest token in each step."""
        with self._decoding(source, source_lengths, 1, max_length, min_length, ngram, prefix, banned) as decoding:
            decoding.run(choices.greedy)
            return decoding.one_each()

    def sample(self, source, source_lengths=None, *, temperature=1.0, top_k=0, top_p=1.0, rng=None, max_length=100,
               min_length=0, ngram=0, prefix=None, banned=()):  # fmt: skip
        """Tokens by chance, p^(1 / temperature), of the top_k likeliest (0: all), of those the fewest with a share top_p.

        `log_probs` are those of the model itself. Holtzman et al., The curious case of neural text degeneration (2020).
        """
        if not temperature > 0:
            raise ValueError(f"temperature: got {temperature!r}, wanted a number above 0")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p: got {top_p!r}, wanted a share above 0 and up to 1")
        with self._decoding(source, source_lengths, 1, max_length, min_length, ngram, prefix, banned) as decoding:
            decoding.run(
                choices.sample, temperature=np.array([float(temperature)]), top_p=np.array([float(top_p)]),
                top_k=as_size("top_k", top_k, 0), heap=np.zeros(decoding.R * decoding.words["V"], np.intp),
                uniform=np.random.default_rng(rng).random((decoding.T, decoding.R)),
            )  # fmt: skip
            return decoding.one_each()

    def beam_search(self, source, source_lengths=None, *, beam_size=5, n_best=1, length_penalty="none", alpha=1.0,
                    coverage_penalty=0.0, early_stop=True, max_length=100, min_length=0, ngram=0, prefix=None,
                    banned=()):  # fmt: skip
        """The n best of the hypotheses that a beam of that many finds.

        length_penalty : log p is divided by 1 ("none"), n^alpha ("average") or ((5 + n) / 6)^alpha ("gnmt"), n its tokens
        coverage_penalty : β of GNMT's coverage penalty, 0 or more, with attention
        early_stop : stop a sentence when no hypothesis can come among its best any more; changes no result
        """
        B, V = as_size("beam_size", beam_size), self.decoder.embedding.num_tokens
        F = as_size("n_best", n_best)
        if B > V:
            raise ValueError(f"beam_size: got {B}, wanted at most {V}, the tokens of the target")
        if F > B:
            raise ValueError(f"n_best: got {F}, wanted at most beam_size, {B}")
        if length_penalty not in _PENALTIES:
            raise ValueError(f"length_penalty: got {length_penalty!r}, wanted one of {', '.join(_PENALTIES)}")
        if not coverage_penalty >= 0:
            raise ValueError(f"coverage_penalty: got {coverage_penalty!r}, wanted 0 or more")
        if coverage_penalty and self.decoder.attention is None:
            raise ValueError(f"coverage_penalty: got {coverage_penalty!r} without attention, wanted 0")
        rules = max_length, min_length, ngram, prefix, banned
        with self._decoding(source, source_lengths, B, *rules, covered=coverage_penalty > 0) as decoding:
            N, room = decoding.N, decoding.room
            # all rows of a sentence are the same before the first step: one of them counts
            room("scores", (N * B,), -np.inf)[::B] = 0
            for name in ("final", "final_log_p"):
                room(name, (N, F))
            for name in ("final_row", "final_step", "final_token"):
                room(name, (N, F), dtype=np.intp)
            for name in ("candidate_row", "candidate_token"):
                room(name, (N, 2 * B), dtype=np.intp)
            room("candidate", (N, 2 * B))
            room("count", (N,), dtype=np.intp)
            room("alpha", (1,), alpha)
            room("beta", (1,), coverage_penalty)
            decoding.run(choices.beam, F=F, early=int(as_flag("early_stop", early_stop)), penalty=_PENALTIES[length_penalty])
            return decoding.several_each(F)

    @contextmanager
    def _decoding(self, source, lengths, B, max_length, min_length, ngram, prefix, banned, covered=False):
        """A decoding that is ready to run; it goes back to where this model keeps some, if it does."""
        T = as_size("max_length", max_length)
        state, memory, lengths = self._first(source, lengths)
        key = (np.shape(source)[0], len(lengths), B, T, covered)
        decoding = self._take(key)
        decoding.start(state, memory, lengths, min_length, ngram, prefix, banned)
        yield decoding
        self._give(key, decoding)

    def _take(self, key: tuple[Any, ...]) -> Decoding:
        return Decoding(self, *key)

    def _give(self, key: tuple[Any, ...], decoding: Decoding) -> None:
        """Nothing is kept: the weights may be others the next time."""
