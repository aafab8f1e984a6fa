"""Normalization to zero mean and unit variance: layer norm, and RMS norm without the mean.

These and those of channels (channel_normalization.py) are one function of x over some dimensions:
xhat = (x - m(x)) r with r = 1 / sqrt(m((x - m(x))^2) + eps), then weight and bias. Its derivative
P v = r (v - m(v) - xhat m(v xhat)) is symmetric, which makes the second order short.
Mean and r are saved beside x as numbers that no derivative goes through: derivatives start from x.
"""
from __future__ import annotations

import math

import numpy as np

from .. import ops
from ..autograd.operator import Operator, array_of
from ..backend import dtypes, kernel_rows
from .axes import real_only
from .registry import public
from .sums import along_rows, kept_sum, sum_leading, weighted_rows


class Layout:
    """Which dimensions are normalized, and how weight and bias lie over them.

    The array is seen as (rows, columns) with each row normalized, or as (batch, channels, inner) with each channel
    normalized over the other two. `over` are the normalized dimensions of x, `affine` is the shape in which weight
    and bias broadcast to x.
    """

    __slots__ = ("over", "affine", "view", "by_row", "size", "share", "center", "eps")

    def __init__(self, over, affine, view, by_row, center, eps):
        self.over, self.affine, self.view, self.by_row, self.center, self.eps = over, affine, view, by_row, center, eps
        self.size = view[1] if by_row else view[0] * view[2]
        self.share = 1 / self.size if self.size else math.nan

    def totals(self, x):
        """Sums over the normalized dimensions, to broadcast over the view."""
        if self.by_row:
            return kept_sum(x, 1)
        return self.channel_sums(x).reshape(1, -1, 1)

    def channel_sums(self, x):
        return sum_leading(x.sum(axis=2) if self.view[2] > 1 else x.reshape(self.view[:2]), 1)

    def squares(self, xp, a, b):
        """Sums of a * b over the normalized dimensions."""
        if xp is not np:  # CuPy's einsum is a product by cuBLAS, which it refuses while a graph is captured
            ab = a * b
            return ab.sum(axis=1, keepdims=True) if self.by_row else ab.sum(axis=(0, 2), keepdims=True)
        if self.by_row:
            return xp.einsum("ij,ij->i", a, b)[:, None]
        return sum_leading(xp.einsum("ncl,ncl->nc", a, b), 1).reshape(1, -1, 1)

    def statistics(self, xp, x):
        """x less its mean in an array of its own, the mean (None for RMS), the mean square, and r."""
        mean = None
        if self.center:
            mean = self.totals(x) * self.share
            x = xp.subtract(x, mean)
        square = self.squares(xp, x, x) * self.share
        return x, mean, square, 1 / xp.sqrt(square + self.eps)

    def normalize(self, xp, x, weight, bias):
        """x normalized, times weight, plus bias; the mean, the mean square, and r."""
        apart, mean, square, r = self.statistics(xp, x.reshape(self.view))
        factor = r if weight is None or self.by_row else r * weight.reshape(1, -1, 1)
        y = xp.multiply(apart, factor, out=apart) if self.center else apart * factor
        y = y.reshape(x.shape)
        if weight is not None and self.by_row:
            xp.multiply(y, weight.reshape(self.affine), out=y)
        return y if bias is None else xp.add(y, bias.reshape(self.affine), out=y), mean, square, r


class _Normalize(Operator):
    """xhat * weight + bias."""

    __slots__ = ("layout",)
    opmath = widens = True

    def fused(node, x, weight, bias, layout, measured=None):
        if not layout.by_row or measured is not None:
            return None
        found = kernel_rows.norm(x, weight, bias, layout.size, layout.eps, layout.center)
        if found is None:
            return None
        node.layout = layout
        y, mean, r, _ = found
        node.save(x, weight, mean, r)
        return y

    def forward(node, x, weight, bias, layout, measured=None):
        node.layout = layout
        with dtypes.quiet():
            y, mean, square, r = layout.normalize(node.xp, x, weight, bias)
            node.save(x, weight, mean, r)
            if measured is not None:
                measured.update(mean=mean.reshape(-1), variance=square.reshape(-1))
            return y

    def backward(node, grad):
        x, weight, mean, r = node.saved
        params = dict(layout=node.layout, mean=mean, r=r)
        if weight is None:
            gb = bias_gradient(grad, node.layout) if node.need(2) else None
            return NormalizeBackward.apply(grad, x, **params), None, gb
        return NormalizeBackward.apply(grad, x, weight, **params)


