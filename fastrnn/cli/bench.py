"""The standard grid beside other implementations: medians by turns, ratios and their spread, per cent of the limit."""

import argparse
import json
import math
from importlib.util import find_spec
from typing import Any

from fastrnn.bench.implementations import IMPLEMENTATIONS, TABLES, missing
from fastrnn.bench.process import SECONDS, Process
from fastrnn.bench.rows import failures, limits_of, row_of
from fastrnn.bench.workloads import DEVICE_DTYPES, DTYPES, GATES, PASSES, Workload, parse, standard
from fastrnn.cli import arguments, show
from fastrnn.cli.info import device
from fastrnn.cpu.threads import get_num_threads
from fastrnn.versions import versions

_QUICK_SECONDS = 0.04  # a turn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--cell", type=arguments.chosen(tuple(GATES), "cell"), default="lstm,gru,rnn", help="default: lstm,gru,rnn")
    add("--pass", dest="work", type=arguments.chosen(PASSES, "pass"), default="inference,training",
        help="inference, training, step; default: inference,training")  # fmt: skip
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where fastrnn and the others compute; default: cpu")
    add("--dtype", choices=DEVICE_DTYPES, default="float32", help="default: float32; float16, bfloat16: on a device")
    add("--threads", type=arguments.threads, default=None, metavar="K,...", help="default: 1 and all that fastrnn may use")
    add("--against", type=arguments.peers, default=None, metavar="NAME,...",
        help="torch, onnxruntime, jax, reference, frozen; default: torch, onnxruntime where installed")  # fmt: skip
    add("--workload", type=workload, action="append", metavar="NAME",
        help="instead of the grid, such as lstm-inference-T100-N3-I7-H65-float32; may be given again")  # fmt: skip
    add("--rounds", type=arguments.size, default=3, help="turns of each implementation; default: 3")
    add("--quick", action="store_true", help="five shapes, short turns: less than two minutes")


def workload(name: str) -> Workload:
    try:
        return parse(name)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def unfit(options: argparse.Namespace) -> str:
    """Why this cannot be measured here; empty where it can."""
    dtypes = {options.dtype} | {w.dtype for w in options.workload or ()}
    if options.device == "cpu":
        short = sorted(dtypes - set(DTYPES))
        return f"--dtype: got {short[0]}, which takes --device cuda; wanted {' or '.join(DTYPES)}" if short else ""
    others = [name for name in options.against or () if name not in TABLES["cuda"]]
    if others:
        return f"--against: got {others[0]}, wanted {', '.join(TABLES['cuda'])}: the ones that are timed on a device"
    if find_spec("numba_cuda") is None:
        return "--device cuda: the kernels are not installed: pip install 'fastrnn[cuda]'"
    from fastrnn.cuda.devices import missing as reason

    return f"--device cuda: {reason()}" if reason() else ""


def run(options: argparse.Namespace) -> int:
    problem = unfit(options)
    if problem:
        show.say(problem)
        return 2
    cpu = options.device == "cpu"
    threads = options.threads or sorted({1, get_num_threads()}) if cpu else [1]
    against = options.against
    if against is None:
        against = [name for name in ("torch", "onnxruntime") if name in TABLES[options.device] and not missing(name)]
    if not against and cpu:
        show.say("no other implementation is installed (torch, onnxruntime); beside the NumPy reference instead")
        against = ["reference"]
    grid = options.workload or [
        w for cell in options.cell for work in options.work for w in standard(cell, work, options.dtype, options.quick)
    ]
    found: dict[str, Any] = {
        "machine": versions() | ({} if cpu else {"device": device()}),
        "limits": [],
        "rows": [],
        "summary": [],
    }
    status = 0
    try:
        seconds = _QUICK_SECONDS if options.quick else SECONDS
        _measure(grid, options.device, threads, against, options.rounds, seconds, found)
    except KeyboardInterrupt:
        show.say("interrupted; what was measured so far:")
        status = 130
    found["summary"] = summary(found["rows"])
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        _print(found)
    return status


def _measure(grid, place, threads, against, rounds, seconds, found):
    with show.progress(len(grid) * len(threads)) as advance:
        for k in threads:
            # before there are others
            found["limits"] += [limits_of(place, dtype, k).as_dict() for dtype in dict.fromkeys(w.dtype for w in grid)]
            processes = [Process(name, k, place) for name in ("fastrnn", *against)]
            try:
                for w in grid:
                    advance(f"{w}, {show.threads(k)}")
                    found["rows"].append(row_of(w, k, processes, rounds, seconds))
            finally:
                for process in processes:
                    process.close()


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each cell, pass, dtype and number of threads: geometric mean and least ratio to each peer, and of the limit."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["cell"], row["pass"], row["dtype"], row["threads"]), []).append(row)
    found = []
    for (cell, work, dtype, threads), group in groups.items():
        limit = [row["percent_of_limit"] for row in group]
        line = {"cell": cell, "pass": work, "dtype": dtype, "threads": threads, "shapes": len(group),
                "percent_of_limit": {"mean": _mean(limit), "least": min(limit)}, "peers": {}}  # fmt: skip
        for name in IMPLEMENTATIONS:
            ratios = [(row["peers"][name]["ratio"], row) for row in group if "ratio" in row["peers"].get(name, {})]
            if ratios:
                least, worst = min(ratios, key=lambda pair: pair[0])
                shape = f"T{worst['T']}-N{worst['batch']}-I{worst['input']}-H{worst['hidden']}"
                line["peers"][name] = {"mean": _mean([r for r, _ in ratios]), "least": least, "worst": shape}
        found.append(line)
    return found


def _mean(values: list[float]) -> float:
    """Geometric."""
    return math.exp(sum(map(math.log, values)) / len(values))


def _print(found: dict[str, Any]) -> None:
    names = list(dict.fromkeys(name for row in found["rows"] for name in row["peers"]))
    titles = ["workload", "threads", "ms", "GFLOP/s", "% of limit"]
    titles += [text for name in names for text in (f"{name} ms", "ratio", "±%")]
    table = []
    for row in found["rows"]:
        w = Workload(row["cell"], row["T"], row["batch"], row["input"], row["hidden"], row["dtype"], row["pass"])
        texts = [str(w), str(row["threads"]), f"{row['ms']:.3f}", f"{row['gflops']:.0f}", f"{row['percent_of_limit']:.0f}"]
        for name in names:
            peer = row["peers"].get(name, {})
            if "ms" in peer:
                # the ratio moves by as much as its two times together
                spread = 50 * (row["spread"] + peer["spread"])
                texts += [f"{peer['ms']:.3f}", f"{peer['ratio']:.2f}", f"{spread:.0f}"]
            else:
                texts += ["failed", "-", "-"]
        table.append(texts)
    if table:
        show.table("fastrnn's time, and each peer's; ratio: theirs over fastrnn's", titles, table)
    for line in found["summary"]:
        text = f"{line['cell']} {line['pass']} {line['dtype']}, {show.threads(line['threads'])}: "
        text += f"{line['percent_of_limit']['mean']:.0f} % of the limit (least {line['percent_of_limit']['least']:.0f})"
        for name, peer in line["peers"].items():
            text += f"; {name}: mean {peer['mean']:.2f}, least {peer['least']:.2f} ({peer['worst']})"
        print(text)
    for line in failures(found["rows"]):
        show.say(line)
