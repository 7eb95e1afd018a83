"""The two time loops: one launch for a whole sequence, each block with its units' weights at hand.

Block (i, j) owns the i-th slice of the units and every `groups`-th row of the batch from the j-th on. In each step it
multiplies what the blocks of its group left in the step before, puts the cell's text on the sums, writes its units, and
waits for the others. Rows are sorted by length; the rows of all steps lie one after another ("packed", `tables` says where).

    tables   first packed row of each step, (steps + 1); sorted row -> row, (N); lengths of the sorted rows, (N)
    kept     hs, cs, saved: the states before a step and what the cell keeps; packed, or of two steps where nothing is kept
    state    (2, N, H) the first state, replaced by the last; in backward the gradients, from the last to the first
"""

from functools import cache

import numpy as np
from numba import cuda

from fastrnn.cells import REGISTRY
from fastrnn.cuda.product import product_of, wait
from fastrnn.cuda.rows import row_of
from fastrnn.cuda.scalars import adder, device, loader, reader, real_of, stored_as, storer, text, writer
from fastrnn.cuda.target import ITEM, backward_tile, forward_tile


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


def weights_of(resident, gates):
    """A device function: where this block's rows of the weights are, the first, and the distance from gate to gate.

    room : shared memory, which they are copied to if resident
    """
    if not resident:
        return device(lambda w, room, H, first, own, K: (w, first, H))

    def hold(w, room, H, first, own, K):
        size = own * K
        for i in range(cuda.threadIdx.x, gates * size, cuda.blockDim.x):
            gate = i // size
            room[i] = w[(gate * H + first) * K + i - gate * size]
        cuda.syncthreads()
        return room, 0, own

    return device(hold)


@cache
def forward(name, dtype, resident, keep):
    """The forward loop of a cell, for weights in shared memory or not, with a tape or not."""
    cell, real, tile = REGISTRY[name], real_of(dtype), forward_tile(name, dtype)
    real_type, stored_type = np.dtype(real), np.dtype(stored_as(dtype))
    G, K, R, columns, memory = cell.n_gates, cell.n_tape, tile.rows, tile.columns, cell.memory
    product, base = product_of(tile, dtype)
    advance, store = text(cell.forward, real), storer(dtype)
    load_gates, gates_of, save, add = reader(G, dtype), reader(G), writer(K), adder(G)
    take, behind = weights_of(resident, G), tile.room * ITEM[real.__name__] // ITEM[dtype]

    @device
    def places(q, tables, s):
        """Where h and c are before step s, and after it, in rows of `kept`; where the saved ones start."""
        total = tables[q.steps]
        if keep:
            return tables[s], tables[s + 1], total + tables[s], total + tables[s + 1], (1 + memory) * total
        return s % 2 * q.N, (1 - s % 2) * q.N, 2 * q.N, 2 * q.N, 0

    @device
    def begin(q, kept, tables, state, first, own):
        before, _, c_before, _, _ = places(q, tables, 0)
        for i in range(cuda.threadIdx.x, of_group(q.N, q.groups) * own, cuda.blockDim.x):
            row, unit = cuda.blockIdx.y + i // own * q.groups, first + i % own
            n, end = row_of(q, tables, row)
            if end > 0:
                kept[(before + row) * q.H + unit] = state[n * q.H + unit]
                if memory:
                    kept[(c_before + row) * q.H + unit] = state[(q.N + n) * q.H + unit]

    @device
    def step(q, s, row, unit, u, b, a, kept, tables, state, y):
        """One unit of one row: its sums -> h, c, what is kept."""
        N, H = q.N, q.H
        before, after, c_before, c_after, saved = places(q, tables, s)
        n, end = row_of(q, tables, row)
        packed = tables[s] + row
        if q.given:
            u = add(u, load_gates(b, unit, H))
        h_prev = kept[(before + row) * H + unit]
        c_prev = kept[(c_before + row) * H + unit] if memory else h_prev
        h, c, tape = advance(gates_of(a, packed * G * H + unit, H), u, c_prev)
        y[end - 1 - s if q.reverse else s, n, unit] = store(h)
        if keep:
            save(kept, (saved + packed * K) * H + unit, H, tape)
        if s + 1 < end:
            kept[(after + row) * H + unit] = h
            if memory:
                kept[(c_after + row) * H + unit] = c
        else:
            state[n * H + unit] = h
            state[(N + n) * H + unit] = c

    @cuda.jit
    def forward_loop(q, w, b, a, kept, tables, state, y, flags):
        pool = cuda.shared.array(0, real_type)
        group = cuda.blockIdx.y
        first, own = slice_of(q.H)
        weights, weights_first, gate_step = take(w, cuda.shared.array(0, stored_type)[behind:], q.H, first, own, q.H)
        begin(q, kept, tables, state, first, own)
        wait(flags, group, cuda.gridDim.x)
        for s in range(q.steps):
            mine = of_group(tables[s + 1] - tables[s], q.groups)
            if mine <= 0:
                break
            before = places(q, tables, s)[0]
            for r0 in range(0, mine, R):
                start = (before + group + r0 * q.groups) * q.H
                for u0 in range(0, own, columns):
                    product(
                        weights, weights_first, gate_step, own, u0, q.H,
                        kept, start, q.groups * q.H, mine - 1 - r0, pool,
                    )  # fmt: skip
                    for i in range(cuda.threadIdx.x, columns * R, cuda.blockDim.x):
                        j, r = i % columns, i // columns
                        if u0 + j < own and r0 + r < mine:
                            u = gates_of(pool, base + j * G * R + r, R)
                            row, unit = group + (r0 + r) * q.groups, first + u0 + j
                            step(q, s, row, unit, u, b, a, kept, tables, state, y)
            wait(flags, group, cuda.gridDim.x)

    return forward_loop


