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
from fastrnn.cpu.tile import function_of, put, row_widths, sums_of

_PARAMETERS = (
    "width", "a", "b", "b_step", "b_panel", "init", "depth", "pre", "hs", "cs", "y", "before", "after", "y_at", "units",
    "saved", "saved_step", "past",
)  # fmt: skip


@intrinsic
def advance_row(typing, at, width, a, b, b_step, b_panel, init, depth, pre, hs, cs, y, before, after, y_at, units, saved,
                saved_step, past):  # fmt: skip
    """One step of `width` vectors of units of one row, from the recurrent sums init[v] + Σ_k a[k] b[k b_step + v].

    at : the address of an advance_row_function; width, b_panel : as of product_of_row; depth : 0 where the sums are init
    pre : the input's sums, panel after panel; before, after, y_at : where the state lies in hs and cs, where it goes,
    where h goes in y as well; units, saved, saved_step, past : as of advance
    """
    intp = types.intp
    states = (a, a, a, a, intp, intp, intp, intp, a, intp, intp)
    return types.void(intp, intp, a, a, intp, intp, a, intp, *states), call_address


def advance_row_function(module, dtype, cell):
    """A switch over the widths, whose sums go to the stack; one loop over the vectors of units for all of them."""
    function, named = function_of(module, f"fastrnn_advance_row_{cell.name}_{dtype}", dtype, _PARAMETERS)
    builder = ir.IRBuilder(function.append_basic_block("start"))
    whole, many = panel_vectors(cell.n_gates), panels_at_once(cell.n_gates)
    room = builder.alloca(llvm_vector(dtype), I64(cell.n_gates * whole * many))
    sums = builder.bitcast(room, named["init"].type)
    product, step = function.append_basic_block("product"), function.append_basic_block("step")
    builder.cbranch(builder.icmp_signed(">", named["depth"], I64(0)), product, step)
    incoming = [(named["init"], builder.block)]
    by_width = ir.IRBuilder(product).switch(named["width"], step)
    incoming.append((named["init"], product))
    for width in row_widths(whole, many):
        builder.position_at_end(function.append_basic_block(f"width{width}"))
        by_width.add_case(I64(width), builder.block)
        panels = [builder.gep(named["b"], [builder.mul(named["b_panel"], I64(j))]) for j in range(max(1, width // whole))]
        row = named["a"], [(panel, v) for panel in panels for v in range(cell.n_gates * min(width, whole))]
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
    constants, L, width = Constants(builder, dtype), I64(lanes(dtype)), named["width"]
    most = I64(panel_vectors(cell.n_gates))
    within = builder.select(builder.icmp_signed("<", width, most), width, most)
    count = cgutils.for_range(builder, builder.sdiv(width, within)), cgutils.for_range(builder, within)
    with count[0] as panels, count[1] as vectors:
        first, of_panel = builder.mul(builder.mul(panels.index, within), L), builder.mul(vectors.index, L)
        unit = builder.add(first, of_panel)
        at = builder.add(builder.mul(first, I64(cell.n_gates)), of_panel)
        sums = [builder.gep(pointer, [at]) for pointer in (named["pre"], u)]
        hs, cs, y, saved = (builder.gep(named[name], [unit]) for name in ("hs", "cs", "y", "saved"))
        write_step(
            cell, constants, *sums, builder.mul(within, L), hs, cs, y, *(named[p] for p in ("before", "after", "y_at")),
            builder.sub(named["units"], unit), saved, named["saved_step"], named["past"],
        )  # fmt: skip
    constants.finish()
