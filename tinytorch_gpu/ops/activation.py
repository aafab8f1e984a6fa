"""Activation functions: relu, silu, sigmoid, softplus, elu and their kin; gelu has a file of its own."""
from __future__ import annotations

import math

from .. import ops
from ..autograd.operator import Operator, array_of
from ..autograd.pointwise import Pointwise
from ..backend import dtypes, kernel_elementwise
from .axes import real_only
from .registry import public


class ReLU(Pointwise):
    """max(x, 0). The output is saved: the next layer saves the same array, so it costs no memory of its own."""

    __slots__ = ()
    widens = True

    def fused(node, x):
        y = kernel_elementwise.activation(x, kernel_elementwise.RELU)
        node.save(y)
        return y

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
        return ReLUBackward.apply(grad, array_of(y))


class ReLUBackward(Operator):
    """grad where the output y is positive; y is a constant."""

    __slots__ = ("y",)

    def fused(node, grad, y):
        node.y = y
        return kernel_elementwise.activation_backward(grad, y, kernel_elementwise.RELU)

    def forward(node, grad, y):
        node.y = y
        return node.xp.multiply(grad, y > 0)  # where() on random signs is 15 times slower than the product

    def backward(node, h):
        return ReLUBackward.apply(h, node.y), None


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
    widens = True

    def fused(node, x):
        node.save(x)
        return kernel_elementwise.activation(x, kernel_elementwise.SILU)

    def forward(node, x):
        node.save(x)
        s = sigmoid_of(node.xp, x)
        with dtypes.quiet():
            return node.xp.multiply(s, x, out=s)

    def backward(node, grad):
        (x,) = node.saved
        return SiLUBackward.apply(grad, x)


class SiLUBackward(Pointwise):
    """grad * conj(s (1 + x (1 - s))), s = sigmoid(x)."""

    __slots__ = ()

    def fused(node, grad, x):
        node.save(grad, x)
        return kernel_elementwise.activation_backward(grad, x, kernel_elementwise.SILU)

    def forward(node, grad, x):
        node.save(grad, x)
        xp = node.xp
        s = sigmoid_of(xp, x)
        with dtypes.quiet():
            slope = xp.subtract(1, s)
            slope = s * (x * slope + 1)
            return grad * (xp.conj(slope) if slope.dtype.kind == "c" else slope)

    def backward(node, h):
        grad, x = node.saved
        return (SiLUBackward.apply(h, ops.conj(x)),
                ops.mul(ops.mul(ops.conj(h), grad), ops.conj(silu_bend(x))))


def silu_bend(x):
    """The second derivative of SiLU: s (1 - s) (2 + x (1 - 2 s))."""
    s = ops.sigmoid(x)
    t = ops.sub(1, s)
    return ops.mul(ops.mul(s, t), ops.add(ops.mul(x, ops.sub(t, s)), 2))


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
    autocast = "float32"

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
