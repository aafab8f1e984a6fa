"""autograd.Function: a user's own forward and backward on Tensors, with PyTorch's `ctx`."""
from __future__ import annotations

import functools

from ..backend import dtypes, streams
from ..tensor import Tensor, make
from . import modes
from .anomaly import trace_of
from .modes import state
from .node import Node, next_order
from .saved import SavedTensor
from .views import rebase

__all__ = ["Function", "FunctionCtx", "once_differentiable"]


class FunctionCtx:
    """What forward hands to backward. As torch.autograd.function.FunctionCtx."""

    def __init__(self):
        self._to_save, self._saved, self._node = (), None, None
        self._dirty, self._constant, self._materialize = (), (), True
        self.needs_input_grad = ()

    def save_for_backward(self, *tensors) -> None:
        """Keep inputs or outputs (Tensors or None) for backward."""
        for t in tensors:
            if t is not None and not isinstance(t, Tensor):
                raise TypeError(f"[save_for_backward] can only save tensors, got {type(t).__name__}: set an attribute")
        self._to_save = tensors

    def mark_dirty(self, *tensors) -> None:
        """Say that forward changed these inputs in place (and returns them)."""
        self._dirty = tensors

    def mark_non_differentiable(self, *tensors) -> None:
        """Say that no gradient flows into these outputs."""
        self._constant = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Whether missing gradients arrive as zeros (default) or as None."""
        self._materialize = bool(value)

    @property
    def saved_tensors(self):
        """The saved Tensors. Raises: RuntimeError when freed by an earlier backward or changed in place."""
        if self._saved is None:
            if self._node is None:
                return self._to_save
            raise RuntimeError(
                "[saved_tensors] trying to backward through the graph a second time (or access saved tensors after "
                "they have already been freed): pass retain_graph=True to the first backward"
            )
        node = self._node()
        return tuple(None if s is None else s.unpack(node) for s in self._saved)


class _FunctionNode(Node):
    """The node of one call of a user's Function."""

    __slots__ = ("ctx", "function", "wanted", "_tensors")

    def name(self):
        return self.function.__name__

    def need(self, i):
        return self.edges[i] is not None if self.wanted is None else self.wanted[i]

    def release(self):
        if self.ctx._saved:
            self.ctx._saved = None

    def backward(self, *grads):
        raw = not any(isinstance(g, Tensor) for g in grads)
        ctx = self.ctx
        ctx.needs_input_grad = tuple(map(self.need, range(len(self.edges))))
        given = [None if g is None else g if isinstance(g, Tensor) else make(g) for g in grads]
        out = self.function.backward(ctx, *given)
        out = out if isinstance(out, tuple) else (out,)
        n = len(self.edges)
        if len(out) > n and all(g is None for g in out[n:]):
            out = out[:n]
        for i, g in enumerate(out):
            if g is not None and not isinstance(g, Tensor):
                raise RuntimeError(f"[{self.name()}] expected backward to return Tensors or None, got "
                                   f"{type(g).__name__} for input {i}")
        return tuple(None if g is None else g._array for g in out) if raw else out

    @property
    def materialize(self):
        return self.ctx._materialize


