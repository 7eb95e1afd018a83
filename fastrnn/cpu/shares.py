"""How the work of a step is divided: among the members of a team, into tiles of rows, into panels of units."""

from collections import namedtuple

from fastrnn.cpu.helper import helper
from fastrnn.cpu.sync import join_team
from fastrnn.cpu.target import FEW_PANELS

# how units are divided: by the members who show up; by those of a sequence, who have done so already; by those of a program
# that takes one step of a loop at a time, who meet after it as well
JOINING, JOINED, STEPPING = 1, 2, 3
# of a member: its number, the team's size (0: it came too late), among how many it divides rows, its panels
Part = namedtuple("Part", ("member", "team", "row_member", "row_team", "first", "end"))


@helper
def part_of(w, member, team):
    """A member's part of a loop with the words w: rows of every panel, or every row of some panels."""
    panels = (w.V + w.W - 1) // w.W
    if w.by_units == JOINING:
        member, team = join_team(w.control, team)
        if member < 0:
            return Part(0, 0, 0, 1, 0, 0)
    if w.by_units:
        return Part(member, team, 0, 1, panels * member // team, panels * (member + 1) // team)
    return Part(member, team, member, team, 0, panels)


@helper
def units_of(w, panel):
    """How many units a panel of the forward loop has, and how many vectors of their gates.

    In the last one, where units are fewer, a gate follows the one before at once: what is without use comes at the end.
    """
    units = min(w.W * w.L, w.H - panel * w.W * w.L)
    return units, (w.G * units + w.L - 1) // w.L


@helper
def share(part, count, strided, together):
    """The rows of one member, of `count`: the first, the step to the next, how many."""
    member, team = part.row_member, part.row_team
    if team == 1:
        return 0, 1, count
    if strided:
        return member, team, max(0, (count - member + team - 1) // team)
    first, end = rows_of_member(member, team, count, together)
    return first, 1, end - first


@helper
def nth(i, count, swapped):
    """The i-th of `count` rows, in the order in which a member takes them; swapped = 2: 2, 3, 0, 1, 6, 7, 4, 5, ...

    The processor fetches what lies at equal distances before it is asked for, and beyond a member's last row lie those that
    another one writes: the two would take cache lines from each other. In this order no three distances are equal.
    """
    other = i ^ swapped
    return other if other < count else i


@helper
def rows_of_member(member, team, count, together):
    """The first of one member's rows and the one behind its last: `together` of them always have the same member."""
    groups = count // together
    return groups * member // team * together, groups * (member + 1) // team * together


@helper
def next_rows(left, most):
    """How many rows the next tile takes, so that all tiles are about equally high."""
    blocks = (left + most - 1) // most
    return (left + blocks - 1) // blocks


@helper
def panels_in_turn(part, done, most, whole, s):
    """The panel that comes after `done` others of a part, and how many from there, all within the `whole` ones, at once: at
    most so many, and about equally many each time.

    Every other step goes backwards: it starts with what the caches still hold.
    """
    many = next_rows(part.end - part.first - done, most)
    first = part.end - done - many if s % 2 else part.first + done
    if many > 1 and first + many > whole:
        many = 1
        first = part.end - done - 1 if s % 2 else first
    return first, many


@helper
def next_panels(w, part, done, few, s):
    """The panel that comes after `done` others, and how many are taken together: of few rows FEW_PANELS whole ones."""
    if few and part.end - part.first > 1:
        return panels_in_turn(part, done, FEW_PANELS, w.whole, s)
    return panels_in_turn(part, done, 1, 0, s)
