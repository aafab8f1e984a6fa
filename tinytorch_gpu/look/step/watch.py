"""Training steps as they run: what backward passes add to `.grad`, who clears, clips, scales and uses it."""
from __future__ import annotations

import math
import sys
import threading
import weakref
from functools import partial

from ...autograd.anomaly import user_frames
from ...autograd.modes import is_grad_enabled
from ...autograd.node import endpoint
from ...nn import BatchNorm1d, BatchNorm2d, Dropout
from ...nn.hooks import register_module_forward_hook, register_module_forward_pre_hook
from ...optim import SGD
from ...optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from ...tensor import Tensor
from ..backward_calls import BackwardCalls
from ..gradients.watch import norm_of
from ..graph.collect import walk
from .facts import Facts
from .graphs import Graphs
from .losses import MOST, apart, name_of, terms_of
from .meet import Meetings
from .names import prefix_of
from .records import Backward, Clip, Entry, Mark, Numbers, Row, scalar
from .taps import Taps, compared

__all__ = ["Watch"]

_HOOKED = SGD.step.__code__  # of the function that stands around each optimizer's step


class _Now(threading.local):
    """Of this thread."""

    def __init__(self):
        self.call: Backward | None = None  # the backward that runs
        self.apart = False  # a pass of our own
        self.rows: list[Row] = []  # steps that have begun
        self.scaler_rows = 0


