"""Operands before the array library sees them: one device, one dtype, halves widened."""
from __future__ import annotations

import sys

import numpy as np

from ..backend import dtypes, streams
from ..backend.device import _by_class, backend_of, is_array
from ..tensor import Tensor

__all__ = ["HALF", "F32", "wide", "array_of", "place", "prepare", "refusal"]

HALF = dtypes.HALF
F32 = np.dtype(np.float32)


def wide(array):
    """float32 for the half types, the same array for every other."""
    return array.astype(F32) if array.dtype in HALF else array


def array_of(value):
    """The raw array of a Tensor or array; TypeError for anything else."""
    if isinstance(value, Tensor):
        if streams.several:
            streams.touch(value._array)
        return value._array
    if is_array(value):
        if streams.several:
            streams.touch(value)
        return value
    if isinstance(value, np.generic):
        return np.asarray(value)
    raise TypeError(f"[{_entered()}] expected a Tensor, got {type(value).__name__}: use tensor() to convert data")


def _entered():
    """The name of the outermost function of `ops` that is running: what the user called. For messages."""
    frame, name = sys._getframe(2), None
    while frame is not None and (name is None or frame.f_globals.get("__name__", "").startswith("tinytorch_gpu.ops")):
        name, frame = frame.f_code.co_name, frame.f_back
    return name


def refusal(cls, error, operands):
    """What the array library refused in `forward`, in PyTorch's class and with the operator's name.

    None when the error is the operator's own, which says already what it has to.
    """
    text = str(error)
    what = ", ".join(
        f"{dtypes.of(a).name} {tuple(a.shape)}" if a.__class__ in _by_class else type(a).__name__ for a in operands
    )
    if text.startswith("["):
        return None
    if isinstance(error, ValueError) and "be broadcast" in text:
        return RuntimeError(f"[{cls.__name__}] the operands do not broadcast, got {what}: sizes must be equal or 1, "
                            "counted from the last dimension")
    if isinstance(error, TypeError) and any(a is None for a in operands):
        return TypeError(f"[{cls.__name__}] unsupported operand, expected Tensors or numbers, got {what}")
    if isinstance(error, TypeError) and ("not supported for the input types" in text or "Wrong type" in text):
        return NotImplementedError(f"[{cls.__name__}] not implemented for these dtypes, got {what}: convert with "
                                   ".to(dtype)")
    return None


def place(cls, arrays):
    """Check that all arrays live on one device; host scalars of tensors (0-d) may join a device array."""
    first = None
    for a in arrays:
        kind = a.__class__
        if kind in _by_class:
            if first is None:
                first = kind
            elif kind is not first:
                return _move(cls, arrays)
    return None


def _move(cls, arrays):
    target = None
    for a in arrays:
        if is_array(a) and a.ndim > 0:
            backend = backend_of(a)
            if target is not None and backend is not target[0]:
                other = target[1]
                raise RuntimeError(
                    f"[{cls.__name__}] expected all tensors to be on the same device, but found "
                    f"{backend_of(other).device_of(other)} and {backend.device_of(a)}: move one with .to(device)"
                )
            target = target or (backend, a)
    if target is None:
        target = next((backend_of(a), a) for a in arrays if is_array(a) and backend_of(a).type != "cpu")
    backend = target[0]
    for i, a in enumerate(arrays):
        if is_array(a) and backend_of(a) is not backend:
            if backend_of(a).type != "cpu":
                raise RuntimeError(
                    f"[{cls.__name__}] expected all tensors to be on the same device, but found a 0-d tensor on "
                    f"{backend_of(a).device_of(a)} beside {backend.device_of(target[1])}"
                )
            arrays[i] = a[()]  # a host scalar goes by value, as in PyTorch


_same = {}  # (promotion, dtype) -> (compute dtype, narrow dtype or None)


def _plan(cls, d):
    key = (cls.promotion, cls.opmath, d)
    plan = _same.get(key)
    if plan is None or plan[2] is not dtypes.get_default_dtype():
        target = d
        if cls.promotion == "float" and dtypes.category(d) < dtypes.FLOAT:
            target = dtypes.get_default_dtype().np
        narrow = target if cls.opmath and target in HALF else None
        plan = _same[key] = (target, narrow, dtypes.get_default_dtype())
    return plan


def prepare(cls, arrays):
    """(operands in the common dtype, the same as forward gets them, the half dtype to round to or None)."""
    first = other = None
    mixed = False
    for a in arrays:
        kind = a.__class__
        if kind in _by_class:
            d = a.dtype
            if first is None:
                first, first_kind = d, kind
            elif d != first:
                mixed = True
            if kind is not first_kind:
                _move(cls, arrays)
                return prepare(cls, arrays)
        elif a is not None:
            other = True
    if first is None:  # scalars only: NumPy scalars count as 0-d arrays
        arrays = [np.asarray(a) if isinstance(a, np.generic) else a for a in arrays]
        if not any(a.__class__ in _by_class for a in arrays):
            raise TypeError(f"[{cls.__name__}] expected a Tensor, got {', '.join(type(a).__name__ for a in arrays)}")
        return prepare(cls, arrays)
    if cls.no_bool and any(getattr(a, "dtype", a.__class__) in (bool, np.bool_) for a in arrays):
        raise RuntimeError(f"[{cls.__name__.lower()}] {cls.no_bool}")
    if cls.promotion is None:
        narrow = first if first in HALF else None
        return arrays, [wide(a) if a.__class__ in _by_class else a for a in arrays] if narrow else arrays, narrow
    if not mixed and not other:
        target, narrow, _ = _plan(cls, first)
    else:
        given = [a for a in arrays if a is not None]
        common = dtypes.result_np(*given) if len(given) == 2 else dtypes.result_type(*given).np
        target, narrow, _ = _plan(cls, common)
    if other or mixed or target != first:
        arrays = [_cast(a, target) for a in arrays]
    if narrow is None:
        return arrays, arrays, None
    return arrays, [a.astype(F32) if a.__class__ in _by_class else a for a in arrays], narrow


def _cast(a, target):
    if a.__class__ in _by_class:
        return a if a.dtype == target else a.astype(target)
    if a is None:
        return None
    if isinstance(a, (bool, int, float, complex)) and not isinstance(a, np.generic):
        if target in HALF:
            return a  # stays exact: the arithmetic is in float32
        if target.kind in "iu":
            return np.asarray(a).astype(target)[()]  # wraps, as PyTorch; NumPy would raise
        return a
    if isinstance(a, np.generic):
        return a.astype(F32) if target in HALF else a.astype(target)
    raise TypeError(f"expected a Tensor or number, got {type(a).__name__}")