class Function:
    """A differentiable function of one's own. As torch.autograd.Function.

        class Square(tt.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                return x * x

            @staticmethod
            def backward(ctx, grad):
                (x,) = ctx.saved_tensors
                return 2 * x * grad

        y = Square.apply(x)

    `forward(*args)` with `setup_context(ctx, inputs, output)` apart works too.
    """

    def __init__(self, *args, **kwargs):
        raise RuntimeError(f"[{type(self).__name__}] a Function is not instantiated: call {type(self).__name__}.apply")

    @staticmethod
    def forward(*args, **kwargs):
        """The computation, on Tensors, recorded as one node."""
        raise NotImplementedError("[Function] you must implement the forward function for custom autograd.Function")

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Save what backward needs, where `forward` takes no ctx."""
        raise NotImplementedError("[Function] setup_context is not implemented")

    @staticmethod
    def backward(ctx, *grad_outputs):
        """One gradient (or None) for each input of forward."""
        raise NotImplementedError("[Function] you must implement the backward function for custom autograd.Function")

    vjp = backward

    @classmethod
    def apply(cls, *args, **kwargs):
        """Call the function: Tensors in, what forward returns out."""
        ctx = FunctionCtx()
        ctx.needs_input_grad = tuple(isinstance(a, Tensor) and a._req for a in args)
        recording = state.grad and any(ctx.needs_input_grad)
        edges = [a._edge() if isinstance(a, Tensor) else None for a in args] if recording else None
        apart = cls.setup_context is not Function.setup_context
        with modes.no_grad():
            result = cls.forward(*args, **kwargs) if apart else cls.forward(ctx, *args, **kwargs)
            if apart:
                cls.setup_context(ctx, args, result)
        outputs = list(result) if isinstance(result, tuple) else [result]
        inputs = {id(a): a for a in args if isinstance(a, Tensor)}
        dirty = {id(t) for t in ctx._dirty}
        for t in ctx._dirty:
            if recording and t._req and t._node is None:
                raise RuntimeError(f"[{cls.__name__}] a leaf Variable that requires grad was changed in place: clone()")
            t._bump()
        kept = {}  # id of what forward returned -> (output number, the tensor handed out)
        for i, t in enumerate(outputs):
            if isinstance(t, Tensor):
                original = id(t)
                if original in inputs and original not in dirty:
                    outputs[i] = t.detach()  # returned unchanged: a new tensor over the same memory
                kept[original] = (i, outputs[i])
        if recording:
            _record(cls, ctx, args, edges, outputs, kept, dirty)
            ctx._to_save = ctx._dirty = ctx._constant = ()  # an output held here would hold its own node
        return tuple(outputs) if isinstance(result, tuple) else outputs[0]


def _record(cls, ctx, args, edges, outputs, kept, dirty):
    import weakref

    node = _FunctionNode()
    node.ctx, node.function, node.edges = ctx, cls, tuple(edges)
    node.order = next_order()
    if streams.several:
        streams.note_here(node, [t._array for t in outputs if isinstance(t, Tensor)])
    node.hooks = node.trace = node.wanted = None
    ctx._node = weakref.ref(node)
    metas = tuple((t._array.shape, t._array.dtype) if isinstance(t, Tensor) else ((), dtypes.float32.np)
                  for t in outputs)
    node.metas = metas
    node.shape, node.dtype = metas[0]
    ctx._saved = tuple(
        None if t is None else SavedTensor(t, kept[id(t)][0] if id(t) in kept and id(t) not in dirty else None)
        for t in ctx._to_save
    )
    if modes.anomaly is not None:  # before operands that it changed in place have it as theirs
        node.trace = trace_of(node, args, [t._array for t in outputs if isinstance(t, Tensor)])
    constant = {id(t) for t in ctx._constant}
    for original, (i, t) in kept.items():
        if original in constant or not dtypes.is_float(t._array.dtype):
            continue
        if t._view is not None and original in dirty:
            rebase(t, t._view, (node, i), t)
        else:
            t._node, t._index, t._req, t._leaf = node, i, True, None


def once_differentiable(backward):
    """Decorator for a backward that cannot be differentiated itself: a second order raises. As in PyTorch."""
    @functools.wraps(backward)
    def wrapper(ctx, *grads):
        recording = state.grad and any(isinstance(g, Tensor) and g._req for g in grads)
        with modes.no_grad():
            out = backward(ctx, *grads)
        if not recording:
            return out
        several = isinstance(out, tuple)
        out = out if several else (out,)
        blocked = _Once.apply(*[g for g in out if isinstance(g, Tensor)], *[g for g in grads if isinstance(g, Tensor)])
        blocked = iter(blocked)
        out = tuple(next(blocked) if isinstance(g, Tensor) else g for g in out)
        return out if several else out[0]

    return wrapper


class _Once(Function):
    """Passes tensors on; its backward raises."""

    @staticmethod
    def forward(ctx, *tensors):
        return tuple(t.detach() for t in tensors)

    @staticmethod
    def backward(ctx, *grads):
        raise RuntimeError("[once_differentiable] trying to differentiate twice a function that was marked with "
                           "@once_differentiable")


