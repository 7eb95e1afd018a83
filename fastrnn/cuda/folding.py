"""What all threads of a block find together, folded by halves: in an order that depends on nothing but how many they are."""

from functools import cache

from numba import cuda

from fastrnn.cuda.scalars import device


def fold_of(threads, merge):
    """(entries): every thread has written its own; the first becomes that of all. merge(entries, a, b): a takes b in."""

    @device
    def fold(entries):
        thread, step = cuda.threadIdx.x, threads // 2
        while step > 0:
            cuda.syncthreads()
            if thread < step:
                merge(entries, thread, thread + step)
            step //= 2
        cuda.syncthreads()

    return fold


@cache
def reducers(threads):
    """(pool, value) -> the largest of the threads' values, their sum, for all threads of a block."""

    def reducer(merge):
        fold = fold_of(threads, device(merge))

        def reduce(pool, value):
            pool[cuda.threadIdx.x] = value
            fold(pool)
            found = pool[0]
            cuda.syncthreads()
            return found

        return device(reduce)

    def larger(pool, a, b):
        pool[a] = pool[a] if pool[a] > pool[b] else pool[b]

    def added(pool, a, b):
        pool[a] += pool[b]

    return reducer(larger), reducer(added)
