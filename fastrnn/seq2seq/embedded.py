"""Embedded tokens as the input of a recurrent layer: W E[token] + b, once for each different token.

A sentence says its words again and again, and W E[token] + b is the same for each: the products, forward and backward, are
those of the K different tokens instead of all T N. The loop looks the sums up (see contract.Lookup).
"""

from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from fastrnn.backend import operations
from fastrnn.contract import Array, Gradients, Weights
from fastrnn.seq2seq.parts import Embedding, linear_of_rows


@dataclass(frozen=True, eq=False)
class Embedded:
    """Tokens (T, N) as rows of embeddings: that of step t and row n is row index[t, n]."""

    rows: Array  # (K, E)
    tokens: Array  # (K,), whose embeddings they are
    index: Array  # (T, N)

    def backward(
        self, embedding: Embedding, found: list[tuple[Gradients, Array]]
    ) -> tuple[list[tuple[Array, Array]], Array]:
        """dW and db of each, and dE, from the gradients of layers that looked the sums up, each with its W (G*H, E)."""
        work = operations()
        of_layers = [work.weight_gradients(g.table, self.rows) for g, _ in found]
        d_rows = reduce(add, [work.input_gradient(g.table, w) for g, w in found])
        return of_layers, embedding.backward(self.tokens[None], d_rows[None])["weight"]


def embedded(embedding: Embedding, tokens: Array) -> Embedded:
    """The different ones of these tokens, as they are embedded now."""
    different, index = np.unique(tokens, return_inverse=True)
    return Embedded(embedding.table()[different], different, np.ascontiguousarray(index.reshape(tokens.shape)))


def input_of(weights: Weights, E: int) -> tuple[Array, Array]:
    """Of a layer's weights, those of the first E inputs and the input's bias: views."""
    assert weights.b_ih is not None
    return weights.w_ih[:, :E], weights.b_ih


def sums_of(rows: Array, w: Array, b: Array) -> Array:
    """rows (K, E) -> W rows + b, (K, G*H)."""
    sums = operations().empty((1, len(rows), len(w)), rows.dtype)
    linear_of_rows(rows[None], operations().pack(w, b), sums)
    return sums[0]
