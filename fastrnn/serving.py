"""Layers in service: short calls, weights packed once (Frozen), and one time step at a time (Stream)."""

from collections.abc import Callable
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from fastrnn.arrays import as_array, as_size, from_any
from fastrnn.backend import backend
from fastrnn.cells import REGISTRY
from fastrnn.tapes import LayerGradients, LayerTape

# of a short call: numbers in a state of all rows, rows times weights, which is within one call of a kernel
_STATE, _WORK = 1 << 16, 1 << 32
_SMALL = 1 << 16  # tokens of a short call


class Spares:
    """What calls need laid out, by the kind of call, to be used again: each by one call at a time."""

    _KINDS = 16  # for which something is kept

    def __init__(self) -> None:
        self._kept: dict[Any, list[Any]] = {}  # that are not in use

    def take(self, kind: Any) -> Any:
        """One of that kind, or None."""
        try:
            return self._kept[kind].pop()  # another thread's call has another one
        except (KeyError, IndexError):
            return None

    def give(self, kind: Any, spare: Any) -> None:
        kept = self._kept.get(kind)
        if kept is None:
            if len(self._kept) >= self._KINDS:
                self._kept.clear()
            kept = self._kept.setdefault(kind, [])
        kept.append(spare)


class ShortCalls:
    """Which calls of a layer are short, and how they are carried out: in inference on memory laid out once for a shape."""

    def __init__(self, layer: Any):
        self._cell = REGISTRY[layer._cell]
        # a single layer in one direction, on the host, its time axis first
        self.plain = layer.num_layers == 1 and not (layer.bidirectional or layer.batch_first or layer.on_device)
        self._dtype, self._inputs, self._outputs = layer.dtype, layer.input_size, layer.hidden_size
        self._keys = layer._keys(0, 0)
        self.weights = sum(map(prod, layer._shapes().values()))  # numbers

    def fit(self, x: Any, state: Any, lengths: Any) -> bool:
        """Whether these arguments make a short call: a single plain layer, a fraction of a second, from a zero state."""
        return (
            self.plain and state is None and lengths is None and type(x) is np.ndarray and x.ndim == 3 and x.size > 0
            and x.dtype == self._dtype and x.shape[2] == self._inputs and x.shape[1] * self._outputs <= _STATE
            and x.shape[0] * x.shape[1] * self.weights <= _WORK
        )  # fmt: skip

    def fit_tokens(self, tokens: Any, lengths: Any) -> bool:
        """The same of tokens (T, N), whose sums are looked up."""
        return self.plain and lengths is None and 0 < tokens.size <= _SMALL and tokens.size * self.weights <= _WORK

    def run(self, spares: Spares, form: Any, x: Any, table: Any = None) -> Any:
        """y, state at the end. spares : calls on this form of the weights, by the shape of x.

        table : of a lookup, whose tokens are given instead of x
        """
        call = _laid_out(spares, x.shape, lambda: backend().bound(self._cell, form[0][0], *x.shape[:2], table))
        y = call.run(x)
        state = self._state(call.h.copy(), call.c.copy() if self._cell.memory else None)
        spares.give(x.shape, call)
        return y, state

    def forward(self, spares: Spares, form: Any, x: Any) -> Any:
        """y, state at the end, the backend's tape. Arguments as of `run`."""
        kind = x.shape[:2]
        call = _laid_out(spares, kind, lambda: backend().training(self._cell, form[0][0], *kind))
        y, h, c, kept = call.forward(x)
        spares.give(kind, call)
        return y, self._state(h, c), kept

    def backward(self, spares: Spares, tape: LayerTape, dy: Any) -> LayerGradients:
        """The gradients, of a zero state's as well. spares : where the call may be that gave the tape"""
        dy, kept, kind = as_array("dy", dy, tape.shape, self._dtype), tape.stages[0][0], tape.shape[:2]
        call = spares.take(kind)
        fits = call is not None and call.fit(kept, dy)
        g = call.backward(kept, dy) if fits else backend().backward(self._cell, kept, dy)
        if call is not None:
            spares.give(kind, call)
        params = dict(zip(self._keys, (g.w_ih, g.w_hh, g.b_ih, g.b_hh), strict=False))
        return LayerGradients(g.x, self._state(g.h0, g.c0), params, () if g.table is None else (g,))

    def _state(self, h: Any, c: Any) -> Any:
        return (h[None], c[None]) if self._cell.memory else h[None]


def _laid_out(spares: Spares, kind: Any, make: Callable[[], Any]) -> Any:
    """A call of that kind for the threads of now."""
    call = spares.take(kind)
    return make() if call is None or call.outgrown() else call


class Frozen:
    """A layer's weights, copied and packed once; called as the layer is."""

    def __init__(self, layer: Any):
        """layer : a layer of this object's own"""
        self._layer, self._prepared = layer, layer._prepare(layer._stages())
        self._short, self._calls = ShortCalls(layer), Spares()

    def __call__(self, x, state=None, *, lengths=None):
        """Inference: y, state at the end; arguments as of the layer's own call."""
        if self._short.fit(x, state, lengths):
            return self._short.run(self._calls, self._prepared, x)
        return self._layer._infer(self._prepared, x, state, lengths)

    def stream(self, batch_size: int = 1) -> "Stream | DeviceStream":
        """One time step at a time, from a zero state, sharing these weights."""
        kind = DeviceStream if self._layer.on_device else Stream
        return kind(self._layer, self._prepared, as_size("batch_size", batch_size))

    def __reduce__(self):
        # packed weights are known by their address: a copy packs its own
        return Frozen, (self._layer,)

    def __repr__(self) -> str:
        return f"<frozen {self._layer!r}>"


