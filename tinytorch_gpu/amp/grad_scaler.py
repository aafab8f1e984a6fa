"""GradScaler: the loss is multiplied, so that small float16 gradients do not underflow, and the gradients divided.

Scale, growth tracker and the flag of infinities found lie on the device. A train step with the optimizers of this
library reads none of them: the optimizer's kernel looks at the flag itself.
"""
from __future__ import annotations

import enum
import warnings
from collections.abc import Iterable
from typing import Any

from ..autograd.modes import no_grad
from ..backend import dtypes
from ..backend import kernel_multi_tensor as multi
from ..backend.device import backend_for, probe, resolve, xp_of
from ..optim.gradients import in_order, multiply
from ..tensor import Tensor, make

__all__ = ["GradScaler"]

F32 = dtypes.float32.np


class _Stage(enum.Enum):
    READY = 0
    UNSCALED = 1
    STEPPED = 2


class _Progress:
    """How far one optimizer is since the last update()."""

    __slots__ = ("stage", "found")

    def __init__(self):
        self.stage = _Stage.READY
        self.found: dict = {}  # device -> 0-d float32 tensor, other than 0 where a gradient was not finite


def _require(condition, message):
    """PyTorch raises AssertionError for these; an assert statement would be gone under python -O."""
    if not condition:
        raise AssertionError(f"[GradScaler] {message}")


def _full(value, device, dtype):
    return make(backend_for(device).xp.full((), value, dtype=dtype.np))


def _inverse(scale) -> Tensor:
    xp = xp_of(scale._array)
    with dtypes.quiet(), in_order((), (scale._array,)):  # quiet for a scale of 0
        return make(xp.asarray(xp.reciprocal(scale._array)))


