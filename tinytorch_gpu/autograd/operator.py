"""Operator: one class per operation; an instance of it is the node of the graph that the operation made.

    class Mul(Pointwise):
        def forward(node, a, b):
            node.save(a if node.need(1) else None, b if node.need(0) else None)
            return node.xp.multiply(a, b)

        def backward(node, grad):
            a, b = node.saved
            return ops.mul(grad, ops.conj(b)), ops.mul(grad, ops.conj(a))

`forward` is written on raw arrays. `backward` is written once with `ops.*`: the engine hands it raw arrays, or Tensors
under create_graph, and fits what it returns to each input (shape, dtype, real part).
"""
from __future__ import annotations

import itertools
import weakref

import numpy as np

from .. import tensor as tensor_module
from ..backend import dtypes
from ..backend.device import _by_class, backend_of, is_array
from ..tensor import INFERENCE, Tensor, Version, View, make
from . import modes
from .modes import state

__all__ = ["Node", "Operator", "Pointwise", "REGISTRY", "AccumulateGrad", "wide", "array_of"]

REGISTRY: dict[str, type] = {}  # class name -> operator; filled by Operator itself
FREED = object()
HALF = dtypes.HALF
F32 = np.dtype(np.float32)
_order = itertools.count(0, -1)  # newest first on the engine's heap
_new_tensor = object.__new__


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
        self.order = next(_order)
        self.shape, self.dtype = variable._array.shape, variable._array.dtype
        self.metas = self.hooks = self.trace = None


tensor_module.AccumulateGrad = AccumulateGrad


def wide(array):
    """float32 for the half types, the same array for every other."""
    return array.astype(F32) if array.dtype in HALF else array


def array_of(value):
    """The raw array of a Tensor or array; TypeError for anything else."""
    if isinstance(value, Tensor):
        return value._array
    if is_array(value):
        return value
    if isinstance(value, np.generic):
        return np.asarray(value)
    raise TypeError(f"expected a Tensor, got {type(value).__name__}")


