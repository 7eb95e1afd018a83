"""Three instructions that Numba has no name for: a product by tensor cores, a load that is made anew, a store of 16 bits.

They are CUDA C++, compiled and linked with kernels that call them. In the simulator they are Python: there the lanes of a
warp pass their operands round in shared memory.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import config, cuda

from fastrnn.cuda.scalars import device, fresh, storer

_ABSENT, _NAN = 0xFFFF, 0x7FFF  # of 16 bits: NaNs in either format
# arguments as Numba gives them: where the result goes, first; an array of one axis in seven parts, the fifth its address
_SOURCE = r"""
typedef unsigned long long Words;
#define ARRAY void *, void *, long long, long long, short *data, long long, long long

extern "C" __device__ int fastrnn_TYPE_multiply(
    float *sums, float c0, float c1, float c2, float c3, Words a, Words a8, Words b)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.TYPE.TYPE.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
        : "=f"(sums[0]), "=f"(sums[1]), "=f"(sums[2]), "=f"(sums[3])
        : "r"((unsigned)a), "r"((unsigned)a8), "r"((unsigned)(a >> 32)), "r"((unsigned)(a8 >> 32)),
          "r"((unsigned)b), "r"((unsigned)(b >> 32)), "f"(c0), "f"(c1), "f"(c2), "f"(c3));
    return 0;
}

extern "C" __device__ int fastrnn_TYPE_load(Words *word, ARRAY, long long i)
{
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];"
        : "=l"(*word) : "l"(__cvta_generic_to_global(data + 4 * i)) : "memory");
    return 0;
}

extern "C" __device__ int fastrnn_TYPE_leave(int *, ARRAY, long long i, float x)
{
    unsigned short bits;
    asm("cvt.rn.TYPE.f32 %0, %1;" : "=h"(bits) : "f"(x));
    data[i] = bits == ABSENT ? NAN : bits;
    return 0;
}
"""


class Instructions(NamedTuple):
    """Device functions; a word is four numbers of 16 bits that lie side by side."""

    multiply: Any  # (sums, a, a8, b) -> four sums and the products of 16 terms, see `_multiply`
    load: Any  # (array, i) -> its i-th word as it is in the second-level cache now, whatever was read of it before
    leave: Any  # (array, i, x): the nearest number to x; its 16 bits are not all ones


@cache
def instructions(dtype):
    """For numbers stored as float16 or bfloat16, in arrays of int16."""
    if config.ENABLE_CUDASIM:
        return _simulated(dtype)
    name = {"float16": "f16", "bfloat16": "bf16"}[dtype]
    code = cuda.CUSource(_SOURCE.replace("TYPE", name).replace("ABSENT", str(_ABSENT)).replace("NAN", str(_NAN)))
    forms = (
        "UniTuple(float32, 4)(UniTuple(float32, 4), int64, int64, int64)", "int64(int16[::1], int64)",
        "int32(int16[::1], int64, float32)",
    )  # fmt: skip
    fields = zip(Instructions._fields, forms, strict=True)
    return Instructions(*(cuda.declare_device(f"fastrnn_{name}_{field}", form, link=code) for field, form in fields))


def _simulated(dtype):
    store = storer(dtype)

    def numbers(words):
        bits = words.view(np.int16)
        if dtype == "bfloat16":
            return (bits.astype(np.int32) << 16).view(np.float32)
        return bits.view(np.float16).astype(np.float32)

    def load(array, i):
        return fresh(array.view(np.int64), i)

    def leave(array, i, x):
        bits = np.asarray(store(x)).view(np.uint16)
        array[i] = _NAN if bits == _ABSENT else bits.view(np.int16)

    def multiply(sums, a, a8, b):
        return _multiply(numbers, sums, a, a8, b)

    return Instructions(device(multiply), device(load), device(leave))


@device
def _multiply(numbers, sums, a, a8, b):
    """What lanes 4 g + t of a warp do together: rows g and g + 8 of 16, by 8 columns, over 16 terms.

    A lane gives terms 4 t to 4 t + 3 of rows g (a) and g + 8 (a8), and of column g (b). It is given the sums of row g and
    columns 2 t and 2 t + 1, then those of row g + 8.
    """
    thread = cuda.threadIdx.x
    given = cuda.shared.array((1024, 3), np.int64)
    given[thread] = a, a8, b
    cuda.syncthreads()
    warp, lane = thread // 32 * 32, thread % 32
    row, column = warp + lane // 4 * 4, warp + lane % 4 * 8
    low, high = (numbers(given[row : row + 4, k].copy()) for k in (0, 1))
    one, next_one = (numbers(given[c : c + 4, 2].copy()) for c in (column, column + 4))
    cuda.syncthreads()
    found = low @ one, low @ next_one, high @ one, high @ next_one
    return tuple(c + product for c, product in zip(sums, found, strict=True))
