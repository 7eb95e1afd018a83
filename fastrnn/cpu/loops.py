"""The two time loops, generic over the cell: forward, and under it backward.

Rows m are sorted by length, the longest first, so that the rows still running at step s are the first `active`. The state
before step s of row m is row base(s) + m of `hs` and `cs`: in training, rows of the tape, one for every step of every
sequence; in inference two halves of a buffer by turns. Threads divide the rows, which then never meet, or the units, with
a barrier a step. Panels hold every gate of the same units (see gemm.py), so a step's product and its cell's arithmetic
are one pass over a block of rows and units.
"""

from numba.extending import register_jitable

import fastrnn.cpu.activations  # noqa: F401  registers the vector versions of what cells call
from fastrnn.cells import REGISTRY
from fastrnn.cpu.kernel import integers, pointers
from fastrnn.cpu.simd import add, cell_backward, cell_forward, load, load_all, load_part, shift, store, store_all, store_part
from fastrnn.cpu.sync import barrier, flush_denormals, join_team, restore_denormals
from fastrnn.cpu.tile import product

# the arguments by name: pointers to numbers, pointers to integers, integers
TABLES = ("order", "length", "offsets", "control")
FORWARD = (
    *("x", "w_ih", "w_hh", "b_ih", "b_hh", "hs", "cs", "y", "h_n", "c_n", "saved", "work"), *TABLES,
    *("s0", "s1", "N", "I", "H", "W", "x_t", "x_n", "y_t", "y_n", "reverse", "keep", "save"),
    *("by_units", "strided", "capacity"),
)  # fmt: skip
BACKWARD = (
    *("dy", "saved", "hs", "cs", "h_n", "dx", "du", "dh", "dc", "w_hh", "zero"), *TABLES,
    *("s0", "s1", "N", "H", "W", "y_t", "y_n", "reverse", "by_units", "strided", "shared"),
)  # fmt: skip