class Operator(Node):
    """A differentiable operation. Subclasses define `forward(node, *arrays, **params)` and `backward(node, *grads)`.

    Class attributes decide what `apply` does around them:
    `promotion`: None (operands as they are), "common" (PyTorch's result type) or "float" (integers become floating);
    `opmath`: half operands reach forward and backward as float32, and results are rounded once;
    `view`: the output may share the first input's memory; `differentiable`: False records nothing.
    """

    __slots__ = ("xp", "wanted", "_saved", "_owners", "_versions", "_refs", "_tensors", "_unpack", "_widen")
    promotion: str | None = None
    opmath = False
    view = False
    differentiable = True
    materialize = True  # missing gradients of an operator with several outputs arrive as zeros

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if cls.__module__.startswith("tinytorch_gpu.ops.") and not cls.__name__.startswith("_"):
            known = REGISTRY.setdefault(cls.__name__, cls)
            if known is not cls and known.__module__ != cls.__module__:
                raise TypeError(f"[Operator] {known.__module__} has an operator {cls.__name__}: choose another name")
            REGISTRY[cls.__name__] = cls

    # what forward and backward use

    def forward(node, *arrays, **params):
        raise NotImplementedError(f"[{node.name()}] forward is not written")

    def backward(node, *grads):
        raise NotImplementedError(f"[{node.name()}] backward is not written: it is not differentiable")

    def need(node, i: int) -> bool:
        """Whether input `i` wants a gradient."""
        if node.wanted is not None:
            return node.wanted[i]
        return node.edges is not None and node.edges[i] is not None

    def save(node, *arrays) -> None:
        """Keep arrays for backward (None allowed). Inputs and outputs stay connected to the graph."""
        if node.edges is not None:
            node._saved = arrays

    @property
    def saved(node):
        """What `save` kept: raw arrays, or Tensors under create_graph.

        Raises: RuntimeError when freed by an earlier backward, or changed in place since.
        """
        if node._tensors is not None:
            return node._tensors
        return node.unpack(False)

    # the mechanism

    @classmethod
    def apply(cls, *args, **params):
        """Run the operator on Tensors (recording, if one requires grad), or on raw arrays (never recording)."""
        arrays = []
        traced = tensors = False
        for a in args:
            if isinstance(a, Tensor):
                arrays.append(a._array)
                tensors = True
                if a._req:
                    traced = True
            else:
                arrays.append(a)
        node = cls()
        node.wanted = node._tensors = node._saved = node.hooks = node._unpack = None
        node._widen = False
        if traced and state.grad and cls.differentiable:
            node.edges = tuple([a._edge() if isinstance(a, Tensor) else None for a in args])
        else:
            traced = False
            node.edges = None
        originals = arrays
        if cls.promotion is not None or cls.opmath:
            originals, arrays, narrow = _prepare(cls, arrays)
        else:
            narrow = None
            _place(cls, arrays)
        for a in arrays:
            backend = _by_class.get(a.__class__)
            if backend is not None:
                node.xp = backend.xp
                break
        else:
            node.xp = None
        out = node.forward(*arrays, **params)
        many = out.__class__ is tuple
        raws = out if many else (out,)
        outs = [o if o.__class__ in _by_class else np.asarray(o) for o in raws]
        if narrow is not None:
            outs = [o.astype(narrow) if o.dtype == F32 else o for o in outs]
        if not tensors:
            return tuple(outs) if many else outs[0]
        results = [make(o) for o in outs]
        if traced and any(dtypes.is_float(o.dtype) for o in outs):
            for i, t in enumerate(results):
                if dtypes.is_float(t._array.dtype):
                    t._node, t._index, t._req = node, i, True
            node.order = next(_order)
            node.shape, node.dtype = outs[0].shape, outs[0].dtype
            node.metas = tuple([(o.shape, o.dtype) for o in outs]) if many else None
            node._widen = narrow is not None
            if node._saved is not None:
                node._keep(args, originals, arrays, raws, outs, results)
            node.trace = _trace(node, args, outs) if modes.anomaly is not None else None
        if cls.view:
            for i, t in enumerate(results):
                _link_view(cls, t, args[0], params, i if many else None)
        return tuple(results) if many else results[0]

    def _keep(node, args, originals, arrays, raws, outs, results):
        """Turn the arrays given to `save` into references: input i, output j or a constant, with its version."""
        kept, owners, versions, refs = [], [], [], []
        for s in node._saved:
            ref = owner = None
            if s is not None:
                for i, a in enumerate(arrays):
                    if a is s:
                        ref, s = i, originals[i]
                        if isinstance(args[i], Tensor) and args[i]._array is s:
                            owner = args[i]._version_ or args[i]
                        break
                else:
                    for j, r in enumerate(raws):
                        if r is s:
                            ref, s, owner = -1 - j, outs[j], results[j]._counter()
                            break
            if owner is INFERENCE:
                _refuse_inference(node)
            kept.append(s)
            owners.append(owner)
            versions.append(owner.value if owner.__class__ is Version else 0)
            refs.append(ref)
        node._owners, node._versions, node._refs = owners, versions, refs
        if state.saved_hooks:
            node._pack(kept)
        node._saved = kept

    def _pack(node, kept):
        pack, node._unpack = state.saved_hooks[-1]
        hooks, state.saved_hooks = state.saved_hooks, ()
        try:
            for i, s in enumerate(kept):
                if s is not None and not isinstance(s, np.generic) and is_array(s):
                    kept[i] = _Packed(pack(make(s)))
        finally:
            state.saved_hooks = hooks

    def unpack(node, as_tensors):
        """The saved values, checked against later changes; as Tensors joined to the graph if asked."""
        if node._saved is None:
            return ()
        if node._saved is FREED:
            raise RuntimeError(
                f"[{node.name()}] trying to backward through the graph a second time (or use its saved values after "
                "they were freed): pass retain_graph=True to the first backward"
            )
        values = []
        for s, owner, version, ref in zip(node._saved, node._owners, node._versions, node._refs):
            if s.__class__ is _Packed:
                s = node._unpack(s.value)
                s = s._array if isinstance(s, Tensor) else s
            elif owner is not None:
                now = owner.value if owner.__class__ is Version else owner._version
                if now != version:
                    raise RuntimeError(_modified(node, ref, s, now, version))
            if as_tensors and ref is not None and s.__class__ in _by_class:  # a number stays a number
                s = _rejoin(s, node.edges[ref] if ref >= 0 else (node, -1 - ref))
            if node._widen and s is not None and getattr(s, "dtype", None) is not None:
                s = wide(s) if not isinstance(s, Tensor) else _widen_tensor(s)
            values.append(s)
        return tuple(values)

    def release(node):
        """Drop the saved values."""
        if node._saved is not None:
            node._saved = FREED
            node._owners = None

    @classmethod
    def inplace(cls, target, *args, **params):
        """`target` becomes the operator's result, in its own memory; returns `target`."""
        return inplace(cls.__name__, target, lambda: cls.apply(target, *args, **params))


