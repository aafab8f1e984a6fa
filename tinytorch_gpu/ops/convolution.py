"""Convolution in 1, 2 or 3 dimensions as matrix products over columns of the input (im2col).

Three operators, each bilinear, whose gradients are each other: x * w, its adjoint in x and its adjoint in w.
Arrays are (batch, channels, *space) and (out, in / groups, *kernel).

The batch goes through in pieces whose columns stay in cache (64 x 32 x 16 x 16 with 64 filters 3 x 3, one thread:
whole batch 9.9 ms, pieces of 1 MiB 8.3 ms); columns are laid out (in, *kernel, piece, *out), so that a piece is one
long product for each group.
"""
from __future__ import annotations

import functools
import itertools
import math

import numpy as np

from .. import ops
from ..autograd.operator import Operator, array_of
from ..backend import dtypes, threads
from ..backend.device import backend_of
from ..backend.gemm import product_into
from .registry import public

_PIECE = 1 << 20  # bytes of columns on the CPU
_PIECE_DEVICE = 1 << 28


class Geometry:
    """Sizes of one convolution: stride, padding [(low, high)], dilation for each dimension of space, groups."""

    def __init__(self, x_shape, w_shape, stride, padding, dilation, groups):
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.x_shape, self.w_shape = tuple(x_shape), tuple(w_shape)
        self.kernel = self.w_shape[2:]
        self.padded = tuple(n + lo + hi for n, (lo, hi) in zip(x_shape[2:], padding))
        self.out = tuple((n - d * (k - 1) - 1) // s + 1
                         for n, k, s, d in zip(self.padded, self.kernel, stride, dilation))
        self.positions = math.prod(self.out)
        self.taps = math.prod(self.kernel)
        both = (slice(None), slice(None))
        self.inside = both + tuple(slice(lo, n - hi) for n, (lo, hi) in zip(self.padded, self.padding))
        self.windows = [  # for each kernel offset: where it lies in the columns, and what of the padded input it meets
            ((slice(None), *offset), both + tuple(slice(o * d, o * d + s * (n - 1) + 1, s) for o, d, s, n in
                                                  zip(offset, self.dilation, self.stride, self.out)))
            for offset in itertools.product(*map(range, self.kernel))
        ]

    def pieces(self, xp, itemsize):
        """Slices of the batch."""
        each = max(1, self.x_shape[1] * self.taps * self.positions * itemsize)
        n = max(1, (_PIECE if xp is np else _PIECE_DEVICE) // each)
        return [slice(i, min(i + n, self.x_shape[0])) for i in range(0, self.x_shape[0], n)]

    def over_batch(self, xp, itemsize, function):
        """function(slice of the batch) for all pieces, on the CPU in threads."""
        pieces = self.pieces(xp, itemsize)
        if xp is np:
            threads.each(function, pieces)
        else:
            for piece in pieces:
                function(piece)

    def columns(self, scratch, x):
        """(n, in, *space) -> (groups, in / groups * taps, n * positions)."""
        n, channels = x.shape[:2]
        if self.padded != self.x_shape[2:]:
            padded = scratch.zeros("padded", n, channels, *self.padded)
            padded[self.inside] = x  # the border stays zero from piece to piece
            x = padded
        x = x.swapaxes(0, 1)
        out = scratch("columns", channels, *self.kernel, n, *self.out)
        for offset, window in self.windows:
            out[offset] = x[window]
        return out.reshape(self.groups, channels // self.groups * self.taps, n * self.positions)

    def fold(self, scratch, columns, n):
        """The adjoint of `columns`: sums every element back to where it came from."""
        channels = self.x_shape[1]
        columns = columns.reshape(channels, *self.kernel, n, *self.out)
        x = scratch("folded", channels, n, *self.padded)
        x[...] = 0
        for offset, window in self.windows:
            x[window] += columns[offset]
        return x[self.inside].swapaxes(0, 1)

    def grouped_weight(self, w):
        """(out, in / groups, *kernel) -> (groups, out / groups, in / groups * taps)."""
        g = self.groups
        return w.reshape(g, w.shape[0] // g, -1) if w.size else w.reshape(g, w.shape[0] // g, math.prod(w.shape[1:]))

    def grouped_output(self, scratch, y):
        """(n, out, *space) -> (groups, out / groups, n * positions)."""
        n, channels = y.shape[:2]
        rows = scratch("rows", channels, n, *self.out)
        rows[...] = y.swapaxes(0, 1)
        return rows.reshape(self.groups, channels // self.groups, n * self.positions)


class _Convolution(Operator):
    """What the three operators share."""

    opmath = True

    def name(node):
        return type(node).__name__.replace("Conv", f"Conv{len(node.geometry.kernel)}d", 1)


class Conv(_Convolution):
    """Cross-correlation of x (N, C, *space) with w (O, C / groups, *kernel), plus a bias (O)."""

    autocast = "lower"

    def forward(node, x, w, bias, geometry):
        node.geometry = g = geometry
        node.save(x if node.need(1) else None, w if node.need(0) else None)
        xp = node.xp
        n, filters = x.shape[0], w.shape[0]
        out = xp.empty((n, filters, *g.out), x.dtype)
        weight = g.grouped_weight(w)
        shift = None if bias is None else bias.reshape(filters, 1, *(1,) * len(g.out))

        scratch = threads.Scratch(xp, x.dtype)

        def run(piece):
            columns = g.columns(scratch, x[piece])
            product = scratch("product", g.groups, filters // g.groups, columns.shape[2])
            product = product_into(product, weight, columns).reshape(filters, -1, *g.out)
            target = out[piece].swapaxes(0, 1)
            if shift is None:
                target[...] = product
            else:
                xp.add(product, shift, out=target)

        g.over_batch(xp, x.itemsize, run)
        return out

    def backward(node, grad):
        x, w = node.saved
        g = node.geometry
        gx = ops.conv_input(grad, ops.conj(w), g) if node.need(0) else None
        gw = ops.conv_weight(ops.conj(x), grad, g) if node.need(1) else None
        gb = ops.sum(grad, (0, *range(2, array_of(grad).ndim))) if node.need(2) else None
        return gx, gw, gb


class ConvInput(_Convolution):
    """The adjoint of Conv in x: (N, O, *out) and w -> (N, C, *space)."""

    def forward(node, y, w, geometry):
        node.geometry = g = geometry
        node.save(y if node.need(1) else None, w if node.need(0) else None)
        xp = node.xp
        out = xp.empty(g.x_shape, y.dtype)
        weight = g.grouped_weight(w).swapaxes(1, 2)

        scratch = threads.Scratch(xp, y.dtype)

        def run(piece):
            rows = g.grouped_output(scratch, y[piece])
            columns = scratch("columns", g.groups, weight.shape[1], rows.shape[2])
            out[piece] = g.fold(scratch, product_into(columns, weight, rows), rows.shape[2] // g.positions)

        g.over_batch(xp, y.itemsize, run)
        return out

    def backward(node, grad):
        y, w = node.saved
        g = node.geometry
        gy = ops.conv(grad, ops.conj(w), g) if node.need(0) else None
        return gy, ops.conv_weight(grad, ops.conj(y), g) if node.need(1) else None


class ConvWeight(_Convolution):
    """The adjoint of Conv in w: (N, C, *space) and (N, O, *out) -> (O, C / groups, *kernel)."""

    def forward(node, x, y, geometry):
        node.geometry = g = geometry
        node.save(x if node.need(1) else None, y if node.need(0) else None)
        xp = node.xp
        parts, scratch = {}, threads.Scratch(xp, x.dtype)

        def run(piece):
            rows = g.grouped_output(scratch, y[piece])
            columns = g.columns(scratch, x[piece]).swapaxes(1, 2)
            made = xp.empty((*rows.shape[:2], columns.shape[2]), x.dtype)
            parts[piece.start] = product_into(made, rows, columns)

        g.over_batch(xp, x.itemsize, run)
        total = xp.zeros(g.w_shape, x.dtype)
        for start in sorted(parts):  # in the order of the batch, whatever the threads did
            total += parts[start].reshape(g.w_shape)
        return total

    def backward(node, grad):
        x, y = node.saved
        g = node.geometry
        gx = ops.conv_input(ops.conj(y), grad, g) if node.need(0) else None
        return gx, ops.conv(ops.conj(x), grad, g) if node.need(1) else None


@public
def conv(input, weight, geometry, bias=None):
    """Convolution of a known geometry; internal."""
    return Conv.apply(input, weight, bias, geometry=geometry)


@public
def conv_input(output, weight, geometry):
    """The adjoint of `conv` in its input; internal."""
    return ConvInput.apply(output, weight, geometry=geometry)


@public
def conv_weight(input, output, geometry):
    """The adjoint of `conv` in its weight; internal."""
    return ConvWeight.apply(input, output, geometry=geometry)


@functools.lru_cache(256)
def _geometry(*sizes):
    return Geometry(*sizes)


def spread(name, what, value, n):
    """A number or n numbers as a tuple of n ints."""
    if isinstance(value, int):
        return (value,) * n
    value = tuple(value)
    if len(value) == 1:
        value *= n
    if len(value) != n or not all(isinstance(v, int) for v in value):
        raise RuntimeError(f"[{name}] {what} must be an int or {n} ints, got {value}")
    return value


def _convolve(name, n, input, weight, bias, stride, padding, dilation, groups):
    x, w = array_of(input), array_of(weight)
    if x.dtype != w.dtype:
        raise RuntimeError(f"[{name}] input is {dtypes.of(x).name} and weight {dtypes.of(w).name}: they should be the "
                           "same, convert one with .to(dtype)")
    if backend_of(x) is not backend_of(w):
        raise RuntimeError(f"[{name}] expected input and weight on the same device, but found "
                           f"{backend_of(x).device_of(x)} and {backend_of(w).device_of(w)}")
    if w.ndim != n + 2 or x.ndim not in (n + 1, n + 2):
        raise RuntimeError(f"[{name}] expected {n + 1}D (unbatched) or {n + 2}D (batched) input and {n + 2}D weight, "
                           f"got {list(x.shape)} and {list(w.shape)}")
    if x.ndim == n + 1:
        return ops.squeeze(_convolve(name, n, ops.unsqueeze(input, 0), weight, bias, stride, padding, dilation,
                                     groups), 0)
    stride, dilation = spread(name, "stride", stride, n), spread(name, "dilation", dilation, n)
    if min(stride) < 1 or min(dilation) < 1 or groups < 1:
        raise RuntimeError(f"[{name}] stride, dilation and groups must be positive, got {stride}, {dilation}, {groups}")
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise RuntimeError(f"[{name}] padding must be numbers, 'same' or 'valid', got {padding!r}")
        if padding == "same" and max(stride) > 1:
            raise RuntimeError(f"[{name}] padding='same' is not supported for strided convolutions")
        reach = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, w.shape[2:])]
        padding = tuple((r // 2, r - r // 2) for r in reach)
    else:
        padding = tuple((p, p) for p in spread(name, "padding", padding, n))
        if min(p for p, _ in padding) < 0:
            raise RuntimeError(f"[{name}] negative padding is not supported, got {padding}")
    if w.shape[0] % groups or x.shape[1] != w.shape[1] * groups:
        raise RuntimeError(
            f"[{name}] weight {list(w.shape)} has {w.shape[1]} input channels for each of {groups} groups, input "
            f"{list(x.shape)} has {x.shape[1]}: make weight.shape[1] * groups equal input.shape[1], and groups divide "
            "weight.shape[0]"
        )
    if bias is not None and (array_of(bias).shape != (w.shape[0],) or array_of(bias).dtype != w.dtype):
        b = array_of(bias)
        raise RuntimeError(f"[{name}] expected a {dtypes.of(w).name} bias of shape [{w.shape[0]}], got "
                           f"{dtypes.of(b).name} {list(b.shape)}")
    geometry = _geometry(x.shape, w.shape, stride, padding, dilation, groups)
    if min(geometry.out) < 1:
        raise RuntimeError(f"[{name}] calculated padded input size {geometry.padded} is smaller than the kernel "
                           f"{geometry.kernel} with dilation {dilation}: kernel size can't be greater")
    return Conv.apply(input, weight, bias, geometry=geometry)


@public(functional=True, autocast="lower")
def conv1d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """(N, C, L) with (O, C / groups, K) -> (N, O, L'). As torch.nn.functional.conv1d.

    Raises: RuntimeError for shapes or dtypes that do not fit.
    """
    return _convolve("conv1d", 1, input, weight, bias, stride, padding, dilation, groups)


@public(functional=True, autocast="lower")
def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """(N, C, H, W) with (O, C / groups, KH, KW) -> (N, O, H', W'). As torch.nn.functional.conv2d.

    Raises: RuntimeError for shapes or dtypes that do not fit.
    """
    return _convolve("conv2d", 2, input, weight, bias, stride, padding, dilation, groups)
