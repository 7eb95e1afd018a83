"""The CPU backend's front: packs weights, plans a call, lays out its memory, runs the kernels. See contract.py."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from fastrnn.cell import Cell
from fastrnn.cells import REGISTRY
from fastrnn.contract import Array, Gradients, Weights
from fastrnn.cpu import gemm, loops
from fastrnn.cpu.kernel import Kernel, compile_kernel, digest
from fastrnn.cpu.memory import LINE, empty, words, zeros
from fastrnn.cpu.rows import Rows
from fastrnn.cpu.target import lanes, padded, panel_vectors, tile_rows
from fastrnn.cpu.threads import get_num_threads, launch

_AHEAD_ROWS = 48  # rows of the input's product that are computed together
_CALL_FLOPS = 2e9  # of one kernel call, so that Ctrl-C is heard within a fraction of a second
_TEAM_FLOPS = 4e5  # below, a launch costs more than it saves
_TEAM_STEP_FLOPS = 1.2e5  # below, a barrier a step costs more than it saves


@cache
def kernel(kind: str, name: str, dtype: str) -> Kernel:
    """A compiled kernel: forward and backward of the cell `name`, or one that serves every cell."""
    L, R = lanes(dtype), tile_rows(4)
    if kind in ("forward", "backward"):
        cell = REGISTRY[name]
        build = loops.build_forward if kind == "forward" else loops.build_backward
        gates = cell.n_gates * panel_vectors(cell.n_gates) if kind == "forward" else 4
        return compile_kernel(build(name, dtype, cell.n_gates, cell.n_tape, L, tile_rows(gates), digest()))
    if kind == "gemm":
        return compile_kernel(gemm.build_gemm(dtype, L, R, digest()))
    return compile_kernel(getattr(gemm, f"build_{kind}")(dtype, L, digest()))


def _pack(kind: str, w: Array, G: int, H: int, K: int, W: int, dtype: str, team: int = 1) -> Array:
    out = empty(K * G * padded(H, dtype), dtype)
    args = words(gemm.PACK_FLOATS + gemm.PACK_INTEGERS, {"w": w, "out": out, "G": G, "H": H, "K": K, "W": W})
    launch(kernel(kind, "", dtype).address, args, team if w.size > 1 << 18 else 1)
    return out


@dataclass(frozen=True, eq=False)
class Prepared:
    """The weights of a layer in panels, and as they came."""

    weights: Weights
    w_ih: Array
    w_hh: Array
    b_ih: Array
    b_hh: Array


def prepare(cell: Cell, weights: Weights) -> Prepared:
    w_ih, w_hh, b_ih, b_hh = weights
    G, H, dtype = cell.n_gates, w_hh.shape[1], w_hh.dtype.name
    W, team = panel_vectors(G), get_num_threads()

    def bias(b):
        return zeros(G * padded(H, dtype), dtype) if b is None else _pack("pack_gates", b, G, H, 1, W, dtype)

    panels = (_pack("pack_gates", w, G, H, w.shape[1], W, dtype, team) for w in (w_ih, w_hh))
    return Prepared(weights, *panels, bias(b_ih), bias(b_hh))


@dataclass(frozen=True, eq=False)
class Tape:
    """What backward needs, all of it the tape's own."""

    weights: Weights
    rows: Rows
    x: Array  # (total, I)
    hs: Array  # (total, Hp) h before each step
    cs: Array  # (total, Hp) c before each step; hs for a cell without a memory
    saved: Array  # (total, K, Hp)
    T: int


@dataclass(frozen=True)
class Team:
    size: int
    by_units: bool


