"""RNN, GRU and LSTM layers: parameters by PyTorch's names, stacks, directions, dropout."""

import copy
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from fastrnn.arrays import as_dtype, as_flag, as_size
from fastrnn.backend import place_of
from fastrnn.cells import REGISTRY
from fastrnn.contract import Array, Weights
from fastrnn.functional import check_weights
from fastrnn.held import HeldWeights
from fastrnn.parameters import Parameterised
from fastrnn.serving import DeviceStream, Frozen, Stream
from fastrnn.tapes import LayerGradients, LayerTape

_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Layer(Parameterised):
    """What RNN, GRU and LSTM share. Attributes are those of the constructor; `params` maps names to arrays."""

    _cell = ""

    def __init__(self, input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0,
                 bidirectional=False, proj_size=0, *, dtype=np.float32, rng=None):  # fmt: skip
        self.input_size, self.hidden_size = as_size("input_size", input_size), as_size("hidden_size", hidden_size)
        self.num_layers = as_size("num_layers", num_layers)
        self.bias, self.batch_first = as_flag("bias", bias), as_flag("batch_first", batch_first)
        self.bidirectional = as_flag("bidirectional", bidirectional)
        if as_size("proj_size", proj_size, 0):
            raise NotImplementedError(f"proj_size: got {proj_size}; projected layers are not implemented yet, wanted 0")
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
            raise ValueError(f"dropout: got {dropout!r}, wanted a probability from 0 to 1")
        self.dropout = float(dropout)
        self.dtype = as_dtype("dtype", dtype)
        self._rng = np.random.default_rng(rng)
        bound = self.hidden_size**-0.5
        self.params = {
            name: self._rng.uniform(-bound, bound, shape).astype(self.dtype) for name, shape in self._shapes().items()
        }
        self._identity = repr(self)  # what a tape is compared by
        self._held = HeldWeights(self)

    # --- parameters

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _keys(self, layer: int, direction: int) -> tuple[str, ...]:
        suffix = f"_l{layer}{'_reverse' if direction else ''}"
        return tuple(name + suffix for name in (_NAMES if self.bias else _NAMES[:2]))

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        rows = REGISTRY[self._cell].n_gates * self.hidden_size
        for layer in range(self.num_layers):
            width = self.hidden_size * self._directions if layer else self.input_size
            for direction in range(self._directions):
                keys = self._keys(layer, direction)
                shapes.update(zip(keys, ((rows, width), (rows, self.hidden_size), (rows,), (rows,)), strict=False))
        return shapes

    def _weights(self, layer: int, direction: int) -> Weights:
        keys = self._keys(layer, direction)
        width = self.hidden_size * self._directions if layer else self.input_size
        found = [self._params[key] for key in keys] + [None] * (4 - len(keys))
        return check_weights(self._place, self._cell, tuple(found), width, self.dtype, keys)

    def convert(self, function: Callable[[Any], Any]) -> Self:
        """Replace every parameter p by function(p), say `cupy.asarray`: the layer computes where its parameters are.

        Arrays of a device may be float16 and bfloat16 too; what a call is given has to be of their type. Returns the layer.
        Raises TypeError or ValueError where they are not all in one place, of one type, and of the shapes that they had.

        >>> import numpy as np, fastrnn as fr
        >>> fr.GRU(3, 4).convert(lambda p: p.astype(np.float64))
        GRU(3, 4, dtype=float64)
        """
        shapes, params = self._shapes(), {name: function(value) for name, value in self._params.items()}
        there, dtype = place_of(*next(iter(params.items()))).arrays, None
        for name, value in params.items():
            params[name] = there.contiguous(name, value, shapes[name], dtype)
            dtype = there.type_of(params[name])
        self.params, self.dtype = params, dtype
        self._identity, self._held = repr(self), HeldWeights(self)
        return self

    def __repr__(self) -> str:
        options = {"nonlinearity": "tanh", "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0,
                   "bidirectional": False}  # fmt: skip
        said = [f"{k}={getattr(self, k)}" for k, default in options.items() if getattr(self, k, default) != default]
        said = [str(self.input_size), str(self.hidden_size), *said, f"dtype={self.dtype}"]
        return f"{type(self).__name__}({', '.join(said)})"

    # --- inference

    def _stages(self) -> list[list[Weights]]:
        """The weights, checked: [layer][direction]."""
        return [[self._weights(layer, d) for d in range(self._directions)] for layer in range(self.num_layers)]

    def _prepare(self, stages: list[list[Weights]]) -> list[list[Any]]:
        """The same in the backend's form."""
        cell, work = REGISTRY[self._cell], self._place.backend
        return [[work.prepare(cell, weights) for weights in stage] for stage in stages]

    def __getstate__(self):
        # a copy has these parameters as well; memory in use is no part of it
        self._asked = object()
        return {name: value for name, value in vars(self).items() if name != "_held"}

    def __setstate__(self, state):
        vars(self).update(state)
        self._held = HeldWeights(self)

    def __call__(self, x, state=None, *, lengths=None):
        """Inference: y, state at the end; nothing is kept and dropout is off.

        x : (T, N, I), or (N, T, I) with batch_first, or (T, I) unbatched
        state : (L*D, N, H), a pair (h0, c0) of them for an LSTM, (L*D, H) unbatched; zero by default
        lengths : (N,) steps of each row
        """
        if self._held.fit(x, state, lengths):
            return self._held.short(x)
        held = self._held.take()
        result = self._infer(held.form, x, state, lengths)
        self._held.give(held)
        return result

    def _infer(self, prepared, x, state, lengths):
        x, states, lengths, unbatched = self._arguments(x, state, lengths)
        y, ends, _, _ = self._stack(prepared, x, states, lengths, None)
        return self._result(y, ends, unbatched)

    def freeze(self) -> Frozen:
        """The layer for inference on the weights as they are now, copied and packed once."""
        own, there = copy.copy(self), self._place.arrays
        own.params = {name: there.copied(value) for name, value in self._params.items()}
        return Frozen(own)

    def stream(self, batch_size: int = 1) -> Stream | DeviceStream:
        """The layer one time step at a time, from a zero state, on the weights as they are now."""
        return self.freeze().stream(batch_size)

    # --- training

    def forward(self, x, state=None, *, lengths=None, rng=None):
        """Training: (y, state at the end), tape. Arguments as of a call; `rng` (a seed or Generator) draws the dropout."""
        if rng is None and self._held.fit(x, state, lengths):
            y, state, kept = self._held.short_forward(x)
            return (y, state), LayerTape(self._identity, [[kept]], [None], y.shape, False)
        x, states, lengths, unbatched = self._arguments(x, state, lengths)
        rng = self._rng if rng is None else np.random.default_rng(rng)
        held = self._held.take()
        y, ends, stages, masks = self._stack(held.form, x, states, lengths, rng)
        self._held.give(held)
        tape = LayerTape(self._identity, stages, masks, (x.shape[0], x.shape[1], self.hidden_size), unbatched)
        return self._result(y, ends, unbatched), tape

    def backward(self, tape, dy=None, dstate=None):
        """Gradients of a scalar through `forward`.

        dy : of y's shape; dstate : of the final state's shape (a pair, either may be None, for an LSTM); zero where missing
        Returns an object with x, state (of the initial state), params (a dictionary with the parameters' names).
        """
        if not isinstance(tape, LayerTape) or tape.layer != self._identity:
            raise TypeError(f"tape: got {type(tape).__name__}, wanted what this layer's forward gave")
        if self._held.fit_backward(tape, dy, dstate):
            return self._held.short_backward(tape, dy)
        (T, N, H), D, cell, (there, work) = tape.shape, self._directions, REGISTRY[self._cell], self._place
        dy = self._sequence("dy", dy, (T, N, D * H), tape.unbatched)
        ends = self._states("dstate", dstate, N, tape.unbatched)
        starts: list[list[Array]] = [[] for _ in ends]
        params: dict[str, Array] = {}
        for layer in reversed(range(self.num_layers)):
            dx, stage = None, []
            for d in reversed(range(D)):
                at = layer * D + d
                part = dy if dy is None or D == 1 else there.columns(dy, d * H, (d + 1) * H)
                g = work.backward(cell, tape.stages[layer][d], part, *(None if e is None else e[at] for e in ends))
                stage.insert(0, g)
                dx = g.x if dx is None else there.plus(dx, g.x)
                for kept, of_state in zip(starts, (g.h0, g.c0), strict=False):
                    kept.insert(0, of_state)
                params.update(zip(self._keys(layer, d), (g.w_ih, g.w_hh, g.b_ih, g.b_hh), strict=False))
            mask = tape.masks[layer]
            dy = dx if mask is None else there.times(dx, mask)
        dstates = [there.stacked(kept) for kept in starts]
        dx, state = self._result(dy, dstates, tape.unbatched)
        first = tuple(g for g in stage if g.table is not None)
        return LayerGradients(dx, state, {name: params[name] for name in self._params if name in params}, first)

    # --- the way through

    def _sequence(self, name, value, shape, unbatched):
        """A sequence argument as (T, N, ...)."""
        if value is None:
            return None
        there = self._place.arrays
        if unbatched:
            return there.lifted(there.as_array(name, value, (shape[0], shape[2]), self.dtype))
        if self.batch_first:
            return there.swapped(there.as_array(name, value, (shape[1], shape[0], shape[2]), self.dtype))
        return there.as_array(name, value, shape, self.dtype)

    def _states(self, name, state, N, unbatched):
        """A state argument as a list of (L*D, N, H) or None: h, and c for an LSTM."""
        memory = REGISTRY[self._cell].memory
        if memory and state is not None and not (isinstance(state, tuple | list) and len(state) == 2):
            raise TypeError(f"{name}: got {type(state).__name__}, wanted a pair (h, c)")
        if state is None:
            return [None] * (1 + memory)
        parts = state if memory else (state,)
        if all(p is None for p in parts):
            return list(parts)
        there, rows = self._place.arrays, self.num_layers * self._directions
        shape = (rows, self.hidden_size) if unbatched else (rows, N, self.hidden_size)
        labels = (f"{name}[0]", f"{name}[1]") if memory else (name,)
        checked = [there.optional(n, p, shape, self.dtype) for n, p in zip(labels, parts, strict=True)]
        return [p if p is None or not unbatched else there.lifted(p) for p in checked]

    def _arguments(self, x, state, lengths):
        there = self._place.arrays
        x = there.from_any("x", x)
        unbatched = x.ndim == 2
        sizes = ("T", "N", self.input_size) if not self.batch_first or unbatched else ("N", "T", self.input_size)
        x = there.as_array("x", x, (sizes[0], self.input_size) if unbatched else sizes, self.dtype)
        x = there.lifted(x) if unbatched else there.swapped(x) if self.batch_first else x
        T, N, _ = x.shape
        return x, self._states("state", state, N, unbatched), there.as_lengths(lengths, N, T), unbatched

    def _result(self, y, ends, unbatched):
        if unbatched:
            y, ends = y[:, 0], [e[:, 0] for e in ends]
        elif self.batch_first:
            y = self._place.arrays.swapped(y)
        return y, (tuple(ends) if len(ends) > 1 else ends[0])

    def _stack(self, prepared, x, states, lengths, rng, lookups=()):
        """Through all layers. rng None: inference; lookups : of the first layer's directions.

        Returns y, final states, tapes, dropout masks.
        """
        cell, (there, work), keep = REGISTRY[self._cell], self._place, rng is not None
        (T, N, _), H, D = x.shape, self.hidden_size, self._directions
        ends: list[list[Array]] = [[] for _ in states]
        stages, masks = [], []
        for layer in range(self.num_layers):
            mask = None
            if keep and layer and self.dropout:
                mask = there.placed(_dropout(rng, tuple(x.shape), self.dropout, self.dtype), x)
                x = there.times(x, mask)
            # the last layer's in the order of the caller's axes, so that it needs no copy
            y, batch_first = None, self.batch_first and layer == self.num_layers - 1
            if D > 1 or batch_first:
                y = there.empty((N, T, D * H) if batch_first else (T, N, D * H), x)
                y = there.swapped(y) if batch_first else y
            tapes = []
            for d in range(D):
                first = [None if s is None else s[layer * D + d] for s in states] + [None] * (2 - len(states))
                part = y if y is None or D == 1 else there.columns(y, d * H, (d + 1) * H)
                lookup = lookups[d] if lookups and not layer else None
                out = work.forward(cell, prepared[layer][d], x, *first, lengths, bool(d), keep, y=part, lookup=lookup)
                for end, value in zip(ends, out[1:3], strict=False):
                    end.append(value)
                tapes.append(out[3])
            stages.append(tapes)
            masks.append(mask)
            x = out[0] if y is None else y
        return x, [there.stacked(end) for end in ends], stages, masks


