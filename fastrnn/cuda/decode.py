"""All steps of a decoding in one launch: embedding, layers, attention, features, logits and the choice of the next token.

Block (i, j) owns the i-th slice of the units of every product, and every `gridDim.x`-th row of attention and sentence of the
choice, all of them of the j-th group of the sentences; groups never meet. The blocks of a group wait for each other five or
six times in a step, and once for each layer. What a step computes is said in seq2seq/steps.py, operation by operation in
reference_ops.py.

    weights   the decoder's parameters one behind the other: see Shape
    memory    (S, N, K) the keys and, from `values` on, (S, N, M) the values
    room      what a step leaves for others, in the type of sums: see Room
    integers, tables, numbers   what choices.py reads, in the order of `Words`
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numba import cuda

from fastrnn.cells import REGISTRY
from fastrnn.cuda.attention import attention_of
from fastrnn.cuda.choosing import Words, chooser
from fastrnn.cuda.choosing import text as text_of_choice
from fastrnn.cuda.folding import reducers
from fastrnn.cuda.loops import slice_of
from fastrnn.cuda.product import product_of, wait
from fastrnn.cuda.scalars import adder, device, functions, loader, reader, real_of, text, writer


class Shape(NamedTuple):
    """The sizes of a decoding, and where the parameters are among the weights; -1: there are none."""

    N: int  # sentences
    B: int  # rows of each
    T: int
    S: int  # steps of the memory
    V: int
    E: int  # numbers of an embedding
    F: int  # of features
    H: int
    L: int  # layers
    M: int  # numbers of a step of the memory, 0 without attention
    K: int  # of its key
    fed: int  # of the features that the next step reads: F or 0
    layers: int  # w_ih, w_hh, b_ih, b_hh of each
    query: int  # (K, H)
    v: int  # (K,)
    cover: int  # (K,), or (1,) without v
    combine: int  # (F, M + H), (F,)
    output: int  # (V, F), (V,)
    values: int  # in memory
    tracked: int  # whether coverage is kept


class Room(NamedTuple):
    """Where a step's rows are in `room`, R of each, and how many numbers there are."""

    x: int  # (R, E + fed)
    h: int  # (L, R, H) after the step
    c: int
    h_before: int  # of the row that each continues
    c_before: int
    joined: int  # (R, M + H) context and the last layer's h
    query: int  # (R, K)
    features: int  # (R, F)
    logits: int  # (R, V)
    weights: int  # (T, R, S)
    coverage: int  # (T + 1, R, S)
    size: int


def room_of(q):
    """The Room of a Shape."""
    R = q.N * q.B
    state = q.L * R * q.H
    sizes = [
        R * (q.E + q.fed), state, state, state, state, R * (q.M + q.H), R * q.K if q.query >= 0 else 0,
        R * q.F if q.M else 0, R * q.V, q.T * R * q.S if q.M else 0, (q.T + 1) * R * q.S if q.tracked else 0,
    ]  # fmt: skip
    starts = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
    if not q.M:
        starts[7] = starts[5]  # the last layer's h are the features
    return Room(*starts)


_T, _M, _ROOM = Shape._fields.index("T"), Shape._fields.index("M"), len(Shape._fields)
SIZES = _ROOM + len(Room._fields)
_read_shape, _read_room, _write_sizes = reader(_ROOM), reader(SIZES - _ROOM), writer(SIZES)


@device
def told(sizes):
    """Shape and Room, out of shared memory: what follows from them would otherwise be computed once, before all steps, and
    stay in registers that there are not enough of."""
    return Shape(*_read_shape(sizes, 0, 1)), Room(*_read_room(sizes, _ROOM, 1))


@device
def own_rows(q):
    """The rows of this block's group: the first, and how many."""
    first, end = q.N * cuda.blockIdx.y // cuda.gridDim.y, q.N * (cuda.blockIdx.y + 1) // cuda.gridDim.y
    return first * q.B, (end - first) * q.B


