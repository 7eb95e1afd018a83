"""One step at a time, for a server or a control loop: the forward kernel with everything laid out beforehand."""

from fastrnn.cell import Cell
from fastrnn.cpu.engine import Prepared, connect
from fastrnn.cpu.memory import Block, Layout
from fastrnn.cpu.plan import Shape, forward_plan
from fastrnn.cpu.rows import Rows
from fastrnn.cpu.threads import get_num_threads, launch


class Stream:
    """The state of N rows of one layer; `x` is read and `y` written by `step`, all three allocated once."""

    def __init__(self, cell: Cell, prepared: Prepared, N: int):
        I, H, dtype = prepared.weights.w_ih.shape[1], prepared.weights.w_hh.shape[1], prepared.dtype
        # rows that never end: steps 0 and 1 by turns, so that the state moves between the two halves of its buffer
        rows = Rows.of(4, N, None, False)
        # taken for good
        work = forward_plan(Shape(cell.name, dtype, N, I, H, 1, N, False, False), False, get_num_threads()).take()
        edges = Block(Layout({"x": ((N, I), dtype), "y": ((N, H), dtype)}))
        connect(work, prepared, rows, work.block)
        work.task.set(x=edges.at("x"), y=edges.at("y"), x_t=0, x_n=I, y_t=0, y_n=H)
        self.x, self.y = edges["x"], edges["y"]
        self._hs = work.block["hs"].reshape(2, N, -1)
        self._cs = work.block["cs"].reshape(2, N, -1) if cell.memory else self._hs
        for array in (self.x, self.y, self._hs, self._cs):
            array[...] = 0
        self._words = []
        for s in (0, 1):
            work.task.set(s0=s, s1=s + 1)
            self._words.append(work.task.words.copy())
        self._H, self._parity, self._team, self._address = H, 0, work.team, work.task.address
        self._control, self._alive = work.control, (work, edges, rows, prepared)  # the words hold addresses only

    def step(self) -> None:
        parity = self._parity
        if self._team.by_units:
            self._control[:] = 0
        launch(self._address, self._words[parity], self._team.size)
        self._parity = 1 - parity

    @property
    def h(self):
        """(N, H), a view."""
        return self._hs[self._parity, :, : self._H]

    @property
    def c(self):
        """(N, H), a view."""
        return self._cs[self._parity, :, : self._H]
