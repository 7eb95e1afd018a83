"""Packing, and the product outside the time loops that gives the weights' gradients.

A panel is a slab of a weight matrix in the order in which a tile reads it. For the forward loop it holds every gate of the
same W * L units, [k][gate][unit]; for a plain product it holds W * L columns, [k][column]. What lies past the edge is zero.
Sums over many rows (a weight's gradient) are added up in runs, each from zero: a fixed order, and smaller errors.
"""

from collections import namedtuple

from fastrnn.cpu.arithmetic import difference, lost_in, nothing
from fastrnn.cpu.helper import helper
from fastrnn.cpu.kernel import Fields, words_of
from fastrnn.cpu.shares import next_rows
from fastrnn.cpu.simd import add, ask, load, load_part, shift, store, store_part
from fastrnn.cpu.sync import flush_denormals, restore_denormals
from fastrnn.cpu.target import lanes, padded, tile_rows
from fastrnn.cpu.tile import product
from fastrnn.cpu.transpose import transpose

_WIDTH = 4  # vectors of a panel of B


def _lanes_and_rows(name, dtype):
    return {"L": lanes(dtype), "R": tile_rows(_WIDTH)}


PACK_WEIGHTS = Fields(
    ("from_w_ih", "from_w_hh", "from_b_ih", "from_b_hh", "w_ih", "w_hh", "b_ih", "b_hh"), (), ("G", "H", "I", "W", "biases")
)  # fmt: skip
PACK_COLUMNS = Fields(("w", "out"), (), ("H", "K", "W"))
KEEP_WEIGHTS = Fields(("w_ih", "w_hh", "to_ih", "to_hh"), (), ("I", "H", "K", "W"))
GEMM = Fields(
    ("a", "b", "c", "sums", "zero", "work"), ("offsets",),
    ("M", "N", "K", "a_k", "b_k", "c_m", "depth", "run", "apart", "chunk", "work_size"), functions=("product",),
    constants=_lanes_and_rows,
)  # fmt: skip
_TILES = 32  # of A that are taken together: long runs of memory, and still in the second-level cache
_LAST = 2  # panels of a block during which the next one is asked for: what comes too early is gone again

# a block of the product: rows of C from m, columns n0 to n1, terms from k
Block = namedtuple("Block", ("m", "rows", "n0", "n1", "k", "depth"))
# a member's own memory: the panels of B, the strips of A, sums that are added to C afterwards, A's sums over a chunk, over a
# block and what the sums of all blocks have lost by rounding, where rows of A start
Mine = namedtuple("Mine", ("panels", "strips", "tiles", "of_chunk", "of_block", "lost", "offsets"))


@helper
def pack_gates(w, matrix, G, H, K, out, first, end):
    """matrix (G*H, K) -> the panels first..end of the forward loop."""
    L = w.L
    V = (H + L - 1) // L
    for panel in range(first, end):
        v0 = panel * w.W
        width = min(w.W, V - v0)
        row = G * width * L
        step = min(width * L, H - v0 * L)
        # gate by gate: sixteen rows are as many streams as the hardware prefetches
        for g in range(G):
            for v in range(width):
                unit = (v0 + v) * L
                for k in range(0, K, L):
                    to = v0 * L * G * K + k * row + g * step + v * L
                    transpose(matrix, (g * H + unit) * K + k, K, H - unit, K - k, out, to, row)


def build_pack_weights(name, dtype, digest):
    """All parameters of a layer into panels; zero where there is no bias."""

    def pack_weights(member, team, args):
        _ = digest
        w = words_of(args, "gemm", "PACK_WEIGHTS", name, dtype)
        G, H, line = w.G, w.H, w.G * w.L
        V = (H + w.L - 1) // w.L
        panels = (V + w.W - 1) // w.W
        first, end = panels * member // team, panels * (member + 1) // team
        pack_gates(w, w.from_w_ih, G, H, w.I, w.w_ih, first, end)
        pack_gates(w, w.from_w_hh, G, H, H, w.w_hh, first, end)
        for k in range(first * w.W * line, min(V, end * w.W) * line):
            w.b_ih[k] = w.b_hh[k] = 0
        if w.biases & 1:
            pack_gates(w, w.from_b_ih, G, H, 1, w.b_ih, first, end)
        if w.biases & 2:
            pack_gates(w, w.from_b_hh, G, H, 1, w.b_hh, first, end)

    return pack_weights


