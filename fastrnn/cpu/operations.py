"""The operations of a decoder's step as kernels, and what runs them. What each does: reference_ops.py, its counterpart.

An operation is a task, and what its words grow by from a step to the next: addresses by the stride of their time axis.
"""

from typing import Any, NamedTuple

import numpy as np

from fastrnn.contract import Array, Weights
from fastrnn.cpu import attention, compiled, dense, engine, gemm, memory, program
from fastrnn.cpu.kernel import Fields
from fastrnn.cpu.memory import Block, Layout, name_of
from fastrnn.cpu.plan import Backward, Forward, Shape
from fastrnn.cpu.product import InputGradient, gradient_plan, linear_memory, linear_words
from fastrnn.cpu.rows import Rows
from fastrnn.cpu.running import Operation, Program, run
from fastrnn.cpu.target import lanes, padded, panel_vectors
from fastrnn.cpu.team import Team, threads_of_packing
from fastrnn.cpu.threads import get_num_threads, launch

__all__ = ["Program", "run"]  # besides what is defined here


def _operation(
    kind: str, fields: Fields, dtype: str, arrays: dict[str, Array], name: str = "", alive: Any = None, **words: int
):
    """An operation on arrays with a time axis in front."""
    task = compiled.task(kind, name, dtype, fields, **{key: a.ctypes.data for key, a in arrays.items()}, **words)
    return Operation(task, {key: a.strides[0] for key, a in arrays.items() if a.strides[0]}, (arrays, alive))


def _step(array: Array, axis: int = 1) -> int:
    """Numbers from an entry of an axis to the next: by default, of rows (T, N, ...)."""
    return array.strides[axis] // array.itemsize


def empty(shape, dtype):
    return memory.empty(shape, memory.name_of_dtype(dtype))


def copied(array):
    out = empty(array.shape, array.dtype)
    out[...] = array
    return out


def zeros(shape, dtype):
    # in memory that is used again: fresh pages cost more than writing the zeros
    out = empty(shape, dtype)
    out[...] = 0
    return out


def threads():
    """How many threads the operations that are made now may be run by."""
    return get_num_threads()


def gather(table, index, out):
    arrays = {"index": index, "out": out}
    return _operation("gather", dense.GATHER, name_of(out), arrays, table=table.ctypes.data, alive=table, E=out.shape[2],
                      table_n=_step(table, 0), out_n=_step(out))  # fmt: skip


def scatter(dy, index, into):
    engine.scatter(np.ascontiguousarray(dy), np.ascontiguousarray(index), into)


class Packed(NamedTuple):
    """A weight and a bias in panels: where they are."""

    w: int
    b: int
    sizes: tuple[int, int]  # I, O
    alive: Any


def pack(w, b=None, transposed=False):
    w = np.ascontiguousarray(w)
    dtype, (I, O) = name_of(w), w.shape if transposed else w.shape[::-1]
    block = Block(Layout({"w": ((I, padded(O, dtype)), dtype), "b": ((padded(O, dtype),), dtype)}))
    block["b"][:O] = 0 if b is None else b
    block["b"][O:] = 0
    task = compiled.task(
        "pack_columns" if transposed else "pack_rows", "", dtype, gemm.PACK_COLUMNS, w=w.ctypes.data,
        out=block.at("w"), H=O, K=I, W=panel_vectors(1),
    )  # fmt: skip
    launch(task.address, task.words, threads_of_packing(w.size))
    return Packed(block.at("w"), block.at("b"), (I, O), block)


def _unpacked(panels: Array, rows: int, columns: int) -> Array:
    """The matrix (rows, columns) that lies in panels."""
    width = panel_vectors(1) * lanes(name_of(panels))
    whole = [panels[at : at + rows * width].reshape(rows, -1) for at in range(0, panels.size, rows * width)]
    return np.concatenate(whole, axis=1)[:, :columns]


def linear(x, weight, out, activation="none", add=False):
    dtype, scratch = name_of(x), Block(Layout(linear_memory(name_of(x), get_num_threads())))
    return _operation(
        "linear", dense.LINEAR, dtype, {"x": x, "out": out}, alive=(weight, scratch), w_ih=weight.w, b_ih=weight.b,
        work=scratch.at("work"), offsets=scratch.at("offsets"), **linear_words(dtype, *weight.sizes), x_n=_step(x),
        out_n=_step(out), activation=dense.ACTIVATIONS.index(activation), add=add,
    )  # fmt: skip


