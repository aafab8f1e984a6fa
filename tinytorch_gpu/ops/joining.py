"""Several tensors into one and back: cat, stack, hstack, split, chunk, unbind, narrow, select, atleast_*."""
from __future__ import annotations

from .. import ops
from ..autograd.operator import Operator, array_of
from ..backend import dtypes
from .indexing import Slice
from .registry import public
from .shape import dim_of, shape_of


def _along(dim, part):
    return (slice(None),) * dim + (part, ...)


class Cat(Operator):
    """One after the other along `dim`; the gradient is cut apart."""

    promotion = "common"

    def forward(node, *arrays, dim):
        node.dim, node.lengths = dim, [a.shape[dim] for a in arrays]
        return node.xp.concatenate(arrays, axis=dim)

    def backward(node, grad):
        out, start = [], 0
        for i, n in enumerate(node.lengths):
            part = slice(start, start + n)
            out.append(Slice.apply(grad, index=_along(node.dim, part)) if node.need(i) else None)
            start += n
        return tuple(out)


class Stack(Operator):
    """Side by side along a new dimension."""

    promotion = "common"

    def forward(node, *arrays, dim):
        node.dim = dim
        return node.xp.stack(arrays, axis=dim)

    def backward(node, grad):
        return tuple([
            Slice.apply(grad, index=_along(node.dim, i)) if node.need(i) else None for i in range(len(node.edges))
        ])


class Split(Operator):
    """Pieces of the given lengths along `dim`, views; their gradients are joined in one pass."""

    view = True

    def forward(node, x, lengths, dim):
        node.dim = dim
        out, start = [], 0
        for n in lengths:
            out.append(x[_along(dim, slice(start, start + n))])
            start += n
        return tuple(out)

    def backward(node, *grads):
        return ops.cat(grads, node.dim)


class Unbind(Operator):
    """The slices along `dim`, without it, views."""

    view = True

    def forward(node, x, dim):
        node.dim = dim
        return tuple([x[_along(dim, i)] for i in range(x.shape[dim])])

    def backward(node, *grads):
        return ops.stack(grads, node.dim)


def _sequence(op, tensors):
    if not isinstance(tensors, (tuple, list)):
        raise TypeError(f"[{op}] tensors must be a tuple or list of Tensors, got {type(tensors).__name__}")
    if not tensors:
        raise (ValueError if op == "cat" else RuntimeError)(f"[{op}] expected a non-empty list of Tensors")
    return tensors


@public
def cat(tensors, dim=0):
    """Tensors one after the other along `dim`; their other sizes agree. As torch.cat.

    Raises: RuntimeError when sizes differ, ValueError when nothing is given.
    """
    tensors = _sequence("cat", tensors)
    shapes = [shape_of(t) for t in tensors]
    ndim = max(map(len, shapes))
    if ndim == 0 or () in shapes:
        raise RuntimeError("[cat] zero-dimensional tensor cannot be concatenated: use stack()")
    if ndim > 1 and (0,) in shapes:  # PyTorch skips empty 1-d tensors beside others
        dtype = dtypes.result_type(*[array_of(t) for t in tensors]).np
        tensors = [t for t, s in zip(tensors, shapes) if s != (0,)]
        tensors[0] = ops.cast(tensors[0], dtype)
        shapes = [s for s in shapes if s != (0,)]
    d = dim_of("cat", dim, ndim)
    first = shapes[0]
    for i, s in enumerate(shapes):
        if len(s) != ndim:
            raise RuntimeError(f"[cat] tensors must have same number of dimensions: got {len(first)} and {len(s)}")
        if s[:d] != first[:d] or s[d + 1:] != first[d + 1:]:
            raise RuntimeError(
                f"[cat] sizes of tensors must match except in dimension {d}: expected {list(first)}, got {list(s)} for "
                f"tensor number {i} in the list"
            )
    return Cat.apply(*tensors, dim=d)


@public
def concat(tensors, dim=0):
    """The same as cat. As torch.concat."""
    return cat(tensors, dim)


@public
def concatenate(tensors, dim=0):
    """The same as cat. As torch.concatenate."""
    return cat(tensors, dim)


@public
def stack(tensors, dim=0):
    """Tensors of one shape side by side along a new dimension. As torch.stack.

    Raises: RuntimeError when shapes differ or nothing is given.
    """
    tensors = _sequence("stack", tensors)
    first = shape_of(tensors[0])
    for i, t in enumerate(tensors):
        if shape_of(t) != first:
            raise RuntimeError(f"[stack] expects each tensor to be equal size, but got {list(first)} at entry 0 and "
                               f"{list(shape_of(t))} at entry {i}")
    return Stack.apply(*tensors, dim=dim_of("stack", dim, len(first), 1))


def _atleast(ndim):
    def convert(*tensors):
        if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)):
            tensors = tuple(tensors[0])
        if len(tensors) != 1:
            return tuple([convert(t) for t in tensors])
        shape = shape_of(tensors[0])
        if len(shape) >= ndim:
            return tensors[0]
        if ndim == 3:
            return ops.reshape(tensors[0], (1,) * (2 - max(len(shape), 1)) + (shape or (1,)) + (1,))
        return ops.reshape(tensors[0], (1,) * (ndim - len(shape)) + shape)

    convert.__name__ = f"atleast_{ndim}d"
    convert.__doc__ = f"Views with at least {ndim} dimensions. As torch.atleast_{ndim}d."
    return public(convert)


