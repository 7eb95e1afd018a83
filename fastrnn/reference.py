"""Both time loops in plain NumPy: the tests' oracle, the benchmarks' baseline, and the backend where nothing compiles.

x_t W_ihᵀ + b_ih and h_{t-1} W_hhᵀ + b_hh go to the cell; backward walks the same steps in the other order:
    dh_{t-1} = du_t W_hh (+ the cell's own path)    dx_t = dx W_ih    dW_ih = Σ dxᵀ x_t    dW_hh = Σ duᵀ h_{t-1}
Works in float32, float64 and complex numbers (a complex step through `forward` is an exact derivative).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrnn.cell import Cell
from fastrnn.contract import Gradients, Lookup, Weights


@dataclass(frozen=True, eq=False)
class Tape:
    weights: Weights
    shape: tuple[int, int, int]  # T, N, I
    steps: list[tuple[Any, ...]]  # per step: rows, their times, x, h, c before the step, the cell's own tape
    looked_up: tuple[Any, int] | None  # of a lookup: its tokens (T, N), K

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        kept = [w for w in self.weights if w is not None]
        if self.looked_up is not None:
            kept.append(self.looked_up[0])
        for *arrays, tape in self.steps:
            kept += [*arrays, *tape]
        return sum(array.nbytes for array in kept)


def prepare(cell: Cell, weights: Weights) -> Weights:
    return weights


def refresh(weights: Weights) -> None:
    """Nothing to do: they are used as they are."""


class Forward:
    """The forward loop, a step at a time: `step(s)` for s from 0, then `finish()`.

    parents : (steps, N) the row that row n continues in step s, with its state and, fed back, its x; itself by default
    """

    def __init__(self, cell, weights, x, h0=None, c0=None, lengths=None, reverse=False, keep=False, y=None, lookup=None,
                 parents=None, fed_back=False):  # fmt: skip
        T, N, _ = x.shape
        H = weights.w_hh.shape[1]
        table = None if lookup is None else lookup.table
        dtype = np.result_type(x, *(w for w in (*weights, h0, c0, table) if w is not None))
        self.cell, self.x, self.keep, self.reverse, self.parents = cell, x, keep, reverse, parents
        self.weights = weights.map(np.copy) if keep else weights  # the tape's
        self.lookup, self.fed_back = lookup, fed_back
        self.lengths = np.full(N, T) if lengths is None else lengths
        self.h = np.zeros((N, H), dtype) if h0 is None else h0.astype(dtype)
        self.c = np.zeros((N, H), dtype) if c0 is None else c0.astype(dtype)
        if not cell.memory:
            self.c = self.h.copy()
        if y is None:
            y = np.zeros((T, N, H), dtype)
        elif lengths is not None:
            y[...] = 0
        self.y, self.steps = y, []

    def step(self, s):
        weights, cell = self.weights, self.cell
        G, H = cell.n_gates, weights.w_hh.shape[1]
        rows = np.flatnonzero(self.lengths > s)
        times = self.lengths[rows] - 1 - s if self.reverse else np.full(len(rows), s)
        before = rows if self.parents is None else self.parents[s]
        x_t, h_prev, c_prev = self.x[times, before if self.fed_back else rows], self.h[before], self.c[before]
        a = _affine(x_t, weights.w_ih, weights.b_ih)
        if self.lookup is not None:
            a = a + self.lookup.table[self.lookup.tokens[times, rows]]
        a = a.reshape(-1, G, H).swapaxes(0, 1)
        u = _affine(h_prev, weights.w_hh, weights.b_hh).reshape(-1, G, H).swapaxes(0, 1)
        self.h[rows], self.c[rows], tape = cell.forward(tuple(a), tuple(u), c_prev)
        self.y[times, rows] = self.h[rows]
        if self.keep:
            self.steps.append((rows, times, x_t, h_prev, c_prev, tape))

    def finish(self):
        """y, the states at the rows' ends, the tape."""
        looked_up = None if self.lookup is None else (np.array(self.lookup.tokens), len(self.lookup.table))
        tape = Tape(self.weights, self.x.shape, self.steps, looked_up) if self.keep else None
        return self.y, self.h, self.c if self.cell.memory else None, tape


def forward(cell, weights, x, h0=None, c0=None, lengths=None, reverse=False, keep=False, y=None, lookup=None):
    work = Forward(cell, weights, x, h0, c0, lengths, reverse, keep, y, lookup)
    for s in range(work.lengths.max(initial=0)):
        work.step(s)
    return work.finish()


def _affine(x, w, b):
    return x @ w.T if b is None else x @ w.T + b


