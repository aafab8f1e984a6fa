"""Launchers of kernels/elementwise.cu: raw arrays in, new ones out, or None where the kernel does not fit."""
from __future__ import annotations

import math

import numpy as np

from .device import xp_of
from .kernel import Kernel, fits

__all__ = [
    "GELU", "GELU_TANH", "RELU", "SILU", "activation", "activation_backward", "gated", "gated_backward", "dropout",
]

FILE = "elementwise.cu"
TYPES = ("float", "__half", "__nv_bfloat16")
GELU, GELU_TANH, RELU, SILU = KINDS = range(4)
THREADS, ITEMS = 256, 8

_forward = [Kernel(FILE, "activation_forward", KIND=k, types=TYPES, optional=("bias",)) for k in KINDS]
_backward = [Kernel(FILE, "activation_backward", KIND=k, types=TYPES, optional=("bias",)) for k in KINDS]
_gated = [Kernel(FILE, "gated_forward", KIND=k, types=TYPES, optional=("up",)) for k in KINDS]
_gated_backward = [Kernel(FILE, "gated_backward", KIND=k, types=TYPES, optional=("up", "gup")) for k in KINDS]
_dropout = Kernel(FILE, "dropout", types=(*((t, t) for t in TYPES), *((t, "float") for t in TYPES[1:])),
                  optional=("residual",))
F32 = np.dtype(np.float32)


def _grid(n):
    return (-(-n // (THREADS * ITEMS)),)


def _bias_fits(x, bias):
    return bias is None or (bias.ndim == 1 and x.ndim and bias.shape[0] == x.shape[-1])


def activation(x, kind, bias=None):
    """f(x + bias), bias (columns) along the last dimension."""
    if not fits(x, bias) or not _bias_fits(x, bias):
        return None
    y = xp_of(x).empty(x.shape, x.dtype)
    _forward[kind](_grid(x.size), (THREADS,), x, bias, y, x.size, 1 if bias is None else bias.size)
    return y


def activation_backward(grad, x, kind, bias=None):
    """grad * f'(x + bias)."""
    if not fits(grad, x, bias) or grad.shape != x.shape or not _bias_fits(x, bias):
        return None
    gx = xp_of(x).empty(x.shape, x.dtype)
    _backward[kind](_grid(x.size), (THREADS,), grad, x, bias, gx, x.size, 1 if bias is None else bias.size)
    return gx


def _rows(gate, up, dim):
    """(shape of the result, elements of a row, elements from row to row) of gate and up, or of one array's halves."""
    if up is not None:
        return gate.shape, gate.size, gate.size
    stride = math.prod(gate.shape[dim:])
    return (*gate.shape[:dim], gate.shape[dim] // 2, *gate.shape[dim + 1:]), stride // 2, stride


def gated(gate, up, kind, dim=None):
    """f(gate) * up: SwiGLU with SILU, GeGLU with GELU. Without `up`, `gate` is both, one behind the other along `dim`,
    whose length must be even."""
    if not fits(gate, up) or up is not None and gate.shape != up.shape:
        return None
    shape, columns, stride = _rows(gate, up, dim)
    y = xp_of(gate).empty(shape, gate.dtype)
    _gated[kind](_grid(y.size), (THREADS,), gate, up, y, y.size, columns, stride)
    return y


def gated_backward(grad, gate, up, kind, dim=None):
    """(grad * up * f'(gate), grad * f(gate)); without `up` one array like `gate`, with both along `dim`."""
    if not fits(grad, gate, up) or up is not None and gate.shape != up.shape:
        return None
    shape, columns, stride = _rows(gate, up, dim)
    if grad.shape != shape:
        return None
    xp = xp_of(gate)
    ggate = xp.empty(gate.shape, gate.dtype)
    gup = None if up is None else xp.empty(gate.shape, gate.dtype)
    _gated_backward[kind](_grid(grad.size), (THREADS,), grad, gate, up, ggate, gup, grad.size, columns, stride)
    return ggate if up is None else (ggate, gup)


def dropout(x, p, seed_offset, residual=None):
    """mask * x / (1 - p), plus the residual; the mask is `random.bernoulli(1 - p)` of (seed, offset), bit for bit.

    The residual has x's shape, and its dtype or float32; the result has the residual's dtype.
    """
    seed, offset = seed_offset
    threshold = round((1 - p) * 2**32)
    # a mask without zeros has no threshold of 32 bits; a Philox block must not be split between threads
    if not 0 < threshold < 2**32 or offset % 4 or not fits(x):
        return None
    if residual is not None and (residual.shape != x.shape or residual.__class__ is not x.__class__
                                 or residual.dtype not in (x.dtype, F32) or not residual.flags.c_contiguous):
        return None
    y = xp_of(x).empty(x.shape, x.dtype if residual is None else residual.dtype)
    _dropout(_grid(x.size), (THREADS,), x, residual, y, x.size, 1 / (1 - p), threshold, seed, offset // 4)
    return y
