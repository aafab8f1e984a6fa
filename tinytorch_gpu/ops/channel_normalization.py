"""Normalization of channels: batch, group and instance norm, with the operators of normalization.py."""
from __future__ import annotations

import math

from .. import ops
from ..autograd.operator import array_of
from ..backend import dtypes
from ..backend.device import xp_of
from .normalization import BatchNorm, GroupNorm, Layout, affine_fits, floating
from .registry import public


def _channels_fit(name, array, **others):
    for what, other in others.items():
        affine_fits(name, array, array.shape[1:2], other, what)


def _channel_shape(ndim, channels):
    return (channels,) + (1,) * (ndim - 2)


@public(functional=True)
def batch_norm(
    input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
):
    """Each channel of (batch, channels, ...) less its mean, over its standard deviation, times weight plus bias.

    Training takes the statistics of the batch and moves the running ones (variance unbiased) in place by `momentum`;
    else the running ones are used. As torch.nn.functional.batch_norm (Ioffe and Szegedy 2015). Raises: ValueError for
    one value per channel in training, RuntimeError for shapes or dtypes that do not fit.
    """
    name = "batch_norm"
    array = array_of(input)
    floating(name, array)
    if array.ndim < 2:
        raise RuntimeError(f"[{name}] expected input (batch, channels, ...), got shape {list(array.shape)}")
    batch, channels = array.shape[:2]
    inner = math.prod(array.shape[2:])
    _channels_fit(name, array, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    affine = _channel_shape(array.ndim, channels)
    if not training:
        if running_mean is None or running_var is None:
            raise RuntimeError(f"[{name}] Expected running_mean and running_var to be defined when training=False")
        return _by_running(input, running_mean, running_var, weight, bias, eps, affine)
    count = batch * inner
    if count == 0:  # an empty batch has no statistics: the running ones stay, as in PyTorch
        xp = xp_of(array)
        kind = array.dtype
        return _by_running(input, xp.zeros(channels, kind), xp.ones(channels, kind), weight, bias, eps, affine)
    if count == 1:
        raise ValueError(f"[{name}] Expected more than 1 value per channel when training, got input size "
                         f"{list(array.shape)}")
    over = (0, *range(2, array.ndim))
    layout = Layout(over, affine, (batch, channels, inner), False, True, eps)
    measured = {} if running_mean is not None or running_var is not None else None
    out = BatchNorm.apply(input, weight, bias, layout=layout, measured=measured)
    if running_mean is not None:
        _move(running_mean, measured["mean"], momentum)
    if running_var is not None:
        _move(running_var, measured["variance"] * (count / (count - 1)), momentum)
    return out


def _move(running, value, momentum):
    """running = (1 - momentum) * running + momentum * value, in place and outside of the graph."""
    memory = array_of(running)
    memory[...] = (memory * (1 - momentum) + value * momentum).astype(memory.dtype)
    if running is not memory:
        running._bump()


def _by_running(input, mean, var, weight, bias, eps, affine):
    """With given statistics it is one scale and one shift for each channel."""
    dtype = array_of(input).dtype
    scale = ops.rsqrt(ops.add(ops.cast(array_of(var), dtypes.accumulation(dtype)), eps))
    scale = scale if weight is None else ops.mul(scale, weight)
    shift = ops.neg(ops.mul(array_of(mean), scale))
    shift = shift if bias is None else ops.add(shift, bias)
    return ops.cast(ops.add(ops.mul(input, ops.reshape(scale, affine)), ops.reshape(shift, affine)), dtype)


def _affine(out, weight, bias, affine):
    if weight is not None:
        out = ops.mul(out, ops.reshape(weight, affine))
    return out if bias is None else ops.add(out, ops.reshape(bias, affine))


def _grouped(input, groups, eps, measured=None):
    """Each group of channels of each sample normalized."""
    shape = array_of(input).shape
    view = (shape[0] * groups, math.prod(shape[1:]) // max(groups, 1))
    layout = Layout((1,), (1,), view, True, True, eps)
    rows = ops.reshape(input, view)
    return ops.reshape(GroupNorm.apply(rows, None, None, layout=layout, measured=measured), shape)


@public(functional=True, autocast="float32")
def group_norm(input, num_groups, weight=None, bias=None, eps=1e-5):
    """Each of `num_groups` groups of channels of a sample (batch, channels, ...) normalized; weight, bias (channels).

    As torch.nn.functional.group_norm (Wu and He 2018). Raises: RuntimeError when the groups do not divide the channels.
    """
    name = "group_norm"
    array = array_of(input)
    floating(name, array)
    if array.ndim < 2:
        raise RuntimeError(f"[{name}] Expected at least 2 dimensions for input tensor but received {array.ndim}")
    channels = array.shape[1]
    if num_groups <= 0 or channels % num_groups:
        raise RuntimeError(f"[{name}] Expected number of channels in input to be divisible by num_groups, but got "
                           f"input of shape {list(array.shape)} and num_groups={num_groups}")
    _channels_fit(name, array, weight=weight, bias=bias)
    affine = _channel_shape(array.ndim, channels)
    return ops.cast(_affine(_grouped(input, num_groups, eps), weight, bias, affine), array.dtype)


@public(functional=True)
def instance_norm(
    input, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1, eps=1e-5
):
    """Each channel of each sample (batch, channels, ...) normalized over its positions.

    Running statistics, where given, move by `momentum` towards the batch's average and are used instead where
    `use_input_stats` is False. As torch.nn.functional.instance_norm (Ulyanov et al. 2016). Raises: ValueError for one
    position only, RuntimeError for shapes or dtypes that do not fit.
    """
    name = "instance_norm"
    array = array_of(input)
    floating(name, array)
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if array.ndim < 3 or math.prod(array.shape[2:]) <= 1:
        raise ValueError(f"[{name}] Expected more than 1 spatial element when training, got input size "
                         f"{list(array.shape)}")
    batch, channels = array.shape[:2]
    _channels_fit(name, array, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    measured = {}
    out = _grouped(input, channels, eps, measured)
    count = math.prod(array.shape[2:])
    if running_mean is not None:
        _move(running_mean, measured["mean"].reshape(batch, channels).mean(axis=0), momentum)
    if running_var is not None:
        unbiased = measured["variance"].reshape(batch, channels).mean(axis=0) * (count / (count - 1))
        _move(running_var, unbiased, momentum)
    return ops.cast(_affine(out, weight, bias, _channel_shape(array.ndim, channels)), array.dtype)
