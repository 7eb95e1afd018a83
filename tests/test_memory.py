"""Work memory: aligned, lent, and never taken from somebody who still holds it."""

import gc

from fastrnn.cpu import memory


def test_pieces_start_on_cache_lines_and_do_not_overlap():
    pieces = memory.Block(((3, 5), "float32"), ((7,), "float64"), ((1,), "intp")).pieces
    ends = [0]
    for array, address in pieces:
        assert address % memory.LINE == 0 and address == array.ctypes.data and address >= ends[-1]
        ends.append(address + array.nbytes)


def test_memory_comes_back_when_the_last_view_is_gone(monkeypatch):
    pool = memory._Pool()
    monkeypatch.setattr(memory, "_POOL", pool)
    size, kept = pool.LEAST, 0
    block = memory.Block(((size,), "float32"))
    view = block.pieces[0].array[3:5]
    del block
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
