"""Launchers of kernels/rows.cu: each takes raw arrays and returns new ones, or None where the kernel does not fit.

Rows run along the last dimension; everything before it counts as rows.
"""
from __future__ import annotations

import numpy as np

from .device import xp_of
from .kernel import Kernel, fits
from .kernel_columns import column_sums

__all__ = ["softmax", "softmax_backward", "norm", "norm_backward", "cross_entropy",
           "cross_entropy_backward"]

FILE = "rows.cu"
TYPES = ("float", "__half", "__nv_bfloat16")
MIXED = tuple((t, t) for t in TYPES) + tuple((t, "float") for t in TYPES[1:])  # half activations, float32 weights
F32 = np.dtype(np.float32)
THREADS = 256
BLOCKS = 512  # of norm_backward: enough for every GPU, and the same sums on each
SHARED = 48 << 10  # bytes that every architecture gives without being asked

_softmax = [Kernel(FILE, "softmax_forward", LOG=log, types=TYPES, optional=("mask",)) for log in (False, True)]
_softmax_backward = [Kernel(FILE, "softmax_backward", LOG=log, types=TYPES) for log in (False, True)]
_norm = [Kernel(FILE, "norm_forward", CENTER=c, types=MIXED, optional=("weight", "bias", "mean"))
         for c in (False, True)]
_norm_backward = [
    Kernel(FILE, "norm_backward", CENTER=c, types=MIXED, optional=("weight", "mean", "weight_parts", "bias_parts"))
    for c in (False, True)
]
_cross_entropy = Kernel(FILE, "cross_entropy_forward", types=TYPES)
_cross_entropy_backward = Kernel(FILE, "cross_entropy_backward", types=TYPES, optional=("scale",))


def _threads(columns, itemsize):
    """A warp for a row of up to 32 pieces of 16 bytes, a power of two up to a whole block for longer ones."""
    threads = 32
    while threads < THREADS and threads * 16 < columns * itemsize:
        threads *= 2
    return threads


