"""The two time loops, generic over the cell: forward, and under it backward.

Rows m are sorted by length, the longest first, so that the rows still running at step s are the first `active`. The state
before step s of row m is row base(s) + m of `hs` and `cs`: in training, rows of the tape, one for every step of every
sequence; in inference two parts of a buffer by turns. From row `ends` lie the states at the rows' ends. Threads divide
the rows, which then never meet, or the units, with a barrier a step. Panels hold every gate of the same units (see
gemm.py), so a step's product and its cell's arithmetic are one pass over a block of rows and units. With few rows the
input's product runs ahead, several steps at once; with many it is computed panel by panel within the step. A table may add
to the input's sums, one of its rows for each token; rows that continue the same row (a branching) share its products.
"""

import fastrnn.cpu.activations  # noqa: F401  registers the vector versions of what cells call
from fastrnn.cells import REGISTRY
from fastrnn.cpu.asking import STRETCHES_SIZE, backward_needs, forward_needs, nothing_needed, product_asking
from fastrnn.cpu.cellcode import cell_backward, load_tape
from fastrnn.cpu.helper import helper
from fastrnn.cpu.kernel import Fields, words_of
from fastrnn.cpu.onerow import lay_out_turns, nothing_ahead, one_row, step_of_row
from fastrnn.cpu.panels import few_panels, input_panel, input_product, look_up, recurrent_panel, spread_branches
from fastrnn.cpu.shares import STEPPING, next_panels, next_rows, panels_in_turn, part_of, share, units_of
from fastrnn.cpu.simd import add, ask, claim, load, load_part, shift, static, store, store_part
from fastrnn.cpu.steps import (
    Step,
    ask_row,
    collect,
    exchange,
    find_branches,
    from_row,
    give_states,
    locate,
    memory_of,
    move_on,
    place,
    rows_before,
    state_after,
    still_active,
    take_states,
)  # fmt: skip
from fastrnn.cpu.sync import barrier, flush_denormals, restore_denormals
from fastrnn.cpu.target import ITEMSIZE, few_rows, lanes, panel_vectors, panels_at_once, tile_beside, tile_rows
from fastrnn.cpu.tile import product_of_few, product_of_row


def _constants(n_gates, n_parts, dtype):
    """Gates, lanes, panels of a single row at once, bytes of a number, rows of a tile, words of a table of stretches; of
    panels that hold n_gates gates of n_parts."""
    return {
        "G": n_gates * n_parts, "L": lanes(dtype), "P": panels_at_once(n_gates, n_parts), "itemsize": ITEMSIZE[dtype],
        "R": tile_rows(n_gates * panel_vectors(n_gates)), "stretches_size": STRETCHES_SIZE,
    }  # fmt: skip


def _forward_constants(name, dtype):
    cell = REGISTRY[name]
    gates = cell.n_gates
    # B : parts of a panel that the product of a single row takes along one by one; F : rows that are few
    return _constants(gates, 1, dtype) | {
        "B": gates * panel_vectors(gates) // tile_beside(gates)[1], "F": few_rows(gates), "K": cell.n_tape,
        "memory": int(cell.memory),
    }  # fmt: skip


def _backward_constants(name, dtype):
    # a panel of the transposed weights has one column for each unit; the gates are parts of a sum. K : values kept
    return _constants(1, REGISTRY[name].n_gates, dtype) | {"F": few_rows(1), "K": REGISTRY[name].n_tape}


