"""What a step needs of memory, asked for while the products of the step before are computed.

A cell's arithmetic goes through more cache lines, one after the other, than can be on their way at once; a product, which
takes longer, needs few, and its tiles ask for a line or less with each term (see tile.py). So each call of a product is
given a stretch of what the next step reads and writes: its rows of an array, which lie one after the other.

w : the words of a kernel (see loops.py); a table of stretches: where its first one and its end stand, then of each the
address and how many numbers are left
"""

from numba import types
from numba.extending import intrinsic

from fastrnn.cpu.helper import helper
from fastrnn.cpu.rowcode import lay_out
from fastrnn.cpu.shares import next_rows
from fastrnn.cpu.simd import shift
from fastrnn.cpu.steps import place
from fastrnn.cpu.tile import product

EMPTY_SIZE = 2  # words of a table of none
ONE_SIZE = EMPTY_SIZE + 2  # of one
STRETCHES_SIZE = EMPTY_SIZE + 2 * 5  # of five at most


@intrinsic
def at_address(typing, like, address):
    """A pointer like another one, to an address."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[1], args[0].type)

    return like(like, types.intp), codegen


@helper
def nothing_needed(stretches):
    """Empty a table."""
    stretches[0] = stretches[1] = EMPTY_SIZE


@helper
def add_stretch(stretches, pointer, numbers):
    lay_out(shift(stretches, stretches[1]), (pointer, numbers))
    stretches[1] += 2


@helper
def forward_needs(w, step, stretches):
    """The stretches of the step after this one."""
    nothing_needed(stretches)
    s, active = step.s + 1, step.following - step.base
    if w.asked == 0 or step.by > 1 or step.count == 0 or s >= w.s1:
        return
    n, row = min(step.count, w.asked), step.following + step.first
    # what is read comes first, for a store waits for nothing; x is read a window of steps at a time
    read = step.s + max(1, w.capacity // step.count)
    if w.x_n == w.I and w.strided == 0 and read < w.s1:
        add_stretch(stretches, shift(w.x, place(w, read, step.first, w.x_t, w.x_n)), n * w.I)
    if w.save and w.past == 0:
        add_stretch(stretches, shift(w.saved, row * w.K * w.Hp), n * w.K * w.Hp)
    if w.y_n == w.H and w.strided == 0:
        add_stretch(stretches, shift(w.y, place(w, s, step.first, w.y_t, w.y_n)), n * w.H)
    if w.keep:
        after = (row + active) * w.Hp
        add_stretch(stretches, shift(w.hs, after), n * w.Hp)
        if w.memory:
            add_stretch(stretches, shift(w.cs, after), n * w.Hp)


@helper
def backward_needs(w, step, tape, stretches):
    """The stretches of the step before this one. tape : what the cell keeps of each row"""
    nothing_needed(stretches)
    s, active = step.s - 1, step.following - step.base
    if w.asked == 0 or step.by > 1 or s < 0:
        return
    # as many rows as this step has, or more
    n, row = min(step.count, w.asked), step.base - active + step.first
    add_stretch(stretches, shift(tape, row * w.K * w.Hp), n * w.K * w.Hp)
    add_stretch(stretches, shift(w.dx, row * w.row), n * w.row)
    if w.y_n == w.H and w.strided == 0:
        add_stretch(stretches, shift(w.dy, place(w, s, step.first, w.y_t, w.y_n)), n * w.H)
    if not w.shared:
        add_stretch(stretches, shift(w.du, row * w.row), n * w.row)


@helper
def next_stretch(w, stretches, rows, terms, otherwise, each):
    """What a product of so many rows and terms asks for, how many numbers with each term, and how many of the rows it takes:
    a stretch, if one is left, and no more tiles of rows than ask for it; or else `each` numbers of something else."""
    place = stretches[0]
    if place == stretches[1] or terms == 0:
        return otherwise, each, rows
    address, left = stretches[place], stretches[place + 1]
    high, of_tile = next_rows(rows, w.R), terms * w.L
    count = min(rows, (left + of_tile - 1) // of_tile * high)
    numbers = min(left, (count + high - 1) // high * of_tile)
    stretches[place], stretches[place + 1] = address + numbers * w.itemsize, left - numbers
    if numbers == left:
        stretches[0] = place + 2
    return at_address(otherwise, address), (numbers + terms - 1) // terms, count


@helper
def product_asking(w, vectors, rows, a, a_rows, weights, row, start, start_step, to, to_step, terms, following, stretches):
    """The product of `rows` rows, which asks for the stretches that are left, then for the weights that follow."""
    done = 0
    while done < rows:
        ahead, each, n = next_stretch(w, stretches, rows - done, terms, following, row)
        product(
            w.product, vectors, n, a, shift(a_rows, done), 1, weights, row, shift(start, done * start_step), start_step,
            shift(to, done * to_step), to_step, terms, ahead, each,
        )  # fmt: skip
        done += n