@register_jitable
def share(member, team, count, strided):
    """The rows of one member: the first, the step to the next, how many."""
    if strided:
        return member, team, max(0, (count - member + team - 1) // team)
    first = count * member // team
    return first, 1, count * (member + 1) // team - first


@register_jitable
def next_rows(left, most):
    """How many rows the next tile takes, so that all tiles are about equally high."""
    blocks = (left + most - 1) // most
    return (left + blocks - 1) // blocks


@register_jitable
def place(s, m, order, length, t_step, n_step, reverse):
    """Where step s of sorted row m lies in an array (T, N, ...) of the caller."""
    t = length[m] - 1 - s if reverse else s
    return t * t_step + order[m] * n_step


@register_jitable
def still_active(active, s, length):
    while active > 0 and length[active - 1] <= s:
        active -= 1
    return active


def build_forward(name, dtype, G, K, L, R, digest):
    """The forward kernel of a cell: G gates, K kept values, L lanes, tiles of R rows."""

    def forward(member, team, args):
        _ = digest
        x, w_ih, w_hh, b_ih, b_hh, hs, cs, y, h_n, c_n, saved, work = pointers(args, 0, 12, dtype)
        order, length, offsets, control = pointers(args, 12, 4, "intp")
        s0, s1, N, I, H, W, x_t, x_n, y_t, y_n, reverse, keep, save, by_units, strided, capacity = integers(args, 16, 16)
        V = (H + L - 1) // L
        Hp = V * L
        first_panel, end_panel = 0, (V + W - 1) // W
        row_member, row_team = member, team
        if by_units:
            member, team = join_team(control, team)
            if member < 0:
                return
            first_panel, end_panel = end_panel * member // team, end_panel * (member + 1) // team
            row_member, row_team = 0, 1
        mode = flush_denormals()
        pre = shift(work, member * (capacity * G * Hp + 8 * 4 * L))
        sums = shift(pre, capacity * G * Hp)
        ahead_rows = shift(offsets, member * (capacity + 8))
        rows = shift(ahead_rows, capacity)

        active, base, ahead, f = N, (s0 % 2) * N, s0, 0
        if keep:
            base = 0
            for m in range(N):
                base += min(length[m], s0)
        for s in range(s0, s1):
            active = still_active(active, s, length)
            following = base + active if keep else N - base
            first, step, count = share(row_member, row_team, active, strided)

            if s == ahead:
                # the input's product, for as many steps ahead as make the weights worth loading
                f, filled, running = 0, 0, active
                while ahead < s1:
                    running = still_active(running, ahead, length)
                    start, by, n = share(row_member, row_team, running, strided)
                    if filled > 0 and filled + n > capacity:
                        break
                    for i in range(n):
                        ahead_rows[filled + i] = place(ahead, start + i * by, order, length, x_t, x_n, reverse)
                    filled += n
                    ahead += 1
                for panel in range(first_panel, end_panel):
                    v0 = panel * W
                    width = min(W, V - v0)
                    i = 0
                    while i < filled:
                        n = next_rows(filled - i, R)
                        product(
                            G, width, n, x, shift(ahead_rows, i), 1, shift(w_ih, v0 * L * G * I), width * G * L,
                            shift(b_ih, v0 * L * G), 0, shift(pre, i * G * Hp + v0 * L * G), G * Hp, I,
                        )  # fmt: skip
                        i += n

            for panel in range(first_panel, end_panel):
                v0 = panel * W
                width = min(W, V - v0)
                i = 0
                while i < count:
                    n = next_rows(count - i, R)
                    for q in range(n):
                        rows[q] = (base + first + (i + q) * step) * Hp
                    product(
                        G, width, n, hs, rows, 1, shift(w_hh, v0 * L * G * H), width * G * L,
                        shift(b_hh, v0 * L * G), 0, sums, width * G * L, H,
                    )  # fmt: skip
                    for q in range(n):
                        m = first + (i + q) * step
                        y_row = place(s, m, order, length, y_t, y_n, reverse)
                        if length[m] == s + 1:
                            h_to, c_to, row = h_n, c_n, m * Hp
                        else:
                            h_to, c_to, row = hs, cs, (following + m) * Hp
                        for v in range(width):
                            unit = (v0 + v) * L
                            a = load_all(G, pre, (f + i + q) * G * Hp + v0 * L * G + v * L, width * L)
                            u = load_all(G, sums, q * width * G * L + v * L, width * L)
                            h, c, tape = cell_forward(name, a, u, load(cs, (base + m) * Hp + unit))
                            store(c_to, row + unit, c)
                            store(h_to, row + unit, h)
                            store_part(y, y_row + unit, 0, (h,), H - unit)
                            if save:
                                store_all(saved, (base + m) * K * Hp + unit, Hp, tape)
                    i += n
            f += count
            base = following
            if by_units:
                barrier(control, team, s + 1 - s0)
        restore_denormals(mode)

    return forward


def build_backward(name, dtype, G, K, L, R, digest):
    """The backward kernel of a cell: gradients of the pre-activations, step by step from the end.

    Of a cell that keeps its h only, the tape is where the next step's state is.
    """
    from_output = REGISTRY[name].tapes_output

    def backward(member, team, args):
        _ = digest
        dy, saved, hs, cs, h_n, dx, du, dh, dc, w_hh, zero = pointers(args, 0, 11, dtype)
        order, length, offsets, control = pointers(args, 11, 4, "intp")
        s0, s1, N, H, W, y_t, y_n, reverse, by_units, strided, shared = integers(args, 15, 11)
        V = (H + L - 1) // L
        Hp = V * L
        first_panel, end_panel = 0, (V + W - 1) // W
        row_member, row_team = member, team
        if by_units:
            member, team = join_team(control, team)
            if member < 0:
                return
            first_panel, end_panel = end_panel * member // team, end_panel * (member + 1) // team
            row_member, row_team = 0, 1
        mode = flush_denormals()
        rows = shift(offsets, member * 8)

        active, base = 0, 0
        for m in range(N):
            base += min(length[m], s1)
        for s in range(s1 - 1, s0 - 1, -1):
            while active < N and length[active] > s:
                active += 1
            base -= active
            first, step, count = share(row_member, row_team, active, strided)
            for i in range(count):
                m = first + i * step
                y_row = place(s, m, order, length, y_t, y_n, reverse)
                kept, row = saved, (base + m) * K * Hp
                if from_output:
                    kept, row = (h_n, m * Hp) if length[m] == s + 1 else (hs, (base + active + m) * Hp)
                for v in range(first_panel * W, min(V, end_panel * W)):
                    unit = v * L
                    here = (base + m) * Hp + unit
                    dh_t = add(load_part(dy, y_row + unit, H - unit), load(dh, m * Hp + unit))
                    tape = load_all(K, kept, row + unit, Hp)
                    da, dg, dc_prev = cell_backward(name, dh_t, load(dc, m * Hp + unit), load(cs, here), tape)
                    store(dc, m * Hp + unit, dc_prev)
                    store_part(dx, (base + m) * G * H + unit, H, da, H - unit)
                    if not shared:
                        store_part(du, (base + m) * G * H + unit, H, dg, H - unit)
            if by_units:
                # the product needs every unit of the row; what it writes is read by this member only
                barrier(control, team, s1 - s)
            for panel in range(first_panel, end_panel):
                v0 = panel * W
                width = min(W, V - v0)
                i = 0
                while i < count:
                    n = next_rows(count - i, R)
                    for q in range(n):
                        rows[q] = (base + first + (i + q) * step) * G * H
                    product(
                        1, width, n, du, rows, 1, shift(w_hh, v0 * L * G * H), width * L,
                        zero, 0, shift(dh, (first + i * step) * Hp + v0 * L), step * Hp, G * H,
                    )  # fmt: skip
                    i += n
        restore_denormals(mode)

    return backward
