"""custom_fwd and custom_bwd: an autograd.Function under autocast. As torch.amp."""
from __future__ import annotations

import functools

from ..autograd.casting import without_autocast
from ..autograd.modes import state
from ..backend import dtypes
from ..backend.device import backend_for, device
from ..tensor import Tensor
from .autocast import autocast, is_autocast_enabled

__all__ = ["custom_fwd", "custom_bwd"]


def _cast(value, kind, dtype):
    if isinstance(value, Tensor):
        fits = value.device.type == kind and value.dtype.is_floating_point and value.dtype != dtypes.float64
        return value.to(dtype) if fits else value
    if isinstance(value, dict):
        return {_cast(k, kind, dtype): _cast(v, kind, dtype) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_cast(v, kind, dtype) for v in value)
    return value


def custom_fwd(fwd=None, *, device_type, cast_inputs=None):
    """Decorator for a Function's forward: notes the autocast around it for `custom_bwd`; with `cast_inputs`, a dtype,
    floating Tensors are cast to it and autocast is off inside. As torch.amp.custom_fwd."""
    if fwd is None:
        return functools.partial(custom_fwd, device_type=device_type, cast_inputs=cast_inputs)
    dtype = None if cast_inputs is None else dtypes.from_any(cast_inputs)

    @functools.wraps(fwd)
    def forward(*args, **kwargs):
        on = is_autocast_enabled(device_type)
        args[0]._dtype = _open_dtype(device_type) if on else None
        args[0]._fwd_used_autocast = on and dtype is None
        if not on or dtype is None:
            return fwd(*args, **kwargs)
        with without_autocast():
            return fwd(*_cast(args, device_type, dtype), **_cast(kwargs, device_type, dtype))

    return forward


def _open_dtype(device_type):
    return dtypes.from_any(state.autocast[backend_for(device(device_type)).ndarray])


def custom_bwd(bwd=None, *, device_type):
    """Decorator for a Function's backward: runs it under the autocast that its forward had. As torch.amp.custom_bwd."""
    if bwd is None:
        return functools.partial(custom_bwd, device_type=device_type)

    @functools.wraps(bwd)
    def backward(*args, **kwargs):
        if not args[0]._fwd_used_autocast:
            return bwd(*args, **kwargs)
        with autocast(device_type, args[0]._dtype):
            return bwd(*args, **kwargs)

    return backward
