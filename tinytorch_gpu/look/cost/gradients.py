"""The gradient rules of ops/ once more, as launches: what each applies, one after the other, on operands of which only
dtype and shape are known. A test runs every rule and compares what it really applied."""
from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .cost import Array, Cost, cost
from .rules import Unknown
from .traced import there

__all__ = ["NORMS", "RULES", "factors_of", "row_of", "statistics"]


# elementwise

def _times(slope) -> Callable:
    """The gradient times a function of what was saved."""
    return lambda r: [r("Mul", r.g, slope(r))]


def _of_input(*names) -> Callable:
    """Operators of x, one after the other."""
    def slope(r):
        x = r.x
        for name in names:
            x = r(name, x)
        return x

    return _times(slope)


def _squared(r, x, *then) -> Array:
    """x * x and what follows: a name, or "Sub" and "Add" with 1."""
    x = r("Mul", x, x)
    for name in then:
        x = r(name, x, 1)
    return x


def _by(name) -> Callable:
    """A backward operator of its own, on the gradient and what was saved."""
    def rule(r):
        return [r(name, r.g, r.y if name in _OF_OUTPUT else r.x, out=r.x)]

    return rule


_OF_OUTPUT = ("ReLUBackward", "SoftmaxBackward", "LogSoftmaxBackward")


def _mul(r):
    return [r("Mul", r.g, r.conj(r.operand(1 - i))) if r.need(i) else None for i in (0, 1)]


def _div(r):
    a, b = r.operand(0), r.operand(1)
    first = r("Div", r.g, b)
    second = r("Neg", r("Mul", first, r("Div", a, b))) if r.need(1) else None
    return [first if r.need(0) else None, second]


def _pow(r):
    a, n = r.operand(0), r.params.get("exponent", r.inputs[1] if len(r.inputs) > 1 else None)
    if isinstance(n, (int, float)):
        if n == 0:
            return [r("Mul", r.g, 0)]
        return [r("Mul", r.g, r("Mul", a, 2) if n == 2 else r("Mul", r("Pow", a, n - 1), n))]
    b = r.operand(1)
    found = []
    if not isinstance(a, Array):
        a = r.zeros(b)
    if r.need(0):
        zero = r("Eq", b, 0)
        power = r("Mul", b, r("Pow", a, r("Sub", b, 1)))
        found.append(r("Mul", r.g, r("Where", r.zeros(power), power, zero)))
    else:
        found.append(None)
    if r.need(1):
        flat = r("LogicalAnd", r("Eq", a, 0), r("Ge", b, 0))
        power = r("Mul", r("Pow", a, b), r("Log", r("Where", r.zeros(a), a, flat)))
        found.append(r("Mul", r.g, r("Where", r.zeros(power), power, flat)))
    return found


def _extreme_of_two(r):
    a, b = r.operand(0), r.operand(1)
    found = []
    for _ in (0, 1):
        tie, lost = r("Eq", a, b), r("Lt", a, b)
        shared = r("Where", r("Mul", r.g, 0.5), r.g, tie)
        found.append(r("Where", r.zeros(shared), shared, lost))
    return found


def _clamp(r):
    if r.need(1) or r.need(2):
        raise Unknown("elementwise")
    low, high = (r.inputs[i] if i < len(r.inputs) else None for i in (1, 2))
    masks = [r("Lt" if bound is low else "Gt", r.x) for bound in (low, high) if bound is not None]
    zero, gx = r.zeros(r.g), r.g
    for mask in masks:
        gx = r("Where", zero, gx, mask)
    return [gx]


def _where(r):
    given = r.params.get("condition", r.given[2] if len(r.given) > 2 else None)
    if not hasattr(given, "shape"):
        raise Unknown("elementwise")
    condition = Array("bool", tuple(given.shape))
    return [r("Where", r.g, r.zeros(r.g), condition) if r.need(i) else None for i in (0, 1)]


def _masked_fill(r):
    if r.need(2):
        raise Unknown("elementwise")
    return [r("MaskedFill", r.g, there(r.given[1]))]


def _atan2(r):
    a, b = r.operand(0), r.operand(1)
    scale = r("Div", r.g, r("Add", r("Mul", a, a), r("Mul", b, b)))
    return [r("Mul", scale, b), r("Neg", r("Mul", scale, a))]


