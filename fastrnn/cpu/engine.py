"""The CPU backend's front: packs weights, plans a call, lays out its memory, runs the kernels. See contract.py."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from fastrnn.cell import Cell
from fastrnn.cells import REGISTRY
from fastrnn.contract import Array, Gradients, Weights
from fastrnn.cpu import gemm, loops
from fastrnn.cpu.kernel import Kernel, compile_kernel, digest
from fastrnn.cpu.memory import Block, Piece, empty, name_of, words
from fastrnn.cpu.rows import Rows
from fastrnn.cpu.target import lanes, padded, panel_vectors, tile_rows
from fastrnn.cpu.threads import get_num_threads, launch

_AHEAD_ROWS = 48  # rows of the input's product that are computed together
_CALL_FLOPS = 2e9  # of one kernel call, so that Ctrl-C is heard within a fraction of a second
_TEAM_FLOPS = 4e5  # below, a launch costs more than it saves
_TEAM_STEP_FLOPS = 1.2e5  # below, a barrier a step costs more than it saves
_CONTROL = ((64,), "intp")
_DEPTHS = ((256, 32), (1024, 64), (16384, 128), (float("inf"), 256))  # terms of a sum, and how many are summed in a row


@cache
def kernel(kind: str, name: str, dtype: str) -> Kernel:
    """A compiled kernel: forward and backward of the cell `name`, or one that serves every cell."""
    L = lanes(dtype)
    if kind in ("forward", "backward"):
        cell = REGISTRY[name]
        build = loops.build_forward if kind == "forward" else loops.build_backward
        vectors = cell.n_gates * panel_vectors(cell.n_gates) if kind == "forward" else 4
        return compile_kernel(build(name, dtype, cell.n_gates, cell.n_tape, L, tile_rows(vectors), digest()))
    if kind == "gemm":
        return compile_kernel(gemm.build_gemm(dtype, L, tile_rows(4), digest()))
    return compile_kernel(getattr(gemm, f"build_{kind}")(dtype, L, digest()))


@dataclass(frozen=True)
class Team:
    size: int
    by_units: bool


def team_for(N: int, G: int, H: int, K: int, steps: int, dtype: str, panel: int | None = None) -> Team:
    """How many threads a loop is worth, and what they divide: the rows, or the units, `panel` vectors at a time."""
    panels = -(-padded(H, dtype) // (lanes(dtype) * (panel or panel_vectors(G))))
    most, step_flops = get_num_threads(), 2.0 * N * G * H * K
    if most > 1 and step_flops * steps >= _TEAM_FLOPS:
        if 4 * most <= N:
            return Team(most, False)
        if panels >= most and step_flops >= _TEAM_STEP_FLOPS:
            return Team(most, True)
        if N >= 2:
            return Team(min(N, most), False)
    return Team(1, False)


@dataclass(frozen=True, eq=False)
class Prepared:
    """The weights of a layer as they came, and in panels: one block, and where each part of it starts."""

    weights: Weights
    panels: Array
    addresses: dict[str, int]


def prepare(cell: Cell, weights: Weights) -> Prepared:
    w_ih, w_hh, b_ih, b_hh = weights
    G, H, I, dtype = cell.n_gates, w_hh.shape[1], w_ih.shape[1], name_of(w_hh)
    column = G * padded(H, dtype)
    panels = empty((column * (I + H + 2),), dtype)
    values = weights._asdict() | {
        "out": panels, "G": G, "H": H, "I": I, "W": panel_vectors(G),
        "biases": (b_ih is not None) + 2 * (b_hh is not None),
    }  # fmt: skip
    team = get_num_threads() if w_ih.size + w_hh.size > (1 << 18) else 1
    launch(kernel("pack_weights", "", dtype).address, words(gemm.PACK_FLOATS + gemm.PACK_INTEGERS, values), team)
    starts = {"w_ih": 0, "w_hh": I, "b_ih": I + H, "b_hh": I + H + 1}
    item = panels.array.itemsize
    return Prepared(weights, panels.array, {k: panels.address + n * column * item for k, n in starts.items()})


@dataclass(frozen=True, eq=False)
class Tape:
    """What backward needs, all of it the tape's own."""

    weights: Weights
    rows: Rows
    x: Array  # (total, I)
    hs: Piece  # (total, Hp) h before each step
    cs: Piece  # (total, Hp) c before each step; hs for a cell without a memory
    saved: Piece  # (total, K, Hp)
    T: int


def _run(kernel: Kernel, args: Array, s0: int, control: Piece, team: Team, steps: range, flops: float) -> None:
    """Run a loop's kernel over its steps (backwards where the range runs backwards), a bounded time a call."""
    size = max(1, int(_CALL_FLOPS / max(flops, 1)))
    starts = range(0, len(steps), size)
    for start in starts if steps.step > 0 else reversed(starts):
        args[s0], args[s0 + 1] = start, min(len(steps), start + size)
        control.array[:] = 0
        launch(kernel.address, args, team.size)


