"""autocast: matrix products in half precision, sums and losses in float32, chosen by operator.

The lists are PyTorch's for CUDA, on every device, so that a program computes in the same dtypes on a GPU and where it
is tested. (PyTorch has a shorter list for the CPU, which leaves exp, norms and softmax in bfloat16.)

    operators                                                                          cast to
    matmul, mm, bmm, mv, addmm, addmv, baddbmm, einsum, linear, conv*, attention       the half dtype
    exp, log, pow, reciprocal, rsqrt, acos, asin, cosh, sinh, tan, erfinv, softplus,   float32
    sum, prod, cumsum, cumprod, norm, logsumexp, softmax, log_softmax, layer_norm,
    rms_norm, group_norm, losses
    dot, vdot, tensordot, index_put, scatter_add                                       the widest operand
    others                                                                             nothing; mixed ones promote
"""
from __future__ import annotations

import functools
import inspect
import warnings

from ..autograd.modes import state
from ..backend import dtypes
from ..backend.device import backend_for, device, probe

__all__ = ["autocast", "is_autocast_enabled", "get_autocast_dtype", "is_autocast_available", "clear_autocast_cache",
           "is_autocast_cache_enabled"]

DEFAULT = {"cpu": dtypes.bfloat16, "cuda": dtypes.float16, "sim": dtypes.float16}


class autocast:
    """Inside, operators on one type of device cast their inputs by the lists above. As torch.amp.autocast.

    `device_type`: "cpu", "cuda" or "sim"; `dtype`: float16 or bfloat16 (left out: bfloat16 on the CPU, float16
    elsewhere). `enabled=False` switches it off inside another. `cache_enabled`: weights are cast once, until the
    outermost autocast ends; a weight that changes is cast again. Also a decorator. The backward runs outside of it,
    in the dtypes that its forward chose; in-place operators keep their tensor's dtype. Each thread has its own.

    Warns, and does nothing, for "cuda" where no GPU answers, as PyTorch. Raises: ValueError for another device type
    or dtype.
    """

    def __init__(self, device_type, dtype=None, enabled=True, cache_enabled=None):
        if not isinstance(device_type, str):
            raise ValueError(f"[autocast] expected device_type as a string, got {type(device_type).__name__} "
                             f"{device_type!r}: autocast(tensor.device.type)")
        kind = device_type.partition(":")[0]
        if kind not in DEFAULT or kind != device_type:
            raise ValueError(f"[autocast] expected device_type to be one of {', '.join(DEFAULT)}, got {device_type!r}")
        self.device = device_type
        self.fast_dtype = get_autocast_dtype(device_type) if dtype is None else dtypes.from_any(dtype)
        if self.fast_dtype not in (dtypes.float16, dtypes.bfloat16):
            raise ValueError(f"[autocast] expected dtype float16 or bfloat16, got {self.fast_dtype.name}")
        self._enabled = bool(enabled)
        self._cache = cache_enabled
        if self._enabled and kind == "cuda" and not probe().available:
            warnings.warn(f"[autocast] device_type is 'cuda', but no GPU answers ({probe().reason}): autocast is off",
                          stacklevel=2)
            self._enabled = False
        self._outer: list = []

    def __enter__(self):
        self._outer.append((state.autocast, state.autocast_cache, state.autocast_depth))
        modes = dict(state.autocast or {})
        if self.device != "cuda" or probe().available:
            kind = backend_for(device(self.device)).ndarray
            modes.pop(kind, None)
            if self._enabled:
                modes[kind] = self.fast_dtype.np
        state.autocast = modes or None
        state.autocast_depth += 1
        if self._cache is not None:
            state.autocast_cache = bool(self._cache)
        return self

    def __exit__(self, *exc):
        state.autocast, state.autocast_cache, state.autocast_depth = self._outer.pop()
        if not state.autocast_depth:
            state.casts.clear()

    def __call__(self, function):
        if inspect.isclass(function):
            raise TypeError(f"[autocast] decorate functions, not the class {function.__name__}")

        @functools.wraps(function)
        def call(*args, **kwargs):
            with self:
                return function(*args, **kwargs)

        return call


def _kind(device_type):
    kind = device_type or "cuda"
    if kind not in DEFAULT:
        raise ValueError(f"[autocast] expected device_type to be one of {', '.join(DEFAULT)}, got {kind!r}")
    return kind


def is_autocast_enabled(device_type=None) -> bool:
    """Whether autocast is on here, for a type of device ("cuda" if left out). As torch.is_autocast_enabled."""
    kind = _kind(device_type)
    if not state.autocast or kind == "cuda" and not probe().available:
        return False
    return backend_for(device(kind)).ndarray in state.autocast


def get_autocast_dtype(device_type):
    """The dtype autocast uses for a type of device: the open one's, else the default. As torch.get_autocast_dtype."""
    kind = _kind(device_type)
    if is_autocast_enabled(kind):
        return dtypes.from_any(state.autocast[backend_for(device(kind)).ndarray])
    return DEFAULT[kind]


def is_autocast_available(device_type) -> bool:
    """Whether there are lists for a type of device. As torch.amp.is_autocast_available."""
    return device_type in DEFAULT


def is_autocast_cache_enabled() -> bool:
    """Whether weights are cast only once. As torch.is_autocast_cache_enabled."""
    return state.autocast_cache


def clear_autocast_cache() -> None:
    """Forget the weights that were cast. As torch.clear_autocast_cache."""
    state.casts.clear()
