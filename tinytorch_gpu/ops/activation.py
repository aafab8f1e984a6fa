"""Activation functions: relu, gelu, silu, sigmoid, softplus, elu and their kin."""
from __future__ import annotations

import math

from .. import ops
from ..autograd.operator import OUTPUT, Operator, Pointwise, array_of
from ..backend import dtypes
from ..backend.device import backend_of
from .axes import real_only
from .registry import public


class ReLU(Pointwise):
    """max(x, 0). The output is saved: the next layer saves the same array, so it costs no memory of its own."""

    __slots__ = ()
    keeps = OUTPUT

    def forward(node, x):
        kind = x.dtype.type
        if x.dtype.kind == "f":  # (2048, 512) float32: 143 us, 364 with maximum(x, 0), which NumPy does not vectorize
            y = node.xp.clip(x, kind(0), kind(math.inf))
        else:
            y = node.xp.maximum(x, kind(0))
        node.save(y)
        return y

    def backward(node, grad):
        (y,) = node.saved
        return ops.mul(grad, array_of(y) > 0)  # where() on random signs is 15 times slower than the product


class LeakyReLU(Pointwise):
    """x where positive, else slope * x."""

    __slots__ = ("slope",)

    def forward(node, x, slope):
        node.slope = slope
        node.save(x)
        xp = node.xp
        if 0 < slope <= 1:  # where() on random signs takes 5 ns for each element, the maximum 0.2
            return xp.maximum(x, x * slope)
        return xp.where(x > 0, x, x * slope)

    def backward(node, grad):
        (x,) = node.saved
        x = array_of(x)
        return ops.mul(grad, (x > 0).astype(x.dtype) * (1 - node.slope) + node.slope)


class Sigmoid(Pointwise):
    """1 / (1 + exp(-x)); the output is saved."""

    __slots__ = ()
    promotion = "float"

    def forward(node, x):
        y = sigmoid_of(node.xp, x)
        node.save(y)
        return y

    def backward(node, grad):
        (y,) = node.saved
        return ops.mul(grad, ops.conj(ops.mul(y, ops.sub(1, y))))


def sigmoid_of(xp, x):
    """The logistic function of a raw array, without overflow."""
    with dtypes.quiet():
        y = xp.negative(x)
        if y.__class__ is not x.__class__:
            y = xp.asarray(y)
        xp.exp(y, out=y)
        xp.add(y, 1, out=y)
        return xp.reciprocal(y, out=y)


class SiLU(Pointwise):
    """x * sigmoid(x)."""

    __slots__ = ()
    promotion = "float"

    def forward(node, x):
        node.save(x)
        s = sigmoid_of(node.xp, x)
        with dtypes.quiet():
            return node.xp.multiply(s, x, out=s)

    def backward(node, grad):
        (x,) = node.saved
        s = ops.sigmoid(x)
        return ops.mul(grad, ops.conj(ops.mul(s, ops.add(ops.mul(x, ops.sub(1, s)), 1))))


class LogSigmoid(Pointwise):
    """log(sigmoid(x)) = min(x, 0) - log1p(exp(-|x|))."""

    __slots__ = ()
    promotion = "float"

    def forward(node, x):
        xp = node.xp
        node.save(x)
        return xp.minimum(x, 0) - xp.log1p(xp.exp(-xp.absolute(x)))

    def backward(node, grad):
        (x,) = node.saved
        return ops.mul(grad, ops.sigmoid(ops.neg(x)))


class Softplus(Pointwise):
    """log(1 + exp(beta x)) / beta; x itself where beta x is above the threshold."""

    __slots__ = ("beta", "threshold")
    promotion = "float"

    def forward(node, x, beta, threshold):
        node.beta, node.threshold = beta, threshold
        node.save(x)
        xp = node.xp
        z = x * beta
        with dtypes.quiet():
            return xp.where(z > threshold, x, xp.log1p(xp.exp(z)) / beta)

    def backward(node, grad):
        (x,) = node.saved
        linear = array_of(x) * node.beta > node.threshold
        return ops.where(linear, grad, ops.mul(grad, ops.sigmoid(ops.mul(x, node.beta))))


