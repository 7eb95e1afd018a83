"""The rows of a batch in the order in which the loops take them, and back."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrnn.contract import Array


@dataclass(frozen=True, eq=False)
class Rows:
    """The batch in the order of the loops: sorted by length, the longest first."""

    order: Array  # (N,) sorted row -> row
    length: Array  # (N,) of the sorted rows
    steps: int  # the longest
    ragged: bool
    reverse: bool

    @classmethod
    def of(cls, T: int, N: int, lengths: Array | None, reverse: bool) -> "Rows":
        if lengths is None or (lengths == T).all():
            return cls(np.arange(N), np.full(N, T), T if N else 0, False, reverse)
        order = np.argsort(-lengths, kind="stable")
        length = lengths[order]
        return cls(order, length, int(length[0]), True, reverse)

    @property
    def total(self) -> int:
        return int(self.length.sum())

    def tape_index(self) -> tuple[Any, Any]:
        """(t, n) of every row of the tape, in its order: step by step, the rows still running."""
        active = (self.length[None, :] > np.arange(self.steps)[:, None]).sum(1)
        step = np.repeat(np.arange(self.steps), active)
        m = np.arange(self.total) - np.repeat(np.cumsum(active) - active, active)
        return (self.length[m] - 1 - step if self.reverse else step), self.order[m]

    def gather(self, x: Array) -> Array:
        """x (T, N, I) as the rows of the tape (total, I), a copy."""
        if self.ragged:
            return np.ascontiguousarray(x[self.tape_index()])
        return (x[::-1] if self.reverse else x).reshape(-1, x.shape[2]).copy()

    def scatter(self, rows: Array, T: int) -> Array:
        """The inverse of gather; zero where no row runs."""
        N = len(self.order)
        if self.ragged:
            x = np.zeros((T, N, rows.shape[1]), rows.dtype)
            x[self.tape_index()] = rows
            return x
        x = rows.reshape(T, N, -1)
        return np.ascontiguousarray(x[::-1]) if self.reverse else x

    def sort(self, state: Array | None, into: Array) -> None:
        """The state's rows (N, H) in sorted order, padded with zeros."""
        into[:, into.shape[1] if state is None else state.shape[1] :] = 0
        if state is None:
            into[...] = 0
        else:
            into[:, : state.shape[1]] = state[self.order] if self.ragged else state

    def unsort(self, state: Array, H: int) -> Array:
        if not self.ragged:
            return state[:, :H].copy()
        out = np.empty((len(self.order), H), state.dtype)
        out[self.order] = state[:, :H]
        return out
