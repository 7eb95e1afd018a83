"""The kinds of device arrays: Numba's own, CuPy's, PyTorch's. What is made, seen and moved differs from library to library.

Results are of the kind of the first argument, in memory that its library manages; kernels run on that library's current
stream. A library is not imported here: an array of its kind shows that it is there.
"""

import sys
from functools import cache, lru_cache
from typing import Any

from numba import cuda

from fastrnn.cuda.launching import Memory, current_device
from fastrnn.cuda.scalars import stored_as
from fastrnn.cuda.target import SIMULATED


def dtype_of(x: Any) -> str:
    """The name of an array's type, or of a type."""
    return _name(getattr(x, "dtype", x))


@lru_cache(64)
def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _stored(x: Any) -> str:
    """The name of the type that kernels see."""
    name = dtype_of(x)
    return "int16" if name == "bfloat16" else name


@cache
def _own_stream() -> int:
    return 0 if SIMULATED else int(cuda.default_stream().handle or 0)


@lru_cache(64)
def stream_of(handle: int) -> Any:
    """Numba's object for a stream."""
    return cuda.external_stream(handle) if handle and not SIMULATED else 0


class Numba:
    """Numba's device arrays."""

    def empty(self, shape: Any, dtype: str, like: Any) -> Any:
        """A new array on the device of `like`."""
        return cuda.device_array(shape, stored_as(dtype))

    def view(self, x: Any) -> Any:
        """The same memory as kernels see it; bfloat16 as 16 bits. In the simulator, an array of Numba's."""
        if SIMULATED:
            return self.simulated(x)
        return Memory(*self.place(x), _stored(x), x)

    def flat(self, x: Any) -> Any:
        """The same of a contiguous array, on one axis."""
        if SIMULATED:
            return self.simulated(x).ravel()
        assert self.dense(x)
        return Memory(self.pointer(x), (self.size(x),), None, _stored(x), x)

    def held(self, x: Any) -> Any:
        """The same for many calls."""
        memory = self.flat(x)
        if not SIMULATED:
            memory.matrices = {}
        return memory

    def simulated(self, x: Any) -> Any:
        return x

    def size(self, x: Any) -> int:
        """How many numbers it has."""
        return x.size

    def dense(self, x: Any) -> bool:
        """Whether it is contiguous."""
        return x.is_c_contiguous()

    def pointer(self, x: Any) -> int:
        """Where it is."""
        return x.__cuda_array_interface__["data"][0]

    def place(self, x: Any) -> tuple[int, tuple[int, ...], tuple[int, ...] | None]:
        """The same, its shape and its strides in bytes, or None where it is contiguous."""
        return self.pointer(x), x.shape, x.strides

    def stream(self) -> int:
        """The handle of the one in use."""
        return _own_stream()

    def device(self, x: Any) -> int:
        """The number of the device that x is on."""
        return 0 if SIMULATED else current_device()

    def from_host(self, x: Any, like: Any) -> Any:
        return cuda.to_device(x.astype(like.dtype))

    def to_host(self, x: Any) -> Any:
        return x.copy_to_host()

    def contiguous(self, x: Any, name: str) -> Any:
        """x, or a contiguous copy."""
        if not self.dense(x):
            raise ValueError(f"{name}: got a strided array of Numba, wanted a contiguous one")
        return x

    def part(self, x: Any, i: int) -> Any:
        """x[i]"""
        # Numba has no parts of an array without numbers
        return x[i] if SIMULATED or x.size else cuda.device_array(x.shape[1:], x.dtype)

    def first(self, x: Any) -> Any:
        """x[None]"""
        return x.reshape(1, *x.shape) if x.size else cuda.device_array((1, *x.shape), x.dtype)

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

    # --- large products; gemm.py's kernels are for those that the library has none for

    def multiplies(self, *dtypes: str) -> bool:
        """Whether the library multiplies matrices of these types, with sums and results of theirs (single precision's)."""
        return False

    def matrix(self, memory: Any, shape: tuple[int, int], steps: tuple[int, int]) -> Any:
        """A view of memory of this kind; steps : numbers from row to row and from column to column."""
        known = memory.matrices
        if known is None:
            return self.strided(memory, shape, steps)
        if (shape, steps) not in known:
            known[shape, steps] = self.strided(memory, shape, steps)
        return known[shape, steps]

    def strided(self, memory: Any, shape: tuple[int, int], steps: tuple[int, int]) -> Any:
        """The same, made now."""
        raise NotImplementedError

    def multiply(self, a: Any, b: Any, bias: Any, c: Any) -> None:
        """c = a b (+ bias), matrices of `matrix`."""
        raise NotImplementedError

    def add_rows(self, a: Any, into: Any) -> None:
        """The sum of a matrix's rows, to an array of the caller's."""
        raise NotImplementedError

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

    def simulated(self, x):
        return cuda.from_cuda_array_interface(x.__cuda_array_interface__, owner=x, sync=False)

    def pointer(self, x):
        return x.data.ptr

    def dense(self, x):
        return x.flags.c_contiguous

    def stream(self):
        return sys.modules["cupy"].cuda.get_current_stream().ptr

    def device(self, x):
        return x.device.id

    def from_host(self, x, like):
        with like.device:
            return sys.modules["cupy"].asarray(x, like.dtype)

    def to_host(self, x):
        return x.get()

    def contiguous(self, x, name):
        return sys.modules["cupy"].ascontiguousarray(x)

    def part(self, x, i):
        return x[i]

    def lifted(self, x):
        return x[:, None]

    def swapped(self, x):
        return x.swapaxes(0, 1)

    def columns(self, x, start, end):
        return x[:, :, start:end]

    def multiplies(self, *dtypes):
        return not SIMULATED and len(set(dtypes)) == 1 and dtypes[0] in ("float32", "float64")

    def strided(self, memory, shape, steps):
        at, item = memory.owner.data, memory.dtype.itemsize
        strides = tuple(step * item for step in steps)
        return sys.modules["cupy"].ndarray(shape, memory.dtype, at + (memory.pointer - at.ptr), strides)

    def multiply(self, a, b, bias, c):
        sys.modules["cupy"].matmul(a, b, out=c)
        if bias is not None:
            c += bias

    def add_rows(self, a, into):
        into[...] = a.sum(axis=0)


