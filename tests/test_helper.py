"""How functions that kernels call are compiled: once for each kind of argument, and as part of the kernel only."""

import numpy as np

from fastrnn.cpu.helper import helper
from fastrnn.cpu.kernel import SIGNATURE
from fastrnn.cpu.pipeline import KernelFunction


@helper
def inner(x):
    return 3 * x


@helper
def outer(x):
    return inner(x) + inner(1)


def run(function, *words):
    """The words after a kernel of that function has run."""
    given = np.array(words, np.intp)
    kernel = KernelFunction(function, SIGNATURE, cache=False)
    kernel.ctypes(0, 1, given.ctypes.data_as(kernel.ctypes.argtypes[2]))
    return given.tolist()


def test_once_for_numbers_and_literals_from_kernels_and_from_helpers():
    def kernel(member, team, args):
        args[0] = outer(args[1]) + outer(2) + inner(args[1]) + inner(5)

    assert run(kernel, 0, 7) == [(21 + 3) + (6 + 3) + 21 + 15, 7]
    assert len(inner.overloads) == len(outer.overloads) == 1


def test_no_machine_code_of_their_own():
    def kernel(member, team, args):
        args[0] = outer(args[0])

    assert run(kernel, 4) == [15]
    library = next(iter(outer.overloads.values())).library
    assert "define" in library.get_llvm_str()
    engine = library._codegen._engine
    assert not any(engine.is_symbol_defined(f.name) for f in library.get_defined_functions() if "outer" in f.name)


def test_two_kernels_share_a_helper():
    def first(member, team, args):
        args[0] = outer(args[0])

    def second(member, team, args):
        args[0] = outer(args[0]) - inner(args[0])

    assert run(first, 2) == [9] and run(second, 2) == [3]
