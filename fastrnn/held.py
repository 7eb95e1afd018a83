"""A layer's weights in the backend's form, held from call to call, and packed anew where they may have changed.

Nobody can have changed them who has never had them. A layer hands its parameters out in one place, which notes it
(`Parameterised.params`), and how many refer to a NumPy array, Python counts. So it is known whether the layer was the only
one to have the arrays when a form was made, and whether anybody has asked for them since. Whatever else reaches an array's
memory (a view, a buffer, a tensor) refers to the array as long as it lives; NumPy's `resize` relies on the same count.
"""

import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from operator import is_
from typing import Any

import numpy as np

from fastrnn.contract import Weights
from fastrnn.serving import ShortCalls, Spares
from fastrnn.tapes import LayerGradients, LayerTape

Stages = list[list[Weights]]  # [layer][direction]


@dataclass(eq=False)
class Held:
    form: Any  # the backend's, [layer][direction]
    sources: Stages  # what it is made from
    note: object = None  # the layer's when it was made, or None: others had the parameters
    calls: Spares = field(default_factory=Spares)  # short ones on it


class HeldWeights:
    """A layer's weights in the backend's form; a form is used by one call at a time."""

    _MOST, _SIZE = 2, 1 << 24  # how many forms are held, of how many numbers at most

    def __init__(self, layer: Any):
        self._layer, self._short = layer, ShortCalls(layer)
        self._spare: list[Held] = []
        self._sources: Stages = []  # of all forms, so that they add as much to the count of who has the arrays
        self._arrays: list[Any] = []  # the same side by side
        self._own = False  # whether they are plain arrays that own their memory

    def fit(self, x: Any, state: Any, lengths: Any) -> bool:
        return self._short.weights <= self._SIZE and self._short.fit(x, state, lengths)

    def short(self, x: Any) -> Any:
        """A call that fits."""
        held = self.take()
        result = self._short.run(held.calls, held.form, x)
        self.give(held)
        return result

    def short_forward(self, x: Any) -> Any:
        """The same in training: y, the state at the end, the backend's tape."""
        held = self.take()
        result = self._short.forward(held.calls, held.form, x)
        self.give(held)
        return result

    def fit_backward(self, tape: LayerTape, dy: Any, dstate: Any) -> bool:
        return self._short.plain and dy is not None and dstate is None and not tape.unbatched

    def short_backward(self, tape: LayerTape, dy: Any) -> LayerGradients:
        """The gradients, where they fit."""
        try:
            calls = self._spare[-1].calls  # whatever weights they are for: a tape has its own
        except IndexError:
            calls = Spares()
        return self._short.backward(calls, tape, dy)

    def take(self) -> Held:
        """The weights as they are now, for one call of any kind, to be given back after it."""
        note = self._layer._asked  # before it is counted who has the arrays
        try:
            held = self._spare.pop()  # another thread's call has another one
        except IndexError:
            held = None
        if held is not None and held.note is note:
            return held
        sources = self._current()
        alone = sources is self._sources and self._own and _references(self._layer) == _ALONE
        if held is not None and held.sources is sources:
            for stage in held.form:
                for one in stage:
                    self._layer._place.backend.refresh(one)
        else:
            held = Held(self._layer._prepare(sources), sources)
        held.note = note if alone else None
        return held

    def give(self, held: Held) -> None:
        if held.sources is self._sources and len(self._spare) < self._MOST:
            self._spare.append(held)

    def _current(self) -> Stages:
        """The weights as the layer has them; the same list as long as the parameters are the same arrays, if forms of them
        are held: where they are not many, and need not be converted."""
        params = self._layer._params.values()
        if not _same(params, self._arrays):
            stages = self._layer._stages()
            arrays = [w for stage in stages for of_one in stage for w in of_one if w is not None]
            if self._short.weights > self._SIZE or not _same(params, arrays):
                return stages
            # the arrays last: another thread takes what it finds with them for theirs
            self._own = all(type(array) is np.ndarray and array.flags.owndata for array in arrays)
            self._sources, self._arrays = stages, arrays
        return self._sources


def _same(params: Collection[Any], arrays: list[Any]) -> bool:
    """Whether the parameters are these arrays."""
    return len(params) == len(arrays) and all(map(is_, params, arrays))


def _references(layer: Any) -> tuple[int, int]:
    """How many refer to the parameters, and to that array among them to which most refer."""
    params = layer._params
    return sys.getrefcount(params), max(map(sys.getrefcount, params.values()))


class _Alone:
    """Parameters that nobody else has: in a dictionary, and in the sources of forms, twice."""

    def __init__(self) -> None:
        w_ih, w_hh = np.empty(1), np.empty(1)
        self._params, self._sources = {"weight_ih": w_ih, "weight_hh": w_hh}, Weights(w_ih, w_hh)
        self._arrays = [w_ih, w_hh]


_ALONE = _references(_Alone())
