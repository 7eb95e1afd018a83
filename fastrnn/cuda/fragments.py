"""The product inside a time loop by tensor cores: product.py's part in loops.py, with an order of its own.

An instruction multiplies 16 columns, gates of units, by 8 rows of the batch, over 16 terms of 16 bits or 8 of single
precision. It takes its operands from the registers of a warp's 32 lanes: lane 4 g + t gives of columns g and g + 8 and of
row g the terms 2 t, 2 t + 1, 2 t + 8 and 2 t + 9, or t and t + 4 (PTX ISA, mma.m16n8k16 and mma.m16n8k8). Any order of terms
will do that is the same for both; here a lane has those from 4 t, or 2 t, on, a word of 64 bits as they lie in memory. So
what blocks read of each other goes from the second-level cache to where it is used. It lies there by tiles of terms, all
rows of a pass side by side: what a warp reads at a time is 256 bytes.

Warps divide the terms: warp w adds tiles w, w + W, ..., and the thread of a unit and row adds the warps' parts. Both orders
depend on nothing but K: a row gives the same bits in every batch and cut. Rows of what blocks pass each other are as wide as
all warps have tiles, with zeros behind the K numbers.
"""

from functools import cache

import numpy as np
from numba import cuda

from fastrnn.cuda.instructions import instructions
from fastrnn.cuda.product import Multiplier
from fastrnn.cuda.scalars import device, place
from fastrnn.cuda.tiles import EIGHT, LANES, REGISTERS, SHARED, STREAMED

# of each of a word's four or two numbers: the lowest and the highest bit, and one that is set in all-ones and in no number
# below two
_BITS = {
    4: (0x0001000100010001, -0x7FFF7FFF7FFF8000, 0x4000400040004000),
    2: (0x0000000100000001, -0x7FFFFFFF80000000, 0x4000000040000000),
}


@cache
def multiplier(form, dtype):
    """How loops multiply, for a form with a tile of this kind."""
    tile, word = form.tile, np.dtype(np.int64)
    behind = tile.room * np.dtype(np.float32).itemsize // word.itemsize
    sums = sums_of(tile, tile.gates)
    return Multiplier(taker(form), rows_of, product_of(form, dtype), sums, leaver(tile, dtype), word, behind, np.int64)


@device
def warp_of_thread():
    return cuda.threadIdx.x >> 5


@device
def group_of_lane():
    """Of four lanes: which column, and which row, a lane has terms of."""
    return (cuda.threadIdx.x & 31) >> 2


@device
def in_group():
    """Which of the four: a word of terms each."""
    return cuda.threadIdx.x & 3