@cache
def backward(name, dtype, resident):
    """The backward loop of a cell: from dy and the tape to `d`, the gradients of both sides' sums, packed (G H) each."""
    cell, real, tile = REGISTRY[name], real_of(dtype), backward_tile(dtype)
    real_type, stored_type = np.dtype(real), np.dtype(stored_as(dtype))
    G, K, R, columns, memory, shared = (
        cell.n_gates, cell.n_tape, tile.rows, tile.columns, cell.memory, cell.shares_gradient,
    )  # fmt: skip
    product, base = product_of(tile, dtype)
    retreat, load = text(cell.backward, real), loader(dtype)
    tape_of, write = reader(K), writer(G)
    take, behind = weights_of(resident, 1), tile.room * ITEM[real.__name__] // ITEM[dtype]

    @device
    def step(q, s, row, unit, kept, tables, state, dy, d):
        """One unit of one row: the gradients of its h and c -> those of its sums and of the c before."""
        N, H, total = q.N, q.H, tables[q.steps]
        n, end = row_of(q, tables, row)
        packed = tables[s] + row
        at, c_at = n * H + unit, (N + n) * H + unit
        dh = state[at]
        if q.given:
            dh += load(dy[end - 1 - s if q.reverse else s, n, unit])
        c_prev = kept[((total if memory else 0) + packed) * H + unit]
        tape = tape_of(kept, ((1 + memory) * total + packed * K) * H + unit, H)
        dx, du, dc = retreat(dh, state[c_at], c_prev, tape)
        write(d, packed * G * H + unit, H, dx)
        if not shared:
            write(d, (total + packed) * G * H + unit, H, du)
        state[c_at] = real(dc)

    @cuda.jit
    def backward_loop(q, w, kept, tables, state, dy, d, flags):
        pool = cuda.shared.array(0, real_type)
        group, thread, threads, width = cuda.blockIdx.y, cuda.threadIdx.x, cuda.blockDim.x, G * q.H
        first, own = slice_of(q.H)
        weights, weights_first, gate_step = take(w, cuda.shared.array(0, stored_type)[behind:], q.H, first, own, width)
        from_sums = 0 if shared else tables[q.steps]
        for s in range(q.steps - 1, -1, -1):
            mine = of_group(tables[s + 1] - tables[s], q.groups)
            if mine <= 0:
                continue
            for i in range(thread, mine * own, threads):
                step(q, s, group + i // own * q.groups, first + i % own, kept, tables, state, dy, d)
            wait(flags, group, cuda.gridDim.x)
            for r0 in range(0, mine, R):
                start = (from_sums + tables[s] + group + r0 * q.groups) * width
                for u0 in range(0, own, columns):
                    product(
                        weights, weights_first, gate_step, own, u0, width,
                        d, start, q.groups * width, mine - 1 - r0, pool,
                    )  # fmt: skip
                    for i in range(thread, columns * R, threads):
                        j, r = i % columns, i // columns
                        if u0 + j < own and r0 + r < mine:
                            n, _ = row_of(q, tables, group + (r0 + r) * q.groups)
                            state[n * q.H + first + u0 + j] = pool[base + j * R + r]
            cuda.syncthreads()
        if not memory:  # h's gradient by way of c, which is h
            for i in range(thread, of_group(q.N, q.groups) * own, threads):
                n, _ = row_of(q, tables, group + i // own * q.groups)
                at = n * q.H + first + i % own
                state[at] += state[q.N * q.H + at]

    return backward_loop
