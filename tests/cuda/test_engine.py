"""The CUDA kernels against the reference in double precision, into memory full of NaN: every cell, type, cut, odd size."""

from dataclasses import replace

import numpy as np
import pytest

from fastrnn import reference
from fastrnn.cells import REGISTRY
from fastrnn.cuda import devices, engine, moves, plan, target
from fastrnn.cuda.call import Call, passing
from fastrnn.cuda.kinds import stored_as
from fastrnn.cuda.rows import Rows
from fastrnn.cuda.scalars import real_name
from tests.helpers import DEVICE, rms
from tests.problems import problem

pytestmark = [pytest.mark.cudasim, pytest.mark.gpu]
CELL = pytest.mark.parametrize("name", REGISTRY)
SIZES = [(1, 1, 3, 5), (4, 5, 3, 9), (3, 7, 9, 17), (5, 2, 4, 16), (3, 3, 40, 35), (2, 2, 3, 70)]
SIZE = pytest.mark.parametrize("size", SIZES, ids="T{0[0]}-N{0[1]}-I{0[2]}-H{0[3]}".format)
# slices, groups, where the weights are, which of the tiles
CUTS = [
    (1, 1, plan.SHARED, -1), (1, 3, plan.STREAMED, 0), (5, 1, plan.SHARED, 1), (5, 1, plan.STREAMED, 0),
    (3, 2, plan.SHARED, -1), (2, 3, plan.STREAMED, -1), (5, 1, plan.REGISTERS, 0), (5, 1, plan.REGISTERS, 1),
]  # fmt: skip
# the same for tensor cores: of the units and rows of a pass, the least, some, the most
FRAGMENTS = [
    (1, 1, plan.SHARED, -1), (1, 2, plan.STREAMED, 0), (3, 1, plan.SHARED, 0), (5, 1, plan.REGISTERS, -1),
    (5, 2, plan.STREAMED, 1), (18, 1, plan.REGISTERS, 2), (2, 3, plan.SHARED, 4),
]  # fmt: skip
RAGGED = pytest.mark.parametrize("ragged", [False, True], ids=["dense", "ragged"])
REVERSE = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


ARRAYS = ("x", "h0", "c0", "dy", "dh_n", "dc_n")


def rounded(array):
    """The array as bfloat16 has it, towards zero; in double precision."""
    return (
        None if array is None else bfloat16((array.astype(np.float32).view(np.int32) >> 16).astype(np.int16)).astype(float)
    )


def put(cuda, p, dtype):
    """The problem's arrays on the device."""

    def to(array):
        if array is None:
            return None
        stored = array.astype(np.float32).view(np.int32) >> 16 if dtype == "bfloat16" else array
        return cuda.to_device(stored.astype(stored_as(dtype)))

    arrays = {k: to(getattr(p, k)) for k in ARRAYS}
    return replace(p, weights=p.weights.map(to), **arrays)


def bfloat16(bits):
    """The numbers that they are, in single precision."""
    return (bits.astype(np.int32) << 16).view(np.float32)


def agree(cuda, p, dtype):
    """Outputs and gradients of the device are those of the reference on the same numbers."""
    exact = p.cast(dtype).cast(np.float64)
    got, want = put(cuda, exact, dtype).run(engine), exact.run(reference)
    assert got.keys() == want.keys()
    for key in want:
        found = got[key].copy_to_host()
        assert found.dtype == dtype
        assert rms(found.astype(np.float64), want[key]) < DEVICE[dtype], key


@CELL
@SIZE
@RAGGED
@REVERSE
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_outputs_and_all_gradients(device, name, size, ragged, reverse, dtype):
    agree(device, problem(name, *size, ragged=ragged, reverse=reverse), dtype)


@CELL
@RAGGED
@pytest.mark.parametrize("tensor", [True, False], ids=["tensor", "scalar"])
def test_half_precision_is_stored_and_single_precision_summed(device, name, ragged, tensor, monkeypatch):
    there = engine.limits
    monkeypatch.setattr(engine, "limits", lambda number: there(number)._replace(tensor=tensor and there(number).tensor))
    agree(device, problem(name, 5, 4, 6, 11, ragged=ragged), "float16")


