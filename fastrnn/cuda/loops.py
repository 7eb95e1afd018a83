"""The two time loops: one launch for a whole sequence, each block with its units' weights at hand.

Block (i, j) owns the i-th slice of the units and every `groups`-th row of the batch from the j-th on. In each step it
multiplies what the blocks of its group left in the step before, puts the cell's text on the sums, and writes its units.
Nobody waits at a barrier: what blocks read of each other (forward: h of every step, backward: the gradients of the sums that
h enters) is all-ones until it is written, each number once, and is read until it is there. Rows are sorted by length; the
rows of all steps lie one after another ("packed", `tables` says where).

    tables   first packed row of each step, (steps + 1); sorted row -> row, (N); lengths of the sorted rows, (N)
    kept     hs, cs, saved: the states before a step and what the cell keeps, packed; for no tape hs and the c of one step
    passed   what blocks read of each other, rows of `q.width`: hs or a part of d, the same memory, perhaps as words of two
             numbers; or, for tensor cores, memory of its own in their order
    state    (2, N, H) the first state, replaced by the last; in backward the gradients, from the last to the first
"""

from functools import cache

import numpy as np
from numba import cuda

from fastrnn.cells import REGISTRY
from fastrnn.cuda import fragments, product
from fastrnn.cuda.rows import of_group, row_of
from fastrnn.cuda.scalars import adder, device, exchange, loader, place, put, reader, real_of, storer, text, writer
from fastrnn.cuda.tiles import Fragments


@device
def slice_of(H):
    """This block's units: the first, and how many."""
    size = (H + cuda.gridDim.x - 1) // cuda.gridDim.x
    first = cuda.blockIdx.x * size
    return first, max(min(size, H - first), 0)


def multiplier_of(form, dtype):
    """How a form's tile multiplies."""
    return (fragments if isinstance(form.tile, Fragments) else product).multiplier(form, dtype)


def forward_units(cell, dtype, apart, keep, leave):
    """Device functions of the forward loop, for units of rows: rows of `kept`, the first states, and a step of one unit of
    one row, before its product and after it."""
    real, G, K, memory = real_of(dtype), cell.n_gates, cell.n_tape, cell.memory
    advance, store, written = text(cell.forward, real), storer(dtype), exchange(real).written
    load_gates, gates_of, save, add = reader(G, dtype), reader(G), writer(K), adder(G)

    @device
    def places(q, total, packed, following):
        """Rows of `kept`: h before a step and after it, c before and after."""
        if keep:
            return packed, following, total + packed, total + following
        if apart:
            return 0, 0, q.N, q.N
        return packed, following, total, total

    @device
    def begin(q, kept, here, tables, state, first, own):
        before, _, c_before, _ = places(q, tables[q.steps], 0, 0)
        group = cuda.blockIdx.y
        for i in range(cuda.threadIdx.x, of_group(q.N, q.groups, group) * own, cuda.blockDim.x):
            r, unit = i // own, first + i % own
            row = group + r * q.groups
            n, end = row_of(q, tables, row)
            if end > 0:
                leave((here, r), unit, state[n * q.H + unit])
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
    def finish(q, s, at, row, packed, unit, u, known, kept, passed_row, tables, state, y):
        """One unit of one row: its sums -> h, c, what is kept."""
        n, end, x, bias, c_prev = known
        H = q.H
        h, c, tape = advance(x, add(u, bias) if q.given else u, c_prev)
        if s + 1 < end:
            leave(passed_row, unit, h)  # first: others wait for it
            kept[place((at[1] + row) * H + unit)] = written(h)
            if memory:
                kept[place((at[3] + row) * H + unit)] = c
        else:
            state[place(n * H + unit)] = h
            state[place((q.N + n) * H + unit)] = c
        y[place(end - 1 - s if q.reverse else s), place(n), place(unit)] = store(h)
        if keep:
            save(kept, ((1 + memory) * tables[q.steps] + (packed + row) * K) * H + unit, H, tape)

    return places, begin, gather, finish


@cache
def forward(name, dtype, form, keep):
    """The forward loop of a cell, for a form (its tile, and where the weights are), with a tape or not."""
    tile, held, real_type = form.tile, form.held, np.dtype(real_of(dtype))
    R, columns = tile.rows, tile.columns
    take, rows_of, product, sums_of, leave, room_type, behind, own_type = multiplier_of(form, dtype)
    places, begin, gather, finish = forward_units(REGISTRY[name], dtype, tile.apart, keep, leave)

    @cuda.jit
    def forward_loop(q, w, b, a, kept, passed, tables, state, y):
        pool = cuda.shared.array(0, real_type)
        group, j, r = cuda.blockIdx.y, cuda.threadIdx.x % columns, cuda.threadIdx.x // columns
        first, own = slice_of(q.H)
        room, own_room = cuda.shared.array(0, room_type)[behind:], cuda.local.array(held, own_type)
        weights, weights_first, gate_step = take(w, room, own_room, q.H, first, own, q.H)
        packed, following = 0, tables[min(1, q.steps)]
        here = rows_of(q, 0, packed, group, passed)
        begin(q, kept, here, tables, state, first, own)
        cuda.syncthreads()
        for s in range(q.steps):
            mine = of_group(following - packed, q.groups, group)
            if mine <= 0:
                break
            upcoming = tables[place(min(s + 2, q.steps))]
            there = rows_of(q, s + 1, following, group, passed)
            at = places(q, tables[q.steps], packed, following)
            for r0 in range(0, mine, R):
                for u0 in range(0, own, columns):
                    row, unit = group + min(r0 + r, mine - 1) * q.groups, first + min(u0 + j, own - 1)
                    # on its way while the product is computed
                    known = gather(q, at, row, packed, unit, b, a, kept, tables)
                    product(weights, weights_first, gate_step, own, u0, q.H, here, r0, mine - 1 - r0, pool)
                    if r < R and r0 + r < mine and u0 + j < own:
                        u = sums_of(pool, j, r)
                        finish(q, s, at, row, packed, unit, u, known, kept, (there, r0 + r), tables, state, y)
                    cuda.syncthreads()  # what a block reads of its own must not wait behind the reading
            packed, following, here = following, upcoming, there

    return forward_loop


