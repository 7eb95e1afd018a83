"""Packing, and the products outside the time loops: the input's and the weights' gradients.

A panel is a slab of a weight matrix in the order in which a tile reads it. For the forward loop it holds every gate of the
same W * L units, [k][gate][unit]; for a plain product it holds W * L columns, [k][column]. What lies past the edge is zero.
Sums over many rows (a weight's gradient) run in blocks of DEPTH, each from zero: a fixed order, and smaller errors.
"""

from numba.extending import register_jitable

from fastrnn.cpu.loops import next_rows
from fastrnn.cpu.simd import add, load, load_part, shift, store, store_part
from fastrnn.cpu.sync import flush_denormals, restore_denormals
from fastrnn.cpu.tile import integers, pointers, product, transpose

PACK_FLOATS = ("w", "out")
PACK_INTEGERS = ("G", "H", "K", "W")
GEMM_FLOATS = ("a", "b", "c", "zero", "work")
GEMM_TABLES = ("offsets",)
GEMM_INTEGERS = ("M", "N", "K", "a_m", "a_k", "b_k", "c_m", "work_size")
DEPTH = 128


def build_pack_gates(dtype, L, digest):
    """w (G*H, K) -> panels of the forward loop."""

    def pack_gates(member, team, args):
        _ = digest
        w, out = pointers(args, 0, 2, dtype)
        G, H, K, W = integers(args, 2, 4)
        V = (H + L - 1) // L
        panels = (V + W - 1) // W
        for panel in range(panels * member // team, panels * (member + 1) // team):
            v0 = panel * W
            width = min(W, V - v0)
            row = G * width * L
            for k in range(0, K, L):
                for g in range(G):
                    for v in range(width):
                        unit = (v0 + v) * L
                        to = v0 * L * G * K + k * row + (g * width + v) * L
                        transpose(w, (g * H + unit) * K + k, K, H - unit, K - k, out, to, row)

    return pack_gates


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
        _G, H, K, W = integers(args, 2, 4)
        if member == 0:
            pack_columns(w, 0, H, K, H, W, L, out)

    return pack


def build_gemm(dtype, L, R, digest):
    """C (M, N) = A B, with A[m, k] = a[m a_m + k a_k], B[k, n] = b[k b_k + n]; threads divide the larger of M and N."""

    def gemm(member, team, args):
        _ = digest
        a, b, c, zero, work = pointers(args, 0, 5, dtype)
        offsets = pointers(args, 5, 1, "intp")[0]
        M, N, K, a_m, a_k, b_k, c_m, work_size = integers(args, 6, 8)
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
        block_of_a = shift(panels, V * L * DEPTH)
        sums = shift(block_of_a, DEPTH * R + L)
        rows = shift(offsets, member * 8)
        for k0 in range(0, K, DEPTH):
            depth = min(DEPTH, K - k0)
            pack_columns(b, k0 * b_k + n0, b_k, depth, n1 - n0, 4, L, panels)
            m = m0
            while m < m1:
                n = next_rows(m1 - m, R)
                rows_of, a_step = a, 1
                if a_k == 1:
                    for q in range(n):
                        rows[q] = (m + q) * a_m + k0
                else:
                    # a column of A is n neighbours: copied whole vectors at a time, each over the last one's tail
                    for k in range(depth):
                        store(block_of_a, k * n, load_part(a, m * a_m + (k0 + k) * a_k, M - m))
                    for q in range(n):
                        rows[q] = q
                    rows_of, a_step = block_of_a, n
                for v0 in range(0, V, 4):
                    width = min(4, V - v0)
                    product(
                        1, width, n, rows_of, rows, a_step, shift(panels, v0 * L * depth), width * L,
                        zero, 0, sums, width * L, depth,
                    )  # fmt: skip
                    for q in range(n):
                        for v in range(width):
                            unit = n0 + (v0 + v) * L
                            to = (m + q) * c_m + unit
                            total = load(sums, (q * width + v) * L)
                            if k0 > 0:
                                total = add(load_part(c, to, n1 - unit), total)
                            store_part(c, to, 0, (total,), n1 - unit)
                m += n
        restore_denormals(mode)

    return gemm
