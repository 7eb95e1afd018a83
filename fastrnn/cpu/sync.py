"""What the threads of one call need inside a kernel: a team that forms from whoever shows up, a barrier, and the
processor's flush-to-zero mode for as long as the kernel runs.

Numba's thread layers do not promise that the members of a launch run at the same time. So a member registers on arrival,
the first one closes the team after a short wait, and the work is divided among those who came: a barrier can then not wait
for a thread that never runs.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastrnn.cpu.helper import helper
from fastrnn.cpu.simd import I32, I64
from fastrnn.cpu.target import TARGET

# words of the control block, each on a cache line of its own; ARRIVED is the first member's, the others' come behind it
_LINE = 16
REGISTERED, TEAM, ARRIVED = 0, _LINE, 2 * _LINE
CLOSED = 1 << 32
_PATIENCE = 4000  # pauses that the first member waits for the others: some tens of microseconds
_POLITE = 1000  # pauses at a barrier before giving the core away: another thread may need it to arrive


def control_words(team: int) -> int:
    """The size of the control block of a team."""
    return ARRIVED + _LINE * team


@intrinsic
def atomic_add(typing, pointer, index, value):
    """The word before the addition."""

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("add", builder.gep(args[0], [args[1]]), args[2], "acq_rel")

    return types.intp(pointer, types.intp, types.intp), codegen


@intrinsic
def atomic_load(typing, pointer, index):
    def codegen(context, builder, signature, args):
        return builder.load_atomic(builder.gep(args[0], [args[1]]), "acquire", 8)

    return types.intp(pointer, types.intp), codegen


@intrinsic
def atomic_store(typing, pointer, index, value):
    def codegen(context, builder, signature, args):
        builder.store_atomic(args[2], builder.gep(args[0], [args[1]]), "release", 8)
        return context.get_dummy_value()

    return types.void(pointer, types.intp, types.intp), codegen


@intrinsic
def pause(typing):
    """Tell the core that this is a spin loop."""

    def codegen(context, builder, signature, args):
        void = ir.VoidType()
        if TARGET.name in ("avx512", "avx2", "sse"):
            function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(void, []), "llvm.x86.sse2.pause")
            builder.call(function, [])
        elif TARGET.name == "neon":
            hint = cgutils.get_or_insert_function(builder.module, ir.FunctionType(void, [I32]), "llvm.aarch64.hint")
            builder.call(hint, [I32(1)])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def give_way(typing):
    """Let the operating system run another thread."""

    def codegen(context, builder, signature, args):
        import sys

        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(I32, []), name), [])
        return context.get_dummy_value()

    return types.void(), codegen


@helper
def join_team(control, wanted):
    """This member's number and the team's size; number -1 for one who came too late."""
    number = atomic_add(control, REGISTERED, 1)
    if number >= CLOSED:
        return -1, 0
    if number == 0:
        waited = 0
        while atomic_load(control, REGISTERED) < wanted and waited < _PATIENCE:
            pause()
            waited += 1
        atomic_add(control, TEAM, atomic_add(control, REGISTERED, CLOSED))
    size = atomic_load(control, TEAM)
    while size == 0:
        pause()
        size = atomic_load(control, TEAM)
    return number, size


@helper
def barrier(control, member, team, generation):
    """Wait until every member has arrived `generation` times.

    Each says so on a cache line that it alone writes: a common counter would have to come over before it can be raised.
    """
    atomic_store(control, ARRIVED + _LINE * member, generation)
    waited = 0
    for other in range(team):
        while atomic_load(control, ARRIVED + _LINE * other) < generation:
            pause()
            waited += 1
            if waited > _POLITE:
                give_way()


@intrinsic
def flush_denormals(typing):
    """Make this thread flush denormal numbers to zero (a decaying state is 20 times slower otherwise); the mode before."""

    def codegen(context, builder, signature, args):
        if TARGET.name in ("avx512", "avx2", "sse"):
            before = _read_mxcsr(builder)
            _write_mxcsr(builder, builder.or_(before, I32(0x8040)))  # flush to zero, denormals are zero
            return builder.zext(before, I64)
        if TARGET.name == "neon":
            before = builder.asm(ir.FunctionType(I64, []), "mrs $0, fpcr", "=r", [], True)
            _write_fpcr(builder, builder.or_(before, I64(1 << 24)))
            return before
        return I64(0)

    return types.intp(), codegen


@intrinsic
def restore_denormals(typing, before):
    """Put the mode back that flush_denormals found."""

    def codegen(context, builder, signature, args):
        if TARGET.name in ("avx512", "avx2", "sse"):
            _write_mxcsr(builder, builder.trunc(args[0], I32))
        elif TARGET.name == "neon":
            _write_fpcr(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.intp), codegen


def _read_mxcsr(builder):
    slot = cgutils.alloca_once(builder, I32)
    _mxcsr(builder, "stmxcsr", slot)
    return builder.load(slot)


def _write_mxcsr(builder, value):
    slot = cgutils.alloca_once(builder, I32)
    builder.store(value, slot)
    _mxcsr(builder, "ldmxcsr", slot)


def _mxcsr(builder, name, slot):
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.sse.{name}"), [builder.bitcast(slot, byte)])


def _write_fpcr(builder, value):
    builder.asm(ir.FunctionType(ir.VoidType(), [I64]), "msr fpcr, $0", "r", [value], True)
