"""Gated activations: SwiGLU and GeGLU (Shazeer 2020, "GLU variants improve transformer"), and GLU (Dauphin 2016)."""
from __future__ import annotations

from .. import ops
from ..autograd.operator import Operator, array_of
from ..autograd.pointwise import Pointwise
from ..backend import dtypes, kernel_elementwise
from .axes import axis_of, real_only
from .curves import CURVES
from .registry import public


def _halves(x, dim):
    n = array_of(x).shape[dim] // 2
    return ops.narrow(x, dim, 0, n), ops.narrow(x, dim, n, n)


class Gated(Pointwise):
    """f(a) * b. Without b, a holds both, one behind the other along `dim`."""

    __slots__ = ("curve", "dim")
    promotion = "float"
    widens = True

    def fused(node, a, b, curve, dim):
        node.curve, node.dim = curve, dim
        node.save(a, b)
        return kernel_elementwise.gated(a, b, CURVES[curve].kind, dim)

    def forward(node, a, b, curve, dim):
        node.curve, node.dim = curve, dim
        node.save(a, b)
        if b is None:
            a, b = _halves(a, dim)
            a = node.xp.ascontiguousarray(a)  # GELU works on contiguous arrays in blocks, over threads
        return node.xp.multiply(CURVES[curve].value(a), b)

    def backward(node, grad):
        a, b = node.saved
        return GatedBackward.apply(grad, a, b, curve=node.curve, dim=node.dim)


class GatedBackward(Operator):
    """(grad * b * f'(a), grad * f(a)); without b both in one array, as `a` holds a and b."""

    __slots__ = ("curve", "dim")
    opmath = True

    def fused(node, grad, a, b, curve, dim):
        node.curve, node.dim = curve, dim
        node.save(grad, a, b)
        return kernel_elementwise.gated_backward(grad, a, b, CURVES[curve].kind, dim)

    def forward(node, grad, a, b, curve, dim):
        node.curve, node.dim = curve, dim
        node.save(grad, a, b)
        xp, f = node.xp, CURVES[curve]
        if b is not None:
            return f.slope(xp.multiply(grad, b), a), xp.multiply(grad, f.value(a))
        out = xp.empty(a.shape, a.dtype)
        ga, gb = _halves(out, dim)
        a, b = _halves(a, dim)
        a = xp.ascontiguousarray(a)
        ga[...] = f.slope(xp.multiply(grad, b), a)
        xp.multiply(grad, f.value(a), out=gb)
        return out

    def backward(node, *h):
        grad, a, b = node.saved
        f, both = CURVES[node.curve], b is None
        ha, hb = _halves(h[0], node.dim) if both else h
        if both:
            a, b = _halves(a, node.dim)
        toward = ops.mul(ha, grad)  # of the rule's ga = grad b f'(a), along ha
        ggrad = ops.add(f.slope(ops.mul(ha, b), a), ops.mul(hb, f.value(a))) if node.need(0) else None
        ga, bent = f.slope(ops.mul(hb, grad), a), f.bent(ops.mul(toward, b), a)
        ga, gb = ga if bent is None else ops.add(ga, bent), f.slope(toward, a)
        return (ggrad, ops.cat((ga, gb), node.dim)) if both else (ggrad, ga, gb)


def _gated(name, curve, input, up, dim):
    x = array_of(input)
    real_only(name, x)
    if up is not None:
        y = array_of(up)
        real_only(name, y)
        if x.shape != y.shape:
            input, up = ops.broadcast_tensors(input, up)
        return Gated.apply(input, up, curve=curve, dim=None)
    return Gated.apply(input, None, curve=curve, dim=_even(name, x, dim))


def _even(name, x, dim):
    if not x.ndim:
        raise RuntimeError(f"[{name}] does not support 0-dimensional tensors: there is nothing to halve")
    axis = axis_of(name, dim, x.ndim)
    if x.shape[axis] % 2:
        raise RuntimeError(f"[{name}] halving dimension must be even, but dimension {axis} is of size {x.shape[axis]}: "
                           f"input is {dtypes.of(x).name} {tuple(x.shape)}")
    return axis


@public(functional=True)
def swiglu(input, up=None, dim=-1):
    """silu(input) * up. With one tensor (..., 2 N, ...): silu(first half along `dim`) * second half.

    The first operand, or half, is the gate, as in LLaMA's `silu(gate(x)) * up(x)` and in a joined projection
    `torch.cat((gate, up), -1)`. Halves are read and their gradients written in place, without copies. Programs that
    gate with the second half, as `glu` does, pass the halves: `a, b = x.chunk(2, -1)`, `swiglu(b, a)`.
    Raises: RuntimeError for an odd length, IndexError for a dim out of range. (Shazeer 2020)
    """
    return _gated("swiglu", "silu", input, up, dim)


@public(functional=True)
def geglu(input, up=None, dim=-1, approximate="none"):
    """gelu(input) * up. With one tensor (..., 2 N, ...): gelu(first half along `dim`) * second half.

    `approximate` as in `gelu`; which operand is the gate, and the errors, as in `swiglu`. (Shazeer 2020)
    Raises: RuntimeError for another `approximate`.
    """
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"[geglu] approximate argument must be either none or tanh, got {approximate!r}")
    return _gated("geglu", "gelu" if approximate == "none" else "gelu_tanh", input, up, dim)


@public(functional=True)
def glu(input, dim=-1):
    """First half along `dim` * sigmoid(second half). As torch.nn.functional.glu.

    Raises: RuntimeError for an odd length, IndexError for a dim out of range, NotImplementedError for other than real
    floating dtypes.
    """
    x = array_of(input)
    if dtypes.of(x).category != dtypes.FLOAT:
        raise NotImplementedError(f"[glu] not implemented for {dtypes.of(x).name}: convert with .float()")
    a, b = _halves(input, _even("glu", x, dim))
    return ops.mul(a, ops.sigmoid(b))
