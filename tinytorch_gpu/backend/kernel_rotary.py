"""Launcher of kernels/rotary.cu: raw arrays in, a new one out, or None where the kernel does not fit."""
from __future__ import annotations

import math

import numpy as np

from .device import xp_of
from .kernel import FLOATS, Kernel, fits, kernels_enabled

__all__ = ["rotary"]

TYPES = ("float", "__half", "__nv_bfloat16")
THREADS = 256
F32 = np.dtype(np.float32)

_rotary = [Kernel("rotary.cu", "rotary", INTERLEAVED=i, types=TYPES) for i in (False, True)]


def _order(x):
    """The dimensions by falling stride: an array made contiguous and then transposed is contiguous in that order."""
    return sorted(range(x.ndim), key=lambda i: (-x.strides[i], x.shape[i] != 1))


def _table(table):
    if table.dtype == F32 and table.flags.c_contiguous:
        return table
    return xp_of(table).ascontiguousarray(table.astype(F32))


def rotary(x, cosine, sine, interleaved, dim, inverse):
    """x (..., positions along `dim`, ..., features) turned by the angles, or back: see ops.rotary_embedding.

    A transposed x is read as it lies, and the result lies alike; an x with gaps is copied first.
    """
    if x.dtype not in FLOATS or not kernels_enabled() or not x.size or not cosine.size:
        return None
    if cosine.__class__ is not x.__class__ or sine.__class__ is not x.__class__:
        return None
    xp, order = xp_of(x), list(range(x.ndim))
    if x.flags.c_contiguous:
        flat = x
    else:
        order = _order(x)
        flat = x.transpose(order)
        if order[-1] != x.ndim - 1 or not flat.flags.c_contiguous:
            order = list(range(x.ndim))
            flat = xp.ascontiguousarray(x)
    if not fits(flat):
        return None
    shape = flat.shape
    where = order.index(dim)
    if cosine.ndim == 3:
        batch = order.index(0)
        batches, batch_inner = shape[batch], math.prod(shape[batch + 1:-1])
    else:
        batches = batch_inner = 1
    rows, width, pairs = math.prod(shape[:-1]), shape[-1], cosine.shape[-1]
    y = xp.empty(shape, x.dtype)
    # threads along a row: one for each of its pieces, a power of two, so that a warp takes whole rows
    vector = 16 // x.itemsize
    pieces = max(-(-pairs // (4 if interleaved else vector)), -(-(width - 2 * pairs) // vector))
    along = min(THREADS, 1 << (pieces - 1).bit_length())
    across = THREADS // along
    _rotary[interleaved]((-(-rows // across),), (along, across), flat, _table(cosine), _table(sine), y, rows, width,
                         pairs, math.prod(shape[where + 1:-1]), shape[where], batch_inner, batches,
                         -1.0 if inverse else 1.0)
    return y if flat is x else y.transpose(sorted(range(x.ndim), key=order.__getitem__))
