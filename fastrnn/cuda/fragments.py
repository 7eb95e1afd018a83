"""The product inside a time loop by tensor cores, for numbers of 16 bits: product.py's part in loops.py, with its own order.

An instruction multiplies 16 rows of the batch by 8 columns, gates of units, over 16 terms. It takes its operands from the
registers of a warp's 32 lanes: lane 4 g + t gives of rows g and g + 8 and of column g the terms 2 t, 2 t + 1, 2 t + 8 and
2 t + 9 (PTX ISA, mma.m16n8k16). Any order of terms will do that is the same for both; here a lane has the terms 4 t to
4 t + 3, a word of 64 bits as they lie in memory. So what blocks read of each other goes from the second-level cache to where
it is used.

Warps divide the terms: warp w adds tiles w, w + W, ... of 16, and the thread of a unit and row adds the warps' parts. Both
orders depend on nothing but K: a row gives the same bits in every batch and cut. Rows of what blocks pass each other are as
wide as all warps have tiles, with zeros behind the K numbers.
"""

from functools import cache

import numpy as np
from numba import cuda

from fastrnn.cuda.instructions import instructions
from fastrnn.cuda.product import Multiplier
from fastrnn.cuda.scalars import device, place
from fastrnn.cuda.tiles import DEPTH, HALF, LANES, REGISTERS, SHARED, STREAMED, WIDTH

_TOP = 0x4000400040004000  # a bit that is set in all-ones and in no number below two
_ONE, _SIGN = 0x0001000100010001, -0x7FFF7FFF7FFF8000  # the lowest and the highest bit of each of four numbers


@cache
def multiplier(form, dtype):
    """How loops multiply, for a form with a tile of this kind."""
    tile, word = form.tile, np.dtype(np.int64)
    behind = tile.room * np.dtype(np.float32).itemsize // word.itemsize
    sums, leave = sums_of(tile, tile.gates), instructions(dtype).leave
    return Multiplier(taker(form), product_of(form, dtype), sums, leave, word, behind, np.int64)


@device
def warp_of_thread():
    return cuda.threadIdx.x >> 5


@device
def group_of_lane():
    """Of four lanes: which row, or column, a lane has terms of."""
    return (cuda.threadIdx.x & 31) >> 2


@device
def in_group():
    """Which of the four: a word of four terms each."""
    return cuda.threadIdx.x & 3


