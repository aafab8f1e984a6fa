"""Gradients, weights and updates measured while a model trains, by hooks that go when the watching ends."""
from __future__ import annotations

import math
import weakref
from functools import partial
from typing import Any

import numpy as np

from ...autograd.operands import wide
from ...backend import dtypes
from ...backend.device import backend_of, host_array
from ...optim import Optimizer
from ...optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from ...tensor import Tensor
from ..recorder import unhook
from .units import Units

__all__ = ["FIGURES", "Layer", "Watch", "figures", "norm_of", "read"]

FIGURES = ("norm", "zeros", "nan", "inf")


class Layer:
    """A module with parameters of its own, under the name of its first place in the model."""

    def __init__(self, name, module, parameters):
        self.name, self.module, self.parameters = name, module, parameters


class Watch:
    """What is measured of one model. `rows`: for each step {"parameters": {id: figures}, "signals": {layer: norm},
    "skipped": by amp.GradScaler after an overflow, "unknown": by what the loss was scaled, so that there are no
    signals}."""

    def __init__(self, model, optimizers):
        self.model, self.optimizers = type(model).__name__, optimizers
        self.layers = _layers(model)
        self.parameters = {id(p): p for layer in self.layers for _, p in layer.parameters}
        self.units = Units(model)
        self.rows: list[dict] = []
        self.alive: dict[int, object] = {}  # id of a parameter -> which rows of its gradient were not zero once
        self.order: dict[int, int] = {}  # layer -> when its first call ended
        self._signals: dict[int, list] = {}
        self._before: dict[int, tuple] = {}
        self._handles: list = []
        self._hooked: list = []
        self._taps: Any = None
        self._scaled = False  # a loss since the last step
        self._divided: dict[int, float] = {}  # optimizer -> what unscale_ divided its gradients by since its last step
        self._stepping: Optimizer | None = None  # by GradScaler.step, until the optimizer's own begins

    # hooks

    def open(self) -> None:
        from ..step.taps import Taps  # which measures with what stands in this file

        self._taps = Taps(self)
        self._taps.__enter__()
        for i, layer in enumerate(self.layers):
            self._handles.append(layer.module.register_forward_hook(partial(self._called, i)))
        for o in self.optimizers:
            self._handles += [o.register_step_pre_hook(self._before_step), o.register_step_post_hook(self._after_step)]
        if not self.optimizers:
            self._handles += [register_optimizer_step_pre_hook(self._before_step),
                              register_optimizer_step_post_hook(self._after_step)]
        self.units.open()

    def close(self) -> None:
        self.units.close()
        self._taps.__exit__(None, None, None)
        for handle in self._handles:
            handle.remove()
        for node, handle in self._hooked:
            node = node()
            if node is not None:
                unhook(node, handle)
        self._handles, self._hooked = [], []
        self._before.clear()
        self._divided.clear()
        self._scaled, self._stepping = False, None
        if not self.rows:  # a backward without a step
            self.measure()
        self._signals = {}

    def _called(self, i, module, args, output) -> None:
        self.order.setdefault(i, len(self.order))
        several = output.values() if isinstance(output, dict) else output
        for t in several if isinstance(output, (tuple, list, dict)) else (output,):
            if isinstance(t, Tensor) and t.grad_fn is not None:
                node = t.grad_fn
                handle = node.register_prehook(partial(self._arrived, i, t._index))
                self._hooked.append((weakref.ref(node), handle))

    def _arrived(self, i, index, grads) -> None:
        if grads[index] is not None:
            self._signals.setdefault(i, []).append(norm_of(grads[index]._array))

    def _before_step(self, optimizer, args, kwargs) -> None:
        """Copies of the weights, and figures of the gradients: amp.GradScaler's step divides them in place. A closure's
        gradients do not exist yet."""
        if self._stepping is optimizer:
            self._stepping = None
        closure = any(map(callable, (*args, *kwargs.values())))
        skipped = _skipped(optimizer)
        for p in self._own(optimizer):
            if p.grad is not None or closure:
                self._before[id(p)] = (p._array.copy(), None if closure else self._gradient(p, skipped))

    def _after_step(self, optimizer, args, kwargs) -> None:
        self._row(optimizer, _skipped(optimizer))

    def _row(self, optimizer, skipped) -> None:
        own = self._own(optimizer)
        if not own:
            return
        if not self.rows or any(id(p) in self.rows[-1]["parameters"] for p in own):
            self.rows.append(_row())
        scale = getattr(optimizer, "grad_scale", None)
        divided = self._divided.pop(id(optimizer), None)
        if skipped:
            self.rows[-1]["skipped"] = True
            self._signals.clear()  # an overflow that the scaler took care of is no finding
        elif self._scaled and scale is None and divided is None and self._signals:
            self.rows[-1]["unknown"] = True  # divided by the program itself, or not at all
            self._signals.clear()
        self._scaled = False
        by = 1.0 if scale is None else float(scale.item())
        self._measure(self.rows[-1], own, by, by * (divided or 1.0), skipped)
        live = [(node, handle) for node, handle in self._hooked if node() is not None]
        self._hooked = live

    def _own(self, optimizer) -> list:
        return [p for group in optimizer.param_groups for p in group["params"] if id(p) in self.parameters]

    # what GradScaler does, told by Taps

    def clipping(self, name, limits, parameters) -> None:
        """No matter of these figures: the step's gradients are read when it begins."""

    def scaled(self, scaler, given, result) -> None:
        self._scaled |= result is not given  # a disabled one returns what it was given

    def unscaled(self, scaler, optimizer) -> None:
        """The gradients at the layers' outputs came with the scale, which update() will change."""
        if scaler.is_enabled():
            self._divided[id(optimizer)] = scaler.get_scale()

    def stepping(self, scaler, optimizer) -> None:
        self._stepping = optimizer

    def stepped(self, scaler, optimizer) -> None:
        """An optimizer that does not look at the flag itself is not called where the scaler found infinities."""
        skipped, self._stepping, self._scaled = self._stepping is optimizer, None, False
        if skipped and (not self.optimizers or any(o is optimizer for o in self.optimizers)):
            self._row(optimizer, True)

    # figures

    def measure(self) -> None:
        """A row of what `.grad` holds now; nothing where no parameter has a gradient."""
        if any(p.grad is not None for p in self.parameters.values()):
            self.rows.append(_row())
            self._measure(self.rows[-1], list(self.parameters.values()), 1.0, 1.0)

    def _gradient(self, p, skipped=False) -> list | None:
        """Figures of a parameter's gradient, None where it has none; notes which of its rows are not zero, but for
        those of a skipped step."""
        if p.grad is None:
            return None
        grad = p.grad._array
        if grad.ndim > 1 and not skipped:
            rows = (grad != 0).any(axis=tuple(range(1, grad.ndim)))
            self.alive[id(p)] = rows if id(p) not in self.alive else self.alive[id(p)] | rows
        return figures(grad)

    def _measure(self, row, parameters, scale, flowing, skipped=False) -> None:
        """`scale`: what `.grad` is to be divided by; `flowing`: what the gradients of the backward are."""
        names, waiting = [], []  # one copy to the host for all
        for p in parameters:
            before, found = self._before.pop(id(p), (None, None))
            found = self._gradient(p, skipped) if found is None else found
            if found is None:
                row["parameters"][id(p)] = None
                continue
            names.append(id(p))
            update = None if before is None else norm_of(_minus(p._array, before))
            waiting.append([*found, norm_of(p._array if before is None else before), update])
        signals, self._signals = self._signals, {}
        keys = list(signals)
        values = read([v for figs in waiting for v in figs] + [v for k in keys for v in signals[k]])
        for pid, figs in zip(names, waiting):
            taken = [next(values) for _ in figs]
            row["parameters"][pid] = {
                "norm": taken[0] / scale, "zeros": int(taken[1]), "nan": int(taken[2]), "inf": int(taken[3]),
                "weight": taken[4], "update": taken[5]}
        for k in keys:
            row["signals"][k] = math.hypot(*[next(values) for _ in signals[k]]) / flowing


