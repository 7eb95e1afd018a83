"""Sequence to sequence beside the same model in PyTorch: GRU encoder and decoder, "general" attention, one vocabulary.

    python benchmarks/seq2seq.py --threads 1,2 --rounds 3

PyTorch decodes in a Python loop over steps, as its tutorial does; training without input feeding has everything batched
that can be, with input feeding only the loop is possible. Every measurement is a process of its own, by turns; the weights
are the same, and so must the answers be: tokens, and the loss to 1e-4.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

HIDDEN, STEPS, BEAM, BOS, END = 256, 20, 5, 1, 2
# name -> sentences, input feeding, how it is called
WORKLOADS = {
    "greedy, 1 sentence": (1, True, "greedy"), "greedy, 32": (32, True, "greedy"), "beam 5, 1 sentence": (1, True, "beam"),
    "beam 5, 32": (32, True, "beam"), "training, 32": (32, False, "training"),
    "training, input feeding, 32": (32, True, "training"),
}  # fmt: skip


def model(vocabulary, feeding):
    """The same for both: no sentence ends before the last step."""
    import fastrnn as fr

    made = fr.Seq2Seq(
        vocabulary, vocabulary, HIDDEN, HIDDEN, cell="gru", attention="general", input_feeding=feeding, bos=BOS, eos=END,
        rng=0,
    )  # fmt: skip
    made.params["decoder.output.bias"][END] = -50
    return made


def sentences(vocabulary, N):
    rng = np.random.default_rng(1)
    return rng.integers(3, vocabulary, (STEPS, N)), rng.integers(3, vocabulary, (STEPS, N))


def of_fastrnn(vocabulary, N, feeding, way, threads):
    """A call, and what it answers."""
    import fastrnn as fr

    fr.set_num_threads(threads)
    made, (source, target) = model(vocabulary, feeding), sentences(vocabulary, N)
    if way == "training":

        def training():
            loss, tape = made.forward(source, target)
            made.backward(tape)
            return loss

        return training
    frozen = made.freeze()

    def decoding():
        if way == "greedy":
            return frozen.greedy(source, max_length=STEPS).tokens.tolist()
        return frozen.beam_search(source, max_length=STEPS, beam_size=BEAM).tokens[:, :, 0].tolist()

    return decoding


class Torch:
    """The model's equations in PyTorch."""

    def __init__(self, vocabulary, feeding):
        import torch
        from torch import nn

        self.torch, self.feeding, given = torch, feeding, model(vocabulary, feeding).state_dict()
        size = HIDDEN * (1 + feeding)
        self.parts = nn.ModuleDict({
            "encoder_embedding": nn.Embedding(vocabulary, HIDDEN), "encoder_rnn": nn.GRU(HIDDEN, HIDDEN),
            "decoder_embedding": nn.Embedding(vocabulary, HIDDEN), "decoder_rnn": nn.GRU(size, HIDDEN),
            "decoder_attention": nn.Linear(HIDDEN, HIDDEN, bias=False), "decoder_combine": nn.Linear(2 * HIDDEN, HIDDEN),
            "decoder_output": nn.Linear(HIDDEN, vocabulary),
        })  # fmt: skip
        self.parts.load_state_dict({k.replace(".", "_", 1): torch.from_numpy(v) for k, v in given.items()})

    def encode(self, source):
        memory, h = self.parts["encoder_rnn"](self.parts["encoder_embedding"](source))
        return memory, self.parts["decoder_attention"](memory), h

    def features(self, y, memory, keys):
        """Of one step, or of all at once: (T, N, H)."""
        torch = self.torch
        weights = torch.softmax(torch.einsum("tnk,snk->nts", y, keys), 2)
        context = torch.einsum("nts,snm->tnm", weights, memory)
        return torch.tanh(self.parts["decoder_combine"](torch.cat([context, y], 2)))

    def step(self, token, h, before, memory, keys):
        x = self.parts["decoder_embedding"](token)[None]
        y, h = self.parts["decoder_rnn"](self.torch.cat([x, before], 2) if self.feeding else x, h)
        features = self.features(y, memory, keys)
        return self.parts["decoder_output"](features)[0], h, features

    def greedy(self, source):
        torch, N = self.torch, source.shape[1]
        with torch.no_grad():
            memory, keys, h = self.encode(source)
            token, before, found = torch.full((N,), BOS), torch.zeros(1, N, HIDDEN), []
            for _ in range(STEPS):
                logits, h, before = self.step(token, h, before, memory, keys)
                _, token = torch.log_softmax(logits, 1).max(1)
                found.append(token)
                if bool((token == END).all()):
                    break
        return torch.stack(found).tolist()

    def beam(self, source):
        """For sentences that do not end before the last step."""
        torch, N = self.torch, source.shape[1]
        with torch.no_grad():
            memory, keys, h = (a.repeat_interleave(BEAM, 1) for a in self.encode(source))
            token, before = torch.full((N * BEAM,), BOS), torch.zeros(1, N * BEAM, HIDDEN)
            scores, found = torch.full((N, BEAM), -torch.inf), torch.zeros(0, N * BEAM, dtype=torch.long)
            scores[:, 0] = 0
            first = torch.arange(0, N * BEAM, BEAM)[:, None]
            for _ in range(STEPS):
                logits, h, before = self.step(token, h, before, memory, keys)
                every = torch.log_softmax(logits, 1).view(N, BEAM, -1) + scores[:, :, None]
                scores, best = every.view(N, -1).topk(BEAM, 1)
                rows, token = (first + best // logits.shape[1]).view(-1), (best % logits.shape[1]).view(-1)
                h, before, found = h[:, rows], before[:, rows], torch.cat([found[:, rows], token[None]])
        return found[:, ::BEAM].tolist()

    def training(self, source, target):
        torch, (T, N) = self.torch, target.shape
        self.parts.zero_grad()
        memory, keys, h = self.encode(source)
        tokens = torch.cat([torch.full((1, N), BOS), target[:-1]])
        if self.feeding:
            before, logits = torch.zeros(1, N, HIDDEN), []
            for t in range(T):
                of_step, h, before = self.step(tokens[t], h, before, memory, keys)
                logits.append(of_step)
            logits = torch.stack(logits)
        else:
            y, _ = self.parts["decoder_rnn"](self.parts["decoder_embedding"](tokens), h)
            logits = self.parts["decoder_output"](self.features(y, memory, keys))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
        loss.backward()
        return loss.item()


def of_torch(vocabulary, N, feeding, way, threads):
    import torch

    torch.set_num_threads(threads)
    source, target = (torch.from_numpy(a) for a in sentences(vocabulary, N))
    made = Torch(vocabulary, feeding)
    return (lambda: made.training(source, target)) if way == "training" else lambda: getattr(made, way)(source)


def child(name, threads, vocabulary, workload, seconds):
    """Measure in this process; prints the median of a call, in seconds, and the answer."""
    call = {"fastrnn": of_fastrnn, "torch": of_torch}[name](vocabulary, *WORKLOADS[workload], threads)
    answer, times, end = call(), [], time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    print(json.dumps([statistics.median(times), answer]))


def measure(name, threads, vocabulary, workload, seconds):
    words = [sys.executable, __file__, "--child", name, str(threads), str(vocabulary), workload, str(seconds)]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1", help="as 1,2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vocabulary", default="1000", help="tokens of source and target, as 100,1000")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a measurement")
    options = parser.parse_args()
    table = Table("threads", "vocabulary", "workload", "fastrnn ms", "PyTorch ms", "times as fast")
    counts, sizes = (list(map(int, text.split(","))) for text in (options.threads, options.vocabulary))
    every = [(t, v, w) for t in counts for v in sizes for w in WORKLOADS]
    with Progress(console=Console(stderr=True)) as progress:
        for count, vocabulary, workload in progress.track(every):
            found = {"fastrnn": [], "torch": []}
            for _ in range(options.rounds):
                for name, of_name in found.items():
                    of_name.append(measure(name, count, vocabulary, workload, options.seconds))
            ours, theirs = (found[name][0][1] for name in found)
            same = abs(ours - theirs) < 1e-4 * abs(theirs) if isinstance(ours, float) else ours == theirs
            a, b = (statistics.median(seconds for seconds, _ in of_name) for of_name in found.values())
            said = f"{b / a:.2f}" if same else "answers differ"
            table.add_row(str(count), str(vocabulary), workload, f"{a * 1e3:.2f}", f"{b * 1e3:.2f}", said)
    Console().print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5], float(sys.argv[6]))
    else:
        main()