@cache
def turns_of(tile):
    """A device function: tiles of terms of each warp, as the tile's own `turns`."""
    terms = tile.warps * DEPTH
    return device(lambda K: (K + terms - 1) // terms)


@cache
def weight_of(tile):
    """A device function: a lane's word of the n-th tile of columns from unit u0 on, terms k to k + 15, or zeros."""
    gates, columns = tile.gates, tile.columns

    def weight(w, first, H, own, u0, n, k, K):
        word, column, k = np.int64(0), n * WIDTH + group_of_lane(), k + in_group() * 4
        gate, unit = column // columns, u0 + column % columns
        if gate < gates and unit < own:
            at = (gate * H + first + unit) * K + k
            for i in range(4):
                if k + i < K:
                    word |= (np.int64(w[place(at + i)]) & 0xFFFF) << (16 * i)
        return word

    return device(weight)


@cache
def taker(form):
    """A device function: where this block's weights are, their first row and the distance from gate to gate.

    They are copied to `room` in shared memory, or each lane's to `own_room`, its registers, or read where they are.
    """
    tile, terms, weight = form.tile, form.terms, weight_of(form.tile)
    weights, columns, warps, turns_for = tile.weights, tile.columns, tile.warps, turns_of(tile)

    def read(w, room, own_room, H, first, own, K):
        return w, first, H

    def share(w, room, own_room, H, first, own, K):
        tiles = turns_for(K) * warps
        words = (own + columns - 1) // columns * weights * tiles * LANES
        for i in range(cuda.threadIdx.x, words, cuda.blockDim.x):
            n, k = i // LANES // tiles, i // LANES % tiles * DEPTH
            room[place(i)] = weight(w, first, H, own, n // weights * columns, n % weights, k, K)
        cuda.syncthreads()
        return room, 0, H

    def hold(w, room, own_room, H, first, own, K):
        for n in range(weights):
            for i in range(terms):
                k = (warp_of_thread() + i * warps) * DEPTH
                own_room[n * terms + i] = weight(w, first, H, own, 0, n, k, K)
        return own_room, 0, H

    return device({STREAMED: read, SHARED: share, REGISTERS: hold}[form.where])


@cache
def weight_at(form):
    """A device function: the same word, from where the weights are; i : the warp's tile of terms."""
    tile, terms, weight = form.tile, form.terms, weight_of(form.tile)
    weights, columns, warps = tile.weights, tile.columns, tile.warps

    def streamed(w, first, H, own, u0, n, i, turns, K):
        return weight(w, first, H, own, u0, n, (warp_of_thread() + i * warps) * DEPTH, K)

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
    weights, halves, ahead, sums, pairs = tile.weights, tile.halves, tile.ahead, tile.sums, tile.instructions
    (fetch, complete), turns_for = fetcher(tile, dtype), turns_of(tile)
    zero, leave_parts, words = np.float32(0), placer(tile), ahead * halves

    @device
    def product(w, first, H, own, u0, K, v, start, step, last, pool):
        turns = turns_for(K)
        acc = cuda.local.array(sums, np.float32)
        near = cuda.local.array(words, np.int64)
        coming = cuda.local.array(words, np.int64)
        for i in range(sums):
            acc[i] = zero
        fetch(v, start, step, last, 0, turns, coming)
        for i0 in range(0, terms if terms else turns, ahead):
            complete(v, start, step, last, i0, coming)
            for i in range(words):
                near[i] = coming[i]
            if i0 + ahead < turns:  # on their way while these are used
                fetch(v, start, step, last, i0 + ahead, turns, coming)
            for i in range(ahead):
                if i0 + i < turns:
                    for n in range(weights):
                        word = weight(w, first, H, own, u0, n, i0 + i, turns, K)
                        for m in range(pairs):
                            a, p = i * halves + 2 * m, 4 * (n * pairs + m)
                            before = acc[p], acc[p + 1], acc[p + 2], acc[p + 3]
                            after = multiply(before, near[a], near[a + 1] if halves > 1 else 0, word)
                            acc[p], acc[p + 1], acc[p + 2], acc[p + 3] = after
        leave_parts(pool, acc)
        cuda.syncthreads()

    return product


@cache
def fetcher(tile, dtype):
    """Device functions that bring a lane's words of the rows: one begins, one sees that they are there."""
    warps, halves = tile.warps, tile.halves
    load, words = instructions(dtype).load, tile.ahead * tile.halves

    @device
    def at(start, step, last, i0, i):
        """The index of a word; all those of a row differ by numbers that the compiler knows."""
        row, turn = group_of_lane() + i % halves * HALF, i // halves
        first = place(start + min(row, last) * step) // place(4) + place(warp_of_thread() * 4 + in_group())
        return first + place((i0 + turn) * warps * 4)

    @device
    def fetch(v, start, step, last, i0, turns, into):
        for i in range(words):
            into[i] = load(v, at(start, step, last, i0, i)) if i0 + i // halves < turns else 0

    @device
    def missing(word):
        """Whether one of its four numbers is all-ones."""
        return ((~word - _ONE) & word & _SIGN) != 0

    @device
    def some_missing(numbers):
        every = np.int64(0)
        for i in range(words):
            every |= numbers[i]
        some = False
        if every & _TOP:
            for i in range(words):
                some |= missing(numbers[i])
        return some

    @device
    def complete(v, start, step, last, i0, into):
        while some_missing(into):
            for i in range(words):
                if missing(into[i]):
                    into[i] = load(v, at(start, step, last, i0, i))

    return fetch, complete


@cache
def placer(tile):
    """A device function that puts a warp's sums to shared memory: of each column of its, all rows."""
    columns, pitch, pairs, weights, halves = tile.weights * WIDTH, tile.pitch, tile.instructions, tile.weights, tile.halves

    def leave_parts(pool, acc):
        first = (warp_of_thread() * columns + in_group() * 2) * pitch + group_of_lane()
        for n in range(weights):
            for m in range(pairs):
                p, at = 4 * (n * pairs + m), first + n * WIDTH * pitch + m * 2 * HALF
                pool[place(at)], pool[place(at + pitch)] = acc[p], acc[p + 1]
                if halves > 1:
                    pool[place(at + HALF)], pool[place(at + pitch + HALF)] = acc[p + 2], acc[p + 3]

    return device(leave_parts)


@cache
def sums_of(tile, gates):
    """A device function (pool, j, r) -> the first `gates` sums of the pass's unit j and row r: those of all warps' parts."""
    warps, columns, pitch, gate = tile.warps, tile.weights * WIDTH, tile.pitch, gates - 1
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
