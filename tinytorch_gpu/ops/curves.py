"""The activations that kernels fuse with what stands around them: each with slope and second derivative."""
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .. import ops
from ..autograd.operator import array_of
from ..backend import kernel_elementwise as kernels
from .activation import ReLU, ReLUBackward, SiLU, SiLUBackward, silu_bend
from .gelu import GELU, GELUBackward, GELUTanh, GELUTanhBackward, gelu_bend, gelu_tanh_bend


class Curve(NamedTuple):
    """f as the operators that compute it, on raw arrays or Tensors."""

    kind: int  # in kernels/activation.cuh
    value: Callable  # value(x) = f(x)
    slope: Callable  # slope(grad, x) = grad * f'(x)
    bend: Callable | None  # bend(x) = f''(x); None where it is 0

    def bent(self, factor, x):
        """factor * f''(x), None where it is 0."""
        return None if self.bend is None else ops.mul(factor, self.bend(x))


# `apply` is looked up at each call: who watches operators puts another one in its place for a while
CURVES = {
    "gelu": Curve(kernels.GELU, lambda x: GELU.apply(x), lambda grad, x: GELUBackward.apply(grad, x), gelu_bend),
    "gelu_tanh": Curve(kernels.GELU_TANH, lambda x: GELUTanh.apply(x),
                       lambda grad, x: GELUTanhBackward.apply(grad, x), gelu_tanh_bend),
    "relu": Curve(kernels.RELU, lambda x: ReLU.apply(x), lambda grad, x: ReLUBackward.apply(grad, array_of(x)), None),
    "silu": Curve(kernels.SILU, lambda x: SiLU.apply(x), lambda grad, x: SiLUBackward.apply(grad, x), silu_bend),
}
