"""Arithmetic of two operands, elementwise with broadcasting: add, sub, mul, div, pow, maximum, minimum, ..."""
from __future__ import annotations

from ..autograd.operator import OTHER, OUTPUT, Pointwise
from ..tensor import Tensor, attach
from .. import ops
from .registry import public


class Add(Pointwise):
    """a + b; the gradient goes to both. Nothing is saved."""

    __slots__ = ()
    ufunc = "add"

    def backward(node, grad):
        return grad, grad


class Sub(Pointwise):
    """a - b."""

    __slots__ = ()
    ufunc = "subtract"

    def backward(node, grad):
        return grad, ops.neg(grad) if node.need(1) else None


class Mul(Pointwise):
    """a * b; each factor is saved for the other's gradient."""

    __slots__ = ()
    ufunc = "multiply"
    keeps = OTHER

    def backward(node, grad):
        a, b = node.saved
        return (
            ops.mul(grad, ops.conj(b)) if node.need(0) else None,
            ops.mul(grad, ops.conj(a)) if node.need(1) else None,
        )


class Neg(Pointwise):
    """-x."""

    __slots__ = ()
    ufunc = "negative"

    def backward(node, grad):
        return ops.neg(grad)


class Conj(Pointwise):
    """The complex conjugate."""

    __slots__ = ()
    ufunc = "conj"

    def backward(node, grad):
        return ops.conj(grad)


class Tanh(Pointwise):
    """tanh(x); the output is saved."""

    __slots__ = ()
    promotion = "float"
    ufunc = "tanh"
    keeps = OUTPUT

    def backward(node, grad):
        (y,) = node.saved
        return ops.mul(grad, ops.conj(ops.sub(1, ops.mul(y, y))))


@public(method=["add", "__add__", "__radd__"])
def add(input, other, *, alpha=1):
    """input + alpha * other, broadcast. As torch.add."""
    if alpha != 1:
        other = Mul.apply(other, alpha)
    return Add.apply(input, other)


@public(method=["sub", "__sub__", "subtract"])
def sub(input, other, *, alpha=1):
    """input - alpha * other, broadcast. As torch.sub."""
    if alpha != 1:
        other = Mul.apply(other, alpha)
    return Sub.apply(input, other)


@attach("__rsub__")
def _rsub(self, other):
    return Sub.apply(other, self)


@public(method=["mul", "__mul__", "__rmul__", "multiply"])
def mul(input, other):
    """input * other, broadcast. As torch.mul."""
    return Mul.apply(input, other)


@public(method=["neg", "__neg__", "negative"])
def neg(input):
    """-input. As torch.neg."""
    return Neg.apply(input)


@public(method=True)
def conj(input):
    """The complex conjugate; a real input comes back as it is. As torch.conj."""
    array = input._array if isinstance(input, Tensor) else input
    if array.__class__ in (int, float) or getattr(array, "dtype", None) is not None and array.dtype.kind != "c":
        return input
    return Conj.apply(input)


@public(method=True)
def tanh(input):
    """The hyperbolic tangent. As torch.tanh."""
    return Tanh.apply(input)
