"""Elements picked and placed by index tensors: gather, scatter, scatter_add, scatter_reduce, take_along_dim, take."""
from __future__ import annotations

import numpy as np

from .. import ops
from ..autograd.operator import Operator, array_of
from ..backend.device import backend_of
from ..tensor import Tensor, attach
from . import segments
from .indexing import SliceBackward, in_range, kept, same_device
from .registry import public
from .shape import dim_of, shape_of


def _corner(shape, dim, size):
    """The slices that cut `size` down to the index's shape in all dimensions but `dim`; None if nothing is cut."""
    if all(i == dim or a == b for i, (a, b) in enumerate(zip(shape, size))):
        return None
    return tuple([slice(None) if i == dim else slice(0, n) for i, n in enumerate(shape)])


def _part(x, dim, index):
    corner = _corner(index.shape, dim, x.shape)
    return x if corner is None else x[corner]


def _cut(source, shape):
    """The front part of `source` that an index of `shape` reads."""
    return source if source.shape == shape else source[tuple([slice(0, n) for n in shape])]


def positions(xp, index, dim, size):
    """The number in the flattened tensor of shape `size` that each element of `index` points at."""
    flat = None
    for d, n in enumerate(size):
        here = index if d == dim else xp.arange(index.shape[d], dtype=np.int64).reshape(
            (-1,) + (1,) * (len(size) - 1 - d))
        flat = here if flat is None else flat * n + here
    return xp.broadcast_to(flat, index.shape).reshape(-1)


def sum_at(xp, values, index, dim, size):
    """Zeros of shape `size` plus `values` at `index` along `dim`; repeated positions sum in a fixed order."""
    out_dtype = values.dtype
    if index.shape[dim] == 1:  # no position can come twice: 4096 x 256 float32 in 0.2 ms, 1.3 ms by sums
        out = xp.zeros(size, out_dtype)
        if index.size:
            region = _part(out, dim, index)
            xp.put_along_axis(region, index, values, dim)
        return out
    n = int(np.prod(size, dtype=np.int64))
    flat = positions(xp, index, dim, size)
    return segments.segment_sum(values.reshape(-1, 1), flat, n).reshape(size)


class Gather(Operator):
    """out[i][j] = x[index[i][j]][j] along `dim`."""

    def forward(node, x, dim, index):
        node.dim, node.index, node.full = dim, kept(node, index), x.shape
        return node.xp.take_along_axis(_part(x, dim, index), index, dim)

    def backward(node, grad):
        return GatherBackward.apply(grad, size=node.full, dim=node.dim, index=node.index)


class GatherBackward(Operator):
    """Zeros of shape `size` plus the input at `index`."""

    def forward(node, grad, size, dim, index):
        node.dim, node.index = dim, index
        return sum_at(node.xp, grad, index, dim, size)

    def backward(node, grad):
        return Gather.apply(grad, dim=node.dim, index=node.index)


class Scatter(Operator):
    """A copy of x in which src stands at `index` along `dim`. Repeated positions: the last one on the CPU."""

    def forward(node, x, src, dim, index):
        node.dim, node.index = dim, kept(node, index)
        node.source = src.shape if hasattr(src, "shape") else None
        out = x.copy()
        region = _part(out, dim, index)
        if node.source is None:
            src = node.xp.full(index.shape, src, dtype=x.dtype)
        if index.size:
            node.xp.put_along_axis(region, index, _cut(src, index.shape), dim)
        return out

    def backward(node, grad):
        base = Scatter.apply(grad, 0, dim=node.dim, index=node.index) if node.need(0) else None
        if not node.need(1):
            return base, None
        return base, _widened(Gather.apply(grad, dim=node.dim, index=node.index), node.source)


def _widened(part, size):
    """`part` in the front corner of zeros of shape `size`."""
    shape = shape_of(part)
    if shape == size:
        return part
    return SliceBackward.apply(part, size=size, index=tuple([slice(0, n) for n in shape]) + (...,))


class ScatterAdd(Operator):
    """x plus src at `index` along `dim`; repeated positions sum in a fixed order."""

    opmath = True
    def forward(node, x, src, dim, index):
        node.dim, node.index, node.source = dim, kept(node, index), src.shape
        return x + sum_at(node.xp, _cut(src, index.shape), index, dim, x.shape)

    def backward(node, grad):
        if not node.need(1):
            return grad, None
        return grad, _widened(Gather.apply(grad, dim=node.dim, index=node.index), node.source)


def _index(op, x, dim, index, source=None, limit=True):
    """(dimension, raw index array), checked against the shapes."""
    index = array_of(index)
    if index.dtype not in (np.int64, np.int32):
        raise RuntimeError(f"[{op}] expected dtype int64 for index, got {index.dtype}")
    d = dim_of(op, dim, x.ndim)
    if max(index.ndim, 1) != max(x.ndim, 1):
        raise RuntimeError(f"[{op}] index tensor must have the same number of dimensions as input tensor, got "
                           f"{index.ndim} and {x.ndim}")
    for i in range(index.ndim):
        if i != d and index.size and x.ndim and index.shape[i] > x.shape[i]:
            raise RuntimeError(f"[{op}] size does not match at dimension {i} expected index {list(index.shape)} to be "
                               f"no larger than self {list(x.shape)} apart from dimension {d}")
        if source is not None and index.size and source.ndim and index.shape[i] > source.shape[i]:
            raise RuntimeError(f"[{op}] size does not match at dimension {i} expected index {list(index.shape)} to be "
                               f"no larger than src {list(source.shape)}")
    index = same_device(op, index, x)
    in_range(op, index, x.shape[d] if x.ndim else 1, d, 0, RuntimeError)
    return d, index


