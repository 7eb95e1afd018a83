"""A helper: a function that kernels call, compiled with each of them and never run by itself.

Numba optimises every function with all that it calls, makes machine code of it, and compiles it again for each number that
stands in a caller's text. A helper needs none of this, for its kernel is optimised with all that it takes in: left out, a
cell compiles in two thirds of the time. Here alone the package reaches into Numba's compiler.
"""

from typing import Any

from numba import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.registry import CPUDispatcher

# no fast-math (NaN, infinity and the order of sums are promises), no bounds checks (pointers have none to check)
OPTIONS: dict[str, Any] = {"error_model": "numpy", "boundscheck": False}
# of a function that nothing but compiled code calls
WITHOUT_WRAPPERS = {"no_cfunc_wrapper": True, "no_cpython_wrapper": True}


class _Library(JITCodeLibrary):
    """Code to be linked into a kernel's, and no machine code of it."""

    def _optimize_final_module(self):
        """Left to the kernel."""

    def _finalize_final_module(self):
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name):
        self._ensure_finalized()
        return 0  # Numba asks for the wrapper that is not there

    @property
    def codegen(self):
        return self  # which is asked for nothing but this:

    def set_env(self, name, env):
        """Globals of a function of Python, which nothing reads: no exception is raised."""


class _Pipeline(Compiler):
    def compile_extra(self, function):
        self.state.library = _Library(self.state.targetctx.codegen(), function.__qualname__)
        return super().compile_extra(function)


class _Helper(CPUDispatcher):
    def get_call_template(self, args, kws):
        # a number in the caller's text is a number like any other
        return super().get_call_template(tuple(map(types.unliteral, args)), kws)


def helper(function):
    return _Helper(function, targetoptions={"nopython": True} | WITHOUT_WRAPPERS | OPTIONS, pipeline_class=_Pipeline)
