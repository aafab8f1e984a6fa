"""Gradient rules of operators that are several in one: products, attention, normalization, losses."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ...backend.kernel_rows import BLOCKS, SHARED
from .cost import Array, Cost, cost
from .rules import Unknown
from .traced import there

__all__ = ["COMPOSED", "NORMS", "factors_of", "row_of", "statistics"]


# products

def factors_of(name) -> tuple[int, int]:
    return (1, 2) if name == "AddMm" else (0, 1)


def _rows(a: Array) -> Array:
    return Array(a.dtype, (math.prod(a.shape[:-1]), a.shape[-1]))


def _factor(r, i, g, a, b) -> Array:
    """The gradient of factor `i` of a and b: a product of the gradient and the other one, in an order in which the
    first is as long as the sum."""
    mine, other = (a, b) if i == 0 else (b, a)
    out = Array(g.dtype, np.broadcast_shapes(g.shape[:-2], other.shape[:-2]) + mine.shape[-2:])
    turned = r.params.get("ta" if i == 0 else "tb", False)
    given = (r.conj(other), g) if turned == (i == 0) else (g, r.conj(other))
    return r("Gemm", *given, out=out)


def _gemm(r):
    a, b = there(r.given[0]), there(r.given[1])
    first = _factor(r, 0, r.g, a, b) if r.need(0) else None
    g = r.g
    if r.need(1) and len(a.shape) > 2 and not r.params.get("ta") and len(b.shape) == 2:
        a, g = _rows(a), _rows(g)
    return [first, _factor(r, 1, g, a, b) if r.need(1) else None]


def _linear(r):
    x, w = r.given[:2]
    g = _rows(r.g)
    first = r("Gemm", g, r.conj(there(w)), out=_rows(there(x))) if r.need(0) else None
    second = r("Gemm", g, r.conj(_rows(there(x))), out=there(w)) if r.need(1) else None
    return [first and x, second, r.g]


def _addmm(r):
    def scaled(x, name):
        return x if r.params.get(name, 1) == 1 else r("Mul", x)

    a, b = r.given[1:3]
    return [scaled(r.g, "beta") if r.need(0) else None,
            scaled(_factor(r, 0, r.g, there(a), there(b)), "alpha") if r.need(1) else None,
            scaled(_factor(r, 1, r.g, there(a), there(b)), "alpha") if r.need(2) else None]


def _conv(r):
    x, w = there(r.given[0]), there(r.given[1])
    return [r("ConvInput", r.g, w, out=x) if r.need(0) else None,
            r("ConvWeight", x, r.g, out=w) if r.need(1) else None,
            r("Sum", r.g, out=r.given[2]) if r.need(2) else None]


def _attention(r):
    """Kernels scale where they pass anyway; formulas, and where a bias is added, the smaller gradients."""
    (q, k, v), g = map(there, r.given[:3]), r.g
    if len(r.out) < 2:
        raise Unknown("products")
    probs, biased = r.out[1], len(r.given) > 3 and r.given[3] is not None

    def drop(x):
        return r("Dropout", x) if r.params.get("p") else x

    gv = r("Gemm", drop(probs), g, out=v) if r.need(2) else None
    g = drop(r("Gemm", g, v, out=probs))
    gs = r("SoftmaxBackward", g, probs)
    gq = r("Gemm", gs, k, out=q) if r.need(0) else None
    gk = r("Gemm", gs, q, out=k) if r.need(1) else None
    if (r.host or biased) and r.params.get("scale", 1.0) != 1.0:
        gq, gk = (x and r("Mul", x) for x in (gq, gk))
    return [gq, gk, gv, gs if biased else None]


# normalization, losses, what moves

CHANNELS = ("BatchNorm", "GroupNorm")  # which have no kernel: a channel's elements are no rows
NORMS = ("LayerNorm", "RMSNorm", *CHANNELS, "AddLayerNorm", "AddRMSNorm")


def statistics(name, x, affine, params) -> list[Array]:
    """1 / deviation of each row, and its mean where there is one; float32 for half types."""
    layout = params.get("layout")
    if layout is not None:
        size = math.prod(x.shape[d] for d in layout.over)
    else:
        there = [a for a in affine if a is not None]
        if not there:
            raise Unknown("normalization")
        size = there[0].size
    one = Array("float64" if x.dtype == "float64" else "float32", (x.size // max(size, 1),))
    return [one] * (1 if name.endswith("RMSNorm") else 2)


def _normalize(r):
    """One operator makes the gradients of x, weight and bias, whichever are wanted."""
    added = r.name.startswith("Add")
    affine = list(r.given[1 + added:3 + added])
    weight, bias = [*affine, None, None][:2]
    x = r.out[1] if added and len(r.out) > 1 else r.x
    stats = statistics(r.name, x, affine, r.params)
    more = x if r.params.get("both") else None  # the gradient that comes to the sum on another way
    whole = cost("NormalizeBackward", [r.g, x, weight, more],
                 [x, *([weight, weight] if weight is not None else [])], r.params)
    per = (6 if r.name.endswith("RMSNorm") else 9) + 4 * (weight is not None)
    flops = whole.flops if whole.flops is not None else float(per * x.size)
    found = Cost("normalization", flops, (whole.read or 0) + sum(a.nbytes for a in stats), whole.written)
    r.ran += [found] if r.host or weight is None or r.name in CHANNELS else _in_blocks(r, found, x, weight, stats)
    if weight is None and bias is not None and r.need(2 + added):
        return [*([x] * (1 + added)), None, r.g]
    return [x] * (1 + added)


def _in_blocks(r, whole, x, weight, stats) -> list[Cost]:
    """As kernels do it: each block leaves its part of the gradients of weight and bias, a launch for each adds them up;
    beyond what fits into shared memory they take a launch and a reading of their own, and fewer parts: one at least."""
    sums, written = len(stats), whole.written - 2 * weight.nbytes  # a bias has a gradient where there is a mean
    beside = sums * weight.size * 4 <= SHARED
    part = weight.size * (min(x.size // max(weight.size, 1), BLOCKS) if beside else 1)
    first = [replace(whole, written=written + (sums * 4 * part if beside else 0))]
    if not beside:
        first.append(Cost("normalization", 0.0, r.g.nbytes + x.nbytes + sum(a.nbytes for a in stats), sums * 4 * part))
    return first + [Cost("reduction", float(part), 4 * part, weight.nbytes)] * sums


def row_of(x) -> Array:
    """A number for each row of classes."""
    classes = x.shape[1 if len(x.shape) > 1 else 0]
    return Array("float64" if x.dtype == "float64" else "float32", (x.size // max(classes, 1), 1))


def _cross_entropy(r):
    target = r.given[1] if len(r.given) > 1 else None
    return [r("CrossEntropyBackward", r("Mul", r.g), r.x, row_of(r.x), *([target] if target else []), out=r.x)]


def _nll(r):
    return [r("NLLLossBackward", r("Mul", r.g), out=r.x)]


def _distance(*slope) -> Callable:
    def rule(r):
        g, a, b = r.g, r.operand(0), r.operand(1)
        if r.params.get("reduction", "mean" if r.params.get("scale", 1.0) != 1.0 else "") == "mean" and r.x.size != 1:
            g = r("Mul", g)
        d = r("Sub", a, b)
        for name in slope:
            d = r(name, d)
        d = r("Mul", d, g)
        return [d, r("Neg", d) if r.need(1) else None]

    return rule


def _entropy(r):
    x, t = r.operand(0), r.operand(1)
    slope = r("Div", r("Sub", x, t), r("Clamp", r("Mul", x, r("Sub", x))))
    second = None
    if r.need(1):
        logs = [r("Clamp", r("Log", p)) for p in (r("Sub", x), x)]
        second = r("Mul", r.g, r("Sub", *logs))
    return [r("Mul", r.g, slope), second]


def _entropy_of_logits(r):
    x, t = r.operand(0), r.operand(1)
    return [r("Mul", r.g, r("Sub", r("Sigmoid", x), t)) if r.need(0) else None,
            r("Neg", r("Mul", r.g, x)) if r.need(1) else None]


COMPOSED: dict[str, Callable] = {
    "Gemm": _gemm, "Linear": _linear, "AddMm": _addmm, "Conv": _conv, "Attention": _attention,
    **dict.fromkeys(NORMS, _normalize), "CrossEntropy": _cross_entropy, "NLLLoss": _nll,
    "MSELoss": _distance("Mul"), "L1Loss": _distance("Sgn"), "BinaryCrossEntropy": _entropy,
    "BinaryCrossEntropyWithLogits": _entropy_of_logits,
}
