"""Attention in a decoding: a block takes a row at a time, a warp one step of its memory."""

import math
from functools import cache

from numba import cuda

from fastrnn.cuda.folding import reducers
from fastrnn.cuda.product import LANES, PITCH, sum_of_parts
from fastrnn.cuda.scalars import device, functions, loader, real_of, storer


@cache
def scorer(dtype, warps):
    """A device function: the scores of a row's `length` steps -> room[to:]; a warp has one of them at a time."""
    real, load = real_of(dtype), loader(dtype)
    tanh, zero, of_parts = functions(real)["tanh"], real(0), sum_of_parts(real)

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
    def scores(q, scale, weights, keys, room, n, query, seen_at, to, length, pool):
        thread = cuda.threadIdx.x
        for s0 in range(0, length, warps):
            s = min(s0 + thread // LANES, length - 1)
            seen = room[seen_at + s] if q.cover >= 0 else zero
            part = part_of_score(q, weights, keys, room, query, (s * q.N + n) * q.K, seen)
            pool[thread // LANES * PITCH + thread % LANES] = part
            cuda.syncthreads()
            if thread < warps and s0 + thread < length:
                sum_ = of_parts(pool, thread * PITCH)
                if q.v < 0:
                    sum_ *= real(scale)
                    if q.cover >= 0:
                        sum_ += room[seen_at + s0 + thread] * load(weights[q.cover])
                room[to + s0 + thread] = sum_
            cuda.syncthreads()

    return scores


@cache
def normaliser(real, threads):
    """A device function: scores to weights, zero from `length` on."""
    (largest, total), zero, lowest = reducers(threads), real(0), real(-math.inf)

    @device
    def normalise(room, to, length, S, pool):
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

    return normalise


@cache
def attention_of(dtype, threads):
    """A device function: a row's weights on the memory of its sentence, and their mean of the values -> joined."""
    real = real_of(dtype)
    scores, normalise, zero = scorer(dtype, threads // LANES), normaliser(real, threads), real(0)

    @device
    def attend(q, at, scale, t, row, parent, length, weights, memory, room, pool):
        R, n, width = q.N * q.B, row // q.B, q.M + q.H
        query = at.query + row * q.K if q.query >= 0 else at.joined + row * width + q.M
        to = at.weights + (t * R + row) * q.S
        seen_at = at.coverage + (t * R + parent) * q.S
        scores(q, scale, weights, memory, room, n, query, seen_at, to, length, pool)
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
