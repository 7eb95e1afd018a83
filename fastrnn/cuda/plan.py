"""How a time loop is cut into blocks: units into slices, rows into groups, and whether a slice's weights fit on chip."""

from functools import lru_cache
from typing import NamedTuple

from fastrnn.cuda.devices import Limits
from fastrnn.cuda.product import LANES, Tile
from fastrnn.cuda.target import ITEM, backward_tiles, forward_tiles

# clocks, by the figures of other persistent kernels' authors: to be measured on a device
_WAIT = 1500  # for the other blocks
_SUMMING = 300  # of a pass, besides its products
_STREAM = 40  # bytes of weights a clock and block out of the second-level cache, all blocks reading


class Cut(NamedTuple):
    slices: int  # of the units
    groups: int  # of the rows
    resident: bool  # whether a slice's weights stay in shared memory
    tile: Tile
    shared: int  # bytes


@lru_cache(1024)
def forward_cut(limit: Limits, name: str, dtype: str, N: int, H: int) -> Cut:
    return _best(limit, forward_tiles(name, dtype), dtype, N, H, H)


@lru_cache(1024)
def backward_cut(limit: Limits, dtype: str, N: int, H: int, K: int) -> Cut:
    """K : terms of a sum"""
    return _best(limit, backward_tiles(dtype), dtype, N, H, K)


def _best(limit: Limits, tiles: list[Tile], dtype: str, N: int, H: int, K: int) -> Cut:
    """The cut of least estimated time for a step."""
    found = []
    for slices in range(1, min(limit.blocks, H) + 1):
        size = -(-H // slices)
        if -(-H // size) != slices:
            continue  # fewer blocks have the same slices
        groups = max(min(limit.blocks // slices, N), 1)
        rows = -(-N // groups)
        for tile in tiles:
            cut = cut_of(limit, tile, dtype, H, K, slices, groups)
            found.append((_clocks(cut, size, rows, K, size * tile.gates * K * ITEM[dtype]), slices, -tile.rows, cut))
    return min(found)[-1]


def cut_of(limit: Limits, tile: Tile, dtype: str, H: int, K: int, slices: int, groups: int) -> Cut:
    """That cut, with its weights in shared memory if they fit."""
    pool = tile.room * ITEM["float64" if dtype == "float64" else "float32"]
    weights = -(-H // slices) * tile.gates * K * ITEM[dtype]
    resident = pool + weights <= limit.shared
    return Cut(slices, groups, resident, tile, pool + weights if resident else pool)


def _clocks(cut: Cut, size: int, rows: int, K: int, weights: int) -> float:
    tile = cut.tile
    passes = -(-size // tile.columns) * -(-rows // tile.rows)
    # a warp's load from shared memory takes a clock of its multiprocessor; four of its multiply-adds do
    weight_loads, row_loads = tile.units * tile.gates, tile.rows
    term = max(weight_loads + row_loads, weight_loads * row_loads / 4)
    time = passes * (tile.warps * -(-K // LANES) * term + _SUMMING)
    if not cut.resident:
        time += -(-rows // tile.rows) * weights / _STREAM
    return time + (_WAIT if cut.slices > 1 else 0)
