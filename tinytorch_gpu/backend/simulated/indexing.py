"""Indexing with CuPy's rules: masks wait for the device, integers out of range wrap, host arrays are refused."""

from __future__ import annotations

import numpy as np

from .array import SCALARS, ndarray, own, unsupported, view_of
from .pool import count


def getitem(self, index):
    if index is Ellipsis:
        return view_of(self, self._np)
    raw, simple = self._np, is_basic(index)
    if simple:
        return view_of(self, raw[index if simple == 2 else (*index, ...) if type(index) is tuple else (index, ...)])
    prepared = prepare(raw, index)
    return own(raw[prepared])

def setitem(self, index, value):
    raw = self._np
    if type(value) is ndarray:
        value = value._np
    elif isinstance(value, (list, tuple)):
        count("host_to_device")
        value = np.array(value, dtype=raw.dtype)
    elif not isinstance(value, SCALARS):
        raise unsupported(value)
    if not is_basic(index):
        index = prepare(raw, index)
    with np.errstate(all="ignore"):
        raw[index] = value


def is_basic(index) -> int:
    """0: an array takes part; 1: integers, slices and None; 2: the same with an Ellipsis."""
    if type(index) is not tuple:
        index = (index,)
    kind = 1
    for item in index:
        if item is Ellipsis:
            kind = 2
        elif not (item is None or type(item) in (int, slice) or isinstance(item, np.integer)):
            if type(item) is bool or isinstance(item, (np.bool_, list, tuple, ndarray)):
                return 0
            if isinstance(item, np.ndarray):
                raise unsupported(item)
            if not hasattr(type(item), "__index__"):
                raise IndexError(
                    "only integers, slices (`:`), ellipsis (`...`),numpy.newaxis (`None`) and integer or "
                    "boolean arrays are valid indices"
                )
    return kind


def prepare(raw: np.ndarray, index) -> tuple:
    """NumPy's index for CuPy's: masks wait for the device, lists are copied to it, integers out of range wrap."""
    items = list(index) if type(index) is tuple else [index]
    consumed = []
    for i, item in enumerate(items):
        if item is None or item is Ellipsis:
            consumed.append(0)
            continue
        width = 1
        if isinstance(item, np.ndarray):
            raise unsupported(item)
        if isinstance(item, ndarray):
            item = item._np
        elif isinstance(item, (list, tuple, bool, np.bool_)):
            count("host_to_device")
            item = np.array([_scalar_of(x) for x in item] if isinstance(item, (list, tuple)) else item)
            if item.size == 0 and item.dtype.kind == "f":
                item = item.astype(np.int32)
        if isinstance(item, np.ndarray):
            if item.dtype.kind == "b":
                width = item.ndim
                count("synchronizations")
            elif item.dtype.kind not in "iu":
                raise IndexError(
                    f"arrays used as indices must be of integer or boolean type. (actual: {item.dtype.type})"
                )
        items[i] = item
        consumed.append(width)
    rest = raw.ndim - sum(consumed)
    if rest < 0:
        raise IndexError(
            f"too many indices for array: array is {raw.ndim}-dimensional, but {sum(consumed)} were indexed"
        )
    axis = 0
    for i, (item, width) in enumerate(zip(items, consumed, strict=True)):
        if item is Ellipsis:
            width = rest
        elif isinstance(item, np.ndarray) and item.dtype.kind in "iu":
            items[i] = wrap_indices(item, raw.shape[axis])
        axis += width
    return tuple(items)


def _scalar_of(item):
    if isinstance(item, (ndarray, np.ndarray)):
        raise unsupported(item)
    return item


def wrap_indices(indices: np.ndarray, length: int) -> np.ndarray:
    """CuPy takes an index modulo the length where NumPy raises."""
    if indices.size and length and (indices.min() < -length or indices.max() >= length):
        return indices.astype(np.int64) % length
    return indices