def team_for(N: int, G: int, H: int, K: int, steps: int, dtype: str, panel: int | None = None) -> Team:
    """How many threads a loop is worth, and what they divide: the rows, or the units, `panel` vectors at a time."""
    panels = -(-padded(H, dtype) // (lanes(dtype) * (panel or panel_vectors(G))))
    most, step_flops = get_num_threads(), 2.0 * N * G * H * K
    if most > 1 and step_flops * steps >= _TEAM_FLOPS:
        if N >= 4 * most:
            return Team(most, False)
        if panels >= most and step_flops >= _TEAM_STEP_FLOPS:
            return Team(most, True)
        if N >= 2:
            return Team(min(N, most), False)
    return Team(1, False)


def _run(kernel: Kernel, args: Array, s0: int, control: Array, team: Team, steps: range, flops: float) -> None:
    """Run a loop's kernel over its steps (backwards where the range runs backwards), a bounded time a call."""
    size = max(1, int(_CALL_FLOPS / max(flops, 1)))
    starts = range(0, len(steps), size)
    for start in starts if steps.step > 0 else reversed(starts):
        args[s0], args[s0 + 1] = start, min(len(steps), start + size)
        control[:] = 0
        launch(kernel.address, args, team.size)


def forward_words(cell, prepared, x, hs, cs, h_n, c_n, saved, y, rows, team, control):
    """The forward kernel's arguments; arrays that must outlive them; where s0 and s1 stand among them."""
    T, N, I = x.shape
    G, H, dtype = cell.n_gates, prepared.weights.w_hh.shape[1], y.dtype.name
    capacity, item = max(_AHEAD_ROWS, N), y.itemsize
    names = loops.FORWARD_FLOATS + loops.TABLES + loops.FORWARD_INTEGERS
    values = {
        "x": x, "w_ih": prepared.w_ih, "w_hh": prepared.w_hh, "b_ih": prepared.b_ih, "b_hh": prepared.b_hh,
        "hs": hs, "cs": cs, "y": y, "h_n": h_n, "c_n": c_n, "saved": saved,
        "work": empty(team.size * (capacity * G * padded(H, dtype) + 32 * lanes(dtype)), dtype),
        "order": rows.order, "length": rows.length, "control": control,
        "offsets": np.empty(team.size * (capacity + 8), np.intp),
        "s0": 0, "s1": 0, "N": N, "I": I, "H": H, "W": panel_vectors(G),
        "x_t": x.strides[0] // item, "x_n": x.strides[1] // item, "y_t": y.strides[0] // item, "y_n": y.strides[1] // item,
        "reverse": rows.reverse, "keep": saved is not None, "by_units": team.by_units, "strided": rows.ragged,
        "capacity": capacity,
    }  # fmt: skip
    return words(names, values), values, names.index("s0")


def forward(cell, prepared, x, h0=None, c0=None, lengths=None, reverse=False, keep=False, y=None):
    T, N, I = x.shape
    w = prepared.weights
    G, H, dtype = cell.n_gates, w.w_hh.shape[1], w.w_hh.dtype.name
    rows = Rows.of(T, N, lengths, reverse)
    y = np.empty((T, N, H), dtype) if y is None else y
    if rows.ragged:
        y[...] = 0
    before = max(rows.total, N) if keep else 2 * N
    hs, h_n = _state(rows, h0, before, H, dtype)
    cs, c_n = _state(rows, c0, before, H, dtype) if cell.memory else (hs, h_n)
    saved = empty((rows.total, cell.n_tape, padded(H, dtype)), dtype) if keep else None
    team, control = team_for(N, G, H, I + H, rows.steps, dtype), np.zeros(64, np.intp)
    args, _alive, s0 = forward_words(cell, prepared, x, hs, cs, h_n, c_n, saved, y, rows, team, control)
    _run(kernel("forward", cell.name, dtype), args, s0, control, team, range(rows.steps), 2.0 * N * G * H * (I + H))
    tape = None
    if keep:
        own = Weights(*(None if p is None else p.copy() for p in w))
        tape = Tape(own, rows, rows.gather(x), hs, cs, saved, T)
    return y, rows.unsort(h_n, H), (rows.unsort(c_n, H) if cell.memory else None), tape


def _state(rows, state, before, H, dtype):
    """The state before each step, its first rows set; the state at the end, right for rows of no steps."""
    padding = padded(H, dtype)
    steps, end = empty((before, padding), dtype), empty((len(rows.order), padding), dtype)
    rows.sort(state, end)
    steps[: len(end)] = end
    return steps, end


def backward(cell, tape, dy=None, dh_n=None, dc_n=None):
    w, rows, T = tape.weights, tape.rows, tape.T
    N, total, I = len(rows.order), rows.total, tape.x.shape[1]
    G, H, dtype = cell.n_gates, w.w_hh.shape[1], w.w_hh.dtype.name
    Hp, W, L = padded(H, dtype), panel_vectors(1), lanes(dtype)
    team = team_for(N, G, H, H, rows.steps, dtype, W)
    dh, dc = empty((N, Hp), dtype), empty((N, Hp), dtype)
    rows.sort(dh_n, dh)
    rows.sort(dc_n, dc)
    dx = empty((total, G * H), dtype)
    du = dx if cell.shares_gradient else empty((total, G * H), dtype)
    item = np.dtype(dtype).itemsize
    zero = zeros(max(H, 4 * L), dtype)  # a row of a missing dy; where a sum starts
    y_t, y_n = (0, 0) if dy is None else (dy.strides[0] // item, dy.strides[1] // item)
    control = np.zeros(64, np.intp)
    names = loops.BACKWARD_FLOATS + loops.TABLES + loops.BACKWARD_INTEGERS
    args = words(names, {
        "dy": zero if dy is None else dy, "saved": tape.saved, "cs": tape.cs, "dx": dx, "du": du, "dh": dh, "dc": dc,
        "w_hh": (panels := _pack("pack_columns", w.w_hh, 1, H, G * H, W, dtype)), "zero": zero,
        "order": rows.order, "length": rows.length, "control": control,
        "offsets": (offsets := np.empty(team.size * 8, np.intp)),
        "s0": 0, "s1": 0, "N": N, "H": H, "W": W, "y_t": y_t, "y_n": y_n, "reverse": rows.reverse,
        "by_units": team.by_units, "strided": rows.ragged, "shared": cell.shares_gradient,
    })  # fmt: skip
    steps = range(rows.steps - 1, -1, -1)
    _run(kernel("backward", cell.name, dtype), args, names.index("s0"), control, team, steps, 2.0 * N * G * H * H)
    del panels, offsets  # alive until here
    ones = np.ones(8, dtype)
    dw_ih = matmul(dx, (1, G * H), tape.x, (G * H, I, total))
    dw_hh = matmul(du, (1, G * H), tape.hs[:total, :H], (G * H, H, total))
    db_ih = matmul(ones, (1, 0), dx, (1, G * H, total))[0]
    db_hh = db_ih.copy() if cell.shares_gradient else matmul(ones, (1, 0), du, (1, G * H, total))[0]
    x_rows = matmul(dx, (G * H, 1), w.w_ih, (total, I, G * H))
    if not cell.memory:
        dh += dc
    return Gradients(
        rows.scatter(x_rows, T), dw_ih, dw_hh,
        None if w.b_ih is None else db_ih, None if w.b_hh is None else db_hh,
        rows.unsort(dh, H), rows.unsort(dc, H) if cell.memory else None,
    )  # fmt: skip


def matmul(a: Array, a_strides: tuple[int, int], b: Array, shape: tuple[int, int, int]) -> Array:
    """C (M, N) = A B over K, in shape's order M, N, K; A's strides in numbers, B a matrix with contiguous rows."""
    (M, N, K), dtype = shape, b.dtype.name
    L, R, team = lanes(dtype), tile_rows(4), get_num_threads() if 2.0 * M * N * K > _TEAM_FLOPS else 1
    c = np.empty((M, N), dtype)
    if K == 0:
        c[...] = 0
        return c
    item = c.itemsize
    work_size = padded(N, dtype) * gemm.DEPTH + gemm.DEPTH * R + L + R * 4 * L
    work_size = -(-work_size * item // LINE) * LINE // item
    work, offsets = empty(team * work_size, dtype), np.empty(team * 8, np.intp)
    zero = zeros(4 * L, dtype)
    most = max(R, int(_CALL_FLOPS / (2.0 * N * K)))  # rows of C a call
    for m in range(0, M, most):
        args = words(gemm.GEMM_FLOATS + gemm.GEMM_TABLES + gemm.GEMM_INTEGERS, {
            "a": a.ctypes.data + m * a_strides[0] * item, "b": b, "c": c[m:], "zero": zero, "work": work,
            "offsets": offsets, "M": min(most, M - m), "N": N, "K": K, "a_m": a_strides[0], "a_k": a_strides[1],
            "b_k": b.strides[0] // item, "c_m": N, "work_size": work_size,
        })  # fmt: skip
        launch(kernel("gemm", "", dtype).address, args, team)
    return c


def stream(cell, prepared, N):
    from fastrnn.cpu.stream import Stream

    return Stream(cell, prepared, N)
