"""Complex numbers and their parts: complex, real, imag, view_as_real, view_as_complex."""
from __future__ import annotations

import numpy as np

from .. import ops
from ..autograd.operator import Operator, array_of
from ..backend import dtypes
from ..tensor import Tensor
from .registry import public
from .views import _ViewOperator


class Complex(Operator):
    """real + i imag."""

    def forward(node, real, imag):
        out = node.xp.empty(np.broadcast_shapes(real.shape, imag.shape), dtypes.of(real).to_complex().np)
        out.real[...] = real
        out.imag[...] = imag
        return out

    def backward(node, grad):
        return ops.real(grad), ops.imag(grad) if node.need(1) else None


class Real(_ViewOperator):
    """The real part, a view."""

    __slots__ = ()

    def forward(node, x):
        return x.real

    def backward(node, grad):
        return grad


class Imag(_ViewOperator):
    """The imaginary part, a view."""

    __slots__ = ()

    def forward(node, x):
        return x.imag

    def backward(node, grad):
        return ops.complex(ops.zeros_like(grad), grad)


class ViewAsReal(_ViewOperator):
    """(..., 2) real and imaginary parts in the same memory."""

    __slots__ = ()

    def forward(node, x):
        real = dtypes.of(x).to_real().np
        return x.reshape(x.shape + (1,)).view(real)

    def backward(node, grad):
        return ops.view_as_complex(ops.contiguous(grad))


class ViewAsComplex(_ViewOperator):
    """(...) complex numbers over (..., 2) parts in the same memory."""

    __slots__ = ()

    def forward(node, x):
        return x.view(dtypes.of(x).to_complex().np).reshape(x.shape[:-1])

    def backward(node, grad):
        return ops.view_as_real(ops.contiguous(grad))


@public
def complex(real, imag):  # PyTorch's name
    """The complex tensor real + i imag; both float32 or both float64. As torch.complex.

    Raises: RuntimeError for other dtypes.
    """
    kinds = [array_of(v).dtype for v in (real, imag)]
    if kinds[0] != kinds[1] or kinds[0] not in (np.float32, np.float64):
        raise RuntimeError(f"[complex] expected both inputs in float32 or both in float64, got {kinds[0]}, {kinds[1]}")
    return Complex.apply(real, imag)


@public
def real(input):
    """The real part, a view; a real input comes back as it is. As torch.real."""
    return Real.apply(input) if array_of(input).dtype.kind == "c" else input


@public
def imag(input):
    """The imaginary part, a view. As torch.imag. Raises: RuntimeError for a real input."""
    if array_of(input).dtype.kind != "c":
        raise RuntimeError(f"[imag] needs a complex tensor, got {array_of(input).dtype}")
    return Imag.apply(input)


@public
def view_as_real(input):
    """A complex tensor as (..., 2) real numbers in the same memory. As torch.view_as_real."""
    if array_of(input).dtype.kind != "c":
        raise RuntimeError(f"[view_as_real] is only supported for complex tensors, got {array_of(input).dtype}")
    return ViewAsReal.apply(input)


@public
def view_as_complex(input):
    """(..., 2) real numbers as complex numbers in the same memory. As torch.view_as_complex.

    Raises: RuntimeError unless float32 or float64 with a last dimension of size 2 and stride 1.
    """
    x = array_of(input)
    if x.dtype not in (np.float32, np.float64):
        raise RuntimeError(f"[view_as_complex] is only supported for float32 and float64 tensors, got {x.dtype}")
    if x.ndim == 0 or x.shape[-1] != 2:
        raise RuntimeError(f"[view_as_complex] the last dimension must have size 2, got shape {list(x.shape)}")
    if x.strides[-1] != x.itemsize or any(s % (2 * x.itemsize) for s in x.strides[:-1]):
        raise RuntimeError("[view_as_complex] the last dimension must have stride 1 and the others even strides: "
                           "use contiguous()")
    return ViewAsComplex.apply(input)


def _get_real(self):
    return real(self)


def _get_imag(self):
    return imag(self)


def _set_part(part):
    def put(self, value):
        part(self).copy_(value if isinstance(value, Tensor) else ops.tensor(value, dtype=self.dtype.to_real()))

    return put


Tensor.real = property(_get_real, _set_part(real), doc="The real part, a view. As torch.Tensor.real.")
Tensor.imag = property(_get_imag, _set_part(imag), doc="The imaginary part, a view. As torch.Tensor.imag.")
