"""The operators that a loss was made by, or that a call ran, as steps over values: what fusions are sought in."""
from __future__ import annotations

import linecache
import threading

from ..autograd.anomaly import user_frames
from ..autograd.node import AccumulateGrad, Node, endpoint
from ..autograd.operator import Operator
from ..backend import dtypes
from ..backend.device import is_array
from ..tensor import Tensor
from . import spans
from .collect import roots_of, walk
from .cost import Array, Cost, cost
from .recorder import note_of, record

__all__ = ["Program", "Step", "Value", "of_call", "of_graph"]

NUMBERS = (bool, int, float, complex)


class Value:
    """An array on its way: dtype and shape, how its elements lie, the step that made it, those that read it.

    `access`: "contiguous", "strided" or "repeated" (a broadcast view, whose elements are read again and again).
    `held`: the raw array, while a call is looked at. `kept`: the program returns it, or something unseen reads it.
    """

    __slots__ = ("array", "access", "step", "uses", "leaf", "held", "kept")

    def __init__(self, array, access="contiguous", step=None, leaf=False, held=None):
        self.array, self.access, self.step, self.leaf, self.held = array, access, step, leaf, held
        self.uses: list[Step] = []
        self.kept = False

    @property
    def shape(self) -> tuple:
        return self.array.shape

    @property
    def source(self) -> Value:
        """The value of which this is a view."""
        found = self
        while found.step is not None and found.step.view:
            found = found.step.values[0]
        return found


class Step:
    """One operator application. `inputs` are Values, numbers and None; `target`: the value it was written into."""

    __slots__ = ("number", "name", "cls", "inputs", "outputs", "params", "place", "frame", "target", "recorded")

    def __init__(self, number, name, cls, inputs, outputs, params, place, frame, recorded):
        self.number, self.name, self.cls, self.inputs, self.outputs = number, name, cls, inputs, outputs
        self.params, self.place, self.frame, self.recorded = params, place, frame, recorded
        self.target: Value | None = None
        for v in dict.fromkeys(self.values):
            v.uses.append(self)
        for v in outputs:
            v.step = self

    @property
    def values(self) -> list[Value]:
        """The arrays it reads, those among its parameters too."""
        found = [v for v in self.inputs if isinstance(v, Value)]
        return found + [v for v in self.params.values() if isinstance(v, Value)]

    @property
    def out(self) -> Value:
        return self.outputs[0]

    @property
    def view(self) -> bool:
        return self.cls is not None and getattr(self.cls, "view", False)

    def number_at(self, i) -> complex | None:
        """The number that input `i` is."""
        x = self.inputs[i] if i < len(self.inputs) else None
        return x if isinstance(x, NUMBERS) else None

    def cost(self) -> Cost:
        """Of the operator alone; a result that is written into another array passes through memory once more."""
        given = [v.array if isinstance(v, Value) else None for v in self.inputs]
        named = {k: v.held if isinstance(v, Value) else v for k, v in self.params.items()}
        outs = [v.array for v in self.outputs]
        found = cost(self.name, given, outs, named)
        if self.view and self.outputs[0].held is None and self.outputs[0].access == "copied":
            moved = outs[0].nbytes
            return Cost("copy", 0.0, moved, moved)
        if self.target is not None and found.bytes is not None:
            moved = outs[0].nbytes
            return Cost(found.family, found.flops, found.read + moved, found.written + moved, found.products)
        return found

    def axes(self) -> tuple | None:
        """The dimensions that a reduction or a softmax goes over, all of them for None; None where not known."""
        ndim = len(self.values[0].shape)
        for name in ("axes", "dim"):
            if name in self.params:
                found = self.params[name]
                if found is None:
                    return tuple(range(ndim))
                return tuple(sorted(d % max(ndim, 1) for d in (found if isinstance(found, tuple) else (found,))))
        return None

    @property
    def line(self) -> dict | None:
        if self.frame is None:
            return None
        file, line, function = self.frame
        return {"file": file, "number": line, "function": function, "source": linecache.getline(file, line).strip()}


class Program:
    """Steps in order. `complete`: the arrays are there, and uses outside the graph were seen."""

    def __init__(self, steps, complete, device, unknown=()):
        self.steps, self.complete, self.device = steps, complete, device
        self.unknown = list(unknown)  # names of operators whose inside was not seen


def access_of(array) -> str:
    """How the elements of a raw array lie."""
    if array.flags.c_contiguous:
        return "contiguous"
    return "repeated" if any(s == 0 and n > 1 for s, n in zip(array.strides, array.shape)) else "strided"


def meta_of(array) -> Array:
    return Array(dtypes.of(array).name, tuple(array.shape))


# from a graph

_MOVED = {"Transpose": "strided", "Permute": "strided", "Slice": "strided", "Expand": "repeated",
          "Diagonal": "strided", "Real": "strided", "Imag": "strided"}


