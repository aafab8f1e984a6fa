"""Nodes of the graph, and the leaves' ends of it."""
from __future__ import annotations

import itertools
import weakref

from .. import tensor as tensor_module
from ..tensor import make

__all__ = ["Node", "Hooks", "AccumulateGrad", "REGISTRY", "endpoint", "rejoin", "next_order"]

REGISTRY: dict[str, type] = {}  # class name -> operator; filled by Operator itself
next_order = itertools.count(0, -1).__next__  # newest first on the engine's heap


class Hooks:
    """What users attached to a node; most nodes have none."""

    __slots__ = ("tensor", "retain", "pre", "post")

    def __init__(self):
        self.tensor = {}  # output number -> {id: hook(grad)}
        self.retain = {}  # output number -> weak reference to the tensor
        self.pre = {}  # id -> hook(grad_outputs)
        self.post = {}  # id -> hook(grad_inputs, grad_outputs)


class Node:
    """A node of the graph: where gradients arrive, and the edges along which they go on.

    An edge is None, a node (its first output) or (node, output number). `shape` and `dtype` are those of the first
    output; `metas` those of all, for a node with several.
    """

    __slots__ = ("edges", "order", "shape", "dtype", "metas", "hooks", "trace", "__weakref__")
    hooks: Hooks | None
    _saved = _tensors = wanted = None
    _widen = False

    def name(self) -> str:
        """The label in graphs, messages and profiles."""
        return type(self).__name__

    def __repr__(self):
        return f"<{self.name()}>"

    @property
    def next_functions(self):
        """((node, output number), ...) of the inputs, as in PyTorch; (None, 0) where no gradient goes."""
        return tuple((None, 0) if e is None else endpoint(e) for e in self.edges)

    def hook_table(self) -> Hooks:
        """The node's hooks, made on first use."""
        if self.hooks is None:
            self.hooks = Hooks()
        return self.hooks

    def release(self) -> None:
        """Drop what is saved for backward."""


def endpoint(edge):
    """An edge as (node, output number)."""
    return edge if edge.__class__ is tuple else (edge, 0)


class AccumulateGrad(Node):
    """The end of every path: adds what arrives to a leaf's `.grad`."""

    __slots__ = ("variable",)

    def __init__(self, variable):
        self.variable = variable
        self.edges = ()
        self.order = next_order()
        self.shape, self.dtype = variable._array.shape, variable._array.dtype
        self.metas = self.hooks = self.trace = None


tensor_module.AccumulateGrad = AccumulateGrad


def rejoin(array, edge, counter=None):
    """A Tensor over a saved array, joined to the graph at an edge (None: a constant), with its memory's version."""
    t = make(array)
    if counter is not None:
        t._version_ = counter
    if edge is not None:
        t._node, t._index = endpoint(edge)
        t._req = True
        if t._node.__class__ is AccumulateGrad:
            t._leaf, t._node = weakref.ref(t._node), None
    return t
