"""scatter_reduce: what lands on one place is summed, multiplied, averaged, or the largest or smallest is taken."""
from __future__ import annotations

import numpy as np

from .. import ops
from ..autograd.operator import Operator, array_of
from ..backend import dtypes
from ..tensor import attach
from . import segments
from .indexing import SliceBackward, kept
from .registry import public
from .scatter import Gather, Scatter, ScatterAdd, _cut, _index, positions
from .shape import shape_of

_KINDS = ("sum", "prod", "mean", "amax", "amin")


def _combined(xp, x, source, dim, index, reduce, include_self):
    """The result, and where x itself takes part in it."""
    flat = positions(xp, index, dim, x.shape)
    inside = xp.ones(x.shape, np.bool_)
    start = x.reshape(-1)
    if not include_self and index.size:
        touched = xp.zeros(x.size, np.bool_)
        touched[flat] = True
        inside = ~touched.reshape(x.shape)
        neutral = 1 if reduce == "prod" else _limit(x.dtype, reduce == "amax")
        start = xp.where(touched, x.dtype.type(neutral), start)
    out = segments.segment_reduce(source.reshape(-1), flat, start, reduce)
    return out.reshape(x.shape), inside


def _limit(dtype, lowest):
    if dtype.kind == "b":
        return not lowest
    if dtype.kind in "iu":
        return np.iinfo(dtype).min if lowest else np.iinfo(dtype).max
    return -np.inf if lowest else np.inf


def _padded(part, size):
    """The gradient of a cut source: `part` in the front corner of zeros."""
    shape = shape_of(part)
    if shape == size:
        return part
    return SliceBackward.apply(part, size=size, index=tuple([slice(0, n) for n in shape]) + (...,))


class ScatterExtreme(Operator):
    """The largest or smallest of x and what lands there; equal ones share the gradient."""

    opmath = True

    def forward(node, x, src, dim, index, reduce, include_self):
        xp = node.xp
        source = _cut(src, index.shape)
        out, inside = _combined(xp, x, source, dim, index, reduce, include_self)
        node.dim, node.index, node.full = dim, kept(node, index), src.shape
        corner = out[tuple([slice(None) if i == dim else slice(0, n) for i, n in enumerate(index.shape)])]
        node.from_x = (x == out) & inside
        node.from_src = source == xp.take_along_axis(corner, index, dim)
        hits = ScatterAdd.apply(node.from_x.astype(np.int64), node.from_src.astype(np.int64), dim=dim, index=index)
        node.hits = xp.maximum(hits, 1)
        return out

    def backward(node, grad):
        dtype = array_of(grad).dtype
        share = ops.div(grad, node.hits.astype(dtype))
        base = ops.mul(share, node.from_x.astype(dtype)) if node.need(0) else None
        if not node.need(1):
            return base, None
        part = ops.mul(Gather.apply(share, dim=node.dim, index=node.index), node.from_src.astype(dtype))
        return base, _padded(part, node.full)


class ScatterProd(Operator):
    """x times everything that lands there."""

    opmath = True

    def forward(node, x, src, dim, index, include_self):
        source = _cut(src, index.shape)
        out, node.inside = _combined(node.xp, x, source, dim, index, "prod", include_self)
        node.dim, node.index, node.include_self = dim, kept(node, index), include_self
        node.save(x, src, out)
        return out

    def backward(node, grad):
        x, src, out = node.saved
        dim, index = node.dim, node.index
        base = part = None
        again = dict(dim=dim, index=index, include_self=node.include_self)
        if node.need(0):  # zeros of x count as ones: the product of all others
            safe = ops.masked_fill(x, array_of(x) == 0, 1)
            others = ops.div(ScatterProd.apply(safe, src, **again), safe)
            base = ops.masked_fill(ops.mul(grad, ops.conj(others)), ~node.inside, 0)
        if node.need(1):
            raw = _cut(array_of(src), index.shape)
            zero = raw == 0
            none = ops.zeros_like(array_of(x), dtype=dtypes.int64)
            counts = ScatterAdd.apply(none, zero.astype(np.int64), dim=dim, index=index)
            single = zero & (Gather.apply(counts, dim=dim, index=index) == 1)
            cut = tuple([slice(0, n) for n in index.shape]) + (...,)
            source = ops.getitem(src, cut)
            lone = ScatterProd.apply(x, ops.masked_fill(source, single, 1), **again)
            plain = ops.div(Gather.apply(out, dim=dim, index=index), ops.masked_fill(source, zero, 1))
            others = ops.where(single, Gather.apply(lone, dim=dim, index=index), plain)
            part = ops.mul(Gather.apply(grad, dim=dim, index=index), ops.conj(others))
            part = _padded(part, shape_of(src))
        return base, part


def _reduced(input, dim, index, src, reduce, include_self):
    x, source = array_of(input), array_of(src)
    if reduce not in _KINDS:
        raise RuntimeError(f"[scatter_reduce] reduce argument must be one of {', '.join(_KINDS)}, got {reduce!r}")
    if x.dtype != source.dtype:
        raise RuntimeError(f"[scatter_reduce] expected self.dtype to be equal to src.dtype, got {x.dtype} and "
                           f"{source.dtype}")
    if not x.ndim:
        flat = [ops.reshape(v, (1,)) if not shape_of(v) else v for v in (input, index, src)]
        return ops.reshape(_reduced(flat[0], 0, flat[1], flat[2], reduce, include_self), ())
    if reduce in ("amax", "amin") and x.dtype.kind == "c":
        raise RuntimeError(f"[scatter_reduce] {reduce} does not support complex dtypes")
    d, raw = _index("scatter_reduce", x, dim, index, source)
    if reduce in ("amax", "amin"):
        return ScatterExtreme.apply(input, src, dim=d, index=raw, reduce=reduce, include_self=include_self)
    if reduce == "prod":
        return ScatterProd.apply(input, src, dim=d, index=raw, include_self=include_self)
    base = input if include_self else Scatter.apply(input, 0, dim=d, index=raw)
    total = ScatterAdd.apply(base, src, dim=d, index=raw)
    if reduce == "sum":
        return total
    ones = ops.ones_like(x, dtype=dtypes.int64)
    before = ones if include_self else Scatter.apply(ones, 0, dim=d, index=raw)
    counts = ScatterAdd.apply(before, ops.ones_like(source, dtype=dtypes.int64), dim=d, index=raw)
    counts = ops.cast(ops.clamp(counts, min=1), x.dtype)
    return ops.div(total, counts, rounding_mode="floor" if x.dtype.kind in "iu" else None)


@public(method=True)
def scatter_reduce(input, dim, index, src, reduce, *, include_self=True):
    """`input` reduced with src at `index` along `dim`: sum, prod, mean, amax or amin. As torch.scatter_reduce.

    `include_self=False`: places on which something lands forget their own value.
    Raises: RuntimeError for an unknown reduction, shapes or dtypes that do not fit, an index out of range.
    """
    return _reduced(input, dim, index, src, reduce, include_self)


@attach("scatter_reduce_")
def scatter_reduce_(self, dim, index, src, reduce, *, include_self=True):
    """scatter_reduce() in place. As torch.Tensor.scatter_reduce_."""
    return self.copy_(_reduced(self, dim, index, src, reduce, include_self))