@cache
def turns_of(tile):
    """A device function: tiles of terms of each warp, as the tile's own `turns`."""
    ahead, terms = tile.ahead, tile.warps * tile.depth * tile.ahead
    return device(lambda K: (K + terms - 1) // terms * ahead)


@device
def rows_of(q, s, packed, group, v):
    """The memory in which blocks pass each other a group's rows of step s, where they begin, and numbers of a row."""
    return v, (s * q.groups + group) * q.room * q.width, q.width


@cache
def number_of(tile):
    """A device function: where number k of the r-th of rows is that begin at `start`, each of `width` numbers."""
    side, depth = tile.side, tile.depth

    def number(start, width, r, k):
        return place(start + (r // side * width + k // depth * depth) * side) + place(r % side * depth + k % depth)

    return device(number)


@cache
def leaver(tile, dtype):
    """A device function that leaves number k of a row for other blocks; row : those of `rows_of`, and which of them."""
    store, number = instructions(dtype).store, number_of(tile)

    @device
    def leave(row, k, x):
        (v, start, width), r = row
        store(v, number(start, width, r, k), x)

    return leave


@cache
def weight_of(tile):
    """A device function: a lane's word of the n-th eight columns from unit u0 on, of the terms from k on, or zeros."""
    gates, columns, numbers = tile.gates, tile.columns, tile.numbers
    bits = 64 // numbers
    ones = (1 << bits) - 1

    def weight(w, first, H, own, u0, n, k, K):
        word, column, k = np.int64(0), n * EIGHT + group_of_lane(), k + in_group() * numbers
        gate, unit = column // columns, u0 + column % columns
        if gate < gates and unit < own:
            at = (gate * H + first + unit) * K + k
            for i in range(numbers):
                if k + i < K:
                    word |= (np.int64(w[place(at + i)]) & ones) << (bits * i)
        return word

    return device(weight)


@cache
def taker(form):
    """A device function: where this block's weights are, their first row and the distance from gate to gate.

    They are copied to `room` in shared memory, or each lane's to `own_room`, its registers, or read where they are.
    """
    tile, terms, weight = form.tile, form.terms, weight_of(form.tile)
    weights, columns, warps, depth, turns_for = tile.weights, tile.columns, tile.warps, tile.depth, turns_of(tile)

    def read(w, room, own_room, H, first, own, K):
        return w, first, H

    def share(w, room, own_room, H, first, own, K):
        tiles = turns_for(K) * warps
        words = (own + columns - 1) // columns * weights * tiles * LANES
        for i in range(cuda.threadIdx.x, words, cuda.blockDim.x):
            n, k = i // LANES // tiles, i // LANES % tiles * depth
            room[place(i)] = weight(w, first, H, own, n // weights * columns, n % weights, k, K)
        cuda.syncthreads()
        return room, 0, H

    def hold(w, room, own_room, H, first, own, K):
        for n in range(weights):
            for i in range(terms):
                k = (warp_of_thread() + i * warps) * depth
                own_room[n * terms + i] = weight(w, first, H, own, 0, n, k, K)
        return own_room, 0, H

    return device({STREAMED: read, SHARED: share, REGISTERS: hold}[form.where])


@cache
def weight_at(form):
    """A device function: the same word, from where the weights are; i : the warp's tile of terms."""
    tile, terms, weight = form.tile, form.terms, weight_of(form.tile)
    weights, columns, warps, depth = tile.weights, tile.columns, tile.warps, tile.depth

    def streamed(w, first, H, own, u0, n, i, turns, K):
        return weight(w, first, H, own, u0, n, (warp_of_thread() + i * warps) * depth, K)

    def shared(w, first, H, own, u0, n, i, turns, K):
        column = u0 // columns * weights + n
        return w[place((column * turns + i) * warps * LANES + cuda.threadIdx.x)]

    def held(w, first, H, own, u0, n, i, turns, K):
        return w[n * terms + i]

    return device({STREAMED: streamed, SHARED: shared, REGISTERS: held}[form.where])


@cache
def product_of(form, dtype):
    """A device function with the sums of one pass, the warps' parts of them left in `pool`; arguments as in product.py."""
    tile, terms, multiply, weight = form.tile, form.terms, instructions(dtype).multiply, weight_at(form)
    weights, pairs, words, ahead, sums = tile.weights, tile.pairs, tile.words, tile.ahead, tile.sums
    (fetch, complete), turns_for = fetcher(tile, dtype), turns_of(tile)
    zero, leave_parts, all_words = np.float32(0), placer(tile), ahead * words

    @device
    def product(w, first, H, own, u0, K, rows, r0, last, pool):
        turns = turns_for(K)
        acc = cuda.local.array(sums, np.float32)
        near = cuda.local.array(all_words, np.int64)
        coming = cuda.local.array(all_words, np.int64)
        for i in range(sums):
            acc[i] = zero
        fetch(rows, r0, last, 0, coming)
        for i0 in range(0, terms if terms else turns, ahead):
            complete(rows, r0, last, i0, coming)
            for i in range(all_words):
                near[i] = coming[i]
            if i0 + ahead < turns:  # on their way while these are used
                fetch(rows, r0, last, i0 + ahead, coming)
            for i in range(ahead):
                for n in range(pairs):
                    word = weight(w, first, H, own, u0, 2 * n, i0 + i, turns, K)
                    second = weight(w, first, H, own, u0, 2 * n + 1, i0 + i, turns, K) if 2 * n + 1 < weights else 0
                    for m in range(words):
                        p = 4 * (n * words + m)
                        before = acc[p], acc[p + 1], acc[p + 2], acc[p + 3]
                        after = multiply(before, word, second, near[i * words + m])
                        acc[p], acc[p + 1], acc[p + 2], acc[p + 3] = after
        leave_parts(pool, acc)
        cuda.syncthreads()

    return product


@cache
def fetcher(tile, dtype):
    """Device functions that bring a lane's words of the rows: one begins, one sees that they are there."""
    warps, words, numbers, side = tile.warps, tile.words, tile.numbers, tile.side
    load, all_words, (one, sign, top) = instructions(dtype).load, tile.ahead * tile.words, _BITS[tile.numbers]

    @device
    def at(rows, r0, last, i0, i):
        """The index of a word; all those of a row differ by numbers that the compiler knows."""
        row, turn = min(group_of_lane() + i % words * EIGHT, last), i // words
        tile = warp_of_thread() + i0 * warps
        _, start, width = rows
        first = place(start + r0 * width) // place(numbers) + place((tile * side + row) * 4 + in_group())
        return first + place(turn * warps * side * 4)

    @device
    def fetch(rows, r0, last, i0, into):
        for i in range(all_words):
            into[i] = load(rows[0], at(rows, r0, last, i0, i))

    @device
    def missing(word):
        """Whether one of its numbers is all-ones."""
        return ((~word - one) & word & sign) != 0

    @device
    def some_missing(found):
        every = np.int64(0)
        for i in range(all_words):
            every |= found[i]
        some = False
        if every & top:
            for i in range(all_words):
                some |= missing(found[i])
        return some

    @device
    def complete(rows, r0, last, i0, into):
        while some_missing(into):
            for i in range(all_words):
                if missing(into[i]):
                    into[i] = load(rows[0], at(rows, r0, last, i0, i))

    return fetch, complete


@cache
def placer(tile):
    """A device function that puts a warp's sums to shared memory: of each column of its, all rows."""
    columns, pitch, pairs, weights, words = tile.weights * EIGHT, tile.pitch, tile.pairs, tile.weights, tile.words

    def leave_parts(pool, acc):
        first = (warp_of_thread() * columns + group_of_lane()) * pitch + in_group() * 2
        for n in range(pairs):
            for m in range(words):
                p, at = 4 * (n * words + m), first + n * 2 * EIGHT * pitch + m * EIGHT
                pool[place(at)], pool[place(at + 1)] = acc[p], acc[p + 1]
                if 2 * n + 1 < weights:
                    next_at = at + EIGHT * pitch
                    pool[place(next_at)], pool[place(next_at + 1)] = acc[p + 2], acc[p + 3]

    return device(leave_parts)


@cache
def sums_of(tile, gates):
    """A device function (pool, j, r) -> the first `gates` sums of the pass's unit j and row r: those of all warps' parts."""
    warps, columns, pitch, gate = tile.warps, tile.weights * EIGHT, tile.pitch, gates - 1
    before = sums_of(tile, gates - 1) if gates > 1 else None
    units, zero = tile.columns, np.float32(0)

    @device
    def total(pool, j, r):
        x = zero
        for warp in range(warps):
            x += pool[place((warp * columns + gate * units + j) * pitch + r)]
        return x

    def sums(pool, j, r):
        return (*before(pool, j, r), total(pool, j, r))

    def first_sum(pool, j, r):
        return (total(pool, j, r),)

    return device(sums if gates > 1 else first_sum)
