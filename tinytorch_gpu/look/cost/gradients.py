"""The gradient rules of ops/ once more, as launches: what each applies, one after the other, on operands of which only
dtype and shape are known. A test runs every rule and compares what it really applied."""
from __future__ import annotations

from collections.abc import Callable

from .cost import Array
from .rules import Unknown
from .several import COMPOSED
from .traced import there

__all__ = ["RULES"]


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
    **COMPOSED,
    "Cast": lambda r: [r.g], "Expand": lambda r: [r.g],
    "Cat": lambda r: [Array(r.g.dtype, a.shape) if a is not None else None for a in r.given],
    "Slice": _picked("SliceBackward"), "Index": _picked("IndexBackward"), "Gather": _picked("GatherBackward"),
    "Embedding": _picked("EmbeddingBackward"),
    "Split": lambda r: [r("Cat", *r.out, out=r.x)], "Unbind": lambda r: [r("Stack", *r.out, out=r.x)],
}
