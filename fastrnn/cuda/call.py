"""One call on a device: its memory, its stream, its launches."""

import threading
import warnings
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numba import cuda

from fastrnn.cuda import gemm, moves
from fastrnn.cuda.devices import limits
from fastrnn.cuda.kinds import Numba, kind_of
from fastrnn.cuda.plan import Cut
from fastrnn.cuda.rows import Rows
from fastrnn.cuda.target import ELEMENTWISE, SIMULATED, SQUARES, Square

if not SIMULATED:
    from cuda.bindings import driver as binding
    from numba.cuda.core.errors import NumbaPerformanceWarning
    from numba.cuda.cudadrv.driver import driver

_MOST_BLOCKS = 1 if SIMULATED else 1024  # of a launch that copies
_PER_THREAD = 2  # CUDA's name for the stream that each thread has for its own
_GROUPS = 1024  # of rows, at most: a counter each
_FILL = 6 if SIMULATED else 264  # squares that fill a large device twice; sums are cut into parts until there are as many


class Call:
    """The launches of one call, in their order on the stream that the arrays' library uses now."""

    def __init__(self, like: Any):
        self.kind: Numba = kind_of(like)
        self.like, self.stream, self.number = like, self.kind.stream(), self.kind.device(like)
        current = self.number if SIMULATED else cuda.get_current_device().id
        if self.number != current:
            raise ValueError(f"got arrays on device {self.number}, wanted ones on the current device, {current}")

    def empty(self, shape: Any, dtype: str) -> Any:
        """A new array of the caller's kind."""
        return self.kind.empty(shape, dtype, self.like)

    def room(self, size: int, dtype: str) -> Any:
        """New memory as kernels see it."""
        return self.view(self.empty((max(size, 1),), dtype))

    def view(self, x: Any) -> Any:
        return self.kind.view(x)

    def flat(self, x: Any) -> Any:
        return self.view(x).ravel()

    def launch(self, kernel: Any, grid: Any, threads: int, *args: Any, shared: int = 0) -> None:
        _configured(kernel, grid, threads, self.stream, shared)(*args)

    def launch_loop(self, kernel: Any, cut: Cut, *args: Any) -> None:
        """A launch whose blocks wait for each other: all of them run at the same time, or none."""
        _configured(kernel, (cut.slices, cut.groups), cut.form.tile.threads, self.stream, cut.shared, together=True)(*args)

    def tables(self, rows: Rows) -> Any:
        """The rows' table on the device."""
        return _table(rows, self.number) if not rows.ragged else cuda.to_device(rows.table, stream=self.stream)

    @property
    def flags(self) -> Any:
        """Counters of the blocks that wait; launches on the same stream follow one another and can share them."""
        handle = int(getattr(self.stream, "handle", 0) or 0)
        return _flags(self.number, handle, threading.get_ident() if handle == _PER_THREAD else 0)

    # --- the kernels of gemm.py and moves.py

    def each(self, kernel: Any, n: int, *args: Any) -> None:
        """A kernel over n numbers."""
        if n:
            self.launch(kernel, min(-(-n // ELEMENTWISE), _MOST_BLOCKS), ELEMENTWISE, *args)

    def steps(self, kernel: Any, rows: int, steps: int, *args: Any) -> None:
        """A kernel over the numbers of `rows`, of each of the steps."""
        if rows and steps:
            grid = (min(-(-rows // ELEMENTWISE), _MOST_BLOCKS), min(steps, _MOST_BLOCKS))
            self.launch(kernel, grid, ELEMENTWISE, *args)

    def convert(self, x: Any, source: str, into: Any, to: str, start: int, n: int) -> None:
        """x, or zeros where there is none, to `into` from `start` on."""
        given = x is not None
        self.each(moves.convert(source, to), n, n, int(given), self.flat(x) if given else into, into, start)

    def multiply(self, q: gemm.Product, a: Any, a_dtype: str, b: Any, b_dtype: str, bias: Any, c: Any) -> None:
        q = q._replace(part=q.part or max(q.K, 1))
        parts = max(-(-q.K // q.part), 1)
        square = next((s for s in reversed(SQUARES) if _count(s, q) * parts >= _FILL), SQUARES[0])
        grid = (-(-q.M // square.side), -(-(q.N + q.ones) // square.side), parts)
        if _count(square, q):
            kernel = gemm.multiply(a_dtype, b_dtype, square)
            self.launch(kernel, grid, square.threads, q, a, b, b if bias is None else bias, c)

    def sum_products(self, M: int, N: int, K: int, d: Any, x: Any, real: str, w: Any, bias: Any, dtype: str) -> None:
        """w (M, N) = Σ_k d[k, m] x[k, n] and bias (M,) = Σ_k d[k, m], of K rows each."""
        q = gemm.Product(M, N, K, a_m=1, a_k=M, b_k=N, b_n=1, ones=int(bias is not None))
        least = SQUARES[0]
        # by the shape alone; parts of fewer terms are not worth it
        parts = max(min(_FILL // max(_count(least, q), 1), -(-K // (8 * least.depth))), 1)
        q = q._replace(part=max(-(-K // parts), 1))
        parts, size = max(-(-K // q.part), 1), M * (N + q.ones)
        sums = self.room(parts * size, real)
        self.multiply(q, d, real, x, real, None, sums)
        target = self.flat(w)
        self.each(gemm.finish(dtype), size, q, parts, sums, target, target if bias is None else self.flat(bias))


def _count(square: Square, q: gemm.Product) -> int:
    """Squares of a product."""
    return -(-q.M // square.side) * -(-(q.N + q.ones) // square.side)


@lru_cache(64)
def _table(rows: Rows, number: int) -> Any:
    return _uploaded(rows.table)


@cache
def _flags(number: int, stream: int, thread: int) -> Any:
    return _uploaded(np.zeros(_GROUPS, np.int64))


def _uploaded(x: Any) -> Any:
    """x on the device, there before a launch on whatever stream: what is kept is read from streams of all kinds."""
    there = cuda.to_device(x)
    cuda.default_stream().synchronize()
    return there


def _configured(kernel: Any, *grid: Any, together: bool = False) -> Any:
    # in the simulator a configuration is a state of its kernel
    return kernel[grid] if SIMULATED else _configuration(kernel, *grid, together)


@lru_cache(1024)
def _configuration(kernel: Any, grid: Any, threads: int, stream: Any, shared: int, together: bool) -> Any:
    """A kernel's launch. together : blocks wait for each other, and may need more shared memory than every block gets."""
    with warnings.catch_warnings():
        # a small grid is meant: its blocks stay for the whole sequence
        warnings.simplefilter("ignore", NumbaPerformanceWarning)
        launch = kernel[grid, threads, stream, shared]
    if together:
        launch.pre_launch_callbacks.append(_run_together)
    return launch


def _run_together(compiled: Any, launch: Any) -> None:
    """Before a launch of a compiled kernel."""
    _allow(compiled, cuda.get_current_device().id)


@cache
def _allow(compiled: Any, number: int) -> None:
    """Let a compiled kernel have all its blocks at once, and all the shared memory that a block of the device can have."""
    compiled.cooperative = True
    most = limits(number).shared - compiled.shared_mem_per_block  # of which it has some already, of a size that is known
    function = compiled._codelibrary.get_cufunc()
    attribute = binding.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    driver.cuKernelSetAttribute(attribute, most, function.handle, function.device.id)
