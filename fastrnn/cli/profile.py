"""How throughput goes with sequence length on this machine, beside the NumPy reference."""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np

import fastrnn as fr
from fastrnn import reference
from fastrnn.cells import REGISTRY
from fastrnn.cli.arguments import CELLS, chosen, sizes
from fastrnn.contract import Weights

_SECONDS = 0.15  # spent on one figure
_PATIENCE = 0.5  # seconds that one call of the reference may take; beyond, it is left out
_AGREEMENT = {"float32": 1e-4, "float64": 1e-10}
_COLUMNS = (
    ("cell", "cell", "{}"), ("batch", "batch", "{}"), ("threads", "threads", "{}"), ("T", "T", "{}"),
    ("time", "ms", "{:.3f}"),
    ("a step", "us_per_step", "{:.2f} µs"), ("sequences/s", "sequences_per_s", "{:,.0f}"), ("GFLOP/s", "gflops", "{:.1f}"),
    ("NumPy", "reference_ms", "{:.1f}"), ("ratio", "ratio", "{:.1f}"),
)  # fmt: skip


def add_arguments(parser) -> None:
    parser.add_argument("--cell", type=chosen(tuple(CELLS), "cell"), default="lstm", help="lstm, gru, rnn; default: lstm")
    parser.add_argument("--hidden", type=int, default=256, help="H; default: 256")
    parser.add_argument("--input", type=int, default=256, help="I; default: 256")
    parser.add_argument("--batch", type=sizes, default="1,32", help="N, one or several; default: 1,32")
    parser.add_argument(
        "--lengths", type=sizes, default="16:1024", help="T, 10,100 or 16:1024 (powers of two); default: 16:1024"
    )
    parser.add_argument("--pass", dest="work", choices=("inference", "training"), default="inference")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--threads", type=sizes, default=None, help="one or several; default: all that fastrnn may use")


def run(options) -> int:
    threads = options.threads or [fr.get_num_threads()]
    wrong = [name for name in ("hidden", "input") if getattr(options, name) < 1]
    if wrong:
        print(f"fastrnn profile: argument --{wrong[0]}: wanted a number from 1", file=sys.stderr)
        return 2
    try:
        for n in threads:
            with fr.num_threads(n):
                pass
    except ValueError as problem:
        print(f"fastrnn profile: argument --threads: {problem}", file=sys.stderr)
        return 2
    cases = [(c, n, k, t) for c in options.cell for n in options.batch for k in threads for t in options.lengths]
    rows: list[dict[str, Any]] = []
    status = 0
    try:
        for done, case in enumerate(_tracked(cases)):
            rows.append(measure(options, case, rows))
            if not options.json:
                _print_row(rows[-1], first=done == 0)
    except KeyboardInterrupt:
        status = 130
    if options.json:
        print(json.dumps(rows, indent=1))
    return status


def _tracked(cases: list[Any]) -> Iterator[Any]:
    """The cases one by one, with a progress bar where somebody looks and rich is installed."""
    bar: Any = nullcontext()
    try:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        if console.is_terminal and not sys.stdout.isatty():
            bar = Progress(console=console, transient=True)
    except ImportError:
        pass
    with bar as progress:
        task = progress.add_task("measuring", total=len(cases)) if progress else None
        for case in cases:
            yield case
            if progress:
                progress.advance(task)


def measure(options, case: tuple[str, int, int, int], previous: list[dict[str, Any]]) -> dict[str, Any]:
    """One row: fastrnn, and the reference where it is quick enough; the answers are compared first."""
    name, N, threads, T = case
    H, I, dtype = options.hidden, options.input, options.dtype
    cell = REGISTRY[CELLS[name]]
    layer = getattr(fr, name.upper())(I, H, dtype=dtype, rng=0)
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((T, N, I)).astype(dtype), rng.standard_normal((T, N, H)).astype(dtype)
    weights = Weights(*layer.params.values())
    training = options.work == "training"

    def ours() -> Any:
        if training:
            _, tape = layer.forward(x)
            return layer.backward(tape, dy)
        return layer(x)

    def numpys() -> Any:
        _, _, _, tape = reference.forward(cell, weights, x, keep=training)
        return reference.backward(cell, tape, dy) if training else None

    with fr.num_threads(threads):
        if not previous:
            print(f"compiling for {dtype} (once; later runs load from the cache) ...", file=sys.stderr, flush=True)
        _agree(layer, cell, weights, x[:16], _AGREEMENT[dtype])
        seconds = _median(ours)
    slow = _reference_seconds(numpys, [r for r in previous if (r["cell"], r["batch"]) == (name, N)], T)
    flops = 2.0 * T * N * cell.n_gates * H * (I + H) * (3 if training else 1)
    return {
        "cell": name, "pass": options.work, "dtype": dtype, "hidden": H, "input": I, "batch": N, "threads": threads, "T": T,
        "ms": seconds * 1e3, "us_per_step": seconds / T * 1e6, "sequences_per_s": N / seconds,
        "gflops": flops / seconds / 1e9, "reference_ms": None if slow is None else slow * 1e3,
        "ratio": None if slow is None else slow / seconds,
    }  # fmt: skip


def _agree(layer, cell, weights: Weights, x, tolerance: float) -> None:
    exact = weights.map(lambda w: w.astype(np.float64))
    want = reference.forward(cell, exact, x.astype(np.float64))[0]
    worst = float(abs(layer(x)[0] - want).max())
    if not worst < tolerance:
        raise SystemExit(f"fastrnn profile: wrong answer, off by {worst:.1e} from the reference; please report this")


def _median(call: Callable[[], Any], least: int = 3) -> float:
    call()
    times: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _reference_seconds(call: Callable[[], Any], before: list[dict[str, Any]], T: int) -> float | None:
    """The reference's time; None where shorter sequences say that it would take too long."""
    per_step = [r["reference_ms"] / 1e3 / r["T"] for r in before if r["reference_ms"]]
    if any(r["reference_ms"] is None for r in before) or (per_step and per_step[-1] * T > _PATIENCE):
        return None
    return _median(call, least=1)


def _print_row(row: dict[str, Any], first: bool) -> None:
    if first:
        print(f"{row['pass']}, {row['dtype']}, H {row['hidden']}, I {row['input']}; times in ms, NumPy: the reference loop")
        print("  ".join(f"{title:>11}" for title, _, _ in _COLUMNS))
    cells = ("-" if row[key] is None else form.format(row[key]) for _, key, form in _COLUMNS)
    print("  ".join(f"{text:>11}" for text in cells), flush=True)
