"""Elements repeated, turned or masked by position: repeat, tile, flip, roll, tril, diagonal, diag_embed, unfold, ..."""
from __future__ import annotations

import math
import operator

import numpy as np

from .. import ops
from ..autograd.operator import Operator, array_of
from ..backend.device import backend_of
from ..tensor import attach
from .data import host_array
from .indexing import Index, IndexBackward
from .registry import public
from .shape import _ints, dim_of, shape_of
from .views import _ViewOperator


class Repeat(Operator):
    """The whole tensor `times` in each dimension."""

    def forward(node, x, times):
        node.times, node.full = times, x.shape
        return node.xp.tile(x, times)

    def backward(node, grad):
        times, full = node.times, (1,) * (len(node.times) - len(node.full)) + node.full
        pairs = [n for both in zip(times, full) for n in both]
        summed = ops.sum(ops.reshape(grad, tuple(pairs)), tuple(range(0, len(pairs), 2)))
        return ops.reshape(summed, node.full)


class Flip(Operator):
    """Reversed along `dims`, a copy as in PyTorch."""

    def forward(node, x, dims):
        node.dims = dims
        return node.xp.ascontiguousarray(node.xp.flip(x, dims)) if dims else x.copy()

    def backward(node, grad):
        return Flip.apply(grad, dims=node.dims)


class Roll(Operator):
    """Shifted around along `dims` (None: as one dimension)."""

    def forward(node, x, shifts, dims):
        node.shifts, node.dims = shifts, dims
        return node.xp.roll(x, shifts, axis=dims)

    def backward(node, grad):
        return Roll.apply(grad, shifts=tuple([-s for s in node.shifts]), dims=node.dims)


class Tril(Operator):
    """The lower triangle of the last two dimensions."""

    def forward(node, x, diagonal):
        node.diagonal = diagonal
        return node.xp.tril(x, diagonal)

    def backward(node, grad):
        return Tril.apply(grad, diagonal=node.diagonal)


class Triu(Operator):
    """The upper triangle of the last two dimensions."""

    def forward(node, x, diagonal):
        node.diagonal = diagonal
        return node.xp.triu(x, diagonal)

    def backward(node, grad):
        return Triu.apply(grad, diagonal=node.diagonal)


class Diagonal(_ViewOperator):
    """A diagonal of two dimensions as the last one, a view."""

    def forward(node, x, offset, dim1, dim2):
        node.params = dict(size=x.shape, offset=offset, dim1=dim1, dim2=dim2)
        view = x.diagonal(offset, dim1, dim2)
        if view.__class__ is np.ndarray:
            view.flags.writeable = x.flags.writeable  # NumPy marks diagonals read-only; PyTorch's are not
        return view

    def backward(node, grad):
        return DiagonalBackward.apply(grad, **node.params)


class DiagonalBackward(Operator):
    """Zeros of shape `size` with the input on a diagonal."""

    def forward(node, grad, size, offset, dim1, dim2):
        node.params = dict(offset=offset, dim1=dim1, dim2=dim2)
        out = node.xp.zeros(size, grad.dtype)
        rows = node.xp.arange(grad.shape[-1])
        index = [slice(None)] * len(size)
        index[dim1], index[dim2] = rows + max(-offset, 0), rows + max(offset, 0)
        # the picked dimensions stand where NumPy puts them: in the first one's place if adjacent, else in front
        place = min(dim1, dim2) if abs(dim1 - dim2) == 1 else 0
        out[tuple(index)] = node.xp.moveaxis(grad, -1, place)
        return out

    def backward(node, grad):
        return Diagonal.apply(grad, **node.params)


class Unfold(Operator):
    """Windows of `size` elements every `step` along `dim`, as a new last dimension."""

    def forward(node, x, dim, size, step):
        node.full, node.dim, node.size, node.step = x.shape, dim, size, step
        count = (x.shape[dim] - size) // step + 1
        starts = node.xp.arange(count) * step
        index = starts[:, None] + node.xp.arange(size)
        node.index = (slice(None),) * dim + (index,)
        return node.xp.moveaxis(x.take(index, axis=dim), dim + 1, -1)

    def backward(node, grad):
        grad = ops.movedim(grad, -1, node.dim + 1)
        return IndexBackward.apply(grad, size=node.full, index=node.index)


@public(method=True)
def tile(input, *dims):
    """The tensor repeated `dims` times; missing dimensions repeat once. As torch.tile."""
    times = _ints(dims)
    return _repeat("tile", input, (1,) * (len(shape_of(input)) - len(times)) + times)


