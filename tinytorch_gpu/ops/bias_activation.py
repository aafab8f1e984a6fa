"""A bias and an activation in one pass, as after a linear layer: f(x + bias)."""
from __future__ import annotations

from .. import ops
from ..autograd.operator import Operator, array_of
from ..backend import dtypes, kernel_elementwise
from .axes import real_only
from .curves import CURVES
from .registry import public


class BiasAct(Operator):
    """f(x + bias), bias (N,) along the last dimension. x is saved and the sum is not."""

    __slots__ = ("curve",)
    promotion = "float"
    opmath = widens = True
    autocast = "lower"  # the bias belongs to the product before it

    def fused(node, x, bias, curve):
        node.curve = curve
        node.save(x, bias)
        return kernel_elementwise.activation(x, CURVES[curve].kind, bias)

    def forward(node, x, bias, curve):
        node.curve = curve
        node.save(x, bias)
        return CURVES[curve].value(node.xp.add(x, bias))

    def backward(node, grad):
        x, bias = node.saved
        g = BiasActBackward.apply(grad, x, bias, curve=node.curve)
        return g if node.need(0) else None, g if node.need(1) else None  # the engine sums it over the bias's rows


class BiasActBackward(Operator):
    """grad * f'(x + bias), the gradient of x, and of the bias once summed."""

    __slots__ = ("curve",)
    opmath = True

    def fused(node, grad, x, bias, curve):
        node.curve = curve
        node.save(grad, x, bias)
        return kernel_elementwise.activation_backward(grad, x, CURVES[curve].kind, bias)

    def forward(node, grad, x, bias, curve):
        node.curve = curve
        node.save(grad, x, bias)
        return CURVES[curve].slope(grad, node.xp.add(x, bias))

    def backward(node, h):
        grad, x, bias = node.saved
        gz = None
        if node.need(1) or node.need(2):
            gz = CURVES[node.curve].bent(ops.mul(h, grad), ops.add(x, bias))
        return BiasActBackward.apply(h, x, bias, curve=node.curve) if node.need(0) else None, gz, gz


@public(functional=True)
def bias_act(input, bias, activation="gelu"):
    """activation(input + bias) in one pass: input (..., N), bias (N,) or None, in any floating dtypes.

    `activation`: "gelu" (erf), "gelu_tanh", "relu" or "silu". The bias's gradient is the sum over all but the last
    dimension. Equal to `gelu(input + bias)`, rounded once; under autocast both are cast as a linear layer's are.
    Raises: ValueError for another activation, RuntimeError when the bias is not one number for each of N.
    """
    curve = CURVES.get(activation) if isinstance(activation, str) else None
    if curve is None:
        raise ValueError(f"[bias_act] activation must be one of {', '.join(CURVES)}, got {activation!r}")
    x = array_of(input)
    real_only("bias_act", x)
    if bias is None:
        return curve.value(input)
    b = array_of(bias)
    real_only("bias_act", b)
    if b.ndim != 1 or not x.ndim or b.shape[0] != x.shape[-1]:
        raise RuntimeError(f"[bias_act] expected a bias of shape ({x.shape[-1] if x.ndim else 'N'},), the last "
                           f"dimension of input {dtypes.of(x).name} {tuple(x.shape)}, got {tuple(b.shape)}: add other "
                           "shapes with + before the activation")
    return BiasAct.apply(input, bias, curve=activation)
