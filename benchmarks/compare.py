"""fastrnn beside a peer: each in a process of its own, by turns; the ratio of medians is what counts.

    python benchmarks/compare.py --cell lstm,gru,rnn --work inference,training --threads 1,2

A ratio above 1: fastrnn is faster. Nothing else should run. Prints a row a shape, then the geometric mean and the worst.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

from workloads import SHAPES, Workload, standard


class Peer:
    """A peers.py process."""

    def __init__(self, name: str, threads: int):
        command = [sys.executable, str(Path(__file__).with_name("peers.py")), name, str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def time(self, workload: Workload) -> float:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(workload) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{workload}: the process ended")
        return float(answer)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def compare(ours: Peer, other: Peer, workload: Workload, rounds: int) -> tuple[float, float]:
    times = [(ours.time(workload), other.time(workload)) for _ in range(rounds)]
    return statistics.median(a for a, _ in times), statistics.median(b for _, b in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", default="lstm,gru,rnn", help="default: %(default)s")
    parser.add_argument("--work", default="inference,training", help="default: %(default)s")
    parser.add_argument("--threads", default="1,2", help="default: %(default)s")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument("--ours", default="fastrnn", choices=("fastrnn", "frozen"))
    parser.add_argument("--against", default="torch", choices=("torch",))
    parser.add_argument("--rounds", type=int, default=3, help="turns of each process; default: %(default)s")
    parser.add_argument("--shapes", help=f"numbers of the shapes to run, 0 to {len(SHAPES) - 1}; default: all")
    parser.add_argument("--json", help="write the table to this file, too")
    options = parser.parse_args()
    rows = []
    for threads in map(int, options.threads.split(",")):
        peers = Peer(options.ours, threads), Peer(options.against, threads)
        for cell in options.cell.split(","):
            for work in options.work.split(","):
                rows += table(*peers, standard(cell, work, options.dtype), threads, options)
        for peer in peers:
            peer.close()
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))


def table(ours: Peer, other: Peer, workloads: list[Workload], threads: int, options) -> list[dict]:
    chosen = range(len(workloads)) if options.shapes is None else map(int, options.shapes.split(","))
    rows = []
    for w in (workloads[k] for k in chosen):
        a, b = compare(ours, other, w, options.rounds)
        rows.append(w._asdict() | {"threads": threads, "ms": a * 1e3, "peer_ms": b * 1e3, "ratio": b / a})
        print(f"{w!s:42} {threads} threads {a * 1e3:10.3f} ms {w.flops / a / 1e9:6.0f} GFLOP/s   "
              f"{options.against} {b * 1e3:10.3f} ms   ratio {b / a:5.2f}", flush=True)  # fmt: skip
    ratios = [row["ratio"] for row in rows]
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    first = workloads[0]
    print(f"{first.cell} {first.work}, {threads} threads: geometric mean {mean:.2f}, worst {min(ratios):.2f}\n", flush=True)
    return rows


if __name__ == "__main__":
    main()
