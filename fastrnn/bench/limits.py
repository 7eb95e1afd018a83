"""This machine's limits, measured with the package's own inner loop, and the time below which a workload cannot go.

floor = max(flops / peak, steps * Σ bytes of recurrent weights / bandwidth of the nearest cache that has room for them)
"""

import time
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from fastrnn.bench.workloads import Workload

_DEPTH = 256  # terms of a sum in the test of the peak
_SECONDS, _TURNS, _FEW = 0.02, 12, 3
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
        return sum(part * self.threads / self.bandwidth[name] for name, part in self._parts(size).items())

    def _parts(self, size: float) -> dict[str, float]:
        """Level -> how many of `size` bytes it has kept, each what the one before it has no room for."""
        parts, inside = {}, 0.0
        for name, held in self.sizes.items():
            parts[name] = min(size, held) - inside
            inside += parts[name]
        return parts

    def floor(self, w: Workload) -> float:
        """Seconds that a workload takes at least: what its products, or its reads of the recurrent weights, need."""
        passes = 2 if w.work == "training" else 1
        return max(w.flops / self.flops, self.reading(self._read(w)) * w.T * passes)

    def _read(self, w: Workload) -> float:
        """Bytes of recurrent weights that each thread reads in a step."""
        # with few rows the threads divide the units, with many the rows, and each reads all weights
        return w.weight_bytes / (self.threads if 4 * self.threads > w.N else 1)

    def now(self, w: Workload) -> float:
        """The floor by what the machine gives at this moment: its clock moves with what else its host does, by a fifth."""
        bandwidth = dict(self.bandwidth)
        for name, part in self._parts(self._read(w)).items():
            if part > 0 and name != "memory":
                bandwidth[name] = _reading(self.dtype, self.threads, self.sizes[name]).rate()
        return replace(self, flops=_computing(self.dtype, self.threads).rate(), bandwidth=bandwidth).floor(w)

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
    """Measure them, of what the machine can do undisturbed: three seconds or so."""
    from fastrnn.cpu import caches

    held = caches.sizes()
    # a cache that threads share holds a part for each
    sizes = {"L1": held["L1"], "L2": held["L2"], "L3": held["L3"] // threads}
    probes = {name: _reading(dtype, threads, size) for name, size in sizes.items()}
    # beyond the last cache: memory; what it reads is not kept
    probes["memory"] = _Probe(dtype, threads, size=min(2 * held["L3"], 128 << 20))
    bandwidth = {name: probe.best() for name, probe in probes.items()}
    return Limits(dtype, threads, _computing(dtype, threads).best(), sizes | {"memory": 1 << 62}, bandwidth)


@cache
def _computing(dtype: str, threads: int) -> "_Probe":
    return _Probe(dtype, threads)


@cache
def _reading(dtype: str, threads: int, held: int) -> "_Probe":
    """Of a level that holds so many bytes: half of them are well inside; what a host's tenants share may be large, while
    weights are not."""
    return _Probe(dtype, threads, size=min(held // 2, _MOST))


class _Probe:
    """A product that is repeated: of a tile, all within registers, whose rate is operations a second; or, of a given size,
    of a single row, that reads as many bytes, whose rate is bytes a second. Of `threads` threads together."""

    def __init__(self, dtype: str, threads: int, size: int = 0):
        from fastrnn.cpu import compiled
        from fastrnn.cpu.memory import Block, Layout
        from fastrnn.cpu.probe import NAME, PROBE
        from fastrnn.cpu.target import lanes, panels_at_once, tile_rows

        line, many, item = 4 * lanes(dtype), panels_at_once(1), np.dtype(dtype).itemsize
        depth, rows = (max(1, size // (many * line * item)), 1) if size else (_DEPTH, tile_rows(4))
        self._work = threads * depth * line * (many * item if size else 2 * rows)
        self._threads, apart = threads, depth * line if size else line
        self._block = block = Block(Layout({
            "a": ((depth,), dtype), "b": ((threads * many * apart,), dtype), "zero": ((2 * line,), dtype),
            "c": ((threads * 8 * line,), dtype), "offsets": ((8,), "intp"),
        }))  # fmt: skip
        for name in ("a", "b", "zero", "offsets"):
            block[name][...] = 0
        self._task = compiled.task(
            "probe", NAME, dtype, PROBE, **{name: block.at(name) for name in ("a", "b", "zero", "c", "offsets")},
            rows=rows, depth=depth, repeats=1, apart=apart,
        )  # fmt: skip
        self._repeats = self._enough()

    def _turn(self, repeats: int) -> float:
        """Seconds of so many products."""
        from fastrnn.cpu.threads import launch

        self._task.set(repeats=repeats)
        start = time.perf_counter()
        launch(self._task.address, self._task.words, self._threads)
        return time.perf_counter() - start

    def _enough(self) -> int:
        """How many products a turn repeats. By doubling: a launch takes longer than many a product, longest where it has to
        start or wake the threads."""
        repeats = 1
        while min(self._turn(repeats) for _ in range(3)) < _SECONDS / 2:
            repeats *= 2
        return repeats

    def best(self) -> float:
        """The rate of the quickest of several turns: the limit is what the machine can do undisturbed."""
        while True:
            turns = []
            for _ in range(_TURNS):
                turns.append(self._turn(self._repeats))
                time.sleep(_PAUSE)
            # shorter turns would time launches: it was something else that took long before
            if min(turns) >= _SECONDS / 4:
                return self._rate(min(turns))
            self._repeats *= 2

    def rate(self) -> float:
        """The rate now: of a few turns the quickest, for one alone may have been disturbed."""
        return self._rate(min(self._turn(self._repeats) for _ in range(_FEW)))

    def _rate(self, seconds: float) -> float:
        return self._work * self._repeats / seconds
