"""Another shape over the same elements: reshape, transpose, permute, squeeze, flatten, unfold, ... as views."""
from __future__ import annotations

import math
import operator

from .. import ops
from ..autograd.operator import array_of
from ..tensor import Tensor, attach
from .registry import public
from .views import _ViewOperator


def dim_of(op, dim, ndim, extra=0) -> int:
    """A dimension number counted from the front. Raises: IndexError when there is no such dimension."""
    n = max(ndim + extra, 1)
    if not -n <= dim < n:
        raise IndexError(f"[{op}] dimension out of range (expected to be in range of [{-n}, {n - 1}], but got {dim})")
    return dim + n if dim < 0 else dim


def shape_of(value) -> tuple:
    """The shape of a Tensor or raw array."""
    return value._array.shape if value.__class__ is Tensor else array_of(value).shape


def _ints(values) -> tuple:
    """Integers from `f(2, 3)` or `f((2, 3))`."""
    if len(values) == 1 and (values[0].__class__ is tuple or isinstance(values[0], (tuple, list))):
        values = values[0]
    return tuple([operator.index(v) for v in values])


def _resolve(op, shape, size) -> tuple:
    """`size` with its -1 filled in. Raises: RuntimeError when the elements do not fit."""
    n = math.prod(shape)
    if -1 in size:
        known = -math.prod(size)
        if size.count(-1) > 1:
            raise RuntimeError(f"[{op}] only one dimension can be inferred, got shape {list(size)}")
        if known == 0:
            raise RuntimeError(f"[{op}] cannot reshape tensor of 0 elements into shape {list(size)} because the "
                               "unspecified dimension size -1 can be any value and is ambiguous")
        if known > 0 and n % known == 0:
            return tuple([n // known if s == -1 else s for s in size])
    elif math.prod(size) == n and (not size or min(size) >= 0):
        return size
    if any(s < -1 for s in size):
        raise RuntimeError(f"[{op}] invalid shape dimension {min(size)} in {list(size)}")
    raise RuntimeError(f"[{op}] shape '{list(size)}' is invalid for input of size {n} (shape {list(shape)})")


class Reshape(_ViewOperator):
    """The same elements in another shape: a view where the strides allow it, else a copy."""

    __slots__ = ("full",)

    def forward(node, x, size):
        node.full = x.shape
        return x.reshape(size)

    def backward(node, grad):
        return ops.reshape(grad, node.full)


class Transpose(_ViewOperator):
    """Two dimensions exchanged."""

    __slots__ = ("dims",)

    def forward(node, x, dim0, dim1):
        node.dims = dim0, dim1
        return x.swapaxes(dim0, dim1)

    def backward(node, grad):
        return Transpose.apply(grad, dim0=node.dims[0], dim1=node.dims[1])


class Permute(_ViewOperator):
    """The dimensions in another order."""

    __slots__ = ("dims",)

    def forward(node, x, dims):
        node.dims = dims
        return x.transpose(dims)

    def backward(node, grad):
        dims = node.dims
        return Permute.apply(grad, dims=tuple(sorted(range(len(dims)), key=dims.__getitem__)))


@public(method=True)
def reshape(input, *shape):
    """The elements in another shape; -1 is computed. A view where possible. As torch.reshape.

    Raises: RuntimeError when the number of elements differs.
    """
    size = _ints(shape)
    old = shape_of(input)
    size = _resolve("reshape", old, size)
    return Reshape.apply(input, size=size) if size != old or isinstance(input, Tensor) else input


@attach("reshape_as")
def reshape_as(self, other):
    """Reshaped to the shape of `other`. As torch.Tensor.reshape_as."""
    return reshape(self, other.shape)


@public(method=True)
def view(input, *shape):
    """The same memory in another shape. As torch.Tensor.view.

    Raises: RuntimeError when the strides would need a copy, or the number of elements differs.
    """
    size = _resolve("view", shape_of(input), _ints(shape))
    array = array_of(input)
    if not array.flags.c_contiguous and array.size:
        base = array.reshape(size).base
        if base is None or base is not array and base is not array.base:
            raise RuntimeError(
                f"[view] shape {list(size)} is not compatible with the strides of {list(array.shape)} (at least one "
                "dimension spans two contiguous subspaces): use reshape()"
            )
    return Reshape.apply(input, size=size)


@attach("view_as")
def view_as(self, other):
    """Viewed in the shape of `other`. As torch.Tensor.view_as."""
    return view(self, other.shape)


@public(method=True)
def flatten(input, start_dim=0, end_dim=-1):
    """Dimensions start_dim to end_dim as one. As torch.flatten."""
    shape = shape_of(input)
    first, last = dim_of("flatten", start_dim, len(shape)), dim_of("flatten", end_dim, len(shape))
    if first > last:
        raise RuntimeError(f"[flatten] start_dim {start_dim} cannot come after end_dim {end_dim}")
    if not shape:
        return reshape(input, (1,))
    if first == last:
        return input
    return reshape(input, shape[:first] + (math.prod(shape[first:last + 1]),) + shape[last + 1:])


@public(method=True)
def ravel(input):
    """All elements as one dimension. As torch.ravel."""
    return reshape(input, (-1,))


@public(method=True)
def unflatten(input, dim, sizes):
    """One dimension split into `sizes` (one may be -1). As torch.unflatten."""
    shape = shape_of(input)
    d = dim_of("unflatten", dim, len(shape))
    sizes = _ints((sizes,))
    if not sizes:
        raise RuntimeError("[unflatten] sizes must be non-empty")
    inner = _resolve("unflatten", (shape[d],), sizes)
    return reshape(input, shape[:d] + inner + shape[d + 1:])


@public(method=True)
def squeeze(input, dim=None):
    """Without the dimensions of size 1 (all, or those of `dim`). As torch.squeeze."""
    shape = shape_of(input)
    if dim is None:
        size = tuple([n for n in shape if n != 1])
    else:
        dims = {dim_of("squeeze", d, len(shape)) for d in (dim if isinstance(dim, (tuple, list)) else (dim,))}
        size = tuple([n for i, n in enumerate(shape) if n != 1 or i not in dims])
    return Reshape.apply(input, size=size)


@public(method=True)
def unsqueeze(input, dim):
    """With a dimension of size 1 inserted at `dim`. As torch.unsqueeze."""
    shape = shape_of(input)
    d = dim_of("unsqueeze", dim, len(shape), 1)
    return Reshape.apply(input, size=shape[:d] + (1,) + shape[d:])


@public(method=["transpose", "swapaxes", "swapdims"])
def transpose(input, dim0, dim1):
    """Two dimensions exchanged, a view. As torch.transpose."""
    ndim = len(shape_of(input))
    dim0, dim1 = dim_of("transpose", dim0, ndim), dim_of("transpose", dim1, ndim)
    if ndim == 0:
        return Reshape.apply(input, size=())
    return Transpose.apply(input, dim0=dim0, dim1=dim1)


@public
def swapaxes(input, axis0, axis1):
    """Two dimensions exchanged, a view. As torch.swapaxes."""
    return transpose(input, axis0, axis1)


@public
def swapdims(input, dim0, dim1):
    """Two dimensions exchanged, a view. As torch.swapdims."""
    return transpose(input, dim0, dim1)


@public(method=True)
def permute(input, *dims):
    """The dimensions in the order `dims`, a view. As torch.permute.

    Raises: RuntimeError when `dims` is not a permutation.
    """
    dims = _ints(dims)
    ndim = len(shape_of(input))
    if len(dims) != ndim:
        raise RuntimeError(f"[permute] input has {ndim} dimensions, dims has {len(dims)}: {list(dims)}")
    order = tuple([dim_of("permute", d, ndim) for d in dims])
    if len(set(order)) != ndim:
        raise RuntimeError(f"[permute] duplicate dims are not allowed, got {list(dims)}")
    return Permute.apply(input, dims=order)


@public(method=["movedim", "moveaxis"])
def movedim(input, source, destination):
    """Dimensions moved to new places, the others in order. As torch.movedim."""
    ndim = len(shape_of(input))
    source, destination = [(d,) if hasattr(d, "__index__") else tuple(d) for d in (source, destination)]
    if len(source) != len(destination):
        raise RuntimeError(f"[movedim] source {source} and destination {destination} differ in length")
    source = [dim_of("movedim", d, ndim) for d in source]
    destination = [dim_of("movedim", d, ndim) for d in destination]
    if len(set(source)) < len(source) or len(set(destination)) < len(destination):
        raise RuntimeError("[movedim] repeated dimension in source or destination")
    order = [d for d in range(ndim) if d not in source]
    for to, d in sorted(zip(destination, source)):
        order.insert(to, d)
    return permute(input, order)


@public(method=True)
def t(input):
    """The transpose of a matrix; a vector or scalar as it is. As torch.t."""
    ndim = len(shape_of(input))
    if ndim > 2:
        raise RuntimeError(f"[t] expects a tensor with at most 2 dimensions, got {ndim}: use transpose()")
    return Transpose.apply(input, dim0=0, dim1=1) if ndim == 2 else Reshape.apply(input, size=shape_of(input))


def _last_two(name, conjugate):
    def get(self):
        if self._array.ndim == 0 or self._array.ndim == 1:
            raise RuntimeError(f"[{name}] needs a matrix or a batch of matrices, got {self._array.ndim} dimensions")
        out = transpose(self, -2, -1)
        return ops.conj(out) if conjugate else out

    return get


def _t(self):
    if self._array.ndim == 2:
        return Transpose.apply(self, dim0=0, dim1=1)
    return permute(self, tuple(range(self._array.ndim))[::-1])


def _h(self):
    if self._array.ndim not in (0, 2):
        raise RuntimeError(f"[H] only supported on matrices (2-d), got {self._array.ndim} dimensions: use mH")
    return ops.conj(transpose(self, 0, 1)) if self._array.ndim else ops.conj(self)


Tensor.T = property(_t, doc="The dimensions in reverse order. As torch.Tensor.T.")
Tensor.H = property(_h, doc="The conjugate transpose of a matrix. As torch.Tensor.H.")
Tensor.mT = property(_last_two("mT", False), doc="The last two dimensions exchanged. As torch.Tensor.mT.")
Tensor.mH = property(_last_two("mH", True), doc="The last two exchanged and conjugated. As torch.Tensor.mH.")


@public(method=True)
def broadcast_to(input, size):
    """A view repeated to `size`. As torch.broadcast_to."""
    return ops.expand(input, *size) if size else ops.expand(input, ())


@public
def broadcast_tensors(*tensors):
    """All tensors expanded to their common shape. As torch.broadcast_tensors."""
    size = broadcast_shapes(*[shape_of(t) for t in tensors])
    return tuple([ops.expand(t, size) for t in tensors])


@public
def broadcast_shapes(*shapes):
    """The shape that tensors of these shapes broadcast to, a tuple. As torch.broadcast_shapes.

    Raises: RuntimeError when they do not broadcast.
    """
    out: list = []
    for shape in shapes:
        shape = (shape,) if hasattr(shape, "__index__") else tuple(shape)
        out[:0] = [1] * (len(shape) - len(out))
        for i, n in enumerate(shape, len(out) - len(shape)):
            if n != 1 and out[i] not in (1, n):
                listed = ", ".join(str(s) for s in shapes)
                raise RuntimeError(f"[broadcast_shapes] shapes {listed} do not broadcast")
            out[i] = n if n != 1 else out[i]
    return tuple(out)