# parents : the row whose state a row continues, sources : whose input it reads
# V : vectors of units, `whole` : how many of their panels are whole, Hp : units with padding; run, x_run : terms of a sum
# over H and over I that are added up in a row; near : rows that go through all panels together
# asked : of how many rows what the next step needs is asked for (see asking.py)
# own, own_size : in the backward loop, where members have dh and dc of their rows, and how far from each other; 0: nowhere
_SIZES = ("N", "H", "W", "V", "whole", "Hp", "run")
_TABLES = ("order", "length", "offsets", "control")
FORWARD = Fields(
    ("x", "w_ih", "w_hh", "b_ih", "b_hh", "hs", "cs", "y", "saved", "x_kept", "work", "table"),
    (*_TABLES, "parents", "sources", "tokens"),
    (*_SIZES, "I", "x_run", "near", "s0", "s1", "x_t", "x_n", "y_t", "y_n", "tokens_t", "tokens_n", "ends", "reverse",
     "keep", "save", "past", "by_units", "strided", "together", "fed_back", "looked_up", "beside", "capacity", "pre_size",
     "swapped", "own", "own_c", "work_size", "offsets_size", "asked"),
    functions=("product", "product_of_few", "product_of_row", "product_beside", "advance", "advance_row"),
    constants=_forward_constants,
)  # fmt: skip
BACKWARD = Fields(
    ("dy", "saved", "hs", "cs", "dx", "du", "dh", "dc", "own", "w_hh", "zero"), _TABLES,
    (*_SIZES, "s0", "s1", "row", "y_t", "y_n", "ends", "reverse", "by_units", "strided", "shared", "own_size", "asked"),
    functions=("product", "product_of_few_parts", "product_of_parts"), constants=_backward_constants,
)  # fmt: skip


@helper
def forward_tiles(w, part, turn, count, branches, f, mine):
    """A step of several rows, panel by panel. Their input's sums lie from row f; f < 0: they are still to be computed.

    branches : how many different rows they continue, fewer than `count` only where f < 0
    """
    line, panels, done = w.G * w.L, part.end - part.first, 0
    while done < panels:
        panel, many = next_panels(w, part, done, f >= 0 and count <= w.F, turn)
        done += many
        following, _ = panels_in_turn(part, min(done, panels - 1), 1, 0, turn)
        v0 = panel * w.W
        row, different = min(w.W, w.V - v0) * line, count
        if f < 0:
            _, vectors = units_of(w, panel)
            # just before they are used: sums of all panels would have left the cache by then
            recurrent, inputs = shift(w.w_hh, v0 * line * w.H), branches if w.fed_back else count
            input_panel(w, panel, vectors, recurrent, inputs, mine.x_at, mine.pre, row, mine.stretches)
            spread_branches(w, mine.pre, row, inputs, count, mine.branch)
            look_up(w, panel, count, mine.token_at, mine.pre, row)
            after, pre, pre_step, different = shift(w.w_ih, following * w.W * line * w.I), mine.pre, row, branches
        else:
            after, pre_step = shift(w.w_hh, following * w.W * line * w.H), w.G * w.Hp
            pre = shift(mine.pre, f * w.G * w.Hp + v0 * line)
        if many > 1:
            few_panels(w, panel, count, pre, pre_step, mine)
        else:
            recurrent_panel(w, panel, after, count, different, pre, pre_step, mine)


@helper
def many_rows(w, part, mine, turns):
    """The forward loop. turns : those of a step that is left with one row"""
    active, f, first_ahead, end_ahead, turn = w.N, 0, w.s0, w.s0, 0
    base = rows_before(w, w.s0) if w.keep else w.s0 % 2 * w.N
    last = Step(w.s0 - 1, base, base, 0, 0, 0)
    for s in range(w.s0, w.s1):
        active_before, active = active, still_active(active, s, w.length)
        first, by, count = share(part, active, w.strided, w.together)
        step = Step(s, base, base + active if w.keep else w.N - base, first, by, count)
        forward_needs(w, step, mine.stretches)
        if s == end_ahead:
            # a window of steps whose input's product is computed together, unless a step fills it
            first_ahead, f = s, 0
            rows, end_ahead = collect(w, part, s, active, base, mine, w.capacity)
            if end_ahead > s + 1 or count <= 1:
                input_product(w, part, 0, rows, 0, mine)
        alone = first_ahead == s and end_ahead == s + 1 and count > 1
        ending = s + 1 == w.s1 or (active > 0 and w.length[active - 1] == s + 1)
        if s == w.s0 or active < active_before or ending:
            locate(w, step, mine)
        else:
            move_on(w, step, last, mine)
        if s == w.s0:
            take_states(w, count, mine)
        if count == 1:
            pre = shift(mine.pre, f * w.G * w.Hp)
            step_of_row(w, part, turns, s, pre, mine, mine.before[0], mine.after[0], mine.y_at[0], nothing_ahead())
        elif count > 1:
            for i in range(count):
                exchange(w, part, mine.before[i], mine.after[i])
            # rows that branch find each other among all; others pass by as many as stay near
            branching = alone and w.together > 1
            together = count if branching else next_rows(count, w.near)
            for i in range(0, count, together):
                n, at = min(together, count - i), -1 if alone else f + i
                branches = find_branches(w, n, mine) if branching else n
                forward_tiles(w, part, turn, n, branches, at, from_row(mine, f, i))
                turn += 1
        if ending:
            give_states(w, count, mine)
        f += count
        base, last = step.following, step
        if w.by_units and w.by_units != STEPPING:
            barrier(w.control, part.member, part.team, s + 1 - w.s0)


