"""The kinds of device arrays: Numba's own, CuPy's, PyTorch's. What is made, seen and moved differs from library to library.

Results are of the kind of the first argument, in memory that its library manages; kernels run on that library's current
stream. A library is not imported here: an array of its kind shows that it is there.
"""

import sys
from functools import cache, lru_cache
from typing import Any

from numba import cuda

from fastrnn.cuda.scalars import stored_as
from fastrnn.cuda.target import SIMULATED


def dtype_of(x: Any) -> str:
    """The name of an array's type, or of a type."""
    return str(getattr(x, "dtype", x)).removeprefix("torch.")


@cache
def _own_stream() -> Any:
    return cuda.default_stream()


@lru_cache(64)
def _stream(pointer: int) -> Any:
    """One object for a stream of another library: launches are kept by it."""
    return cuda.external_stream(pointer)


class Numba:
    """Numba's device arrays."""

    def empty(self, shape: Any, dtype: str, like: Any) -> Any:
        """A new array on the device of `like`."""
        return cuda.device_array(shape, stored_as(dtype))

    def view(self, x: Any) -> Any:
        """The same memory as Numba's array; bfloat16 as 16 bits."""
        return x

    def stream(self) -> Any:
        """The one in use."""
        return _own_stream()

    def device(self, x: Any) -> int:
        """The number of the device that x is on."""
        return 0 if SIMULATED else cuda.get_current_device().id

    def from_host(self, x: Any, like: Any) -> Any:
        return cuda.to_device(x.astype(like.dtype))

    def to_host(self, x: Any) -> Any:
        return x.copy_to_host()

    def contiguous(self, x: Any, name: str) -> Any:
        """x, or a contiguous copy."""
        if not x.is_c_contiguous():
            raise ValueError(f"{name}: got a strided array of Numba, wanted a contiguous one")
        return x

    def lifted(self, x: Any) -> Any:
        """x[:, None]"""
        return x.reshape(x.shape[0], 1, x.shape[1])

    def swapped(self, x: Any) -> Any:
        """A view with the first two of three axes swapped."""
        if SIMULATED:
            return x.transpose((1, 0, 2))
        (a, b, c), (step_a, step_b, step_c) = x.shape, x.strides
        return self._view(x, 0, (b, a, c), (step_b, step_a, step_c))

    def columns(self, x: Any, start: int, end: int) -> Any:
        """x[:, :, start:end], a view; Numba's own slicing takes a time that grows with the rows."""
        if SIMULATED:
            return x[:, :, start:end]
        return self._view(x, start * x.strides[2], (*x.shape[:2], end - start), x.strides)

    @staticmethod
    def _view(x: Any, offset: int, shape: Any, strides: Any) -> Any:
        said = x.__cuda_array_interface__
        pointer, read_only = said["data"]
        said |= {"shape": shape, "strides": strides, "data": (pointer + offset, read_only)}
        return cuda.from_cuda_array_interface(said, owner=x, sync=False)


class CuPy(Numba):
    """CuPy's."""

    def empty(self, shape, dtype, like):
        with like.device:
            return sys.modules["cupy"].empty(shape, dtype)

    def view(self, x):
        # without a wait for the producer's stream, which is the one that kernels run on
        return cuda.from_cuda_array_interface(x.__cuda_array_interface__, owner=x, sync=False)

    def stream(self):
        return _stream(sys.modules["cupy"].cuda.get_current_stream().ptr)

    def device(self, x):
        return x.device.id

    def from_host(self, x, like):
        with like.device:
            return sys.modules["cupy"].asarray(x, like.dtype)

    def to_host(self, x):
        return x.get()

    def contiguous(self, x, name):
        return sys.modules["cupy"].ascontiguousarray(x)

    def lifted(self, x):
        return x[:, None]

    def swapped(self, x):
        return x.swapaxes(0, 1)

    def columns(self, x, start, end):
        return x[:, :, start:end]


class Torch(CuPy):
    """PyTorch's."""

    def empty(self, shape, dtype, like):
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)

    def view(self, x):
        torch = sys.modules["torch"]
        return super().view(x.view(torch.int16) if x.dtype == torch.bfloat16 else x)

    def stream(self):
        return _stream(sys.modules["torch"].cuda.current_stream().cuda_stream)

    def device(self, x):
        return x.device.index

    def contiguous(self, x, name):
        return x.contiguous()

    def from_host(self, x, like):
        return sys.modules["torch"].from_numpy(x).to(like.device, like.dtype)

    def to_host(self, x):
        return (x.float() if x.dtype == sys.modules["torch"].bfloat16 else x).cpu().numpy()


_KINDS = {"numba": Numba(), "cupy": CuPy(), "torch": Torch()}


def kind_of(x: Any, name: str = "x") -> Numba:
    """How arrays like x are handled; TypeError if they are not known."""
    library = type(x).__module__.partition(".")[0]
    if library not in _KINDS:
        raise TypeError(f"{name}: got a {library} {type(x).__name__}, wanted a device array of CuPy, PyTorch or Numba")
    return _KINDS[library]
