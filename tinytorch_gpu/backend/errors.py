"""Errors that only the device can see: an index out of range, raised where the host waits anyway.

On a GPU asking `index.max()` would stop the host at every lookup, and CuPy takes an index modulo the length without a
word. So a kernel (kernels/errors.cu) leaves what it finds in one error word for each device, and the next host read or
synchronisation raises it as an IndexError with the operator's name. `TINYTORCH_SYNC=1` asks after every call instead.

    errors.check_indices("embedding", index, 0, rows)

A kernel that reads its indices anyway reports by itself: it includes `errors.cuh`, takes `errors.code(...)` and
`errors.word(array)` as arguments, calls `report(word, code, value)`, and its launcher ends in `at_once`. Until it
is raised the operator's result is whatever its own kernel makes of a wrong index, which must stay inside the arrays:
CuPy's functions wrap.
"""
from __future__ import annotations

import os
import threading

import numpy as np

from . import streams
from .device import CPU, backend_of, device_of, recorded
from .kernel import Kernel, kernels_enabled, ready

__all__ = ["IndexOutOfRange", "at_once", "check_indices", "code", "expect", "look", "reading", "word"]

CLEAR = np.iinfo(np.int64).max
HALF = 1 << 39
THREADS, BLOCKS = 256, 1024
MANY = 1 << 16  # calls that are told apart, by operator, bounds and text; those above share the last number
RANGE = "index {value} is out of range: expected {low} <= index < {high}"

_check = Kernel("errors.cu", "check_indices", types=("int", "long long"))
_lock = threading.Lock()
_words: dict = recorded  # device -> _Word; empty until something was recorded
_codes: dict[tuple, int] = {}
_calls: list[tuple] = []


class IndexOutOfRange(IndexError, RuntimeError):
    """An index out of range that the device found. On the CPU some operators raise IndexError and some RuntimeError, as
    in PyTorch: this is both, so that a program may catch the same class on each device."""


class _Word:
    """The error word of one device; `pending` while something recorded has not been looked at."""

    __slots__ = ("array", "backend", "pending")

    def __init__(self, backend, array):
        self.backend, self.array, self.pending = backend, array, False

    def judge(self, value: int) -> None:
        """Raises: IndexOutOfRange if the word holds a report; the word is clear again afterwards."""
        if value == CLEAR:
            return
        self.array.fill(CLEAR)
        where, low, high, text = _calls[value >> 40]
        message = text.format(value=(value & ((1 << 40) - 1)) - HALF, low=low, high=high)
        raise IndexOutOfRange(f"[{where}] {message}; found on {device_of(self.array)} when the host waited for it, "
                              "TINYTORCH_SYNC=1 raises at the call")


def check_indices(where, index, low, high, *, text=RANGE, raises=IndexError, ignore=None) -> None:
    """See that every element of a raw integer array lies in [low, high), or is `ignore`.

    On the CPU at once: `raises` with `[where] text`, in which {value}, {low} and {high} stand for the smallest wrong
    index and the bounds. On a device without waiting: the error word, raised as IndexOutOfRange at the next host read
    or synchronisation (at once under TINYTORCH_SYNC=1).
    """
    if not index.size:
        return
    backend = backend_of(index)
    if backend is CPU:
        if index.min() < low or index.max() >= high:
            bad = (index < low) | (index >= high)
            if ignore is not None:
                bad &= index != ignore
                if not bad.any():
                    return
            raise raises(f"[{where}] {text.format(value=index[bad].min(), low=low, high=high)}")
        return
    if streams.several:
        streams.before((index,))
    number, found = code(where, low, high, text), word(index)
    ignore = low if ignore is None else int(ignore)
    if index.dtype.kind == "i" and index.itemsize >= 4 and index.flags.c_contiguous and _kernels(backend):
        blocks = min(-(-index.size // THREADS), BLOCKS)
        _check((blocks,), (THREADS,), index, index.size, int(low), int(high), ignore, number, found)
    else:
        _formula(backend.xp, index, low, high, ignore, number, found)
    at_once(index)


def at_once(array) -> None:
    """Under TINYTORCH_SYNC=1: raise what a kernel has just reported on the array's device. For kernels that report."""
    if os.environ.get("TINYTORCH_SYNC", "0") == "1":
        backend = backend_of(array)
        if not backend.capturing():
            look(backend, array)


def _kernels(backend):
    return kernels_enabled() and ready(backend)


def _formula(xp, index, low, high, ignore, number, found):
    """The same report by array functions: six passes over the indices."""
    value = index.astype(np.int64)
    bad = ((value < low) | (value >= high)) & (value != ignore)
    reports = xp.clip(value, -HALF, HALF - 1) + ((number << 40) + HALF)
    xp.minimum(found, xp.where(bad, reports, CLEAR).min(), out=found)


def code(where, low, high, text=RANGE) -> int:
    """The number by which a kernel reports a wrong index of a call: the same for the same operator, bounds and text."""
    key = (where, int(low), int(high), text)
    number = _codes.get(key)
    if number is None:
        with _lock:
            if len(_calls) == MANY:
                return MANY - 1
            if len(_calls) == MANY - 1:
                key = ("indexing", 0, 0, "index {value} is out of range")
            number = _codes.setdefault(key, len(_calls))
            if number == len(_calls):
                _calls.append(key)
    return number


def word(array):
    """The error word of the array's device, an int64 array (1) there, for a kernel that reports by itself."""
    where = device_of(array)
    held = _words.get(where)
    if held is None:
        backend = backend_of(array)
        with _lock:
            if where not in _words:
                _words[where] = _Word(backend, backend.lasting(lambda: backend.xp.full(1, CLEAR, np.int64)))
        held = _words[where]
    held.pending = True
    return held.array


def expect(array) -> None:
    """Something that reports was launched again without these functions (a captured graph): look at the next wait."""
    word(array)


def reading(array, get):
    """`get()`, a host read of an array, and the error word of its device looked at by the same wait.

    Raises: IndexOutOfRange for what the device found up to here.
    """
    held = _words.get(device_of(array))
    if held is None or not held.pending:
        return get()
    value = held.backend.fetch(held.array)
    result = get()
    held.pending = held.backend.many_streams()  # another stream's report may still be on its way
    held.judge(value())
    return result


def look(backend, array=None, index=None) -> None:
    """Wait for the device and raise what it found. For synchronisations: nothing is read while nothing was recorded."""
    for where, held in list(_words.items()):
        if held.backend is backend and held.pending and (array is None or device_of(array) == where) and (
                index is None or index == where.index):
            held.backend.wait(where.index)
            value = held.backend.fetch(held.array)
            held.backend.wait(where.index)
            held.pending = False
            held.judge(value())
