"""Which step of gradient descent an update is: from what it makes of parameter, momentum and gradient, as sums of
multiples of them in exact numbers."""
from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from ...backend.device import backend_of
from ...nn import Parameter
from ...optim import SGD
from ...tensor import make
from .elementwise import replay
from .steps import Step, Value

__all__ = ["Descent", "both_ways", "descent_of"]

Form = dict[int, Fraction]  # number of what is read first -> what it is multiplied by


@dataclass(frozen=True)
class Descent:
    """The options of `tt.optim.SGD`; the loop's momentum is its own times `scale`."""

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    scale: float = 1.0

    @property
    def options(self) -> dict:
        """Those that are not the default."""
        given = {"lr": self.lr, "momentum": self.momentum, "weight_decay": self.weight_decay,
                 "nesterov": self.nesterov}
        return {name: value for name, value in given.items() if value or name == "lr"}

    @property
    def use(self) -> str:
        words = ", ".join(f"{k}={v if isinstance(v, bool) else format(v, '.9g')}" for k, v in self.options.items())
        return f"tt.optim.SGD(parameters, {words})"


@dataclass(frozen=True)
class _Roles:
    """A part's parameter, gradient and momentum as they are read, and the first and last as they are left behind."""

    p: Value
    g: Value
    buffer: Value | None
    new_p: Value
    new_buffer: Value | None


def descent_of(parts: list[list[Step]]) -> Descent | None:
    """What all parts are with the same options, None where one is anything else."""
    found = {_of(part) for part in parts}
    return found.pop() if len(found) == 1 else None


def _of(part) -> Descent | None:
    roles, forms = _roles(part)
    if roles is None:
        return None
    p, g = id(roles.p.held), id(roles.g.held)
    made = forms[p]
    if roles.buffer is None:  # p - lr (g + decay p)
        lr = -made.get(g, Fraction())
        return None if lr <= 0 else _descent(lr, Fraction(), (1 - made.get(p, Fraction())) / lr)
    buffer = id(roles.buffer.held)
    kept, scale, pull = (forms[buffer].get(k, Fraction()) for k in (buffer, g, p))
    if kept <= 0 or not scale:
        return None
    for nesterov in (False, True):  # the momentum's multiple, or the gradient's and that of the momentum after it
        times = 1 + kept if nesterov else Fraction(1)
        lr = -made.get(g, Fraction()) / times
        wanted = {g: -lr * times, buffer: -lr * kept * (kept if nesterov else 1) / scale,
                  p: 1 - lr * times * pull / scale}
        if lr > 0 and all(_close(made.get(k, Fraction()), wanted[k]) for k in wanted):
            return _descent(lr, kept, pull / scale, nesterov, scale)
    return None


def _close(a, b) -> bool:
    return abs(a - b) <= Fraction(1, 10**12) * max(abs(a), abs(b))


def _descent(lr, momentum, decay, nesterov=False, scale=Fraction(1)) -> Descent | None:
    if decay < 0:
        return None
    lr, momentum, decay = (float(f"{float(x):.9g}") for x in (lr, momentum, decay))
    return Descent(lr, momentum, decay, nesterov, float(scale))


def _roles(part) -> tuple[_Roles | None, dict[int, Form]]:
    """Who is who, and what each array is in the end."""
    read: dict[int, Value] = {}
    forms: dict[int, Form] = {}
    last: dict[int, Value] = {}
    written: list[int] = []
    for step in part:
        given = []
        for x in step.inputs:
            if isinstance(x, Value):
                key = id(x.held)
                if key not in forms:
                    read[key], forms[key] = x, {key: Fraction(1)}
                given.append(forms[key])
            else:
                given.append(x)
        form = _form(step, given)
        if form is None or step.out.shape != part[-1].out.shape or "float" not in step.out.array.dtype:
            return None, forms
        key = id(step.out.held)
        forms[key], last[key] = form, step.out
        if step.target is not None:
            written = [k for k in written if k != key] + [key]
    sources = [k for k in read if k not in written]
    if len(sources) != 1 or not 0 < len(written) < 3 or any(k not in read for k in written) or any(
            v.shape != part[-1].out.shape for v in read.values()):
        return None, forms
    p, buffer = written[-1], written[0] if len(written) > 1 else None
    roles = _Roles(read[p], read[sources[0]], None if buffer is None else read[buffer], last[p],
                   None if buffer is None else last[buffer])
    return roles, forms


def _form(step, given) -> Form | None:
    """A result as multiples of what was read first."""
    if step.name == "Copy" and len(given) == 2 and isinstance(given[1], dict):
        return given[1]
    if step.name == "Neg":
        return _times(given[0], -1)
    if len(given) != 2:
        return None
    a, b = given
    if step.name in ("Add", "Sub") and isinstance(a, dict) and isinstance(b, dict):
        sign = 1 if step.name == "Add" else -1
        return {k: a.get(k, Fraction()) + sign * b.get(k, Fraction()) for k in dict.fromkeys((*a, *b))}
    if step.name == "Mul" and isinstance(b, dict):
        a, b = b, a
    if not isinstance(a, dict) or not isinstance(b, (int, float)) or not math.isfinite(b):
        return None
    if step.name == "Mul":
        return _times(a, Fraction(b))
    return _times(a, 1 / Fraction(b)) if step.name == "Div" and b else None


def _times(form, number) -> Form:
    return {k: v * number for k, v in form.items()}


def both_ways(parts, descent: Descent):
    """(the loop, the optimizer's step, how to read what each changed), on copies of the same arrays."""
    found = []
    for part in parts:
        roles, _ = _roles(part)
        assert roles is not None  # of parts that are a Descent
        found.append(roles)
    grads = [make(r.g.held.copy()) for r in found]
    ours = [make(r.p.held.copy()) for r in found]
    buffers = [None if r.buffer is None else make(r.buffer.held.copy()) for r in found]
    theirs = [Parameter(make(r.p.held.copy())) for r in found]
    for p, g in zip(theirs, grads, strict=True):
        p.grad = g
    optimizer = SGD(theirs, **descent.options)
    if descent.momentum:  # as if steps had been made: the first one takes the gradient for the momentum
        state = {i: {"momentum_buffer": b / descent.scale} for i, b in enumerate(buffers) if b is not None}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})

    def loop():
        for part, r, p, b, grad in zip(parts, found, ours, buffers, grads, strict=True):
            arrays = {r.g: grad, r.p: p}
            if b is not None:
                arrays[r.buffer] = b
            made = replay(part, arrays)
            for value, into in ((r.new_p, p), (r.new_buffer, b)):
                if value is not None:
                    backend_of(into._array).xp.copyto(into._array, made[value]._array)

    return loop, optimizer.step, lambda: (ours, theirs)
