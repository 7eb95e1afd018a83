"""A cell's text as vector instructions: forward from memory to memory, backward on values."""

from copy import copy

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastrnn.cells import REGISTRY
from fastrnn.cpu.simd import (
    I32,
    I64,
    SCALAR,
    Lanes,
    Vector,
    call_address,
    element,
    llvm_vector,
    load_vector,
    new_function,
    splat,
    store_lanes,
    store_vector,
    vector_pointer,
)  # fmt: skip
from fastrnn.cpu.target import TARGET, lanes, panel_vectors

_MOST = 128  # numbers of a function, or vectors of them


class Constants:
    """The numbers of a function, in memory that the compiler has to take for variable.

    As constants they would be loaded before a loop, sixty of them into thirty-two registers, and then from the stack. So
    would numbers that two distant parts of the function have in common: see `apart`.
    """

    def __init__(self, builder, dtype):
        self.builder, self.dtype = builder, dtype
        self._vectors, self._scalars, self._known = [], [], {}
        self._tables = [
            ir.GlobalVariable(builder.module, ir.ArrayType(kind, _MOST), f"{builder.function.name}_{name}")
            for name, kind in (("vectors", llvm_vector(dtype)), ("scalars", SCALAR[dtype]))
        ]

    def load(self, numbers):
        """A vector of these numbers, of one for each lane or of a single one."""
        builder, single = self.builder, len(numbers) == 1
        rows, table = (self._scalars, self._tables[1]) if single else (self._vectors, self._tables[0])
        if numbers not in self._known:
            self._known[numbers] = len(rows)
            rows.append(numbers)
        value = builder.load(builder.gep(table, [I32(0), I32(self._known[numbers])]))
        return splat(builder, value, llvm_vector(self.dtype)) if single else value

    def apart(self):
        """The same tables for a part of the function that has its numbers for itself."""
        own = copy(self)
        own._known = {}
        return own

    def finish(self):
        """Write the tables, once all numbers are known."""
        for table, rows in zip(self._tables, (self._vectors, self._scalars), strict=True):
            element = table.value_type.element
            values = [ir.Constant(element, list(v) if element != SCALAR[self.dtype] else v[0]) for v in rows]
            values += [ir.Constant(element, ir.Undefined)] * (_MOST - len(values))
            table.initializer = ir.Constant(table.value_type, values)
            table.linkage = "weak"  # what another module might replace is not known to be constant


@intrinsic
def advance(typing, at, n, width, a, a_row, u, u_row, step, hs, cs, y, before, after, y_at, units, saved, saved_step, past):
    """One step of the units of a panel, `width` vectors, of n rows: a cell's forward, from memory to memory.

    at : the address of an advance_function
    a, u : the input's and the recurrent sums, a_row and u_row numbers from a row to the next, `step` from a gate to the next
    before, after, y_at : of each row, where the state lies in hs and cs, where it goes, where h goes in y as well
    units : how many numbers y takes; saved : the tape, behind its state's place, `saved_step` numbers apart unless that is 0
    past : whether the tape is written past the caches, which it would sweep
    """
    intp, table = types.intp, types.CPointer(types.intp)
    kinds = intp, intp, a, intp, a, intp, intp, a, a, a, table, table, table, intp, a, intp, intp
    return types.void(intp, *kinds), call_address


