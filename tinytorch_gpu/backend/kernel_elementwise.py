"""Launchers of kernels/elementwise.cu: raw arrays in, new ones out, or None where the kernel does not fit."""
from __future__ import annotations

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
_gated = [Kernel(FILE, "gated_forward", KIND=k, types=TYPES) for k in KINDS]
_gated_backward = [Kernel(FILE, "gated_backward", KIND=k, types=TYPES) for k in KINDS]
_dropout = Kernel(FILE, "dropout", types=TYPES, optional=("residual",))


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


def gated(gate, up, kind):
    """f(gate) * up: SwiGLU with SILU, GeGLU with GELU."""
    if not fits(gate, up) or gate.shape != up.shape:
        return None
    y = xp_of(gate).empty(gate.shape, gate.dtype)
    _gated[kind](_grid(gate.size), (THREADS,), gate, up, y, gate.size)
    return y


def gated_backward(grad, gate, up, kind):
    """(grad * up * f'(gate), grad * f(gate))."""
    if not fits(grad, gate, up) or not grad.shape == gate.shape == up.shape:
        return None
    ggate, gup = xp_of(gate).empty(gate.shape, gate.dtype), xp_of(gate).empty(gate.shape, gate.dtype)
    _gated_backward[kind](_grid(gate.size), (THREADS,), grad, gate, up, ggate, gup, gate.size)
    return ggate, gup


def dropout(x, p, seed_offset, residual=None):
    """mask * x / (1 - p), plus the residual; the mask is `random.bernoulli(1 - p)` of (seed, offset), bit for bit."""
    seed, offset = seed_offset
    threshold = round((1 - p) * 2**32)
    # a mask without zeros has no threshold of 32 bits; a Philox block must not be split between threads
    if not 0 < threshold < 2**32 or offset % 4 or not fits(x, residual):
        return None
    if residual is not None and residual.shape != x.shape:
        return None
    y = xp_of(x).empty(x.shape, x.dtype)
    _dropout(_grid(x.size), (THREADS,), x, residual, y, x.size, 1 / (1 - p), threshold, seed, offset // 4)
    return y
