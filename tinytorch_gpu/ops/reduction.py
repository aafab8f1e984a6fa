"""Reductions over dimensions: sum, mean, all, any, count_nonzero, amax, amin, max, min, argmax, argmin."""
from __future__ import annotations

from collections import namedtuple

from .. import ops
from ..autograd.operator import Operator, array_of
from ..backend import dtypes, kernel_columns
from ..backend.device import is_array
from ..tensor import Tensor
from .axes import axes_of, axis_of, count_of, float_only, kept_shape
from .registry import public
from .sums import sum_leading


def spread(grad, shape, axes):
    """A reduced gradient repeated over the reduced dimensions: the adjoint of a sum."""
    kept = kept_shape(shape, axes)
    if array_of(grad).shape != kept:
        grad = ops.reshape(grad, kept)
    return ops.expand(grad, shape)


def _total(x, axes, keepdim):
    if axes is not None and axes[-1] == len(axes) - 1 and not keepdim:
        return sum_leading(x, len(axes))
    return x.sum(axis=axes, keepdims=keepdim)


class Sum(Operator):
    """The sum over `axes`; integers sum in int64."""

    __slots__ = ("shape_in", "axes")
    opmath = widens = True
    autocast = "float32"

    def fused(node, x, axes, keepdim):
        node.shape_in, node.axes = x.shape, axes
        out = None if axes is None else kernel_columns.leading_sums(x, axes)
        return out.reshape(kept_shape(x.shape, axes)) if keepdim and out is not None else out

    def forward(node, x, axes, keepdim):
        node.shape_in, node.axes = x.shape, axes
        if x.dtype.kind in "biu":
            return x.sum(axis=axes, keepdims=keepdim, dtype=dtypes.int64.np)
        return _total(x, axes, keepdim)

    def backward(node, grad):
        return spread(grad, node.shape_in, node.axes)


class Mean(Operator):
    """The mean over `axes`; NaN over nothing."""

    __slots__ = ("shape_in", "axes")
    opmath = True

    def forward(node, x, axes, keepdim):
        node.shape_in, node.axes = x.shape, axes
        n = count_of(x.shape, axes)
        return _total(x, axes, keepdim) * (1 / n if n else float("nan"))

    def backward(node, grad):
        n = count_of(node.shape_in, node.axes)
        return spread(ops.mul(grad, 1 / n if n else 0.0), node.shape_in, node.axes)


class _Extreme(Operator):
    """The largest or smallest; equal ones share the gradient."""

    opmath = True

    def forward(node, x, axes, keepdim):
        node.axes = axes
        y = getattr(x, node.reduce)(axis=axes, keepdims=keepdim)
        y = y if is_array(y) else node.xp.asarray(y)  # a NumPy scalar could not be recognised among the outputs
        node.save(x, y)
        return y

    def backward(node, grad):
        x, y = map(array_of, node.saved)
        top = y.reshape(kept_shape(x.shape, node.axes))
        ties = (x == top) | ((x != x) & (top != top))
        share = ties / ties.sum(axis=node.axes, keepdims=True)
        return ops.mul(ops.reshape(grad, top.shape), share.astype(x.dtype))


class Amax(_Extreme):
    """The largest element over `axes`."""

    reduce = "max"


class Amin(_Extreme):
    """The smallest element over `axes`."""

    reduce = "min"


class _Position(Operator):
    """The extreme element along `dim` and where it is; the gradient goes there."""

    opmath = True

    def forward(node, x, dim, keepdim):
        node.dim, node.size, node.keepdim = dim, x.shape[dim], keepdim
        xp = node.xp
        at = xp.expand_dims(getattr(x, node.find)(axis=dim), dim)
        node.at = at
        values = xp.take_along_axis(x, at, axis=dim)
        return (values, at) if keepdim else (values.squeeze(dim), at.squeeze(dim))

    def backward(node, grad, _):
        if not node.keepdim:
            grad = ops.reshape(grad, node.at.shape)
        return Place.apply(grad, index=node.at, dim=node.dim, size=node.size)


class Max(_Position):
    """The largest element along one dimension, with its index."""

    find = "argmax"


class Min(_Position):
    """The smallest element along one dimension, with its index."""

    find = "argmin"