def of_graph(tensors) -> Program:
    """The steps of the graph that made one Tensor or several. Raises: TypeError, ValueError as `look.graph` does."""
    edges = roots_of("fusion", tensors)
    operators, _ = walk(edges)
    values: dict[tuple[Node, int], Value] = {}
    steps = []
    device = next(iter(tensors)).device if isinstance(tensors, (list, tuple)) else tensors.device
    for number, node in enumerate(operators, 1):
        note = note_of(node)
        inputs = [_graph_input(edge, None if note is None or i >= len(note.inputs) else note.inputs[i], values)
                  for i, edge in enumerate(node.edges)]
        metas = node.metas if node.metas is not None else ((node.shape, node.dtype),)
        cls = type(node) if isinstance(node, Operator) else None
        name = type(node).__name__
        outputs = []
        for i, (shape, dtype) in enumerate(metas):
            before = inputs[0] if inputs and isinstance(inputs[0], Value) else None
            access = _MOVED.get(name, "contiguous")
            if cls is not None and cls.view and before is not None and name not in _MOVED:
                access = before.access
            values[node, i] = Value(Array(dtype.name, tuple(shape)), access)
            outputs.append(values[node, i])
        frame = node.trace.frames[-1] if node.trace is not None else None
        params = _attributes(node) if cls is not None else {}
        if "axes" in params and inputs and isinstance(inputs[0], Value):
            params["keepdim"] = len(metas[0][0]) == len(inputs[0].shape)
        steps.append(Step(number, name, cls, inputs, outputs, params,
                          note.place if note is not None else None, frame, True))
    for edge in edges:
        values[endpoint(edge)].kept = True
    unknown = [s.name for s in steps if s.cls is None or s.cost().family == "unknown"]
    return Program(steps, False, device, unknown)


def _graph_input(edge, given, values):
    if edge is not None:
        at = endpoint(edge)
        if at not in values and isinstance(at[0], AccumulateGrad):
            array = at[0].variable._array
            values[at] = Value(meta_of(array), access_of(array), leaf=True)
        return values[at]
    if isinstance(given, tuple):
        return Value(Array(given[0], tuple(given[1])))
    if isinstance(given, str):
        try:
            return float(given)
        except ValueError:
            return None
    return None


def _attributes(node) -> dict:
    """What an operator's forward put beside what it saved: dim, axes, p, an index. Most are its parameters' names."""
    found = {}
    for cls in type(node).__mro__:
        if cls is Operator:
            break
        found.update({k: getattr(node, k) for k in cls.__dict__.get("__slots__", ()) if hasattr(node, k)})
    found.update(getattr(node, "__dict__", {}))
    return found


# from a call


class _Listener(spans.Listener):
    """The applications in one thread, outside of backward passes."""

    def __init__(self):
        self.thread = threading.get_ident()
        self.steps: list[Step] = []
        self.values: dict[int, Value] = {}
        self.casts: dict[int, dict[int, Value]] = {}  # id of a span -> {id of an operand: what autocast made of it}
        self.device = None
        self.unknown: list[str] = []

    def begin(self, span):
        return None

    def end(self, span, mark) -> None:
        if span.failed or threading.get_ident() != self.thread:
            return
        if span.kind == "inplace" and self.steps:
            self._written(span.what)
        if span.kind != "operator":
            return
        around = span.parent
        cast = around is not None and around.kind == "operator" and span.name == "Cast"
        while around is not None and around.kind in ("module", "inplace"):
            around = around.parent
        if around is not None and not cast:  # inside another operator, a backward or an optimizer
            return
        tensors = [a for a in span.given if isinstance(a, Tensor)]
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
                if not _shares(t._array, inputs[0].held):
                    value.access = "copied"
            self.values[id(t._array)] = value
            outputs.append(value)
        node = results[0].grad_fn if results else None
        note = note_of(node) if node is not None else None
        cls = span.what if issubclass(span.what, Operator) else None
        step = Step(len(self.steps) + 1, span.name if cls is None else cls.__name__, cls, inputs, outputs, params,
                    note.place if note is not None else None, user_frames(innermost=True)[-1], node is not None)
        self.steps.append(step)
        if cls is None or step.cost().family == "unknown":
            self.unknown.append(step.name)
        if cast:
            self.casts.setdefault(id(span.parent), {})[id(tensors_of(span.given)[0]._array)] = outputs[0]

    def _input(self, a, cast_of):
        if isinstance(a, Tensor):
            found = cast_of.get(id(a._array)) or self._value(a._array)
            if a.requires_grad and a.is_leaf:
                found.leaf = True
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
            now = Value(before.array, before.access, last, before.leaf, target._array)
            last.outputs = [now, *last.outputs[1:]]
            self.values[id(target._array)] = now


def tensors_of(given):
    return [a for a in given if isinstance(a, Tensor)]


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
    return Program(listener.steps, True, listener.device, listener.unknown)


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