@CELL
def test_bfloat16(device, name, monkeypatch):
    # NumPy and Numba's arrays know it as 16 bits
    monkeypatch.setattr(engine, "dtype_of", lambda x: "bfloat16" if x.dtype == np.int16 else str(x.dtype))
    p = problem(name, 5, 4, 6, 11, ragged=True)
    bits = put(device, p, "bfloat16")
    exact = replace(p, weights=p.weights.map(rounded), **{k: rounded(getattr(p, k)) for k in ARRAYS})
    want = exact.run(reference)
    for key, got in bits.run(engine).items():
        assert rms(bfloat16(got.copy_to_host()).astype(np.float64), want[key]) < DEVICE["bfloat16"], key


def test_rounding_to_bfloat16_is_to_the_nearest(device):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=500), rng.normal(size=200) * 1e30, rng.normal(size=200) * 1e-30]).astype(np.float32)
    # halfway between two, above an even and an odd one; zeros, infinities, NaN
    x = np.concatenate([x, np.array([1 + 2**-8, 1 + 3 * 2**-8, 0, -0.0, np.inf, -np.inf, np.nan], np.float32)])
    call = Call(device.to_device(x))
    into = call.empty((len(x),), "bfloat16")
    call.each(moves.convert("float32", "bfloat16"), len(x), len(x), 1, call.flat(device.to_device(x)), call.view(into), 0)
    got = bfloat16(into.copy_to_host())
    below = bfloat16((x.view(np.int32) >> 16).astype(np.int16))
    with np.errstate(invalid="ignore"):
        above = bfloat16(((x.view(np.int32) >> 16) + 1).astype(np.int16))  # further from zero
        distance = np.abs(x.astype(np.float64) - below), np.abs(x.astype(np.float64) - above)
    even = (x.view(np.int32) >> 16) % 2 == 0
    nearest = np.where((distance[0] < distance[1]) | ((distance[0] == distance[1]) & even), below, above)
    finite = np.isfinite(x)
    np.testing.assert_array_equal(got[finite], nearest[finite])
    np.testing.assert_array_equal(got[~finite], x[~finite])


def bits_of_cut(device, p, dtype, cut, monkeypatch):
    """What a cut gives, beside what the plan's own gives."""
    slices, groups, where, tile = cut
    want = {k: a.copy_to_host() for k, a in put(device, p, dtype).run(engine).items()}

    def forced(tiles, N, H, K):
        found = plan.cut_of(tiles[tile], where, dtype, N, H, K, slices, groups)
        assert plan.fits(devices.Limits(6, 1 << 20, 1 << 10, 1 << 10), found, dtype, H, K)
        return found

    forward = lambda limit, name, dtype, N, H: forced(target.forward_tiles(name, dtype, True), N, H, H)  # noqa: E731
    backward = lambda limit, dtype, N, H, K: forced(target.backward_tiles(dtype, True), N, H, K)  # noqa: E731
    monkeypatch.setattr(engine, "forward_cut", forward)
    monkeypatch.setattr(engine, "backward_cut", backward)
    got = put(device, p, dtype).run(engine)
    for key in want:
        np.testing.assert_array_equal(got[key].copy_to_host(), want[key], err_msg=key)
    for key, exact in p.run(reference).items():
        assert rms(want[key].astype(np.float64), exact) < DEVICE[dtype], key


@CELL
@RAGGED
@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_every_cut_into_blocks_gives_the_same_bits(device, name, ragged, cut, monkeypatch):
    bits_of_cut(device, problem(name, 6, 5, 4, 10, ragged=ragged, seed=3), "float64", cut, monkeypatch)


@CELL
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("cut", FRAGMENTS, ids=str)
def test_so_it_does_by_tensor_cores(device, name, dtype, cut, monkeypatch):
    p = problem(name, 2, 19, 3, 35, ragged=True, seed=4)
    bits_of_cut(device, p.cast(dtype).cast(np.float64), dtype, cut, monkeypatch)