@attach("repeat")
def repeat(self, *repeats):
    """The tensor repeated along each dimension, a copy. As torch.Tensor.repeat."""
    return _repeat("repeat", self, _ints(repeats))


def _repeat(op, input, times):
    if len(times) < len(shape_of(input)):
        raise RuntimeError(f"[{op}] number of dimensions of repeat dims {list(times)} can not be smaller than number "
                           f"of dimensions of tensor {list(shape_of(input))}")
    if times and min(times) < 0:
        raise RuntimeError(f"[{op}] trying to create a tensor with negative dimension: {list(times)}")
    return Repeat.apply(input, times=times)


@public(method=True)
def repeat_interleave(input, repeats, dim=None, *, output_size=None):
    """Each element (slice along `dim`) repeated `repeats` times: one number, or one for each.

    As torch.repeat_interleave.

    Raises: RuntimeError for negative repeats, or a number of them that does not fit.
    """
    if dim is None:
        input, dim = ops.ravel(input), 0
    shape = shape_of(input)
    d = dim_of("repeat_interleave", dim, len(shape))
    n = shape[d] if shape else 1
    x = array_of(input)
    if isinstance(repeats, (int, np.integer)):
        counts = np.full(n, int(repeats))
    else:
        counts = np.asarray(repeats) if isinstance(repeats, (list, tuple)) else host_array(repeats)
        if counts.dtype.kind not in "iu":
            raise RuntimeError(f"[repeat_interleave] repeats has to be int64 or int32, got {counts.dtype}")
        if counts.ndim > 1 or counts.size not in (1, n):
            raise RuntimeError(f"[repeat_interleave] repeats must have the same size as input along dim: {n}, got "
                               f"shape {list(counts.shape)}")
        counts = np.broadcast_to(counts.reshape(-1), (n,))
    if counts.size and counts.min() < 0:
        raise RuntimeError("[repeat_interleave] repeats can not be negative")
    index = np.repeat(np.arange(n), counts)
    if output_size is not None and output_size != index.size:
        raise RuntimeError(f"[repeat_interleave] output_size is {output_size}, the repeats give {index.size}")
    backend = backend_of(x)
    index = backend.from_host(index, backend.device_of(x).index)
    if not shape:
        input = ops.reshape(input, (1,))
    return Index.apply(input, index=(slice(None),) * d + (index,))


def _distinct_dims(op, dims, ndim):
    dims = tuple([dim_of(op, d, ndim) for d in dims])
    if len(set(dims)) != len(dims):
        raise RuntimeError(f"[{op}] dim appears multiple times in the list of dims {list(dims)}")
    return dims


@public(method=True)
def flip(input, *dims):
    """Reversed along `dims`, a copy. As torch.flip."""
    dims = _distinct_dims("flip", _ints(dims), len(shape_of(input)))
    return Flip.apply(input, dims=dims if shape_of(input) else ())


@public(method=True)
def fliplr(input):
    """Reversed along the second dimension. As torch.fliplr."""
    if len(shape_of(input)) < 2:
        raise RuntimeError("[fliplr] input must be >= 2-d")
    return flip(input, (1,))


@public(method=True)
def flipud(input):
    """Reversed along the first dimension. As torch.flipud."""
    if len(shape_of(input)) < 1:
        raise RuntimeError("[flipud] input must be >= 1-d")
    return flip(input, (0,))


@public(method=True)
def roll(input, shifts, dims=None):
    """Shifted along `dims`, what leaves at one end enters at the other. As torch.roll."""
    shifts = _ints((shifts,)) if isinstance(shifts, (tuple, list)) else (operator.index(shifts),)
    if dims is None:
        if len(shifts) != 1:
            raise RuntimeError(f"[roll] shifts and dimensions must align: {len(shifts)} shifts, no dims")
        return Roll.apply(input, shifts=shifts, dims=None)
    dims = _ints((dims,)) if isinstance(dims, (tuple, list)) else (operator.index(dims),)
    if len(dims) != len(shifts):
        raise RuntimeError(f"[roll] shifts and dimensions must align: {len(shifts)} shifts, {len(dims)} dims")
    return Roll.apply(input, shifts=shifts, dims=tuple([dim_of("roll", d, len(shape_of(input))) for d in dims]))


