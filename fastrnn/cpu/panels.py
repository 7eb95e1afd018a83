"""What a step computes for the units of one panel: the input's sums, the recurrent ones, and the cell's arithmetic on both.

w : the words of a kernel, mine : a member's memory (see loops.py, shares.py, steps.py)
"""

from fastrnn.cpu.asking import product_asking
from fastrnn.cpu.cellcode import advance
from fastrnn.cpu.helper import helper
from fastrnn.cpu.shares import units_of
from fastrnn.cpu.simd import add, load, load_part, shift, store, store_part
from fastrnn.cpu.target import FEW_PANELS
from fastrnn.cpu.tile import product, product_of_few


@helper
def sums_of_rows(w, vectors, count, a, a_rows, terms, run, weights, row, bias, to, to_step, following, stretches):
    """to[i] = bias + Σ_k a[a_rows[i] + k] weights[k] for the vectors of a panel, a run of terms after the other; asks on
    the way for what is needed next: the weights of the next run; in the last one for `stretches`, or for `following`."""
    start, start_step = bias, 0
    for k0 in range(0, max(1, terms), run):
        k1 = min(terms, k0 + run)
        of_run, its_weights = shift(a, k0), shift(weights, k0 * row)
        if k1 < terms:
            product(
                w.product, vectors, count, of_run, a_rows, 1, its_weights, row, start, start_step, to, to_step, k1 - k0,
                shift(weights, k1 * row), row,
            )  # fmt: skip
        else:
            product_asking(
                w, vectors, count, of_run, a_rows, its_weights, row, start, start_step, to, to_step, k1 - k0, following,
                stretches,
            )  # fmt: skip
        start, start_step = to, to_step


@helper
def input_panel(w, panel, vectors, following, count, x_at, to, to_step, stretches):
    """to[i] = W_ih x[x_at[i]] + b_ih for the units of a panel."""
    line, v0 = w.G * w.L, panel * w.W
    row, weights, bias = min(w.W, w.V - v0) * line, shift(w.w_ih, v0 * line * w.I), shift(w.b_ih, v0 * line)
    sums_of_rows(w, vectors, count, w.x, x_at, w.I, w.x_run, weights, row, bias, to, to_step, following, stretches)


@helper
def look_up(w, panel, count, token_at, to, to_step):
    """to[i] += table[tokens[token_at[i]]] for the units of a panel, where there is a table."""
    if not w.looked_up:
        return
    units, _ = units_of(w, panel)
    for i in range(count):
        row = shift(w.table, w.tokens[token_at[i]] * w.G * w.H + panel * w.W * w.L)
        for g in range(w.G):
            for unit in range(0, units, w.L):
                at, left = i * to_step + g * units + unit, units - unit
                store_part(to, at, 0, (add(load(to, at), load_part(row, g * w.H + unit, left)),), left)


@helper
def input_product(w, part, row, count, done, mine):
    """The input's sums of `count` rows, of one step or several, for this member's panels, of which `done` are known.

    row : where they begin among the rows of mine.pre
    """
    line = w.G * w.L
    for panel in range(part.first, part.end):
        following = shift(w.w_ih, (panel + 1) * w.W * line * w.I)
        if panel + 1 == part.end:
            following = shift(w.w_hh, part.first * w.W * line * w.H)
        to = shift(mine.pre, row * w.G * w.Hp + panel * w.W * line)
        if panel - part.first >= done:
            _, vectors = units_of(w, panel)
            input_panel(w, panel, vectors, following, count, mine.x_at, to, w.G * w.Hp, mine.stretches)
        look_up(w, panel, count, mine.token_at, to, w.G * w.Hp)


@helper
def finish(w, n, panel, sums, row, pre, pre_step, mine):
    """The cell's arithmetic on n rows and the units of a panel, from the input's sums and the recurrent ones, `row` numbers
    from row to row."""
    units, _ = units_of(w, panel)
    unit, width = panel * w.W * w.L, (units + w.L - 1) // w.L
    advance(
        w.advance, n, width, pre, pre_step, sums, row, units, shift(mine.h, unit), shift(mine.c, unit),
        shift(w.y, unit), mine.before, mine.after, mine.y_at, w.H - unit, shift(w.saved, unit), w.save * w.Hp, w.past,
    )  # fmt: skip


@helper
def spread_branches(w, sums, row, branches, count, branch):
    """sums[i] = sums[branch[i]], of `branches` different rows; from the last, for branch[i] <= i."""
    if branches < count:
        for i in range(count - 1, -1, -1):
            for v in range(0, row, w.L):
                store(sums, i * row + v, load(sums, branch[i] * row + v))


@helper
def recurrent_panel(w, panel, following, count, branches, pre, pre_step, mine):
    """The recurrent product for the units of a panel, and the cell's arithmetic."""
    line, v0 = w.G * w.L, panel * w.W
    row, weights, bias = min(w.W, w.V - v0) * line, shift(w.w_hh, v0 * line * w.H), shift(w.b_hh, v0 * line)
    _, vectors = units_of(w, panel)
    sums_of_rows(
        w, vectors, branches, mine.h, mine.origin, w.H, w.run, weights, row, bias, mine.sums, row, following,
        mine.stretches,
    )  # fmt: skip
    spread_branches(w, mine.sums, row, branches, count, mine.branch)
    finish(w, count, panel, mine.sums, row, pre, pre_step, mine)


@helper
def few_panels(w, panel, count, pre, pre_step, mine):
    """What `recurrent_panel` does, of few rows, for FEW_PANELS whole panels from this one on."""
    row = w.W * w.G * w.L
    size, all_of_row = row * w.H, FEW_PANELS * row
    weights, start, start_step = shift(w.w_hh, panel * size), shift(w.b_hh, panel * row), 0
    for k0 in range(0, w.H, w.run):
        product_of_few(
            w.product_of_few, count, shift(mine.h, k0), mine.origin, shift(weights, k0 * row), row, size, start, start_step,
            mine.sums, all_of_row, min(w.run, w.H - k0),
        )  # fmt: skip
        start, start_step = mine.sums, all_of_row
    for i in range(FEW_PANELS):
        finish(w, count, panel + i, shift(mine.sums, i * row), all_of_row, shift(pre, i * row), pre_step, mine)
