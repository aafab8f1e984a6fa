"""Reductions and products with CuPy's accumulation: float32 for the half types, results always arrays.

The types come from the `reductions` of the table, which are read from CuPy's own kernels: `sum` and `prod` of float16
and bfloat16 name `float` as the type they accumulate in.
"""

from __future__ import annotations

import math

import numpy as np

from .array import ndarray, own, unsupported
from .functions import HALVES, finish, raw_of
from .table import BFLOAT16, TABLE, Signature, dtype_of, parse_loop

_FLOAT32 = np.dtype(np.float32)
_LOOPS = {name: [(*(t[0] for t in parse_loop(loop)), acc) for loop, acc in rows.items()]
          for name, rows in TABLE["reductions"].items()}
_ORDERED = ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "bf", "f4", "f8", "c8", "c16")
for _rows in _LOOPS.values():  # JSON keeps them sorted by name; CuPy tries the narrowest first
    _rows.sort(key=lambda row: [dtype_of(c) for c in _ORDERED].index(row[0]))


def array_argument(a) -> np.ndarray:
    if type(a) is not ndarray:
        raise unsupported(a)
    return a._np


def axes_of(axis, ndim) -> tuple:
    if axis is None:
        return tuple(range(ndim))
    return np.lib.array_utils.normalize_axis_tuple(axis, ndim)


def _types(name, dtype, requested) -> tuple:
    """Types of the loop's input, of the accumulator and of the result."""
    if requested is None:
        loop = next(row for row in _LOOPS[name] if np.can_cast(dtype, row[0]))
    else:
        loop = next((row for row in _LOOPS[name + "_dtype"] if row[1] == requested), None)
        if loop is None:
            raise TypeError(f"Wrong type ({requested}) of arguments for cupy_{name}")
    return loop[0], _FLOAT32 if loop[2] == "float" else loop[1], loop[1]


def _accumulated(name, ufunc):
    cache: dict = {}

    def call(a, axis=None, dtype=None, out=None, keepdims=False):
        raw = array_argument(a)
        key = raw.dtype.num, dtype
        if key not in cache:
            cache[key] = _types(name, raw.dtype, None if dtype is None else np.dtype(dtype))
        first, work, result = cache[key]
        with np.errstate(all="ignore"):
            value = ufunc.reduce(raw.astype(first, copy=False), axis, work, None, bool(keepdims))
            return finish(value if work is result else np.asarray(value).astype(result), out)

    call.__name__ = name
    return call


sum = _accumulated("sum", np.add)
prod = _accumulated("prod", np.multiply)


def mean(a, axis=None, dtype=None, out=None, keepdims=False):
    raw = array_argument(a)
    result = np.dtype(dtype) if dtype is not None else raw.dtype if raw.dtype.kind in "fcV" else np.dtype(float)
    work = _FLOAT32 if result in HALVES else np.dtype(float) if result.kind in "iub" else result
    with np.errstate(all="ignore"):
        total = np.add.reduce(raw.astype(work, copy=False), axis, work, None, bool(keepdims))
        n = math.prod(raw.shape[i] for i in axes_of(axis, raw.ndim))
        return finish(np.true_divide(total, n, dtype=work).astype(result, copy=False), out)


def var(a, axis=None, dtype=None, out=None, ddof=0, keepdims=False):
    return finish(_variance(a, axis, dtype, ddof, keepdims, np.asarray), out)


def std(a, axis=None, dtype=None, out=None, ddof=0, keepdims=False):
    return finish(_variance(a, axis, dtype, ddof, keepdims, np.sqrt), out)