def _lerp(r):
    weight = r.operand(2)
    last = r("Mul", r.g, r("Sub", r.operand(1), r.x)) if r.need(2) else None
    rest = r("Sub", 1, weight) if isinstance(weight, Array) else 1
    return [r("Mul", r.g, rest), r("Mul", r.g, weight), last]


def _rest(rounded) -> Callable:
    def rule(r):
        a, b = r.operand(0), r.operand(1)
        return [r.g, r("Neg", r("Mul", r.g, r(rounded, r("Div", a, b)))) if r.need(1) else None]

    return rule


def _softplus(r):
    linear = r("Gt", r("Mul", r.x))
    return [r("Where", r.g, r("Mul", r.g, r("Sigmoid", r("Mul", r.x))), linear)]


def _elu(r):
    below = r("Mul", r("Mul", r.g, r("Exp", r("Clamp", r.x))))
    positive = r("Gt", r.x)
    return [r("Where", r("Mul", r.g), below, positive)]


def _leaky_relu(r):
    positive = r("Gt", r.x)
    return [r("Mul", r.g, r("Add", r("Mul", r("Cast", positive, out=r.x))))]


def _hardtanh(r):
    return [r("Mul", r.g, r("LogicalAnd", r("Gt", r.x), r("Lt", r.x)))]


def _gated(r):
    a, b = r.x, r.given[1] if len(r.given) > 1 else None
    r("GatedBackward", r.g, a, b, out=a, also=() if b is None else (b,), params=r.params)
    return [a, b]


def _bias_act(r):
    g = r("BiasActBackward", r.g, r.x, there(r.given[1]), out=r.x, params=r.params)
    return [g, g]


# reductions

def _sum(r):
    return [Array(r.g.dtype, r.x.shape)]  # looked at as often as it is needed


def _mean(r):
    return [Array(r("Mul", r.g).dtype, r.x.shape)]


def _amax(r):
    each, one = Array("bool", r.x.shape), Array("bool", r.y.shape)
    missing = r("LogicalAnd", r("Ne", r.x), r("Ne", r.y, out=one), out=each)
    ties = r("LogicalOr", r("Eq", r.x, r.y, out=each), missing)
    share = r("Div", ties, r("Sum", ties, out=Array("int64", r.y.shape)), out=Array("float64", r.x.shape))
    return [r("Mul", r.g, r("Cast", share, out=r.x), out=r.x)]


def _placed(r):
    return [r("Place", r.g, Array("int64", r.g.shape), out=r.x)]


def _variance(r, g=None):
    mean = r("Mean", r.x, out=r.y)
    return [r("Mul", r("Mul", r.g if g is None else g), r("Sub", r.x, mean, out=r.x), out=r.x)]


def _deviation(r):
    zero = r("Eq", r.y)
    half = r("Div", r("Mul", r.g), r("Add", r.y, zero))
    return _variance(r, r("Mul", half, r("LogicalNot", zero)))


def _logsumexp(r):
    flat = r("LogicalNot", r("Isinf", r.y), out=Array("bool", r.y.shape))
    y = r("Where", r.y, flat)
    return [r("Mul", r.g, r("Exp", r("Sub", r.x, y, out=r.x)), out=r.x)]


def _norm(r):
    p = r.params.get("p")
    if p == 1:
        return [r("Mul", r("Sgn", r.x), r.g, out=r.x)]
    if p != 2:
        raise Unknown("reduction")
    zero = r("Eq", r.y)
    share = r("Mul", r("Div", r.g, r("Add", r.y, zero)), r("LogicalNot", zero))
    return [r("Mul", r.x, share, out=r.x)]


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

NORMS = ("LayerNorm", "RMSNorm", "BatchNorm", "GroupNorm", "AddLayerNorm", "AddRMSNorm")


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
    r.ran.append(Cost("normalization", flops, (whole.read or 0) + sum(a.nbytes for a in stats), whole.written))
    if weight is None and bias is not None and r.need(2 + added):
        return [*([x] * (1 + added)), None, r.g]
    return [x] * (1 + added)


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


def _picked(name) -> Callable:
    def rule(r):
        index = {k: v for k, v in r.params.items() if k == "index"}
        return [r(name, r.g, out=r.x, params=index)]

    return rule


