"""Calls with everything laid out beforehand, for a server or a control loop: what is left is the kernel.

`Bound` runs a short sequence from a zero state; `Stream` one time step after another. Both read `x` and write `y`.
"""

import numpy as np

from fastrnn.cell import Cell
from fastrnn.contract import Array, Lookup
from fastrnn.cpu.engine import Prepared, connect
from fastrnn.cpu.memory import Block, Layout
from fastrnn.cpu.plan import Shape, choice_of, forward_plan
from fastrnn.cpu.rows import Rows
from fastrnn.cpu.threads import get_num_threads, launch


class _Call:
    """The work of a call, taken for good, on an x (steps_of_x, N, I) and a y of its own."""

    def __init__(
        self, cell: Cell, prepared: Prepared, rows: Rows, steps: int, x_t: int, y_t: int, table: Array | None = None
    ):
        """table : of a lookup, whose tokens (steps_of_x, N) are the call's own as well"""
        N, I, H, dtype = len(rows), prepared.weights.w_ih.shape[1], prepared.weights.w_hh.shape[1], prepared.dtype
        shape = Shape(cell.name, dtype, N, I, H, steps, N * steps, False, False)
        self._threads = get_num_threads()
        self._choice = choice_of(shape, False, cell.n_gates, self._threads)
        self._team = self._choice.now()
        self._work = work = forward_plan(shape, False, self._team).take()
        edges = Block(Layout({"x": ((steps, N, I), dtype), "y": ((steps, N, H), dtype)}))
        lookup = None if table is None else Lookup(table, np.zeros((steps, N), np.intp))
        connect(work, prepared, rows, work.block, lookup)
        self.tokens = None if lookup is None else lookup.tokens
        work.task.set(x=edges.at("x"), y=edges.at("y"), x_t=x_t, x_n=I, y_t=y_t, y_n=H, s0=0, s1=steps)
        self.x, self.y = edges["x"], edges["y"]
        # before even and odd steps, and at the end
        self._hs = work.block["hs"].reshape(3, N, -1)
        self._cs = work.block["cs"].reshape(3, N, -1) if cell.memory else self._hs
        for array in (self.x, self.y, self._hs, self._cs):
            array[...] = 0
        self._H, self._address = H, work.task.address
        self._alive = (edges, rows, prepared, lookup)  # the words hold addresses only

    def outgrown(self) -> bool:
        """Whether other threads are right now than when this was laid out."""
        return get_num_threads() > self._threads or self._choice.now() is not self._team

    def _launch(self, words) -> None:
        size = self._team.size
        if size > 1:
            size = min(size, get_num_threads())  # which may be fewer by now
        if self._team.by_units:
            self._work.control[:] = 0
        launch(self._address, words, size)


class Bound(_Call):
    """T steps of N rows from a zero state: `run` reads x (T, N, I) and tokens (T, N), writes y (T, N, H), h and c (N, H)."""

    def __init__(self, cell: Cell, prepared: Prepared, T: int, N: int, table: Array | None = None):
        I, H = prepared.weights.w_ih.shape[1], prepared.weights.w_hh.shape[1]
        super().__init__(cell, prepared, Rows.of(T, N, None, False), T, N * I, N * H, table)
        self._before = [states[0] for states in (self._hs, self._cs)[: 1 + cell.memory]]
        self.h, self.c = self._hs[2, :, :H], self._cs[2, :, :H]
        self._words = self._work.task.words

    def run(self) -> None:
        for state in self._before:
            state.fill(0)
        self._launch(self._words)


class Stream(_Call):
    """The state of N rows; `step` reads x (N, I), writes y (N, H) and moves h and c on."""

    def __init__(self, cell: Cell, prepared: Prepared, N: int):
        # rows that never end: steps 0 and 1 by turns, so that the state moves between the two halves of its buffer
        super().__init__(cell, prepared, Rows.of(4, N, None, False), 1, 0, 0)
        self.x, self.y = self.x[0], self.y[0]
        self._words, task = [], self._work.task
        for s in (0, 1):
            task.set(s0=s, s1=s + 1)
            self._words.append(task.words.copy())
        self._parity = 0

    def step(self) -> None:
        self._launch(self._words[self._parity])
        self._parity = 1 - self._parity

    @property
    def h(self):
        """(N, H), a view."""
        return self._hs[self._parity, :, : self._H]

    @property
    def c(self):
        """(N, H), a view."""
        return self._cs[self._parity, :, : self._H]
