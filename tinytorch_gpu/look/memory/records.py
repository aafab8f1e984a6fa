"""Bytes of what a graph is made of beside arrays: nodes, their lists, what they refer to."""
from __future__ import annotations

import functools
import tracemalloc
from sys import getsizeof

import numpy as np

from ...autograd import pointwise
from ...autograd.node import AccumulateGrad, Node
from ...autograd.operator import FREED, Operator, _Packed
from ...autograd.saved import SavedTensor
from ...backend.device import is_array
from ...tensor import Tensor, Version, View
from ..saved import attributes_of, slots_of
from .ledger import RECORDS, TOOK

__all__ = ["is_parameter", "note_records", "records_of"]

_PROBES = 16  # things that are made to see what one takes
_PARTS = (Version, View, SavedTensor, _Packed)
# what every short cut of an elementwise operator refers to
_SHARED = {id(v) for v in (pointwise._ZEROS, pointwise._FIRST, pointwise._BOTH, pointwise._OUT)}
_APART = frozenset(("variable", "ctx", "function", "wanted", "_tensors"))


def is_parameter(t) -> bool:
    """Whether a Tensor is a leaf that wants a gradient."""
    return t._req and t._node is None


@functools.cache
def integer() -> int:
    """Bytes of a small integer that was computed, by tracemalloc: more than sys.getsizeof says, where it was added."""
    found: list = [None] * _PROBES
    before = tracemalloc.get_traced_memory()[0]
    for i in range(_PROBES):
        found[i] = before + i - before + 1000
    each = (tracemalloc.get_traced_memory()[0] - before) // _PROBES
    return each - each % 4


@functools.cache
def _own_slots(cls) -> tuple:
    """What a node of this class has beside what all have."""
    if issubclass(cls, Operator):
        return slots_of(cls)
    names = [n for c in cls.__mro__ if c is not Node and issubclass(c, Node) for n in c.__dict__.get("__slots__", ())]
    return tuple([n for n in names if n not in _APART])


def records_of(node, counted) -> tuple[int, int]:
    """(bytes that a node has until it dies, those that go with what it saved), by sys.getsizeof: the node, its edges,
    shapes and lists; versions, Tensors and the heads of arrays that it keeps.

    `counted(thing)`: whether another node has it already, or it was there before the block.
    """
    walk = _Walk(counted)
    lasting = getsizeof(node)
    edges, shape = node.edges, node.shape
    if edges:
        lasting += getsizeof(edges)
        for edge in edges:
            if edge.__class__ is tuple:
                lasting += getsizeof(edge)
    lasting += _order(node)
    if shape:
        lasting += getsizeof(shape)
    if node.metas is not None:
        lasting += walk(node.metas)
    cls = node.__class__
    if cls is AccumulateGrad:
        return lasting + getsizeof(node.variable._leaf), 0  # which goes with the node, or is made anew with the next
    for name in _own_slots(cls):
        value = getattr(node, name, None)
        if value is not None:
            lasting += walk.shared(value)
    keeping = 0
    saved = node._saved
    if saved is not None and saved is not FREED:
        for values in (node._versions, node._refs):
            if values is not None and id(values) not in _SHARED:
                lasting += walk(values)
        keeping = getsizeof(saved)
        for value in saved:
            if value is not None:
                keeping += walk(value)
        owners = node._owners
        if owners is not None:
            keeping += getsizeof(owners)
            for owner in owners:
                if owner is not None:
                    keeping += walk(owner)
    context = getattr(node, "ctx", None)
    if context is not None:
        lasting += getsizeof(context) + walk(getattr(context, "__dict__", None))
        for kept in context._saved or ():
            keeping += walk(kept)
    if cls.__dictoffset__:
        lasting += _room_of(cls)
        for value in attributes_of(node):
            lasting += walk.shared(value)
    return lasting, keeping


_room: dict[type, tuple[int, bool]] = {}  # of a class: bytes, and whether they were the same twice


def _room_of(cls) -> int:
    """Bytes for attributes that a new object of a class has and sys.getsizeof does not see, by tracemalloc. The first
    ones of a class have room for more, each a little less: so many are made here that this is over."""
    size, settled = _room.get(cls, (-1, False))
    while not settled:
        nodes: list = [None] * _PROBES
        before = tracemalloc.get_traced_memory()[0]
        for i in range(_PROBES):
            nodes[i] = cls.__new__(cls)
        each = (tracemalloc.get_traced_memory()[0] - before) // _PROBES - getsizeof(nodes[0])
        each -= each % 8  # what the readings take
        _room[cls] = size, settled = each, each == size
    return size


_met: set[type] = set()


def _meet(cls) -> None:
    """What is kept of each class of nodes, for good, is made when its first one is seen."""
    _met.add(cls)
    integer()
    _tensor()
    if not _own_slots(cls):
        attributes_of(cls.__new__(cls))
    if cls.__dictoffset__:
        _room_of(cls)


