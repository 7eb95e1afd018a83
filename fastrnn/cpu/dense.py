"""The operations of a decoder's step on rows of numbers: a linear map, rows of a table, tanh's slope, log Σ exp."""

import math

import fastrnn.cpu.activations  # noqa: F401  registers the vector versions of what is applied
from fastrnn.cpu.arithmetic import applied, difference, everywhere, first_lanes, largest, maximum, nothing, times, total
from fastrnn.cpu.asking import ONE_SIZE, add_stretch, nothing_needed
from fastrnn.cpu.helper import helper
from fastrnn.cpu.kernel import Fields, words_of
from fastrnn.cpu.panels import input_panel
from fastrnn.cpu.shares import next_rows, rows_of_member
from fastrnn.cpu.simd import add, load, load_part, shift, static, store_part
from fastrnn.cpu.sync import flush_denormals, restore_denormals
from fastrnn.cpu.target import ITEMSIZE, lanes, panel_vectors, tile_rows

_ROWS = ("N", "together")


def _of_one_gate(name, dtype):
    return {"L": lanes(dtype), "G": 1, "R": tile_rows(panel_vectors(1)), "itemsize": ITEMSIZE[dtype]}


# the names of what it shares with the loops' input product
LINEAR = Fields(
    ("x", "w_ih", "b_ih", "out", "work"),
    ("offsets",),
    (*_ROWS, "I", "O", "W", "V", "x_run", "x_n", "out_n", "capacity", "activation", "add", "by_units"),
    functions=("product",),
    constants=_of_one_gate,
)
GATHER = Fields(("table", "out"), ("index",), (*_ROWS, "E", "table_n", "out_n"))
SCATTER = Fields(("dy", "into"), ("index",), ("M", "E", "dy_m"))
SLOPE = Fields(("dy", "y", "out"), (), (*_ROWS, "F", "dy_n", "y_n", "out_n"))
LOG_SUM = Fields(("x",), (), (*_ROWS, "V", "x_n"), ("out",))
LOSS = Fields(("x", "norm", "weight", "smoothing", "out"), ("labels",), (*_ROWS, "V"))
ACTIVATIONS = ("none", "tanh", "relu")


@helper
def finish_linear(w, i, count, unit, row, sums):
    """From the sums of `count` rows from i, `row` columns from `unit`, to the output."""
    for r in range(count):
        out = shift(w.out, (i + r) * w.out_n)
        for v in range(0, row, w.L):
            y, left = load(sums, r * row + v), w.O - unit - v
            if w.add:
                y = add(load_part(out, unit + v, left), y)
            if w.activation == 1:
                y = applied(static("tanh"), y)
            elif w.activation == 2:
                y = applied(static("relu"), y)
            store_part(out, unit + v, 0, (y,), left)


