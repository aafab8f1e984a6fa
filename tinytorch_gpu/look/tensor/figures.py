"""Figures of all elements of an array of any size, read in pieces: norm, mean, range, NaN, Inf and zeros."""
from __future__ import annotations

import math

import numpy as np

from ...autograd.operands import wide
from ...backend import dtypes
from ...backend.device import backend_of, host_array

__all__ = ["figures_of", "plain"]

PIECE = 1 << 20  # elements that are looked at together: their float64 squares take 8 MiB


def figures_of(array) -> dict:
    """Norm, mean, min, max of all elements (of the magnitudes of complex ones; None for none), and how many are NaN,
    Inf, zero. Elements that a stride of 0 repeats are read once. Waits for the device."""
    repeats = math.prod(n for n, s in zip(array.shape, array.strides) if s == 0) if array.size else 1
    once = array[tuple(slice(0, 1) if s == 0 else slice(None) for s in array.strides)] if repeats > 1 else array
    squares, total, low, high = 0.0, 0.0, None, None
    counts = [0, 0, 0]
    for piece in pieces(once):
        found = _of_piece(piece)
        squares, total = squares + found["squares"], total + found["total"]
        low, high = _either(min, low, found["min"]), _either(max, high, found["max"])
        counts = [a + b for a, b in zip(counts, found["counts"])]
    norm = math.sqrt(squares * repeats) if squares == squares else math.nan
    return {"norm": norm, "mean": total / once.size if once.size else None, "min": low, "max": high,
            "nan": counts[0] * repeats, "inf": counts[1] * repeats, "zeros": counts[2] * repeats}


def pieces(array):
    """Parts of an array, none of more than PIECE elements."""
    if array.size <= PIECE:
        if array.size:
            yield array
        return
    axis = max(range(array.ndim), key=lambda i: array.shape[i])
    half = array.shape[axis] // 2
    before = (slice(None),) * axis
    yield from pieces(array[(*before, slice(None, half))])
    yield from pieces(array[(*before, slice(half, None))])


def _either(choose, a, b):
    """The smaller or greater of two; NaN where one of them is."""
    if a is None or b is None:
        return b if a is None else a
    return math.nan if a != a or b != b else choose(a, b)


def _of_piece(array) -> dict:
    xp = backend_of(array).xp
    x = wide(array)
    whole = x.dtype.kind in "iub"
    if x.dtype.kind == "c":
        x = xp.abs(x)
    low, high = xp.min(x), xp.max(x)
    with dtypes.quiet():
        y = x if x.dtype.kind == "f" else x.astype(np.float64)
        figures = [xp.sum(xp.square(y, dtype=np.float64)), xp.sum(y, dtype=np.float64)]
        figures += [xp.sum(f(y)).astype(np.float64) for f in (xp.isnan, xp.isinf)]
        figures += [xp.sum(y == 0).astype(np.float64)]
        if not whole:
            figures += [low.astype(np.float64), high.astype(np.float64)]
        read = host_array(xp.stack(figures)).tolist()
    if whole:  # int64 keeps all its digits
        read += [int(host_array(low).item()), int(host_array(high).item())]
    squares, total, *counts, low, high = read
    return {"squares": squares, "total": total, "counts": [int(n) for n in counts], "min": low, "max": high}


def plain(array) -> list:
    """The elements of a host array as Python numbers, in one list; a complex number is [real, imaginary]."""
    array = array.ravel()
    if array.dtype.kind == "c":
        return np.stack([array.real, array.imag], -1).tolist()
    if array.dtype.kind == "V":  # bfloat16
        array = array.astype(np.float32)
    return array.tolist()
