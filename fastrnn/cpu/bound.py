"""Calls with everything laid out beforehand, for a server, a control loop or short steps of training.

`Bound` runs sequences of a shape from a zero state; `Stream` one time step after another, reads `x` and writes `y`;
`Training` keeps a tape.
"""

import numpy as np

from fastrnn.cell import Cell
from fastrnn.contract import Array, Gradients, Lookup
from fastrnn.cpu.engine import Prepared, Tape, connect, gradients_of, keep_tape
from fastrnn.cpu.lending import Plan
from fastrnn.cpu.memory import Block, Layout, address_of, empty
from fastrnn.cpu.plan import Backward, Shape, choice_of, forward_plan
from fastrnn.cpu.rows import Rows
from fastrnn.cpu.team import Team
from fastrnn.cpu.threads import get_num_threads, launch

_COPIED = 1 << 13  # numbers of x, or of y, that are copied sooner than their address is found


class _Call:
    """The forward work of a call, taken for good."""

    def __init__(self, cell: Cell, prepared: Prepared, rows: Rows, steps: int, keep: bool):
        N, I, H = len(rows), prepared.weights.w_ih.shape[1], prepared.weights.w_hh.shape[1]
        self._rows, self._prepared = rows, prepared  # the words hold addresses only
        self._shape = Shape(cell.name, prepared.dtype, N, I, H, steps, N * steps, False, False)
        self._threads = get_num_threads()
        self._choice = choice_of(self._shape, keep, cell.n_gates, self._threads)
        self._team = self._choice.now()
        self._work = forward_plan(self._shape, keep, self._team, self._threads).take()

    def outgrown(self) -> bool:
        """Whether other threads are right now than when this was laid out."""
        return get_num_threads() > self._threads or self._choice.now() is not self._team


class _Inference(_Call):
    """Without a tape, from a zero state."""

    def __init__(self, cell: Cell, prepared: Prepared, rows: Rows, steps: int, t: int, lookup: Lookup | None = None):
        """t : rows of x and of y from a step to the next"""
        super().__init__(cell, prepared, rows, steps, keep=False)
        _, dtype, N, I, H, *_ = self._shape
        work, x_t, y_t = self._work, t * I, t * H
        work.tell_states(work.block)
        connect(work, prepared, rows, lookup)
        work.task.set(s0=0, s1=steps, x_t=x_t, x_n=I, y_t=y_t, y_n=H)
        # before even and odd steps, and at the end
        self._hs = work.block["hs"].reshape(3, N, -1)
        self._cs = work.block["cs"].reshape(3, N, -1) if cell.memory else self._hs
        for states in (self._hs, self._cs):
            states[...] = 0
        self._H, self._dtype, self._address = H, dtype, work.task.address
        self._lookup = lookup  # the words hold addresses only

    def _zeros(self, piece: str, shape: tuple[int, ...]) -> Array:
        """An array of the call's own, told as that piece of its arguments."""
        block = Block(Layout({piece: (shape, self._dtype)}))
        self._work.task.set(**{piece: block.at(piece)})
        array = block[piece]
        array[...] = 0
        return array

    def _launch(self, words) -> None:
        team, size = self._team, 1
        if team.size > 1:
            size = min(team.size, get_num_threads())  # which may be fewer by now
            if team.by_units:
                self._work.control[:] = 0
        launch(self._address, words, size)


class Bound(_Inference):
    """T steps of N rows from a zero state, after which h and c (N, H) are the state."""

    def __init__(self, cell: Cell, prepared: Prepared, T: int, N: int, table: Array | None = None):
        lookup = None if table is None else Lookup(table, np.zeros((T, N), np.intp))
        super().__init__(cell, prepared, Rows.of(T, N, None, False), T, N, lookup)
        (_, _, _, I, H, *_), task = self._shape, self._work.task
        few = T * N * max(I, H) <= _COPIED
        self._own_x = self._zeros("x", (T, N, I)) if few or table is not None else None
        self._own_y = self._zeros("y", (T, N, H)) if few else None
        self._before = [states[0] for states in (self._hs, self._cs)[: 1 + cell.memory]]
        self.h, self.c = self._hs[2, :, :H], self._cs[2, :, :H]
        self._words, self._x, self._y, self._shape_of_y = task.words, task.place("x"), task.place("y"), (T, N, H)

    def run(self, x: Array) -> Array:
        """y (T, N, H). x : (T, N, I) of any strides; the tokens (T, N) of a lookup, whose x is zero."""
        words, y = self._words, self._own_y
        if self._lookup is not None:
            self._lookup.tokens[...] = x
        elif self._own_x is not None:
            self._own_x[...] = x
        else:
            x = x if x.flags.c_contiguous and x.flags.aligned else x.copy()
            words[self._x] = address_of(x)
        if y is None:
            y = empty(self._shape_of_y, self._dtype)
            words[self._y] = address_of(y)
        for state in self._before:
            state.fill(0)
        self._launch(words)
        return y.copy() if self._own_y is not None else y


