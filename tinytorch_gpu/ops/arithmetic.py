"""Arithmetic of two operands, elementwise with broadcasting: add, sub, mul, div, pow, maximum, minimum, ..."""
from __future__ import annotations

import numpy as np

from .. import ops
from ..autograd.pointwise import OTHER, Pointwise
from ..backend import dtypes
from ..backend.device import backend_of, is_array
from ..tensor import Tensor, attach
from .registry import public


class Add(Pointwise):
    """a + b; the gradient goes to both. Nothing is saved."""

    __slots__ = ()
    ufunc = "add"

    def backward(node, grad):
        return grad, grad


class Sub(Pointwise):
    """a - b. Nothing is saved."""

    __slots__ = ()
    ufunc = "subtract"

    no_bool = "subtraction of bool tensors is not supported: use logical_xor, or ~ to invert"

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


class Div(Pointwise):
    """a / b; the divisor is saved, the dividend only for the divisor's gradient."""

    __slots__ = ()
    promotion = "float"

    def forward(node, a, b):
        node.save(a if node.need(1) else None, b)
        with dtypes.quiet():
            return node.xp.true_divide(a, b)

    def backward(node, grad):
        a, b = node.saved
        b = ops.conj(b)
        ga = ops.div(grad, b)
        gb = ops.neg(ops.mul(ga, ops.div(ops.conj(a), b))) if node.need(1) else None
        return ga if node.need(0) else None, gb


class Pow(Pointwise):
    """a ** b. At a = 0 the gradient of b is 0 for b >= 0; at b = 0 that of a is 0."""

    __slots__ = ("exponent",)
    autocast = "float32"

    def forward(node, a, b):
        node.exponent = b if b.__class__ in (int, float) else None
        node.save(a, b if node.exponent is None else None)
        xp = node.xp
        if node.exponent == 2:  # NumPy's power is 20 x slower than the product
            return xp.multiply(a, a)
        if node.exponent == 0.5 and a.dtype.kind in "fc":
            with dtypes.quiet():
                return xp.sqrt(a)
        with dtypes.quiet():
            try:
                return xp.power(a, b)
            except ValueError:
                raise RuntimeError("[pow] integers to negative integer powers are not allowed: cast to float") from None

    def backward(node, grad):
        a, b = node.saved
        if a.__class__ in (int, float, complex):
            a = ops.full_like(b, a)
        n = node.exponent
        if n is not None:
            if n == 0:
                return ops.mul(grad, 0), None
            return ops.mul(grad, ops.conj(ops.mul(ops.pow(a, n - 1), n) if n != 2 else ops.mul(a, 2))), None
        ga = gb = None
        if node.need(0):
            zero = ops.eq(b, 0)
            power = ops.mul(b, ops.pow(a, ops.sub(b, 1)))
            ga = ops.mul(grad, ops.conj(ops.where(zero, ops.zeros_like(power), power)))
        if node.need(1):
            flat = ops.logical_and(ops.eq(a, 0), ops.ge(ops.real(b), 0))
            power = ops.mul(ops.pow(a, b), ops.log(ops.where(flat, ops.ones_like(a), a)))
            gb = ops.mul(grad, ops.conj(ops.where(flat, ops.zeros_like(power), power)))
        return ga, gb


class Maximum(Pointwise):
    """The larger of two; a tie shares the gradient. NaN wins."""

    __slots__ = ()
    ufunc = "maximum"
    keeps = "inputs"

    def backward(node, grad):
        a, b = node.saved
        return _pick(grad, ops.eq(a, b), ops.lt(a, b)), _pick(grad, ops.eq(a, b), ops.lt(b, a))


class Minimum(Pointwise):
    """The smaller of two; a tie shares the gradient. NaN wins."""

    __slots__ = ()
    ufunc = "minimum"
    keeps = "inputs"

    def backward(node, grad):
        a, b = node.saved
        return _pick(grad, ops.eq(a, b), ops.gt(a, b)), _pick(grad, ops.eq(a, b), ops.gt(b, a))


