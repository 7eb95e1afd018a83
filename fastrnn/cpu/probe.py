"""The machine's limits, by the package's own inner loops: a product that multiplies, and one that mostly reads."""

from fastrnn.cpu.kernel import Fields, words_of
from fastrnn.cpu.simd import shift
from fastrnn.cpu.sync import flush_denormals, restore_denormals
from fastrnn.cpu.target import panel_vectors, panels_at_once
from fastrnn.cpu.tile import product, product_of_row

PROBE = Fields(
    ("a", "b", "zero", "c"), ("offsets",), ("rows", "depth", "repeats", "apart"), functions=("product", "product_of_row")
)
NAME = "rnn_tanh"  # a cell of one gate: products of four vectors, and of twice four for a single row


def build_probe(name, dtype, digest):
    """`repeats` products of `depth` terms. One row: of several panels at once, side by side, each of which lies `apart`
    numbers behind the one before, and those of a thread behind those of another. More: everything stays in registers."""
    vectors, many = panel_vectors(1), panels_at_once(1)

    def probe(member, team, args):
        _ = digest
        w = words_of(args, "probe", "PROBE", name, dtype)
        mode = flush_denormals()
        line, b = vectors * w.L, shift(w.b, member * many * w.apart)
        c = shift(w.c, member * 32 * w.L)
        for _repeat in range(w.repeats):
            if w.rows == 1:
                product_of_row(w.product_of_row, many * vectors, w.a, 0, b, line, w.apart, 0, w.zero, c, w.depth)
            else:
                product(w.product, vectors, w.rows, w.a, w.offsets, 1, b, 0, w.zero, 0, c, line, w.depth, w.b, 0)
        restore_denormals(mode)

    return probe
