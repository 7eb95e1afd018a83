"""Kernels that only move: between a batch (T, N, I) and the packed rows of its steps, between types, across axes."""

from functools import cache

from numba import cuda

from fastrnn.cuda import fragments
from fastrnn.cuda.rows import row_of
from fastrnn.cuda.scalars import functions, loader, real_of, storer


@cache
def gather():
    """x (T, N, I) of any strides -> its packed rows (total, I), of the same type. q : a Loop, whose H is I."""

    @cuda.jit
    def gather_kernel(q, x, tables, into):
        for s in range(cuda.blockIdx.y, q.steps, cuda.gridDim.y):
            packed, count = tables[s], tables[s + 1] - tables[s]
            for i in range(cuda.grid(1), count * q.H, cuda.gridsize(1)):
                row, k = i // q.H, i % q.H
                n, end = row_of(q, tables, row)
                into[(packed + row) * q.H + k] = x[end - 1 - s if q.reverse else s, n, k]

    return gather_kernel


@cache
def scatter(dtype):
    """The inverse of `gather`, for all T steps: zero past a row's end."""
    store, zero = storer(dtype), real_of(dtype)(0)

    @cuda.jit
    def scatter_kernel(q, T, packed, tables, x):
        for s in range(cuda.blockIdx.y, T, cuda.gridDim.y):
            for i in range(cuda.grid(1), q.N * q.H, cuda.gridsize(1)):
                row, k = i // q.H, i % q.H
                n, end = row_of(q, tables, row)
                t, value = s, zero
                if s < end:
                    value = packed[(tables[s] + row) * q.H + k]
                    t = end - 1 - s if q.reverse else s
                x[t, n, k] = store(value)

    return scatter_kernel


@cache
def clear(dtype):
    """Zeros past the rows' ends: in y (T, N, H), where the loop writes nothing."""
    store, zero = storer(dtype), real_of(dtype)(0)

    @cuda.jit
    def clear_kernel(q, T, tables, y):
        for t in range(cuda.blockIdx.y, T, cuda.gridDim.y):
            for i in range(cuda.grid(1), q.N * q.H, cuda.gridsize(1)):
                row, k = i // q.H, i % q.H
                n, end = row_of(q, tables, row)
                if t >= end:
                    y[t, n, k] = store(zero)

    return clear_kernel


@cache
def clear_behind(tile):
    """Zeros behind the first K of `width` numbers of rows that blocks pass each other, for a tile of fragments.py."""
    number = fragments.number_of(tile)

    @cuda.jit
    def clear_behind_kernel(rows, K, width, into):
        rest = width - K
        for i in range(cuda.grid(1), rows * rest, cuda.gridsize(1)):
            into[number(0, width, i // rest, K + i % rest)] = 0

    return clear_behind_kernel


@cache
def convert(source, to):
    """n numbers of one type to another, from `start` of `into` on; with no source, zeros."""
    load, store = loader(source), storer(to)
    zero = real_of(to)(0)

    @cuda.jit
    def convert_kernel(n, given, x, into, start):
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            into[start + i] = store(load(x[i]) if given else zero)

    return convert_kernel


@cache
def transpose(dtype):
    """w (M, N) -> into (N, M), of the same type."""

    @cuda.jit
    def transpose_kernel(M, N, w, into):
        for i in range(cuda.grid(1), M * N, cuda.gridsize(1)):
            into[i % N * M + i // N] = w[i]

    return transpose_kernel


@cache
def embed(dtype):
    """Rows of a table (V, E), those of n / E tokens -> into, of the same type."""

    @cuda.jit
    def embed_kernel(n, E, table, tokens, into):
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            into[i] = table[tokens[i // E] * E + i % E]

    return embed_kernel


@cache
def join(dtype):
    """States (L D, N, H) of D directions -> (L, N, D H), n numbers in the type of sums, from `start` of `into` on."""
    load = loader(dtype)

    @cuda.jit
    def join_kernel(n, N, H, D, state, into, start):
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            unit, row, layer = i % (D * H), i // (D * H) % N, i // (D * H * N)
            into[start + i] = load(state[((layer * D + unit // H) * N + row) * H + unit % H])

    return join_kernel


@cache
def activate(dtype, name):
    """tanh or relu of n numbers of a type of sums, in their place."""
    function = functions(real_of(dtype))[name]

    @cuda.jit
    def activate_kernel(n, x):
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            x[i] = function(x[i])

    return activate_kernel


SUM, PRODUCT = range(2)


@cache
def combine(dtype, how):
    """a + b, or a times b, of n numbers each."""
    load, store = loader(dtype), storer(dtype)

    @cuda.jit
    def combine_kernel(n, a, b, into):
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            x, y = load(a[i]), load(b[i])
            into[i] = store(x + y if how == SUM else x * y)

    return combine_kernel
