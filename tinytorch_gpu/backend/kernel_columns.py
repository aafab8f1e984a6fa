"""Launchers of kernels/columns.cu: sums over the first dimensions of an array; None where the kernel does not fit."""
from __future__ import annotations

import math

import numpy as np

from .device import xp_of
from .kernel import Kernel, fits

__all__ = ["column_sums", "norm_weight_sums", "leading_sums"]

TYPES = ("float", "__half", "__nv_bfloat16")
F32 = np.dtype(np.float32)
THREADS = 256
LANES = 8  # times 16 bytes: a line of 128 bytes of each row
STEPS = 4  # rows of each thread, at least
BLOCKS = 1024  # of the first stage: enough for every GPU, and the same sums on each

_column_sums = Kernel("columns.cu", "column_sums", types=(
    *((t, t) for t in TYPES), *((t, "float") for t in TYPES[1:]), *(("float", t) for t in TYPES[1:])))
_norm_weight_sums = [Kernel("columns.cu", "norm_weight_sums", CENTER=c, types=TYPES, optional=("mean", "bias_parts"))
                     for c in (False, True)]


def _shape(x, rows, columns, stretches):
    """(grid, block, rows of a stretch) of one launch over x (rows, columns) in at most so many stretches."""
    pieces = -(-columns * x.itemsize // 16)
    lanes = min(LANES, 1 << (pieces - 1).bit_length())
    length = -(-rows // stretches)
    return (-(-pieces // lanes), -(-rows // length)), (lanes, THREADS // lanes), length


def _stretches(x, rows, columns):
    """Into how many stretches the rows are cut in the first stage; none of them empty."""
    lines = -(-columns * x.itemsize // (16 * LANES))
    most = max(1, min(-(-rows // (THREADS // LANES * STEPS)), BLOCKS // lines))
    return -(-rows // -(-rows // most))


def column_sums(x, dtype=None):
    """Sums over the first dimension of (rows, columns), in float32, rounded to `dtype` (x's). No atomics."""
    dtype = x.dtype if dtype is None else dtype
    if x.ndim != 2 or not fits(x) or not (dtype in (x.dtype, F32) or x.dtype == F32):
        return None
    xp, (rows, columns) = xp_of(x), x.shape
    stretches = _stretches(x, rows, columns)
    if stretches > 1:
        parts = xp.empty((stretches, columns), F32)
        grid, block, length = _shape(x, rows, columns, stretches)
        _column_sums(grid, block, x, parts, rows, columns, length)
        x, rows = parts, stretches
    out = xp.empty((columns,), dtype)
    grid, block, length = _shape(x, rows, columns, 1)
    _column_sums(grid, block, x, out, rows, columns, length)
    return out


def norm_weight_sums(grad, x, mean, r, columns, center):
    """What `column_sums` makes the gradients of weight and bias of, each (stretches, columns); no bias unless `center`.

    grad and x are rows of `columns` elements, mean (None without `center`) and r float32 of each row.
    """
    xp, rows = xp_of(x), x.size // columns
    grid, block, length = _shape(x, rows, columns, _stretches(x, rows, columns))
    parts = [xp.empty((grid[1], columns), F32), xp.empty((grid[1], columns), F32) if center else None]
    _norm_weight_sums[center](grid, block, grad, x, mean, r, *parts, rows, columns, length)
    return parts


def leading_sums(x, axes):
    """`x` summed over its first dimensions, `axes` = (0, 1, ...), of which one is left: shape x.shape[len(axes):]."""
    lead = len(axes)
    if not 0 < lead < x.ndim or axes != tuple(range(lead)) or not fits(x):
        return None
    out = column_sums(x.reshape(math.prod(x.shape[:lead]), -1))
    return None if out is None else out.reshape(x.shape[lead:])
