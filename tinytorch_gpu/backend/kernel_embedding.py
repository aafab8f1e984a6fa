"""Launchers of kernels/embedding.cu: rows of a table by number, sums of rows by number; None where they do not fit."""
from __future__ import annotations

import numpy as np

from . import errors
from .device import xp_of
from .kernel import Kernel, fits

__all__ = ["gather", "sums"]

FILE = "embedding.cu"
TYPES = tuple((t, i) for t in ("float", "__half", "__nv_bfloat16") for i in ("int", "long long"))
INTEGERS = frozenset({np.dtype(np.int32), np.dtype(np.int64)})
THREADS = 256
LENGTH = 16  # sorted positions that a row of threads adds up
STRIPS = 65535  # blocks along y, at most

_gather = Kernel(FILE, "embedding_forward", types=TYPES)
_sums = Kernel(FILE, "embedding_backward", LENGTH=LENGTH, types=TYPES)
_join = Kernel(FILE, "embedding_join", LENGTH=LENGTH, types=TYPES)


def _index_fits(table, index):
    return (index.__class__ is table.__class__ and index.dtype in INTEGERS and index.flags.c_contiguous
            and table.ndim == 2)


def _lanes(columns, itemsize):
    """Threads for a row: one for each 16 bytes, a power of two, at most a warp."""
    return min(32, 1 << (-(-columns * itemsize // 16) - 1).bit_length())


def gather(table, index, name):
    """table[index]: (rows, d) and (...) integers -> (..., d). A wrong number gives NaN and is reported as `name`'s."""
    if not index.size or not _index_fits(table, index) or not fits(table):
        return None
    rows, columns = table.shape
    out = xp_of(table).empty((*index.shape, columns), table.dtype)
    lanes = _lanes(columns, table.itemsize)
    down = THREADS // lanes
    _gather((-(-index.size // down),), (lanes, down), table, index, out, index.size, rows, columns,
            errors.code(name, 0, rows, OUTSIDE), errors.word(table))
    errors.at_once(table)
    return out


OUTSIDE = "index out of range in self: {value} is not within the {high} rows of the table"


def sums(grad, index, rows, padding=None, by_count=False):
    """out[r] = the sum of grad[j] over index[j] == r: (m, d), (m,) integers -> (rows, d). Numbers outside are left out.

    Row `padding` stays 0; `by_count` divides each row by the number of its indices. The order of sums is fixed.
    """
    if not index.size or not rows or not _index_fits(grad, index) or not fits(grad):
        return None
    xp, (count, columns) = xp_of(grad), grad.shape
    lanes = _lanes(columns, grad.itemsize)
    down = THREADS // lanes
    strips = -(-columns * grad.itemsize // (16 * lanes))
    if strips > STRIPS:
        return None
    order = xp.argsort(index, kind="stable")
    pieces = -(-count // LENGTH)
    out = xp.zeros((rows, columns), grad.dtype)
    parts = xp.empty((pieces, 2, columns), np.dtype(np.float32))
    numbers = count, rows, columns, -1 if padding is None else padding, by_count
    _sums((-(-pieces // down), strips), (lanes, down), grad, index, order, out, parts, *numbers)
    if pieces > 1:
        _join((pieces, strips), (lanes, down), parts, index, order, out, *numbers)
    return out
