"""Functions of one operand, elementwise: exponential, logarithmic, trigonometric, hyperbolic, rounding, erf."""
from __future__ import annotations

import math

from .. import ops
from ..autograd.operator import INPUTS, OUTPUT, Pointwise, array_of
from ..backend import dtypes
from ..backend.device import backend_of
from ..tensor import Tensor
from .registry import public


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


class Abs(Pointwise):
    """|x|, real also for complex x; gradient 0 at 0."""

    __slots__ = ()
    ufunc = "absolute"
    keeps = INPUTS

    def backward(node, grad):
        (x,) = node.saved
        return ops.mul(grad, ops.sgn(x))


class Sgn(Pointwise):
    """x / |x|, 0 at 0; for real x the sign."""

    __slots__ = ()

    def forward(node, x):
        node.save(x)
        xp = node.xp
        if x.dtype.kind != "c":
            if x.dtype.kind in "iub":
                return xp.sign(x)
            return xp.greater(x, 0).astype(x.dtype) - xp.less(x, 0)  # 0 for NaN, as PyTorch; xp.sign gives NaN
        size = xp.absolute(x)
        return xp.where(size == 0, 0, x / xp.where(size == 0, 1, size)).astype(x.dtype)

    def backward(node, grad):
        (x,) = node.saved
        if not _is_complex(x):
            return ops.mul(grad, 0)
        # d(z/|z|): half of (grad/|z| - conj(grad) z^2/|z|^3), twice by the two Wirtinger parts
        size = ops.abs(x)
        zero = ops.eq(size, 0)
        safe = ops.where(zero, ops.ones_like(size), size)
        unit = ops.div(x, safe)
        out = ops.div(ops.mul(ops.sub(grad, ops.mul(ops.conj(grad), ops.mul(unit, unit))), 0.5), safe)
        return ops.where(zero, ops.zeros_like(out), out)


def _is_complex(x):
    return array_of(x).dtype.kind == "c"


class Exp(Pointwise):
    """e ** x; the output is saved."""

    __slots__ = ()
    promotion = "float"
    keeps = OUTPUT

    def forward(node, x):
        with dtypes.quiet():
            y = node.xp.exp(x)
        node.save(y)
        return y

    def backward(node, grad):
        (y,) = node.saved
        return ops.mul(grad, ops.conj(y))


class _Function(Pointwise):
    """f(x) with the input saved; the rule is the derivative times the gradient."""

    __slots__ = ()
    promotion = "float"

    def forward(node, x):
        node.save(x)
        with dtypes.quiet():
            return getattr(node.xp, node.function)(x)

    def backward(node, grad):
        (x,) = node.saved
        return ops.mul(grad, ops.conj(node.derivative(x)))


class Exp2(Pointwise):
    """2 ** x; the output is saved."""

    __slots__ = ()
    promotion = "float"

    def forward(node, x):
        with dtypes.quiet():
            y = node.xp.exp2(x)
        node.save(y)
        return y

    def backward(node, grad):
        (y,) = node.saved
        return ops.mul(grad, ops.mul(ops.conj(y), math.log(2)))


class Expm1(_Function):
    """e ** x - 1, exact near 0."""

    __slots__ = ()
    function = "expm1"

    def derivative(node, x):
        return ops.exp(x)


class Log(_Function):
    """The natural logarithm: -inf at 0, NaN below."""

    __slots__ = ()
    function = "log"

    def derivative(node, x):
        return ops.reciprocal(x)


class Log2(_Function):
    """The logarithm to base 2."""

    __slots__ = ()
    function = "log2"

    def derivative(node, x):
        return ops.reciprocal(ops.mul(x, math.log(2)))


class Log10(_Function):
    """The logarithm to base 10."""

    __slots__ = ()
    function = "log10"

    def derivative(node, x):
        return ops.reciprocal(ops.mul(x, math.log(10)))


class Log1p(_Function):
    """log(1 + x), exact near 0."""

    __slots__ = ()
    function = "log1p"

    def derivative(node, x):
        return ops.reciprocal(ops.add(x, 1))


class Sin(_Function):
    """The sine of x in radians."""

    __slots__ = ()
    function = "sin"

    def derivative(node, x):
        return ops.cos(x)


class Cos(_Function):
    """The cosine of x in radians."""

    __slots__ = ()
    function = "cos"

    def derivative(node, x):
        return ops.neg(ops.sin(x))


class Asin(_Function):
    """The angle in [-pi/2, pi/2] whose sine is x."""

    __slots__ = ()
    function = "arcsin"

    def derivative(node, x):
        return ops.rsqrt(ops.sub(1, ops.mul(x, x)))


