"""The encoder: embeddings and a stack of recurrent layers; what it gives is the decoder's memory and first state."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fastrnn.arrays import as_array, as_flag, as_lengths, as_size
from fastrnn.backend import operations
from fastrnn.cells import REGISTRY
from fastrnn.contract import Array, Lookup
from fastrnn.layers import GRU, LSTM, RNN, Layer
from fastrnn.parameters import Joined, Parameterised
from fastrnn.seq2seq.embedded import Embedded, embedded, input_of, sums_of
from fastrnn.seq2seq.parts import Linear, as_tokens, embedding_of
from fastrnn.serving import ShortCalls, Spares
from fastrnn.tapes import LayerTape

State = tuple[Array, ...]  # (h,) or (h, c), each (L, N, H)


def recurrent(cell: str, inputs: int, hidden: int, num_layers: int, **options: Any) -> Layer:
    """A stack of layers of the cell of that name."""
    if cell not in REGISTRY:
        raise ValueError(f"cell: got {cell!r}, wanted one of {', '.join(REGISTRY)}")
    if cell.startswith("rnn_"):
        return RNN(inputs, hidden, num_layers, cell.removeprefix("rnn_"), **options)
    return {"lstm": LSTM, "gru": GRU}[cell](inputs, hidden, num_layers, **options)


def as_state(name: str, state: Any, layer: Layer, N: int) -> State:
    """A state of a one-way stack as (h,) or (h, c), each (L, N, H); of zeros where there is none."""
    shape = (layer.num_layers, N, layer.hidden_size)
    count = 1 + REGISTRY[layer._cell].memory
    if state is None:
        return tuple(np.zeros(shape, layer.dtype) for _ in range(count))
    parts = state if isinstance(state, tuple | list) else (state,)
    if len(parts) != count:
        raise ValueError(f"{name}: got {len(parts)} arrays, wanted {count}")
    return tuple(as_array(f"{name}[{k}]", part, shape, layer.dtype) for k, part in enumerate(parts))


@dataclass(frozen=True, eq=False)
class EncoderTape:
    source: Embedded
    inputs: list[Array]  # W_ih of the first layer's directions
    layers: LayerTape


class EncoderGradients:
    """params : of the parameters by name; x : (S, N, E), of the embedded tokens, computed when it is asked for"""

    def __init__(self, params: dict[str, Array], x: Callable[[], Array]):
        self.params, self._x = params, x

    @cached_property
    def x(self) -> Array:
        return self._x()


class Encoder(Parameterised):
    """Tokens (S, N) to a memory (S, N, H) and a state (h,) or (h, c), each (L, N, H).

    num_tokens, embedding_size, hidden_size, num_layers : V, E, H, L; cell : "lstm", "gru", "rnn_tanh" or "rnn_relu"
    bidirectional : half of H, which is even then, runs each way
    embedding : an Embedding to share; dtype, rng : as of the layers

    >>> import numpy as np, fastrnn as fr
    >>> encoder = fr.Encoder(10, 4, 6, bidirectional=True, rng=0)
    >>> memory, (h, c) = encoder(np.array([[1, 2], [3, 0]]), lengths=[2, 1])
    >>> memory.shape, h.shape
    ((2, 2, 6), (1, 2, 6))
    """

    def __init__(self, num_tokens, embedding_size, hidden_size, num_layers=1, *, cell="lstm", bidirectional=False,
                 dropout=0.0, embedding=None, dtype=np.float32, rng=None):  # fmt: skip
        rng = np.random.default_rng(rng)
        H, directions = as_size("hidden_size", hidden_size), 1 + as_flag("bidirectional", bidirectional)
        if H % directions:
            raise ValueError(f"hidden_size: got {H}, wanted an even number: half of it runs each way")
        self.embedding = embedding_of(embedding, num_tokens, embedding_size, dtype, rng)
        self.rnn = recurrent(cell, embedding_size, H // directions, as_size("num_layers", num_layers), dropout=dropout,
                             bidirectional=bidirectional, dtype=dtype, rng=rng)  # fmt: skip
        self.hidden_size, self.directions, self.dtype = H, directions, self.rnn.dtype
        self.params = Joined({"embedding": self.embedding.params, "rnn": self.rnn.params})

    def _checked(self, tokens, lengths):
        tokens = as_tokens("tokens", tokens, self.embedding.num_tokens, ("S", "N"))
        return tokens, as_lengths(lengths, tokens.shape[1], tokens.shape[0])

    def _joined(self, state: Any) -> State:
        """(L D, N, H) of each direction -> (L, N, D H)."""
        parts = state if isinstance(state, tuple) else (state,)
        D = self.directions
        return tuple(np.concatenate([p[d::D] for d in range(D)], -1) if D > 1 else p for p in parts)

    def _inputs(self) -> list[tuple[Array, Array]]:
        """W_ih and b_ih of the first layer's directions."""
        return [input_of(self.rnn._weights(0, d), self.embedding.size) for d in range(self.directions)]

    def _form(self) -> list[list[Any]]:
        """The stack's weights in the backend's form, without those of its input, whose sums are looked up."""
        first, *others = self.rnn._stages()
        return self.rnn._prepare([[weights.without(self.embedding.size) for weights in first], *others])

    def _through(self, form, sums, index, lengths, rng):
        """The stack on the sums (K, G*H) that the first layer's directions look up by index (S, N): memory, state, tape."""
        rnn, (S, N) = self.rnn, index.shape
        lookups = [Lookup(table, index) for table in sums]
        no_x, states = np.empty((S, N, 0), self.dtype), rnn._states("state", None, N, False)
        y, ends, stages, masks = rnn._stack(form, no_x, states, lengths, rng, lookups)
        memory, state = rnn._result(y, ends, False)
        return memory, self._joined(state), LayerTape(rnn._identity, stages, masks, (S, N, rnn.hidden_size), False)

    def _run(self, tokens, lengths, rng):
        tokens, lengths = self._checked(tokens, lengths)
        source, inputs = embedded(self.embedding, tokens), self._inputs()
        sums = [sums_of(source.rows, *given) for given in inputs]
        memory, state, tape = self._through(self._form(), sums, source.index, lengths, rng)
        kept = [] if rng is None else [operations().copied(w) for w, _ in inputs]
        return (memory, state), EncoderTape(source, kept, tape)

    def __call__(self, tokens, lengths=None):
        """Memory and state, nothing kept. tokens (S, N); lengths (N,), of each row."""
        return self._run(tokens, lengths, None)[0]

    def forward(self, tokens, lengths=None, rng=None):
        """(memory, state), tape."""
        return self._run(tokens, lengths, self.rnn._rng if rng is None else np.random.default_rng(rng))

    def backward(self, tape, d_memory=None, d_state=None):
        """Gradients of a scalar: an object with x (S, N, E), of the embedded tokens, and params."""
        if not isinstance(tape, EncoderTape):
            raise TypeError(f"tape: got {type(tape).__name__}, wanted what this encoder's forward gave")
        if d_state is not None:
            d_state = tuple(None if d is None else self._apart(d) for d in d_state)
            d_state = d_state if REGISTRY[self.rnn._cell].memory else d_state[0]
        g = self.rnn.backward(tape.layers, d_memory, d_state)
        first = list(zip(g.first, tape.inputs, strict=True))
        of_inputs, d_table = tape.source.backward(self.embedding, first)
        found = {f"rnn.{name}": value for name, value in g.params.items()}
        for d, of_input in enumerate(of_inputs):
            w_ih, _, b_ih, _ = self.rnn._keys(0, d)
            found |= {f"rnn.{w_ih}": of_input[0], f"rnn.{b_ih}": of_input[1]}
        found["embedding.weight"] = d_table
        return EncoderGradients(found, lambda: sum(_rows_gradient(of_layer.sums(), w) for of_layer, w in first))

    def _apart(self, d: Array) -> Array:
        L, N, _ = d.shape
        return np.ascontiguousarray(d.reshape(L, N, self.directions, -1).swapaxes(1, 2).reshape(L * self.directions, N, -1))


