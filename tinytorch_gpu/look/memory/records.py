"""Bytes of what a graph is made of beside arrays: nodes, their lists, what they refer to."""
from __future__ import annotations

import sys
import tracemalloc

import numpy as np

from ...autograd.node import AccumulateGrad, Hooks, endpoint
from ...autograd.operator import _Packed
from ...autograd.saved import SavedTensor
from ...backend.device import is_array
from ...tensor import Tensor, Version, View
from ..saved import kept_of

__all__ = ["Hook", "is_parameter", "put_table", "records_of", "size_of_trace", "was_traced"]

_WALKED = (Version, View, SavedTensor, _Packed)


def is_parameter(t) -> bool:
    """Whether a Tensor is a leaf that wants a gradient."""
    return t._req and t._node is None


def records_of(node, counted, before) -> tuple[int, int]:
    """(bytes that a node has until it dies, those that go with what it saved), by sys.getsizeof: the node, its edges,
    shapes and lists, the ends of the graph that it has first; versions, Tensors and the heads of arrays that it keeps.

    `counted(thing)`: whether another node has it already; `before(thing)`: whether it was there before the block.
    """
    walk = _Walk(counted, before)
    lasting = sys.getsizeof(node)
    for name in ("edges", "order", "shape", "metas", "_versions", "_refs", "wanted"):
        lasting += walk(getattr(node, name, None))
    for edge in node.edges:
        leaf = None if edge is None else endpoint(edge)[0]
        if leaf.__class__ is AccumulateGrad and not counted(leaf):
            lasting += sys.getsizeof(leaf) + walk(leaf.order) + walk(leaf.shape)
    keeping = walk(getattr(node, "_saved", None)) + walk(getattr(node, "_owners", None))
    for value, _ in kept_of(node) or ():
        keeping += walk(value)
    context = getattr(node, "ctx", None)
    if context is not None:
        lasting += sys.getsizeof(context) + walk(getattr(context, "__dict__", None))
    return lasting, keeping


class _Walk:
    """Sizes of what belongs to a graph alone; nothing else is gone into, and nothing is counted twice."""

    def __init__(self, counted, before):
        self.counted, self.before = counted, before

    def __call__(self, thing) -> int:
        cls = thing.__class__
        if cls is int:
            return sys.getsizeof(thing) if not -6 < thing < 257 else 0  # the others are there once for all
        if cls in (tuple, list, dict):
            inner = thing.values() if cls is dict else thing
            return (sys.getsizeof(thing) if thing else 0) + sum([self(v) for v in inner])
        if isinstance(thing, np.generic):
            return 0 if self.counted(thing) else sys.getsizeof(thing)
        if is_array(thing):
            return 0 if self.before(thing) or self.counted(thing) else head_of(thing)
        if cls in _WALKED:
            if self.before(thing) or self.counted(thing):
                return 0
            return sys.getsizeof(thing) + sum([self(getattr(thing, name, None)) for name in cls.__slots__])
        if isinstance(thing, Tensor):
            if is_parameter(thing) or self.before(thing) or self.counted(thing):
                return 0
            return sys.getsizeof(thing) + self(thing._array) + self(thing._version_) + self(thing._view)
        return 0


def head_of(array) -> int:
    """Bytes of an array beside its elements: the object, shape and strides."""
    return type(array).__basicsize__ + 16 * array.ndim


def size_of_trace(trace) -> int:
    """Bytes of the line and the operands' names that are noted of a node while somebody looks."""
    inner = [n for f in trace.frames for n in f if n.__class__ is int and n > 256]
    texts = [t for t in trace.inputs if len(t) > 1]  # a single character is there once for all
    parts = (trace, trace.frames, *trace.frames, *([trace.inputs] if trace.inputs else []), *texts, *inner)
    return sum(map(sys.getsizeof, parts))


class Hook:
    """A function with its first arguments, which takes neither a tuple nor a dictionary of its own as partial() does:
    the interpreter hands emptied ones out again, and what was not made anew cannot be measured."""

    __slots__ = ("watcher", "name", "first", "second")

    def __init__(self, watcher, name, first, second=None):
        self.watcher, self.name, self.first, self.second = watcher, name, first, second

    def __call__(self, *args):
        getattr(self.watcher, self.name)(self.first, self.second, *args)


class _Kept(dict):
    """A dictionary that stays."""

    __slots__ = ()


def put_table(node) -> None:
    """Give a node a table for hooks that is made anew."""
    if node.hooks is None:
        node.hooks = table = Hooks.__new__(Hooks)
        table.tensor, table.retain, table.pre, table.post = _Kept(), _Kept(), _Kept(), _Kept()


def was_traced(thing) -> bool:
    """Whether tracemalloc saw an object being made."""
    return tracemalloc.get_object_traceback(thing) is not None
