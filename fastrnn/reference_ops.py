"""The operations of a decoder in plain NumPy, one step at a time, and what runs them. Counterpart of cpu/operations.py.

A program is a list of operations, run for one step after another. Every array of an operation has a time axis in front;
an operation of step t works on entry t of each. Where the steps share an entry, the axis has a stride of zero (`every`).
"""

from types import SimpleNamespace
from typing import Any

import numpy as np

from fastrnn import pointwise
from fastrnn.reference import Backward, Forward

ACTIVATIONS: dict[str, Any] = {"none": lambda x: x, "tanh": pointwise.tanh, "relu": pointwise.relu}


def run(operations, steps, rows, together=1, flops=0.0, done=None):
    """Carry out the operations for each step of a range.

    rows : of every operation; together : how many of them one thread must have (the hypotheses of a sentence)
    flops : of a step, roughly; done : (rows / together,) integers: all set, nothing is left to do
    """
    for t in steps:
        for operation in operations:
            operation(t)
        if done is not None and np.all(done):
            break


class Program:
    """Operations laid out for the steps of a range, to be run any number of times; arguments as of `run`."""

    def __init__(self, *arguments, **options):
        self.run = lambda: run(*arguments, **options)


def empty(shape, dtype):
    """An array of no particular content."""
    return np.empty(shape, dtype)


def copied(array):
    """A copy, contiguous."""
    return np.array(array, order="C")


def zeros(shape, dtype):
    return np.zeros(shape, dtype)


def threads():
    """How many threads the operations that are made now may be run by."""
    return 1


def gather(table, index, out):
    """out[n] = table[index[n]]. table (V, E), index (T, N), out (T, N, E)."""

    def step(t):
        out[t] = table[index[t]]

    return step


def scatter(dy, index, into):
    """into[index[n]] += dy[n], in the order of n. dy (M, E), index (M,), into (V, E)."""
    np.add.at(into, index, dy)


def pack(w, b=None, transposed=False):
    """A weight (O, I) and a bias (O,) in the form that `linear` reads; transposed: for x W instead of x Wᵀ."""
    return (w if transposed else w.T), b


def linear(x, weight, out, activation="none", add=False):
    """out = f(x Wᵀ + b), or f(out + x Wᵀ + b). x (T, N, I), out (T, N, O), not the same memory."""
    w, b = weight

    def step(t):
        y = x[t] @ w
        y = y if b is None else y + b
        out[t] = ACTIVATIONS[activation](out[t] + y if add else y)

    return step


def weight_gradients(dy, x):
    """dW = Σ dyᵀ x, db = Σ dy, of M rows: dy (M, O), x (M, I)."""
    return dy.T @ x, dy.sum(0)


def input_gradient(dy, w):
    """dx = dy W, of M rows."""
    return dy @ w


def slope(dy, y, out):
    """out = dy (1 - y²), tanh's own, of rows (T, N, F)."""

    def step(t):
        out[t] = dy[t] * (1 - y[t] * y[t])

    return step


def log_sum(x, out):
    """out[n] = log Σ eˣ, in double precision. x (T, N, V), out (T, N)."""

    def step(t):
        top = x[t].max(-1)
        with np.errstate(invalid="ignore"):
            out[t] = top + np.log(np.exp(x[t] - top[:, None]).sum(-1))

    return step


def loss_gradient(x, norm, labels, weight, smoothing, out):
    """The gradient of Σ weight · cross-entropy of labels (T, N) with smoothing, x (T, N, V); norm, weight (T, N)."""

    def step(t):
        out[t] = np.exp(x[t] - norm[t][:, None]) - smoothing / x.shape[2]
        out[t][np.arange(len(labels[t])), labels[t]] -= 1 - smoothing
        out[t] *= weight[t][:, None]

    return step


def pack_cell(cell, weights):
    """The weights of a layer in the form that `Cells` reads."""
    return weights


class Cells:
    """A layer's forward loop as `operations`: x (T, N, I), y (T, N, H), a lookup or None.

    parents : (T, N) the rows that the rows of a step continue, with their state and, fed back, their x; None: themselves
    fed_back : whether x is what the steps before have found
    """

    def __init__(self, cell, weights, x, y, keep, parents=None, fed_back=False, lookup=None):
        self._begin = lambda h0, c0: Forward(cell, weights, x, h0, c0, None, False, keep, y, lookup, parents, fed_back)
        self.operations = [self._step]

    def _step(self, t):
        self._work.step(t)

    def start(self, h0, c0=None):
        """Put the state (N, H) before the first step."""
        self._work = self._begin(h0, c0)

    def finish(self):
        """The tape."""
        return self._work.finish()[-1]


