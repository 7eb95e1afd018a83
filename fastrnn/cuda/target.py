"""The sizes of blocks and tiles, one table for the device, one for Numba's simulator.

In the simulator every thread is a Python thread: blocks are small there, and still have several warps and tiles.
"""

from dataclasses import dataclass
from functools import cache

from numba import config

from fastrnn.cells import REGISTRY
from fastrnn.cuda.tiles import LANES, Fragments, Tile

SIMULATED = bool(config.ENABLE_CUDASIM)  # type: ignore[attr-defined]
ITEM = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
WARPS = 2 if SIMULATED else 8
ELEMENTWISE = 16 if SIMULATED else 256  # threads of a block that copies
ROWS = (1, 2) if SIMULATED else (1, 2, 4, 8, 16)  # of the batch in a tile of the loops: by how many there are
_LOADS = 2 if SIMULATED else 8  # at a time, and one of each row
_HELD = 8  # in the simulator


@dataclass(frozen=True)
class Square:
    """A block's part of a plain product: side x side sums, each thread `own` x `own` of them, `depth` terms at a time."""

    side: int
    own: int
    depth: int

    @property
    def threads(self) -> int:
        return (self.side // self.own) ** 2

    @property
    def loads(self) -> int:
        """Numbers of each operand that a thread brings to shared memory at a time."""
        return self.side * self.depth // self.threads


# the larger one has twice the multiply-adds for a load, where there are enough of them for every multiprocessor
SQUARES = (Square(8, 2, 4), Square(12, 3, 4)) if SIMULATED else (Square(64, 4, 16), Square(128, 8, 8))


@cache
def forward_tiles(name, dtype, tensor=False):
    """Every gate of one unit or several. tensor : for tensor cores, where the type is one of theirs"""
    return _tiles_of(REGISTRY[name].n_gates, dtype, tensor)


@cache
def backward_tiles(dtype, tensor=False):
    """dh of a unit has one sum, over the gates of all."""
    return _tiles_of(1, dtype, tensor)


def _tiles_of(gates, dtype, tensor):
    return _fragments(gates, 8 // ITEM[dtype]) if tensor and dtype != "float64" else _tiles(gates, dtype)


def held(capability):
    """How many registers of weights a lane may have on a device of that capability."""
    if SIMULATED:
        return _HELD
    # on the newest the compiler takes more of them for addresses
    return 32 if capability >= (10, 0) else 64


def held_singles(capability):
    """The same of single precision where scalar units multiply, which is at most two rows."""
    # an LSTM's kernel then leaves eight other registers in memory, and is quicker: 1 row of 1024 units 2.5 µs a step -> 2.0
    return 128 if capability == (9, 0) else held(capability)


def most_sums(capability):
    """How many sums of a lane leave it registers enough, likewise."""
    return 32 if capability >= (10, 0) else 64


def _tiles(gates, dtype):
    # a sum in double precision takes two registers, and twice the shared memory
    most, parts, largest = (32, 16, 4) if dtype == "float64" else (64, 32, 16)
    rows, units = [n for n in ROWS if n <= largest], (1, 2, 4) if gates == 1 else (1, 2)
    fitting = ((u, n) for u in units for n in rows if u * gates * n <= most and u * n <= LANES)
    return [Tile(WARPS, u, gates, n, max(_LOADS, n), parts) for u, n in fitting]


def _fragments(gates, numbers):
    most = 32 * WARPS  # units of rows: a thread each
    sizes = ((u, n) for u in (2, 4, 8, 16, 32) for n in (8, 16, 32) if u * n <= most)
    tiles = (Fragments(WARPS, u, gates, n, numbers, n) for u, n in sizes)
    # what a lane has in registers, and what the compiler unrolls loops for
    return [tile for tile in tiles if tile.sums <= 64 and tile.weights <= 4 * numbers]
