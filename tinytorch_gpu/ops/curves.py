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


CURVES = {
    "gelu": Curve(kernels.GELU, GELU.apply, GELUBackward.apply, gelu_bend),
    "gelu_tanh": Curve(kernels.GELU_TANH, GELUTanh.apply, GELUTanhBackward.apply, gelu_tanh_bend),
    "relu": Curve(kernels.RELU, ReLU.apply, lambda grad, x: ReLUBackward.apply(grad, array_of(x)), None),
    "silu": Curve(kernels.SILU, SiLU.apply, SiLUBackward.apply, silu_bend),
}
