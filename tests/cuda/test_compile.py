"""Every kernel compiled for devices that need not be there, and assembled: its registers, shared memory and spills."""

import re
import subprocess
from itertools import chain, product
from pathlib import Path
from types import SimpleNamespace

import pytest
from numba.cuda import types
from numba.cuda.dispatcher import _Kernel

from fastrnn import choices
from fastrnn.cells import REGISTRY
from fastrnn.cuda import attention, choosing, decode, gemm, loops, moves, plan, target
from fastrnn.cuda.decoding import tiles_of
from fastrnn.cuda.rows import Loop
from fastrnn.cuda.scalars import bits_of, real_name

pytestmark = pytest.mark.ptx
DTYPES = ("float32", "float64", "float16", "bfloat16")
CAPABILITIES = ((7, 5), (8, 0), (9, 0), (10, 0))
I64 = types.int64
REGISTERS = 65536  # of a multiprocessor: a block has to fit
# what a kernel may use: registers of a thread, bytes of static shared memory; none may spill but one whose lanes hold most
BUDGET = {
    "forward": (232, 0),
    "forward-wide": (255, 0),  # many sums of a lane, or weights: the compiler takes what one block of a multiprocessor may
    "backward": (255, 0),  # what it needs of the step before is there while the product is computed
    "multiply64": (128, 8448),
    "multiply128": (192, 8448),
    "finish": (48, 0),
    "move": (48, 0),
    "decode": (255, 4352),
    "follow": (64, 0),
}
BUDGET |= {"multiply64_float64": (160, 16896), "multiply128_float64": (255, 16896)}
SPILLED, HELD = 96, 96  # bytes that are stored or loaded where a lane holds more weights in registers than this
DYNAMIC = 64 << 10  # bytes of shared memory for the sums of a loop: what the smallest device here has


def array(dtype, axes=1):
    stored = {"bfloat16": types.int16}.get(dtype) or getattr(types, dtype)
    return types.Array(stored, axes, "C")


def sums(dtype):
    return array("float64" if dtype == "float64" else "float32")


def told(kind):
    return types.NamedUniTuple(I64, len(kind._fields), kind)


