"""The CUDA kernels without a GPU, in Numba's simulator (`NUMBA_ENABLE_CUDASIM=1 pytest -m cudasim tests/cuda`), with one
(`pytest -m gpu tests/cuda`), and compiled for devices that are not there (`pytest -m ptx tests/cuda`)."""

import os
from importlib.util import find_spec

import numpy as np
import pytest

if find_spec("numba_cuda") is None:
    collect_ignore_glob = ["test_*.py"]
elif os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "0":
    collect_ignore = ["test_compile.py"]  # which the simulator cannot


@pytest.fixture
def device(monkeypatch):
    """Arrays made on the device hold NaN until they are written; in the simulator all blocks of a launch run at once.

    Not the NaN that memory holds through which blocks pass numbers.
    """
    from numba import cuda

    # all modules whose `cuda` is replaced
    from fastrnn.cuda import arrays, decoding, devices, engine, kinds, target  # noqa: F401

    def empty(self, shape, dtype, like):
        filled = np.empty(shape, kinds.stored_as(dtype))
        filled.view(np.uint8).fill(0xFF)
        if filled.dtype.kind == "f":
            filled.fill(np.nan)
        return cuda.to_device(filled)

    monkeypatch.setattr(kinds.Numba, "empty", empty)
    if not target.SIMULATED:
        yield cuda
        return
    from tests.cuda.blocks import blocks_at_once

    limits = devices.limits(0)._replace(blocks=6)
    for module in (engine, devices):
        monkeypatch.setattr(module, "limits", lambda number: limits)
    with blocks_at_once():
        yield cuda
