"""Sums of raw arrays over leading dimensions, by a matrix product where that is faster."""
from __future__ import annotations

import math

from ..backend import dtypes
from ..backend.device import xp_of
from ..backend.gemm import gemm

_PRODUCT = frozenset({dtypes.float32.np, dtypes.float64.np})


def sum_leading(x, lead):
    """`x` summed over its first `lead` dimensions; half types must have been widened before.

    ones @ x instead of NumPy's reduction over axis 0, float32 on one thread: (2048, 128) in 14 us against 49,
    (2048, 512) in 41 against 96, (128, 512) in 4 against 7, (128, 10) in 1.5 against 3.7.
    """
    shape = x.shape
    rows = math.prod(shape[:lead])
    if x.dtype not in _PRODUCT or rows < 8 or lead == x.ndim or not x.flags.c_contiguous or not x.size:
        return x.sum(axis=tuple(range(lead)))
    return gemm(xp_of(x).ones((1, rows), x.dtype), x.reshape(rows, -1)).reshape(shape[lead:])


def weighted_rows(weights, x):
    """The sum over rows of weights[i] * x[i], for weights (rows,) and x (rows, columns)."""
    return gemm(weights.reshape(1, -1), x).reshape(-1)


def along_rows(x, weights):
    """The sum over columns of x[i, j] * weights[j], as a column (rows, 1)."""
    return gemm(x, weights.reshape(-1, 1))
