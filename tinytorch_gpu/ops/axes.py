"""Dimension arguments as PyTorch reads them: negative, tuples, None and () for all, 0 and -1 of a 0-d tensor."""
from __future__ import annotations

from ..backend import dtypes

__all__ = ["axis_of", "axes_of", "kept_shape", "count_of", "float_only", "real_only"]


def axis_of(name, dim, ndim) -> int:
    """One dimension as a number from 0. Raises: IndexError when out of range, TypeError when it is no integer."""
    try:
        d = dim.__index__()
    except AttributeError:
        raise TypeError(f"[{name}] dim must be an int, got {type(dim).__name__}: {dim!r:.40}") from None
    n = ndim or 1
    if not -n <= d < n:
        raise IndexError(f"[{name}] Dimension out of range (expected to be in range of [{-n}, {n - 1}], but got {d})")
    return d + n if d < 0 else d


def axes_of(name, dim, ndim) -> tuple | None:
    """The dimensions as a sorted tuple, None when they are all.

    Raises: IndexError when one is out of range, RuntimeError when one comes twice.
    """
    if dim is None:
        return None
    if not isinstance(dim, (tuple, list)):
        axes = (axis_of(name, dim, ndim),)
    else:
        axes = tuple(sorted([axis_of(name, d, ndim) for d in dim]))
        for a, b in zip(axes, axes[1:]):
            if a == b:
                raise RuntimeError(f"[{name}] dim {a} appears multiple times in the list of dims")
    return None if len(axes) >= ndim or not axes else axes


def kept_shape(shape, axes) -> tuple:
    """The shape after a reduction with keepdim=True."""
    if axes is None:
        return (1,) * len(shape)
    return tuple([1 if i in axes else n for i, n in enumerate(shape)])


def count_of(shape, axes) -> int:
    """How many elements one result of a reduction covers."""
    n = 1
    for i, size in enumerate(shape):
        if axes is None or i in axes:
            n *= size
    return n


def float_only(name, array) -> None:
    """Raises: RuntimeError for integers and booleans, in PyTorch's words."""
    if array.dtype.kind in "biu":
        raise RuntimeError(
            f"[{name}] could not infer output dtype. Input dtype must be either a floating point or complex dtype. "
            f"Got: {dtypes.of(array).name}; convert the tensor with .float()"
        )


def real_only(name, array) -> None:
    """Raises: NotImplementedError for complex numbers, as PyTorch does."""
    if array.dtype.kind == "c":
        raise NotImplementedError(f"[{name}] not implemented for {dtypes.of(array).name}: it needs real numbers")
