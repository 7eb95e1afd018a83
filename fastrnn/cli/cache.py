"""The folder of compiled kernels: where it is, how large, and how to empty it."""

import argparse
import json
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache

from fastrnn.cpu import gemm


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clear", action="store_true", help="delete fastrnn's compiled kernels; the next call compiles")


def folder() -> Path | None:
    """Where Numba keeps the kernels of this installation; None where no folder can be written."""
    try:
        return Path(FunctionCache(gemm.build_gemm).cache_path)
    except RuntimeError:
        return None


def files() -> list[Path]:
    """The compiled kernels: index and code."""
    where = folder()
    return sorted(where.glob("*.nb[ic]")) if where else []


def state() -> dict[str, Any]:
    found = files()
    kernels, size = sum(path.suffix == ".nbc" for path in found), sum(path.stat().st_size for path in found)
    return {"cache": str(folder() or "no folder that can be written"), "kernels": kernels, "bytes": size}


def run(options: argparse.Namespace) -> int:
    before = state()
    if options.clear:
        for path in files():
            path.unlink(missing_ok=True)
    found = before | {"cleared": options.clear}
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        did = "deleted" if options.clear else "kept"
        print(f"{before['cache']}: {before['kernels']} kernels, {before['bytes'] / 1e6:.1f} MB {did}")
    return 0
