"""What a process may do to the package, and the package to its process: threads, forks, settings, interrupts, targets."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from fastrnn.cpu.target import TARGET

ROOT = Path(__file__).parent.parent
TOLERANCE = {"float32": 1e-6, "float64": 1e-14}  # relative RMS, against NumPy's own arithmetic

# what every script starts with; sizes large enough for two threads
COMMON = """
import os, sys, threading, warnings
import numpy as np
import fastrnn as fr

CALLS = {"rnn_tanh": ("rnn", 1, {}), "rnn_relu": ("rnn", 1, {"nonlinearity": "relu"}), "gru": ("gru", 3, {}),
         "lstm": ("lstm", 4, {})}

def problem(cell, T=72, N=16, I=5, H=65, dtype="float32", seed=0):  # worth a team
    G, rng = CALLS[cell][1], np.random.default_rng(seed)
    shapes = [(T, N, I), (G * H, I), (G * H, H), (G * H,), (G * H,), (N, H)]
    return [(rng.standard_normal(s) * (H**-0.5 if s[0] == G * H else 1)).astype(dtype) for s in shapes]

def both_ways(cell, *args, **options):
    name, _, more = CALLS[cell]
    out, tape = getattr(fr, name + "_forward")(*args, **more, **options)
    g = getattr(fr, name + "_backward")(tape, *out)
    return [a for a in (*out, *vars(g).values()) if a is not None]

def same(got, wanted):
    return [a.tobytes() for a in got] == [a.tobytes() for a in wanted]
"""


@pytest.fixture(scope="session")
def kernels(tmp_path_factory):
    """A cache folder that the subprocesses of this file share."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def python(kernels):
    """Run a script in a process of its own, every warning an error; what it printed."""

    def run(code, *arguments, **env):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", COMMON + code, *map(str, arguments)],
            env=clean() | {"NUMBA_CACHE_DIR": str(kernels)} | env, cwd=ROOT,
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"rc {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert not done.stderr, done.stderr
        return done.stdout.split()

    return run


def clean():
    """The environment without what would steer Numba or the package."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "FASTRNN_", "PYTHONWARNINGS"))}


def two_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


needs_two_cores = pytest.mark.skipif(two_cores() < 2, reason="one core")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
needs_x86 = pytest.mark.skipif(TARGET.name not in ("avx512", "avx2"), reason="not an x86-64 with AVX2")


# --- threads


@needs_two_cores
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_many_python_threads_at_once(python, layer):
    if layer == "omp" and find_spec("numba.np.ufunc.omppool") is None:
        pytest.skip("this Numba has no OpenMP layer")
    code = """
import numba
wanted = {}
with fr.num_threads(1):
    for cell in CALLS:
        wanted[cell] = both_ways(cell, *problem(cell))
fr.set_num_threads(2)
both_ways("lstm", *problem("lstm"))
assert numba.threading_layer() == sys.argv[1], numba.threading_layer()
wrong, start = [], threading.Barrier(8)
def work(k):
    try:
        start.wait()
        for i in range(40):
            cell = list(CALLS)[(i + k) % 4]
            if not same(both_ways(cell, *problem(cell)), wanted[cell]):
                wrong.append(cell)
    except BaseException as problem_:
        wrong.append(repr(problem_))
threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
for t in threads: t.start()
for t in threads: t.join()
assert not wrong, wrong
print("right")
"""
    assert python(code, layer, NUMBA_THREADING_LAYER=layer) == ["right"]


@needs_two_cores
def test_thread_setting_is_of_the_process_or_of_the_context(python):
    code = """
seen = []
fr.set_num_threads(2)
def look(): seen.append(fr.get_num_threads())
with fr.num_threads(1):
    t = threading.Thread(target=look); t.start(); t.join(); look()
look()
print(*seen)
"""
    assert python(code) == ["2", "1", "2"]
    assert python("print(fr.get_num_threads())", FASTRNN_NUM_THREADS="1") == ["1"]


def test_thread_setting_of_the_environment_is_checked(python):
    code = """