class CellsBackward:
    """A layer's backward loop as `operations`, from dy (T, N, H), which is read step by step, to finish()'s gradients.

    below : (T, N, I), where the gradient of x goes in each step; feed : (T, N, F), to which its last F columns are added
    """

    def __init__(self, cell, tape, dy, below=None, feed=None):
        self._work = work = Backward(cell, tape, dy)

        def step(t):
            work.step(t)
            if below is not None:
                below[t] = work.dx[t]
            if feed is not None:
                feed[t] += work.dx[t][:, -feed.shape[2] :]

        self.operations = [step]
        self.finish = work.finish


def attend(held):
    """Attention of each row (see seq2seq/attention.py): writes weights and context, coverage of the step after.

    `together` rows in a row share a column of the memory.
    """

    def step(t):
        a = SimpleNamespace(**vars(held))
        a.keys, a.values, a.lengths = (np.repeat(m, a.together, -2 + (m.ndim == 1)) for m in (a.keys, a.values, a.lengths))
        seen = None if a.coverage is None else _came(a.coverage[t], a.parents, t)
        score = _masked(_score(a, t, seen)[0], a.lengths)
        e = np.exp(score - np.where(a.lengths > 0, score.max(1, initial=-np.inf), 0)[:, None])
        a.weights[t] = e / np.where(a.lengths > 0, e.sum(1), 1)[:, None]
        a.context[t] = np.einsum("ns,snm->nm", a.weights[t], a.values)
        if seen is not None:
            a.coverage[t + 1] = seen + a.weights[t]

    return step


def _came(state, parents, t):
    return state if parents is None else state[parents[t]]


def _masked(score, lengths):
    return np.where(np.arange(score.shape[1]) < lengths[:, None], score, -np.inf)


def _score(a, t, seen):
    """(N, S), and the hyperbolic tangents (N, S, K) that it is a sum of."""
    keys = a.keys.swapaxes(0, 1)
    if a.v is None:
        score = a.scale * np.einsum("nk,nsk->ns", a.query[t], keys)
        return (score if a.cover is None else score + seen * a.cover[0]), None
    inner = keys + a.query[t][:, None]
    inner = np.tanh(inner if a.cover is None else inner + seen[:, :, None] * a.cover)
    return inner @ a.v, inner


def attend_backward(a, d):
    """From d.context, d.weights or None, d.coverage; adds to d.query, d.keys, d.values; for each row, d.v, d.cover."""

    def step(t):
        weights, seen = a.weights[t], None if a.coverage is None else a.coverage[t]
        d_weights = np.einsum("nm,snm->ns", d.context[t], a.values)
        if d.weights is not None:
            d_weights = d_weights + d.weights[t]
        if a.cover is not None:
            d_weights = d_weights + d.coverage
        score = weights * (d_weights - (weights * d_weights).sum(1, keepdims=True))
        d.values[...] += weights.T[:, :, None] * d.context[t]
        if a.v is None:
            d.query[t] += a.scale * np.einsum("ns,snk->nk", score, a.keys)
            d.keys[...] += a.scale * score.T[:, :, None] * a.query[t]
            if a.cover is not None:
                d.cover[:, 0] += (score * seen).sum(1)
                d.coverage[...] += score * a.cover[0]
            return
        inner = _score(a, t, seen)[1]
        d.v[...] += np.einsum("ns,nsk->nk", score, inner)
        d_inner = score[:, :, None] * a.v * (1 - inner * inner)
        d.query[t] += d_inner.sum(1)
        d.keys[...] += d_inner.swapaxes(0, 1)
        if a.cover is not None:
            d.cover[...] += np.einsum("ns,nsk->nk", seen, d_inner)
            d.coverage[...] += d_inner @ a.cover

    return step


def choose(text, words, rows):
    """A function of choices.py for the sentences 0 to `rows`; the arrays of `words` as it indexes them: flat."""
    flat = {k: v.reshape(-1) if isinstance(v, np.ndarray) else v for k, v in words.items()}

    def step(t):
        flat.update(t=t, logits=words["logits"][t].reshape(-1), norm=words["norm"][t].reshape(-1))
        text(SimpleNamespace(**flat), 0, rows)

    return step
