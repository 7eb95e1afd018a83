"""Where a step finds its rows: in the caller's arrays, in the states, in a member's own memory.

w : the words of a kernel (see loops.py); m : a row in the order of lengths, s : a step
"""

from collections import namedtuple

from fastrnn.cpu.helper import helper
from fastrnn.cpu.shares import share
from fastrnn.cpu.simd import shift

# where a step finds its rows: s, the row of the tape before it and after it of m = 0, this member's rows
Step = namedtuple("Step", ("s", "base", "following", "first", "by", "count"))
# a member's own memory: the input's and the recurrent sums; of its rows the place of x, of the token, of the state before
# and after, of y; which of the branches a row belongs to, and where the state lies that a branch continues
Mine = namedtuple("Mine", ("pre", "sums", "x_at", "token_at", "before", "after", "y_at", "branch", "origin"))


@helper
def memory_of(w, part):
    """A member's own memory. Where no row branches, each is a branch of its own."""
    work, ahead = shift(w.work, part.member * w.work_size), w.capacity + w.N
    x_at = shift(w.offsets, part.member * (2 * ahead + 5 * w.N))
    token_at, before = shift(x_at, ahead), shift(x_at, 2 * ahead)
    after, y_at, branch = shift(before, w.N), shift(before, 2 * w.N), shift(before, 3 * w.N)
    origin = shift(before, 4 * w.N) if w.together > 1 else before
    return Mine(work, shift(work, w.pre_size), x_at, token_at, before, after, y_at, branch, origin)


@helper
def from_row(mine, i):
    """A member's memory for its rows from the i-th; where they branch, for all of them."""
    x_at, token_at, before = shift(mine.x_at, i), shift(mine.token_at, i), shift(mine.before, i)
    after, y_at = shift(mine.after, i), shift(mine.y_at, i)
    return Mine(mine.pre, mine.sums, x_at, token_at, before, after, y_at, mine.branch, shift(mine.origin, i))


@helper
def place(w, s, m, t_step, n_step):
    """Where step s of sorted row m lies in an array (T, N, ...) of the caller."""
    # without a branch, which would double every loop that asks
    t = s + w.reverse * (w.length[m] - 1 - 2 * s)
    return t * t_step + w.order[m] * n_step


@helper
def still_active(active, s, length):
    while active > 0 and length[active - 1] <= s:
        active -= 1
    return active


@helper
def rows_before(w, s):
    """How many rows of the tape lie before step s."""
    total = 0
    for m in range(w.N):
        total += min(w.length[m], s)
    return total


@helper
def collect(w, part, s, active, mine, most):
    """The places of this member's rows of x and tokens, of steps from s, `most` rows or one step's: how many, and the step
    after."""
    filled = 0
    while s < w.s1:
        active = still_active(active, s, w.length)
        first, by, count = share(part, active, w.strided, w.together)
        if filled > 0 and filled + count > most:
            break
        for i in range(count):
            m = first + i * by
            mine.x_at[filled + i] = place(w, s, w.sources[m], w.x_t, w.x_n)
        if w.looked_up:
            for i in range(count):
                mine.token_at[filled + i] = place(w, s, first + i * by, w.tokens_t, w.tokens_n)
        filled += count
        s += 1
    return filled, s


@helper
def state_after(w, step, m):
    """The row of hs and cs where the state of row m lies after a step."""
    return w.ends + m if w.length[m] == step.s + 1 else step.following + m


@helper
def locate(w, step, mine):
    """Where this member's rows have their state before the step, after it, and their output."""
    for i in range(step.count):
        m = step.first + i * step.by
        mine.before[i] = (step.base + w.parents[m]) * w.Hp
        mine.after[i] = state_after(w, step, m) * w.Hp
        mine.y_at[i] = place(w, step.s, m, w.y_t, w.y_n)


@helper
def find_branches(w, count, mine):
    """Which rows continue the same one, among `together` that may, and how many do not. x_at becomes the branches'."""
    branches, first = 0, 0
    for i in range(count):
        if i % w.together == 0:
            first = branches
        k = first
        while k < branches and mine.origin[k] != mine.before[i]:
            k += 1
        if k == branches:
            mine.origin[k] = mine.before[i]
            mine.x_at[k if w.fed_back else i] = mine.x_at[i]
            branches += 1
        mine.branch[i] = k
    return branches
