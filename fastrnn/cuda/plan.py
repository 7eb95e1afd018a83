"""How a time loop is cut into blocks: units into slices, rows into groups, and whether a slice's weights fit on chip."""

from functools import lru_cache
from typing import NamedTuple

from fastrnn.cuda.devices import Limits
from fastrnn.cuda.product import LANES, Tile
from fastrnn.cuda.target import ITEM

# clocks, by the figures of cuDNN's and other persistent kernels' authors: to be measured on a device
_WAIT = 1500  # for the other blocks
_SUMMING = 300  # of a pass, besides its products
_STREAM = 40  # bytes of weights a clock and block out of the second-level cache, all blocks reading


class Cut(NamedTuple):
    slices: int  # of the units
    groups: int  # of the rows
    resident: bool  # whether a slice's weights stay in shared memory
    shared: int  # bytes


@lru_cache(1024)
def cut(limit: Limits, tile: Tile, dtype: str, N: int, H: int, K: int) -> Cut:
    """The cut of least estimated time for a step. K : terms of a sum."""
    real = ITEM["float64" if dtype == "float64" else "float32"]
    pool, unit = tile.room * real, tile.gates * K * ITEM[dtype]
    found = []
    for slices in range(1, min(limit.blocks, H) + 1):
        size = -(-H // slices)
        if -(-H // size) != slices:
            continue  # fewer blocks have the same slices
        resident = pool + size * unit <= limit.shared
        groups = min(limit.blocks // slices, max(N, 1))
        shared = pool + size * unit if resident else pool
        time = _clocks(tile, size, -(-N // groups), K, resident, size * unit, slices)
        found.append((time, Cut(slices, groups, resident, shared)))
    return min(found)[1]


def _clocks(tile: Tile, size: int, rows: int, K: int, resident: bool, weights: int, slices: int) -> float:
    passes = -(-size // tile.columns) * -(-rows // tile.rows)
    # a warp's load from shared memory takes a clock of its multiprocessor; four of its multiply-adds do
    weight_loads, row_loads = tile.units * tile.gates, tile.rows
    term = max(weight_loads + row_loads, weight_loads * row_loads / 4)
    time = passes * (tile.warps * -(-K // LANES) * term + _SUMMING)
    if not resident:
        time += -(-rows // tile.rows) * weights / _STREAM
    return time + (_WAIT if slices > 1 else 0)
