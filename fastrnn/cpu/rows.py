"""The rows of a batch in the order in which the loops take them, and back."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from fastrnn.contract import Array
from fastrnn.cpu.memory import Block, Layout


@dataclass(frozen=True, eq=False)
class Rows:
    """Sorted by length, the longest first."""

    N: int
    block: Block  # order (N,), sorted row -> row; length (N,), of the sorted rows; same (N,), 0 to N - 1
    shortest: int
    steps: int  # the longest
    total: int  # the sum
    ragged: bool
    reverse: bool

    @classmethod
    def of(cls, T: int, N: int, lengths: Array | None, reverse: bool) -> "Rows":
        if lengths is None or (lengths == T).all():
            return _dense(T, N, reverse)
        order = np.argsort(-lengths, kind="stable")
        length = lengths[order]
        return Rows(N, _table(order, length), int(length[-1]), int(length[0]), int(length.sum()), True, reverse)

    @cached_property
    def places(self) -> dict[str, int]:
        """Where a loop finds the order and the lengths, by its words."""
        return {name: self.block.at(name) for name in ("order", "length")}

    @property
    def order(self) -> Array:
        return self.block["order"]

    @property
    def length(self) -> Array:
        return self.block["length"]

    def __len__(self) -> int:
        return self.N

    def tape_index(self) -> tuple[Any, Any]:
        """(t, n) of every row of the tape, in its order: step by step, the rows still running."""
        length = self.length
        ends = np.bincount(length, minlength=self.steps + 1)
        active = (len(self) - np.cumsum(ends))[: self.steps]
        step = np.repeat(np.arange(self.steps), active)
        m = np.arange(self.total) - np.repeat(np.cumsum(active) - active, active)
        return (length[m] - 1 - step if self.reverse else step), self.order[m]

    def gather(self, x: Array, into: Array) -> None:
        """Copy x (T, N, I) as the rows of the tape (total, I)."""
        if self.ragged:
            into[...] = x[self.tape_index()]
        else:
            into.reshape(x.shape)[...] = x[::-1] if self.reverse else x

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
        into[:, : state.shape[1]] = state[self.order] if self.ragged else state
        into[:, state.shape[1] :] = 0

    def unsort(self, state: Array, H: int) -> Array:
        if not self.ragged:
            return state[:, :H].copy()
        out = np.empty((len(self), H), state.dtype)
        out[self.order] = state[:, :H]
        return out


def _table(order: Array, length: Array) -> Block:
    size = ((len(order),), "intp")
    block = Block(Layout({"order": size, "length": size, "same": size}))
    block["order"][...], block["length"][...], block["same"][...] = order, length, np.arange(len(order))
    return block


@lru_cache(64)
def _dense(T: int, N: int, reverse: bool) -> Rows:
    steps = T if N else 0
    return Rows(N, _table(np.arange(N), np.full(N, T)), T, steps, T * N, False, reverse)
