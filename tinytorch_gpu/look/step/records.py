"""What is kept of training steps: parameters, backward passes, clippings, the steps themselves; figures read late."""
from __future__ import annotations

import math
import threading
import weakref

import numpy as np

from ...autograd.operands import wide
from ..gradients.watch import read

__all__ = ["Backward", "Clip", "Entry", "Kept", "Mark", "Number", "Numbers", "Row", "scalar", "together"]


class Number:
    """A figure: a 0-d array on its device until `Numbers.read`, then a float."""

    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


class Numbers:
    """Figures that wait, to be read in one copy."""

    def __init__(self):
        self._waiting: list[Number] = []
        self._lock = threading.Lock()

    def of(self, array) -> Number:
        number = Number(array)
        with self._lock:
            self._waiting.append(number)
        return number

    def read(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for number, value in zip(waiting, read([n.value for n in waiting]), strict=True):
            number.value = value


def scalar(t):
    """The value of a tensor of one element, which may change afterwards, as a 0-d array."""
    return wide(t._array).reshape(()).astype(np.float64)


def together(numbers) -> float:
    """The norm of all parts together; NaN and infinities come through."""
    return math.hypot(*[n.value if isinstance(n, Number) else n for n in numbers])


class Mark:
    """A gradient at one moment: its Tensor, weakly, and the version of its memory; `step` that used it."""

    __slots__ = ("_ref", "_version", "step")

    def __init__(self, grad, step=None):
        self._ref, self._version, self.step = weakref.ref(grad), grad._version, step

    def fits(self, grad) -> bool:
        """Whether this is that gradient and nothing was written into it since."""
        return grad is not None and self._ref() is grad and self._version == grad._version


class Entry:
    """A parameter that is watched. `owner`: (the module's name, id), None for one that only an optimizer has.

    `events` since `.grad` was empty: ("held", norm of what was there, step that had used it or None) and
    ("added", Backward, norm of what came). `used`: as the last step left it; `left`: as the last backward or unscale_
    left it. `before`, `clip`: its norm before the first clipping since, and that clipping; `later`: more came after it.
    """

    __slots__ = ("name", "tensor", "owner", "handle", "events", "used", "left", "unscaled", "mixed",
                 "before", "clip", "later", "reached", "norms")

    def __init__(self, name, tensor, owner):
        self.name, self.tensor, self.owner = name, tensor, owner
        self.handle = None
        self.used: Mark | None = None
        self.left: Mark | None = None
        self.reached = 0  # backward passes that sent it a gradient
        self.norms: list[float | None] = []  # of the gradient that each step used
        self.empty()

    def empty(self) -> None:
        """Begin anew: `.grad` is empty, or a step has used it."""
        self.events: list[tuple] = []
        self.unscaled = False
        self.mixed: Number | None = None
        self.before: Number | None = None
        self.clip: Clip | None = None
        self.later = False

    def scaled_by(self) -> Number | None:
        """The loss scale that is in `.grad`, as far as it is as a backward, or a clipping of that, has left it."""
        grad = self.tensor._grad
        scales = [e[1].scale for e in self.events if e[0] == "added"]
        if self.unscaled or not scales or scales[-1] is None or self.left is None:
            return None
        known = self.left.fits(grad) or (self.clip is not None and self in self.clip.scaled)
        return scales[-1] if known else None

    def settle(self) -> None:
        """Once the norms are read: drop the events before `.grad` was set to zero in place."""
        zeros = [i for i, e in enumerate(self.events) if e[0] == "held" and e[1].value == 0]
        if zeros:
            del self.events[:max(zeros) + 1]

    def added(self) -> list[tuple[Backward, Number]]:
        """What backward passes have added, in order."""
        return [(e[1], e[2]) for e in self.events if e[0] == "added"]


class Backward:
    """One call of backward(). `roots`: its losses' nodes, `tops`: these and the nodes next to them, both weakly;
    `values` of the losses that are scalars; `before`: the step that is next."""

    __slots__ = ("number", "before", "line", "name", "roots", "tops", "values", "scale", "twice", "evaluated",
                 "terms", "step", "norms")

    def __init__(self, number, before, line, name, roots, tops):
        self.number, self.before, self.line, self.name, self.roots, self.tops = number, before, line, name, roots, tops
        self.values: list[Number] = []
        self.scale: Number | None = None  # GradScaler's
        self.twice: Backward | None = None  # an earlier pass from the same losses
        self.evaluated: tuple = ()  # (model, module) in its graph that ran in eval mode
        self.terms: list[tuple] = []  # (name, line, {Entry: Number}) of the terms of a sum
        self.step: int | None = None  # that used it first
        self.norms: dict[Entry, Number] = {}

    def alive(self) -> bool:
        return any(r() is not None for r in self.tops)

    def factor(self) -> float:
        """What its gradients are to be divided by."""
        return 1.0 if self.scale is None else self.scale.value


class Clip:
    """One call that clips. `norm`: what is compared with `limit`; `scaled`: the entries that held scaled gradients."""

    __slots__ = ("function", "line", "limit", "norm", "norm_type", "scaled", "scale")

    def __init__(self, function, line, limit, norm, norm_type):
        self.function, self.line, self.limit, self.norm, self.norm_type = function, line, limit, norm, norm_type
        self.scaled: dict[Entry, None] = {}  # in the order of the parameters
        self.scale: Number | None = None

    def active(self) -> bool:
        return self.norm.value > self.limit


class Kept:
    """Graphs that were still there after the next step. `rows`: the number of each one's step; `nodes` of all."""

    __slots__ = ("rows", "line", "nodes", "holder")

    def __init__(self, rows, line, nodes, holder):
        self.rows, self.line, self.nodes, self.holder = rows, line, nodes, holder


class Row:
    """One call of an optimizer's step()."""

    __slots__ = ("number", "optimizer", "line", "lrs", "used", "before", "again", "clips", "scaled", "scale",
                 "skipped", "backwards", "own", "norm", "unclipped")

    def __init__(self, optimizer, line, own, lrs):
        self.optimizer, self.line, self.own, self.lrs = optimizer, line, own, lrs
        self.number = 0
        self.used: dict[Entry, Number] = {}  # norms of the gradients that are there
        self.before: dict[Entry, Number] = {}  # the same before clipping
        self.again: list[Entry] = []  # whose gradient an earlier step has used, and nothing was added
        self.clips: list[Clip] = []
        self.scaled: dict[Entry, Number] = {}  # gradients that are still scaled, and nobody will divide them
        self.scale: Number | None = None  # what the optimizer divides by
        self.skipped = False
        self.backwards: list[Backward] = []
        self.norm: float | None = None  # of all gradients, as they were used
        self.unclipped: float | None = None

    def close(self) -> None:
        """Keep the sums alone."""
        if self.used:
            self.norm = together(self.used.values()) / self.factor()
            self.unclipped = together(self.before.values()) / self.factor()
        self.used, self.before, self.scaled, self.own, self.again = {}, {}, {}, [], []

    def factor(self) -> float:
        return 1.0 if self.scale is None else self.scale.value
