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

import numpy as np

from ..backend import dtypes, streams
from ..backend.device import _by_class, is_array, xp_of
from ..backend.out_of_memory import again
from ..tensor import INFERENCE, Tensor, Version, make
from . import modes
from .anomaly import trace_of
from .casting import RULES, cast_inputs
from .modes import state
from .node import REGISTRY, AccumulateGrad, Node, endpoint, next_order, rejoin
from .operands import F32, HALF, array_of, place, prepare, refusal, wide
from .views import inplace, link_view

__all__ = ["Node", "Operator", "REGISTRY", "AccumulateGrad", "wide", "array_of", "endpoint", "inplace"]

FREED = object()


class Operator(Node):
    """A differentiable operation. Subclasses define `forward(node, *arrays, **params)` and `backward(node, *grads)`.

    Class attributes decide what `apply` does around them:
    `promotion`: None (operands as they are), "common" (PyTorch's result type) or "float" (integers become floating);
    `opmath`: half operands reach forward and backward as float32, and results are rounded once;
    `view`: the output may share the first input's memory; `differentiable`: False records nothing;
    `fused`: forward by a kernel, `fused(node, *arrays, **params)` on the operands as they are given, or None where the
    kernel does not fit; it saves what forward saves. `widens`: the backward is one operator that takes half types as
    they are, so that after a fused forward nothing needs to be widened for it;
    `autocast`: what the inputs are cast to under autocast, "lower", "float32", "widest" or None (casting.py).
    """

    __slots__ = ("xp", "wanted", "_saved", "_owners", "_versions", "_refs", "_tensors", "_unpack", "_widen")
    promotion: str | None = None
    opmath = False
    no_bool: str | None = None  # why boolean operands are refused
    view = False
    differentiable = True
    fused = None
    widens = False
    autocast: str | None = None
    materialize = True  # missing gradients of an operator with several outputs arrive as zeros

    def __init_subclass__(cls, abstract=False, **kwargs):
        super().__init_subclass__(**kwargs)
        if cls.autocast is not None and cls.autocast not in RULES:
            raise ValueError(f"[{cls.__name__}] autocast must be one of {', '.join(RULES)} or None, got "
                             f"{cls.autocast!r}")
        if not abstract and cls.__module__.startswith("tinytorch_gpu.ops.") and not cls.__name__.startswith("_"):
            known = REGISTRY.setdefault(cls.__name__, cls)
            if known is not cls and known.__module__ != cls.__module__:
                raise TypeError(f"[Operator] {known.__module__} has an operator {cls.__name__}: choose another name")
            REGISTRY[cls.__name__] = cls

    # what forward and backward use

    def forward(node, *arrays, **params):
        why = "forward is not written"
        if node.fused is not None:
            why = "its kernel does not run on these operands, and it has no formula: write forward, or move them"
        raise NotImplementedError(f"[{node.name()}] {why}")

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
        if cls.autocast is not None and state.autocast is not None:
            args = cast_inputs(cls.autocast, args)
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
        crossing = streams.before(arrays, params) if streams.several else None
        originals, narrow, out = arrays, None, None
        try:
            if cls.fused is not None and arrays[0].__class__ is not np.ndarray:
                node.xp = xp_of(arrays[0])
                out = node.fused(*arrays, **params)
            fused = out is not None
            if not fused:
                if cls.promotion is not None or cls.opmath:
                    originals, arrays, narrow = prepare(cls, arrays)
                else:
                    place(cls, arrays)
                for a in arrays:
                    backend = _by_class.get(a.__class__)
                    if backend is not None:
                        node.xp = backend.xp
                        break
                else:
                    node.xp = None
                try:
                    out = node.forward(*arrays, **params)
                except (ValueError, TypeError) as e:
                    refused = refusal(cls, e, originals)
                    if refused is None:
                        raise
                    raise refused from None
            many = out.__class__ is tuple
            raws = out if many else (out,)
            outs = [o if o.__class__ in _by_class else np.asarray(o) for o in raws]
            if narrow is not None:
                with dtypes.quiet():  # beyond the largest float16 is infinity, as in PyTorch
                    outs = [o.astype(narrow) if o.dtype == F32 else o for o in outs]
        except MemoryError as e:
            arrays = originals = out = raws = outs = None  # what the first attempt holds
            return again(cls.__name__, e, cls.apply, *args, **params)
        if crossing is not None:
            streams.after(crossing, outs)
            if traced:
                streams.note(node, crossing)
        if not tensors:
            return tuple(outs) if many else outs[0]
        results = [make(o) for o in outs]
        if traced and any(dtypes.is_float(o.dtype) for o in outs):
            for i, t in enumerate(results):
                if dtypes.is_float(t._array.dtype):
                    t._node, t._index, t._req = node, i, True
            node.order = next_order()
            node.shape, node.dtype = outs[0].shape, outs[0].dtype
            node.metas = tuple([(o.shape, o.dtype) for o in outs]) if many else None
            node._widen = narrow is not None or (
                fused and cls.opmath and not cls.widens and arrays[0].dtype in HALF)
            if node._saved is not None:
                node._keep(args, originals, arrays, raws, outs, results)
            node.trace = trace_of(node, args, outs) if modes.anomaly is not None else None
        if cls.view:
            for i, t in enumerate(results):
                link_view(cls, t, args[0], params, i if many else None)
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
                refuse_inference(node)
            kept.append(s)
            owners.append(owner)
            versions.append(owner.value if owner.__class__ is Version else 0)
            refs.append(ref)
        node._owners, node._versions, node._refs = owners, versions, refs
        if state.saved_hooks:
            node._pack(kept, owners)
        node._saved = kept

    def _pack(node, kept, owners):
        pack, node._unpack = state.saved_hooks[-1]
        hooks, state.saved_hooks = state.saved_hooks, ()
        try:
            for i, s in enumerate(kept):
                if s is not None and not isinstance(s, np.generic) and is_array(s):
                    kept[i] = _Packed(pack(make(s)))
                    if owners[i].__class__ is not Version:  # a Tensor, which would keep what the hook was to replace
                        owners[i] = None
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
                counter = owner if owner is None or owner.__class__ is Version else owner._counter()
                s = rejoin(s, node.edges[ref] if ref >= 0 else (node, -1 - ref), counter)
            if node._widen and s is not None and getattr(s, "dtype", None) is not None:
                s = wide(s) if not isinstance(s, Tensor) else _widen_tensor(s)
            values.append(s)
        return tuple(values)

    def release(node):
        """Drop the saved values."""
        if node._saved is not None:
            node._saved = FREED
            node._owners = node._unpack = None  # the hook may hold as much as the values: a checkpoint its inputs

    @classmethod
    def inplace(cls, target, *args, **params):
        """`target` becomes the operator's result, in its own memory; returns `target`."""
        return inplace(cls.__name__, target, lambda: cls.apply(target, *args, **params))


def refuse_inference(node):
    raise RuntimeError(
        f"[{node.name()}] inference tensors cannot be saved for backward: clone() the tensor outside inference_mode "
        "first"
    )


class _Packed:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


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
