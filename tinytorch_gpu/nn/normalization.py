"""LayerNorm, RMSNorm, GroupNorm, BatchNorm1d, BatchNorm2d."""
from __future__ import annotations

from .. import ops
from ..backend import dtypes
from . import functional as F
from . import init
from .module import Module
from .parameter import Parameter

__all__ = ["LayerNorm", "RMSNorm", "GroupNorm", "BatchNorm1d", "BatchNorm2d"]


def _affine(module, shape, weight, bias, device, dtype):
    """Register `weight` (ones) and `bias` (zeros), None where not wanted."""
    for name, wanted in (("weight", weight), ("bias", bias)):
        module.register_parameter(
            name, Parameter(ops.empty(shape, device=device, dtype=dtype)) if wanted else None)


def _reset_affine(module):
    if module.weight is not None:
        init.ones_(module.weight)
    if getattr(module, "bias", None) is not None:
        init.zeros_(module.bias)


class LayerNorm(Module):
    """Zero mean and unit variance over the last dimensions, `normalized_shape`. As torch.nn.LayerNorm."""

    def __init__(self, normalized_shape, eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True,
                 device=None, dtype=None):
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        _affine(self, shape, elementwise_affine, elementwise_affine and bias, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """weight one, bias zero."""
        _reset_affine(self)

    def forward(self, input):
        """(..., *normalized_shape), the same shape."""
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self):
        """Shape and options."""
        return (f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
                f"bias={self.bias is not None}")


class RMSNorm(Module):
    """Divided by the root of the mean square over the last dimensions. As torch.nn.RMSNorm."""

    def __init__(self, normalized_shape, eps=None, elementwise_affine: bool = True, device=None, dtype=None):
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        self.register_parameter("weight", Parameter(ops.empty(shape, device=device, dtype=dtype))
                                if elementwise_affine else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """weight one."""
        _reset_affine(self)

    def forward(self, input):
        """(..., *normalized_shape), the same shape."""
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self):
        """Shape and options."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Module):
    """Zero mean and unit variance over each of num_groups groups of channels of (N, C, ...). As torch.nn.GroupNorm.

    Raises: ValueError unless num_groups divides num_channels.
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, device=None,
                 dtype=None, *, bias: bool = True):
        super().__init__()
        if num_channels % num_groups:
            raise ValueError(f"[GroupNorm] num_channels ({num_channels}) must be divisible by num_groups "
                             f"({num_groups})")
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        _affine(self, (num_channels,), affine, affine and bias, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """weight one, bias zero."""
        _reset_affine(self)

    def forward(self, input):
        """(N, C, ...), the same shape."""
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self):
        """Sizes and options."""
        return (f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
                f"bias={self.bias is not None}")


class _BatchNorm(Module):
    """Zero mean and unit variance of each channel over the batch; running statistics in evaluation."""

    _version = 2  # num_batches_tracked joined the state
    _ranks: tuple

    def __init__(self, num_features: int, eps: float = 1e-5, momentum=0.1, affine: bool = True,
                 track_running_stats: bool = True, device=None, dtype=None, *, bias: bool = True):
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        _affine(self, (num_features,), affine, affine and bias, device, dtype)
        made = dict(device=device, dtype=dtype)
        self.register_buffer("running_mean", ops.zeros(num_features, **made) if track_running_stats else None)
        self.register_buffer("running_var", ops.ones(num_features, **made) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", ops.zeros((), device=device, dtype=dtypes.int64)
                             if track_running_stats else None)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batches seen."""
        if self.track_running_stats:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """weight one, bias zero, statistics as at the start."""
        self.reset_running_stats()
        _reset_affine(self)

    def forward(self, input):
        """(N, C, ...), the same shape. Raises: ValueError for another number of dimensions."""
        if input.ndim not in self._ranks:
            ranks = " or ".join(f"{n}D" for n in self._ranks)
            raise ValueError(f"[{type(self).__name__}.forward] expected {ranks} input (got {input.ndim}D input)")
        tracked = self.training and self.track_running_stats
        share = 0.0 if self.momentum is None else self.momentum
        if tracked and self.num_batches_tracked is not None:
            count = self.num_batches_tracked
            count._array[...] += 1
            count._bump()
            if self.momentum is None:  # the mean over all batches
                share = 1.0 / int(count)
        keep = self.track_running_stats or not self.training
        batch = self.training or (self.running_mean is None and self.running_var is None)
        return F.batch_norm(
            input, self.running_mean if keep else None, self.running_var if keep else None, self.weight, self.bias,
            batch, share, self.eps,
        )

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        key = prefix + "num_batches_tracked"
        if (local_metadata.get("version") or 1) < 2 and self.track_running_stats and key not in state_dict:
            state_dict[key] = self.num_batches_tracked
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    def extra_repr(self):
        """Size and options."""
        return (f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
                f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}")


class BatchNorm1d(_BatchNorm):
    """Batch normalization (Ioffe and Szegedy, 2015) of (N, C) or (N, C, L). As torch.nn.BatchNorm1d."""

    _ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalization (Ioffe and Szegedy, 2015) of (N, C, H, W). As torch.nn.BatchNorm2d."""

    _ranks = (4,)
