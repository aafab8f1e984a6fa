"""Softmax, attention and cross entropy that are written out."""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .. import ops
from ..backend.device import host_array, is_array
from ..nn import functional as F
from ..ops.attention import Attention
from ..tensor import make
from .cost import Array, Cost
from .fusion_search import Search, cost_of
from .fusion_steps import Step, Value

__all__ = ["attention", "cross_entropy", "find_softmax"]


@dataclass
class Softmax:
    """softmax(x) over one dimension, or its logarithm, by one step or several."""

    steps: list[Step]
    x: Value
    out: Value
    dim: int


def _over_one(step) -> int | None:
    axes = step.axes()
    return axes[0] if axes is not None and len(axes) == 1 else None


def _below_top(s: Search, value: Value, dim: int) -> tuple[list[Step], Value]:
    """(steps, x) of x - max(x), where `value` is that; else no steps."""
    sub = s.made(value, "Sub")
    if sub is None or not all(isinstance(v, Value) for v in sub.inputs):
        return [], value
    x, top = sub.inputs
    step = top.source.step
    if step is not None and step.name in ("Amax", "Max") and s.free(step) and step.inputs[0] is x:
        return ([sub, step], x) if _over_one(step) == dim and len(top.shape) == len(x.shape) else ([], value)
    if top.step is None and not s.program.complete and top.shape == x.shape[:dim] + (1,) + x.shape[dim + 1:]:
        return [sub], x  # of a graph: a constant of that shape, as x.amax().detach() is
    return [], value


def written_softmax(s: Search, div: Step) -> Softmax | None:
    """exp(x) / exp(x).sum(), with or without x - max(x)."""
    if div.name != "Div" or not s.free(div) or not all(isinstance(v, Value) for v in div.inputs):
        return None
    exp, total = s.made(div.inputs[0], "Exp"), s.made(div.inputs[1], "Sum")
    if exp is None or total is None or total.inputs[0] is not exp.out:
        return None
    dim = _over_one(total)
    if dim is None or len(total.out.shape) != len(exp.out.shape):
        return None
    top, x = _below_top(s, exp.inputs[0], dim)
    steps = [div, exp, total, *top]
    if not s.closed(steps, [div.out]):
        if not top or not s.closed([div, exp, total], [div.out]):
            return None
        steps, x = [div, exp, total], exp.inputs[0]
    return Softmax(steps, x, div.out, dim)


def _softmax_of(s: Search, value) -> Softmax | None:
    step = s.made(value, "Softmax", "Div")
    if step is None:
        return None
    if step.name == "Softmax":
        dim = _over_one(step)
        return None if dim is None else Softmax([step], step.inputs[0], step.out, dim)
    return written_softmax(s, step)


def find_softmax(s: Search) -> None:
    """Softmax written out, where it is no part of more."""
    for step in s.steps:
        found = written_softmax(s, step)
        if found is not None:
            _add_softmax(s, found)


def _add_softmax(s, found) -> None:
    dim = found.dim - len(found.x.shape)
    s.add("softmax", found.steps, [found.out], use=f"F.softmax(x, dim={dim})",
          parts=[cost_of("Softmax", [found.x], [found.out])],
          replace=lambda arrays: F.softmax(arrays[found.x], dim))


# attention


def attention(s: Search, last: Step) -> bool:
    """softmax(q k^T scale + mask) v from its last product on."""
    if last.name != "Gemm" or not s.free(last) or last.params.get("ta") or last.params.get("tb"):
        return False
    probs, v = last.inputs
    steps, drop = [last], None
    if (drop := s.made(probs, "Dropout")) is not None:
        steps.append(drop)
        probs = drop.inputs[0]
    found = _softmax_of(s, probs)
    if found is None or found.dim != len(found.x.shape) - 1:
        return False
    steps += found.steps
    scores, scale, mask = found.x, 1.0, None
    while (step := s.made(scores, "Mul", "Div", "Add", "MaskedFill", "Where")) is not None:
        if step.name in ("Mul", "Div"):
            number = step.number_at(1)
            other = step.inputs[0]
            if number is None and step.name == "Mul":
                number, other = step.number_at(0), step.inputs[1]
            if number is None or not number or not isinstance(other, Value):
                return False
            scale *= number if step.name == "Mul" else 1 / number
        elif mask is not None:
            return False
        else:
            mask, other = _mask(step)
            if mask is None:
                return False
            if mask[0] == "bias" and scale != 1.0:
                return False  # what is added is scaled too
        steps.append(step)
        scores = other
    first = s.made(scores, "Gemm")
    if first is None or first.params.get("ta") or len(first.out.shape) < 2:
        return False
    steps.append(first)
    q, kt = first.inputs
    if not s.closed(steps, [last.out]) or not _lengths(first, last):
        return False
    _add_attention(s, steps, first, last, (q, kt, v), scale, mask, drop)
    return True


def _lengths(first, last) -> bool:
    """Whether the operands are of one floating dtype and rank, as the operator wants them."""
    values = [*first.inputs, *last.inputs]
    if not all(isinstance(v, Value) for v in values):
        return False
    return len({v.array.dtype for v in values}) == 1 and "float" in values[0].array.dtype


