"""Blocks of numbers transposed in registers, written as LLVM: what packing is made of."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastrnn.cpu.simd import I32, I64, element, llvm_vector, load_vector, masked, store_vector, tail_mask
from fastrnn.cpu.target import ITEMSIZE, lanes


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
