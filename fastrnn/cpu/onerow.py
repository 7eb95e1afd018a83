"""The forward loop of a single row, and its input's product, taken along by the recurrent product of earlier steps.

With one row every weight is used once a step, and comes from the caches slower than multiply-adds are done; the input's
product, of many steps at once, waits for nothing. Side by side they take less long than one after the other. What is done
ahead is a window of steps; its items are tiles of rows, for a part of a panel each. Each recurrent product takes one item
along; what is left is computed when the window's first step has come, and so is all of it where nothing is taken along.
"""

from collections import namedtuple

from fastrnn.cpu.helper import helper
from fastrnn.cpu.panels import input_product
from fastrnn.cpu.rowcode import TURN, advance_row, lay_out
from fastrnn.cpu.shares import STEPPING, panels_in_turn, units_of
from fastrnn.cpu.simd import shift
from fastrnn.cpu.steps import exchange, keep_inputs, place
from fastrnn.cpu.sync import barrier
from fastrnn.cpu.tile import product_beside, product_of_row

TURN_SIZE = 2 + len(TURN)  # its first panel, how many, and what advance_row reads
# the window's first step and the one behind its last; where its rows begin among those of mine.pre, how many there are;
# tiles of a panel's part, items, those done
Ahead = namedtuple("Ahead", ("first", "end", "row", "rows", "tiles", "items", "done"))


@helper
def collect_row(w, part, s, mine, most):
    """What `collect` does, of a single row, whose places lie at equal distances: how many steps."""
    rows, x_at = min(most, w.s1 - s), place(w, s, w.sources[0], w.x_t, w.x_n)
    for i in range(rows):
        mine.x_at[i] = x_at + i * w.x_t * (1 - 2 * w.reverse)
    if w.keep and (w.by_units == 0 or part.member == 0):
        for i in range(rows):
            keep_inputs(w, mine.x_at[i], (s + i) * w.I)
    if w.looked_up:
        for i in range(rows):
            mine.token_at[i] = place(w, s + i, 0, w.tokens_t, w.tokens_n)
    return rows


@helper
def look_ahead(w, part, s, row, mine, most):
    """The window from step s on, of `most` rows."""
    rows = collect_row(w, part, s, mine, most)
    end = s + rows
    if w.beside == 0 or rows < w.beside:
        return Ahead(s, end, row, rows, 0, 0, 0)
    tiles = (rows + w.beside - 1) // w.beside
    return Ahead(s, end, row, rows, tiles, w.B * tiles * max(0, min(part.end, w.whole) - part.first), 0)


@helper
def nothing_ahead():
    return Ahead(0, 0, 0, 0, 0, 0, 0)


