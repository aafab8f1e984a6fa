"""Where NaN and infinities begin: each operator's operands, results and gradients as `look.record` notes them."""
from __future__ import annotations

import linecache
import math
import weakref

import numpy as np

from ...autograd.anomaly import user_frames
from ...autograd.node import AccumulateGrad, endpoint
from ...autograd.operands import wide
from ...autograd.views import CopySlices
from ...backend import dtypes
from ...backend.device import backend_of, is_array
from ...tensor import Tensor
from ..recorder import note_of
from ..sample import sample

__all__ = ["KEPT", "Origins"]

KEPT = 100  # events
INF = frozenset({"Inf"})
NOTHING = (frozenset[str](), 0)  # sent to a node: kinds, gradients


class _Origin:
    """What is kept of one operator application, as long as its graph lives."""

    __slots__ = ("name", "place", "frame", "operands", "bad", "targets", "node")

    def __init__(self, name, place, frame, operands, bad, targets, node=None):
        self.name, self.place, self.frame, self.operands, self.bad = name, place, frame, operands, bad
        self.targets, self.node = targets, node  # weakly, the notes of the nodes that its gradients go to; its own node


class _Operand:
    """One argument: its kinds ("NaN", "Inf"), whether they are news, a row for the tables, its figures a Sample; and
    whether its infinities are meant: a number that is written out, -inf in a constant, as in an additive mask."""

    __slots__ = ("kinds", "fresh", "row", "meant")

    def __init__(self, kinds=frozenset(), fresh=False, row=None, meant=False):
        self.kinds, self.fresh, self.row, self.meant = kinds, fresh, row, meant


