"""The workloads and implementations of `fastrnn/bench`, for the suites here.

They are loaded from this checkout by their path, under a name of their own: a suite of today can then time whatever
version of the package is installed (asv goes through older commits), with nothing but its public functions.
"""

import importlib
import importlib.util
import os
import sys
from pathlib import Path

_FOLDER = Path(__file__).parent.parent / "fastrnn" / "bench"


def _load(name: str):
    if "fastrnn_bench" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "fastrnn_bench", _FOLDER / "__init__.py", submodule_search_locations=[str(_FOLDER)]
        )
        assert spec and spec.loader
        sys.modules["fastrnn_bench"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return importlib.import_module(f"fastrnn_bench.{name}")


_workloads, implementations = _load("workloads"), _load("implementations")
Workload, GROUPS, parse = _workloads.Workload, _workloads.GROUPS, _workloads.parse

FAST = (
    "lstm-inference-T100-N1-I32-H32-float32",
    "lstm-inference-T100-N32-I128-H128-float32",
    "lstm-training-T100-N8-I128-H128-float32",
    "gru-inference-T1000-N16-I64-H64-float32",
    "gru-training-T100-N1-I256-H256-float32",
    "rnn-inference-T2000-N1-I32-H32-float32",
    "rnn-training-T33-N3-I7-H65-float32",
    "lstm-training-T100-N8-I128-H128-float64",
    "lstm-step-T1-N1-I32-H32-float32",
)


def chosen() -> list[str]:
    """The names of the workloads to run: a few, or with FASTRNN_BENCH=regular every one."""
    profile = os.environ.get("FASTRNN_BENCH", "fast")
    if profile not in ("fast", "regular"):
        raise SystemExit(f"FASTRNN_BENCH: got {profile!r}, wanted fast or regular")
    every = dict.fromkeys(str(w) for group in GROUPS.values() for w in group)
    return list(FAST) if profile == "fast" else list(dict.fromkeys((*FAST, *every)))
