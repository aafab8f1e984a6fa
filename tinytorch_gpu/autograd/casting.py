"""Autocast's one rule: what an operator's inputs are cast to, by its class, where `state.autocast` is on.

`state.autocast` is None, or {array class: half dtype} of the devices it is on for. `Operator.apply` calls `cast_inputs`
with the class attribute `autocast`:

    "lower"    to the half dtype: matrix products and convolutions
    "float32"  to float32: where range or accumulation matters: exp, softmax, norms, losses
    "widest"   to the widest of the operands: operators that take one dtype only
    None       as they come; mixed operands promote as always

Raw arrays are never cast, so a backward, which runs on raw arrays, stays in its forward's dtypes.
"""
from __future__ import annotations

import functools

from ..backend.device import CPU, backend_of
from ..tensor import Tensor
from .modes import state
from .node import REGISTRY
from .operands import F32, HALF

__all__ = ["cast_inputs", "without_autocast", "autocasting", "RULES"]

RULES = ("lower", "float32", "widest")


def _lower(args):
    """The half dtype for the device of the first Tensor, or None where autocast is off for it."""
    for a in args:
        if isinstance(a, Tensor):
            return state.autocast.get(a._array.__class__)
        if a.__class__ in (tuple, list) and a and isinstance(a[0], Tensor):
            return state.autocast.get(a[0]._array.__class__)
    return None


def cast_inputs(rule, args):
    """`args` with its Tensors of float32 and half dtypes cast by the rule; others (float64, integers) as they are."""
    lower = _lower(args)
    if lower is None:
        return args
    if rule == "lower":
        target = lower
    elif rule == "float32":
        target = F32
    else:
        target = F32 if any(isinstance(a, Tensor) and a._array.dtype == F32 for a in args) else lower
    return [cast(a, target) if isinstance(a, Tensor) else a for a in args]


def cast(t, target):
    """A float32 or half Tensor in another such dtype. A weight is cast once, until the outermost autocast ends."""
    d = t._array.dtype
    if d == target or (d != F32 and d not in HALF):
        return t
    if target == F32 or not t._req or t._node is not None or t._view is not None or not state.autocast_cache:
        return REGISTRY["Cast"].apply(t, dtype=target)
    # the mode is part of the key: a cast made under no_grad has no edge to its weight
    key = id(t), t._version, target, state.grad, state.inference
    found = state.casts.get(key)
    if found is None:
        found = state.casts[key] = t, REGISTRY["Cast"].apply(t, dtype=target)  # holding t keeps its id unique
    return found[1]


class without_autocast:
    """Autocast off inside the block: for in-place operators, backward, and functions that cast for themselves."""

    __slots__ = ("_outer",)

    def __enter__(self):
        self._outer, state.autocast = state.autocast, None

    def __exit__(self, *exc):
        state.autocast = self._outer


def autocasting(function, rule):
    """`function`, made of several operators, under one rule: its Tensors are cast, and nothing inside casts again.

    "unsafe", for functions only, is float32 on the CPU and refused elsewhere, as in PyTorch's lists.
    """

    @functools.wraps(function)
    def call(*args, **kwargs):
        if state.autocast is None:
            return function(*args, **kwargs)
        names, values = tuple(kwargs), (*args, *kwargs.values())
        if _lower(values) is None:
            return function(*args, **kwargs)
        if rule == "unsafe" and backend_of(next(v for v in values if isinstance(v, Tensor))._array) is not CPU:
            raise RuntimeError(f"[{function.__name__}] is unsafe under autocast: a half-precision operator before it "
                               f"rounds to 0 or 1 where its gradient is infinite; use {function.__name__}_with_logits")
        values = cast_inputs("float32" if rule == "unsafe" else rule, values)
        with without_autocast():
            return function(*values[:len(args)], **dict(zip(names, values[len(args):])))

    return call
