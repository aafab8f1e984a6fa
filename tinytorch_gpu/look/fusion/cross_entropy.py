"""Cross entropy that is written out, from logits and classes."""
from __future__ import annotations

import numpy as np

from ... import ops
from ...backend.device import host_array, is_array
from ...nn import functional as F
from ...tensor import make
from ..cost.cost import Array
from .search import Applied, Search
from .softmax import below_top, over_one, softmax_of
from .steps import Step, Value

__all__ = ["cross_entropy"]


def cross_entropy(s: Search, pick: Step) -> bool:
    """-log(softmax(x))[target], picked by an index, gather or nll_loss; then summed or averaged."""
    if pick.name not in ("Index", "Gather", "NLLLoss") or not s.free(pick) or not isinstance(pick.inputs[0], Value):
        return False
    sign, out = 1.0, pick.out
    logs = _log_softmax_of(s, pick.inputs[0])
    if logs is None:
        total = _above_picked(s, pick)
        if total is None:
            return False
        logs, sign, out = (total, pick.inputs[0]), -1.0, total[0].out
    steps, x = logs
    if len(x.shape) != 2 and pick.name != "NLLLoss":
        return False
    target = _target(pick, x.shape[0])
    if target is None:
        return False
    steps, reduction = [*steps, pick], "none"
    if pick.name == "NLLLoss":
        if any(v is not None for v in pick.inputs[2:3]):
            return False
        reduction = pick.params.get("reduction", "mean" if not out.shape else "none")
        sign = -1.0
    while (step := s.only(out, "Neg", "Mean", "Sum", "Reshape", "Slice")) is not None:
        if step.name == "Neg":
            sign = -sign
        elif step.name in ("Mean", "Sum"):
            if reduction != "none" or step.out.shape:
                break
            reduction = step.name.lower()
        elif sorted(n for n in step.out.shape if n != 1) != sorted(n for n in out.shape if n != 1):
            break
        steps.append(step)
        out = step.out
        if sign < 0 and reduction != "none":
            break
    if sign > 0 or not s.closed(steps, [out]):
        return False
    how = "" if reduction == "mean" else f', reduction="{reduction}"'
    shape = out.shape

    def replace(arrays):
        at = arrays[target] if isinstance(target, Value) else make(target)
        if pick.name != "NLLLoss":
            at = ops.reshape(at, (x.shape[0],))
        found = F.cross_entropy(arrays[x], at, reduction=reduction)
        return ops.reshape(found, shape)

    index = Value(Array("int64", x.shape[:1] + x.shape[2:]))
    s.add("cross entropy", steps, [out], use=f"F.cross_entropy(logits, target{how})",
          by=[Applied("CrossEntropy", [x, index], [out])], replace=replace)
    return True


def _above_picked(s, pick) -> list[Step] | None:
    """The steps of logsumexp(x) - x[target], the difference first."""
    views, value = [], pick.out
    while (step := s.only(value)) is not None and step.view and step.name in ("Reshape", "Slice"):
        views.append(step)
        value = step.out
    sub = s.only(value, "Sub")
    if sub is None or not isinstance(sub.inputs[0], Value) or sub.inputs[1] is not value:
        return None
    total = sub.inputs[0].step
    more = []
    if total is not None and total.view and total.name in ("Reshape", "Slice"):
        more, total = [total], total.values[0].step
    if total is None or total.name != "LogSumExp" or not s.free(total) or total.inputs[0] is not pick.inputs[0]:
        return None
    return [sub, total, *views, *more] if over_one(total) == 1 and sub.out.array.size == value.array.size else None


def _log_softmax_of(s, value) -> tuple[list[Step], Value] | None:
    step = s.made(value, "LogSoftmax", "Log", "Sub")
    if step is None:
        return None
    if step.name == "LogSoftmax":
        return ([step], step.inputs[0]) if over_one(step) == 1 else None
    if step.name == "Log":
        found = softmax_of(s, step.inputs[0])
        return None if found is None or found.dim != 1 else ([step, *found.steps], found.x)
    x, total = step.inputs
    if not isinstance(x, Value) or not isinstance(total, Value):
        return None
    inner = s.made(total.source, "LogSumExp", "Log")
    if inner is None:
        return None
    if inner.name == "LogSumExp":
        return ([step, inner], x) if inner.inputs[0] is x and over_one(inner) == 1 else None
    total_step = s.made(inner.inputs[0], "Sum")
    exp = s.made(total_step.inputs[0], "Exp") if total_step is not None else None
    if total_step is None or exp is None or exp.inputs[0] is not x or over_one(total_step) != 1:
        return None
    top, source = below_top(s, x, 1)
    return [step, inner, total_step, exp, *top], source


def _target(pick, rows):
    """The classes: a Value or a raw array; None where the index is another."""
    if pick.name == "NLLLoss":
        return pick.inputs[1] if len(pick.inputs) > 1 and isinstance(pick.inputs[1], Value) else None
    index = pick.params.get("index")
    if pick.name == "Gather":
        return index if getattr(index, "shape", None) == (rows, 1) else None
    if not isinstance(index, tuple) or len(index) != 2 or not all(is_array(i) for i in index):
        return None
    at, target = index
    if target.shape != (rows,) or at.shape != (rows,) or not np.array_equal(host_array(at), np.arange(rows)):
        return None
    return target
