"""The product inside a time loop, u = W h for some units and some rows of the batch, and the wait for other blocks.

A warp's 32 lanes share one sum: lane l adds the terms k = l, l + 32, ... in that order, and one thread adds the 32 parts.
The order depends on nothing but K, so that a row gives the same bits however a batch is cut into blocks.
"""

from dataclasses import dataclass
from functools import cache

from numba import cuda

from fastrnn.cuda.scalars import device, loader, place, real_of

LANES = 32
_AHEAD = 2  # terms of a lane that are loaded together
_PITCH = LANES + 1  # of parts in shared memory: threads that read one each find them in 32 different banks


@dataclass(frozen=True)
class Tile:
    """What a block computes in one pass: for each of its warps' units, every gate, of some rows of the batch."""

    warps: int
    units: int  # of a warp
    gates: int
    rows: int

    @property
    def threads(self) -> int:
        return LANES * self.warps

    @property
    def columns(self) -> int:
        """Units of a pass."""
        return self.warps * self.units

    @property
    def sums(self) -> int:
        """Of a warp."""
        return self.units * self.gates * self.rows

    @property
    def room(self) -> int:
        """Numbers in shared memory: the lanes' parts, and the sums."""
        return self.warps * self.sums * (_PITCH + 1)


@cache
def product_of(tile, dtype):
    """A device function with the sums of one pass, left in `pool`: unit j, gate g, row r at base + (j G + g) R + r.

    w : rows (K,); unit j's of gate g is row `first` + g * `gate_step` + j, of `own` units
    v : rows (K,) too; row r's starts at `start` + min(r, last) * `step`
    """
    warp_sums, gates, units, rows = tile.sums, tile.gates, tile.units, tile.rows
    weights, sums, base = units * gates, tile.warps * tile.sums, tile.warps * tile.sums * _PITCH
    real, load = real_of(dtype), loader(dtype)
    zero = real(0)

    @device
    def add_terms(k, w, w_at, gate_step, own, K, v, v_at, step, last, near, acc):
        """The k-th terms of all sums: a row's number and a weight are loaded once for all that they are used in."""
        for r in range(rows):
            near[r] = v[place(v_at + min(r, last) * step + k)]
        for p in range(weights):
            # past the last unit: the last one's again, not used
            row = (p % gates) * gate_step + min(p // gates, own - 1)
            weight = load(w[place(w_at + row * K + k)])
            for r in range(rows):
                acc[p * rows + r] += weight * near[r]

    @device
    def product(w, first, gate_step, own, u0, K, v, start, step, last, pool):
        thread = cuda.threadIdx.x
        lane, warp = thread % LANES, thread // LANES
        acc = cuda.local.array(warp_sums, real)
        near = cuda.local.array(rows, real)
        for i in range(warp_sums):
            acc[i] = zero
        unit = min(u0 + warp * units, own - 1)
        w_at, mine = (first + unit) * K, own - unit
        whole = K - K % (LANES * _AHEAD)
        for k in range(lane, whole, LANES * _AHEAD):
            for ahead in range(_AHEAD):  # unrolled: that many loads are on their way at once
                add_terms(k + ahead * LANES, w, w_at, gate_step, mine, K, v, start, step, last, near, acc)
        for k in range(whole + lane, K, LANES):
            add_terms(k, w, w_at, gate_step, mine, K, v, start, step, last, near, acc)
        for i in range(warp_sums):
            pool[(warp * warp_sums + i) * _PITCH + lane] = acc[i]
        cuda.syncthreads()
        for i in range(thread, sums, cuda.blockDim.x):
            a, b, c, d = zero, zero, zero, zero
            for part in range(i * _PITCH, i * _PITCH + LANES, 4):
                a += pool[part]
                b += pool[part + 1]
                c += pool[part + 2]
                d += pool[part + 3]
            pool[base + i] = (a + b) + (c + d)
        cuda.syncthreads()

    return product, base


@device
def wait(flags, group, blocks):
    """Until all blocks (0, group) to (blocks - 1, group) are here, and what they have written can be read.

    flags[group] counts in its low half the blocks that are here and in its high half how often all were: the first block
    adds what completes the low half to a whole. It never needs to be set back, and serves grids of any size.
    """
    cuda.syncthreads()
    if blocks > 1:
        if cuda.threadIdx.x == 0:
            cuda.threadfence()
            mine = (1 << 32) - (blocks - 1) if cuda.blockIdx.x == 0 else 1
            before = cuda.atomic.add(flags, group, mine)
            while (cuda.atomic.add(flags, group, 0) ^ before) >> 32 == 0:
                pass
            cuda.threadfence()
        cuda.syncthreads()
