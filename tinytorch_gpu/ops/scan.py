"""Running sums and products along a dimension, products: cumsum, cumprod, prod, and the shift they need."""
from __future__ import annotations

from .. import ops
from ..autograd.operator import Operator, array_of
from ..backend import dtypes
from .axes import axis_of, kept_shape
from .registry import public


def _ends(ndim, dim, start, stop):
    return (slice(None),) * dim + (slice(start, stop),) + (slice(None),) * (ndim - dim - 1)


class Shift(Operator):
    """Moved by `by` places along `dim`; what comes in is `fill`, what leaves is lost."""

    def forward(node, x, dim, by, fill):
        node.dim, node.by = dim, by
        out = node.xp.full_like(x, fill)
        n = x.shape[dim]
        if abs(by) < n:
            if by > 0:
                out[_ends(x.ndim, dim, by, None)] = x[_ends(x.ndim, dim, None, n - by)]
            else:
                out[_ends(x.ndim, dim, None, n + by)] = x[_ends(x.ndim, dim, -by, None)]
        return out

    def backward(node, grad):
        return _shift(grad, node.dim, -node.by, 0)


class CumSum(Operator):
    """Running sums along `dim`, from the end if `reverse`; integers sum in int64."""

    opmath = True
    autocast = "float32"

    def forward(node, x, dim, reverse):
        node.dim, node.reverse = dim, reverse
        dtype = dtypes.int64.np if x.dtype.kind in "biu" else x.dtype
        if not reverse:
            return node.xp.cumsum(x, axis=dim, dtype=dtype)
        return node.xp.flip(node.xp.cumsum(node.xp.flip(x, dim), axis=dim, dtype=dtype), dim)

    def backward(node, grad):
        return CumSum.apply(grad, dim=node.dim, reverse=not node.reverse)


class CumProd(Operator):
    """Running products along `dim`, from the end if `reverse`.

    The gradient needs no division, so it is right at zeros and at any order: with P_k the product of what comes before
    k and S_k = g_k + x_(k+1) S_(k+1), it is P_k S_k. The recurrence takes log2(n) steps over whole arrays.
    """

    opmath = True
    autocast = "float32"

    def forward(node, x, dim, reverse):
        node.dim, node.reverse = dim, reverse
        node.save(x)
        dtype = dtypes.int64.np if x.dtype.kind in "biu" else x.dtype
        if not reverse:
            return node.xp.cumprod(x, axis=dim, dtype=dtype)
        return node.xp.flip(node.xp.cumprod(node.xp.flip(x, dim), axis=dim, dtype=dtype), dim)

    def backward(node, grad):
        (x,) = node.saved
        d, forth = node.dim, -1 if node.reverse else 1
        before = _shift(CumProd.apply(x, dim=d, reverse=node.reverse), d, forth, 1)
        total, factor = grad, ops.conj(_shift(x, d, -forth, 0))
        step, n = 1, array_of(x).shape[d]
        while step < n:
            total = ops.add(total, ops.mul(factor, _shift(total, d, -forth * step, 0)))
            step, last = step * 2, step
            if step < n:
                factor = ops.mul(factor, _shift(factor, d, -forth * last, 0))
        return ops.mul(ops.conj(before), total)


class Prod(Operator):
    """The product along `dim`. Each element's gradient is the product of the others, so zeros need no division."""

    opmath = True
    autocast = "float32"

    def forward(node, x, dim, keepdim):
        node.dim = dim
        node.save(x)
        if x.dtype.kind in "biu":
            return x.prod(axis=dim, keepdims=keepdim, dtype=dtypes.int64.np)
        return x.prod(axis=dim, keepdims=keepdim)

    def backward(node, grad):
        (x,) = node.saved
        d = node.dim
        before = _shift(CumProd.apply(x, dim=d, reverse=False), d, 1, 1)
        after = _shift(CumProd.apply(x, dim=d, reverse=True), d, -1, 1)
        kept = kept_shape(array_of(x).shape, (d,))
        return ops.mul(ops.reshape(grad, kept), ops.conj(ops.mul(before, after)))


def _shift(x, dim, by, fill):
    return Shift.apply(x, dim=dim, by=by, fill=fill)


def _scan(cls, name, input, dim, dtype):
    if dtype is not None:
        input = ops.cast(input, dtypes.from_any(dtype).np)
    ndim = array_of(input).ndim
    dim = axis_of(name, dim, ndim)
    if ndim == 0:
        out = ops.reshape(cls.apply(ops.reshape(input, (1,)), dim=0, reverse=False), ())
    else:
        out = cls.apply(input, dim=dim, reverse=False)
    return out if dtype is None else ops.cast(out, dtypes.from_any(dtype).np)


@public(method=True, inplace=True)
def cumsum(input, dim, *, dtype=None):
    """Running sums along `dim`; integers sum in int64. As torch.cumsum. Raises: IndexError for a dim out of range."""
    return _scan(CumSum, "cumsum", input, dim, dtype)


@public(method=True, inplace=True)
def cumprod(input, dim, *, dtype=None):
    """Running products along `dim`; right gradients at zeros. As torch.cumprod.

    Raises: IndexError for a dim out of range.
    """
    return _scan(CumProd, "cumprod", input, dim, dtype)


@public(method=True)
def prod(input, dim=None, keepdim=False, *, dtype=None):
    """The product of all elements or along one `dim`; right gradients of any order at zeros. As torch.prod."""
    if dtype is not None:
        input = ops.cast(input, dtypes.from_any(dtype).np)
    ndim = array_of(input).ndim
    if dim is None:
        out = Prod.apply(ops.reshape(input, (-1,)), dim=0, keepdim=False)
    elif ndim == 0:
        axis_of("prod", dim, 0)
        out = ops.reshape(Prod.apply(ops.reshape(input, (1,)), dim=0, keepdim=False), ())
    else:
        out = Prod.apply(input, dim=axis_of("prod", dim, ndim), keepdim=keepdim)
    return out if dtype is None else ops.cast(out, dtypes.from_any(dtype).np)
