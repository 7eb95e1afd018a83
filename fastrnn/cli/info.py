"""Versions, the kernels chosen for this processor, threads, and the folder of compiled kernels."""

import json
import os
from pathlib import Path

import numba

import fastrnn
from fastrnn.versions import versions


def add_arguments(parser) -> None:
    """None of its own."""


def cache_folder() -> str:
    """Where Numba keeps the kernels of this installation."""
    chosen = os.environ.get("NUMBA_CACHE_DIR") or numba.config.CACHE_DIR  # type: ignore[attr-defined]
    return str(chosen or Path(fastrnn.__file__).parent / "cpu" / "__pycache__")


def run(options) -> int:
    found = versions() | {"cache": cache_folder()}
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        for name, value in found.items():
            print(f"{name:<10}{value}")
    return 0
