"""How time and throughput go with sequence length on this machine, beside its limit and other implementations."""

import argparse
import csv
import json
import math
from typing import Any

from fastrnn.bench import limits
from fastrnn.bench.parts import PARTS, fit, parts
from fastrnn.bench.process import Process
from fastrnn.bench.rows import failures, flat, key_of, row_of
from fastrnn.bench.workloads import DTYPES, GATES, Workload
from fastrnn.cli import arguments, show
from fastrnn.cpu.threads import get_num_threads
from fastrnn.versions import versions

_SECONDS = 0.06  # a turn
_PATIENCE = 1.0  # seconds that one call of a peer may take; beyond, longer sequences are left out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--cell", type=arguments.chosen(tuple(GATES), "cell"), default="lstm", help="lstm, gru, rnn; default: lstm")
    add("--hidden", type=arguments.size, default=256, metavar="H", help="default: 256")
    add("--input", type=arguments.size, default=256, metavar="I", help="default: 256")
    add("--batch", type=arguments.sizes, default="1,32", metavar="N,...", help="default: 1,32")
    add("--lengths", type=arguments.sizes, default="16:1024", metavar="T,...",
        help="10,100, or 16:4096 for powers of two; default: 16:1024")  # fmt: skip
    add("--pass", dest="work", choices=("inference", "training"), default="inference", help="default: inference")
    add("--dtype", choices=DTYPES, default="float32", help="default: float32")
    add("--threads", type=arguments.threads, default=None, metavar="K,...", help="default: all that fastrnn may use")
    add("--against", type=arguments.peers, default="reference", metavar="NAME,...",
        help="reference, torch, onnxruntime, jax, frozen; all that are installed, or none; default: reference")  # fmt: skip
    add("--rounds", type=arguments.size, default=3, help="turns of each implementation; default: 3")
    add("--plot", type=arguments.picture, metavar="FILE", help="write the plots to this file (.png, .svg, .pdf)")
    add("--html", type=arguments.picture, metavar="FILE", help="write plots and tables to this page, one file")
    add("--csv", type=arguments.output, metavar="FILE", help="write the rows to this file")


def run(options: argparse.Namespace) -> int:
    threads = options.threads or [get_num_threads()]
    show.say(f"fastrnn {versions()['kernels'].split(',')[0]} kernels; a first run compiles them, later ones load them")
    found: dict[str, Any] = {"machine": versions(), "limits": [], "rows": [], "parts": [], "models": []}
    status = 0
    try:
        for k in threads:
            found["limits"].append(limits.measure(options.dtype, k).as_dict())
        _measure(options, threads, found)
    except KeyboardInterrupt:
        show.say("interrupted; what was measured so far:")
        status = 130
    found["models"] = models(found["rows"])
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        _print(options, found)
    _write(options, found)
    return status


def _measure(options: argparse.Namespace, threads: list[int], found: dict[str, Any]) -> None:
    series = [(cell, N, k) for cell in options.cell for N in options.batch for k in threads]
    processes = {k: [Process(name, k) for name in ("fastrnn", *options.against)] for k in threads}
    try:
        with show.progress(len(series) * (len(options.lengths) + 1)) as advance:
            for cell, N, k in series:
                slow: set[str] = set()
                for T in options.lengths:
                    w = Workload(cell, T, N, options.input, options.hidden, options.dtype, options.work)
                    advance(f"{cell} N {N}, {show.threads(k)}, T {T}")
                    asked = [process for process in processes[k] if process.name not in slow]
                    row = row_of(w, k, asked, options.rounds, _SECONDS)
                    found["rows"].append(row)
                    slow |= {name for name, peer in row["peers"].items() if peer.get("ms", 0) > _PATIENCE * 1e3 / 2}
                advance(f"{cell} N {N}, {show.threads(k)}: where the time goes")
                seconds = parts(w, k)
                found["parts"].append(key_of(w, k) | {"T": w.T, "ms": {name: t * 1e3 for name, t in seconds.items()}})
    finally:
        for process in (process for group in processes.values() for process in group):
            process.close()


