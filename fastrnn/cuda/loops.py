"""The two time loops: one launch for a whole sequence, each block with its units' weights at hand.

Block (i, j) owns the i-th slice of the units and every `groups`-th row of the batch from the j-th on. In each step it
multiplies what the blocks of its group left in the step before, puts the cell's text on the sums, and writes its units.
Nobody waits at a barrier: what blocks read of each other (forward: h of every step, backward: the gradients of the sums that
h enters) is all-ones until it is written, each number once, and is read until it is there. Rows are sorted by length; the
rows of all steps lie one after another ("packed", `tables` says where).

    tables   first packed row of each step, (steps + 1); sorted row -> row, (N); lengths of the sorted rows, (N)
    kept     hs, cs, saved: the states before a step and what the cell keeps, packed; for no tape hs and the c of one step
    passed   what blocks read of each other, hs or a part of d: the same memory, perhaps as words of two numbers
    state    (2, N, H) the first state, replaced by the last; in backward the gradients, from the last to the first
"""

from functools import cache

import numpy as np
from numba import cuda

from fastrnn.cells import REGISTRY
from fastrnn.cuda.plan import REGISTERS, SHARED, STREAMED
from fastrnn.cuda.product import LANES, product_of
from fastrnn.cuda.rows import row_of
from fastrnn.cuda.scalars import (
    adder,
    device,
    exchange,
    loader,
    place,
    reader,
    real_name,
    real_of,
    stored_as,
    storer,
    text,
    writer,
)
from fastrnn.cuda.target import ITEM


@device
def slice_of(H):
    """This block's units: the first, and how many."""
    size = (H + cuda.gridDim.x - 1) // cuda.gridDim.x
    first = cuda.blockIdx.x * size
    return first, max(min(size, H - first), 0)


@device
def of_group(count, groups):
    """How many of the first `count` sorted rows are this block's."""
    return (count - cuda.blockIdx.y + groups - 1) // groups


