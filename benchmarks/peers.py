"""One implementation in a process of its own: reads workloads as JSON lines, answers with seconds.

    python benchmarks/peers.py fastrnn 2        implementation, threads

The first call is not timed; what fastrnn computes is checked against the reference in double precision before it is.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from workloads import Workload

SECONDS = 0.25  # spent on one answer
TOLERANCE = {"float32": 1e-4, "float64": 1e-11}


def of_torch(w: Workload, threads: int) -> Callable[[], object]:
    import torch

    torch.set_num_threads(threads)
    x, dy = (torch.from_numpy(a) for a in w.data())
    layer = getattr(torch.nn, w.cell.upper())(w.I, w.H, dtype=getattr(torch, w.dtype))
    if w.work == "inference":

        def inference():
            with torch.no_grad():
                return layer(x)

        return inference
    x.requires_grad_(True)

    def training():
        layer.zero_grad()
        x.grad = None
        layer(x)[0].backward(dy)

    return training


def of_fastrnn(w: Workload, threads: int, frozen: bool = False) -> Callable[[], object]:
    import fastrnn as fr

    fr.set_num_threads(threads)
    x, dy = w.data()
    layer = getattr(fr, w.cell.upper())(w.I, w.H, dtype=w.dtype, rng=0)
    _check(layer, x, TOLERANCE[w.dtype])
    if w.work == "inference":
        call = layer.freeze() if frozen else layer
        return lambda: call(x)

    def training():
        (_, _), tape = layer.forward(x)
        return layer.backward(tape, dy)

    return training


def _check(layer, x, tolerance):
    """Compare a short run with the reference in double precision."""
    from fastrnn import reference
    from fastrnn.cells import REGISTRY
    from fastrnn.contract import Weights

    x = x[:20]
    exact = Weights(*(layer.params[k].astype(np.float64) for k in layer._keys(0, 0)))
    want = reference.forward(REGISTRY[layer._cell], exact, x.astype(np.float64))[0]
    worst = abs(layer(x)[0] - want).max()
    if not worst < tolerance:
        raise SystemExit(f"wrong answer: off by {worst}")


def median(call: Callable[[], object]) -> float:
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


IMPLEMENTATIONS = {
    "fastrnn": of_fastrnn,
    "frozen": lambda w, threads: of_fastrnn(w, threads, frozen=True),
    "torch": of_torch,
}


def main() -> None:
    name, threads = sys.argv[1], int(sys.argv[2])
    last, call = None, None
    for line in sys.stdin:
        w = Workload(*json.loads(line))
        if w != last:
            last, call = w, IMPLEMENTATIONS[name](w, threads)
            call()
        print(median(call), flush=True)


if __name__ == "__main__":
    main()
