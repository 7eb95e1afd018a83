"""Where the time of a call goes, and how it grows with the sequence: a + b T."""

import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fastrnn.bench.implementations import of_fastrnn
from fastrnn.bench.workloads import Workload

PARTS = ("input product", "recurrent product and gates", "backward loop", "weight gradients", "input gradient", "packing",
         "overhead")  # fmt: skip
_SECONDS, _LEAST = 0.1, 3


def parts(w: Workload, threads: int) -> dict[str, float]:
    """Seconds of each part of a call of the layer, which add up to the median time of the call.

    The input's product is what the loop takes longer than the same loop with a single input; the overhead is what is
    left: Python, memory, copies.
    """
    total, found = _observe(w, threads)
    recurrent = min(found["loop"], _observe(w._replace(I=1), threads)[1]["loop"])
    values = {
        "input product": found["loop"] - recurrent,
        "recurrent product and gates": recurrent,
        **{part: found[part] for part in ("backward loop", "weight gradients", "input gradient", "packing")},
    }
    values["overhead"] = max(0.0, total - sum(values.values()))
    return values


def _observe(w: Workload, threads: int) -> tuple[float, dict[str, float]]:
    """The median time of a call, and of each kind of kernel within one."""
    from fastrnn.cpu.threads import num_threads, observed

    with num_threads(threads):
        kinds, call = _Kinds(w), of_fastrnn(w, threads)
        call()
        totals: list[float] = []
        calls: list[dict[str, float]] = []
        end = time.perf_counter() + _SECONDS
        with observed(lambda address, _, seconds: kinds.add(calls[-1], address, seconds)):
            while len(totals) < _LEAST or time.perf_counter() < end:
                calls.append(dict.fromkeys(kinds.names, 0.0))
                start = time.perf_counter()
                call()
                totals.append(time.perf_counter() - start)
    return statistics.median(totals), {name: statistics.median(c[name] for c in calls) for name in kinds.names}


class _Kinds:
    """Which part a launch belongs to, by the address of its kernel."""

    names = ("loop", "backward loop", "weight gradients", "input gradient", "packing")

    def __init__(self, w: Workload):
        from fastrnn.cpu.compiled import kernel

        cell = {"rnn": "rnn_tanh"}.get(w.cell, w.cell)
        kinds = {("forward", cell): "loop"}
        if w.work == "training":
            kinds |= {
                ("backward", cell): "backward loop",
                ("gemm", ""): "weight gradients",
                ("linear", ""): "input gradient",
            }
        self._parts = {kernel(*kind, w.dtype).address: part for kind, part in kinds.items()}

    def add(self, sums: dict[str, float], address: int, seconds: float) -> None:
        sums[self._parts.get(address, "packing")] += seconds


class Model(NamedTuple):
    """seconds = a + b T"""

    a: float
    b: float
    error: float  # root mean square of the relative residuals

    def meets(self, other: "Model") -> float | None:
        """The T from which `other` is quicker and stays so; None where there is none."""
        if other.b >= self.b:
            return None
        return max(0.0, (other.a - self.a) / (self.b - other.b))


def fit(lengths: Sequence[int], seconds: Sequence[float]) -> Model:
    """Least squares of the relative errors; two lengths at least."""
    t, T = np.asarray(seconds, float), np.asarray(lengths, float)
    matrix = np.stack([1 / t, T / t], axis=1)
    (a, b), *_ = np.linalg.lstsq(matrix, np.ones(len(t)), rcond=None)
    return Model(float(a), float(b), float(np.sqrt(np.mean((matrix @ (a, b) - 1) ** 2))))
