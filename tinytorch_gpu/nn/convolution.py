"""Conv1d and Conv2d."""
from __future__ import annotations

import math

from .. import ops
from . import functional as F
from . import init
from .module import Module
from .parameter import Parameter

__all__ = ["Conv1d", "Conv2d"]


def _each(value, n):
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * n


class _Conv(Module):
    """Cross-correlation over `_n` dimensions; weight (out_channels, in_channels / groups, *kernel_size)."""

    _n: int

    def __init__(self, in_channels: int, out_channels: int, kernel_size, stride=1, padding=0, dilation=1,
                 groups: int = 1, bias: bool = True, padding_mode: str = "zeros", device=None, dtype=None):
        super().__init__()
        if groups <= 0:
            raise ValueError(f"[{type(self).__name__}] groups must be a positive integer, got {groups}")
        if in_channels % groups:
            raise ValueError(f"[{type(self).__name__}] in_channels must be divisible by groups, got {in_channels} and "
                             f"{groups}")
        if out_channels % groups:
            raise ValueError(f"[{type(self).__name__}] out_channels must be divisible by groups, got {out_channels} "
                             f"and {groups}")
        n = self._n
        stride = _each(stride, n)
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"[{type(self).__name__}] Invalid padding string {padding!r}, should be one of "
                                 "'valid', 'same'")
            if padding == "same" and any(s != 1 for s in stride):
                raise ValueError(f"[{type(self).__name__}] padding='same' is not supported for strided convolutions")
        else:
            padding = _each(padding, n)
        if padding_mode not in ("zeros", "reflect", "replicate", "circular"):
            raise ValueError(f"[{type(self).__name__}] padding_mode must be one of 'zeros', 'reflect', 'replicate', "
                             f"'circular', but got padding_mode='{padding_mode}'")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = _each(kernel_size, n), stride, _each(dilation, n)
        self.padding, self.padding_mode = padding, padding_mode
        self.weight = Parameter(
            ops.empty(out_channels, in_channels // groups, *self.kernel_size, device=device, dtype=dtype))
        self.register_parameter(
            "bias", Parameter(ops.empty(out_channels, device=device, dtype=dtype)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform within 1 / sqrt(elements that one output sees)."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            seen = math.prod(self.weight.shape[1:])
            if seen:
                init.uniform_(self.bias, -1 / math.sqrt(seen), 1 / math.sqrt(seen))

    def _around(self):
        """Padding of each side in the order of nn.functional.pad: the last dimension first."""
        if self.padding == "valid":
            return (0,) * (2 * self._n)
        if self.padding == "same":
            total = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            sides = [(t // 2, t - t // 2) for t in total]
        else:
            sides = [(p, p) for p in self.padding]
        return tuple(p for side in reversed(sides) for p in side)

    def forward(self, input):
        """(N, in_channels, ...) or without N, to (N, out_channels, ...)."""
        convolve = F.conv1d if self._n == 1 else F.conv2d
        if self.padding_mode == "zeros":
            return convolve(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        padded = F.pad(input, self._around(), mode=self.padding_mode)
        return convolve(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    def extra_repr(self):
        """Sizes, and what is not the default."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0,) * len(self.padding):
            text += f", padding={self.padding}"
        if self.dilation != (1,) * self._n:
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        return text if self.padding_mode == "zeros" else f"{text}, padding_mode={self.padding_mode}"


class Conv1d(_Conv):
    """Convolution of (N, C, L), as neural networks use the word. As torch.nn.Conv1d; padding may be 'same'."""

    _n = 1


class Conv2d(_Conv):
    """Convolution of (N, C, H, W), as neural networks use the word. As torch.nn.Conv2d; padding may be 'same'."""

    _n = 2
