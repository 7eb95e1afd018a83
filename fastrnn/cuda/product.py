"""The product inside a time loop, u = W h for some units and some rows of the batch, and the waits for other blocks.

A warp's 32 lanes share one sum: lane l adds the terms k = l, l + 32, ... in that order, and one thread adds the 32 parts.
The order depends on nothing but K, so that a row gives the same bits however a batch is cut into blocks.
"""

from dataclasses import dataclass
from functools import cache

from numba import cuda

from fastrnn.cuda.scalars import device, exchange, loader, place, real_of

LANES = 32
PITCH = LANES + 1  # of parts in shared memory: threads that read one each find them in 32 different banks


@dataclass(frozen=True)
class Tile:
    """What a block computes in one pass: for each of its warps' units, every gate, of some rows of the batch."""

    warps: int
    units: int  # of a warp
    gates: int
    rows: int
    loads: int  # numbers of the rows that a thread brings to shared memory at a time, as many of each row
    most_parts: int  # sums of a warp whose lanes' parts are in shared memory at a time

    @property
    def threads(self) -> int:
        return LANES * self.warps

    @property
    def columns(self) -> int:
        """Units of a pass; with the rows no more than threads, so that each has one unit of one row."""
        return self.warps * self.units

    @property
    def sums(self) -> int:
        """Of a warp."""
        return self.units * self.gates * self.rows

    @property
    def parts(self) -> int:
        """Sums of a warp that are added up at a time: a part of all of them."""
        return max(n for n in range(1, self.most_parts + 1) if self.sums % n == 0)

    @property
    def chunk(self) -> int:
        """Terms whose numbers are in shared memory at a time."""
        return self.threads * self.loads // self.rows

    @property
    def base(self) -> int:
        """Where the sums are, behind the rows' numbers and, when those have been used, the lanes' parts."""
        return max(self.threads * self.loads, self.warps * self.parts * PITCH)

    @property
    def room(self) -> int:
        """Numbers in shared memory."""
        return self.base + self.warps * self.sums


@cache
def sum_of_parts(real):
    """A device function: the sum of the lanes' parts that begin in pool[start]."""
    zero = real(0)

    def total(pool, start):
        a, b, c, d = zero, zero, zero, zero
        for part in range(start, start + LANES, 4):
            a += pool[part]
            b += pool[part + 1]
            c += pool[part + 2]
            d += pool[part + 3]
        return (a + b) + (c + d)

    return device(total)


