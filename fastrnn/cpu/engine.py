"""The CPU backend's front: packs weights, runs the kernels on the work of a plan, hands out results. See contract.py."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fastrnn.cell import Cell
from fastrnn.contract import Array, Gradients, Lookup, Weights
from fastrnn.cpu import compiled, dense, gemm
from fastrnn.cpu.kernel import Task
from fastrnn.cpu.memory import Block, Layout, address_of, empty, name_of
from fastrnn.cpu.plan import Forward, Shape, backward_plan, choice_of, forward_plan
from fastrnn.cpu.rows import Rows
from fastrnn.cpu.target import padded, panel_vectors
from fastrnn.cpu.team import threads_of_packing, worth
from fastrnn.cpu.threads import get_num_threads, launch


@dataclass(frozen=True, eq=False)
class Prepared:
    """The weights of a layer as they came, and in panels: a block, and where each of them starts."""

    weights: Weights
    dtype: str
    panels: Block
    addresses: dict[str, int]
    pack: Task


def prepare(cell: Cell, weights: Weights) -> Prepared:
    w_ih, w_hh, b_ih, b_hh = weights
    G, H, I, dtype = cell.n_gates, w_hh.shape[1], w_ih.shape[1], name_of(w_hh)
    panels = Block(_panels(G, H, I, dtype))
    addresses = {name: panels.at(name) for name in Weights._fields}
    task = compiled.task(
        "pack_weights", "", dtype, gemm.PACK_WEIGHTS, from_w_ih=w_ih.ctypes.data, from_w_hh=w_hh.ctypes.data,
        from_b_ih=0 if b_ih is None else b_ih.ctypes.data, from_b_hh=0 if b_hh is None else b_hh.ctypes.data, **addresses,
        G=G, H=H, I=I, W=panel_vectors(G), biases=(b_ih is not None) + 2 * (b_hh is not None),
    )  # fmt: skip
    prepared = Prepared(weights, dtype, panels, addresses, task)
    refresh(prepared)
    return prepared


def refresh(prepared: Prepared) -> None:
    w_ih, w_hh, *_ = prepared.weights
    launch(prepared.pack.address, prepared.pack.words, threads_of_packing(w_ih.size + w_hh.size))


@lru_cache(64)
def _panels(G: int, H: int, I: int, dtype: str) -> Layout:
    """Every weight and bias in panels; of H, whole vectors."""
    column = G * padded(H, dtype)
    bias = ((column,), dtype)
    return Layout({"w_ih": ((I, column), dtype), "w_hh": ((H, column), dtype), "b_ih": bias, "b_hh": bias})


@dataclass(eq=False)
class Tape:
    """What backward needs, all of it the tape's own. In its block, for every row of every step: hs (Hp) and cs (Hp), the
    state before the step; saved (K, Hp), what the cell keeps; x (I); and the weights in panels: w_ih, panels (of w_hh)."""

    rows: Rows
    block: Block
    biases: tuple[bool, bool]
    shape: Shape
    steps: int  # T
    looked_up: tuple[Array, int] | None = None  # of a lookup: the tokens (total,) as the rows are sorted, K

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        return self.block.layout.size + (0 if self.looked_up is None else self.looked_up[0].nbytes)


def forward(cell, prepared, x, h0=None, c0=None, lengths=None, reverse=False, keep=False, y=None, lookup=None):
    T, N, I = x.shape
    dtype, H, rows = prepared.dtype, prepared.weights.w_hh.shape[1], Rows.of(T, N, lengths, reverse)
    shape = Shape(cell.name, dtype, N, I, H, rows.steps, rows.total, rows.ragged, reverse)
    threads = get_num_threads()
    plan = forward_plan(shape, keep, choice_of(shape, keep, cell.n_gates, threads).now(), threads)
    work = plan.take()
    if y is None:
        y = empty((T, N, H), dtype)
    if rows.ragged:
        y[...] = 0
    block = Block(work.tape) if keep else work.block
    states = [block[name] for name in ("hs", "cs")[: 1 + cell.memory]]
    for state, given in zip(states, (h0, c0), strict=False):
        rows.sort(given, state[:N])
        if rows.shortest == 0:
            state[work.ends :] = state[:N]
    work.tell_states(block)
    connect(work, prepared, rows, lookup)
    item, (x_t, x_n, _), (y_t, y_n, _) = x.itemsize, x.strides, y.strides
    work.task.set(
        x=x.ctypes.data, y=y.ctypes.data, x_t=x_t // item, x_n=x_n // item, y_t=y_t // item, y_n=y_n // item,
    )  # fmt: skip
    work.run()
    h_n, *c_n = [rows.unsort(state[work.ends :], H) for state in states]
    tape = None
    if keep:
        tape = keep_tape(prepared, rows, block, shape, T, lookup)
    plan.give(work)
    return y, h_n, c_n[0] if c_n else None, tape


def keep_tape(prepared, rows, block, shape, T, lookup=None):
    """The tape of a call of T steps whose states, gates, inputs and weights are in `block`; tokens are copied."""
    *_, b_ih, b_hh = prepared.weights
    looked_up = None
    if lookup is not None:
        tokens = np.empty((rows.total, 1), np.intp)
        rows.gather(lookup.tokens[:, :, None], tokens)
        looked_up = tokens[:, 0], len(lookup.table)
    return Tape(rows, block, (b_ih is not None, b_hh is not None), shape, T, looked_up)


def connect(work: Forward, prepared: Prepared, rows: Rows, lookup: Lookup | None = None) -> None:
    """Tell a forward work where the weights, the rows' tables and what is looked up are."""
    work.task.set(
        **prepared.addresses, **rows.places, parents=rows.block.at("same"), sources=rows.block.at("same"),
        looked_up=lookup is not None,
    )  # fmt: skip
    if lookup is not None:
        tokens_t, tokens_n = (step // lookup.tokens.itemsize for step in lookup.tokens.strides)
        work.task.set(
            table=lookup.table.ctypes.data, tokens=lookup.tokens.ctypes.data, tokens_t=tokens_t, tokens_n=tokens_n
        )  # fmt: skip
    for keep in work.following:
        keep.task.set(w_ih=prepared.pack.get("from_w_ih"), w_hh=prepared.pack.get("from_w_hh"))


def backward(cell, tape, dy=None, dh_n=None, dc_n=None):
    rows, shape, threads = tape.rows, tape.shape, get_num_threads()
    plan = backward_plan(shape, tape.biases, choice_of(shape, True, 1, threads).now(), threads)
    work = plan.take()
    work.task.set(**rows.places)
    if dh_n is None and dc_n is None:
        work.states[...] = 0
    else:
        rows.sort(dh_n, work.dh)
        rows.sort(dc_n, work.dc)
    give_dy(work, dy)
    gradients = gradients_of(cell, tape, work)
    if tape.looked_up is None:  # otherwise the gradients may come back to it
        plan.give(work)
    return gradients


def gradients_of(cell, tape, work):
    """What a backward work finds that has been told of the rows, of dy and of the gradients at the end."""
    rows, shape = tape.rows, tape.shape
    work.tell_tape(tape.block)
    d, d_rows = Block(work.gradients), empty((rows.total, shape.I), shape.dtype)
    work.tell_gradients(d)
    work.d_rows.task.set(out=address_of(d_rows))
    work.run()
    return gathered(cell, tape, work, d, rows.scatter(d_rows, tape.steps))


def gathered(cell, tape, work, d, dx):
    """The gradients, once all has run: those of the weights in the block d, and what the loop left for the state."""
    rows, H = tape.rows, tape.shape.H
    if not rows.total:
        for name in d.layout.places:
            d[name][...] = 0
    d_w_ih, d_w_hh, d_b_ih, d_b_hh = d["w_ih"], d["w_hh"], d.get("b_ih"), d.get("b_hh")
    if cell.shares_gradient and d_b_ih is not None and d_b_hh is not None:
        d_b_hh[...] = d_b_ih
    if not cell.memory:
        np.add(work.dh, work.dc, work.dh)
    dh0, dc0 = rows.unsort(work.dh, H), rows.unsort(work.dc, H) if cell.memory else None
    table, sums = None, None
    if tape.looked_up is not None:
        tokens, K = tape.looked_up
        d_sums = work.block["dx"][:, : cell.n_gates * H]
        table, sums = empty((K, cell.n_gates * H), name_of(d_sums)), lambda: rows.scatter(d_sums, tape.steps)
        table[...] = 0
        scatter(d_sums, tokens, table)
    return Gradients(dx, d_w_ih, d_w_hh, d_b_ih, d_b_hh, dh0, dc0, table, sums)


def scatter(dy: Array, index: Array, into: Array) -> None:
    """into[index[m]] += dy[m], in the order of m. dy (M, E) of any rows, index (M,) and into (V, E) contiguous."""
    task = compiled.task(
        "scatter", "", name_of(dy), dense.SCATTER, dy=dy.ctypes.data, index=index.ctypes.data,
        into=into.ctypes.data, M=len(dy), E=dy.shape[1], dy_m=dy.strides[0] // dy.itemsize,
    )  # fmt: skip
    launch(task.address, task.words, worth(float(dy.size), 1, dy.shape[1]).size)


def give_dy(work, dy):
    """Tell a backward work where dy (T, N, H) is, None for zeros."""
    if dy is None:
        work.task.set(dy=work.block.at("zero"), y_t=0, y_n=0)
    else:
        item, (y_t, y_n, _) = dy.itemsize, dy.strides
        work.task.set(dy=address_of(dy), y_t=y_t // item, y_n=y_n // item)


def stream(cell, prepared, N):
    from fastrnn.cpu.bound import Stream

    return Stream(cell, prepared, N)


def bound(cell, prepared, T, N, table=None):
    from fastrnn.cpu.bound import Bound

    return Bound(cell, prepared, T, N, table)


def training(cell, prepared, T, N):
    from fastrnn.cpu.bound import Training

    return Training(cell, prepared, T, N)
