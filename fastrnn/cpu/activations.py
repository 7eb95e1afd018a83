"""exp, sigmoid, tanh and relu on vectors: one reduction, one polynomial, no branch.

    x = n ln 2 + r, |r| <= ln 2 / 2      p = eʳ - 1 = r + r² q(r)      eˣ = 2ⁿ (1 + p)      eˣ - 1 = 2ⁿ p + (2ⁿ - 1)
    σ(x) = 1 / (1 + e⁻ˣ)     tanh |x| = m / (m + 2), m = e²ˣ - 1

The coefficients come from tools/derive_expm1.py. At most 2 ulp over the whole range, denormal results included.
"""

from typing import NamedTuple

from llvmlite import ir

from fastrnn import pointwise
from fastrnn.cpu import avx512
from fastrnn.cpu.simd import Lanes
from fastrnn.cpu.target import TARGET, lanes


class _Constants(NamedTuple):
    log2_e: float
    ln2_high: float  # short enough for n * ln2_high to be exact
    ln2_low: float
    q: tuple[float, ...]
    fraction: int  # bits of the stored fraction
    bias: int  # of the exponent
    overflow: float  # eˣ is infinite above
    underflow: float  # and zero below
    saturated: float  # tanh is 1 above, and σ above twice that


# fmt: off
CONSTANTS = {
    "float32": _Constants(
        log2_e=1.4426950216293335, ln2_high=0.693145751953125, ln2_low=1.428606765330187e-06,
        q=(0.5, 0.1666666567325592, 0.04166646674275398, 0.008333643898367882, 0.0013935072347521782,
           0.0001966333802556619),
        fraction=23, bias=127, overflow=89.5, underflow=-104.5, saturated=10.0,
    ),
    "float64": _Constants(
        log2_e=1.4426950408889634, ln2_high=0.6931471805598903, ln2_low=5.497923018708371e-14,
        q=(0.5, 0.16666666666666666, 0.0416666666666667, 0.008333333333334522, 0.0013888888888863918,
           0.00019841269836509985, 2.4801587369951436e-05, 2.755732742764552e-06, 2.7557236122631943e-07,
           2.5045820565070218e-08, 2.0924348360771936e-09, 1.7820114450333245e-10),
        fraction=52, bias=1023, overflow=710.5, underflow=-746.0, saturated=20.0,
    ),
}
# fmt: on


def _reduce(x):
    """(p, n as a vector of integers) with eˣ = 2ⁿ (1 + p)."""
    k = CONSTANTS[x.dtype]
    magic = 1.5 * 2.0**k.fraction  # adding it rounds to an integer, which then stands in the low bits
    shifted = x.fma(k.log2_e, magic)
    n = shifted - magic
    r = n.fma(-k.ln2_low, n.fma(-k.ln2_high, x))
    bits = _integers(x.dtype)
    as_integer = x.builder.bitcast(shifted.value, bits)
    zero = x.builder.bitcast(x.of(magic).value, bits)
    return (r * r).fma(r.polynomial(k.q), r), x.builder.sub(as_integer, zero)


def _integers(dtype):
    return ir.VectorType(ir.IntType(32 if dtype == "float32" else 64), lanes(dtype))


def _power_of_two(x, n):
    """2ⁿ for a vector of integers n within the range of the normal exponents."""
    k, kind = CONSTANTS[x.dtype], n.type
    constant = lambda value: ir.Constant(kind, [value] * kind.count)  # noqa: E731
    biased = x.builder.add(n, constant(k.bias))
    bits = x.builder.shl(biased, constant(k.fraction))
    return x.new(x.builder.bitcast(bits, x.value.type))


def _halves(x, n):
    """n as a sum of two halves: 2ⁿ alone would leave the range where a result is just within it, or denormal."""
    half = x.builder.ashr(n, ir.Constant(n.type, [1] * n.type.count))
    return half, x.builder.sub(n, half)


def _has_tables(x):
    return TARGET.name == "avx512" and x.dtype == "float32"


@pointwise.exp.register
def exp(x: Lanes):
    k = CONSTANTS[x.dtype]
    p, n = _reduce(x.where(">", k.overflow, k.overflow).where("<", k.underflow, k.underflow))
    first, second = _halves(x, n)
    return (p + 1) * _power_of_two(x, first) * _power_of_two(x, second)


@pointwise.sigmoid.register
def sigmoid(x: Lanes):
    if _has_tables(x):
        return avx512.sigmoid(x)
    # e⁻ˣ = 2ⁿ (1 + p) = b (1 + p) / a: σ = a / (a + b p + b), the small summands first
    k = CONSTANTS[x.dtype]
    p, n = _reduce((-x).where(">", -k.underflow, -k.underflow).where("<", -2 * k.saturated, -2 * k.saturated))
    first, second = _halves(x, n)
    a, b = _power_of_two(x, x.builder.neg(first)), _power_of_two(x, second)
    return a / (b.fma(p, a) + b)


@pointwise.tanh.register
def tanh(x: Lanes):
    if _has_tables(x):
        return avx512.tanh(x)
    k, builder = CONSTANTS[x.dtype], x.builder
    bits = _integers(x.dtype)
    sign_bit = ir.Constant(bits, [-(1 << (bits.element.width - 1))] * bits.count)
    raw = builder.bitcast(x.value, bits)
    sign = builder.and_(raw, sign_bit)
    magnitude = x.new(builder.bitcast(builder.xor(raw, sign), x.value.type))
    twice = magnitude.where(">", k.saturated, k.saturated) * 2
    p, n = _reduce(twice)
    scale = _power_of_two(x, n)
    m = scale.fma(p, scale - 1)
    sum_ = m + 2
    y = m / sum_
    # what the sum's rounding lost, put back: dy = -lost y / sum, and 1 / sum = (1 - y) / 2
    lost = (2 - sum_.where(">", 4, 4)) + m.where(">", 2, 2)  # exact up to m = 2, and nothing from there
    y = (y.fma(-y, y) * lost).fma(-0.5, y)
    return x.new(builder.bitcast(builder.or_(builder.bitcast(y.value, bits), sign), x.value.type))


@pointwise.relu.register
def relu(x: Lanes):
    return x.where("<=", 0, 0)


@pointwise.relu_gradient.register
def relu_gradient(dy: Lanes, y):
    off = dy.builder.fcmp_ordered("<=", y.value, y.of(0).value)
    return dy.new(dy.builder.select(off, dy.of(0).value, dy.value))