def _rows_gradient(d_sums: Array, w: Array) -> Array:
    """d_sums (S, N, G*H) W, (S, N, E)."""
    S, N, _ = d_sums.shape
    return operations().input_gradient(np.ascontiguousarray(d_sums).reshape(S * N, -1), w).reshape(S, N, -1)


class FrozenEncoder:
    """An encoder for inference: the weights as they are now, packed once, and the sums of every token, computed once."""

    def __init__(self, encoder: Encoder):
        """encoder : one of this object's own"""
        self._encoder, self._form = encoder, encoder._form()
        self._sums = [sums_of(encoder.embedding.table(), *given) for given in encoder._inputs()]
        self._short, self._calls = ShortCalls(encoder.rnn), Spares()

    def __call__(self, tokens, lengths=None):
        tokens, lengths = self._encoder._checked(tokens, lengths)
        if self._short.fit_tokens(tokens, lengths):
            memory, state = self._short.run(self._calls, self._form, tokens, self._sums[0])
            return memory, self._encoder._joined(state)
        return self._encoder._through(self._form, self._sums, tokens, lengths, None)[:2]


class Bridge(Parameterised):
    """From the encoder's state to the decoder's: as it is, or s' = f(W s + b) for each of h and c, the same for all layers.

    kind : "copy", "linear", "tanh" or "relu"; states : how many the encoder has and how many the decoder has. A copy takes
    those of both, and zero where the encoder has no c; a linear map makes c out of h then.
    """

    def __init__(self, kind, in_size, out_size, states, *, dtype=np.float32, rng=None):
        if kind not in ("copy", "linear", "tanh", "relu"):
            raise ValueError(f"bridge: got {kind!r}, wanted 'copy', 'linear', 'tanh' or 'relu'")
        if kind == "copy" and in_size != out_size:
            raise ValueError(f"bridge: got a copy from {in_size} to {out_size} units, wanted a linear map, or equal sizes")
        self.kind, (self._given, wanted) = kind, states
        rng, self.dtype = np.random.default_rng(rng), np.dtype(dtype)
        self._maps = {} if kind == "copy" else {
            name: Linear(in_size, out_size, dtype=dtype, rng=rng) for name in ("h", "c")[:wanted]
        }  # fmt: skip
        self._wanted = wanted
        self.params = Joined({name: linear.params for name, linear in self._maps.items()})

    def _sources(self) -> list[int | None]:
        """For each state wanted, which of those given it is made of."""
        kept = list(range(min(self._given, self._wanted)))
        return kept + [None if self.kind == "copy" else 0] * (self._wanted - len(kept))

    def forward(self, state: State) -> tuple[State, Any]:
        sources = [None if k is None else state[k] for k in self._sources()]
        if self.kind == "copy":
            return tuple(np.zeros_like(state[0]) if s is None else s for s in sources), None
        activation = "none" if self.kind == "linear" else self.kind
        kept = [np.array(s) for s in sources if s is not None]
        made = tuple(linear(s, activation) for linear, s in zip(self._maps.values(), kept, strict=True))
        weights = [linear.arrays()[0].copy() for linear in self._maps.values()]
        return made, (kept, made, weights)

    def backward(self, tape: Any, d_state: State) -> tuple[list[Array | None], dict[str, Array]]:
        """The gradients of the encoder's states and of the parameters."""
        found: list[Array | None] = [None] * self._given
        params: dict[str, Array] = {}
        for k, (source, d) in enumerate(zip(self._sources(), d_state, strict=True)):
            if source is None:
                continue
            back = d
            if tape is not None:
                (kept, made, weights), name = tape, ("h", "c")[k]
                slope = {"linear": 1, "tanh": 1 - made[k] ** 2, "relu": made[k] > 0}[self.kind]
                back, of_map = self._maps[name].backward(kept[k], d * slope, weights[k])
                params |= {f"{name}.{key}": value for key, value in of_map.items()}
            before = found[source]
            found[source] = back if before is None else before + back
        return found, params