class Origins:
    """The events in order, each with how many "times" it was. An event: an operator whose result, or gradient, has NaN
    or Inf that nothing it was given has; or something from outside that has them: an operand, a number, the gradient
    given to backward(), what a hook returned."""

    def __init__(self, stop=None):
        self.stop = stop  # called with the first event
        self.events: list[dict] = []
        self._places: dict[tuple, dict] = {}  # what an event is, without its figures -> the first one
        self.count = self.operators = self.backwards = 0
        self._known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # note -> _Origin
        self._leaves: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # note -> weak leaf
        self._received: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # note -> kinds that were sent to it,
        # and how many gradients
        self._outside: dict[int, tuple] = {}  # id of a Tensor -> (it weakly, version, _Operand)
        self._roots: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # in the order of first calls
        self._names: dict[int, tuple] = {}  # id of a parameter or buffer -> (it weakly, its name)
        self._named_until = 0  # the count of operators from which on a search for new ones pays again

    # what the recorder tells

    def operator(self, node, note, args, outs) -> None:
        self.operators += 1
        if note.place is not None and (root := note.place.root()) is not None and root not in self._roots:
            self._roots[root] = None
            self._named_until = 0
        operands = [self._operand(i, a) for i, a in enumerate(args)]
        bad = [kinds_of(o, s) for o, s in zip(outs, note.outputs)]
        targets = []
        for edge in node.edges:
            target = endpoint(edge)[0] if edge is not None else None
            other = note_of(target) if target is not None else None
            targets.append(None if other is None else weakref.ref(other))
            if target.__class__ is AccumulateGrad and other is not None:
                self._leaves[other] = weakref.ref(target.variable)
        origin = self._known[note] = _Origin(node.name(), note.place, user_frames(innermost=True)[-1],
                                             [o.row for o in operands if o.row is not None], bad, targets,
                                             weakref.ref(node))
        given = union(o.kinds for o in operands)

        def rows():
            found = [_array_row(_role(i, a, self._name(a)), _raw(a)) for i, a in enumerate(args) if _raw(a) is not None]
            return found + [_array_row("result" if len(outs) == 1 else f"result {i}", o) for i, o in enumerate(outs)]

        for i, (a, operand) in enumerate(zip(args, operands)):
            if operand.fresh:
                what = "operand" if _raw(a) is not None else "number"
                self._add(origin, "forward", what, operand.kinds, rows, _role(i, a, self._name(a)), operand.meant)
        made = union(bad) - given
        if made:
            self._add(origin, "forward", "made", made, rows)

    def gradients(self, note, sent, arrived) -> None:
        origin = self._known.get(note)
        if origin is None:  # made before the block
            return
        self.backwards += 1
        given = union(kinds_of(g._array, s) for g, s in zip(arrived, note.arrived) if g is not None)
        gone = [frozenset() if g is None else kinds_of(_raw(g), s) for g, s in zip(sent, note.sent)]

        def rows():
            found = [_array_row("grad" if len(arrived) == 1 else f"grad of result {i}", g._array)
                     for i, g in enumerate(arrived) if g is not None]
            found += [_sample_row(row) for row in origin.operands]
            return found + [_array_row(f"grad of input {i}", _raw(g)) for i, g in enumerate(sent) if g is not None]

        came, sent_to_it = self._received.pop(note, NOTHING)
        news = given - came
        if news:
            hooked = sent_to_it == 1 and _has_hooks(origin.node())
            self._add(origin, "backward", "hook" if hooked else "sum" if sent_to_it else "given", news, rows)
        made = union(gone) - given
        if made:
            self._add(origin, "backward", "made", made, rows)
        for target, g, kinds in zip(origin.targets, sent, gone):
            other = None if target is None or g is None else target()
            if other is not None:
                came, count = self._received.get(other, NOTHING)
                self._received[other] = came | kinds, count + 1

    def leaf(self, note, grads) -> None:
        if note not in self._leaves:
            return
        came, sent_to_it = self._received.pop(note, NOTHING)
        given = union(kinds_of(g._array, s) for g, s in zip(grads, note.arrived) if g is not None)
        news = given - came
        if news:
            name = self._name(self._leaves[note]()) or "a leaf"
            origin = _Origin("AccumulateGrad", None, None, (), (), ())
            self._add(origin, "backward", "sum" if sent_to_it else "given", news, lambda: [
                _array_row(f"grad of {name}", g._array) for g in grads if g is not None], name)

    def end(self) -> None:
        """Let go of all but the events."""
        for table in (self._known, self._leaves, self._received, self._outside, self._roots, self._places,
                      self._names):
            table.clear()

    # pieces

    def _operand(self, i, a) -> _Operand:
        """What is known of an argument; computed where no operator of the block made it, once for each version."""
        if isinstance(a, (float, complex)):
            kinds = number_kinds(a)
            return _Operand(kinds, bool(kinds), meant=kinds == INF)
        array = _raw(a)
        if array is None:
            return _Operand()
        if not isinstance(a, Tensor):
            looked = sample(array)
            kinds = kinds_of(array, looked)
            return _Operand(kinds, bool(kinds), _row(_role(i, a), array, looked), is_mask(kinds, looked))
        node = a.grad_fn
        note = note_of(node) if node is not None else None
        origin = self._known.get(note) if note is not None else None
        if note is not None and origin is not None:
            return _Operand(origin.bad[a._index], False, _row(_role(i, a), array, note.outputs[a._index]))
        known = self._outside.get(id(a))
        if known is not None and known[0]() is a and known[1] == a._version:
            return _Operand(known[2].kinds, False, known[2].row)
        looked = sample(array)
        kinds = kinds_of(array, looked)
        fresh = bool(kinds) and node.__class__ is not CopySlices  # whose maker is told of by itself
        found = _Operand(kinds, fresh, _row(_role(i, a, self._name(a)), array, looked),
                         not a.requires_grad and is_mask(kinds, looked))
        self._outside[id(a)] = (weakref.ref(a), a._version, found)
        return found

    def _name(self, a) -> str | None:
        """A parameter's or buffer's dotted name in the models that were called."""
        if not isinstance(a, Tensor) or a.grad_fn is not None:
            return None
        known = self._names.get(id(a))
        if known is not None and known[0]() is a:
            return known[1]
        if self.operators < self._named_until:
            return None
        # A table, for a walk of all modules at each operator took time by the square of their number. A Tensor that is
        # none of a model's comes at any time: a new walk waits until as many operators ran as there are names.
        self._names = {id(t): (weakref.ref(t), name) for root in reversed(list(self._roots))
                       for named in (root.named_buffers(), root.named_parameters()) for name, t in named}
        self._named_until = self.operators + len(self._names) + 1
        known = self._names.get(id(a))
        return None if known is None else known[1]

    def _add(self, origin, direction, what, kinds, rows, name=None, meant=False) -> None:
        self.count += 1
        place = origin.place
        root = None if place is None else place.root()
        module = None if place is None else {
            "name": place.name, "class": place.kind, "model": None if root is None else type(root).__name__}
        key = (direction, what, kinds, meant, origin.name, name, origin.frame,
               *(() if module is None else module.values()))
        if key in self._places:  # the next step tells the same again
            self._places[key]["times"] += 1
            return
        if len(self.events) == KEPT:
            return
        event = self._places[key] = {
            "direction": direction, "what": what, "kinds": sorted(kinds, reverse=True), "operator": origin.name,
            "name": name, "meant": meant, "arrays": rows(), "module": module, "line": _line(origin.frame),
            "times": 1,
        }
        self.events.append(event)
        if self.stop is not None:
            self.stop(event)


