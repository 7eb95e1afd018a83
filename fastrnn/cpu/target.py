"""What the machine offers: the vector width and the tile shapes that Numba's target allows, by feature, never by name.

Numba compiles for the host unless NUMBA_CPU_NAME and NUMBA_CPU_FEATURES say otherwise; both are honoured here because
the feature string is read from Numba's own target machine.
"""

from typing import NamedTuple

from numba.core.registry import cpu_target


class Target(NamedTuple):
    name: str
    width: int  # bytes in a vector
    registers: int
    accumulators: int  # vectors that a tile may hold in registers
    fma: bool  # fused multiply-add in hardware


_AVX512 = Target("avx512", 64, 32, 24, True)
_AVX2 = Target("avx2", 32, 16, 12, True)
_SSE = Target("sse", 16, 16, 12, False)
_NEON = Target("neon", 16, 32, 24, True)
_PLAIN = Target("plain", 16, 16, 12, False)


def _detect() -> Target:
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    enabled = set(features.split(","))
    if triple.startswith(("aarch64", "arm64")):
        return _NEON
    if not triple.startswith("x86_64"):
        return _PLAIN
    if {"+avx512f", "+avx512vl", "+avx512dq"} <= enabled:
        return _AVX512
    if {"+avx2", "+fma"} <= enabled:
        return _AVX2
    return _SSE


_BLOCK = 1 << 15  # bytes of a panel that many tiles read one after the other
_NEAR = 1 << 19  # bytes of rows that every panel reads: a second-level cache holds them while the weights pass through
FEW_PANELS = 2  # that few rows take together
TARGET = _detect()
ITEMSIZE = {"float32": 4, "float64": 8}


def lanes(dtype: str) -> int:
    """How many numbers of `dtype` a vector holds."""
    return TARGET.width // ITEMSIZE[dtype]


def tile_rows(vectors: int) -> int:
    """How many rows a tile of that many vectors has: as many as fit the registers, eight at most."""
    return max(1, min(8, TARGET.accumulators // vectors))


def panel_vectors(n_gates: int) -> int:
    """How many vectors of units a panel holds: all gates of a unit lie in one panel, about four vectors wide."""
    return max(1, 4 // n_gates)


def few_rows(n_gates: int) -> int:
    """How many rows are few: one panel would keep the loads busier than the multiply-adds, and the sums of FEW_PANELS fit
    the registers."""
    return min(3, tile_rows(FEW_PANELS * n_gates * panel_vectors(n_gates)))


def panels_at_once(n_gates: int, n_parts: int = 1) -> int:
    """How many panels a single row takes together, each in so many parts: eight sums hide how long a multiply-add takes."""
    return -(-8 // (n_gates * panel_vectors(n_gates) * n_parts))


def tile_beside(n_gates: int) -> tuple[int, int]:
    """Rows and vectors of a tile of another product that fits the registers beside the sums of `panels_at_once`; no rows
    where they would be too few to pay.

    Half of a panel's vectors where they can be halved, for twice the rows: less of its weights has to come from the caches
    that the single row's come from.
    """
    vectors = n_gates * panel_vectors(n_gates)
    part = vectors if vectors % 2 else vectors // 2
    rows = (TARGET.accumulators - vectors * panels_at_once(n_gates)) // part
    return (rows if rows >= 3 else 0), part


def block_depth(n_gates: int) -> int:
    """How many terms of a sum are added up in a row: as many lines of a panel as stay in the first cache between tiles."""
    return _BLOCK // (n_gates * panel_vectors(n_gates) * TARGET.width)


def run_of(terms: int, most: int) -> int:
    """How many terms of a sum are added up in a row, from zero: at most `most`, the same whatever the tile."""
    blocks = max(1, -(-terms // most))
    return max(1, -(-terms // blocks))


def near_numbers(dtype: str) -> int:
    """How many numbers of the states and the input stay near while all panels pass by."""
    return _NEAR // ITEMSIZE[dtype]


def padded(n: int, dtype: str) -> int:
    """n rounded up to whole vectors."""
    count = lanes(dtype)
    return -(-n // count) * count
