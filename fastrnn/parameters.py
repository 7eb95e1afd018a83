"""Parameters by name: a model's are those of its parts, each under the part's name."""

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np

from fastrnn.arrays import DTYPES, from_any, on_device
from fastrnn.backend import Place, place_of
from fastrnn.contract import Array


class Joined(MutableMapping[str, Array]):
    """The parameters of parts as one mapping: "part.name" -> array; reading and writing reach the parts."""

    def __init__(self, parts: Mapping[str, MutableMapping[str, Array]]):
        self._parts = parts

    def without(self, part: str) -> "Joined":
        """The same but for a part, which has its place elsewhere."""
        return Joined({name: params for name, params in self._parts.items() if name != part})

    def _find(self, name: str) -> tuple[MutableMapping[str, Array], str]:
        part, _, rest = name.partition(".")
        if part not in self._parts:
            raise KeyError(name)
        return self._parts[part], rest

    def __getitem__(self, name: str) -> Array:
        part, rest = self._find(name)
        return part[rest]

    def __setitem__(self, name: str, value: Array) -> None:
        part, rest = self._find(name)
        if rest not in part:
            raise KeyError(name)
        part[rest] = value

    def __delitem__(self, name: str) -> None:
        raise TypeError("the parameters of a model cannot be removed")

    def __iter__(self) -> Iterator[str]:
        return (f"{part}.{name}" for part, params in self._parts.items() for name in params)

    def __len__(self) -> int:
        return sum(map(len, self._parts.values()))

    def __repr__(self) -> str:
        return f"{{{', '.join(f'{name}: {value.shape}' for name, value in self.items())}}}"


class Parameterised:
    """What has `params`, a mapping of names to arrays of `dtype`."""

    _params: MutableMapping[str, Array]
    _asked: object  # another one each time that the parameters are handed out: who has them may change them
    dtype: Any

    @property
    def params(self) -> MutableMapping[str, Array]:
        """Names to arrays, which may be changed in place and replaced."""
        # in this order: one who counts how many have them misses nobody (see held.py)
        params = self._params
        self._asked = object()
        return params

    @params.setter
    def params(self, params: MutableMapping[str, Array]) -> None:
        self._params, self._asked = params, object()

    @property
    def on_device(self) -> bool:
        """Whether the parameters are in a GPU's memory."""
        return on_device(next(iter(self._params.values())))

    @property
    def _place(self) -> Place:
        """Where the parameters are."""
        return place_of(*next(iter(self._params.items())))

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: value.shape for name, value in self._params.items()}

    def state_dict(self) -> dict[str, Array]:
        """A copy of the parameters by name, on the host."""
        return {name: np.array(place_of(name, p).arrays.to_host(p)) for name, p in self._params.items()}

    def load_state_dict(self, state: Any) -> None:
        """Take copies of the parameters in `state`, a mapping of every name to an array or torch tensor of its shape.

        Raises ValueError for a missing or unknown name or a wrong shape, before anything is changed.
        """
        shapes = self._shapes()
        if not isinstance(state, Mapping):
            raise TypeError(f"state: got {type(state).__name__}, wanted a mapping of names to arrays")
        missing, unknown = sorted(set(shapes) - set(state)), sorted(set(state) - set(shapes))
        if missing or unknown:
            raise ValueError(f"state: got no {missing} and unknown {unknown}, wanted exactly {sorted(shapes)}")
        taken = {}
        for name, shape in shapes.items():
            value = state[name]
            value = from_any(name, value.detach().cpu() if hasattr(value, "detach") else value)
            if value.dtype.kind != "f":
                raise TypeError(f"{name}: got dtype {value.dtype}, wanted floating point")
            if value.shape != shape:
                raise ValueError(f"{name}: got shape {value.shape}, wanted {shape}")
            there, like = place_of(name, self._params[name]).arrays, self._params[name]
            taken[name] = there.placed(np.array(value, self.dtype if self.dtype in DTYPES else np.float32, order="C"), like)
        self.params.update(taken)
