"""A decoder's steps as a program: each is the operations from a token to its features, one after another.

    x_t = [E[token_t]; f_{t-1}]    y_t = layers(x_t)    a_t, m_t = attention(y_t)    f_t = tanh(W [m_t; y_t] + b)

without f_{t-1} where there is no input feeding, and f_t = y_t without attention. The product of E[token_t] is looked up
(embedded.py), so that `x` below is f_{t-1} alone. Every array has a time axis.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np

from fastrnn.backend import operations
from fastrnn.cells import REGISTRY
from fastrnn.contract import Array, Lookup
from fastrnn.seq2seq.embedded import Embedded, embedded, input_of, sums_of
from fastrnn.seq2seq.parts import every


class Snapshot:
    """A decoder's parameters as they are now, and in the form that operations read."""

    def __init__(self, decoder: Any, keep: bool, project: bool = False):
        """keep : whether the parameters may change before they are read again.
        project : whether to compute what the embeddings add to the first layer's gates, for all tokens once
        """
        work, rnn = operations(), decoder.rnn
        own = work.copied if keep else np.asarray
        self.cell = REGISTRY[rnn._cell]
        first, *others = [rnn._weights(k, 0) for k in range(rnn.num_layers)]
        self.input = tuple(map(own, input_of(first, decoder.embedding.size)))
        self.layers = [first.without(decoder.embedding.size), *others]
        self.table = decoder.embedding.table()  # which backward does not read
        self.attention = {k: own(v) for k, v in decoder.attention.arrays().items()} if decoder.attention else {}
        self.output = tuple(map(own, decoder.output.arrays()))
        self.cells = [work.pack_cell(self.cell, w) for w in self.layers]
        self.sums = sums_of(self.table, *self.input) if project else None
        self.through = self.packed_combine = self.back_combine = None
        if decoder.combine is not None:
            w, b = decoder.combine.arrays()
            if keep:
                self.packed_combine, self.back_combine = work.pack(w, b), work.pack(w, transposed=True)
            else:
                # W [m; y] = W_m m + W_y y, and W_m m is the mean of the W_m h of the memory
                self.through, w_y = w[:, : decoder.memory_size], w[:, decoder.memory_size :]
                self.packed_combine = work.pack(w_y, b)
        self.packed_output = work.pack(*self.output)