@CELL
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_row_gives_the_same_bits_alone(device, name, dtype):
    p = problem(name, 5, 4, 6, 11, ragged=True, seed=1)
    cell, whole = REGISTRY[name], put(device, p, dtype)
    y, h_n, _, _ = engine.forward(cell, engine.prepare(cell, whole.weights), whole.x, whole.h0, whole.c0, p.lengths)
    for n, length in enumerate(p.lengths):
        rows = slice(n, n + 1)
        arrays = {
            "x": np.ascontiguousarray(p.x[:length, rows]),
            "h0": p.h0[rows],
            "c0": None if p.c0 is None else p.c0[rows],
        }
        own = put(device, replace(p, **arrays), dtype)
        alone, h_alone, _, _ = engine.forward(cell, engine.prepare(cell, own.weights), own.x, own.h0, own.c0)
        np.testing.assert_array_equal(alone.copy_to_host()[:, 0], y.copy_to_host()[:length, n])
        np.testing.assert_array_equal(h_alone.copy_to_host()[0], h_n.copy_to_host()[n])


@CELL
@pytest.mark.parametrize("many", [8, 13])
def test_rows_of_a_large_batch_give_the_same_bits_in_another(device, name, many):
    p = problem(name, 3, 19, 4, 11)
    part = replace(
        p, **{k: None if a is None else np.ascontiguousarray(a[..., :many, :]) for k, a in vars(p).items() if k in ARRAYS}
    )
    whole, some = (put(device, q, "float32").run(engine) for q in (p, part))
    for key in ("y", "h_n", "dx", "dh0"):
        np.testing.assert_array_equal(some[key].copy_to_host(), whole[key].copy_to_host()[..., :many, :], err_msg=key)


@CELL
@pytest.mark.parametrize("missing", [("b_ih",), ("b_hh",), ("b_ih", "b_hh")], ids=str)
def test_without_biases(device, name, missing):
    p = problem(name, 4, 3, 5, 10)
    agree(device, replace(p, weights=p.weights._replace(**dict.fromkeys(missing))), "float64")


@CELL
@pytest.mark.parametrize("missing", [("h0", "c0"), ("dy",), ("dh_n", "dc_n"), ("dy", "dh_n", "dc_n")], ids=str)
def test_without_states_or_cotangents(device, name, missing):
    agree(device, replace(problem(name, 4, 3, 5, 10, ragged=True), **dict.fromkeys(missing)), "float64")


@CELL
@pytest.mark.parametrize("size", [(0, 3, 5, 10), (4, 0, 5, 10), (4, 3, 0, 10)], ids=str)
def test_no_steps_no_rows_no_inputs(device, name, size):
    agree(device, problem(name, *size), "float64")


@CELL
def test_rows_without_steps(device, name):
    p = problem(name, 4, 3, 5, 10)
    agree(device, replace(p, lengths=np.zeros(3, np.int64)), "float64")
    agree(device, replace(p, lengths=np.array([0, 4, 0])), "float64")


@CELL
def test_inference_keeps_nothing_and_gives_the_same_bits(device, name):
    for reverse in (False, True):
        p = put(device, problem(name, 5, 3, 4, 10, reverse=reverse), "float32")
        arguments = (REGISTRY[name], engine.prepare(REGISTRY[name], p.weights), p.x, p.h0, p.c0, None, reverse)
        kept, bare = engine.forward(*arguments, True), engine.forward(*arguments, False)
        assert bare[3] is None
        for got, want in zip(bare[:3], kept[:3], strict=True):
            assert (got is None) == (want is None)
            if got is not None:
                np.testing.assert_array_equal(got.copy_to_host(), want.copy_to_host())


