"""The functions whose CuPy behaviour is not NumPy's with another signature: creation, copies, indexing, conversion."""

from __future__ import annotations

import numpy as np

from .array import (
    SCALARS,
    checked_dtype,
    empty,
    empty_raw,
    ndarray,
    normal_shape,
    own,
    resolve_order,
    unsupported,
)
from .functions import finish, raw_of
from .indexing import wrap_indices
from .pool import POOL, count


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    """As cupy.array: a NumPy array or a list is copied to the device, a device array on it (unless `copy=False`)."""
    if subok:
        raise NotImplementedError("subok=True is not supported")
    if type(obj) is ndarray:
        made = obj.astype(dtype or obj.dtype, order or "K", copy=bool(copy))
    elif isinstance(obj, (list, tuple)) and holds_arrays(obj):
        parts = [array(o, dtype) for o in obj]
        made = own(np.stack([p._np for p in parts]))
    else:
        raw = np.asarray(obj, dtype)
        checked_dtype(raw.dtype)
        count("host_to_device")
        made = own(raw, resolve_order(raw, order or "K"))
    while made.ndim < ndmin:
        made = made[None]
    return made


def holds_arrays(obj) -> bool:
    return any(type(o) is ndarray or (isinstance(o, (list, tuple)) and holds_arrays(o)) for o in obj)


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    if type(a) is ndarray and copy is False and dtype is not None and np.dtype(dtype) != a.dtype:
        raise ValueError("Unable to avoid copy while creating an array as requested.")
    return array(a, dtype, bool(copy), order or "K", blocking=blocking)


asanyarray = asarray


def ascontiguousarray(a, dtype=None):
    made = array(a, dtype, False, "C")
    return made[None] if made.ndim == 0 else made


def asfortranarray(a, dtype=None):
    return array(a, dtype, False, "F")


def copy(a, order="K"):
    return own_argument(a).copy(order)


def own_argument(a) -> ndarray:
    if type(a) is not ndarray:
        raise unsupported(a)
    return a


def astype(x, dtype, /, *, copy=True):
    return own_argument(x).astype(dtype, copy=copy)


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    if type(a) is ndarray:
        return a.get(stream, order, out, blocking)
    return np.asarray(a, order=order)


def arange(start, stop=None, step=1, dtype=None):
    """The numbers are made on the host by NumPy, the copy is not counted: CuPy makes them on the device."""
    for value in (start, stop, step):
        if value is not None and not isinstance(value, SCALARS):
            raise unsupported(value)
    return own(np.arange(start, stop, step, dtype) if stop is not None else np.arange(0, start, step, dtype))


def zeros(shape, dtype=float, order="C"):
    return _filled(normal_shape(shape), checked_dtype(dtype), order, 0)


def ones(shape, dtype=float, order="C"):
    return _filled(normal_shape(shape), checked_dtype(dtype), order, 1)


def full(shape, fill_value, dtype=None, order="C"):
    if dtype is None:
        dtype = fill_value.dtype if isinstance(fill_value, (ndarray, np.generic)) else np.array(fill_value).dtype
    return _filled(normal_shape(shape), checked_dtype(dtype), order, fill_value)


def _filled(shape, dtype, order, value) -> ndarray:
    if order not in ("C", "F"):
        raise TypeError("order not understood")
    made = empty_raw(shape, dtype, order)
    made.fill(value)
    return made


def _like(prototype, dtype, order, subok, shape, value) -> ndarray:
    if subok:
        raise TypeError("subok is not supported yet")
    prototype = own_argument(prototype)
    order = resolve_order(prototype._np, order or "K")
    shape = prototype.shape if shape is None else normal_shape(shape)
    dtype = prototype.dtype if dtype is None else checked_dtype(dtype)
    return empty(shape, dtype, order) if value is None else _filled(shape, dtype, order, value)


def empty_like(prototype, dtype=None, order="K", subok=None, shape=None):
    return _like(prototype, dtype, order, subok, shape, None)


def zeros_like(a, dtype=None, order="K", subok=None, shape=None):
    return _like(a, dtype, order, subok, shape, 0)


def ones_like(a, dtype=None, order="K", subok=None, shape=None):
    return _like(a, dtype, order, subok, shape, 1)


def full_like(a, fill_value, dtype=None, order="K", subok=None, shape=None):
    return _like(a, dtype, order, subok, shape, fill_value)


def copyto(dst, src, casting="same_kind", where=None):
    dst, src = own_argument(dst), raw_of(src)
    src_dtype = getattr(src, "dtype", None)
    if src_dtype is not None and not np.can_cast(src_dtype, dst.dtype, casting):
        raise TypeError(f"Cannot cast {src_dtype} to {dst.dtype} in {casting} casting mode")
    with np.errstate(all="ignore"):
        np.copyto(dst._np, src, casting="unsafe", where=True if where is None else raw_of(where))


def where(condition, x=None, y=None):
    """With three arguments no host waits; with one it is `nonzero`."""
    if (x is None) != (y is None):
        raise ValueError("Must provide both 'x' and 'y' or neither.")
    if x is None:
        return nonzero(condition)
    with np.errstate(all="ignore"):
        return own(np.where(raw_of(condition), raw_of(x), raw_of(y)))


