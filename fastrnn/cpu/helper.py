"""A helper: a function that kernels call, compiled with each of them and never run by itself.

Numba makes machine code of every function, and compiles it again for each number that stands in a caller's text. A
helper needs neither, for its kernel is optimised with all that it takes in.
"""

from numba import types
from numba.core.registry import CPUDispatcher

from fastrnn.cpu.pipeline import OPTIONS, Library, Pipeline

# of a function that nothing but compiled code calls
WITHOUT_WRAPPERS = {"no_cfunc_wrapper": True, "no_cpython_wrapper": True}


class _Unoptimised(Library):
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


class _HelperPipeline(Pipeline):
    library = _Unoptimised


class _Helper(CPUDispatcher):
    def get_call_template(self, args, kws):
        # a number in the caller's text is a number like any other
        return super().get_call_template(tuple(map(types.unliteral, args)), kws)


def helper(function):
    return _Helper(function, targetoptions={"nopython": True} | WITHOUT_WRAPPERS | OPTIONS, pipeline_class=_HelperPipeline)
