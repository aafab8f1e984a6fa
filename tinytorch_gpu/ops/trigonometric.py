"""Trigonometric and hyperbolic functions of one operand, elementwise."""
from __future__ import annotations

from .. import ops
from ..autograd.pointwise import OUTPUT, Pointwise
from .unary import Function, unary


class Sin(Function):
    """The sine of x in radians."""

    __slots__ = ()
    function = "sin"

    def derivative(node, x):
        return ops.cos(x)


class Cos(Function):
    """The cosine of x in radians."""

    __slots__ = ()
    function = "cos"

    def derivative(node, x):
        return ops.neg(ops.sin(x))


class Asin(Function):
    """The angle in [-pi/2, pi/2] whose sine is x."""

    __slots__ = ()
    function = "arcsin"
    autocast = "float32"

    def derivative(node, x):
        return ops.rsqrt(ops.sub(1, ops.mul(x, x)))


class Acos(Function):
    """The angle in [0, pi] whose cosine is x."""

    __slots__ = ()
    function = "arccos"
    autocast = "float32"

    def derivative(node, x):
        return ops.neg(ops.rsqrt(ops.sub(1, ops.mul(x, x))))


class Atan(Function):
    """The angle in (-pi/2, pi/2) whose tangent is x."""

    __slots__ = ()
    function = "arctan"

    def derivative(node, x):
        return ops.reciprocal(ops.add(ops.mul(x, x), 1))


class Sinh(Function):
    """The hyperbolic sine."""

    __slots__ = ()
    function = "sinh"
    autocast = "float32"

    def derivative(node, x):
        return ops.cosh(x)


class Cosh(Function):
    """The hyperbolic cosine."""

    __slots__ = ()
    function = "cosh"
    autocast = "float32"

    def derivative(node, x):
        return ops.sinh(x)


class Asinh(Function):
    """The inverse hyperbolic sine."""

    __slots__ = ()
    function = "arcsinh"

    def derivative(node, x):
        return ops.rsqrt(ops.add(ops.mul(x, x), 1))


class Acosh(Function):
    """The inverse hyperbolic cosine, for x >= 1."""

    __slots__ = ()
    function = "arccosh"

    def derivative(node, x):  # two roots: sqrt(x^2 - 1) has another branch for complex x
        return ops.mul(ops.rsqrt(ops.sub(x, 1)), ops.rsqrt(ops.add(x, 1)))


class Atanh(Function):
    """The inverse hyperbolic tangent, for |x| < 1."""

    __slots__ = ()
    function = "arctanh"

    def derivative(node, x):
        return ops.reciprocal(ops.sub(1, ops.mul(x, x)))


class Tan(Pointwise):
    """The tangent; the output is saved."""

    __slots__ = ()
    promotion = "float"
    ufunc = "tan"
    keeps = OUTPUT
    autocast = "float32"

    def backward(node, grad):
        (y,) = node.saved
        return ops.mul(grad, ops.conj(ops.add(ops.mul(y, y), 1)))


class Tanh(Pointwise):
    """The hyperbolic tangent; the output is saved."""

    __slots__ = ()
    promotion = "float"
    ufunc = "tanh"
    keeps = OUTPUT

    def backward(node, grad):
        (y,) = node.saved
        return ops.mul(grad, ops.conj(ops.sub(1, ops.mul(y, y))))


sin = unary(Sin, "sin", "The sine.")
cos = unary(Cos, "cos", "The cosine.")
tan = unary(Tan, "tan", "The tangent.")
asin = unary(Asin, "asin", "The inverse sine.", ["asin", "arcsin"])
acos = unary(Acos, "acos", "The inverse cosine.", ["acos", "arccos"])
atan = unary(Atan, "atan", "The inverse tangent.", ["atan", "arctan"])
sinh = unary(Sinh, "sinh", "The hyperbolic sine.")
cosh = unary(Cosh, "cosh", "The hyperbolic cosine.")
tanh = unary(Tanh, "tanh", "The hyperbolic tangent.")
asinh = unary(Asinh, "asinh", "The inverse hyperbolic sine.", ["asinh", "arcsinh"])
acosh = unary(Acosh, "acosh", "The inverse hyperbolic cosine.", ["acosh", "arccosh"])
atanh = unary(Atanh, "atanh", "The inverse hyperbolic tangent.", ["atanh", "arctanh"])
