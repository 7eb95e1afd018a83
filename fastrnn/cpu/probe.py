"""The machine's limits, by the package's own inner loop: a product that multiplies, and one that mostly reads."""

from fastrnn.cpu.kernel import Fields, words_of
from fastrnn.cpu.simd import shift
from fastrnn.cpu.sync import flush_denormals, restore_denormals
from fastrnn.cpu.tile import product

PROBE = Fields(
    ("a", "b", "zero", "c"), ("offsets",), ("rows", "depth", "b_step", "repeats", "apart"), functions=("product",)
)


def build_probe(name, dtype, digest):
    """`repeats` products of `rows` rows and four vectors, over `depth` rows of B, `b_step` numbers apart; `apart` numbers
    lie between the B's of two threads. With b_step 0 everything stays in registers and the first cache."""

    def probe(member, team, args):
        _ = digest
        w = words_of(args, "probe", "PROBE", name, dtype)
        mode = flush_denormals()
        for _repeat in range(w.repeats):
            product(
                w.product, 4, w.rows, w.a, w.offsets, 1, shift(w.b, member * w.apart), w.b_step, w.zero, 0,
                shift(w.c, member * 32 * w.L), 4 * w.L, w.depth, w.b, 0,
            )  # fmt: skip
        restore_denormals(mode)

    return probe