class Backward:
    """The backward loop, a step at a time: `step(s)` from the last to the first, then `finish()`.

    dx : where the gradients of x go, (T, N, I); new ones by default
    """

    def __init__(self, cell, tape, dy=None, dh_n=None, dc_n=None, dx=None):
        T, N, I = tape.shape
        w_ih, w_hh, _, _ = tape.weights
        H, dtype = w_hh.shape[1], w_hh.dtype
        self.cell, self.tape = cell, tape
        self.dy = np.zeros((T, N, H), dtype) if dy is None else dy
        self.dh = np.zeros((N, H), dtype) if dh_n is None else dh_n.copy()
        self.dc = np.zeros((N, H), dtype) if dc_n is None else dc_n.copy()
        self.dx = np.zeros((T, N, I), dtype) if dx is None else dx
        self.dw_ih, self.dw_hh = np.zeros_like(w_ih), np.zeros_like(w_hh)
        self.db_ih, self.db_hh = np.zeros(len(w_ih), dtype), np.zeros(len(w_hh), dtype)
        # of a lookup
        self.sums = None if tape.looked_up is None else np.zeros((T, N, len(w_ih)), dtype)

    def step(self, s):
        rows, times, x_t, h_prev, c_prev, saved = self.tape.steps[s]
        da, du, dc_prev = self.cell.backward(self.dy[times, rows] + self.dh[rows], self.dc[rows], c_prev, saved)
        da, du = np.concatenate(da, axis=1), np.concatenate(du, axis=1)
        self.dx[times, rows] = da @ self.tape.weights.w_ih
        if self.sums is not None:
            self.sums[times, rows] = da
        self.dh[rows], self.dc[rows] = du @ self.tape.weights.w_hh, dc_prev
        self.dw_ih += da.T @ x_t
        self.dw_hh += du.T @ h_prev
        self.db_ih += da.sum(0)
        self.db_hh += du.sum(0)

    def finish(self):
        _, _, b_ih, b_hh = self.tape.weights
        dh, dc = (self.dh, self.dc) if self.cell.memory else (self.dh + self.dc, None)
        db_ih, db_hh = None if b_ih is None else self.db_ih, None if b_hh is None else self.db_hh
        if self.sums is None:
            return Gradients(self.dx, self.dw_ih, self.dw_hh, db_ih, db_hh, dh, dc)
        tokens, K = self.tape.looked_up
        table = np.zeros((K, len(self.dw_ih)), self.dw_ih.dtype)
        np.add.at(table, tokens, self.sums)
        return Gradients(self.dx, self.dw_ih, self.dw_hh, db_ih, db_hh, dh, dc, table, lambda: self.sums)


def backward(cell, tape, dy=None, dh_n=None, dc_n=None):
    work = Backward(cell, tape, dy, dh_n, dc_n)
    for s in reversed(range(len(tape.steps))):
        work.step(s)
    return work.finish()


class Stream:
    """The state of N rows of one layer: `step` reads `x` and writes `y`."""

    def __init__(self, cell, weights, N):
        (H, I), dtype = (weights.w_hh.shape[1], weights.w_ih.shape[1]), weights.w_hh.dtype
        self._cell, self._weights = cell, weights
        self.x, self.y, self.h = np.zeros((N, I), dtype), np.zeros((N, H), dtype), np.zeros((N, H), dtype)
        self.c = np.zeros((N, H), dtype)

    def step(self):
        c0 = self.c if self._cell.memory else None
        _, h, c, _ = forward(self._cell, self._weights, self.x[None], self.h, c0, y=self.y[None])
        self.h[...] = h
        self.c[...] = h if c is None else c


def stream(cell, weights, N):
    return Stream(cell, weights, N)


class Bound:
    """T steps of N rows from a zero state: `run` takes x or tokens and gives y; `h` and `c` are the state then."""

    def __init__(self, cell, weights, T, N, table=None):
        H, I = weights.w_hh.shape[1], weights.w_ih.shape[1]
        self._cell, self._weights, self._table = cell, weights, table
        self._no_x = np.zeros((T, N, I), weights.w_hh.dtype)
        self.h, self.c = np.zeros((N, H), weights.w_hh.dtype), np.zeros((N, H), weights.w_hh.dtype)

    def outgrown(self):
        return False

    def run(self, x):
        lookup = None
        if self._table is not None:
            x, lookup = self._no_x, Lookup(self._table, x)
        y, h, c, _ = forward(self._cell, self._weights, x, lookup=lookup)
        self.h[...] = h
        self.c[...] = h if c is None else c
        return y


def bound(cell, weights, T, N, table=None):
    return Bound(cell, weights, T, N, table)


class Training:
    """Calls of T steps of N rows from a zero state, with a tape."""

    def __init__(self, cell, weights, T, N):
        self._cell, self._weights = cell, weights

    def outgrown(self):
        return False

    def forward(self, x):
        return forward(self._cell, self._weights, x, keep=True)

    def fit(self, tape, dy):
        return True

    def backward(self, tape, dy):
        return backward(self._cell, tape, dy)


def training(cell, weights, T, N):
    return Training(cell, weights, T, N)
