"""Both time loops in plain NumPy: the tests' oracle, the benchmarks' baseline, and the backend where nothing compiles.

x_t W_ihᵀ + b_ih and h_{t-1} W_hhᵀ + b_hh go to the cell; backward walks the same steps in the other order:
    dh_{t-1} = du_t W_hh (+ the cell's own path)    dx_t = dx W_ih    dW_ih = Σ dxᵀ x_t    dW_hh = Σ duᵀ h_{t-1}
Works in float32, float64 and complex numbers (a complex step through `forward` is an exact derivative).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrnn.cell import Cell
from fastrnn.contract import Gradients, Weights


@dataclass(frozen=True, eq=False)
class Tape:
    weights: Weights
    shape: tuple[int, int, int]  # T, N, I
    steps: list[tuple[Any, ...]]  # per step: rows, their times, x, h, c before the step, the cell's own tape

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        kept = [w for w in self.weights if w is not None]
        for *arrays, tape in self.steps:
            kept += [*arrays, *tape]
        return sum(array.nbytes for array in kept)


def prepare(cell: Cell, weights: Weights) -> Weights:
    return weights


def refresh(weights: Weights) -> None:
    """Nothing to do: they are used as they are."""


def forward(cell, weights, x, h0=None, c0=None, lengths=None, reverse=False, keep=False, y=None):
    T, N, _ = x.shape
    G, H = cell.n_gates, weights.w_hh.shape[1]
    dtype = np.result_type(x, *(w for w in (*weights, h0, c0) if w is not None))
    lengths = np.full(N, T) if lengths is None else lengths
    h = np.zeros((N, H), dtype) if h0 is None else h0.astype(dtype)
    c = np.zeros((N, H), dtype) if c0 is None else c0.astype(dtype)
    if not cell.memory:
        c = h.copy()
    y = np.empty((T, N, H), dtype) if y is None else y
    y[...] = 0
    steps = []
    for s in range(lengths.max(initial=0)):
        rows = np.flatnonzero(lengths > s)
        times = lengths[rows] - 1 - s if reverse else np.full(len(rows), s)
        x_t, h_prev, c_prev = x[times, rows], h[rows], c[rows]
        a = _affine(x_t, weights.w_ih, weights.b_ih).reshape(-1, G, H).swapaxes(0, 1)
        u = _affine(h_prev, weights.w_hh, weights.b_hh).reshape(-1, G, H).swapaxes(0, 1)
        h[rows], c[rows], tape = cell.forward(tuple(a), tuple(u), c_prev)
        y[times, rows] = h[rows]
        if keep:
            steps.append((rows, times, x_t, h_prev, c_prev, tape))
    return y, h, (c if cell.memory else None), (Tape(weights.map(np.copy), x.shape, steps) if keep else None)


def _affine(x, w, b):
    return x @ w.T if b is None else x @ w.T + b


def backward(cell, tape, dy=None, dh_n=None, dc_n=None):
    T, N, I = tape.shape
    w_ih, w_hh, b_ih, b_hh = tape.weights
    H, dtype = w_hh.shape[1], w_hh.dtype
    dy = np.zeros((T, N, H), dtype) if dy is None else dy
    dh = np.zeros((N, H), dtype) if dh_n is None else dh_n.copy()
    dc = np.zeros((N, H), dtype) if dc_n is None else dc_n.copy()
    dx = np.zeros((T, N, I), dtype)
    dw_ih, dw_hh = np.zeros_like(w_ih), np.zeros_like(w_hh)
    db_ih, db_hh = np.zeros(len(w_ih), dtype), np.zeros(len(w_hh), dtype)
    for rows, times, x_t, h_prev, c_prev, saved in reversed(tape.steps):
        da, du, dc_prev = cell.backward(dy[times, rows] + dh[rows], dc[rows], c_prev, saved)
        da, du = np.concatenate(da, axis=1), np.concatenate(du, axis=1)
        dx[times, rows] = da @ w_ih
        dh[rows], dc[rows] = du @ w_hh, dc_prev
        dw_ih += da.T @ x_t
        dw_hh += du.T @ h_prev
        db_ih += da.sum(0)
        db_hh += du.sum(0)
    if not cell.memory:
        dh, dc = dh + dc, None
    return Gradients(dx, dw_ih, dw_hh, db_ih if b_ih is not None else None, db_hh if b_hh is not None else None, dh, dc)


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

    def outgrown(self):
        return False


def stream(cell, weights, N):
    return Stream(cell, weights, N)


class Bound:
    """T steps of N rows from a zero state: `run` reads `x`, writes `y`, `h` and `c`."""

    def __init__(self, cell, weights, T, N):
        (H, I), dtype = (weights.w_hh.shape[1], weights.w_ih.shape[1]), weights.w_hh.dtype
        self._cell, self._weights = cell, weights
        self.x, self.y = np.zeros((T, N, I), dtype), np.zeros((T, N, H), dtype)
        self.h, self.c = np.zeros((N, H), dtype), np.zeros((N, H), dtype)

    def run(self):
        _, h, c, _ = forward(self._cell, self._weights, self.x, y=self.y)
        self.h[...] = h
        self.c[...] = h if c is None else c


def bound(cell, weights, T, N):
    return Bound(cell, weights, T, N)
