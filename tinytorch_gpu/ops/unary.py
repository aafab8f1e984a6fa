"""What functions of one operand share: the rule "derivative times gradient", and the public function."""
from __future__ import annotations

from .. import ops
from ..autograd.pointwise import Pointwise
from ..backend import dtypes
from .registry import public


class Function(Pointwise, abstract=True):
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


def unary(cls, name, doc, methods=None, inplace=True):
    """The public function of an operator class of one operand, with PyTorch's name."""
    def f(input):
        return cls.apply(input)

    f.__name__ = f.__qualname__ = name
    f.__doc__ = f"{doc} Elementwise, any shape; integers give floats. As torch.{name}."
    return public(f, method=methods or True, inplace=inplace)
