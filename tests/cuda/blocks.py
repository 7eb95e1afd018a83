"""Runs the CUDA kernels on the CPU, all blocks of a launch at once: where Numba's simulator runs one after another.

Every CUDA thread is a greenlet that runs until it waits: at `syncthreads`, at an atomic operation, or for a number that is
not written yet, where others get their turn. Threads and blocks take turns in a shuffled order, so that a missing barrier
shows as a wrong result; shared and local memory start as NaN; a `syncthreads` that a thread of the block never reaches is an
error, and so is a standstill.
"""

import random
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
from greenlet import getcurrent, greenlet
from numba import cuda as host
from numba.cuda.simulator.kernel import FakeCUDAKernel

_STANDSTILL = 1000  # rounds in which nothing but atomic operations and repeated loads happens


def _poisoned(shape, dtype):
    array = np.empty(shape, dtype)
    array.view(np.uint8).fill(0xFF)
    return array


class _Thread(greenlet):
    def __init__(self, kernel, args, block, number):
        def quietly():
            with np.errstate(all="ignore"):
                kernel(*args)

        super().__init__(quietly)
        self.block, self.number, self.waits = block, number, False


class _Block:
    def __init__(self, kernel, args, grid, index, threads, shared):
        self.blockIdx = SimpleNamespace(**dict(zip("xyz", index, strict=True)))
        self.gridDim = SimpleNamespace(**dict(zip("xyz", grid, strict=True)))
        self.blockDim = SimpleNamespace(x=threads, y=1, z=1)
        self.dynamic = _poisoned(shared, np.uint8)
        self.static = {}
        self.threads = [_Thread(kernel, args, self, i) for i in range(threads)]

    def turn(self, order):
        """Let every thread that does not wait run until it does; whether anything but those happened."""
        going = [thread for thread in self.threads if not thread.dead and not thread.waits]
        order.shuffle(going)
        for thread in going:
            thread.switch()
        left = [thread for thread in self.threads if not thread.dead]
        if left and all(thread.waits for thread in left):
            assert len(left) == len(self.threads), "a thread ended while others of its block wait for it"
            for thread in left:
                thread.waits = False
            return True
        return any(thread.dead or thread.waits for thread in going)


class _Device:
    """Numba's `cuda` as a kernel sees it; to everyone else, the module itself."""

    def __getattr__(self, name):
        return getattr(host, name)

    blockIdx = property(lambda self: getcurrent().block.blockIdx)
    gridDim = property(lambda self: getcurrent().block.gridDim)
    blockDim = property(lambda self: getcurrent().block.blockDim)
    threadIdx = property(lambda self: SimpleNamespace(x=getcurrent().number, y=0, z=0))

    def grid(self, axes):
        return self.blockIdx.x * self.blockDim.x + getcurrent().number

    def gridsize(self, axes):
        return self.gridDim.x * self.blockDim.x

    def syncthreads(self):
        thread = getcurrent()
        thread.waits = True
        thread.parent.switch()

    def threadfence(self):
        pass

    @property
    def atomic(self):
        return SimpleNamespace(add=self._add)

    @property
    def local(self):
        return SimpleNamespace(array=_poisoned)

    @property
    def shared(self):
        return SimpleNamespace(array=self._shared)

    def _add(self, array, index, value):
        getcurrent().parent.switch()
        before = array[index]
        array[index] += value
        return before

    def ldcv(self, array, index):
        if (array[index : index + 1].view(np.uint16) == 0xFFFF).any():  # of the least that is written by itself
            getcurrent().parent.switch()
        return array[index]

    def _shared(self, shape, dtype):
        block, dtype = getcurrent().block, np.dtype(dtype)
        if shape == 0:
            return np.frombuffer(block.dynamic, dtype, len(block.dynamic) // dtype.itemsize)
        caller = sys._getframe(1)
        return block.static.setdefault((caller.f_code, caller.f_lineno), _poisoned(shape, dtype))


def _launch(kernel, *args):
    if isinstance(getcurrent(), _Thread):
        return kernel.fn(*args)  # a device function
    grid = (*kernel.grid_dim, 1, 1)[:3]
    args = [tuple(getattr(b, "_ary", b) for b in a) if type(a) is tuple else getattr(a, "_ary", a) for a in args]
    blocks = [
        _Block(kernel.fn, args, grid, (x, y, z), kernel.block_dim[0], kernel.dynshared_size)
        for x in range(grid[0]) for y in range(grid[1]) for z in range(grid[2])
    ]  # fmt: skip
    order, still = random.Random(0), 0
    while blocks:
        order.shuffle(blocks)
        still = 0 if sum(block.turn(order) for block in blocks) else still + 1
        assert still < _STANDSTILL, "the blocks wait for each other for ever"
        blocks = [block for block in blocks if not all(thread.dead for thread in block.threads)]


@contextmanager
def blocks_at_once():
    """Launches of the package's kernels run all their blocks at once."""
    device, call = _Device(), FakeCUDAKernel.__call__
    modules = [m for name, m in sys.modules.items() if name.startswith("fastrnn.cuda.") and getattr(m, "cuda", None) is host]
    for module in modules:
        module.cuda = device
    FakeCUDAKernel.__call__ = _launch
    try:
        yield
    finally:
        FakeCUDAKernel.__call__ = call
        for module in modules:
            module.cuda = host
