"""How a time loop is cut into blocks: units into slices, rows into groups, and where a slice's weights are."""

from functools import lru_cache
from typing import NamedTuple

from fastrnn.cuda.devices import Limits
from fastrnn.cuda.scalars import real_name
from fastrnn.cuda.target import ITEM, backward_tiles, forward_tiles
from fastrnn.cuda.tiles import LANES, REGISTERS, SHARED, STREAMED, Fragments, Tile

# clocks (1.755 GHz), measured on an H100
_REACH = 1300  # from a block's writing a number until another has read it
_BARRIER = 3500  # of a decoder: the same by way of a counter, and what was written is read after it
_LOAD = 100  # for each load of the rows by a thread
_STREAM = 23  # bytes of weights a clock and block out of the second-level cache, all blocks reading
_SUMMING = 1500  # of a pass, besides its products and loads
# of tensor cores; within a tenth of most of 56 times of a step
_INSTRUCTION = {4: 4.8, 2: 11}  # of a block's for a tile of terms, one after another, by the numbers of a word
_SHARED = 2.1  # for each word of weights of a warp
_PATCHY = 7.3  # as _STREAM, in pieces of 32 bytes
_ROWS = 45  # bytes of rows a clock and block, all blocks reading
_PARTS = 820  # of a pass, besides these

_MANY = 8  # rows from which on three products of tensor cores take less than one of single precision
_UNROLLED = 64  # turns of a loop that the compiler unrolls, as numbers in registers ask for


class Form(NamedTuple):
    """What a loop's kernel is compiled for."""

    tile: Tile | Fragments
    where: str
    terms: int  # of each sum whose weights a lane holds in registers; for tensor cores, tiles of terms

    @property
    def held(self) -> int:
        """Weights that a lane holds: one where it holds none, since an array has one at least."""
        return max(self.terms * self.tile.weights, 1)

    def registers(self, dtype: str) -> int:
        """That these take, a register of a single-precision number each."""
        return self.held * self.tile.registers * (2 if dtype == "float64" else 1)


class Cut(NamedTuple):
    slices: int  # of the units
    groups: int  # of the rows
    form: Form
    shared: int  # bytes of shared memory


@lru_cache(1024)
def forward_cut(limit: Limits, name: str, dtype: str, N: int, H: int) -> Cut:
    return _best(limit, forward_tiles(name, dtype, by_tensor_cores(limit, dtype, N)), dtype, N, H, H)


@lru_cache(1024)
def backward_cut(limit: Limits, dtype: str, N: int, H: int, K: int) -> Cut:
    """K : terms of a sum"""
    return _best(limit, backward_tiles(dtype, by_tensor_cores(limit, dtype, N)), dtype, N, H, K)


def by_tensor_cores(limit: Limits, dtype: str, N: int) -> bool:
    """Whether they multiply, which gives a sum other bits: by the type and the batch alone, whatever the cut."""
    return limit.tensor and (ITEM[dtype] == 2 or (dtype == "float32" and N >= _MANY))


class Map(NamedTuple):
    """A product of a decoder's step: K terms to `outputs`."""

    tile: Tile
    outputs: int
    K: int


