"""softmax and log_softmax along one dimension, without overflow."""
from __future__ import annotations

import numpy as np

from .. import ops
from ..autograd.operator import Operator, array_of
from ..backend import dtypes, kernel_rows, threads
from .axes import axis_of, real_only
from .registry import public
from .sums import kept_max, kept_sum


def _below_top(xp, x, dim):
    """x - max(x) along `dim`, in an array of its own; a row of -inf becomes NaN, as in PyTorch."""
    if not x.size:
        return x.copy()
    with dtypes.quiet():
        return xp.subtract(x, kept_max(x, dim))


class Softmax(Operator):
    """exp(x) / sum(exp(x)) along `dim`; the output is saved."""

    __slots__ = ("dim",)
    opmath = widens = True
    promotion = "float"
    autocast = "float32"

    def fused(node, x, dim):
        node.dim = dim
        y = kernel_rows.softmax(x) if dim == x.ndim - 1 else None
        node.save(y)
        return y

    def forward(node, x, dim):
        node.dim = dim
        y = _below_top(node.xp, x, dim)
        with dtypes.quiet():
            node.xp.exp(y, out=y)
            node.xp.multiply(y, node.xp.reciprocal(kept_sum(y, dim)), out=y)
        node.save(y)
        return y

    def backward(node, grad):
        (y,) = node.saved
        return SoftmaxBackward.apply(grad, y, dim=node.dim)


class SoftmaxBackward(Operator):
    """scale * y * (grad - sum(grad * y)) in four passes; from the output y of softmax(scale * x)."""

    __slots__ = ("dim", "scale")
    opmath = True

    def fused(node, grad, y, dim, scale=1.0):
        node.dim, node.scale = dim, scale
        node.save(grad, y)
        return kernel_rows.softmax_backward(grad, y, scale=scale) if dim == y.ndim - 1 else None

    def forward(node, grad, y, dim, scale=1.0):
        node.dim, node.scale = dim, scale
        node.save(grad, y)
        xp = node.xp
        out = xp.empty(y.shape, y.dtype)

        def run(piece):
            g, p, o = grad[piece], y[piece], out[piece]
            xp.multiply(g, p, out=o)
            xp.subtract(g, kept_sum(o, dim), out=o)
            xp.multiply(o, p, out=o)
            if scale != 1:
                xp.multiply(o, o.dtype.type(scale), out=o)

        if xp is np and y.size >= 1 << 16 and dim > 0:
            threads.each(run, threads.split(y.shape[0], 8))
        else:
            run(...)
        return out

    def backward(node, h):
        grad, y = node.saved
        d = node.dim
        if node.scale != 1:
            h = ops.mul(h, node.scale)
        hy = ops.sum(ops.mul(h, y), d, True)
        apart = ops.sub(grad, ops.sum(ops.mul(grad, y), d, True))
        return SoftmaxBackward.apply(h, y, dim=d), ops.sub(ops.mul(h, apart), ops.mul(grad, hy))


class LogSoftmax(Operator):
    """x - log(sum(exp(x))) along `dim`; the output is saved."""

    __slots__ = ("dim",)
    opmath = widens = True
    promotion = "float"
    autocast = "float32"

    def fused(node, x, dim):
        node.dim = dim
        y = kernel_rows.softmax(x, log=True) if dim == x.ndim - 1 else None
        node.save(y)
        return y

    def forward(node, x, dim):
        node.dim = dim
        xp = node.xp
        y = _below_top(xp, x, dim)
        with dtypes.quiet():
            xp.subtract(y, xp.log(kept_sum(xp.exp(y), dim)), out=y)
        node.save(y)
        return y

    def backward(node, grad):
        (y,) = node.saved
        return LogSoftmaxBackward.apply(grad, y, dim=node.dim)


class LogSoftmaxBackward(Operator):
    """grad - exp(y) * sum(grad); from the output y."""

    __slots__ = ("dim",)
    opmath = True

    def fused(node, grad, y, dim):
        node.dim = dim
        node.save(grad, y)
        return kernel_rows.softmax_backward(grad, y, log=True) if dim == y.ndim - 1 else None

    def forward(node, grad, y, dim):
        node.dim = dim
        node.save(grad, y)
        xp = node.xp
        with dtypes.quiet():
            out = xp.exp(y)
            xp.multiply(out, kept_sum(grad, dim), out=out)
            return xp.subtract(grad, out, out=out)

    def backward(node, h):
        grad, y = node.saved
        p = ops.exp(y)
        hp = ops.mul(h, p)
        return (ops.sub(h, ops.sum(hp, node.dim, True)),
                ops.neg(ops.mul(hp, ops.sum(grad, node.dim, True))))


@public
def softmax_backward(grad, y, dim, scale=1.0):
    """scale * y * (grad - sum(grad * y)) along `dim` >= 0; internal: softmax and attention."""
    return SoftmaxBackward.apply(grad, y, dim=dim, scale=scale)


def _along(cls, name, input, dim, dtype):
    if dtype is not None:
        input = ops.cast(input, dtypes.from_any(dtype).np)
    array = array_of(input)
    real_only(name, array)
    if dim is None:
        raise TypeError(f"[{name}] missing argument dim: name the dimension along which the results sum to 1")
    axis = axis_of(name, dim, array.ndim)
    if array.ndim == 0:
        return ops.reshape(cls.apply(ops.reshape(input, (1,)), dim=0), ())
    return cls.apply(input, dim=axis)


@public(method=True)
def softmax(input, dim=None, dtype=None):
    """exp(input) / sum(exp(input)) along `dim`; `dtype` converts first. Same shape. As torch.nn.functional.softmax.

    Raises: TypeError without a dim, IndexError when it is out of range.
    """
    return _along(Softmax, "softmax", input, dim, dtype)


@public(method=True)
def log_softmax(input, dim=None, dtype=None):
    """log(softmax(input, dim)), without overflow; `dtype` converts first. As torch.nn.functional.log_softmax.

    Raises: TypeError without a dim, IndexError when it is out of range.
    """
    return _along(LogSoftmax, "log_softmax", input, dim, dtype)


@public(functional=True)
def softmin(input, dim=None, dtype=None):
    """softmax(-input, dim). As torch.nn.functional.softmin."""
    return softmax(ops.neg(input), dim, dtype)
