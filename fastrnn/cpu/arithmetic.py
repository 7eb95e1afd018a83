"""Arithmetic on vectors for the kernels that are written as loops: what cells do on Lanes, as functions that Numba calls."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastrnn import pointwise
from fastrnn.cpu.simd import I32, NUMBA, Lanes, Vector, element, fma, llvm_vector, of_two, splat, tail_mask
from fastrnn.cpu.target import lanes


@intrinsic
def nothing(typing, pointer):
    """A vector of zeros, of what a pointer points to."""
    kind = Vector(element(pointer))

    def codegen(context, builder, signature, args):
        vector = llvm_vector(kind.dtype)
        return ir.Constant(vector, [0.0] * vector.count)

    return kind(pointer), codegen


@intrinsic
def everywhere(typing, number):
    """A number in every lane."""
    kind = Vector(number.name)

    def codegen(context, builder, signature, args):
        return splat(builder, args[0], llvm_vector(kind.dtype))

    return kind(number), codegen


@intrinsic
def multiply_add(typing, x, y, z):
    """x y + z, rounded once where the hardware can."""

    def codegen(context, builder, signature, args):
        return fma(builder, *args)

    return x(x, y, z), codegen


@intrinsic
def difference(typing, x, y):
    return of_two(x, "fsub")


@intrinsic
def lost_in(typing, total, before, summand):
    """What rounding added to total = before + summand, as far as it is finite."""

    def codegen(context, builder, signature, args):
        total, before, summand = args
        lost = builder.fsub(builder.fsub(total, before), summand)
        itself = builder.fsub(lost, lost)
        finite = builder.fcmp_ordered("ord", itself, itself)
        return builder.select(finite, lost, ir.Constant(lost.type, [0.0] * lost.type.count))

    return total(total, before, summand), codegen


@intrinsic
def times(typing, x, y):
    return of_two(x, "fmul")


@intrinsic
def quotient(typing, x, y):
    return of_two(x, "fdiv")


def _larger(builder, a, b):
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@intrinsic
def maximum(typing, x, y):
    """The larger one in each lane; y where either is no number."""

    def codegen(context, builder, signature, args):
        return _larger(builder, *args)

    return x(x, y), codegen


@intrinsic
def first_lanes(typing, x, count):
    """The first `count` lanes of x, zero in the others."""

    def codegen(context, builder, signature, args):
        kind = args[0].type
        return builder.select(tail_mask(builder, args[1], kind.count), args[0], ir.Constant(kind, [0.0] * kind.count))

    return x(x, types.intp), codegen


def _folded(builder, value, n, combine):
    """All lanes combined, half with half."""
    while n > 1:
        n //= 2
        halves = [ir.Constant(ir.VectorType(I32, n), list(range(at, at + n))) for at in (0, n)]
        value = combine(*(builder.shuffle_vector(value, value, half) for half in halves))
    return builder.extract_element(value, I32(0))


@intrinsic
def total(typing, x):
    """The sum of the lanes."""

    def codegen(context, builder, signature, args):
        return _folded(builder, args[0], lanes(x.dtype), builder.fadd)

    return NUMBA[x.dtype](x), codegen


@intrinsic
def largest(typing, x):
    """The largest of the lanes."""

    def codegen(context, builder, signature, args):
        return _folded(builder, args[0], lanes(x.dtype), lambda a, b: _larger(builder, a, b))

    return NUMBA[x.dtype](x), codegen


@intrinsic
def applied(typing, name, x):
    """The function of pointwise.py of that name (a Static)."""
    function = getattr(pointwise, name.value)

    def codegen(context, builder, signature, args):
        return function(Lanes(builder, args[1], x.dtype)).value

    return x(name, x), codegen
