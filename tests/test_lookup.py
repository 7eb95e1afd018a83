"""Sums looked up in a table stand for the product with a one-hot input; rows that continue the same row share products."""

import numpy as np
import pytest

from fastrnn import reference, reference_ops
from fastrnn.cells import REGISTRY
from fastrnn.contract import Lookup, Weights
from fastrnn.cpu import engine, operations

BACKENDS = {"compiled": (engine, operations), "numpy": (reference, reference_ops)}
TOKENS = 6


def weights_of(cell, I, H, rng, bias=True):
    G = REGISTRY[cell].n_gates
    biases = (rng.normal(size=G * H), rng.normal(size=G * H)) if bias else (None, None)
    return Weights(rng.normal(size=(G * H, I)) / 2, rng.normal(size=(G * H, H)) / 2, *biases)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("T", "N", "I", "H"), [(5, 1, 0, 7), (9, 1, 3, 33), (4, 5, 0, 16), (3, 61, 2, 9), (6, 13, 4, 40)])
@pytest.mark.parametrize("cell", sorted(REGISTRY))
@pytest.mark.parametrize("name", BACKENDS)
def test_a_lookup_is_the_product_with_a_one_hot_input(name, cell, T, N, I, H, reverse, ragged):
    backend, rng = BACKENDS[name][0], np.random.default_rng(T * N)
    weights, cell = weights_of(cell, I, H, rng), REGISTRY[cell]
    tokens, table = rng.integers(0, TOKENS, (T, N)), rng.normal(size=(TOKENS, len(weights.w_hh)))
    x, dy = rng.normal(size=(T, N, I)), rng.normal(size=(T, N, H))
    h0, d_end = rng.normal(size=(N, H)), rng.normal(size=(N, H))
    c0 = rng.normal(size=(N, H)) if cell.memory else None
    lengths = rng.integers(0, T + 1, N) if ragged else None

    whole = weights._replace(w_ih=np.concatenate([weights.w_ih, table.T], 1))
    x_whole = np.concatenate([x, np.eye(TOKENS)[tokens]], 2)
    *wanted, tape = reference.forward(cell, whole, x_whole, h0, c0, lengths, reverse, True)
    d_wanted = reference.backward(cell, tape, dy, d_end)

    given = (cell, backend.prepare(cell, weights), x, h0, c0, lengths, reverse)
    *got, tape = backend.forward(*given, True, lookup=Lookup(table, tokens))
    d = backend.backward(cell, tape, dy, d_end)
    without_tape = backend.forward(*given, False, lookup=Lookup(table, tokens))
    for a, b, c in zip(got, without_tape, wanted, strict=False):
        if c is not None:
            np.testing.assert_allclose(a, c, rtol=1e-11, atol=1e-12)
            assert a.tobytes() == b.tobytes()
    pairs = {
        "table": (d.table, d_wanted.w_ih[:, I:].T), "w_ih": (d.w_ih, d_wanted.w_ih[:, :I]), "w_hh": (d.w_hh, d_wanted.w_hh),
        "x": (d.sums() @ whole.w_ih, d_wanted.x), "h0": (d.h0, d_wanted.h0), "b_ih": (d.b_ih, d_wanted.b_ih),
    }  # fmt: skip
    for key, (a, b) in pairs.items():
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11, err_msg=key)


def branching(work, cell, weights, groups, together, T, rng_seed, *, fed_back, table):
    """h of T steps of rows that continue others of their group; fed back, x is the h of the step before."""
    rng, R, H = np.random.default_rng(rng_seed), groups * together, weights.w_hh.shape[1]
    first = np.arange(R) // together * together
    parents = first + rng.integers(0, together, (T, R))
    if fed_back:
        # two halves by turns would do; a step's x must not be what it writes
        y = np.zeros((T + 1, R, H))
        y[0], x, out = rng.normal(size=(R, H)), y[:-1], y[1:]
    else:
        x, out = rng.normal(size=(T, R, weights.w_ih.shape[1])), np.zeros((T, R, H))
    lookup = Lookup(rng.normal(size=(TOKENS, len(weights.w_hh))), rng.integers(0, TOKENS, (T, R))) if table else None
    prepared = work.pack_cell(cell, weights)
    loop = work.Cells(cell, prepared, x, out, False, parents, fed_back=fed_back, lookup=lookup)
    state = [rng.normal(size=(R, H)) for _ in range(1 + cell.memory)]
    loop.start(*state)
    return loop.operations, out, (parents, x, lookup, state)


@pytest.mark.parametrize("fed_back", [False, True])
@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize(("groups", "together"), [(1, 2), (1, 5), (3, 4), (16, 5)])
@pytest.mark.parametrize("cell", sorted(REGISTRY))
def test_rows_that_continue_the_same_row(cell, groups, together, table, fed_back):
    T, H, R, cell = 6, 35, groups * together, REGISTRY[cell]
    weights = weights_of(cell.name, H if fed_back else 4, H, np.random.default_rng(3))
    outs = []
    for rows_together in (together, 1):
        steps, out, _ = branching(operations, cell, weights, groups, together, T, 7, fed_back=fed_back, table=table)
        operations.run(steps, range(T), rows=R, together=rows_together)
        outs.append(out.copy())
    # whether products are shared changes no bit
    assert outs[0].tobytes() == outs[1].tobytes()

    # a step at a time, the rows put in place by NumPy
    _, _, (parents, x, lookup, state) = branching(
        operations, cell, weights, groups, together, T, 7, fed_back=fed_back, table=table
    )
    before = x[0]
    for t in range(T):
        now = before[parents[t]] if fed_back else x[t]
        state = [s[parents[t]] for s in state]
        at_step = None if lookup is None else Lookup(lookup.table, lookup.tokens[t : t + 1])
        y, *state, _ = reference.forward(cell, weights, now[None], *state, lookup=at_step)
        state = [s for s in state if s is not None]
        before = y[0]
        np.testing.assert_allclose(outs[0][t], y[0], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_tape_counts_its_tokens(name):
    backend, rng = BACKENDS[name][0], np.random.default_rng(0)
    weights, tokens = weights_of("gru", 0, 3, rng), np.zeros((7, 2), int)
    x, table = np.empty((7, 2, 0)), rng.normal(size=(TOKENS, len(weights.w_hh)))
    call = REGISTRY["gru"], backend.prepare(REGISTRY["gru"], weights), x, None, None, None, False, True
    *_, plain = backend.forward(*call)
    *_, looking = backend.forward(*call, lookup=Lookup(table, tokens))
    assert looking.nbytes == plain.nbytes + tokens.nbytes


def test_only_the_rows_of_the_table_that_are_used_are_read():
    """A row of NaN that no token names leaves no trace; nor does what lies behind the table's last row."""
    cell, rng = REGISTRY["gru"], np.random.default_rng(0)
    weights = weights_of("gru", 0, 9, rng, bias=False)
    memory = np.full((TOKENS + 2, 27), np.nan)
    memory[1:-1] = rng.normal(size=(TOKENS, 27))
    memory[3] = np.nan
    tokens = np.array([[0, 1, 5], [3, 4, 5]])
    y, *_ = engine.forward(cell, engine.prepare(cell, weights), np.empty((2, 3, 0)), lookup=Lookup(memory[1:-1], tokens))
    assert np.isfinite(y).all()
