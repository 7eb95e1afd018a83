"""The rows of a batch in the order in which the loops take them: sorted by length, step by step the ones that still run."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastrnn.contract import Array
from fastrnn.cuda.scalars import device, place


class Loop(NamedTuple):
    """The numbers that a kernel over the steps of a batch is told."""

    N: int
    H: int  # numbers of a row
    steps: int  # of the longest row
    groups: int = 1  # that rows are divided in: gridDim.y
    reverse: int = 0
    given: int = 0  # forward: whether there is a b_hh; backward: a dy
    width: int = 0  # numbers of a row that blocks pass each other
    room: int = 0  # for how many of a group's there is memory, where that is memory of its own


@dataclass(frozen=True, eq=False)
class Rows:
    """table : first packed row of each step, (steps + 1); sorted row -> row, (N); lengths of the sorted rows, (N)"""

    table: Array
    N: int
    steps: int
    total: int  # the sum of the lengths
    ragged: bool
    reverse: bool

    @classmethod
    def of(cls, T: int, N: int, lengths: Array | None, reverse: bool) -> "Rows":
        if lengths is None or (lengths == T).all():
            return _dense(T, N, reverse)
        return _rows(lengths, True, reverse)

    def loop(self, H: int, groups: int = 1, given: bool = False, width: int = 0, room: int = 0) -> Loop:
        return Loop(self.N, H, self.steps, groups, int(self.reverse), int(given), width, room)


def _rows(lengths: Array, ragged: bool, reverse: bool) -> Rows:
    order = np.argsort(-lengths, kind="stable")
    steps = int(lengths.max(initial=0))
    active = len(lengths) - np.cumsum(np.bincount(lengths, minlength=steps + 1))[:steps]
    table = np.concatenate([[0], np.cumsum(active), order, lengths[order]]).astype(np.int64)
    return Rows(table, len(lengths), steps, int(lengths.sum()), ragged, reverse)


@lru_cache(64)
def _dense(T: int, N: int, reverse: bool) -> Rows:
    return _rows(np.full(N, T), False, reverse)


@device
def row_of(q, tables, row):
    """In a kernel: which row a sorted one is, and its length."""
    return tables[place(q.steps + 1 + row)], tables[place(q.steps + 1 + q.N + row)]


@device
def of_group(count, groups, group):
    """In a loop: how many of a step's `count` rows are that group's: those from its number on, one in every `groups`."""
    return (count - group + groups - 1) // groups
