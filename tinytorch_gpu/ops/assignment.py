"""Parts replaced: x[index] = value, index_put, index_add, index_copy, index_fill, masked_fill, masked_scatter."""
from __future__ import annotations

import math

import numpy as np

from .. import ops
from ..autograd.operator import Operator, array_of, wide
from ..backend import dtypes
from ..backend.device import backend_of
from ..tensor import Tensor, attach
from .data import number
from .indexing import Index, Slice, in_range, is_trivial, kept, parse, prepare, same_device, scatter_rows
from .registry import public
from .shape import dim_of, shape_of

_ALL = slice(None)


class IndexPut(Operator):
    """A copy of x with values at an advanced index: in their place, or added in a fixed order."""

    def forward(node, x, values, index, accumulate):
        node.index, node.accumulate = kept(node, index), accumulate
        if accumulate:
            picked = picked_shape(x, index)
            values = node.xp.broadcast_to(node.xp.asarray(values, dtype=x.dtype), picked)
            added = scatter_rows(wide(values), x.shape, index)
            return (wide(x) + added).astype(x.dtype, copy=False)
        out = x.copy()
        out[index] = values
        return out

    def backward(node, grad):
        base = None
        if node.need(0):
            base = grad if node.accumulate else IndexPut.apply(grad, 0, index=node.index, accumulate=False)
        return base, Index.apply(grad, index=node.index) if node.need(1) else None


def picked_shape(x, index):
    """The shape of x[index] for a prepared index."""
    if index[0].__class__ is not slice and index[0].dtype.kind == "b":
        return (int(index[0].sum()),) + x.shape[index[0].ndim:]
    arrays = [i for i, v in enumerate(index) if v.__class__ is not slice]
    broadcast = np.broadcast_shapes(*[index[i].shape for i in arrays])
    rest = [n for i, n in enumerate(x.shape) if i not in arrays]
    front = arrays[0] if arrays[-1] - arrays[0] + 1 == len(arrays) else 0
    return (*rest[:front], *broadcast, *rest[front:])


class IndexAdd(Operator):
    """x plus alpha * source at rows `index` of `dim`, in a fixed order."""

    opmath = True

    def forward(node, x, source, dim, index, alpha):
        index = (_ALL,) * dim + (index,)
        node.index, node.alpha = kept(node, index), alpha
        added = source if alpha == 1 else source * source.dtype.type(alpha)
        return x + scatter_rows(added, x.shape, index)

    def backward(node, grad):
        if not node.need(1):
            return grad, None
        picked = Index.apply(grad, index=node.index)
        return grad, picked if node.alpha == 1 else ops.mul(picked, node.alpha)


class MaskedFill(Operator):
    """x with `value` where the mask is True."""

    def forward(node, x, mask, value):
        node.save(mask)
        if not hasattr(value, "dtype"):
            value = x.dtype.type(value)
        elif value.dtype != x.dtype:
            value = value.astype(x.dtype)
        return node.xp.where(mask, value, x)

    def backward(node, grad):
        mask = array_of(node.saved[0])
        base = MaskedFill.apply(grad, mask, 0) if node.need(0) else None
        if not node.need(2):
            return base, None, None
        return base, None, ops.sum(MaskedFill.apply(grad, ~mask, 0))


class MaskedScatter(Operator):
    """x with the next element of source wherever the mask is True."""

    def forward(node, x, source, mask):
        node.mask, node.source = kept(node, mask), source.shape
        out = x.copy()
        out[mask] = source.reshape(-1)[:int(mask.sum())]
        return out

    def backward(node, grad):
        base = MaskedFill.apply(grad, node.mask, 0) if node.need(0) else None
        if not node.need(1):
            return base, None
        picked = Index.apply(grad, index=(node.mask,))
        missing = math.prod(node.source) - shape_of(picked)[0]
        if missing:
            picked = ops.pad(picked, (0, missing))
        return base, ops.reshape(picked, node.source)


# brackets

def _value(op, target, value):
    """What is written: a Tensor on the target's device, or a Python number of its dtype."""
    if isinstance(value, Tensor):
        if value.device != target.device:
            if value.ndim:
                raise RuntimeError(f"[{op}] expected value on {target.device}, got {value.device}: move it with .to()")
            value = ops.transfer(value, target.device)
        return value
    if isinstance(value, (bool, int, float, complex)):
        return number(op, value, target.dtype)
    return ops.tensor(value, dtype=target.dtype, device=target.device)


def _stripped(value, shape):
    """`value` without leading dimensions of size 1 beyond those of `shape`, as PyTorch allows in assignments."""
    extra = value.ndim - len(shape)
    if extra > 0 and all(n == 1 for n in value.shape[:extra]):
        return ops.reshape(value, value.shape[extra:])
    return value


