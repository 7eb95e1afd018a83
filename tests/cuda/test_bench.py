"""`python -m fastrnn bench --device cuda`, in Numba's own simulator: one block, threads of the system."""

import json
import subprocess
import sys

import pytest

from fastrnn.cuda.target import SIMULATED

pytestmark = [pytest.mark.cudasim, pytest.mark.gpu]


def test_it_checks_and_times_what_it_is_asked_for():
    names = ["lstm-inference-T2-N1-I2-H3-float32", "gru-training-T2-N2-I2-H3-float16", "rnn-step-T1-N1-I2-H3-float64"]
    command = [sys.executable, "-m", "fastrnn", "bench", "--device", "cuda", "--against", "none", "--rounds", "1", "--json"]
    command += [word for name in names for word in ("--workload", name)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert [row["pass"] for row in found["rows"]] == ["inference", "training", "step"]
    assert all(row["ms"] > 0 and row["threads"] == 1 for row in found["rows"])
    assert ("simulator" in found["machine"]["device"]) == SIMULATED