def _pick(grad, tie, lost):
    shared = ops.where(tie, ops.mul(grad, 0.5), grad)
    return ops.where(lost, ops.zeros_like(shared), shared)


def _refuse_zero(node, a, b):
    """Integers have no infinity: a zero divisor raises as in PyTorch, where asking costs no wait for the device."""
    kind = a.dtype.kind if is_array(a) else b.dtype.kind
    if kind in "iub" and (not is_array(b) or backend_of(b).type == "cpu") and not np.all(b):
        raise RuntimeError(f"[{node.name()}] ZeroDivisionError: an integer divisor is 0; convert to float, or mask it")


class Remainder(Pointwise):
    """a - b * floor(a / b): the sign of the divisor, as Python's %."""

    __slots__ = ()

    def forward(node, a, b):
        node.save(a, b)
        _refuse_zero(node, a, b)
        with dtypes.quiet():
            return node.xp.remainder(a, b)

    def backward(node, grad):
        a, b = node.saved
        gb = ops.neg(ops.mul(grad, ops.floor(ops.div(a, b)))) if node.need(1) else None
        return grad, gb


class Fmod(Pointwise):
    """a - b * trunc(a / b): the sign of the dividend, as C's fmod."""

    __slots__ = ()

    def forward(node, a, b):
        node.save(a, b)
        _refuse_zero(node, a, b)
        with dtypes.quiet():
            return node.xp.fmod(a, b)

    def backward(node, grad):
        a, b = node.saved
        gb = ops.neg(ops.mul(grad, ops.trunc(ops.div(a, b)))) if node.need(1) else None
        return grad, gb


class FloorDivide(Pointwise):
    """floor(a / b), for integers too."""

    __slots__ = ()
    differentiable = False

    def forward(node, a, b):
        _refuse_zero(node, a, b)
        with dtypes.quiet():
            return node.xp.floor_divide(a, b)


class Atan2(Pointwise):
    """The angle of the point (b, a)."""

    __slots__ = ()
    promotion = "float"
    ufunc = "arctan2"
    keeps = "inputs"

    def backward(node, grad):
        a, b = node.saved
        scale = ops.div(grad, ops.add(ops.mul(a, a), ops.mul(b, b)))
        return ops.mul(scale, b), ops.neg(ops.mul(scale, a))


class Lerp(Pointwise):
    """start + weight * (end - start)."""

    __slots__ = ()

    def forward(node, start, end, weight):
        node.save(start if node.need(2) else None, end if node.need(2) else None, weight)
        return start + weight * (end - start)

    def backward(node, grad):
        start, end, weight = node.saved
        number = not hasattr(weight, "dtype")
        weight = weight.conjugate() if number else ops.conj(weight)
        gw = ops.mul(grad, ops.conj(ops.sub(end, start))) if node.need(2) else None
        return ops.mul(grad, 1 - weight if number else ops.sub(1, weight)), ops.mul(grad, weight), gw


def _scaled(x, alpha):
    return x * alpha if isinstance(x, (bool, int, float, complex)) else Mul.apply(x, alpha)


@public(method=["add", "__add__", "__radd__"], inplace=True)
def add(input, other, *, alpha=1):
    """input + alpha * other, broadcast. As torch.add."""
    if alpha != 1:
        other = _scaled(other, alpha)
    return Add.apply(input, other)


@public(method=["sub", "__sub__", "subtract"], inplace=True)
def sub(input, other, *, alpha=1):
    """input - alpha * other, broadcast. As torch.sub. Raises: RuntimeError for booleans."""
    if alpha != 1:
        other = _scaled(other, alpha)
    return Sub.apply(input, other)


@attach("__rsub__")
def _rsub(self, other):
    return sub(other, self)


