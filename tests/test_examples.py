"""The examples run, and reach what they promise; so does the Python code of the documents."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


def example(name, *options):
    """What an example printed; it must end well."""
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, options)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("options", [("--cell", "lstm,gru", "--no-torch"), ("--cell", "rnn,gru", "--epochs", "2")], ids=str)
def test_digits(options):
    pytest.importorskip("sklearn")
    example("digits.py", *options)


def test_adding():
    said = example("adding.py", "--steps", 500)
    assert float(said.split("last steps:")[1].split()[0]) < 0.02


@pytest.fixture(scope="module")
def dictionary(tmp_path_factory):
    """A file like cmudict.dict: every letter is a sound, a few words have two pronunciations, some other characters."""
    rng, lines = np.random.default_rng(0), ["a.m. AH0 M", "o'clock AH0 K  # of the clock"]
    for k in range(80):
        letters = rng.choice(list("abcdegik"), rng.integers(2, 11))
        sounds = [f"{letter.upper()}{k % 2}" if letter in "aei" else letter.upper() for letter in letters]
        word = "".join(letters)
        lines += [f"{word} {' '.join(sounds)}"] + [f"{word}(2) {' '.join(sounds[:-1])}"] * (k % 9 == 0)
    path = tmp_path_factory.mktemp("cmudict") / "cmudict.dict"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def test_g2p(dictionary, tmp_path):
    pytest.importorskip("rich")
    rng, (E, H, letters, phonemes) = np.random.default_rng(1), (6, 20, 29, 74)
    arrays = {"enc_emb": (letters, E), "dec_emb": (phonemes, E), "fc_w": (phonemes, H), "fc_b": (phonemes,)}
    for side in ("enc", "dec"):
        arrays |= {
            f"{side}_w_ih": (3 * H, E),
            f"{side}_w_hh": (3 * H, H),
            f"{side}_b_ih": (3 * H,),
            f"{side}_b_hh": (3 * H,),
        }
    arrays = {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in arrays.items()}
    arrays["fc_b"][3] += 3  # the end: not every word goes on to the last step
    np.savez(tmp_path / "checkpoint.npz", **arrays)
    given = "--checkpoint", tmp_path / "checkpoint.npz", "--cmudict", dictionary
    said = example("g2p.py", *given, "--words", 40, "--batches", "1,16")
    # 0 is the status where no phoneme differs from those of the loop over steps in NumPy
    assert re.search(r"\b0 of \d+", said) and "40 words of CMUdict" in said
    assert "fastrnn" in example("g2p.py", *given, "fastrnn", "gradient")


def test_train_g2p(dictionary, tmp_path):
    for package in ("rich", "matplotlib"):
        pytest.importorskip(package)
    options = ("--cmudict", dictionary, "--cell", "gru", "--embedding", 6, "--hidden", 16, "--layers", 2, "--dropout", 0.1,
               "--batch", 16, "--validate-every", 3, "--beam", 2)  # fmt: skip
    said = example("train_g2p.py", *options, "--out", tmp_path / "whole", "--steps", 8)
    assert "beam of 2" in said
    example("train_g2p.py", *options, "--out", tmp_path / "parts", "--steps", 4)
    example("train_g2p.py", *options, "--out", tmp_path / "parts", "--steps", 4, "--resume")
    for file in ("checkpoint.npz", "model.npz"):
        whole, parts = (dict(np.load(tmp_path / folder / file)) for folder in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        for name, value in whole.items():
            assert value.tobytes() == parts[name].tobytes(), name
    assert (tmp_path / "whole" / "attention.png").stat().st_size > 1000


@pytest.mark.parametrize("document", ["README.md", "docs/seq2seq.md"])
def test_documents(document):
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / document).read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    names = {"__name__": "document"}
    for block in blocks:
        if "import torch" not in block or find_spec("torch"):
            exec(compile(block, document, "exec"), names)
