"""A decoder's operations, compiled against plain NumPy; the same bits whatever the threads and the rows beside."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastrnn as fr
import fastrnn.backend
from fastrnn import reference
from tests.helpers import ENGINE, divide_small_calls, forget_plans, rms

CASES = [
    (cell, attention, feeding, sizes)
    for cell in ("lstm", "gru", "rnn_tanh", "rnn_relu")
    for attention in (None, "dot", "scaled_dot", "general", "additive", "concat")
    for feeding in (False, True)
    for sizes in ((1, 1, 1), (13, 17, 6))  # N, S, T
]


@pytest.fixture
def in_numpy(monkeypatch):
    """A function that runs another one with the operations of reference_ops."""

    def run(function):
        with monkeypatch.context() as patch:
            patch.setattr(fastrnn.backend, "backend", lambda: reference)
            fastrnn.backend.operations.cache_clear()
            result = function()
        fastrnn.backend.operations.cache_clear()
        return result

    return run


def everything(k, cell, attention, feeding, sizes, dtype):
    """Loss, gradients, and what each way of decoding gives, by name."""
    rng, (N, S, T) = np.random.default_rng(k), sizes
    model = fr.Seq2Seq(
        9, 11, 7, (6, 16, 34)[k % 3], 1 + k % 2, cell=cell, attention=attention,
        coverage=attention is not None and k % 4 < 2,
        input_feeding=feeding, attention_size=5 + k % 20, tie=attention is not None and k % 5 == 0, bridge="relu", rng=k,
        dtype=np.float64,
    )  # fmt: skip
    for value in model.params.values():
        value[...] *= 2
    if dtype != "float64":
        model = single(model, dtype)
    source, target = rng.integers(0, 9, (S, N)), rng.integers(3, 7, (T, N))
    of_source, of_target = rng.integers(1, S + 1, N), rng.integers(0, T + 1, N)
    of_target[0] = T
    own = rng.random((T, N)) < 0.4 if k % 4 == 0 else None
    loss, tape = model.forward(source, target, of_source, of_target, own=own)
    grads = model.backward(tape)
    found = {"loss": np.array(loss), "x": grads.x} | grads.params
    rules = {"max_length": 7, "min_length": k % 2}
    tries = {
        "greedy": model.greedy(source, of_source, ngram=k % 3, **rules),
        "sample": model.sample(source, of_source, rng=1, top_k=k % 4, top_p=(1, 0.7)[k % 2], temperature=0.9, **rules),
        "beam": model.beam_search(
            source, of_source, beam_size=4, n_best=3, length_penalty=("none", "average", "gnmt")[k % 3], alpha=0.7,
            coverage_penalty=0.2 if attention else 0, **rules,
        ),
    }  # fmt: skip
    for way, result in tries.items():
        found |= {f"{way}.{name}": value for name, value in vars(result).items() if value is not None}
    return found


def single(model, dtype):
    """The same model in another precision."""
    options = model.decoder.attention
    other = fr.Seq2Seq(
        9, 11, 7, model.decoder.rnn.hidden_size, model.decoder.rnn.num_layers, cell=model.decoder.rnn._cell,
        attention=options and options.kind, coverage=bool(options and options.coverage),
        attention_size=options and options.size, input_feeding=model.decoder.input_feeding, tie=model.decoder.tie,
        bridge="relu", dtype=dtype,
    )  # fmt: skip
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{c[1]}-{'feeding-' if c[2] else ''}N{c[3][0]}")
def test_compiled_equals_numpy(case, in_numpy):
    k = CASES.index(case)
    got, wanted = everything(k, *case, "float64"), in_numpy(lambda: everything(k, *case, "float64"))
    assert got.keys() == wanted.keys()
    for name, value in got.items():
        if value.dtype.kind == "i":
            assert np.array_equal(value, wanted[name]), name
        else:
            assert rms(np.nan_to_num(value, neginf=-99), np.nan_to_num(wanted[name], neginf=-99)) < 10 * ENGINE["float64"], (
                name
            )


@pytest.mark.parametrize("k", range(3, len(CASES), 7))
def test_the_same_bits_at_every_thread_count(k, monkeypatch):
    divide_small_calls(monkeypatch)
    with fr.num_threads(1):
        alone = everything(k, *CASES[k], "float32")
    with fr.num_threads(2):
        together = everything(k, *CASES[k], "float32")
    forget_plans()
    for name, value in alone.items():
        assert value.tobytes() == together[name].tobytes(), name


@pytest.mark.parametrize("attention", [None, "general", "additive"])
def test_a_sentence_gives_the_same_bits_alone(attention):
    rng = np.random.default_rng(5)
    model = fr.Seq2Seq(20, 20, 16, 40, 2, cell="lstm", attention=attention, input_feeding=True, rng=5)
    source, lengths = rng.integers(0, 20, (9, 13)), rng.integers(1, 10, 13)
    for way in (model.greedy, model.beam_search):
        every = way(source, lengths, max_length=12)
        for n in range(13):
            one = way(source[: lengths[n], n : n + 1], max_length=12)
            T = len(one.tokens)
            assert np.array_equal(one.tokens[:, 0], every.tokens[:T, n])
            assert one.scores[0].tobytes() == every.scores[n].tobytes()


def test_frozen_decodes_as_the_model():
    rng = np.random.default_rng(6)
    model = fr.Seq2Seq(20, 20, 16, 40, cell="gru", attention="dot", bidirectional=True, rng=6)
    source, frozen = rng.integers(0, 20, (9, 4)), model.freeze()
    before = model.beam_search(source, max_length=8, n_best=2)
    for value in model.params.values():
        value[...] *= 1.5
    for _ in range(2):
        after = frozen.beam_search(source, max_length=8, n_best=2)
        assert np.array_equal(before.tokens, after.tokens) and rms(after.scores, before.scores) < ENGINE["float32"]


@pytest.mark.parametrize("attention", [None, "additive"])
def test_frozen_calls_leave_nothing_behind(attention):
    rng = np.random.default_rng(7)
    model = fr.Seq2Seq(20, 20, 16, 40, cell="lstm", attention=attention, coverage=attention is not None,
                       input_feeding=True, rng=7)  # fmt: skip
    sources = [rng.integers(0, 20, (9, 3)) for _ in range(6)]
    lengths = [rng.integers(1, 10, 3) for _ in sources]
    frozen = model.freeze()
    wanted = [model.freeze().beam_search(s, n, max_length=9) for s, n in zip(sources, lengths, strict=True)]

    def again(k):
        result = frozen.beam_search(sources[k], lengths[k], max_length=9)
        return result.scores.tobytes() == wanted[k].scores.tobytes() and np.array_equal(result.tokens, wanted[k].tokens)

    assert all(map(again, [*range(6), *range(6)]))
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(again, [k % 6 for k in range(48)]))


@pytest.mark.parametrize("rows", [1, 17, 600, 5000])
def test_sums_of_many_rows(rows):
    """To the last bits of float32, and infinite where a row is."""
    dy = np.random.default_rng(0).standard_normal((rows, 37)).astype(np.float32) + 1
    x, exact = np.ones((rows, 3), np.float32), dy.astype(np.float64).sum(0)
    _, db = fastrnn.backend.operations().weight_gradients(dy, x)
    assert (abs(db - exact) <= 2e-7 * abs(dy).sum(0)).all()
    dy[[0, rows // 2], 5] = dy[-1, 7] = np.inf
    dy[0, 9], dy[-1, 9] = np.inf, np.nan
    _, db = fastrnn.backend.operations().weight_gradients(dy, x)
    finite = np.delete(np.arange(37), [5, 7, 9])
    assert db[5] == db[7] == np.inf and np.isnan(db[9]) and (abs(db - exact) <= 2e-7 * abs(dy).sum(0))[finite].all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
# M, N, K; the last ones: a C that comes once for two runs; sums of two runs, edges, and a B that is a panel as it lies
@pytest.mark.parametrize(
    "size",
    [(37, 3, 5), (752, 70, 61), (760, 190, 300), (600, 520, 300), (37, 70, 16500), (64, 64, 16500), (40, 16, 130)],
    ids=str,
)
def test_members_keep_within_their_memory(size, dtype):
    """Threads that divide rows of a weight's gradient begin anywhere: what they keep of their sums has room there."""
    if not fastrnn.backend.backend().__name__.endswith("engine"):
        pytest.skip("the reference lays nothing out")
    from fastrnn.cpu.memory import Block, Layout
    from fastrnn.cpu.product import WeightGradient
    from fastrnn.cpu.team import Team

    (M, N, K), rng = size, np.random.default_rng(0)
    product = WeightGradient(dtype, size, M, N, 64, Team(2, False), True)
    product.team = min(2, fr.get_num_threads())
    block = Block(Layout({
        "work": ((2 * product.work_size,), dtype), "behind": ((64,), dtype),
        "offsets": ((2 * product.offsets_size,), "intp"), "zero": ((64,), dtype), "a": ((K, M), dtype), "b": ((K, N), dtype),
        "c": ((M, N), dtype), "sums": ((M,), dtype),
    }))  # fmt: skip
    for name in "ab":
        block[name][...] = rng.standard_normal(block[name].shape)
    block["zero"][...], block["behind"][...] = 0, 7
    product.task.set(**{name: block.at(name) for name in ("work", "offsets", "zero", "a", "b", "c", "sums")})
    product.run()
    assert (block["behind"] == 7).all()
    assert rms(block["c"], block["a"].T.astype(float) @ block["b"]) < ENGINE[dtype]
    assert rms(block["sums"], block["a"].sum(0, dtype=float)) < ENGINE[dtype]


