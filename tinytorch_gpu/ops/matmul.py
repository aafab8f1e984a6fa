"""Matrix products: matmul, mm, bmm, mv, dot, addmm, outer, linear. All go through `backend.gemm`."""
from __future__ import annotations

import math

from .. import ops
from ..autograd.operator import Operator, array_of
from ..backend import dtypes
from ..backend.gemm import gemm as raw_gemm
from ..tensor import attach
from .registry import public


class Gemm(Operator):
    """op(a) op(b) over the last two dimensions, the others broadcast; op swaps them without a copy.

    (..., M, K) @ (..., K, N) -> (..., M, N). Half types accumulate in float32 and round once.
    """

    autocast = "lower"

    def forward(node, a, b, ta, tb):
        node.ta, node.tb = ta, tb
        node.save(a if node.need(1) else None, b if node.need(0) else None)
        return raw_gemm(a, b, ta, tb)

    def backward(node, grad):
        a, b = node.saved
        ta, tb = node.ta, node.tb
        ga = gb = None
        if node.need(0):
            b_ = ops.conj(b)
            ga = ops.gemm(b_, grad, tb, True) if ta else ops.gemm(grad, b_, False, not tb)
        if node.need(1):
            a_ = ops.conj(a)
            if not ta and array_of(a).ndim > 2 and node.rank_b == 2:  # one long product instead of a sum of many
                a_, grad = _rows(a_), _rows(grad)
            gb = ops.gemm(grad, a_, True, ta) if tb else ops.gemm(a_, grad, not ta, False)
        return ga, gb

    @property
    def rank_b(node):
        edge = node.edges[1]
        shape = edge[0].metas[edge[1]][0] if edge.__class__ is tuple else edge.shape
        return len(shape)


def _rows(x):
    shape = array_of(x).shape
    return ops.reshape(x, (math.prod(shape[:-1]), shape[-1]))


class Linear(Operator):
    """x W^T + b: (..., in) x (out, in) -> (..., out). Saves x and W; the bias is added in the product's own memory."""

    autocast = "lower"

    def forward(node, x, weight, bias):
        node.save(x if node.need(1) else None, weight if node.need(0) else None)
        return raw_gemm(x, weight, False, True, add=bias)  # the bias joins before the one rounding

    def backward(node, grad):
        x, weight = node.saved
        gx = ops.gemm(grad, ops.conj(weight)) if node.need(0) else None
        gw = ops.gemm(_rows(grad), _rows(ops.conj(x)), True, False) if node.need(1) else None
        return gx, gw, grad


class AddMm(Operator):
    """beta * c + alpha * a @ b, (..., M, K) and (..., K, N), c broadcasts: added inside the product, rounded once."""

    autocast = "lower"

    def forward(node, c, a, b, beta, alpha):
        node.beta, node.alpha = beta, alpha
        node.save(a if node.need(2) else None, b if node.need(1) else None)
        return raw_gemm(a, b, add=c, alpha=alpha, beta=beta)

    def backward(node, grad):
        a, b = node.saved
        gc = ga = gb = None
        if node.need(0):
            gc = _times(grad, node.beta)
        if node.need(1):
            ga = _times(ops.gemm(grad, ops.conj(b), False, True), node.alpha)
        if node.need(2):
            gb = _times(ops.gemm(ops.conj(a), grad, True), node.alpha)
        return gc, ga, gb


def _times(x, number):
    return x if number == 1 else ops.mul(x, number.conjugate())


@public
def gemm(a, b, trans_a=False, trans_b=False):
    """op(a) op(b) for ranks >= 2; internal: `matmul` and the rules of products."""
    return Gemm.apply(a, b, ta=trans_a, tb=trans_b)


def _check(name, input, other):
    a, b = array_of(input), array_of(other)
    if a.dtype != b.dtype:
        raise RuntimeError(
            f"[{name}] expected both operands to have the same dtype, but got {dtypes.of(a).name} and "
            f"{dtypes.of(b).name}: convert one with .to(dtype)"
        )
    return a, b


