"""How operations are run, one step after another: the words that the kernel of program.py reads."""

from typing import Any, NamedTuple

import numpy as np

from fastrnn.contract import Array
from fastrnn.cpu import compiled, program
from fastrnn.cpu.kernel import Task
from fastrnn.cpu.memory import address_of
from fastrnn.cpu.shares import STEPPING
from fastrnn.cpu.sync import control_words
from fastrnn.cpu.team import Team, steps_a_call, worth
from fastrnn.cpu.threads import launch


class Operation(NamedTuple):
    task: Task
    growth: dict[str, int]  # of words, from a step to the next
    alive: Any  # what the words point to


class Program:
    """Operations laid out for the steps of a range, to be run any number of times; arguments as of `run`."""

    def __init__(self, operations, steps, rows, together=1, flops=0.0, done=None):
        groups = rows // together
        self._count, self._operations = len(steps) if groups else 0, operations
        self._team = team = worth(flops, len(steps), groups, units=done is not None)
        self._tables = tables = _tables(operations, steps, rows, together, team)
        self._words = tables["words"].copy()  # as they are before the first step
        self._control = np.zeros(control_words(team.size), np.intp)
        self._done = np.zeros(groups, np.intp) if done is None else done
        self._task = compiled.task(
            "program", "", "float32", program.PROGRAM,
            **{name: table.ctypes.data for name, table in tables.items()}, done=self._done.ctypes.data,
            control=self._control.ctypes.data, operations=len(operations), size=tables["growth"].size,
            sentences=groups, by_units=team.by_units,
        )  # fmt: skip
        self._steps_a_call = steps_a_call(flops)

    def run(self) -> None:
        self._tables["words"][...] = self._words
        for start in range(0, self._count, self._steps_a_call):
            self._task.set(steps=min(self._steps_a_call, self._count - start))
            self._control[:] = 0
            launch(self._task.address, self._task.words, self._team.size)
            if self._done.all():
                break


class Sequence:
    """Tasks run one after another in one launch of a team, each when all are through with the one before."""

    def __init__(self, tasks: list[Task], team: int):
        first, item = address_of(tasks[0].words), tasks[0].words.itemsize
        # no copies of the words, as they do not grow: all members read where the tasks have them
        starts = [(address_of(task.words) - first) // item for task in tasks]
        self._addresses, self._starts = (np.array(table, np.intp) for table in ([t.address for t in tasks], starts))
        self._tasks, self._team, self._done = tasks, team, np.zeros(1, np.intp)
        self._control = np.zeros(control_words(team), np.intp)
        self._task = compiled.task(
            "program", "", "float32", program.PROGRAM,
            addresses=address_of(self._addresses), starts=address_of(self._starts), words=first, growth=first,
            done=address_of(self._done), control=address_of(self._control), steps=1, operations=len(tasks), size=0,
            sentences=1, by_units=team > 1,
        )  # fmt: skip

    def run(self) -> None:
        if self._team > 1:
            self._control[:] = 0
        launch(self._task.address, self._task.words, self._team)


def run(operations, steps, rows, together=1, flops=0.0, done=None):
    Program(operations, steps, rows, together, flops, done).run()


def _tables(operations: list[Operation], steps: range, rows: int, together: int, team: Team) -> dict[str, Array]:
    """Of a program: the kernels, where the words of each start, the words of each member, what they grow by."""
    size = sum(len(o.task.words) for o in operations)
    words, growth = np.empty((team.size, size), np.intp), np.zeros(size, np.intp)
    starts, at = np.empty(len(operations), np.intp), 0
    for k, operation in enumerate(operations):
        own = slice(at, at + len(operation.task.words))
        for name, by in operation.growth.items():
            growth[at + operation.task.place(name)] = by
        words[:, own] = operation.task.words
        _share(operation.task, words[:, own], rows, together, team)
        starts[k], at = at, own.stop
    words += growth * steps.start
    growth *= steps.step
    addresses = np.array([o.task.address for o in operations], np.intp)
    return {"addresses": addresses, "starts": starts, "words": words, "growth": growth}


def _share(task: Task, words: Array, rows: int, together: int, team: Team) -> None:
    """Tell an operation how many rows there are, how many of them belong together, and what the team divides."""
    if "by_units" in task:
        words[:, task.place("by_units")] = STEPPING if team.by_units else 0
    if "together" in task:
        words[:, task.place("together")], words[:, task.place("N")] = together, rows