class Place(Operator):
    """Zeros of `size` along `dim` with the input's elements at `index`, one for each of the others' positions."""

    __slots__ = ("index", "dim")

    def forward(node, x, index, dim, size):
        node.index, node.dim = index, dim
        numbers = node.xp.arange(size).reshape((size,) + (1,) * (x.ndim - 1 - dim))
        return node.xp.where(numbers == index, x, 0)

    def backward(node, grad):
        return Pick.apply(grad, index=node.index, dim=node.dim)


class Pick(Operator):
    """The elements at `index` along `dim`, one for each of the others' positions."""

    __slots__ = ("index", "dim", "size")

    def forward(node, x, index, dim):
        node.index, node.dim, node.size = index, dim, x.shape[dim]
        return node.xp.take_along_axis(x, index, axis=dim)

    def backward(node, grad):
        return Place.apply(grad, index=node.index, dim=node.dim, size=node.size)


class _Where(Operator):
    differentiable = False

    def forward(node, x, dim, keepdim):
        if x.dtype in dtypes.HALF:
            x = x.astype(dtypes.float32.np)
        if dim is None:
            at = getattr(x.reshape(-1), node.find)(axis=0)
            return at.reshape((1,) * x.ndim) if keepdim else at
        at = getattr(x, node.find)(axis=dim)
        return node.xp.expand_dims(at, dim) if keepdim else at


class Argmax(_Where):
    """The index of the largest element, the first of equal ones."""

    find = "argmax"


class Argmin(_Where):
    """The index of the smallest element, the first of equal ones."""

    find = "argmin"


class _Truth(Operator):
    differentiable = False

    def forward(node, x, axes, keepdim):
        truth = x if x.dtype.kind == "b" else x != 0
        out = getattr(truth, node.reduce)(axis=axes, keepdims=keepdim)
        return out.astype(x.dtype) if x.dtype == dtypes.uint8.np else out


class All(_Truth):
    """Whether no element is 0."""

    reduce = "all"


class Any(_Truth):
    """Whether an element is not 0."""

    reduce = "any"


class CountNonzero(Operator):
    """How many elements are not 0."""

    differentiable = False

    def forward(node, x, axes):
        return (x != 0).sum(axis=axes, dtype=dtypes.int64.np)


def _in_dtype(input, dtype):
    return input if dtype is None else ops.cast(input, dtypes.from_any(dtype).np)


@public(method=True)
def sum(input, dim=None, keepdim=False, *, dtype=None):
    """The sum over `dim` (int, tuple, None: all); integers sum in int64, half types in float32. As torch.sum.

    `dtype` converts first. Raises: IndexError for a dim out of range.
    """
    input = _in_dtype(input, dtype)
    out = Sum.apply(input, axes=axes_of("sum", dim, array_of(input).ndim), keepdim=keepdim)
    return out if dtype is None else _in_dtype(out, dtype)


@public(method=True)
def nansum(input, dim=None, keepdim=False, *, dtype=None):
    """The sum of what is not NaN. As torch.nansum."""
    if array_of(input).dtype.kind not in "biu":
        bad = ops.isnan(input)
        input = ops.where(ops.logical_not(bad), input, 0)
    return sum(input, dim, keepdim, dtype=dtype)


@public(method=True)
def mean(input, dim=None, keepdim=False, *, dtype=None):
    """The mean over `dim` (int, tuple, None: all); NaN over nothing. As torch.mean.

    Raises: RuntimeError for integers without `dtype`, IndexError for a dim out of range.
    """
    input = _in_dtype(input, dtype)
    array = array_of(input)
    float_only("mean", array)
    return Mean.apply(input, axes=axes_of("mean", dim, array.ndim), keepdim=keepdim)


def _nonempty(name, array, axes):
    if array.size:
        return
    if axes is None:
        raise RuntimeError(
            f"[{name}] Expected reduction dim to be specified for input.numel() == 0. Specify the reduction dim with "
            "the 'dim' argument."
        )
    for a in axes:
        if array.shape[a] == 0:
            raise IndexError(f"[{name}] Expected reduction dim {a} to have non-zero size, got shape {array.shape}")


def _ordered(name, array):
    if array.dtype.kind == "c":
        raise NotImplementedError(f"[{name}] complex numbers have no order: take abs() or .real first")