def _row() -> dict:
    return {"parameters": {}, "signals": {}, "skipped": False, "unknown": False}


def _skipped(optimizer) -> bool:
    """Whether GradScaler's flag, which the optimizer has while the scaler steps it, keeps it from stepping."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found.item())


def _layers(model) -> list[Layer]:
    """The modules with parameters that require gradients, in the order of registration; a shared one counts once."""
    seen: set[int] = set()
    found = []
    for name, module in model.named_modules():
        own = []
        for key, p in module.named_parameters(recurse=False):
            if p.requires_grad and id(p) not in seen:
                seen.add(id(p))
                own.append((f"{name}.{key}" if name else key, p))
        if own:
            found.append(Layer(name, module, own))
    return found


def _minus(a, b):
    return wide(a) - wide(b)


def _magnitudes(array):
    x = backend_of(array).xp.abs(wide(array))
    return x.astype(np.float64)


def norm_of(array):
    """The Euclidean norm as a 0-d float64 array; neither squares nor sums leave the range."""
    xp = backend_of(array).xp
    if array.size == 0:
        return xp.zeros((), np.float64)
    x = _magnitudes(array)
    largest = xp.max(x)
    scale = xp.where(xp.isfinite(largest) & (largest > 0), largest, 1.0)
    with dtypes.quiet():
        return scale * xp.sqrt(xp.sum(xp.square(x / scale)))


def figures(array) -> list:
    """FIGURES of an array as 0-d arrays: the norm, and how many elements are zero, NaN and infinite."""
    xp = backend_of(array).xp
    x = wide(array)
    return [norm_of(array), (x == 0).sum(), xp.isnan(x).sum(), xp.isinf(x).sum()]


def read(values):
    """An iterator over Python floats, in one copy for each kind of array; None stays."""
    found: list = [None] * len(values)
    kinds: dict[type, list[int]] = {}
    for i, v in enumerate(values):
        if v is not None:
            kinds.setdefault(np.generic if isinstance(v, np.generic) else type(v), []).append(i)
    for kind, places in kinds.items():
        if kind is np.generic:
            numbers = [float(values[i]) for i in places]
        else:
            xp = backend_of(values[places[0]]).xp
            numbers = host_array(xp.stack([values[i].astype(np.float64) for i in places])).tolist()
        for i, number in zip(places, numbers):
            found[i] = number
    return iter(found)
