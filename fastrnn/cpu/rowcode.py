"""A single row's step as one function, written as LLVM: the product of some panels, and the cell's arithmetic on its sums.

With one row a step is short, and the next waits for it: what it takes to call a function counts.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastrnn.cpu.cellcode import Constants, write_step
from fastrnn.cpu.simd import I64, call_address, llvm_vector
from fastrnn.cpu.target import lanes, panel_vectors, panels_at_once
from fastrnn.cpu.tile import columns_of, function_of, put, sums_of, vectors_of_row

_PARAMETERS = (
    "vectors", "width", "step", "a", "b", "b_step", "b_panel", "init", "depth", "pre", "hs", "cs", "y", "before", "after",
    "y_at", "units", "saved", "saved_step", "past",
)  # fmt: skip


@intrinsic
def advance_row(typing, at, vectors, width, step, a, b, b_step, b_panel, init, depth, pre, hs, cs, y, before, after, y_at,
                units, saved, saved_step, past):  # fmt: skip
    """One step of `width` vectors of units of one row, from the recurrent sums init[v] + Σ_k a[k] b[k b_step + v].

    at : the address of an advance_row_function; vectors, b_panel : as of product_of_row; step : from a gate to the next in
    the last panel; depth : 0 where the sums are init
    pre : the input's sums, panel after panel; before, after, y_at : where the state lies in hs and cs, where it goes,
    where h goes in y as well; units, saved, saved_step, past : as of advance
    """
    intp = types.intp
    states = (a, a, a, a, intp, intp, intp, intp, a, intp, intp)
    return types.void(intp, intp, intp, intp, a, a, intp, intp, a, intp, *states), call_address


def advance_row_function(module, dtype, cell):
    """A switch over the vectors, whose sums go to the stack; one loop over the vectors of units for all of them."""
    function, named = function_of(module, f"fastrnn_advance_row_{cell.name}_{dtype}", dtype, _PARAMETERS)
    builder = ir.IRBuilder(function.append_basic_block("start"))
    room = builder.alloca(llvm_vector(dtype), I64(cell.n_gates * panel_vectors(cell.n_gates) * panels_at_once(cell.n_gates)))
    sums = builder.bitcast(room, named["init"].type)
    product, step = function.append_basic_block("product"), function.append_basic_block("step")
    builder.cbranch(builder.icmp_signed(">", named["depth"], I64(0)), product, step)
    incoming = [(named["init"], builder.block)]
    by_vectors = ir.IRBuilder(product).switch(named["vectors"], step)
    incoming.append((named["init"], product))
    for vectors in vectors_of_row(cell.n_gates, 1):
        builder.position_at_end(function.append_basic_block(f"vectors{sum(vectors)}"))
        by_vectors.add_case(I64(sum(vectors)), builder.block)
        row = named["a"], columns_of(builder, named["b"], named["b_panel"], vectors)
        totals = sums_of(builder, dtype, [row], False, I64(1), named["b_step"], named["depth"], named["b"], I64(0))
        put(builder, dtype, totals, named["init"], I64(0), sums, I64(0))
        incoming.append((sums, builder.block))
        builder.branch(step)
    builder.position_at_end(step)
    u = builder.phi(sums.type)
    for value, block in incoming:
        u.add_incoming(value, block)
    _write_steps(builder, dtype, cell, u, named)
    builder.ret_void()
    return function


def _write_steps(builder, dtype, cell, u, named):
    """The cell's step of each vector of units: those of a panel have each gate side by side."""
    constants, L, most = Constants(builder, dtype), lanes(dtype), panel_vectors(cell.n_gates)
    with cgutils.for_range(builder, named["width"]) as vectors:
        v, unit = vectors.index, builder.mul(vectors.index, I64(L))
        behind = builder.add(v, I64(most))
        step = builder.select(builder.icmp_signed("<", behind, named["width"]), I64(most * L), named["step"])
        panel = builder.sdiv(v, I64(most))
        at = builder.add(unit, builder.mul(panel, I64((cell.n_gates - 1) * most * L)))
        sums = [builder.gep(pointer, [at]) for pointer in (named["pre"], u)]
        hs, cs, y, saved = (builder.gep(named[name], [unit]) for name in ("hs", "cs", "y", "saved"))
        write_step(
            cell, constants, *sums, step, hs, cs, y, *(named[p] for p in ("before", "after", "y_at")),
            builder.sub(named["units"], unit), saved, named["saved_step"], named["past"],
        )  # fmt: skip
    constants.finish()
