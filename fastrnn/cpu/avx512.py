"""sigmoid and tanh of float32 where a register holds a table of 16 numbers, and two of them one of 32: AVX-512.

    e⁻ᵃ = 2ⁿ 2^(j/16) (1 + p), p = eʳ - 1, |r| <= ln 2 / 32      σ(-a) = e⁻ᵃ / (1 + e⁻ᵃ), σ(a) = 1 / (1 + e⁻ᵃ)      a = |x|
    tanh |x|: one of 32 polynomials, by where x lies

Half the instructions of the general functions in activations.py, and no division, which takes sixteen cycles: a quotient
from the processor's estimate of 1 / d and one step of Newton's. At most 2 ulp, as there.
"""

from llvmlite import ir
from numba.core import cgutils

from fastrnn.cpu import tables
from fastrnn.cpu.simd import I32, Lanes

_LOG2_E, _LN2, _LN2_LOST = 1.4426950216293335, 0.6931471824645996, -1.904654299957768e-09
_WHOLE = 1.5 * 2.0**23  # adding it rounds to an integer, which then stands in the low bits
_SIXTEENTHS = 1.5 * 2.0**19  # the same for sixteenths
_LEAST = -104.0  # below, eˣ is zero
_VECTOR, _INTEGERS, _MASK = ir.VectorType(ir.FloatType(), 16), ir.VectorType(I32, 16), ir.IntType(16)
_SIGN = ir.Constant(_INTEGERS, [-(1 << 31)] * 16)


def _call(x, name, kinds, *arguments):
    kind = ir.FunctionType(_VECTOR, kinds)
    function = cgutils.get_or_insert_function(x.builder.module, kind, f"llvm.x86.avx512.{name}")
    return x.new(x.builder.call(function, arguments))


def _bits(x):
    return x.builder.bitcast(x.value, _INTEGERS)


def _from_bits(x, bits):
    return x.new(x.builder.bitcast(bits, _VECTOR))


def _look_up(x, table, index):
    """table[index], by the low bits of the index."""
    values = [x.of(table[k : k + 16]).value for k in range(0, len(table), 16)]
    if len(values) == 1:
        return _call(x, "permvar.sf.512", [_VECTOR, _INTEGERS], values[0], index)
    return _call(x, "vpermi2var.ps.512", [_VECTOR, _INTEGERS, _VECTOR], values[0], index, values[1])


def _quotient(a, d):
    """a / d for d from 1 to 2."""
    everywhere = ir.Constant(_MASK, -1)
    estimate = _call(d, "rcp14.ps.512", [_VECTOR, _VECTOR, _MASK], d.value, d.of(0).value, everywhere)
    q = a * estimate
    return (-d).fma(q, a).fma(estimate, q)


def _scale(x, n):
    """x times 2 to the power of n rounded down."""
    kinds, everywhere = [_VECTOR, _VECTOR, _VECTOR, _MASK, I32], ir.Constant(_MASK, -1)
    return _call(x, "mask.scalef.ps.512", kinds, x.value, n.value, x.of(0).value, everywhere, I32(4))


def sigmoid(x: Lanes):
    builder = x.builder
    a = _from_bits(x, builder.or_(_bits(x), _SIGN))  # -|x|
    a = a.where("<", _LEAST, _LEAST)
    shifted = a.fma(_LOG2_E, _SIXTEENTHS)
    n = shifted - _SIXTEENTHS
    root, lost = (_look_up(x, table, _bits(shifted)) for table in (tables.ROOTS, tables.ROOTS_LOST))
    # what the rounding of ln 2 and of the root lost is put back beside the polynomial, not before it
    r = n.fma(-_LN2, a)
    p = (r * r).fma(r.polynomial(tables.EXPONENTIAL), r + n.fma(-_LN2_LOST, lost))
    scaled = _scale(root, n)
    e = scaled.fma(p, scaled)
    negative = builder.icmp_signed("<", _bits(x), ir.Constant(_INTEGERS, [0] * 16))
    whole = x.new(builder.select(negative, e.value, x.of(1).value))
    # e - e q and 1 - q rather than q: what the rounding of 1 + e loses counts less
    return (-whole).fma(_quotient(e, e + 1), whole)


def tanh(x: Lanes):
    builder = x.builder
    if x.constants is not None:  # fourteen vectors, which a second tanh loads again
        x = Lanes(builder, x.value, x.dtype, x.constants.apart())
    sign = builder.and_(_bits(x), _SIGN)
    a = _from_bits(x, builder.xor(_bits(x), sign))
    most = 31.49 * tables.SPACING  # where tanh is 1
    a = a.where(">", most, most)
    shifted = a.fma(1 / tables.SPACING, _WHOLE)
    d = (shifted - _WHOLE).fma(-tables.SPACING, a)
    first, *others = (_look_up(x, table, _bits(shifted)) for table in tables.TANH)
    y = d.fma(d.polynomial(others), first)
    return _from_bits(x, builder.or_(_bits(y), sign))
