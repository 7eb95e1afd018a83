"""What a step costs in a call of 16 T steps, beside one of 16 calls of T steps: 1 where cost is proportional to length.

    python benchmarks/lengths.py --pass training --threads 1

Sixteen short calls one after the other and a long one take turns: they last as long, so what interrupts them does so as
often. A single short call, which may find a quiet moment, would make every long one look slow.
"""

import argparse
import statistics
import time
from itertools import product

from fastrnn.bench.implementations import of_fastrnn
from fastrnn.bench.workloads import GATES, Workload
from fastrnn.cli import arguments, show

FACTOR = 16
# T, N, H
SIZES = [(256, 1, 64), (256, 1, 256), (256, 8, 128), (256, 32, 64), (1024, 1, 32), (1024, 1, 64), (1024, 4, 64)]


def ratios(cell, size, work, threads, seconds):
    """Of each turn, the long call's time over the short ones'."""
    T, N, H = size
    short, long = (of_fastrnn(Workload(cell, steps, N, H, H, "float32", work), threads) for steps in (T, FACTOR * T))
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
    add = parser.add_argument
    add("--cell", type=arguments.chosen(tuple(GATES), "cell"), default="lstm,gru,rnn", help="default: lstm,gru,rnn")
    add("--pass", dest="work", choices=("inference", "training"), default="inference", help="default: inference")
    add("--threads", type=arguments.threads, default="1", metavar="K,...", help="default: 1")
    add("--seconds", type=float, default=5.0, help="for each size; default: 5")
    options = parser.parse_args()
    for threads in options.threads:
        rows = []
        with show.progress(len(options.cell) * len(SIZES)) as advance:
            for cell, size in product(options.cell, SIZES):
                advance(f"{cell} T {size[0]}, N {size[1]}, H {size[2]}")
                found = ratios(cell, size, options.work, threads, options.seconds)
                rows.append([cell, *map(str, size), f"{statistics.median(found):.3f}", str(len(found))])
        title = f"time({FACTOR} T) over {FACTOR} time(T), {options.work}, float32, {show.threads(threads)}"
        show.table(title, ["cell", "T", "N", "H", "median", "turns"], rows)


if __name__ == "__main__":
    main()
