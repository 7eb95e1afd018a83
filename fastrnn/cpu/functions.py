"""The functions that kernels call by address: the products of tiles, and a cell's step.

They are most of the machine code. Compiled on their own they are compiled once, not with every kernel that calls them and
every helper on the way.
"""

from numba import types
from numba.extending import intrinsic

import fastrnn.cpu.activations  # noqa: F401  registers the vector versions of what cells call
from fastrnn.cells import REGISTRY
from fastrnn.cpu.cellcode import advance_function
from fastrnn.cpu.rowcode import advance_row_function
from fastrnn.cpu.simd import I64
from fastrnn.cpu.target import panel_vectors
from fastrnn.cpu.tile import beside_function, few_function, product_function, row_function

# what a kernel of each kind tells the addresses of
NAMES = {
    "product": ("product",),
    "step": (
        "product_of_few",
        "product_of_few_parts",
        "product_of_row",
        "product_of_parts",
        "product_beside",
        "advance",
        "advance_row",
    ),
}


def product_name(name):
    """The cell of whose panels a product is: none where they are as wide as those of one gate, whose product serves all."""
    return name if name and _vectors(name) != _vectors("") else ""


def _vectors(name):
    gates = REGISTRY[name].n_gates if name else 1
    return gates * panel_vectors(gates)


def _functions(module, kind, name, dtype):
    """Those of a kind, for the cell of that name; without one, a product of one gate."""
    if kind == "product":
        return (product_function(module, dtype, _vectors(name)),)
    gates = REGISTRY[name].n_gates
    return (
        few_function(module, dtype, gates),
        few_function(module, dtype, 1),
        row_function(module, dtype, gates, 1),
        row_function(module, dtype, 1, gates),
        beside_function(module, dtype, gates),
        advance_function(module, dtype, REGISTRY[name]),
        advance_row_function(module, dtype, REGISTRY[name]),
    )


@intrinsic(prefer_literal=True)
def write_addresses(typing, to, kind, name, dtype):
    """to[i] = the address of the i-th function of a kind."""
    literals = kind.literal_value, name.literal_value, dtype.literal_value

    def codegen(context, builder, signature, args):
        for i, function in enumerate(_functions(builder.module, *literals)):
            builder.store(builder.ptrtoint(function, I64), builder.gep(args[0], [I64(i)]))
        return context.get_dummy_value()

    return types.void(to, kind, name, dtype), codegen


def _builder(kind):
    def build(name, dtype, digest):
        """The kernel that tells the addresses of the functions of a kind."""

        def addresses(member, team, args):
            _ = digest
            write_addresses(args, kind, name, dtype)

        return addresses

    return build


build_product, build_step = (_builder(kind) for kind in NAMES)