class LayerNorm(_Normalize):
    """Each sample normalized over its last dimensions."""

    __slots__ = ()
    autocast = "float32"


class RMSNorm(_Normalize):
    """Each sample divided by the root of its mean square over the last dimensions."""

    __slots__ = ()
    autocast = "float32"


class BatchNorm(_Normalize):
    """Each channel normalized over the batch."""

    __slots__ = ()
    fused = None  # a channel's elements are no rows


class GroupNorm(_Normalize):
    """Each group of channels of a sample normalized."""

    __slots__ = ()


class NormalizeBackward(Operator):
    """P(grad * weight), and with a weight its gradient sum(grad * xhat) and the bias's sum(grad).

    `more` is added to the first: the gradient that comes to x on another way. In few passes: layer norm of (2048, 128)
    takes seven over the array and three matrix-vector products.
    """

    __slots__ = ("layout",)
    opmath = True

    def fused(node, grad, x, weight=None, more=None, *, layout, mean, r):
        node.save(grad, x, weight)
        node.layout = layout
        if not layout.by_row:
            return None
        found = kernel_rows.norm_backward(grad, x, weight, mean, r, layout.size, layout.center, more)
        if found.__class__ is tuple and found[2] is None:  # RMS norm has no bias
            return (*found[:2], node.xp.zeros_like(found[1]))
        return found

    def forward(node, grad, x, weight=None, more=None, *, layout, mean, r):
        xp = node.xp
        node.save(grad, x, weight)
        node.layout = layout
        g, seen = grad.reshape(layout.view), x.reshape(layout.view)
        with dtypes.quiet():
            apart = xp.subtract(seen, mean) if layout.center else seen.copy()
            out = (node.rows if layout.by_row else node.channels)(xp, g, apart, weight, r, x.shape)
            if more is not None:
                gx = out if weight is None else out[0]
                xp.add(gx, more, out=gx)
            return out

    def rows(node, xp, g, apart, weight, r, shape):
        layout, share = node.layout, node.layout.share
        if weight is None:
            out = g.copy()
            with_x = layout.squares(xp, g, apart)
            total = layout.totals(g) if layout.center else None
        else:
            w = weight.reshape(-1)
            product = xp.multiply(g, apart)
            gw, gb = weighted_rows(r.reshape(-1), product), sum_leading(g, 1)
            out = xp.multiply(g, w)
            with_x = along_rows(product, w)
            total = along_rows(g, w) if layout.center else None
        xp.multiply(apart, with_x * (r * r * share), out=apart)
        xp.subtract(out, apart, out=out)
        if layout.center:
            xp.subtract(out, total * share, out=out)
        out = xp.multiply(out, r, out=out).reshape(shape)
        return out if weight is None else (out, gw.reshape(weight.shape), gb.reshape(weight.shape))

    def channels(node, xp, g, apart, weight, r, shape):
        layout, share = node.layout, node.layout.share
        gb, with_x = layout.totals(g), layout.squares(xp, g, apart)
        xp.multiply(apart, with_x * (r * r * share), out=apart)
        out = xp.subtract(g, apart, out=apart)
        xp.subtract(out, gb * share, out=out)
        out = xp.multiply(out, r if weight is None else r * weight.reshape(1, -1, 1), out=out).reshape(shape)
        return out if weight is None else (out, (with_x * r).reshape(-1), gb.reshape(-1))

    def backward(node, h, k=None, l=None):  # noqa: E741
        grad, x, weight = node.saved
        layout = node.layout
        m = _mean_over(layout)
        xhat, r = _normalized(x, layout)

        def project(v):
            out = ops.sub(v, ops.mul(xhat, m(ops.mul(v, xhat))))
            return ops.mul(ops.sub(out, m(v)) if layout.center else out, r)

        w = None if weight is None else ops.reshape(weight, layout.affine)
        inner = grad if w is None else ops.mul(grad, w)
        ph, pg = project(h), project(inner)
        a, b = m(ops.mul(h, xhat)), m(ops.mul(inner, xhat))
        c = ops.sub(m(ops.mul(h, inner)), ops.mul(a, b))
        if layout.center:
            c = ops.sub(c, ops.mul(m(h), m(inner)))
        gx = ops.neg(ops.add(ops.mul(r, ops.add(ops.mul(b, ph), ops.mul(a, pg))),
                             ops.mul(ops.mul(ops.mul(r, r), xhat), c)))
        if w is None:
            return (ph, gx, None, h)[:len(node.edges)]
        k, l = ops.reshape(k, layout.affine), ops.reshape(l, layout.affine)  # noqa: E741
        ggrad = ops.add(ops.add(ops.mul(w, ph), ops.mul(xhat, k)), l)
        gw = ops.reshape(ops.sum_to_size(ops.mul(grad, ph), _padded(layout, array_of(x).ndim)), array_of(weight).shape)
        return (ggrad, ops.add(gx, project(ops.mul(grad, k))), gw, h)[:len(node.edges)]