@cache
def product_of(tile, dtype, terms=0, awaited=False):
    """A device function with the sums of one pass, left in `pool`: unit j, gate g, row r at base + (j G + g) R + r.

    terms : of a lane's weights, where it holds them in registers and there is but one pass and chunk
    w : rows (K,); unit j's of gate g is row `first` + g * `gate_step` + j, of `own` units
    v : rows (K,) too; row r's starts at `start` + min(r, last) * `step`
    awaited : numbers of v may not be there yet, see Exchange; otherwise they are, all of them
    """
    warp_sums, units, rows, parts = tile.sums, tile.units, tile.rows, tile.parts
    together, base, chunk, loads = tile.warps * parts, tile.base, tile.chunk, tile.loads
    threads, real, add = tile.threads, real_of(dtype), adder_of_terms(tile, dtype, terms)
    zero, of_parts, (fetch, complete) = real(0), sum_of_parts(real), fetcher(tile, dtype, awaited)

    @device
    def add_parts(pool, first):
        """The lanes' parts of the sums of each warp from `first` on."""
        for i in range(cuda.threadIdx.x, together, cuda.blockDim.x):
            pool[base + i // parts * warp_sums + first + i % parts] = of_parts(pool, i * PITCH)
        cuda.syncthreads()

    @device
    def product(w, first, gate_step, own, u0, K, v, start, step, last, pool):
        thread = cuda.threadIdx.x
        lane, warp = thread % LANES, thread // LANES
        acc = cuda.local.array(warp_sums, real)
        near = cuda.local.array(rows, real)
        coming = cuda.local.array(loads, real)
        for i in range(warp_sums):
            acc[i] = zero
        unit = min(u0 + warp * units, own - 1)
        fetch(v, start, step, last, 0, K, coming)
        for k0 in range(0, K, chunk):
            complete(v, start, step, last, k0, K, coming)
            for i in range(loads):
                pool[place(thread + i * threads)] = coming[i]
            cuda.syncthreads()
            if k0 + chunk < K:  # on their way while these are used
                fetch(v, start, step, last, k0 + chunk, K, coming)
            add(w, (first + unit) * K, gate_step, own - unit, k0, K, pool, acc, near)
            cuda.syncthreads()
        for i0 in range(0, warp_sums, parts):
            for i in range(parts):
                pool[(warp * parts + i) * PITCH + lane] = acc[i0 + i]
            cuda.syncthreads()
            add_parts(pool, i0)

    return product


@cache
def fetcher(tile, dtype, awaited):
    """Device functions that bring a thread's share of the rows' next numbers: one begins, one sees that they are there.

    All loads are made before any is looked at, and then, of those whose numbers were missing, all again.
    """
    threads, loads, loads_of_row = tile.threads, tile.loads, tile.loads // tile.rows
    _, missing, first, again = exchange(real_of(dtype))

    @device
    def at(start, step, last, k0, K, i):
        """Of load i; past the last term the last one's again, not used."""
        return start + min(i // loads_of_row, last) * step + min(k0 + cuda.threadIdx.x + i % loads_of_row * threads, K - 1)

    @device
    def fetch(v, start, step, last, k0, K, into):
        for i in range(loads):
            into[i] = v[place(at(start, step, last, k0, K, i))]

    @device
    def fetch_first(v, start, step, last, k0, K, into):
        for i in range(loads):
            into[i] = first(v, at(start, step, last, k0, K, i))

    @device
    def nothing(v, start, step, last, k0, K, into):
        pass

    @device
    def some_missing(numbers):
        some = False
        for i in range(loads):
            some |= missing(numbers[i])
        return some

    @device
    def complete(v, start, step, last, k0, K, into):
        while some_missing(into):
            for i in range(loads):
                if missing(into[i]):
                    into[i] = again(v, at(start, step, last, k0, K, i), into[i])

    return (fetch_first, complete) if awaited else (fetch, nothing)


@cache
def adder_of_terms(tile, dtype, terms):
    """A device function that adds the terms whose numbers are in shared memory to a lane's sums."""
    gates, units, rows, chunk = tile.gates, tile.units, tile.rows, tile.chunk
    weights, load = units * gates, loader(dtype)

    @device
    def add_terms(w, w_at, gate_step, mine, k0, K, pool, acc, near):
        """Each of the numbers and each weight is loaded once for all its sums."""
        for k in range(cuda.threadIdx.x % LANES, min(chunk, K - k0), LANES):
            for r in range(rows):
                near[r] = pool[place(r * chunk + k)]
            for p in range(weights):
                # past the last unit: the last one's again, not used
                row = (p % gates) * gate_step + min(p // gates, mine - 1)
                weight = load(w[place(w_at + row * K + k0 + k)])
                for r in range(rows):
                    acc[p * rows + r] += weight * near[r]

    @device
    def add_held_terms(w, w_at, gate_step, mine, k0, K, pool, acc, near):
        """The same where w is this lane's own, `terms` of each of its rows: the loops are unrolled, w is in registers."""
        for i in range(terms):
            k = cuda.threadIdx.x % LANES + i * LANES
            if k < K:
                for r in range(rows):
                    near[r] = pool[place(r * chunk + k)]
                for p in range(weights):
                    for r in range(rows):
                        acc[p * rows + r] += w[p * terms + i] * near[r]

    return add_held_terms if terms else add_terms


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
