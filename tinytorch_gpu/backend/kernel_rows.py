"""Launchers of kernels/rows.cu: each takes raw arrays and returns new ones, or None where the kernel does not fit.

Rows run along the last dimension; everything before it counts as rows.
"""
from __future__ import annotations

import math

import numpy as np

from .device import backend_of, xp_of
from .kernel import FLOATS, Kernel, fits, kernels_enabled, ready
from .kernel_columns import column_sums, norm_weight_sums

__all__ = ["softmax", "takes_scores", "masked_softmax", "softmax_backward", "norm", "norm_backward", "row_grid"]

FILE = "rows.cu"
TYPES = ("float", "__half", "__nv_bfloat16")
MIXED = tuple((t, t) for t in TYPES) + tuple((t, "float") for t in TYPES[1:])  # half activations, float32 weights
SCORES = tuple((t, t) for t in TYPES) + tuple(("float", t) for t in TYPES[1:])  # float32 scores, half probabilities
F32 = np.dtype(np.float32)
THREADS = 256
BLOCKS = 512  # of norm_backward: enough for every GPU, and the same sums on each
SHARED = 48 << 10  # bytes that every architecture gives without being asked

_softmax = [Kernel(FILE, "softmax_forward", LOG=log, types=TYPES) for log in (False, True)]
_masked = [Kernel(FILE, "masked_softmax", LOG=log, types=SCORES, optional=("allowed", "bias")) for log in (False, True)]
_softmax_backward = [Kernel(FILE, "softmax_backward", LOG=log, types=TYPES) for log in (False, True)]
_norm = [Kernel(FILE, "norm_forward", CENTER=c, types=MIXED, optional=("residual", "weight", "bias", "sum", "mean"))
         for c in (False, True)]
_norm_backward = [
    Kernel(FILE, "norm_backward", CENTER=c, types=MIXED,
           optional=("weight", "mean", "more", "weight_parts", "bias_parts"))
    for c in (False, True)
]


def _threads(columns, itemsize):
    """A warp for a row of up to 32 pieces of 16 bytes, a power of two up to a whole block for longer ones."""
    threads = 32
    while threads < THREADS and threads * 16 < columns * itemsize:
        threads *= 2
    return threads


