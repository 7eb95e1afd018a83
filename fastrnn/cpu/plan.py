"""What calls of one shape have in common, worked out once: the team, the memory, the words of the kernels.

A plan lends works. A work belongs to one call at a time: its memory, and its tasks, which hold the addresses in it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar

from fastrnn.cells import REGISTRY
from fastrnn.contract import Array
from fastrnn.cpu import compiled, gemm, loops
from fastrnn.cpu.kernel import Task
from fastrnn.cpu.meeting import time_to_meet
from fastrnn.cpu.memory import Block, Layout, Pieces, spread
from fastrnn.cpu.sync import control_words
from fastrnn.cpu.target import (
    ITEMSIZE,
    block_depth,
    lanes,
    near_numbers,
    padded,
    panel_vectors,
    rows_beside,
)
from fastrnn.cpu.threads import get_num_threads, launch

_AHEAD_ROWS = 48  # rows of the input's product that are computed together
_LEAST_NEAR = 32  # rows that go through all panels together: as many products of a weight pay for fetching it
CALL_FLOPS = 1e10  # of one kernel call, so that Ctrl-C is heard within a fraction of a second
_PAST = 1 << 24  # bytes of a tape that is written past the caches: what backward reads first would be gone from them as well
_TEAM_FLOPS = 5e6  # below, a launch costs more than it saves, or all of it when the threads have gone to sleep
_TEAM_STEP_FLOPS = 1.2e5  # below, a meeting a step costs more than it saves, however near the cores
_TEAM_STEP_RATE = 1e12  # flops that a step needs for each second that a meeting takes
_TEAM_STEP_SURE = 2e6  # flops of a step that is divided without asking how long that is
_TEAM_ROWS_FLOPS = 2.5e4  # of a step; below, threads that divide the rows wait for the lines that these share
_TEAM_TAPE_FLOPS = 1e5  # the same in training, where the tape goes from one thread's cache to another's as well
_TEAM_PRODUCT_FLOPS = 1e8  # of a product behind a loop of one thread, in whose cache its factors lie
_FIRST_CACHE, _LAST_CACHE = 1 << 15, 1 << 25  # bytes of the least ones that processors have
_OWN = 1 << 14  # numbers of h in the rows of a member that has a copy of its own; of more, those at the border are few
_GAP = 1 << 11  # numbers between the memory of two members: what is fetched ahead for one is not the other's
_NEAR_TAPE = 1 << 21  # bytes of a tape that stays in the caches; to a larger one, what is fetched ahead is worth more
_NEAR_WEIGHTS = 1 << 17  # numbers; more are better divided than read by each thread, unless its rows are many
_DEPTHS = ((1024, 64), (16384, 128), (float("inf"), 256))  # terms of a sum, and how many are summed in a row


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


W = TypeVar("W", "Forward", "Backward", "Alone")


class Plan(Generic[W]):
    """Lends works of one kind: kept ones where there are, new ones where not."""

    KEPT_BYTES, KEPT = 1 << 19, 2  # of a work that is kept; works kept at a time

    def __init__(self, make: Callable[[], W]):
        self._make: Callable[[], W] = make
        self._kept: list[W] = []

    def take(self) -> W:
        try:
            return self._kept.pop()
        except IndexError:
            return self._make()

    def give(self, work: W) -> None:
        if work.block.layout.size <= self.KEPT_BYTES and len(self._kept) < self.KEPT:
            self._kept.append(work)


class Shape(NamedTuple):
    """What a call's memory and words depend on."""

    cell: str
    dtype: str
    N: int
    I: int
    H: int
    steps: int  # of the longest row
    total: int  # of all rows
    ragged: bool
    reverse: bool

    @property
    def ends(self) -> int:
        """The row of a tape's states from which those at the rows' ends lie."""
        return max(self.total, self.N)


@lru_cache(64)
def forward_plan(shape: Shape, keep: bool, threads: int) -> Plan["Forward"]:
    """The plan of a forward call; `threads`, what get_num_threads() says now."""
    return Plan(lambda: Forward(shape, keep))


@lru_cache(64)
def backward_plan(shape: Shape, biases: tuple[bool, bool], threads: int) -> Plan["Backward"]:
    """The plan of a backward call."""
    return Plan(lambda: Backward(shape, biases))


class _Loop:
    """A time loop's task, run over all its steps."""

    task: Task
    team: Team
    steps: range
    steps_a_call: int
    control: Array

    def run(self) -> None:
        """Run the kernel over the steps (backwards where the range runs backwards), a bounded time a call."""
        n, team, task = len(self.steps), self.team.size, self.task
        starts = range(0, n, self.steps_a_call)
        for start in starts if self.steps.step > 0 else reversed(starts):
            task.set(s0=start, s1=min(n, start + self.steps_a_call))
            if self.team.by_units:
                self.control[:] = 0
            launch(task.address, task.words, team)


