"""Inverse, solve, determinant, Cholesky: what torch.linalg has beyond products. float32, float64 and complex."""
from __future__ import annotations

import contextlib
from collections import namedtuple

import numpy as np

from .. import ops
from ..autograd.operator import Operator, array_of
from ..backend import dtypes
from ..backend.device import xp_of
from ..tensor import Tensor
from .registry import public


class LinAlgError(RuntimeError):
    """A matrix that cannot be inverted or factored. As torch.linalg.LinAlgError."""


slogdet_result = namedtuple("slogdet", ["sign", "logabsdet"])


@contextlib.contextmanager
def _computing(op, why):
    """NumPy's own error becomes ours. CuPy gives NaN instead of an error, which would wait for the device."""
    try:
        with dtypes.quiet():
            yield
    except np.linalg.LinAlgError:
        raise LinAlgError(f"[{op}] {why}") from None


SINGULAR = "the input matrix is singular: add a multiple of the identity, or check its rank"


def _adjoint(x):
    return ops.conj(ops.transpose(x, -2, -1))


class LinalgInv(Operator):
    """A^-1. Its gradient is -A^-H G A^-H."""

    def forward(node, a):
        with _computing("linalg_inv", SINGULAR):
            out = node.xp.linalg.inv(a)
        node.save(out)
        return out

    def backward(node, grad):
        (out,) = node.saved
        out = ops.conj(out)
        return ops.neg(ops.gemm(ops.gemm(out, grad, True, False), out, False, True))


class LinalgSolve(Operator):
    """X with A X = B: (..., n, n) and (..., n, k) of equal batch sizes -> (..., n, k)."""

    def forward(node, a, b):
        with _computing("linalg_solve", SINGULAR):
            out = node.xp.linalg.solve(a, b)
        node.save(a, out if node.need(0) else None)
        return out

    def backward(node, grad):
        a, out = node.saved
        gb = LinalgSolve.apply(_adjoint(a), grad)
        return ops.neg(ops.gemm(gb, ops.conj(out), False, True)) if node.need(0) else None, gb


class LinalgCholesky(Operator):
    """The lower L with L L^H = A; reads the lower triangle. Its gradient is Hermitian (Murray, 2016)."""

    def forward(node, a):
        with _computing("linalg_cholesky", "the input is not positive-definite: add a multiple of the identity"):
            out = node.xp.linalg.cholesky(a)
        node.save(out)
        return out

    def backward(node, grad):
        (lower,) = node.saved
        inner = ops.tril(ops.gemm(ops.conj(lower), grad, True, False))
        raw = array_of(lower)
        xp = xp_of(raw)
        half_diagonal = 1 - 0.5 * xp.eye(raw.shape[-1], dtype=dtypes.of(raw).to_real().np)
        inner = ops.mul(inner, half_diagonal.astype(dtypes.of(raw).to_real().np))
        inner = ops.mul(ops.add(inner, _adjoint(inner)), 0.5)
        adjoint = _adjoint(lower)
        return _adjoint(LinalgSolve.apply(adjoint, _adjoint(LinalgSolve.apply(adjoint, inner))))


class LinalgDet(Operator):
    """det A. The gradient is conj(det) A^-H: it needs an invertible matrix."""

    def forward(node, a):
        with _computing("linalg_det", SINGULAR):
            out = node.xp.linalg.det(a)
        node.save(a, out)
        return out

    def backward(node, grad):
        a, det = node.saved
        scale = ops.mul(grad, ops.conj(det))
        return ops.mul(ops.unsqueeze(ops.unsqueeze(scale, -1), -1), _adjoint(ops.linalg_inv(a)))


class LinalgSlogdet(Operator):
    """(det / |det|, log |det|), without overflow."""

    def forward(node, a):
        with _computing("linalg_slogdet", SINGULAR):
            sign, logabs = node.xp.linalg.slogdet(a)
        node.complex = a.dtype.kind == "c"
        node.save(a, sign)
        return sign, logabs

    def backward(node, grad_sign, grad):
        a, sign = node.saved
        if node.complex:  # a change t = tr(A^-1 dA) turns the sign by i Im t; a real sign has no derivative
            i = xp_of(array_of(a)).asarray(1j, dtype=array_of(a).dtype)
            grad = ops.add(grad, ops.mul(ops.imag(ops.mul(ops.conj(sign), grad_sign)), i))
        return ops.mul(ops.unsqueeze(ops.unsqueeze(grad, -1), -1), _adjoint(ops.linalg_inv(a)))


def _square(op, a):
    array = array_of(a)
    kind = dtypes.of(array)
    if kind.category < dtypes.FLOAT:
        raise RuntimeError(f"[{op}] expected a floating point or complex tensor as input, got {kind.name}: "
                           "use .float()")
    if kind.np in dtypes.HALF:
        raise RuntimeError(f"[{op}] low precision dtypes are not supported, got {kind.name}: use .float()")
    if array.ndim < 2:
        raise RuntimeError(f"[{op}] the input tensor A must have at least 2 dimensions, got shape {list(array.shape)}")
    if array.shape[-1] != array.shape[-2]:
        raise RuntimeError(f"[{op}] A must be batches of square matrices, but they are {array.shape[-2]} by "
                           f"{array.shape[-1]} matrices")
    return array


