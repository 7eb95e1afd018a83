"""What a user waits for before the first result: import, a first call from the cache, a first compilation."""

import os
import subprocess
import sys
import tempfile

_FIRST_CALL = """
import time
import fastrnn as fr
import numpy as np
x, w, r = np.ones((9, 2, 3), "f4"), np.ones((16, 3), "f4"), np.ones((16, 4), "f4")
start = time.perf_counter()
(y, *_), tape = fr.lstm_forward(x, w, r)
fr.lstm_backward(tape, y)
print(time.perf_counter() - start)
"""


def _first_call(folder):
    done = subprocess.run(
        [sys.executable, "-c", _FIRST_CALL], env=os.environ | {"NUMBA_CACHE_DIR": folder},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout)


def timeraw_import():
    return "import fastrnn"


def track_cold_compile():
    """An LSTM's first call, forward and backward, with nothing compiled."""
    with tempfile.TemporaryDirectory() as folder:
        return _first_call(folder)


def track_cached_first_call():
    """The same in a second process."""
    with tempfile.TemporaryDirectory() as folder:
        _first_call(folder)
        return _first_call(folder)


track_cold_compile.unit = track_cached_first_call.unit = "s"
track_cold_compile.timeout = track_cached_first_call.timeout = 300