@CELL
def test_a_tape_owns_what_it_needs_and_serves_twice(device, name):
    p = put(device, problem(name, 4, 3, 5, 10), "float64")
    cell = REGISTRY[name]
    y, *_, tape = engine.forward(cell, engine.prepare(cell, p.weights), p.x, p.h0, p.c0, None, False, True)
    first = {k: v.copy_to_host() for k, v in vars(engine.backward(cell, tape, p.dy)).items() if v is not None}
    for mine in (*p.weights, p.x, p.h0, y):
        mine.copy_to_device(np.full(mine.shape, np.nan))
    second = engine.backward(cell, tape, p.dy)
    for key, want in first.items():
        np.testing.assert_array_equal(getattr(second, key).copy_to_host(), want, err_msg=key)


@CELL
def test_nan_and_infinity_come_through(device, name):
    p = problem(name, 4, 3, 5, 10)
    p.x[1, 0, 2], p.x[2, 1, 0] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        got, want = put(device, p, "float64").run(engine), p.run(reference)
    for key in ("y", "h_n"):
        np.testing.assert_array_equal(np.isnan(got[key].copy_to_host()), np.isnan(want[key]), err_msg=key)


@CELL
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("where", ["x", "h0", "c0", "dy", "dh_n", "dc_n"])
def test_a_nan_of_the_bits_that_stand_for_missing_is_a_nan(device, name, dtype, where):
    p = problem(name, 4, 3, 5, 10, ragged=True).cast(dtype)
    if getattr(p, where) is None:
        pytest.skip("no such state")
    for bits in (-1, -2):
        given = getattr(p, where)
        given.reshape(-1)[-7] = np.array([bits], f"i{given.itemsize}").view(dtype)[0]
        assert np.isnan(given).sum() == 1
        with np.errstate(invalid="ignore"):
            got, want = put(device, p, dtype).run(engine), p.cast(np.float64).run(reference)
        for key in want:
            np.testing.assert_array_equal(np.isnan(got[key].copy_to_host()), np.isnan(want[key]), err_msg=key)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("size", [0, 5], ids=str)
def test_what_blocks_exchange_starts_as_all_ones(device, dtype, size):
    K, groups = 6, 2
    rows, call = Rows.of(3, size, None, False), Call(device.to_device(np.zeros(1, stored_as(dtype))))
    for kind in (target.backward_tiles(dtype)[0], target.backward_tiles(dtype, True)[0]):
        cut = plan.cut_of(kind, plan.SHARED, dtype, size, 5, K, 1, groups)
        tile, kept = cut.form.tile, call.room(rows.total * K, real_name(dtype))
        own = call.room(passing(cut, rows, K, dtype), real_name(dtype))
        room = call.passed(cut, rows, kept[: rows.total * K], own, K, dtype)
        # in the simulator it is the array itself
        found = getattr(room, "owner", room).copy_to_host()
        bits = found.view(f"i{np.dtype(stored_as(dtype) if tile.apart else real_name(dtype)).itemsize}")
        if not size:
            continue
        if tile.apart:  # by tiles of terms, so many rows side by side
            assert tile.place_for(size, groups) >= -(-size // groups)
            width = tile.width(K)
            bits = bits.reshape(-1, width // tile.depth, tile.side, tile.depth).swapaxes(1, 2).reshape(-1, width)
            assert len(bits) == rows.steps * groups * tile.place_for(size, groups)
            np.testing.assert_array_equal(bits[:, K:], 0)
            bits = bits[:, :K]
        np.testing.assert_array_equal(bits, -1)


def test_numbers_too_large_to_be_taken_for_present_at_a_glance(device):
    """From two on they have a bit that all-ones has: each is looked at."""
    p = problem("rnn_relu", 4, 9, 5, 33)
    large = replace(p, x=np.abs(p.x) * 30, dy=p.dy * 40)
    assert np.abs(large.run(reference)["y"]).max() > 10
    agree(device, large, "float16")


@CELL
def test_gradients_are_the_same_from_run_to_run(device, name):
    p = put(device, problem(name, 6, 5, 4, 10, ragged=True), "float32")
    first = {k: a.copy_to_host() for k, a in p.run(engine).items()}
    for key, again in p.run(engine).items():
        np.testing.assert_array_equal(again.copy_to_host(), first[key], err_msg=key)
