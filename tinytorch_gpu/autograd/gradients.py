"""What happens to one gradient: fitted to its input, added to another, taken over by a leaf."""
from __future__ import annotations

import sys

import numpy as np

from ..backend import streams
from ..backend.device import _by_class, is_array, xp_of
from ..backend.out_of_memory import again
from ..tensor import Tensor, make
from .node import REGISTRY
from .operands import F32, HALF, wide

__all__ = ["op", "fit", "add", "plain_sum", "accumulate", "as_array", "padded"]


def op(name, *args, **params):
    return REGISTRY[name].apply(*args, **params)


def fit(value, shape, dtype, node, i):
    """A gradient made to fit input `i` of `node`: summed over broadcast dimensions, real for a real input, cast."""
    array = value._array if value.__class__ is Tensor else value
    if array.shape != shape:
        if not _expandable(shape, array.shape):
            raise RuntimeError(
                f"[{node.name()}] function returned an invalid gradient at index {i} - got {list(array.shape)} but "
                f"expected shape compatible with {list(shape)}"
            )
        value = op("SumToSize", value, size=shape)
        array = value._array if value.__class__ is Tensor else value
    if array.dtype != dtype:
        value = op("Cast", value, dtype=dtype)
    return value


def _expandable(shape, to):
    if len(shape) > len(to):
        return False
    return all(a == b or a == 1 for a, b in zip(reversed(shape), reversed(to)))


def add(a, b):
    """The sum of two gradients; half types are kept in float32 until the node runs."""
    if a.__class__ is Tensor or b.__class__ is Tensor:
        half = [(x._array if isinstance(x, Tensor) else x).dtype in HALF for x in (a, b)]
        if half[0]:
            a = op("Cast", a, dtype=F32)
        if half[1]:
            b = op("Cast", b, dtype=F32)
        return op("Add", a, b)
    crossing = streams.before((a, b)) if streams.several else None
    try:
        out = xp_of(a).add(wide(a), wide(b))
    except MemoryError as e:
        out = again("backward", e, lambda: xp_of(a).add(wide(a), wide(b)))
    if crossing is not None:
        streams.after(crossing, (out,))
    return out if out.__class__ in _by_class else np.asarray(out)


_sole = None  # the reference count that `_owned` sees for an array that nothing else holds; measured below


def _owned(array):
    """`array` itself if nothing else holds it and it owns plain memory, else a copy."""
    if array.base is None and array.flags.c_contiguous and sys.getrefcount(array) <= _sole:
        return array
    return copied(array)


def copied(array):
    """A copy; a device that has no memory for it frees what it can first."""
    try:
        return array.copy()
    except MemoryError as e:
        return again("backward", e, array.copy)


def accumulate(node, value, create_graph):
    """Add a gradient to the leaf's `.grad`: owned, writable, never shared."""
    variable = node.variable
    held = variable._grad
    if create_graph:
        if value.__class__ is not Tensor:
            value = make(value)
        variable._grad = op("Clone", value) if held is None else op("Add", held, value)
        return
    if value.__class__ is Tensor:
        value = value._array
    crossing = streams.before((value,)) if streams.several else None
    if crossing is not None and held is not None and not held._req:
        streams.writing(held._array)
    if held is None:
        variable._grad = make(_owned(value))
    elif held._req:
        variable._grad = make(plain_sum(held._array, value))
    else:
        array = held._array
        if array.dtype in HALF:
            array[...] = (wide(array) + wide(value)).astype(array.dtype)
        elif array.ndim == 0 or array.__class__ is not value.__class__:
            array += value
        else:
            xp_of(array).add(array, value, out=array)
        held._bump()
    if crossing is not None:
        streams.after(crossing, (variable._grad._array,))


def plain_sum(a, b):
    out = (wide(a) + wide(b)).astype(a.dtype)
    return out if out.__class__ in _by_class else np.asarray(out)


def as_array(node, value):
    """What a rule returned for one input, as an array."""
    if isinstance(value, (np.generic, float, int, complex)) and not isinstance(value, bool):
        return np.asarray(value)
    if is_array(value):
        return value
    raise TypeError(f"[{node.name()}] backward must return arrays or None, got {type(value).__name__}")


def padded(node, out, edges):
    """What a rule returned, with None for inputs of which nobody asks."""
    if len(out) < len(edges) and not any(e is not None for e in edges[len(out):]):
        return out + (None,) * (len(edges) - len(out))
    raise RuntimeError(
        f"[{node.name()}] returned an incorrect number of gradients (expected {len(edges)}, got {len(out)})"
    )