def weights_of(form, dtype):
    """A device function: where this block's rows of the weights are, the first, and the distance from gate to gate.

    They are copied to `room` in shared memory, or each lane's to `own_room`, its registers, or read where they are.
    """
    gates, units, terms, load = form.tile.gates, form.tile.units, form.terms, loader(dtype)
    zero = real_of(dtype)(0)

    def read(w, room, own_room, H, first, own, K):
        return w, first, H

    def share(w, room, own_room, H, first, own, K):
        size = own * K
        for i in range(cuda.threadIdx.x, gates * size, cuda.blockDim.x):
            gate = i // size
            room[i] = w[(gate * H + first) * K + i - gate * size]
        cuda.syncthreads()
        return room, 0, own

    def hold(w, room, own_room, H, first, own, K):
        for p in range(units * gates):
            unit = first + min(cuda.threadIdx.x // LANES * units + p // gates, own - 1)
            for i in range(terms):
                k = cuda.threadIdx.x % LANES + i * LANES
                own_room[p * terms + i] = load(w[(p % gates * H + unit) * K + k]) if k < K else zero
        return own_room, 0, own

    return device({STREAMED: read, SHARED: share, REGISTERS: hold}[form.where])


@cache
def forward(name, dtype, form, keep):
    """The forward loop of a cell, for a form (its tile, and where the weights are), with a tape or not."""
    cell, real, tile = REGISTRY[name], real_of(dtype), form.tile
    real_type, stored_type = np.dtype(real), np.dtype(stored_as(dtype))
    G, K, R, columns, base, memory = cell.n_gates, cell.n_tape, tile.rows, tile.columns, tile.base, cell.memory
    product, advance, store = product_of(tile, dtype, form.terms, True), text(cell.forward, real), storer(dtype)
    load_gates, gates_of, save, add, written = reader(G, dtype), reader(G), writer(K), adder(G), exchange(real).written
    take, behind, held = weights_of(form, dtype), tile.room * ITEM[real_name(dtype)] // ITEM[dtype], form.held

    @device
    def places(total, packed, following):
        """Rows of `kept`: h before a step and after it, c before and after."""
        if keep:
            return packed, following, total + packed, total + following
        return packed, following, total, total

    @device
    def begin(q, kept, tables, state, first, own):
        before, _, c_before, _ = places(tables[q.steps], 0, 0)
        for i in range(cuda.threadIdx.x, of_group(q.N, q.groups) * own, cuda.blockDim.x):
            row, unit = cuda.blockIdx.y + i // own * q.groups, first + i % own
            n, end = row_of(q, tables, row)
            if end > 0:
                kept[(before + row) * q.H + unit] = written(state[n * q.H + unit])
                if memory:
                    kept[(c_before + row) * q.H + unit] = state[(q.N + n) * q.H + unit]

    @device
    def gather(q, at, row, packed, unit, b, a, kept, tables):
        """What one unit of one row needs besides its product: row, length, input's sums, biases, c before."""
        n, end = row_of(q, tables, row)
        x = gates_of(a, (packed + row) * G * q.H + unit, q.H)
        c_prev = kept[place(((at[2] if memory else at[0]) + row) * q.H + unit)]
        return n, end, x, load_gates(b, unit if q.given else 0, q.H if q.given else 0), c_prev

    @device
    def finish(q, s, at, row, packed, unit, u, known, kept, tables, state, y):
        """One unit of one row: its sums -> h, c, what is kept."""
        n, end, x, bias, c_prev = known
        H = q.H
        h, c, tape = advance(x, add(u, bias) if q.given else u, c_prev)
        if s + 1 < end:
            kept[place((at[1] + row) * H + unit)] = written(h)  # first: others wait for it
            if memory:
                kept[place((at[3] + row) * H + unit)] = c
        else:
            state[place(n * H + unit)] = h
            state[place((q.N + n) * H + unit)] = c
        y[place(end - 1 - s if q.reverse else s), place(n), place(unit)] = store(h)
        if keep:
            save(kept, ((1 + memory) * tables[q.steps] + (packed + row) * K) * H + unit, H, tape)

    @cuda.jit
    def forward_loop(q, w, b, a, kept, passed, tables, state, y):
        pool = cuda.shared.array(0, real_type)
        group, j, r = cuda.blockIdx.y, cuda.threadIdx.x % columns, cuda.threadIdx.x // columns
        first, own = slice_of(q.H)
        room, own_room = cuda.shared.array(0, stored_type)[behind:], cuda.local.array(held, real)
        weights, weights_first, gate_step = take(w, room, own_room, q.H, first, own, q.H)
        begin(q, kept, tables, state, first, own)
        cuda.syncthreads()
        packed, following = 0, tables[min(1, q.steps)]
        for s in range(q.steps):
            mine = of_group(following - packed, q.groups)
            if mine <= 0:
                break
            upcoming = tables[place(min(s + 2, q.steps))]
            at = places(tables[q.steps], packed, following)
            for r0 in range(0, mine, R):
                for u0 in range(0, own, columns):
                    row, unit = group + min(r0 + r, mine - 1) * q.groups, first + min(u0 + j, own - 1)
                    # on its way while the product is computed
                    known = gather(q, at, row, packed, unit, b, a, kept, tables)
                    product(
                        weights, weights_first, gate_step, own, u0, q.H, passed, (at[0] + group + r0 * q.groups) * q.H,
                        q.groups * q.H, mine - 1 - r0, pool,
                    )  # fmt: skip
                    if r < R and r0 + r < mine and u0 + j < own:
                        u = gates_of(pool, base + j * G * R + r, R)
                        finish(q, s, at, row, packed, unit, u, known, kept, tables, state, y)
            cuda.syncthreads()  # what a block reads of its own must not wait behind the reading
            packed, following = following, upcoming

    return forward_loop


@cache
def backward(name, dtype, form):
    """The backward loop of a cell: from dy and the tape to `d`, the gradients of both sides' sums, packed (G H) each."""
    cell, real, tile = REGISTRY[name], real_of(dtype), form.tile
    real_type, stored_type = np.dtype(real), np.dtype(stored_as(dtype))
    G, K, R, columns, base = cell.n_gates, cell.n_tape, tile.rows, tile.columns, tile.base
    memory, shared = cell.memory, cell.shares_gradient
    product, retreat, load = product_of(tile, dtype, form.terms, True), text(cell.backward, real), loader(dtype)
    tape_of, write = reader(K), writer(G, exchange(real).written)
    take, behind, held = weights_of(form, dtype), tile.room * ITEM[real_name(dtype)] // ITEM[dtype], form.held

    @device
    def step(q, s, row, unit, kept, tables, state, dy, d):
        """One unit of one row: the gradients of its h and c -> those of its sums and of the c before."""
        N, H, total = q.N, q.H, tables[q.steps]
        n, end = row_of(q, tables, row)
        packed = tables[s] + row
        at, c_at = place(n * H + unit), place((N + n) * H + unit)
        dh = state[at]
        if q.given:
            dh += load(dy[place(end - 1 - s if q.reverse else s), place(n), place(unit)])
        c_prev = kept[place(((total if memory else 0) + packed) * H + unit)]
        tape = tape_of(kept, ((1 + memory) * total + packed * K) * H + unit, H)
        dx, du, dc = retreat(dh, state[c_at], c_prev, tape)
        write(d, packed * G * H + unit, H, dx)
        if not shared:
            write(d, (total + packed) * G * H + unit, H, du)
        state[c_at] = real(dc)

    @cuda.jit
    def backward_loop(q, w, kept, tables, state, dy, d, passed):
        pool = cuda.shared.array(0, real_type)
        group, thread, threads, width = cuda.blockIdx.y, cuda.threadIdx.x, cuda.blockDim.x, G * q.H
        j, r = thread % columns, thread // columns
        first, own = slice_of(q.H)
        room, own_room = cuda.shared.array(0, stored_type)[behind:], cuda.local.array(held, real)
        weights, weights_first, gate_step = take(w, room, own_room, q.H, first, own, width)
        from_sums = 0 if shared else tables[q.steps]
        for s in range(q.steps - 1, -1, -1):
            packed = tables[s]
            mine = of_group(tables[s + 1] - packed, q.groups)
            if mine <= 0:
                continue
            for i in range(thread, mine * own, threads):
                step(q, s, group + i // own * q.groups, first + i % own, kept, tables, state, dy, d)
            cuda.syncthreads()  # as in forward_loop
            for r0 in range(0, mine, R):
                for u0 in range(0, own, columns):
                    product(
                        weights, weights_first, gate_step, own, u0, width,
                        passed, (from_sums + packed + group + r0 * q.groups) * width, q.groups * width, mine - 1 - r0, pool,
                    )  # fmt: skip
                    if r < R and r0 + r < mine and u0 + j < own:
                        n, _ = row_of(q, tables, group + (r0 + r) * q.groups)
                        state[place(n * q.H + first + u0 + j)] = pool[place(base + j * R + r)]
            cuda.syncthreads()  # other threads of the block read it
        if not memory:  # h's gradient by way of c, which is h
            for i in range(thread, of_group(q.N, q.groups) * own, threads):
                n, _ = row_of(q, tables, group + i // own * q.groups)
                at = n * q.H + first + i % own
                state[at] += state[q.N * q.H + at]

    return backward_loop