def _flat(x):
    """0-d tensors are handled as one element."""
    return ops.reshape(x, (1,)) if not shape_of(x) else x


@public(method=True)
def gather(input, dim, index):
    """out[i][j] = input[index[i][j]][j] for dim 0, and so on; shape of `index`. As torch.gather.

    Raises: RuntimeError out of range (on a device at its next wait) and for shapes or dtypes that do not fit.
    """
    dim, raw = _index("gather", array_of(input), dim, index)
    shape = raw.shape
    if not shape_of(input) or not shape:
        out = Gather.apply(_flat(input), dim=0, index=raw.reshape(-1))
        return ops.reshape(out, shape)
    return Gather.apply(input, dim=dim, index=raw)


def _scatter(op, operator, self, dim, index, src, how=None):
    x = array_of(self)
    source = array_of(src) if isinstance(src, Tensor) or hasattr(src, "dtype") and getattr(src, "ndim", 0) else None
    if source is not None and source.dtype != x.dtype:
        raise RuntimeError(f"[{op}] expected self.dtype to be equal to src.dtype, got {x.dtype} and {source.dtype}")
    dim, raw = _index(op, x, dim, index, source)
    if not x.ndim or not raw.ndim:
        flat = _flat(self)
        value = src if source is None else _flat(src)
        return ops.reshape(operator.apply(flat, value, dim=0, index=raw.reshape(-1)), x.shape)
    if source is not None and source.ndim != x.ndim:
        raise RuntimeError(f"[{op}] index tensor must have the same number of dimensions as src tensor, got "
                           f"{raw.ndim} and {source.ndim}")
    if how is None:
        return operator.apply(self, src, dim=dim, index=raw)
    if not x.ndim:
        raise RuntimeError(f"[{op}] a 0-d tensor cannot be changed in place: reshape it to (1,)")
    return operator.inplace(self, src, dim=dim, index=raw)


def _source(op, src, value):
    if (src is None) == (value is None):
        raise TypeError(f"[{op}] give one of src and value")
    return src if value is None else value


@public(method=True)
def scatter(input, dim, index, src=None, *, value=None, reduce=None):
    """A copy of `input` with src (a tensor or number) at `index` along `dim`. As torch.scatter; no `reduce=`."""
    if reduce is not None:
        raise NotImplementedError("[scatter] reduce= is deprecated in PyTorch: use scatter_add or scatter_reduce")
    return _scatter("scatter", Scatter, input, dim, index, _source("scatter", src, value))


@attach("scatter_")
def scatter_(self, dim, index, src=None, *, value=None):
    """scatter() in place. As torch.Tensor.scatter_."""
    return _scatter("scatter_", Scatter, self, dim, index, _source("scatter_", src, value), True)


@public(method=True, autocast="widest")
def scatter_add(input, dim, index, src):
    """`input` plus src at `index` along `dim`; repeated positions sum in a fixed order. As torch.scatter_add."""
    return _scatter("scatter_add", ScatterAdd, input, dim, index, src)


@attach("scatter_add_")
def scatter_add_(self, dim, index, src):
    """scatter_add() in place. As torch.Tensor.scatter_add_."""
    return _scatter("scatter_add_", ScatterAdd, self, dim, index, src, True)


@public(method=True)
def take_along_dim(input, indices, dim=None):
    """Values at `indices` along `dim` with broadcasting (None: of the flattened input). As torch.take_along_dim."""
    if dim is None:
        return Gather.apply(ops.reshape(input, (-1,)), dim=0, index=_wrapped("take_along_dim", input, indices, None))
    x, index = array_of(input), array_of(indices)
    d = dim_of("take_along_dim", dim, x.ndim)
    if x.ndim != index.ndim:
        raise RuntimeError(f"[take_along_dim] input and indices should have the same number of dimensions, got "
                           f"{x.ndim} and {index.ndim}")
    common = ops.broadcast_shapes(x.shape[:d] + x.shape[d + 1:], index.shape[:d] + index.shape[d + 1:])
    input = ops.expand(input, common[:d] + (x.shape[d],) + common[d:])
    index = _wrapped("take_along_dim", input, indices, d)
    index = backend_of(index).xp.broadcast_to(index, common[:d] + (index.shape[d],) + common[d:])
    return Gather.apply(input, dim=d, index=index)


def _wrapped(op, input, index, dim):
    """A raw index with negative entries counted from the end, checked."""
    x, index = array_of(input), array_of(index)
    if index.dtype not in (np.int64, np.int32):
        raise RuntimeError(f"[{op}] expected dtype int64 for the index, got {index.dtype}")
    n = x.size if dim is None else x.shape[dim]
    backend = backend_of(x)
    index = same_device(op, index, x)
    in_range(op, index, n, dim or 0)
    return (backend.xp.where(index < 0, index + n, index)).reshape(-1 if dim is None else index.shape)


@public(method=True)
def take(input, index):
    """Elements of the flattened input, in the shape of `index`. As torch.take. Raises: IndexError out of range."""
    out = Gather.apply(ops.reshape(input, (-1,)), dim=0, index=_wrapped("take", input, index, None))
    return ops.reshape(out, shape_of(index))