def forward_words(
    cell: Cell, prepared: Prepared, x: Any, y: Any, states: dict[str, Piece], saved: Piece | None, rows: Rows, team: Team,
    strides: tuple[int, ...],
) -> tuple[Array, Piece, Block, int]:  # fmt: skip
    """The forward kernel's arguments; its control block; memory that must outlive them; where s0 stands among them."""
    N, H, I = len(rows), prepared.weights.w_hh.shape[1], prepared.weights.w_ih.shape[1]
    G, dtype = cell.n_gates, name_of(prepared.panels)
    capacity = max(_AHEAD_ROWS, N)
    work_size = capacity * G * padded(H, dtype) + 32 * lanes(dtype)
    block = Block(_CONTROL, ((team.size * work_size,), dtype), ((team.size * (capacity + 8),), "intp"))
    control, work, offsets = block.pieces
    names = loops.FORWARD_FLOATS + loops.TABLES + loops.FORWARD_INTEGERS
    values = prepared.addresses | states | {
        "x": x, "y": y, "saved": saved, "work": work, "order": rows.order, "length": rows.length, "control": control,
        "offsets": offsets, "s0": 0, "s1": 0, "N": N, "I": I, "H": H, "W": panel_vectors(G),
        "x_t": strides[0], "x_n": strides[1], "y_t": strides[2], "y_n": strides[3], "reverse": rows.reverse,
        "keep": saved is not None, "by_units": team.by_units, "strided": rows.ragged, "capacity": capacity,
    }  # fmt: skip
    return words(names, values), control, block, names.index("s0")


