"""Threads on the CPU: pieces of one operator side by side.

NumPy's loops and BLAS let other threads run, so pieces of a convolution or of attention scale over cores, each with
one BLAS thread. Handing a piece over takes some 30 us: only operators of a millisecond or more are cut up.
"""
from __future__ import annotations

import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import threadpoolctl

__all__ = ["each", "split", "Scratch"]

_lock = threading.Lock()
_pool: tuple[int, int, ThreadPoolExecutor] | None = None  # (process, workers, pool)
_blas: threadpoolctl.ThreadpoolController | None = None
_inside = threading.local()


def _initial() -> int:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        value = os.environ.get(name, "").split(",")[0]
        if value.isdecimal() and int(value) > 0:
            return int(value)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


_threads = _initial()  # how many threads one operator may use: OMP_NUM_THREADS, else the number of cores


def _controller():
    global _blas
    if _blas is None:
        _blas = threadpoolctl.ThreadpoolController().select(user_api="blas")
    return _blas


def _workers(n) -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None or _pool[0] != os.getpid() or _pool[1] != n:
            if _pool is not None and _pool[0] == os.getpid():
                _pool[2].shutdown(wait=False)
            _pool = (os.getpid(), n, ThreadPoolExecutor(n, thread_name_prefix="tinytorch"))
        return _pool[2]


def each(function, pieces) -> None:
    """Call function(piece) for every piece, over the threads; pieces must write to places of their own.

    The order in which pieces run is not fixed: sums over pieces belong to the caller, in the order of the pieces.
    """
    pieces = list(pieces)
    n = min(_threads, len(pieces))
    if n <= 1 or getattr(_inside, "on", False):  # no threads within threads
        for p in pieces:
            function(p)
        return
    todo = iter(pieces)
    take = threading.Lock()

    def work():
        _inside.on = True
        try:
            while True:
                with take:
                    p = next(todo, todo)
                if p is todo:
                    return
                function(p)
        finally:
            _inside.on = False

    with _controller().limit(limits=1, user_api="blas"):
        pool = _workers(n - 1)
        others = [pool.submit(work) for _ in range(n - 1)]
        try:
            work()
        finally:
            for other in others:
                other.result()


def split(n, pieces_per_thread=1, least=1):
    """Slices that cut range(n) into about as many pieces as there are threads, none shorter than `least`."""
    count = max(1, min(_threads * pieces_per_thread, n // max(1, least)))
    edges = [n * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]


class Scratch(threading.local):
    """Arrays that a thread uses again for piece after piece: a new one costs page faults each time."""

    def __init__(self, xp, dtype):
        self.xp, self.dtype, self.arrays = xp, dtype, {}

    def __call__(self, name, *shape):
        """An array with any content, the same memory for the same name."""
        return self._get(name, shape, self.xp.empty)

    def zeros(self, name, *shape):
        """The same, zero where the caller has never written since it was made."""
        return self._get(name, shape, self.xp.zeros)

    def _get(self, name, shape, make):
        n = math.prod(shape)
        held = self.arrays.get(name)
        if held is None or held.size < n:
            held = self.arrays[name] = make(n, self.dtype)
        return held[:n].reshape(shape)
