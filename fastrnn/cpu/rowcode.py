"""Steps of a single row as one function, written as LLVM: the product of some panels, and the cell's arithmetic on its sums.

With one row a step is short, and the next waits for it: what it takes to call a function counts. So one call makes many
steps where nothing has to happen in between.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastrnn.cpu.cellcode import Constants, write_step
from fastrnn.cpu.simd import I64, SCALAR, call_address, llvm_vector, new_function
from fastrnn.cpu.target import lanes, panel_vectors, panels_at_once
from fastrnn.cpu.tile import columns_of, put, sums_of, vectors_of_row

# what is the same in every step of a turn, the panels that are taken at once:
# vectors, b_panel : as of product_of_row; width : vectors of units; step : from a gate to the next in the last panel
# a, b : of the recurrent sums, b_step numbers from a term to the next; init : what they start from; sums : where they are,
# if there are no terms; pre_at : where the turn's begin among the input's
# hs, cs, y, units, saved, saved_step, past : as of advance
# pre_step, y_step : numbers from a step to the next; after_step : from where the state lies to where the next step's goes
TURN = (
    "vectors", "width", "step", "a", "b", "b_step", "b_panel", "init", "sums", "pre_at", "hs", "cs", "y", "units", "saved",
    "saved_step", "past", "pre_step", "y_step", "after_step",
)  # fmt: skip
_POINTERS = ("a", "b", "init", "sums", "hs", "cs", "y", "saved")
_PARAMETERS = ("turn", "turns", "way", "depth", "pre", "before", "after", "y_at", "steps")
_MOVING = ("pre", "before", "after", "y_at")  # from step to step


@intrinsic
def lay_out(typing, turn, values):
    """Write numbers and addresses one after the other, such as the words of a turn in the order of TURN."""

    def codegen(context, builder, signature, args):
        for i, value in enumerate(cgutils.unpack_tuple(builder, args[1])):
            number = builder.ptrtoint(value, I64) if isinstance(value.type, ir.PointerType) else value
            builder.store(number, builder.gep(args[0], [I64(i)]))
        return context.get_dummy_value()

    return types.void(turn, values), codegen


@intrinsic
def advance_row(typing, at, turn, turns, way, depth, pre, before, after, y_at, steps):
    """`steps` steps of some turns of one row, from the recurrent sums init[v] + Σ_k a[before + k] b[k b_step + v].

    at : the address of an advance_row_function; depth : how many terms
    turn, way : the words of the first turn, from them to the next turn's; every other step takes them in the opposite order
    pre : the input's sums, panel after panel; before, after, y_at : where the state lies in hs and cs, where it goes,
    where h goes in y as well; all of them in the first step
    """
    intp = types.intp
    return types.void(intp, turn, intp, intp, intp, pre, intp, intp, intp, intp), call_address


def advance_row_function(module, dtype, cell):
    """One loop over the turns of all steps."""
    scalar, table = SCALAR[dtype].as_pointer(), I64.as_pointer()
    kinds = [{"turn": table, "pre": scalar}.get(name, I64) for name in _PARAMETERS]
    function = new_function(module, f"fastrnn_advance_row_{cell.name}_{dtype}", kinds)
    named = dict(zip(_PARAMETERS, function.args, strict=True))
    builder = ir.IRBuilder(function.append_basic_block("start"))
    room = builder.alloca(llvm_vector(dtype), I64(cell.n_gates * panel_vectors(cell.n_gates) * panels_at_once(cell.n_gates)))
    room, start, loop = builder.bitcast(room, scalar), builder.block, function.append_basic_block("loop")
    builder.branch(loop)

    builder.position_at_end(loop)
    state = {name: builder.phi(named[name].type) for name in ("turn", "way", *_MOVING)}
    state |= {name: builder.phi(I64) for name in ("step", "done")}
    # loaded anew each time: what follows from them for every case of a product would not fit the registers
    words = {name: builder.load(builder.gep(state["turn"], [I64(i)])) for i, name in enumerate(TURN)}
    words |= {name: builder.inttoptr(words[name], scalar) for name in _POINTERS}
    constants, now = Constants(builder, dtype), words | {name: state[name] for name in _MOVING}
    now["pre"] = builder.gep(now["pre"], [words["pre_at"]])
    u = _write_product(builder, dtype, cell, now | {"depth": named["depth"]}, room)
    _write_units(constants, cell, u, now)
    following = _following(builder, state, words, named["turns"])
    for name, phi in state.items():
        phi.add_incoming(named.get(name, I64(0)), start)
        phi.add_incoming(following[name], builder.block)
    end = function.append_basic_block("end")
    builder.cbranch(builder.icmp_signed("<", following["step"], named["steps"]), loop, end)
    ir.IRBuilder(end).ret_void()
    constants.finish()
    return function


def _following(builder, state, words, turns):
    """What comes after a turn: another one of the same step, or the next step, which begins with the same."""
    done = builder.add(state["done"], I64(1))
    last = builder.icmp_signed(">=", done, turns)
    moved = {
        "turn": state["turn"], "way": builder.neg(state["way"]), "done": I64(0), "step": builder.add(state["step"], I64(1)),
        "pre": builder.gep(state["pre"], [words["pre_step"]]), "before": state["after"],
        "after": builder.add(state["before"], words["after_step"]), "y_at": builder.add(state["y_at"], words["y_step"]),
    }  # fmt: skip
    within = state | {"turn": builder.gep(state["turn"], [state["way"]]), "done": done}
    return {name: builder.select(last, value, within[name]) for name, value in moved.items()}


def _write_product(builder, dtype, cell, named, room):
    """A switch over the vectors, whose sums go to `room`. Returns where they are: as they were, if there are no terms."""
    product, step = (builder.append_basic_block(name) for name in ("product", "step"))
    builder.cbranch(builder.icmp_signed(">", named["depth"], I64(0)), product, step)
    found = [(named["sums"], builder.block), (named["sums"], product)]
    builder.position_at_end(product)
    a, by_vectors = builder.gep(named["a"], [named["before"]]), builder.switch(named["vectors"], step)
    for vectors in vectors_of_row(cell.n_gates, 1):
        builder.position_at_end(builder.append_basic_block(f"vectors{sum(vectors)}"))
        by_vectors.add_case(I64(sum(vectors)), builder.block)
        row = a, columns_of(builder, named["b"], named["b_panel"], vectors)
        totals = sums_of(builder, dtype, [row], False, I64(1), named["b_step"], named["depth"], named["b"], I64(0))
        put(builder, dtype, totals, named["init"], I64(0), room, I64(0))
        found.append((room, builder.block))
        builder.branch(step)
    builder.position_at_end(step)
    u = builder.phi(room.type)
    for value, block in found:
        u.add_incoming(value, block)
    return u


def _write_units(constants, cell, u, named):
    """The cell's step of each vector of units: those of a panel have each gate side by side."""
    builder, L, most = constants.builder, lanes(constants.dtype), panel_vectors(cell.n_gates)
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
