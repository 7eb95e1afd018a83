"""The register-blocked product, and the transposing pack: the two pieces of code that are written as LLVM.

    C[r, :] = init[r, :] + Σ_k A[r, k] B[k, :]        r < rows, ':' is a whole number of vectors

Each sum runs over k in order, from zero, by fused multiply-adds: whatever tile a row falls into, its bits are the same.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastrnn.cpu.simd import I32, I64, SCALAR, element, fma, llvm_vector, load_vector, masked, splat, store_vector, tail_mask
from fastrnn.cpu.target import ITEMSIZE, lanes, panel_vectors, tile_rows

# arguments of the generated function, all integers but the pointers
_PARAMETERS = ("width", "rows", "a", "a_rows", "a_step", "b", "b_step", "init", "init_step", "c", "c_step", "depth")


@intrinsic(prefer_literal=True)
def product(typing, gates, width, rows, a, a_rows, a_step, b, b_step, init, init_step, c, c_step, depth):
    """C[r, v] = init[r, v] + Σ_k a[a_rows[r] + k a_step] b[k b_step + v], v over gates * width vectors.

    gates : literal; width : 1..panel_vectors(gates), rows : 1..tile_rows(gates * width), both at run time
    a_rows : pointer to the offset of each row of A; init_step and c_step : numbers from a row to the next
    """
    dtype, n_gates = element(a), gates.literal_value
    widths = range(1, panel_vectors(n_gates) + 1)

    def codegen(context, builder, signature, args):
        function = _function(builder.module, dtype, n_gates, widths)
        builder.call(function, args[1:])
        return context.get_dummy_value()

    intp = types.intp
    integers = types.CPointer(intp)
    return (
        types.void(gates, intp, intp, a, integers, intp, a, intp, a, intp, a, intp, intp),
        codegen,
    )


def _function(module, dtype, n_gates, widths):
    """The module's own function for that many gates: a switch over the widths and rows, one loop nest each."""
    scalar = SCALAR[dtype].as_pointer()
    kinds = [I64, I64, scalar, I64.as_pointer(), I64, scalar, I64, scalar, I64, scalar, I64, I64]
    name = f"fastrnn_product_{dtype}_{n_gates}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    named = dict(zip(_PARAMETERS, function.args, strict=True))
    for pointer in ("a", "a_rows", "b"):
        named[pointer].add_attribute("noalias")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    end = function.append_basic_block("end")
    ir.IRBuilder(end).ret_void()
    by_width = builder.switch(named["width"], end)
    for width in widths:
        block = function.append_basic_block(f"width{width}")
        by_width.add_case(I64(width), block)
        by_rows = ir.IRBuilder(block).switch(named["rows"], end)
        for rows in range(1, tile_rows(n_gates * width) + 1):
            tile = function.append_basic_block(f"tile{rows}x{n_gates * width}")
            by_rows.add_case(I64(rows), tile)
            inner = ir.IRBuilder(tile)
            _tile(inner, dtype, rows, n_gates * width, **{k: named[k] for k in _PARAMETERS[2:]})
            inner.branch(end)
    return function