def bias_gradient(grad, layout):
    """The gradient of a bias beside no weight."""
    gb = ops.sum_to_size(grad, _padded(layout, array_of(grad).ndim))
    return ops.reshape(gb, layout.affine if layout.by_row else (-1,))


def _padded(layout, ndim):
    return (1,) * (ndim - len(layout.affine)) + layout.affine


def _mean_over(layout):
    return lambda v: ops.mean(v, layout.over, True)


def _normalized(x, layout):
    """(xhat, r) by differentiable operators."""
    m = _mean_over(layout)
    if layout.center:
        x = ops.sub(x, m(x))
    r = ops.rsqrt(ops.add(m(ops.mul(x, x)), layout.eps))
    return ops.mul(x, r), r


def affine_fits(name, array, shape, other, what):
    """Check weight or bias (or running statistics): its shape and dtype."""
    if other is None:
        return
    o = array_of(other)
    if o.shape != shape:
        raise RuntimeError(f"[{name}] expected {what} to have shape {list(shape)}, got {list(o.shape)}")
    if o.dtype != array.dtype and not (array.dtype in dtypes.HALF and o.dtype == dtypes.float32.np):
        raise RuntimeError(f"[{name}] expected {what} of dtype {dtypes.of(array).name} like the input, got "
                           f"{dtypes.of(o).name}: convert one")


def floating(name, array):
    real_only(name, array)
    if array.dtype.kind in "biu":
        raise NotImplementedError(f"[{name}] not implemented for {dtypes.of(array).name}: the input must be floating "
                                  "point")


def last_dimensions(name, array, normalized_shape, center, eps):
    """The layout of layer and RMS norm."""
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape:
        raise RuntimeError(f"[{name}] Expected normalized_shape to be at least 1-dimensional, got {shape}")
    lead = array.ndim - len(shape)
    if lead < 0 or array.shape[lead:] != shape:
        raise RuntimeError(f"[{name}] Given normalized_shape={list(shape)}, expected input with shape "
                           f"[*, {', '.join(map(str, shape))}], but got input of size {list(array.shape)}")
    columns = math.prod(shape)
    view = (math.prod(array.shape[:lead]), columns)
    return shape, Layout(tuple(range(lead, array.ndim)), shape, view, True, center, eps)


@public(functional=True)
def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last dimensions, which are `normalized_shape`.

    As torch.nn.functional.layer_norm (Ba et al. 2016). Raises: RuntimeError for shapes or dtypes that do not fit.
    """
    array = array_of(input)
    floating("layer_norm", array)
    shape, layout = last_dimensions("layer_norm", array, normalized_shape, True, eps)
    affine_fits("layer_norm", array, shape, weight, "weight")
    affine_fits("layer_norm", array, shape, bias, "bias")
    return LayerNorm.apply(input, weight, bias, layout=layout)


@public(functional=True)
def rms_norm(input, normalized_shape, weight=None, eps=None):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimensions, which are `normalized_shape`.

    `eps` is the dtype's machine epsilon unless given. As torch.nn.functional.rms_norm (Zhang and Sennrich 2019).
    Raises: RuntimeError for shapes or dtypes that do not fit.
    """
    array = array_of(input)
    floating("rms_norm", array)
    if eps is None:
        eps = float(dtypes.limits(dtypes.accumulation(array.dtype)).eps)
    shape, layout = last_dimensions("rms_norm", array, normalized_shape, False, eps)
    affine_fits("rms_norm", array, shape, weight, "weight")
    return RMSNorm.apply(input, weight, None, layout=layout)
