"""A single row's input product, taken along by the recurrent product of earlier steps.

With one row every weight is used once a step, and comes from the caches slower than multiply-adds are done; the input's
product, of many steps at once, waits for nothing. Side by side they take hardly longer than the first alone. Work ahead
is a window of steps; its items are tiles of rows for one panel each. Each recurrent product takes one item along.
"""

from collections import namedtuple

from numba.extending import register_jitable

from fastrnn.cpu.panels import input_panel, look_up
from fastrnn.cpu.simd import shift
from fastrnn.cpu.steps import collect
from fastrnn.cpu.tile import product_beside

# the window's first step and the one behind its last; where its rows begin among those of mine.pre, how many there are;
# tiles of a panel, items, those done
Ahead = namedtuple("Ahead", ("first", "end", "row", "rows", "tiles", "items", "done"))
NOTHING_AHEAD = Ahead(-1, -1, 0, 0, 0, 0, 0)


@register_jitable
def look_ahead(z, w, part, s, active, row, mine, most):
    """The window from step s on, of `most` rows."""
    rows, end = collect(w, part, s, active, mine, most)
    tiles = (rows + w.beside - 1) // w.beside
    items = tiles * max(0, min(part.end, z.whole) - part.first)
    return Ahead(s, end, row, rows, tiles, items if rows >= w.beside else 0, 0)


@register_jitable
def along(cell, z, w, part, ahead, mine, k0, many, before, weights, start, sums, depth):
    """The recurrent sums of `many` whole panels, over `depth` terms from k0, and those terms of the next item."""
    line = z.G * z.L
    row, v0 = w.W * line, (part.first + ahead.done // ahead.tiles) * w.W
    # the last tile ends with the last row
    i = min(ahead.done % ahead.tiles * w.beside, ahead.rows - w.beside)
    to = shift(mine.pre, (ahead.row + i) * z.G * z.Hp + v0 * line)
    start_beside, step_beside = (to, z.G * z.Hp) if k0 > 0 else (shift(w.b_ih, v0 * line), 0)
    product_beside(
        cell, many, before, weights, row * w.H, start, sums, depth, shift(w.x, k0), shift(mine.x_at, i),
        shift(w.w_ih, v0 * line * w.I + k0 * row), start_beside, step_beside, to, z.G * z.Hp,
    )  # fmt: skip


@register_jitable
def one_done(ahead):
    return Ahead(ahead.first, ahead.end, ahead.row, ahead.rows, ahead.tiles, ahead.items, ahead.done + 1)


@register_jitable
def complete(cell, z, w, part, ahead, mine):
    """The sums of a window: the items that nothing has taken along, and what is looked up."""
    line, panels = z.G * z.L, ahead.done // max(1, ahead.tiles)
    for panel in range(part.first, part.end):
        to = shift(mine.pre, ahead.row * z.G * z.Hp + panel * w.W * line)
        if panel - part.first >= panels:
            following = shift(w.w_ih, min(panel + 1, part.end - 1) * w.W * line * w.I)
            input_panel(cell, z, w, panel, following, ahead.rows, mine.x_at, to, z.G * z.Hp)
        look_up(z, w, panel, ahead.rows, mine.token_at, to, z.G * z.Hp)


@register_jitable
def next_window(cell, z, w, part, active, mine, ahead):
    """The first step of a window has come: complete it, and look ahead to the next.

    The steps of a window can take along twice as many: windows grow from one tile to half of what there is room for.
    """
    complete(cell, z, w, part, ahead, mine)
    return look_ahead(z, w, part, ahead.end, active, w.capacity - ahead.row, mine, min(w.capacity, 2 * ahead.rows))
