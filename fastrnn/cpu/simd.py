"""A vector of numbers: as a Numba type for the loops, and as a Python value that writes LLVM code for the cells.

`Vector` is what a loop loads, hands on and stores. `Lanes` wraps one such value while code is being generated: its
operators emit one vector instruction each, so running a cell's plain Python text on `Lanes` compiles that text. No
fast-math flag is ever set: the same text gives the same bits wherever it is inlined, and NaN and infinity come through.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel.models import OpaqueModel, PrimitiveModel
from numba.extending import intrinsic, register_model

from fastrnn.cpu.target import ITEMSIZE, TARGET, lanes

I32, I64 = ir.IntType(32), ir.IntType(64)
SCALAR = {"float32": ir.FloatType(), "float64": ir.DoubleType()}
NUMBA = {"float32": types.float32, "float64": types.float64}


class Vector(types.Type):
    def __init__(self, dtype: str):
        self.dtype = dtype
        super().__init__(f"vector({dtype} x {lanes(dtype)})")


def llvm_vector(dtype: str) -> ir.VectorType:
    return ir.VectorType(SCALAR[dtype], lanes(dtype))


@register_model(Vector)
class _VectorModel(PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, llvm_vector(fe_type.dtype))


class Lanes:
    """A vector value under construction; arithmetic on it appends instructions to the builder."""

    __array_ufunc__ = None  # NumPy scalars leave the arithmetic to us

    def __init__(self, builder, value, dtype, constants=None):
        self.builder, self.value, self.dtype, self.constants = builder, value, dtype, constants

    def new(self, value):
        """Another value of the same function."""
        return Lanes(self.builder, value, self.dtype, self.constants)

    def of(self, other):
        """`other` as Lanes: itself, a number in every lane, or one number for each lane."""
        if isinstance(other, Lanes):
            return other
        kind = llvm_vector(self.dtype)
        numbers = tuple(map(float, other)) if isinstance(other, tuple) else (float(other),)
        if self.constants is not None:
            return self.new(self.constants.load(numbers))
        return self.new(ir.Constant(kind, list(numbers) * (kind.count // len(numbers))))

    def _emit(self, method, *operands):
        return self.new(getattr(self.builder, method)(*(self.of(x).value for x in operands)))

    def __add__(self, other):
        return self._emit("fadd", self, other)

    def __radd__(self, other):
        return self._emit("fadd", other, self)

    def __sub__(self, other):
        return self._emit("fsub", self, other)

    def __rsub__(self, other):
        return self._emit("fsub", other, self)

    def __mul__(self, other):
        return self._emit("fmul", self, other)

    def __rmul__(self, other):
        return self._emit("fmul", other, self)

    def __truediv__(self, other):
        return self._emit("fdiv", self, other)

    def __rtruediv__(self, other):
        return self._emit("fdiv", other, self)

    def __neg__(self):
        return self._emit("fneg", self)

    def fma(self, factor, summand):
        """self * factor + summand, rounded once where the hardware can."""
        return self.new(fma(self.builder, self.value, self.of(factor).value, self.of(summand).value))

    def polynomial(self, coefficients):
        """c0 + c1 x + c2 x² + ...: pairs side by side, which takes half the time of one after the other."""
        square, (*pairs, last) = self * self, [coefficients[k : k + 2] for k in range(0, len(coefficients), 2)]
        pair = lambda low, high=None: self.of(low) if high is None else self.fma(high, low)  # noqa: E731
        total = pair(*last)
        for one in reversed(pairs):
            total = square.fma(total, pair(*one))
        return total

    def where(self, comparison, bound, then):
        """`then` in the lanes where `self comparison bound` holds (never for NaN), self elsewhere."""
        hit = self.builder.fcmp_ordered(comparison, self.value, self.of(bound).value)
        return self.new(self.builder.select(hit, self.of(then).value, self.value))


def new_function(module, name, kinds):
    """A function whose address kernels are told, its code still to be written."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), module.get_unique_name(name))
    function.linkage = "internal"
    # registers that are spilled would straddle cache lines in three processes of four; llvmlite does not know this name
    set.add(function.attributes, '"stackrealign"')
    return function


def call_address(context, builder, signature, args):
    """The code of an intrinsic that calls what lies at its first argument, with the others."""
    address, *values = args
    kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
    builder.call(builder.inttoptr(address, kind.as_pointer()), values)
    return context.get_dummy_value()


def fma(builder, x, y, z):
    """x y + z as one instruction, or as two where there is none: llvm.fma would call a scalar library function."""
    if not TARGET.fma:
        return builder.fadd(builder.fmul(x, y), z)
    kind = x.type
    suffix = f"v{kind.count}f{ITEMSIZE['float32' if kind.element == SCALAR['float32'] else 'float64'] * 8}"
    # declare_intrinsic does not take vectors
    name = ir.FunctionType(kind, [kind] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, name, f"llvm.fma.{suffix}"), [x, y, z])


def splat(builder, scalar, kind):
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, scalar, I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count))


def vector_pointer(builder, pointer, index, dtype):
    return builder.bitcast(builder.gep(pointer, [index]), llvm_vector(dtype).as_pointer())


def load_vector(builder, pointer, index, dtype):
    value = builder.load(vector_pointer(builder, pointer, index, dtype))
    value.align = ITEMSIZE[dtype]
    return value


def store_vector(builder, value, pointer, index, dtype):
    builder.store(value, vector_pointer(builder, pointer, index, dtype)).align = ITEMSIZE[dtype]