# what a Pointwise operator with a `ufunc` saves
NOTHING, INPUTS, OUTPUT, OTHER = "nothing", "inputs", "output", "other"
_DIRECT = frozenset(d.np for d in (dtypes.float32, dtypes.float64, dtypes.complex64, dtypes.complex128))
_ZEROS = (0, 0)
_FIRST, _BOTH, _OUT = (0,), (0, 1), (-1,)


class Pointwise(Operator):
    """An elementwise operator: operands promoted together, half types computed in float32.

    Most are one function of the array library: `ufunc` names it, `keeps` says what backward reads from `node.saved`:
    INPUTS, OUTPUT, or OTHER (two operands, each saved only if the other wants a gradient; None in its place else).
    Those take a short cut when the operands agree already: 1.0 us instead of 2.6 for a recorded tiny product.
    """

    __slots__ = ()
    promotion = "common"
    opmath = True
    ufunc: str | None = None
    keeps = NOTHING

    def forward(node, *arrays):
        out = getattr(node.xp, node.ufunc)(*arrays)
        keeps = node.keeps
        if keeps is OUTPUT:
            node.save(out)
        elif keeps is INPUTS:
            node.save(*arrays)
        elif keeps is OTHER:
            node.save(arrays[0] if node.need(1) else None, arrays[1] if node.need(0) else None)
        return out

    @classmethod
    def apply(cls, *args, **params):
        if cls.ufunc is None or params:
            return _general(cls, *args, **params)
        a = args[0]
        ta = isinstance(a, Tensor)
        x = a._array if ta else a
        if len(args) == 1:
            b, tb, arrays = None, False, (x,)
            lead = x
        else:
            b = args[1]
            tb = isinstance(b, Tensor)
            y = b._array if tb else b
            arrays = (x, y)
            kind, other = x.__class__, y.__class__
            if kind is other:
                if kind not in _by_class or x.dtype is not y.dtype:
                    return _general(cls, a, b)
                lead = x
            elif other is float or other is int:
                lead = x
            elif kind is float or kind is int:
                lead = y
            else:
                return _general(cls, a, b)
        backend = _by_class.get(lead.__class__)
        if backend is None or lead.dtype not in _DIRECT:
            return _general(cls, *args)
        out = getattr(backend.xp, cls.ufunc)(*arrays)
        if out.__class__ is not lead.__class__:
            out = np.asarray(out)
        if not (ta or tb):
            return out
        t = _new_tensor(Tensor)
        t._array = out
        t._index = 0
        t._grad = t._view = t._leaf = t._hooks = t._node = None
        t._req = False
        t._version_ = INFERENCE if state.inference else None
        if not (ta and a._req or tb and b._req) or not state.grad or not cls.differentiable:
            return t
        if modes.anomaly is not None or state.saved_hooks:
            return _general(cls, *args)
        node = _new_tensor(cls)
        node.wanted = node._tensors = node.hooks = node._unpack = node.trace = node.metas = None
        node._widen = False
        # edges: the inlined Tensor._edge of the ordinary case
        if ta and a._req:
            n = a._node
            ea = n if n is not None and n.metas is None and a._view is None else a._edge()
        else:
            ea = None
        if len(arrays) == 1:
            node.edges = (ea,)
        elif tb and b._req:
            n = b._node
            node.edges = (ea, n if n is not None and n.metas is None and b._view is None else b._edge())
        else:
            node.edges = (ea, None)
        keeps = cls.keeps
        if keeps is NOTHING:
            node._saved = None
        elif keeps is OUTPUT:
            counter = t._version_ = Version()
            node._saved, node._owners, node._versions, node._refs = (out,), (counter,), _ZEROS, _OUT
        else:
            _keep_inputs(node, keeps, args, arrays)
        node.order = next(_order)
        node.shape = out.shape
        node.dtype = out.dtype
        t._node = node
        t._req = True
        return t


_general = Operator.apply.__func__