class ELU(Pointwise):
    """scale * x where positive, else scale * alpha * (exp(x) - 1)."""

    __slots__ = ("alpha", "scale")
    promotion = "float"

    def forward(node, x, alpha, scale=1.0):
        node.alpha, node.scale = alpha, scale
        node.save(x)
        xp = node.xp
        return xp.maximum(x, 0) * scale + xp.expm1(xp.minimum(x, 0)) * (alpha * scale)

    def backward(node, grad):
        (x,) = node.saved
        below = ops.mul(ops.mul(grad, ops.exp(ops.clamp(x, max=0.0))), node.alpha * node.scale)
        return ops.where(array_of(x) > 0, ops.mul(grad, node.scale), below)


class Hardtanh(Pointwise):
    """x limited to [low, high]; no gradient at the limits and beyond."""

    __slots__ = ("low", "high")

    def forward(node, x, low, high):
        node.low, node.high = low, high
        node.save(x)
        return node.xp.minimum(node.xp.maximum(x, low), high)

    def backward(node, grad):
        x = array_of(node.saved[0])
        return ops.mul(grad, (x > node.low) & (x < node.high))


class GELU(Pointwise):
    """x Phi(x), Phi the normal distribution's function."""

    __slots__ = ()
    promotion = "float"

    def forward(node, x):
        node.save(x)
        y = normal_cdf(node.xp, x if x.ndim else x.reshape(1), times_x=True)
        return y if x.ndim else y.reshape(())

    def backward(node, grad):
        (x,) = node.saved
        return GELUBackward.apply(grad, x)


class GELUBackward(Operator):
    """grad * (Phi(x) + x phi(x)); its own derivative in x is grad * phi(x) (2 - x^2)."""

    __slots__ = ()
    opmath = True

    def forward(node, grad, x):
        xp = node.xp
        node.save(grad, x)
        if not x.ndim:
            x = x.reshape(1)
        slope = normal_cdf(xp, x)
        with dtypes.quiet():
            density = xp.multiply(x, x)
            xp.multiply(density, -0.5, out=density)
            xp.exp(density, out=density)
            xp.multiply(density, 1 / math.sqrt(2 * math.pi), out=density)
            xp.multiply(density, x, out=density)
            xp.add(slope, density, out=slope)
            return xp.multiply(slope, grad, out=slope).reshape(grad.shape)

    def backward(node, h):
        grad, x = node.saved
        square = ops.mul(x, x)
        density = ops.mul(ops.exp(ops.mul(square, -0.5)), 1 / math.sqrt(2 * math.pi))
        second = ops.mul(density, ops.sub(2, square)) if node.need(1) else None
        return (
            GELUBackward.apply(h, x) if node.need(0) else None,
            ops.mul(ops.mul(h, grad), second) if node.need(1) else None,
        )


# atanh(2 Phi(x) - 1) = x P(x^2): least squares weighted for the error of x Phi(x), at most 7e-8 in exact arithmetic;
# in float32 6e-7 where x Phi(x) is about 3. The same form as the tanh approximation of GELU, whose P has degree 1.
NORMAL = (1.8139270432243591e-09, -1.3378319432890272e-07, 3.97407081277208e-06, -5.527338849220372e-05,
          -3.3026688222791086e-05, 0.03633414908228488, 0.7978842684374937)


def normal_cdf(xp, x, times_x=False):
    """Phi(x) of a raw array, or x Phi(x), in an array of its own."""
    if x.dtype != dtypes.float32.np:
        y = backend_of(x).special.erf(x * (1 / math.sqrt(2)))
        y += 1
        y *= 0.5
        with dtypes.quiet():
            return y * x if times_x else y
    with dtypes.quiet():  # far out the polynomial overflows to infinity, and tanh is 1
        square = xp.multiply(x, x)
        y = xp.multiply(square, NORMAL[0])
        for c in NORMAL[1:-1]:
            xp.add(y, c, out=y)
            xp.multiply(y, square, out=y)
        xp.add(y, NORMAL[-1], out=y)
        xp.multiply(y, x, out=y)
        xp.tanh(y, out=y)
        half = xp.multiply(x, 0.5, out=square) if times_x else 0.5
        xp.multiply(y, half, out=y)
        return xp.add(y, half, out=y)


