"""exp, sigmoid, tanh and relu on vectors: one reduction, one polynomial, no branch.

    x = n ln 2 + r, |r| <= ln 2 / 2      p = eʳ - 1 = r + r² q(r)      eˣ = 2ⁿ (1 + p)      eˣ - 1 = 2ⁿ p + (2ⁿ - 1)
    σ(x) = eˣ / (1 + eˣ)      tanh |x| = m / (m + 2), m = e²ˣ - 1

The coefficients come from tools/derive_expm1.py. At most 2 ulp over the whole range, denormal results included.
"""
from typing import NamedTuple

from llvmlite import ir

from fastrnn import pointwise
from fastrnn.cpu.simd import Lanes
from fastrnn.cpu.target import lanes


class _Constants(NamedTuple):
    log2_e: float
    ln2_high: float  # short enough for n * ln2_high to be exact
    ln2_low: float
    q: tuple[float, ...]
    fraction: int  # bits of the stored fraction
    bias: int  # of the exponent
    overflow: float  # eˣ is infinite above
    underflow: float  # and zero below
    saturated: float  # tanh is 1 above, and 1 + e⁻ˣ is 1


CONSTANTS = {
    "float32": _Constants(1.4426950408889634, 0.693145751953125, 1.4286068202862268e-06, (0.5, 0.16666666666666666, 0.041666666666666664, 0.008333333333333333, 0.001388888888888889, 0.0001984126984126984, 2.48015873015873e-05), 23, 127, 89.5, -104.5, 10.0),
    "float64": _Constants(1.4426950408889634, 0.6931471803691238, 1.9082149292705877e-10, (0.5, 0.16666666666666666, 0.041666666666666664, 0.008333333333333333, 0.001388888888888889, 0.0001984126984126984, 2.48015873015873e-05, 2.7557319223985893e-06, 2.755731922398589e-07, 2.505210838544172e-08, 2.08767569878681e-09, 1.6059043836821613e-10, 1.1470745597729725e-11), 52, 1023, 710.5, -746.0, 20.0),
}



def _reduce(x):
    """(p, n as a vector of integers) with eˣ = 2ⁿ (1 + p)."""
    k = CONSTANTS[x.dtype]
    magic = 1.5 * 2.0**k.fraction  # adding it rounds to an integer, which then stands in the low bits
    shifted = x.fma(k.log2_e, magic)
    n = shifted - magic
    r = n.fma(-k.ln2_low, n.fma(-k.ln2_high, x))
    q = r.of(k.q[-1])
    for coefficient in reversed(k.q[:-1]):
        q = q.fma(r, coefficient)
    bits = _integers(x.dtype)
    as_integer = x.builder.bitcast(shifted.value, bits)
    zero = x.builder.bitcast(x.of(magic).value, bits)
    return (r * r).fma(q, r), x.builder.sub(as_integer, zero)


def _integers(dtype):
    return ir.VectorType(ir.IntType(32 if dtype == "float32" else 64), lanes(dtype))


def _power_of_two(x, n):
    """2ⁿ for a vector of integers n within the range of the normal exponents."""
    k, kind = CONSTANTS[x.dtype], n.type
    constant = lambda value: ir.Constant(kind, [value] * kind.count)  # noqa: E731
    biased = x.builder.add(n, constant(k.bias))
    bits = x.builder.shl(biased, constant(k.fraction))
    return Lanes(x.builder, x.builder.bitcast(bits, x.value.type), x.dtype)


@pointwise.exp.register
def exp(x: Lanes):
    k = CONSTANTS[x.dtype]
    x = x.where(">", k.overflow, k.overflow).where("<", k.underflow, k.underflow)
    p, n = _reduce(x)
    # in two factors: 2ⁿ alone would leave the range where eˣ is just within it, or denormal
    half = x.builder.ashr(n, ir.Constant(n.type, [1] * n.type.count))
    rest = x.builder.sub(n, half)
    return (p + 1) * _power_of_two(x, half) * _power_of_two(x, rest)


@pointwise.sigmoid.register
def sigmoid(x: Lanes):
    limit = CONSTANTS[x.dtype].saturated * 2
    e = exp(x.where(">", limit, limit))
    return e / (e + 1)


@pointwise.tanh.register
def tanh(x: Lanes):
    k, builder = CONSTANTS[x.dtype], x.builder
    bits = _integers(x.dtype)
    sign_bit = ir.Constant(bits, [-(1 << (bits.element.width - 1))] * bits.count)
    raw = builder.bitcast(x.value, bits)
    sign = builder.and_(raw, sign_bit)
    magnitude = Lanes(builder, builder.bitcast(builder.xor(raw, sign), x.value.type), x.dtype)
    twice = magnitude.where(">", k.saturated, k.saturated) * 2
    p, n = _reduce(twice)
    scale = _power_of_two(x, n)
    m = scale.fma(p, scale - 1)
    y = m / (m + 2)
    return Lanes(builder, builder.bitcast(builder.or_(builder.bitcast(y.value, bits), sign), x.value.type), x.dtype)


@pointwise.relu.register
def relu(x: Lanes):
    return x.where("<=", 0, 0)


@pointwise.relu_gradient.register
def relu_gradient(dy: Lanes, y):
    off = dy.builder.fcmp_ordered("<=", y.value, y.of(0).value)
    return Lanes(dy.builder, dy.builder.select(off, dy.of(0).value, dy.value), dy.dtype)
