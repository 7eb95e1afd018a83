"""Works, and the plans that lend them: what calls of one shape share is worked out once, and used by one at a time."""

from collections.abc import Callable
from typing import Generic, TypeVar

from fastrnn.contract import Array
from fastrnn.cpu.memory import Block, Layout


class Work:
    """Tasks, and the memory whose addresses they hold: a kind of work says in `bind` what lies where."""

    KEPT_BYTES = 1 << 19  # of memory that a work keeps between calls; what is larger goes back to where others find it
    block: Block  # the memory, of a work that is awake

    def __init__(self, layout: Layout):
        """layout : of the memory. To be followed by the tasks and `wake`."""
        self.layout, self._awake = layout, False
        self._arrays: dict[str, Array] = {}

    def bind(self, block: Block) -> None:
        """Tell the tasks the addresses in their memory."""
        raise NotImplementedError

    def wake(self) -> None:
        """Have memory."""
        if not self._awake:
            self.block, self._awake = Block(self.layout), True
            self.bind(self.block)

    def rest(self) -> None:
        """Let go of it where it is large."""
        if self.layout.size > self.KEPT_BYTES:
            del self.block
            self._arrays.clear()
            self._awake = False

    def array(self, name: str) -> Array:
        """A piece of the memory."""
        found = self._arrays.get(name)
        if found is None:
            found = self._arrays[name] = self.block[name]
        return found


W = TypeVar("W", bound=Work)


class Plan(Generic[W]):
    """Lends works of one kind: kept ones where there are, new ones where not."""

    KEPT = 2  # works kept at a time

    def __init__(self, make: Callable[[], W]):
        self._make: Callable[[], W] = make
        self._kept: list[W] = []

    def take(self) -> W:
        try:
            work = self._kept.pop()
        except IndexError:
            return self._make()
        work.wake()
        return work

    def give(self, work: W) -> None:
        work.rest()
        if len(self._kept) < self.KEPT:
            self._kept.append(work)
