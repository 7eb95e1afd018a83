"""How Numba compiles: the passes that the functions of kernels need, and no others.

Kernels are loops over numbers and pointers. Nothing in them is rewritten, inlined or pruned before it is typed, no
variable changes its type, and nothing is counted by references: of Numba's passes over Python's code these are left that
make LLVM's of it, and LLVM optimises a kernel once, whole, rather than each function, then the module twice. A cell
compiles in four fifths of the time. Another sixth goes where operators of numbers are looked up once for all kernels, not
at each of their three thousand places. Here and in helper.py alone the package reaches into Numba's compiler.
"""

from functools import cache
from typing import Any

from numba import njit, types
from numba.core import cgutils
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.lowering import Lower
from numba.core.typed_passes import AnnotateTypes, IRLegalization, NativeLowering, NoPythonBackend, NopythonTypeInference
from numba.core.untyped_passes import FixupArgs, IRProcessing, TranslateByteCode

# no fast-math (NaN, infinity and the order of sums are promises), no bounds checks (pointers have none to check), nothing
# to count the references of
OPTIONS: dict[str, Any] = {"error_model": "numpy", "boundscheck": False, "_nrt": False}


@cache
def _operator(context, function, numbers):
    """The signature of an operator for types of numbers."""
    return function.get_call_type(context, numbers, {})


class _Typing:
    """Numba's context of types, but for operators (and min, max, range) of numbers."""

    def __init__(self, context):
        self._context = context

    def __getattr__(self, name):
        return getattr(self._context, name)

    def resolve_function_type(self, function, args, kws):
        # of Python's own: an intrinsic function may tell one literal number from another
        home = getattr(getattr(function, "typing_key", None), "__module__", None)
        if home in ("_operator", "builtins") and not kws:
            numbers = tuple(map(types.unliteral, args))
            if all(isinstance(each, types.Number | types.Boolean) for each in numbers):
                return _operator(self._context, function, numbers)
        return self._context.resolve_function_type(function, args, kws)


class _Lower(Lower):
    def lower_binop(self, resty, expr, op):
        # LLVM folds constants; Numba looks for implementations of each
        context, numbers = self.context, self.fndesc.calltypes[expr].args
        sides = [
            context.cast(self.builder, self.loadvar(side.name), self.typeof(side.name), number)
            for side, number in zip((expr.lhs, expr.rhs), numbers, strict=True)
        ]
        function = context.typing_context.resolve_value_type(op)
        signature = _operator(context.typing_context, function, numbers)
        result = context.get_function(function, signature)(self.builder, sides)
        return context.cast(self.builder, result, signature.return_type, resty)

    def alloca_lltype(self, name, lltype, datamodel=None):
        # Numba asks for its size, which a debugger would be told
        return cgutils.alloca_once(self.builder, lltype, name=name, zfill=False)


@register_pass(mutates_CFG=True, analysis_only=False)
class _KernelLowering(NativeLowering):
    _name = "kernel_lowering"
    lowering_class = _Lower


_PASSES = (
    TranslateByteCode, FixupArgs, IRProcessing, NopythonTypeInference, IRLegalization, AnnotateTypes, _KernelLowering,
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
        self.state.typingctx = _Typing(self.state.typingctx)
        self.state.library = self.library(self.state.targetctx.codegen(), function.__qualname__)
        self.state.library.enable_object_caching()
        return super().compile_extra(function)

    def define_pipelines(self):
        passes = PassManager("kernel")
        for each in _PASSES:
            passes.add_pass(each)
        passes.finalize()
        return [passes]


class Cache(FunctionCache):
    """Numba's disk cache. What is found there runs without all that Numba knows of types and functions, which takes it a
    tenth of a second to set up, and which it does set up before it compiles."""

    def load_overload(self, sig, target_context):
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)


class KernelFunction(CFunc):
    """A C function made of Python's."""

    def __init__(self, function, signature, cache):
        super().__init__(function, (signature.args, signature.return_type), {}, OPTIONS, pipeline_class=Pipeline)
        if cache:
            self._cache = Cache(function)
        self.compile()


def launcher(function, signature, cache, **options):
    """The function compiled for that signature, to be called from Python without its lock. Whoever calls it holds the arrays
    that it is given: no references are counted."""
    options |= {"nogil": True, "_nrt": False}
    dispatcher = njit(**options)(function)
    if cache:
        dispatcher._cache = Cache(function)
    dispatcher.compile(signature)
    return dispatcher
