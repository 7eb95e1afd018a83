"""One step at a time, for a server or a control loop: the forward kernel with everything laid out beforehand."""

import numpy as np

from fastrnn.cell import Cell
from fastrnn.cpu.engine import Prepared, forward_words, kernel, team_for
from fastrnn.cpu.rows import Rows
from fastrnn.cpu.target import padded
from fastrnn.cpu.threads import launch
from fastrnn.cpu.memory import empty, zeros


class Stream:
    """The state of N rows of one layer; `x` is read and `y` written by `step`, all three allocated once."""

    def __init__(self, cell: Cell, prepared: Prepared, N: int):
        I, H, dtype = prepared.weights.w_ih.shape[1], prepared.weights.w_hh.shape[1], prepared.weights.w_hh.dtype.name
        self.x, self.y = zeros((N, I), dtype), zeros((N, H), dtype)
        self._H, self._N, self._parity = H, N, 0
        self._hs = zeros((2, N, padded(H, dtype)), dtype)
        self._cs = zeros(self._hs.shape, dtype) if cell.memory else self._hs
        end = empty((N, padded(H, dtype)), dtype)
        # rows that never end: steps 0 and 1 by turns, so that the state moves between the two halves of its buffer
        rows = Rows(np.arange(N), np.full(N, 4), 1, False, False)
        self._team = team_for(N, cell.n_gates, H, I + H, 1, dtype)
        self._control = np.zeros(64, np.intp)
        self._words, self._alive, self._step_at = forward_words(
            cell, prepared, self.x[None], self._hs, self._cs, end, end, None, self.y[None], rows, self._team, self._control
        )
        self._kernel = kernel("forward", cell.name, dtype)

    def step(self) -> None:
        words, parity = self._words, self._parity
        words[self._step_at], words[self._step_at + 1] = parity, parity + 1
        if self._team.by_units:
            self._control[:] = 0
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