def build_forward(name, dtype, digest):
    """The forward kernel of a cell."""

    def forward(member, team, args):
        _ = digest
        w = words_of(args, "loops", "FORWARD", name, dtype)
        part = part_of(w, member, team)
        if part.team == 0:
            return
        mode = flush_denormals()
        mine = memory_of(w, part)
        nothing_needed(mine.stretches)
        turns = lay_out_turns(w, part, mine)
        if w.N == 1:
            one_row(w, part, mine, turns)
        else:
            many_rows(w, part, mine, turns)
        restore_denormals(mode)

    return forward


@helper
def ask_gradients(w, kept, row, y_row, unit):
    """Ask for what the gradients of a row of the tape need, and claim where they go: the forward pass was long ago."""
    ask(shift(w.dy, y_row + unit))
    ask(shift(w.cs, row * w.Hp + unit))
    for k in range(w.K):
        ask(shift(kept, row * w.K * w.Hp + k * w.Hp + unit))
    for g in range(w.G):
        claim(shift(w.dx, row * w.row + g * w.H + unit))
        if not w.shared:
            claim(shift(w.du, row * w.row + g * w.H + unit))


@helper
def copy_gradients(w, part, dh, dc, to_dh, to_dc):
    """dh and dc of a member's rows."""
    first, by, count = share(part, w.N, w.strided, 1)
    for i in range(count):
        for at in range((first + i * by) * w.Hp, (first + i * by + 1) * w.Hp, w.L):
            store(to_dh, at, load(dh, at))
            store(to_dc, at, load(dc, at))


@helper
def gradients(cell, w, part, step, dh, dc, from_output):
    """The cell's backward on this member's rows and units: gradients of the pre-activations, and of c before the step."""
    active = step.following - step.base
    # where h is all the tape, it is the state after the step
    tape = shift(w.hs, active * w.Hp) if from_output else w.saved
    for i in range(step.count):
        m = step.first + i * step.by
        y_row, row = place(w, step.s, m, w.y_t, w.y_n), step.base + m
        kept, at = w.saved, row * w.K * w.Hp
        if from_output:
            kept, at = w.hs, state_after(w, step, m) * w.Hp
        # a row ahead, or the first of the step that comes next
        ahead, y_ahead = row + step.by, y_row
        if i + 1 < step.count:
            y_ahead = place(w, step.s, m + step.by, w.y_t, w.y_n)
        elif step.s > 0:
            ahead, y_ahead = step.base - active + step.first, place(w, step.s - 1, step.first, w.y_t, w.y_n)
        for v in range(part.first * w.W, min(w.V, part.end * w.W)):
            unit = v * w.L
            ask_gradients(w, tape, ahead, y_ahead, unit)
            state = m * w.Hp + unit
            total = add(load_part(w.dy, y_row + unit, w.H - unit), load(dh, state))
            saved = load_tape(cell, kept, at + unit, w.Hp)
            dx, du, dc_before = cell_backward(cell, total, load(dc, state), load(w.cs, row * w.Hp + unit), saved)
            store(dc, state, dc_before)
            store_part(w.dx, row * w.row + unit, w.H, dx, w.H - unit)
            if not w.shared:
                store_part(w.du, row * w.row + unit, w.H, du, w.H - unit)


