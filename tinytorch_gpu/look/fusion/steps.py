"""Operators as steps over values, what fusions are sought in; those of a graph, from its nodes and notes."""
from __future__ import annotations

import linecache

from ...autograd.node import AccumulateGrad, Node, endpoint
from ...autograd.operator import Operator
from ...backend import dtypes
from ..cost.backward import backward_launches
from ..cost.cost import Array, Cost, cost, launches
from ..graph.collect import roots_of, walk
from ..recorder import note_of
from ..saved import Saved, memory_of, root_of, saved_of

__all__ = ["NUMBERS", "Program", "Step", "Value", "access_of", "meta_of", "of_graph"]

NUMBERS = (bool, int, float, complex)


class Value:
    """An array on its way: dtype and shape, how its elements lie, the step that made it, those that read it.

    `access`: "contiguous", "strided" or "repeated" (a broadcast view, whose elements are read again and again).
    `held`: the raw array, while a call is looked at. `kept`: the program returns it, or something unseen reads it.
    `leaf`: a parameter, or another tensor that wants a gradient and was not computed. `root`: whether a backward begins
    here, None where that is not known.
    """

    __slots__ = ("array", "access", "step", "uses", "held", "kept", "leaf", "root")

    def __init__(self, array, access="contiguous", step=None, held=None):
        self.array, self.access, self.step, self.held = array, access, step, held
        self.uses: list[Step] = []
        self.kept = self.leaf = False
        self.root: bool | None = None

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

    @property
    def memory(self) -> tuple[object, int, bool]:
        """(what tells the piece of memory from others, its bytes, whether it is a leaf's)."""
        if self.held is not None:
            root, size = root_of(self.held)
            return id(root), size, self.leaf
        return self.source, self.source.array.nbytes, self.source.leaf


class Step:
    """One operator application. `inputs` are Values, numbers and None; `target`: the value it was written into.
    `needs`: which inputs the graph has an edge of, none without gradients; `saved`: what its node keeps for backward,
    None where that is gone."""

    __slots__ = ("number", "name", "cls", "inputs", "outputs", "params", "place", "frame", "target", "needs", "saved",
                 "known", "rule")

    def __init__(self, number, name, cls, inputs, outputs, params, place, frame, node):
        self.number, self.name, self.cls, self.inputs, self.outputs = number, name, cls, inputs, outputs
        self.params, self.place, self.frame = params, place, frame
        self.needs: tuple[bool, ...] = () if node is None else tuple([e is not None for e in node.edges])
        note = None if node is None else note_of(node)
        self.saved: tuple[Saved, ...] | None = (
            () if node is None else saved_of(node) if note is None else note.saved)
        self.target: Value | None = None
        self.known: tuple[Value | None, Cost] | None = None  # (target, what it costs), once asked
        self.rule: tuple[bool, list[Cost] | None] | None = None  # (host, what its gradient rule starts), once asked
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

    @property
    def recorded(self) -> bool:
        return bool(self.needs)

    def wants(self) -> list[Value]:
        """The operands to which it sends a gradient, one as often as it is an operand."""
        return [v for v, need in zip(self.inputs, self.needs) if need and isinstance(v, Value)]

    def _application(self) -> tuple[str, list, list, dict]:
        given = [v.array if isinstance(v, Value) else v for v in self.inputs]
        params = {k: v.held if isinstance(v, Value) else v for k, v in self.params.items()}
        return self.name, given, [v.array for v in self.outputs], params

    def cost(self) -> Cost:
        """Of the operator alone; a result that is written into another array passes through memory once more."""
        if self.known is None or self.known[0] is not self.target:
            self.known = self.target, self._cost()
        return self.known[1]

    def _cost(self) -> Cost:
        found = cost(*self._application())
        if self.view and self.outputs[0].held is None and self.outputs[0].access == "copied":
            moved = self.out.array.nbytes
            return Cost("copy", 0.0, moved, moved)
        if self.target is not None and found.bytes is not None:
            moved = self.out.array.nbytes
            return Cost(found.family, found.flops, found.read + moved, found.written + moved, found.products)
        return found

    def launches(self, host: bool) -> list[Cost]:
        """What it starts one after the other, on a CPU (`host`) or a device; a view nothing."""
        return launches(self.cost(), *self._application(), host=host)

    def backward(self, host: bool) -> list[Cost] | None:
        """What its gradient rule starts, None where that is not known."""
        if self.rule is None or self.rule[0] is not host:
            self.rule = host, backward_launches(*self._application(), needs=self.needs, host=host)
        return self.rule[1]

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
    """Steps in order. `complete`: the arrays are there, and uses outside the graph were seen. `leaves`: numbers of the
    pieces of memory of leaves, as in `Saved.memory`. `active`: the steps that a backward goes through, because
    it was seen there (`ran`) or a gradient comes to what they made."""

    def __init__(self, steps, complete, device, unknown=(), leaves=(), ran=()):
        self.steps, self.complete, self.device = steps, complete, device
        self.unknown = list(unknown)  # names of operators whose inside was not seen
        self.leaves = frozenset(leaves)
        self.active: set[Step] = set()
        ran = set(ran)
        for step in reversed(steps):
            if any(step.needs) and (step in ran or any(self._reached(v, not ran) for v in step.outputs)):
                self.active.add(step)

    def _reached(self, value, open_end) -> bool:
        """Whether a gradient comes to a value; `open_end`: also where nothing reads it, and no backward was seen."""
        if value.root or not value.uses:
            return bool(value.root) or value.root is None and open_end
        return any(s.cls is None or s in self.active and any(v is value for v in s.wants()) for s in value.uses)


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
    operators, leaves = walk(edges)
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
        before = inputs[0] if inputs and isinstance(inputs[0], Value) else None
        if before is not None and tuple(metas[0][0]) == before.shape and (
                name == "Reshape" or name == "Permute" and tuple(node.dims) == tuple(range(len(before.shape)))):
            values[node, 0] = before  # the same again, as einsum leaves it behind
            continue
        for i, (shape, dtype) in enumerate(metas):
            access = _MOVED.get(name, "contiguous")
            if cls is not None and cls.view and before is not None and name not in _MOVED:
                access = before.access
            values[node, i] = Value(Array(dtypes.from_any(dtype).name, tuple(shape)), access)
            outputs.append(values[node, i])
        frame = node.trace.frames[-1] if node.trace is not None else None
        params = _attributes(node) if cls is not None else {}
        if "axes" in params and inputs and isinstance(inputs[0], Value):
            params["keepdim"] = len(metas[0][0]) == len(inputs[0].shape)
        steps.append(Step(number, name, cls, inputs, outputs, params,
                          note.place if note is not None else None, frame, node))
    for edge in edges:
        values[endpoint(edge)].kept = values[endpoint(edge)].root = True
    unknown = [s.name for s in steps if s.cls is None or s.cost().family == "unknown"]
    return Program(steps, False, device, unknown, [memory_of(leaf.variable._array)[0] for leaf in leaves])


def _graph_input(edge, given, values):
    if edge is not None:
        at = endpoint(edge)
        if at not in values and isinstance(at[0], AccumulateGrad):
            array = at[0].variable._array
            values[at] = Value(meta_of(array), access_of(array))
            values[at].leaf = True
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