class Watch:
    """What was seen of one model, or several, between `open` and `close`. `models`: {name: Module}; `names`: {id: name}
    of optimizers that have one."""

    def __init__(self, models, optimizers, every, names):
        self.models, self.every, self.names = models, every, names
        self.optimizers = list(optimizers)  # and all that step parameters of the models
        self.inner: list = []  # optimizers whose steps others call, for the same parameters
        self.entries: dict[int, Entry] = {}
        self.modules: dict[int, str] = {}  # id -> name
        self.modes: dict[int, tuple] = {}  # id of a module that differs in eval mode -> (name, the model)
        self.called: dict[int, list[int]] = {}  # id of a module -> calls [without, with] gradients
        self.forward_only: dict[str, int] = {}  # model -> calls in train mode under no_grad()
        self.numbers, self.facts, self.meetings = Numbers(), Facts(), Meetings()
        self.rows: list[Row] = []
        self.backwards: list[Backward] = []
        self.graphs = Graphs()
        self.not_apart: dict[str, int] = {}  # why sums were not told apart -> how often
        self._scales: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # node of a scaled loss -> (scale, loss)
        self._evaluated: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # node -> (model, module) in eval mode
        self._sums: dict[tuple, int] = {}  # line -> backward passes of a sum
        self._now = _Now()
        self._lock = threading.RLock()
        self._handles: list = []
        for name, model in models.items():
            self._add(model, prefix_of(name, models))
        for o in self.optimizers:
            self.own(o)

    def _add(self, model, prefix) -> None:
        for name, module in model.named_modules():
            here = (prefix + name).rstrip(".: ")
            self.modules.setdefault(id(module), here)
            self.called.setdefault(id(module), [0, 0])
            for key, p in module.named_parameters(recurse=False):
                full = f"{name}.{key}" if name else key
                self.entries.setdefault(id(p), Entry(prefix + full, p, (here or "the model", id(module))))
            batches = isinstance(module, (BatchNorm1d, BatchNorm2d)) and module.track_running_stats
            if batches or (isinstance(module, Dropout) and module.p > 0):
                self.modes.setdefault(id(module), (f"{here} ({type(module).__name__})".lstrip(), model))

    def own(self, optimizer) -> list[Entry]:
        """The entries of an optimizer's parameters; those that no model has get one."""
        found, seen = [], set()
        for g, group in enumerate(optimizer.param_groups):
            for i, p in enumerate(group["params"]):
                if id(p) in seen:
                    self.facts.add("twice_there", None, len(self.rows), [self.entries[id(p)].name])
                    continue
                seen.add(id(p))
                if id(p) not in self.entries:
                    names = group.get("param_names")
                    self.entries[id(p)] = Entry(names[i] if names else f"{type(optimizer).__name__}'s group {g} [{i}]",
                                                p, None)
                found.append(self.entries[id(p)])
        return found

    # begin and end

    def open(self) -> None:
        self._hook_leaves()
        self._handles = [
            register_module_forward_pre_hook(self._enter), register_module_forward_hook(self._leave),
            register_optimizer_step_pre_hook(self._before_step), register_optimizer_step_post_hook(self._after_step)]
        self._calls, self._taps = BackwardCalls(self._before, self._after), Taps(self)
        self._calls.__enter__()
        self._taps.__enter__()

    def close(self) -> None:
        self._taps.__exit__()
        self._calls.__exit__()
        for handle in self._handles:
            handle.remove()
        for e in self.entries.values():
            if e.handle is not None:
                e.handle.remove()
                hooks = e.tensor._hooks
                if hooks is not None and not (hooks.tensor or hooks.retain or hooks.pre or hooks.post):
                    e.tensor._hooks = None
                e.handle = None
        self.numbers.read()
        self._losses([b for b in self.backwards if b.step is None])
        last: dict = {}
        for row in self.rows:
            last[id(row.optimizer)] = row
        self.graphs.passed([row for row in self.rows if last[id(row.optimizer)] is not row], end=True)

    def _hook_leaves(self) -> None:
        for e in self.entries.values():
            if e.handle is None and e.tensor.requires_grad:
                e.handle = e.tensor.register_hook(partial(self._arrived, e))

    # modules

    def _enter(self, module, args) -> None:
        calls = self.called.get(id(module))
        if calls is None:
            return
        calls[is_grad_enabled()] += 1
        if not is_grad_enabled() and module.training and any(module is m for m in self.models.values()):
            if any(model is module for _, model in self.modes.values()):
                name = type(module).__name__
                self.forward_only[name] = self.forward_only.get(name, 0) + 1

    def _leave(self, module, args, output) -> None:
        name, model = self.modes.get(id(module), (None, None))
        if model is not None and not module.training and not model.training and isinstance(output, Tensor):
            if output.grad_fn is not None:
                found = self._evaluated.setdefault(output.grad_fn, [])  # dropout's result is its input then
                found += [] if (model, name) in found else [(model, name)]

    # backward passes

    def _before(self, tensors, what) -> None:
        now = self._now
        now.call = None
        if what != "backward":  # grad() adds to no .grad
            return
        with self._lock:
            self._hook_leaves()
            nodes = [t.grad_fn for t in tensors]
            call = Backward(len(self.backwards) + 1, len(self.rows) + 1, user_frames(innermost=True)[-1],
                            name_of(tensors), [weakref.ref(n) for n in nodes if n is not None], self.graphs.new(nodes))
            values: list = []
            whole = 0  # how many are numbers
            for t, node in zip(tensors, nodes):
                parts = [] if node is None else self._scaled_parts(node)
                call.scale = parts[0][0] if parts else call.scale
                whole += bool(parts) or t.numel() == 1
                values += [loss for _, loss in parts] or ([self.numbers.of(scalar(t))] if t.numel() == 1 else [])
            call.values = values
            if whole == len(tensors):
                call.twice = next((b for b in reversed(self.backwards) if b.step is None and b.roots and
                                   [r() for r in b.roots] == [r() for r in call.roots]), None)
            if self._evaluated:
                seen = {n for n in walk([t._edge() for t in tensors])[0]}
                call.evaluated = tuple(dict.fromkeys([v for n, found in self._evaluated.items() if n in seen
                                                      for v in found]))
            node = nodes = None
            self._apart(call, tensors)
            self.backwards.append(call)
            now.call = call

    def _scaled_parts(self, node) -> list[tuple]:
        """[(scale, loss), ...] of what a scaler made: this node, or all terms of a sum; [] where one of them is not."""
        found, level = [], [node]
        while level and len(found) + len(level) <= MOST:
            node = level.pop(0)
            if node in self._scales:
                found.append(self._scales[node])
            elif node.name() == "Add" and None not in node.edges:
                level += [endpoint(e)[0] for e in node.edges]
            else:
                return []
        return [] if level else found

    def _apart(self, call, tensors) -> None:
        terms = terms_of(tensors) if self.every else []
        if not terms:
            return
        count = self._sums[call.line] = self._sums.get(call.line, -1) + 1
        if count % self.every:
            return
        entries = [e for e in self.entries.values() if e.tensor.requires_grad]
        self._now.apart = True
        try:
            call.terms, why = apart(tensors, terms, entries, BackwardCalls.given(), self.numbers)
        finally:
            self._now.apart = False
        if why:
            self.not_apart[why] = self.not_apart.get(why, 0) + 1

    def _arrived(self, e, grad) -> None:
        """A hook on a leaf: `grad` is about to be added to its `.grad`."""
        call = self._now.call
        if call is None or self._now.apart:
            return
        held = e.tensor._grad
        if held is None:
            e.empty()
        else:
            used = e.used.step if e.used is not None and e.used.fits(held) else None
            number = self.numbers.of(norm_of(held._array))
            e.events.append(("held", number, used))
            if e.unscaled and call.scale is not None and used is None:
                e.mixed = number
        number = self.numbers.of(norm_of(grad._array))
        e.later = e.clip is not None
        e.events.append(("added", call, number))
        call.norms[e] = number
        e.reached += 1

    def _after(self, tensors, what) -> None:
        call, self._now.call = self._now.call, None
        if call is not None:
            for e in call.norms:
                e.left = None if e.tensor._grad is None else Mark(e.tensor._grad)

    # clipping and scaling

    def clipping(self, function, limits, parameters) -> None:
        with self._lock:
            line, step = user_frames(innermost=True)[-1], len(self.rows) + 1
            own = [self.entries[id(p)] for p in parameters if id(p) in self.entries]
            if parameters and not own:
                return
            there = [p for p in parameters if p.grad is not None]
            if not there:
                kind = "clip_empty" if parameters else "clip_nothing"
                self.facts.add(kind, line, step, [e.name for e in own], function=function)
                return
            mine = [e for e in own if e.tensor._grad is not None]
            if mine and all(e.used is not None and e.used.fits(e.tensor._grad) for e in mine):
                self.facts.add("clip_late", line, step, [e.name for e in mine], function=function)
                return
            limit, norm_type, norm = compared(limits, [p.grad for p in there])
            clip = Clip(function, line, limit, self.numbers.of(norm), norm_type)
            for e in mine:
                scale = e.scaled_by()
                if scale is not None:
                    clip.scaled[e] = None
                    clip.scale = scale
                if e.before is None:
                    e.before = self.numbers.of(norm_of(e.tensor._grad._array))
                    e.clip = clip

    def scaled(self, scaler, given, result) -> None:
        if result is not given and result.grad_fn is not None and given.numel() == 1:
            # the scaler's own scale changes in update()
            self._scales[result.grad_fn] = (self.numbers.of(scalar(scaler._scale)), self.numbers.of(scalar(given)))

    def unscaled(self, scaler, optimizer) -> None:
        for e in self._mine(optimizer):
            if e.tensor._grad is not None:
                e.unscaled, e.left = True, Mark(e.tensor._grad)

    def stepping(self, scaler, optimizer) -> None:
        self._now.scaler_rows = len(self.rows)

    def stepped(self, scaler, optimizer) -> None:
        """An optimizer that does not look at the flag itself is not called where the scaler found infinities."""
        if scaler.is_enabled() and len(self.rows) == self._now.scaler_rows and self._mine(optimizer):
            self._before_step(optimizer, (), {})
            self._after_step(optimizer, (), {}, skipped=True)

    def _mine(self, optimizer) -> list[Entry]:
        """Its entries; none where it has nothing to do with the models."""
        ids = [id(p) for group in optimizer.param_groups for p in group["params"]]
        known = any(o is optimizer for o in self.optimizers)
        if not known and not any(i in self.entries and self.entries[i].owner is not None for i in ids):
            return []
        if not known:
            self.optimizers.append(optimizer)
        return self.own(optimizer)

    # steps

    def _before_step(self, optimizer, args, kwargs) -> None:
        with self._lock:
            # others raised
            running = [row for row in self._now.rows if row.optimizer is not optimizer and _runs(row.optimizer)]
            self._now.rows = running
            around = {e for row in running for e in row.own}
            params = [p for group in optimizer.param_groups for p in group["params"]]
            if any(self.entries.get(id(p)) in around for p in params):  # a wrapper's step calls this one's
                self.inner.append(optimizer)
                own = []
            else:
                own = self._mine(optimizer)
            row = Row(optimizer, user_frames(innermost=True)[-1], own, [float(g["lr"]) if "lr" in g else None
                                                                        for g in optimizer.param_groups])
            self._now.rows.append(row)
            closure = any(map(callable, (*args, *kwargs.values())))
            if own and not closure:
                self._measure(row)

    def _measure(self, row) -> None:
        scale = getattr(row.optimizer, "grad_scale", None)
        row.scale = None if scale is None else self.numbers.of(scalar(scale))
        for e in row.own:
            grad = e.tensor._grad
            if grad is None:
                continue
            row.used[e] = number = self.numbers.of(norm_of(grad._array))
            row.before[e] = e.before or number
            if e.used is not None and e.used.fits(grad):
                row.again.append(e)
            if scale is None and (left := e.scaled_by()) is not None:
                row.scaled[e] = left
            if e.clip is not None and e.clip not in row.clips:
                row.clips.append(e.clip)

    def _after_step(self, optimizer, args, kwargs, skipped=False) -> None:
        with self._lock:
            row = None
            while self._now.rows and (row is None or row.optimizer is not optimizer):  # a step that raised is none
                row = self._now.rows.pop()
            if row is None or not row.own:
                return
            closure = any(map(callable, (*args, *kwargs.values())))
            if closure:
                self._measure(row)
            found = getattr(optimizer, "found_inf", None)
            row.skipped = skipped or (found is not None and bool(found.item()))
            row.number = len(self.rows) + 1
            self.numbers.read()
            self._judge(row, closure)
            self.rows.append(row)
            self.graphs.passed([r for r in self.rows[:-1] if r.optimizer is optimizer][-1:])

    def _judge(self, row, closure) -> None:
        for e in row.own:
            e.settle()
        calls = list(dict.fromkeys([b for e in row.own for b, _ in e.added()]))
        row.backwards = calls
        for b in calls:
            if b.evaluated:  # of the models that this step trains
                trained = {id(e.tensor) for e in row.own}
                names = [name for model, name in b.evaluated if any(id(p) in trained for p in model.parameters())]
                if names:
                    self.facts.add("eval", b.line, row.number, names)
        self.facts.of_step(row, closure)
        self.meetings.step(row)
        self._losses([b for b in calls if b.step is None])
        for b in calls:
            b.step = row.number if b.step is None else b.step
        for e in row.own:
            grad = e.tensor._grad
            e.norms.append(row.used[e].value / row.factor() if e in row.used else None)
            e.empty()
            e.used = None if grad is None else Mark(grad, row.number)
        row.close()
        for b in calls:
            b.norms = {}

    def _losses(self, calls) -> None:
        for b in calls:
            bad = [v.value for v in b.values if not math.isfinite(v.value)]
            if bad:
                self.facts.add("loss", b.line, b.before, [b.name], value=bad[0], backward=b.number)


def _runs(optimizer) -> bool:
    """Whether this thread is inside a step of the optimizer."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _HOOKED and frame.f_locals.get("self") is optimizer:
            return True
        frame = frame.f_back
    return False