def build_linear(name, dtype, digest):
    """out = f(x Wᵀ + b), or f(out + x Wᵀ + b); W in panels, as pack_gates or pack_columns makes them."""

    def linear(member, team, args):
        _ = digest
        w = words_of(args, "dense", "LINEAR", name, dtype)
        L = w.L
        first, end = rows_of_member(member, team, w.N, w.together)
        panels = (w.V + w.W - 1) // w.W
        panel0, panel1 = 0, panels
        if w.by_units:
            first, end, panel0, panel1 = 0, w.N, panels * member // team, panels * (member + 1) // team
        offsets, sums = shift(w.offsets, member * (w.capacity + ONE_SIZE)), shift(w.work, member * w.capacity * w.W * L)
        stretches = shift(offsets, w.capacity)
        mode = flush_denormals()
        i = first
        while i < end:
            count = next_rows(end - i, w.capacity)
            nothing_needed(stretches)
            if i + count < end:
                # the next rows
                add_stretch(stretches, shift(w.x, (i + count) * w.x_n), min(count, end - i - count) * w.x_n)
            for r in range(count):
                offsets[r] = (i + r) * w.x_n
            for panel in range(panel0, panel1):
                unit = panel * w.W * L
                row = min(w.W * L, w.V * L - unit)
                following = shift(w.w_ih, min(panel + 1, panel1 - 1) * w.W * L * w.I)
                # nothing else is to be done with whole vectors of plain sums: they go where they belong at once
                plain = w.activation == 0 and w.add == 0 and unit + row <= w.O
                to, to_step = (shift(w.out, i * w.out_n + unit), w.out_n) if plain else (sums, row)
                input_panel(w, panel, row // L, following, count, offsets, to, to_step, stretches)
                if not plain:
                    finish_linear(w, i, count, unit, row, sums)
            i += count
        restore_denormals(mode)

    return linear


def build_gather(name, dtype, digest):
    def gather(member, team, args):
        _ = digest
        w = words_of(args, "dense", "GATHER", name, dtype)
        first, end = rows_of_member(member, team, w.N, w.together)
        for n in range(first, end):
            row, out = shift(w.table, w.index[n] * w.table_n), shift(w.out, n * w.out_n)
            for k in range(0, w.E, w.L):
                store_part(out, k, 0, (load_part(row, k, w.E - k),), w.E - k)

    return gather


def build_scatter(name, dtype, digest):
    """Members divide the columns: every sum has one order."""

    def scatter(member, team, args):
        _ = digest
        w = words_of(args, "dense", "SCATTER", name, dtype)
        L = w.L
        vectors = (w.E + L - 1) // L
        first, end = vectors * member // team * L, min(w.E, vectors * (member + 1) // team * L)
        for m in range(w.M):
            dy, into = shift(w.dy, m * w.dy_m), shift(w.into, w.index[m] * w.E)
            for k in range(first, end, L):
                store_part(into, k, 0, (add(load_part(into, k, w.E - k), load_part(dy, k, w.E - k)),), w.E - k)

    return scatter


def build_slope(name, dtype, digest):
    def slope(member, team, args):
        _ = digest
        w = words_of(args, "dense", "SLOPE", name, dtype)
        first, end = rows_of_member(member, team, w.N, w.together)
        for n in range(first, end):
            for k in range(0, w.F, w.L):
                d, y = load_part(w.dy, n * w.dy_n + k, w.F - k), load_part(w.y, n * w.y_n + k, w.F - k)
                store_part(w.out, n * w.out_n + k, 0, (difference(d, times(times(d, y), y)),), w.F - k)

    return slope


@helper
def top_of(x, n, L):
    top, whole = x[0], n // L * L
    if whole > 0:
        most = load(x, 0)
        for k in range(L, whole, L):
            most = maximum(load(x, k), most)
        top = largest(most)
    for k in range(whole, n):
        top = max(top, x[k])
    return top


def build_log_sum(name, dtype, digest):
    def log_sum(member, team, args):
        _ = digest
        w = words_of(args, "dense", "LOG_SUM", name, dtype)
        first, end = rows_of_member(member, team, w.N, w.together)
        for n in range(first, end):
            x = shift(w.x, n * w.x_n)
            top = top_of(x, w.V, w.L)
            mass, whole = nothing(x), w.V // w.L * w.L
            for k in range(0, whole, w.L):
                mass = add(mass, applied(static("exp"), difference(load(x, k), everywhere(top))))
            left = w.V - whole
            if left > 0:
                e = applied(static("exp"), difference(load_part(x, whole, left), everywhere(top)))
                mass = add(mass, first_lanes(e, left))
            w.out[n] = top + math.log(total(mass))

    return log_sum


def build_loss_gradient(name, dtype, digest):
    """out = weight (exp(x - norm) - (1 - ε) [v = label] - ε / V), of each row; smoothing: 1 - ε, ε / V."""

    def loss_gradient(member, team, args):
        _ = digest
        w = words_of(args, "dense", "LOSS", name, dtype)
        first, end = rows_of_member(member, team, w.N, w.together)
        for n in range(first, end):
            x, out, weight = shift(w.x, n * w.V), shift(w.out, n * w.V), w.weight[n]
            norm = everywhere(w.norm[n])
            for v in range(0, w.V, w.L):
                e = difference(load_part(x, v, w.V - v), norm)
                e = times(everywhere(weight), difference(applied(static("exp"), e), everywhere(w.smoothing[1])))
                store_part(out, v, 0, (e,), w.V - v)
            out[w.labels[n]] = out[w.labels[n]] - weight * w.smoothing[0]

    return loss_gradient
