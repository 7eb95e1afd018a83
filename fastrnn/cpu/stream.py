"""One step at a time, for a server or a control loop: the forward kernel with everything laid out beforehand."""

from dataclasses import replace

from fastrnn.cell import Cell
from fastrnn.cpu.engine import Prepared, forward_words, kernel, team_for
from fastrnn.cpu.memory import empty, name_of, zeros
from fastrnn.cpu.rows import Rows
from fastrnn.cpu.target import padded
from fastrnn.cpu.threads import launch


class Stream:
    """The state of N rows of one layer; `x` is read and `y` written by `step`, all three allocated once."""

    def __init__(self, cell: Cell, prepared: Prepared, N: int):
        I, H, dtype = prepared.weights.w_ih.shape[1], prepared.weights.w_hh.shape[1], name_of(prepared.panels)
        Hp = padded(H, dtype)
        x, y, hs, end = zeros((N, I), dtype), zeros((N, H), dtype), zeros((2, N, Hp), dtype), empty((N, Hp), dtype)
        cs = zeros((2, N, Hp), dtype) if cell.memory else hs
        self.x, self.y, self._hs, self._cs, self._H, self._parity = x.array, y.array, hs.array, cs.array, H, 0
        # rows that never end: steps 0 and 1 by turns, so that the state moves between the two halves of its buffer
        rows = replace(Rows.of(4, N, None, False), steps=1)
        self._team = team_for(N, cell.n_gates, H, I + H, 1, dtype)
        states = {"hs": hs, "cs": cs, "h_n": end, "c_n": end}
        self._words, self._control, block, self._s0 = forward_words(
            cell, prepared, x, y, states, None, rows, self._team, (0, I, 0, H)
        )
        self._alive = (block, end, rows, prepared)  # the words hold addresses only
        self._kernel = kernel("forward", cell.name, dtype)

    def step(self) -> None:
        words, parity = self._words, self._parity
        words[self._s0], words[self._s0 + 1] = parity, parity + 1
        if self._team.by_units:
            self._control.array[:] = 0
        launch(self._kernel.address, words, self._team.size)
        self._parity = 1 - parity

    @property
    def h(self):
        """(N, H), a view."""
        return self._hs[self._parity, :, : self._H]

    @property
    def c(self):
        """(N, H), a view."""
        return self._cs[self._parity, :, : self._H]
