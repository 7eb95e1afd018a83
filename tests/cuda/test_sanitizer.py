"""NVIDIA's compute-sanitizer over the kernels that wait for each other: `pytest -m gpu`, where the CUDA toolkit is."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_it_finds_nothing(tool):
    tests = ["-m", "gpu", "tests/cuda/test_engine.py", "-k", "cut and lstm"]
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "pytest", "-q", *tests]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
