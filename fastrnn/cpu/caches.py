"""The caches of this machine: their sizes, and whether weights from beyond the second one come fast."""

import ctypes
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from fastrnn.cells import REGISTRY
from fastrnn.cpu import compiled
from fastrnn.cpu.functions import product_name
from fastrnn.cpu.memory import Block, Layout
from fastrnn.cpu.target import ITEMSIZE, lanes, panel_vectors, panels_at_once, tile_beside, tile_rows

_USUAL = {"L1": 32 << 10, "L2": 1 << 20, "L3": 16 << 20}  # bytes, where the system does not tell
_SYSTEM = Path("/sys/devices/system/cpu/cpu0/cache")
_FAR = 1 << 23  # bytes that no second-level cache holds
_TERMS, _TURNS = 1 << 14, 10  # of a product: a processor that has rested is slow at first


@cache
def sizes() -> dict[str, int]:
    """Level -> bytes, of the first core."""
    found = dict(_USUAL)
    for index in sorted(_SYSTEM.glob("index*")) if _SYSTEM.is_dir() else ():
        try:
            kind, level = (index / "type").read_text().strip(), (index / "level").read_text().strip()
            size = (index / "size").read_text().strip()
        except OSError:
            continue
        if kind != "Instruction" and f"L{level}" in found and size[:-1].isdigit():
            found[f"L{level}"] = int(size[:-1]) << {"K": 10, "M": 20}.get(size[-1], 0)
    return found


def take_along(name: str, dtype: str, size: int) -> bool:
    """Whether it pays that a single row's recurrent product, with weights of `size` bytes, takes tiles of the input's along.

    Such a tile reads its weights once more. Where they come slowly, that takes longer than what is computed meanwhile.
    """
    return size <= sizes()["L2"] or _far_is_fast(name, dtype)


@cache
def _far_is_fast(name: str, dtype: str) -> bool:
    reading, computing = _times(name, dtype)
    return reading < tile_beside(REGISTRY[name].n_gates)[0] * computing


def _times(name: str, dtype: str) -> tuple[float, float]:
    """Seconds in which a weight comes from far away, and in which it is multiplied and added."""
    gates = REGISTRY[name].n_gates
    vectors, many = gates * panel_vectors(gates), panels_at_once(gates)
    line, rows = vectors * lanes(dtype), tile_rows(vectors)
    depth = _FAR // (many * line * ITEMSIZE[dtype])
    block = Block(Layout({
        "b": ((many * depth * line,), dtype), "a": ((depth,), dtype), "zero": ((many * line,), dtype),
        "c": ((rows * many * line,), dtype), "offsets": ((rows,), "intp"),
    }))  # fmt: skip
    for piece in block.layout.places:
        block[piece][...] = 0  # pages that nobody has written are all one
    a, b, zero, c, offsets = (block.at(piece) for piece in ("a", "b", "zero", "c", "offsets"))
    of_row = _function(compiled.addresses("step", name, dtype)["product_of_row"])
    of_tile = _function(compiled.addresses("product", product_name(name), dtype)["product"])
    reading = _best(lambda: of_row(many * vectors, a, 0, b, line, depth * line, 0, zero, c, depth))
    computing = _best(lambda: of_tile(vectors, rows, a, offsets, 0, b, 0, zero, 0, c, line, _TERMS, b, 0))
    return reading / (many * depth * line), computing / (_TERMS * rows * line)


def _function(address: int) -> Callable[..., None]:
    """A function of integers and addresses."""
    found = ctypes.CFUNCTYPE(None)(address)
    return lambda *arguments: found(*map(ctypes.c_int64, arguments))


def _best(call: Callable[[], None]) -> float:
    seconds = []
    for _ in range(_TURNS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
