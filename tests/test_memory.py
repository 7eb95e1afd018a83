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
    size, kept = pool.LEAST, 0
    view = memory.empty((size,), "float32")[3:5]
    gc.collect()
    assert len(pool._free) == kept
    del view
    gc.collect()
    assert len(pool._free) == kept + 1


def test_the_pool_is_bounded(monkeypatch):
    pool = memory._Pool()
    monkeypatch.setattr(memory._Pool, "MOST", 3 * pool.LEAST)
    lent = [pool.take(pool.LEAST) for _ in range(5)]
    del lent
    gc.collect()
    assert sum(raw.size for raw in pool._free) <= 3 * pool.LEAST