@helper
def next_item(w, part, ahead, mine, k0):
    """The tile that comes next, its terms from k0: places of its rows of x, weights, what its sums start from and the step
    from row to row there, where they go."""
    line = w.G * w.L
    row, parts = w.W * line, ahead.done // ahead.tiles
    v0, vector = (part.first + parts // w.B) * w.W, parts % w.B * (row // w.B)
    # the last tile ends with the last row
    i = min(ahead.done % ahead.tiles * w.beside, ahead.rows - w.beside)
    to = shift(mine.pre, (ahead.row + i) * w.G * w.Hp + v0 * line + vector)
    weights = shift(w.w_ih, v0 * line * w.I + k0 * row + vector)
    start, step = (to, w.G * w.Hp) if k0 > 0 else (shift(w.b_ih, v0 * line + vector), 0)
    return shift(mine.x_at, i), weights, start, step, to


@helper
def one_done(ahead):
    return Ahead(ahead.first, ahead.end, ahead.row, ahead.rows, ahead.tiles, ahead.items, ahead.done + 1)


@helper
def lay_out_turns(w, part, mine):
    """Divide this member's panels into turns, several whole ones at once, and write each turn's words: how many turns."""
    line, done, turns = w.G * w.L, 0, 0
    while done < part.end - part.first:
        panel, many = panels_in_turn(part, done, w.P, w.whole, 0)
        v0 = panel * w.W
        width = min(w.W, w.V - v0)
        units, vectors = units_of(w, panel + many - 1)  # of the last one
        vectors += (many - 1) * w.W * w.G
        row, unit, k0 = width * line, v0 * w.L, (w.H - 1) // w.run * w.run
        turn = shift(mine.turns, turns * TURN_SIZE)
        turn[0], turn[1] = panel, many
        start = shift(w.b_hh, v0 * line) if k0 == 0 else mine.sums
        lay_out(shift(turn, 2), (
            vectors, many * width, units, shift(mine.h, k0), shift(w.w_hh, v0 * w.H * line + k0 * row), row, row * w.H,
            start, mine.sums, v0 * line, shift(mine.h, unit), shift(mine.c, unit), shift(w.y, unit), w.H - unit,
            shift(w.saved, unit), w.save * w.Hp, w.past, w.G * w.Hp, w.y_t * (1 - 2 * w.reverse), 2 * w.keep * w.Hp,
        ))  # fmt: skip
        done += many
        turns += 1
    return turns


@helper
def step_of_row(w, part, turns, s, pre, mine, before, after, y_at, ahead):
    """A step of a single row, from the input's sums `pre`.

    before, after, y_at : where its state lies, where it goes, where its output goes
    ahead : the input's product of later steps, which whole panels take along; what is left of it
    """
    line, last = w.G * w.L, (w.H - 1) // w.run * w.run
    for i in range(turns):
        # every other step goes backwards: it starts with what the caches still hold
        turn = shift(mine.turns, (turns - 1 - i if s % 2 else i) * TURN_SIZE)
        v0, many, vectors = turn[0] * w.W, turn[1], turn[2]
        beside, start = ahead.done < ahead.items and v0 + many * w.W <= w.V, shift(w.b_hh, v0 * line)
        k0, width = 0, min(w.W, w.V - v0)
        weights, state, row, size = shift(w.w_hh, v0 * w.H * line), shift(mine.h, before), width * line, width * line * w.H
        # all runs but the last; with a tile beside, all of them
        while k0 < last or (beside and k0 < w.H):
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
        advance_row(w.advance_row, shift(turn, 2), 1, 0, w.H - k0, pre, before, after, y_at, 1)
    return ahead


@helper
def one_row(w, part, mine, turns):
    """The forward loop of a batch of one row."""
    ahead = look_ahead(w, part, w.s0, 0, mine, w.beside if w.beside > 0 else w.capacity)
    f, end, s = 0, w.length[0], w.s0
    # nothing to wait for or to be taken along: steps follow each other within one call
    at_once = w.by_units == 0 and w.beside == 0 and w.run >= w.H
    while s < w.s1:
        if s == ahead.first:
            f = ahead.row
            input_product(w, part, f, ahead.rows, ahead.done // max(1, ahead.tiles * w.B), mine)
            if w.beside > 0:
                # a window's steps can take along twice as many: windows grow from a tile to all there is room for
                ahead = look_ahead(w, part, ahead.end, w.capacity - ahead.row, mine, min(w.capacity, 2 * ahead.rows))
        # in training a row of the tape for each step, else two by turns; the last step's has a place of its own
        before = s if w.keep else s % 2
        after = w.ends if s + 1 == end else s + 1 if w.keep else 1 - before
        before, after, y_at = before * w.Hp, after * w.Hp, place(w, s, 0, w.y_t, w.y_n)
        pre, steps = shift(mine.pre, f * w.G * w.Hp), 1
        if at_once:
            steps = max(1, min(ahead.end, end - 1) - s)
            turn, way = (shift(mine.turns, (turns - 1) * TURN_SIZE), -TURN_SIZE) if s % 2 else (mine.turns, TURN_SIZE)
            advance_row(w.advance_row, shift(turn, 2), turns, way, w.H, pre, before, after, y_at, steps)
        else:
            exchange(w, part, before, after)
            ahead = step_of_row(w, part, turns, s, pre, mine, before, after, y_at, ahead)
        s += steps
        f += steps
        if w.beside == 0 and s == ahead.end:
            # once this window's places are not read any more
            ahead = look_ahead(w, part, s, 0, mine, w.capacity)
        if w.by_units and w.by_units != STEPPING:
            barrier(w.control, part.member, part.team, s - w.s0)
