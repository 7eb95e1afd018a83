"""This machine's limits, measured with the package's own inner loop, and the time below which a workload cannot go.

floor = max(flops / peak, steps * Σ bytes of recurrent weights / bandwidth of the nearest cache that has room for them)
"""

import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from fastrnn.bench.workloads import Workload

_DEPTH = 256  # terms of a sum in the test of the peak
_SECONDS, _TURNS = 0.02, 12
_PAUSE = 0.02  # seconds between turns: a neighbour that takes a core for a moment does not spoil them all
_MOST = 16 << 20  # bytes that a test of a cache reads


@dataclass(frozen=True)
class Limits:
    """Of `threads` threads together."""

    dtype: str
    threads: int
    flops: float  # a second, of fused multiply-adds (two each)
    sizes: dict[str, int]  # level -> bytes of it that a thread has
    bandwidth: dict[str, float]  # level -> bytes a second read

    def reading(self, size: float) -> float:
        """Seconds in which every thread reads `size` bytes of its own, once more: each level has kept what it can."""
        seconds, inside = 0.0, 0.0
        for name, held in self.sizes.items():
            part = min(size, held) - inside
            seconds, inside = seconds + part * self.threads / self.bandwidth[name], inside + part
        return seconds

    def floor(self, w: Workload) -> float:
        """Seconds that a workload takes at least: what its products, or its reads of the recurrent weights, need."""
        passes = 2 if w.work == "training" else 1
        # with few rows the threads divide the units, with many the rows, and each reads all weights
        shared = 4 * self.threads > w.N
        read = self.reading(w.weight_bytes / (self.threads if shared else 1))
        return max(w.flops / self.flops, read * w.T * passes)

    def as_dict(self) -> dict[str, Any]:
        return {
            "dtype": self.dtype, "threads": self.threads, "gflops": self.flops / 1e9,
            "bandwidth_gb_s": {name: value / 1e9 for name, value in self.bandwidth.items()}, "bytes": self.sizes,
        }  # fmt: skip


def describe(limit: dict[str, Any]) -> str:
    """Limits (as a dictionary) in a line."""
    read = ", ".join(f"{level} {value:.0f}" for level, value in limit["bandwidth_gb_s"].items())
    return f"{limit['gflops']:.0f} GFLOP/s; reading weights, GB/s: {read}"


@cache
def measure(dtype: str, threads: int) -> Limits:
    """Measure them: three seconds or so."""
    from fastrnn.cpu import caches
    from fastrnn.cpu.target import lanes, panels_at_once, tile_rows

    held = caches.sizes()
    # a cache that threads share holds a part for each
    sizes = {"L1": held["L1"], "L2": held["L2"], "L3": held["L3"] // threads}
    item = np.dtype(dtype).itemsize
    line, rows = 4 * lanes(dtype), tile_rows(4)
    flops = 2 * rows * line * _DEPTH * threads / _best(dtype, threads, rows, _DEPTH)
    bandwidth = {}
    # half of a level is well inside it; what a host's tenants share may be large: weights are not; beyond the last: memory
    probes = {name: min(size // 2, _MOST) for name, size in sizes.items()} | {"memory": min(2 * held["L3"], 128 << 20)}
    for name, size in probes.items():
        term = panels_at_once(1) * line * item
        depth = max(1, size // term)
        bandwidth[name] = depth * term * threads / _best(dtype, threads, 1, depth)
    return Limits(dtype, threads, flops, sizes | {"memory": 1 << 62}, bandwidth)


def _best(dtype: str, threads: int, rows: int, depth: int) -> float:
    """Seconds of one product, of the quickest of several turns: the limit is what the machine can do undisturbed.

    rows : one, which reads `depth` terms of several panels, or as many as a tile has
    """
    from fastrnn.cpu import compiled
    from fastrnn.cpu.memory import Block, Layout
    from fastrnn.cpu.probe import NAME, PROBE
    from fastrnn.cpu.target import lanes, panels_at_once
    from fastrnn.cpu.threads import launch

    line = 4 * lanes(dtype)
    size = depth * line if rows == 1 else line
    block = Block(Layout({
        "a": ((depth,), dtype), "b": ((threads * panels_at_once(1) * size,), dtype), "zero": ((2 * line,), dtype),
        "c": ((threads * 8 * line,), dtype), "offsets": ((8,), "intp"),
    }))  # fmt: skip
    for name in ("a", "b", "zero", "offsets"):
        block[name][...] = 0
    task = compiled.task(
        "probe", NAME, dtype, PROBE, **{name: block.at(name) for name in ("a", "b", "zero", "c", "offsets")},
        rows=rows, depth=depth, repeats=1, apart=size,
    )  # fmt: skip

    def run(repeats: int) -> float:
        task.set(repeats=repeats)
        start = time.perf_counter()
        launch(task.address, task.words, threads)
        return (time.perf_counter() - start) / repeats

    # by doubling: a launch takes longer than many a product, longest where it has to start or wake the threads
    repeats = 1
    while True:
        if min(run(repeats) for _ in range(3)) * repeats >= _SECONDS / 2:
            turns = []
            for _ in range(_TURNS):
                turns.append(run(repeats))
                time.sleep(_PAUSE)
            # shorter turns would time launches: it was something else that took long before
            if min(turns) * repeats >= _SECONDS / 4:
                return min(turns)
        repeats *= 2