def forms(tiles, dtype, gates):
    """Of the smallest and the largest tile, the weights in each place; in registers as many as can be."""
    small, large, many = tiles[0], tiles[-1], max(tiles, key=lambda t: t.rows)
    wide = max((t for t in tiles if t.rows <= 2), key=lambda t: t.sums)
    words = small if dtype == "float64" else small.in_pairs()
    large, wide, many = (t if dtype == "float64" else t.in_pairs() for t in (large, wide, many))
    yield from (plan.Form(tile, plan.SHARED, 0) for tile in dict.fromkeys((small, words, large, many)))
    yield from (plan.Form(tile, plan.STREAMED, 0) for tile in (words, large))
    lanes = target.held_singles if dtype == "float32" else target.held
    for most in sorted({lanes(capability) for capability in CAPABILITIES}):
        for tile in (words, wide):
            terms = (most // 2 if dtype == "float64" else most) // (tile.units * gates)
            yield plan.Form(tile, plan.REGISTERS, min(1 << terms.bit_length() - 1, plan._UNROLLED))


def fragments(tiles):
    """For tensor cores, likewise: the least, the most units and the most rows of a pass, and as many of both."""
    small, units, rows = tiles[0], max(tiles, key=lambda t: t.columns), max(tiles, key=lambda t: (t.rows, t.columns))
    both = max(tiles, key=lambda t: min(t.rows, t.columns))
    form = lambda tile, where, K, terms=0: plan.Form(tile.reading(K, "", where, tile.rows), where, terms)  # noqa: E731
    yield from (form(tile, plan.SHARED, 4096) for tile in dict.fromkeys((small, units, rows, both)))
    yield from (form(tile, plan.STREAMED, 4096) for tile in dict.fromkeys((small, units, rows, both)))
    for most in sorted({target.held(capability) for capability in CAPABILITIES}):
        for tile in (small, next(t for t in tiles if t.columns == 8)):
            terms = min(1 << (most // (tile.weights * tile.registers)).bit_length() - 1, 16)
            yield form(tile, plan.REGISTERS, terms * tile.warps * tile.depth, terms)


def named(form):
    if form.tile.apart:
        return (
            f"fragments-{form.where}{form.terms or ''}-units{form.tile.columns}-rows{form.tile.rows}-ahead{form.tile.ahead}"
        )
    each = "-pairs" if form.tile.each == 2 else ""
    return f"{form.where}{form.terms or ''}-units{form.tile.units}-rows{form.tile.rows}{each}"


def strided(q, stored, real, table):
    """What reads or writes views: x, y and dy of any strides."""
    view, dtype = types.Array(types.float32, 3, "A"), "float32"
    yield "gather-strided", "move", moves.gather(), (q, view, table, real)
    yield "scatter-strided", "move", moves.scatter(dtype), (q, I64, real, table, view)
    yield "clear-strided", "move", moves.clear(dtype), (q, I64, table, view)
    form, back = (
        plan.Form(t[-1], plan.SHARED, 0) for t in (target.forward_tiles("lstm", dtype), target.backward_tiles(dtype))
    )
    arguments = (q, stored, stored, real, real, real, table, real, view)
    yield "forward-strided", "forward-wide", loops.forward("lstm", dtype, form, True), arguments
    arguments = (q, stored, real, table, real, view, real, real)
    yield "backward-strided", "backward", loops.backward("lstm", dtype, back), arguments


def decoders(dtype, stored, real):
    """A decoder of each cell and choice; three numbers for what integers, tables and numbers a text of choices.py reads."""
    words = (
        types.UniTuple(I64, len(choosing.FIXED)), types.UniTuple(array("int64"), len(choices.TABLES)),
        types.UniTuple(array("float64"), len(choices.NUMBERS)),
    )  # fmt: skip
    arguments = (types.UniTuple(I64, decode.SIZES), types.float64, *words, stored, *[real] * 5, array("int64"))
    for cell, choice in product(REGISTRY, ("greedy", "sample", "beam")):
        for rows in (1, 2):
            cells, tile, wide = tiles_of(cell, dtype, choice, rows)
            kernel = decode.decoder(cell, dtype, (cells, tile, tile if rows == 1 else wide), choice)
            yield f"decode-{cell}-{choice}-rows{rows}", "decode", kernel, arguments
    yield "follow", "follow", decode.follower(), (*words, real)
    yield "attended", "move", attention.attended(dtype), (*[I64] * 4, real, array("int64"), I64, array("int64"), stored)
    yield "embed", "move", moves.embed(dtype), (I64, I64, stored, array("int64"), stored)
    yield "join", "move", moves.join(dtype), (*[I64] * 4, stored, real, I64)
    yield "activate", "move", moves.activate(real.dtype.name, "tanh"), (I64, real)


def by_tensor_cores(dtype, q, table, real, stored, batch):
    bits = array(bits_of(dtype).__name__)
    for cell in REGISTRY:
        for form in fragments(target.forward_tiles(cell, dtype, True)):
            for keep in (False, True):
                arguments = (q, bits, stored, real, real, bits, table, real, batch)
                kernel = loops.forward(cell, dtype, form, keep)
                yield f"forward-{cell}-{named(form)}-{'tape' if keep else 'bare'}", "forward-wide", kernel, arguments, form
        for form in fragments(target.backward_tiles(dtype, True)):
            arguments = (q, bits, real, table, real, batch, real, bits)
            yield f"backward-{cell}-{named(form)}", "backward", loops.backward(cell, dtype, form), arguments, form


def kernels(dtype):
    """(name, kind, kernel, types of its arguments) of all kernels for a type of storage; of time loops also the form."""
    q, table, real, stored = told(Loop), array("int64"), sums(dtype), array(dtype)
    batch = array(dtype, 3)
    for cell in REGISTRY:
        G = REGISTRY[cell].n_gates
        for form in forms(target.forward_tiles(cell, dtype), dtype, G):
            for keep in (False, True):
                passed = table if form.tile.each == 2 else real
                arguments = (q, stored, stored, real, real, passed, table, real, batch)
                kernel = loops.forward(cell, dtype, form, keep)
                kind = "forward-wide" if form.tile.units > 1 or max(form.tile.sums, form.held / 2) > 32 else "forward"
                yield f"forward-{cell}-{named(form)}-{'tape' if keep else 'bare'}", kind, kernel, arguments, form
        for form in forms(target.backward_tiles(dtype), dtype, 1):
            passed = table if form.tile.each == 2 else real
            arguments = (q, stored, real, table, real, batch, real, passed)
            yield f"backward-{cell}-{named(form)}", "backward", loops.backward(cell, dtype, form), arguments, form
    if dtype != "float64":
        yield from by_tensor_cores(dtype, q, table, real, stored, batch)
    name = real.dtype.name
    for a, b in dict.fromkeys([(dtype, dtype), (name, dtype), (name, name)]):
        arguments = (told(gemm.Product), array(a), array(b), array(b), real)
        for square in target.SQUARES:
            yield f"multiply{square.side}-{a}-{b}", f"multiply{square.side}", gemm.multiply(a, b, square), arguments
    yield "finish", "finish", gemm.finish(dtype), (told(gemm.Product), I64, real, stored, stored)
    yield "gather", "move", moves.gather(), (q, batch, table, stored)
    yield "scatter", "move", moves.scatter(dtype), (q, I64, real, table, batch)
    yield "clear", "move", moves.clear(dtype), (q, I64, table, batch)
    for source, to in dict.fromkeys([(dtype, name), (name, dtype), (dtype, dtype)]):
        yield f"convert-{source}-{to}", "move", moves.convert(source, to), (I64, I64, array(source), array(to), I64)
    if dtype == "float32":
        yield from strided(q, stored, real, table)
    yield "transpose", "move", moves.transpose(dtype), (I64, I64, stored, stored)
    if dtype != "float64":
        tile = target.backward_tiles(dtype, True)[0]
        yield "clear-behind", "move", moves.clear_behind(tile), (I64, I64, I64, array(bits_of(dtype).__name__))
    yield from decoders(dtype, stored, real)
    yield "combine", "move", moves.combine(dtype, moves.SUM), (I64, stored, stored, stored)


def ptxas():
    import nvidia.cu13

    return Path(nvidia.cu13.__path__[0]) / "bin" / "ptxas"


def assembled(kernel, arguments, capability, folder, monkeypatch):
    """registers, shared memory, stack and spills by ptxas."""
    # of the current device that is all that the compiler asks for
    monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: SimpleNamespace(compute_capability=capability))
    monkeypatch.setattr("numba.cuda.codegen.CUDACodeLibrary._ensure_cc", lambda self, cc: capability)
    # which the linker is not given
    monkeypatch.setattr("numba.cuda.codegen.CUDACodeLibrary.get_asm_str", lambda self, cc=None: "")
    compiled = _Kernel(kernel.py_func, arguments, lto=kernel.targetoptions["lto"])  # and what it is linked with
    source = folder / "kernel.ptx"
    source.write_text(compiled._codelibrary.get_lto_ptx().strip("\0"))
    command = [ptxas(), f"-arch=sm_{capability[0]}{capability[1]}", "-v", source, "-o", folder / "kernel.cubin"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    find = lambda text: int((re.search(text, said) or [0, 0])[1])  # noqa: E731
    spilled = find(r"(\d+) bytes spill stores") + find(r"(\d+) bytes spill loads")
    return find(r"Used (\d+) registers"), find(r"(\d+) bytes smem"), find(r"(\d+) bytes stack frame"), spilled


def check(found, kind, dtype, threads, spilling):
    registers, shared, stack, spilled = found
    most, room = BUDGET.get(f"{kind}_{dtype}", BUDGET[kind])
    assert spilled <= (SPILLED if spilling else 0)
    assert stack <= (SPILLED if spilling else 0) // 2
    assert registers <= most
    assert registers * threads <= REGISTERS
    assert shared <= room


FOUND = {(dtype, name): rest for dtype in DTYPES for name, *rest in kernels(dtype)}
THREADS = {
    "forward": 32 * target.WARPS,
    "forward-wide": 32 * target.WARPS,
    "decode": 32 * target.WARPS,
    "backward": 32 * target.WARPS,
    "multiply64": 256,
    "multiply128": 256,
}


def within_budget(dtype, name, capability, folder, monkeypatch):
    kind, kernel, arguments, *forms = FOUND[dtype, name]
    found = assembled(kernel, arguments, capability, folder, monkeypatch)
    spilling = any(form.registers(dtype) > HELD for form in forms)
    check(found, kind, dtype, THREADS.get(kind, target.ELEMENTWISE), spilling)


def brief(dtype, name, capability):
    """Whether it is among those that every run of the continuous integration compiles; a minute's worth of each device."""
    if name.startswith("decode"):
        return dtype == "float32" and "-rows2" in name and "rnn" not in name and capability[0] >= 9
    if "fragments" in name:
        usual = "-lstm-" in name and "-bare" not in name
        return usual and (capability == (9, 0) if dtype == "float16" else "shared" in name)
    largest = "-rows1" not in name and "registers" not in name
    if capability == (9, 0):
        return dtype == "float32" or (largest and "streamed" not in name)
    return dtype == "float32" and largest and "rnn" not in name


def planned(dtype, name, capability):
    """Whether a device may be given that kernel: a lane holds no more weights and sums than the device's limits allow."""
    _, _, _, *forms = FOUND[dtype, name]
    return all(
        form.registers(dtype) <= (target.held_singles if plan.of_singles(form.tile, dtype) else target.held)(capability)
        and form.tile.sums <= target.most_sums(capability)
        and (capability >= (8, 0) or not form.tile.apart)
        for form in forms
    )


EVERY = [(*key, capability) for capability in CAPABILITIES for key in FOUND if planned(*key, capability)]


def chosen(wanted):
    keys = [key for key in EVERY if brief(*key) == wanted]
    ids = [f"{dtype}-{name}-sm_{major}{minor}" for dtype, name, (major, minor) in keys]
    return pytest.mark.parametrize(("dtype", "name", "capability"), keys, ids=ids)


@chosen(True)
def test_kernels_are_within_their_budgets(dtype, name, capability, tmp_path, monkeypatch):
    within_budget(dtype, name, capability, tmp_path, monkeypatch)


@pytest.mark.slow
@chosen(False)
def test_the_others_are_too(dtype, name, capability, tmp_path, monkeypatch):
    within_budget(dtype, name, capability, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "loop",
    [
        "forward-lstm-shared-units1-rows1-bare",
        "forward-lstm-shared-units1-rows1-pairs-bare",
        "backward-lstm-shared-units1-rows1",
    ],
)
def test_what_is_missing_is_loaded_again(loop, tmp_path, monkeypatch):
    """The compiler has merged no load of a number that is waited for with the one before: it would wait for ever."""
    _, kernel, arguments, _ = FOUND["float32", loop]
    assembled(kernel, arguments, (9, 0), tmp_path, monkeypatch)
    ptx, pairs = (tmp_path / "kernel.ptx").read_text(), "pairs" in loop
    loads = target.backward_tiles("float32")[0].loads // (2 if pairs else 1)
    word = r"ld\.global\.cv\.b\d+ (%\w+), \[%\w+\]"
    assert len(re.findall(word, ptx)) == 3 * loads  # of the first chunk, again, of the next chunk
    if pairs:  # whose halves are looked at, which is another text
        return
    # in the loop each is loaded to the register that is looked at before it, in a branch of its own
    again = re.findall(rf"\$L\w+:\s+setp\.\w+\.\w+ \s*%p\d+, (%\w+), -25[67];\s+@%p\d+ bra[^:]*?{word}", ptx)
    assert len(again) == loads
    assert all(looked == to for looked, to in again)


def test_so_it_is_for_tensor_cores(tmp_path, monkeypatch):
    _, kernel, arguments, form = FOUND["float16", "forward-lstm-fragments-shared-units8-rows32-ahead4-bare"]
    assembled(kernel, arguments, (9, 0), tmp_path, monkeypatch)
    ptx = (tmp_path / "kernel.ptx").read_text()
    # of the first tiles of terms, again, of the next ones; and no call of what multiplies
    assert ptx.count("ld.relaxed.gpu.global.u64") == 3 * form.tile.ahead * form.tile.words
    assert ptx.count("mma.sync") == form.tile.ahead * form.tile.pairs * form.tile.words
    assert "fastrnn_f16" not in ptx


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_thread_has_one_unit_of_one_row_of_a_pass(dtype):
    for tile in chain(target.backward_tiles(dtype), *(target.forward_tiles(cell, dtype) for cell in REGISTRY)):
        assert tile.columns * tile.rows <= tile.threads
        assert tile.threads % tile.rows == tile.loads % tile.rows == tile.sums % tile.parts == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sums_of_a_pass_fit_the_shared_memory_of_small_devices(dtype):
    for tile in chain(target.backward_tiles(dtype), *(target.forward_tiles(cell, dtype) for cell in REGISTRY)):
        assert tile.room * target.ITEM[real_name(dtype)] <= DYNAMIC