def models(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """a + b T for each series of at least three lengths; on several threads, the T from which they pay."""
    series: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        series.setdefault((row["cell"], row["batch"], row["threads"]), []).append(row)
    fitted = {
        key: fit([row["T"] for row in part], [row["ms"] / 1e3 for row in part])
        for key, part in series.items() if len(part) > 2
    }  # fmt: skip
    found = []
    for (cell, N, k), model in fitted.items():
        fewer = [other for (c, n, t), other in fitted.items() if (c, n) == (cell, N) and t < k]
        pays = fewer[-1].meets(model) if fewer else None
        found.append({"cell": cell, "batch": N, "threads": k, "a_us": model.a * 1e6, "b_us": model.b * 1e6,
                      "error_percent": 100 * model.error, "pays_from_T": pays,
                      "compared": bool(fewer)})  # fmt: skip
    return found


def cells_of(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The rows as a table: titles, texts."""
    peers = list(dict.fromkeys(name for row in rows for name in row["peers"]))
    kept = any(row["kept_bytes"] is not None for row in rows)
    titles = ["cell", "batch", "threads", "T", "ms", "µs a step", "sequences/s", "GFLOP/s", "% of limit"]
    titles += ["MB kept"] * kept + [text for name in peers for text in (f"{name} ms", "ratio")]
    table = []
    for row in rows:
        texts = [row["cell"], str(row["batch"]), str(row["threads"]), str(row["T"]), f"{row['ms']:.3f}",
                 f"{row['us_per_step']:.2f}", f"{row['sequences_per_s']:,.0f}", f"{row['gflops']:.1f}",
                 f"{row['percent_of_limit']:.0f}"]  # fmt: skip
        texts += [f"{(row['kept_bytes'] or 0) / 1e6:.2f}"] * kept
        for name in peers:
            peer = row["peers"].get(name, {})
            texts += [f"{peer['ms']:.3f}", f"{peer['ratio']:.2f}"] if "ms" in peer else ["failed" if peer else "-", "-"]
        table.append(texts)
    return titles, table


def parts_table(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The parts of a call as a table, per cent of its time."""
    names = [name for name in PARTS if any(row["ms"][name] for row in found["parts"])]
    table = []
    for row in found["parts"]:
        total = sum(row["ms"].values())
        texts = [row["cell"], str(row["batch"]), str(row["threads"]), str(row["T"]), f"{total:.3f}"]
        table.append(texts + [f"{100 * row['ms'][name] / total:.0f}" for name in names])
    return ["cell", "batch", "threads", "T", "ms", *names], table


def model_lines(found: dict[str, Any]) -> list[str]:
    """The fitted cost, a line for each series."""
    lines = []
    for m in found["models"]:
        line = f"{m['cell']}, batch {m['batch']}, {show.threads(m['threads'])}: "
        line += f"{m['a_us']:.1f} µs + {m['b_us']:.3f} µs x T (error {m['error_percent']:.1f} %)"
        if m["compared"]:
            pays = m["pays_from_T"]
            line += "; never quicker than fewer threads" if pays is None else f"; pays from T = {max(1, math.ceil(pays))}"
        lines.append(line)
    return lines


def title_of(options: argparse.Namespace) -> str:
    return f"{options.work}, {options.dtype}, hidden {options.hidden}, input {options.input}"


def _print(options: argparse.Namespace, found: dict[str, Any]) -> None:
    if found["rows"]:
        show.table(f"{title_of(options)}; ratio: their time over fastrnn's", *cells_of(found["rows"]))
    if found["parts"]:
        show.table("where the time goes at the longest T, per cent", *parts_table(found))
    for line in model_lines(found):
        print(line)
    for line in failures(found["rows"]):
        show.say(line)
    for limit in found["limits"]:
        print(f"limit on {show.threads(limit['threads'])}: {limits.describe(limit)}")


def _write(options: argparse.Namespace, found: dict[str, Any]) -> None:
    if options.csv:
        rows = [flat(row) for row in found["rows"]]
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
            writer.writeheader()
            writer.writerows(rows)
    if (options.plot or options.html) and found["rows"]:
        from fastrnn.bench import report

        if options.plot:
            report.save_plot(found, title_of(options), options.plot)
        if options.html:
            tables = [("Measured", *cells_of(found["rows"])), ("Where the time goes, per cent", *parts_table(found))]
            report.save_page(found, title_of(options), tables, model_lines(found), options.html)
