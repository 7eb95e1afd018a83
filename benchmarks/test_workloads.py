"""The workloads under pytest-benchmark, grouped so that implementations stand side by side.

    pytest benchmarks/ --benchmark-only --benchmark-json=now.json
    pytest benchmarks/ --benchmark-only --benchmark-compare=now.json

FASTRNN_BENCH=regular runs every workload. One thread; for several, each peer needs a process of its own:
`python -m fastrnn bench`.
"""

import pytest
from workloads import chosen, implementations, parse


@pytest.mark.parametrize("name", implementations.IMPLEMENTATIONS)
@pytest.mark.parametrize("workload", chosen())
def test_call(benchmark, workload, name):
    for module in implementations.IMPLEMENTATIONS[name].modules:
        pytest.importorskip(module)
    w = parse(workload)
    benchmark.group = workload
    try:
        implementations.check(name, w)
        call = implementations.IMPLEMENTATIONS[name].make(w, 1)
    except implementations.Unsupported as reason:
        pytest.skip(str(reason))
    call()
    benchmark(call)
    benchmark.extra_info["steps_per_second"] = w.T * w.N / benchmark.stats.stats.median if benchmark.stats else None