def _launch(rows, columns, itemsize):
    """(grid, block) for one row per blockDim.x threads."""
    threads = _threads(columns, itemsize)
    together = min(THREADS // 32, rows) if threads == 32 else 1
    return (-(-rows // together),), (threads, together)


def _mask_rows(mask, shape):
    """(rows of the mask, rows of x in a run that share one), or None where the mask broadcasts in another pattern."""
    lead = (1,) * (len(shape) - mask.ndim) + mask.shape
    if len(lead) != len(shape) or lead[-1] != shape[-1]:
        return None
    own = [i for i in range(len(shape) - 1) if lead[i] != 1]
    if not own:
        return 1, 1
    first, last = own[0], own[-1]
    if lead[first:last + 1] != shape[first:last + 1]:
        return None
    return int(np.prod(lead[first:last + 1])), int(np.prod(shape[last + 1:-1]))


def softmax(x, log=False, scale=1.0, mask=None):
    """softmax(scale * x), or its logarithm, along the last dimension; False in `mask` takes an element out."""
    if not x.ndim or not fits(x):
        return None
    columns, repeat = x.shape[-1], (1, 1)
    if mask is not None:
        repeat = _mask_rows(mask, x.shape)
        if repeat is None or mask.dtype != bool or mask.__class__ is not x.__class__ or not mask.flags.c_contiguous:
            return None
    y = xp_of(x).empty(x.shape, x.dtype)
    rows = x.size // columns
    grid, block = _launch(rows, columns, x.itemsize)
    _softmax[log](grid, block, x, mask, y, rows, columns, scale, repeat[1], repeat[0])
    return y


def softmax_backward(grad, y, log=False, scale=1.0):
    """The gradient of softmax (or its logarithm) from its output."""
    if not y.ndim or not fits(grad, y) or grad.shape != y.shape:
        return None
    gx = xp_of(y).empty(y.shape, y.dtype)
    columns = y.shape[-1]
    rows = y.size // columns
    grid, block = _launch(rows, columns, y.itemsize)
    _softmax_backward[log](grid, block, grad, y, gx, rows, columns, scale)
    return gx


def _affine_fits(x, columns, *affine):
    given = [a for a in affine if a is not None]
    return all(a.__class__ is x.__class__ and a.size == columns and a.dtype in (x.dtype, F32) and a.flags.c_contiguous
               for a in given) and len({a.dtype for a in given}) <= 1


def norm(x, weight, bias, columns, eps, center):
    """(y, mean, r): rows of `columns` elements normalized (layer norm if `center`, else RMS), then weight and bias.

    mean (rows, 1), None for RMS norm, and r = 1 / sqrt(variance + eps) (rows, 1) are float32.
    """
    if not fits(x) or not _affine_fits(x, columns, weight, bias):
        return None
    xp, rows = xp_of(x), x.size // columns
    y = xp.empty(x.shape, x.dtype)
    mean = xp.empty((rows, 1), F32) if center else None
    r = xp.empty((rows, 1), F32)
    grid, block = _launch(rows, columns, x.itemsize)
    _norm[center](grid, block, x, weight, bias, y, mean, r, rows, columns,
                  1 / columns, eps)
    return y, mean, r


def norm_backward(grad, x, weight, mean, r, columns, center):
    """gx, or (gx, gradient of weight, of bias) with a weight; the last is None for RMS norm."""
    if not fits(grad, x) or grad.shape != x.shape or not _affine_fits(x, columns, weight):
        return None
    if any(a is not None and (a.dtype != F32 or not a.flags.c_contiguous) for a in (mean, r)):
        return None
    shared = 0 if weight is None else columns * 4 * (2 if center else 1)
    if shared > SHARED:
        return None
    xp, rows = xp_of(x), x.size // columns
    gx = xp.empty(x.shape, x.dtype)
    blocks = min(rows, BLOCKS)
    parts = [None, None]
    if weight is not None:
        parts = [xp.empty((blocks, columns), F32), xp.empty((blocks, columns), F32) if center else None]
    _norm_backward[center]((blocks,), (_threads(columns, x.itemsize), 1), grad, x, weight, mean, r, gx, *parts, rows,
                           columns, 1 / columns, shared=shared)
    if weight is None:
        return gx
    sums = [None if p is None else column_sums(p, weight.dtype).reshape(weight.shape) for p in parts]
    return gx, *sums


def _targets_fit(x, target):
    return (x.ndim == 2 and target.dtype == np.int64 and target.shape == x.shape[:1] and
            target.__class__ is x.__class__ and target.flags.c_contiguous)


def cross_entropy(x, target, ignore, smoothing):
    """(loss, log(sum(exp(x)))) of each row of logits (rows, columns), float32; 0 where the target is `ignore`."""
    if not _targets_fit(x, target) or not fits(x):
        return None
    xp, (rows, columns) = xp_of(x), x.shape
    loss, lse = xp.empty((rows,), F32), xp.empty((rows,), F32)
    grid, block = _launch(rows, columns, x.itemsize)
    _cross_entropy(grid, block, x, target, loss, lse, rows, columns, ignore, smoothing,
                   smoothing / columns)
    return loss, lse


def cross_entropy_backward(grad, x, target, lse, ignore, smoothing, scale=None):
    """The logits' gradient; `grad` float32 of each row's loss, or one number () for all, times `scale` () if given."""
    if not _targets_fit(x, target) or not fits(x) or grad.shape not in ((), x.shape[:1]):
        return None
    if any(a is not None and (a.dtype != F32 or a.__class__ is not x.__class__ or not a.flags.c_contiguous)
           for a in (grad, scale, lse)):
        return None
    rows, columns = x.shape
    gx = xp_of(x).empty(x.shape, x.dtype)
    grid, block = _launch(rows, columns, x.itemsize)
    _cross_entropy_backward(grid, block, grad, scale, x, target, lse, gx, rows, columns, ignore, smoothing,
                            smoothing / columns, grad.ndim)
    return gx
