"""How long the threads of a team take to meet: what it costs to divide the units of a step.

Cores that share a cache meet within a tenth of a microsecond. Those of different parts of a chip, or of different chips,
take four times as long and more, and a step has to be longer before it is worth dividing.
"""

import time

import numpy as np

from fastrnn.cpu import compiled
from fastrnn.cpu.kernel import Fields, words_of
from fastrnn.cpu.sync import TEAM, barrier, control_words, join_team
from fastrnn.cpu.threads import launch

MEETING = Fields((), ("control",), ("rounds",))
_ROUNDS = (10, 100, 100, 100)  # meetings of each try: the first one wakes threads up
_HOPELESS = 1e-4  # seconds: where threads outnumber cores, they wait for the operating system
_VALID = 0.3  # seconds: the system moves threads from core to core
_measured: dict[int, tuple[float, float]] = {}  # by the size of a team: when, and what


def build_meet(name, dtype, digest):
    """The kernel of a team that does nothing but meet."""

    def meet(member, team, args):
        _ = digest
        w = words_of(args, "meeting", "MEETING", name, dtype)
        member, team = join_team(w.control, team)
        if member >= 0:
            for meeting in range(w.rounds):
                barrier(w.control, member, team, meeting + 1)

    return meet


def time_to_meet(team: int) -> float:
    """Seconds that a meeting of so many threads takes; infinity where they cannot be had."""
    now = time.monotonic()
    if team not in _measured or now - _measured[team][0] > _VALID:
        _measured[team] = now, _measure(team)
    return _measured[team][1]


def _measure(team: int) -> float:
    control, best = np.zeros(control_words(team), np.intp), float("inf")
    task = compiled.task("meet", "", "float32", MEETING, control=control.ctypes.data)
    launch(task.address, task.words, team)  # which may have to start the threads
    for rounds in _ROUNDS:
        control[:] = 0
        task.set(rounds=rounds)
        start = time.perf_counter()
        launch(task.address, task.words, team)
        each = (time.perf_counter() - start) / rounds
        if control[TEAM] == team:
            best = min(best, each)
        if each > _HOPELESS:
            break
    return best
