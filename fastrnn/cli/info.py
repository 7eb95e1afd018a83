"""Versions, the kernels chosen for this processor, threads, and the folder of compiled kernels."""

import argparse
import json
from importlib.util import find_spec
from typing import Any

from fastrnn import reference
from fastrnn.backend import backend
from fastrnn.cli import cache
from fastrnn.versions import versions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None of its own."""


def team() -> dict[str, str]:
    """Numba's thread layer, after a launch that makes it choose, and how long its threads take to meet, on which it depends
    what they divide."""
    import numba

    import fastrnn as fr

    threads = fr.get_num_threads()
    alone = "one thread" if threads == 1 else "the NumPy reference" if backend() is reference else ""
    if alone:
        return dict.fromkeys(("layer", "meeting"), f"none: {alone}")
    from fastrnn.cpu.meeting import time_to_meet

    meeting = time_to_meet(threads)  # launches, so that there is a layer to name
    return {"layer": str(numba.threading_layer()), "meeting": f"{meeting * 1e9:.0f} ns, {threads} threads"}


def features() -> str:
    """The vector extensions that the compiler may use here."""
    from numba.core.registry import cpu_target

    names = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    return " ".join(
        sorted(name[1:] for name in names if name.startswith(("+avx", "+fma", "+sse4", "+amx", "+neon", "+sve")))
    )


def device() -> str:
    """The GPU, or why there is none."""
    if find_spec("numba_cuda") is None:
        return "not installed (pip install 'fastrnn[cuda]')"
    from fastrnn.cuda.devices import describe

    return describe()


def run(options: argparse.Namespace) -> int:
    kept = cache.state()
    found: dict[str, Any] = (
        versions()
        | team()
        | {
            "features": features(),
            "cache": kept["cache"],
            "cached": f"{kept['kernels']} kernels, {kept['bytes'] / 1e6:.1f} MB",
            "cuda": device(),
        }
    )
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        for name, value in found.items():
            print(f"{name:<10}{value}")
    return 0