def _extreme(cls, name, input, dim, keepdim):
    array = array_of(input)
    _ordered(name, array)
    axes = axes_of(name, None if isinstance(dim, (tuple, list)) and not dim else dim, array.ndim)
    _nonempty(name, array, axes)
    return cls.apply(input, axes=axes, keepdim=keepdim)


@public(method=True)
def amax(input, dim=(), keepdim=False):
    """The largest element over `dim` (int, tuple, (): all); equal ones share the gradient. As torch.amax.

    Raises: IndexError over a dimension of size 0.
    """
    return _extreme(Amax, "amax", input, dim, keepdim)


@public(method=True)
def amin(input, dim=(), keepdim=False):
    """The smallest element over `dim` (int, tuple, (): all); equal ones share the gradient. As torch.amin.

    Raises: IndexError over a dimension of size 0.
    """
    return _extreme(Amin, "amin", input, dim, keepdim)


max_result = namedtuple("max", ["values", "indices"])
min_result = namedtuple("min", ["values", "indices"])


def _selecting(cls, whole, result, name, input, dim, keepdim):
    array = array_of(input)
    _ordered(name, array)
    if dim is None:
        _nonempty(name, array, None)
        return whole.apply(input, axes=None, keepdim=False)
    if isinstance(dim, Tensor) or is_array(dim):
        return None
    axis = axis_of(name, dim, array.ndim)
    if array.ndim == 0:
        values, at = cls.apply(ops.reshape(input, (1,)), dim=0, keepdim=False)
        return result(values, at)
    _nonempty(name, array, (axis,))
    return result(*cls.apply(input, dim=axis, keepdim=keepdim))


@public(method=True)
def max(input, dim=None, keepdim=False, *, other=None):
    """The largest element; with `dim` the pair (values, indices); of two tensors the larger, elementwise.

    As torch.max. Raises: RuntimeError or IndexError over nothing.
    """
    other = dim if other is None and (isinstance(dim, Tensor) or is_array(dim)) else other
    if other is not None:
        return ops.maximum(input, other)
    return _selecting(Max, Amax, max_result, "max", input, dim, keepdim)


@public(method=True)
def min(input, dim=None, keepdim=False, *, other=None):
    """The smallest element; with `dim` the pair (values, indices); of two tensors the smaller, elementwise.

    As torch.min. Raises: RuntimeError or IndexError over nothing.
    """
    other = dim if other is None and (isinstance(dim, Tensor) or is_array(dim)) else other
    if other is not None:
        return ops.minimum(input, other)
    return _selecting(Min, Amin, min_result, "min", input, dim, keepdim)


def _where_is(cls, name, input, dim, keepdim):
    array = array_of(input)
    _ordered(name, array)
    if dim is not None:
        dim = axis_of(name, dim, array.ndim)
        dim = None if array.ndim == 0 else dim
    if dim is None and not array.size:
        raise IndexError(f"[{name}] Expected reduction dim to be specified for input.numel() == 0. Specify the "
                         "reduction dim with the 'dim' argument.")
    _nonempty(name, array, None if dim is None else (dim,))
    return cls.apply(input, dim=dim, keepdim=keepdim)


@public(method=True)
def argmax(input, dim=None, keepdim=False):
    """The index (int64) of the largest element, in the flattened tensor or along `dim`. As torch.argmax."""
    return _where_is(Argmax, "argmax", input, dim, keepdim)


@public(method=True)
def argmin(input, dim=None, keepdim=False):
    """The index (int64) of the smallest element, in the flattened tensor or along `dim`. As torch.argmin."""
    return _where_is(Argmin, "argmin", input, dim, keepdim)


@public(method=True)
def all(input, dim=None, keepdim=False):
    """Whether no element is 0, over `dim` (int, tuple, None: all). As torch.all."""
    return All.apply(input, axes=axes_of("all", dim, array_of(input).ndim), keepdim=keepdim)


@public(method=True)
def any(input, dim=None, keepdim=False):
    """Whether an element is not 0, over `dim` (int, tuple, None: all). As torch.any."""
    return Any.apply(input, axes=axes_of("any", dim, array_of(input).ndim), keepdim=keepdim)


@public(method=True)
def count_nonzero(input, dim=None):
    """How many elements are not 0 (int64), over `dim` (int, tuple, None: all). As torch.count_nonzero."""
    return CountNonzero.apply(input, axes=axes_of("count_nonzero", dim, array_of(input).ndim))