def _check_one_way(layer: Any) -> None:
    if layer.bidirectional:
        raise ValueError("stream: got a bidirectional layer, whose second direction starts at the end; wanted one way")


class Stream:
    """A layer one time step at a time: `step` reads x_t and moves the state on, without allocating.

    >>> import numpy as np, fastrnn as fr
    >>> s = fr.GRU(3, 4, rng=0).stream()
    >>> s.step(np.ones(3, np.float32)).shape, s.state.shape
    ((4,), (1, 1, 4))
    """

    def __init__(self, layer: Any, prepared: Any, batch_size: int):
        _check_one_way(layer)
        work, cell = layer._place.backend, REGISTRY[layer._cell]
        self._stages = stages = [work.stream(cell, stage[0], batch_size) for stage in prepared]
        self._memory, self._shape = cell.memory, (batch_size, layer.input_size)
        # what every step needs, which takes microseconds
        self._first, self._above, y = stages[0], list(pairwise(stages)), stages[-1].y
        self._y = {1: y[0], 2: y}

    def step(self, x_t, out=None):
        """One step. x_t : (N, I), or (I,) for one row; out : where y_t goes, (N, H) or (H,), a new array by default."""
        first = self._first
        kind = first.x.dtype
        if type(x_t) is not np.ndarray or (x_t.dtype is not kind and x_t.dtype != kind):
            x_t = from_any("x_t", x_t)
            x_t = as_array("x_t", x_t, ("I",) if x_t.ndim == 1 else ("N", "I"), kind)
        if x_t.shape != self._shape and not (self._shape[0] == 1 and x_t.shape == self._shape[1:]):
            raise ValueError(f"x_t: got shape {x_t.shape}, wanted {self._shape}")
        y = self._y[x_t.ndim]
        if out is not None:
            if type(out) is not np.ndarray or out.shape != y.shape or (out.dtype is not kind and out.dtype != kind):
                raise ValueError(f"out: got {getattr(out, 'dtype', type(out))} {np.shape(out)}, wanted {kind} {y.shape}")
            if not out.flags.writeable:
                raise ValueError("out: got a read-only array, wanted one that can be written")
        first.x[...] = x_t
        first.step()
        for below, stage in self._above:
            stage.x[...] = below.y
            stage.step()
        if out is None:
            return y.copy()
        out[...] = y
        return out

    def __reduce__(self):
        raise TypeError("a stream is bound to its memory and cannot be copied; take another from layer.stream()")

    @property
    def state(self):
        """The state now, a copy: (L, N, H), a pair (h, c) for an LSTM."""
        h = np.stack([stage.h for stage in self._stages])
        return (h, np.stack([stage.c for stage in self._stages])) if self._memory else h

    def reset(self, rows: Any = None) -> None:
        """Set the state to zero: of every row, or of `rows` (anything that indexes an axis of N)."""
        rows = slice(None) if rows is None else rows
        for stage in self._stages:
            stage.h[rows] = 0
            stage.c[rows] = 0


class DeviceStream:
    """The same on a device: calls of one step, each from the state that the one before left."""

    def __init__(self, layer: Any, prepared: Any, batch_size: int):
        _check_one_way(layer)
        self._layer, self._prepared, self._N = layer, prepared, batch_size
        self._states: list[Any] = []

    def step(self, x_t, out=None):
        """One step. x_t : (N, I), or (I,) for one row; out : where y_t goes, (N, H) or (H,), a new array by default."""
        layer, there, N = self._layer, self._layer._place.arrays, self._N
        single = N == 1 and len(x_t.shape) == 1
        I = layer.input_size
        x_t = there.contiguous("x_t", x_t, (I,) if single else (N, I), layer.dtype).reshape(1, N, I)
        self._states = self._states or self._start(x_t)
        y, self._states, _, _ = layer._stack(self._prepared, x_t, self._states, None, None)
        y = y[0, 0] if single else y[0]
        return y if out is None else there.copy(y, there.as_array("out", out, tuple(y.shape), layer.dtype))

    def _start(self, like: Any) -> list[Any]:
        layer = self._layer
        shape = (layer.num_layers, self._N, layer.hidden_size)
        return [layer._place.arrays.zeros(shape, like) for _ in range(1 + REGISTRY[layer._cell].memory)]

    @property
    def state(self):
        """The state now, a copy: (L, N, H), a pair (h, c) for an LSTM."""
        there = self._layer._place.arrays
        states = [there.copied(s) for s in self._states or self._start(next(iter(self._layer._params.values())))]
        return tuple(states) if len(states) > 1 else states[0]

    def reset(self, rows: Any = None) -> None:
        """Set the state to zero: of every row, or of `rows`, indices of the batch."""
        if rows is None:
            self._states = []
        else:
            there = self._layer._place.arrays
            keep = np.ones((self._N, 1))
            keep[rows] = 0
            factors = np.broadcast_to(keep, (self._layer.num_layers, self._N, self._layer.hidden_size))
            self._states = [there.times(s, there.placed(np.ascontiguousarray(factors), s)) for s in self._states]
