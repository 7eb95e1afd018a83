"""How many threads a call may use, and how a kernel is launched on them.

One parallel launch at a time: a second Python thread that arrives meanwhile runs its call alone, which neither crowds the
cores nor, under Numba's workqueue layer, aborts the process. A forked child stays on one thread: OpenMP's pool does not
survive a fork. Numba's own thread setting is left as it was found.
"""

import operator
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import numba
from numba import prange, types

from fastrnn.cpu.kernel import call_kernel, digest, with_or_without_cache
from fastrnn.cpu.pipeline import launcher

_launching = threading.Lock()
_launched = False  # whether this process, or the one it was forked from, has started a thread pool
_forked = False
_observer: Callable[[int, Any, float], None] | None = None
_of_context: ContextVar[int | None] = ContextVar("fastrnn_num_threads", default=None)


def _checked(n: Any, name: str) -> int:
    try:
        n = operator.index(str(n) if isinstance(n, bool) else n)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: got {n!r}, wanted an integer from 1 to {_most()}") from None
    if not 1 <= n <= _most():
        raise ValueError(f"{name}: got {n}, wanted an integer from 1 to {_most()}")
    return n


def _most() -> int:
    return int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]


def _at_start() -> int:
    text = os.environ.get("FASTRNN_NUM_THREADS")
    if text is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(cores, _most())
    if not text.isdecimal() or not 1 <= int(text) <= _most():
        raise ValueError(f"FASTRNN_NUM_THREADS: got {text!r}, wanted an integer from 1 to {_most()}")
    return int(text)


_of_process = _at_start()


def get_num_threads() -> int:
    """The number of threads that a call may use.

    >>> import fastrnn as fr
    >>> with fr.num_threads(1):
    ...     fr.get_num_threads()
    1
    """
    chosen = _of_context.get()
    return _of_process if chosen is None else chosen


def set_num_threads(n: int) -> None:
    """Set the number of threads that a call may use, for every Python thread of the process.

    n : 1 to the number of threads that Numba was started with (NUMBA_NUM_THREADS).
    Raises TypeError or ValueError when n is not such a number. At start: FASTRNN_NUM_THREADS, or the cores available.

    >>> import fastrnn as fr
    >>> fr.set_num_threads(1)
    """
    global _of_process
    _of_process = _checked(n, "n")


@contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Use n threads at most within a `with` block, in this Python thread (or asyncio task) only.

    >>> import fastrnn as fr
    >>> with fr.num_threads(1):
    ...     pass
    """
    token = _of_context.set(_checked(n, "n"))
    try:
        yield
    finally:
        _of_context.reset(token)


@cache
def _alone() -> Any:
    """Calls a kernel on this thread."""
    version = digest()

    def alone(address, args):
        _ = version
        call_kernel(address, 0, 1, args)

    return _compiled(alone, 1)


@cache
def _together() -> Any:
    """Calls a kernel on a team."""
    version = digest()

    def together(address, team, args):
        _ = version
        for member in prange(team):
            call_kernel(address, member, team, args)

    return _compiled(together, 2, parallel=True)


def _compiled(function: Any, integers: int, **options: Any) -> Any:
    """Compiled now, not at the first call: a damaged cache shows itself here."""
    signature = (types.intp,) * integers + (types.Array(types.intp, 1, "C"),)
    return with_or_without_cache(lambda cache: launcher(function, signature, cache, **options))


def launch(address: int, args: Any, team: int) -> None:
    """Run the kernel at `address` with the words `args`, by `team` threads where they can be had."""
    start = time.perf_counter() if _observer else 0.0
    if team <= 1 or _is_fork() or not _launching.acquire(blocking=False):
        _alone()(address, args)
    else:
        _launch_together(address, args, team)
    if _observer:
        _observer(address, args, time.perf_counter() - start)


def _launch_together(address: int, args: Any, team: int) -> None:
    global _launched
    try:
        _launched = True
        before = numba.get_num_threads()
        if before != team:
            numba.set_num_threads(team)
        try:
            _together()(address, team, args)
        finally:
            if before != team:
                numba.set_num_threads(before)
    finally:
        _launching.release()


@contextmanager
def observed(observer: Callable[[int, Any, float], None]) -> Iterator[None]:
    """Tell `observer` the address, the words and the seconds of every launch within a `with` block."""
    global _observer
    _observer = observer
    try:
        yield
    finally:
        _observer = None


def is_observed() -> bool:
    """Whether somebody wants to be told of every launch."""
    return _observer is not None


def _is_fork() -> bool:
    global _launched
    if _forked and _launched:
        _launched = False  # say it once
        warnings.warn(
            "fastrnn runs on one thread in a forked child of a process that used several; start with 'spawn' for more",
            RuntimeWarning,
            stacklevel=2,
        )
    return _forked


def _after_fork() -> None:
    global _forked, _launching
    _forked, _launching = True, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