@lru_cache(1024)
def decoding_cut(limit: Limits, dtype: str, maps: tuple[Map, ...], N: int, B: int) -> Cut:
    """For N sentences of B rows: groups have sentences of their own, and each slice a part of every product's outputs."""
    best, shared = None, max(one.tile.room for one in maps) * ITEM[real_name(dtype)]
    most = max(-(-one.outputs // one.tile.columns) for one in maps)
    for groups in range(1, min(limit.blocks, N) + 1):
        slices = min(limit.blocks // groups, most)
        cuts = [Cut(slices, groups, Form(one.tile, STREAMED, 0), shared) for one in maps]
        clocks = sum(
            _step(cut, dtype, -(-one.outputs // slices), -(-N // groups) * B, one.K) + (_BARRIER if slices > 1 else 0)
            for cut, one in zip(cuts, maps, strict=True)
        )
        if best is None or clocks < best[0]:
            best = clocks, cuts[0]
    assert best is not None
    return best[1]


def _best(limit: Limits, tiles: list[Tile] | list[Fragments], dtype: str, N: int, H: int, K: int) -> Cut:
    """The cut of least estimated time for a step."""
    found = []
    for slices in range(1, min(limit.blocks, H) + 1):
        size = -(-H // slices)
        if -(-H // size) != slices:
            continue  # fewer blocks have the same slices
        groups = max(min(limit.blocks // slices, N), 1)
        for tile in tiles:
            for where in (REGISTERS, SHARED, STREAMED):
                cut = cut_of(tile, where, dtype, N, H, K, slices, groups)
                if fits(limit, cut, dtype, H, K):
                    clocks = _step(cut, dtype, size, -(-N // groups), K) + (_REACH if slices > 1 else 0)
                    found.append((clocks, slices, cut))
    return min(found, key=lambda one: one[:2])[-1]


def cut_of(tile: Tile | Fragments, where: str, dtype: str, N: int, H: int, K: int, slices: int, groups: int) -> Cut:
    tile = tile.reading(K, dtype, where, -(-N // groups))
    shared = tile.room * ITEM[real_name(dtype)]
    if where == SHARED:
        shared += tile.weights_room(-(-H // slices), K, dtype)
    terms = tile.held_terms(K) if where == REGISTERS else 0
    return Cut(slices, groups, Form(tile, where, terms), shared)


def fits(limit: Limits, cut: Cut, dtype: str, H: int, K: int) -> bool:
    tile, form = cut.form.tile, cut.form
    if tile.sums > limit.sums or cut.shared > limit.shared:
        return False
    if form.where == REGISTERS and (not tile.holds(-(-H // cut.slices), K) or form.terms > _UNROLLED):
        return False
    return form.registers(dtype) <= (limit.singles if of_singles(tile, dtype) else limit.held)


def of_singles(tile: Tile | Fragments, dtype: str) -> bool:
    """Whether scalar units multiply numbers of single precision."""
    return dtype == "float32" and not tile.apart


def _step(cut: Cut, dtype: str, size: int, rows: int, K: int) -> float:
    """Clocks of a step, without those for which blocks wait for others."""
    tile, where = cut.form.tile, cut.form.where
    if isinstance(tile, Fragments):
        return _step_of_fragments(tile, where, size, rows, K)
    passes = -(-size // tile.columns) * -(-rows // tile.rows)
    # a warp's load from shared memory takes a clock of its multiprocessor; four of its other instructions do
    weights = tile.units * tile.gates
    loads = tile.rows if where == REGISTERS else weights + tile.rows
    instructions = loads + weights * tile.rows + (0 if where == REGISTERS else 2 * weights)
    time = passes * (tile.warps * -(-K // LANES) * max(loads, instructions / 4) + _SUMMING)
    time += passes * tile.rows * K * ITEM[real_name(dtype)] / 4 / tile.threads * _LOAD / tile.each
    if where == STREAMED:
        # 16 bits come no faster than 32: a warp asks for half as many bytes at a time
        time += -(-rows // tile.rows) * size * tile.gates * K * max(ITEM[dtype], 4) / _STREAM
    return time


def _step_of_fragments(tile: Fragments, where: str, size: int, rows: int, K: int) -> float:
    over_units, over_rows = -(-size // tile.columns), -(-rows // tile.rows)
    turns = tile.warps * tile.turns(K)
    words = turns * tile.weights  # of a warp
    time = turns * tile.pairs * tile.words * _INSTRUCTION[tile.numbers] + _PARTS
    time += min(rows, tile.rows) * tile.width(K) * 8 / tile.numbers / _ROWS
    if where == SHARED:
        time += words * _SHARED
    if where == STREAMED:
        time += words * LANES * 8 / _PATCHY
    return over_units * over_rows * time
