"""The short way for operators that only look at their input's memory in another shape."""
from __future__ import annotations

from ..autograd import modes
from ..autograd.anomaly import trace_of
from ..autograd.modes import state
from ..autograd.node import next_order
from ..autograd.operator import Operator
from ..autograd.views import link_view
from ..backend import streams
from ..backend.device import _by_class
from ..tensor import Tensor, make

_general = Operator.apply.__func__
_new = object.__new__


class _ViewOperator(Operator):
    """A view of one operand: nothing is promoted or saved, so most of `apply` falls away."""

    __slots__ = ()
    view = True

    @classmethod
    def apply(cls, source, **params):
        if isinstance(source, Tensor):
            node = _new(cls)
            crossing = streams.before((source._array,)) if streams.several else None
            out = node.forward(source._array, **params)
            if crossing is not None:  # a reshape may copy
                streams.after(crossing, (out,))
            t = make(out)
            if source._req and state.grad:
                node.edges = (source._edge(),)
                node.wanted = node._tensors = node._saved = node.hooks = node._unpack = node.metas = node.trace = None
                node._widen = False
                node.order = next_order()
                node.shape, node.dtype = out.shape, out.dtype
                t._node, t._req = node, True
                if crossing is not None:
                    streams.note(node, crossing)
                if modes.anomaly is not None:
                    node.trace = trace_of(node, (source,), (out,))
            link_view(cls, t, source, params)
            return t
        if source.__class__ in _by_class:
            crossing = streams.before((source,)) if streams.several else None
            out = _new(cls).forward(source, **params)
            if crossing is not None:
                streams.after(crossing, (out,))
            return out
        return _general(cls, source, **params)
