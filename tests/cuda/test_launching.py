"""What a kernel is given by the package's own launches: as many words as its code has parameters, in their order."""

import ctypes
import re
from types import SimpleNamespace

import numpy as np
import pytest
from numba import cuda

from fastrnn import choices
from fastrnn.cells import REGISTRY
from fastrnn.contract import Weights
from fastrnn.cuda import choosing, decode, engine, gemm, launching, loops, moves, plan, target
from fastrnn.cuda.decoding import tiles_of
from fastrnn.cuda.launching import Memory
from fastrnn.cuda.rows import Loop

pytestmark = pytest.mark.ptx


def numbers(dtype="float32", *shape):
    return Memory(64, shape or (7,), None, dtype, None)


def launches():
    q, table, real, batch = Loop(1, 2, 3), numbers("int64"), numbers(), numbers("float32", 2, 3, 4)
    form = plan.Form(target.forward_tiles("lstm", "float32")[0], plan.SHARED, 0)
    yield loops.forward("lstm", "float32", form, True), (q, real, real, real, real, table, table, real, batch)
    yield gemm.multiply("float32", "float32", target.SQUARES[0]), (gemm.Product(1, 2, 3, 4, 5, 6, 7), *[real] * 4)
    yield moves.convert("float32", "float16"), (5, 1, real, numbers("float16"), 0)
    kernel = decode.decoder("gru", "float32", tiles_of("gru", "float32", "greedy", 1), "greedy")
    tables, doubles = (table,) * len(choices.TABLES), (numbers("float64"),) * len(choices.NUMBERS)
    yield kernel, ((1,) * decode.SIZES, 0.5, (1,) * len(choosing.FIXED), tables, doubles, *[real] * 6, table)


@pytest.mark.parametrize("which", range(4))
def test_as_many_words_as_parameters(which, monkeypatch):
    monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: SimpleNamespace(compute_capability=(9, 0)))
    kernel, args = list(launches())[which]
    ptx, _ = cuda.compile_ptx(kernel.py_func, cuda.types.void(*map(launching._type_of, args)), cc=(9, 0))
    entry = re.search(r"\.visible \.entry [^)]*\)", ptx)[0]
    widths = re.findall(r"\.param \.[a-z]+(\d+)", entry)
    words, forms = [], []
    launching._spell(args, words, forms)
    assert set(widths) == {"64"}
    assert len(words) == len(widths)
    hash(tuple(forms))


def test_views_of_memory():
    dense = Memory(100, (2, 3), (12, 4), "float32", None)
    assert dense.is_c_contiguous()
    part = dense.ravel()[2:5]
    assert (part.pointer, part.shape, part.strides) == (108, (3,), (4,))
    assert not Memory(100, (2, 3), (4, 8), "float32", None).is_c_contiguous()
    # of an axis of one any stride is right, and of an array without numbers
    assert Memory(100, (2, 1, 3), (12, 99, 4), "float32", None).strides == (12, 12, 4)
    assert Memory(100, (4, 0), (3, 3), "float32", None).is_c_contiguous()
    assert Memory(100, (4,), None, "int16", None).dtype == np.int16


def test_words_are_found_by_their_places():
    for count in (3, 300, 5):
        words = list(range(-1, count - 1))
        places = (ctypes.c_int64 * count).from_address(launching._written.put(words))
        assert [ctypes.c_int64.from_address(place).value for place in places] == words


class Array:
    """As CuPy's, somewhere."""

    dtype, flags = np.dtype(np.float32), SimpleNamespace(c_contiguous=True)

    def __init__(self, pointer, *shape):
        self.data, self.shape, self.size = SimpleNamespace(ptr=pointer), shape, int(np.prod(shape))


Array.__module__ = "cupy"


def test_weights_with_other_memory_are_looked_up_again():
    weights = Weights(Array(64, 6, 3), Array(640, 6, 2), None, Array(6400, 6))
    prepared = engine.prepare(REGISTRY["gru"], weights)
    before = prepared.w_ih
    engine.refresh(prepared)
    assert prepared.w_ih is before
    assert prepared.b_ih is None
    weights.b_hh.data.ptr = 128
    engine.refresh(prepared)
    assert prepared.w_ih is not before
    assert (prepared.w_ih.pointer, prepared.b_hh.pointer, prepared.b_hh.size) == (64, 128, 6)
