"""All steps of a decoding in one launch: embedding, layers, attention, features, logits and the choice of the next token.

Each block owns a slice of the units of every product, and each `gridDim.x`-th row of attention and sentence of the choice.
Between them the blocks wait for each other: a step has five such waits and one for each layer. What a step computes is said
in seq2seq/steps.py, the operations one by one in reference_ops.py.

    weights   the decoder's parameters one behind the other: see Shape
    memory    (S, N, K) the keys and, from `values` on, (S, N, M) the values
    room      what a step leaves for others, in the type of sums: see Room
    tables, numbers   the arrays that choices.py reads, of integers and of double precision; where each begins: `spans`
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numba import cuda

from fastrnn import choices
from fastrnn.cells import REGISTRY
from fastrnn.cuda.choosing import Words, chooser, text as text_of_choice
from fastrnn.cuda.loops import slice_of
from fastrnn.cuda.product import LANES, product_of, wait
from fastrnn.cuda.scalars import adder, device, functions, loader, reader, real_of, storer, text

_PITCH = LANES + 1
_TABLES, _NUMBERS = len(choices.TABLES), len(choices.NUMBERS)


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
    scale: float


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


@cache
def sliced(n):
    """(array, spans) -> n slices: array[spans[0]:spans[1]], array[spans[1]:spans[2]], ..."""
    rest = sliced(n - 1) if n > 1 else None

    def slices(array, spans):
        return (array[spans[0] : spans[1]], *rest(array, spans[1:]))

    def one_slice(array, spans):
        return (array[spans[0] : spans[1]],)

    return device(slices if n > 1 else one_slice)


@cache
def reducers(threads):
    """(pool, value) -> the largest of the threads' values, their sum, for all threads of a block."""

    def reducer(combine):
        combine = device(combine)

        def reduce(pool, value):
            thread, step = cuda.threadIdx.x, threads // 2
            pool[thread] = value
            while step > 0:
                cuda.syncthreads()
                if thread < step:
                    pool[thread] = combine(pool[thread], pool[thread + step])
                step //= 2
            cuda.syncthreads()
            total = pool[0]
            cuda.syncthreads()
            return total

        return device(reduce)

    return reducer(lambda a, b: max(a, b)), reducer(lambda a, b: a + b)


@cache
def linear_of(tile, dtype, activation):
    """A device function: out = f(W v + b) for this block's slice of the O outputs, of all rows."""
    product, load, rows, columns, base = product_of(tile, dtype), loader(dtype), tile.rows, tile.columns, tile.base
    function = functions(real_of(dtype))["tanh"] if activation == "tanh" else device(lambda x: x)
    zero = real_of(dtype)(0)

    def linear(weights, w, b, O, K, room, v, v_step, R, out, pool):
        first, own = slice_of(O)
        j, r = cuda.threadIdx.x % columns, cuda.threadIdx.x // columns
        for r0 in range(0, R, rows):
            for u0 in range(0, own, columns):
                product(weights[w:], first, O, own, u0, K, room, v + r0 * v_step, v_step, R - 1 - r0, pool)
                if r < rows and r0 + r < R and u0 + j < own:
                    n = first + u0 + j
                    bias = load(weights[b + n]) if b >= 0 else zero
                    room[out + (r0 + r) * O + n] = function(pool[base + j * rows + r] + bias)

    return device(linear)