@attach("__setitem__")
def setitem(self, index, value):
    """self[index] = value, differentiable in both. As torch.Tensor.__setitem__.

    Raises: IndexError for the index, RuntimeError when the value does not broadcast, or for a leaf that requires grad.
    """
    basic, late = parse(self._array, index)
    value = _value("setitem", self, value)
    target = self if late is not None and is_trivial(basic) else Slice.apply(self, index=basic)
    if late is not None:
        _put("setitem", target, late, value, False)
    elif isinstance(value, Tensor):
        target.copy_(_stripped(value, target.shape))
    else:
        target.fill_(value)


def _put(op, target, index, value, accumulate, inplace=True):
    if isinstance(value, Tensor):
        if value.dtype is not target.dtype:
            value = ops.cast(value, target._array.dtype)
        shape = picked_shape(target._array, index)
        value = _stripped(value, shape)
        if len(value.shape) > len(shape) or any(a not in (1, b) for a, b in zip(value.shape[::-1], shape[::-1])):
            raise RuntimeError(f"[{op}] shape mismatch: value tensor of shape {list(value.shape)} cannot be broadcast "
                               f"to indexing result of shape {list(shape)}")
    run = IndexPut.inplace if inplace else IndexPut.apply
    return run(target, value, index=index, accumulate=accumulate)


def _indices(x, indices):
    if not isinstance(indices, (tuple, list)):
        raise TypeError(f"[index_put] indices must be a tuple of Tensors, got {type(indices).__name__}")
    late = [_ALL if i is None else array_of(i) for i in indices]
    width = sum(1 if v is _ALL or v.dtype.kind != "b" else v.ndim for v in late)
    if width > x.ndim:
        raise IndexError(f"[index_put] too many indices for tensor of dimension {x.ndim} (got {width})")
    return prepare(x, (_ALL,) * width + (...,), late)


@public(method=True, autocast="widest")
def index_put(input, indices, values, accumulate=False):
    """A copy of `input` with `values` at a tuple of index tensors, written or added. As torch.index_put."""
    return _put("index_put", input, _indices(array_of(input), indices), values, accumulate, inplace=False)


@attach("index_put_")
def index_put_(self, indices, values, accumulate=False):
    """index_put() in place. As torch.Tensor.index_put_."""
    return _put("index_put_", self, _indices(self._array, indices), values, accumulate)


# along one dimension

def _along(op, input, dim, index, checked=True):
    """(dimension, raw 1-d index): integers of [0, n) along `dim`."""
    x, index = array_of(input), array_of(index)
    if index.dtype not in (np.int64, np.int32):
        raise RuntimeError(f"[{op}] expected dtype int32 or int64 for index, got {index.dtype}")
    if index.ndim > 1:
        raise IndexError(f"[{op}] index is supposed to be a vector, got {index.ndim} dimensions")
    d = dim_of(op, dim, x.ndim)
    index = same_device(op, index, x).reshape(-1)
    in_range(op, index, x.shape[d] if x.ndim else 1, d, 0)
    return d, index


@public(method=True)
def index_select(input, dim, index):
    """The slices number `index` (1-d) along `dim`, a copy. As torch.index_select. Raises: IndexError out of range."""
    d, raw = _along("index_select", input, dim, index)
    if not shape_of(input):
        return ops.reshape(Index.apply(ops.reshape(input, (1,)), index=(raw,)), ())
    return Index.apply(input, index=(_ALL,) * d + (raw,))


def _source(op, input, dim, raw, source):
    x, s = array_of(input), array_of(source)
    want = x.shape[:dim] + (raw.size,) + x.shape[dim + 1:]
    if s.shape != want:
        raise RuntimeError(f"[{op}] source must have shape {list(want)} for {raw.size} indices along dimension {dim}, "
                           f"got {list(s.shape)}")
    if s.dtype != x.dtype:
        raise RuntimeError(f"[{op}] self and source expected to have the same dtype, but got (self) "
                           f"{dtypes.of(x).name} and (source) {dtypes.of(s).name}")


def _index_add(op, run, input, dim, index, source, alpha):
    d, raw = _along(op, input, dim, index)
    _source(op, input, d, raw, source)
    return run(input, source, dim=d, index=raw, alpha=alpha)


@public(method=True)
def index_add(input, dim, index, source, *, alpha=1):
    """`input` plus alpha * source at rows `index` of `dim`, in a fixed order. As torch.index_add."""
    return _index_add("index_add", IndexAdd.apply, input, dim, index, source, alpha)