def _tile(builder, dtype, rows, vectors, a, a_rows, a_step, b, b_step, init, init_step, c, c_step, depth):
    """One loop over k with rows * vectors sums in registers."""
    kind, count = llvm_vector(dtype), lanes(dtype)
    zero = ir.Constant(kind, [0.0] * count)
    row_of_a = [builder.gep(a, [builder.load(builder.gep(a_rows, [I64(r)]))]) for r in range(rows)]
    before = builder.block
    loop, done = builder.append_basic_block("k"), builder.append_basic_block("k.done")
    builder.cbranch(builder.icmp_signed(">", depth, I64(0)), loop, done)

    builder.position_at_end(loop)
    # phis lead their block
    k, at_a, at_b = (builder.phi(I64) for _ in range(3))
    sums = [[builder.phi(kind) for _ in range(vectors)] for _ in range(rows)]
    panel = [load_vector(builder, b, builder.add(at_b, I64(v * count)), dtype) for v in range(vectors)]
    new = []
    for r in range(rows):
        factor = splat(builder, builder.load(builder.gep(row_of_a[r], [at_a])), kind)
        new.append([fma(builder, factor, panel[v], sums[r][v]) for v in range(vectors)])
    for phi, step in ((k, I64(1)), (at_a, a_step), (at_b, b_step)):
        following = builder.add(phi, step)
        phi.add_incoming(I64(0), before)
        phi.add_incoming(following, loop)
        if phi is k:
            again = builder.icmp_signed("<", following, depth)
    builder.cbranch(again, loop, done)

    builder.position_at_end(done)
    totals = [[builder.phi(kind) for _ in range(vectors)] for _ in range(rows)]
    for r in range(rows):
        for v in range(vectors):
            sums[r][v].add_incoming(zero, before)
            sums[r][v].add_incoming(new[r][v], loop)
            totals[r][v].add_incoming(zero, before)
            totals[r][v].add_incoming(new[r][v], loop)
    for r in range(rows):
        at_init, at_c = builder.mul(init_step, I64(r)), builder.mul(c_step, I64(r))
        for v in range(vectors):
            start = load_vector(builder, init, builder.add(at_init, I64(v * count)), dtype)
            total = builder.fadd(start, totals[r][v])
            store_vector(builder, total, c, builder.add(at_c, I64(v * count)), dtype)


@intrinsic
def transpose(typing, source, at, step, rows, columns, target, to, target_step):
    """target[to + j target_step + i] = source[at + i step + j] for i < rows, j < columns (both at most a vector's
    lanes); zero for i >= rows. Whole vectors are written for every j < columns."""
    dtype = element(source)

    def codegen(context, builder, signature, args):
        rows_, columns_, n = args[3], args[4], I64(lanes(dtype))
        whole = builder.and_(builder.icmp_signed(">=", rows_, n), builder.icmp_signed(">=", columns_, n))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                _transpose_whole(builder, dtype, *args[:3], *args[5:])
            with otherwise:
                _transpose_part(builder, dtype, *args)
        return context.get_dummy_value()

    intp = types.intp
    return types.void(source, intp, intp, intp, intp, target, intp, intp), codegen


def _transpose_whole(builder, dtype, source, at, step, target, to, target_step):
    n = lanes(dtype)
    row = lambda start, stride, i: builder.add(start, builder.mul(stride, I64(i)))  # noqa: E731
    values = _transposed(builder, [load_vector(builder, source, row(at, step, i), dtype) for i in range(n)], n)
    for j, value in enumerate(values):
        store_vector(builder, value, target, row(to, target_step, j), dtype)


def _transpose_part(builder, dtype, source, at, step, rows, columns, target, to, target_step):
    kind, n = llvm_vector(dtype), lanes(dtype)
    zero = ir.Constant(kind, [0.0] * n)
    columns_mask = tail_mask(builder, columns, n)
    nothing = ir.Constant(columns_mask.type, [0] * n)
    load = masked(builder, dtype, "load")
    values = []
    for i in range(n):
        mask = builder.select(builder.icmp_signed("<", I64(i), rows), columns_mask, nothing)
        address = builder.gep(source, [builder.add(at, builder.mul(step, I64(i)))])
        pointer = builder.bitcast(address, kind.as_pointer())
        values.append(builder.call(load, [pointer, I32(ITEMSIZE[dtype]), mask, zero]))
    for j, value in enumerate(_transposed(builder, values, n)):
        with builder.if_then(builder.icmp_signed("<", I64(j), columns)):
            store_vector(builder, value, target, builder.add(to, builder.mul(target_step, I64(j))), dtype)


def _transposed(builder, values, n):
    """n vectors of n lanes transposed: interleaving the two halves, log2(n) times."""
    low = [k // 2 + (n if k % 2 else 0) for k in range(n)]
    high = [k + n // 2 for k in low]
    masks = [ir.Constant(ir.VectorType(I32, n), lane) for lane in (low, high)]
    for _ in range(n.bit_length() - 1):
        pairs = zip(values[: n // 2], values[n // 2 :], strict=True)
        values = [builder.shuffle_vector(x, y, mask) for x, y in pairs for mask in masks]
    return values
