"""The house: which room may import which, and how long a file may be."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fastrnn"
FILES = sorted(PACKAGE.rglob("*.py"))
# room -> the rooms of the package that it may import
ALLOWED = {
    "pointwise": set(),
    "cell": set(),
    "contract": set(),
    "cells": {"cell", "cells", "pointwise"},
    "reference": {"cell", "cells", "contract"},
    "cpu": {"cell", "cells", "contract", "cpu", "pointwise"},
    "arrays": {"contract"},
    "backend": {"reference", "cpu"},
    "functional": {"arrays", "backend", "cells", "contract"},
    "serving": {"arrays", "backend", "cells"},
    "layers": {"arrays", "backend", "cells", "contract", "functional", "serving"},
}
NO_NUMBA = {"pointwise", "cell", "contract", "cells", "reference", "arrays", "functional", "serving", "layers"}


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "fastrnn":
                yield from (f"fastrnn.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    here = room(path)
    if here in ALLOWED:
        found = {name.split(".")[1] for name in imports(path) if name.startswith("fastrnn.")}
        assert found <= ALLOWED[here]
    if here in NO_NUMBA:
        assert not [name for name in imports(path) if name.split(".")[0] in ("numba", "llvmlite")]
    assert not [
        n for n in imports(path) if n.split(".")[0] in ("torch", "jax", "onnx", "keras") or n.startswith("numba.cuda")
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= 350