def _variance(a, axis, dtype, ddof, keepdims, last):
    raw = array_argument(a)
    real = raw.real.dtype if raw.dtype.kind == "c" else raw.dtype
    result = np.dtype(dtype) if dtype is not None else real if real.kind in "fV" else np.dtype(float)
    if result.kind not in "fV" and result != BFLOAT16:
        raise TypeError(f"Wrong type ({result}) of arguments for cupy_var")
    wide = _FLOAT32 if result in HALVES else result
    work = np.result_type(wide, np.complex64) if raw.dtype.kind == "c" else wide
    axes = axes_of(axis, raw.ndim)
    n = math.prod(raw.shape[i] for i in axes)
    with np.errstate(all="ignore"):
        x = raw.astype(work, copy=False)
        center = np.true_divide(np.sum(x, axis=axes, keepdims=True), n)
        distance = np.square(np.abs(x - center))
        total = np.sum(distance, axis=axes, keepdims=bool(keepdims))
        return np.asarray(last(np.true_divide(total, n - ddof if n > ddof else 0))).astype(result)


def _extreme(name, reduce):
    def call(a, axis=None, out=None, keepdims=False):
        raw = array_argument(a)
        axes = axes_of(axis, raw.ndim)
        if math.prod(raw.shape[i] for i in axes) == 0 and raw.ndim:
            raise ValueError(f"zero-size array to reduction operation cupy_{name} which has no identity")
        with np.errstate(all="ignore"):
            return finish(reduce(raw, axis=axes, keepdims=bool(keepdims)), out)

    call.__name__ = name
    return call


max = _extreme("max", np.max)
min = _extreme("min", np.min)


def ptp(a, axis=None, out=None, keepdims=False):
    return finish((max(a, axis, None, keepdims) - min(a, axis, None, keepdims))._np, out)


def _logical(reduce):
    def call(a, axis=None, out=None, keepdims=False):
        raw = array_argument(a)
        value = reduce(raw.astype(bool, copy=False), axis=axes_of(axis, raw.ndim), keepdims=bool(keepdims))
        return finish(value, out)

    return call


all = _logical(np.all)
any = _logical(np.any)


def _position(name, find):
    def call(a, axis=None, dtype=None, out=None, keepdims=False):
        raw = array_argument(a)
        if raw.size == 0 and (axis is None or raw.shape[axis] == 0):
            raise ValueError(f"zero-size array to reduction operation cupy_{name} which has no identity")
        raw = raw.astype(_FLOAT32) if raw.dtype == BFLOAT16 else raw
        value = find(raw, axis=axis, keepdims=bool(keepdims))
        return finish(np.asarray(value).astype(dtype or np.int64), out)

    return call


argmax = _position("argmax", np.argmax)
argmin = _position("argmin", np.argmin)

amax, amin, sometrue, alltrue, product = max, min, any, all, prod

_matmul_signature = Signature("matmul", TABLE["modules"][""]["functions"]["matmul"])


def matmul(
    *args, axes=None, axis=None, keepdims=False, casting="same_kind", dtype=None, signature=None, order="K", out=None
):
    """Half types multiply into float32 sums; bfloat16 above two dimensions fails as in CuPy 14 (cupy/cupy#10317)."""
    if len(args) == 3 and out is None:
        *args, out = args
    if len(args) != 2:
        raise TypeError(f"matmul takes 2 operands, got {len(args)}")
    if (axes, axis, keepdims, casting, signature, order) != (None, None, False, "same_kind", None, "K"):
        raise NotImplementedError("[simulated] matmul takes out= and dtype= only: transpose the operands instead")
    a, b = map(raw_of, args)
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray) or a.ndim == 0 or b.ndim == 0:
        raise ValueError("matmul: Input operand does not have enough dimensions")
    result = np.result_type(a.dtype, b.dtype) if dtype is None else np.dtype(dtype)
    if result == BFLOAT16 and (a.ndim > 2 or b.ndim > 2):
        raise TypeError("matmul of bfloat16 with more than 2 dimensions fails in CuPy 14 (cupy/cupy#10317)")
    work = _FLOAT32 if result in HALVES else result
    with np.errstate(all="ignore"):
        value = np.matmul(a.astype(work, copy=False), b.astype(work, copy=False))
        value = np.asarray(value).astype(result, copy=False)
    if out is not None and type(out) is ndarray and not np.can_cast(result, out.dtype, "same_kind"):
        raise TypeError(f"Cannot cast ufunc 'matmul' output from {result!r} to {out.dtype!r} by rule 'same_kind'")
    return own(value) if out is None else finish(value, out)
