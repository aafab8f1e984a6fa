"""What to ask cuBLAS for: sizes, transposes, leading dimensions and batch strides, from two strided arrays.

cuBLAS reads matrices column by column, arrays here lie row by row: the memory of a row-major (M, N) is a column-major
(N, M). So C = A B in rows is C^T = B^T A^T in columns: B comes first, and no operand is copied for its order. A pure
function of shapes and strides: tests execute its plans on NumPy arrays.
"""
from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

__all__ = ["Plan", "plan"]

CALLS = 16  # batches that no single stride describes take one call for each part; beyond this a copy is cheaper
INT = 2**31 - 1


@dataclass(frozen=True)
class Plan:
    """Calls of gemm_strided_batched_ex for C (..., M, N) = A (..., M, K) @ B (..., K, N), in cuBLAS's column order.

    Sizes and strides are in elements. `first` is B, `second` is A. `copy_a`, `copy_b`: the operand has no layout that
    cuBLAS reads (both strides above one element, a negative or zero stride) and is laid out row by row before.
    """

    m: int
    n: int
    k: int
    trans_first: bool
    ld_first: int
    trans_second: bool
    ld_second: int
    stride_first: int
    stride_second: int
    stride_out: int
    count: int
    offsets: tuple[tuple[int, int, int], ...]  # of first, second and out, one for each call
    copy_a: bool
    copy_b: bool
    wide: bool  # a size is beyond 32 bits


@functools.lru_cache(4096)
def plan(shape_a, strides_a, shape_b, strides_b, item) -> Plan:
    """The plan for shapes (..., M, K) and (..., K, N) that fit, strides in bytes, none of the sizes 0."""
    copy_a, copy_b = _layout(shape_a, strides_a, item) is None, _layout(shape_b, strides_b, item) is None
    if copy_a:
        strides_a = _dense(shape_a, item)
    if copy_b:
        strides_b = _dense(shape_b, item)
    made = _plan(shape_a, strides_a, shape_b, strides_b, item, copy_a, copy_b)
    if len(made.offsets) > CALLS:  # both operands dense: one stride for all, unless their broadcasts cross
        again = _plan(shape_a, _dense(shape_a, item), shape_b, _dense(shape_b, item), item,
                      copy_a or strides_a != _dense(shape_a, item), copy_b or strides_b != _dense(shape_b, item))
        made = again if len(again.offsets) < len(made.offsets) else made
    return made


def _plan(shape_a, strides_a, shape_b, strides_b, item, copy_a, copy_b):
    rows, k = shape_a[-2:]
    n = shape_b[-1]
    row_stride = strides_a[-2]
    batch = _batch(shape_a, strides_a, shape_b, strides_b, rows * n, item)
    if all(b == 0 for _, _, b, _ in batch):  # one B for all: the rows of A in one product, if they are evenly spaced
        folded = _merge([(size, a // item, 0, c) for size, a, _, c in batch] + [(rows, row_stride // item, 0, n)])
        if len(folded) <= 1:
            size, stride = (folded[0][0], folded[0][1] * item) if folded else (1, row_stride)
            if _layout((size, k), (stride, strides_a[-1]), item) is not None:
                rows, row_stride, batch = size, stride, []
    trans_b, ld_b = _layout((k, n), strides_b[-2:], item)
    trans_a, ld_a = _layout((rows, k), (row_stride, strides_a[-1]), item)
    dims = _merge([(size, a // item, b // item, c) for size, a, b, c in batch])
    dims.sort(key=lambda d: d[0])  # the longest goes into the call, the others become calls
    count, stride_a, stride_b, stride_out = dims.pop() if dims else (1, 0, 0, 0)
    offsets = tuple(
        (sum(i * d[2] for i, d in zip(at, dims)), sum(i * d[1] for i, d in zip(at, dims)),
         sum(i * d[3] for i, d in zip(at, dims)))
        for at in itertools.product(*(range(d[0]) for d in dims))
    )
    wide = max(rows, n, k, ld_a, ld_b, count) > INT
    return Plan(n, rows, k, trans_b, ld_b, trans_a, ld_a, stride_b, stride_a, stride_out, count, offsets, copy_a,
                copy_b, wide)


def _layout(shape, strides, item):
    """(transposed, leading dimension) of matrices in cuBLAS's reading, None where it cannot read them.

    Not transposed: rows lie one after another, each contiguous. A dimension of size 1 has any stride.
    """
    rows, columns = shape[-2:]
    down, right = strides[-2:]
    if any(n > 1 and (s < 0 or s % item) for n, s in zip(shape[:-2], strides[:-2])):
        return None
    if columns == 1 or right == item:
        if rows == 1:
            return False, columns
        if down % item == 0 and down >= columns * item:
            return False, down // item
    if rows == 1 or down == item:
        if columns == 1:
            return True, rows
        if right % item == 0 and right >= rows * item:
            return True, right // item
    return None


def _batch(shape_a, strides_a, shape_b, strides_b, matrix, item):
    """(size, stride in A, stride in B, stride in C) of the leading dimensions that are not 1; A's and B's in bytes."""
    rank = max(len(shape_a), len(shape_b)) - 2
    lead = []
    for shape, strides in ((shape_a, strides_a), (shape_b, strides_b)):
        missing = rank - (len(shape) - 2)
        lead.append([(1, 0)] * missing + [(n, s if n > 1 else 0) for n, s in zip(shape[:-2], strides[:-2])])
    dims = [(max(na, nb) if na and nb else 0, sa, sb) for (na, sa), (nb, sb) in zip(*lead)]
    sizes = [d[0] for d in dims]
    return [(n, sa, sb, matrix * math.prod(sizes[i + 1:])) for i, (n, sa, sb) in enumerate(dims) if n > 1]


def _merge(dims):
    """Neighbouring dimensions that one stride describes in all three arrays, joined; those of size 1 dropped."""
    merged: list = []
    for size, *strides in (d for d in dims if d[0] != 1):
        if merged and all(outer == inner * size for outer, inner in zip(merged[-1][1:], strides)):
            merged[-1] = (merged[-1][0] * size, *strides)
        else:
            merged.append((size, *strides))
    return merged


def _dense(shape, item):
    """The strides of a contiguous array, row by row."""
    strides = [item]
    for n in shape[:0:-1]:
        strides.append(strides[-1] * n)
    return tuple(strides[::-1])
