"""Launchers of kernels/cross_entropy.cu: raw arrays in, new ones out, or None where the kernel does not fit."""
from __future__ import annotations

import numpy as np

from . import errors
from .device import xp_of
from .kernel import Kernel, fits
from .kernel_rows import TYPES, row_grid

__all__ = ["forward", "total", "backward"]

FILE = "cross_entropy.cu"
F32 = np.dtype(np.float32)
OUTSIDE = "Target {value} is out of bounds."

_forward = Kernel(FILE, "cross_entropy_forward", types=TYPES)
_total = Kernel(FILE, "cross_entropy_total", types=TYPES)
_backward = Kernel(FILE, "cross_entropy_backward", types=TYPES, optional=("scale",))


def _targets_fit(x, target):
    return (x.ndim == 2 and target.dtype == np.int64 and target.shape == x.shape[:1] and
            target.__class__ is x.__class__ and target.flags.c_contiguous)


def forward(x, target, ignore, smoothing):
    """(loss, log(sum(exp(x)))) of each row of logits (rows, columns), float32.

    The loss is 0 where the target is `ignore`. A target that is no class is reported, and the row's loss is NaN.
    """
    if not _targets_fit(x, target) or not fits(x):
        return None
    xp, (rows, columns) = xp_of(x), x.shape
    loss, lse = xp.empty((rows,), F32), xp.empty((rows,), F32)
    grid, block = row_grid(rows, columns, x.itemsize)
    _forward(grid, block, x, target, loss, lse, rows, columns, ignore, smoothing, smoothing / columns,
             errors.code("cross_entropy", 0, columns, OUTSIDE), errors.word(x))
    errors.at_once(x)
    return loss, lse


def total(loss, target, ignore, mean, dtype):
    """(the rows' losses as one number of `dtype`, a row's share of it in float32): their sum, or their mean."""
    xp, (rows,) = xp_of(loss), loss.shape
    out, share = xp.empty((), dtype), xp.empty((), F32)
    _total((1,), (min(1024, max(32, 1 << (rows - 1).bit_length())),), loss, target, out, share, rows, ignore, mean)
    return out, share


def backward(grad, x, target, lse, ignore, smoothing, scale=None):
    """The logits' gradient; `grad` float32 of each row's loss, or one number () for all, times `scale` () if given."""
    if not _targets_fit(x, target) or not fits(x) or grad.shape not in ((), x.shape[:1]):
        return None
    if any(a is not None and (a.dtype != F32 or a.__class__ is not x.__class__ or not a.flags.c_contiguous)
           for a in (grad, scale, lse)):
        return None
    rows, columns = x.shape
    gx = xp_of(x).empty(x.shape, x.dtype)
    grid, block = row_grid(rows, columns, x.itemsize)
    _backward(grid, block, grad, scale, x, target, lse, gx, rows, columns, ignore, smoothing,
              smoothing / columns, grad.ndim)
    return gx