def test_parameters_and_gradients_of_any_strides():
    rng = np.random.default_rng(8)
    options = {"cell": "gru", "attention": "additive", "coverage": True, "input_feeding": True, "bridge": "tanh"}
    plain = fr.Seq2Seq(20, 20, 16, 40, rng=8, **options)
    strided = fr.Seq2Seq(20, 20, 16, 40, rng=8, **options)
    for name, value in plain.params.items():
        wide = np.full([2 * n + 3 for n in value.shape], np.nan, value.dtype)
        part = wide[tuple(slice(1, 1 + n) for n in value.shape)]
        part[...] = value
        strided.params[name] = part
    source, target = rng.integers(0, 20, (7, 3)), rng.integers(3, 20, (5, 3))
    (loss, tape), (other_loss, other_tape) = (m.forward(source, target) for m in (plain, strided))
    assert loss == other_loss
    grads, other = plain.backward(tape), strided.backward(other_tape)
    for name, value in grads.params.items():
        assert value.tobytes() == other.params[name].tobytes(), name
    first, second = (m.freeze().beam_search(source, max_length=6) for m in (plain, strided))
    assert first.scores.tobytes() == second.scores.tobytes()
    dy = rng.normal(size=(7, 3, 40)).astype(np.float32)
    table = fr.Embedding(20, 16, rng=8)
    wanted = table.backward(source, dy[:, :, :16].copy())["weight"]
    assert table.backward(source, dy[:, :, :16])["weight"].tobytes() == wanted.tobytes()
