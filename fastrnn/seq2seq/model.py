"""Encoder, bridge and decoder as one model, and its loss.

    loss = mean over the target's tokens y of  -(1 - ε) log p(y) - ε / V Σ_v log p(v)        ε: label smoothing

Sutskever et al., Sequence to sequence learning (2014); Szegedy et al. (2016) for label smoothing.
"""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrnn.arrays import as_flag, as_lengths
from fastrnn.backend import operations
from fastrnn.contract import Array
from fastrnn.parameters import Joined, Parameterised
from fastrnn.seq2seq.decoder import Decoder
from fastrnn.seq2seq.encoder import Bridge, Encoder, EncoderGradients, FrozenEncoder
from fastrnn.seq2seq.on_device import OnDevice
from fastrnn.seq2seq.parts import as_tokens, rows_of, until
from fastrnn.seq2seq.search import Decoding, Search
from fastrnn.seq2seq.steps import Snapshot
from fastrnn.serving import Spares


@dataclass(frozen=True, eq=False)
class Seq2SeqTape:
    parts: tuple[Any, Any, Any]  # the tapes of encoder, bridge, decoder
    d_logits: Array


@dataclass(frozen=True, eq=False)
class Seq2SeqGradients:
    params: dict[str, Array]
    of_encoder: EncoderGradients

    @property
    def x(self) -> Array:
        """(S, N, E), of the embedded source; computed when it is asked for."""
        return self.of_encoder.x


def cross_entropy(logits: Array, labels: Array, counted: Array, smoothing: float) -> tuple[float, Array]:
    """The mean loss of the labels (T, N) that are counted, and its gradient; logits (T, N, V)."""
    work, rows, dtype = operations(), labels.size, logits.dtype
    norm, gradient = np.empty((1, rows)), work.empty(logits.shape, dtype)
    work.run([work.log_sum(rows_of(logits), norm)], range(1), rows=rows, flops=8.0 * logits.size)
    weight = (counted / max(1, int(counted.sum()))).astype(dtype)
    log_p = np.take_along_axis(logits, labels[:, :, None], 2)[:, :, 0] - norm.reshape(labels.shape)
    loss = -(1 - smoothing) * float((log_p * weight).sum())
    if smoothing:
        loss -= smoothing * float(((logits.mean(2, dtype=np.float64) - norm.reshape(labels.shape)) * weight).sum())
    slopes = work.loss_gradient(
        rows_of(logits), norm.astype(dtype), labels.reshape(1, -1), weight.reshape(1, -1), smoothing, rows_of(gradient)
    )
    work.run([slopes], range(1), rows=rows, flops=8.0 * logits.size)
    return loss, gradient


