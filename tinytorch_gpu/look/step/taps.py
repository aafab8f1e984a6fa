"""Calls of gradient clipping and of GradScaler, told to whoever listens."""
from __future__ import annotations

import functools
import math
import sys
import threading

from ...amp import GradScaler
from ...nn import utils
from ...tensor import Tensor
from .records import scalar

__all__ = ["Taps", "compared"]

LIMITS = ("max_norm", "clip_value", "norm_type", "total_norm")  # arguments of the functions of nn.utils


class Taps:
    """Inside `with`, what clips and scales gradients tells `listener`, whose methods are

        clipping(name, limits, parameters)   a function of nn.utils is about to clip
        scaled(scaler, given, result)        GradScaler.scale of one tensor; disabled, it returns what it was given
        unscaled(scaler, optimizer)          GradScaler.unscale_ is through
        stepping(scaler, optimizer)          GradScaler.step begins, and
        stepped(scaler, optimizer)           is through

    However a program imported the clipping functions: it is the lookup of gradients inside of them that is replaced.
    What was there is put back when the last block ends.
    """

    _lock = threading.Lock()
    _listeners: tuple = ()
    _originals: dict = {}

    def __init__(self, listener):
        self._listener = listener

    def __enter__(self):
        with Taps._lock:
            if not Taps._listeners:
                Taps._originals = {name: getattr(owner, name) for owner, name, _ in _WRAPPERS}
                for owner, name, wrapper in _WRAPPERS:
                    setattr(owner, name, wrapper)
            Taps._listeners += (self._listener,)
        return self

    def __exit__(self, *exc):
        with Taps._lock:
            Taps._listeners = tuple([x for x in Taps._listeners if x is not self._listener])
            if not Taps._listeners:
                for owner, name, _ in _WRAPPERS:
                    setattr(owner, name, Taps._originals[name])


def compared(limits, grads) -> tuple:
    """(threshold, order of the norm or None, the 0-d array that is compared with it) of a call that clips."""
    if "clip_value" in limits:
        return float(limits["clip_value"]), math.inf, scalar(utils.get_total_norm(grads, math.inf))
    if "total_norm" in limits:  # whatever it was computed of
        return float(limits["max_norm"]), None, scalar(limits["total_norm"])
    order = float(limits["norm_type"])
    return float(limits["max_norm"]), order, scalar(utils.get_total_norm(grads, order))


def _grads(parameters):
    """In the place of nn.utils._grads, which each clipping function calls first."""
    several = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    caller = sys._getframe(1)
    given = caller.f_locals
    limits = {name: given[name] for name in LIMITS if name in given}
    for listener in Taps._listeners:
        listener.clipping(caller.f_code.co_name, limits, several)
    return Taps._originals["_grads"](several)


@functools.wraps(GradScaler.scale)
def _scale(self, outputs):
    result = Taps._originals["scale"](self, outputs)
    if isinstance(outputs, Tensor):
        for listener in Taps._listeners:
            listener.scaled(self, outputs, result)
    return result


@functools.wraps(GradScaler.unscale_)
def _unscale(self, optimizer):
    result = Taps._originals["unscale_"](self, optimizer)
    for listener in Taps._listeners:
        listener.unscaled(self, optimizer)
    return result


@functools.wraps(GradScaler.step)
def _step(self, optimizer, *args, **kwargs):
    for listener in Taps._listeners:
        listener.stepping(self, optimizer)
    result = Taps._originals["step"](self, optimizer, *args, **kwargs)
    for listener in Taps._listeners:
        listener.stepped(self, optimizer)
    return result


_WRAPPERS = ((utils, "_grads", _grads), (GradScaler, "scale", _scale), (GradScaler, "unscale_", _unscale),
             (GradScaler, "step", _step))