class Stream(_Inference):
    """The state of N rows; `step` reads x (N, I), writes y (N, H) and moves h and c on."""

    def __init__(self, cell: Cell, prepared: Prepared, N: int):
        # rows that never end: steps 0 and 1 by turns, so that the state moves between the two halves of its buffer
        super().__init__(cell, prepared, Rows.of(4, N, None, False), 1, 0)
        self.x, self.y = (self._zeros(piece, (N, size)) for piece, size in zip("xy", self._shape[3:5], strict=True))
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
    """T steps of N rows from a zero state with a tape, and the gradients of such tapes."""

    def __init__(self, cell: Cell, prepared: Prepared, T: int, N: int):
        super().__init__(cell, prepared, Rows.of(T, N, None, False), T, keep=True)
        self._cell = cell
        (_, dtype, _, I, H, *_), work, task = self._shape, self._work, self._work.task
        assert work.tape is not None
        self._tape = work.tape
        connect(work, prepared, self._rows)
        task.set(x_t=N * I, x_n=I, y_t=N * H, y_n=H)
        self._words, self._x, self._y, self._shape_of_y = task.words, task.place("x"), task.place("y"), (T, N, H)
        self._dtype, self._names = dtype, ("hs", "cs")[: 1 + cell.memory]
        self._choice_back = choice_of(self._shape, True, 1, self._threads)
        self._team_back = self._choice_back.now()
        biases = prepared.weights.b_ih is not None, prepared.weights.b_hh is not None
        self._returning = _returning(self._shape, biases, self._rows, self._team_back)

    def outgrown(self) -> bool:
        other = get_num_threads() != self._threads or self._choice_back.now() is not self._team_back
        return other or super().outgrown()

    def forward(self, x: Array) -> tuple[Array, Array, Array | None, Tape]:
        """y, h_n, c_n, the tape. x : (T, N, I) of any strides"""
        x = x if x.flags.c_contiguous and x.flags.aligned else x.copy()
        work, words, (_, N, H) = self._work, self._words, self._shape_of_y
        block, y = Block(self._tape), empty(self._shape_of_y, self._dtype)
        work.tell_states(block)
        words[self._x], words[self._y] = address_of(x), address_of(y)
        states = [block[name] for name in self._names]
        for state in states:
            state[:N] = 0  # before the first step
        work.run()
        h, *c = [state[work.ends :, :H].copy() for state in states]
        return y, h, c[0] if c else None, keep_tape(self._prepared, self._rows, block, self._shape, self._shape.steps)

    def fit(self, tape: Tape, dy: Array) -> bool:
        """Whether `backward` is for this tape and dy, by the threads of now."""
        flags, plain = dy.flags, tape.rows is self._rows and tape.looked_up is None
        return plain and flags.c_contiguous and flags.aligned and not self.outgrown()

    def backward(self, tape: Tape, dy: Array) -> Gradients:
        """The gradients, of a tape and dy (T, N, H) that fit."""
        work = self._returning.take()
        work.states.fill(0)
        work.task.words[work.task.place("dy")] = address_of(dy)
        gradients = gradients_of(self._cell, tape, work)
        self._returning.give(work)
        return gradients


def _returning(shape: Shape, biases: tuple[bool, bool], rows: Rows, team: Team) -> Plan[Backward]:
    """The backward work of calls of a shape, which knows the rows and how far apart those of dy are."""

    def make() -> Backward:
        work = Backward(shape, biases, team)
        work.task.set(**rows.places, y_t=shape.N * shape.H, y_n=shape.H)
        return work

    return Plan(make)
