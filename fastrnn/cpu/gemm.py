"""Packing, and the products outside the time loops: the input's and the weights' gradients.

A panel is a slab of a weight matrix in the order in which a tile reads it. For the forward loop it holds every gate of the
same W * L units, [k][gate][unit]; for a plain product it holds W * L columns, [k][column]. What lies past the edge is zero.
Sums over many rows (a weight's gradient) run in blocks, each from zero: a fixed order, and smaller errors.
"""

from numba.extending import register_jitable

from fastrnn.cpu.kernel import integers, pointers
from fastrnn.cpu.loops import next_rows
from fastrnn.cpu.simd import add, load, load_part, shift, store, store_part
from fastrnn.cpu.sync import flush_denormals, restore_denormals
from fastrnn.cpu.tile import product, transpose

PACK_FLOATS = ("w_ih", "w_hh", "b_ih", "b_hh", "out")
PACK_INTEGERS = ("G", "H", "I", "W", "biases")
COLUMNS_FLOATS = ("w", "out")
COLUMNS_INTEGERS = ("H", "K", "W")
GEMM_FLOATS = ("a", "b", "c", "zero", "work")
GEMM_TABLES = ("offsets",)
GEMM_INTEGERS = ("M", "N", "K", "a_m", "a_k", "b_k", "c_m", "depth", "work_size")


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
    """All parameters of a layer into one block: the panels of w_ih, of w_hh, then both biases, zero where there are none."""

    def pack_weights(member, team, args):
        _ = digest
        w_ih, w_hh, b_ih, b_hh, out = pointers(args, 0, 5, dtype)
        G, H, I, W, biases = integers(args, 5, 5)
        V = (H + L - 1) // L
        panels = (V + W - 1) // W
        first, end = panels * member // team, panels * (member + 1) // team
        column = G * V * L
        pack_gates(w_ih, G, H, I, W, L, out, first, end)
        pack_gates(w_hh, G, H, H, W, L, shift(out, column * I), first, end)
        b = shift(out, column * (I + H))
        for k in range(first * W * G * L, min(V, end * W) * G * L):
            b[k] = b[column + k] = 0
        if biases & 1:
            pack_gates(b_ih, G, H, 1, W, L, b, first, end)
        if biases & 2:
            pack_gates(b_hh, G, H, 1, W, L, shift(b, column), first, end)

    return pack_weights


@register_jitable
def pack_columns(w, at, step, rows, columns, W, L, out):
    """`rows` rows of `columns` numbers at w[at:], `step` apart -> panels of W * L columns."""
    V = (columns + L - 1) // L
    for v0 in range(0, V, W):
        width = min(W, V - v0)
        for k in range(rows):
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
        if member == 0:
            pack_columns(w, 0, H, K, H, W, L, out)

    return pack


def build_gemm(dtype, L, R, digest):
    """C (M, N) = A B, with A[m, k] = a[m a_m + k a_k], B[k, n] = b[k b_k + n]; threads divide the larger of M and N."""
    rows_of_a = (8 * R + L - 1) // L * L  # packed rows of A: eight tiles, in whole vectors

    def gemm(member, team, args):
        _ = digest
        a, b, c, zero, work = pointers(args, 0, 5, dtype)
        offsets = pointers(args, 5, 1, "intp")[0]
        M, N, K, a_m, a_k, b_k, c_m, most, work_size = integers(args, 6, 9)
        m0, m1, n0, n1 = 0, M, 0, N
        if M >= N:
            m0, m1 = M * member // team, M * (member + 1) // team
        else:
            blocks = (N + L - 1) // L
            n0, n1 = blocks * member // team * L, min(N, blocks * (member + 1) // team * L)
        if m0 == m1 or n0 >= n1:
            return
        mode = flush_denormals()
        V = (n1 - n0 + L - 1) // L
        panels = shift(work, member * work_size)
        block_of_a = shift(panels, V * L * most)
        sums = shift(block_of_a, most * rows_of_a)
        rows = shift(offsets, member * 8)
        as_it_lies = M <= R and (n1 - n0) % L == 0  # B is read once: packing it would cost more than it saves
        for k0 in range(0, K, most):
            depth = min(most, K - k0)
            if not as_it_lies:
                pack_columns(b, k0 * b_k + n0, b_k, depth, n1 - n0, 4, L, panels)
            for m in range(m0, m1, 8 * R):
                group = min(8 * R, m1 - m)
                rows_from, row_step, a_step = shift(a, m * a_m + k0 * a_k), a_m, 1
                if a_k != 1:
                    # columns of A are copied whole vectors at a time, so that a tile reads neighbours
                    for k in range(depth):
                        for q in range(0, group, L):
                            column = load_part(a, (m + q) * a_m + (k0 + k) * a_k, M - m - q)
                            store(block_of_a, k * rows_of_a + q, column)
                    rows_from, row_step, a_step = block_of_a, 1, rows_of_a
                for v0 in range(0, V, 4):
                    width = min(4, V - v0)
                    unit = n0 + v0 * L
                    panel, b_step = shift(panels, v0 * L * depth), width * L
                    if as_it_lies:
                        panel, b_step = shift(b, k0 * b_k + unit), b_k
                    q = 0
                    while q < group:
                        n = next_rows(group - q, R)
                        for r in range(n):
                            rows[r] = (q + r) * row_step
                        to = (m + q) * c_m + unit
                        q += n
                        start, start_step = zero, 0
                        if k0 > 0:
                            start, start_step = shift(c, to), c_m
                        if unit + width * L <= n1:
                            target = shift(c, to)
                            product(
                                1, width, n, rows_from, rows, a_step, panel, b_step,
                                start, start_step, target, c_m, depth,
                            )  # fmt: skip
                            continue
                        # the last columns are no whole vectors: by way of a tile of our own
                        product(1, width, n, rows_from, rows, a_step, panel, b_step, zero, 0, sums, width * L, depth)
                        for r in range(n):
                            for v in range(width):
                                at, left = to + r * c_m + v * L, n1 - unit - v * L
                                total = load(sums, (r * width + v) * L)
                                if k0 > 0:
                                    total = add(load_part(c, at, left), total)
                                store_part(c, at, 0, (total,), left)
        restore_denormals(mode)

    return gemm