@attach("index_add_")
def index_add_(self, dim, index, source, *, alpha=1):
    """index_add() in place. As torch.Tensor.index_add_."""
    return _index_add("index_add_", IndexAdd.inplace, self, dim, index, source, alpha)


def _index_copy(op, run, input, dim, index, source):
    d, raw = _along(op, input, dim, index)
    _source(op, input, d, raw, source)
    return run(input, source, index=(_ALL,) * d + (raw,), accumulate=False)


@public(method=True)
def index_copy(input, dim, index, source):
    """A copy of `input` with source at rows `index` of `dim`. As torch.index_copy."""
    return _index_copy("index_copy", IndexPut.apply, input, dim, index, source)


@attach("index_copy_")
def index_copy_(self, dim, index, source):
    """index_copy() in place. As torch.Tensor.index_copy_."""
    return _index_copy("index_copy_", IndexPut.inplace, self, dim, index, source)


def _index_fill(op, run, input, dim, index, value):
    d, raw = _along(op, input, dim, index)
    value = _scalar(op, input, value)
    return run(input, value, index=(_ALL,) * d + (raw,), accumulate=False)


@public(method=True)
def index_fill(input, dim, index, value):
    """A copy of `input` with a number (or 0-d tensor) in rows `index` of `dim`. As torch.index_fill."""
    return _index_fill("index_fill", IndexPut.apply, input, dim, index, value)


@attach("index_fill_")
def index_fill_(self, dim, index, value):
    """index_fill() in place. As torch.Tensor.index_fill_."""
    return _index_fill("index_fill_", IndexPut.inplace, self, dim, index, value)


# by mask

def _scalar(op, input, value):
    """A number that fits the dtype, or a 0-d tensor in it."""
    x = array_of(input)
    if isinstance(value, Tensor) or getattr(value, "shape", None) is not None:
        if len(shape_of(value)):
            raise RuntimeError(f"[{op}] only supports a 0-dimensional value tensor, got shape {list(shape_of(value))}")
        return ops.cast(value, x.dtype)
    return number(op, value, dtypes.of(x))


def _mask(op, input, mask):
    raw = array_of(mask)
    if raw.dtype != np.bool_:
        raise RuntimeError(f"[{op}] only supports boolean masks, got {raw.dtype}: compare or use .bool()")
    return same_device(op, raw, array_of(input))


def _watched_mask(op, input, mask):
    """The mask itself where it can be saved without a copy: a later change is noticed by its version."""
    raw = _mask(op, input, mask)
    return mask if isinstance(mask, Tensor) and raw is mask._array else raw


@public(method=True)
def masked_fill(input, mask, value):
    """`input` with a number (or 0-d tensor) where `mask` is True, broadcast. As torch.masked_fill."""
    return MaskedFill.apply(input, _watched_mask("masked_fill", input, mask), _scalar("masked_fill", input, value))


@attach("masked_fill_")
def masked_fill_(self, mask, value):
    """masked_fill() in place. As torch.Tensor.masked_fill_."""
    return MaskedFill.inplace(self, _watched_mask("masked_fill_", self, mask), _scalar("masked_fill_", self, value))


@public(method=True)
def masked_select(input, mask):
    """The elements where `mask` is True as one dimension, broadcast. As torch.masked_select."""
    raw = _mask("masked_select", input, mask)
    size = ops.broadcast_shapes(shape_of(input), raw.shape)
    xp = backend_of(raw).xp
    if not size:
        input, raw, size = ops.reshape(input, (1,)), raw.reshape(1), (1,)
    return Index.apply(ops.expand(input, size), index=(xp.broadcast_to(raw, size),))


def _masked_scatter(op, run, input, mask, source):
    raw = _mask(op, input, mask)
    x, s = array_of(input), array_of(source)
    if s.dtype != x.dtype:
        raise RuntimeError(f"[{op}] expected self and source to have same dtypes but got {x.dtype} and {s.dtype}")
    raw = backend_of(x).xp.broadcast_to(raw, x.shape)
    if int(raw.sum()) > s.size:
        raise RuntimeError(f"[{op}] number of elements of source ({s.size}) < number of ones in mask "
                           f"({int(raw.sum())})")
    return run(input, source, mask=raw)


@public(method=True)
def masked_scatter(input, mask, source):
    """`input` with the next element of source wherever `mask` is True. As torch.masked_scatter."""
    size = ops.broadcast_shapes(shape_of(input), shape_of(mask))
    return _masked_scatter("masked_scatter", MaskedScatter.apply, ops.expand(input, size), mask, source)


@attach("masked_scatter_")
def masked_scatter_(self, mask, source):
    """masked_scatter() in place. As torch.Tensor.masked_scatter_."""
    return _masked_scatter("masked_scatter_", MaskedScatter.inplace, self, mask, source)
