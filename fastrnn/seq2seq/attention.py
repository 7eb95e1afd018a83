"""Attention: for each query, weights on the steps of a memory, and the mean of the memory by them.

    dot         e_s = q · h_s                       general   e_s = q · W h_s
    scaled_dot  e_s = q · h_s / √Q                  additive  e_s = v · tanh(W_q q + W_m h_s)
    concat      e_s = v · tanh(W [q; h_s])          a = softmax(e) over s < length     context = Σ a_s h_s

Bahdanau et al. (2015) for additive; Luong et al. (2015) for dot, general and concat; Vaswani et al. (2017) for scaled_dot.
With coverage, c_s = Σ of the a_s of earlier steps, and w c_s is added to e_s, or inside of tanh (See et al., 2017).
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from fastrnn.arrays import as_array, as_dtype, as_flag, as_lengths, as_size, optional
from fastrnn.backend import operations
from fastrnn.contract import Array
from fastrnn.parameters import Parameterised
from fastrnn.seq2seq.parts import map_of_rows

KINDS = ("dot", "scaled_dot", "general", "additive", "concat")


@dataclass(frozen=True, eq=False)
class AttentionTape:
    """What attention keeps for its backward."""

    query: Array  # (T, N, Q), of the caller
    memory: Array  # (S, N, M), of the caller
    words: Any  # what the operation read and wrote
    weights: dict[str, Array]  # the parameters as they were

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        return sum(v.nbytes for v in (self.query, self.memory, *vars(self.words).values()) if isinstance(v, np.ndarray))


@dataclass(frozen=True, eq=False)
class AttentionGradients:
    query: Array
    memory: Array
    params: dict[str, Array]


class Attention(Parameterised):
    """Attention of one kind. Equations: see above.

    kind : "dot", "scaled_dot", "general", "additive" or "concat"
    query_size, memory_size : Q and M, the same for both dots; size : A, of additive and concat, Q by default
    coverage : whether what earlier steps attended to is taken into account

    >>> import numpy as np, fastrnn as fr
    >>> attention = fr.Attention("general", 3, 4, rng=0)
    >>> context, weights = attention(np.ones((2, 1, 3), np.float32), np.ones((5, 1, 4), np.float32), lengths=[4])
    >>> context.shape, weights[0, 0].tolist()
    ((2, 1, 4), [0.25, 0.25, 0.25, 0.25, 0.0])
    """

    def __init__(self, kind, query_size, memory_size, size=None, coverage=False, *, dtype=np.float32, rng=None):
        if kind not in KINDS:
            raise ValueError(f"kind: got {kind!r}, wanted one of {', '.join(KINDS)}")
        Q, M = as_size("query_size", query_size), as_size("memory_size", memory_size)
        if kind in ("dot", "scaled_dot") and Q != M:
            raise ValueError(f"memory_size: got {M}, wanted {Q}, the query's, for {kind}")
        self.kind, self.query_size, self.memory_size = kind, Q, M
        self.size, self.coverage = Q if size is None else as_size("size", size), as_flag("coverage", coverage)
        self.dtype = as_dtype("dtype", dtype)
        A, summed = self.size, kind in ("additive", "concat")
        shapes: dict[str, tuple[int, ...]] = {
            "general": {"weight": (Q, M)}, "concat": {"weight": (A, Q + M), "v": (A,)},
            "additive": {"query_weight": (A, Q), "memory_weight": (A, M), "v": (A,)},
        }.get(kind, {}) | ({"coverage": (A if summed else 1,)} if coverage else {})  # fmt: skip
        rng = np.random.default_rng(rng)
        self.params, self._wanted = {}, shapes
        for name, shape in shapes.items():
            bound = shape[-1] ** -0.5
            self.params[name] = rng.uniform(-bound, bound, shape).astype(self.dtype)

    def _shapes(self):
        return self._wanted

    @property
    def scale(self) -> float:
        """What a product of query and key is multiplied by."""
        return self.query_size**-0.5 if self.kind == "scaled_dot" else 1.0

    def __repr__(self) -> str:
        return f"Attention({self.kind!r}, {self.query_size}, {self.memory_size}, size={self.size}, coverage={self.coverage})"

    def arrays(self) -> dict[str, Array]:
        """The parameters, as the operations read them: w_q and w_m instead of a weight of both."""
        Q, checked = self.query_size, {}
        for name, value in self.params.items():
            checked[name] = as_array(name, value, self._shapes()[name], self.dtype)
        if self.kind == "concat":
            w = checked.pop("weight")
            return checked | {"w_q": np.ascontiguousarray(w[:, :Q]), "w_m": np.ascontiguousarray(w[:, Q:])}
        renamed = {"weight": "w_m", "query_weight": "w_q", "memory_weight": "w_m"}
        return {renamed.get(name, name): value for name, value in checked.items()}

    # --- what a decoder's steps are made of

    def hold(
        self, arrays: dict[str, Array], S: int, N: int, together: int = 1, through: Array | None = None
    ) -> SimpleNamespace:
        """Room for what every step reads: keys (S, N, K), values (S, N, M), lengths (N,), v, cover, scale.

        together : how many rows in a row share one of the N
        through : a matrix (F, M), which each value goes through once, instead of the context in every step
        """
        work, maps = operations(), []
        memory = work.empty((S, N, self.memory_size), self.dtype)

        def mapped(w: Array | None) -> Array:
            if w is None:
                return memory
            out = work.empty((S, N, len(w)), self.dtype)
            maps.append(map_of_rows(memory, work.pack(w), out))
            return out

        return SimpleNamespace(
            memory=memory, keys=mapped(arrays.get("w_m")), values=mapped(through), maps=maps, lengths=np.empty(N, np.intp),
            v=arrays.get("v"), cover=arrays.get("coverage"),
            scale=self.scale, coverage=None, parents=None, together=together,
        )  # fmt: skip

    def fill(self, held: SimpleNamespace, memory: Array, lengths: Array | None) -> None:
        """Put a memory (S, N, M), of which the rows have their own lengths, where the steps read it."""
        held.memory[...], held.lengths[...] = memory, len(memory) if lengths is None else lengths
        for program in held.maps:
            program.run()

    def steps(self, arrays: dict[str, Array], held: SimpleNamespace, query: Array, context: Array) -> list[Any]:
        """The operations from query (T, N, Q) to context (T, N, M) and `held.weights` (T, N, S)."""
        T, N, _ = query.shape
        held.context = context
        if "w_q" not in arrays:
            held.query = query
            return [operations().attend(held)]
        held.query = np.empty((T, N, self.size), self.dtype)
        return [operations().linear(query, operations().pack(arrays["w_q"]), held.query), operations().attend(held)]

    def track(self, held: SimpleNamespace, T: int, N: int, always: bool = False) -> None:
        """Make room for the weights of T steps of N rows, and for the sums of them where they are wanted."""
        S = held.keys.shape[0]
        held.weights = np.zeros((T, N, S), self.dtype)
        if always or held.cover is not None:
            held.coverage = np.zeros((T + 1, N, S), self.dtype)

    def steps_backward(self, arrays, held: SimpleNamespace, d_context: Array, d_weights: Array | None, d_query: Array):
        """What is found but for d_query (T, N, Q), to which it is added, and the operations that find it."""
        (S, N, M), K, work = held.values.shape, held.keys.shape[2], operations()
        d = SimpleNamespace(
            context=d_context, weights=d_weights, query=np.zeros_like(held.query) if "w_q" in arrays else d_query,
            keys=work.zeros((S, N, K), self.dtype), values=work.zeros((S, N, M), self.dtype),
            v=np.zeros((N, K), self.dtype), cover=np.zeros((N, K if held.v is not None else 1), self.dtype),
            coverage=np.zeros((N, S), self.dtype),
        )  # fmt: skip
        steps = [work.attend_backward(held, d)]
        if "w_q" in arrays:
            steps.append(work.linear(d.query, work.pack(arrays["w_q"], transposed=True), d_query, add=True))
        return d, steps

    def finish_backward(self, arrays, held, d, query, memory) -> tuple[Array, dict[str, Array]]:
        """d_memory (S, N, M), the gradients of the parameters by name."""
        work, found, d_memory = operations(), {}, d.values
        M, K, Q = memory.shape[2], d.keys.shape[2], self.query_size
        if "w_m" in arrays:
            of_keys = d.keys.reshape(-1, K)
            found["w_m"], _ = work.weight_gradients(of_keys, memory.reshape(-1, M))
            d_memory += work.input_gradient(of_keys, arrays["w_m"]).reshape(memory.shape)
        else:
            d_memory += d.keys
        if "w_q" in arrays:
            found["w_q"], _ = work.weight_gradients(d.query.reshape(-1, K), query.reshape(-1, Q))
        if held.v is not None:
            found["v"] = d.v.sum(0)
        if held.cover is not None:
            found["coverage"] = d.cover.sum(0)
        if self.kind == "concat":
            found["weight"] = np.concatenate([found.pop("w_q"), found.pop("w_m")], 1)
        renamed = {"general": {"w_m": "weight"}, "additive": {"w_q": "query_weight", "w_m": "memory_weight"}}
        found = {renamed.get(self.kind, {}).get(name, name): value for name, value in found.items()}
        return d_memory, {name: found[name] for name in self.params}

    # --- on its own

    def _checked(self, query, memory, lengths):
        query = as_array("query", query, ("T", "N", self.query_size), self.dtype)
        memory = as_array("memory", memory, ("S", query.shape[1], self.memory_size), self.dtype)
        return query, memory, as_lengths(lengths, memory.shape[1], memory.shape[0])

    def __call__(self, query, memory, lengths=None):
        """context (T, N, M) and weights (T, N, S) of the queries (T, N, Q) on a memory (S, N, M), rows of their own lengths.

        The weights are zero from a row's length, and so is the context of a row of length zero.
        """
        return self.forward(query, memory, lengths)[0]

    def forward(self, query, memory, lengths=None):
        """(context, weights), tape: a call that keeps what backward needs."""
        query, memory, lengths = self._checked(query, memory, lengths)
        arrays, query = {name: value.copy() for name, value in self.arrays().items()}, query.copy()
        held, (T, N, _) = self.hold(arrays, len(memory), memory.shape[1]), query.shape
        self.fill(held, memory, lengths)
        self.track(held, T, N)
        context = np.empty((T, N, self.memory_size), self.dtype)
        operations().run(self.steps(arrays, held, query, context), range(T), rows=N, flops=4.0 * memory.size)
        return (context, held.weights.copy()), AttentionTape(query, held.values, held, arrays)

    def backward(self, tape, d_context=None, d_weights=None):
        """Gradients of a scalar: an object with query, memory and params.

        d_context (T, N, M), d_weights (T, N, S) : the scalar's gradients of the results; zero where missing
        """
        if not isinstance(tape, AttentionTape):
            raise TypeError(f"tape: got {type(tape).__name__}, wanted what this attention's forward gave")
        (T, N, _), held = tape.query.shape, tape.words
        d_context = optional("d_context", d_context, (T, N, self.memory_size), self.dtype)
        d_weights = optional("d_weights", d_weights, held.weights.shape, self.dtype)
        d_query = np.zeros_like(tape.query)
        d_context = np.zeros_like(held.context) if d_context is None else d_context
        d_weights = None if d_weights is None else np.ascontiguousarray(d_weights)
        d, steps = self.steps_backward(tape.weights, held, d_context, d_weights, d_query)
        operations().run(steps, range(T - 1, -1, -1), rows=N, flops=8.0 * tape.memory.size)
        d_memory, params = self.finish_backward(tape.weights, held, d, tape.query, tape.memory)
        return AttentionGradients(d_query, d_memory, params)