class Steps:
    """T steps of R rows, laid out: `operations` to be run, and the arrays between them.

    keep : whether backward will follow: every step has memory of its own then
    tokens : (T, R); known : whether they are what they will be, or are written while the steps run
    parents : (T, R) the row that each row continues, or None
    """

    def __init__(self, decoder, snapshot, tokens, held, *, keep, known=False, parents=None):
        work = operations()
        self.decoder, self.snapshot, self.held, self.keep = decoder, snapshot, held, keep
        self.T, self.R = tokens.shape
        H, M, F, feeding = decoder.rnn.hidden_size, decoder.memory_size, decoder.feature_size, decoder.input_feeding
        # features of step t are read in step t + 1
        self.x = self._room(F if feeding else 0, 1)
        self.joined = self._room(M + H) if decoder.attention and keep else None
        # a cell must not write what its other units are still to read: without attention, y goes by way of a copy
        copied = feeding and not keep and not decoder.attention
        features = self.x[1:] if feeding and not copied else self._room(F)
        ys = [self._room(H) for _ in range(decoder.rnn.num_layers - 1)]
        if self.joined is not None:
            ys.append(self.joined[:, :, M:])
        else:
            ys.append(self._room(H) if decoder.attention else features)
        self.ys, self.features = ys, features

        self.operations: list[Any] = []
        lookup = self._looked_up(tokens, known)
        if copied:
            self.operations.append(work.gather(features[0], parents, self.x[: self.T]))
        self.cells, below = [], self.x[: self.T]
        for k, y in enumerate(ys):
            more = {} if k else {"lookup": lookup, "fed_back": feeding and not copied}
            self.cells.append(work.Cells(snapshot.cell, snapshot.cells[k], below, y, keep, parents, **more))
            self.operations += self.cells[-1].operations
            below = y
        if decoder.attention:
            # without a tape, what the steps find is W_m m, in the features' place
            context, given = (features, ys[-1]) if self.joined is None else (self.joined[:, :, :M], self.joined)
            self.operations += decoder.attention.steps(snapshot.attention, held, ys[-1], context)
            self.operations.append(work.linear(given, snapshot.packed_combine, features, "tanh", add=not keep))

    def _room(self, size: int, more: int = 0) -> Array:
        if self.keep:
            return operations().empty((self.T + more, self.R, size), self.decoder.dtype)
        return every(np.zeros((self.R, size), self.decoder.dtype), self.T + more)

    def _looked_up(self, tokens: Array, known: bool) -> Lookup:
        """What the tokens add to the first layer's gates; where they are not known yet, the steps find that themselves."""
        work, snapshot, (T, R) = operations(), self.snapshot, tokens.shape
        if snapshot.sums is not None:
            return Lookup(snapshot.sums, tokens)
        if known:
            self.source = embedded(self.decoder.embedding, tokens)
            return Lookup(sums_of(self.source.rows, *snapshot.input), self.source.index)
        w, b = snapshot.input
        rows, sums = self._room(w.shape[1]), self._room(len(w))
        self.operations += [work.gather(snapshot.table, tokens, rows), work.linear(rows, work.pack(w, b), sums)]
        if not self.keep:
            return Lookup(sums[0], every(np.arange(R), T))
        self.source = Embedded(rows.reshape(T * R, -1), tokens.reshape(-1), np.arange(T * R).reshape(T, R))
        return Lookup(sums.reshape(T * R, -1), self.source.index)

    def start(self, state: tuple[Array, ...]) -> None:
        """Put the state (h,) or (h, c), each (L, R, H), before the first step, whose features before it are zero."""
        for k, cells in enumerate(self.cells):
            cells.start(*(s[k] for s in state))
        self.x[0] = 0
        if not self.keep:
            self.features[0] = 0

    @property
    def flops(self) -> float:
        """Of a step, roughly."""
        weights = sum(w.w_ih.size + w.w_hh.size for w in self.snapshot.layers)
        weights += (self.ys[-1] if self.joined is None else self.joined).shape[2] * self.features.shape[2]
        memory = 0 if self.held is None else self.held.keys[:, 0].size + self.held.values[:, 0].size
        return 2.0 * self.R * (weights + memory)

    def backward(self, d_features: Array, d_weights: Array | None = None) -> SimpleNamespace:
        """params, state, memory: gradients from those of the features, (T + 1, R, F) with an unused entry in front."""
        work, decoder, snapshot = operations(), self.decoder, self.snapshot
        M, T = decoder.memory_size, self.T
        tapes = [cells.finish() for cells in self.cells]
        program: list[Any] = []
        dy: Any = d_features[1:]
        d = d_pre = None
        if self.joined is not None:
            d_pre, d_joined = (work.empty(a.shape, a.dtype) for a in (self.features, self.joined))
            dy = d_joined[:, :, M:]
            program.append(work.slope(d_features[1:], self.features, d_pre))
            program.append(work.linear(d_pre, snapshot.back_combine, d_joined))
            d, through = decoder.attention.steps_backward(snapshot.attention, self.held, d_joined[:, :, :M], d_weights, dy)
            program += through
        loops: list[Any] = []
        for k in reversed(range(len(self.cells))):
            below = np.empty_like(self.ys[k - 1]) if k else None
            feed = d_features[:-1] if not k and decoder.input_feeding else None
            loop = work.CellsBackward(snapshot.cell, tapes[k], dy, below, feed)
            program += loop.operations
            loops.insert(0, loop)
            dy = below
        work.run(program, range(T - 1, -1, -1), rows=self.R, flops=2 * self.flops)
        return self._gathered([loop.finish() for loop in loops], d, d_pre)

    def _gathered(self, of_layers, d, d_pre):
        decoder, first = self.decoder, of_layers[0]
        ((dw, db),), d_table = self.source.backward(decoder.embedding, [(first, self.snapshot.input[0])])
        params = {"embedding.weight": d_table}
        for k, g in enumerate(of_layers):
            found = (g.w_ih, g.w_hh, g.b_ih, g.b_hh) if k else (np.concatenate([dw, g.w_ih], 1), g.w_hh, db, g.b_hh)
            params |= {f"rnn.{key}": value for key, value in zip(decoder.rnn._keys(k, 0), found, strict=False)}
        memory = None
        if d is not None:
            memory, of_attention = decoder.attention.finish_backward(
                self.snapshot.attention, self.held, d, self.joined[:, :, decoder.memory_size :], self.held.values
            )
            params |= {f"attention.{key}": value for key, value in of_attention.items()}
            params |= decoder.combine_gradients(self.joined, d_pre)
        starts = [np.stack([g.h0 for g in of_layers])]
        if self.snapshot.cell.memory:
            starts.append(np.stack([g.c0 for g in of_layers]))
        return SimpleNamespace(params=params, state=tuple(starts), memory=memory)
