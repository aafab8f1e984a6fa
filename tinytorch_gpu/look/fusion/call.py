"""The operators that a call of a function runs, with and without gradients, as steps over its arrays."""
from __future__ import annotations

import threading

from ...autograd.anomaly import user_frames
from ...autograd.operator import Operator
from ...backend.device import is_array
from ...tensor import Tensor
from .. import spans
from ..recorder import note_of, record
from ..saved import memory_of
from .steps import NUMBERS, Program, Step, Value, access_of, meta_of

__all__ = ["of_call"]


class _Listener(spans.Listener):
    """The applications in one thread, outside of backward passes; those of an optimizer too, ours have none."""

    def __init__(self):
        self.thread = threading.get_ident()
        self.steps: list[Step] = []
        self.values: dict[int, Value] = {}
        self.casts: dict[int, dict[int, Value]] = {}  # id of a span -> {id of an operand: what autocast made of it}
        self.device = None
        self.leaves: set[int] = set()
        self.step_of: dict = {}  # node -> step
        self.ran: set[Step] = set()  # of which a backward was seen
        self.unknown: list[str] = []
        self.same: list = []  # views that are what they look at, so that their numbers are not given again

    def begin(self, span):
        return len(self.steps)

    def end(self, span, mark) -> None:
        if span.failed or threading.get_ident() != self.thread:
            return
        if span.kind == "backward" and span.what in self.step_of:
            self.ran.add(self.step_of[span.what])
        if span.kind == "inplace" and len(self.steps) > mark:
            self._written(span.what)
        if span.kind != "operator":
            return
        around = span.parent
        cast = around is not None and around.kind == "operator" and span.name == "Cast"
        while around is not None and around.kind in ("module", "inplace", "step"):
            around = around.parent
        if around is not None and not cast:  # inside another operator, or a backward
            return
        tensors = tensors_of(span.given)
        if not tensors:
            return
        if self.device is None:
            self.device = tensors[0].device
        self._step(span, cast)

    def _step(self, span, cast) -> None:
        cast_of = self.casts.pop(id(span), {})
        inputs = [self._input(a, cast_of) for a in span.given]
        params = {k: self._value(v) if is_array(v) and v.ndim else v for k, v in span.params.items()}
        results = span.result if isinstance(span.result, tuple) else (span.result,)
        results = [r for r in results if isinstance(r, Tensor)]
        outputs = []
        for t in results:
            value = Value(meta_of(t._array), access_of(t._array), held=t._array)
            if issubclass(span.what, Operator) and span.what.view and isinstance(inputs[0], Value):
                if _same(t._array, inputs[0].held):
                    self.values[id(t._array)] = inputs[0]
                    self.same.append(t._array)
                    return
                if not _shares(t._array, inputs[0].held):
                    value.access = "copied"
            self.values[id(t._array)] = value
            outputs.append(value)
        node = results[0].grad_fn if results else None
        note = note_of(node) if node is not None else None
        cls = span.what if issubclass(span.what, Operator) else None
        step = Step(len(self.steps) + 1, span.name if cls is None else cls.__name__, cls, inputs, outputs, params,
                    note.place if note is not None else None, user_frames(innermost=True)[-1], node)
        self.steps.append(step)
        if node is not None:
            self.step_of[node] = step
        if cls is None or step.cost().family == "unknown":
            self.unknown.append(step.name)
        if cast:
            self.casts.setdefault(id(span.parent), {})[id(tensors_of(span.given)[0]._array)] = outputs[0]

    def _input(self, a, cast_of):
        if isinstance(a, Tensor):
            found = cast_of.get(id(a._array)) or self._value(a._array)
            if a.requires_grad and a.is_leaf and found.step is None:
                found.leaf = True
                self.leaves.add(memory_of(a._array)[0])
            return found
        if is_array(a):
            return self._value(a)
        return a if isinstance(a, NUMBERS) else None

    def _value(self, array) -> Value:
        found = self.values.get(id(array))
        if found is None:
            found = self.values[id(array)] = Value(meta_of(array), access_of(array), held=array)
        return found

    def _written(self, target) -> None:
        last = self.steps[-1]
        if last.target is None and last.outputs and last.out.shape == tuple(target.shape):
            before = self._value(target._array)
            last.target = before
            now = Value(before.array, before.access, last, target._array)
            last.outputs = [now, *last.outputs[1:]]
            self.values[id(target._array)] = now


def tensors_of(given):
    return [a for a in given if isinstance(a, Tensor)]


def _same(a, b) -> bool:
    """Whether a view is all of what it looks at, in the same order."""
    return b is not None and a.shape == b.shape and a.strides == b.strides and a.dtype == b.dtype and (
        a.nbytes == b.nbytes and _address(a) == _address(b)) and _shares(a, b)


def _address(array) -> int:
    if hasattr(array, "__array_interface__"):
        return array.__array_interface__["data"][0]
    return array.data.ptr


def _shares(a, b) -> bool:
    """Whether two arrays lie in one piece of memory."""
    def root(x):
        while getattr(x, "base", None) is not None:
            x = x.base
        return x

    return b is not None and root(a) is root(b)


def of_call(function, args) -> Program:
    """Run `function(*args)` and keep every operator that it applies, with its arrays.

    Raises: ValueError where it ran no operator on Tensors.
    """
    listener = _Listener()
    with record():
        spans.listen(listener)
        try:
            result = function(*args)
        finally:
            spans.leave(listener)
    if not listener.steps:
        raise ValueError("[fusion] the function applied no operator to a Tensor: what it computes must be made of "
                         "this package's operators")
    for t in _inside(result):
        found = listener.values.get(id(t._array))
        if found is not None:
            found.kept = True
            found.root = found.root or t.requires_grad
    return Program(listener.steps, True, listener.device, listener.unknown, listener.leaves, listener.ran)


def _inside(result):
    found, waiting = [], [result]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
    return found