class Acos(_Function):
    """The angle in [0, pi] whose cosine is x."""

    __slots__ = ()
    function = "arccos"

    def derivative(node, x):
        return ops.neg(ops.rsqrt(ops.sub(1, ops.mul(x, x))))


class Atan(_Function):
    """The angle in (-pi/2, pi/2) whose tangent is x."""

    __slots__ = ()
    function = "arctan"

    def derivative(node, x):
        return ops.reciprocal(ops.add(ops.mul(x, x), 1))


class Sinh(_Function):
    """The hyperbolic sine."""

    __slots__ = ()
    function = "sinh"

    def derivative(node, x):
        return ops.cosh(x)


class Cosh(_Function):
    """The hyperbolic cosine."""

    __slots__ = ()
    function = "cosh"

    def derivative(node, x):
        return ops.sinh(x)


class Asinh(_Function):
    """The inverse hyperbolic sine."""

    __slots__ = ()
    function = "arcsinh"

    def derivative(node, x):
        return ops.rsqrt(ops.add(ops.mul(x, x), 1))


class Acosh(_Function):
    """The inverse hyperbolic cosine, for x >= 1."""

    __slots__ = ()
    function = "arccosh"

    def derivative(node, x):  # two roots: sqrt(x^2 - 1) has another branch for complex x
        return ops.mul(ops.rsqrt(ops.sub(x, 1)), ops.rsqrt(ops.add(x, 1)))


class Atanh(_Function):
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


class Sqrt(Pointwise):
    """The square root; the output is saved."""

    __slots__ = ()
    promotion = "float"

    def forward(node, x):
        with dtypes.quiet():
            y = node.xp.sqrt(x)
        node.save(y)
        return y

    def backward(node, grad):
        (y,) = node.saved
        return ops.div(grad, ops.mul(ops.conj(y), 2))


class Rsqrt(Pointwise):
    """1 / sqrt(x); the output is saved."""

    __slots__ = ()
    promotion = "float"

    def forward(node, x):
        with dtypes.quiet():
            y = node.xp.reciprocal(node.xp.sqrt(x))
        node.save(y)
        return y

    def backward(node, grad):
        (y,) = node.saved
        return ops.mul(grad, ops.conj(ops.mul(ops.pow(y, 3), -0.5)))


class Reciprocal(Pointwise):
    """1 / x; the output is saved."""

    __slots__ = ()
    promotion = "float"

    def forward(node, x):
        with dtypes.quiet():
            y = node.xp.reciprocal(x)
        node.save(y)
        return y

    def backward(node, grad):
        (y,) = node.saved
        return ops.neg(ops.mul(grad, ops.conj(ops.mul(y, y))))


class Erf(Pointwise):
    """The error function."""

    __slots__ = ()
    promotion = "float"

    def forward(node, x):
        node.save(x)
        return backend_of(x).special.erf(x)

    def backward(node, grad):
        (x,) = node.saved
        return ops.mul(grad, ops.mul(ops.exp(ops.neg(ops.mul(x, x))), 2 / math.sqrt(math.pi)))


class Erfc(Pointwise):
    """1 - erf(x)."""

    __slots__ = ()
    promotion = "float"

    def forward(node, x):
        node.save(x)
        return backend_of(x).special.erfc(x)

    def backward(node, grad):
        (x,) = node.saved
        return ops.mul(grad, ops.mul(ops.exp(ops.neg(ops.mul(x, x))), -2 / math.sqrt(math.pi)))


class Erfinv(Pointwise):
    """The inverse of erf, for |x| <= 1; the output is saved."""

    __slots__ = ()
    promotion = "float"

    def forward(node, x):
        y = backend_of(x).special.erfinv(x)
        node.save(y)
        return y

    def backward(node, grad):
        (y,) = node.saved
        return ops.mul(grad, ops.mul(ops.exp(ops.mul(y, y)), math.sqrt(math.pi) / 2))


class _Step(Pointwise):
    """Piecewise constant: the gradient is 0."""

    __slots__ = ()

    def forward(node, x):
        return x.copy() if x.dtype.kind in "biu" else getattr(node.xp, node.function)(x)

    def backward(node, grad):
        return ops.mul(grad, 0)


class Floor(_Step):
    """The largest integer not above x."""

    __slots__ = ()
    function = "floor"


class Ceil(_Step):
    """The smallest integer not below x."""

    __slots__ = ()
    function = "ceil"


class Trunc(_Step):
    """x without its fraction."""

    __slots__ = ()
    function = "trunc"


