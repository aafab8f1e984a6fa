"""Variance, standard deviation, logsumexp and norms."""
from __future__ import annotations

import math

from .. import ops
from ..autograd.operator import Operator, array_of
from ..backend import dtypes
from ..backend.device import is_array
from .axes import axes_of, count_of, float_only, kept_shape
from .registry import public


def _like_input(value, x, axes):
    """A reduced value with the reduced dimensions as ones."""
    kept = kept_shape(array_of(x).shape, axes)
    return value if array_of(value).shape == kept else ops.reshape(value, kept)


def _array(xp, value):
    return value if is_array(value) else xp.asarray(value)


def _variance(node, x, axes, correction, keepdim):
    """The sum of squared distances from the mean over n - correction; real for complex x too."""
    n = count_of(x.shape, axes)
    node.axes, node.freedom = axes, n - correction
    xp = node.xp
    mean = x.sum(axis=axes, keepdims=True) * (1 / n if n else math.nan)
    apart = xp.subtract(x, mean)
    if x.dtype.kind == "c":
        apart = apart.real ** 2 + apart.imag ** 2
    else:
        apart = xp.multiply(apart, apart)
    with dtypes.quiet():
        return xp.divide(apart.sum(axis=axes, keepdims=keepdim), float(max(node.freedom, 0)))


def _variance_gradient(node, grad, x):
    factor = 2 / node.freedom if node.freedom > 0 else math.nan
    mean = ops.mean(x, node.axes, True)
    return ops.mul(ops.mul(_like_input(grad, x, node.axes), factor), ops.sub(x, mean))


class Var(Operator):
    """The variance over `axes`, divided by n - correction."""

    opmath = True

    def forward(node, x, axes, correction, keepdim):
        node.save(x)
        return _variance(node, x, axes, correction, keepdim)

    def backward(node, grad):
        return _variance_gradient(node, grad, *node.saved)


class Std(Operator):
    """The square root of the variance; the gradient is 0 where that is 0."""

    opmath = True

    def forward(node, x, axes, correction, keepdim):
        y = _array(node.xp, node.xp.sqrt(_variance(node, x, axes, correction, keepdim)))
        node.save(x, y)
        return y

    def backward(node, grad):
        x, y = node.saved
        zero = array_of(y) == 0
        half = ops.div(ops.mul(grad, 0.5), ops.add(y, zero))
        return _variance_gradient(node, ops.mul(half, ~zero), x)


class LogSumExp(Operator):
    """log(sum(exp(x))) over `axes`, without overflow; the output is saved."""

    opmath = True
    promotion = "float"
    autocast = "float32"

    def forward(node, x, axes, keepdim):
        xp = node.xp
        node.axes = axes
        if x.size == 0 and count_of(x.shape, axes) == 0:
            top = xp.zeros(kept_shape(x.shape, axes), x.dtype)
        else:
            top = _array(xp, x.real.max(axis=axes, keepdims=True) if x.dtype.kind == "c" else
                         x.max(axis=axes, keepdims=True))
            top = xp.where(xp.isinf(top), 0, top)
        with dtypes.quiet():
            y = xp.log(xp.exp(x - top).sum(axis=axes, keepdims=True)) + top
        y = y if keepdim else y.reshape([n for i, n in enumerate(x.shape) if axes is not None and i not in axes])
        node.save(x, y)
        return y

    def backward(node, grad):
        x, y = node.saved
        y = _like_input(y, x, node.axes)
        flat = node.xp.isinf(array_of(y))
        share = ops.exp(ops.sub(x, ops.where(~flat, y, 0)))
        return ops.mul(_like_input(grad, x, node.axes), ops.conj(share))


class Norm(Operator):
    """The vector norm of order `p` over `axes`; the output is saved. At 0 the gradient is 0."""

    opmath = True
    autocast = "float32"

    def forward(node, x, p, axes, keepdim):
        node.p, node.axes = p, axes
        xp = node.xp
        size = xp.absolute(x)
        if p == math.inf:
            y = size.max(axis=axes, keepdims=keepdim)
        elif p == -math.inf:
            y = size.min(axis=axes, keepdims=keepdim)
        elif p == 0:
            y = (size != 0).sum(axis=axes, keepdims=keepdim).astype(size.dtype)
        elif p == 1:
            y = size.sum(axis=axes, keepdims=keepdim)
        elif p == 2:
            y = xp.sqrt(xp.multiply(size, size).sum(axis=axes, keepdims=keepdim))
        else:
            with dtypes.quiet():
                y = xp.power(xp.power(size, p).sum(axis=axes, keepdims=keepdim), 1 / p)
        y = _array(xp, y)
        node.save(x, y)
        return y

    def backward(node, grad):
        x, y = node.saved
        p = node.p
        grad, y = _like_input(grad, x, node.axes), _like_input(y, x, node.axes)
        if p == 0:
            return ops.mul(ops.mul(x, 0), grad)
        if p == 1:
            return ops.mul(ops.sgn(x), grad)
        xp = node.xp
        whole = array_of(y)
        if p in (math.inf, -math.inf):
            ties = xp.absolute(array_of(x)) == whole
            share = ties / ties.sum(axis=node.axes, keepdims=True)
            return ops.mul(ops.mul(ops.sgn(x), grad), share.astype(whole.dtype))
        zero = whole == 0
        safe = ops.add(y, zero)
        if p == 2:
            return ops.mul(x, ops.mul(ops.div(grad, safe), ~zero))
        none = array_of(x) == 0
        size = ops.add(ops.abs(x), none)
        power = ops.mul(ops.pow(size, p - 1), ops.mul(ops.div(grad, ops.pow(safe, p - 1)), ~zero))
        return ops.mul(ops.sgn(x), power)


