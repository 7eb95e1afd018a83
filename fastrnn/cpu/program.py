"""A program: operations, each a kernel with words of its own, run for one step after another without a return to Python.

Its members divide the rows, and never meet; or, of few rows, the units of each operation, and meet after each.
"""

from numba.extending import register_jitable

from fastrnn import choices
from fastrnn.cpu.helper import WITHOUT_WRAPPERS, helper
from fastrnn.cpu.kernel import Fields, call_at, words_of
from fastrnn.cpu.simd import shift
from fastrnn.cpu.sync import barrier, join_team

# words and what they grow by from step to step; every member has its own copy, of `size` words
PROGRAM = Fields((), ("addresses", "starts", "words", "growth", "done", "control"),
                 ("steps", "operations", "size", "sentences", "by_units"))  # fmt: skip
CHOOSE = Fields(("logits", "coverage"), choices.TABLES, choices.INTEGERS, choices.NUMBERS)

for text in choices.TEXTS:
    # they call each other as plain functions of Python
    register_jitable(**WITHOUT_WRAPPERS)(text)


@helper
def all_done(w, first, end):
    for i in range(first, end):
        if w.done[i] == 0:
            return False
    return first < end


def build_program(name, dtype, digest):
    def program(member, team, args):
        _ = digest
        w = words_of(args, "program", "PROGRAM", name, dtype)
        first, end, met = w.sentences * member // team, w.sentences * (member + 1) // team, 0
        if w.by_units:
            member, team = join_team(w.control, team)
            if member < 0:
                return
            first, end = 0, w.sentences
        own = shift(w.words, member * w.size)
        for _step in range(w.steps):
            if all_done(w, first, end):
                break
            for k in range(w.operations):
                call_at(w.addresses[k], member, team, shift(own, w.starts[k]))
                if w.by_units:
                    # the next operation reads what all members write
                    met += 1
                    barrier(w.control, member, team, met)
            for k in range(w.size):
                own[k] += w.growth[k]

    return program


def build_choose(name, dtype, digest):
    """A kernel of the function of choices.py of that name."""
    chosen = getattr(choices, name)

    def choose(member, team, args):
        _ = digest
        w = words_of(args, "program", "CHOOSE", "", dtype)
        chosen(w, w.N * member // team, w.N * (member + 1) // team)

    return choose
