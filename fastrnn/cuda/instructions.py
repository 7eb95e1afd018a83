"""Three instructions that Numba has no name for: a product by tensor cores, a load that is made anew, a store of 16 bits.

They are CUDA C++, compiled and linked with kernels that call them. In the simulator they are Python: there the lanes of a
warp pass their operands round in shared memory.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import config, cuda

from fastrnn.cuda.scalars import bits_of, device, fresh, storer

# arguments as Numba gives them: where the result goes, first; an array of one axis in seven parts, the fifth its address
_COMMON = r"""
typedef unsigned long long Words;
#define ARRAY void *, void *, long long, long long, BITS *data, long long, long long
#define SUMS float *sums, float c0, float c1, float c2, float c3
#define MULTIPLY(a0, a1, a2, a3, b0, b1) \
    asm("mma.sync.aligned." SHAPE " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1))

extern "C" __device__ int fastrnn_NAME_load(Words *word, ARRAY, long long i)
{
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];"
        : "=l"(*word) : "l"(__cvta_generic_to_global((Words *)data + i)) : "memory");
    return 0;
}
"""
_HALVES = r"""
extern "C" __device__ int fastrnn_NAME_multiply(SUMS, Words a, Words a8, Words b)
{
    float c[4] = {c0, c1, c2, c3};
    MULTIPLY((unsigned)a, (unsigned)a8, (unsigned)(a >> 32), (unsigned)(a8 >> 32), (unsigned)b, (unsigned)(b >> 32));
    for (int i = 0; i < 4; i++)
        sums[i] = c[i];
    return 0;
}

extern "C" __device__ int fastrnn_NAME_store(int *, ARRAY, long long i, float x)
{
    unsigned short bits;
    asm("cvt.rn.NAME.f32 %0, %1;" : "=h"(bits) : "f"(x));
    data[i] = bits == 0xFFFF ? 0x7FFF : bits;
    return 0;
}
"""
# A number is the sum of two of 11 bits, but for a part in 2^23 that the second leaves out; of products, all but that of
# the two second ones. Tensor cores cut off what they add up: only eight terms at a time are left to them. Infinity leaves
# a second number that is NaN: so is then the sum.
_SINGLE = r"""
struct Parts { unsigned high, low; };

static __device__ __forceinline__ Parts parts(unsigned bits)
{
    unsigned high = (bits + 0x1000) & ~0x1FFF;
    return {high, __float_as_uint(__uint_as_float(bits) - __uint_as_float(high))};
}

extern "C" __device__ int fastrnn_NAME_multiply(SUMS, Words a, Words a8, Words b)
{
    Parts a0 = parts((unsigned)a), a1 = parts((unsigned)a8), a2 = parts(a >> 32), a3 = parts(a8 >> 32);
    Parts b0 = parts((unsigned)b), b1 = parts(b >> 32);
    float c[4] = {0, 0, 0, 0};
    MULTIPLY(a0.low, a1.low, a2.low, a3.low, b0.high, b1.high);
    MULTIPLY(a0.high, a1.high, a2.high, a3.high, b0.low, b1.low);
    MULTIPLY(a0.high, a1.high, a2.high, a3.high, b0.high, b1.high);
    sums[0] = c0 + c[0]; sums[1] = c1 + c[1]; sums[2] = c2 + c[2]; sums[3] = c3 + c[3];
    return 0;
}

extern "C" __device__ int fastrnn_NAME_store(int *, ARRAY, long long i, float x)
{
    unsigned bits = __float_as_uint(x);
    data[i] = bits == 0xFFFFFFFF ? 0x7FFFFFFF : bits;
    return 0;
}
"""


class _Source(NamedTuple):
    name: str  # as PTX has it
    code: str
    bits: str  # the type that arrays have, C++'s and Numba's
    numba: str
    shape: str  # of a product, and the types of its operands


_SOURCES = {
    "float16": _Source("f16", _HALVES, "short", "int16", "m16n8k16.row.col.f32.f16.f16.f32"),
    "bfloat16": _Source("bf16", _HALVES, "short", "int16", "m16n8k16.row.col.f32.bf16.bf16.f32"),
    "float32": _Source("f32", _SINGLE, "int", "int32", "m16n8k8.row.col.f32.tf32.tf32.f32"),
}


class Instructions(NamedTuple):
    """Device functions; a word is four numbers of 16 bits that lie side by side, or two of 32."""

    multiply: Any  # (sums, a, a8, b) -> four sums and the products of 16 terms, or 8, see `_multiply`
    load: Any  # (array, i) -> its i-th word as it is in the second-level cache now, whatever was read of it before
    store: Any  # (array, i, x): the nearest number to x; its bits are not all ones


@cache
def instructions(dtype):
    """For numbers stored as float16, bfloat16 or float32, in arrays of integers."""
    if config.ENABLE_CUDASIM:
        return _simulated(dtype)
    source = _SOURCES[dtype]
    head = f'#define BITS {source.bits}\n#define SHAPE "{source.shape}"\n'
    code = cuda.CUSource(head + (_COMMON + source.code).replace("NAME", source.name))
    forms = (
        "UniTuple(float32, 4)(UniTuple(float32, 4), int64, int64, int64)", f"int64({source.numba}[::1], int64)",
        f"int32({source.numba}[::1], int64, float32)",
    )  # fmt: skip
    fields = zip(Instructions._fields, forms, strict=True)
    return Instructions(*(cuda.declare_device(f"fastrnn_{source.name}_{field}", form, link=code) for field, form in fields))


def _simulated(dtype):
    rounded, integer = storer(dtype), bits_of(dtype)
    nan = np.iinfo(integer).max

    def numbers(words):
        bits = words.view(integer)
        if dtype == "bfloat16":
            return (bits.astype(np.int32) << 16).view(np.float32)
        return bits.view(dtype).astype(np.float32)

    def load(array, i):
        return fresh(array.view(np.int64), i)

    def store(array, i, x):
        bits = np.asarray(rounded(np.float32(x))).view(integer)
        array[i] = nan if bits == -1 else bits

    def multiply(sums, a, a8, b):
        return _multiply(numbers, sums, a, a8, b)

    return Instructions(device(multiply), device(load), device(store))


@device
def _multiply(numbers, sums, a, a8, b):
    """What lanes 4 g + t of a warp do together: 16 columns by 8 rows, over the terms of four words.

    A lane gives the t-th word of columns g (a) and g + 8 (a8), and of row g (b). It is given the sums of column g and rows
    2 t and 2 t + 1, then those of column g + 8.
    """
    thread = cuda.threadIdx.x
    given = cuda.shared.array((1024, 3), np.int64)
    given[thread] = a, a8, b
    cuda.syncthreads()
    warp, lane = thread // 32 * 32, thread % 32
    column, row = warp + lane // 4 * 4, warp + lane % 4 * 8
    low, high = (numbers(given[column : column + 4, k].copy()) for k in (0, 1))
    one, next_one = (numbers(given[r : r + 4, 2].copy()) for r in (row, row + 4))
    cuda.syncthreads()
    found = low @ one, low @ next_one, high @ one, high @ next_one
    return tuple(c + product for c, product in zip(sums, found, strict=True))
