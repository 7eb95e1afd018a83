"""The named workloads: what is timed, on which data, and how much work it is."""

import re
from typing import Any, NamedTuple

import numpy as np

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
DTYPES = ("float32", "float64")
DEVICE_DTYPES = (*DTYPES, "float16", "bfloat16")
PASSES = ("inference", "training", "step")
_NAME = re.compile(r"(\w+)-(\w+)-T(\d+)-N(\d+)-I(\d+)-H(\d+)-(\w+)")


class Workload(NamedTuple):
    """A cell, a size, and a pass: inference (y), training (forward, backward), step (one step of a stream, T = 1)."""

    cell: str
    T: int
    N: int
    I: int
    H: int
    dtype: str = "float32"
    work: str = "inference"

    def __str__(self) -> str:
        return f"{self.cell}-{self.work}-T{self.T}-N{self.N}-I{self.I}-H{self.H}-{self.dtype}"

    @property
    def flops(self) -> float:
        """Of the matrix products; backward has two for each one of forward."""
        once = 2.0 * self.T * self.N * GATES[self.cell] * self.H * (self.I + self.H)
        return once * (3 if self.work == "training" else 1)

    @property
    def weight_bytes(self) -> int:
        """Of the recurrent weights, which every step reads."""
        return GATES[self.cell] * self.H**2 * (2 if self.dtype in ("float16", "bfloat16") else np.dtype(self.dtype).itemsize)

    @property
    def host_dtype(self) -> str:
        """The type that its numbers are made in."""
        return self.dtype if self.dtype in DTYPES else "float32"

    def x(self) -> np.ndarray:
        """(T, N, I)"""
        return (_random(0, (self.T, self.N, self.I)) / 2).astype(self.host_dtype)

    def dy(self) -> np.ndarray:
        """(T, N, H), the gradient that training starts from."""
        return _random(1, (self.T, self.N, self.H)).astype(self.host_dtype)

    def weights(self) -> list[np.ndarray]:
        """w_ih, w_hh, b_ih, b_hh, in PyTorch's layout, distributed as PyTorch's."""
        rows, bound = GATES[self.cell] * self.H, self.H**-0.5
        rng = np.random.default_rng(2)
        return [
            rng.uniform(-bound, bound, s).astype(self.host_dtype) for s in ((rows, self.I), (rows, self.H), (rows,), (rows,))
        ]

    def brief(self, T: int = 16) -> "Workload":
        """The same with at most T steps, on which an answer is checked."""
        return self._replace(T=min(self.T, T))


def _random(seed: int, shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def parse(name: str) -> Workload:
    """The workload of that name; ValueError where there is none."""
    found = _NAME.fullmatch(name)
    if not found or found[1] not in GATES or found[2] not in PASSES or found[7] not in DEVICE_DTYPES:
        raise ValueError(f"workload: got {name!r}, wanted something like lstm-inference-T100-N64-I512-H512-float32")
    T, N, I, H = (int(size) for size in found.group(3, 4, 5, 6))
    if min(T, N, I, H) < 1:
        raise ValueError(f"workload: got {name!r}, wanted sizes from 1")
    return Workload(found[1], T, N, I, H, found[7], found[2])


# T, N, H; from a keyword spotter to an acoustic model
SHAPES = (
    (100, 1, 32), (100, 1, 64), (100, 1, 256), (100, 1, 512), (100, 1, 1024), (100, 8, 128), (100, 32, 128),
    (100, 64, 256), (100, 64, 512), (50, 128, 1024), (1000, 16, 64), (2000, 1, 32),
)  # fmt: skip
QUICK = (0, 2, 5, 6, 10)  # of SHAPES: a little of everything
ODD = ((33, 3, 7, 65), (10, 13, 40, 100), (257, 5, 129, 31), (1, 1, 1, 1), (20000, 1, 16, 24))  # T, N, I, H


def standard(cell: str, work: str, dtype: str = "float32", quick: bool = False) -> list[Workload]:
    """The standard grid of a cell and pass, I = H."""
    shapes = [SHAPES[k] for k in QUICK] if quick else SHAPES
    if work == "step":
        sizes = dict.fromkeys((N, H) for _, N, H in shapes)
        return [Workload(cell, 1, N, H, H, dtype, work) for N, H in sizes]
    return [Workload(cell, T, N, H, H, dtype, work) for T, N, H in shapes]


def _groups() -> dict[str, list[Workload]]:
    passes = [(cell, work) for work in ("inference", "training") for cell in GATES]
    return {
        "standard": [w for cell, work in passes for w in standard(cell, work)],
        # the defaults of PyTorch's own benchmarks/fastrnns
        "fastrnns": [Workload(cell, 100, 64, 512, 512, work=work) for cell, work in passes],
        "length": [Workload(cell, 2**k, 1, 64, 64, work=work) for cell, work in passes for k in range(4, 17, 2)],
        "batch": [Workload(cell, 64, N, 128, 128, work=work) for cell, work in passes for N in (1, 2, 4, 8, 16, 64, 256)],
        "odd": [Workload(cell, *size, work=work) for cell, work in passes for size in ODD],
        "float64": [w for cell, work in passes for w in standard(cell, work, "float64", quick=True)],
        "step": [w for cell in GATES for w in standard(cell, "step")],
    }


GROUPS = _groups()
