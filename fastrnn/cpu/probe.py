"""The machine's limits, by the package's own inner loop: a product that multiplies, and one that mostly reads."""

from fastrnn.cpu.kernel import integers, pointers
from fastrnn.cpu.simd import shift
from fastrnn.cpu.sync import flush_denormals, restore_denormals
from fastrnn.cpu.tile import product

PROBE = ("a", "b", "zero", "c", "offsets", "rows", "depth", "b_step", "repeats", "apart")


def build_probe(dtype, L, digest):
    """`repeats` products of `rows` rows and four vectors, over `depth` rows of B, `b_step` numbers apart; `apart` numbers
    lie between the B's of two threads. With b_step 0 everything stays in registers and the first cache."""

    def probe(member, team, args):
        _ = digest
        a, b, zero, c = pointers(args, 0, 4, dtype)
        offsets = pointers(args, 4, 1, "intp")[0]
        rows, depth, b_step, repeats, apart = integers(args, 5, 5)
        mode = flush_denormals()
        for _repeat in range(repeats):
            product(
                1, 4, rows, a, offsets, 1, shift(b, member * apart), b_step, zero, 0,
                shift(c, member * 32 * L), 4 * L, depth,
            )  # fmt: skip
        restore_denormals(mode)

    return probe