def _keep_inputs(node, keeps, args, arrays):
    edges = node.edges
    saved, owners, versions = list(arrays), [], _ZEROS
    for i, a in enumerate(args):
        if keeps is OTHER and edges[1 - i] is None:
            saved[i] = None
            owners.append(None)
        elif a.__class__ in _by_class or not isinstance(a, Tensor):
            owners.append(None)
        else:
            counter = a._version_
            if counter is None:
                owners.append(a)
            else:
                if counter is INFERENCE:
                    _refuse_inference(node)
                owners.append(counter)
                if counter.value:
                    versions = [0, 0] if versions is _ZEROS else versions
                    versions[i] = counter.value
    node._saved, node._owners, node._versions = saved, owners, versions
    node._refs = _BOTH if len(saved) == 2 else _FIRST


def _refuse_inference(node):
    raise RuntimeError(
        f"[{node.name()}] inference tensors cannot be saved for backward: clone() the tensor outside inference_mode "
        "first"
    )


class _Packed:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


def _rejoin(array, edge):
    t = make(array)
    if edge is not None:
        t._node, t._index = endpoint(edge)
        t._req = True
        if t._node.__class__ is AccumulateGrad:
            t._leaf, t._node = weakref.ref(t._node), None
    return t


def _widen_tensor(t):
    return REGISTRY["Cast"].apply(t, dtype=F32) if t._array.dtype in HALF else t


def _modified(node, ref, array, now, then):
    which = f"input {ref}" if ref >= 0 else f"output {-1 - ref}"
    hint = f"; made at {node.trace.line}" if node.trace else "; detect_anomaly() shows the line that made it"
    return (
        f"[{node.name()}] one of the variables needed for gradient computation has been modified by an inplace "
        f"operation: its {which}, {dtypes.of(array).name} {array.shape}, is at version {now}; expected version {then}"
        + hint
    )


# operands: one device, one dtype

def _place(cls, arrays):
    """Check that all arrays live on one device; host scalars of tensors (0-d) may join a device array."""
    first = None
    for a in arrays:
        kind = a.__class__
        if kind in _by_class:
            if first is None:
                first = kind
            elif kind is not first:
                return _move(cls, arrays)
    return None


def _move(cls, arrays):
    target = None
    for a in arrays:
        if is_array(a) and a.ndim > 0:
            backend = backend_of(a)
            if target is not None and backend is not target[0]:
                other = target[1]
                raise RuntimeError(
                    f"[{cls.__name__}] expected all tensors to be on the same device, but found "
                    f"{backend_of(other).device_of(other)} and {backend.device_of(a)}: move one with .to(device)"
                )
            target = target or (backend, a)
    if target is None:
        target = next((backend_of(a), a) for a in arrays if is_array(a) and backend_of(a).type != "cpu")
    backend = target[0]
    for i, a in enumerate(arrays):
        if is_array(a) and backend_of(a) is not backend:
            if backend_of(a).type != "cpu":
                raise RuntimeError(
                    f"[{cls.__name__}] expected all tensors to be on the same device, but found a 0-d tensor on "
                    f"{backend_of(a).device_of(a)} beside {backend.device_of(target[1])}"
                )
            arrays[i] = a[()]  # a host scalar goes by value, as in PyTorch


_same = {}  # (promotion, dtype) -> (compute dtype, narrow dtype or None)


def _plan(cls, d):
    key = (cls.promotion, cls.opmath, d)
    plan = _same.get(key)
    if plan is None or plan[2] is not dtypes.get_default_dtype():
        target = d
        if cls.promotion == "float" and dtypes.category(d) < dtypes.FLOAT:
            target = dtypes.get_default_dtype().np
        narrow = target if cls.opmath and target in HALF else None
        plan = _same[key] = (target, narrow, dtypes.get_default_dtype())
    return plan


