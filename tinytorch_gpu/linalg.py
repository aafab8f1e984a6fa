"""Linear algebra. As torch.linalg: norms, inverse, solve, determinant, Cholesky, products; all differentiable."""
from __future__ import annotations

import math

from . import ops
from .autograd.operator import array_of
from .ops.linear_algebra import LinAlgError
from .ops.statistics import vector_norm

__all__ = [
    "LinAlgError", "cholesky", "cross", "det", "diagonal", "inv", "matmul", "matrix_norm", "matrix_power", "multi_dot",
    "norm", "slogdet", "solve", "vecdot", "vector_norm",
]

cholesky, det, inv, slogdet, solve = (
    ops.linalg_cholesky, ops.linalg_det, ops.linalg_inv, ops.linalg_slogdet, ops.linalg_solve)
matmul, matrix_power = ops.matmul, ops.matrix_power


def matrix_norm(A, ord="fro", dim=(-2, -1), keepdim=False, *, dtype=None):
    """The norm of matrices over two dimensions; ord "fro", 1, -1, inf or -inf. As torch.linalg.matrix_norm.

    Raises: RuntimeError for other dimensions and dtypes, ValueError for the orders that need singular values.
    """
    array = array_of(A)
    if not isinstance(dim, (tuple, list)) or len(dim) != 2:
        raise RuntimeError(f"[matrix_norm] dim must be a 2-tuple, got {dim!r}")
    if array.ndim < 2:
        raise RuntimeError(f"[matrix_norm] the input must have at least 2 dimensions, got shape {list(array.shape)}")
    if ord == "fro":
        return vector_norm(A, 2, tuple(dim), keepdim, dtype=dtype)
    if ord not in (1, -1, math.inf, -math.inf):
        raise ValueError(f"[matrix_norm] ord must be 'fro', 1, -1, inf or -inf, got {ord!r}: the norms of singular "
                         "values are not there")
    rows, columns = [d % array.ndim if -array.ndim <= d < array.ndim else d for d in dim]
    if rows == columns:
        raise RuntimeError(f"[matrix_norm] the dimensions must differ, got {tuple(dim)}")
    inner, outer = (rows, columns) if abs(ord) == 1 else (columns, rows)
    sums = vector_norm(A, 1, inner, True, dtype=dtype)
    out = (ops.amax if ord > 0 else ops.amin)(sums, outer, keepdim=True)
    return out if keepdim else ops.squeeze(out, (rows, columns))


def norm(A, ord=None, dim=None, keepdim=False, *, dtype=None):
    """The norm of vectors or matrices, by `ord` and the number of dimensions in `dim`. As torch.linalg.norm.

    Raises: RuntimeError when `ord` needs 1 or 2 dimensions and there are more.
    """
    count = None if dim is None else 1 if isinstance(dim, int) else len(dim)
    if ord is None:
        return vector_norm(A, 2, dim, keepdim, dtype=dtype)
    if count is None:
        count = array_of(A).ndim
        if count not in (1, 2):
            raise RuntimeError(f"[norm] with dim=None and ord={ord!r} the input must be 1D or 2D, got {count}D: give "
                               "dim")
    elif count not in (1, 2):
        raise RuntimeError(f"[norm] with ord={ord!r} dim must have 1 or 2 elements, got {dim!r}")
    if count == 2:
        return matrix_norm(A, ord, (-2, -1) if dim is None else dim, keepdim, dtype=dtype)
    if isinstance(ord, str):
        raise RuntimeError(f"[norm] ord={ord!r} is a norm of matrices: give two dimensions")
    return vector_norm(A, ord, dim, keepdim, dtype=dtype)


def diagonal(A, *, offset=0, dim1=-2, dim2=-1):
    """A view of the diagonals of matrices. As torch.linalg.diagonal."""
    return ops.diagonal(A, offset, dim1, dim2)


def vecdot(x, y, *, dim=-1):
    """The sum of conj(x) * y over one dimension. As torch.linalg.vecdot."""
    return ops.sum(ops.mul(ops.conj(x), y), dim)


def cross(input, other, *, dim=-1):
    """The cross product of vectors of three elements. As torch.linalg.cross.

    Raises: RuntimeError when a size at `dim` is not 3.
    """
    a, b = array_of(input), array_of(other)
    if a.ndim != b.ndim or a.shape[dim] != 3 or b.shape[dim] != 3:
        raise RuntimeError(f"[cross] inputs must have the same number of dimensions and 3 elements at dimension {dim}, "
                           f"got {list(a.shape)} and {list(b.shape)}")
    roll = [ops.roll(input, -1, dim), ops.roll(other, -1, dim)]
    # (a x b) rolled by one is a * roll(b) - roll(a) * b
    return ops.roll(ops.sub(ops.mul(input, roll[1]), ops.mul(roll[0], other)), -1, dim)


def multi_dot(tensors):
    """The product of a chain of matrices in the cheapest order; the first and last may be vectors.

    As torch.linalg.multi_dot. Raises: RuntimeError for fewer than two, or for other numbers of dimensions.
    """
    chain = list(tensors)
    ranks = [array_of(x).ndim for x in chain]
    if len(chain) < 2:
        raise RuntimeError(f"[multi_dot] expected at least 2 tensors, got {len(chain)}")
    if any(r != 2 for r in ranks[1:-1]) or any(r not in (1, 2) for r in (ranks[0], ranks[-1])):
        raise RuntimeError(f"[multi_dot] the first and last must be 1D or 2D, the others 2D, got {ranks} dimensions")
    if ranks[0] == 1:
        chain[0] = ops.unsqueeze(chain[0], 0)
    if ranks[-1] == 1:
        chain[-1] = ops.unsqueeze(chain[-1], 1)
    out = _chain(chain, _splits([array_of(x).shape for x in chain]), 0, len(chain) - 1)
    if ranks[-1] == 1:
        out = ops.squeeze(out, -1)
    return ops.squeeze(out, 0) if ranks[0] == 1 else out


def _splits(shapes):
    """Where each stretch (i, j) of a chain is cut at the least cost (Cormen et al., 15.2)."""
    n = len(shapes)
    sizes = [s[0] for s in shapes] + [shapes[-1][1]]
    cost, cut = {(i, i): 0 for i in range(n)}, {}
    for length in range(1, n):
        for i in range(n - length):
            j = i + length
            cost[i, j], cut[i, j] = min(
                (cost[i, k] + cost[k + 1, j] + sizes[i] * sizes[k + 1] * sizes[j + 1], k) for k in range(i, j))
    return cut


def _chain(chain, cut, i, j):
    if i == j:
        return chain[i]
    k = cut[i, j]
    return ops.matmul(_chain(chain, cut, i, k), _chain(chain, cut, k + 1, j))