RULES: dict[str, Callable] = {
    "Add": lambda r: [r.g, r.g], "Sub": lambda r: [r.g, r("Neg", r.g) if r.need(1) else None],
    "Mul": _mul, "Div": _div, "Pow": _pow, "Neg": lambda r: [r("Neg", r.g)],
    "Maximum": _extreme_of_two, "Minimum": _extreme_of_two, "Clamp": _clamp, "Where": _where,
    "MaskedFill": _masked_fill, "Atan2": _atan2, "Lerp": _lerp,
    "Remainder": _rest("Floor"), "Fmod": _rest("Trunc"),
    "NanToNum": lambda r: [r("Where", r.g, r.zeros(r.g), r("Isfinite", r.x))],
    **dict.fromkeys(("Sgn", "Floor", "Ceil", "Trunc", "Round"), lambda r: [r("Mul", r.g)]),
    "Abs": _of_input("Sgn"), "Expm1": _of_input("Exp"), "Log": _of_input("Reciprocal"),
    "Log2": _of_input("Mul", "Reciprocal"), "Log10": _of_input("Mul", "Reciprocal"),
    "Log1p": _of_input("Add", "Reciprocal"), "Sin": _of_input("Cos"), "Cos": _of_input("Sin", "Neg"),
    "Sinh": _of_input("Cosh"), "Cosh": _of_input("Sinh"),
    "Asin": _times(lambda r: r("Rsqrt", _squared(r, r.x, "Sub"))),
    "Acos": _times(lambda r: r("Neg", r("Rsqrt", _squared(r, r.x, "Sub")))),
    "Atan": _times(lambda r: r("Reciprocal", _squared(r, r.x, "Add"))),
    "Asinh": _times(lambda r: r("Rsqrt", _squared(r, r.x, "Add"))),
    "Acosh": _times(lambda r: r("Mul", r("Rsqrt", r("Sub", r.x)), r("Rsqrt", r("Add", r.x)))),
    "Atanh": _times(lambda r: r("Reciprocal", _squared(r, r.x, "Sub"))),
    "Exp": _times(lambda r: r.y), "Exp2": _times(lambda r: r("Mul", r.y)),
    "Sqrt": lambda r: [r("Div", r.g, r("Mul", r.y))],
    "Rsqrt": _times(lambda r: r("Mul", r("Pow", r.y))),
    "Reciprocal": lambda r: [r("Neg", r("Mul", r.g, _squared(r, r.y)))],
    "Tanh": _times(lambda r: _squared(r, r.y, "Sub")), "Tan": _times(lambda r: _squared(r, r.y, "Add")),
    "Sigmoid": _times(lambda r: r("Mul", r.y, r("Sub", r.y))),
    "LogSigmoid": _of_input("Neg", "Sigmoid"), "Softplus": _softplus, "ELU": _elu, "LeakyReLU": _leaky_relu,
    "Hardtanh": _hardtanh,
    **dict.fromkeys(("Erf", "Erfc"), _times(lambda r: r("Mul", r("Exp", r("Neg", _squared(r, r.x)))))),
    "Erfinv": _times(lambda r: r("Mul", r("Exp", _squared(r, r.y)))),
    **{name: _by(f"{name}Backward") for name in ("ReLU", "SiLU", "GELU", "GELUTanh", "Softmax", "LogSoftmax")},
    "Gated": _gated, "BiasAct": _bias_act,
    "Dropout": lambda r: [r("Dropout", r.g)],
    "DropoutAdd": lambda r: [r("Dropout", r.g) if r.need(0) else None, r.g],
    "Sum": _sum, "Mean": _mean, "Amax": _amax, "Amin": _amax, "Max": _placed, "Min": _placed, "Var": _variance,
    "Std": _deviation, "LogSumExp": _logsumexp, "Norm": _norm,
    "Gemm": _gemm, "Linear": _linear, "AddMm": _addmm, "Conv": _conv, "Attention": _attention,
    **dict.fromkeys(NORMS, _normalize), "CrossEntropy": _cross_entropy, "NLLLoss": _nll,
    "MSELoss": _distance("Mul"), "L1Loss": _distance("Sgn"), "BinaryCrossEntropy": _entropy,
    "BinaryCrossEntropyWithLogits": _entropy_of_logits,
    "Cast": lambda r: [r.g], "Expand": lambda r: [r.g],
    "Cat": lambda r: [Array(r.g.dtype, a.shape) if a is not None else None for a in r.given],
    "Slice": _picked("SliceBackward"), "Index": _picked("IndexBackward"), "Gather": _picked("GatherBackward"),
    "Embedding": _picked("EmbeddingBackward"),
    "Split": lambda r: [r("Cat", *r.out, out=r.x)], "Unbind": lambda r: [r("Stack", *r.out, out=r.x)],
}