def forward(cell, prepared, x, h0=None, c0=None, lengths=None, reverse=False, keep=False, y=None):
    T, N, I = x.shape
    w, G, K = prepared.weights, cell.n_gates, cell.n_tape
    H, dtype = w.w_hh.shape[1], name_of(x)
    Hp, rows = padded(H, dtype), Rows.of(T, N, lengths, reverse)
    y = empty((T, N, H), dtype).array if y is None else y
    if rows.ragged:
        y[...] = 0
    sizes = [((max(rows.total, N) if keep else 2 * N, Hp), dtype), ((N, Hp), dtype)] * (1 + cell.memory)
    hs, h_n, cs, c_n = (Block(*sizes).pieces * 2)[:4]  # a cell without a memory has h for c
    for state, before, end in ((h0, hs, h_n), (c0, cs, c_n))[: 1 + cell.memory]:
        rows.sort(state, end.array)
        before.array[:N] = end.array
    saved = empty((rows.total, K, Hp), dtype) if keep else None
    team = team_for(N, G, H, I + H, rows.steps, dtype)
    states = {"hs": hs, "cs": cs, "h_n": h_n, "c_n": c_n}
    strides = tuple(n // x.itemsize for n in x.strides[:2] + y.strides[:2])
    args, control, _alive, s0 = forward_words(cell, prepared, x, y, states, saved, rows, team, strides)
    _run(kernel("forward", cell.name, dtype), args, s0, control, team, range(rows.steps), 2.0 * N * G * H * (I + H))
    tape = None
    if keep:
        tape = Tape(w.map(np.copy), rows, rows.gather(x), hs, cs, saved, T)
    return y, rows.unsort(h_n.array, H), (rows.unsort(c_n.array, H) if cell.memory else None), tape


def backward(cell, tape, dy=None, dh_n=None, dc_n=None):
    rows, G, H, dtype = tape.rows, cell.n_gates, tape.weights.w_hh.shape[1], name_of(tape.x)
    gates = ((rows.total, G * H), dtype)
    dx, *own = Block(gates, *([] if cell.shares_gradient else [gates])).pieces
    du = own[0] if own else dx
    dh, dc = _backward_loop(cell, tape, dy, dh_n, dc_n, dx, du)
    dw_ih, db_ih = _weight_gradients(dx, tape.x, tape.weights.b_ih)
    shared = cell.shares_gradient and db_ih is not None
    dw_hh, db_hh = _weight_gradients(du, tape.hs.array[: rows.total, :H], None if shared else tape.weights.b_hh)
    if shared and tape.weights.b_hh is not None:
        db_hh = db_ih.copy()
    d_rows = matmul(dx.array, (G * H, 1), tape.weights.w_ih, (rows.total, tape.x.shape[1], G * H), 512)
    if not cell.memory:
        dh += dc
    dc0 = rows.unsort(dc, H) if cell.memory else None
    return Gradients(rows.scatter(d_rows, tape.T), dw_ih, dw_hh, db_ih, db_hh, rows.unsort(dh, H), dc0)


def _backward_loop(cell, tape, dy, dh_n, dc_n, dx, du):
    """Fill dx and du, the gradients of the pre-activations (total, G*H); return dh0 and dc0, sorted and padded."""
    rows, N, G, dtype = tape.rows, len(tape.rows), cell.n_gates, name_of(tape.x)
    w_hh = tape.weights.w_hh
    H, L, W = w_hh.shape[1], lanes(dtype), panel_vectors(1)
    Hp, team = padded(H, dtype), team_for(N, G, H, H, rows.steps, dtype, W)
    state = ((N, Hp), dtype)
    # zero: a row of a missing dy, and where a sum starts
    block = Block(_CONTROL, ((team.size * 8,), "intp"), state, state, ((max(H, 4 * L),), dtype), ((G * H * Hp,), dtype))
    control, offsets, dh, dc, zero, panels = block.pieces
    zero.array[...] = 0
    rows.sort(dh_n, dh.array)
    rows.sort(dc_n, dc.array)
    columns = {"w": w_hh, "out": panels, "H": H, "K": G * H, "W": W}
    launch(kernel("pack_columns", "", dtype).address, words(gemm.COLUMNS_FLOATS + gemm.COLUMNS_INTEGERS, columns), 1)
    names = loops.BACKWARD_FLOATS + loops.TABLES + loops.BACKWARD_INTEGERS
    values = {
        "dy": zero if dy is None else dy, "saved": tape.saved, "cs": tape.cs, "dx": dx, "du": du, "dh": dh, "dc": dc,
        "w_hh": panels, "zero": zero, "order": rows.order, "length": rows.length, "control": control, "offsets": offsets,
        "s0": 0, "s1": 0, "N": N, "H": H, "W": W, "reverse": rows.reverse, "by_units": team.by_units,
        "y_t": 0 if dy is None else dy.strides[0] // dy.itemsize, "y_n": 0 if dy is None else dy.strides[1] // dy.itemsize,
        "strided": rows.ragged, "shared": cell.shares_gradient,
    }  # fmt: skip
    steps = range(rows.steps - 1, -1, -1)
    compiled = kernel("backward", cell.name, dtype)
    _run(compiled, words(names, values), names.index("s0"), control, team, steps, 2.0 * N * G * H * H)
    return dh.array, dc.array


def _weight_gradients(d: Piece, operand: Array, bias: Array | None) -> tuple[Array, Array | None]:
    """Σ dᵀ operand and, for a bias, Σ d over the tape's rows, in blocks short enough for single precision."""
    (total, rows), columns = d.array.shape, operand.shape[1]
    # long blocks cost fewer passes over dw, short ones lose fewer bits
    depth = next(depth for most, depth in _DEPTHS if total <= most)
    db = None if bias is None else np.zeros(rows, d.array.dtype)
    return matmul(d.array, (1, rows), operand, (rows, columns, total), depth, db), db


def matmul(
    a: Array, steps: tuple[int, int], b: Array, shape: tuple[int, int, int], depth: int, sums: Array | None = None
) -> Array:
    """C (M, N) = A B over K in blocks of `depth`; shape: M, N, K; steps: numbers from a row of A, a column, to the next.

    sums : (M,), to which A's sums over K are added; steps[0] is 1 then.
    """
    (M, N, K), dtype = shape, name_of(b)
    L, R, team = lanes(dtype), tile_rows(4), get_num_threads() if 2.0 * M * N * K > _TEAM_FLOPS else 1
    c = empty((M, N), dtype).array
    if K == 0:
        c[...] = 0
    work_size = gemm.work_size(N, depth, R, dtype)
    zero, work, offsets = Block(((4 * L,), dtype), ((team * work_size,), dtype), ((team * 8,), "intp")).pieces
    zero.array[...] = 0
    most = max(R, int(_CALL_FLOPS / max(1.0, 2.0 * N * K)))  # rows of C a call
    for m in range(0, M if K else 0, most):
        values = {
            "a": a.ctypes.data + m * steps[0] * a.itemsize, "b": b, "c": c[m:], "zero": zero, "work": work,
            "sums": None if sums is None else sums[m:], "chunk": 0 if sums is None else max(16, depth // 4),
            "offsets": offsets, "M": min(most, M - m), "N": N, "K": K, "a_m": steps[0], "a_k": steps[1],
            "b_k": b.strides[0] // b.itemsize, "c_m": N, "depth": depth, "work_size": work_size,
        }  # fmt: skip
        names = gemm.GEMM_FLOATS + gemm.GEMM_TABLES + gemm.GEMM_INTEGERS
        launch(kernel("gemm", "", dtype).address, words(names, values), team)
    return c


def stream(cell, prepared, N):
    from fastrnn.cpu.stream import Stream

    return Stream(cell, prepared, N)
