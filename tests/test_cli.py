"""The command line, as a user runs it: what its numbers say of each other, never how large they are."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

SMALL = ["--hidden", "32", "--input", "8", "--batch", "2", "--lengths", "4:16", "--threads", "1", "--rounds", "1"]


def run(*args, **env):
    return subprocess.run(
        [sys.executable, "-m", "fastrnn", *args],
        capture_output=True,
        text=True,
        env=os.environ | env,
        timeout=300,
        check=False,
    )


def consistent(row, I, H, N):
    """What follows from a row's time."""
    seconds, gates = row["ms"] / 1e3, {"lstm": 4, "gru": 3, "rnn": 1}[row["cell"]]
    flops = 2 * row["T"] * N * gates * H * (H + I) * (3 if row["pass"] == "training" else 1)
    assert row["us_per_step"] * row["T"] == pytest.approx(seconds * 1e6)
    assert row["sequences_per_s"] * seconds == pytest.approx(N)
    assert row["gflops"] * seconds * 1e9 == pytest.approx(flops)
    assert row["percent_of_limit"] * row["ms"] == pytest.approx(100 * row["limit_ms"])
    for peer in row["peers"].values():
        assert "error" in peer or peer["ratio"] * row["ms"] == pytest.approx(peer["ms"])


@pytest.mark.parametrize("work", ["inference", "training"])
def test_profile_numbers_agree_with_each_other(work):
    done = run("profile", *SMALL, "--cell", "lstm,gru", "--pass", work, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(row["cell"], row["T"]) for row in found["rows"]] == [(c, t) for c in ("lstm", "gru") for t in (4, 8, 16)]
    for row in found["rows"]:
        consistent(row, 8, 32, 2)
        assert set(row["peers"]) == {"reference"}
        assert (row["kept_bytes"] is None) == (work == "inference")
    if work == "training":
        kept = [row["kept_bytes"] for row in found["rows"][:3]]
        assert kept[2] - kept[1] == 2 * (kept[1] - kept[0]) > 0
    (limit,) = found["limits"]
    assert limit["gflops"] > 0 and list(limit["bandwidth_gb_s"]) == ["L1", "L2", "L3", "memory"]
    for part in found["parts"]:
        assert min(part["ms"].values()) >= 0 and part["T"] == 16
        assert (part["ms"]["weight gradients"] > 0) == (work == "training")
    assert [(m["cell"], m["threads"]) for m in found["models"]] == [("lstm", 1), ("gru", 1)]


def test_the_table_and_the_files_say_what_the_json_says(tmp_path):
    pytest.importorskip("matplotlib")
    files = [tmp_path / name for name in ("p.png", "p.html", "p.csv")]
    done = run("profile", *SMALL, *(text for f in files for text in (f"--{f.suffix[1:].replace('png', 'plot')}", str(f))))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "GFLOP/s" in lines[1] and "% of limit" in lines[1]
    rows = list(csv.DictReader(files[2].read_text().splitlines()))
    assert [row["T"] for row in rows] == ["4", "8", "16"]
    for line, row in zip(lines[2:5], rows, strict=True):
        assert line.split()[3:5] == [row["T"], f"{float(row['ms']):.3f}"]
    page = files[1].read_text()
    assert all(f"<td>{float(row['ms']):.3f}</td>" in page for row in rows) and "<svg" in page
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page.split("<svg")[0])
    assert files[0].read_bytes().startswith(b"\x89PNG")