def advance_function(module, dtype, cell):
    scalar, table = SCALAR[dtype].as_pointer(), I64.as_pointer()
    kinds = [I64, I64, scalar, I64, scalar, I64, I64, scalar, scalar, scalar, table, table, table, I64, scalar, I64, I64]
    # named by cell and dtype: so are its constants, which other modules see
    function = new_function(module, f"fastrnn_advance_{cell.name}_{dtype}", kinds)
    n, width, a, a_row, u, u_row, step, *arrays, before, after, y_at, units, saved, saved_step, past = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    constants = Constants(builder, dtype)
    with cgutils.for_range(builder, n) as loop:
        q = loop.index
        at, to, out = (builder.load(builder.gep(places, [q])) for places in (before, after, y_at))
        sums = [builder.gep(pointer, [builder.mul(row, q)]) for pointer, row in ((a, a_row), (u, u_row))]
        with cgutils.for_range(builder, width if panel_vectors(cell.n_gates) > 1 else I64(1)) as vectors:
            unit = builder.mul(vectors.index, I64(lanes(dtype)))
            a_of_row, u_of_row, hs, cs, y, kept = (builder.gep(pointer, [unit]) for pointer in (*sums, *arrays, saved))
            left = builder.sub(units, unit)
            write_step(cell, constants, a_of_row, u_of_row, step, hs, cs, y, at, to, out, left, kept, saved_step, past)
    builder.ret_void()
    constants.finish()
    return function


def write_step(cell, constants, a, u, step, hs, cs, y, at, to, out, units, saved, saved_step, past):
    """The code of one step of a vector of units; arguments as of `advance`, of a single row."""
    builder, dtype = constants.builder, constants.dtype

    def lanes_at(pointer, index):
        return Lanes(builder, load_vector(builder, pointer, index, dtype), dtype, constants)

    def gates(pointer):
        return tuple(lanes_at(pointer, builder.mul(step, I64(g))) for g in range(cell.n_gates))

    h, c, tape = cell.forward(gates(a), gates(u), lanes_at(cs, at))
    store_vector(builder, h.value, hs, to, dtype)
    if cell.memory:  # otherwise c is h, and cs is hs
        store_vector(builder, c.value, cs, to, dtype)
    store_lanes(builder, [(out, h.value)], y, units, dtype)
    with builder.if_then(builder.icmp_signed(">", saved_step, I64(0))):
        start = builder.gep(saved, [builder.mul(at, I64(len(tape)))])
        places = [builder.mul(saved_step, I64(k)) for k in range(len(tape))]
        with builder.if_else(builder.icmp_signed(">", past, I64(0))) as (beside, through):
            with beside:
                for place, value in zip(places, tape, strict=True):
                    store_past(builder, value.value, start, place, dtype)
            with through:
                for place, value in zip(places, tape, strict=True):
                    store_vector(builder, value.value, start, place, dtype)


def store_past(builder, value, pointer, index, dtype):
    """Store a whole vector, at an address that is a multiple of its size, past the caches."""
    store = builder.store(value, vector_pointer(builder, pointer, index, dtype))
    store.align = TARGET.width
    store.set_metadata("nontemporal", builder.module.add_metadata([I32(1)]))


@intrinsic
def load_tape(typing, cell, pointer, index, stride):
    """A vector for each value that a cell (a Static) keeps, `stride` numbers apart."""
    kind, count = Vector(element(pointer)), REGISTRY[cell.value].n_tape

    def codegen(context, builder, signature, args):
        at = [builder.add(args[2], builder.mul(args[3], I64(k))) for k in range(count)]
        values = [load_vector(builder, args[1], i, kind.dtype) for i in at]
        return context.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(kind, count)(cell, pointer, types.intp, types.intp), codegen


@intrinsic
def cell_backward(typing, name, dh, dc, c, tape):
    """dx, du, dc_prev of the cell of that name (a Static)."""
    cell = REGISTRY[name.value]

    def codegen(context, builder, signature, args):
        wrap = lambda value: Lanes(builder, value, c.dtype)  # noqa: E731
        first = wrap(args[1])
        dx, du, dc_prev = cell.backward(
            first, wrap(args[2]), wrap(args[3]), tuple(map(wrap, cgutils.unpack_tuple(builder, args[4])))
        )
        kinds = signature.return_type
        pack = lambda k, values: context.make_tuple(builder, kinds[k], [first.of(v).value for v in values])  # noqa: E731
        return context.make_tuple(builder, kinds, [pack(0, dx), pack(1, du), first.of(dc_prev).value])

    gates = types.UniTuple(c, cell.n_gates)
    return types.Tuple((gates, gates, c))(name, dh, dc, c, tape), codegen