def _prepare(cls, arrays):
    """(operands in the common dtype, the same as forward gets them, the half dtype to round to or None)."""
    first = other = None
    mixed = False
    for a in arrays:
        kind = a.__class__
        if kind in _by_class:
            d = a.dtype
            if first is None:
                first, first_kind = d, kind
            elif d != first:
                mixed = True
            if kind is not first_kind:
                _move(cls, arrays)
                return _prepare(cls, arrays)
        elif a is not None:
            other = True
    if first is None:  # scalars only: NumPy scalars count as 0-d arrays
        arrays = [np.asarray(a) if isinstance(a, np.generic) else a for a in arrays]
        if not any(a.__class__ in _by_class for a in arrays):
            raise TypeError(f"[{cls.__name__}] expected a Tensor, got {', '.join(type(a).__name__ for a in arrays)}")
        return _prepare(cls, arrays)
    if cls.promotion is None:
        narrow = first if first in HALF else None
        return arrays, [wide(a) if a.__class__ in _by_class else a for a in arrays] if narrow else arrays, narrow
    if not mixed and not other:
        target, narrow, _ = _plan(cls, first)
    else:
        given = [a for a in arrays if a is not None]
        common = dtypes.result_np(*given) if len(given) == 2 else dtypes.result_type(*given).np
        target, narrow, _ = _plan(cls, common)
    if other or mixed or target != first:
        arrays = [_cast(a, target) for a in arrays]
    if narrow is None:
        return arrays, arrays, None
    return arrays, [a.astype(F32) if a.__class__ in _by_class else a for a in arrays], narrow


_KINDS = "biufc"


def _cast(a, target):
    if a.__class__ in _by_class:
        return a if a.dtype == target else a.astype(target)
    if a is None:
        return None
    if isinstance(a, (bool, int, float, complex)) and not isinstance(a, np.generic):
        if target in HALF:
            return a  # stays exact: the arithmetic is in float32
        if target.kind in "iu":
            return np.asarray(a).astype(target)[()]  # wraps, as PyTorch; NumPy would raise
        return a
    if isinstance(a, np.generic):
        return a.astype(F32) if target in HALF else a.astype(target)
    raise TypeError(f"expected a Tensor or number, got {type(a).__name__}")


# views and in-place changes

def _link_view(cls, t, source, params, index=None):
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
        self.order = next(_order)
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
        for i, s in enumerate(node._saved):
            if s is memory:  # the operator needs the value from before the change
                node._saved[i] = s.copy()
                node._owners[i] = None
    memory[...] = result.astype(memory.dtype) if result.dtype != memory.dtype else result
    target._bump()
    if not state.grad:
        return target  # what is recorded stays recorded: the update of a parameter, of a part of an activation
    if node is None:
        if view is not None:
            view.seen = target._version_.value
            if view.base._req:  # a constant written into a part of a recorded base
                _rebase(target, view, None)
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
        _rebase(target, view, out._edge())
    return target


def _move_retained(tensor, node, index):
    """retain_grad() is about the tensor's newest value: it goes to the node that makes that."""
    old = tensor._node
    held = old.hooks.retain.get(tensor._index) if old is not None and old.hooks is not None else None
    if held is not None and held() is tensor:
        del old.hooks.retain[tensor._index]
        node.hook_table().retain[index] = held


def _rebase(target, view, edge):
    base = view.base
    base_array = base._array
    node = CopySlices(base._edge(), edge, view.steps, base_array.shape, base_array.dtype)
    node.trace = None
    _move_retained(base, node, 0)
    base._node, base._index, base._req = node, 0, True
    view.seen = -1  # the view's own edge is rebuilt from the new base
    target._req = True
    target._refresh()


def _check_single_memory(name, memory):
    if memory.size > 1 and any(s == 0 and n > 1 for s, n in zip(memory.strides, memory.shape)):
        raise RuntimeError(
            f"[{name}] unsupported operation: more than one element of the written-to tensor refers to a "
            "single memory location: clone() the tensor before the operation"
        )


class Trace:
    """Where an operator was called: kept under anomaly mode only."""

    __slots__ = ("line", "stack", "inputs", "output_has_nan")

    def __init__(self, line, stack, inputs, output_has_nan):
        self.line, self.stack, self.inputs, self.output_has_nan = line, stack, inputs, output_has_nan


def _trace(node, args, outs):
    from .anomaly import user_stack

    stack = user_stack()
    shapes = tuple(
        f"{dtypes.of(a._array).name}{list(a.shape)}" if isinstance(a, Tensor) else repr(a)[:40] for a in args
    )
    bad = False
    if modes.anomaly == "check":
        for o in outs:
            if dtypes.is_float(o.dtype):
                xp = backend_of(o).xp
                bad = bad or bool(xp.isnan(wide(o)).any())
    line = f"{stack[-1].filename}:{stack[-1].lineno} ({stack[-1].line})" if stack else "an unknown line"
    return Trace(line, stack, shapes, bad)
