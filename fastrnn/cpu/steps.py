"""Where a step finds its rows: in the caller's arrays, in the states, in a member's own memory.

w : the words of a kernel (see loops.py); m : a row in the order of lengths, s : a step
"""

from collections import namedtuple

from numba.extending import register_jitable

from fastrnn.cpu.shares import share
from fastrnn.cpu.simd import shift

# where a step finds its rows: s, the row of the tape before it and after it of m = 0, this member's rows
Step = namedtuple("Step", ("s", "base", "following", "first", "by", "count"))
# a member's own memory: the input's and the recurrent sums; of its rows the place of x, of the state before and
# after, of y; the input's bias of its first row
Mine = namedtuple("Mine", ("pre", "sums", "x_at", "before", "after", "y_at", "bias"))


@register_jitable
def from_row(mine, i, b_step):
    """A member's memory for its rows from the i-th."""
    at = shift(mine.x_at, i), shift(mine.before, i), shift(mine.after, i), shift(mine.y_at, i)
    return Mine(mine.pre, mine.sums, at[0], at[1], at[2], at[3], shift(mine.bias, i * b_step))


@register_jitable
def place(w, s, m, t_step, n_step):
    """Where step s of sorted row m lies in an array (T, N, ...) of the caller."""
    t = w.length[m] - 1 - s if w.reverse else s
    return t * t_step + w.order[m] * n_step


@register_jitable
def still_active(active, s, length):
    while active > 0 and length[active - 1] <= s:
        active -= 1
    return active


@register_jitable
def rows_before(w, s):
    """How many rows of the tape lie before step s."""
    total = 0
    for m in range(w.N):
        total += min(w.length[m], s)
    return total


@register_jitable
def collect(w, part, s, active, x_at):
    """The places of this member's rows of x, of as many steps from s as fit: how many, and the step after."""
    filled = 0
    while s < w.s1:
        active = still_active(active, s, w.length)
        first, by, count = share(part, active, w.strided, w.together)
        if filled > 0 and filled + count > w.capacity:
            break
        for i in range(count):
            x_at[filled + i] = place(w, s, first + i * by, w.x_t, w.x_n)
        filled += count
        s += 1
    return filled, s


@register_jitable
def state_after(w, step, m):
    """The row of hs and cs where the state of row m lies after a step."""
    return w.ends + m if w.length[m] == step.s + 1 else step.following + m


@register_jitable
def locate(w, z, step, mine):
    """Where this member's rows have their state before the step, after it, and their output."""
    for i in range(step.count):
        m = step.first + i * step.by
        mine.before[i] = (step.base + w.parents[m]) * z.Hp
        mine.after[i] = state_after(w, step, m) * z.Hp
        mine.y_at[i] = place(w, step.s, m, w.y_t, w.y_n)
