"""The implementations on a GPU, and its limits. Calls end when the device has done its work."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from fastrnn.bench.workloads import Workload

_LANES = {7: 64, 8: 64, 9: 128, 10: 128, 12: 128}  # single-precision units of a multiprocessor, by compute capability
_CONSUMER = {(8, 6): 128, (8, 7): 128, (8, 9): 128}


def of_fastrnn(w: Workload, threads: int) -> Callable[[], tuple[Any, ...]]:
    from numba import cuda

    import fastrnn as fr

    put, given = _put(w.dtype)
    layer = getattr(fr, w.cell.upper())(w.I, w.H, dtype=w.host_dtype, rng=0)
    layer.load_state_dict(dict(zip(layer.params, w.weights(), strict=True)))
    layer.convert(lambda p: put(p.astype(given)))
    x, dy = (put(a.astype(given)) for a in (w.x(), w.dy()))

    def training():
        (y, _), tape = layer.forward(x)
        g = layer.backward(tape, dy)
        cuda.synchronize()
        return y, g.x, g.params["weight_hh_l0"]

    def inference():
        y, _ = layer(x)
        cuda.synchronize()
        return (y,)

    state = [None]

    def step():
        y, state[0] = layer(x, state[0])
        cuda.synchronize()
        return (y[0],)

    return {"training": training, "inference": inference, "step": step}[w.work]


def _put(dtype: str) -> tuple[Callable[[Any], Any], str]:
    """To the device, and the type that it is given: with PyTorch's memory where it is installed, as PyTorch has it."""
    from numba import cuda

    from fastrnn.cuda.target import SIMULATED

    if not SIMULATED and find_spec("torch"):
        return _torch_put(dtype), "float32" if dtype == "bfloat16" else dtype
    if dtype == "bfloat16":
        raise ValueError("bfloat16: NumPy and Numba's arrays have none; pip install torch")
    return cuda.to_device, dtype


def _torch_put(dtype: str) -> Callable[[Any], Any]:
    import torch

    return lambda a: torch.from_numpy(a).to("cuda", getattr(torch, dtype))


def of_torch(w: Workload, threads: int) -> Callable[[], tuple[Any, ...]]:
    import torch

    # single precision as it is: PyTorch would let cuDNN use TF32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    put = _torch_put(w.dtype)
    layer = getattr(torch.nn, w.cell.upper())(w.I, w.H).to("cuda", getattr(torch, w.dtype))
    with torch.no_grad():
        for parameter, value in zip(layer.parameters(), w.weights(), strict=True):
            parameter.copy_(torch.from_numpy(value))
    layer.flatten_parameters()
    x, dy, state = put(w.x()), put(w.dy()), [None]

    def training():
        layer.zero_grad()
        x.requires_grad_(True)
        x.grad = None
        y = layer(x)[0]
        y.backward(dy)
        torch.cuda.synchronize()
        return y.detach(), x.grad, layer.weight_hh_l0.grad

    def forward(given):
        with torch.inference_mode():
            found = layer(x, given)
            torch.cuda.synchronize()
            return found

    def step():
        y, state[0] = forward(state[0])
        return (y[0],)

    return {"training": training, "inference": lambda: forward(None)[:1], "step": step}[w.work]


def to_host(x: Any) -> np.ndarray:
    """An array of any of these calls, in double precision."""
    if hasattr(x, "copy_to_host"):
        x = x.copy_to_host()
    elif hasattr(x, "cpu"):
        x = x.cpu().double().numpy()
    return np.asarray(x, np.float64)


@dataclass(frozen=True)
class Limits:
    """Of the device by its data: what its scalar units and its memory could do at their highest clocks."""

    dtype: str
    flops: float  # a second, of fused multiply-adds (two each)
    bandwidth: float  # bytes a second

    def floor(self, w: Workload) -> float:
        """Seconds that a workload takes at least: its products, or the weights read once."""
        return max(w.flops / self.flops, w.weight_bytes / self.bandwidth if self.bandwidth else 0.0)

    def as_dict(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "threads": 1, "gflops": self.flops / 1e9, "bytes": {},
                "bandwidth_gb_s": {"memory": self.bandwidth / 1e9}}  # fmt: skip


def limits(dtype: str) -> Limits:
    from numba import cuda

    from fastrnn.cuda.target import SIMULATED

    if SIMULATED:
        return Limits(dtype, 1e9, 1e9)
    device = cuda.get_current_device()
    capability = device.compute_capability
    lanes = _CONSUMER.get(capability, _LANES.get(capability[0], 128))
    if dtype == "float64":
        lanes = lanes // 2 if capability in ((7, 0), (8, 0), (9, 0), (10, 0)) else 2
    flops = 2.0 * lanes * device.MULTIPROCESSOR_COUNT * device.CLOCK_RATE * 1e3
    return Limits(dtype, flops, 2.0 * device.MEMORY_CLOCK_RATE * 1e3 * device.GLOBAL_MEMORY_BUS_WIDTH / 8)
