"""Compile kernels ahead, so that the first call of a service does not."""

import json
import sys
import time
from itertools import product

from fastrnn import reference
from fastrnn.backend import backend
from fastrnn.cells import REGISTRY
from fastrnn.cli.arguments import chosen

# what serves every cell, and the operations of a decoder's step
_COMMON = ("product", "pack_weights", "keep_weights", "gemm", "linear")
_OF_CELL = ("product", "step", "forward", "backward")
_SEQ2SEQ = (
    "pack_columns", "pack_rows", "gather", "scatter", "slope", "log_sum", "loss_gradient", "attend",
    "attend_backward",
)  # fmt: skip
_CHOICES = ("greedy", "sample", "beam", "follow", "forced")


def add_arguments(parser) -> None:
    names = tuple(REGISTRY)
    parser.add_argument("--cell", type=chosen(names, "cell"), default="all", help=f"some of {','.join(names)}; default: all")
    parser.add_argument("--seq2seq", action="store_true", help="also what seq2seq models are trained and decoded with")
    parser.add_argument("--dtype", type=chosen(("float32", "float64"), "dtype"), default="all", help="default: all")


def run(options) -> int:
    if backend() is reference:
        print("nothing to compile: NUMBA_DISABLE_JIT is set, calls run on the NumPy reference", file=sys.stderr)
        return 0
    from fastrnn.cpu.functions import product_name

    rows = [_warm(kind, "", "float32") for kind in ("meet", "program")]
    rows += [_warm(kind, "", dtype) for dtype in options.dtype for kind in _COMMON]
    for dtype, cell in product(options.dtype, options.cell):
        rows += [_warm(kind, cell, dtype) for kind in _OF_CELL if kind != "product" or product_name(cell)]
    if options.seq2seq:
        rows += [_warm(kind, "", dtype) for dtype in options.dtype for kind in _SEQ2SEQ]
        rows += [_warm("choose", choice, dtype) for dtype in options.dtype for choice in _CHOICES]
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        for row in rows:
            print(f"{row['kernel']:<30}{row['seconds']:7.2f} s  {row['from']}")
        print(f"{len(rows)} kernels, {sum(row['seconds'] for row in rows):.1f} s")
    return 0


def _warm(kind: str, cell: str, dtype: str) -> dict:
    from fastrnn.cpu.compiled import kernel

    name = " ".join(filter(None, (cell, kind, dtype)))
    print(f"\r{name} ...\033[K", end="\r", file=sys.stderr, flush=True) if sys.stderr.isatty() else None
    start = time.perf_counter()
    cached = kernel(kind, cell, dtype).cached
    return {"kernel": name, "seconds": time.perf_counter() - start, "from": "cache" if cached else "compiled"}
