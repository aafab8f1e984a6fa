"""What a node keeps for its backward, and in which memory it lies."""
from __future__ import annotations

import functools
import gc
from collections.abc import Hashable
from dataclasses import dataclass

from ..autograd.node import AccumulateGrad, Node, endpoint
from ..autograd.operator import FREED, Operator, _Packed
from ..autograd.saved import SavedTensor
from ..backend import dtypes
from ..backend.device import is_array
from ..tensor import Tensor
from ..utils.checkpoint import _Frame, _Handle

__all__ = [
    "Saved", "attributes_of", "arrays_of", "checkpointed", "checkpoints_of", "kept_of", "memory_of", "root_of",
    "saved_of", "slots_of",
]


@dataclass(frozen=True)
class Saved:
    """One saved array. `memory` tells pieces of memory apart, `held` is the bytes of that whole piece: a view keeps all
    of what it looks at alive. `source`: "input 0", "output 0", "constant", or "packed" by a hook on saved values."""

    shape: tuple
    dtype: str
    memory: int
    held: int
    source: str
    bytes: int
    leaf: bool  # it lies in the memory of a leaf that the operator was given: a parameter


def memory_of(array) -> tuple[int, int]:
    """(number of the piece of memory, its bytes) that an array lies in."""
    root, size = root_of(array)
    return id(root), size


def root_of(array) -> tuple[object, int]:
    """(the object that owns the memory an array lies in, its bytes)."""
    size, seen = array.nbytes, array
    while (base := getattr(seen, "base", None)) is not None:
        seen = base
        size = getattr(seen, "nbytes", size)
    return seen, size


def kept_of(node) -> list | tuple | None:
    """[(value, source), ...] of what a node keeps for backward; None where a backward has freed it already."""
    return _of_operator(node) if isinstance(node, Operator) else _of_function(node)


def checkpoints_of(node) -> list:
    """The checkpointed calls that a node's saved values are computed again by."""
    handles = [v for v, source in kept_of(node) or () if source == "packed" and isinstance(v, _Handle)]
    return list({id(h.frame): h.frame for h in handles}.values())


def arrays_of(frame: _Frame) -> list:
    """The arrays that a checkpointed call keeps to run again: its arguments."""
    kept = (*frame.args, *frame.kwargs.values())
    saved = [v[0].array for v in kept if v.__class__ is tuple and len(v) == 2 and isinstance(v[0], SavedTensor)]
    return [a for a in saved if is_array(a)]


def checkpointed(node) -> list:
    """The arrays that are kept to compute again what a node has saved."""
    return [a for frame in checkpoints_of(node) for a in arrays_of(frame)]


def saved_of(node) -> tuple[Saved, ...] | None:
    """What a node keeps for backward; None where a backward has freed it already."""
    kept = kept_of(node)
    if kept is None:
        return None
    leaves = set()
    for edge in node.edges:
        if edge is not None and endpoint(edge)[0].__class__ is AccumulateGrad:
            leaves.add(memory_of(endpoint(edge)[0].variable._array)[0])
    found = []
    for value, source in kept:
        array = value._array if isinstance(value, Tensor) else value
        if is_array(array):
            memory, held = memory_of(array)
            found.append(Saved(array.shape, dtypes.of(array).name, memory, held, source, array.nbytes,
                               memory in leaves))
        elif source == "packed" and hasattr(value, "shape"):  # a checkpoint's handle: computed again, holds nothing
            found.append(Saved(tuple(value.shape), value.dtype.name, id(value), 0, source, 0, False))
    return tuple(found)


@functools.cache
def slots_of(cls) -> tuple:
    """What an operator's nodes have beside what all operators' have."""
    return tuple([name for c in cls.__mro__[:cls.__mro__.index(Operator)] for name in c.__dict__.get("__slots__", ())])


def _of_operator(node):
    if node._saved is FREED:
        return None
    kept = []
    for value, ref in zip(node._saved or (), getattr(node, "_refs", None) or ()):
        if value.__class__ is _Packed:
            kept += [(v, "packed") for v in _inside(value.value)]
        elif value is not None:
            kept.append((value, "constant" if ref is None else f"input {ref}" if ref >= 0 else f"output {-1 - ref}"))
    for name in slots_of(node.__class__):  # masks and indices that an operator keeps beside
        kept += [(v, "constant") for v in _inside(getattr(node, name, None)) if is_array(v)]
    for value in attributes_of(node):
        kept += [(v, "constant") for v in _inside(value) if is_array(v)]
    return kept


def attributes_of(node) -> list:
    """What a node refers to that is in no slot. Asking for its `__dict__` would make one, which stays with the node."""
    if not type(node).__dictoffset__:
        return []
    cls: Hashable = type(node)
    names = (*slots_of(cls), *Operator.__slots__, *Node.__slots__)
    known = {id(getattr(node, name, None)) for name in names if name != "__weakref__"}
    found: list = []
    for value in gc.get_referents(node):
        if value.__class__ is dict and id(value) not in known:
            found += value.values()
        elif id(value) not in known and value is not type(node):
            found.append(value)
    return found


def _of_function(node):
    """What a user's Function saved; other nodes save nothing."""
    ctx = getattr(node, "ctx", None)
    if ctx is None:
        return ()
    if ctx._saved is None:
        return None
    kept = []
    for s in ctx._saved:
        if isinstance(s, SavedTensor):
            if s.unpack_hook is not None:
                kept += [(v, "packed") for v in _inside(s.array)]
            else:
                kept.append((s.array, "constant" if s.output is None else f"output {s.output}"))
    return kept


def _inside(value):
    return value if isinstance(value, (tuple, list)) else (value,)