@public(method=True)
def rot90(input, k=1, dims=(0, 1)):
    """Turned by k times 90 degrees in the plane of two dimensions. As torch.rot90."""
    ndim = len(shape_of(input))
    if len(dims) != 2:
        raise RuntimeError(f"[rot90] expected total rotation dims == 2, got {len(dims)}")
    a, b = _distinct_dims("rot90", dims, ndim)
    k %= 4
    if k == 0:
        return ops.clone(input)
    if k == 2:
        return flip(input, (a, b))
    return ops.transpose(flip(input, (b,)), a, b) if k == 1 else flip(ops.transpose(input, a, b), (b,))


def _matrix(op, input):
    if len(shape_of(input)) < 2:
        raise RuntimeError(f"[{op}] input tensor must have at least 2 dimensions, got {len(shape_of(input))}")
    return input


@public(method=True)
def tril(input, diagonal=0):
    """The lower triangle of the last two dimensions, zeros above. As torch.tril."""
    return Tril.apply(_matrix("tril", input), diagonal=operator.index(diagonal))


@public(method=True)
def triu(input, diagonal=0):
    """The upper triangle of the last two dimensions, zeros below. As torch.triu."""
    return Triu.apply(_matrix("triu", input), diagonal=operator.index(diagonal))


@public(method=True)
def diagonal(input, offset=0, dim1=0, dim2=1):
    """A diagonal of dim1 and dim2 as the last dimension, a view. As torch.diagonal."""
    dim1, dim2 = _two("diagonal", dim1, dim2, len(shape_of(input)))
    return Diagonal.apply(input, offset=offset, dim1=dim1, dim2=dim2)


def _two(op, dim1, dim2, ndim):
    a, b = dim_of(op, dim1, ndim), dim_of(op, dim2, ndim)
    if a == b:
        raise RuntimeError(f"[{op}] diagonal dimensions cannot be identical {dim1}, {dim2}")
    return a, b


@public(method=True)
def diag(input, diagonal=0):
    """The diagonal of a matrix, or the matrix with a vector on its diagonal. As torch.diag."""
    ndim = len(shape_of(input))
    if ndim not in (1, 2):
        raise RuntimeError(f"[diag] input must be 1-d or 2-d, got {ndim}-d")
    return diag_embed(input, diagonal) if ndim == 1 else ops.clone(ops.diagonal(input, diagonal))


@public(method=True)
def diag_embed(input, offset=0, dim1=-2, dim2=-1):
    """Matrices over dim1 and dim2 with the last dimension on a diagonal. As torch.diag_embed."""
    shape = shape_of(input)
    dim1, dim2 = _two("diag_embed", dim1, dim2, len(shape) + 1)
    n = shape[-1] + abs(offset)
    size = list(shape[:-1])
    for d in sorted((dim1, dim2)):
        size.insert(d, n)
    return DiagonalBackward.apply(input, size=tuple(size), offset=offset, dim1=dim1, dim2=dim2)


@attach("unfold")
def unfold(self, dimension, size, step):
    """Windows of `size` elements every `step` along a dimension, as a new last one. As torch.Tensor.unfold.

    A copy (PyTorch's is a view).
    """
    shape = shape_of(self)
    d = dim_of("unfold", dimension, len(shape))
    if not shape:
        self, shape = ops.reshape(self, (1,)), (1,)
    if step <= 0 or size < 0 or size > shape[d]:
        raise RuntimeError(f"[unfold] size must be in [0, {shape[d]}] and step > 0, got size {size}, step {step}")
    return Unfold.apply(self, dim=d, size=size, step=step)


@public
def meshgrid(*tensors, indexing=None):
    """Coordinate grids of 1-d tensors, expanded views; indexing "ij" (default) or "xy". As torch.meshgrid."""
    if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)):
        tensors = tuple(tensors[0])
    if indexing not in (None, "ij", "xy"):
        raise RuntimeError(f'[meshgrid] indexing must be one of "xy" or "ij", but received: {indexing!r}')
    if any(len(shape_of(t)) > 1 for t in tensors):
        raise RuntimeError("[meshgrid] expected 0-d or 1-d tensors")
    if indexing == "xy" and len(tensors) >= 2:
        out = meshgrid(tensors[1], tensors[0], *tensors[2:])
        return (out[1], out[0], *out[2:])
    size = tuple([math.prod(shape_of(t)) for t in tensors])
    shapes = [(1,) * i + (-1,) + (1,) * (len(tensors) - 1 - i) for i in range(len(tensors))]
    return tuple([ops.expand(ops.reshape(t, s), size) for t, s in zip(tensors, shapes)])
