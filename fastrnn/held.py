"""A layer's weights in the backend's form, held from call to call, and packed anew where they may have changed.

Nobody can have changed them who has never had them. A layer hands its parameters out in one place, which notes it
(`Parameterised.params`), and how many refer to a NumPy array, Python counts. So it is known whether the layer was the only
one to have the arrays when a form was made, and whether anybody has asked for them since. Whatever else reaches an array's
memory (a view, a buffer, a tensor) refers to the array as long as it lives; NumPy's `resize` relies on the same count.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastrnn.contract import Weights
from fastrnn.serving import ShortCalls, Spares

Stages = list[list[Weights]]  # [layer][direction]


@dataclass(eq=False)
class _Held:
    form: Any  # the backend's, [layer][direction]
    sources: Stages  # what it is made from
    note: object = None  # the layer's when it was made, or None: others had the parameters
    calls: Spares = field(default_factory=Spares)  # short ones on it


class HeldWeights:
    """A layer's weights in the backend's form; a form is used by one call at a time."""

    _MOST, _SIZE = 2, 1 << 24  # how many forms are held, of how many numbers at most

    def __init__(self, layer: Any):
        self._layer, self._short = layer, ShortCalls(layer)
        self._spare: list[_Held] = []
        self._sources: Stages = []  # of all forms, so that they add one to the count of who has the arrays

    def fit(self, x: Any, state: Any, lengths: Any) -> bool:
        return self._short.weights <= self._SIZE and self._short.fit(x, state, lengths)

    def short(self, x: Any) -> Any:
        """A call that fits."""
        held = self._take()
        result = self._short.run(held.calls, held.form, x)
        self._give(held)
        return result

    @contextmanager
    def prepared(self) -> Iterator[Any]:
        """The weights as they are now, for one call of any kind."""
        held = self._take()
        yield held.form
        self._give(held)

    def _take(self) -> _Held:
        note = self._layer._asked  # before it is counted who has the arrays
        try:
            held = self._spare.pop()  # another thread's call has another one
        except IndexError:
            held = None
        if held is not None and held.note is note:
            return held
        sources, alone = self._current(), _alone(self._layer)
        if held is not None and held.sources is sources:
            for stage in held.form:
                for one in stage:
                    self._layer._place.backend.refresh(one)
        else:
            held = _Held(self._layer._prepare(sources), sources)
        held.note = note if alone else None
        return held

    def _give(self, held: _Held) -> None:
        if held.sources is self._sources and len(self._spare) < self._MOST:
            self._spare.append(held)

    def _current(self) -> Stages:
        """The weights as the layer has them; the same list as long as the parameters are the same arrays, if forms of them
        are held: where they are not many, and need not be converted."""
        params = list(self._layer._params.values())
        if not _are(params, self._sources):
            stages = self._layer._stages()
            if self._short.weights > self._SIZE or not _are(params, stages):
                return stages
            self._sources = stages
        return self._sources


def _are(params: list[Any], stages: Stages) -> bool:
    """Whether the weights are these arrays."""
    weights = [w for stage in stages for of_one in stage for w in of_one if w is not None]
    return len(weights) == len(params) and all(a is b for a, b in zip(weights, params, strict=True))


def _alone(layer: Any) -> bool:
    """Whether nobody else has the parameters: plain arrays that own their memory."""
    plain = all(type(array) is np.ndarray and array.flags.owndata for array in layer._params.values())
    return plain and _references(layer) == _ALONE


def _references(layer: Any) -> tuple[int, int]:
    """How many refer to the parameters, and to that array among them to which most refer."""
    params, most = layer._params, 0
    for array in params.values():
        most = max(most, sys.getrefcount(array))
    return sys.getrefcount(params), most


class _Alone:
    """Parameters that nobody else has: in a dictionary, and in the sources of forms."""

    def __init__(self) -> None:
        w_ih, w_hh = np.empty(1), np.empty(1)
        self._params, self._sources = {"weight_ih": w_ih, "weight_hh": w_hh}, Weights(w_ih, w_hh)


_ALONE = _references(_Alone())
