"""Launcher of kernels/columns.cu: sums over the first dimensions of an array, or None where the kernel does not fit."""
from __future__ import annotations

import math

import numpy as np

from .device import xp_of
from .kernel import Kernel, fits

__all__ = ["column_sums", "leading_sums"]

TYPES = ("float", "__half", "__nv_bfloat16")
F32 = np.dtype(np.float32)
THREADS = 256
LANES = 8  # times 16 bytes: a line of 128 bytes of each row
STEPS = 4  # rows of each thread, at least
BLOCKS = 1024  # of the first stage: enough for every GPU, and the same sums on each

_column_sums = Kernel("columns.cu", "column_sums", types=(
    *((t, t) for t in TYPES), *((t, "float") for t in TYPES[1:]), *(("float", t) for t in TYPES[1:])))


def _stage(x, out, rows, columns, stretches):
    """One launch: out (stretches, columns). Returns the stretches that there were."""
    pieces = -(-columns * x.itemsize // 16)
    lanes = min(LANES, 1 << (pieces - 1).bit_length())
    length = -(-rows // stretches)
    grid = (-(-pieces // lanes), -(-rows // length))
    _column_sums(grid, (lanes, THREADS // lanes), x, out, rows, columns, length)


def column_sums(x, dtype=None):
    """Sums over the first dimension of (rows, columns), in float32, rounded to `dtype` (x's). No atomics."""
    dtype = x.dtype if dtype is None else dtype
    if x.ndim != 2 or not fits(x) or not (dtype in (x.dtype, F32) or x.dtype == F32):
        return None
    xp, (rows, columns) = xp_of(x), x.shape
    lines = -(-columns * x.itemsize // (16 * LANES))
    stretches = max(1, min(-(-rows // (THREADS // LANES * STEPS)), BLOCKS // lines))
    if stretches > 1:
        length = -(-rows // stretches)
        stretches = -(-rows // length)  # none of them empty
        parts = xp.empty((stretches, columns), F32)
        _stage(x, parts, rows, columns, stretches)
        x, rows = parts, stretches
    out = xp.empty((columns,), dtype)
    _stage(x, out, rows, columns, 1)
    return out


def leading_sums(x, axes):
    """`x` summed over its first dimensions, `axes` = (0, 1, ...), of which one is left: shape x.shape[len(axes):]."""
    lead = len(axes)
    if not 0 < lead < x.ndim or axes != tuple(range(lead)) or not fits(x):
        return None
    out = column_sums(x.reshape(math.prod(x.shape[:lead]), -1))
    return None if out is None else out.reshape(x.shape[lead:])