def _dropout(rng: Any, shape: tuple[int, ...], probability: float, dtype: Any) -> Array:
    """Factors: zero with that probability, else what keeps the mean."""
    kept = (rng.random(shape) >= probability).astype(np.float64 if dtype == np.float64 else np.float32)
    kept *= 0 if probability == 1 else 1 / (1 - probability)
    return kept


class RNN(Layer):
    """A stack of Elman layers, h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), or relu: `torch.nn.RNN` for NumPy.

    input_size, hidden_size : I and H; num_layers : L, each on the one below
    nonlinearity : "tanh" or "relu"; bias : False for none; batch_first : x and y are (N, T, ...)
    dropout : probability between layers, in `forward` only; bidirectional : a second direction, y is (T, N, 2H)
    dtype : float32 or float64; rng : a seed or Generator for U(-1/√H, 1/√H) weights and dropout

    >>> import numpy as np, fastrnn as fr
    >>> layer = fr.RNN(3, 4, rng=0)
    >>> y, h_n = layer(np.ones((5, 2, 3), np.float32))
    >>> y.shape, h_n.shape
    ((5, 2, 4), (1, 2, 4))
    """

    def __init__(self, input_size, hidden_size, num_layers=1, nonlinearity="tanh", bias=True, batch_first=False,
                 dropout=0.0, bidirectional=False, *, dtype=np.float32, rng=None):  # fmt: skip
        if f"rnn_{nonlinearity}" not in REGISTRY:
            raise ValueError(f"nonlinearity: got {nonlinearity!r}, wanted 'tanh' or 'relu'")
        self.nonlinearity, self._cell = nonlinearity, f"rnn_{nonlinearity}"
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype=dtype, rng=rng
        )