ROOT, CUBE = math.sqrt(2 / math.pi), 0.044715


class GELUTanh(Pointwise):
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2."""

    __slots__ = ()
    promotion = "float"

    def forward(node, x):
        xp = node.xp
        node.save(x)
        with dtypes.quiet():
            y = xp.tanh((x * x * (ROOT * CUBE) + ROOT) * x)
            half = x * 0.5
            return y * half + half

    def backward(node, grad):
        (x,) = node.saved
        square = ops.mul(x, x)
        inner = ops.mul(x, ops.add(ops.mul(square, ROOT * CUBE), ROOT))
        t = ops.tanh(inner)
        slope = ops.mul(ops.mul(x, ops.sub(1, ops.mul(t, t))), ops.add(ops.mul(square, 3 * ROOT * CUBE), ROOT))
        return ops.mul(grad, ops.mul(ops.add(ops.add(t, 1), slope), 0.5))


def _either(name, cls, input, inplace, **params):
    real_only(name, array_of(input))
    return cls.inplace(input, **params) if inplace else cls.apply(input, **params)


@public(method=True, inplace=True)
def relu(input, inplace=False):
    """max(input, 0), elementwise. As torch.nn.functional.relu and torch.relu.

    Raises: NotImplementedError for complex numbers.
    """
    return _either("relu", ReLU, input, inplace)


@public(functional=True)
def leaky_relu(input, negative_slope=0.01, inplace=False):
    """input where positive, else negative_slope * input. As torch.nn.functional.leaky_relu."""
    return _either("leaky_relu", LeakyReLU, input, inplace, slope=float(negative_slope))


@public(functional=True)
def gelu(input, *, approximate="none"):
    """input * Phi(input); `approximate` "none" (erf) or "tanh". As torch.nn.functional.gelu.

    Raises: RuntimeError for another `approximate`.
    """
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"[gelu] approximate argument must be either none or tanh, got {approximate!r}")
    return _either("gelu", GELU if approximate == "none" else GELUTanh, input, False)


@public(functional=True)
def silu(input, inplace=False):
    """input * sigmoid(input), also called swish. As torch.nn.functional.silu."""
    return SiLU.inplace(input) if inplace else SiLU.apply(input)


@public(method=True, inplace=True)
def sigmoid(input):
    """1 / (1 + exp(-input)). As torch.sigmoid."""
    return Sigmoid.apply(input)


@public(functional=True)
def logsigmoid(input):
    """log(sigmoid(input)), without overflow. As torch.nn.functional.logsigmoid."""
    return _either("logsigmoid", LogSigmoid, input, False)


@public(functional=True)
def softplus(input, beta=1.0, threshold=20.0):
    """log(1 + exp(beta * input)) / beta, the input itself where beta * input > threshold.

    As torch.nn.functional.softplus.
    """
    return _either("softplus", Softplus, input, False, beta=float(beta), threshold=float(threshold))


@public(functional=True)
def elu(input, alpha=1.0, inplace=False):
    """input where positive, else alpha * (exp(input) - 1). As torch.nn.functional.elu."""
    return _either("elu", ELU, input, inplace, alpha=float(alpha))


@public(functional=True)
def selu(input, inplace=False):
    """The self-normalizing ELU with fixed alpha and scale. As torch.nn.functional.selu."""
    return _either("selu", ELU, input, inplace, alpha=1.6732632423543772, scale=1.0507009873554805)


@public(functional=True)
def hardtanh(input, min_val=-1.0, max_val=1.0, inplace=False):
    """input limited to [min_val, max_val]. As torch.nn.functional.hardtanh.

    Raises: ValueError when max_val is lower than min_val.
    """
    if min_val > max_val:
        raise ValueError(f"[hardtanh] min_val cannot be greater than max_val, got {min_val} and {max_val}")
    return _either("hardtanh", Hardtanh, input, inplace, low=float(min_val), high=float(max_val))


@public(functional=True)
def relu6(input, inplace=False):
    """input limited to [0, 6]. As torch.nn.functional.relu6."""
    return _either("relu6", Hardtanh, input, inplace, low=0.0, high=6.0)