def _mask(step) -> tuple[tuple | None, Value | None]:
    """(("bias", value) or ("out" or "in", booleans), the scores) of a step that masks."""
    if step.name == "MaskedFill":
        low = step.inputs[2]
        return (("out", step.inputs[1]), step.inputs[0]) if _low(low) else (None, None)
    if step.name == "Where":
        a, b = step.inputs[:2]
        condition = step.params.get("condition", step.inputs[2] if len(step.inputs) > 2 else None)
        if isinstance(a, Value) and _low(b):
            return ("in", condition), a
        return (("out", condition), b) if isinstance(b, Value) and _low(a) else (None, None)
    values = [v for v in step.inputs if isinstance(v, Value)]
    if len(values) != 2:
        return None, None
    scores = next((v for v in values if v.source.step is not None and v.step is not None), None)
    if scores is None or scores.shape != step.out.shape:
        return None, None
    mask = values[1] if values[0] is scores else values[0]
    return ("bias", mask), scores


def _low(x) -> bool:
    """Whether a number is as good as -infinity before a softmax."""
    if isinstance(x, Value):
        x = host_array(x.held).item() if x.held is not None and x.array.size == 1 else None
    elif is_array(x):
        x = host_array(x).item() if x.size == 1 else None
    return isinstance(x, (int, float)) and x <= -1e4


def _causal(mask, rows, columns) -> bool:
    """Whether a mask that is there is the lower triangle of what counts."""
    if mask is None or mask[0] == "bias":
        return False
    held = mask[1].held if isinstance(mask[1], Value) else mask[1]
    if held is None or held.dtype.kind != "b" or held.shape[-2:] != (rows, columns) or held.size != rows * columns:
        return False
    keep = host_array(held).reshape(rows, columns)
    return bool(np.array_equal(~keep if mask[0] == "out" else keep, np.tril(np.ones((rows, columns), "?"))))


def _add_attention(s, steps, first, last, operands, scale, mask, drop) -> None:
    q, kt, v = operands
    transposed = bool(first.params.get("tb"))
    scores = first.out
    causal = _causal(mask, *scores.shape[-2:])
    p = drop.params.get("p", 0.0) if drop is not None else 0.0
    text = ["q", "k", "v"]
    if mask is not None and not causal:
        text.append("attn_mask=" + ("~mask" if mask[0] == "out" else "mask"))
    text += [f"dropout_p={p:g}"] if p else []
    text += ["is_causal=True"] if causal else []
    usual = 1 / math.sqrt(q.shape[-1]) if q.shape[-1] else 1.0
    text += [] if math.isclose(scale, usual, rel_tol=1e-6) else [f"scale={scale:.4g}"]
    bias = mask[1] if mask is not None and mask[0] == "bias" else None
    allowed = None if mask is None or mask[0] == "bias" or causal else mask[1]

    def replace(arrays):
        key = arrays[kt] if transposed else ops.transpose(arrays[kt], -1, -2)
        keep = None
        if allowed is not None:
            keep = arrays[allowed]._array if isinstance(allowed, Value) else allowed
            keep = ~keep if mask[0] == "out" else keep
        out, _ = Attention.apply(arrays[q], key, arrays[v], arrays[bias] if bias is not None else None, allowed=keep,
                                 causal=causal, scale=float(scale), p=float(p),
                                 seed_offset=drop.params["seed_offset"] if p else None)
        return out

    reads = bias if bias is not None else allowed
    s.add("attention", steps, [last.out], use=f"F.scaled_dot_product_attention({', '.join(text)})",
          parts=_attention_parts(q, kt, v, scores.shape, last.out, reads, mask is not None, bool(p)), replace=replace)


def _attention_parts(q, kt, v, shape, out, mask, masked, dropped) -> list[Cost]:
    """Two products, and one pass for scaling, mask and softmax between them; the scores are float32 at least."""
    probs = Value(Array(q.array.dtype, shape))
    scores = Value(Array("float64" if q.array.dtype == "float64" else "float32", shape))
    read = scores.array.nbytes + getattr(getattr(mask, "array", mask), "nbytes", 0)
    soft = Cost("softmax", float((6 + masked) * scores.array.size), read, probs.array.nbytes)
    return [cost_of("Gemm", [q, kt], [scores]), soft, *([cost_of("Dropout", [probs], [probs])] if dropped else []),
            cost_of("Gemm", [probs, v], [out])]


# cross entropy


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
    if len(x.shape) != 2 or pick.name != "NLLLoss" and not pick.out.shape[:1] == x.shape[:1]:
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
        found = F.cross_entropy(arrays[x], ops.reshape(at, (x.shape[0],)), reduction=reduction)
        return ops.reshape(found, shape)

    index = Value(Array("int64", (x.shape[0],)))
    s.add("cross entropy", steps, [out], use=f"F.cross_entropy(logits, target{how})",
          parts=[cost_of("CrossEntropy", [x, index], [out])], replace=replace)
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
    return [sub, total, *views, *more] if _over_one(total) == 1 and sub.out.array.size == value.array.size else None


def _log_softmax_of(s, value) -> tuple[list[Step], Value] | None:
    step = s.made(value, "LogSoftmax", "Log", "Sub")
    if step is None:
        return None
    if step.name == "LogSoftmax":
        return ([step], step.inputs[0]) if _over_one(step) == 1 else None
    if step.name == "Log":
        found = _softmax_of(s, step.inputs[0])
        return None if found is None or found.dim != 1 else ([step, *found.steps], found.x)
    x, total = step.inputs
    if not isinstance(x, Value) or not isinstance(total, Value):
        return None
    inner = s.made(total.source, "LogSumExp", "Log")
    if inner is None:
        return None
    if inner.name == "LogSumExp":
        return ([step, inner], x) if inner.inputs[0] is x and _over_one(inner) == 1 else None
    total_step = s.made(inner.inputs[0], "Sum")
    exp = s.made(total_step.inputs[0], "Exp") if total_step is not None else None
    if total_step is None or exp is None or exp.inputs[0] is not x or _over_one(total_step) != 1:
        return None
    top, source = _below_top(s, x, 1)
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
