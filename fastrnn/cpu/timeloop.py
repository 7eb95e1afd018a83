"""A time loop and what follows it, as work: all in one launch where that is right, each in its own where not."""

from fastrnn.contract import Array
from fastrnn.cpu import compiled, gemm
from fastrnn.cpu.kernel import Joined, Task
from fastrnn.cpu.lending import Work
from fastrnn.cpu.product import Product
from fastrnn.cpu.running import Sequence
from fastrnn.cpu.shares import JOINED, JOINING
from fastrnn.cpu.target import panel_vectors
from fastrnn.cpu.team import Team, threads_of_packing
from fastrnn.cpu.threads import is_observed, launch


class Keep:
    """Copies a layer's weights, the recurrent ones as backward reads them."""

    brief = True  # one kernel call does all

    def __init__(self, dtype: str, G: int, H: int, I: int):
        self.team = threads_of_packing(G * H * (H + I))
        self.task = compiled.task(
            "keep_weights", "", dtype, gemm.KEEP_WEIGHTS, H=H, K=G * H, W=panel_vectors(1), size=G * H * I
        )  # fmt: skip

    def run(self) -> None:
        launch(self.task.address, self.task.words, self.team)


class TimeLoop(Work):
    """A time loop's task, run over all its steps, and what follows it."""

    task: Task
    team: Team
    steps: range
    steps_a_call: int
    following: tuple[Keep | Product, ...] = ()

    def join(self) -> Joined:
        """The tasks, with which this is complete."""
        self._joined = Joined([self.task, *(one.task for one in self.following)])
        # where all takes a bounded time, and what follows wants no more threads
        fits = all(one.brief and one.team <= self.team.size for one in self.following)
        self._at_once = fits and bool(self.following) and 0 < len(self.steps) <= self.steps_a_call
        self._sequence: Sequence | None = None
        return self._joined

    @property
    def control(self) -> Array:
        """The words by which a team meets."""
        return self.array("control")

    def run(self) -> None:
        """Run it all."""
        if self._at_once and not is_observed():
            self._run_at_once()
        else:
            self._run_loop()
            for one in self.following:
                one.run()

    def _run_at_once(self) -> None:
        if self._sequence is None:
            self._sequence = Sequence(self._joined, self.team.size)
        self.task.set(s0=0, s1=len(self.steps), by_units=JOINED if self.team.by_units else 0)
        if self.team.by_units:
            self.control[:] = 0
        self._sequence.run()

    def _run_loop(self) -> None:
        """Run the loop's kernel (backwards where the range of steps runs backwards), a bounded time a call."""
        n, team, task = len(self.steps), self.team.size, self.task
        starts = range(0, n, self.steps_a_call)
        for start in starts if self.steps.step > 0 else reversed(starts):
            task.set(s0=start, s1=min(n, start + self.steps_a_call), by_units=JOINING if self.team.by_units else 0)
            if self.team.by_units:
                self.control[:] = 0
            launch(task.address, task.words, team)