class Forward(_Loop):
    """The work of a forward call."""

    def __init__(self, shape: Shape, keep: bool, team: Team | None = None):
        cell, dtype, N, I, H, steps, total, ragged, reverse = REGISTRY[shape.cell], *shape[1:]
        G, Hp, L = cell.n_gates, padded(H, dtype), lanes(dtype)
        self.team, self.steps = team or team_for(N, G, H, I + H, steps, dtype, keep=keep), range(steps)
        self.steps_a_call = max(1, int(CALL_FLOPS / max(1.0, 2.0 * N * G * H * (I + H))))
        capacity, panel = _AHEAD_ROWS, panel_vectors(G) * G * L
        # a single row's weights that come from behind the first cache, but not from memory
        weights = G * H * H * ITEMSIZE[dtype]
        beside = rows_beside(G) if I == H and _FIRST_CACHE < weights < _LAST_CACHE // 2 else 0
        pre_size = max(2 * capacity * G * Hp, N * panel)
        # a program takes one step at a time, and may set other rows and another team
        by_rows = team is None and self.team.size > 1 and not self.team.by_units
        # the states of a member's rows before even and odd steps; of every row, should it be the only one
        own = N * Hp if by_rows and not keep and N * Hp <= _OWN * self.team.size else 0
        own_c = 2 * own * cell.memory
        work_size = pre_size + (N + 8) * panel + 2 * own + own_c + _GAP
        # the states before every step, and from row `ends` those at the rows' ends
        self.ends = shape.ends if keep else 2 * N
        states: Pieces = dict.fromkeys(("hs", "cs")[: 1 + cell.memory], ((self.ends + N, Hp), dtype))
        # in training they are part of the tape, and so are copies of the weights as backward reads them
        saved = 0 if cell.tapes_output else cell.n_tape
        tape: Pieces = {
            "saved": ((total, saved, Hp), dtype), "x": ((total, I), dtype), "w_ih": ((G * H, I), dtype),
            "panels": ((G * H * Hp,), dtype),
        }  # fmt: skip
        self.tape = Layout(states | tape) if keep else None
        tape_size = total * saved * Hp * ITEMSIZE[dtype]
        self.pack = compiled.task("pack_columns", "", dtype, gemm.PACK_COLUMNS, H=H, K=G * H, W=panel_vectors(1))
        self.block = block = Block(Layout({
            "control": ((control_words(self.team.size),), "intp"),
            "offsets": ((self.team.size * (2 * (capacity + N) + 6 * N),), "intp"),
            "work": ((self.team.size * work_size,), dtype),
        } | ({} if keep else states)))  # fmt: skip
        self.control = block["control"]
        self.task = compiled.task(
            "forward", cell.name, dtype, loops.FORWARD, control=block.at("control"), offsets=block.at("offsets"),
            work=block.at("work"), **sizes_of(N, H, dtype, G), I=I, x_run=run_of(I, block_depth(G)),
            near=max(_LEAST_NEAR, near_numbers(dtype) // max(1, H + I)), ends=self.ends, reverse=reverse, keep=keep,
            save=keep and saved > 0, past=tape_size > _PAST, by_units=self.team.by_units, strided=ragged, together=1,
            fed_back=0, beside=beside, capacity=capacity, pre_size=pre_size, own=own, own_c=own_c, work_size=work_size,
            swapped=2 * (by_rows and (not keep or tape_size <= _NEAR_TAPE)),
        )  # fmt: skip


class Backward(_Loop):
    """The work of a backward call: the loop, and the products behind it."""

    def __init__(self, shape: Shape, biases: tuple[bool, bool], team: Team | None = None):
        cell, dtype, N, I, H, steps, total, ragged, reverse = REGISTRY[shape.cell], *shape[1:]
        G, Hp, L, panel = cell.n_gates, padded(H, dtype), lanes(dtype), panel_vectors(1)
        # divided as the forward pass was, from the same numbers: what a thread wrote lies in its own cache
        self.team = team or team_for(N, G, H, I + H, steps, dtype, keep=True, panel=panel)
        self.steps = range(steps - 1, -1, -1)
        self.steps_a_call = max(1, int(CALL_FLOPS / max(1.0, 2.0 * N * G * H * H)))
        GH, shared = G * H, cell.shares_gradient
        row = spread(GH, dtype)
        state, gates = ((N, Hp), dtype), ((total, row), dtype)
        depth = next(depth for most, depth in _DEPTHS if total <= most)
        # a bias gradient is the sum of what the product of its weight reads
        chunks = [max(16, depth // 4) * wanted for wanted in (biases[0], biases[1] and not (shared and biases[0]))]
        dw_ih = Product(dtype, (GH, I, total), (1, row, I), depth, self.team, chunks[0])
        dw_hh = Product(dtype, (GH, H, total), (1, row, Hp), depth, self.team, chunks[1])
        d_rows = Product(dtype, (total, I, GH), (row, 1, I), depth_of_columns(I), self.team)
        products = self.dw_ih, self.dw_hh, self.d_rows = dw_ih, dw_hh, d_rows
        self.block = block = Block(Layout({
            "control": ((control_words(self.team.size),), "intp"), "offsets": ((self.team.size * N,), "intp"),
            "rows": ((max(p.team for p in products) * 8,), "intp"), "zero": ((max(H, 4 * L),), dtype),
            "dh": state, "dc": state,
            "work": ((max(p.team * p.work_size for p in products),), dtype), "dx": gates,
        } | ({} if shared else {"du": gates})))  # fmt: skip
        block["zero"][...] = 0
        self.control, self.dh, self.dc = block["control"], block["dh"], block["dc"]
        dx, du = block.at("dx"), block.at("dx" if shared else "du")
        self.task = compiled.task(
            "backward", cell.name, dtype, loops.BACKWARD, dx=dx, du=du, **sizes_of(N, H, dtype, 1), row=row,
            **{piece: block.at(piece) for piece in ("dh", "dc", "zero", "offsets", "control")},
            ends=shape.ends, reverse=reverse, by_units=self.team.by_units, strided=ragged, shared=shared,
        )  # fmt: skip
        for product, a in zip(products, (dx, du, dx), strict=True):
            product.a = a
            product.task.set(zero=block.at("zero"), work=block.at("work"), offsets=block.at("rows"))
        bias = ((GH,), dtype)
        self.gradients = Layout(
            {"w_ih": ((GH, I), dtype), "w_hh": ((GH, H), dtype)}
            | {key: bias for key, wanted in zip(("b_ih", "b_hh"), biases, strict=True) if wanted}
        )


def sizes_of(N: int, H: int, dtype: str, gates: int) -> dict[str, int]:
    """The words of a loop that follow from its sizes."""
    Hp, W = padded(H, dtype), panel_vectors(gates)
    V = Hp // lanes(dtype)
    return {"N": N, "H": H, "W": W, "V": V, "whole": V // W, "Hp": Hp, "run": run_of(H, block_depth(gates))}


def run_of(terms: int, most: int) -> int:
    """How many terms of a sum are added up in a row, from zero: at most `most`, the same whatever the tile."""
    blocks = max(1, -(-terms // most))
    return max(1, -(-terms // blocks))


def depth_of_columns(I: int) -> int:
    """How many terms of a sum a product with I columns takes in a row: a block of B stays in the second cache."""
    return max(128, min(512, (1 << 17) // max(1, I)))


class Product:
    """C (M, N) = A B over K in blocks of `depth`.

    steps : numbers from a row of A to the next, from a column of A, from a row of B
    loop : the team of the loop before it
    chunk : how many terms of A's sums over K, where they are wanted, are summed in a row; the first step is 1 then
    """

    def __init__(
        self, dtype: str, shape: tuple[int, int, int], steps: tuple[int, int, int], depth: int, loop: Team, chunk: int = 0
    ):
        (M, N, K), (a_m, a_k, b_k) = shape, steps
        least = _TEAM_FLOPS if loop.size > 1 else _TEAM_PRODUCT_FLOPS
        self.team = get_num_threads() if least < 2.0 * M * N * K else 1
        depth = max(1, min(depth, K))
        self.work_size = gemm.work_size(N, depth, dtype)
        self.rows = max(8, int(CALL_FLOPS / max(1.0, 2.0 * N * K)))  # of C a call
        self.M, item = M if K and (N or chunk) else 0, ITEMSIZE[dtype]
        self._steps = a_m * item, N * item, item  # bytes from a row of A, of C, of the sums to the next
        self.a = 0  # A's address
        self.task = compiled.task(
            "gemm", "", dtype, gemm.GEMM, N=N, K=K, a_m=a_m, a_k=a_k, b_k=b_k, c_m=N, depth=depth, chunk=chunk,
            work_size=self.work_size,
        )  # fmt: skip

    def run(self, b: int, c: int, sums: int = 0) -> None:
        """Fill C, and `sums` with A's where they are wanted, a bounded time a kernel call."""
        task, (a_step, c_step, sums_step) = self.task, self._steps
        for m in range(0, self.M, self.rows):
            task.set(a=self.a + m * a_step, b=b, c=c + m * c_step, sums=sums + m * sums_step, M=min(self.rows, self.M - m))
            launch(task.address, task.words, self.team)


class Alone:
    """The work of a product that follows no loop."""

    def __init__(self, dtype: str, shape: tuple[int, int, int], steps: tuple[int, int, int], depth: int, chunk: int):
        # what it reads lies in the caches of every thread
        self.product = product = Product(dtype, shape, steps, depth, Team(get_num_threads(), False), chunk)
        self.block = block = Block(Layout({
            "work": ((product.team * product.work_size,), dtype), "offsets": ((product.team * 8,), "intp"),
            "zero": ((4 * lanes(dtype),), dtype),
        }))  # fmt: skip
        block["zero"][...] = 0
        product.task.set(**{piece: block.at(piece) for piece in ("zero", "work", "offsets")})


@lru_cache(64)
def product_plan(
    dtype: str, shape: tuple[int, int, int], steps: tuple[int, int, int], depth: int, chunk: int, threads: int
) -> Plan[Alone]:
    """The plan of a product; arguments as of Product."""
    return Plan(lambda: Alone(dtype, shape, steps, depth, chunk))