try:
    fr.get_num_threads()
except ValueError as problem_:
    print(str(problem_).startswith("FASTRNN_NUM_THREADS: got"))
"""
    for value in ("0", "many", "-1", "1000000"):
        assert python(code, FASTRNN_NUM_THREADS=value) == ["True"]


# --- forks


@needs_two_cores
@needs_fork
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_forked_child(python, layer):
    if layer == "omp" and find_spec("numba.np.ufunc.omppool") is None:
        pytest.skip("this Numba has no OpenMP layer")
    code = """
fr.set_num_threads(2)
wanted = both_ways("lstm", *problem("lstm"))
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of every fork of a process with threads
    pid = os.fork()
if not pid:
    code = 1
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            right = all(same(both_ways("lstm", *problem("lstm")), wanted) for _ in range(3))
        said = [str(w.message) for w in caught if w.category is RuntimeWarning]
        code = 0 if right and len(said) == 1 and "spawn" in said[0] else 2
    finally:
        os._exit(code)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert same(both_ways("lstm", *problem("lstm")), wanted)
print("right")
"""
    assert python(code, NUMBA_THREADING_LAYER=layer) == ["right"]


@needs_two_cores
@needs_fork
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(python, method):
    code = """
import multiprocessing
warnings.filterwarnings("ignore", "fastrnn runs on one thread", RuntimeWarning)
warnings.simplefilter("ignore", DeprecationWarning)
fr.set_num_threads(2)
args = problem("gru")
wanted = fr.gru(*args)
pool = multiprocessing.get_context(sys.argv[1]).Pool(1)
assert same(pool.apply(fr.gru, args), wanted)
# a worker that is killed on its way out may leave Numba's semaphore unlinked but still known to the resource tracker
pool.close()
pool.join()
assert same(fr.gru(*args), wanted)
print("right")
"""
    assert python(code, method) == ["right"]


@needs_fork
def test_fork_before_any_thread_is_silent(python):
    code = """
fr.set_num_threads(1)
wanted = both_ways("gru", *problem("gru"))
pid = os.fork()
if not pid:
    code = 1
    try:
        code = 0 if same(both_ways("gru", *problem("gru")), wanted) else 2
    finally:
        os._exit(code)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert python(code) == ["0"]


# --- settings that belong to others


def test_nothing_of_the_process_changes(python):
    # a denormal product is zero on a thread whose processor flushes; the pool's own threads are looked at too
    code = """
import locale, signal, numba
@numba.njit(parallel=True)
def products(a, b, out):
    for i in numba.prange(len(a)):
        out[i] = a[i] * b[i]

def state():
    a, b, out = np.full(64, 1e-38, "f4"), np.full(64, 0.1, "f4"), np.zeros(64, "f4")
    products(a, b, out)
    return (numba.get_num_threads(), float(np.float32(1e-38) * np.float32(0.1)), float(a[0] * b[0]), out.tobytes(),
            np.geterr(), signal.getsignal(signal.SIGINT), warnings.filters[:], np.random.get_state()[1].tobytes(),
            dict(os.environ), locale.setlocale(locale.LC_ALL), sys.getrecursionlimit())

before = state()
assert before[1] > 0 and before[3].count(bytes(4)) == 0
for threads in (1, numba.config.NUMBA_NUM_THREADS):
    with fr.num_threads(threads):
        for cell in CALLS:
            both_ways(cell, *problem(cell))
        layer = fr.LSTM(5, 260)
        layer(np.ones((9, 1, 5), "f4"))
        layer.stream().step(np.ones(5, "f4"))
    assert state() == before, threads
numba.set_num_threads(1)
with fr.num_threads(numba.config.NUMBA_NUM_THREADS):
    both_ways("lstm", *problem("lstm"))
print(numba.get_num_threads())
"""
    assert python(code) == ["1"]


