"""What a backend is given and what it gives back. Every backend is a module with these functions:

    prepare (cell, weights)                                      -> its own form of the weights, to be used many times
    refresh (prepared)                                           -> None: takes the weights' arrays as they are now
    forward (cell, prepared, x, h0, c0, lengths, reverse, keep)  -> y, h_n, c_n, tape (None unless keep)
    backward(cell, tape, dy, dh_n, dc_n)                         -> Gradients
    stream  (cell, prepared, N)                                  -> x, y, h, c: arrays; step(): x -> y, h, c
    bound   (cell, prepared, T, N, table)                        -> T steps from a zero state: run(x) -> y, then h, c; and
                                                                    outgrown(): whether a new one would use other threads;
                                                                    with the table of a lookup, run takes its tokens
    training(cell, prepared, T, N)                               -> the same with a tape: forward(x) -> y, h_n, c_n, tape;
                                                                    backward(tape, dy) -> Gradients where fit(tape, dy)

Arguments are checked before they get here: x (T, N, I) of any strides, h0 and c0 (N, H) or None, lengths (N,) int64 or
None. `forward` also takes `y=`, a (T, N, H) view to write to, and `lookup=`, a Lookup. A tape says its `nbytes`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class Weights(NamedTuple):
    """The parameters of one layer and direction, PyTorch's layout."""

    w_ih: Array  # (G*H, I)
    w_hh: Array  # (G*H, H)
    b_ih: Array | None = None  # (G*H,)
    b_hh: Array | None = None  # (G*H,)

    def without(self, inputs: int) -> "Weights":
        """Without the columns of the first inputs and without their bias: what is left when their sums are looked up."""
        return Weights(np.ascontiguousarray(self.w_ih[:, inputs:]), self.w_hh, None, self.b_hh)

    def map(self, function: Callable[[Array], Array]) -> "Weights":
        """function of each of them that there is."""
        b_ih, b_hh = (None if b is None else function(b) for b in (self.b_ih, self.b_hh))
        return Weights(function(self.w_ih), function(self.w_hh), b_ih, b_hh)


class Lookup(NamedTuple):
    """What is added to an input's sums W_ih x + b_ih of step t of row n: table[tokens[t, n]]."""

    table: Array  # (K, G*H)
    tokens: Array  # (T, N) integers


@dataclass(eq=False)
class Gradients:
    """Gradients of one layer, each of the shape of what it is the gradient of; None where there was no such argument."""

    x: Array  # (T, N, I)
    w_ih: Array  # (G*H, I)
    w_hh: Array  # (G*H, H)
    b_ih: Array | None  # (G*H,)
    b_hh: Array | None  # (G*H,)
    h0: Array  # (N, H)
    c0: Array | None = None  # (N, H), cells with a memory
    table: Array | None = None  # (K, G*H), of a lookup's table
    sums: "Callable[[], Array] | None" = None  # () -> (T, N, G*H), of the sums that a lookup added to

    def __repr__(self) -> str:
        shapes = (f"{name}: {np.shape(value)}" for name, value in vars(self).items() if value is not None)
        return f"Gradients({', '.join(shapes)})"
