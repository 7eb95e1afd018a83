"""Calls with everything laid out beforehand, for a server, a control loop or short steps of training.

`Bound` runs a short sequence from a zero state; `Stream` one time step after another; both read `x` and write `y`.
`Training` keeps a tape.
"""

from typing import Any

import numpy as np

from fastrnn.cell import Cell
from fastrnn.contract import Array, Lookup
from fastrnn.cpu.engine import Prepared, Tape, connect, connect_backward, keep_weights
from fastrnn.cpu.lending import Plan
from fastrnn.cpu.memory import Block, Layout
from fastrnn.cpu.plan import Backward, Shape, choice_of, forward_plan
from fastrnn.cpu.rows import Rows
from fastrnn.cpu.threads import get_num_threads, launch


class _Call:
    """The forward work of a call, taken for good."""

    def __init__(self, cell: Cell, prepared: Prepared, rows: Rows, steps: int, keep: bool):
        N, I, H = len(rows), prepared.weights.w_ih.shape[1], prepared.weights.w_hh.shape[1]
        self._rows, self._prepared = rows, prepared  # the words hold addresses only
        self._shape = Shape(cell.name, prepared.dtype, N, I, H, steps, N * steps, False, False)
        self._threads = get_num_threads()
        self._choice = choice_of(self._shape, keep, cell.n_gates, self._threads)
        self._team = self._choice.now()
        self._work = forward_plan(self._shape, keep, self._team).take()

    def outgrown(self) -> bool:
        """Whether other threads are right now than when this was laid out."""
        return get_num_threads() > self._threads or self._choice.now() is not self._team


class _Inference(_Call):
    """On an x (steps_of_x, N, I) and a y of its own."""

    def __init__(
        self, cell: Cell, prepared: Prepared, rows: Rows, steps: int, x_t: int, y_t: int, table: Array | None = None
    ):
        """table : of a lookup, whose tokens (steps_of_x, N) are the call's own as well"""
        super().__init__(cell, prepared, rows, steps, keep=False)
        _, dtype, N, I, H, *_ = self._shape
        work = self._work
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
        self._alive = (edges, lookup)

    def _launch(self, words) -> None:
        team, size = self._team, 1
        if team.size > 1:
            size = min(team.size, get_num_threads())  # which may be fewer by now
            if team.by_units:
                self._work.control[:] = 0
        launch(self._address, words, size)


class Bound(_Inference):
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


class Stream(_Inference):
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


class Training(_Call):
    """T steps of N rows from a zero state with a tape, whose memory serves the next call."""

    def __init__(self, cell: Cell, prepared: Prepared, T: int, N: int):
        super().__init__(cell, prepared, Rows.of(T, N, None, False), T, keep=True)
        _, dtype, _, I, H, *_ = self._shape
        work, edges = self._work, Block(Layout({"y": ((T, N, H), dtype)}))
        assert work.tape is not None
        self._block = block = Block(work.tape)
        connect(work, prepared, self._rows, block)
        # x goes to the tape at once
        self._x, self._y = block["x"].reshape(T, N, I), edges["y"]
        work.task.set(x=block.at("x"), y=edges.at("y"), x_t=N * I, x_n=I, y_t=N * H, y_n=H)
        states = [block[name] for name in ("hs", "cs")[: 1 + cell.memory]]
        for state in states:
            state[:N] = 0  # before the first step, where nothing is written
        self._ends = [state[work.ends :, :H] for state in states]
        *_, b_ih, b_hh = prepared.weights
        self._biases = b_ih is not None, b_hh is not None
        self._backward_choice = choice_of(self._shape, True, 1, self._threads)
        self._backward_team = self._backward_choice.now()
        self._backward = Plan(self._connected)

    def outgrown(self) -> bool:
        return super().outgrown() or self.plan_of_backward() is None

    def forward(self, x: Array, loan: Any) -> tuple[Array, Array, Array | None, Tape]:
        """loan : of this call, for the tape, which must not be overwritten while somebody has it"""
        self._x[...] = x
        self._work.run()
        keep_weights(self._work, self._prepared, self._block)
        h, *c = [end.copy() for end in self._ends]
        tape = Tape(self._rows, self._block, self._biases, self._shape, self._shape.steps, loan=loan)
        return self._y.copy(), h, c[0] if c else None, tape

    def plan_of_backward(self) -> Plan[Backward] | None:
        """Of works that know the tape; None where other threads are right by now."""
        same = get_num_threads() == self._threads and self._backward_choice.now() is self._backward_team
        return self._backward if same else None

    def _connected(self) -> Backward:
        work = Backward(self._shape, self._biases, self._backward_team)
        connect_backward(work, self._rows, self._block)
        return work
