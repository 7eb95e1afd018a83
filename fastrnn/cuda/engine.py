"""The CUDA backend's front: lays memory out, launches the kernels, hands out arrays of the caller's kind. See contract.py.

Weights are used as they come, (G H, I) and (G H, H): a block takes its rows of them. Nothing here waits for the device;
Numba does, when it frees memory, which CuPy and PyTorch keep.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from fastrnn.contract import Gradients
from fastrnn.cuda import gemm, loops, moves
from fastrnn.cuda.call import Call, passing, told_of
from fastrnn.cuda.devices import limits
from fastrnn.cuda.kinds import dtype_of, kind_of
from fastrnn.cuda.plan import Cut, backward_cut, forward_cut
from fastrnn.cuda.rows import Loop, Rows
from fastrnn.cuda.scalars import real_name
from fastrnn.cuda.target import SIMULATED


@dataclass(frozen=True, eq=False)
class Tape:
    """What backward needs, all of it the tape's own; packed rows of all steps."""

    rows: Rows
    tables: Any
    dtype: str
    sizes: tuple[int, int, int]  # T, I, H
    biases: tuple[bool, bool]
    x: Any  # (total, I)
    kept: Any  # hs (total, H), cs (total, H) of a cell with a memory, what the cell keeps (total, K, H)
    w_ih: Any  # (G H, I)
    w_hh: Any  # (H, G H), transposed
    like: Any  # an array of the caller's kind, read by nobody

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        return sum(a.size * a.dtype.itemsize for a in (self.tables, self.x, self.kept, self.w_ih, self.w_hh))


class Prepared:
    """Weights as kernels see them: the memory that their arrays have."""

    def __init__(self, weights):
        self._arrays, self._kind = weights, kind_of(weights.w_hh)
        self.H = weights.w_hh.shape[1]
        self.look()

    def look(self):
        self.w_ih, self.w_hh, self.b_ih, self.b_hh = self._arrays.map(self._kind.held)

    def moved(self):
        """Whether an array has other memory than before, as PyTorch's can."""
        seen = self.w_ih, self.w_hh, self.b_ih, self.b_hh
        pairs = zip(self._arrays, seen, strict=True)
        return any(x is not None and self._kind.pointer(x) != memory.pointer for x, memory in pairs)


def prepare(cell, weights):
    return Prepared(weights)


def refresh(weights):
    """Their numbers are used as they are; here it is seen where they are."""
    if not SIMULATED and weights.moved():
        weights.look()


class Planned(NamedTuple):
    """What a forward call's sizes say."""

    cut: Cut
    kernel: Any  # of the loop
    told: Loop
    product: gemm.Product  # the input's
    sums: int  # numbers of the input's sums
    own: int  # of what blocks have to pass each other, see `passing`
    kept: int


def _planned(limit, cell, dtype, rows, I, H, keep, given):
    """given : whether there are b_ih and b_hh"""
    cut, width = forward_cut(limit, cell.name, dtype, rows.N, H), cell.n_gates * H
    product = gemm.Product(rows.total, width, I, a_m=I, a_k=1, b_k=1, b_n=I, biased=int(given[0]))
    kernel, told = loops.forward(cell.name, dtype, cut.form, keep), told_of(cut, rows, H, H, given[1])
    own, kept = passing(cut, rows, H, dtype), _kept(cell, rows, H, keep, cut.form.tile.apart)
    return Planned(cut, kernel, told, product, rows.total * width, own, kept)


_planned_before = lru_cache(256)(_planned)  # of rows of one length: others are of one call


def forward(cell, weights, x, h0=None, c0=None, lengths=None, reverse=False, keep=False, y=None, lookup=None):
    if lookup is not None:
        raise NotImplementedError("sequence to sequence on a device: got device arrays, wanted NumPy arrays")
    (T, N, I), H, dtype = x.shape, weights.H, dtype_of(x)
    call, rows, real = Call(x), Rows.of(T, N, lengths, reverse), real_name(dtype)
    given = weights.b_ih is not None, weights.b_hh is not None
    planned = (_planned if rows.ragged else _planned_before)(limits(call.number), cell, dtype, rows, I, H, keep, given)
    tables, total, cut = call.tables(rows), rows.total, planned.cut
    y = call.empty((T, N, H), dtype) if y is None else y
    if rows.ragged:
        call.steps(moves.clear(dtype), N * H, T, rows.loop(H), T, tables, call.view(y))
    state = call.empty((2, N, H), real)
    flat_state = call.flat(state)
    _load_states(call, flat_state, (h0, c0), N * H, dtype)
    xs = _packed(call, rows, tables, x, keep)
    if keep:  # the tape's memory is its own
        (sums, own), kept = call.rooms(real, planned.sums, planned.own), call.room(planned.kept, real)
    else:
        sums, own, kept = call.rooms(real, planned.sums, planned.own, planned.kept)
    call.multiply(planned.product, xs, dtype, weights.w_ih, dtype, weights.b_ih, sums)
    if total:
        passed = call.passed(cut, rows, kept[: total * H], own, H, dtype)
        call.launch_loop(
            planned.kernel, cut, planned.told, call.weights(cut, weights.w_hh, dtype),
            weights.b_hh if given[1] else weights.w_hh, sums, kept, passed, tables, flat_state, call.view(y),
        )  # fmt: skip
    tape = None
    if keep:
        copies, like = _copied(call, weights, cell.n_gates * H, dtype), call.empty((1, 1, 1), dtype)
        tape = Tape(rows, tables, dtype, (T, I, H), given, xs, kept, *copies, like)
    h_n, c_n = _states(call, state, dtype)
    return y, h_n, c_n if cell.memory else None, tape


