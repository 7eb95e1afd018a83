"""Which backend a call runs on: the reference everywhere, tuned kernels where they exist, and a device for its arrays."""

from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from fastrnn import arrays, reference, reference_ops


class Place(NamedTuple):
    """Where a call's arrays are: what checks them, and what works on them."""

    arrays: ModuleType
    backend: ModuleType


def place_of(name: str, value: Any) -> Place:
    """The place of `value`, an argument of that name; all other arrays of the call have to be there too."""
    if type(value) is np.ndarray or not arrays.on_device(value):
        return _host()
    place = _on_device()
    if place is None:
        raise ImportError(f"{name}: got an array on a device, which takes the CUDA kernels: pip install 'fastrnn[cuda]'")
    return place


@cache
def _host() -> Place:
    return Place(arrays, backend())


@cache
def _on_device() -> Place | None:
    if find_spec("numba_cuda") is None:
        return None
    from fastrnn.cuda import arrays, engine

    return Place(arrays, engine)


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


@cache
def decoding() -> ModuleType:
    """The module that decodes on a device, where `place_of` has found one."""
    from fastrnn.cuda import decoding

    return decoding