def prefetch_line(builder, pointer, index, level=2, write=0):
    """Ask for the cache line of pointer[index], as far as a level of the caches."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    # LLVM's locality is 3 for the first level, 2 for the second; data
    builder.call(function, [builder.bitcast(builder.gep(pointer, [index]), byte), I32(write), I32(4 - level), I32(1)])


def tail_mask(builder, count, n):
    """<n x i1>: the first `count` lanes."""
    lane = ir.Constant(ir.VectorType(I32, n), list(range(n)))
    count = splat(builder, builder.trunc(count, I32), lane.type)
    return builder.icmp_signed("<", lane, count)


def masked(builder, dtype, operation):
    """The function that loads or stores the lanes of a mask."""
    kind = llvm_vector(dtype)
    mask, pointer = ir.VectorType(ir.IntType(1), kind.count), kind.as_pointer()
    signature = {
        "load": ir.FunctionType(kind, [pointer, I32, mask, kind]),
        "store": ir.FunctionType(ir.VoidType(), [kind, pointer, I32, mask]),
    }[operation]
    name = f"llvm.masked.{operation}.v{kind.count}f{ITEMSIZE[dtype] * 8}.p0"
    return cgutils.get_or_insert_function(builder.module, signature, name)


def store_lanes(builder, placed, pointer, count, dtype):
    """Store the first `count` lanes, or all, of each vector: `placed` has an index and a vector each."""
    n = lanes(dtype)
    with builder.if_else(builder.icmp_signed(">=", count, I64(n))) as (whole, part):
        with whole:
            for index, value in placed:
                store_vector(builder, value, pointer, index, dtype)
        with part:
            mask, function = tail_mask(builder, count, n), masked(builder, dtype, "store")
            for index, value in placed:
                address = vector_pointer(builder, pointer, index, dtype)
                builder.call(function, [value, address, I32(ITEMSIZE[dtype]), mask])


# --- what the loops call ------------------------------------------------------------------------------------------


@intrinsic
def ask(typing, pointer):
    """Ask for the cache line of a number that will be needed soon."""

    def codegen(context, builder, signature, args):
        prefetch_line(builder, args[0], I64(0), level=1)
        return context.get_dummy_value()

    return types.void(pointer), codegen


@intrinsic
def claim(typing, pointer):
    """Ask for the cache line of a number that will be written soon, to be this core's alone."""

    def codegen(context, builder, signature, args):
        prefetch_line(builder, args[0], I64(0), level=1, write=1)
        return context.get_dummy_value()

    return types.void(pointer), codegen


class Static(types.Opaque):
    """A value known while compiling, as a type: it stays known when a loop hands it on to a helper."""

    def __init__(self, value):
        self.value = value
        super().__init__(f"static({value!r})")


register_model(Static)(OpaqueModel)


@intrinsic(prefer_literal=True)
def static(typing, value):
    """A literal as a Static."""

    def codegen(context, builder, signature, args):
        return context.get_dummy_value()

    return Static(value.literal_value)(value), codegen


def element(pointer) -> str:
    """The dtype's name of what a Numba pointer points to."""
    return pointer.dtype.name


@intrinsic
def load(typing, pointer, index):
    """The vector at pointer[index:]."""
    kind = Vector(element(pointer))

    def codegen(context, builder, signature, args):
        return load_vector(builder, args[0], args[1], kind.dtype)

    return kind(pointer, types.intp), codegen


@intrinsic
def load_part(typing, pointer, index, count):
    """The first `count` lanes from pointer[index:], zero in the others; nothing behind them is touched."""
    kind = Vector(element(pointer))

    def codegen(context, builder, signature, args):
        vector = llvm_vector(kind.dtype)
        address = vector_pointer(builder, args[0], args[1], kind.dtype)
        result = cgutils.alloca_once(builder, vector)
        with builder.if_else(builder.icmp_signed(">=", args[2], I64(vector.count))) as (whole, part):
            with whole:
                value = builder.load(address)
                value.align = ITEMSIZE[kind.dtype]
                builder.store(value, result)
            with part:
                mask = tail_mask(builder, args[2], vector.count)
                zero = ir.Constant(vector, [0.0] * vector.count)
                function = masked(builder, kind.dtype, "load")
                builder.store(builder.call(function, [address, I32(ITEMSIZE[kind.dtype]), mask, zero]), result)
        return builder.load(result)

    return kind(pointer, types.intp, types.intp), codegen


@intrinsic
def store(typing, pointer, index, value):
    """pointer[index:] = value, all lanes."""

    def codegen(context, builder, signature, args):
        store_vector(builder, args[2], args[0], args[1], value.dtype)
        return context.get_dummy_value()

    return types.void(pointer, types.intp, value), codegen


@intrinsic
def store_part(typing, pointer, index, stride, values, count):
    """The first `count` lanes of each vector of a tuple, `stride` numbers apart; nothing behind them is touched."""

    def codegen(context, builder, signature, args):
        vectors = cgutils.unpack_tuple(builder, args[3])
        places = [builder.add(args[1], builder.mul(args[2], I64(k))) for k in range(len(vectors))]
        store_lanes(builder, list(zip(places, vectors, strict=True)), args[0], args[4], element(pointer))
        return context.get_dummy_value()

    return types.void(pointer, types.intp, types.intp, values, types.intp), codegen


def of_two(x, instruction):
    """What an intrinsic of two vectors returns that is one instruction."""

    def codegen(context, builder, signature, args):
        return getattr(builder, instruction)(*args)

    return x(x, x), codegen


@intrinsic
def add(typing, x, y):
    return of_two(x, "fadd")


@intrinsic
def shift(typing, pointer, index):
    """pointer + index."""

    def codegen(context, builder, signature, args):
        return builder.gep(args[0], [args[1]])

    return pointer(pointer, types.intp), codegen