def test_the_page_opens_without_a_network_and_is_not_blank(tmp_path):
    np = pytest.importorskip("numpy")
    image = pytest.importorskip("matplotlib.image")
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser")
    page, shot = tmp_path / "p.html", tmp_path / "p.png"
    assert run("profile", *SMALL, "--html", str(page)).returncode == 0
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=1200,900",
               "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'user'}"]  # fmt: skip
    done = subprocess.run(
        [browser, *options, f"--screenshot={shot}", page.as_uri()], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr
    pixels = image.imread(shot)[..., :3]
    # the throughput plot and the bars: fastrnn's blue, well beyond a line of text
    blue = np.abs(pixels - np.array([0x00, 0x72, 0xB2]) / 255).max(axis=-1) < 0.02
    assert blue.sum() > 1000 and pixels.std() > 0.05


def test_bench_of_named_workloads():
    names = ["lstm-inference-T9-N3-I7-H33-float32", "rnn-training-T5-N1-I4-H8-float64", "gru-step-T1-N2-I4-H8-float32"]
    options = [text for name in names for text in ("--workload", name)]
    done = run("bench", *options, "--against", "reference,frozen", "--threads", "1", "--rounds", "1", "--quick", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(row["cell"], row["pass"], row["T"], row["dtype"]) for row in found["rows"]] == [
        ("lstm", "inference", 9, "float32"), ("rnn", "training", 5, "float64"), ("gru", "step", 1, "float32")
    ]  # fmt: skip
    for row in found["rows"]:
        consistent(row, row["input"], row["hidden"], row["batch"])
        # a peer that cannot do a pass says so in its column and stops nothing
        assert ("error" in row["peers"]["frozen"]) == (row["pass"] != "inference")
    for line in found["summary"]:
        assert line["shapes"] == 1
        assert line["peers"]["reference"]["mean"] == pytest.approx(line["peers"]["reference"]["least"])
    text = run("bench", *options[:2], "--against", "reference", "--threads", "1", "--rounds", "1", "--quick").stdout
    assert names[0] in text and "lstm inference float32, 1 thread: " in text and "reference: mean" in text


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_prints_what_was_measured():
    options = ["--cell", "lstm", "--hidden", "64", "--lengths", "4:65536", "--threads", "1", "--rounds", "2"]
    for patience in (8, 25, 80):
        child = subprocess.Popen(
            [sys.executable, "-m", "fastrnn", "profile", *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        time.sleep(patience)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
        assert child.returncode == 130
        assert "interrupted" in err and "Traceback" not in err
        if re.search(r"^lstm +1 +1 +4 ", out, re.M):
            assert "GFLOP/s" in out
            return
    pytest.fail("no row within 80 seconds")


WRONG = (
    "profile --cell tanh",
    "profile --lengths -3",
    "profile --lengths 64:16",
    "profile --batch x",
    "profile --hidden 0",
    "profile --threads 999999",
    "profile --against nobody",
    "profile --csv /nowhere/at/all.csv",
    "profile --plot /nowhere/at/all.png",
    "profile --html x.doc",
    "bench --workload lstm-T3",
    "bench --workload lstm-inference-T0-N1-I1-H1-float32",
    "bench --pass backwards",
    "bench --dtype float16",
    "bench --device cuda --against reference",
    "bench --device tpu",
    "warmup --cell nothing",
    "nonsense",
    "",
)


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_are_told_in_one_line(wrong):
    if "--plot" in wrong or "--html" in wrong:
        pytest.importorskip("matplotlib")
    done = run(*wrong.split())
    assert done.returncode == 2
    assert not done.stdout
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_peer_that_is_not_installed_is_told_at_once(tmp_path):
    # a folder without it stands first on the path: find_spec sees a module that says it is missing
    for module in ("torch", "jax"):
        (tmp_path / "sitecustomize.py").write_text(
            "import importlib.util as u\nreal = u.find_spec\n"
            f"u.find_spec = lambda name, *rest: None if name == {module!r} else real(name, *rest)\n"
        )
        done = run("bench", "--against", module, PYTHONPATH=str(tmp_path))
        assert done.returncode == 2 and f"pip install {module}" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_warmup_finds_the_kernels_again_and_cache_clears_them(tmp_path):
    def warm():
        return json.loads(
            run("warmup", "--cell", "gru", "--dtype", "float32", "--json", NUMBA_CACHE_DIR=str(tmp_path)).stdout
        )

    def cache(*options):
        return json.loads(run("cache", *options, "--json", NUMBA_CACHE_DIR=str(tmp_path)).stdout)

    first, second = warm(), warm()
    assert {row["from"] for row in first} == {"compiled"}
    assert {row["from"] for row in second} == {"cache"}
    assert [row["kernel"] for row in first] == [row["kernel"] for row in second]
    (tmp_path / "mine.nbi").write_text("another package's")
    held = cache()
    assert held["kernels"] >= len(first) and held["bytes"] > 0 and not held["cleared"]
    assert cache("--clear")["cleared"] and cache()["kernels"] == cache()["bytes"] == 0
    assert (tmp_path / "mine.nbi").exists()
    assert {row["from"] for row in warm()} == {"compiled"}


def test_info():
    found = json.loads(run("info", "--json").stdout)
    wanted = {"fastrnn", "numba", "llvmlite", "numpy", "kernels", "threads", "layer", "features", "cache", "cached"}
    assert wanted | {"meeting", "cuda"} <= set(found)
    text = run("info").stdout
    assert all(name in text for name in found)
    # there is no thread layer where nothing is compiled
    assert "none" in run("info", NUMBA_DISABLE_JIT="1").stdout


@pytest.mark.parametrize("command", ["", "profile", "bench", "info", "warmup", "cache"])
def test_help_fits_a_terminal(command):
    done = run(*command.split(), "--help", COLUMNS="100")
    assert done.returncode == 0 and max(map(len, done.stdout.splitlines())) <= 100