def backward_units(cell, dtype, leave):
    """The same of the backward loop: what a step of one unit of one row needs besides its product, and the step after it."""
    real, load, written = real_of(dtype), loader(dtype), exchange(real_of(dtype)).written
    G, K, memory, shared = cell.n_gates, cell.n_tape, cell.memory, cell.shares_gradient
    retreat, tape_of, zero = text(cell.backward, real), reader(K), real(0)

    @device
    def put_written(array, at, x):
        put(array, at, written(x))

    write, leave_all = writer(G, put_written), writer(G, leave)

    @device
    def gather(q, s, row, unit, kept, tables, state, dy):
        """The row, the gradient that y has of its own, that of c, c before the step, what the cell kept."""
        total, packed = tables[q.steps], tables[place(s)] + row
        n, end = row_of(q, tables, row)
        of_y = load(dy[place(end - 1 - s if q.reverse else s), place(n), place(unit)]) if q.given else zero
        c_prev = kept[place(((total if memory else 0) + packed) * q.H + unit)]
        tape = tape_of(kept, ((1 + memory) * total + packed * K) * q.H + unit, q.H)
        return n, of_y, state[place((q.N + n) * q.H + unit)], c_prev, tape

    @device
    def finish(q, s, row, unit, dh, known, tables, state, d, passed_row):
        """The gradients of h and c after the step -> those of its sums and of the c before."""
        H, packed = q.H, tables[place(s)] + row
        n, of_y, dc, c_prev, tape = known
        dx, du, dc = retreat(dh + of_y, dc, c_prev, tape)
        leave_all(passed_row, unit, H, dx if shared else du)  # first: others wait for them
        write(d, packed * G * H + unit, H, dx)
        if not shared:
            write(d, (tables[q.steps] + packed) * G * H + unit, H, du)
        state[place((q.N + n) * H + unit)] = real(dc)

    return gather, finish


@cache
def backward(name, dtype, form):
    """The backward loop of a cell: from dy and the tape to `d`, the gradients of both sides' sums, packed (G H) each."""
    cell, tile, held, real_type = REGISTRY[name], form.tile, form.held, np.dtype(real_of(dtype))
    G, R, columns, memory = cell.n_gates, tile.rows, tile.columns, cell.memory
    take, rows_of, product, sums_of, leave, room_type, behind, own_type = multiplier_of(form, dtype)
    gather, finish = backward_units(cell, dtype, leave)

    @device
    def begin(q, s, done, count, first, own, kept, tables, state, dy, d, here):
        """Rows whose last step s is, the block's from `done` on: the gradients of their h are those of the last state."""
        for i in range(cuda.threadIdx.x, (count - done) * own, cuda.blockDim.x):
            r, unit = done + i // own, first + i % own
            row = cuda.blockIdx.y + r * q.groups
            known = gather(q, s, row, unit, kept, tables, state, dy)
            dh = state[place(known[0] * q.H + unit)]
            finish(q, s, row, unit, dh, known, tables, state, d, (here, r))

    @cuda.jit
    def backward_loop(q, w, kept, tables, state, dy, d, passed):
        pool = cuda.shared.array(0, real_type)
        group, thread, threads, width = cuda.blockIdx.y, cuda.threadIdx.x, cuda.blockDim.x, G * q.H
        j, r = thread % columns, thread // columns
        first, own = slice_of(q.H)
        room, own_room = cuda.shared.array(0, room_type)[behind:], cuda.local.array(held, own_type)
        weights, weights_first, gate_step = take(w, room, own_room, q.H, first, own, width)
        done = 0
        for s in range(q.steps - 1, -1, -1):
            mine = of_group(tables[s + 1] - tables[s], q.groups, group)
            here = rows_of(q, s, tables[s], group, passed)
            if mine > done:
                begin(q, s, done, mine, first, own, kept, tables, state, dy, d, here)
                cuda.syncthreads()  # as in forward_loop
                done = mine
            before = max(s - 1, 0)
            there = rows_of(q, before, tables[place(before)], group, passed)
            for r0 in range(0, mine, R):
                for u0 in range(0, own, columns):
                    row, unit = group + min(r0 + r, mine - 1) * q.groups, first + min(u0 + j, own - 1)
                    # on its way while the product is computed
                    known = gather(q, before, row, unit, kept, tables, state, dy)
                    product(weights, weights_first, gate_step, own, u0, width, here, r0, mine - 1 - r0, pool)
                    if r < R and r0 + r < mine and u0 + j < own:
                        dh = sums_of(pool, j, r)[0]
                        if s > 0:
                            finish(q, before, row, unit, dh, known, tables, state, d, (there, r0 + r))
                        else:
                            state[place(known[0] * q.H + unit)] = dh
                    cuda.syncthreads()
        if not memory:  # h's gradient by way of c, which is h
            for i in range(thread, of_group(q.N, q.groups, group) * own, threads):
                n, _ = row_of(q, tables, group + i // own * q.groups)
                at = n * q.H + first + i % own
                state[at] += state[q.N * q.H + at]

    return backward_loop
