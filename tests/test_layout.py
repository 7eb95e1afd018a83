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
    "choices": set(),
    "cells": {"cell", "cells", "pointwise"},
    "reference": {"cell", "cells", "contract"},
    "cpu": {"cell", "cells", "choices", "contract", "cpu", "pointwise"},
    "cuda": {"arrays", "cell", "cells", "choices", "contract", "cuda", "pointwise"},
    "arrays": {"contract"},
    "reference_ops": {"pointwise", "reference"},
    "backend": {"arrays", "reference", "reference_ops", "cpu", "cuda"},
    "parameters": {"arrays", "backend", "contract"},
    "tapes": {"contract"},
    "functional": {"arrays", "backend", "cells", "contract"},
    "serving": {"arrays", "backend", "cells", "tapes"},
    "held": {"contract", "serving", "tapes"},
    "layers": {"arrays", "backend", "cells", "contract", "functional", "held", "parameters", "serving", "tapes"},
    "seq2seq": {"arrays", "backend", "cells", "choices", "contract", "layers", "serving", "parameters", "seq2seq", "tapes"},
    "bench": {"bench", "cells", "contract", "cpu", "cuda", "reference"},
}
FRAMEWORKS = {"torch", "jax", "onnx", "onnxruntime", "keras"}
NO_NUMBA = {"pointwise", "cell", "choices", "contract", "cells", "reference", "reference_ops", "arrays", "functional",
            "parameters", "serving", "held", "tapes", "layers", "seq2seq"}  # fmt: skip


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path):
    return names(ast.walk(ast.parse(path.read_text())))


def at_import(path):
    return names(ast.parse(path.read_text()).body)


def names(nodes):
    for node in nodes:
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
    if here not in ("cuda", "bench"):
        assert not [name for name in imports(path) if name.startswith("numba.cuda")]
    # a peer is imported by the function that times it, and nowhere else
    found = at_import(path) if here == "bench" else imports(path)
    assert not [name for name in found if name.split(".")[0] in FRAMEWORKS]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= 350