@cache
def linear_of(tile, dtype, activation):
    """A device function: out = f(W v + b) for this block's slice of the O outputs, of its group's rows."""
    product, load, rows, columns, base = product_of(tile, dtype), loader(dtype), tile.rows, tile.columns, tile.base
    function = functions(real_of(dtype))["tanh"] if activation == "tanh" else device(lambda x: x)
    zero = real_of(dtype)(0)

    def linear(q, weights, w, b, O, K, room, v, v_step, out, pool):
        (first_row, R), (first, own) = own_rows(q), slice_of(O)
        j, r = cuda.threadIdx.x % columns, cuda.threadIdx.x // columns
        for r0 in range(0, R, rows):
            for u0 in range(0, own, columns):
                v_at = v + (first_row + r0) * v_step
                product(weights[w:], first, O, own, u0, K, room, v_at, v_step, R - 1 - r0, pool)
                if r < rows and r0 + r < R and u0 + j < own:
                    n = first + u0 + j
                    bias = load(weights[b + n]) if b >= 0 else zero
                    room[out + (first_row + r0 + r) * O + n] = function(pool[base + j * rows + r] + bias)

    return device(linear)


@cache
def layer_of(name, tile, dtype):
    """A device function: one step of a layer for this block's slice of the units, of its group's rows."""
    cell, real = REGISTRY[name], real_of(dtype)
    product, advance, load_gates = product_of(tile, dtype), text(cell.forward, real), reader(cell.n_gates, dtype)
    G, rows, columns, base, memory = cell.n_gates, tile.rows, tile.columns, tile.base, cell.memory
    gates_of, add = reader(G), adder(G)

    def layer(q, weights, w, I, room, v, v_step, at, index, y, y_step, pool):
        H, (first_row, R), (first, own) = q.H, own_rows(q), slice_of(q.H)
        w_hh = w + G * H * I
        b_ih = w_hh + G * H * H
        state = (index * q.N * q.B + first_row) * H
        j, r = cuda.threadIdx.x % columns, cuda.threadIdx.x // columns
        for r0 in range(0, R, rows):
            for u0 in range(0, own, columns):
                last, unit = R - 1 - r0, first + min(u0 + j, own - 1)
                product(weights[w:], first, H, own, u0, I, room, v + (first_row + r0) * v_step, v_step, last, pool)
                x = gates_of(pool, base + (j * G * rows + r if r < rows else 0), rows)
                product(weights[w_hh:], first, H, own, u0, H, room, at.h_before + state + r0 * H, H, last, pool)
                if r < rows and r0 + r < R and u0 + j < own:
                    u = gates_of(pool, base + j * G * rows + r, rows)
                    place = state + (r0 + r) * H + unit
                    x = add(x, load_gates(weights, b_ih + unit, H))
                    u = add(u, load_gates(weights, b_ih + G * H + unit, H))
                    h, c, _ = advance(x, u, room[(at.c_before if memory else at.h_before) + place])
                    room[at.h + place] = h
                    if memory:
                        room[at.c + place] = c
                    if index == q.L - 1:
                        room[y + (first_row + r0 + r) * y_step + unit] = h

    return device(layer)


