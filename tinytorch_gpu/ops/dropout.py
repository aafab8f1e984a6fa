"""Dropout: the mask is not kept but made again from (seed, offset), so that a checkpoint replays it exactly."""
from __future__ import annotations

import math

from .. import ops
from ..autograd.operator import Operator, array_of
from ..backend import kernel_elementwise, random
from ..backend.device import backend_of
from .registry import public


def keep_mask(backend, shape, p, seed_offset):
    """Booleans that are True with probability 1 - p."""
    return random.bernoulli(backend, shape, 1 - p, seed_offset)


class Dropout(Operator):
    """x / (1 - p) with probability 1 - p, else 0. Saves (seed, offset)."""

    opmath = widens = True

    def fused(node, x, p, mask_shape, seed_offset):
        node.p, node.mask_shape, node.seed_offset = p, mask_shape, seed_offset
        return kernel_elementwise.dropout(x, p, seed_offset) if mask_shape == x.shape and p < 1 else None

    def forward(node, x, p, mask_shape, seed_offset):
        node.p, node.mask_shape, node.seed_offset = p, mask_shape, seed_offset
        node.backend = backend_of(x)
        return node.drop(x)

    def drop(node, x):
        if node.p == 1:
            return node.xp.zeros_like(x)
        mask = keep_mask(node.backend, node.mask_shape, node.p, node.seed_offset)
        return node.xp.multiply(x * x.dtype.type(1 / (1 - node.p)), mask)

    def backward(node, grad):
        return ops.dropout_apply(grad, node.p, node.mask_shape, node.seed_offset)


@public
def dropout_apply(input, p, mask_shape, seed_offset):
    """Dropout with the mask of (seed, offset); internal: its own gradient."""
    return Dropout.apply(input, p=p, mask_shape=mask_shape, seed_offset=seed_offset)


def reserve(x, shape):
    """(seed, offset) of the device's generator for a mask of `shape`."""
    where = backend_of(x).device_of(x)
    return random.generator_for(where).reserve((math.prod(shape) + 1) // 2)


def _drop(name, input, p, training, inplace, mask_shape):
    if not 0 <= p <= 1:
        raise ValueError(f"[{name}] dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0:
        return input
    if array_of(input).dtype.kind in "iub":
        raise RuntimeError(f"[{name}] expected a floating point or complex tensor, got "
                           f"{array_of(input).dtype}: convert with .float()")
    params = {"p": p, "mask_shape": mask_shape, "seed_offset": reserve(array_of(input), mask_shape)}
    if inplace:
        return Dropout.inplace(input, **params)
    return Dropout.apply(input, **params)


@public(functional=True)
def dropout(input, p=0.5, training=True, inplace=False):
    """Zeros with probability p, the rest divided by 1 - p. Any shape. As torch.nn.functional.dropout.

    Raises: ValueError for p outside [0, 1].
    """
    return _drop("dropout", input, p, training, inplace, array_of(input).shape)


def _channels(name, input, p, training, inplace, ndim):
    shape = array_of(input).shape
    if len(shape) not in (ndim, ndim - 1):
        raise RuntimeError(f"[{name}] expected {ndim - 1}-D or {ndim}-D input, got shape {list(shape)}")
    lead = len(shape) - (ndim - 2)
    return _drop(name, input, p, training, inplace, shape[:lead] + (1,) * (ndim - 2))


@public(functional=True)
def dropout1d(input, p=0.5, training=True, inplace=False):
    """Dropout of whole channels of (N, C, L) or (C, L). As torch.nn.functional.dropout1d."""
    return _channels("dropout1d", input, p, training, inplace, 3)


@public(functional=True)
def dropout2d(input, p=0.5, training=True, inplace=False):
    """Dropout of whole channels of (N, C, H, W) or (C, H, W). As torch.nn.functional.dropout2d."""
    return _channels("dropout2d", input, p, training, inplace, 4)


