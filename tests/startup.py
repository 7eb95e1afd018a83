"""Import and first-call times in fresh processes, with a warm cache: medians of several, against the promised limits.

python tests/startup.py [slack]    slack: how many times a limit may be passed, 2 on a machine that others use, too
"""

import statistics
import subprocess
import sys

IMPORT, FIRST_CALL = 0.35, 0.30  # seconds
CODE = """
import time
a = time.perf_counter()
import fastrnn as fr
b = time.perf_counter()
import numpy as np
x, w, r = np.ones((9, 2, 3), "f4"), np.ones((16, 3), "f4"), np.ones((16, 4), "f4")
c = time.perf_counter()
fr.lstm(x, w, r)
print(b - a, time.perf_counter() - c)
"""


def main() -> int:
    runs = [subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True) for _ in range(8)]
    # the first run fills the caches
    imports, calls = zip(*(map(float, run.stdout.split()) for run in runs[1:]), strict=True)
    first, second = statistics.median(imports), statistics.median(calls)
    print(f"import {first:.3f} s (limit {IMPORT}), first call {second:.3f} s (limit {FIRST_CALL})")
    slack = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    return int(first > slack * IMPORT or second > slack * FIRST_CALL)


if __name__ == "__main__":
    sys.exit(main())