@cache
def carriers(name, dtype):
    """Device functions: the first states, and those of the step before where the step reads them."""
    memory_cell, load, zero = REGISTRY[name].memory, loader(dtype), real_of(dtype)(0)

    @device
    def begin(sizes, room, starts):
        """The first states, which all rows of a sentence share, and features and coverage of zero."""
        q, at = told(sizes)
        first, R = own_rows(q)
        for i in range(cuda.grid(1), q.L * R * q.H, cuda.gridsize(1)):
            k, row, unit = i // (R * q.H), first + i // q.H % R, i % q.H
            to, source = (k * q.N * q.B + row) * q.H + unit, (k * q.N + row // q.B) * q.H + unit
            room[at.h + to] = starts[source]
            if memory_cell:
                room[at.c + to] = starts[q.L * q.N * q.H + source]
        for i in range(cuda.grid(1), R * q.fed, cuda.gridsize(1)):
            room[at.features + first * q.fed + i] = zero
        if q.tracked:
            for i in range(cuda.grid(1), R * q.S, cuda.gridsize(1)):
                room[at.coverage + first * q.S + i] = zero

    @device
    def gather(sizes, t, weights, room, tokens, parents):
        """What the step reads of the step before, in the places of the rows that go on with it."""
        q, at = told(sizes)
        (first, R), width, rows = own_rows(q), q.E + q.fed, q.N * q.B
        for i in range(cuda.grid(1), R * width, cuda.gridsize(1)):
            row, k = first + i // width, i % width
            if k < q.E:
                value = load(weights[tokens[t * rows + row] * q.E + k])
            else:
                value = room[at.features + parents[t * rows + row] * q.F + k - q.E]
            room[at.x + row * width + k] = value
        for i in range(cuda.grid(1), q.L * R * q.H, cuda.gridsize(1)):
            k, row, unit = i // (R * q.H), first + i // q.H % R, i % q.H
            to, source = (k * rows + row) * q.H + unit, (k * rows + parents[t * rows + row]) * q.H + unit
            room[at.h_before + to] = room[at.h + source]
            if memory_cell:
                room[at.c_before + to] = room[at.c + source]

    return begin, gather


@cache
def choosers(dtype, choice, threads):
    """Device functions: every sentence's next tokens, and whether all of a group's have ended."""
    real, choose, (largest, total) = real_of(dtype), chooser(choice, threads), reducers(threads)
    zero, lowest = real(0), real(-math.inf)

    @device
    def log_sum(q, at, room, row, pool):
        """log Σ exp of a row's logits."""
        top, sum_ = lowest, zero
        for v in range(cuda.threadIdx.x, q.V, threads):
            top = max(top, room[at.logits + row * q.V + v])
        top = largest(pool, top)
        for v in range(cuda.threadIdx.x, q.V, threads):
            sum_ += math.exp(room[at.logits + row * q.V + v] - top)
        return np.float64(top) + math.log(np.float64(total(pool, sum_)))

    @device
    def choose_tokens(sizes, w, room, pool):
        q, at = told(sizes)
        first, R = own_rows(q)
        for i in range(first // q.B + cuda.blockIdx.x, (first + R) // q.B, cuda.gridDim.x):
            if w.done[i] == 0:
                for row in range(i * q.B, (i + 1) * q.B):
                    norm = log_sum(q, at, room, row, pool)
                    if cuda.threadIdx.x == 0:
                        w.norm[row] = norm
                cuda.syncthreads()
            choose(w, i)

    @device
    def all_done(sizes, done, pool):
        q, _ = told(sizes)
        (first, R), left = own_rows(q), zero
        for i in range(first // q.B + cuda.threadIdx.x, (first + R) // q.B, threads):
            if done[i] == 0:
                left = real(1)
        return largest(pool, left) == zero

    return choose_tokens, all_done


@cache
def walkers(name, dtype, tiles):
    """Device functions, a step's products: through all layers, attention, the features, the logits.

    tiles : of the cells, of the linear maps, of the map to logits
    """
    (cell_tile, tile, output_tile), G = tiles, REGISTRY[name].n_gates
    layer, attend = layer_of(name, cell_tile, dtype), attention_of(dtype, tile.threads)
    linear, linear_tanh = linear_of(tile, dtype, ""), linear_of(tile, dtype, "tanh")
    to_logits = linear_of(output_tile, dtype, "")

    @device
    def layers(sizes, weights, room, pool, flags):
        q, at = told(sizes)
        w, I, v, v_step = q.layers, q.E + q.fed, at.x, q.E + q.fed
        for k in range(q.L):
            layer(q, weights, w, I, room, v, v_step, at, k, at.joined + q.M, q.M + q.H, pool)
            wait(flags, cuda.blockIdx.y, cuda.gridDim.x)
            w += G * q.H * (I + q.H + 2)
            I, v, v_step = q.H, at.h + k * q.N * q.B * q.H, q.H

    @device
    def find_context(sizes, scale, t, weights, memory, room, parents, source_length, pool, flags):
        """Attention of each row."""
        q, at = told(sizes)
        (first, R), width = own_rows(q), q.M + q.H
        if q.query >= 0:
            linear(q, weights, q.query, -1, q.K, q.H, room, at.joined + q.M, width, at.query, pool)
            wait(flags, cuda.blockIdx.y, cuda.gridDim.x)
        for row in range(first + cuda.blockIdx.x, first + R, cuda.gridDim.x):
            parent, length = parents[t * q.N * q.B + row], source_length[row // q.B]
            attend(q, at, scale, t, row, parent, length, weights, memory, room, pool)
        wait(flags, cuda.blockIdx.y, cuda.gridDim.x)

    @device
    def find_features(sizes, weights, room, pool, flags):
        """Those of the context and the last layer's h."""
        q, at = told(sizes)
        width = q.M + q.H
        bias = q.combine + q.F * width
        linear_tanh(q, weights, q.combine, bias, q.F, width, room, at.joined, width, at.features, pool)
        wait(flags, cuda.blockIdx.y, cuda.gridDim.x)

    @device
    def find_logits(sizes, weights, room, pool, flags):
        q, at = told(sizes)
        to_logits(q, weights, q.output, q.output + q.V * q.F, q.V, q.F, room, at.features, q.F, at.logits, pool)
        wait(flags, cuda.blockIdx.y, cuda.gridDim.x)

    return layers, find_context, find_features, find_logits


@cache
def decoder(name, dtype, tiles, choice):
    """The kernel of a decoder of cells of that name, that chooses by the function of choices.py named `choice`.

    tiles : see `walkers`
    """
    threads, real_type = tiles[1].threads, np.dtype(real_of(dtype))
    layers, find_context, find_features, find_logits = walkers(name, dtype, tiles)
    (begin, gather), (choose_tokens, all_done) = carriers(name, dtype), choosers(dtype, choice, threads)

    @cuda.jit
    def decode(given, scale, integers, tables, numbers, weights, memory, starts, room, logits, coverage, flags):
        pool = cuda.shared.array(0, real_type)
        sizes = cuda.shared.array(SIZES, np.int64)
        if cuda.threadIdx.x == 0:
            _write_sizes(sizes, 0, 1, given)
        cuda.syncthreads()
        T, attends = sizes[_T], sizes[_M] > 0
        begin(sizes, room, starts)
        wait(flags, cuda.blockIdx.y, cuda.gridDim.x)
        for t in range(T):
            w = Words(*((t, logits, coverage) + tables + integers + numbers))  # noqa: RUF005 (a form that compiles)
            if all_done(sizes, w.done, pool):
                break
            gather(sizes, t, weights, room, w.tokens, w.parents)
            wait(flags, cuda.blockIdx.y, cuda.gridDim.x)
            layers(sizes, weights, room, pool, flags)
            if attends:
                find_context(sizes, scale, t, weights, memory, room, w.parents, w.source_length, pool, flags)
                find_features(sizes, weights, room, pool, flags)
            find_logits(sizes, weights, room, pool, flags)
            choose_tokens(sizes, w, room, pool)
            wait(flags, cuda.blockIdx.y, cuda.gridDim.x)

    return decode


@cache
def follower():
    """The kernel that follows every hypothesis of a beam search back to its beginning: `follow` of choices.py."""
    follow = text_of_choice("follow")

    @cuda.jit
    def follow_back(integers, tables, numbers, nothing):
        w = Words(*((0, nothing, nothing) + tables + integers + numbers))  # noqa: RUF005
        for i in range(cuda.grid(1), w.N, cuda.gridsize(1)):
            follow(w, i, i + 1)

    return follow_back
