"""Layer and RMS norm of a sum, x + residual, which they return as well: one kernel reads both and writes both."""
from __future__ import annotations

from .. import ops
from ..autograd.operator import Operator, array_of
from ..backend import dtypes, kernel_rows
from .normalization import NormalizeBackward, affine_fits, bias_gradient, floating, last_dimensions
from .registry import public


class _AddNormalize(Operator):
    """x + residual normalized, times weight, plus bias; and x + residual, rounded to `dtype` before all else."""

    __slots__ = ("layout",)
    opmath = widens = True
    materialize = False

    def fused(node, x, residual, weight, bias, layout, dtype):
        node.layout = layout
        found = kernel_rows.norm(x, weight, bias, layout.size, layout.eps, layout.center, residual)
        if found is None:
            return None
        y, mean, r, total = found
        node.save(total, weight, mean, r)
        return y, total

    def forward(node, x, residual, weight, bias, layout, dtype):
        node.layout = layout
        with dtypes.quiet():
            total = node.xp.add(x, residual)
            if dtype != total.dtype:
                total = total.astype(dtype).astype(total.dtype)
            y, mean, _, r = layout.normalize(node.xp, total, weight, bias)
        node.save(total, weight, mean, r)
        return y, total

    def backward(node, grad, more):
        total, weight, mean, r = node.saved
        if grad is None:
            return more, more, None, None
        params = dict(layout=node.layout, mean=mean, r=r)
        if weight is None:
            gx = NormalizeBackward.apply(grad, total, None, more, **params)
            return gx, gx, None, bias_gradient(grad, node.layout) if node.need(3) else None
        gx, gw, gb = NormalizeBackward.apply(grad, total, weight, more, **params)
        return gx, gx, gw, gb


class AddLayerNorm(_AddNormalize):
    """LayerNorm of a sum."""

    __slots__ = ()


class AddRMSNorm(_AddNormalize):
    """RMSNorm of a sum."""

    __slots__ = ()


def _add_norm(cls, name, input, residual, normalized_shape, weight, bias, center, eps):
    x, r = array_of(input), array_of(residual)
    floating(name, x)
    floating(name, r)
    if x.shape != r.shape or x.dtype != r.dtype:  # of the common shape and dtype, as of ops.add
        input = ops.add(input, residual)
        residual, x = ops.zeros_like(input), array_of(input)
    if eps is None:
        eps = float(dtypes.limits(dtypes.accumulation(x.dtype)).eps)
    shape, layout = last_dimensions(name, x, normalized_shape, center, eps)
    affine_fits(name, x, shape, weight, "weight")
    affine_fits(name, x, shape, bias, "bias")
    return cls.apply(input, residual, weight, bias, layout=layout, dtype=x.dtype)


@public(functional=True, autocast="float32")
def add_layer_norm(input, residual, normalized_shape, weight=None, bias=None, eps=1e-5):
    """(layer_norm(input + residual, normalized_shape, weight, bias, eps), input + residual), both of the sum's shape.

    What every block of a transformer does to its residual stream, on a GPU in one trip through memory instead of two.
    Raises: RuntimeError for shapes or dtypes that do not fit.
    """
    return _add_norm(AddLayerNorm, "add_layer_norm", input, residual, normalized_shape, weight, bias, True, eps)


@public(functional=True, autocast="float32")
def add_rms_norm(input, residual, normalized_shape, weight=None, eps=None):
    """(rms_norm(input + residual, normalized_shape, weight, eps), input + residual), both of the sum's shape.

    `eps` is the dtype's machine epsilon unless given. Raises: RuntimeError for shapes or dtypes that do not fit.
    """
    return _add_norm(AddRMSNorm, "add_rms_norm", input, residual, normalized_shape, weight, None, False, eps)
