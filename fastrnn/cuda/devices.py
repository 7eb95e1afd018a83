"""The devices that are there, and what a kernel may count on."""

from functools import lru_cache
from typing import NamedTuple

from numba import cuda

from fastrnn.cuda.target import SIMULATED, held, held_singles, most_sums


class Limits(NamedTuple):
    blocks: int  # that run at the same time, one on each multiprocessor
    shared: int  # bytes of shared memory for a block
    held: int  # registers of weights that a lane may have
    singles: int  # of single precision, where scalar units multiply
    sums: int = 64  # that a lane may add up at a time
    tensor: bool = False  # whether its tensor cores multiply all types of 16 bits


@lru_cache(16)
def limits(number: int) -> Limits:
    """Of the device of that number."""
    if SIMULATED:
        return Limits(1, 48 << 10, held((0, 0)), held_singles((0, 0)), tensor=True)
    device = cuda.gpus[number]
    shared = device.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    capability = device.compute_capability
    registers = held(capability), held_singles(capability), most_sums(capability)
    return Limits(device.MULTIPROCESSOR_COUNT, shared, *registers, capability >= (8, 0))


def missing() -> str:
    """Why there is no device; empty where there is one."""
    if SIMULATED or cuda.is_available():
        return ""
    return str(cuda.cuda_error() or "no device found").strip().splitlines()[0]


def describe() -> str:
    """The device in use, in a line."""
    if SIMULATED:
        return "Numba's simulator"
    if missing():
        return f"no device ({missing()})"
    device = cuda.get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else device.name
    major, minor = device.compute_capability
    return f"{name}, compute capability {major}.{minor}, {device.MULTIPROCESSOR_COUNT} multiprocessors"
