"""Which backend a call runs on: the reference everywhere, overwritten where tuned kernels exist."""

from functools import cache
from types import ModuleType

from fastrnn import reference, reference_ops


@cache
def backend() -> ModuleType:
    """The module that carries out calls (see contract.py): compiled kernels, or NumPy under NUMBA_DISABLE_JIT=1."""
    import numba

    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return reference
    from fastrnn.cpu import engine

    return engine


@cache
def operations() -> ModuleType:
    """The module with the operations of a decoder's step, of the same kind as `backend()`."""
    if backend() is reference:
        return reference_ops
    from fastrnn.cpu import operations

    return operations