def nonzero(a):
    raw = own_argument(a)._np
    if raw.ndim == 0:
        raise ValueError("calling nonzero on 0d arrays: use atleast_1d first")
    count("synchronizations")
    return tuple(own(i) for i in np.nonzero(raw))


def take(a, indices, axis=None, out=None):
    raw = own_argument(a)._np
    if isinstance(indices, (list, tuple)):
        count("host_to_device")
        indices = np.array(indices, int)
    else:
        indices = raw_of(indices)
    if axis is not None and raw.ndim:
        axis = np.lib.array_utils.normalize_axis_index(axis, raw.ndim)
    length = raw.size if axis is None or raw.ndim == 0 else raw.shape[axis]
    indices = np.asarray(indices)
    if length == 0 and indices.size:
        raise IndexError("cannot do a non-empty take from an empty axes.")
    value = np.take(raw, wrap_indices(indices, length), axis if raw.ndim else None)
    if out is not None and type(out) is ndarray and out.dtype != raw.dtype:
        raise TypeError("Output dtype mismatch")
    return finish(value, out)


def _along_axis(raw, indices, axis):
    """Index arrays of `take_along_axis`, wrapped."""
    axis = np.lib.array_utils.normalize_axis_index(axis, raw.ndim)
    if indices.ndim != raw.ndim:
        raise ValueError("`indices` and `a` must have the same number of dimensions")
    return wrap_indices(indices, raw.shape[axis]), axis


def take_along_axis(a, indices, axis):
    raw, indices = own_argument(a)._np, own_argument(indices)._np
    if axis is None:
        if indices.ndim != 1:
            raise NotImplementedError("`indices` should be 1-dimensional if `axis` is None")
        raw, axis = raw.ravel(), 0
    return own(np.take_along_axis(raw, *_along_axis(raw, indices, axis)))


def put_along_axis(arr, indices, values, axis):
    raw, indices = own_argument(arr)._np, own_argument(indices)._np
    if axis is None:
        raise NotImplementedError("[simulated] put_along_axis: give an axis")
    indices, axis = _along_axis(raw, indices, axis)
    np.put_along_axis(raw, indices, np.asarray(raw_of(values)).astype(raw.dtype), axis)


def put(a, ind, v, mode="wrap"):
    raw = own_argument(a)._np
    if mode not in ("wrap", "clip", "raise"):
        raise ValueError("clipmode not understood")
    if mode == "raise":
        count("synchronizations")
    np.put(raw, raw_of(ind), np.asarray(raw_of(v)).astype(raw.dtype), mode)


def clip(a, a_min, a_max, out=None):
    """As cupy.clip: the bounds take part in the promotion as other operands do."""
    raw = own_argument(a)._np
    if a_min is None and a_max is None:
        raise ValueError("array_clip: must set either max or min")
    low = None if a_min is None else raw_of(a_min)
    high = None if a_max is None else raw_of(a_max)
    with np.errstate(all="ignore"):
        value = raw
        if low is not None:
            value = np.maximum(value, low)
        if high is not None:
            value = np.minimum(value, high)
    return finish(value, out)


def lexsort(keys):
    return own(np.lexsort(own_argument(keys)._np))


def repeat(a, repeats, axis=None):
    if type(repeats) is ndarray:
        raise ValueError("repeats must be an integer or a sequence of integers on the host, not a cupy.ndarray")
    if isinstance(repeats, np.ndarray):
        raise unsupported(repeats)
    return own(np.repeat(own_argument(a)._np, repeats, axis))


def sort(a, axis=-1, kind=None):
    check_sort_kind(kind)
    return own(np.sort(own_argument(a)._np, axis))


def argsort(a, axis=-1, kind=None):
    check_sort_kind(kind)
    return own(np.argsort(own_argument(a)._np, axis, kind="stable"))


def check_sort_kind(kind):
    if kind not in (None, "stable"):
        raise ValueError(f"Unsupported sort kind: {kind}. Only stable is supported.")


def real(val):
    return own_argument(val).real


def imag(val):
    return own_argument(val).imag


def size(a, axis=None):
    return own_argument(a).size if axis is None else own_argument(a).shape[axis]


def shape(a):
    return own_argument(a).shape


def ndim(a):
    return own_argument(a).ndim if not isinstance(a, SCALARS) else 0


def diagonal(a, offset=0, axis1=0, axis2=1):
    return own_argument(a).diagonal(offset, axis1, axis2)


def get_default_memory_pool():
    return POOL


def get_array_module(*args):
    from .namespace import xp

    return xp if any(type(a) is ndarray for a in args) else np


__all__ = [
    "arange", "argsort", "array", "asanyarray", "asarray", "ascontiguousarray", "asfortranarray", "asnumpy",
    "astype", "clip", "copy", "copyto", "diagonal", "empty", "empty_like", "full", "full_like", "get_array_module",
    "get_default_memory_pool", "imag", "lexsort", "ndim", "nonzero", "ones", "ones_like", "put",
    "put_along_axis", "real", "repeat", "shape", "size", "sort", "take", "take_along_axis", "where", "zeros",
    "zeros_like",
]