class GRU(Layer):
    """A stack of GRU layers, reset after the product (equations: `fastrnn.gru`): `torch.nn.GRU` for NumPy.

    Arguments as of `RNN`, without the nonlinearity.

    >>> import numpy as np, fastrnn as fr
    >>> layer = fr.GRU(3, 4, num_layers=2, bidirectional=True, rng=0)
    >>> (y, h_n), tape = layer.forward(np.ones((5, 2, 3), np.float32))
    >>> grads = layer.backward(tape, dy=np.ones_like(y))
    >>> y.shape, h_n.shape, grads.params["weight_ih_l1_reverse"].shape
    ((5, 2, 8), (4, 2, 4), (12, 8))
    """

    _cell = "gru"


class LSTM(Layer):
    """A stack of LSTM layers (equations: `fastrnn.lstm`): `torch.nn.LSTM` for NumPy. The state is a pair (h, c).

    Arguments as of `RNN`, without the nonlinearity.

    >>> import numpy as np, fastrnn as fr
    >>> layer = fr.LSTM(3, 4, batch_first=True, rng=0)
    >>> y, (h_n, c_n) = layer(np.ones((2, 5, 3), np.float32), lengths=[5, 3])
    >>> y.shape, float(abs(y[1, 3:]).max())
    ((2, 5, 4), 0.0)
    """

    _cell = "lstm"
