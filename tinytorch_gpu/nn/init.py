"""Initial values of parameters, in place, as torch.nn.init. Every function returns the tensor it filled."""
from __future__ import annotations

import math
import warnings

import numpy as np

from ..autograd.modes import no_grad
from ..backend import dtypes
from ..backend.device import backend_of
from ..ops import empty, eye
from ..tensor import Tensor

__all__ = [
    "uniform_", "normal_", "trunc_normal_", "constant_", "ones_", "zeros_", "eye_", "dirac_", "xavier_uniform_",
    "xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "orthogonal_", "calculate_gain",
]


@no_grad()
def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator=None) -> Tensor:
    """Uniform on [a, b)."""
    return tensor.uniform_(a, b, generator=generator)


@no_grad()
def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator=None) -> Tensor:
    """Normal with the given mean and standard deviation."""
    return tensor.normal_(mean, std, generator=generator)


@no_grad()
def trunc_normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0,
                  generator=None) -> Tensor:
    """Normal, restricted to [a, b]: the inverse distribution function of uniform values, computed in float64."""
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn("mean is more than 2 std from [a, b] in nn.init.trunc_normal_. The distribution of values may be "
                      "incorrect.", stacklevel=3)
    low, high = (math.erf((edge - mean) / (std * math.sqrt(2.0))) for edge in (a, b))
    backend = backend_of(tensor._array)
    xp, special = backend.xp, backend.special
    # the uniform values are those of a float64 tensor: in float32 the tails would come out in steps
    share = empty(tensor.shape, dtype=dtypes.float64, device=tensor.device).uniform_(low, high, generator=generator)
    value = special.erfinv(share._array) * (std * math.sqrt(2.0)) + mean
    tensor._array[...] = xp.clip(value, a, b).astype(tensor._array.dtype)
    tensor._bump()
    return tensor


@no_grad()
def constant_(tensor: Tensor, val: float) -> Tensor:
    """Every element `val`."""
    return tensor.fill_(val)


def ones_(tensor: Tensor) -> Tensor:
    """Every element 1."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """Every element 0."""
    return constant_(tensor, 0.0)


@no_grad()
def eye_(tensor: Tensor) -> Tensor:
    """The identity matrix. Raises: ValueError unless 2-d."""
    if tensor.ndim != 2:
        raise ValueError(f"[eye_] Only tensors with 2 dimensions are supported, got {tensor.ndim}")
    return tensor.copy_(eye(*tensor.shape, dtype=tensor.dtype, device=tensor.device))


@no_grad()
def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """The kernel of a convolution that keeps its input, in each group. Raises: ValueError for ranks below 3."""
    shape = tensor.shape
    if tensor.ndim not in (3, 4, 5):
        raise ValueError("[dirac_] Only tensors with 3, 4, or 5 dimensions are supported")
    if shape[0] % groups:
        raise ValueError("[dirac_] dim 0 must be divisible by groups")
    tensor.zero_()
    per_group = shape[0] // groups
    centre = tuple(n // 2 for n in shape[2:])
    for group in range(groups):
        for channel in range(min(per_group, shape[1])):
            tensor._array[(group * per_group + channel, channel, *centre)] = 1
    tensor._bump()
    return tensor


def _fans(tensor):
    """(inputs, outputs) that one element of the layer is connected with."""
    if tensor.ndim < 2:
        raise ValueError(f"[init] Fan in and fan out can not be computed for tensor with fewer than 2 dimensions, got "
                         f"{tensor.ndim}")
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def _calculate_fan_in_and_fan_out(tensor):
    return _fans(tensor)


def _fan(tensor, mode):
    if str(mode).lower() not in ("fan_in", "fan_out"):
        raise ValueError(f"[init] Mode {mode} not supported, please use one of ['fan_in', 'fan_out']")
    return _fans(tensor)[str(mode).lower() == "fan_out"]


def calculate_gain(nonlinearity: str, param=None) -> float:
    """The factor that keeps variances through a nonlinearity. Raises: ValueError for an unknown one."""
    if nonlinearity in ("linear", "conv1d", "conv2d", "conv3d", "sigmoid"):
        return 1.0
    if nonlinearity == "tanh":
        return 5.0 / 3
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "leaky_relu":
        if param is None:
            param = 0.01
        elif isinstance(param, bool) or not isinstance(param, (int, float)):
            raise ValueError(f"[calculate_gain] negative_slope {param} not a valid number")
        return math.sqrt(2.0 / (1 + param**2))
    if nonlinearity == "selu":
        return 3.0 / 4
    raise ValueError(f"[calculate_gain] Unsupported nonlinearity {nonlinearity}")


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator=None) -> Tensor:
    """Uniform with variance 2 gain^2 / (fan_in + fan_out) (Glorot and Bengio, 2010)."""
    bound = math.sqrt(3.0) * gain * math.sqrt(2.0 / sum(_fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator=None) -> Tensor:
    """Normal with variance 2 gain^2 / (fan_in + fan_out) (Glorot and Bengio, 2010)."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(_fans(tensor))), generator)


def kaiming_uniform_(tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu",
                     generator=None) -> Tensor:
    """Uniform with variance gain^2 / fan (He et al., 2015); `a` is leaky ReLU's slope."""
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=2)
        return tensor
    bound = math.sqrt(3.0) * calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode))
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu",
                    generator=None) -> Tensor:
    """Normal with variance gain^2 / fan (He et al., 2015); `a` is leaky ReLU's slope."""
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=2)
        return tensor
    return normal_(tensor, 0.0, calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode)), generator)


@no_grad()
def orthogonal_(tensor: Tensor, gain: float = 1, generator=None) -> Tensor:
    """A (semi-)orthogonal matrix of the tensor's rows, times gain (Saxe et al., 2013). Raises: ValueError below 2-d.

    The QR decomposition is NumPy's in float64, on the host: it happens once.
    """
    if tensor.ndim < 2:
        raise ValueError(f"[orthogonal_] Only tensors with 2 or more dimensions are supported, got {tensor.ndim}")
    if 0 in tensor.shape:
        return tensor
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    parts = dtypes.complex128 if tensor.dtype.is_complex else dtypes.float64
    start = empty((rows, columns), dtype=parts, device=tensor.device).normal_(generator=generator)
    backend = backend_of(start._array)
    flat = np.asarray(backend.to_host(start._array))
    q, r = np.linalg.qr(flat.T if rows < columns else flat)
    # the diagonal's signs make the distribution uniform over orthogonal matrices
    diagonal = np.diagonal(r)
    q = q * (diagonal / np.abs(diagonal))
    q = np.ascontiguousarray((q.T if rows < columns else q) * gain).reshape(tensor.shape)
    where = tensor.device
    tensor._array[...] = backend.from_host(q.astype(tensor._array.dtype), where.index)
    tensor._bump()
    return tensor
