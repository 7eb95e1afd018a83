"""The named workloads: what is timed, and on which data."""

from typing import NamedTuple

import numpy as np

GATES = {"lstm": 4, "gru": 3, "rnn": 1}


class Workload(NamedTuple):
    cell: str
    T: int
    N: int
    I: int
    H: int
    dtype: str
    work: str  # "inference" or "training" (forward and backward)

    def __str__(self) -> str:
        return f"{self.cell}-{self.work}-T{self.T}-N{self.N}-I{self.I}-H{self.H}-{self.dtype}"

    @property
    def flops(self) -> float:
        """Of the matrix products."""
        once = 2.0 * self.T * self.N * GATES[self.cell] * self.H * (self.I + self.H)
        return once * (3 if self.work == "training" else 1)

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """x (T, N, I) and dy (T, N, H)."""
        rng = np.random.default_rng(0)
        x, dy = rng.standard_normal((self.T, self.N, self.I)), rng.standard_normal((self.T, self.N, self.H))
        return (x / 2).astype(self.dtype), dy.astype(self.dtype)


# T, N, H; from a keyword spotter to an acoustic model
SHAPES = (
    (100, 1, 32), (100, 1, 64), (100, 1, 256), (100, 1, 512), (100, 1, 1024), (100, 8, 128), (100, 32, 128),
    (100, 64, 256), (100, 64, 512), (50, 128, 1024), (1000, 16, 64), (2000, 1, 32),
)  # fmt: skip


def standard(cell: str, work: str, dtype: str = "float32") -> list[Workload]:
    """The standard grid of a cell and pass, I = H."""
    return [Workload(cell, T, N, H, H, dtype, work) for T, N, H in SHAPES]
