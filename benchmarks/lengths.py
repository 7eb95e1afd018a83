"""What a step costs in a call of 16 T steps, beside one of 16 calls of T steps: 1 where cost is proportional to length.

    python benchmarks/lengths.py --pass training --threads 1

Sixteen short calls one after the other and a long one take turns: they last as long, so what interrupts them does so as
often. A single short call, which may find a quiet moment, would make every long one look slow.
"""

import argparse
import statistics
import time

from fastrnn.bench.implementations import of_fastrnn
from fastrnn.bench.workloads import Workload
from fastrnn.cli import show

FACTOR = 16
# T, N, H
SIZES = [(256, 1, 64), (256, 1, 256), (256, 8, 128), (256, 32, 64), (1024, 1, 32), (1024, 4, 64)]


def ratios(cell, size, direction, threads, seconds):
    """Of each turn, the long call's time over the short ones'."""
    T, N, H = size
    short, long = (of_fastrnn(Workload(cell, steps, N, H, H, "float32", direction), threads) for steps in (T, FACTOR * T))
    short(), long()
    found, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or not found:
        start = time.perf_counter()
        for _ in range(FACTOR):
            short()
        between = time.perf_counter()
        long()
        found.append((time.perf_counter() - between) / (between - start))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", default="lstm,gru,rnn", help="which cells")
    parser.add_argument("--pass", dest="direction", choices=["inference", "training"], default="inference")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each size")
    options = parser.parse_args()
    cells, rows = options.cell.split(","), []
    with show.progress(len(cells) * len(SIZES)) as advance:
        for cell in cells:
            for size in SIZES:
                advance(f"{cell} T {size[0]}, N {size[1]}, H {size[2]}")
                found = ratios(cell, size, options.direction, options.threads, options.seconds)
                rows.append([cell, *map(str, size), f"{statistics.median(found):.3f}", str(len(found))])
    title = f"time({FACTOR} T) over {FACTOR} time(T), {options.direction}, float32, {show.threads(options.threads)}"
    show.table(title, ["cell", "T", "N", "H", "median", "turns"], rows)


if __name__ == "__main__":
    main()
