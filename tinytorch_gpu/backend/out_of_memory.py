"""What happens when a device has no memory left: give back what can be given, try once more, and say what is held.

The allocator stays the user's: CuPy's current one. A failed allocation reaches `again` as the library's MemoryError, at
the operator, which runs once more from its operands.
"""
from __future__ import annotations

import functools
import gc
import threading
import traceback

from . import streams
from .device import CPU, _by_class

__all__ = ["OutOfMemoryError", "again", "retried"]

SHOWN = 3  # of the largest arrays
_local = threading.local()


class OutOfMemoryError(RuntimeError):
    """A device has no memory for an array. As torch.OutOfMemoryError."""


def again(what, error, call, *args, **kwargs):
    """`call(...)` once more after an allocation failed in it, with everything freed that can be.

    Frees what other streams are through with, collects garbage (cycles of it hold arrays), gives the pool's free blocks
    back. Raises: OutOfMemoryError when that is not enough; the error itself where it is not a device's.
    """
    backend = next((b for b in _by_class.values() if b is not CPU and isinstance(error, _class_of(b))), None)
    if backend is None or getattr(_local, "trying", False):  # of the second attempt: the outermost `again` speaks
        try:
            raise error
        finally:
            error = None  # this frame is in its traceback: a cycle would hold the arrays
    traceback.clear_frames(error.__traceback__)  # they hold the arrays of the first attempt
    error.__traceback__ = None
    _local.trying = True
    try:
        if streams.several and not backend.capturing():
            backend.wait()  # what other streams read is let go
        gc.collect()
        backend.empty_cache()
        return call(*args, **kwargs)
    except _class_of(backend) as second:
        asked = str(second)
    finally:
        _local.trying = False
    raise OutOfMemoryError(f"[{what}] {_words(backend, asked)}") from None


def retried(function):
    """Decorator for functions that allocate outside of operators: `again` where a device has no memory."""
    @functools.wraps(function)
    def call(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except MemoryError as e:
            return again(function.__name__, e, function, *args, **kwargs)

    return call


def _class_of(backend):
    return backend.xp.cuda.memory.OutOfMemoryError


def _words(backend, asked):
    stats = backend.memory_stats()
    limit = f" of its limit of {_size(stats['limit'])}" if stats.get("limit") else ""
    held = [a for a in gc.get_objects() if type(a) is backend.ndarray and a.base is None]
    held.sort(key=lambda a: a.nbytes, reverse=True)
    largest = ", ".join(f"{a.dtype} {a.shape} {_size(a.nbytes)}" for a in held[:SHOWN])
    return (f"{asked.rstrip('.')}, also after freeing what nobody uses: arrays hold {_size(stats['current'])}, the "
            f"pool {_size(stats['held'])}{limit}; the largest of {len(held)} arrays: {largest or 'none'}. Use smaller "
            "batches, checkpoint() or no_grad(), or drop tensors that are not needed")


def _size(n):
    return f"{n / 2**30:,.2f} GiB" if n >= 2**30 else f"{n / 2**20:,.1f} MiB" if n >= 2**20 else f"{n:,} bytes"