@cache
def layer_of(name, tile, dtype):
    """A device function: one step of a layer for this block's slice of the units, of all rows."""
    cell, real = REGISTRY[name], real_of(dtype)
    product, advance, load_gates = product_of(tile, dtype), text(cell.forward, real), reader(cell.n_gates, dtype)
    G, rows, columns, base, memory = cell.n_gates, tile.rows, tile.columns, tile.base, cell.memory
    gates_of, add = reader(G), adder(G)

    def layer(q, weights, w, I, room, v, v_step, at, index, y, y_step, pool):
        R, H = q.N * q.B, q.H
        first, own = slice_of(H)
        w_hh = w + G * H * I
        b_ih = w_hh + G * H * H
        state = index * R * H
        j, r = cuda.threadIdx.x % columns, cuda.threadIdx.x // columns
        for r0 in range(0, R, rows):
            for u0 in range(0, own, columns):
                last, row, unit = R - 1 - r0, min(r0 + r, R - 1), first + min(u0 + j, own - 1)
                product(weights[w:], first, H, own, u0, I, room, v + r0 * v_step, v_step, last, pool)
                x = gates_of(pool, base + (j * G * rows + r if r < rows else 0), rows)
                product(weights[w_hh:], first, H, own, u0, H, room, at.h_before + state + r0 * H, H, last, pool)
                if r < rows and r0 + r < R and u0 + j < own:
                    u = gates_of(pool, base + j * G * rows + r, rows)
                    place = state + row * H + unit
                    x = add(x, load_gates(weights, b_ih + unit, H))
                    u = add(u, load_gates(weights, b_ih + G * H + unit, H))
                    h, c, _ = advance(x, u, room[(at.c_before if memory else at.h_before) + place])
                    room[at.h + place] = h
                    if memory:
                        room[at.c + place] = c
                    if index == q.L - 1:
                        room[y + row * y_step + unit] = h

    return device(layer)


