"""Functions of one operand, elementwise: exponential, logarithmic, trigonometric, hyperbolic, rounding, erf."""
from __future__ import annotations

import math

from .. import ops
from ..autograd.operator import array_of
from ..autograd.pointwise import INPUTS, OUTPUT, Pointwise
from ..backend import dtypes
from ..backend.device import backend_of
from ..tensor import Tensor
from .registry import public
from .unary import Function, unary


class Neg(Pointwise):
    """-x."""

    __slots__ = ()
    ufunc = "negative"
    no_bool = "negation of a bool tensor is not supported: use logical_not or ~"

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
    autocast = "float32"

    def forward(node, x):
        with dtypes.quiet():
            y = node.xp.exp(x)
        node.save(y)
        return y

    def backward(node, grad):
        (y,) = node.saved
        return ops.mul(grad, ops.conj(y))


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


class Expm1(Function):
    """e ** x - 1, exact near 0."""

    __slots__ = ()
    function = "expm1"
    autocast = "float32"

    def derivative(node, x):
        return ops.exp(x)


class Log(Function):
    """The natural logarithm: -inf at 0, NaN below."""

    __slots__ = ()
    function = "log"
    autocast = "float32"

    def derivative(node, x):
        return ops.reciprocal(x)


class Log2(Function):
    """The logarithm to base 2."""

    __slots__ = ()
    function = "log2"
    autocast = "float32"

    def derivative(node, x):
        return ops.reciprocal(ops.mul(x, math.log(2)))


class Log10(Function):
    """The logarithm to base 10."""

    __slots__ = ()
    function = "log10"
    autocast = "float32"

    def derivative(node, x):
        return ops.reciprocal(ops.mul(x, math.log(10)))


class Log1p(Function):
    """log(1 + x), exact near 0."""

    __slots__ = ()
    function = "log1p"
    autocast = "float32"

    def derivative(node, x):
        return ops.reciprocal(ops.add(x, 1))


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
    autocast = "float32"

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
    autocast = "float32"

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
    autocast = "float32"

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


exp = unary(Exp, "exp", "e ** input.")
exp2 = unary(Exp2, "exp2", "2 ** input.")
expm1 = unary(Expm1, "expm1", "e ** input - 1, exact near 0.")
log = unary(Log, "log", "The natural logarithm.")
log2 = unary(Log2, "log2", "The logarithm to base 2.")
log10 = unary(Log10, "log10", "The logarithm to base 10.")
log1p = unary(Log1p, "log1p", "log(1 + input), exact near 0.")
sqrt = unary(Sqrt, "sqrt", "The square root.")
rsqrt = unary(Rsqrt, "rsqrt", "1 / sqrt(input).")
reciprocal = unary(Reciprocal, "reciprocal", "1 / input.")
erf = unary(Erf, "erf", "The error function.")
erfc = unary(Erfc, "erfc", "1 - erf(input).")
erfinv = unary(Erfinv, "erfinv", "The inverse error function.")
floor = unary(Floor, "floor", "The largest integer not above, in the input's dtype.")
ceil = unary(Ceil, "ceil", "The smallest integer not below, in the input's dtype.")
trunc = unary(Trunc, "trunc", "The integer part, in the input's dtype.", ["trunc", "fix"])


@public(method=["neg", "__neg__", "negative"], inplace=True)
def neg(input):
    """-input. As torch.neg. Raises: RuntimeError for booleans."""
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
    dtype = getattr(input._array if isinstance(input, Tensor) else input, "dtype", None)
    if dtype is None:
        return input.conjugate()
    return Conj.apply(input) if dtype.kind == "c" else input


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
