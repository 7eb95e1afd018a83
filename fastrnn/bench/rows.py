"""One row of a measurement: a workload, fastrnn's time and what follows from it, and each peer's."""

import statistics
from typing import Any

from fastrnn.bench import limits, on_device
from fastrnn.bench.process import Process, alternate
from fastrnn.bench.workloads import Workload


def key_of(w: Workload, threads: int) -> dict[str, Any]:
    return {"cell": w.cell, "pass": w.work, "dtype": w.dtype, "hidden": w.H, "input": w.I, "batch": w.N, "threads": threads}


def limits_of(device: str, dtype: str, threads: int) -> Any:
    return limits.measure(dtype, threads) if device == "cpu" else on_device.limits(dtype)


def row_of(w: Workload, threads: int, processes: list[Process], rounds: int, seconds: float) -> dict[str, Any]:
    """One measured workload; the first process is fastrnn's."""
    device = processes[0].device
    limit = limits_of(device, w.dtype, threads)
    floors: list[float] = []
    # as everything is measured, by turns: clocks move
    times = alternate(processes, w, rounds, seconds, lambda: floors.append(processes[0].floor(w, limit)))
    ours = times.pop("fastrnn")
    if ours is None:
        raise SystemExit(f"fastrnn: {processes[0].failed[w]}; please report this")
    floor, peers = statistics.median(floors), {}
    for process in processes[1:]:
        time = times[process.name]
        peers[process.name] = (
            {"error": process.failed[w]} if time is None
            else {"ms": time.seconds * 1e3, "spread": time.spread, "ratio": time.seconds / ours.seconds}
        )  # fmt: skip
    return key_of(w, threads) | {
        "T": w.T, "ms": ours.seconds * 1e3, "spread": ours.spread, "us_per_step": ours.seconds / w.T * 1e6,
        "sequences_per_s": w.N / ours.seconds, "gflops": w.flops / ours.seconds / 1e9, "limit_ms": floor * 1e3,
        "percent_of_limit": 100 * floor / ours.seconds, "peers": peers,
        "kept_bytes": kept_bytes(w) if device == "cpu" else None,
    }  # fmt: skip


def kept_bytes(w: Workload) -> int | None:
    """Of a training call's tape, which grows linearly with T: taken at two short lengths."""
    import fastrnn as fr

    if w.work != "training":
        return None
    layer = getattr(fr, w.cell.upper())(w.I, w.H, dtype=w.dtype, rng=0)
    one, two = (layer.forward(w._replace(T=T).x())[1].nbytes for T in (16, 32))
    return one + (two - one) * (w.T - 16) // 16


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row without its peers' inner dictionaries: torch_ms, torch_ratio and so on."""
    values = {key: value for key, value in row.items() if key != "peers"}
    return values | {f"{name}_{key}": value for name, peer in row["peers"].items() for key, value in peer.items()}


def failures(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each peer and reason."""
    peers = [pair for row in rows for pair in row["peers"].items()]
    return sorted({f"{name} failed: {peer['error']}" for name, peer in peers if "error" in peer})
