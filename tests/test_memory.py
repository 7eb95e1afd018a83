"""Work memory: aligned, lent, and never taken from somebody who still holds it."""

import gc

from fastrnn.cpu import memory


def test_pieces_start_on_cache_lines_and_do_not_overlap():
    block = memory.Block(memory.Layout({"a": ((3, 5), "float32"), "b": ((7,), "float64"), "c": ((1,), "intp")}))
    end = 0
    for name in "abc":
        array, address = block[name], block.at(name)
        assert address % memory.LINE == 0 and address == array.ctypes.data and address >= end
        end = address + array.nbytes
    assert "a" in block and "d" not in block


def test_memory_comes_back_when_the_last_view_is_gone(monkeypatch):
    pool = memory._Pool()
    monkeypatch.setattr(memory, "_POOL", pool)
    size = pool.LEAST
    view = memory.empty((size,), "float32")[3:5]
    gc.collect()
    assert not pool._free
    del view
    gc.collect()
    [(size, [_])] = pool._free.items()
    assert 4 * pool.LEAST < size < 5 * pool.LEAST
    again = memory.empty((pool.LEAST,), "float32")
    assert pool._kept == 0 and again.size == pool.LEAST


def test_the_pool_is_bounded(monkeypatch):
    pool = memory._Pool()
    monkeypatch.setattr(memory._Pool, "MOST", 3 * pool.LEAST)
    lent = [pool.take(pool.LEAST) for _ in range(5)]
    del lent
    gc.collect()
    assert pool._kept == sum(size * len(free) for size, free in pool._free.items()) <= 3 * pool.LEAST