def weight_gradients(dy, x):
    (M, O), I, dtype = dy.shape, x.shape[1], name_of(dy)
    dw, db = memory.empty((O, I), dtype), np.zeros(O, dtype)
    if not M:
        dw[...] = 0
    plan = gradient_plan(dtype, (O, I, M), (_step(dy, 0), _step(x, 0)), get_num_threads())
    work = plan.take()
    work.product.task.set(a=dy.ctypes.data, b=x.ctypes.data, c=dw.ctypes.data, sums=db.ctypes.data)
    work.product.run()
    plan.give(work)
    return dw, db


def input_gradient(dy, w):
    (O, I), dtype, packed = w.shape, name_of(dy), pack(w, transposed=True)
    dx = memory.empty((len(dy), I), dtype)
    product = InputGradient(dtype, (len(dy), I, O), _step(dy, 0), Team(get_num_threads(), False))
    scratch = Block(Layout(linear_memory(dtype, product.team)))
    product.task.set(
        x=dy.ctypes.data, w_ih=packed.w, b_ih=packed.b, out=dx.ctypes.data, work=scratch.at("work"),
        offsets=scratch.at("offsets"),
    )  # fmt: skip
    product.run()
    return dx


def slope(dy, y, out):
    steps = {f"{name}_n": _step(a) for name, a in (("dy", dy), ("y", y), ("out", out))}
    return _operation("slope", dense.SLOPE, name_of(y), {"dy": dy, "y": y, "out": out}, F=y.shape[2], **steps)


def log_sum(x, out):
    return _operation("log_sum", dense.LOG_SUM, name_of(x), {"x": x, "out": out}, V=x.shape[2], x_n=_step(x))


def loss_gradient(x, norm, labels, weight, smoothing, out):
    """Of a single step."""
    parts = np.array([1 - smoothing, smoothing / x.shape[2]], x.dtype)
    arrays = {"x": x, "norm": norm, "labels": labels, "weight": weight, "out": out}
    return _operation(
        "loss_gradient", dense.LOSS, name_of(x), arrays, alive=parts, smoothing=parts.ctypes.data, V=x.shape[2]
    )


def attend(a):
    arrays = {"query": a.query, "weights": a.weights, "context": a.context} | _seen(a)
    if a.coverage is not None:
        arrays["coverage"] = a.coverage[1:]
    same = np.arange(a.weights.shape[1])
    if a.parents is not None:
        arrays["parents"] = a.parents
    fixed = {"parents": same.ctypes.data} if a.parents is None else {}
    return _operation(
        "attend", attention.ATTEND, name_of(a.keys), arrays, **fixed, **_memory(a, same), context_n=_step(a.context),
        tracking=a.coverage is not None,
    )  # fmt: skip


def attend_backward(a, d):
    scores = np.empty((get_num_threads(), a.weights.shape[2]), a.keys.dtype)
    fixed = {f"d_{name}": getattr(d, name) for name in ("keys", "values", "v", "cover", "coverage")} | {"scores": scores}
    return _operation(
        "attend_backward", attention.ATTEND_BACKWARD, name_of(a.keys),
        {"query": a.query, "weights": a.weights, "d_context": d.context, "d_query": d.query}
        | {"d_weights": a.weights if d.weights is None else d.weights} | _seen(a),
        **_memory(a, fixed), **{name: array.ctypes.data for name, array in fixed.items()},
        d_context_n=_step(d.context), d_query_n=_step(d.query), weighted=d.weights is not None,
    )  # fmt: skip


def _seen(a: Any) -> dict[str, Array]:
    """The sums of weights before each step; where there are none, the weights stand in and are not read."""
    return {"seen": a.weights if a.coverage is None else a.coverage[:-1]}


def _memory(a: Any, more: Any = None) -> dict[str, Any]:
    """The words of what attention reads in every step."""
    scale = np.array([a.scale], a.keys.dtype)
    v, cover = (scale if array is None else array for array in (a.v, a.cover))
    lengths = np.ascontiguousarray(a.lengths, np.intp)
    (S, _, K), M = a.keys.shape, a.values.shape[2]
    return {
        "keys": a.keys.ctypes.data, "values": a.values.ctypes.data, "v": v.ctypes.data, "cover": cover.ctypes.data,
        "scale": scale.ctypes.data, "lengths": lengths.ctypes.data, "K": K, "M": M, "S": S,
        "keys_s": _step(a.keys, 0), "keys_n": _step(a.keys),
        "values_s": _step(a.values, 0), "values_n": _step(a.values), "query_n": _step(a.query),
        "summed": a.v is not None, "covered": a.cover is not None,
        "alive": (a.keys, a.values, v, cover, scale, lengths, more),
    }  # fmt: skip


