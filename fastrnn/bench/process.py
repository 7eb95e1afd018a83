"""Each implementation in a process of its own, by turns: two pools of spinning threads in one process spoil each other.

python -m fastrnn.bench.process torch 2 cpu    implementation, threads, device; requests and answers are lines of JSON
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

from fastrnn.bench.implementations import TABLES, Unsupported, check
from fastrnn.bench.limits import Limits
from fastrnn.bench.workloads import Workload

SECONDS = 0.25  # spent on one answer
_REST = 0.05  # seconds before a turn: the threads of the turn before spin for a while
_WARM = 0.05  # seconds of calls that are not timed: threads that have slept find their cores again


class Timing(NamedTuple):
    """Of several turns: the median of their medians, and (largest - smallest) / median."""

    seconds: float
    spread: float


class Process:
    """An implementation at a number of threads, or on a device, started when first asked."""

    def __init__(self, name: str, threads: int, device: str = "cpu"):
        self.name, self.threads, self.device = name, threads, device
        self._child: subprocess.Popen[str] | None = None
        self.failed: dict[Workload, str] = {}

    def time(self, w: Workload, seconds: float = SECONDS) -> float | None:
        """Seconds of one call; None where it fails, with the reason in `failed`. The answer is checked the first time."""
        if w in self.failed:
            return None
        try:
            answer = self._ask({"workload": w, "seconds": seconds})
        except (OSError, ValueError):
            answer = {"error": f"the process ended, exit status {self.close()}"}
        if "error" in answer:
            self.failed[w] = answer["error"]
            return None
        return float(answer["seconds"])

    def floor(self, w: Workload, limits: Limits) -> float:
        """Seconds that a workload takes at least, by what this process finds now on the cores where it runs; on a device by
        its data."""
        if self.device != "cpu":
            return limits.floor(w)
        return float(self._ask({"workload": w, "limits": asdict(limits)})["seconds"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._child is None:
            environment = os.environ | TABLES[self.device][self.name].environment(self.threads)
            command = [sys.executable, "-m", "fastrnn.bench.process", self.name, str(self.threads), self.device]
            # a session of its own: Ctrl-C is the parent's to handle
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                env=environment, start_new_session=True,
            )  # fmt: skip
        assert self._child.stdin and self._child.stdout
        self._child.stdin.write(json.dumps(request) + "\n")
        self._child.stdin.flush()
        return json.loads(self._child.stdout.readline())

    def close(self) -> int | None:
        """End the process; its exit status."""
        child, self._child = self._child, None
        if child is None:
            return None
        assert child.stdin and child.stdout
        child.stdout.close()  # it stops at the end of its input, or at once when it answers
        with contextlib.suppress(OSError):
            child.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(timeout=1)
        child.kill()
        return child.wait()


def alternate(
    processes: list[Process], w: Workload, rounds: int, seconds: float = SECONDS, behind: Callable[[], Any] | None = None
) -> dict[str, Timing | None]:
    """The time of each implementation, by turns; None for one that fails. behind : what is done after the first's turns"""
    found: dict[str, list[float]] = {process.name: [] for process in processes}
    for _ in range(rounds):
        for process in processes:
            time.sleep(_REST if process.threads > 1 else 0)
            value = process.time(w, seconds)
            if value is not None:
                found[process.name].append(value)
                if process is processes[0] and behind is not None:
                    behind()
    return {name: _timing(values) if len(values) == rounds else None for name, values in found.items()}


def _timing(values: list[float]) -> Timing:
    middle = statistics.median(values)
    return Timing(middle, (max(values) - min(values)) / middle)


def median(call: Callable[[], Any], seconds: float, least: int = 1) -> float:
    """The median time of a call that is repeated for `seconds`, and `least` times."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    name, threads, device = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    last, call = None, None
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is not an answer
    for line in sys.stdin:
        request = json.loads(line)
        w = Workload(*request["workload"])
        try:
            if "limits" in request:
                seconds = Limits(**request["limits"]).now(w)
            else:
                if w != last:
                    check(name, w, threads, device)
                    last, call = w, TABLES[device][name].make(w, threads)
                median(call, _WARM if threads > 1 else 0.0)  # type: ignore[arg-type]
                seconds = median(call, request["seconds"])  # type: ignore[arg-type]
            answer: dict[str, Any] = {"seconds": seconds}
        except Unsupported as problem:
            last, answer = None, {"error": str(problem)}
        except Exception as problem:
            text = str(problem).strip().splitlines() or [""]
            last, answer = None, {"error": f"{type(problem).__name__}: {text[0]}"[:200]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
