"""A frozen model on a device: it decodes there, and its results are there."""

import copy
from typing import Any

import numpy as np

from fastrnn import arrays
from fastrnn.backend import decoding, place_of
from fastrnn.cells import REGISTRY
from fastrnn.seq2seq.search import Decoded, Rules, Search


class OnDevice(Search):
    """A model's weights on a device, for decoding: `greedy`, `sample` and `beam_search` as the model's own, but that source
    is an array on the device, and so is every array of the result. All steps of a decoding are one launch."""

    def __init__(self, model: Any, convert: Any):
        """model : one of this object's own; convert : a function that brings an array of the host to the device"""
        self._model, self.decoder, self._convert = model, model.decoder, convert
        self.bos, self.eos, self.pad = model.bos, model.eos, model.pad

        def bring(array):
            return convert(np.ascontiguousarray(array))

        self._table = bring(model.encoder.embedding.table())
        if not arrays.on_device(self._table):
            raise TypeError(f"convert: got a function that gives {type(self._table).__name__}, wanted arrays on a device")
        self._place = place_of("convert", self._table)
        self.dtype = self._place.arrays.type_of(self._table)
        self._work, decoder, attention = decoding(), model.decoder, model.decoder.attention
        self._layers = copy.deepcopy(model.encoder.rnn).convert(bring)
        self._maps = [tuple(map(bring, linear.arrays())) for linear in model.bridge._maps.values()]
        self.parameters = self._work.Parameters(
            REGISTRY[decoder.rnn._cell], decoder.embedding.table(),
            [decoder.rnn._weights(k, 0) for k in range(decoder.rnn.num_layers)],
            attention.arrays() if attention else {}, attention.scale if attention else 1.0,
            decoder.combine.arrays() if attention else None, decoder.output.arrays(), bring,
        )  # fmt: skip

    def _take(self, key):
        return Decoding(self, *key)

    def _first(self, source, lengths):
        there, encoder, bridge = self._place.arrays, self._model.encoder, self._model.bridge
        source = there.tokens("source", source, encoder.embedding.num_tokens, ("S", "N"))
        S, N = source.shape
        if N == 0:
            raise ValueError(f"source: got shape {tuple(source.shape)}, wanted at least one sentence")
        lengths = arrays.as_lengths(there.to_host(lengths) if arrays.on_device(lengths) else lengths, N, S, "source_lengths")
        memory, state = self._layers(self._work.embed(self._table, source), lengths=lengths)
        states = state if isinstance(state, tuple) else (state,)
        first = self._work.starts(states, encoder.directions, bridge._sources(), self._maps, bridge.kind)
        full = np.full(N, S) if lengths is None else lengths
        return first, self.parameters.memory(memory) if self.decoder.attention else None, full

    def __reduce__(self):
        return OnDevice, (self._model, self._convert)

    def __repr__(self) -> str:
        return f"<frozen Seq2Seq on a device, {self.dtype}>"


class Decoding(Rules):
    """One decoding of N sources of S tokens, B rows each, T steps at most."""

    def __init__(self, model, S, N, B, T, covered):
        super().__init__(
            model, N, B, T, norm=np.zeros(N * B), candidate=np.zeros((N, 2 * B)),
            candidate_row=np.zeros((N, 2 * B), np.intp), candidate_token=np.zeros((N, 2 * B), np.intp), S=S,
        )  # fmt: skip
        self.attends = model.decoder.attention is not None
        self.shape = model.parameters.shape(N, B, T, S, covered)

    def start(self, first, memory, lengths, *rules) -> None:
        """What is decoded, and the rules."""
        self.first, self.memory = first, memory
        self.begin(lengths, *rules)

    def run(self, text: Any, F: int = 1, **words: Any) -> None:
        """Take the steps, choosing by a function of choices.py; the words it reads besides."""
        if text.__name__ == "beam":
            found = (self.T, self.N, F)
            words |= {"found": np.full(found, self.model.pad, np.intp), "at": np.zeros(found, np.intp)}
        self.words |= words | {"F": F}
        work, parameters = self.model._work, self.model.parameters
        self.ran = work.Run(parameters, self.shape, text.__name__, self.words, self.memory, self.first)

    def one_each(self) -> Decoded:
        """The result of a search that keeps one hypothesis a sentence."""
        ran, N = self.ran, self.N
        length = ran.host("length")
        T = int(length.max(initial=0))
        tokens = ran.array("tokens")[N : (T + 1) * N].reshape(T, N)
        attention = ran.attention(T, length, 1, False).reshape(T, N, self.shape.S) if self.attends else None
        return Decoded(tokens, ran.array("length"), ran.array("scores"), ran.placed(ran.host("scores")), attention)

    def several_each(self, F: int) -> Decoded:
        """The result of a beam search."""
        ran, N = self.ran, self.N
        ran.follow()
        known = np.arange(F) < ran.host("count")[:, None]
        length = np.where(known, ran.host("final_step").reshape(N, F), 0)
        T = int(length.max(initial=0))
        tokens = ran.array("found")[: T * N * F].reshape(T, N, F)
        attention = ran.attention(T, length, F, True) if self.attends else None
        scores, log_p = (np.where(known, ran.host(name).reshape(N, F), -np.inf) for name in ("final", "final_log_p"))
        return Decoded(tokens, ran.placed(length), ran.placed(scores), ran.placed(log_p), attention)
