"""Packing, and the products outside the time loops: the input's and the weights' gradients.

A panel is a slab of a weight matrix in the order in which a tile reads it. For the forward loop it holds every gate of the
same W * L units, [k][gate][unit]; for a plain product it holds W * L columns, [k][column]. What lies past the edge is zero.
Sums over many rows (a weight's gradient) run in blocks, each from zero: a fixed order, and smaller errors. While a tile is
computed, the cache lines that the next blocks need are asked for: waiting for them at the packing took a tenth of the time.
"""

from numba.extending import register_jitable

from fastrnn.cpu.kernel import integers, pointers
from fastrnn.cpu.loops import next_rows
from fastrnn.cpu.simd import add, load, load_part, prefetch, shift, store, store_part
from fastrnn.cpu.sync import flush_denormals, restore_denormals
from fastrnn.cpu.target import ITEMSIZE, lanes, padded
from fastrnn.cpu.tile import product, transpose

# the kernels' arguments by name
PACK_WEIGHTS = (
    *("from_w_ih", "from_w_hh", "from_b_ih", "from_b_hh", "w_ih", "w_hh", "b_ih", "b_hh"), *("G", "H", "I", "W", "biases")
)  # fmt: skip
PACK_COLUMNS = ("w", "out", "H", "K", "W")
GEMM = (
    *("a", "b", "c", "sums", "zero", "work"), "offsets",
    *("M", "N", "K", "a_m", "a_k", "b_k", "c_m", "depth", "chunk", "work_size"),
)  # fmt: skip
_TILES = 32  # of A that are packed together: long runs of memory, and still in the second-level cache


@register_jitable
def pack_gates(w, G, H, K, W, L, out, first, end):
    """w (G*H, K) -> the panels first..end of the forward loop."""
    V = (H + L - 1) // L
    for panel in range(first, end):
        v0 = panel * W
        width = min(W, V - v0)
        row = G * width * L
        # gate by gate: sixteen rows are as many streams as the hardware prefetches
        for g in range(G):
            for v in range(width):
                unit = (v0 + v) * L
                for k in range(0, K, L):
                    to = v0 * L * G * K + k * row + (g * width + v) * L
                    transpose(w, (g * H + unit) * K + k, K, H - unit, K - k, out, to, row)


def build_pack_weights(dtype, L, digest):
    """All parameters of a layer into panels; zero where there is no bias."""

    def pack_weights(member, team, args):
        _ = digest
        from_w_ih, from_w_hh, from_b_ih, from_b_hh, w_ih, w_hh, b_ih, b_hh = pointers(args, 0, 8, dtype)
        G, H, I, W, biases = integers(args, 8, 5)
        V = (H + L - 1) // L
        panels = (V + W - 1) // W
        first, end = panels * member // team, panels * (member + 1) // team
        pack_gates(from_w_ih, G, H, I, W, L, w_ih, first, end)
        pack_gates(from_w_hh, G, H, H, W, L, w_hh, first, end)
        for k in range(first * W * G * L, min(V, end * W) * G * L):
            b_ih[k] = b_hh[k] = 0
        if biases & 1:
            pack_gates(from_b_ih, G, H, 1, W, L, b_ih, first, end)
        if biases & 2:
            pack_gates(from_b_hh, G, H, 1, W, L, b_hh, first, end)

    return pack_weights


@register_jitable
def pack_columns(w, at, step, rows, columns, W, L, out, first, end):
    """Of `rows` rows of `columns` numbers at w[at:], `step` apart, those from first to end -> panels of W * L columns."""
    V = (columns + L - 1) // L
    for v0 in range(0, V, W):
        width = min(W, V - v0)
        for k in range(first, end):
            for v in range(width):
                unit = (v0 + v) * L
                part = load_part(w, at + k * step + unit, columns - unit)
                store(out, v0 * L * rows + (k * width + v) * L, part)