def choose(text, words, rows):
    arrays = {name: value for name, value in words.items() if isinstance(value, np.ndarray)}
    integers = {name: value for name, value in words.items() if name not in arrays}
    # the rest they index themselves
    grows = {name: arrays.pop(name) for name in ("logits", "norm")}
    kept = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    operation = _operation(
        "choose", program.CHOOSE, name_of(grows["logits"]), grows, text.__name__, alive=kept, **integers,
        **{name: value.ctypes.data for name, value in kept.items()},
    )  # fmt: skip
    return operation._replace(growth=operation.growth | {"t": 1})


def pack_cell(cell, weights):
    return engine.prepare(cell, Weights(*weights))


class Cells:
    def __init__(self, cell, prepared, x, y, keep, parents=None, fed_back=False, lookup=None):
        (T, N, I), H, dtype = x.shape, y.shape[2], prepared.dtype
        # where nothing is kept, rows never end: the state moves between the two halves of its buffer
        rows = Rows.of(T if keep else T + 1, N, None, False)
        shape = Shape(cell.name, dtype, N, I, H, rows.steps, rows.total, False, False)
        self._work = work = Forward(shape, keep, Team(get_num_threads(), False), in_program=True)
        states = Block(work.tape) if keep else work.block
        work.tell_states(states)
        engine.connect(work, prepared, rows, lookup)
        for keep in work.following:
            keep.run()
        words = {"x": x.ctypes.data, "y": y.ctypes.data}
        for name, array in (("x", x), ("y", y)):
            words |= {f"{name}_t": _step(array, 0), f"{name}_n": _step(array)}
        growth = {"s0": 1, "s1": 1}
        if parents is not None:
            for name in ("parents", "sources") if fed_back else ("parents",):
                words[name], growth[name] = parents.ctypes.data, parents.strides[0]
        work.task.set(s0=0, s1=1, fed_back=fed_back, **words)
        self.operations = [Operation(work.task, growth, (x, y, rows, states, prepared, parents, lookup, work))]
        self._kept = prepared, rows, states, shape, T, lookup

    def start(self, h0, c0=None):
        _, rows, states, *_ = self._kept
        for name, state in (("hs", h0), ("cs", c0)):
            if name in states:
                rows.sort(state, states[name][: len(rows)])

    def finish(self):
        return engine.keep_tape(*self._kept)


class CellsBackward:
    def __init__(self, cell, tape, dy, below=None, feed=None):
        rows, block, T, N, GH = tape.rows, tape.block, tape.steps, tape.shape.N, cell.n_gates * tape.shape.H
        self._work = work = Backward(tape.shape, tape.biases, Team(get_num_threads(), False), in_program=True)
        self._cell, self._tape, self._below = cell, tape, below
        work.dh[...] = work.dc[...] = 0
        work.tell_tape(block)
        work.task.set(**rows.places)
        engine.give_dy(work, dy)
        work.task.set(s0=0, s1=1)
        self.operations = [Operation(work.task, {"s0": 1, "s1": 1}, (dy, work, tape))]
        d_gates = work.block["dx"].reshape(T, N, -1)[:, :, :GH]
        if below is not None:
            w_ih = Packed(block.at("w_ih"), work.block.at("zero"), (GH, tape.shape.I), (block, work))
            self.operations.append(linear(d_gates, w_ih, below))
        if feed is not None:
            of_feed = _unpacked(block["w_ih"], GH, tape.shape.I)[:, -feed.shape[2] :]
            self.operations.append(linear(d_gates, pack(of_feed, transposed=True), feed, add=True))

    def finish(self):
        tape, work, dx = self._tape, self._work, self._below
        if dx is None and tape.looked_up is None:
            dx = empty((tape.steps, tape.shape.N, tape.shape.I), tape.shape.dtype)
            work.d_rows.task.set(out=dx.ctypes.data)
            work.d_rows.run()
        gradients = Block(work.gradients)
        work.tell_gradients(gradients)
        work.dw_ih.run()
        work.dw_hh.run()
        return engine.gathered(self._cell, tape, work, gradients, dx)
