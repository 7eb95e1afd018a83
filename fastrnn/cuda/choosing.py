"""How a block chooses a sentence's next tokens: the texts of choices.py, but for what looks at every token of a vocabulary.

The likeliest tokens are found by all threads of the block, in the order in which the texts would find them; then one thread
runs the text, whose `best` and `collect` only read what was found. A token by chance is drawn by one thread.
"""

import math
from collections import namedtuple
from functools import cache
from types import FunctionType

import numpy as np
from numba import cuda

from fastrnn import choices
from fastrnn.cuda.folding import fold_of
from fastrnn.cuda.scalars import device

FIXED = tuple(name for name in choices.INTEGERS if name != "t")
Words = namedtuple("Words", ("t", "logits", "coverage", *choices.TABLES, *FIXED, *choices.NUMBERS))  # type: ignore[misc]
NEVER = -math.inf


def integers_of(words):
    """The integers that stay the same, in the order of `Words`."""
    return tuple(int(words[name]) for name in FIXED)


@device
def found_best(w, r):
    token = w.candidate_token[2 * w.B * r]
    return w.eos if w.candidate[2 * w.B * r] == NEVER else token


@device
def found_all(w, i):
    n = 0
    while n < 2 * w.B and w.candidate[2 * w.B * i + n] > NEVER:
        n += 1
    return n


@cache
def text(name):
    """A function of choices.py as a device function."""
    if name in ("best", "collect"):
        return {"best": found_best, "collect": found_all}[name]
    function = getattr(choices, name)
    called = {f.__name__ for f in choices.TEXTS} & set(function.__code__.co_names) - {name}
    known = {other: text(other) for other in called}
    return device(FunctionType(function.__code__, function.__globals__ | known, name))


@cache
def chooser(name, threads):
    """(w, i): the next tokens of sentence i by the function of choices.py of that name, by all threads of a block."""
    choose, recall, allowed = text(name), text("recall"), text("allowed")
    beam, searches = name == "beam", name != "sample"

    @device
    def best_after(w, i, score, place):
        """This thread's best continuation among those that come after (score, place): likelier first, then as they lie."""
        found, at = NEVER, -1
        for start in range(0, w.B * w.V, w.V):  # a row's: a division for each token would take most of the time
            r = i * w.B + start // w.V
            offset = w.scores[r] - w.norm[r] if beam else 0.0
            for e in range(start + cuda.threadIdx.x, start + w.V, threads):
                x = offset + w.logits[i * w.B * w.V + e]
                if x > found and (x < score or (x == score and e > place)) and allowed(w, i, r, w.t, e - start):
                    found, at = x, e
        return found, at

    @device
    def keep_better(entries, a, b):
        """The better of two threads' entries in the place of the first."""
        scores, places = entries
        if scores[b] > scores[a] or (scores[b] == scores[a] and places[b] >= 0 and (places[a] < 0 or places[b] < places[a])):
            scores[a], places[a] = scores[b], places[b]

    fold = fold_of(threads, keep_better)

    @device
    def find(w, i):
        """The best continuations of sentence i, as many as are read -> w.candidate and its row and token."""
        scores = cuda.shared.array(threads, np.float64)
        places = cuda.shared.array(threads, np.int64)
        thread, most = cuda.threadIdx.x, 2 * w.B if beam else 1
        score, place = math.inf, -1
        own, at = best_after(w, i, score, place)
        for k in range(most):
            scores[thread], places[thread] = own, at
            fold((scores, places))
            score, place = scores[0], places[0]
            if thread == 0:
                to = 2 * w.B * i + k
                w.candidate[to], w.candidate_token[to] = score, max(place, 0) % w.V
                w.candidate_row[to] = i * w.B + max(place, 0) // w.V
            if at == place and at >= 0:
                own, at = best_after(w, i, score, place)
            cuda.syncthreads()

    @device
    def next_tokens(w, i):
        if searches and w.done[i] == 0:
            if w.ngram > 0:
                for r in range(i * w.B + cuda.threadIdx.x, (i + 1) * w.B, threads):
                    recall(w, r, w.t)
                cuda.syncthreads()
            find(w, i)
        if cuda.threadIdx.x == 0:
            choose(w, i, i + 1)
        cuda.syncthreads()

    return device(next_tokens)