def build_pack_columns(dtype, L, digest):
    """w (K, H) -> panels of a plain product."""

    def pack(member, team, args):
        _ = digest
        w, out = pointers(args, 0, 2, dtype)
        H, K, W = integers(args, 2, 3)
        pack_columns(w, 0, H, K, H, W, L, out, K * member // team, K * (member + 1) // team)

    return pack


@register_jitable
def ask_for(p, at, step, rows, columns, line):
    """Prefetch `rows` rows of `columns` numbers at p[at:], `step` apart."""
    for k in range(rows):
        for j in range(0, columns, line):
            prefetch(p, at + k * step + j)


@register_jitable
def pack_and_sum(a, at, a_k, depth, count, L, block, width, part, sums, chunk):
    """`depth` runs of `count` numbers of A -> block, `width` apart; with a chunk, their sums over k as well.

    Whole vectors at a time, so that a tile reads neighbours. Sums go by way of `part`, `chunk` summands each.
    """
    for k in range(depth):
        for q in range(0, count, L):
            run = load_part(a, at + k * a_k + q, count - q)
            store(block, k * width + q, run)
            if chunk > 0:
                before = run if k % chunk == 0 else add(load(part, q), run)
                store(part, q, before)
                if (k + 1) % chunk == 0 or k + 1 == depth:
                    store_part(sums, q, 0, (add(load_part(sums, q, count - q), before),), count - q)


@register_jitable
def edge(width, n, a, rows, a_step, panel, sums, zero, c, at, c_m, columns, first, depth, L):
    """A tile whose last columns are no whole vectors: by way of `sums`."""
    product(1, width, n, a, rows, a_step, panel, width * L, zero, 0, sums, width * L, depth)
    for r in range(n):
        for v in range(width):
            to, left = at + r * c_m + v * L, columns - v * L
            total = load(sums, (r * width + v) * L)
            if not first:
                total = add(load_part(c, to, left), total)
            store_part(c, to, 0, (total,), left)


def work_size(N, depth, R, dtype, packed):
    """Numbers of working memory that a thread of a product needs: panels of B, a tile; a block of A and sums if packed."""
    block = padded(_TILES * R, dtype) if packed else 0
    return depth * (padded(N, dtype) + block) + R * 4 * lanes(dtype) + block


def build_gemm(dtype, L, R, digest):
    """C (M, N) = A B, with A[m, k] = a[m a_m + k a_k], B[k, n] = b[k b_k + n]; threads divide the larger of M and N.

    Where A lies k by k (a_m = 1) it is packed, and with a `chunk` its sums over k are added to `sums` (M,).
    """
    group, line = _TILES * R, 64 // ITEMSIZE[dtype]
    packed = (group + L - 1) // L * L

    def gemm(member, team, args):
        _ = digest
        a, b, c, sums, zero, work = pointers(args, 0, 6, dtype)
        offsets = pointers(args, 6, 1, "intp")[0]
        M, N, K, a_m, a_k, b_k, c_m, most, chunk, work_size = integers(args, 7, 10)
        m0, m1, n0, n1 = 0, M, 0, N
        if M >= N:
            m0, m1 = M * member // team, M * (member + 1) // team
        else:
            blocks = (N + L - 1) // L
            n0, n1 = blocks * member // team * L, min(N, blocks * (member + 1) // team * L)
            chunk = chunk if member == 0 else 0
        mode = flush_denormals()
        V = (n1 - n0 + L - 1) // L
        panels = shift(work, member * work_size)
        tile = shift(panels, V * L * most)
        part = shift(tile, R * 4 * L)
        block = shift(part, packed)
        rows = shift(offsets, member * 8)
        tiles = max(1, (V + 3) // 4 * ((m1 - m0 + R - 1) // R))
        for k0 in range(0, K, most):
            depth = min(most, K - k0)
            pack_columns(b, k0 * b_k + n0, b_k, depth, n1 - n0, 4, L, panels, 0, depth)
            # how many rows of the next B a tile asks for, and how many it has
            b_rows, b_asked = (depth + tiles - 1) // tiles, k0 + depth
            for m in range(m0, m1, group):
                count = min(group, m1 - m)
                next_m, next_k = (m + group, k0) if m + group < m1 else (m0, k0 + depth)
                next_end = min(K, next_k + depth)
                a_rows = (depth * R + count - 1) // count if a_m == 1 else 0
                rows_from, row_step, a_step = shift(a, m * a_m + k0 * a_k), a_m, 1
                if a_m == 1:
                    pack_and_sum(a, m + k0 * a_k, a_k, depth, count, L, block, packed, part, shift(sums, m), chunk)
                    rows_from, row_step, a_step = block, 1, packed
                for v0 in range(0, V, 4):
                    width = min(4, V - v0)
                    unit = n0 + v0 * L
                    panel = shift(panels, v0 * L * depth)
                    q = 0
                    while q < count:
                        n = next_rows(count - q, R)
                        for r in range(n):
                            rows[r] = (q + r) * row_step
                        to = (m + q) * c_m + unit
                        q += n
                        some = min(b_rows, K - b_asked)
                        ask_for(b, b_asked * b_k + n0, b_k, some, n1 - n0, line)
                        b_asked += some
                        some = min(a_rows, next_end - next_k)
                        ask_for(a, next_m + next_k * a_k, a_k, some, min(group, m1 - next_m), line)
                        next_k += some
                        if k0 > 0:
                            ask_for(c, to, c_m, n, width * L, line)
                        if unit + width * L > n1:
                            edge(
                                width, n, rows_from, rows, a_step, panel, tile, zero,
                                c, to, c_m, n1 - unit, k0 == 0, depth, L,
                            )  # fmt: skip
                            continue
                        start, start_step = (zero, 0) if k0 == 0 else (shift(c, to), c_m)
                        product(
                            1, width, n, rows_from, rows, a_step, panel, width * L,
                            start, start_step, shift(c, to), c_m, depth,
                        )  # fmt: skip
        restore_denormals(mode)

    return gemm
