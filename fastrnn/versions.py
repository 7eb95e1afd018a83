"""What a bug report should hold."""

import platform
import sys

import numpy as np


def versions() -> dict[str, str]:
    """Names and values of everything that shapes a result or a time."""
    import llvmlite
    import numba

    import fastrnn
    from fastrnn.cpu.target import TARGET
    from fastrnn.cpu.threads import get_num_threads

    return {
        "fastrnn": fastrnn.__version__,
        "numpy": np.__version__,
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "kernels": f"{TARGET.name}, {TARGET.width} byte vectors, {TARGET.accumulators} accumulators",
        "threads": f"{get_num_threads()} of {numba.config.NUMBA_NUM_THREADS}",  # type: ignore[attr-defined]
    }


def show_versions() -> None:
    """Print the versions, the kernels chosen for this processor, and the threads.

    >>> import fastrnn as fr
    >>> fr.show_versions()  # doctest: +ELLIPSIS
    fastrnn ...
    """
    for name, value in versions().items():
        print(f"{name:<10}{value}")
