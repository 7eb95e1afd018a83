"""What layers' calls of one shape have in common, worked out once: the team, the memory, the words of the kernels."""

from functools import lru_cache
from typing import NamedTuple

from fastrnn.cells import REGISTRY
from fastrnn.contract import Array
from fastrnn.cpu import compiled, gemm, loops
from fastrnn.cpu.asking import STRETCHES_SIZE
from fastrnn.cpu.caches import sizes, take_along
from fastrnn.cpu.kernel import links
from fastrnn.cpu.lending import Plan
from fastrnn.cpu.memory import LINE, Block, Layout, Pieces, spread
from fastrnn.cpu.onerow import TURN_SIZE
from fastrnn.cpu.product import InputGradient, WeightGradient
from fastrnn.cpu.sync import control_words
from fastrnn.cpu.target import (
    ITEMSIZE,
    TARGET,
    block_depth,
    lanes,
    near_numbers,
    padded,
    panel_vectors,
    run_of,
    tile_beside,
)
from fastrnn.cpu.team import Choice, Team, choose, steps_a_call, threads_of_packing
from fastrnn.cpu.timeloop import Single, TimeLoop

_AHEAD_ROWS = 48  # rows of the input's product that are computed together
_LEAST_NEAR = 32  # rows that go through all panels together: as many products of a weight pay for fetching it
# bytes of a tape that is written past the caches, from which it would sweep what backward reads first: in whole lines only,
# for half of one is a write to memory, and the other half another
_PAST = (1 << 24) if TARGET.width == LINE else 1 << 62
_LAST_CACHE = 1 << 25  # bytes of the least one that processors have
_OWN = 1 << 14  # numbers of h in the rows of a member that has a copy of its own; of more, those at the border are few
_GAP = 1 << 11  # numbers between the memory of two members: what is fetched ahead for one is not the other's
_FEW = 1024  # terms of a sum: 64 of so many are summed in a row, of more 128


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


@lru_cache(128)
def choice_of(shape: Shape, keep: bool, gates: int, threads: int) -> Choice:
    """The team of a loop over panels of so many gates: the cell's forward, one backward, which is divided as the forward
    loop was, from the same numbers: what a thread wrote lies in its own cache."""
    cell, dtype, N, I, H, steps, *_ = REGISTRY[shape.cell], *shape[1:]
    return choose(N, cell.n_gates, H, I + H, steps, dtype, panel_vectors(gates), threads, keep=keep)


@lru_cache(64)
def forward_plan(shape: Shape, keep: bool, team: Team, threads: int) -> Plan["Forward"]:
    """The plan of a forward call, that may have so many threads."""
    return Plan(lambda: Forward(shape, keep, team))


@lru_cache(64)
def backward_plan(shape: Shape, biases: tuple[bool, bool], team: Team, threads: int) -> Plan["Backward"]:
    """The plan of a backward call, that may have so many threads."""
    return Plan(lambda: Backward(shape, biases, team))


