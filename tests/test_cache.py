"""The disk cache of compiled kernels: hit by a second process, missed after an edit, never in the way of a right result."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fastrnn"
CELLS = ("rnn_tanh", "rnn_relu", "gru", "lstm")
DAMAGES = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "garbage": lambda data: b"garbage" * 99,
    "zero-tail": lambda data: data[:-64] + bytes(64),
}

# every kernel of the named cells, by the ways a user reaches them; then which came from the cache
SCRIPT = """
import sys, warnings
import numpy as np
from pathlib import Path
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fastrnn as fr
    assert Path(fr.__file__).parent.parent == Path.cwd()
    from fastrnn import reference
    from fastrnn.cells import REGISTRY
    from fastrnn.contract import Weights
    from fastrnn.cpu import compiled, engine
    from fastrnn.cpu.threads import _alone, _together

    rng = np.random.default_rng(0)
    for name in sys.argv[1:]:
        cell = REGISTRY[name]
        G = cell.n_gates
        x = rng.standard_normal((7, 13, 5)).astype("f4")
        # weights of a usual size: larger ones make the sequence chaotic, and rounding grows with every step
        shapes = ((G * 33, 5), (G * 33, 33), (G * 33,), (G * 33,))
        weights = Weights(*((rng.standard_normal(s) * 33**-0.5).astype("f4") for s in shapes))
        for threads in (1, 2):
            found = []
            for work in (engine, reference):
                with fr.num_threads(min(threads, engine.get_num_threads())):
                    *out, tape = work.forward(cell, work.prepare(cell, weights), x, keep=True)
                    found.append([*out[:2], *vars(work.backward(cell, tape, out[0])).values()])
            for a, b in zip(*found):
                assert (a is None) == (b is None) and (a is None or np.abs(a - b).max() <= 1e-5 * np.abs(b).max())
    kernels = [(kind, name) for kind in ("step", "forward", "backward") for name in sys.argv[1:]]
    kernels += [("product", name) for name in sys.argv[1:] if REGISTRY[name].n_gates > 1]
    kernels += [(kind, "") for kind in ("product", "gemm", "pack_weights", "pack_columns")]
    for kind, name in kernels:
        print(kind + name, compiled.kernel(kind, name, "float32").cached)
    for launcher in (_alone(), _together()):
        if launcher.signatures:
            print(launcher.__name__, sum(launcher.stats.cache_hits.values()) > 0)
for w in caught:
    print(f"{w.category.__name__}: {w.message}", file=sys.stderr)
"""


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A copy of the package, and a cache that one process has filled for one cell; never changed, only copied."""
    place = tmp_path_factory.mktemp("filled")
    copy_package(place)
    run(place, "rnn_tanh")
    return place


@pytest.fixture
def place(filled, tmp_path):
    """The package and its filled cache where they were, but with files that a test may spoil."""
    # the cache knows a source by its path, so the spoilt copy takes the place of the filled one
    backup = tmp_path / "backup"
    shutil.copytree(filled, backup)
    yield filled
    shutil.rmtree(filled)
    shutil.copytree(backup, filled)


def copy_package(place):
    shutil.copytree(PACKAGE, place / "fastrnn", ignore=shutil.ignore_patterns("__pycache__"))


def run(place, *cells, **env):
    """What came from the cache, by kernel; and the warnings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "FASTRNN_", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-B", "-c", SCRIPT, *cells],
        cwd=place, env=kept | {"NUMBA_CACHE_DIR": str(place / "cache")} | env,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"rc {done.returncode}\n{done.stdout}\n{done.stderr}"
    cached = {name: flag == "True" for name, flag in map(str.split, done.stdout.splitlines())}
    return cached, done.stderr.splitlines()


def test_second_process_hits_for_every_kernel(tmp_path):
    copy_package(tmp_path)
    first, said = run(tmp_path, *CELLS)
    assert not any(first.values()) and not said
    second, said = run(tmp_path, *CELLS)
    assert all(second.values()) and not said, second
    assert set(first) == set(second) >= {"forwardlstm", "backwardgru", "gemm", "alone"}


def test_what_is_cached_runs_without_what_numba_compiles_with(tmp_path):
    """Its knowledge of NumPy's functions (and SciPy, where installed) takes longer to load than all else of a first call."""
    code = (
        "import sys, numpy as np, fastrnn as fr; fr.set_num_threads(2); fr.LSTM(9, 33, rng=0)(np.ones((99, 64, 9), 'f4'));"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", code + "print('numba.np.arraymath' in sys.modules)"],
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": "2"},
            capture_output=True, text=True, timeout=300, check=True,
        ).stdout.strip()
        for _ in range(2)
    ]  # fmt: skip
    assert found == ["True", "False"]


def test_cells_compiled_by_processes_of_their_own_serve_one(tmp_path):
    """Numba numbers symbols from one in every process: two cells' kernels may have the same names."""
    copy_package(tmp_path)
    for cell in ("gru", "lstm"):
        run(tmp_path, cell)
    cached, said = run(tmp_path, "lstm", "gru")
    assert all(cached.values()) and not said, cached


@pytest.mark.parametrize("file", ["cells/rnn.py", "cells/lstm.py", "cpu/activations.py", "pointwise.py"])
def test_edited_source_misses(place, file):
    with open(place / "fastrnn" / file, "a") as source:
        source.write("# changed\n")
    cached, said = run(place, "rnn_tanh")
    assert not any(cached.values()) and not said, cached
    cached, said = run(place, "rnn_tanh")
    assert all(cached.values()) and not said, cached


def test_source_that_is_touched_but_not_changed_still_gives_right_results(place):
    os.utime(place / "fastrnn" / "cells" / "rnn.py")
    cached, said = run(place, "rnn_tanh")
    assert all(cached.values()) and not said, cached


@pytest.mark.parametrize("suffix", [".nbc", ".nbi"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_entries(place, suffix, damage):
    files = [path for path in (place / "cache").rglob("*") if path.suffix == suffix]
    assert len(files) >= 5
    for path in files:
        path.write_bytes(damage(path.read_bytes()))
    _, said = run(place, "rnn_tanh")
    assert all(line.startswith("RuntimeWarning: fastrnn") for line in said)


def test_missing_entries(place):
    for path in (place / "cache").rglob("*.nbc"):
        path.unlink()
    cached, said = run(place, "rnn_tanh")
    assert not any(cached.values()) and not said, cached


def test_no_cache_folder_where_asked(tmp_path):
    # permission bits do not bind an administrator; a path under a regular file can be written by nobody
    copy_package(tmp_path)
    (tmp_path / "file").touch()
    for where in ("file", "file/below"):
        _, said = run(tmp_path, "rnn_tanh", NUMBA_CACHE_DIR=str(tmp_path / where))
        assert all(line.startswith("RuntimeWarning: fastrnn") for line in said)


def test_no_writable_place_at_all(tmp_path):
    copy_package(tmp_path)
    (tmp_path / "file").touch()
    for folder in [tmp_path / "fastrnn", *(path for path in (tmp_path / "fastrnn").rglob("*") if path.is_dir())]:
        (folder / "__pycache__").touch()
    nowhere = str(tmp_path / "file" / "below")
    cached, said = run(
        tmp_path, "rnn_tanh", NUMBA_CACHE_DIR=nowhere, HOME=nowhere, XDG_CACHE_HOME=nowhere, LOCALAPPDATA=nowhere
    )
    assert not any(cached.values())
    assert len(said) == 1 and said[0].startswith("RuntimeWarning: fastrnn") and "NUMBA_CACHE_DIR" in said[0], said