class Torch(CuPy):
    """PyTorch's."""

    def empty(self, shape, dtype, like):
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)

    def size(self, x):
        return x.numel()

    def pointer(self, x):
        return x.data_ptr()

    def dense(self, x):
        return x.is_contiguous()

    def place(self, x):
        strides = None if self.dense(x) else tuple(x.element_size() * step for step in x.stride())
        return self.pointer(x), tuple(x.shape), strides

    def stream(self):
        torch = sys.modules["torch"]
        return torch._C._cuda_getCurrentRawStream(torch.cuda.current_device())

    def device(self, x):
        return x.device.index

    def contiguous(self, x, name):
        return x.contiguous()

    def multiplies(self, *dtypes):
        half = len(set(dtypes)) == 1 and dtypes[0] in ("float16", "bfloat16") and _single_from_half()
        return (not SIMULATED and half) or super().multiplies(*dtypes)

    def strided(self, memory, shape, steps):
        owner = memory.owner
        start = owner.storage_offset() + (memory.pointer - owner.data_ptr()) // owner.element_size()
        return owner.as_strided(shape, steps, start)

    def multiply(self, a, b, bias, c):
        torch, wider = sys.modules["torch"], {} if a.dtype == c.dtype else {"out_dtype": c.dtype}
        if bias is None:
            torch.mm(a, b, out=c, **wider)
        else:
            torch.addmm(bias, a, b, out=c, **wider)

    def add_rows(self, a, into):
        into.copy_(a.sum(0))

    def from_host(self, x, like):
        return sys.modules["torch"].from_numpy(x).to(like.device, like.dtype)

    def to_host(self, x):
        return (x.float() if x.dtype == sys.modules["torch"].bfloat16 else x).cpu().numpy()


@cache
def _single_from_half() -> bool:
    """Whether PyTorch leaves sums of half precision's products in single precision: from 2.8 on."""
    major, minor = sys.modules["torch"].__version__.split(".")[:2]
    return (int(major), int(minor)) >= (2, 8)


NUMBA = Numba()
_KINDS = {"numba": NUMBA, "cupy": CuPy(), "torch": Torch()}


@lru_cache(64)
def _library(of: type) -> str:
    return of.__module__.partition(".")[0]


def kind_of(x: Any, name: str = "x") -> Numba:
    """How arrays like x are handled; TypeError if they are not known."""
    library = _library(type(x))  # type: ignore[arg-type]
    if library not in _KINDS:
        raise TypeError(f"{name}: got a {library} {type(x).__name__}, wanted a device array of CuPy, PyTorch or Numba")
    return _KINDS[library]