def test_import_brings_nothing_along(python, kernels):
    look = (
        "import sys; print(*sorted({'numba.cuda', 'torch', 'jax', 'onnx', 'onnxruntime', 'tensorflow'} & set(sys.modules)))"
    )
    plain = subprocess.run([sys.executable, "-c", "import numba;" + look], capture_output=True, text=True, check=True).stdout
    assert python(look) == plain.split()
    call = "both_ways('lstm', *problem('lstm')); fr.LSTM(3, 4)(np.ones((2, 1, 3), 'f4'));"
    assert python(call + look) == plain.split()


# --- without compiled kernels

RESULTS = """
def everything(dtype):
    for cell in CALLS:
        for reverse in (False, True):
            yield from both_ways(cell, *problem(cell, 6, 3, 5, 9, dtype), lengths=[6, 0, 4], reverse=reverse)
    x = problem("gru", 6, 3, 5, 9, dtype)[0]
    for make in (fr.RNN, fr.GRU, fr.LSTM):
        layer = make(5, 9, 2, dropout=0.5, bidirectional=True, dtype=dtype, rng=0)
        (y, state), tape = layer.forward(x, lengths=[6, 0, 4], rng=1)
        g = layer.backward(tape, y, state)
        yield from (y, *np.atleast_1d(state), layer(x)[0], layer.freeze()(x)[0])
        yield from (g.x, *np.atleast_1d(g.state), *g.params.values())
        layer = make(5, 9, 2, dtype=dtype, rng=0)
        stream = layer.stream(3)
        yield from [stream.step(x_t) for x_t in x]
        stream.reset([1])
        yield np.array(stream.state)
"""


def difference(got, wanted):
    """Relative RMS."""
    assert got.shape == wanted.shape and got.dtype == wanted.dtype
    scale = np.sqrt(np.mean(np.square(wanted, dtype=np.float64))) if wanted.size else 0
    return 0.0 if not wanted.size else float(np.sqrt(np.mean((got.astype(np.float64) - wanted) ** 2)) / (scale or 1))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_without_jit(python, tmp_path, dtype):
    code = f"""{RESULTS}
from fastrnn.backend import backend
np.savez(sys.argv[2], *everything(sys.argv[1]))
print(backend().__name__)
"""
    assert python(code, dtype, tmp_path / "plain.npz", NUMBA_DISABLE_JIT="1") == ["fastrnn.reference"]
    here = {}
    exec(COMMON + RESULTS, here)
    with np.load(tmp_path / "plain.npz") as plain:
        for k, wanted in enumerate(here["everything"](dtype)):
            assert difference(wanted, plain[f"arr_{k}"]) < TOLERANCE[dtype], k


def test_thread_settings_and_versions_without_jit(python):
    code = """
with fr.num_threads(1):
    both_ways("lstm", *problem("lstm", 2, 2, 3, 4))
fr.set_num_threads(1)
layer = fr.LSTM(3, 4, rng=0)
for _ in range(2):  # the second call finds what the first one laid out
    layer(np.ones((2, 1, 3), np.float32))
fr.show_versions()
"""
    assert "numba" in python(code, NUMBA_DISABLE_JIT="1")


# --- processors

AVX2 = "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+bmi,+bmi2"
COMPARE = """
from fastrnn import reference
from fastrnn.cells import REGISTRY
from fastrnn.contract import Weights
from fastrnn.cpu.target import TARGET

def oracle(cell, x, w_ih, w_hh, b_ih, b_hh, h0, lengths, reverse):
    kind = REGISTRY[cell]
    weights = reference.prepare(kind, Weights(w_ih, w_hh, b_ih, b_hh))
    *out, tape = reference.forward(kind, weights, x, h0, None, np.array(lengths), reverse, True)
    out = [a for a in out if a is not None]
    return out + [a for a in vars(reference.backward(kind, tape, *out)).values() if a is not None]

def difference(a, b):
    assert a.shape == b.shape and a.dtype == sys.argv[1] and np.isfinite(a).all()
    return np.sqrt(np.mean((a - b) ** 2)) / max(np.sqrt(np.mean(b**2)), 1e-3)

worst = 0
for cell in CALLS:
    for T, N, I, H in ((4, 1, 3, 1), (5, 3, 7, 9), (7, 13, 5, 33), (3, 2, 1, 131)):
        for lengths, reverse in (([T] * N, False), ([k % (T + 1) for k in range(N)], True), ([T] * N, True)):
            args = problem(cell, T, N, I, H, sys.argv[1])
            got = both_ways(cell, *args, lengths=lengths, reverse=reverse)
            # in double precision: the error of an oracle in single precision is twice the kernels' own
            wanted = oracle(cell, *(a.astype("f8") for a in args), lengths, reverse)
            worst = max([worst, *map(difference, got, wanted)])
print(TARGET.name, worst)
"""


