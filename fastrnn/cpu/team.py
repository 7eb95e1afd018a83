"""How many threads a piece of work is worth, and what they divide. The figures are measured ones."""

from dataclasses import dataclass

from fastrnn.cpu.meeting import time_to_meet
from fastrnn.cpu.target import lanes, padded, panel_vectors
from fastrnn.cpu.threads import get_num_threads

CALL_FLOPS = 1e10  # of one kernel call, so that Ctrl-C is heard within a fraction of a second
_TEAM_FLOPS = 5e6  # below, a launch costs more than it saves, or all of it when the threads have gone to sleep
_TEAM_STEP_FLOPS = 1.2e5  # below, a meeting a step costs more than it saves, however near the cores
_TEAM_STEP_RATE = 1e12  # flops that a step needs for each second that a meeting takes
_TEAM_STEP_SURE = 2e6  # flops of a step that is divided without asking how long that is
_TEAM_ROWS_FLOPS = 2.5e4  # of a step; below, threads that divide the rows wait for the lines that these share
_TEAM_TAPE_FLOPS = 1e5  # the same in training, where the tape goes from one thread's cache to another's as well
_TEAM_PRODUCT_FLOPS = 1e8  # of a product behind a loop of one thread, in whose cache its factors lie
_NEAR_WEIGHTS = 1 << 17  # numbers; more are better divided than read by each thread, unless its rows are many


@dataclass(frozen=True)
class Team:
    size: int
    by_units: bool


def team_for(
    N: int, G: int, H: int, K: int, steps: int, dtype: str, *, keep: bool = False, panel: int | None = None
) -> Team:
    """How many threads a loop is worth, and what they divide: the rows, or the units, `panel` vectors at a time.

    keep : whether a tape is written or read
    """
    panels = -(-padded(H, dtype) // (lanes(dtype) * (panel or panel_vectors(G))))
    most, step_flops = get_num_threads(), 2.0 * N * G * H * K
    if most > 1 and step_flops * steps >= (4 if keep else 1) * _TEAM_FLOPS:
        rows, least = (2 if G * H * K <= _NEAR_WEIGHTS else 4) * most, _TEAM_TAPE_FLOPS if keep else _TEAM_ROWS_FLOPS
        if rows <= N and step_flops >= least:
            return Team(most, False)
        if panels >= most and _worth_meeting(step_flops, most):
            return Team(most, True)
        if N >= 2 and step_flops >= least:
            return Team(min(N, most), False)
    return Team(1, False)


def worth(flops: float, steps: int, rows: int, units: bool = False) -> Team:
    """The team for a program of `steps` steps of so many flops each: dividing its rows, or its units where it may."""
    most = get_num_threads()
    if most > 1 and flops * steps >= _TEAM_FLOPS:
        if rows >= most and flops >= _TEAM_ROWS_FLOPS:
            return Team(most, False)
        if units and _worth_meeting(flops, most):
            return Team(most, True)
    return Team(1, False)


def _worth_meeting(step_flops: float, team: int) -> bool:
    """Whether a step is worth dividing by units: the members meet once a step, or after each operation of a program."""
    if step_flops < _TEAM_STEP_FLOPS or step_flops >= _TEAM_STEP_SURE:
        return step_flops >= _TEAM_STEP_FLOPS
    return step_flops >= _TEAM_STEP_RATE * time_to_meet(team)


def threads_of_product(flops: float, loop: Team) -> int:
    """How many threads a product is worth that follows a loop of that team."""
    least = _TEAM_FLOPS if loop.size > 1 else _TEAM_PRODUCT_FLOPS
    return get_num_threads() if least < flops else 1


def steps_a_call(flops: float, least: int = 1) -> int:
    """How many steps of so many flops one call of a kernel takes."""
    return max(least, int(CALL_FLOPS / max(1.0, flops)))
