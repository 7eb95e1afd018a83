"""The decoder: from the tokens so far to scores for the next one. See steps.py for what a step computes."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from fastrnn import choices
from fastrnn.arrays import as_array, as_flag, as_lengths, as_size, from_any
from fastrnn.backend import operations
from fastrnn.contract import Array
from fastrnn.parameters import Joined, Parameterised
from fastrnn.seq2seq.attention import Attention
from fastrnn.seq2seq.encoder import State, as_state, recurrent
from fastrnn.seq2seq.parts import Linear, as_tokens, embedding_of, linear_of_rows
from fastrnn.seq2seq.steps import Snapshot, Steps


@dataclass(frozen=True, eq=False)
class DecoderTape:
    """What a decoder's forward keeps for its backward; it owns its memory and can be used more than once."""

    tokens: Array  # (T, N), as they went in
    steps: Steps
    features: Array  # (T, N, F)


@dataclass(frozen=True, eq=False)
class DecoderGradients:
    state: State
    memory: Array | None  # (S, N, M)
    params: dict[str, Array]


class Decoder(Parameterised):
    """Tokens (T, N) to logits (T, N, V) for the tokens after them, from a state and, with attention, a memory.

    num_tokens, embedding_size, hidden_size, num_layers : V, E, H, L; cell : "lstm", "gru", "rnn_tanh" or "rnn_relu"
    attention : None, or a kind of `Attention`, on a memory of memory_size; attention_size, coverage : as there
    input_feeding : whether a step's features are input of the next (Luong et al., 2015)
    embedding : an Embedding to share; tie : whether the output's weights are the embedding's

    >>> import numpy as np, fastrnn as fr
    >>> decoder = fr.Decoder(10, 4, 6, cell="gru", attention="dot", memory_size=6, input_feeding=True, rng=0)
    >>> (logits, weights), tape = decoder.forward(np.array([[1, 2], [3, 4]]), None, np.ones((5, 2, 6), np.float32))
    >>> grads = decoder.backward(tape, np.ones_like(logits))
    >>> logits.shape, weights.shape, grads.memory.shape
    ((2, 2, 10), (2, 2, 5), (5, 2, 6))
    """

    def __init__(self, num_tokens, embedding_size, hidden_size, num_layers=1, *, cell="lstm", attention=None,
                 memory_size=None, attention_size=None, coverage=False, input_feeding=False, embedding=None, tie=False,
                 dtype=np.float32, rng=None):  # fmt: skip
        rng = np.random.default_rng(rng)
        H, E = as_size("hidden_size", hidden_size), as_size("embedding_size", embedding_size)
        self.input_feeding, self.tie = as_flag("input_feeding", input_feeding), as_flag("tie", tie)
        self.embedding = embedding_of(embedding, num_tokens, E, dtype, rng)
        if attention is None and coverage:
            raise ValueError("coverage: got True without attention, wanted a kind of attention")
        if tie and attention is None and E != H:
            raise ValueError(f"tie: got embeddings of {E} and features of {H} numbers, wanted equal sizes, or attention")
        self.feature_size = F = E if tie else H
        self.rnn = recurrent(
            cell, E + (F if input_feeding else 0), H, as_size("num_layers", num_layers), dtype=dtype, rng=rng
        )
        self.dtype, self.attention, self.combine, self.memory_size = self.rnn.dtype, None, None, 0
        if attention is not None:
            self.memory_size = M = as_size("memory_size", H if memory_size is None else memory_size)
            self.attention = Attention(attention, H, M, attention_size, coverage, dtype=dtype, rng=rng)
            self.combine = Linear(M + H, F, dtype=dtype, rng=rng)
        self.output = Linear(F, num_tokens, dtype=dtype, rng=rng)
        if tie:
            self.output.share(self.embedding.params)
        parts = {"embedding": self.embedding, "rnn": self.rnn, "attention": self.attention, "combine": self.combine,
                 "output": self.output}  # fmt: skip
        self.params = Joined({name: part.params for name, part in parts.items() if part is not None})

    # --- training

    def forward(self, tokens, state=None, memory=None, *, memory_lengths=None, own=None):
        """(logits (T, N, V), attention's weights (T, N, S) or None), tape.

        tokens : (T, N) what goes in, the first of them the token of the beginning
        state : (h,) or (h, c), each (L, N, H), zero by default; memory : (S, N, M); memory_lengths : (N,)
        own : (T, N) True where the model's own choice, the likeliest token of the step before, goes in instead
              (Bengio et al., Scheduled sampling, 2015); no gradient goes through the choice
        """
        tokens = as_tokens("tokens", tokens, self.embedding.num_tokens)
        (T, N), snapshot = tokens.shape, Snapshot(self, keep=True)
        state, held = as_state("state", state, self.rnn, N), self.hold(snapshot, memory, memory_lengths, N)
        tokens, own = np.concatenate([tokens, np.zeros((1, N), np.intp)]), self._own(own, T, N)
        if held is not None:
            self.attention.track(held, T, N)
        steps = Steps(self, snapshot, tokens[:-1], held, keep=True, known=own is None)
        steps.start(state)
        work = operations()
        logits = work.empty((T, N, self.embedding.num_tokens), self.dtype)
        if own is None:
            work.run(steps.operations, range(T), rows=N, flops=steps.flops)
            features = np.ascontiguousarray(steps.features)
            linear_of_rows(features, snapshot.packed_output, logits)
        else:
            words = choice_words(
                logits.shape[2], tokens, np.zeros_like(tokens), own=own, logits=logits, norm=np.zeros((T, N)),
                coverage=np.zeros(1, self.dtype),
            )  # fmt: skip
            output = work.linear(steps.features, snapshot.packed_output, logits)
            program = [*steps.operations, output, work.choose(choices.forced, words, N)]
            flops = steps.flops + 2.0 * N * logits.shape[2] * self.feature_size
            work.run(program, range(T), rows=N, flops=flops)
            features = np.ascontiguousarray(steps.features)
        weights = None if held is None else held.weights.copy()
        return (logits, weights), DecoderTape(tokens[:-1], steps, features)

    def backward(self, tape, d_logits, d_weights=None):
        """Gradients of a scalar: an object with state, memory and params.

        d_logits (T, N, V), d_weights (T, N, S) : the scalar's gradients of the results, the latter zero by default
        """
        if not isinstance(tape, DecoderTape):
            raise TypeError(f"tape: got {type(tape).__name__}, wanted what this decoder's forward gave")
        (T, N), V, F, work = tape.tokens.shape, self.embedding.num_tokens, self.feature_size, operations()
        d_logits = np.ascontiguousarray(as_array("d_logits", d_logits, (T, N, V), self.dtype))
        rows = d_logits.reshape(-1, V)
        dw, db = work.weight_gradients(rows, tape.features.reshape(-1, F))
        dx = work.input_gradient(rows, tape.steps.snapshot.output[0])
        held = tape.steps.held
        if d_weights is not None:
            if held is None:
                raise ValueError("d_weights: got an array without attention, wanted None")
            d_weights = np.ascontiguousarray(as_array("d_weights", d_weights, held.weights.shape, self.dtype))
        d_features = work.empty((T + 1, N, F), self.dtype)
        d_features[0], d_features[1:] = 0, dx.reshape(T, N, F)
        found = tape.steps.backward(d_features, d_weights)
        params = found.params | {"output.bias": db}
        if self.tie:
            params["embedding.weight"] = params["embedding.weight"] + dw
        else:
            params["output.weight"] = dw
        return DecoderGradients(found.state, found.memory, params)

    def hold(self, snapshot, memory, lengths, N) -> SimpleNamespace | None:
        """What attention reads in every step; None without attention."""
        if self.attention is None:
            return None
        memory = as_array("memory", memory, ("S", N, self.memory_size), self.dtype)
        held = self.attention.hold(snapshot.attention, len(memory), N)
        self.attention.fill(held, memory, as_lengths(lengths, N, len(memory), "memory_lengths"))
        return held

    def combine_gradients(self, joined: Array, d_pre: Array) -> dict[str, Array]:
        width = joined.shape[2]
        dw, db = operations().weight_gradients(d_pre.reshape(-1, self.feature_size), joined.reshape(-1, width))
        return {"combine.weight": dw, "combine.bias": db}

    def _own(self, own: Any, T: int, N: int) -> Array | None:
        if own is None:
            return None
        own = from_any("own", own)
        if own.dtype != bool or own.shape != (T, N):
            raise ValueError(f"own: got {own.dtype} {own.shape}, wanted bool ({T}, {N})")
        own = np.concatenate([own, np.zeros((1, N), bool)]).astype(np.intp)
        own[0] = 0  # there is no step before
        return own if own.any() else None


def choice_words(V: int, tokens: Array, parents: Array, *, sentences: int | None = None, **words: Any) -> dict[str, Any]:
    """The words of a function of choices.py for V tokens, with nothing forbidden where nothing is said.

    tokens, parents : (T + 1, R); what there are logits, their norm and coverage of is for the caller to say
    """
    steps, R = tokens.shape
    N = R if sentences is None else sentences
    integers = dict.fromkeys(choices.INTEGERS, 0) | {"eos": -1, "F": 1}
    tables = {name: np.zeros(1, np.intp) for name in choices.TABLES}
    doubles = {name: np.zeros(1) for name in choices.NUMBERS}
    fixed = {
        "tokens": tokens, "parents": parents, "N": N, "R": R, "B": R // N, "T": steps - 1, "V": V,
        "prefix_length": np.zeros(N, np.intp), "banned": np.zeros(V, np.intp),
    }  # fmt: skip
    return integers | tables | doubles | fixed | words
