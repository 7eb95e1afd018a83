"""A cell: one recurrence, as two pure functions on numbers.

    forward (x, u, c)          -> h, c', tape        x, u: tuples of pre-activations, one per gate (input, recurrent side)
    backward(dh, dc, c, tape)  -> dx, du, dc_prev    tape: private to the cell; loops know only its length

`h` is what the recurrence multiplies, `c` what is carried elementwise; a cell without a memory of its own carries `h`.
Matrix products belong to the loops: x = W_ih x_t + b_ih and u = W_hh h_{t-1} + b_hh are given.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Cell:
    """One recurrence: its name, its gates in PyTorch's order, and its equations."""

    name: str
    gates: str  # one letter a gate, in the order of the weights' rows
    memory: bool  # True: carries a c of its own (LSTM); False: c is h
    forward: Callable[..., Any]
    backward: Callable[..., Any]

    @property
    def n_gates(self) -> int:
        return len(self.gates)

    @cached_property
    def n_tape(self) -> int:
        """How many values a step keeps for backward, found by running one."""
        return len(self._trial[0])

    @cached_property
    def shares_gradient(self) -> bool:
        """Whether dx and du are one and the same (no gate multiplies u alone), found by running a step."""
        return self._trial[1]

    @cached_property
    def tapes_output(self) -> bool:
        """Whether all that a step keeps is its h, which the next step has anyway; found by running one."""
        return self._trial[2]

    @cached_property
    def _trial(self) -> tuple[tuple[Any, ...], bool, bool]:
        zero = np.zeros(1)
        gates = (zero,) * self.n_gates
        h, c, tape = self.forward(gates, gates, zero)
        dx, du, _ = self.backward(zero, zero, c, tape)
        return tape, dx is du, len(tape) == 1 and tape[0] is h