SEQ2SEQ = """
import fastrnn.backend
from fastrnn import reference
from fastrnn.cpu.target import TARGET
from tests.helpers import rms
from tests.test_operations import CASES, everything

chosen = [k for k, (cell, *_) in enumerate(CASES) if cell in ("lstm", "gru")][1::5]
got = [everything(k, *CASES[k], sys.argv[1]) for k in chosen]
fastrnn.backend.backend = lambda: reference
fastrnn.backend.operations.cache_clear()
worst = 0
for k, mine in zip(chosen, got):
    for name, wanted in everything(k, *CASES[k], "float64").items():
        assert mine[name].shape == wanted.shape, name
        if wanted.dtype.kind == "i":
            assert np.array_equal(mine[name], wanted), name
        else:
            worst = max(worst, rms(np.nan_to_num(mine[name], neginf=-99), np.nan_to_num(wanted, neginf=-99)))
print(TARGET.name, worst)
"""


@needs_x86
@pytest.mark.parametrize(("script", "times"), [(COMPARE, 1), (SEQ2SEQ, 10)], ids=["layers", "seq2seq"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("name", "features"), [("sse", ""), ("avx2", AVX2)], ids=["sse", "avx2"])
def test_lesser_processors(python, name, features, dtype, script, times):
    target, worst = python(script, dtype, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES=features)
    assert target == name
    assert float(worst) < times * TOLERANCE[dtype]


# --- Ctrl-C


@needs_fork
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("N", [1, 64])
def test_interrupt(python, threads, N):
    if threads > two_cores():
        pytest.skip("one core")
    code = """
import signal, time
fr.set_num_threads(int(sys.argv[1]))
N = int(sys.argv[2])
T = 400_000 // (1 if N == 1 else 16)
small = problem("lstm")
wanted = both_ways("lstm", *small)
args = problem("lstm", 8, N, 8, 256)
# the same steps again and again: a long sequence that takes no memory
x = np.broadcast_to(args[0][:1], (T, N, 8))
fr.lstm(args[0], *args[1:])
sent = []
def send():
    time.sleep(0.7)
    sent.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=send).start()
try:
    fr.lstm(x, *args[1:])
    print("finished")
except KeyboardInterrupt:
    waited = time.perf_counter() - sent[0]
    right = same(both_ways("lstm", *small), wanted)
    print("interrupted", waited, right)
"""
    word, waited, right = python(code, threads, N)
    assert word == "interrupted" and right == "True"
    assert float(waited) < 1.5


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss")
@pytest.mark.parametrize("layer", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("N", [1, 8])
def test_inference_needs_no_more_memory_for_more_steps(layer, N, python):
    code = """
from resource import RUSAGE_SELF, getrusage
layer, x = getattr(fr, sys.argv[1])(64, 64), np.ones((65536 // int(sys.argv[2]), int(sys.argv[2]), 64), "f4")
layer(x[:1024])
before = getrusage(RUSAGE_SELF).ru_maxrss
y, _ = layer(x)
print(getrusage(RUSAGE_SELF).ru_maxrss - before, y.nbytes // 1024)
"""
    grown, output = map(int, python(code, layer, N))
    assert grown < output + output // 2  # what is loaded for the first long call takes up to two megabytes