class GradScaler:
    """Scales the loss, unscales gradients, skips steps with infinite or NaN gradients. As torch.amp.GradScaler.

        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)                       # only to look at or clip the gradients
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

    The scale starts at `init_scale`; a step with infinities multiplies it by `backoff_factor`, `growth_interval` steps
    without multiply it by `growth_factor`. `device` is where outputs will be (None: the default device); for "cuda"
    without a GPU the scaler warns and is disabled, as PyTorch's. Disabled, it passes everything through.

    Optimizers that claim `_step_supports_amp_scaling` (all of this library) get the attributes `grad_scale` and
    `found_inf`, 0-d tensors, for the call of `step`, and nothing waits for the device. For others `step` reads the
    flag once. `get_scale` and `state_dict` read too.

    Raises: AssertionError and RuntimeError for calls in an impossible order, as PyTorch; ValueError for float16
    gradients in `unscale_`, which could not hold them unscaled (`step` alone can: it unscales in float32).
    """

    def __init__(self, device=None, init_scale: float = 2.0**16, growth_factor: float = 2.0,
                 backoff_factor: float = 0.5, growth_interval: int = 2000, enabled: bool = True):
        # resolving "cuda" says nothing about whether a GPU answers: where it does not, the program runs on the CPU
        self._device = resolve(device).type
        self._enabled = bool(enabled)
        if self._enabled and self._device == "cuda" and not probe().available:
            warnings.warn(f"[GradScaler] device is cuda, but no GPU answers ({probe().reason}): disabled", stacklevel=2)
            self._enabled = False
        if not self._enabled:
            return
        _require(growth_factor > 1.0, f"The growth factor must be > 1.0, got {growth_factor}")
        _require(backoff_factor < 1.0, f"The backoff factor must be < 1.0, got {backoff_factor}")
        self._init_scale, self._init_growth_tracker = float(init_scale), 0
        self._growth_factor, self._backoff_factor = float(growth_factor), float(backoff_factor)
        self._growth_interval = int(growth_interval)
        self._scale: Tensor | None = None  # made where the first output is, as is _growth_tracker
        self._growth_tracker: Any = None
        self._progress: dict[int, _Progress] = {}

    def _of(self, optimizer) -> _Progress:
        return self._progress.setdefault(id(optimizer), _Progress())

    def _begun(self, name) -> Tensor:
        if self._scale is None:
            raise AssertionError(f"[GradScaler] Attempted {name} but _scale is None: use scaler.scale(loss or outputs) "
                                 "earlier in the iteration")
        return self._scale

    def scale(self, outputs):
        """`outputs`, a tensor or nested iterables of tensors, times the scale.

        Raises: ValueError for anything else.
        """
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            if self._scale is None:
                self._scale = _full(self._init_scale, outputs.device, dtypes.float32)
                self._growth_tracker = _full(self._init_growth_tracker, outputs.device, dtypes.int32)
            return outputs * self._scale.to(outputs.device)
        if isinstance(outputs, Iterable) and not isinstance(outputs, (str, bytes)):
            scaled = map(self.scale, outputs)
            return type(outputs)(scaled) if isinstance(outputs, (list, tuple)) else scaled
        raise ValueError(f"[GradScaler] outputs must be a Tensor or an iterable of Tensors, got "
                         f"{type(outputs).__name__}")

    @no_grad()
    def _check(self, optimizer, factor=None, half=True) -> dict:
        """Look for infinities in the optimizer's gradients, times `factor`; by device, whether there are some."""
        places: dict = {}
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if not half and p.grad.dtype is dtypes.float16:
                    raise ValueError("[GradScaler] Attempting to unscale FP16 gradients: they could not hold them; "
                                     "keep float32 parameters under autocast, or leave unscale_ out")
                places.setdefault(p.device, []).append(p.grad)
        found = {}
        for where, grads in places.items():
            found[where] = _full(0.0, where, dtypes.float32)
            multiply(grads, None if factor is None else factor.to(where)._array, found[where]._array)
        return found

    def unscale_(self, optimizer) -> None:
        """Divide the gradients of the optimizer's parameters by the scale, in place, and look for infinities.

        Raises: RuntimeError for a second time, or after `step`; ValueError for float16 gradients.
        """
        if not self._enabled:
            return
        scale, progress = self._begun("unscale_"), self._of(optimizer)
        if progress.stage is _Stage.UNSCALED:
            raise RuntimeError("[GradScaler] unscale_() has already been called on this optimizer since the last "
                               "update()")
        if progress.stage is _Stage.STEPPED:
            raise RuntimeError("[GradScaler] unscale_() is being called after step(): call it before")
        progress.found = self._check(optimizer, _inverse(scale), half=False)
        progress.stage = _Stage.UNSCALED

    def step(self, optimizer, *args, **kwargs):
        """Step the optimizer, with unscaled gradients, unless some are infinite or NaN; returns what it returns.

        Raises: RuntimeError for a second time since `update`, or a closure; AssertionError without `scale` before.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs or any(map(callable, args)):
            raise RuntimeError("[GradScaler] Closure use is not currently supported if GradScaler is enabled.")
        scale, progress = self._begun("step"), self._of(optimizer)
        if progress.stage is _Stage.STEPPED:
            raise RuntimeError("[GradScaler] step() has already been called since the last update()")
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            if progress.stage is _Stage.READY:
                progress.found = self._check(optimizer)
            result = self._step_by_itself(optimizer, progress, scale, args, kwargs)
        else:
            if progress.stage is _Stage.READY:
                self.unscale_(optimizer)
            found = self._found(progress.found, scale.device, "for this optimizer")
            result = None if found.item() else optimizer.step(*args, **kwargs)
        progress.stage = _Stage.STEPPED
        return result

    def _step_by_itself(self, optimizer, progress, scale, args, kwargs):
        """The optimizer divides by `grad_scale` and looks at `found_inf`."""
        given = getattr(optimizer, "grad_scale", None)  # the user's own scale multiplies ours
        if progress.stage is _Stage.READY:
            given = scale if given is None else scale * given
        optimizer.grad_scale = given
        optimizer.found_inf = self._found(progress.found, scale.device, "for this optimizer")
        try:
            return optimizer.step(*args, **kwargs)
        finally:
            del optimizer.grad_scale, optimizer.found_inf

    @staticmethod
    def _found(found, device, when) -> Tensor:
        """The flags of all devices as one."""
        _require(found, f"No inf checks were recorded {when}: no parameter has a gradient, or step() was not called")
        flags = [flag.to(device) for flag in found.values()]
        return flags[0] if len(flags) == 1 else sum(flags[1:], flags[0])

    def update(self, new_scale=None) -> None:
        """Adapt the scale to what the steps since the last update found, or set it to `new_scale`, a number or a
        tensor of one element. Raises: AssertionError without a step before, or for another tensor."""
        if not self._enabled:
            return
        scale = self._begun("update")
        if new_scale is None:
            flags = {(key, where): flag for key, progress in self._progress.items()
                     for where, flag in progress.found.items()}
            found = self._found(flags, scale.device, "prior to update")._array
            with in_order((scale._array, self._growth_tracker._array), (found,)):
                self._adapt(scale._array, self._growth_tracker._array, found)
        elif isinstance(new_scale, Tensor):
            _require(new_scale.numel() == 1 and not new_scale.requires_grad,
                     "new_scale should be a float or a 1-element tensor with requires_grad=False")
            value = new_scale.detach().to(scale.device)._array.reshape(())
            with in_order((scale._array,), (value,)):
                scale._array[...] = value
        else:
            with in_order((scale._array,)):
                scale._array[...] = float(new_scale)
        scale._bump()
        self._progress = {}

    def _adapt(self, scale, tracker, found):
        growth, backoff, interval = self._growth_factor, self._backoff_factor, self._growth_interval
        if multi.fits(scale):
            multi.update_scale(scale, tracker, found, growth, backoff, interval)
            return
        xp = xp_of(scale)
        with dtypes.quiet():
            bad, wide, good = found != 0, scale.astype(dtypes.float64.np), tracker + 1
            grown, shrunk = (wide * growth).astype(F32), (wide * backoff).astype(F32)
            due = good == interval
            tracker[...] = xp.where(bad | due, 0, good)
            scale[...] = xp.where(bad, shrunk, xp.where(due & xp.isfinite(grown), grown, scale))

    def get_scale(self) -> float:
        """The scale, 1.0 if disabled. Waits for the device."""
        if not self._enabled:
            return 1.0
        return self._init_scale if self._scale is None else self._scale.item()

    def _tracked(self) -> int:
        return self._init_growth_tracker if self._growth_tracker is None else self._growth_tracker.item()

    def get_growth_factor(self) -> float:
        """By what the scale grows."""
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        """Set by what the scale grows."""
        self._growth_factor = new_factor

    def get_backoff_factor(self) -> float:
        """By what an infinity multiplies the scale."""
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        """Set by what an infinity multiplies the scale."""
        self._backoff_factor = new_factor

    def get_growth_interval(self) -> int:
        """After how many steps without infinities the scale grows."""
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        """Set after how many steps without infinities the scale grows."""
        self._growth_interval = new_interval

    def is_enabled(self) -> bool:
        """Whether it scales at all."""
        return self._enabled

    def state_dict(self) -> dict:
        """`scale`, `growth_factor`, `backoff_factor`, `growth_interval` and `_growth_tracker` as numbers; empty if
        disabled. Waits for the device; call it after `update`."""
        if not self._enabled:
            return {}
        return {"scale": self.get_scale(), "growth_factor": self._growth_factor,
                "backoff_factor": self._backoff_factor, "growth_interval": self._growth_interval,
                "_growth_tracker": self._tracked()}

    def load_state_dict(self, state_dict: dict) -> None:
        """Continue from what `state_dict` gave. Raises: RuntimeError for an empty one."""
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError("[GradScaler] The source state dict is empty, possibly because it was saved from a "
                               "disabled instance of GradScaler.")
        self._init_scale, self._init_growth_tracker = state_dict["scale"], state_dict["_growth_tracker"]
        self._growth_factor, self._backoff_factor = state_dict["growth_factor"], state_dict["backoff_factor"]
        self._growth_interval = state_dict["growth_interval"]
        if self._scale is not None:
            self._scale._array[...], self._growth_tracker._array[...] = self._init_scale, self._init_growth_tracker

    def __getstate__(self):
        state = self.__dict__.copy()
        if self._enabled:
            _require(not self._progress, "A GradScaler instance may only be pickled at the beginning of an iteration, "
                                         "or at the end after scaler.update()")
            state.update(_init_scale=self.get_scale(), _init_growth_tracker=self._tracked(), _scale=None,
                         _growth_tracker=None)
        return state