def _copied(call, weights, width, dtype):
    """A tape's own W_ih, and W_hh transposed."""
    w_ih, w_hh = weights.w_ih, weights.w_hh
    copy_ih, copy_hh = call.room(w_ih.size, dtype), call.room(w_hh.size, dtype)
    call.each(moves.convert(dtype, dtype), w_ih.size, w_ih.size, 1, w_ih, copy_ih, 0)
    call.each(moves.transpose(dtype), w_hh.size, width, weights.H, w_hh, copy_hh)
    return copy_ih, copy_hh


def _kept(cell, rows, H, keep, apart):
    """Numbers: of every row of every step, or c of one and h of every step, unless that is kept apart."""
    if not keep:
        return ((rows.N if apart else rows.total) + cell.memory * rows.N) * H
    return (1 + cell.memory + cell.n_tape) * rows.total * H


def _packed(call, rows, tables, x, keep):
    """The input's packed rows: a copy, or x itself where it will do."""
    view = call.view(x)
    if not keep and not rows.ragged and not rows.reverse and view.is_c_contiguous():
        return view.ravel()
    dtype, I = dtype_of(x), x.shape[2]
    xs = call.room(rows.total * I, dtype)
    call.steps(moves.gather(), rows.N * I, rows.steps, rows.loop(I), view, tables, xs)
    return xs


def _load_states(call, into, given, size, dtype):
    if all(x is None for x in given):
        call.fill(into, 0)
        return
    for k, x in enumerate(given):
        call.convert(x, dtype, into, real_name(dtype), k * size, size)


def _states(call, state, dtype):
    """Its two halves, in the caller's type."""
    real = real_name(dtype)
    if real != dtype:
        stored = call.empty(tuple(state.shape), dtype)
        size = state.shape[0] * state.shape[1] * state.shape[2]
        call.convert(state, real, call.flat(stored), dtype, 0, size)
        state = stored
    return call.kind.part(state, 0), call.kind.part(state, 1)


def backward(cell, tape, dy=None, dh_n=None, dc_n=None):
    rows, dtype, (_, I, H), G = tape.rows, tape.dtype, tape.sizes, cell.n_gates
    call, N, total, real = Call(tape.like), rows.N, rows.total, real_name(dtype)
    state = call.empty((2, N, H), real)
    flat_state = call.flat(state)
    _load_states(call, flat_state, (dh_n, dc_n), N * H, dtype)
    size = total * G * H
    of_sums = 0 if cell.shares_gradient else size  # where those of the state's product are
    cut = backward_cut(limits(call.number), dtype, N, H, G * H)
    d, own = call.rooms(real, of_sums + size, passing(cut, rows, G * H, dtype))
    if total:
        passed = call.passed(cut, rows, d[of_sums:], own, G * H, dtype)
        call.launch_loop(
            loops.backward(cell.name, dtype, cut.form), cut,
            told_of(cut, rows, H, G * H, dy is not None), call.weights(cut, tape.w_hh, dtype), tape.kept, tape.tables,
            flat_state, call.view(tape.like if dy is None else dy), d, passed,
        )  # fmt: skip
    elif not cell.memory:
        dh, dc = flat_state[: N * H], flat_state[N * H :]
        call.each(moves.combine(real, moves.SUM), N * H, N * H, dh, dc, dh)
    d, d_dtype, hs, h_dtype = _operands(call, d, tape.kept, total * H, dtype)
    dx = _input_gradient(call, tape, d, d_dtype)
    dw_ih, dw_hh = call.empty((G * H, I), dtype), call.empty((G * H, H), dtype)
    db_ih, db_hh = (call.empty((G * H,), dtype) if given else None for given in tape.biases)
    q = gemm.Product(G * H, I, total, a_m=1, a_k=G * H, b_k=I, b_n=1)
    call.sum_products(q, d, d_dtype, tape.x, dtype, dw_ih, db_ih, dtype)
    call.sum_products(q._replace(N=H, b_k=H), d[of_sums:], d_dtype, hs, h_dtype, dw_hh, db_hh, dtype)
    dh0, dc0 = _states(call, state, dtype)
    return Gradients(dx, dw_ih, dw_hh, db_ih, db_hh, dh0, dc0 if cell.memory else None)


def _operands(call, d, kept, size, dtype):
    """The gradients of the sums and the first `size` numbers kept, h before each step, as products take them: (d, type of d,
    h, type of h). Rounded to the arrays' type where the library has a product for it, as other implementations do."""
    real = real_name(dtype)
    if real == dtype or not call.kind.multiplies(dtype, dtype):
        return d, real, kept, real
    rounded = []
    for given, n in ((d, d.size), (kept, size)):
        into = call.room(n, dtype)
        call.each(moves.convert(real, dtype), n, n, 1, given, into, 0)
        rounded += [into, dtype]
    return rounded


def _input_gradient(call, tape, d, d_dtype):
    """dx = Σ d W_ih, back in the places that the rows came from."""
    rows, dtype, (T, I, _), real = tape.rows, tape.dtype, tape.sizes, real_name(tape.dtype)
    width = tape.w_ih.size // max(I, 1)
    dx = call.empty((T, rows.N, I), dtype)
    in_place = dtype == real and not rows.ragged and not rows.reverse
    d_rows = call.flat(dx) if in_place else call.room(rows.total * I, real)
    q = gemm.Product(rows.total, I, width, a_m=width, a_k=1, b_k=I, b_n=1)
    call.multiply(q, d, d_dtype, tape.w_ih, dtype, None, d_rows)
    if not in_place:
        call.steps(moves.scatter(dtype), rows.N * I, T, rows.loop(I), T, d_rows, tape.tables, call.view(dx))
    return dx