def row_grid(rows, columns, itemsize):
    """(grid, block) for one row per blockDim.x threads."""
    threads = _threads(columns, itemsize)
    together = min(THREADS // 32, rows) if threads == 32 else 1
    return (-(-rows // together),), (threads, together)


def _mask_rows(mask, shape):
    """How rows of x take rows of the mask: (repeat, rows) of the inner and of the outer run of dimensions that the mask
    has, which may be 1 between them, as in (batch, 1, queries, keys). None where it broadcasts in another pattern."""
    lead = (1,) * (len(shape) - mask.ndim) + mask.shape
    if len(lead) != len(shape) or lead[-1] != shape[-1]:
        return None
    runs, i = [], len(shape) - 2
    while i >= 0:
        if lead[i] == 1:
            i -= 1
            continue
        end = i + 1
        while i >= 0 and lead[i] == shape[i]:
            i -= 1
        if end == i + 1:
            return None  # neither 1 nor the dimension of x
        first = i + 1
        while lead[first] == 1:  # ones of both at the front of a run belong to neither
            first += 1
        runs.append((math.prod(shape[end:-1]), math.prod(shape[first:end])))
    if len(runs) > 2:
        return None
    return (*(runs or [(1, 1)]), (1, 1))[:2]


def softmax(x, log=False, scale=1.0):
    """softmax(scale * x), or its logarithm, along the last dimension."""
    if not x.ndim or not fits(x):
        return None
    y, columns = xp_of(x).empty(x.shape, x.dtype), x.shape[-1]
    rows = x.size // columns
    grid, block = row_grid(rows, columns, x.itemsize)
    _softmax[log](grid, block, x, y, rows, columns, scale)
    return y


def takes_scores(x, shape, mask=None):
    """Whether `masked_softmax` takes scores of `shape` beside x: its device and dtype (of probabilities), this mask."""
    if x.dtype not in FLOATS or not math.prod(shape) or not kernels_enabled() or not ready(backend_of(x)):
        return False
    return mask is None or (mask.__class__ is x.__class__ and mask.dtype in (F32, np.bool_)
                            and _mask_rows(mask, shape) is not None)


def masked_softmax(x, allowed=None, bias=None, scale=1.0, causal=False, log=False, zero=False, dtype=None):
    """softmax(scale * x + bias) along the last dimension, or its logarithm, rounded to `dtype` (x's).

    False in `allowed` takes an element out; bias is float32; one of them at most, broadcast to x's shape. `causal`: row
    t of each matrix (the last two dimensions) sees columns 0 to t. A row without elements is NaN, 0 with `zero`.
    """
    mask = bias if allowed is None else allowed
    if x.ndim < 1 + causal or not fits(x) or (allowed is not None and bias is not None):
        return None
    runs = ((1, 1), (1, 1))
    if mask is not None:
        runs = _mask_rows(mask, x.shape)
        wanted = F32 if allowed is None else np.bool_
        if runs is None or mask.dtype != wanted or mask.__class__ is not x.__class__ or not mask.flags.c_contiguous:
            return None
    y, columns = xp_of(x).empty(x.shape, dtype or x.dtype), x.shape[-1]
    rows = x.size // columns
    grid, block = row_grid(rows, columns, y.itemsize)
    (inner_repeat, inner_rows), (outer_repeat, outer_rows) = runs
    _masked[log](grid, block, x, allowed, bias, y, rows, columns, scale, inner_repeat, inner_rows, outer_repeat,
                 outer_rows, x.shape[-2] if causal else 0, zero)
    return y


def softmax_backward(grad, y, log=False, scale=1.0):
    """The gradient of softmax (or its logarithm) from its output."""
    if not y.ndim or not fits(grad, y) or grad.shape != y.shape:
        return None
    gx = xp_of(y).empty(y.shape, y.dtype)
    columns = y.shape[-1]
    rows = y.size // columns
    grid, block = row_grid(rows, columns, y.itemsize)
    _softmax_backward[log](grid, block, grad, y, gx, rows, columns, scale)
    return gx


def _affine_fits(x, columns, *affine):
    given = [a for a in affine if a is not None]
    return all(a.__class__ is x.__class__ and a.size == columns and a.dtype in (x.dtype, F32) and a.flags.c_contiguous
               for a in given) and len({a.dtype for a in given}) <= 1


def norm(x, weight, bias, columns, eps, center, residual=None):
    """(y, mean, r, sum): rows of `columns` elements normalized (layer norm if `center`, else RMS), weight, bias.

    mean (rows, 1), None for RMS norm, and r = 1 / sqrt(variance + eps) (rows, 1) are float32. With a residual of x's
    shape it is x + residual that is normalized, rounded; `sum` holds it (None without).
    """
    if not fits(x, residual) or not _affine_fits(x, columns, weight, bias):
        return None
    if residual is not None and residual.shape != x.shape:
        return None
    xp, rows = xp_of(x), x.size // columns
    y = xp.empty(x.shape, x.dtype)
    total = None if residual is None else xp.empty(x.shape, x.dtype)
    mean = xp.empty((rows, 1), F32) if center else None
    r = xp.empty((rows, 1), F32)
    grid, block = row_grid(rows, columns, x.itemsize)
    _norm[center](grid, block, x, residual, weight, bias, y, total, mean, r, rows, columns, 1 / columns, eps)
    return y, mean, r, total


def norm_backward(grad, x, weight, mean, r, columns, center, more=None):
    """gx, or (gx, gradient of weight, of bias) with a weight; the last is None for RMS norm. `more` is added to gx."""
    if not fits(grad, x, more) or grad.shape != x.shape or not _affine_fits(x, columns, weight):
        return None
    if more is not None and more.shape != x.shape:
        return None
    if any(a is not None and (a.dtype != F32 or not a.flags.c_contiguous) for a in (mean, r)):
        return None
    xp, rows = xp_of(x), x.size // columns
    gx = xp.empty(x.shape, x.dtype)
    blocks = min(rows, BLOCKS)
    shared = 0 if weight is None else columns * 4 * (2 if center else 1)
    beside = 0 < shared <= SHARED  # the gradients of weight and bias are summed beside gx
    parts = [None, None]
    if beside:
        parts = [xp.empty((blocks, columns), F32), xp.empty((blocks, columns), F32) if center else None]
    _norm_backward[center]((blocks,), (_threads(columns, x.itemsize), 1), grad, x, weight, mean, r, more, gx, *parts,
                           rows, columns, 1 / columns, shared=shared if beside else 0)
    if weight is None:
        return gx
    if not beside:
        parts = norm_weight_sums(grad, x, mean, r, columns, center)
    sums = [None if p is None else column_sums(p, weight.dtype).reshape(weight.shape) for p in parts]
    return gx, *sums