@helper
def backward_row(w, part, step, dh):
    """dh = W_hhᵀ du of a single row, the gates' sums side by side."""
    depth, done, m = w.G * w.H, 0, step.first
    while done < part.end - part.first:
        panel, many = panels_in_turn(part, done, w.P, w.whole, step.s)
        v0 = panel * w.W
        line = min(w.W, w.V - v0) * w.L
        to = shift(dh, m * w.Hp + v0 * w.L)
        for k0 in range(0, w.H, w.run):
            product_of_row(
                w.product_of_parts, many * line // w.L, shift(w.du, (step.base + m) * w.row + k0), w.H,
                shift(w.w_hh, v0 * w.L * depth + k0 * line), line, line * depth, line * w.H,
                to if k0 > 0 else w.zero, to, min(w.run, w.H - k0),
            )  # fmt: skip
        done += many


@helper
def backward_tiles(w, part, step, dh, rows, stretches):
    """dh = W_hhᵀ du of several rows: a block of every gate's terms at a time, panel by panel, a tile of rows at a time.

    All panels with a block before the next block: those terms of du stay in the second-level cache.
    """
    depth, panels = w.G * w.H, part.end - part.first
    for i in range(step.count):
        rows[i] = (step.base + step.first + i * step.by) * w.row
    for k0 in range(0, w.H, w.run):
        terms, done = min(w.run, w.H - k0), 0
        while done < panels:
            panel, many = next_panels(w, part, done, step.count <= w.F, step.s)
            done += many
            after, _ = panels_in_turn(part, min(done, panels - 1), 1, 0, step.s)
            v0 = panel * w.W
            line = min(w.W, w.V - v0) * w.L
            to, to_step = shift(dh, step.first * w.Hp + v0 * w.L), step.by * w.Hp
            for g in range(w.G):
                weights = shift(w.w_hh, v0 * w.L * depth + (g * w.H + k0) * line)
                following = shift(weights, w.H * line)
                if g + 1 == w.G:
                    following = shift(w.w_hh, after * w.W * w.L * depth + k0 * line)
                start, start_step = (to, to_step) if k0 + g > 0 else (w.zero, 0)
                if many > 1:
                    product_of_few(
                        w.product_of_few_parts, step.count, shift(w.du, g * w.H + k0), rows, weights, line, line * depth,
                        start, start_step, to, to_step, terms,
                    )  # fmt: skip
                else:
                    product_asking(
                        w, line // w.L, step.count, shift(w.du, g * w.H + k0), rows, weights, line, start, start_step,
                        to, to_step, terms, following, stretches,
                    )  # fmt: skip


def build_backward(name, dtype, digest):
    """The backward kernel of a cell: gradients of the pre-activations, step by step from the end.

    Of a cell that keeps its h only, the tape is where the next step's state is.
    """
    from_output = REGISTRY[name].tapes_output

    def backward(member, team, args):
        _ = digest
        cell = static(name)
        w = words_of(args, "loops", "BACKWARD", name, dtype)
        part = part_of(w, member, team)
        if part.team == 0:
            return
        mode = flush_denormals()
        rows = shift(w.offsets, part.member * (w.N + w.stretches_size))
        stretches = shift(rows, w.N)
        own = shift(w.own, part.member * w.own_size)
        dh, dc = (own, shift(own, w.N * w.Hp)) if w.own_size > 0 else (w.dh, w.dc)
        if w.own_size > 0:
            copy_gradients(w, part, w.dh, w.dc, dh, dc)
        active, base = 0, rows_before(w, w.s1)
        for s in range(w.s1 - 1, w.s0 - 1, -1):
            while active < w.N and w.length[active] > s:
                active += 1
            base -= active
            first, by, count = share(part, active, w.strided, 1)
            step = Step(s, base, base + active, first, by, count)
            gradients(cell, w, part, step, dh, dc, from_output)
            if w.by_units:
                # the product needs every unit of the row; what it writes is read by this member only
                barrier(w.control, part.member, part.team, w.s1 - s)
                for i in range(step.count):
                    ask_row(w, w.du, (step.base + step.first + i * step.by) * w.row, w.G * w.H)
            if count == 1:
                backward_row(w, part, step, dh)
            elif count > 1:
                backward_needs(w, step, w.hs if from_output else w.saved, stretches)
                backward_tiles(w, part, step, dh, rows, stretches)
        if w.own_size > 0:
            copy_gradients(w, part, dh, dc, w.dh, w.dc)
        restore_denormals(mode)

    return backward