class Forward(TimeLoop):
    """The work of a forward call."""

    def __init__(self, shape: Shape, keep: bool, team: Team, in_program: bool = False):
        cell, dtype, N, I, H, steps, _, ragged, reverse = REGISTRY[shape.cell], *shape[1:]
        G = cell.n_gates
        self.team, self.steps = team, range(steps)
        self.steps_a_call = steps_a_call(2.0 * N * G * H * (I + H))
        # the states before every step, and from row `ends` those at the rows' ends; in training they are part of the tape
        self.ends = shape.ends if keep else 2 * N
        states, saved = _states(shape, self.ends), _saved(shape)
        self.tape = _tape(shape) if keep else None
        self.following = (_keep_weights(shape),) if keep else ()
        # a program takes one step at a time, and may set other rows and another team
        by_rows = team.by_rows and not in_program
        memory, of_members = _memory_of_members(shape, team, by_rows and not keep)
        super().__init__(Layout(memory | ({} if keep else states)))
        # a single row's weights that come from a cache, but hardly any from the first one
        weights = G * H * H * ITEMSIZE[dtype]
        waits = N == 1 and I == H and 2 * sizes()["L1"] <= weights < _LAST_CACHE // 2
        mine = weights // team.size if team.by_units else weights
        beside = tile_beside(G)[0] if waits and take_along(cell.name, dtype, mine) else 0
        self.task = compiled.task(
            "forward", cell.name, dtype, loops.FORWARD, **sizes_of(N, H, dtype, G), I=I, x_run=run_of(I, block_depth(G)),
            near=max(_LEAST_NEAR, near_numbers(dtype) // max(1, H + I)), ends=self.ends, reverse=reverse, keep=keep,
            save=keep and saved > 0, past=saved > _PAST, by_units=team.by_units, strided=ragged, together=1, fed_back=0,
            beside=beside, swapped=2 * by_rows,
            asked=_rows_asked(shape, team, 2 + keep * (1 + cell.memory + (saved <= _PAST) * _values(shape))), **of_members,
        )  # fmt: skip
        self._tell_own = links(self.layout, (self.task, {word: word for word in ("control", "offsets", "work")}))
        # what tells where the states are, and the tape's other pieces; a cell without a memory has h for c
        of_loop = {"hs": "hs", "cs": "cs" if cell.memory else "hs"}
        if self.tape is None:
            self.tell_states = links(self.layout, (self.task, of_loop))
        else:
            of_keep = [(one.task, {"to_hh": "panels", "to_ih": "w_ih"}) for one in self.following]
            self.tell_states = links(self.tape, (self.task, of_loop | {"saved": "saved", "x_kept": "x"}), *of_keep)
        self.wake()

    def bind(self, block: Block) -> None:
        self._tell_own(block)


class Backward(TimeLoop):
    """The work of a backward call: the loop, and the products behind it."""

    def __init__(self, shape: Shape, biases: tuple[bool, bool], team: Team, in_program: bool = False):
        cell, dtype, N, I, H, steps, total, ragged, reverse = REGISTRY[shape.cell], *shape[1:]
        G, Hp, L = cell.n_gates, padded(H, dtype), lanes(dtype)
        self.team, self.steps = team, range(steps - 1, -1, -1)
        self.steps_a_call = steps_a_call(2.0 * N * G * H * H)
        GH, shared = G * H, cell.shares_gradient
        row = spread(GH, dtype)
        state, gates = ((N, Hp), dtype), ((total, row), dtype)
        run = 64 if total <= _FEW else 128
        # a bias gradient is the sum of what the product of its weight reads
        dw_ih = WeightGradient(dtype, (GH, I, total), row, I, run, self.team, biases[0])
        dw_hh = WeightGradient(dtype, (GH, H, total), row, Hp, run, self.team, biases[1] and not (shared and biases[0]))
        d_rows = InputGradient(dtype, (total, I, GH), row, self.team)
        self.following = products = self.d_rows, self.dw_ih, self.dw_hh = d_rows, dw_ih, dw_hh
        members = max(self.team.size, *(p.team for p in products))  # the loop's may do the products
        # dh and dc of a member's rows, which it reads and writes in every step; not for a single step of a program
        own_size = 2 * N * Hp + _GAP if team.by_rows and not in_program else 0
        super().__init__(Layout({
            "control": ((control_words(self.team.size),), "intp"),
            "offsets": ((self.team.size * (N + STRETCHES_SIZE),), "intp"),
            "rows": ((members * max(p.offsets_size for p in products),), "intp"),
            "zero": ((max(H, 4 * L, padded(I, dtype)),), dtype), "dh": state, "dc": state,
            "own": ((team.size * own_size,), dtype),
            "work": ((members * max(p.work_size for p in products),), dtype), "dx": gates,
        } | ({} if shared else {"du": gates})))  # fmt: skip
        self.task = compiled.task(
            "backward", cell.name, dtype, loops.BACKWARD, **sizes_of(N, H, dtype, 1), row=row, ends=shape.ends,
            reverse=reverse, by_units=self.team.by_units, strided=ragged, shared=shared,
            own_size=own_size, asked=_rows_asked(shape, team, max(1, _values(shape)) + 1 + G * (2 - shared)),
        )  # fmt: skip
        bias = ((GH,), dtype)
        self.gradients = Layout(
            {"w_ih": ((GH, I), dtype), "w_hh": ((GH, H), dtype)}
            | {key: bias for key, wanted in zip(("b_ih", "b_hh"), biases, strict=True) if wanted}
        )
        self._link(_tape(shape), shared)
        self.wake()

    def _link(self, tape: Layout, shared: bool) -> None:
        """What tells where the memory is, where a tape is, and where the gradients of the weights go; that of x goes where
        `out` of d_rows says."""
        loop, d_rows, dw_ih, dw_hh = (one.task for one in (self, *self.following))
        du = "dx" if shared else "du"
        own = {"zero": "zero", "work": "work", "offsets": "rows"}
        of_loop = {"dx": "dx", "du": du} | {word: word for word in ("dh", "dc", "own", "zero", "offsets", "control")}
        of_rows = {"b_ih": "zero", "work": "work", "offsets": "rows", "x": "dx"}
        self._tell_own = links(
            self.layout, (loop, of_loop), (d_rows, of_rows), (dw_ih, own | {"a": "dx"}), (dw_hh, own | {"a": du})
        )
        of_tape = {"w_hh": "panels", "saved": "saved", "hs": "hs", "cs": "cs" if "cs" in tape.places else "hs"}
        self.tell_tape = links(tape, (loop, of_tape), (d_rows, {"w_ih": "w_ih"}), (dw_ih, {"b": "x"}), (dw_hh, {"b": "hs"}))
        sums_ih, sums_hh = ({"sums": bias} if bias in self.gradients.places else {} for bias in ("b_ih", "b_hh"))
        self.tell_gradients = links(self.gradients, (dw_ih, {"c": "w_ih"} | sums_ih), (dw_hh, {"c": "w_hh"} | sums_hh))

    def bind(self, block: Block) -> None:
        block["zero"][...] = 0
        self._arrays["states"] = block.span("dh", "dc")
        self._tell_own(block)

    @property
    def states(self) -> Array:
        """dh and dc, one after the other, as bytes."""
        return self.array("states")

    @property
    def dh(self) -> Array:
        """The gradient of h (N, Hp) before the step that has been reached."""
        return self.array("dh")

    @property
    def dc(self) -> Array:
        """The same of c."""
        return self.array("dc")


def _keep_weights(shape: Shape) -> Single:
    """What copies a layer's weights to a tape, as backward reads them."""
    GH, H, I = REGISTRY[shape.cell].n_gates * shape.H, shape.H, shape.I
    task = compiled.task("keep_weights", "", shape.dtype, gemm.KEEP_WEIGHTS, I=I, H=H, K=GH, W=panel_vectors(1))
    return Single(task, threads_of_packing(GH * (H + I)))


def _states(shape: Shape, ends: int) -> Pieces:
    """The states before every step, and from row `ends` those at the rows' ends."""
    cell, dtype = REGISTRY[shape.cell], shape.dtype
    return dict.fromkeys(("hs", "cs")[: 1 + cell.memory], ((ends + shape.N, padded(shape.H, dtype)), dtype))


def _saved(shape: Shape) -> int:
    """Bytes of what the cell keeps on a tape."""
    return shape.total * _values(shape) * padded(shape.H, shape.dtype) * ITEMSIZE[shape.dtype]


def _values(shape: Shape) -> int:
    cell = REGISTRY[shape.cell]
    return 0 if cell.tapes_output else cell.n_tape


def _tape(shape: Shape) -> Layout:
    """A tape: the states, what the cell keeps, x, and the weights as backward reads them."""
    dtype, total, GH, Hp = shape.dtype, shape.total, REGISTRY[shape.cell].n_gates * shape.H, padded(shape.H, shape.dtype)
    return Layout(_states(shape, shape.ends) | {
        "saved": ((total, _values(shape), Hp), dtype), "x": ((total, shape.I), dtype),
        "w_ih": ((GH * padded(shape.I, dtype),), dtype), "panels": ((GH * Hp,), dtype),
    })  # fmt: skip


def _rows_asked(shape: Shape, team: Team, values: int) -> int:
    """Of how many rows what the next step needs is asked for: as the second-level cache holds beside all else.

    values : how many of each unit
    """
    if team.by_units:
        return 0
    return min(shape.N, sizes()["L2"] // 2 // (values * padded(shape.H, shape.dtype) * ITEMSIZE[shape.dtype]))


def _memory_of_members(shape: Shape, team: Team, own_states: bool) -> tuple[Pieces, dict[str, int]]:
    """The memory of a forward loop's members, and its sizes by the loop's words.

    own_states : whether each may have the states of its rows, where they are few, before even and odd steps; of every row,
    should it be the only one
    """
    cell, dtype, N = REGISTRY[shape.cell], shape.dtype, shape.N
    G, Hp = cell.n_gates, padded(shape.H, dtype)
    panel = panel_vectors(G) * G * lanes(dtype)
    pre_size = max(2 * _AHEAD_ROWS * G * Hp, N * panel)
    own = N * Hp if own_states and N * Hp <= _OWN * team.size else 0
    own_c = 2 * own * cell.memory
    offsets_size = 2 * (_AHEAD_ROWS + N) + 6 * N + STRETCHES_SIZE + TURN_SIZE * -(-Hp // (panel_vectors(G) * lanes(dtype)))
    work_size = pre_size + (N + 8) * panel + 2 * own + own_c + _GAP
    memory: Pieces = {
        "control": ((control_words(team.size),), "intp"),
        "offsets": ((team.size * offsets_size,), "intp"),
        "work": ((team.size * work_size,), dtype),
    }
    return memory, {
        "capacity": _AHEAD_ROWS, "pre_size": pre_size, "own": own, "own_c": own_c, "work_size": work_size,
        "offsets_size": offsets_size,
    }  # fmt: skip


def sizes_of(N: int, H: int, dtype: str, gates: int) -> dict[str, int]:
    """The words of a loop that follow from its sizes."""
    Hp, W = padded(H, dtype), panel_vectors(gates)
    V = Hp // lanes(dtype)
    return {"N": N, "H": H, "W": W, "V": V, "whole": V // W, "Hp": Hp, "run": run_of(H, block_depth(gates))}
