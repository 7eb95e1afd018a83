"""The register-blocked product, written as LLVM.

    C[r, :] = init[r, :] + Σ_k A[r, k] B[k, :]        r < rows, ':' is a whole number of vectors

Each sum runs over k in order, from zero, by fused multiply-adds: whatever tile a row falls into, its bits are the same.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastrnn.cpu.simd import (
    I32,
    I64,
    SCALAR,
    call_address,
    fma,
    llvm_vector,
    load_vector,
    new_function,
    prefetch_line,
    splat,
    store_vector,
)  # fmt: skip
from fastrnn.cpu.target import FEW_PANELS, TARGET, few_rows, lanes, panel_vectors, panels_at_once, tile_beside, tile_rows

# parameters of the functions: pointers to numbers, to offsets, integers
_POINTERS = ("a", "b", "init", "c", "ahead", "x", "w", "start", "to")
_OFFSETS = ("a_rows", "x_rows")
_PRODUCT = ("a", "a_rows", "a_step", "b", "b_step", "init", "init_step", "c", "c_step", "depth", "ahead", "ahead_row")
_PRODUCT_OF_FEW = ("rows", "a", "a_rows", "b", "b_step", "b_panel", "init", "init_step", "c", "c_step", "depth")
_PRODUCT_OF_ROW = ("vectors", "a", "a_part", "b", "b_step", "b_panel", "b_part", "init", "c", "depth")
_PRODUCT_BESIDE = (
    "panels", "a", "b", "b_panel", "init", "c", "depth", "x", "x_rows", "w", "start", "start_step", "to", "to_step"
)  # fmt: skip
_ASKING_ROWS = min(4, tile_rows(4))  # of a tile that asks for what is to come: fewer leave the loads no time for more


@intrinsic
def product(typing, at, vectors, rows, a, a_rows, a_step, b, b_step, init, init_step, c, c_step, depth, ahead, ahead_row):
    """C[r, v] = init[r, v] + Σ_k a[a_rows[r] + k a_step] b[k b_step + v].

    v over `vectors` vectors; at : the address of a product_function of at least as many
    a_rows : pointer to the offset of each row of A; init_step and c_step : numbers from a row to the next
    ahead, ahead_row : where the cache lines lie that will be needed next, and how many numbers of them go with a k: the
    tiles of rows share in asking for them
    """
    intp = types.intp
    integers = types.CPointer(intp)
    return types.void(intp, intp, intp, a, integers, intp, a, intp, a, intp, a, intp, intp, a, intp), call_address


@intrinsic
def product_of_few(typing, at, rows, a, a_rows, b, b_step, b_panel, init, init_step, c, c_step, depth):
    """What `product` does with a_step 1, of 2 to few_rows(gates) rows and FEW_PANELS whole panels, `b_panel` numbers apart:
    what is loaded of the rows serves all of them, and loads are what few rows wait for.

    at : the address of a few_function
    """
    intp = types.intp
    integers = types.CPointer(intp)
    return types.void(intp, intp, a, integers, a, intp, intp, a, intp, a, intp, intp), call_address


@intrinsic
def product_of_row(typing, at, vectors, a, a_part, b, b_step, b_panel, b_part, init, c, depth):
    """C[v] = init[v] + Σ_p (Σ_k a[p a_part + k] b[p b_part + k b_step + v]) for one row, p < parts.

    at : the address of a row_function; vectors : of up to panels_at_once(gates, parts) panels, `b_panel` numbers apart, the
    last of which may have fewer
    """
    intp = types.intp
    return types.void(intp, intp, a, intp, a, intp, intp, intp, a, a, intp), call_address


@intrinsic
def product_beside(typing, at, panels, a, b, b_panel, init, c, depth, x, x_rows, w, start, start_step, to, to_step):
    """product_of_row of 1 to panels_at_once(gates) whole panels, and beside it a tile of another product as deep:

    to[r, v] = start[r, v] + Σ_k x[x_rows[r] + k] w[k, v], of as many rows and vectors as tile_beside(gates) says: where the
    weights of the row come slower than multiply-adds are done, the tile costs little.

    at : the address of a beside_function
    """
    intp = types.intp
    return types.void(intp, intp, a, a, intp, a, a, intp, a, types.CPointer(intp), a, a, intp, a, intp), call_address


def function_of(module, name, dtype, parameters):
    """A new function, and its arguments by name."""
    scalar = SCALAR[dtype].as_pointer()
    kinds = [scalar if p in _POINTERS else I64.as_pointer() if p in _OFFSETS else I64 for p in parameters]
    function = new_function(module, name, kinds)
    named = dict(zip(parameters, function.args, strict=True))
    for pointer in ("a", "a_rows", "b", "x", "x_rows", "w"):
        if pointer in named:
            named[pointer].add_attribute("noalias")
    return function, named


def product_function(module, dtype, most):
    """Of up to that many vectors: a switch over them, and for each a loop over tiles of rows."""
    function, named = function_of(module, "product", dtype, ("vectors", "rows", *_PRODUCT))
    end, by_vectors = _switch(function, named["vectors"])
    for width in range(1, most + 1):
        builder = ir.IRBuilder(function.append_basic_block(f"vectors{width}"))
        by_vectors.add_case(I64(width), builder.block)
        # one vector alone needs more rows for enough independent sums
        _write_tiles(builder, dtype, width, tile_rows(1 if width == 1 else most), named, end)
    return function


def _write_tiles(builder, dtype, width, height, named, end):
    """The tiles of a width, of `height` rows at most, about equally high, and a case for each height."""
    function, rows = builder.function, named["rows"]
    divide, tile, following = (function.append_basic_block(f"{name}{width}") for name in ("divide", "tile", "following"))
    builder.cbranch(builder.icmp_signed(">", rows, I64(0)), divide, end)

    builder.position_at_end(divide)
    tiles = _quotient_up(builder, rows, I64(height))
    least = builder.udiv(rows, tiles)
    higher = builder.sub(rows, builder.mul(least, tiles))  # how many have a row more
    named = named | {"ahead_step": _quotient_up(builder, named["ahead_row"], tiles)}
    builder.branch(tile)

    builder.position_at_end(tile)
    moving = {name: builder.phi(named[name].type) for name in ("a_rows", "init", "c", "ahead")}
    done = builder.phi(I64)
    one_more = builder.zext(builder.icmp_signed("<", done, higher), I64)
    by_rows = builder.switch(builder.add(least, one_more), end)

    builder.position_at_end(following)
    n = builder.phi(I64)
    by = {"a_rows": n, "ahead": builder.mul(named["ahead_step"], named["depth"])}
    by |= {name: builder.mul(n, named[f"{name}_step"]) for name in ("init", "c")}
    for name, phi in moving.items():
        phi.add_incoming(named[name], divide)
        phi.add_incoming(builder.gep(phi, [by[name]]), following)
    next_one = builder.add(done, I64(1))
    done.add_incoming(I64(0), divide)
    done.add_incoming(next_one, following)
    builder.cbranch(builder.icmp_signed("<", next_one, tiles), tile, end)

    for count in range(1, height + 1):
        builder.position_at_end(function.append_basic_block(f"tile{count}x{width}"))
        by_rows.add_case(I64(count), builder.block)
        _write_tile(builder, dtype, [(named["b"], v) for v in range(width)], count, named | moving)
        n.add_incoming(I64(count), builder.block)
        builder.branch(following)


def _quotient_up(builder, number, divisor):
    return builder.udiv(builder.add(number, builder.sub(divisor, I64(1))), divisor)


def _write_tile(builder, dtype, columns, rows, named):
    each = [builder.gep(named["a"], [builder.load(builder.gep(named["a_rows"], [I64(r)]))]) for r in range(rows)]
    chains = [(row, columns) for row in each]
    terms = {name: named[name] for name in ("a_step", "b_step", "depth", "ahead", "ahead_step")}
    for r, row in enumerate(sums_of(builder, dtype, chains, rows >= _ASKING_ROWS, **terms)):
        at_init, at_c = (builder.mul(named[step], I64(r)) for step in ("init_step", "c_step"))
        put(builder, dtype, [row], named["init"], at_init, named["c"], at_c)


def few_function(module, dtype, n_gates):
    """A switch over the rows."""
    function, named = function_of(module, "product_of_few", dtype, _PRODUCT_OF_FEW)
    end, by_rows = _switch(function, named["rows"])
    named |= {"a_step": I64(1), "ahead": named["b"], "ahead_step": I64(0)}
    for rows in range(2, few_rows(n_gates) + 1):
        builder = ir.IRBuilder(function.append_basic_block(f"rows{rows}"))
        by_rows.add_case(I64(rows), builder.block)
        columns = columns_of(builder, named["b"], named["b_panel"], [n_gates * panel_vectors(n_gates)] * FEW_PANELS)
        _write_tile(builder, dtype, columns, rows, named)
        builder.branch(end)
    return function


def vectors_of_row(n_gates, n_parts):
    """How many vectors a single row may take together, panel by panel: of several gates, the last one may have fewer."""
    whole, many = n_gates * panel_vectors(n_gates), panels_at_once(n_gates, n_parts)
    totals = range(1, whole * many + 1)
    each = [[whole] * (total // whole) + [total % whole] * (total % whole > 0) for total in totals]
    return each if n_gates > 1 else [panels for panels in each if len(panels) == 1 or panels[-1] == whole]


def row_function(module, dtype, n_gates, n_parts):
    """A switch over the vectors; the sums of as many parts at a time as fit the registers."""
    function, named = function_of(module, "product_of_row", dtype, _PRODUCT_OF_ROW)
    end, by_vectors = _switch(function, named["vectors"])
    for vectors in vectors_of_row(n_gates, n_parts):
        builder = ir.IRBuilder(function.append_basic_block(f"vectors{sum(vectors)}"))
        by_vectors.add_case(I64(sum(vectors)), builder.block)
        init, at_once = named["init"], max(1, TARGET.accumulators // sum(vectors))
        for first in range(0, n_parts, at_once):
            chains = []
            for p in range(first, min(n_parts, first + at_once)):
                part = builder.gep(named["b"], [builder.mul(named["b_part"], I64(p))])
                row = builder.gep(named["a"], [builder.mul(named["a_part"], I64(p))])
                chains.append((row, columns_of(builder, part, named["b_panel"], vectors)))
            sums = sums_of(builder, dtype, chains, False, I64(1), named["b_step"], named["depth"], named["b"], I64(0))
            put(builder, dtype, sums, init, I64(0), named["c"], I64(0))
            init = named["c"]
        builder.branch(end)
    return function


def columns_of(builder, b, b_panel, vectors):
    """The columns of panels side by side, so many vectors of each."""
    panels = [builder.gep(b, [builder.mul(b_panel, I64(j))]) for j in range(len(vectors))]
    return [(panel, v) for panel, count in zip(panels, vectors, strict=True) for v in range(count)]


def beside_function(module, dtype, n_gates):
    """A switch over the panels."""
    function, named = function_of(module, "product_beside", dtype, _PRODUCT_BESIDE)
    end, by_panels = _switch(function, named["panels"])
    vectors, (rows, part) = n_gates * panel_vectors(n_gates), tile_beside(n_gates)
    for many in range(1, panels_at_once(n_gates) + 1):
        builder = ir.IRBuilder(function.append_basic_block(f"panels{many}"))
        by_panels.add_case(I64(many), builder.block)
        chains = [(named["a"], columns_of(builder, named["b"], named["b_panel"], [vectors] * many))]
        for r in range(rows):
            row = builder.gep(named["x"], [builder.load(builder.gep(named["x_rows"], [I64(r)]))])
            chains.append((row, [(named["w"], v) for v in range(part)]))
        step = I64(vectors * lanes(dtype))
        first, *tile = sums_of(builder, dtype, chains, False, I64(1), step, named["depth"], named["b"], I64(0))
        put(builder, dtype, [first], named["init"], I64(0), named["c"], I64(0))
        for r, row in enumerate(tile):
            at_start, at_to = builder.mul(named["start_step"], I64(r)), builder.mul(named["to_step"], I64(r))
            put(builder, dtype, [row], named["start"], at_start, named["to"], at_to)
        builder.branch(end)
    return function


def _switch(function, value):
    """An entry block that branches by `value`, and the block where all cases end."""
    entry, end = function.append_basic_block("entry"), function.append_basic_block("end")
    ir.IRBuilder(end).ret_void()
    return end, ir.IRBuilder(entry).switch(value, end)


def sums_of(builder, dtype, chains, asking, a_step, b_step, depth, ahead, ahead_step):
    """One loop over k with all its sums in registers: Σ_k a[k] b[k, v] for each (a, [(b, v), ...]) in `chains`."""
    kind, count = llvm_vector(dtype), lanes(dtype)
    zero = ir.Constant(kind, [0.0] * count)
    before = builder.block
    loop, done = builder.append_basic_block("k"), builder.append_basic_block("k.done")
    builder.cbranch(builder.icmp_signed(">", depth, I64(0)), loop, done)

    builder.position_at_end(loop)
    # phis lead their block
    k, at_a, at_b, at_ahead = (builder.phi(I64) for _ in range(4))
    sums = [[builder.phi(kind) for _ in columns] for _, columns in chains]
    if asking:
        prefetch_line(builder, ahead, at_ahead)
    vector = lambda b, v: load_vector(builder, b, builder.add(at_b, I64(v * count)), dtype)  # noqa: E731
    factor = lambda a: splat(builder, builder.load(builder.gep(a, [at_a])), kind)  # noqa: E731
    distinct = dict.fromkeys(column for _, columns in chains for column in columns)
    new = [list(of_row) for of_row in sums]
    if len(chains) < len(distinct) and sum(map(len, sums)) + len(distinct) >= TARGET.registers:
        # beside the sums, registers hold a factor of each row and one vector, which all rows use before the next
        factors = [factor(a) for a, _ in chains]
        for column in distinct:
            value = vector(*column)
            for row, (_, columns) in enumerate(chains):
                if column in columns:
                    i = columns.index(column)
                    new[row][i] = fma(builder, factors[row], value, new[row][i])
    else:
        vectors = {column: vector(*column) for column in distinct}
        for row, (a, columns) in enumerate(chains):
            value = factor(a)
            new[row] = [fma(builder, value, vectors[c], total) for c, total in zip(columns, new[row], strict=True)]
    for phi, step in ((k, I64(1)), (at_a, a_step), (at_b, b_step), (at_ahead, ahead_step)):
        following = builder.add(phi, step)
        phi.add_incoming(I64(0), before)
        phi.add_incoming(following, loop)
        if phi is k:
            again = builder.icmp_signed("<", following, depth)
    branch = builder.cbranch(again, loop, done)
    if not asking:
        _unroll(branch, 2)

    builder.position_at_end(done)
    totals = [[builder.phi(kind) for _ in columns] for _, columns in chains]
    for row in range(len(chains)):
        for v in range(len(chains[row][1])):
            for phi in (sums[row][v], totals[row][v]):
                phi.add_incoming(zero, before)
                phi.add_incoming(new[row][v], loop)
    return totals


def _unroll(branch, count):
    """Let the loop that this branch closes be unrolled so many times.

    LLVM takes eight for small ones: they take longer to compile, and what lies more than a kilobyte from where the same
    instruction read in the pass before is not fetched ahead.
    """
    module = branch.parent.function.module
    factor = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.count"), I32(count)])
    loop = module.add_metadata([ir.MetaDataString(module, branch.parent.name), factor])
    loop.operands = (loop, factor)  # what names a loop refers to itself
    branch.set_metadata("llvm.loop", loop)


def put(builder, dtype, sums, init, at_init, c, at_c):
    """c[v] = init[v] + the sums of each part, in their order."""
    count = lanes(dtype)
    for v, parts in enumerate(zip(*sums, strict=True)):
        total = load_vector(builder, init, builder.add(at_init, I64(v * count)), dtype)
        for part in parts:
            total = builder.fadd(total, part)
        store_vector(builder, total, c, builder.add(at_c, I64(v * count)), dtype)