@public(method=["matmul", "__matmul__"], autocast="lower")
def matmul(input, other):
    """The matrix product: (..., M, K) @ (..., K, N) -> (..., M, N), vectors as in PyTorch. As torch.matmul.

    Raises: RuntimeError for shapes, dtypes or devices that do not fit.
    """
    a, b = _check("matmul", input, other)
    if a.ndim >= 2 and b.ndim >= 2:
        return Gemm.apply(input, other, ta=False, tb=False)
    if a.ndim == 0 or b.ndim == 0:
        raise RuntimeError(f"[matmul] both arguments to matmul need to be at least 1D, but they are {a.ndim}D and "
                           f"{b.ndim}D: use * to multiply by a number")
    if a.shape[-1] != b.shape[0 if b.ndim == 1 else -2]:
        raise RuntimeError(f"[matmul] shapes {list(a.shape)} and {list(b.shape)} cannot be multiplied: the last "
                           "dimension of the first must equal the (last but one) dimension of the second")
    out = Gemm.apply(
        ops.unsqueeze(input, 0) if a.ndim == 1 else input, ops.unsqueeze(other, 1) if b.ndim == 1 else other,
        ta=False, tb=False,
    )
    if b.ndim == 1:
        out = ops.squeeze(out, -1)
    return ops.squeeze(out, -1 if b.ndim == 1 else -2) if a.ndim == 1 else out


@attach("__rmatmul__")
def _rmatmul(self, other):
    return matmul(other, self)


def _ranks(name, pairs):
    for what, x, rank in pairs:
        if array_of(x).ndim != rank:
            raise RuntimeError(f"[{name}] {what} must be {rank}-dimensional, got shape {list(array_of(x).shape)}")


@public(method=True, autocast="lower")
def mm(input, mat2):
    """(M, K) @ (K, N) -> (M, N). As torch.mm."""
    _ranks("mm", [("self", input, 2), ("mat2", mat2, 2)])
    return matmul(input, mat2)


@public(method=True, autocast="lower")
def bmm(input, mat2):
    """(B, M, K) @ (B, K, N) -> (B, M, N), without broadcasting. As torch.bmm."""
    _ranks("bmm", [("batch1", input, 3), ("batch2", mat2, 3)])
    if array_of(input).shape[0] != array_of(mat2).shape[0]:
        raise RuntimeError(f"[bmm] batch sizes differ: {list(array_of(input).shape)} and {list(array_of(mat2).shape)}")
    return matmul(input, mat2)


@public(method=True, autocast="lower")
def mv(input, vec):
    """(M, K) @ (K) -> (M). As torch.mv."""
    _ranks("mv", [("self", input, 2), ("vec", vec, 1)])
    return matmul(input, vec)


@public(method=True, autocast="widest")
def dot(input, tensor):
    """The product of two vectors (K), without conjugation. As torch.dot."""
    _ranks("dot", [("self", input, 1), ("tensor", tensor, 1)])
    return matmul(input, tensor)


@public(method=True, autocast="widest")
def vdot(input, other):
    """The product of two vectors (K), the first conjugated. As torch.vdot."""
    _ranks("vdot", [("self", input, 1), ("other", other, 1)])
    return matmul(ops.conj(input), other)


@public(method=["outer", "ger"])
def outer(input, vec2):
    """(M) and (N) -> (M, N). As torch.outer."""
    _ranks("outer", [("self", input, 1), ("vec2", vec2, 1)])
    return ops.mul(ops.unsqueeze(input, 1), ops.unsqueeze(vec2, 0))


def _fits_product(input, a, b, beta, alpha):
    """Whether beta * input + alpha * a @ b is one product: one floating dtype, input of no greater shape."""
    c, a, b = array_of(input), array_of(a), array_of(b)
    shape = (*a.shape[:-1], b.shape[-1])
    numbers = (int, float, complex) if c.dtype.kind == "c" else (int, float)
    return (beta != 0 and c.dtype == a.dtype == b.dtype and c.dtype.kind not in "biu" and c.ndim <= len(shape)
            and all(n in (1, m) for n, m in zip(c.shape[::-1], shape[::-1]))
            and isinstance(alpha, numbers) and isinstance(beta, numbers))


