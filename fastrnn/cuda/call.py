"""One call on a device: its memory, its stream, its launches."""

import threading
from functools import cache, lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
from numba import cuda

from fastrnn.cuda import gemm, moves
from fastrnn.cuda.kinds import NUMBA, Numba, kind_of, stream_of
from fastrnn.cuda.launching import Grid, current_device, fill, launch
from fastrnn.cuda.plan import Cut
from fastrnn.cuda.rows import Loop, Rows
from fastrnn.cuda.scalars import bits_of, real_name
from fastrnn.cuda.target import ELEMENTWISE, ITEM, SIMULATED, SQUARES, Square
from fastrnn.cuda.tiles import Tile

_MOST_BLOCKS = 1 if SIMULATED else 1024  # of a launch that copies
_PER_THREAD = 2  # CUDA's name for the stream that each thread has for its own
_ALIGNED = 64  # numbers: pieces of one memory begin where a library's own do, at multiples of 256 bytes
_GROUPS = 1024  # of rows, at most: a counter each
_FILL = 6 if SIMULATED else 264  # squares that fill a large device twice; sums are cut into parts until there are as many


class Call:
    """The launches of one call, in their order on the stream that the arrays' library uses now."""

    def __init__(self, like: Any):
        self.kind: Numba = kind_of(like)
        self.like, self.stream, self.number = like, self.kind.stream(), self.kind.device(like)
        current = self.number if SIMULATED else current_device()
        if self.number != current:
            raise ValueError(f"got arrays on device {self.number}, wanted ones on the current device, {current}")

    def empty(self, shape: Any, dtype: str) -> Any:
        """A new array of the caller's kind."""
        return self.kind.empty(shape, dtype, self.like)

    def room(self, size: int, dtype: str) -> Any:
        """New memory as kernels see it."""
        return self.flat(self.empty((max(size, 1),), dtype))

    def rooms(self, dtype: str, *sizes: int) -> list[Any]:
        """The same several times, from one piece of memory: each piece takes its time."""
        ends = list(accumulate(-(-max(size, 1) // _ALIGNED) * _ALIGNED for size in sizes))
        whole = self.room(ends[-1], dtype)
        return [whole[start : start + size] for start, size in zip((0, *ends), sizes, strict=False)]

    def passed(self, cut: Cut, rows: Rows, kept: Any, own: Any, K: int, dtype: str) -> Any:
        """Memory through which a loop's blocks pass rows of K numbers, missing (all-ones) until they are written: what the
        loop keeps of them anyway, or their own, see `passing`."""
        tile = cut.form.tile
        if isinstance(tile, Tile):
            self.fill(kept, -1)
            return kept if tile.each == 1 else kept.view(np.int64)
        total, width = _passed_rows(cut, rows), tile.width(K)
        own = own.view(bits_of(dtype))
        self.fill(own, -1)
        if width > K:
            self.each(moves.clear_behind(tile), total * (width - K), total, K, width, own)
        return own

    def weights(self, cut: Cut, w: Any, dtype: str) -> Any:
        """A loop's weights as its blocks read them."""
        return w.view(bits_of(dtype)) if cut.form.tile.apart else w

    def fill(self, memory: Any, word: int) -> None:
        """Every 32 bits of it."""
        if SIMULATED:
            memory[:] = np.full(memory.size, word, f"i{memory.dtype.itemsize}").view(memory.dtype)
        else:
            fill(memory, word, self.stream)

    def view(self, x: Any) -> Any:
        return self.kind.view(x)

    def flat(self, x: Any) -> Any:
        return self.kind.flat(x)

    def launch(self, kernel: Any, grid: tuple[int, ...], threads: int, *args: Any) -> None:
        launch(kernel, Grid(self.number, self.stream, grid, threads), args)

    def launch_loop(self, kernel: Any, cut: Cut, *args: Any) -> None:
        """A launch whose blocks wait for each other."""
        blocks = cut.slices, cut.groups
        launch(kernel, Grid(self.number, self.stream, blocks, cut.form.tile.threads, cut.shared, together=True), args)

    def tables(self, rows: Rows) -> Any:
        """The rows' table on the device."""
        if not rows.ragged:
            return _table(rows, self.number)
        return NUMBA.view(cuda.to_device(rows.table, stream=stream_of(self.stream)))

    @property
    def flags(self) -> Any:
        """Counters of the blocks that wait; launches on the same stream follow one another and can share them."""
        return _flags(self.number, self.stream, threading.get_ident() if self.stream == _PER_THREAD else 0)

    # --- the kernels of gemm.py and moves.py

    def each(self, kernel: Any, n: int, *args: Any) -> None:
        """A kernel over n numbers."""
        if n:
            self.launch(kernel, (min(-(-n // ELEMENTWISE), _MOST_BLOCKS),), ELEMENTWISE, *args)

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
        """c = a b (+ bias) in the type of sums: by the library's own product, or gemm.py's."""
        if q.M and q.N and q.K and self.kind.multiplies(a_dtype, b_dtype):
            matrix = self.kind.matrix
            a, b = matrix(a, (q.M, q.K), (q.a_m, q.a_k)), matrix(b, (q.K, q.N), (q.b_k, q.b_n))
            row = None if bias is None else matrix(bias, (1, q.N), (0, 1))
            self.kind.multiply(a, b, row, matrix(c, (q.M, q.N), (q.N, 1)))
            return
        q = q._replace(part=q.part or max(q.K, 1))
        parts = max(-(-q.K // q.part), 1)
        square = next((s for s in reversed(SQUARES) if _count(s, q) * parts >= _FILL), SQUARES[0])
        grid = (-(-q.M // square.side), -(-(q.N + q.ones) // square.side), parts)
        if _count(square, q):
            kernel = gemm.multiply(a_dtype, b_dtype, square)
            self.launch(kernel, grid, square.threads, q, a, b, b if bias is None else bias, c)

    def sum_products(
        self, q: gemm.Product, d: Any, d_dtype: str, x: Any, x_dtype: str, w: Any, bias: Any, dtype: str
    ) -> None:
        """w (M, N) = Σ_k d[k, m] x[k, n] and bias (M,) = Σ_k d[k, m], of K rows each."""
        if q.M and q.N and q.K and self.kind.multiplies(d_dtype, x_dtype):
            self._sum_by_library(q, d, d_dtype, x, x_dtype, w, bias, dtype)
            return
        q, real = q._replace(ones=int(bias is not None)), real_name(dtype)
        least = SQUARES[0]
        # by the shape alone; parts of fewer terms are not worth it
        parts = max(min(_FILL // max(_count(least, q), 1), -(-q.K // (8 * least.depth))), 1)
        q = q._replace(part=max(-(-q.K // parts), 1))
        parts, size = max(-(-q.K // q.part), 1), q.M * (q.N + q.ones)
        sums = self.room(parts * size, real)
        self.multiply(q, d, d_dtype, x, x_dtype, None, sums)
        target = self.flat(w)
        self.each(gemm.finish(dtype), size, q, parts, sums, target, target if bias is None else self.flat(bias))

    def _sum_by_library(self, q, d, d_dtype, x, x_dtype, w, bias, dtype):
        real, target, n = real_name(dtype), self.flat(w), q.M * q.N
        sums = target if real == dtype else self.room(n, real)
        self.multiply(q, d, d_dtype, x, x_dtype, None, sums)
        if real != dtype:
            self.each(moves.convert(real, dtype), n, n, 1, sums, target, 0)
        if bias is not None:
            self.kind.add_rows(self.kind.matrix(d, (q.K, q.M), (q.M, 1)), bias)


def told_of(cut: Cut, rows: Rows, H: int, K: int, given: bool) -> Loop:
    """What a loop's kernel is told of the batch, of whose rows blocks pass each other K numbers."""
    tile = cut.form.tile
    return rows.loop(H, cut.groups, given, tile.width(K), tile.place_for(rows.N, cut.groups))


def passing(cut: Cut, rows: Rows, K: int, dtype: str) -> int:
    """How many numbers of the type of sums take as much memory as blocks have of their own to pass each other those."""
    if not cut.form.tile.apart:
        return 0
    return -(-_passed_rows(cut, rows) * cut.form.tile.width(K) * ITEM[dtype] // ITEM[real_name(dtype)])


def _passed_rows(cut: Cut, rows: Rows) -> int:
    return rows.steps * cut.groups * cut.form.tile.place_for(rows.N, cut.groups)


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
    return NUMBA.view(there)
