"""Plain products out of shared memory: C = A B (+ bias), and the same summed in parts for gradients of weights.

A block computes a square of C. Every sum runs over k in order, in one thread; long ones are cut into parts of a size that
depends on the shape only, which `finish` adds in their order: the same bits on every device, and for a row in any batch.
"""

from functools import cache
from typing import NamedTuple

from numba import cuda

from fastrnn.cuda.scalars import device, loader, place, real_of, storer


class Product(NamedTuple):
    """C (M, N) from A[m, k] = a[m * a_m + k * a_k], B[k, n] = b[k * b_k + n * b_n]."""

    M: int
    N: int
    K: int
    a_m: int
    a_k: int
    b_k: int
    b_n: int
    biased: int = 0  # whether bias[n] is added
    ones: int = 0  # 1: B has one more column, of ones, whose product is the sum of A's row
    part: int = 0  # terms of a part of the sum; C is (parts, M, N + ones)


@cache
def mover(a_dtype, b_dtype, square):
    """Device functions that bring a square's next terms from memory to a thread's registers, and from there to the tiles."""
    side, depth, threads, loads = square.side, square.depth, square.threads, square.loads
    load_a, load_b, zero, one = loader(a_dtype), loader(b_dtype), real_of(a_dtype)(0), real_of(a_dtype)(1)

    @device
    def spot(i, along_k):
        """Which of the square's lines, and which term, is a thread's i-th: neighbours read along the axis that has them."""
        e = cuda.threadIdx.x + i * threads
        return (e // depth, e % depth) if along_k else (e % side, e // side)

    @device
    def fetch(q, a, b, m0, n0, k0, end, coming_a, coming_b):
        for i in range(loads):
            m, k = spot(i, q.a_k == 1)
            inside = m0 + m < q.M and k0 + k < end
            coming_a[i] = load_a(a[place((m0 + m) * q.a_m + (k0 + k) * q.a_k)]) if inside else zero
            n, k = spot(i, q.b_k == 1)
            inside = n0 + n < q.N and k0 + k < end
            coming_b[i] = load_b(b[place((k0 + k) * q.b_k + (n0 + n) * q.b_n)]) if inside else one

    @device
    def lay_down(q, coming_a, coming_b, tile_a, tile_b):
        for i in range(loads):
            m, k = spot(i, q.a_k == 1)
            tile_a[k, m] = coming_a[i]
            n, k = spot(i, q.b_k == 1)
            tile_b[k, n] = coming_b[i]

    return fetch, lay_down


@cache
def adder_of_tiles(square):
    """A device function that adds a tile's products to a thread's sums."""
    own, depth, across = square.own, square.depth, square.side // square.own

    @device
    def add(tile_a, tile_b, row, column, near_a, near_b, acc):
        for k in range(depth):
            for i in range(own):
                near_a[i] = tile_a[k, row + i * across]
                near_b[i] = tile_b[k, column + i * across]
            for i in range(own):
                for j in range(own):
                    acc[i * own + j] += near_a[i] * near_b[j]

    return add


@cache
def multiply(a_dtype, b_dtype, square):
    """The kernel for operands of these storage types; C is of the type of sums. Grid: squares of M, of N, parts."""
    side, own, depth, loads, sums = square.side, square.own, square.depth, square.loads, square.own**2
    real, pitch, zero = real_of(a_dtype), side + 1, real_of(a_dtype)(0)
    across, load_b = side // own, loader(b_dtype)
    (fetch, lay_down), add = mover(a_dtype, b_dtype, square), adder_of_tiles(square)

    @cuda.jit
    def multiply_kernel(q, a, b, bias, c):
        tile_a = cuda.shared.array((depth, pitch), real)
        tile_b = cuda.shared.array((depth, pitch), real)
        acc = cuda.local.array(sums, real)
        near_a = cuda.local.array(own, real)
        near_b = cuda.local.array(own, real)
        coming_a = cuda.local.array(loads, real)
        coming_b = cuda.local.array(loads, real)
        m0, n0, width = cuda.blockIdx.x * side, cuda.blockIdx.y * side, q.N + q.ones
        row, column = cuda.threadIdx.x // across, cuda.threadIdx.x % across
        for i in range(sums):
            acc[i] = zero
        begin = cuda.blockIdx.z * q.part
        end = min(begin + q.part, q.K)
        fetch(q, a, b, m0, n0, begin, end, coming_a, coming_b)
        for k0 in range(begin, end, depth):
            lay_down(q, coming_a, coming_b, tile_a, tile_b)
            cuda.syncthreads()
            fetch(q, a, b, m0, n0, k0 + depth, end, coming_a, coming_b)  # on their way while these are used
            add(tile_a, tile_b, row, column, near_a, near_b, acc)
            cuda.syncthreads()
        # little in the inner loop: the compiler has to unroll it, for the sums to be in registers
        for j in range(own):
            n = n0 + column + j * across
            near_b[j] = load_b(bias[place(n)]) if q.biased and n < q.N else zero
        for i in range(own):
            m = m0 + row + i * across
            if m < q.M:
                at = (cuda.blockIdx.z * q.M + m) * width
                for j in range(own):
                    n = n0 + column + j * across
                    if n < width:
                        c[place(at + n)] = acc[i * own + j] + near_b[j]

    return multiply_kernel


@cache
def finish(dtype):
    """The kernel that adds the parts (parts, M, N + ones) to what is stored: c (M, N), and ones' column (M,)."""
    real, store = real_of(dtype), storer(dtype)
    zero = real(0)

    @cuda.jit
    def finish_kernel(q, parts, given, c, column):
        width = q.N + q.ones
        for i in range(cuda.grid(1), q.M * width, cuda.gridsize(1)):
            value = zero
            for part in range(parts):
                value += given[part * q.M * width + i]
            m, n = i // width, i % width
            if n < q.N:
                c[m * q.N + n] = store(value)
            else:
                column[m] = store(value)

    return finish_kernel