class Seq2Seq(Search, Parameterised):
    """A model from one sequence of tokens to another, trained and decoded.

    source_tokens, target_tokens : sizes of the vocabularies; embedding_size, hidden_size, num_layers : E, H, L of both sides
    cell : "lstm", "gru", "rnn_tanh" or "rnn_relu"; decoder_cell : another for the decoder
    bidirectional : whether the encoder runs both ways, with H / 2 units each
    attention, attention_size, coverage, input_feeding, tie : see `Decoder`; bridge : "copy", "linear", "tanh" or "relu"
    share_embeddings : one table for both vocabularies, of equal size; freeze_embeddings : no gradient for the tables
    bos, eos, pad : the target's tokens of the beginning, of the end, and of no meaning
    label_smoothing : ε; dropout : between the encoder's layers; dtype, rng : as of the layers

    >>> import numpy as np, fastrnn as fr
    >>> model = fr.Seq2Seq(12, 10, 8, 16, attention="general", rng=0)
    >>> source, target = np.array([[3, 4], [5, 6], [7, 0]]), np.array([[4, 5], [6, 2], [2, 0]])
    >>> loss, tape = model.forward(source, target, source_lengths=[3, 2], target_lengths=[3, 2])
    >>> grads = model.backward(tape)
    >>> for name, gradient in grads.params.items():
    ...     model.params[name] -= 0.1 * gradient
    >>> best = model.beam_search(source, [3, 2], max_length=5, beam_size=3)
    >>> best.tokens.shape[1:], best.scores.shape
    ((2, 1), (2, 1))
    """

    def __init__(self, source_tokens, target_tokens, embedding_size, hidden_size, num_layers=1, *, cell="lstm",
                 decoder_cell=None, bidirectional=False, attention=None, attention_size=None, coverage=False,
                 input_feeding=False, bridge="copy", tie=False, share_embeddings=False, freeze_embeddings=False,
                 bos=1, eos=2, pad=0, label_smoothing=0.0, dropout=0.0, dtype=np.float32, rng=None):  # fmt: skip
        rng = np.random.default_rng(rng)
        share_embeddings = as_flag("share_embeddings", share_embeddings)
        freeze_embeddings = as_flag("freeze_embeddings", freeze_embeddings)
        if share_embeddings and source_tokens != target_tokens:
            raise ValueError(f"share_embeddings: got {source_tokens} and {target_tokens} tokens, wanted one vocabulary")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing: got {label_smoothing!r}, wanted 0 up to 1")
        self.encoder = Encoder(source_tokens, embedding_size, hidden_size, num_layers, cell=cell, dropout=dropout,
                               bidirectional=bidirectional, dtype=dtype, rng=rng)  # fmt: skip
        self.decoder = Decoder(
            target_tokens, embedding_size, hidden_size, num_layers, cell=cell if decoder_cell is None else decoder_cell,
            attention=attention, attention_size=attention_size, coverage=coverage, input_feeding=input_feeding,
            embedding=self.encoder.embedding if share_embeddings else None, tie=tie, dtype=dtype, rng=rng,
        )  # fmt: skip
        counts = tuple(1 + (part.rnn._cell == "lstm") for part in (self.encoder, self.decoder))
        self.bridge = Bridge(bridge, hidden_size, hidden_size, counts, dtype=dtype, rng=rng)
        self.dtype, V = self.decoder.dtype, self.decoder.embedding.num_tokens
        self.bos, self.eos, self.pad = (
            int(as_tokens(name, token, V, ())) for name, token in (("bos", bos), ("eos", eos), ("pad", pad))
        )
        self.label_smoothing, self.freeze_embeddings = float(label_smoothing), freeze_embeddings
        of_decoder = self.decoder.params.without("embedding") if share_embeddings else self.decoder.params
        self.params = Joined({"encoder": self.encoder.params, "bridge": self.bridge.params, "decoder": of_decoder})
        self._shared = share_embeddings

    def _source(self, source, lengths):
        source = as_tokens("source", source, self.encoder.embedding.num_tokens, ("S", "N"))
        if source.shape[1] == 0:
            raise ValueError(f"source: got shape {source.shape}, wanted at least one sentence")
        return source, as_lengths(lengths, source.shape[1], source.shape[0], "source_lengths")

    def forward(self, source, target, source_lengths=None, target_lengths=None, *, own=None, rng=None):
        """The loss of the targets under teacher forcing, and a tape.

        source : (S, N) tokens; target : (T, N) tokens as they shall come out, each row's end included, `pad` after it
        source_lengths, target_lengths : (N,); by default, a target ends before its first `pad`
        own : (T, N) True where the model's own choice goes in (scheduled sampling), or the probability of it, drawn by rng
        rng : a seed or Generator for `own` and dropout
        """
        source, source_lengths = self._source(source, source_lengths)
        N, V = source.shape[1], self.decoder.embedding.num_tokens
        target = as_tokens("target", target, V, ("T", N))
        T = len(target)
        lengths = as_lengths(target_lengths, N, T, "target_lengths")
        if lengths is None:
            lengths = until(target, self.pad)
        counted = np.arange(T)[:, None] < lengths
        rng = np.random.default_rng(rng)
        if own is not None and np.ndim(own) == 0:
            if not 0 <= float(own) <= 1:
                raise ValueError(f"own: got {own!r}, wanted a probability from 0 to 1")
            own = rng.random((T, N)) < own
        (memory, state), encoded = self.encoder.forward(source, source_lengths, rng)
        state, bridged = self.bridge.forward(state)
        inputs = np.concatenate([np.full((1, N), self.bos), target[:-1]]) if T else target
        has = self.decoder.attention is not None
        (logits, _), decoded = self.decoder.forward(
            inputs, state, memory if has else None, memory_lengths=source_lengths if has else None, own=own
        )
        loss, d_logits = cross_entropy(logits, target, counted, self.label_smoothing)
        return loss, Seq2SeqTape((encoded, bridged, decoded), d_logits)

    def backward(self, tape, d_loss=1.0):
        """Gradients of the loss (times d_loss): an object with x (S, N, E), of the embedded source, and params."""
        if not isinstance(tape, Seq2SeqTape):
            raise TypeError(f"tape: got {type(tape).__name__}, wanted what this model's forward gave")
        encoded, bridged, decoded = tape.parts
        d_logits = tape.d_logits if d_loss == 1 else tape.d_logits * tape.d_logits.dtype.type(d_loss)
        of_decoder = self.decoder.backward(decoded, d_logits)
        d_state, of_bridge = self.bridge.backward(bridged, of_decoder.state)
        of_encoder = self.encoder.backward(encoded, of_decoder.memory, d_state)
        params: dict[str, Array] = {}
        for name, found in (("encoder", of_encoder.params), ("bridge", of_bridge), ("decoder", of_decoder.params)):
            params |= {f"{name}.{key}": value for key, value in found.items()}
        if self._shared:
            params["encoder.embedding.weight"] += params["decoder.embedding.weight"]
        frozen = ("encoder.embedding.weight", "decoder.embedding.weight") if self.freeze_embeddings else ()
        return Seq2SeqGradients({n: params[n] for n in self.params if n in params and n not in frozen}, of_encoder)

    def freeze(self, convert: Any = None) -> "Frozen | OnDevice":
        """The model for decoding, on the weights as they are now, copied and packed once.

        convert : a function that brings an array of the host to a device, say `cupy.asarray`: the copies are there, source
            has to be, and results are
        """
        own = copy.deepcopy(self)
        return Frozen(own) if convert is None else OnDevice(own, convert)

    # --- what decoding starts from

    def _snapshot(self):
        return Snapshot(self.decoder, keep=False)

    def _first(self, source, lengths, encoder=None):
        """State, memory, lengths of the source."""
        source, lengths = self._source(source, lengths)
        memory, state = (encoder or self.encoder)(source, lengths)
        state, _ = self.bridge.forward(state)
        full = np.full(source.shape[1], len(source)) if lengths is None else lengths
        return state, memory if self.decoder.attention is not None else None, full


class Frozen(Search):
    """A model's weights, copied and packed once; it decodes as the model does, but for rounding: the products of the
    embeddings with the first layer's weights are computed beforehand. What short calls need is laid out once."""

    _SMALL = 1 << 12  # rows times steps of a call for which this is kept

    def __init__(self, model: Seq2Seq):
        """model : one of this object's own"""
        self._model, self.decoder, self.dtype = model, model.decoder, model.dtype
        self.bos, self.eos, self.pad = model.bos, model.eos, model.pad
        self._held, self._encoder = Snapshot(model.decoder, keep=False, project=True), FrozenEncoder(model.encoder)
        self._spares = Spares()

    def _take(self, key):
        # more threads need more memory
        return self._spares.take((operations().threads(), *key)) or Decoding(self, *key)

    def _give(self, key, decoding):
        N, B, T = key[1:4]
        if N * B * T <= self._SMALL:
            self._spares.give((operations().threads(), *key), decoding)

    def _snapshot(self):
        return self._held

    def _first(self, source, lengths):
        return self._model._first(source, lengths, self._encoder)

    def __reduce__(self):
        # packed weights are known by their address: a copy packs its own
        return Frozen, (self._model,)

    def __repr__(self) -> str:
        return "<frozen Seq2Seq>"