class Round(_Step):
    """The nearest integer (or decimal); halves go to even."""

    __slots__ = ("decimals",)

    def forward(node, x, decimals):
        return node.xp.around(x, decimals)


def _unary(cls, name, doc, methods=None, inplace=True):
    def f(input):
        return cls.apply(input)

    f.__name__ = f.__qualname__ = name
    f.__doc__ = f"{doc} Elementwise, any shape; integers give floats. As torch.{name}."
    return public(f, method=methods or True, inplace=inplace)


exp = _unary(Exp, "exp", "e ** input.")
exp2 = _unary(Exp2, "exp2", "2 ** input.")
expm1 = _unary(Expm1, "expm1", "e ** input - 1, exact near 0.")
log = _unary(Log, "log", "The natural logarithm.")
log2 = _unary(Log2, "log2", "The logarithm to base 2.")
log10 = _unary(Log10, "log10", "The logarithm to base 10.")
log1p = _unary(Log1p, "log1p", "log(1 + input), exact near 0.")
sin = _unary(Sin, "sin", "The sine.")
cos = _unary(Cos, "cos", "The cosine.")
tan = _unary(Tan, "tan", "The tangent.")
asin = _unary(Asin, "asin", "The inverse sine.", ["asin", "arcsin"])
acos = _unary(Acos, "acos", "The inverse cosine.", ["acos", "arccos"])
atan = _unary(Atan, "atan", "The inverse tangent.", ["atan", "arctan"])
sinh = _unary(Sinh, "sinh", "The hyperbolic sine.")
cosh = _unary(Cosh, "cosh", "The hyperbolic cosine.")
tanh = _unary(Tanh, "tanh", "The hyperbolic tangent.")
asinh = _unary(Asinh, "asinh", "The inverse hyperbolic sine.", ["asinh", "arcsinh"])
acosh = _unary(Acosh, "acosh", "The inverse hyperbolic cosine.", ["acosh", "arccosh"])
atanh = _unary(Atanh, "atanh", "The inverse hyperbolic tangent.", ["atanh", "arctanh"])
sqrt = _unary(Sqrt, "sqrt", "The square root.")
rsqrt = _unary(Rsqrt, "rsqrt", "1 / sqrt(input).")
reciprocal = _unary(Reciprocal, "reciprocal", "1 / input.")
erf = _unary(Erf, "erf", "The error function.")
erfc = _unary(Erfc, "erfc", "1 - erf(input).")
erfinv = _unary(Erfinv, "erfinv", "The inverse error function.")
floor = _unary(Floor, "floor", "The largest integer not above, in the input's dtype.")
ceil = _unary(Ceil, "ceil", "The smallest integer not below, in the input's dtype.")
trunc = _unary(Trunc, "trunc", "The integer part, in the input's dtype.", ["trunc", "fix"])


@public(method=["neg", "__neg__", "negative"], inplace=True)
def neg(input):
    """-input. As torch.neg. Raises: RuntimeError for booleans."""
    if isinstance(input, Tensor) and input.dtype is dtypes.bool_:
        raise RuntimeError("[neg] negation of a bool tensor is not supported: use logical_not or ~")
    return Neg.apply(input)


@public(method=["abs", "__abs__", "absolute"], inplace=True)
def abs(input):
    """|input|; real for complex input. As torch.abs."""
    return Abs.apply(input)


@public(method=True)
def sgn(input):
    """input / |input|, 0 at 0. As torch.sgn."""
    return Sgn.apply(input)


@public(method=True)
def sign(input):
    """-1, 0 or 1. As torch.sign. Raises: RuntimeError for complex input (use sgn)."""
    if isinstance(input, Tensor) and input.dtype.is_complex:
        raise RuntimeError("[sign] complex numbers have no sign: use sgn")
    return Sgn.apply(input)


@public(method=True, inplace=True)
def square(input):
    """input ** 2. As torch.square."""
    return ops.pow(input, 2)


@public(method=["conj", "conj_physical"])
def conj(input):
    """The complex conjugate; a real input comes back as it is. As torch.conj."""
    if input.__class__ in (int, float, bool):
        return input
    return Conj.apply(input) if array_of(input).dtype.kind == "c" else input


@public(method=["round"], inplace=True)
def round(input, *, decimals=0):
    """The nearest integer, halves to even; `decimals` digits after the point. As torch.round."""
    return Round.apply(input, decimals=decimals)


@public(method=True)
def frac(input):
    """input - trunc(input). As torch.frac."""
    return ops.sub(input, trunc(input))


@public(method=True)
def positive(input):
    """input itself. As torch.positive."""
    return input


Tensor.__pos__ = positive
