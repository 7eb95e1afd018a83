"""What a block of a time loop computes in one pass, and what it has at hand for it: sizes, in plain Python.

Two kinds: tiles of product.py, for any type, and fragments of fragments.py, for tensor cores. plan.py chooses among both by
what they have in common: sums and held weights of a lane, bytes of shared memory, how rows that blocks pass each other lie.
"""

from dataclasses import dataclass, replace

import numpy as np

from fastrnn.cuda.scalars import stored_as

LANES = 32
REGISTERS, SHARED, STREAMED = "registers", "shared", "streamed"  # where a slice's weights are
PITCH = LANES + 1  # of parts in shared memory: threads that read one each find them in 32 different banks
EIGHT = 8  # columns, or rows, of which the lanes of a warp have a word each, four lanes of one
_WORDS = {4: 16, 2: 8}  # of rows, at a time, by their numbers: these and as many that come take 64 registers, or 32
_TRIPLES = 16  # of products at a time: with more the compiler spills
_UNROLLED = {REGISTERS: 128, SHARED: 128, STREAMED: 16}  # words of weights: those that are read come in four parts each


def power_of_two(n: int) -> int:
    """The next one from n on."""
    return 1 << (n - 1).bit_length()


@dataclass(frozen=True)
class Tile:
    """For each of a block's warps every gate of some units, of some rows of the batch."""

    warps: int
    units: int  # of a warp
    gates: int
    rows: int
    loads: int  # numbers of the rows that a thread brings to shared memory at a time, as many of each row
    most_parts: int  # sums of a warp whose lanes' parts are in shared memory at a time
    each: int = 1  # numbers of a load: 2 where rows are read as words of two

    apart = False  # what blocks pass each other is what the loop keeps anyway
    registers = 1  # of a held weight

    def in_pairs(self) -> "Tile":
        """The same with words of two numbers: as many loads where there are many rows, else fewer, and registers left."""
        return replace(self, loads=self.loads * (2 if 2 < self.rows <= 8 else 1), each=2)

    def reading(self, K: int, dtype: str, where: str, rows: int) -> "Tile":
        """As a block reads its rows of K numbers."""
        return self.in_pairs() if K % 2 == 0 and dtype != "float64" else self

    def turns(self, K: int) -> int:
        """Terms of a lane."""
        return -(-K // LANES)

    def width(self, K: int) -> int:
        """Numbers of a row that blocks pass each other."""
        return K

    def held_terms(self, K: int) -> int:
        """Of a lane that holds its weights: few different numbers, since each has a kernel of its own."""
        return power_of_two(self.turns(K))

    def place_for(self, N: int, groups: int) -> int:
        """For how many rows of a group there is memory besides what the loop keeps."""
        return 0

    def holds(self, size: int, K: int) -> bool:
        """Whether lanes can hold the weights of so many units: in one pass, all terms of few rows."""
        return size <= self.columns and self.chunk >= K and self.rows <= 2

    def weights_room(self, size: int, K: int, dtype: str) -> int:
        """Bytes of so many units' weights in shared memory."""
        return size * self.gates * K * np.dtype(stored_as(dtype)).itemsize

    @property
    def threads(self) -> int:
        return LANES * self.warps

    @property
    def columns(self) -> int:
        """Units of a pass; with the rows no more than threads, so that each has one unit of one row."""
        return self.warps * self.units

    @property
    def weights(self) -> int:
        """Of a lane for one term of each of its sums."""
        return self.units * self.gates

    @property
    def sums(self) -> int:
        """Of a warp."""
        return self.weights * self.rows

    @property
    def parts(self) -> int:
        """Sums of a warp that are added up at a time: a part of all of them."""
        return max(n for n in range(1, self.most_parts + 1) if self.sums % n == 0)

    @property
    def chunk(self) -> int:
        """Terms whose numbers are in shared memory at a time."""
        return self.threads * self.loads // self.rows

    @property
    def base(self) -> int:
        """Where the sums are, behind the rows' numbers and, when those have been used, the lanes' parts."""
        return max(self.threads * self.loads, self.warps * self.parts * PITCH)

    @property
    def room(self) -> int:
        """Numbers in shared memory."""
        return self.base + self.warps * self.sums


@dataclass(frozen=True)
class Fragments:
    """For all of a block's warps together every gate of some units, of some rows of the batch, in words of 64 bits."""

    warps: int
    columns: int  # units; with the rows no more than threads, so that each has one unit of one row
    gates: int
    rows: int  # a multiple of 8
    numbers: int  # of a word
    side: int  # rows that lie side by side, a power of two: those of a pass, or of a small batch
    ahead: int = 1  # tiles of terms whose rows' words a lane asks for at a time

    apart = True  # what blocks pass each other is memory of its own

    @property
    def threads(self) -> int:
        return LANES * self.warps

    @property
    def registers(self) -> int:
        """Of a held weight, a word: two, and two more where it is taken apart."""
        return 2 if self.numbers == 4 else 4

    @property
    def depth(self) -> int:
        """Terms of an instruction: four lanes have a word of them each."""
        return 4 * self.numbers

    @property
    def weights(self) -> int:
        """Words of a lane for a tile of terms: of eight columns each, the last one's perhaps not whole."""
        return -(-self.gates * self.columns // EIGHT)

    @property
    def pairs(self) -> int:
        """Of these words: what an instruction takes, the last one perhaps without its second."""
        return -(-self.weights // 2)

    @property
    def words(self) -> int:
        """Of rows."""
        return self.rows // EIGHT

    @property
    def sums(self) -> int:
        """Of a lane."""
        return 4 * self.pairs * self.words

    @property
    def pitch(self) -> int:
        """From column to column in shared memory: threads that read side by side find different banks."""
        return self.rows + 1

    @property
    def room(self) -> int:
        """Numbers in shared memory."""
        return self.warps * self.weights * EIGHT * self.pitch

    def turns(self, K: int) -> int:
        """Tiles of each warp: as many as it asks for at a time, or a multiple, the last ones perhaps zeros."""
        return -(-K // (self.warps * self.depth * self.ahead)) * self.ahead

    def width(self, K: int) -> int:
        """Numbers of a row that blocks pass each other."""
        return self.turns(K) * self.warps * self.depth

    def held_terms(self, K: int) -> int:
        """Of a lane that holds its weights."""
        return self.turns(K)

    def place_for(self, N: int, groups: int) -> int:
        """For how many rows of a group there is memory: whole passes."""
        return -(-N // groups // self.side) * self.side

    def reading(self, K: int, dtype: str, where: str, rows: int) -> "Fragments":
        """For sums of K terms: as many words at a time as there are, as leave registers, and as loops are unrolled for."""
        unrolled = _UNROLLED[where] // self.weights
        if self.numbers == 2:  # three products of an instruction, whose operands are taken apart
            unrolled = min(unrolled // 4, _TRIPLES // (self.pairs * self.words))
        most = max(min(_WORDS[self.numbers] // self.words, unrolled), 1)
        turns = -(-K // (self.warps * self.depth))
        if self.numbers == 2 and where == REGISTERS and turns > most:
            most = max(most // 2, 1)  # the next words come while these are multiplied
        times = -(-turns // most)
        return replace(self, ahead=-(-turns // times), side=min(power_of_two(max(rows, 1)), self.rows))

    def holds(self, size: int, K: int) -> bool:
        """Whether lanes can hold the weights of so many units."""
        return size <= self.columns

    def weights_room(self, size: int, K: int, dtype: str) -> int:
        """Bytes of so many units' weights in shared memory."""
        passes = -(-size // self.columns)
        return passes * self.weights * self.turns(K) * self.threads * np.dtype(np.int64).itemsize
