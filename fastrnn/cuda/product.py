"""The product inside a time loop, u = W h for some units and some rows of the batch, and the waits for other blocks.

A warp's 32 lanes share one sum: lane l adds the terms k = l, l + 32, ... in that order, and one thread adds the 32 parts.
The order depends on nothing but K, so that a row gives the same bits however a batch is cut into blocks.
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numba import cuda

from fastrnn.cuda.scalars import as_float, device, exchange, loader, lower, place, real_of, upper

LANES = 32
TURNS = 4  # of a lane's terms in the body of a loop
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
    each: int = 1  # numbers of a load: 2 where rows are read as words of two

    def in_pairs(self) -> "Tile":
        """The same with words of two numbers: as many loads where there are many rows, else fewer, and registers left."""
        return replace(self, loads=self.loads * (2 if 2 < self.rows <= 8 else 1), each=2)

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
        for part in range(0, LANES, 4):
            a += pool[place(start + part)]
            b += pool[place(start + part + 1)]
            c += pool[place(start + part + 2)]
            d += pool[place(start + part + 3)]
        return (a + b) + (c + d)

    return device(total)


@cache
def product_of(tile, dtype, terms=0, awaited=False):
    """A device function with the sums of one pass, left in `pool`: unit j, gate g, row r at base + (j G + g) R + r.

    terms : of a lane's weights, where it holds them in registers and there is but one pass and chunk
    w : rows (K,); unit j's of gate g is row `first` + g * `gate_step` + j, of `own` units
    v : rows (K,) too, perhaps as words of two; row r's starts at `start` + min(r, last) * `step`
    awaited : numbers of v may not be there yet, see Exchange; otherwise they are, all of them
    """
    warp_sums, units, rows, parts = tile.sums, tile.units, tile.rows, tile.parts
    together, base, chunk, each, loads = tile.warps * parts, tile.base, tile.chunk, tile.each, tile.loads // tile.each
    threads, real, add = tile.threads, real_of(dtype), adder_of_terms(tile, dtype, terms)
    zero, of_parts, (fetch, complete) = real(0), sum_of_parts(real), fetcher(tile, dtype, awaited)
    word, place_words = (real if each == 1 else np.int64), placer(each)

    @device
    def add_parts(pool, first):
        """The lanes' parts of the sums of each warp from `first` on."""
        for i in range(cuda.threadIdx.x, together, cuda.blockDim.x):
            pool[place(base + i // parts * warp_sums + first + i % parts)] = of_parts(pool, i * PITCH)
        cuda.syncthreads()

    @device
    def product(w, first, gate_step, own, u0, K, v, start, step, last, pool):
        thread = cuda.threadIdx.x
        lane, warp = thread % LANES, thread // LANES
        acc = cuda.local.array(warp_sums, real)
        near = cuda.local.array(rows, real)
        coming = cuda.local.array(loads, word)
        for i in range(warp_sums):
            acc[i] = zero
        unit = min(u0 + warp * units, own - 1)
        fetch(v, start, step, last, 0, K, coming)
        for k0 in range(0, K, chunk):
            complete(v, start, step, last, k0, K, coming)
            for i in range(loads):
                place_words(pool, thread + i * threads, coming[i])
            cuda.syncthreads()
            if k0 + chunk < K:  # on their way while these are used
                fetch(v, start, step, last, k0 + chunk, K, coming)
            add(w, (first + unit) * K, gate_step, own - unit, k0, K, pool, acc, near)
            cuda.syncthreads()
        for i0 in range(0, warp_sums, parts):
            for i in range(parts):
                pool[place((warp * parts + i) * PITCH + lane)] = acc[i0 + i]
            cuda.syncthreads()
            add_parts(pool, i0)

    return product


@cache
def placer(each):
    """A device function that puts the i-th word of `each` numbers to shared memory."""

    def place_number(pool, i, x):
        pool[place(i)] = x

    def place_pair(pool, i, x):
        pool[place(2 * i)] = as_float(lower(x))
        pool[place(2 * i + 1)] = as_float(upper(x))

    return device(place_number if each == 1 else place_pair)


@cache
def fetcher(tile, dtype, awaited):
    """Device functions that bring a thread's share of the rows' next numbers: one begins, one sees that they are there.

    All loads are made before any is looked at, and then, of those whose numbers were missing, all again.
    """
    threads, each, loads = tile.threads, tile.each, tile.loads // tile.each
    loads_of_row, words_of_row = loads // tile.rows, tile.chunk // tile.each
    _, missing, first, again = exchange(real_of(dtype), each == 2)

    @device
    def at(start, step, last, k0, K, i):
        """Of load i; past the last term the last one's again, not used."""
        if loads_of_row:
            row, word = i // loads_of_row, cuda.threadIdx.x + i % loads_of_row * threads
        else:  # a part of the threads brings each row
            row, word = (cuda.threadIdx.x + i * threads) // words_of_row, cuda.threadIdx.x % words_of_row
        return (start + min(row, last) * step + min(k0 + each * word, K - each)) >> (each - 1)

    @device
    def there(v, i):
        return v[place(i)]

    load = first if awaited else there

    @device
    def fetch(v, start, step, last, k0, K, into):
        for i in range(loads):
            into[i] = load(v, at(start, step, last, k0, K, i))

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

    return fetch, complete if awaited else nothing


@cache
def adder_of_terms(tile, dtype, terms):
    """A device function that adds the terms whose numbers are in shared memory to a lane's sums."""
    gates, units, rows, chunk = tile.gates, tile.units, tile.rows, tile.chunk
    weights, load = units * gates, loader(dtype)

    @device
    def add_some(turns, w, w_at, gate_step, mine, k, K, pool, acc, near):
        """Terms k, k + 32, ... of so many turns; each number and each weight is loaded once for all its sums."""
        for turn in range(turns):
            for r in range(rows):
                near[r] = pool[place(r * chunk + k + turn * LANES)]
            for p in range(weights):
                # past the last unit: the last one's again, not used
                row = (p % gates) * gate_step + min(p // gates, mine - 1)
                weight = load(w[place(w_at + row * K + k + turn * LANES)])
                for r in range(rows):
                    acc[p * rows + r] += weight * near[r]

    @device
    def add_terms(w, w_at, gate_step, mine, k0, K, pool, acc, near):
        k, end, at = cuda.threadIdx.x % LANES, min(chunk, K - k0), w_at + k0
        while k < end - (TURNS - 1) * LANES:  # several at a time have an address in common
            add_some(TURNS, w, at, gate_step, mine, k, K, pool, acc, near)
            k += TURNS * LANES
        while k < end:
            add_some(1, w, at, gate_step, mine, k, K, pool, acc, near)
            k += LANES

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