_frames: dict[tuple, tuple[int, int]] = {}  # of nodes that look the same: their own bytes, those of what saving takes


def note_records(node, number, counted, put) -> None:
    """Write down what `records_of` says of a node. For most, quickly: while tracemalloc looks on, each sum takes as
    long as ten lines elsewhere."""
    cls = node.__class__
    edges, saved = node.edges, node._saved
    if cls not in _met:
        before = tracemalloc.get_traced_memory()[0]
        _meet(cls)
        _take(put, tracemalloc.get_traced_memory()[0] - before)
    if node.metas is not None or cls.__dictoffset__ or saved is FREED or cls is AccumulateGrad or _own_slots(cls):
        lasting, keeping = records_of(node, counted)
    else:
        key = (cls, len(edges), len(node.shape), saved.__class__, saved is not None and len(saved),
               getattr(node, "_versions", None).__class__, sum([e.__class__ is tuple for e in edges]))
        found = _frames.get(key)
        if found is None:
            before = tracemalloc.get_traced_memory()[0]
            lasting, keeping = records_of(node, _everything)
            found = _frames[key] = lasting - _order(node), keeping
            _take(put, tracemalloc.get_traced_memory()[0] - before)
        lasting, keeping = found
        lasting += _order(node)
        if saved is not None:
            for value in saved:
                if value.__class__ is np.ndarray:
                    if not counted(value):
                        _put(put, number, _HEADS[value.ndim])
                elif value is not None and (size := _Walk(counted)(value)):
                    _put(put, number, size)
            for owner in node._owners or ():
                if owner is None:
                    continue
                if owner.__class__ is Tensor and owner._version_ is None and owner._view is None:
                    if owner._req and owner._node is None or counted(owner):
                        continue
                    _put(put, number, _tensor())
                    if not counted(owner._array):
                        _put(put, number, head_of(owner._array))
                elif size := _Walk(counted)(owner):
                    _put(put, number, size)
    put(RECORDS)
    put(number)
    put(lasting)
    put(keeping)


def _order(node) -> int:
    """Bytes of a node's number; the small ones are there once for all."""
    return 0 if -6 < node.order < 257 else integer()


def _take(put, size) -> None:
    put(TOOK)
    put(max(0, size))


def _put(put, number, keeping):
    put(RECORDS)
    put(number)
    put(0)
    put(keeping)


def _everything(thing) -> bool:
    return True


@functools.cache
def _tensor() -> int:
    """Bytes of a Tensor object."""
    return getsizeof(Tensor.__new__(Tensor)) + _room_of(Tensor)


class _Walk:
    """Sizes of what belongs to a graph alone; nothing else is gone into, and nothing is counted twice."""

    __slots__ = ("counted",)

    def __init__(self, counted):
        self.counted = counted

    def __call__(self, thing) -> int:
        cls = thing.__class__
        if cls is np.ndarray:
            return 0 if self.counted(thing) else head_of(thing)
        if cls is int:
            return getsizeof(thing) if not -6 < thing < 257 else 0  # the others are there once for all
        if cls is Version:
            return 0 if self.counted(thing) else getsizeof(thing)
        if cls is tuple or cls is list or cls is dict:
            size = getsizeof(thing) if thing or cls is not tuple else 0
            for value in thing.values() if cls is dict else thing:
                if value is not None:
                    size += self(value)
            return size
        if cls is slice:
            return getsizeof(thing) + self(thing.start) + self(thing.stop) + self(thing.step)
        if isinstance(thing, np.generic):
            return 0 if self.counted(thing) else getsizeof(thing)
        if cls in _PARTS:
            if self.counted(thing):
                return 0
            return getsizeof(thing) + sum([self.shared(getattr(thing, name, None)) for name in cls.__slots__])
        if isinstance(thing, Tensor):
            if is_parameter(thing) or self.counted(thing):
                return 0
            return (getsizeof(thing) + _room_of(thing.__class__) + self(thing._array) + self(thing._version_)
                    + self(thing._view))
        return head_of(thing) if is_array(thing) and not self.counted(thing) else 0

    def shared(self, thing) -> int:
        """The same of what several nodes may refer to, as to the arguments of an operator that was run again."""
        cls = thing.__class__
        if cls is not tuple and cls is not dict:
            return self(thing)
        if not thing or self.counted(thing):
            return 0
        return getsizeof(thing) + sum(map(self.shared, thing.values() if cls is dict else thing))


def head_of(array) -> int:
    """Bytes of an array beside its elements: the object, shape and strides."""
    return type(array).__basicsize__ + 16 * array.ndim


_HEADS = [np.ndarray.__basicsize__ + 16 * ndim for ndim in range(65)]  # of NumPy's arrays