def _has_hooks(node) -> bool:
    """Whether hooks of a node, or of its results, may have changed what arrived at it."""
    return node is not None and node.hooks is not None and bool(
        any(node.hooks.tensor.values()) or node.hooks.pre)


def union(sets) -> frozenset:
    return frozenset().union(*sets)


def is_mask(kinds, looked) -> bool:
    """Whether all that is not finite in an array is -inf."""
    return kinds == INF and looked.data["max"] < math.inf


def number_kinds(x) -> frozenset:
    """As kinds_of, of a Python number."""
    parts = (x.real, x.imag)
    return frozenset([k for k, test in (("NaN", math.isnan), ("Inf", math.isinf)) if any(map(test, parts))])


def kinds_of(array, looked) -> frozenset:
    """Which of "NaN" and "Inf" an array has; `looked`, its Sample, tells of most that they have neither."""
    if looked is None:
        return frozenset()
    if array.size == 0 or wide(array).dtype.kind not in "fc":
        return frozenset()
    figures = looked.data
    if math.isfinite(figures["min"]) and math.isfinite(figures["max"]):
        return frozenset()
    xp, x = backend_of(array).xp, wide(array)
    return frozenset([k for k, test in (("NaN", xp.isnan), ("Inf", xp.isinf)) if bool(test(x).any())])


def _raw(a):
    """The array of a Tensor or array, None for anything else."""
    if isinstance(a, Tensor):
        return a._array
    return a if not isinstance(a, np.generic) and is_array(a) else None


def _role(i, a, name=None) -> str:
    """input 0 (0.weight), input 1 (leaf), input 2 (constant), input 3 (-inf)."""
    if _raw(a) is None:
        return f"input {i} ({a!r})"
    if name:
        return f"input {i} ({name})"
    if isinstance(a, Tensor) and a.requires_grad:
        return f"input {i}" if a.grad_fn is not None else f"input {i} (leaf)"
    return f"input {i} (constant)"


def _row(role, array, looked) -> tuple:
    return role, dtypes.of(array).name, array.shape, looked


def _sample_row(row) -> dict:
    """A row of the table from what was looked at when it was there: NaN shows in its range."""
    role, dtype, shape, looked = row
    figures = looked.data
    return {"role": role, "dtype": dtype, "shape": list(shape), "nan": None, "inf": None,
            **{k: figures[k] for k in ("min", "max", "mean", "norm")}}


def _array_row(role, array) -> dict:
    """Counts of NaN and Inf, and the figures of the finite elements."""
    xp = backend_of(array).xp
    x = wide(array)
    found = {"role": role, "dtype": dtypes.of(array).name, "shape": list(array.shape), "nan": 0, "inf": 0,
             "min": None, "max": None, "mean": None, "norm": None}
    if x.dtype.kind in "fc":
        found.update(nan=int(xp.isnan(x).sum()), inf=int(xp.isinf(x).sum()))
        x = x[xp.isfinite(x)]
    if x.size:
        figures = sample(x).data
        found.update({k: figures[k] for k in ("min", "max", "mean", "norm")})
    return found


def _line(frame) -> dict | None:
    if frame is None:
        return None
    file, line, function = frame
    return {"file": file, "number": line, "function": function, "source": linecache.getline(file, line).strip()}