atleast_1d, atleast_2d, atleast_3d = _atleast(1), _atleast(2), _atleast(3)


@public
def hstack(tensors):
    """Joined along the second dimension (1-d tensors along the first). As torch.hstack."""
    tensors = [atleast_1d(t) for t in _sequence("hstack", tensors)]
    return cat(tensors, 0 if len(shape_of(tensors[0])) == 1 else 1)


@public
def vstack(tensors):
    """Joined along the first dimension as rows. As torch.vstack."""
    return cat([atleast_2d(t) for t in _sequence("vstack", tensors)], 0)


@public
def dstack(tensors):
    """Joined along the third dimension. As torch.dstack."""
    return cat([atleast_3d(t) for t in _sequence("dstack", tensors)], 2)


@public
def column_stack(tensors):
    """1-d tensors as columns, others joined along the second dimension. As torch.column_stack."""
    tensors = _sequence("column_stack", tensors)
    return hstack([ops.reshape(t, (-1, 1)) if len(shape_of(t)) < 2 else t for t in tensors])


# apart

def _dim(op, input, dim):
    shape = shape_of(input)
    if not shape:
        raise RuntimeError(f"[{op}] expects at least a 1-dimensional tensor")
    return dim_of(op, dim, len(shape)), shape


@public(method=True)
def split(input, split_size_or_sections, dim=0):
    """Pieces of one size (the last may be smaller) or of given sizes along `dim`, views. As torch.split.

    Raises: RuntimeError when the sizes do not sum to the dimension.
    """
    d, shape = _dim("split", input, dim)
    n, size = shape[d], split_size_or_sections
    if hasattr(size, "__index__"):
        size = size.__index__()
        if size < 0 or size == 0 and n:
            raise RuntimeError(f"[split] expects split_size to be positive, got {size}")
        lengths = tuple([min(size, n - i) for i in range(0, n, size)]) if n else (0,)
    else:
        lengths = tuple([s.__index__() for s in size])
        if sum(lengths) != n or min(lengths, default=0) < 0:
            raise RuntimeError(f"[split] expects split_sizes to sum exactly to {n} (input's size at dimension {d}), "
                               f"got {list(lengths)}")
    return Split.apply(input, lengths=lengths, dim=d)


@public(method=True)
def chunk(input, chunks, dim=0):
    """At most `chunks` pieces of equal size (the last may be smaller), views. As torch.chunk."""
    d, shape = _dim("chunk", input, dim)
    if chunks <= 0:
        raise RuntimeError(f"[chunk] expects chunks to be greater than 0, got {chunks}")
    size = -(-shape[d] // chunks)
    if size == 0:
        return Split.apply(input, lengths=(0,) * chunks, dim=d)
    return split(input, size, d)


@public(method=True)
def tensor_split(input, indices_or_sections, dim=0):
    """`sections` pieces of nearly equal size, or pieces cut at indices, views. As torch.tensor_split."""
    d, shape = _dim("tensor_split", input, dim)
    n, given = shape[d], indices_or_sections
    if hasattr(given, "tolist"):
        given = given.tolist()
    if hasattr(given, "__index__"):
        if given <= 0:
            raise RuntimeError(f"[tensor_split] number of sections must be larger than 0, got {given}")
        lengths = tuple([n // given + (i < n % given) for i in range(given)])
        return Split.apply(input, lengths=lengths, dim=d)
    cuts = [0] + [slice(0, c).indices(n)[1] for c in given] + [n]
    return tuple([Slice.apply(input, index=_along(d, slice(a, max(a, b)))) for a, b in zip(cuts, cuts[1:])])


@public(method=True)
def unbind(input, dim=0):
    """All slices along `dim`, views. As torch.unbind."""
    d, _ = _dim("unbind", input, dim)
    return Unbind.apply(input, dim=d)


@public(method=True)
def narrow(input, dim, start, length):
    """`length` elements from `start` along `dim`, a view. As torch.narrow."""
    d, shape = _dim("narrow", input, dim)
    n = shape[d]
    start, length = int(start), int(length)
    if length < 0:
        raise RuntimeError(f"[narrow] length must be non-negative, got {length}")
    if not -n <= start <= n:
        raise IndexError(f"[narrow] start out of range (expected to be in range of [{-n}, {n}], but got {start})")
    start = start + n if start < 0 else start
    if start + length > n:
        raise RuntimeError(f"[narrow] start ({start}) + length ({length}) exceeds dimension size ({n})")
    return Slice.apply(input, index=_along(d, slice(start, start + length)))


@public(method=True)
def select(input, dim, index):
    """The slice number `index` along `dim`, a view. As torch.select. Raises: IndexError out of range."""
    shape = shape_of(input)
    if not shape:
        raise IndexError("[select] cannot be applied to a 0-d tensor")
    d = dim_of("select", dim, len(shape))
    if not -shape[d] <= index < shape[d]:
        raise IndexError(f"[select] index {index} out of range for tensor of size {list(shape)} at dimension {d}")
    return Slice.apply(input, index=_along(d, int(index)))
