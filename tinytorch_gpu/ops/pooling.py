"""Pooling in 1 and 2 dimensions: maximum, average, adaptive average.

Windows are met offset by offset as strided slices of the whole input (4 passes for 2 x 2), so that sums over
overlapping windows have a fixed order.
"""
from __future__ import annotations

import itertools
import math

import numpy as np

from .. import ops
from ..autograd.operator import Operator, array_of
from ..backend import dtypes, threads
from ..backend.device import backend_of
from .convolution import spread
from .registry import public


class Windows:
    """Where pooling windows lie: `size` of the space, kernel, stride, padding, dilation, rounding up or down."""

    def __init__(self, name, size, kernel, stride, padding, dilation=None, ceil_mode=False):
        n = len(size)
        self.size = tuple(size)
        self.kernel = spread(name, "kernel_size", kernel, n)
        self.stride = self.kernel if stride is None or stride == () else spread(name, "stride", stride, n)
        self.padding = spread(name, "padding", padding, n)
        self.dilation = (1,) * n if dilation is None else spread(name, "dilation", dilation, n)
        if min(self.kernel) < 1 or min(self.stride) < 1 or min(self.dilation) < 1:
            raise RuntimeError(f"[{name}] kernel_size, stride and dilation must be greater than zero")
        if any(2 * p > k for p, k in zip(self.padding, self.kernel)) or min(self.padding) < 0:
            raise RuntimeError(f"[{name}] pad should be at most half of the kernel size, got pad {self.padding} and "
                               f"kernel {self.kernel}")
        out = []
        for s, k, st, p, d in zip(self.size, self.kernel, self.stride, self.padding, self.dilation):
            reach = s + 2 * p - d * (k - 1) - 1
            m = (-(-reach // st) if ceil_mode else reach // st) + 1
            if ceil_mode and (m - 1) * st >= s + p:  # the last window must begin inside
                m -= 1
            out.append(m)
        self.out = tuple(out)
        if min(self.out) < 1:
            raise RuntimeError(f"[{name}] given input size {list(size)}, kernel {self.kernel} and padding "
                               f"{self.padding}, the output size {list(self.out)} is too small")
        # the padded space, as far as the last window reaches
        self.padded = tuple(max((m - 1) * st + d * (k - 1) + 1, s + 2 * p) for m, k, st, p, d, s in
                            zip(self.out, self.kernel, self.stride, self.padding, self.dilation, self.size))
        self.plain = self.padded == self.size

    def inside(self):
        """The slices of the padded space that hold the input."""
        return tuple(slice(p, p + s) for p, s in zip(self.padding, self.size))

    def pad(self, xp, x, value):
        """The input in its padded space."""
        if self.plain:
            return x
        out = xp.full(x.shape[:-len(self.size)] + self.padded, value, x.dtype)
        out[(..., *self.inside())] = x
        return out

    def offsets(self):
        """For each offset in the kernel: the index of the padded input that gives one value for each window."""
        for offset in itertools.product(*map(range, self.kernel)):
            yield (..., *(slice(o * d, o * d + st * (m - 1) + 1, st)
                          for o, d, st, m in zip(offset, self.dilation, self.stride, self.out)))

    def along(self, x, dim):
        """For each offset of the kernel in one dimension of space: what of `x` it meets."""
        o, st, d, m = self.kernel[dim], self.stride[dim], self.dilation[dim], self.out[dim]
        rest = (slice(None),) * (len(self.size) - 1 - dim)
        return [x[(..., slice(k * d, k * d + st * (m - 1) + 1, st), *rest)] for k in range(o)]

    @property
    def tiles(self):
        """Whether the windows cover every place exactly once."""
        return self.plain and self.stride == self.kernel and set(self.dilation) == {1} and self.padded == tuple(
            m * k for m, k in zip(self.out, self.kernel))

    def over_batch(self, xp, x, function):
        """function(slice of the leading dimension), on the CPU in threads if there is enough to do."""
        n = x.shape[0]
        if xp is np and x.size >= 1 << 16:
            threads.each(function, threads.split(n, 4))
        else:
            function(slice(0, n))

    def winners(self, xp, x, y):
        """The number of the kernel offset that gave each maximum, the first of several; NaN counts as the maximum."""
        count = math.prod(self.kernel)
        low = -np.inf if x.dtype.kind in "fV" else dtypes.limits(x.dtype).min
        winner = xp.full(y.shape, count - 1, np.uint8 if count <= 256 else np.int32)
        strange = y.dtype.kind in "fV" and (xp is not np or bool(np.isnan(y).any()))  # a host may look before it works

        def run(piece):
            padded, best, found = self.pad(xp, x[piece], low), y[piece], winner[piece]
            numbered = list(enumerate(self.offsets()))
            for number, index in reversed(numbered[:-1]):
                part = padded[index]
                here = part == best
                if strange:
                    here |= part != part
                found *= ~here  # arithmetic: a masked copy takes 5 ns an element when the mask is random
                found += here * winner.dtype.type(number)

        self.over_batch(xp, x, run)
        return winner

    def flat_index(self, xp, winner):
        """The numbers that PyTorch calls indices: positions in the flattened space of the input."""
        per_dim = []
        rest = winner.astype(np.int64)
        for k in reversed(self.kernel):
            per_dim.append(rest % k)
            rest = rest // k
        flat = 0
        for axis, (o, st, p, d, s) in enumerate(zip(reversed(per_dim), self.stride, self.padding, self.dilation,
                                                    self.size)):
            start = xp.arange(self.out[axis]) * st - p
            start = start.reshape((-1,) + (1,) * (len(self.size) - 1 - axis))
            flat = flat * s + o * d + start
        return flat


class MaxPool(Operator):
    """The maximum of each window. Input and output are saved; which place won is found in backward."""

    def forward(node, x, windows):
        node.windows = windows
        xp = node.xp
        low = -np.inf if x.dtype.kind in "fV" else dtypes.limits(x.dtype).min
        out = xp.empty(x.shape[:-len(windows.size)] + windows.out, x.dtype)

        def run(piece):
            values = windows.pad(xp, x[piece], low)
            last = len(windows.size) - 1
            for dim in range(last + 1):  # rows before columns: whole rows are contiguous
                first, *rest = windows.along(values, dim)
                best = out[piece] if dim == last else xp.empty(first.shape, x.dtype)
                best[...] = first
                for part in rest:
                    xp.maximum(best, part, out=best)
                values = best

        windows.over_batch(xp, x, run)
        node.save(x, out)
        return out

    def backward(node, grad):
        x, y = map(array_of, node.saved)
        return ops.pool_place(grad, node.windows.winners(node.xp, x, y), node.windows)


class PoolPlace(Operator):
    """Each value back to where its window's maximum was; overlapping windows add."""

    def forward(node, y, winner, windows):
        node.winner, node.windows = winner, windows
        xp = node.xp
        out = xp.zeros(y.shape[:-len(windows.size)] + windows.padded, y.dtype)
        bits = xp.ascontiguousarray(y).view(f"i{y.dtype.itemsize}")

        def run(piece):
            values, found, target = bits[piece], winner[piece], out[piece]
            for number, index in enumerate(windows.offsets()):
                # a choice by bits: a product would make NaN of infinity, where() takes 5 ns for each element
                taken = (found == number).astype(bits.dtype)
                xp.negative(taken, out=taken)
                taken &= values
                if windows.tiles:
                    target[index] = taken.view(y.dtype)
                else:
                    target[index] += taken.view(y.dtype)

        windows.over_batch(xp, y, run)
        return out if windows.plain else xp.ascontiguousarray(out[(..., *windows.inside())])

    def backward(node, grad):
        return ops.pool_pick(grad, node.winner, node.windows)


class PoolPick(Operator):
    """The values at the places that won."""

    def forward(node, x, winner, windows):
        node.winner, node.windows = winner, windows
        xp = node.xp
        padded = windows.pad(xp, x, 0)
        out = xp.zeros(winner.shape, x.dtype)
        for number, index in enumerate(windows.offsets()):
            out += xp.where(winner == number, padded[index], x.dtype.type(0))
        return out

    def backward(node, grad):
        return ops.pool_place(grad, node.winner, node.windows)


class WindowSum(Operator):
    """The sum of each window, zeros outside."""

    opmath = True

    def forward(node, x, windows):
        node.windows = windows
        padded = windows.pad(node.xp, x, 0)
        offsets = windows.offsets()
        out = padded[next(offsets)].copy()
        for index in offsets:
            out += padded[index]
        return out

    def backward(node, grad):
        return ops.window_spread(grad, node.windows)


class WindowSpread(Operator):
    """The adjoint of WindowSum: every window's value to each of its places."""

    opmath = True

    def forward(node, y, windows):
        node.windows = windows
        out = node.xp.zeros(y.shape[:-len(windows.size)] + windows.padded, y.dtype)
        for index in windows.offsets():
            out[index] += y
        return node.xp.ascontiguousarray(out[(..., *windows.inside())])

    def backward(node, grad):
        return ops.window_sum(grad, node.windows)


@public
def pool_place(input, winner, windows):
    """The adjoint of `pool_pick`; internal."""
    return PoolPlace.apply(input, winner=winner, windows=windows)


@public
def pool_pick(input, winner, windows):
    """The values that max pooling chose; internal."""
    return PoolPick.apply(input, winner=winner, windows=windows)


@public
def window_sum(input, windows):
    """Sums over pooling windows; internal."""
    return WindowSum.apply(input, windows=windows)


@public
def window_spread(input, windows):
    """The adjoint of `window_sum`; internal."""
    return WindowSpread.apply(input, windows=windows)


def _space(name, input, n):
    x = array_of(input)
    if x.ndim not in (n + 1, n + 2) or 0 in x.shape[-n - 1:]:
        raise RuntimeError(f"[{name}] expected {n + 1}D or {n + 2}D input with nonempty channels and space, got "
                           f"{list(x.shape)}")
    return x.shape[-n:]


def _max_pool(name, n, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices):
    windows = Windows(name, _space(name, input, n), kernel_size, stride, padding, dilation, ceil_mode)
    out = MaxPool.apply(input, windows=windows)
    if not return_indices:
        return out
    x = array_of(input)
    xp = backend_of(x).xp
    return out, ops.wrap(windows.flat_index(xp, windows.winners(xp, x, array_of(out))))


@public(functional=True)
def max_pool1d(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """The maximum over windows of (N, C, L); NaN wins. As torch.nn.functional.max_pool1d."""
    return _max_pool("max_pool1d", 1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@public(functional=True)
def max_pool2d(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """The maximum over windows of (N, C, H, W); NaN wins. As torch.nn.functional.max_pool2d."""
    return _max_pool("max_pool2d", 2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def _avg_pool(name, n, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor):
    x = array_of(input)
    if dtypes.of(x).category < dtypes.FLOAT:
        raise RuntimeError(f"[{name}] not implemented for {dtypes.of(x).name}: convert to a floating dtype")
    w = Windows(name, _space(name, input, n), kernel_size, stride, padding, None, ceil_mode)
    total = WindowSum.apply(input, windows=w)
    if divisor is not None:
        if divisor == 0:
            raise RuntimeError(f"[{name}] divisor must be not zero")
        return ops.div(total, divisor)
    if w.plain or (count_include_pad and w.padded == tuple(s + 2 * p for s, p in zip(w.size, w.padding))):
        return ops.mul(total, 1 / math.prod(w.kernel))
    counts = np.ones((1,) * n)
    for axis, (m, k, st, p, s) in enumerate(zip(w.out, w.kernel, w.stride, w.padding, w.size)):
        start = np.arange(m) * st - p
        end = np.minimum(start + k, s + p)
        if not count_include_pad:
            start, end = np.maximum(start, 0), np.minimum(end, s)
        counts = counts * (end - start).reshape((-1,) + (1,) * (n - 1 - axis))
    backend = backend_of(x)
    counts = backend.from_host(counts.astype(dtypes.accumulation(x.dtype)))
    return ops.cast(ops.div(total, counts), x.dtype)


@public(functional=True)
def avg_pool1d(input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """The mean over windows of (N, C, L). As torch.nn.functional.avg_pool1d."""
    return _avg_pool("avg_pool1d", 1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


@public(functional=True)
def avg_pool2d(
    input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    """The mean over windows of (N, C, H, W). As torch.nn.functional.avg_pool2d."""
    return _avg_pool("avg_pool2d", 2, input, kernel_size, stride, padding, ceil_mode, count_include_pad,
                     divisor_override)


def _adaptive(name, n, input, output_size):
    size = _space(name, input, n)
    x = array_of(input)
    if dtypes.of(x).category < dtypes.FLOAT:
        raise RuntimeError(f"[{name}] not implemented for {dtypes.of(x).name}: convert to a floating dtype")
    wanted = (output_size,) * n if isinstance(output_size, int) or output_size is None else tuple(output_size)
    if len(wanted) != n:
        raise RuntimeError(f"[{name}] output_size must be an int or {n} ints, got {output_size}")
    wanted = tuple(s if w is None else w for s, w in zip(size, wanted))
    if min(wanted) < 0:
        raise RuntimeError(f"[{name}] output_size must be non-negative, got {wanted}")
    if min(wanted) > 0 and all(s % w == 0 for s, w in zip(size, wanted)):
        kernel = tuple(s // w for s, w in zip(size, wanted))
        return _avg_pool(name, n, input, kernel, kernel, 0, False, True, None)
    out = input  # windows of unequal length: a product with a matrix of averages for each dimension
    backend = backend_of(x)
    for axis, (s, w) in enumerate(zip(size, wanted)):
        start = np.arange(w) * s // max(w, 1)
        end = -(-(np.arange(w) + 1) * s // max(w, 1))
        at = np.arange(s)[:, None]
        weights = ((at >= start) & (at < end)) / (end - start)
        weights = backend.from_host(weights.astype(dtypes.accumulation(x.dtype)))
        dim = array_of(out).ndim - n + axis
        out = ops.cast(out, weights.dtype)
        out = ops.transpose(ops.matmul(ops.transpose(out, dim, -1), weights), dim, -1)
    return ops.cast(out, x.dtype)


@public(functional=True)
def adaptive_avg_pool1d(input, output_size):
    """The mean over `output_size` windows of (N, C, L). As torch.nn.functional.adaptive_avg_pool1d."""
    return _adaptive("adaptive_avg_pool1d", 1, input, output_size)


@public(functional=True)
def adaptive_avg_pool2d(input, output_size):
    """The mean over output_size (H', W') windows of (N, C, H, W). As torch.nn.functional.adaptive_avg_pool2d."""
    return _adaptive("adaptive_avg_pool2d", 2, input, output_size)


