"""Train LSTM, GRU and RNN on handwritten digits, each image read row by row (T 8, I 8), beside PyTorch when it is installed.

    python examples/digits.py --cell lstm,gru,rnn --epochs 30

The last state goes through a linear layer and a softmax; Adam; a fifth of the images is held out. PyTorch trains in a
process of its own, from the same weights on the same batches: the two curves of the loss must agree.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fastrnn as fr

HIDDEN, CLASSES, BATCH, RATE = 128, 10, 32, 3e-3
# the curves of a float32 training drift apart by rounding alone; in float64 they agree to the last digits
DTYPE = np.float64
AGREEMENT = 1e-4
WANTED = {"lstm": 0.97, "gru": 0.97, "rnn": 0.0}


def images(seed: int):
    """Rows of the images as sequences: x (T, N, I), labels (N,); to train on and held out."""
    digits = load_digits()
    x = (digits.images / 16).astype(DTYPE)
    parts = train_test_split(x, digits.target, test_size=0.2, stratify=digits.target, random_state=seed)
    return parts[0].swapaxes(0, 1), parts[2], parts[1].swapaxes(0, 1), parts[3]


def batches(count: int, epochs: int, seed: int):
    """The rows of every batch, epoch by epoch: the same for both implementations."""
    rng = np.random.default_rng(seed)
    return [
        [order[k : k + BATCH] for k in range(0, count, BATCH)] for order in (rng.permutation(count) for _ in range(epochs))
    ]


class Adam:
    """Kingma and Ba, Adam (2015); PyTorch's defaults. In place: fresh arrays of this size cost more than the sums."""

    def __init__(self, params):
        self.params, self.t = params, 0
        self.m, self.v, self.spare = ({k: np.zeros_like(p) for k, p in params.items()} for _ in range(3))

    def step(self, grads, b1=0.9, b2=0.999, eps=1e-8):
        self.t += 1
        for k, g in grads.items():
            m, v, spare = self.m[k], self.v[k], self.spare[k]
            m *= b1
            m += np.multiply(g, 1 - b1, out=spare)
            v *= b2
            v += np.multiply(np.square(g, out=spare), 1 - b2, out=spare)
            # m / (1 - b1^t) over the root of v / (1 - b2^t)
            np.sqrt(v, out=spare)
            spare *= (1 - b2**self.t) ** -0.5
            spare += eps
            np.divide(m, spare, out=spare)
            spare *= RATE / (1 - b1**self.t)
            self.params[k] -= spare


def model(cell: str, seed: int):
    layer = getattr(fr, cell.upper())(8, HIDDEN, dtype=DTYPE, rng=seed)
    bound = HIDDEN**-0.5
    rng = np.random.default_rng(seed)
    return layer, rng.uniform(-bound, bound, (CLASSES, HIDDEN)).astype(DTYPE), np.zeros(CLASSES, DTYPE)


def last(state):
    """h at the end, out of what a layer returns: (1, N, H) -> (N, H)."""
    return (state[0] if isinstance(state, tuple) else state)[0]


def cross_entropy(logits, labels):
    """The mean loss, and its gradient."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(p[rows, labels]).mean()
    p[rows, labels] -= 1
    return loss, p / len(labels)


def train(cell: str, epochs: int, seed: int, progress):
    """Loss per epoch, accuracy on the held-out fifth, seconds."""
    x, labels, held_x, held_labels = images(seed)
    layer, w, b = model(cell, seed)
    params = {**layer.params, "w": w, "b": b}
    adam, curve = Adam(params), []
    layer.forward(x[:, :2])  # compiled, or loaded, outside of the time that is told
    start = time.perf_counter()
    for epoch in progress.track(batches(len(labels), epochs, seed), description=f"{cell} fastrnn"):
        losses = []
        for rows in epoch:
            (_, state), tape = layer.forward(x[:, rows])
            h = last(state)
            loss, d = cross_entropy(h @ w.T + b, labels[rows])
            dh = (d @ w)[None]
            grads = layer.backward(tape, None, (dh, None) if cell == "lstm" else dh)
            adam.step({**grads.params, "w": d.T @ h, "b": d.sum(0)})
            losses.append(loss * len(rows))
        curve.append(sum(losses) / len(labels))
    seconds = time.perf_counter() - start
    logits = last(layer(held_x)[1]) @ w.T + b
    return curve, float((logits.argmax(1) == held_labels).mean()), seconds


def train_torch(cell: str, epochs: int, seed: int):
    """The same in PyTorch."""
    import torch

    x, labels, held_x, held_labels = images(seed)
    layer, w, b = model(cell, seed)
    rnn = getattr(torch.nn, cell.upper())(8, HIDDEN, dtype=torch.float64)
    rnn.load_state_dict({k: torch.from_numpy(v) for k, v in layer.state_dict().items()})
    out = torch.nn.Linear(HIDDEN, CLASSES, dtype=torch.float64)
    out.load_state_dict({"weight": torch.from_numpy(w), "bias": torch.from_numpy(b)})
    adam = torch.optim.Adam([*rnn.parameters(), *out.parameters()], lr=RATE)
    tx, tl = torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(labels)
    curve = []
    start = time.perf_counter()
    for epoch in batches(len(labels), epochs, seed):
        losses = []
        for rows in epoch:
            adam.zero_grad()
            loss = torch.nn.functional.cross_entropy(out(last(rnn(tx[:, rows])[1])), tl[rows])
            loss.backward()
            adam.step()
            losses.append(loss.item() * len(rows))
        curve.append(sum(losses) / len(labels))
    seconds = time.perf_counter() - start
    with torch.no_grad():
        logits = out(last(rnn(torch.from_numpy(np.ascontiguousarray(held_x)))[1]))
    return curve, float((logits.argmax(1).numpy() == held_labels).mean()), seconds


def in_own_process(cell: str, epochs: int, seed: int):
    """train_torch in a fresh process (two thread pools in one disturb each other); None where PyTorch is missing."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, __file__, "--torch-to", str(answer)]
        command += ["--cell", cell, "--epochs", str(epochs), "--seed", str(seed)]
        return json.loads(answer.read_text()) if subprocess.run(command, check=False).returncode == 0 else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", default="lstm,gru,rnn")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-torch", action="store_true", help="do not train in PyTorch, installed or not")
    parser.add_argument("--torch-to", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.torch_to:
        Path(options.torch_to).write_text(json.dumps(train_torch(options.cell, options.epochs, options.seed)))
        return 0
    return report(options)


def report(options) -> int:
    console, failed = Console(), False
    table = Table("cell", "accuracy", "seconds", "PyTorch: accuracy", "seconds", "largest difference of the losses")
    import importlib.util

    beside = not options.no_torch and importlib.util.find_spec("torch")
    with Progress(console=Console(stderr=True)) as progress:
        for cell in options.cell.split(","):
            curve, accuracy, seconds = train(cell, options.epochs, options.seed, progress)
            peer = in_own_process(cell, options.epochs, options.seed) if beside else None
            difference = max(abs(a - b) for a, b in zip(curve, peer[0], strict=True)) if peer else 0.0
            said = (f"{peer[1]:.1%}", f"{peer[2]:.2f}", f"{difference:.1e}") if peer else ("-", "-", "-")
            table.add_row(cell, f"{accuracy:.1%}", f"{seconds:.2f}", *said)
            failed |= difference > AGREEMENT or (options.epochs >= 30 and accuracy < WANTED[cell])
    console.print(table)
    if failed:
        console.print(f"wanted: accuracy {WANTED}, losses that agree to {AGREEMENT}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
