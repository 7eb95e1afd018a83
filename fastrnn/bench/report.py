"""The plots and the page of `profile`: throughput against T with the limit drawn in, and the time by part."""

import html
import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from fastrnn.bench.limits import describe
from fastrnn.bench.parts import PARTS

# Okabe and Ito's colours, which stay apart for the colour-blind
_COLOURS = {
    "limit": "black", "fastrnn": "#0072B2", "torch": "#D55E00", "onnxruntime": "#009E73", "reference": "#7F7F7F",
    "jax": "#CC79A7", "frozen": "#56B4E9",
}  # fmt: skip
_PART_COLOURS = ("#56B4E9", "#0072B2", "#D55E00", "#E69F00", "#F0E442", "#009E73", "#BFBFBF")
_MARKERS = {"limit": "", "fastrnn": "o", "torch": "s", "onnxruntime": "^", "reference": "x", "jax": "D", "frozen": "v"}
_STYLE: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none",
          "axes.titlesize": 10, "axes.titlelocation": "left", "font.family": "DejaVu Sans"}  # fmt: skip


def save_plot(found: dict[str, Any], title: str, path: Path) -> None:
    """Both plots in one picture, of the kind that the name's ending says."""
    if path.suffix.lower() in (".html", ".htm"):
        save_page(found, title, [], [], path)
        return
    with mpl.rc_context(_STYLE):
        figure(found, title).savefig(path, dpi=150)


def figure(found: dict[str, Any], title: str = "") -> Figure:
    """A row for each cell: throughput for each batch, and on the right the parts."""
    cells, batches = (list(dict.fromkeys(row[key] for row in found["rows"])) for key in ("cell", "batch"))
    drawn = Figure(figsize=(5.8 + 3.4 * len(batches), 0.6 + 3.4 * len(cells)), layout="constrained")
    if title:
        drawn.suptitle(title, x=0.01, ha="left", fontsize=11)
    grid = drawn.subplots(len(cells), len(batches) + 1, squeeze=False)
    for cell, row_of_axes in zip(cells, grid, strict=True):
        rows = [row for row in found["rows"] if row["cell"] == cell]
        for N, axes in zip(batches, row_of_axes, strict=False):
            _throughput(axes, [row for row in rows if row["batch"] == N], f"{cell}, batch {N}: throughput")
        _beside(row_of_axes[-2])
        _parts(row_of_axes[-1], [row for row in found["parts"] if row["cell"] == cell], cell)
    return drawn


def _beside(axes: Any, **options: Any) -> None:
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5), **options)


def _throughput(axes: Any, rows: list[dict[str, Any]], title: str) -> None:
    """Time steps a second (of all rows of the batch) against T; a style of line for each number of threads."""
    named: set[str] = set()
    for threads, style in zip(dict.fromkeys(row["threads"] for row in rows), ("-", "--", ":", "-.") * 8, strict=False):
        part = [row for row in rows if row["threads"] == threads]
        times = {"limit": [row["limit_ms"] for row in part], "fastrnn": [row["ms"] for row in part]}
        for name in dict.fromkeys(name for row in part for name in row["peers"]):
            times[name] = [row["peers"].get(name, {}).get("ms") for row in part]
        for name, column in times.items():
            points = [(row["T"], row["batch"] * row["T"] / ms * 1e3) for row, ms in zip(part, column, strict=True) if ms]
            if points:
                axes.plot(*zip(*points, strict=True), color=_COLOURS[name], marker=_MARKERS[name], ms=4, ls=style,
                          label=None if name in named else name)  # fmt: skip
                named.add(name)
        axes.plot([], [], color="black", ls=style, label=f"{threads} thread{'s' if threads > 1 else ''}")
    T = sorted({row["T"] for row in rows})
    axes.set(xscale="log", yscale="log", xlabel="T, time steps", ylabel="steps a second (T N / time)", title=title)
    shown = T[:: 1 + len(T) // 6]
    axes.set_xticks(shown, [f"{t:,}" for t in shown])
    axes.minorticks_off()
    axes.grid(alpha=0.25, which="major")


def _parts(axes: Any, rows: list[dict[str, Any]], cell: str) -> None:
    """A stacked bar for each batch and number of threads, per cent of a call at the longest T."""
    bottom = [0.0] * len(rows)
    for name, colour in zip(PARTS, _PART_COLOURS, strict=True):
        shares = [100 * row["ms"][name] / sum(row["ms"].values()) for row in rows]
        if any(shares):
            axes.bar(range(len(rows)), shares, 0.6, bottom, color=colour, label=name)
            bottom = [b + s for b, s in zip(bottom, shares, strict=True)]
    labels = [f"N {row['batch']}\n{row['threads']} thr.\n{sum(row['ms'].values()):.3g} ms" for row in rows]
    axes.set_xticks(range(len(rows)), labels)
    longest = rows[0]["T"] if rows else 0
    axes.set(ylabel="per cent of the time", ylim=(0, 100), xlim=(-0.6, max(len(rows), 2) - 0.4))
    axes.set_title(f"{cell}, T {longest:,}: where the time goes")
    if rows:
        _beside(axes, reverse=True)


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 1180px; margin: 2em auto; padding: 0 1em }}
h1 {{ font-size: 1.5em }} h2 {{ font-size: 1.15em; margin-top: 2em }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }}
th, td {{ text-align: right; padding: 3px 9px; border-bottom: 1px solid #ddd; white-space: nowrap }}
th:first-child, td:first-child {{ text-align: left }} thead th {{ border-bottom: 2px solid #888 }}
.wide {{ overflow-x: auto }} svg {{ max-width: 100%; height: auto }} dt {{ float: left; width: 7em; color: #666 }}
</style></head><body>
<h1>fastrnn: {title}</h1>
<div>{plot}</div>
{tables}
<h2>Cost</h2><ul>{models}</ul>
<p>ratio: the other implementation's time over fastrnn's, above 1 where fastrnn is faster. Limit: the larger of the
products' operations over the peak and the bytes of recurrent weights over the bandwidth of the nearest caches
with room for them, both measured here.</p>
<h2>Machine</h2><dl>{machine}</dl>
</body></html>
"""


def save_page(
    found: dict[str, Any], title: str, tables: list[tuple[str, list[str], list[list[str]]]], models: list[str], path: Path
) -> None:
    """One file that opens without a network: the plots as SVG, the tables, the machine."""
    text = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure(found).savefig(text, format="svg")
    plot = text.getvalue()
    facts = dict(found["machine"])
    for limit in found["limits"]:
        facts[f"limit, {limit['threads']} thr."] = describe(limit)
    path.write_text(_PAGE.format(
        title=html.escape(title), plot=plot[plot.index("<svg"):],
        tables="".join(f"<h2>{html.escape(name)}</h2>{_table(titles, rows)}" for name, titles, rows in tables),
        models="".join(f"<li>{html.escape(line)}</li>" for line in models),
        machine="".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(str(v))}</dd>" for k, v in facts.items()),
    ), encoding="utf-8")  # fmt: skip


def _table(titles: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(text)}</th>" for text in titles)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
