"""How many threads a piece of work is worth, and what they divide. The figures are measured ones."""

from dataclasses import dataclass
from typing import NamedTuple

from fastrnn.cpu.meeting import time_to_meet
from fastrnn.cpu.target import lanes, padded
from fastrnn.cpu.threads import get_num_threads

CALL_FLOPS = 1e10  # of one kernel call, so that Ctrl-C is heard within a fraction of a second
_UNITS_RATE = 1e12  # flops that a step divided by units needs for each second that a meeting takes
_NEAR = 1.5e-7  # seconds that a meeting takes at most where cores share a cache
_NEAR_WEIGHTS = 1 << 17  # numbers; more are better divided than read by each thread, unless its rows are many


class Least(NamedTuple):
    """Flops from which threads pay."""

    call: float = 5e6  # below, a launch costs more than it saves, or all of it when the threads have gone to sleep
    rows: float = 4e3  # of a step; below, threads that divide its rows wait for the lines that these share
    rows_apart: float = 3e5  # the same where what they share has far to go
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


@dataclass(frozen=True)
class Choice:
    """The team of a loop: `near` while its threads meet within so many seconds, `far` while they do not.

    The system moves threads from core to core, so it is chosen at every call.
    """

    near: Team
    far: Team
    within: float = 0.0

    def now(self) -> Team:
        if self.near is self.far:
            return self.near
        return self.near if time_to_meet(self.near.size) <= self.within else self.far


_ALONE = Team(1, False)


def choose(N: int, G: int, H: int, K: int, steps: int, dtype: str, panel: int, most: int, *, keep: bool = False) -> Choice:
    """How many of `most` threads a loop is worth, and what they divide: the rows, or the units, `panel` vectors at a time.

    keep : whether a tape is written or read
    """
    panels = -(-padded(H, dtype) // (lanes(dtype) * panel))
    step_flops = 2.0 * N * G * H * K
    if most == 1 or step_flops * steps < (4 if keep else 1) * LEAST.call:
        return Choice(_ALONE, _ALONE)
    by_rows = Team(min(N, most), False) if N > 1 and step_flops >= LEAST.rows else _ALONE
    far = by_rows if step_flops >= LEAST.rows_apart else _ALONE
    rows = (2 if G * H * K <= _NEAR_WEIGHTS else 4) * most
    if rows <= N or panels < most or step_flops < LEAST.units:
        return Choice(by_rows, far, _NEAR)
    return _by_units(most, step_flops, far)


def _by_units(most: int, step_flops: float, far: Team) -> Choice:
    """The choice of threads that divide the units of a step, or are `far` where a meeting takes too long for it."""
    team = Team(most, True)
    return Choice(team, team if step_flops >= LEAST.units_sure else far, max(_NEAR, step_flops / _UNITS_RATE))


def worth(flops: float, steps: int, rows: int, units: bool = False) -> Team:
    """The team for a program of `steps` steps of so many flops each: dividing its rows, or its units where it may."""
    most = get_num_threads()
    if most > 1 and flops * steps >= LEAST.call:
        if rows >= most and flops >= LEAST.program_rows:
            return Team(most, False)
        if units and flops >= LEAST.program_units:
            return _by_units(most, flops, _ALONE).now()
    return _ALONE


def threads_of_product(flops: float, loop: Team) -> int:
    """How many threads a product is worth that follows a loop of that team."""
    least = LEAST.call if loop.size > 1 else LEAST.product
    return get_num_threads() if least < flops else 1


def steps_a_call(flops: float, least: int = 1) -> int:
    """How many steps of so many flops one call of a kernel takes."""
    return max(least, int(CALL_FLOPS / max(1.0, flops)))
