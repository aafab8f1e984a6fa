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


class DropoutAdd(Operator):
    """residual + dropout(x), of equal shapes. Saves (seed, offset)."""

    __slots__ = ("p", "shape_of_mask", "seed_offset")
    promotion = "common"
    opmath = widens = True

    def fused(node, x, residual, p, seed_offset):
        node.p, node.shape_of_mask, node.seed_offset = p, x.shape, seed_offset
        return kernel_elementwise.dropout(x, p, seed_offset, residual) if p < 1 else None

    def forward(node, x, residual, p, seed_offset):
        node.p, node.shape_of_mask, node.seed_offset = p, x.shape, seed_offset
        out = ops.dropout_apply(x, p, x.shape, seed_offset)
        return node.xp.add(out, residual, out=out)

    def backward(node, grad):
        dropped = None
        if node.need(0):
            dropped = ops.dropout_apply(grad, node.p, node.shape_of_mask, node.seed_offset)
        return dropped, grad if node.need(1) else None


@public
def dropout_apply(input, p, mask_shape, seed_offset):
    """Dropout with the mask of (seed, offset); internal: its own gradient."""
    return Dropout.apply(input, p=p, mask_shape=mask_shape, seed_offset=seed_offset)


def reserve(x, shape):
    """(seed, offset) of the device's generator for a mask of `shape`."""
    where = backend_of(x).device_of(x)
    return random.generator_for(where).reserve((math.prod(shape) + 1) // 2)


def _idle(name, input, p, training):
    """Whether nothing is dropped; checks what dropout is given."""
    if not 0 <= p <= 1:
        raise ValueError(f"[{name}] dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0:
        return True
    if array_of(input).dtype.kind in "iub":
        raise RuntimeError(f"[{name}] expected a floating point or complex tensor, got "
                           f"{array_of(input).dtype}: convert with .float()")
    return False


def _drop(name, input, p, training, inplace, mask_shape):
    if _idle(name, input, p, training):
        return input
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


@public(functional=True)
def dropout_add(input, residual, p=0.5, training=True):
    """residual + dropout(input, p, training) in one pass, for tensors of one shape.

    The mask is that of `dropout` from the same seed, and is made again in backward instead of being kept. The result's
    dtype is the wider one, float32 for a half input and a float32 residual; both tensors stay as they are.
    Raises: ValueError for p outside [0, 1], RuntimeError for other shapes or an input of integers.
    """
    x, r = array_of(input), array_of(residual)
    if x.shape != r.shape:
        raise RuntimeError(f"[dropout_add] expected input and residual of one shape, got {tuple(x.shape)} and "
                           f"{tuple(r.shape)}: expand one, or add it to dropout(input)")
    if _idle("dropout_add", input, p, training):
        return ops.add(residual, input)
    return DropoutAdd.apply(input, residual, p=p, seed_offset=reserve(x, x.shape))


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


