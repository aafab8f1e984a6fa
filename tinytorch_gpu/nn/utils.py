"""Gradient clipping and parameters as one vector, as torch.nn.utils."""
from __future__ import annotations

import math

import numpy as np

from ..autograd.modes import no_grad
from ..backend import dtypes
from ..backend.device import xp_of
from ..ops import cat, tensor
from ..optim.gradients import multiply, norm_by_kernels
from ..tensor import Tensor, make

__all__ = [
    "clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm", "parameters_to_vector",
    "vector_to_parameters",
]


def _grads(parameters):
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return [p.grad for p in parameters if p.grad is not None]


def _power_sum(array, p):
    """Sum of |x|^p (the largest or smallest |x| for p = inf, -inf) as a 0-d array; half types in float32."""
    xp = xp_of(array)
    if array.dtype in dtypes.HALF:
        array = array.astype(dtypes.float32.np)
    if p == 2.0 and isinstance(array, np.ndarray) and array.dtype.kind != "c":
        flat = np.ascontiguousarray(array).reshape(-1)
        return np.asarray(np.dot(flat, flat))  # one pass, no temporary: 4 x faster than (x * x).sum()
    size = xp.abs(array)
    if math.isinf(p):
        return xp.asarray((size.max() if p > 0 else size.min()) if size.size else size.dtype.type(0))
    return xp.asarray((size != 0).sum(dtype=size.dtype) if p == 0 else (size**p).sum())


@no_grad()
def get_total_norm(tensors, norm_type: float = 2.0, error_if_nonfinite: bool = False, foreach=None) -> Tensor:
    """The p-norm of all tensors' elements together: a 0-d tensor on their device, float32 for half types.

    As torch.nn.utils.get_total_norm; computed without waiting for the device unless `error_if_nonfinite`.
    `foreach` chooses between PyTorch's implementations; there is one here.
    Raises: RuntimeError for a norm that is NaN or infinite, if `error_if_nonfinite`.
    """
    tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    p = float(norm_type)
    if not tensors:
        return tensor(0.0)
    if p == 2.0 and (norm := norm_by_kernels(tensors)) is not None:
        return _finite(make(norm), p, error_if_nonfinite)
    first = tensors[0].device
    sums = [_power_sum((t if t.device == first else t.to(device=first))._array, p) for t in tensors]
    xp = xp_of(sums[0])
    with dtypes.quiet():
        sums = xp.stack(sums)
        if p == 2.0 and sums.dtype.kind != "c":
            total = xp.sqrt(sums.sum())
        elif math.isinf(p):
            total = sums.max() if p > 0 else sums.min()
        else:
            total = sums.sum() if p == 0 else sums.sum() ** (1.0 / p)
    return _finite(make(xp.asarray(total)), p, error_if_nonfinite)


def _finite(total, p, wanted):
    if wanted and not math.isfinite(float(total)):
        raise RuntimeError(
            f"[get_total_norm] The total norm of order {p} for gradients from `parameters` is non-finite, so it "
            "cannot be clipped. To "
            "disable this error and scale the gradients by the non-finite norm anyway, set `error_if_nonfinite=False`"
        )
    return total


def clip_grads_with_norm_(parameters, max_norm: float, total_norm: Tensor, foreach=None) -> None:
    """Scale gradients in place by max_norm / (total_norm + 1e-6) where that is below 1."""
    _scale(_grads(parameters), max_norm, total_norm)


def _scale(grads, max_norm, total_norm):
    with dtypes.quiet():  # an infinite norm makes NaN of infinite gradients, as in PyTorch
        norm = total_norm.detach()._array
        # always multiplied, so that the host need not know whether the norm is too large
        factor = make(xp_of(norm).asarray(xp_of(norm).minimum(max_norm / (norm + 1e-6), 1.0)))
    places: dict = {}
    for g in grads:
        places.setdefault(g.device, []).append(g)
    for where, there in places.items():
        multiply(there, factor.to(where)._array)


@no_grad()
def clip_grad_norm_(parameters, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False,
                    foreach=None) -> Tensor:
    """Scale all gradients in place so that their norm together is at most max_norm; returns the norm before.

    As torch.nn.utils.clip_grad_norm_; the norm is a 0-d tensor on the device, float32 for half gradients.
    Raises: RuntimeError for a norm that is NaN or infinite, if `error_if_nonfinite`.
    """
    grads = _grads(parameters)
    if norm_type == 2.0 and not error_if_nonfinite and (norm := norm_by_kernels(grads, float(max_norm))) is not None:
        return make(norm)
    total = get_total_norm(grads, norm_type, error_if_nonfinite, foreach)
    _scale(grads, float(max_norm), total)
    return total


@no_grad()
def clip_grad_value_(parameters, clip_value: float, foreach=None) -> Tensor:
    """Limit every element of the gradients in place to [-clip_value, clip_value].

    Returns the 2-norm of all gradients before, a 0-d tensor on the device (torch.nn.utils.clip_grad_value_ returns
    None). Raises: RuntimeError for complex gradients.
    """
    grads = _grads(parameters)
    total = get_total_norm(grads, foreach=foreach)
    limit = float(clip_value)
    for g in grads:
        array = g._array
        if array.dtype.kind == "c":
            raise RuntimeError("[clip_grad_value_] complex gradients have no order: use clip_grad_norm_")
        xp = xp_of(array)
        if array.dtype in dtypes.HALF:
            array[...] = xp.clip(array.astype(dtypes.float32.np), -limit, limit).astype(array.dtype)
        else:
            xp.clip(array, -limit, limit, out=array)
        g._bump()
    return total


def parameters_to_vector(parameters) -> Tensor:
    """All parameters' elements as one vector, differentiable. Raises: TypeError for several devices."""
    parameters = list(parameters)
    _one_device(parameters)
    return cat([p.reshape(-1) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters) -> None:
    """Set parameters to consecutive pieces of a vector, whose memory they then share."""
    if not isinstance(vec, Tensor):
        raise TypeError(f"[vector_to_parameters] expected Tensor, but got: {type(vec).__name__}")
    parameters = list(parameters)
    _one_device(parameters)
    start = 0
    for p in parameters:
        size = math.prod(p.shape)
        p.data = vec.detach()[start:start + size].reshape(p.shape)
        start += size


def _one_device(parameters):
    if len({p.device for p in parameters}) > 1:
        raise TypeError("[parameters_to_vector] Found two parameters on different devices, this is currently not "
                        "supported.")
