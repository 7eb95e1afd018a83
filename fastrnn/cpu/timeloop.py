"""A time loop and what follows it, as work: all in one launch where that is right, each in its own where not."""

from functools import cached_property

from fastrnn.contract import Array
from fastrnn.cpu.kernel import Task
from fastrnn.cpu.lending import Work
from fastrnn.cpu.product import Product
from fastrnn.cpu.running import Sequence
from fastrnn.cpu.shares import JOINED, JOINING
from fastrnn.cpu.team import Team
from fastrnn.cpu.threads import is_observed, launch


class Single:
    """A task that one kernel call does, by so many threads."""

    brief = True

    def __init__(self, task: Task, team: int):
        self.task, self.team = task, team

    def run(self) -> None:
        launch(self.task.address, self.task.words, self.team)


class TimeLoop(Work):
    """A time loop's task, run over all its steps, and what follows it."""

    task: Task
    team: Team
    steps: range
    steps_a_call: int
    following: tuple[Single | Product, ...] = ()
    _sequence: Sequence | None = None

    @property
    def control(self) -> Array:
        """The words by which a team meets."""
        return self.array("control")

    def run(self) -> None:
        """Run it all: in one launch where that takes a bounded time, and what follows wants no more threads."""
        if is_observed() or not self._at_once:
            self._run_loop()
            for one in self.following:
                one.run()
            return
        if self._sequence is None:
            self._sequence = Sequence([self.task, *(one.task for one in self.following)], self.team.size)
        self._prepare(0, len(self.steps), JOINED)
        self._sequence.run()

    @cached_property
    def _at_once(self) -> bool:
        fits = all(one.brief and one.team <= self.team.size for one in self.following)
        return fits and len(self.following) > 0 and 0 < len(self.steps) <= self.steps_a_call

    @cached_property
    def _places(self) -> tuple[int, int, int]:
        return self.task.place("s0"), self.task.place("s1"), self.task.place("by_units")

    def _run_loop(self) -> None:
        """Run the loop's kernel (backwards where the range of steps runs backwards), a bounded time a call."""
        n, team, task = len(self.steps), self.team.size, self.task
        starts = range(0, n, self.steps_a_call)
        for start in starts if self.steps.step > 0 else reversed(starts):
            self._prepare(start, min(n, start + self.steps_a_call), JOINING)
            launch(task.address, task.words, team)

    def _prepare(self, s0: int, s1: int, how: int) -> None:
        """For the steps from s0 to s1. how : members who divide units come together"""
        words, (first, end, by_units) = self.task.words, self._places
        words[first], words[end], words[by_units] = s0, s1, how if self.team.by_units else 0
        if self.team.by_units:
            self.control[:] = 0