@public
def linalg_inv(A):
    """The inverse of square matrices, (..., n, n) -> (..., n, n). As torch.linalg.inv.

    Raises: LinAlgError for a singular matrix (on a GPU the result is NaN), RuntimeError for other shapes and dtypes.
    """
    _square("linalg_inv", A)
    return LinalgInv.apply(A)


@public(method=True)
def inverse(input):
    """The inverse of square matrices. As torch.inverse, torch.linalg.inv."""
    return linalg_inv(input)


@public
def linalg_solve(A, B, *, left=True):
    """X with A X = B (X A = B unless `left`): (..., n, n) and (..., n, k), or vectors (..., n). As torch.linalg.solve.

    Raises: LinAlgError for a singular matrix (on a GPU the result is NaN), RuntimeError for other shapes and dtypes.
    """
    a, b = _square("linalg_solve", A), array_of(B)
    if a.dtype != b.dtype:
        raise RuntimeError(f"[linalg_solve] expected A and B of one dtype, got {dtypes.of(a).name} and "
                           f"{dtypes.of(b).name}: convert one with .to(dtype)")
    vector = b.ndim == 1 or a.ndim - 1 == b.ndim and b.shape == a.shape[:-1]
    if vector and not left:
        raise RuntimeError("[linalg_solve] left=False needs a matrix B, got vectors: use left=True with A transposed")
    if vector:
        B = ops.unsqueeze(B, -1)
        b = array_of(B)
    if not left:
        A, B = ops.transpose(A, -2, -1), ops.transpose(B, -2, -1) if b.ndim > 1 else B
        b = array_of(B)
    n = a.shape[-1]
    if b.ndim < 2 or b.shape[-2] != n:
        raise RuntimeError(f"[linalg_solve] incompatible shapes of A and B for the equation "
                           f"{'AX = B' if left else 'XA = B'} ({n}x{n} and {'x'.join(map(str, b.shape[-2:]))})")
    try:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise RuntimeError(f"[linalg_solve] the batch sizes of A and B do not broadcast: {list(a.shape)} and "
                           f"{list(b.shape)}") from None
    out = LinalgSolve.apply(ops.expand(A, (*batch, n, n)), ops.expand(B, (*batch, *b.shape[-2:])))
    if not left:
        out = ops.transpose(out, -2, -1)
    return ops.squeeze(out, -1) if vector else out


@public
def linalg_cholesky(A, *, upper=False):
    """The lower L with L L^H = A, or the upper U with U^H U = A: (..., n, n). As torch.linalg.cholesky.

    Raises: LinAlgError when A is not positive-definite (on a GPU the result is NaN), RuntimeError for other shapes.
    """
    _square("linalg_cholesky", A)
    out = LinalgCholesky.apply(A)
    return _adjoint(out) if upper else out


@public
def linalg_det(A):
    """The determinant, (..., n, n) -> (...). As torch.linalg.det; the gradient needs an invertible matrix."""
    _square("linalg_det", A)
    return LinalgDet.apply(A)


@public(method=True)
def det(input):
    """The determinant of square matrices. As torch.det, torch.linalg.det."""
    return linalg_det(input)


@public
def linalg_slogdet(A):
    """(sign, logabsdet) of the determinant, (..., n, n) -> (...) each. As torch.linalg.slogdet."""
    _square("linalg_slogdet", A)
    return slogdet_result(*LinalgSlogdet.apply(A))


@public(method=True)
def slogdet(input):
    """(sign, logabsdet) of the determinant. As torch.slogdet, torch.linalg.slogdet."""
    return linalg_slogdet(input)


@public(method=True)
def logdet(input):
    """The logarithm of the determinant; NaN where that is negative. As torch.logdet."""
    sign, logabs = linalg_slogdet(input)
    return ops.add(ops.log(sign), logabs)


@public(method=True)
def matrix_power(input, n):
    """The n-th power of square matrices; a negative n inverts. As torch.matrix_power, torch.linalg.matrix_power.

    Raises: LinAlgError for a negative power of a singular matrix.
    """
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"[matrix_power] n must be an int, got {type(n).__name__}")
    array = array_of(input)
    if array.ndim < 2 or array.shape[-1] != array.shape[-2]:
        raise RuntimeError(f"[matrix_power] A must be batches of square matrices, got shape {list(array.shape)}")
    if n < 0:
        input, n = linalg_inv(input), -n
    if n == 0:
        xp = xp_of(array)
        eye = xp.broadcast_to(xp.eye(array.shape[-1], dtype=array.dtype), array.shape).copy()
        return ops.wrap(eye) if isinstance(input, Tensor) else eye
    out = None
    while True:  # the bits of n, lowest first
        if n & 1:
            out = input if out is None else ops.matmul(out, input)
        n >>= 1
        if not n:
            return out
        input = ops.matmul(input, input)