@cache
def attention_of(dtype, threads):
    """A device function: a row's weights on the memory of its sentence, and their mean of the values -> joined."""
    real, load = real_of(dtype), loader(dtype)
    tanh, (largest, total), warps = functions(real)["tanh"], reducers(threads), threads // LANES
    zero, lowest = real(0), real(-math.inf)

    @device
    def part_of_score(q, weights, keys, room, query, key, seen):
        """This lane's terms."""
        sum_ = zero
        for k in range(cuda.threadIdx.x % LANES, q.K, LANES):
            value = room[query + k]
            if q.v < 0:
                sum_ += value * keys[key + k]
            else:
                value += keys[key + k]
                if q.cover >= 0:
                    value += seen * load(weights[q.cover + k])
                sum_ += load(weights[q.v + k]) * tanh(value)
        return sum_

    @device
    def scores(q, at, weights, keys, room, n, query, seen_at, to, length, pool):
        """The scores of a row's `length` steps -> room[to:]; a warp has one of them at a time."""
        thread = cuda.threadIdx.x
        for s0 in range(0, length, warps):
            s = min(s0 + thread // LANES, length - 1)
            seen = room[seen_at + s] if q.cover >= 0 else zero
            part = part_of_score(q, weights, keys, room, query, (s * q.N + n) * q.K, seen)
            pool[thread // LANES * _PITCH + thread % LANES] = part
            cuda.syncthreads()
            if thread < warps and s0 + thread < length:
                sum_ = zero
                for lane in range(LANES):
                    sum_ += pool[thread * _PITCH + lane]
                if q.v < 0:
                    sum_ *= real(q.scale)
                    if q.cover >= 0:
                        sum_ += room[seen_at + s0 + thread] * load(weights[q.cover])
                room[to + s0 + thread] = sum_
            cuda.syncthreads()

    @device
    def normalise(room, to, length, S, pool):
        """Scores to weights, zero from `length` on."""
        thread, top, sum_ = cuda.threadIdx.x, lowest, zero
        for s in range(thread, length, threads):
            top = max(top, room[to + s])
        top = largest(pool, top)
        for s in range(thread, length, threads):
            room[to + s] = math.exp(room[to + s] - top)
            sum_ += room[to + s]
        sum_ = total(pool, sum_)
        for s in range(thread, S, threads):
            room[to + s] = room[to + s] / sum_ if s < length else zero

    @device
    def attend(q, at, t, row, parent, length, weights, memory, room, pool):
        R, n, width = q.N * q.B, row // q.B, q.M + q.H
        query = at.query + row * q.K if q.query >= 0 else at.joined + row * width + q.M
        to = at.weights + (t * R + row) * q.S
        seen_at = at.coverage + (t * R + parent) * q.S
        scores(q, at, weights, memory, room, n, query, seen_at, to, length, pool)
        normalise(room, to, length, q.S, pool)
        if q.tracked:
            for s in range(cuda.threadIdx.x, q.S, threads):
                room[at.coverage + ((t + 1) * R + row) * q.S + s] = room[seen_at + s] + room[to + s]
        cuda.syncthreads()
        for m in range(cuda.threadIdx.x, q.M, threads):
            sum_ = zero
            for s in range(length):
                sum_ += room[to + s] * memory[q.values + (s * q.N + n) * q.M + m]
            room[at.joined + row * width + m] = sum_

    return attend


@cache
def decoder(name, dtype, tiles, choice):
    """The kernel of a decoder of cells of that name, that chooses by the function of choices.py named `choice`.

    tiles : of the cells, of the linear maps, of the map to logits
    """
    cell_tile, tile, output_tile = tiles
    cell, real, threads = REGISTRY[name], real_of(dtype), tile.threads
    real_type, load, memory_cell = np.dtype(real), loader(dtype), cell.memory
    layer, attend, choose = layer_of(name, cell_tile, dtype), attention_of(dtype, threads), chooser(choice, threads)
    linear, linear_tanh, to_logits = linear_of(tile, dtype, ""), linear_of(tile, dtype, "tanh"), linear_of(output_tile, dtype, "")
    tables_of, numbers_of, (largest, total) = sliced(_TABLES), sliced(_NUMBERS), reducers(threads)
    zero, lowest, G = real(0), real(-math.inf), cell.n_gates

    @device
    def begin(q, at, room, starts):
        """The first states, which all rows of a sentence share, and features and coverage of zero."""
        R, size = q.N * q.B, q.N * q.H
        for i in range(cuda.grid(1), q.L * R * q.H, cuda.gridsize(1)):
            k, row, unit = i // (R * q.H), i // q.H % R, i % q.H
            place = k * size + row // q.B * q.H + unit
            room[at.h + i] = starts[place]
            if memory_cell:
                room[at.c + i] = starts[q.L * size + place]
        for i in range(cuda.grid(1), R * q.fed, cuda.gridsize(1)):
            room[at.features + i] = zero
        if q.tracked:
            for i in range(cuda.grid(1), R * q.S, cuda.gridsize(1)):
                room[at.coverage + i] = zero

    @device
    def gather(q, at, t, weights, room, tokens, parents):
        """What the step reads of the step before, in the places of the rows that go on with it."""
        R, width = q.N * q.B, q.E + q.fed
        for i in range(cuda.grid(1), R * width, cuda.gridsize(1)):
            row, k = i // width, i % width
            if k < q.E:
                room[at.x + i] = load(weights[tokens[t * R + row] * q.E + k])
            else:
                room[at.x + i] = room[at.features + parents[t * R + row] * q.F + k - q.E]
        for i in range(cuda.grid(1), q.L * R * q.H, cuda.gridsize(1)):
            k, row, unit = i // (R * q.H), i // q.H % R, i % q.H
            place = (k * R + parents[t * R + row]) * q.H + unit
            room[at.h_before + i] = room[at.h + place]
            if memory_cell:
                room[at.c_before + i] = room[at.c + place]

    @device
    def layers(q, at, weights, room, pool, flags):
        w, I, v, v_step, R, width = q.layers, q.E + q.fed, at.x, q.E + q.fed, q.N * q.B, q.M + q.H
        for k in range(q.L):
            layer(q, weights, w, I, room, v, v_step, at, k, at.joined + q.M, width, pool)
            wait(flags, 0, cuda.gridDim.x)
            w += G * q.H * (I + q.H + 2)
            I, v, v_step = q.H, at.h + k * R * q.H, q.H

    @device
    def find_features(q, at, t, weights, memory, room, parents, source_length, pool, flags):
        """Attention, and what its context adds to the last layer's h."""
        R, width = q.N * q.B, q.M + q.H
        if q.query >= 0:
            linear(weights, q.query, -1, q.K, q.H, room, at.joined + q.M, width, R, at.query, pool)
            wait(flags, 0, cuda.gridDim.x)
        for row in range(cuda.blockIdx.x, R, cuda.gridDim.x):
            parent, length = parents[t * R + row], source_length[row // q.B]
            attend(q, at, t, row, parent, length, weights, memory, room, pool)
        wait(flags, 0, cuda.gridDim.x)
        bias = q.combine + q.F * width
        linear_tanh(weights, q.combine, bias, q.F, width, room, at.joined, width, R, at.features, pool)
        wait(flags, 0, cuda.gridDim.x)

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
    def choose_tokens(q, at, w, room, pool):
        for i in range(cuda.blockIdx.x, q.N, cuda.gridDim.x):
            if w.done[i] == 0:
                for row in range(i * q.B, (i + 1) * q.B):
                    norm = log_sum(q, at, room, row, pool)
                    if cuda.threadIdx.x == 0:
                        w.norm[row] = norm
                cuda.syncthreads()
            choose(w, i)

    @device
    def all_done(q, done, pool):
        left = zero
        for i in range(cuda.threadIdx.x, q.N, threads):
            if done[i] == 0:
                left = real(1)
        return largest(pool, left) == zero

    @cuda.jit
    def decode(q, at, integers, table_spans, number_spans, weights, memory, starts, room, tables, numbers, flags):
        pool = cuda.shared.array(0, real_type)
        logits, coverage = room[at.logits : at.weights], room[at.coverage : at.size]
        known, doubles = tables_of(tables, table_spans), numbers_of(numbers, number_spans)
        begin(q, at, room, starts)
        wait(flags, 0, cuda.gridDim.x)
        for t in range(q.T):
            w = Words(*((t, logits, coverage) + known + integers + doubles))  # noqa: RUF005 (a form that compiles)
            if all_done(q, w.done, pool):
                break
            gather(q, at, t, weights, room, w.tokens, w.parents)
            wait(flags, 0, cuda.gridDim.x)
            layers(q, at, weights, room, pool, flags)
            if q.M > 0:
                find_features(q, at, t, weights, memory, room, w.parents, w.source_length, pool, flags)
            bias = q.output + q.V * q.F
            to_logits(weights, q.output, bias, q.V, q.F, room, at.features, q.F, q.N * q.B, at.logits, pool)
            wait(flags, 0, cuda.gridDim.x)
            choose_tokens(q, at, w, room, pool)
            wait(flags, 0, cuda.gridDim.x)

    return decode


@cache
def follower():
    """The kernel that follows every hypothesis of a beam search back to its beginning: `follow` of choices.py."""
    follow, tables_of, numbers_of = text_of_choice("follow"), sliced(_TABLES), sliced(_NUMBERS)

    @cuda.jit
    def follow_back(integers, table_spans, number_spans, nothing, tables, numbers):
        known, doubles = tables_of(tables, table_spans), numbers_of(numbers, number_spans)
        w = Words(*((0, nothing, nothing) + known + integers + doubles))  # noqa: RUF005
        for i in range(cuda.grid(1), w.N, cuda.gridsize(1)):
            follow(w, i, i + 1)

    return follow_back


@cache
def attended(dtype):
    """The kernel that gathers weights: out (T, N, F, S) = weights[t, at[t, n, f]], zero from a hypothesis' length on."""
    store, zero = storer(dtype), real_of(dtype)(0)

    @cuda.jit
    def attended_kernel(n, F, R, S, weights, at, following, length, out):
        hypotheses = length.size
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            t, k = i // (hypotheses * S), i // S % hypotheses
            row = at[t * hypotheses + k] if following else k
            out[i] = store(weights[(t * R + row) * S + i % S] if t < length[k] else zero)

    return attended_kernel
