"""The rows of a batch in the order in which the loops take them, and back."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from fastrnn.contract import Array
from fastrnn.cpu.memory import Piece, empty


@dataclass(frozen=True, eq=False)
class Rows:
    """Sorted by length, the longest first."""

    order: Piece  # (N,) sorted row -> row
    length: Piece  # (N,) of the sorted rows
    steps: int  # the longest
    total: int  # the sum
    ragged: bool
    reverse: bool

    @classmethod
    def of(cls, T: int, N: int, lengths: Array | None, reverse: bool) -> "Rows":
        if lengths is None or (lengths == T).all():
            return _dense(T, N, reverse)
        rows = _rows(T, N, reverse, True, int(lengths.max()), int(lengths.sum()))
        rows.order.array[...] = np.argsort(-lengths, kind="stable")
        rows.length.array[...] = lengths[rows.order.array]
        return rows

    def __len__(self) -> int:
        return len(self.order.array)

    def tape_index(self) -> tuple[Any, Any]:
        """(t, n) of every row of the tape, in its order: step by step, the rows still running."""
        length = self.length.array
        ends = np.bincount(length, minlength=self.steps + 1)
        active = (len(self) - np.cumsum(ends))[: self.steps]
        step = np.repeat(np.arange(self.steps), active)
        m = np.arange(self.total) - np.repeat(np.cumsum(active) - active, active)
        return (length[m] - 1 - step if self.reverse else step), self.order.array[m]

    def gather(self, x: Array) -> Array:
        """x (T, N, I) as the rows of the tape (total, I), a copy."""
        if self.ragged:
            return np.ascontiguousarray(x[self.tape_index()])
        return (x[::-1] if self.reverse else x).copy().reshape(self.total, x.shape[2])

    def scatter(self, rows: Array, T: int) -> Array:
        """The inverse of gather; zero where no row runs."""
        if self.ragged:
            x = np.zeros((T, len(self), rows.shape[1]), rows.dtype)
            x[self.tape_index()] = rows
            return x
        x = rows.reshape(T, len(self), rows.shape[1])
        return np.ascontiguousarray(x[::-1]) if self.reverse else x

    def sort(self, state: Array | None, into: Array) -> None:
        """The state's rows (N, H) in sorted order, padded with zeros; zero where there is no state."""
        if state is None:
            into[...] = 0
            return
        into[:, : state.shape[1]] = state[self.order.array] if self.ragged else state
        into[:, state.shape[1] :] = 0

    def unsort(self, state: Array, H: int) -> Array:
        if not self.ragged:
            return state[:, :H].copy()
        out = np.empty((len(self), H), state.dtype)
        out[self.order.array] = state[:, :H]
        return out


def _rows(T: int, N: int, reverse: bool, ragged: bool, steps: int, total: int) -> Rows:
    return Rows(empty((N,), "intp"), empty((N,), "intp"), steps, total, ragged, reverse)


@lru_cache(64)
def _dense(T: int, N: int, reverse: bool) -> Rows:
    rows = _rows(T, N, reverse, False, T if N else 0, T * N)
    rows.order.array[...] = np.arange(N)
    rows.length.array[...] = T
    return rows
