"""Sequence to sequence: decoding and training steps of benchmarks/seq2seq.py, one thread."""

from seq2seq import WORKLOADS, of_fastrnn


class Translation:
    params = (list(WORKLOADS), [100, 1000])
    param_names = ("workload", "vocabulary")
    timeout = 300

    def setup(self, workload, vocabulary):
        self.call = of_fastrnn(vocabulary, *WORKLOADS[workload], threads=1)
        self.call()

    def time_call(self, workload, vocabulary):
        self.call()
