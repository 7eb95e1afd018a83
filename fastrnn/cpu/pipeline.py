"""How Numba compiles: the passes that the functions of kernels need, and no others.

Kernels are loops over numbers and pointers. Nothing in them is rewritten, inlined or pruned before it is typed, no
variable changes its type, and nothing is counted by references: of Numba's passes over Python's code these are left that
make LLVM's of it, and LLVM optimises a kernel once, whole, rather than each function, then the module twice. A cell
compiles in four fifths of the time. Here and in helper.py alone the package reaches into Numba's compiler.
"""

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase
from numba.core.compiler_machinery import PassManager
from numba.core.typed_passes import AnnotateTypes, IRLegalization, NativeLowering, NoPythonBackend, NopythonTypeInference
from numba.core.untyped_passes import FixupArgs, IRProcessing, TranslateByteCode

# no fast-math (NaN, infinity and the order of sums are promises), no bounds checks (pointers have none to check)
OPTIONS: dict[str, Any] = {"error_model": "numpy", "boundscheck": False}

_PASSES = (
    TranslateByteCode, FixupArgs, IRProcessing, NopythonTypeInference, IRLegalization, AnnotateTypes, NativeLowering,
    NoPythonBackend,
)  # fmt: skip


class Library(JITCodeLibrary):
    """A kernel's code."""

    def _optimize_functions(self, ll_module):
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self):
        manager, builder = self._codegen._module_pass_manager()
        manager.run(self._final_module, builder)


class Pipeline(CompilerBase):
    library = Library

    def compile_extra(self, function):
        self.state.library = self.library(self.state.targetctx.codegen(), function.__qualname__)
        self.state.library.enable_object_caching()
        return super().compile_extra(function)

    def define_pipelines(self):
        passes = PassManager("kernel")
        for each in _PASSES:
            passes.add_pass(each)
        passes.finalize()
        return [passes]
