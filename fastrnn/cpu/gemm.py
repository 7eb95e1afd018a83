"""Packing, and the products outside the time loops: the input's and the weights' gradients.

A panel is a slab of a weight matrix in the order in which a tile reads it. For the forward loop it holds every gate of the
same W * L units, [k][gate][unit]; for a plain product it holds W * L columns, [k][column]. What lies past the edge is zero.
Sums over many rows (a weight's gradient) run in blocks, each from zero: a fixed order, and smaller errors.
"""

from numba.extending import register_jitable

from fastrnn.cpu.kernel import Fields, words_of
from fastrnn.cpu.shares import next_rows
from fastrnn.cpu.simd import add, load, load_part, shift, static, store, store_part
from fastrnn.cpu.sync import flush_denormals, restore_denormals
from fastrnn.cpu.target import lanes, padded
from fastrnn.cpu.tile import product, transpose

PACK_WEIGHTS = Fields(
    ("from_w_ih", "from_w_hh", "from_b_ih", "from_b_hh", "w_ih", "w_hh", "b_ih", "b_hh"), (), ("G", "H", "I", "W", "biases")
)  # fmt: skip
PACK_COLUMNS = Fields(("w", "out"), (), ("H", "K", "W"))
GEMM = Fields(
    ("a", "b", "c", "sums", "zero", "work"), ("offsets",),
    ("M", "N", "K", "a_m", "a_k", "b_k", "c_m", "depth", "chunk", "work_size"),
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
        w = words_of(args, "gemm", "PACK_WEIGHTS", dtype)
        G, H, I, W, biases = w.G, w.H, w.I, w.W, w.biases
        V = (H + L - 1) // L
        panels = (V + W - 1) // W
        first, end = panels * member // team, panels * (member + 1) // team
        pack_gates(w.from_w_ih, G, H, I, W, L, w.w_ih, first, end)
        pack_gates(w.from_w_hh, G, H, H, W, L, w.w_hh, first, end)
        for k in range(first * W * G * L, min(V, end * W) * G * L):
            w.b_ih[k] = w.b_hh[k] = 0
        if biases & 1:
            pack_gates(w.from_b_ih, G, H, 1, W, L, w.b_ih, first, end)
        if biases & 2:
            pack_gates(w.from_b_hh, G, H, 1, W, L, w.b_hh, first, end)

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
        w = words_of(args, "gemm", "PACK_COLUMNS", dtype)
        pack_columns(w.w, 0, w.H, w.K, w.H, w.W, L, w.out, w.K * member // team, w.K * (member + 1) // team)

    return pack


@register_jitable
def pack_strips(a, at, a_k, depth, count, L, block):
    """`depth` runs of `count` numbers of A -> strips of L numbers, [strip][k][number]: a tile reads one run of memory."""
    whole = count // L * L
    for k in range(depth):
        for q in range(0, whole, L):
            store(block, q * depth + k * L, load(a, at + k * a_k + q))
        if whole < count:
            store(block, whole * depth + k * L, load_part(a, at + k * a_k + whole, count - whole))


@register_jitable
def add_sums(block, depth, count, L, sums, chunk):
    """sums[q] += the sums over k of packed strips, `chunk` summands in a row."""
    for q in range(0, count, L):
        total = load_part(sums, q, count - q)
        for k0 in range(0, depth, chunk):
            run = load(block, q * depth + k0 * L)
            for k in range(k0 + 1, min(depth, k0 + chunk)):
                run = add(run, load(block, q * depth + k * L))
            total = add(total, run)
        store_part(sums, q, 0, (total,), count - q)


@register_jitable
def edge(w, width, n, rows_of_a, rows, a_step, panel, tile, to, columns, first, depth, L):
    """A tile whose last columns are no whole vectors: by way of `tile`."""
    product(static(1), width, n, rows_of_a, rows, a_step, panel, width * L, w.zero, 0, tile, width * L, depth, panel, 0)
    for r in range(n):
        for v in range(width):
            at, left = to + r * w.c_m + v * L, columns - v * L
            total = load(tile, (r * width + v) * L)
            if not first:
                total = add(load_part(w.c, at, left), total)
            store_part(w.c, at, 0, (total,), left)


@register_jitable
def multiply(w, L, R, m, count, n0, n1, k0, depth, panels, tile, block, rows):
    """C += A B for `count` rows from m, columns n0 to n1, terms k0 to k0 + depth."""
    V, packed = (n1 - n0 + L - 1) // L, w.a_m == 1
    for v0 in range(0, V, 4):
        width, unit, panel = min(4, V - v0), n0 + v0 * L, shift(panels, v0 * L * depth)
        q = 0
        while q < count:
            # a tile lies within a strip, or anywhere
            strip = q // L * L if packed else 0
            n = next_rows((min(count, strip + L) if packed else count) - q, R)
            rows_of_a, a_step = (shift(block, strip * depth), L) if packed else (shift(w.a, m * w.a_m + k0 * w.a_k), 1)
            for r in range(n):
                rows[r] = (q - strip + r) * w.a_m
            to = (m + q) * w.c_m + unit
            if unit + width * L > n1:
                edge(w, width, n, rows_of_a, rows, a_step, panel, tile, to, n1 - unit, k0 == 0, depth, L)
            else:
                start, start_step = (w.zero, 0) if k0 == 0 else (shift(w.c, to), w.c_m)
                product(
                    static(1), width, n, rows_of_a, rows, a_step, panel, width * L,
                    start, start_step, shift(w.c, to), w.c_m, depth, panel, 0,
                )  # fmt: skip
            q += n


def work_size(N, depth, R, dtype, packed):
    """Numbers of working memory that a thread of a product needs: panels of B, a tile; a block of A if packed."""
    block = padded(_TILES * R, dtype) if packed else 0
    return depth * (padded(N, dtype) + block) + R * 4 * lanes(dtype)


def build_gemm(dtype, L, R, digest):
    """C (M, N) = A B, with A[m, k] = a[m a_m + k a_k], B[k, n] = b[k b_k + n]; threads divide the larger of M and N.

    Where A lies k by k (a_m = 1) it is packed, and with a `chunk` its sums over k are added to `sums` (M,).
    """
    group = _TILES * R

    def gemm(member, team, args):
        _ = digest
        w = words_of(args, "gemm", "GEMM", dtype)
        m0, m1, n0, n1, chunk = 0, w.M, 0, w.N, w.chunk
        if w.M >= w.N:
            m0, m1 = w.M * member // team, w.M * (member + 1) // team
        else:
            blocks = (w.N + L - 1) // L
            n0, n1 = blocks * member // team * L, min(w.N, blocks * (member + 1) // team * L)
            chunk = chunk if member == 0 else 0
        mode = flush_denormals()
        panels = shift(w.work, member * w.work_size)
        tile = shift(panels, (n1 - n0 + L - 1) // L * L * w.depth)
        block = shift(tile, R * 4 * L)
        rows = shift(w.offsets, member * 8)
        for k0 in range(0, w.K, w.depth):
            depth = min(w.depth, w.K - k0)
            pack_columns(w.b, k0 * w.b_k + n0, w.b_k, depth, n1 - n0, 4, L, panels, 0, depth)
            for m in range(m0, m1, group):
                count = min(group, m1 - m)
                if w.a_m == 1:
                    pack_strips(w.a, m + k0 * w.a_k, w.a_k, depth, count, L, block)
                    if chunk > 0:
                        add_sums(block, depth, count, L, shift(w.sums, m), chunk)
                multiply(w, L, R, m, count, n0, n1, k0, depth, panels, tile, block, rows)
        restore_denormals(mode)

    return gemm
