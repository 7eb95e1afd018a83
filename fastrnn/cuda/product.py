"""The product inside a time loop, u = W h for some units and some rows of the batch, and the waits for other blocks.

A warp's 32 lanes share one sum: lane l adds the terms k = l, l + 32, ... in that order, and one thread adds the 32 parts.
The order depends on nothing but K, so that a row gives the same bits however a batch is cut into blocks.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from fastrnn.cuda.scalars import as_float, device, exchange, loader, lower, place, reader, real_of, stored_as, upper
from fastrnn.cuda.tiles import LANES, PITCH, REGISTERS, SHARED, STREAMED

_TURNS = 4  # of a lane's terms in the body of a loop


class Multiplier(NamedTuple):
    """How a loop's blocks multiply: device functions, and types of memory."""

    take: Any  # (w, room, own_room, H, first, own, K) -> where a block's weights are now: three arguments for
    rows: Any  # (q, s, packed, group, v) -> where, of a step whose first row is `packed`, a group's are in `passed`
    product: Any  # (..., own, u0, K, rows, r0, last, pool): the sums of one pass, of its rows r0 to r0 + last at most
    sums_of: Any  # (pool, j, r) -> those of unit j and row r of the pass, one for each gate
    leave: Any  # ((rows, r), k, x): number k of a row for other blocks, where those have memory of their own
    room: Any  # the type of weights in shared memory
    behind: int  # what else is there, in such numbers
    own_room: Any  # the type of weights in registers


@cache
def multiplier(form, dtype):
    """How loops multiply, for a form with a tile of this kind."""
    tile, real = form.tile, real_of(dtype)
    G, R, base, gates_of = tile.gates, tile.rows, tile.base, reader(tile.gates)
    stored = np.dtype(stored_as(dtype))

    @device
    def sums_of(pool, j, r):
        return gates_of(pool, base + j * G * R + r, R)

    @device
    def rows_of(q, s, packed, group, v):
        """The memory, the first row and the distance of rows in it."""
        return v, (packed + group) * q.width, q.groups * q.width

    @device
    def multiply(w, first, gate_step, own, u0, K, rows, r0, last, pool):
        v, start, step = rows
        product(w, first, gate_step, own, u0, K, v, start + r0 * step, step, last, pool)

    @device
    def nothing(row, k, x):
        """It is where the loop keeps it."""

    behind = tile.room * np.dtype(real).itemsize // stored.itemsize
    product = product_of(tile, dtype, form.terms, True)
    return Multiplier(taker(form, dtype), rows_of, multiply, sums_of, nothing, stored, behind, real)


@cache
def taker(form, dtype):
    """A device function: where this block's rows of the weights are, the first, and the distance from gate to gate.

    They are copied to `room` in shared memory, or each lane's to `own_room`, its registers, or read where they are.
    """
    gates, units, terms, load = form.tile.gates, form.tile.units, form.terms, loader(dtype)
    zero = real_of(dtype)(0)

    def read(w, room, own_room, H, first, own, K):
        return w, first, H

    def share(w, room, own_room, H, first, own, K):
        size = own * K
        for i in range(cuda.threadIdx.x, gates * size, cuda.blockDim.x):
            gate = i // size
            room[i] = w[(gate * H + first) * K + i - gate * size]
        cuda.syncthreads()
        return room, 0, own

    def hold(w, room, own_room, H, first, own, K):
        for p in range(units * gates):
            unit = first + min(cuda.threadIdx.x // LANES * units + p // gates, own - 1)
            for i in range(terms):
                k = cuda.threadIdx.x % LANES + i * LANES
                own_room[p * terms + i] = load(w[(p % gates * H + unit) * K + k]) if k < K else zero
        return own_room, 0, own

    return device({STREAMED: read, SHARED: share, REGISTERS: hold}[form.where])


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
        while k < end - (_TURNS - 1) * LANES:  # several at a time have an address in common
            add_some(_TURNS, w, at, gate_step, mine, k, K, pool, acc, near)
            k += _TURNS * LANES
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
