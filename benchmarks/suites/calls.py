"""Calls of a layer: time, throughput, the ratio to the NumPy reference, peak memory, error."""

import statistics
import time

from workloads import chosen, implementations, parse

_SECONDS = 0.3


def _seconds(call):
    """Median of a repeated call; three times at least."""
    times, end = [], time.perf_counter() + _SECONDS
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


class Calls:
    """One thread: what is compared over commits should not depend on who else has a core."""

    params = (chosen(),)
    param_names = ("workload",)
    timeout = 300

    def setup(self, name):
        self.workload = parse(name)
        self.call = implementations.of_fastrnn(self.workload, 1)
        self.call()

    def time_call(self, name):
        self.call()

    def peakmem_call(self, name):
        self.call()

    def track_steps_per_second(self, name):
        """Time steps of every row of the batch."""
        return self.workload.T * self.workload.N / _seconds(self.call)

    track_steps_per_second.unit = "steps/s"

    def track_ratio_to_reference(self, name):
        """The NumPy reference's time over fastrnn's."""
        reference = implementations.of_reference(self.workload.brief(100), 1)
        brief = implementations.of_fastrnn(self.workload.brief(100), 1)
        reference(), brief()
        return _seconds(reference) / _seconds(brief)

    track_ratio_to_reference.unit = "ratio"

    def track_error(self, name):
        """The largest error against the reference in double precision, relative to the largest number."""
        return implementations.check("fastrnn", self.workload)

    track_error.unit = "relative"
