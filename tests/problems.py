"""Problems of every shape: the arguments of one layer and direction, and the gradients that come into it."""

from dataclasses import dataclass, replace

import numpy as np

from fastrnn.cells import REGISTRY
from fastrnn.contract import Weights


@dataclass
class Problem:
    cell: str
    x: np.ndarray
    weights: Weights
    h0: np.ndarray
    c0: np.ndarray | None
    lengths: np.ndarray | None
    reverse: bool
    dy: np.ndarray
    dh_n: np.ndarray
    dc_n: np.ndarray | None

    def cast(self, dtype):
        to = lambda a: None if a is None else a.astype(dtype)  # noqa: E731
        arrays = {k: to(getattr(self, k)) for k in ("x", "h0", "c0", "dy", "dh_n", "dc_n")}
        return replace(self, weights=self.weights.map(to), **arrays)

    def run(self, backend):
        """Outputs and all gradients by name."""
        cell = REGISTRY[self.cell]
        prepared = backend.prepare(cell, self.weights)
        y, h_n, c_n, tape = backend.forward(cell, prepared, self.x, self.h0, self.c0, self.lengths, self.reverse, True)
        gradients = backend.backward(cell, tape, self.dy, self.dh_n, self.dc_n)
        found = {"y": y, "h_n": h_n, "c_n": c_n} | {f"d{k}": v for k, v in vars(gradients).items()}
        return {k: v for k, v in found.items() if v is not None}


def problem(cell, T, N, I, H, *, ragged=False, reverse=False, seed=0):
    """In double precision; weights as a fresh layer has them."""
    rng = np.random.default_rng(seed)
    G, memory = REGISTRY[cell].n_gates, REGISTRY[cell].memory
    weight = lambda *shape: rng.uniform(-1, 1, shape) * H**-0.5  # noqa: E731
    state = lambda: rng.uniform(-1, 1, (N, H))  # noqa: E731
    weights = Weights(weight(G * H, I), weight(G * H, H), weight(G * H), weight(G * H))
    lengths = rng.integers(0, T + 1, N) if ragged else None
    return Problem(
        cell, rng.normal(0, 1, (T, N, I)), weights, state(), state() if memory else None, lengths, reverse,
        rng.normal(0, 1, (T, N, H)), state(), state() if memory else None,
    )  # fmt: skip
