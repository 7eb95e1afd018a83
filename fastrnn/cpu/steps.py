"""Where a step finds its rows: in the caller's arrays, in the states, in a member's own memory.

w : the words of a kernel (see loops.py); m : a row in the order of lengths, s : a step
"""

from collections import namedtuple

from fastrnn.cpu.helper import helper
from fastrnn.cpu.shares import nth, share
from fastrnn.cpu.simd import ask, claim, load, load_part, shift, store, store_part

# where a step finds its rows: s, the row of the tape before it and after it of m = 0, this member's rows
Step = namedtuple("Step", ("s", "base", "following", "first", "by", "count"))
# a member's own memory: the input's and the recurrent sums; of its rows the place of x, of the token, of the state before
# and after, of y; which of the branches a row belongs to, and where the state lies that a branch continues; h and c of its
# rows, which may be its own: then where they came from, and where they go (-1: nowhere); the turns of a single row
Mine = namedtuple(
    "Mine",
    ("pre", "sums", "x_at", "token_at", "before", "after", "y_at", "branch", "origin", "h", "c", "taken", "given", "turns",
     "stretches"),
)  # fmt: skip


@helper
def memory_of(w, part):
    """A member's own memory. Where no row branches, each is a branch of its own."""
    work, ahead = shift(w.work, part.member * w.work_size), w.capacity + w.N
    pre = shift(work, 2 * w.own + w.own_c)
    x_at = shift(w.offsets, part.member * w.offsets_size)
    token_at, before = shift(x_at, ahead), shift(x_at, 2 * ahead)
    after, y_at, taken = shift(before, w.N), shift(before, 2 * w.N), shift(before, 3 * w.N)
    given, branch = shift(before, 4 * w.N), shift(before, 5 * w.N)
    # rows that branch have no states of their own
    origin = taken if w.together > 1 else before
    h, c = (work, shift(work, w.own_c)) if w.own > 0 else (w.hs, w.cs)
    sums, stretches = shift(pre, w.pre_size), shift(before, 6 * w.N)
    turns = shift(stretches, w.stretches_size)
    return Mine(pre, sums, x_at, token_at, before, after, y_at, branch, origin, h, c, taken, given, turns, stretches)


@helper
def from_row(mine, f, i):
    """A member's memory for its rows from the i-th, of a step whose first one is row f of those looked ahead; where they
    branch, for all of them."""
    x_at, token_at = shift(mine.x_at, f + i), shift(mine.token_at, f + i)
    before, after = shift(mine.before, i), shift(mine.after, i)
    y_at, origin, taken, given = shift(mine.y_at, i), shift(mine.origin, i), shift(mine.taken, i), shift(mine.given, i)
    return Mine(
        mine.pre, mine.sums, x_at, token_at, before, after, y_at, mine.branch, origin, mine.h, mine.c, taken, given,
        mine.turns, mine.stretches,
    )  # fmt: skip


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
def keep_inputs(w, at, to):
    """Copy a row of x to the tape: what the caller has may change."""
    for k in range(0, w.I, w.L):
        store_part(w.x_kept, to + k, 0, (load_part(w.x, at + k, w.I - k),), w.I - k)


@helper
def collect(w, part, s, active, base, mine, most):
    """The places of this member's rows of x and tokens, of steps from s, `most` rows or one step's: how many, and the step
    after. In training their x goes to the tape, where that of m = 0 is row `base`."""
    filled = 0
    while s < w.s1:
        active_before, active = active, still_active(active, s, w.length)
        first, by, count = share(part, active, w.strided, w.together)
        if filled > 0 and filled + count > most:
            break
        x_at, token_at = shift(mine.x_at, filled), shift(mine.token_at, filled)
        if filled > 0 and active == active_before:
            # the same rows as a step before, all of them as far from there
            move(count, shift(x_at, -count), x_at, w.x_t * (1 - 2 * w.reverse))
            if w.looked_up:
                move(count, shift(token_at, -count), token_at, w.tokens_t * (1 - 2 * w.reverse))
        else:
            for i in range(count):
                m = first + nth(i, count, w.swapped) * by
                x_at[i] = place(w, s, w.sources[m], w.x_t, w.x_n)
                if w.looked_up:
                    token_at[i] = place(w, s, m, w.tokens_t, w.tokens_n)
        if w.keep and (w.by_units == 0 or part.member == 0):
            for i in range(count):
                keep_inputs(w, x_at[i], (base + first + nth(i, count, w.swapped) * by) * w.I)
        filled += count
        base += active
        s += 1
    return filled, s


@helper
def move(count, places, to, by):
    """to[i] = places[i] + by"""
    for i in range(count):
        to[i] = places[i] + by


@helper
def state_after(w, step, m):
    """The row of hs and cs where the state of row m lies after a step."""
    return w.ends + m if w.length[m] == step.s + 1 else step.following + m


@helper
def locate(w, step, mine):
    """Where this member's rows have their state before the step, after it, and their output."""
    for i in range(step.count):
        j = nth(i, step.count, w.swapped)
        m = step.first + j * step.by
        mine.y_at[i] = place(w, step.s, m, w.y_t, w.y_n)
        before, after = (step.base + w.parents[m]) * w.Hp, state_after(w, step, m) * w.Hp
        if w.own > 0:
            ends = step.s + 1 == w.s1 or step.s + 1 == w.length[m]
            mine.taken[i], mine.given[i] = before, after if ends else -1
            before, after = step.s % 2 * w.own + j * w.Hp, (1 - step.s % 2) * w.own + j * w.Hp
        mine.before[i], mine.after[i] = before, after


@helper
def move_on(w, step, last, mine):
    """What `locate` finds, from what it found for the `last` step: of the same rows, none of which ends."""
    before, after = (step.base - last.base) * w.Hp, (step.following - last.following) * w.Hp
    if w.own > 0:
        before = w.own if step.s % 2 else -w.own
        after = -before
    move(step.count, mine.y_at, mine.y_at, w.y_t * (1 - 2 * w.reverse))
    move(step.count, mine.before, mine.before, before)
    move(step.count, mine.after, mine.after, after)


@helper
def copy_state(w, h, c, at, to_h, to_c, to):
    """A vector of units of a row's state."""
    store(to_h, to, load(h, at))
    if w.own_c > 0:
        store(to_c, to, load(c, at))


@helper
def take_states(w, count, mine):
    """Copy this member's states before the first step to memory of its own, where it has any."""
    if w.own > 0:
        for i in range(count):
            for unit in range(0, w.Hp, w.L):
                copy_state(w, w.hs, w.cs, mine.taken[i] + unit, mine.h, mine.c, mine.before[i] + unit)


@helper
def give_states(w, count, mine):
    """Copy this member's states from there to where others find them: at a row's end, and after the last step."""
    if w.own > 0:
        for i in range(count):
            if mine.given[i] >= 0:
                for unit in range(0, w.Hp, w.L):
                    copy_state(w, mine.h, mine.c, mine.after[i] + unit, w.hs, w.cs, mine.given[i] + unit)


@helper
def ask_row(w, numbers, at, size):
    """Ask for a row of numbers that other members wrote, all of it at once."""
    for k in range(0, size, w.L):
        ask(shift(numbers, at + k))


@helper
def exchange(w, part, before, after):
    """Where units are divided: ask for h before the step, and claim where this member's part of h after it goes, which the
    others have read."""
    if w.by_units:
        ask_row(w, w.hs, before, w.Hp)
        for v in range(part.first * w.W, min(w.V, part.end * w.W)):
            claim(shift(w.hs, after + v * w.L))


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