def _freedom(name, dim, unbiased, correction):
    """(dim, correction) from PyTorch's two signatures, var(dim, unbiased) and var(unbiased)."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if correction is not None and unbiased is not None:
        raise TypeError(f"[{name}] got both correction and unbiased: pass correction")
    if unbiased is not None:
        correction = 1 if unbiased else 0
    return dim, 1 if correction is None else correction


def _spread(cls, name, input, dim, unbiased, keepdim, correction):
    array = array_of(input)
    float_only(name, array)
    dim, correction = _freedom(name, dim, unbiased, correction)
    return cls.apply(input, axes=axes_of(name, dim, array.ndim), correction=correction, keepdim=keepdim)


@public(method=True)
def var(input, dim=None, unbiased=None, keepdim=False, *, correction=None):
    """The variance over `dim` (int, tuple, None: all), divided by n - correction (1). As torch.var.

    Real for complex input. Raises: RuntimeError for integers.
    """
    return _spread(Var, "var", input, dim, unbiased, keepdim, correction)


@public(method=True)
def std(input, dim=None, unbiased=None, keepdim=False, *, correction=None):
    """The standard deviation over `dim` (int, tuple, None: all), of n - correction (1) degrees. As torch.std.

    Real for complex input. Raises: RuntimeError for integers.
    """
    return _spread(Std, "std", input, dim, unbiased, keepdim, correction)


@public
def var_mean(input, dim=None, unbiased=None, keepdim=False, *, correction=None):
    """(variance, mean) over `dim`. As torch.var_mean."""
    where, _ = _freedom("var_mean", dim, unbiased, correction)
    return _spread(Var, "var_mean", input, dim, unbiased, keepdim, correction), ops.mean(input, where, keepdim)


@public
def std_mean(input, dim=None, unbiased=None, keepdim=False, *, correction=None):
    """(standard deviation, mean) over `dim`. As torch.std_mean."""
    where, _ = _freedom("std_mean", dim, unbiased, correction)
    return _spread(Std, "std_mean", input, dim, unbiased, keepdim, correction), ops.mean(input, where, keepdim)


@public(method=True)
def logsumexp(input, dim, keepdim=False):
    """log(sum(exp(input))) over `dim` (int or tuple), without overflow. As torch.logsumexp."""
    return LogSumExp.apply(input, axes=axes_of("logsumexp", dim, array_of(input).ndim), keepdim=keepdim)


def vector_norm(x, ord=2, dim=None, keepdim=False, *, dtype=None):
    """The vector norm of order `ord` (any number, inf, -inf) over `dim` (int, tuple, None: all).

    As torch.linalg.vector_norm. Raises: RuntimeError for integers, and for nothing to take the maximum of.
    """
    if dtype is not None:
        x = ops.cast(x, dtypes.from_any(dtype).np)
    array = array_of(x)
    if array.dtype.kind in "biu":
        raise RuntimeError(
            f"[vector_norm] expected a floating point or complex tensor as input, got {dtypes.of(array).name}: convert "
            "it with .float()"
        )
    if not isinstance(ord, (int, float)):
        raise TypeError(f"[vector_norm] ord must be a number, got {ord!r}")
    axes = axes_of("vector_norm", dim, array.ndim)
    if (ord < 0 or ord == math.inf) and count_of(array.shape, axes) == 0:
        raise RuntimeError(f"[vector_norm] cannot compute the {ord} norm on an empty tensor because the operation does "
                           "not have an identity")
    return Norm.apply(x, p=float(ord), axes=axes, keepdim=keepdim)


@public(method=True)
def norm(input, p="fro", dim=None, keepdim=False, dtype=None):
    """The vector norm of order `p` over `dim`, elementwise also for matrices ("fro" is 2). As torch.norm.

    Raises: RuntimeError for integers and for the nuclear norm.
    """
    if isinstance(p, str) and p != "fro":
        raise RuntimeError(f"[norm] p must be a number or 'fro', got {p!r}")
    return vector_norm(input, 2 if p == "fro" or p is None else p, dim, keepdim, dtype=dtype)
