"""The command line, as a user runs it."""

import json
import os
import subprocess
import sys

import pytest

SMALL = ["--hidden", "32", "--input", "8", "--batch", "2", "--lengths", "4:16"]


def run(*args, **env):
    return subprocess.run(
        [sys.executable, "-m", "fastrnn", *args],
        capture_output=True,
        text=True,
        env=os.environ | env,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("work", ["inference", "training"])
def test_profile_numbers_agree_with_each_other(work):
    done = run("profile", *SMALL, "--cell", "lstm,gru", "--pass", work, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [(row["cell"], row["T"]) for row in rows] == [(c, t) for c in ("lstm", "gru") for t in (4, 8, 16)]
    for row in rows:
        seconds, gates = row["ms"] / 1e3, {"lstm": 4, "gru": 3}[row["cell"]]
        flops = 2 * row["T"] * 2 * gates * 32 * (32 + 8) * (3 if work == "training" else 1)
        assert row["us_per_step"] * row["T"] == pytest.approx(seconds * 1e6)
        assert row["sequences_per_s"] * seconds == pytest.approx(2)
        assert row["gflops"] * seconds * 1e9 == pytest.approx(flops)
        assert row["ratio"] * row["ms"] == pytest.approx(row["reference_ms"])


def test_profile_table_has_a_row_for_each_length():
    done = run("profile", *SMALL)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 2 + 3 and "GFLOP/s" in lines[1]
    assert [line.split()[3] for line in lines[2:]] == ["4", "8", "16"]


WRONG = (
    "profile --cell tanh",
    "profile --lengths -3",
    "profile --lengths 64:16",
    "profile --batch x",
    "profile --hidden 0",
    "profile --threads 999999",
    "warmup --cell nothing",
    "nonsense",
    "",
)


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_are_told_in_one_line(wrong):
    done = run(*wrong.split())
    assert done.returncode == 2
    assert not done.stdout
    assert len(done.stderr.strip().splitlines()) == 1


def test_warmup_finds_the_kernels_again(tmp_path):
    first = json.loads(run("warmup", "--cell", "gru", "--dtype", "float32", "--json", NUMBA_CACHE_DIR=str(tmp_path)).stdout)
    second = json.loads(run("warmup", "--cell", "gru", "--dtype", "float32", "--json", NUMBA_CACHE_DIR=str(tmp_path)).stdout)
    assert {row["from"] for row in first} == {"compiled"}
    assert {row["from"] for row in second} == {"cache"}
    assert [row["kernel"] for row in first] == [row["kernel"] for row in second]


def test_info():
    found = json.loads(run("info", "--json").stdout)
    assert {"fastrnn", "numba", "llvmlite", "numpy", "kernels", "threads", "cache"} <= set(found)
    text = run("info").stdout
    assert all(name in text for name in found)
