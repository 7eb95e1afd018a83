"""How many threads a piece of work is worth, and what they divide. The figures are measured ones."""

from dataclasses import dataclass
from typing import NamedTuple

from fastrnn.cpu.meeting import time_to_meet
from fastrnn.cpu.target import lanes, padded
from fastrnn.cpu.threads import get_num_threads

CALL_FLOPS = 1e10  # of one kernel call, so that Ctrl-C is heard within a fraction of a second
_UNITS_RATE = 1e12  # flops that a step divided by units needs for each second that a meeting takes
_NEAR = 1.5e-7  # seconds that a meeting takes at most where cores share a cache
_ONE_CHIP = 3e-7  # the same where what they share has not far to go between their caches
_LEAST_MEETING = 5e-8  # seconds that it takes at least
_LINES = 10  # cache lines that come from another core in the time of a meeting
_RATE = 1e11  # flops a second of one thread
_TEAM_WEIGHTS = 1 << 17  # numbers to pack; fewer are not worth a team
_NEAR_WEIGHTS = 1 << 17  # numbers; more are better divided than read by each thread, unless its rows are many


class Least(NamedTuple):
    """Flops from which threads pay."""

    call: float = 5e6  # below, a launch costs more than it saves, or all of it when the threads have gone to sleep
    rows: float = 4e3  # of a step; below, threads that divide its rows wait for the lines that these share
    rows_apart: float = 1.5e5  # the same where that is far; twice as many with a tape, which they share as well
    units: float = 3.5e4  # of a step; below, a meeting costs more than it saves, however near the cores
    units_sure: float = 2e6  # of a step that is divided without asking how long a meeting takes
    program_rows: float = 2.5e4  # the same of a step of a program, which does not choose again
    program_units: float = 1.2e5
    product: float = 1e8  # of a product behind a loop of one thread, in whose cache its factors lie


LEAST = Least()


@dataclass(frozen=True)
class Team:
    size: int
    by_units: bool

    @property
    def by_rows(self) -> bool:
        """Whether several threads divide the rows."""
        return self.size > 1 and not self.by_units


@dataclass(frozen=True)
class Choice:
    """The teams that a loop may have, and within how many seconds their threads have to meet: the first that can is taken.

    The system moves threads from core to core, so it is chosen at every call.
    """

    teams: tuple[tuple[float, Team], ...]

    def now(self) -> Team:
        within, team = self.teams[0]
        if within == _ALWAYS:
            return team
        meeting = time_to_meet(team.size)
        return next(team for within, team in self.teams if meeting <= within)


_ALONE, _ALWAYS = Team(1, False), float("inf")
_NO_OTHERS = Choice(((_ALWAYS, _ALONE),))


def choose(N: int, G: int, H: int, K: int, steps: int, dtype: str, panel: int, most: int, *, keep: bool = False) -> Choice:
    """How many of `most` threads a loop is worth, and what they divide: the rows, or the units, `panel` vectors at a time.

    keep : whether a tape is written or read
    """
    vectors = padded(H, dtype) // lanes(dtype)
    panels = -(-vectors // panel)
    step_flops = 2.0 * N * G * H * K
    if most == 1 or step_flops * steps < (4 if keep else 1) * LEAST.call:
        return _NO_OTHERS
    by_rows = _by_rows(min(N, most), step_flops, keep)
    many = (2 if G * H * K <= _NEAR_WEIGHTS else 4) * most
    if panels < most or step_flops < LEAST.units:
        return by_rows
    if many > N:
        return _by_units(most, _time_of_few(step_flops), by_rows)
    if keep:  # backward, every unit's gradients would have to come from another thread as well
        return by_rows
    # what the busiest thread saves of a step has to make up for a meeting, and for h, of which others have written a part
    saved = (_busiest(N, 1, most) - _busiest(vectors, panel, most)) * step_flops / (_RATE * most)
    return _by_units(most, saved / (1 + N * vectors / _LINES), by_rows)


def _by_rows(size: int, step_flops: float, keep: bool) -> Choice:
    """The choice of threads that divide so many rows of a step, where they pay."""
    team = Team(size, False)
    if size == 1 or step_flops < LEAST.rows:
        return _NO_OTHERS
    if step_flops >= (2 if keep else 1) * LEAST.rows_apart:
        return Choice(((_ALWAYS, team),))
    return Choice(((_ONE_CHIP, team), *_NO_OTHERS.teams))


def _time_of_few(step_flops: float) -> float:
    """Seconds that a meeting may take where the units of a few rows are divided."""
    return _ALWAYS if step_flops >= LEAST.units_sure else max(_NEAR, step_flops / _UNITS_RATE)


def _by_units(most: int, within: float, otherwise: Choice) -> Choice:
    """The choice of threads that divide the units of a step if they meet within so many seconds."""
    return otherwise if within < _LEAST_MEETING else Choice(((within, Team(most, True)), *otherwise.teams))


def _busiest(items: int, together: int, members: int) -> float:
    """How much of so many items, some of them together, the busiest member has, over an equal share."""
    groups = -(-items // together)
    return min(items, -(-groups // members) * together) * members / items


def worth(flops: float, steps: int, rows: int, units: bool = False) -> Team:
    """The team for a program of `steps` steps of so many flops each: dividing its rows, or its units where it may."""
    most = get_num_threads()
    if most > 1 and flops * steps >= LEAST.call:
        if rows >= most and flops >= LEAST.program_rows:
            return Team(most, False)
        if units and flops >= LEAST.program_units:
            return _by_units(most, _time_of_few(flops), _NO_OTHERS).now()
    return _ALONE


def threads_of_product(flops: float, loop: Team) -> int:
    """How many threads a product is worth that follows a loop of that team."""
    least = LEAST.call if loop.size > 1 else LEAST.product
    return get_num_threads() if least < flops else 1


def threads_of_packing(size: int) -> int:
    """How many threads so many weights are worth that have to be packed."""
    return get_num_threads() if size >= _TEAM_WEIGHTS else 1


def steps_a_call(flops: float, least: int = 1) -> int:
    """How many steps of so many flops one call of a kernel takes."""
    return max(least, int(CALL_FLOPS / max(1.0, flops)))
