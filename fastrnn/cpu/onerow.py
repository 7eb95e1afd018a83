"""The forward loop of a single row, and its input's product, taken along by the recurrent product of earlier steps.

With one row every weight is used once a step, and comes from the caches slower than multiply-adds are done; the input's
product, of many steps at once, waits for nothing. Side by side they take hardly longer than the first alone. What is done
ahead is a window of steps; its items are tiles of rows, for one panel each. Each recurrent product takes one item along;
what is left is computed when the window's first step has come, and so is all of a window where nothing is taken along.
"""

from collections import namedtuple

from fastrnn.cpu.helper import helper
from fastrnn.cpu.panels import input_product
from fastrnn.cpu.rowcode import advance_row
from fastrnn.cpu.shares import JOINING, panels_in_turn, units_of
from fastrnn.cpu.simd import shift
from fastrnn.cpu.steps import collect, exchange, place
from fastrnn.cpu.sync import barrier
from fastrnn.cpu.tile import product_beside, product_of_row

# the window's first step and the one behind its last; where its rows begin among those of mine.pre, how many there are;
# tiles of a panel, items, those done
Ahead = namedtuple("Ahead", ("first", "end", "row", "rows", "tiles", "items", "done"))


@helper
def look_ahead(w, part, s, row, mine, most):
    """The window from step s on, of `most` rows."""
    rows, end = collect(w, part, s, 1, s, mine, most)
    if w.beside == 0 or rows < w.beside:
        return Ahead(s, end, row, rows, 0, 0, 0)
    tiles = (rows + w.beside - 1) // w.beside
    return Ahead(s, end, row, rows, tiles, tiles * max(0, min(part.end, w.whole) - part.first), 0)


@helper
def nothing_ahead():
    return Ahead(0, 0, 0, 0, 0, 0, 0)


@helper
def next_item(w, part, ahead, mine, k0):
    """The tile that comes next, its terms from k0: places of its rows of x, weights, what its sums start from and the step
    from row to row there, where they go."""
    line = w.G * w.L
    row, v0 = w.W * line, (part.first + ahead.done // ahead.tiles) * w.W
    # the last tile ends with the last row
    i = min(ahead.done % ahead.tiles * w.beside, ahead.rows - w.beside)
    to, weights = shift(mine.pre, (ahead.row + i) * w.G * w.Hp + v0 * line), shift(w.w_ih, v0 * line * w.I + k0 * row)
    start, step = (to, w.G * w.Hp) if k0 > 0 else (shift(w.b_ih, v0 * line), 0)
    return shift(mine.x_at, i), weights, start, step, to


@helper
def one_done(ahead):
    return Ahead(ahead.first, ahead.end, ahead.row, ahead.rows, ahead.tiles, ahead.items, ahead.done + 1)


@helper
def step_of_row(w, part, s, pre, mine, before, after, y_at, ahead):
    """A step of a single row, from the input's sums `pre`: several panels at once, as long as there are whole ones.

    before, after, y_at : where its state lies, where it goes, where its output goes
    ahead : the input's product of later steps, which whole panels take along; what is left of it
    """
    line, done = w.G * w.L, 0
    while done < part.end - part.first:
        panel, many = panels_in_turn(part, done, w.P, w.whole, s)
        v0 = panel * w.W
        width = min(w.W, w.V - v0)
        units, vectors = units_of(w, panel + many - 1)  # of the last one
        vectors += (many - 1) * w.W * w.G
        beside, start = ahead.done < ahead.items and width == w.W, shift(w.b_hh, v0 * line)
        weights, state, row, size = shift(w.w_hh, v0 * w.H * line), shift(mine.h, before), width * line, width * line * w.H
        k0 = 0
        # all runs but the last; with a tile beside, all of them
        while k0 + w.run < w.H or (beside and k0 < w.H):
            terms = min(w.run, w.H - k0)
            if beside:
                x_at, x_weights, of_tile, tile_step, tile = next_item(w, part, ahead, mine, k0)
                product_beside(
                    w.product_beside, many, shift(state, k0), shift(weights, k0 * row), size, start, mine.sums, terms,
                    shift(w.x, k0), x_at, x_weights, of_tile, tile_step, tile, w.G * w.Hp,
                )  # fmt: skip
            else:
                product_of_row(
                    w.product_of_row, vectors, shift(state, k0), 0, shift(weights, k0 * row), row, size, 0, start,
                    mine.sums, terms,
                )  # fmt: skip
            start = mine.sums
            k0 += terms
        if beside:
            ahead = one_done(ahead)
        unit = v0 * w.L
        advance_row(
            w.advance_row, vectors, many * width, units, shift(state, k0), shift(weights, k0 * row), row, size, start,
            w.H - k0, shift(pre, v0 * line), shift(mine.h, unit), shift(mine.c, unit), shift(w.y, unit), before, after,
            y_at, w.H - unit, shift(w.saved, unit), w.save * w.Hp, w.past,
        )  # fmt: skip
        done += many
    return ahead


@helper
def one_row(w, part, mine):
    """The forward loop of a batch of one row."""
    ahead = look_ahead(w, part, w.s0, 0, mine, w.beside if w.beside > 0 else w.capacity)
    f, end = 0, w.length[0]
    for s in range(w.s0, w.s1):
        if s == ahead.first:
            f = ahead.row
            input_product(w, part, f, ahead.rows, ahead.done // max(1, ahead.tiles), mine)
            if w.beside > 0:
                # a window's steps can take along twice as many: windows grow from a tile to all there is room for
                ahead = look_ahead(w, part, ahead.end, w.capacity - ahead.row, mine, min(w.capacity, 2 * ahead.rows))
        # in training a row of the tape for each step, else two by turns; the last step's has a place of its own
        before = s if w.keep else s % 2
        after = w.ends if s + 1 == end else s + 1 if w.keep else 1 - before
        pre, y_at = shift(mine.pre, f * w.G * w.Hp), place(w, s, 0, w.y_t, w.y_n)
        exchange(w, part, before * w.Hp, after * w.Hp)
        ahead = step_of_row(w, part, s, pre, mine, before * w.Hp, after * w.Hp, y_at, ahead)
        if w.beside == 0 and s + 1 == ahead.end:
            # once this window's places are not read any more
            ahead = look_ahead(w, part, s + 1, 0, mine, w.capacity)
        f += 1
        if w.by_units == JOINING:
            barrier(w.control, part.member, part.team, s + 1 - w.s0)
