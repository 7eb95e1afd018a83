"""Decoding and training of sequences beside PyTorch under pytest-benchmark, one thread; answers are compared first."""

import pytest
from seq2seq import WORKLOADS, of_fastrnn, of_torch

_FEW = 60  # tokens: what grows with the vocabulary is an ordinary product


@pytest.fixture(scope="module")
def answers():
    """name of a workload -> fastrnn's answer."""
    return {}


@pytest.mark.parametrize("make", [of_fastrnn, of_torch], ids=["fastrnn", "torch"])
@pytest.mark.parametrize("workload", WORKLOADS)
def test_call(benchmark, answers, workload, make):
    if make is of_torch:
        pytest.importorskip("torch")
    call = make(_FEW, *WORKLOADS[workload], threads=1)
    answer, benchmark.group = call(), workload
    first = answers.setdefault(workload, answer)
    assert first == (pytest.approx(answer, rel=1e-4) if isinstance(answer, float) else answer)
    benchmark(call)