@helper
def pack_columns(w, matrix, step, rows, columns, W, out, first, end):
    """Of `rows` rows of `columns` numbers, `step` apart, those from first to end -> panels of W * L columns."""
    L = w.L
    V = (columns + L - 1) // L
    for v0 in range(0, V, W):
        width = min(W, V - v0)
        for k in range(first, end):
            for v in range(width):
                unit = (v0 + v) * L
                part = load_part(matrix, k * step + unit, columns - unit)
                store(out, v0 * L * rows + (k * width + v) * L, part)


def build_pack_columns(name, dtype, digest):
    """w (K, H) -> panels of a plain product."""

    def pack(member, team, args):
        _ = digest
        w = words_of(args, "gemm", "PACK_COLUMNS", name, dtype)
        pack_columns(w, w.w, w.H, w.K, w.H, w.W, w.out, w.K * member // team, w.K * (member + 1) // team)

    return pack


def build_keep_weights(name, dtype, digest):
    """What a tape keeps of a layer's weights: panels of plain products."""

    def keep(member, team, args):
        _ = digest
        w = words_of(args, "gemm", "KEEP_WEIGHTS", name, dtype)
        first, end = w.K * member // team, w.K * (member + 1) // team
        pack_columns(w, w.w_hh, w.H, w.K, w.H, w.W, w.to_hh, first, end)
        pack_columns(w, w.w_ih, w.I, w.K, w.I, w.W, w.to_ih, first, end)

    return keep


def build_pack_rows(name, dtype, digest):
    """w (H, K) -> panels of a plain product with its transpose."""

    def pack(member, team, args):
        _ = digest
        w = words_of(args, "gemm", "PACK_COLUMNS", name, dtype)
        panels = ((w.H + w.L - 1) // w.L + w.W - 1) // w.W
        pack_gates(w, w.w, 1, w.H, w.K, w.out, panels * member // team, panels * (member + 1) // team)

    return pack


@helper
def add_sums(w, at, mine):
    """w.sums[m] = Σ_k A[m, k], what a block adds to it: the sum of its chunks' sums, and what was lost before (Kahan)."""
    sums, lost = shift(w.sums, at.m), shift(mine.lost, at.m)
    for k0 in range(0, at.depth, w.chunk):
        for k in range(k0, min(at.depth, k0 + w.chunk)):
            a = shift(w.a, at.m + (at.k + k) * w.a_k)
            for q in range(0, at.rows, w.L):
                summand = load_part(a, q, at.rows - q)
                store(mine.of_chunk, q, summand if k == k0 else add(load(mine.of_chunk, q), summand))
        for q in range(0, at.rows, w.L):
            of_chunk = load(mine.of_chunk, q)
            store(mine.of_block, q, of_chunk if k0 == 0 else add(load(mine.of_block, q), of_chunk))
    for q in range(0, at.rows, w.L):
        before, summand = nothing(w.a), load(mine.of_block, q)
        if at.k > 0:
            before, summand = load_part(sums, q, at.rows - q), difference(summand, load(lost, q))
        total = add(before, summand)
        store_part(sums, q, 0, (total,), at.rows - q)
        store(lost, q, lost_in(total, before, summand))


@helper
def panels_of(w, k, depth, n0, n1, room):
    """Where the panels of a block of B are: packed, unless B is a single panel as it lies."""
    b, columns = shift(w.b, k * w.b_k + n0), n1 - n0
    if columns == w.b_k and columns <= _WIDTH * w.L and columns % w.L == 0:
        return b
    pack_columns(w, b, w.b_k, depth, columns, _WIDTH, room, 0, depth)
    return room


@helper
def pack_strips(w, at, strips):
    """A block of A -> strips of L rows, [strip][k][row]: a tile reads one run of memory."""
    for k in range(at.depth):
        a = shift(w.a, at.m + (at.k + k) * w.a_k)
        for q in range(0, at.rows, w.L):
            store(strips, q * at.depth + k * w.L, load_part(a, q, at.rows - q))


@helper
def add_tile(w, at, width, n, q, unit, tile):
    """C += a tile in a member's own memory, whose last columns may be no whole vectors."""
    for r in range(n):
        for v in range(width):
            to, left = (at.m + q + r) * w.c_m + unit + v * w.L, at.n1 - unit - v * w.L
            total = load(tile, (r * width + v) * w.L)
            if at.k > 0:
                total = add(load_part(w.c, to, left), total)
            store_part(w.c, to, 0, (total,), left)


@helper
def block_after(w, at, m0, m1, most):
    """The block that comes after one: further rows of C or, with the next terms, the first ones; in the end of no terms."""
    m, k, depth = at.m + at.rows, at.k, at.depth
    if m >= m1:
        m, k, depth = m0, at.k + at.depth, min(w.depth, w.K - at.k - at.depth)
    return Block(m, min(most, m1 - m), at.n0, at.n1, k, depth)


@helper
def part_of_next(w, at, then, i, k0, terms, weights, step):
    """What the i-th tile of the run from k0 on asks for of the block `then`, whose packing would wait for it, and how many
    numbers with each term.

    Of the terms that a run has, a line from each row of A, one tile after the other; then, unless B is the same, of that a
    line with each term; then weights.
    """
    lines = (then.rows + w.L - 1) // w.L
    of_b = k0 * w.b_k + (i - lines) * terms * w.L
    if i < lines and k0 < then.depth:
        return shift(w.a, then.m + i * w.L + (then.k + k0) * w.a_k), w.a_k
    if then.k > at.k and of_b < min(k0 + terms, then.depth) * w.b_k:
        return shift(w.b, then.k * w.b_k + of_b), w.L
    return weights, step


@helper
def ask_tile(w, c, rows, vectors):
    """Ask for a tile of C before it is needed."""
    for r in range(rows):
        for v in range(vectors):
            ask(shift(c, r * w.c_m + v * w.L))


@helper
def multiply_run(w, at, v0, k0, then, direct, mine):
    """C += A B for a block, its run of terms from k0 on, and the panel from vector v0 on.

    apart : the sums of a block are first added up in a member's own memory, as those are whose columns are no whole vectors
    """
    L, R = w.L, w.R
    V, tiles, terms = (at.n1 - at.n0 + L - 1) // L, (at.rows + R - 1) // R, min(w.run, at.depth - k0)
    width, unit = min(_WIDTH, V - v0), at.n0 + v0 * L
    panel, a_step = shift(mine.panels, v0 * L * at.depth + k0 * width * L), w.a_k if direct else L
    # runs of a panel lie one after the other, and so do panels
    following = shift(panel, width * L * terms) if k0 + terms < at.depth or v0 + width < V else mine.panels
    ask_step, apart = (width * L + tiles - 1) // tiles, w.apart or unit + width * L > at.n1
    last = k0 + terms == at.depth
    needs_c = last if apart else k0 == 0  # which the runs that follow find near
    # the tiles of the last panel go on asking where those of the one before it have stopped
    q, tile, before = 0, 0, tiles if _WIDTH < V <= v0 + _WIDTH else 0
    while q < at.rows:
        # a tile lies within a strip, or anywhere
        strip = 0 if direct else q // L * L
        n = next_rows((at.rows if direct else min(at.rows, strip + L)) - q, R)
        a = shift(w.a, at.m + (at.k + k0) * w.a_k) if direct else shift(mine.strips, strip * at.depth + k0 * L)
        ahead, ahead_step = shift(following, ask_step * terms * tile), ask_step
        if v0 >= V - _LAST * _WIDTH:
            ahead, ahead_step = part_of_next(w, at, then, before + tile, k0, terms, ahead, ahead_step)
        to = shift(w.c, (at.m + q) * w.c_m + unit)
        for r in range(n):
            mine.offsets[r] = q - strip + r
        if needs_c:
            ask_tile(w, to, n, width)
        if apart:
            to = shift(mine.tiles, q * width * L)
        to_step = width * L if apart else w.c_m
        start, start_step = (w.zero, 0) if k0 == 0 and (apart or at.k == 0) else (to, to_step)
        product(
            w.product, width, n, a, mine.offsets, a_step, panel, width * L, start, start_step, to, to_step, terms,
            ahead, ahead_step,
        )  # fmt: skip
        if apart and last:
            add_tile(w, at, width, n, q, unit, to)
        q += n
        tile += 1


@helper
def multiply(w, at, then, direct, mine):
    """C += A B for a block, whose A lies in strips unless it is read `direct`. then : the block that comes after it

    A run of terms with all tiles of a panel, then the next: the panel's part stays in the first cache meanwhile, and what C
    has of the panel in the second one from run to run.
    """
    for v0 in range(0, (at.n1 - at.n0 + w.L - 1) // w.L, _WIDTH):
        for k0 in range(0, at.depth, w.run):
            multiply_run(w, at, v0, k0, then, direct, mine)


def work_size(M, N, depth, dtype):
    """Numbers of working memory that a thread of a product needs: see `Mine`."""
    R = tile_rows(_WIDTH)
    group, L = min(padded(_TILES * R, dtype), padded(M, dtype)), lanes(dtype)
    # a member's last rows may begin anywhere: their last vector ends behind M
    return depth * (padded(N, dtype) + group) + group * _WIDTH * L + 2 * group + padded(M, dtype) + L


def build_gemm(name, dtype, digest):
    """C (M, N) = A B, with A[m, k] = a[m + k a_k], B[k, n] = b[k b_k + n]; threads divide the larger of M and N.

    A is packed, unless so few columns use it that this would not pay; with a `chunk`, how many are summed in a row, its
    sums over k go to `sums` (M,).
    """

    def gemm(member, team, args):
        _ = digest
        w = words_of(args, "gemm", "GEMM", name, dtype)
        L = w.L
        m0, m1, n0, n1, summing = 0, w.M, 0, w.N, w.chunk > 0
        if w.M >= w.N:
            m0, m1 = w.M * member // team, w.M * (member + 1) // team
        else:
            blocks = (w.N + L - 1) // L
            n0, n1 = blocks * member // team * L, min(w.N, blocks * (member + 1) // team * L)
            summing = summing and member == 0
        # rows of C in blocks about equally high, of whole vectors
        group = (next_rows(max(1, m1 - m0), _TILES * w.R) + L - 1) // L * L
        direct = n1 - n0 <= 2 * _WIDTH * L
        mode = flush_denormals()
        panels = shift(w.work, member * w.work_size)
        strips = shift(panels, (n1 - n0 + L - 1) // L * L * w.depth)
        tiles = shift(strips, group * w.depth)
        sums = shift(tiles, group * _WIDTH * L)
        of_block, lost, offsets = shift(sums, group), shift(sums, 2 * group), shift(w.offsets, member * 8)
        for k in range(0, w.K, w.depth):
            depth = min(w.depth, w.K - k)
            mine = Mine(panels_of(w, k, depth, n0, n1, panels), strips, tiles, sums, of_block, lost, offsets)
            for m in range(m0, m1, group):
                at = Block(m, min(group, m1 - m), n0, n1, k, depth)
                if summing:
                    add_sums(w, at, mine)
                if not direct:
                    pack_strips(w, at, strips)
                multiply(w, at, block_after(w, at, m0, m1, group), direct, mine)
        restore_denormals(mode)

    return gemm
