"""Kernels touch nothing outside the arrays they were given: every array lies against a page that cannot be touched."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="mprotect")

# a stray read or write ends the process: each run has one of its own
SCRIPT = """
import ctypes, mmap, sys
import numpy as np

libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
PAGE, held = mmap.PAGESIZE, []
behind = sys.argv[1] == "behind"


def guarded(size):
    "`size` bytes that end where a forbidden page starts, or start where one ends."
    pages = -(-size // PAGE) + 2
    area = mmap.mmap(-1, pages * PAGE)
    whole = np.frombuffer(area, np.uint8)
    held.append(area)
    for page in (0, pages - 1):
        assert libc.mprotect(whole.ctypes.data + page * PAGE, PAGE, 0) == 0
    start = (pages - 1) * PAGE - size if behind else PAGE
    return whole[start : start + size]


def like(array):
    copy = guarded(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


import fastrnn as fr
from fastrnn.cpu import memory

memory._Pool.take = lambda self, size: guarded(size)
memory.empty = lambda shape, dtype: guarded(int(np.prod(shape)) * np.dtype(dtype).itemsize).view(dtype).reshape(shape)
from fastrnn.cpu import engine, plan

engine.empty = memory.empty
rng = np.random.default_rng(0)
SIZES = [(3, 1, 1, 1), (4, 2, 3, 7), (5, 7, 17, 16), (3, 13, 5, 33), (2, 3, 64, 65), (9, 5, 30, 20)]
for name, G in (("rnn", 1), ("gru", 3), ("lstm", 4)):
    for dtype in ("float32", "float64"):
        for T, N, I, H in SIZES:
            shapes = ((T, N, I), (G * H, I), (G * H, H), (G * H,), (G * H,), (N, H))
            x, *rest = (like(rng.standard_normal(s).astype(dtype)) for s in shapes)
            c0 = [rest[-1]] if name == "lstm" else []
            for threads in (1, fr.get_num_threads()):
                for lengths in (None, rng.integers(0, T + 1, N)):
                    for view in (x, x[::-1], like(x.swapaxes(0, 1)).swapaxes(0, 1)):
                        with fr.num_threads(threads):
                            out, tape = getattr(fr, name + "_forward")(view, *rest, *c0, lengths=lengths, reverse=N % 2 == 0)
                            dy = like(rng.standard_normal((T, N, H)).astype(dtype))
                            getattr(fr, name + "_backward")(tape, dy, *(like(o) for o in out[1:]))
        layer = getattr(fr, name.upper())(5, 9, dtype=dtype, rng=0)
        layer.freeze()(np.ones((3, 2, 5), dtype))
        layer.stream(2).step(np.ones((2, 5), dtype))
    for lender in (plan.forward_plan, plan.backward_plan):
        lender.cache_clear()
print("nothing touched")
"""


@pytest.mark.parametrize("side", ["behind", "before"])
def test_nothing_outside_the_arrays_is_touched(side, tmp_path):
    done = subprocess.run([sys.executable, "-c", SCRIPT, side], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr}"
    assert done.stdout.strip() == "nothing touched"


def test_the_guard_bites():
    touch = "ctypes.memset(like(np.ones(5)).ctypes.data + 40, 1, 1)\nimport fastrnn as fr"
    code = SCRIPT.replace("import fastrnn as fr", touch, 1)
    done = subprocess.run([sys.executable, "-c", code, "behind"], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode < 0