@public(method=["mul", "__mul__", "__rmul__", "multiply"], inplace=True)
def mul(input, other):
    """input * other, broadcast. As torch.mul."""
    return Mul.apply(input, other)


@public(method=["div", "__truediv__", "true_divide", "divide"], inplace=True)
def div(input, other, *, rounding_mode=None):
    """input / other, broadcast; integers give floats unless rounding_mode is "trunc" or "floor". As torch.div."""
    if rounding_mode is None:
        return Div.apply(input, other)
    if rounding_mode == "floor":
        return FloorDivide.apply(input, other)
    if rounding_mode != "trunc":
        raise RuntimeError(f"[div] expected rounding_mode None, 'trunc' or 'floor', got {rounding_mode!r}")
    kind = dtypes.result_np(array_or_scalar(input), array_or_scalar(other))
    if kind.kind in "iu":  # exact: (a - fmod(a, b)) / b has no rounding
        return FloorDivide.apply(Sub.apply(input, Fmod.apply(input, other)), other)
    return ops.trunc(Div.apply(input, other))


def array_or_scalar(x):
    """The raw array of a Tensor; anything else as it is."""
    return x._array if isinstance(x, Tensor) else x


@attach("__rtruediv__")
def _rtruediv(self, other):
    return Div.apply(other, self)


@public(method=["pow", "__pow__"], inplace=True)
def pow(input, exponent):
    """input ** exponent, broadcast. As torch.pow. Raises: RuntimeError for negative integer powers of integers."""
    return Pow.apply(input, exponent)


@attach("__rpow__")
def _rpow(self, other):
    return Pow.apply(other, self)


@public(method=True)
def maximum(input, other):
    """The elementwise larger, NaN if either is. As torch.maximum. Raises: RuntimeError for complex."""
    _refuse_complex("maximum", input, other)
    return Maximum.apply(input, other)


@public(method=True)
def minimum(input, other):
    """The elementwise smaller, NaN if either is. As torch.minimum. Raises: RuntimeError for complex."""
    _refuse_complex("minimum", input, other)
    return Minimum.apply(input, other)


def _refuse_complex(name, *operands):
    for x in operands:
        if isinstance(x, Tensor) and x.dtype.is_complex:
            raise RuntimeError(f"[{name}] not implemented for complex tensors: they have no order")


@public(method=["remainder", "__mod__"], inplace=True)
def remainder(input, other):
    """The remainder with the sign of the divisor. As torch.remainder."""
    return Remainder.apply(input, other)


@attach("__rmod__")
def _rmod(self, other):
    return Remainder.apply(other, self)


@public(method=True, inplace=True)
def fmod(input, other):
    """The remainder with the sign of the dividend. As torch.fmod."""
    return Fmod.apply(input, other)


@public(method=["floor_divide", "__floordiv__"], inplace=True)
def floor_divide(input, other):
    """floor(input / other). As torch.floor_divide; not differentiable."""
    return FloorDivide.apply(input, other)


@attach("__rfloordiv__")
def _rfloordiv(self, other):
    return FloorDivide.apply(other, self)


@public(method=["atan2", "arctan2"])
def atan2(input, other):
    """The angle of the points (other, input), in radians. As torch.atan2."""
    return Atan2.apply(input, other)


@public(method=True, inplace=True)
def lerp(input, end, weight):
    """input + weight * (end - input). As torch.lerp."""
    return Lerp.apply(input, end, weight)


@public(method=True, inplace=True)
def addcmul(input, tensor1, tensor2, *, value=1):
    """input + value * tensor1 * tensor2. As torch.addcmul."""
    return add(input, mul(tensor1, tensor2), alpha=value)


@public(method=True, inplace=True)
def addcdiv(input, tensor1, tensor2, *, value=1):
    """input + value * tensor1 / tensor2. As torch.addcdiv."""
    return add(input, div(tensor1, tensor2), alpha=value)


