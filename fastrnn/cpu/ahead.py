"""A single row's input product, taken along by the recurrent product of earlier steps.

With one row every weight is used once a step, and comes from the caches slower than multiply-adds are done; the input's
product, of many steps at once, waits for nothing. Side by side they take hardly longer than the first alone. What is done
ahead is a window of steps; its items are tiles of rows, for one panel each. Each recurrent product takes one item along;
what is left is computed when the window's first step has come, and so is all of a window where nothing is taken along.
"""

from collections import namedtuple

from fastrnn.cpu.helper import helper
from fastrnn.cpu.simd import shift
from fastrnn.cpu.steps import collect

# the window's first step and the one behind its last; where its rows begin among those of mine.pre, how many there are;
# tiles of a panel, items, those done
Ahead = namedtuple("Ahead", ("first", "end", "row", "rows", "tiles", "items", "done"))


@helper
def look_ahead(w, part, s, active, row, mine, most):
    """The window from step s on, of `most` rows."""
    rows, end = collect(w, part, s, active, mine, most)
    if w.beside == 0 or rows < w.beside:
        return Ahead(s, end, row, rows, 0, 0, 0)
    tiles = (rows + w.beside - 1) // w.beside
    return Ahead(s, end, row, rows, tiles, tiles * max(0, min(part.end, w.whole) - part.first), 0)


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
def panels_done(ahead):
    """How many panels have all their tiles."""
    return ahead.done // max(1, ahead.tiles)