def _scaled(input, product, beta, alpha):
    if alpha != 1:
        product = ops.mul(product, alpha)
    if beta == 0:  # NaN in input must not reach the result
        return product
    return ops.add(product, input if beta == 1 else ops.mul(input, beta))


@public(method=True, inplace=True, autocast="lower")
def addmm(input, mat1, mat2, *, beta=1, alpha=1):
    """beta * input + alpha * (mat1 @ mat2). As torch.addmm."""
    _ranks("addmm", [("mat1", mat1, 2), ("mat2", mat2, 2)])
    if _fits_product(input, mat1, mat2, beta, alpha):
        return AddMm.apply(input, mat1, mat2, beta=beta, alpha=alpha)
    return _scaled(input, mm(mat1, mat2), beta, alpha)


@public(method=True, inplace=True, autocast="lower")
def addmv(input, mat, vec, *, beta=1, alpha=1):
    """beta * input + alpha * (mat @ vec). As torch.addmv."""
    return _scaled(input, mv(mat, vec), beta, alpha)


@public(method=True, inplace=True, autocast="lower")
def baddbmm(input, batch1, batch2, *, beta=1, alpha=1):
    """beta * input + alpha * (batch1 @ batch2). As torch.baddbmm."""
    return _scaled(input, bmm(batch1, batch2), beta, alpha)


@public(functional=True, autocast="lower")
def linear(input, weight, bias=None):
    """input @ weight.T + bias: (..., in) x (out, in) [+ (out)] -> (..., out). As torch.nn.functional.linear.

    Raises: RuntimeError for shapes or dtypes that do not fit.
    """
    x, w = _check("linear", input, weight)
    if w.ndim == 1:
        out = matmul(input, weight)
        return out if bias is None else ops.add(out, bias)
    if w.ndim != 2 or x.ndim == 0 or x.shape[-1] != w.shape[1]:
        raise RuntimeError(
            f"[linear] input {list(x.shape)} and weight {list(w.shape)} cannot be multiplied: the input's last "
            "dimension must equal weight.shape[1]"
        )
    if bias is not None:
        b = array_of(bias)
        if b.shape != (w.shape[0],) and b.shape not in ((), (1,)):
            raise RuntimeError(f"[linear] expected a bias of shape [{w.shape[0]}], got {list(b.shape)}")
        if b.dtype != w.dtype:
            raise RuntimeError(f"[linear] expected a bias of dtype {dtypes.of(w).name}, got {dtypes.of(b).name}")
    if x.ndim == 1:
        return ops.squeeze(Linear.apply(ops.unsqueeze(input, 0), weight, bias), 0)
    return Linear.apply(input, weight, bias)


@public(autocast="widest")
def tensordot(a, b, dims=2):
    """The sum over `dims` (a number, or two lists of dimensions) of both operands. As torch.tensordot."""
    sa, sb = array_of(a).shape, array_of(b).shape
    if isinstance(dims, int):
        if dims < 0 or dims > min(len(sa), len(sb)):
            raise RuntimeError(f"[tensordot] expects 0 <= dims <= {min(len(sa), len(sb))}, got {dims}")
        da, db = list(range(len(sa) - dims, len(sa))), list(range(dims))
    else:
        da, db = [[d % len(s) for d in ds] for ds, s in zip(dims, (sa, sb))]
    if len(da) != len(db) or any(sa[i] != sb[j] for i, j in zip(da, db)):
        raise RuntimeError(f"[tensordot] contracted dimensions need to match, got {da} of {list(sa)} and {db} of "
                           f"{list(sb)}")
    fa, fb = [i for i in range(len(sa)) if i not in da], [i for i in range(len(sb)) if i not in db]
    k = math.prod(sa[i] for i in da)
    left = ops.reshape(ops.permute(a, (*fa, *da)), (math.prod(sa[i] for i in fa), k))
    right = ops.reshape(ops.permute(b, (*db, *fb)), (k, math.prod(sb[i] for i in fb)))
    return ops.reshape(matmul(left, right), tuple(sa[i] for i in fa) + tuple(sb[i] for i in fb))


