"""The simulated device: a stand-in for the CuPy names the package uses, over NumPy memory.

Separate address space (host arrays are refused), a pool with CuPy's accounting, CuPy's signatures, type loops and rules
where they are stricter than NumPy's, out-of-memory on demand, counted copies and synchronisations.
"""

from __future__ import annotations

from . import methods, streams  # noqa: F401  (methods attaches operators and methods to ndarray)
from .array import asarray_from_host, ndarray, to_host
from .graphs import capture
from .delay import enqueue
from .namespace import special, xp
from .pool import POOL, OutOfMemoryError, counters
from .streams import others_first


def synchronize() -> None:
    """Waits for the device: all work that streams have delayed runs."""
    streams.synchronize_device()


def memory_stats() -> dict:
    """Bytes: `current` and `peak` in use, `held` from the host by the pool, `limit` (None without one)."""
    return {
        "current": POOL.used_bytes(), "peak": POOL.peak_bytes(), "held": POOL.total_bytes(),
        "limit": POOL.get_limit() or None,
    }


def reset_peak() -> None:
    POOL.reset_peak()


def empty_cache() -> None:
    """Gives the pool's free blocks back to the host."""
    POOL.free_all_blocks()


def set_limit(size: int | None) -> None:
    """Bytes that the pool may hold; above it an allocation raises OutOfMemoryError. None lifts the limit."""
    POOL.set_limit(size)


def fail_next_allocation(after: int = 0) -> None:
    """The allocation after the next `after` ones raises OutOfMemoryError, once."""
    POOL.fail_next(after)


__all__ = [
    "OutOfMemoryError", "asarray_from_host", "capture", "counters", "empty_cache", "enqueue", "fail_next_allocation",
    "memory_stats", "ndarray", "others_first", "reset_peak", "set_limit", "special", "synchronize", "to_host", "xp",
]
