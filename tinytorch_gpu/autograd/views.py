"""Views of memory and changes in place: versions, and the graph of what was changed."""
from __future__ import annotations

from ..backend import dtypes, streams
from ..tensor import INFERENCE, Tensor, View
from . import modes
from .anomaly import trace_of
from .casting import without_autocast
from .modes import state
from .node import REGISTRY, Node, next_order

__all__ = ["link_view", "inplace", "rebase", "CopySlices"]


def link_view(cls, t, source, params, index=None):
    """Note that `t` is a view of `source`, if it shares its memory."""
    if not isinstance(source, Tensor):
        return
    a, o = source._array, t._array
    if o is not a:
        base = o.base
        if base is None or (base is not a and base is not a.base):
            return  # the operator had to copy
    root = source._view
    t._version_ = counter = source._counter()
    if counter is INFERENCE:
        return
    if index is not None:
        params = dict(params, output=index)
        cls = _Nth.of(cls)
    step = ((cls, params),)
    if root is None:
        t._view = View(source, step, counter.value, not state.grad)
    else:
        t._view = View(root.base, root.steps + step, counter.value, root.constant or not state.grad)


class _Nth:
    """One output of a many-view operator (unbind, split), to be replayed alone."""

    def __init__(self, cls):
        self.cls = cls

    @classmethod
    def of(cls, operator):
        return cls(operator)

    def apply(self, source, output, **params):
        return self.cls.apply(source, **params)[output]


class CopySlices(Node):
    """Put in the place of a base after a view of it was changed: the view's new value lies inside the old base."""

    __slots__ = ("steps", "wanted", "_tensors")

    def __init__(self, base_edge, view_edge, steps, shape, dtype):
        self.edges = (base_edge, view_edge)
        self.order = next_order()
        self.shape, self.dtype, self.steps = shape, dtype, steps
        self.metas = self.hooks = self.trace = self.wanted = self._tensors = None

    def backward(self, grad):
        """The base's gradient is zero where the view lay; the view's is what lies there."""
        view = grad
        for operator, params in self.steps:
            view = operator.apply(view, **params)
        base = REGISTRY["ViewScatter"].apply(grad, None, steps=self.steps) if self.edges[0] is not None else None
        return base, view if self.edges[1] is not None else None


def inplace(name, target, compute):
    """`target` becomes `compute()`, written into its own memory; views, versions and the graph follow."""
    if not isinstance(target, Tensor):
        raise TypeError(f"[{name}] an in-place operator needs a Tensor, got {type(target).__name__}")
    recording = state.grad
    if recording and target._req and target.grad_fn is None:
        raise RuntimeError(
            f"[{name}] a leaf Variable that requires grad is being used in an in-place operation: work under "
            "no_grad(), or on a clone()"
        )
    view = target._view
    if recording and view is not None and view.base._req and view.base.grad_fn is None:
        raise RuntimeError(f"[{name}] a view of a leaf Variable that requires grad is being used in an "
                           "in-place operation: work under no_grad(), or on a clone() of the leaf")
    if target._version_ is INFERENCE and not state.inference:
        raise RuntimeError(f"[{name}] inplace update to an inference tensor outside inference_mode: clone() it")
    memory = target._array
    if state.autocast is None:
        out = compute()
    else:  # the result's dtype is the target's in any case
        with without_autocast():
            out = compute()
    if recording and view is not None and view.constant and (view.base._req or out._req):
        raise RuntimeError(f"[{name}] a view was created in no_grad mode and is being modified inplace with grad mode "
                           "enabled: move both inside the no_grad block, or both outside")
    result = out._array
    if result.shape != memory.shape:
        raise RuntimeError(
            f"[{name}] output with shape {list(memory.shape)} doesn't match the broadcast shape "
            f"{list(result.shape)}: an in-place operator cannot grow its tensor"
        )
    if not dtypes.can_cast(dtypes.of(result), dtypes.of(memory)):
        raise RuntimeError(
            f"[{name}] result type {dtypes.of(result).name} can't be cast to the desired output type "
            f"{dtypes.of(memory).name}"
        )
    _check_single_memory(name, memory)
    node = out._node
    if node is not None and node._saved is not None:
        node._saved, node._owners, node._versions = list(node._saved), list(node._owners), list(node._versions)
        before = None
        for i, s in enumerate(node._saved):
            if s is memory:  # the operator needs the value from before the change
                if before is None:
                    before = memory.copy()
                    if streams.several:
                        streams.born(before)
                node._saved[i], node._owners[i] = before, None
    if streams.several:
        streams.touch(result)
        streams.writing(memory)
    memory[...] = result.astype(memory.dtype) if result.dtype != memory.dtype else result
    target._bump()
    if not state.grad:
        return target  # what is recorded stays recorded: the update of a parameter, of a part of an activation
    if node is None:
        if view is not None:
            view.seen = target._version_.value
            if view.base._req:  # a constant written into a part of a recorded base
                rebase(target, view, None, out)
        elif target._req:
            target._node, target._req, target._index = None, False, 0
        return target
    if node._saved is not None:
        for i, s in enumerate(node._saved):
            if s is result:
                counter = target._counter()
                node._saved[i], node._owners[i], node._versions[i] = memory, counter, counter.value
    if result.dtype != memory.dtype:
        out = REGISTRY["Cast"].apply(out, dtype=memory.dtype)
    if view is None:
        _move_retained(target, out._node, out._index)
        target._node, target._index, target._req = out._node, out._index, True
    else:
        rebase(target, view, out._edge(), out)
    return target


def _move_retained(tensor, node, index):
    """retain_grad() is about the tensor's newest value: it goes to the node that makes that."""
    old = tensor._node
    held = old.hooks.retain.get(tensor._index) if old is not None and old.hooks is not None else None
    if held is not None and held() is tensor:
        del old.hooks.retain[tensor._index]
        node.hook_table().retain[index] = held


def rebase(target, view, edge, value):
    """The base of `target`, a view that was changed in place, gets the node that has `value` inside; `edge` is its."""
    base = view.base
    base_array = base._array
    node = CopySlices(base._edge(), edge, view.steps, base_array.shape, base_array.dtype)
    _move_retained(base, node, 0)
    base._node, base._index, base._req = node, 0, True
    view.seen = -1  # the view's own edge is rebuilt from the new base
    if modes.anomaly is not None:
        node.trace = trace_of(node, (base, value), (base_array,))
    target._req = True
    target._refresh()


def _check_single_memory(name, memory):
    if memory.size > 1 and any(s == 0 and n > 1 for s, n in zip(memory.strides, memory.shape)):
        raise RuntimeError(
            f"[{name}] unsupported operation: more than one element of the written-to tensor refers to a "
            "single memory location: clone() the tensor before the operation"
        )
