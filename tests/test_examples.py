"""The examples run, and reach what they promise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("options", [("--cell", "lstm,gru", "--no-torch"), ("--cell", "rnn,gru", "--epochs", "2")], ids=str)
def test_digits(options):
    pytest.importorskip("sklearn")
    command = [sys.executable, str(ROOT / "examples" / "digits.py"), *options]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
