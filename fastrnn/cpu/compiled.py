"""What is compiled, by name: kernels, the functions that they call, and tasks that know them."""

import ctypes
from functools import cache
from importlib import import_module

import numpy as np

from fastrnn.cpu import functions
from fastrnn.cpu.kernel import Fields, Kernel, Task, compile_kernel, digest

# where the builders of kernels stand
_KINDS = {
    "loops": ("forward", "backward"),
    "functions": tuple(functions.NAMES),
    "gemm": ("pack_weights", "keep_weights", "pack_columns", "pack_rows", "gemm"),
    "dense": ("linear", "gather", "scatter", "slope", "log_sum", "loss_gradient"),
    "attention": ("attend", "attend_backward"),
    "program": ("program", "choose"),
    "probe": ("probe",),
    "meeting": ("meet",),
}
_HOMES = {kind: home for home, kinds in _KINDS.items() for kind in kinds}


@cache
def kernel(kind: str, name: str, dtype: str) -> Kernel:
    """A compiled kernel: one of the cell of that name, or one that serves every cell and has none."""
    builders = import_module(f"fastrnn.cpu.{_HOMES[kind]}")
    return compile_kernel(getattr(builders, f"build_{kind}")(name, dtype, digest()))


@cache
def addresses(kind: str, name: str, dtype: str) -> dict[str, int]:
    """Of the functions of a kind: see functions.py."""
    names = functions.NAMES[kind]
    words = np.zeros(len(names), np.intp)
    kernel(kind, name, dtype).function.ctypes(0, 1, words.ctypes.data_as(ctypes.POINTER(ctypes.c_int64)))
    return dict(zip(names, words.tolist(), strict=True))


def task(kind: str, name: str, dtype: str, fields: Fields, **words: int) -> Task:
    """A task of that kernel, which knows the functions that it calls."""
    known = {}
    if fields.functions:
        # panels of several gates are a forward loop's
        of = functions.product_name(name) if kind == "forward" else ""
        known = addresses("product", of, dtype) | (addresses("step", name, dtype) if name else {})
    return Task(kernel(kind, name, dtype), fields, **{f: known[f] for f in fields.functions}, **words)
