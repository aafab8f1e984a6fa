"""Attention that is written out: two products with scaling, mask, softmax and dropout between them."""
from __future__ import annotations

import math

import numpy as np

from ... import ops
from ...backend.device import host_array, is_array
from ...ops.attention import Attention
from ..cost.cost import Array, Cost, cost
from .search import Applied, Search
from .softmax import softmax_of
from .steps import Step, Value

__all__ = ["attention"]


def attention(s: Search, last: Step) -> bool:
    """softmax(q k^T scale + mask) v from its last product on."""
    if last.name != "Gemm" or not s.free(last) or last.params.get("ta") or last.params.get("tb"):
        return False
    probs, v = last.inputs
    steps, drop = [last], None
    while (step := s.made(probs, "Dropout", "Cast")) is not None:  # a softmax in float32 is cast, by hand or autocast
        if step.name == "Dropout":
            if drop is not None:
                return False
            drop = step
        steps.append(step)
        probs = step.inputs[0]
    found = softmax_of(s, probs)
    if found is None or found.dim != len(found.x.shape) - 1:
        return False
    steps += found.steps
    scores, scale, mask = found.x, 1.0, None
    while (step := s.made(scores, "Mul", "Div", "Add", "MaskedFill", "Where", "Cast")) is not None:
        if step.name == "Cast":
            other = step.inputs[0]
        elif step.name in ("Mul", "Div"):
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
    if not s.closed(steps, [last.out]) or not _fit(first, last):
        return False
    _add_attention(s, steps, first, last, (q, kt, v), scale, mask, drop)
    return True


def _fit(first, last) -> bool:
    """Whether the operands are of one floating dtype, as the operator wants them."""
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
    probs = Array(q.array.dtype, scores.shape)
    turned = kt.shape if transposed else (*kt.shape[:-2], kt.shape[-1], kt.shape[-2])
    given = [q.array, Array(kt.array.dtype, turned), v.array, bias.array if bias is not None else None]
    whole = Applied("Attention", [q, kt, v, bias], [last.out, probs], {"scale": scale, "p": p}, given)
    s.add("attention", steps, [last.out], use=f"F.scaled_dot_product_attention({', '.join(text)})", by=[whole],
          parts=_attention_parts(q, kt, v, probs, last.out, reads, mask is not None, bool(p)), replace=replace)


def _attention_parts(q, kt, v, probs, out, mask, masked, dropped) -> list[Cost]:
    """Two products, and one pass for scaling, mask and softmax between them; the scores are float32 at least."""
    scores = Array("float64" if q.array.dtype == "float64" else "float32", probs.shape)
    read = scores.nbytes + getattr(getattr(mask, "array", mask), "nbytes", 0)
    soft = Cost("softmax", float((6 + masked) * scores.size), read, probs.nbytes)
    drop = [cost("Dropout", [probs], [probs])] if dropped else []
    return [cost("Gemm", [q.array, kt.array], [scores]), soft, *drop, cost("Gemm", [probs, v.array], [out.array])]
