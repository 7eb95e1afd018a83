"""How a kernel is compiled, cached and found again.

A kernel is a plain function (member, team, args) over raw pointers, built for one cell and dtype by a function that
closes over names and numbers only. It is compiled to a C function, so that one launcher serves every kernel. Numba's
disk cache knows a function's own file, not what it calls: the digest below, closed over by every kernel, makes the key
change with any source of the package, any option and the versions of Numba and llvmlite.
"""

import hashlib
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import numba
from numba import cfunc, types

from fastrnn.cpu.target import TARGET

# no fast-math (NaN, infinity and the order of sums are promises), no bounds checks (pointers have none to check)
OPTIONS: dict[str, Any] = {"error_model": "numpy", "boundscheck": False}
SIGNATURE = types.void(types.intp, types.intp, types.CPointer(types.intp))


@cache
def digest() -> str:
    """Of everything that shapes the machine code: sources, options, target, versions."""
    package = Path(__file__).parent.parent
    state = hashlib.sha256(repr((OPTIONS, TARGET, numba.__version__, llvmlite.__version__)).encode())
    for path in sorted([*package.glob("*.py"), *package.glob("cells/*.py"), *package.glob("cpu/*.py")]):
        state.update(path.read_bytes())
    return state.hexdigest()


class Kernel(NamedTuple):
    address: int
    cached: bool  # whether it came from the disk cache
    function: Any  # keeps the machine code alive


def compile_kernel(function: Callable[..., None]) -> Kernel:
    """Compile `function`, or load it from the disk cache."""
    try:
        compiled = cfunc(SIGNATURE, cache=True, **OPTIONS)(function)
    except Exception as problem:
        # no writable place for a cache, or a damaged entry: neither may keep the package from working
        _warn_once(f"{type(problem).__name__}: {problem}")
        compiled = cfunc(SIGNATURE, **OPTIONS)(function)
    return Kernel(compiled.address, compiled.cache_hits > 0, compiled)


@cache
def _warn_once(reason: str) -> None:
    warnings.warn(
        f"fastrnn compiles its kernels anew in this process, the disk cache is of no use ({reason}); "
        "set NUMBA_CACHE_DIR to a folder that can be written",
        RuntimeWarning,
        stacklevel=4,
    )
