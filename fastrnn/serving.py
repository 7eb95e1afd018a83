"""Layers in service: weights packed once (Frozen), and one time step at a time (Stream)."""

from typing import Any

import numpy as np

from fastrnn.arrays import as_array, as_size, from_any
from fastrnn.backend import backend
from fastrnn.cells import REGISTRY

_SMALL, _SHAPES = 2048, 16  # numbers in the x of a short call; shapes for which such calls are kept


class Frozen:
    """A layer's weights, copied and packed once; called as the layer is."""

    def __init__(self, layer: Any):
        """layer : a layer of this object's own"""
        self._layer, self._prepared = layer, layer._prepare()
        self._plain = layer.num_layers == 1 and not layer.bidirectional and not layer.batch_first
        self._dtype, self._memory = layer.dtype, REGISTRY[layer._cell].memory
        self._bound: dict[tuple[int, ...], list[Any]] = {}  # shape of x -> calls laid out for it, not in use

    def __call__(self, x, state=None, *, lengths=None):
        """Inference: y, state at the end; arguments as of the layer's own call."""
        if (
            state is None and lengths is None and self._plain and type(x) is np.ndarray and x.ndim == 3
            and 0 < x.size <= _SMALL and x.dtype == self._dtype and x.shape[2] == self._layer.input_size
        ):  # fmt: skip
            return self._small(x)
        return self._layer._infer(self._prepared, x, state, lengths)

    def _small(self, x):
        """A short call, which takes as long as its arrays take to make: on memory that is laid out once."""
        kept = self._bound.get(x.shape)
        if kept is None:
            if len(self._bound) >= _SHAPES:
                self._bound.clear()
            kept = self._bound[x.shape] = []
        try:
            call = kept.pop()  # another thread's call has another one
        except IndexError:
            call = backend().bound(REGISTRY[self._layer._cell], self._prepared[0][0], *x.shape[:2])
        call.x[...] = x
        call.run()
        y, h = call.y.copy(), call.h[None].copy()
        state = (h, call.c[None].copy()) if self._memory else h
        kept.append(call)
        return y, state

    def stream(self, batch_size: int = 1) -> "Stream":
        """One time step at a time, from a zero state, sharing these weights."""
        return Stream(self._layer, self._prepared, as_size("batch_size", batch_size))

    def __reduce__(self):
        # packed weights are known by their address: a copy packs its own
        return Frozen, (self._layer,)

    def __repr__(self) -> str:
        return f"<frozen {self._layer!r}>"


class Stream:
    """A layer one time step at a time: `step` reads x_t and moves the state on, without allocating.

    >>> import numpy as np, fastrnn as fr
    >>> s = fr.GRU(3, 4, rng=0).stream()
    >>> s.step(np.ones(3, np.float32)).shape, s.state.shape
    ((4,), (1, 1, 4))
    """

    def __init__(self, layer: Any, prepared: Any, batch_size: int):
        if layer.bidirectional:
            raise ValueError("stream: got a bidirectional layer, whose second direction starts at the end; wanted one way")
        work, cell = backend(), REGISTRY[layer._cell]
        self._stages = [work.stream(cell, stage[0], batch_size) for stage in prepared]
        self._memory, self._shape = cell.memory, (batch_size, layer.input_size)

    def step(self, x_t, out=None):
        """One step. x_t : (N, I), or (I,) for one row; out : where y_t goes, (N, H) or (H,), a new array by default."""
        first, last = self._stages[0], self._stages[-1]
        if type(x_t) is not np.ndarray or x_t.dtype != first.x.dtype:
            x_t = from_any("x_t", x_t)
            x_t = as_array("x_t", x_t, ("I",) if x_t.ndim == 1 else ("N", "I"), first.x.dtype)
        if x_t.shape != self._shape and not (self._shape[0] == 1 and x_t.shape == self._shape[1:]):
            raise ValueError(f"x_t: got shape {x_t.shape}, wanted {self._shape}")
        y = last.y if x_t.ndim == 2 else last.y[0]
        if out is not None and (type(out) is not np.ndarray or out.shape != y.shape or out.dtype != y.dtype):
            raise ValueError(f"out: got {getattr(out, 'dtype', type(out))} {np.shape(out)}, wanted {y.dtype} {y.shape}")
        if out is not None and not out.flags.writeable:
            raise ValueError("out: got a read-only array, wanted one that can be written")
        first.x[...] = x_t
        first.step()
        for below, stage in zip(self._stages, self._stages[1:], strict=False):
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
