"""What a layer's forward keeps, and what its backward gives. Not frozen: making those takes a microsecond more."""

from dataclasses import dataclass
from itertools import chain
from typing import Any

from fastrnn.contract import Array


@dataclass(eq=False)
class LayerTape:
    """What a layer's `forward` keeps for its `backward`; it owns its memory and can be used more than once."""

    layer: str
    stages: list[list[Any]]  # the backend's tapes, [layer][direction]
    masks: list[Array | None]  # dropout's factors on the input of each layer
    shape: tuple[int, int, int]  # T, N, H of every direction
    unbatched: bool

    @property
    def nbytes(self) -> int:
        """Bytes kept for backward."""
        return sum(int(kept.nbytes) for kept in chain(*self.stages, self.masks) if kept is not None)


@dataclass(eq=False)
class LayerGradients:
    """Gradients of a layer: of its input, of its initial state, and of its parameters by name."""

    x: Array
    state: Any  # (L*D, N, H), or a pair of them for an LSTM
    params: dict[str, Array]
    first: tuple[Any, ...] = ()  # the backend's, of the first layer's directions where they look sums up
