"""Floating point operations for each element, by operator: what `cost.py` counts with."""
from __future__ import annotations

__all__ = ["ELEMENTWISE", "PER_INPUT", "Unknown"]


class Unknown(Exception):
    """What an operator does depends on something that was not given."""

    def __init__(self, family):
        super().__init__(family)
        self.family = family


# the curves of activations: f(x), and grad * f'(x)
CURVES = {
    "relu": (1, 1),
    "silu": (5, 9),  # x / (1 + exp(-x)); with s = 1 / (1 + exp(-x)): grad s (1 + x (1 - s))
    "sigmoid": (4, 7),
    "gelu": (5, 11),  # x (1 + erf(x / sqrt(2))) / 2; the slope has erf and exp
    "gelu_tanh": (9, 18),
}


def _curve(a, i, more):
    name = a.params.get("curve")
    if name not in CURVES:
        raise Unknown("elementwise")
    return CURVES[name][i] + more


def _bounds(a):
    return sum(a.params[k] is not None for k in ("low", "high")) if "low" in a.params and "high" in a.params else 2


def _entry(names, count, family="elementwise"):
    return {name: (family, count) for name in names.split()}


# for each element of the result
ELEMENTWISE: dict = {
    **_entry("Add Sub Mul Div Maximum Minimum Remainder Fmod FloorDivide Atan2 Neg Abs Sgn Lt Le Gt Ge Eq Ne Isnan "
             "Isinf Isfinite Pow Exp Exp2 Expm1 Log Log2 Log10 Log1p Sqrt Rsqrt Reciprocal Erf Erfc Erfinv Floor Ceil "
             "Trunc Round Sin Cos Asin Acos Atan Sinh Cosh Asinh Acosh Atanh Tan Tanh ReLU ReLUBackward", 1),
    **_entry("Conj Where NanToNum MaskedFill LogicalAnd LogicalOr LogicalXor LogicalNot BitwiseAnd BitwiseOr "
             "BitwiseXor BitwiseNot BitwiseLeftShift BitwiseRightShift", 0),
    **_entry("Cast Clone Copy", 0, "copy"),
    **_entry("LeakyReLU", 2), **_entry("Hardtanh", 2), **_entry("Clamp", _bounds),
    **_entry("Lerp", 3), **_entry("ELU", 3),  # exp, - 1, times alpha
    **_entry("Sigmoid", 4),  # 1 / (1 + exp(-x))
    **_entry("Softplus", 4), **_entry("LogSigmoid", 6),  # min(x, 0) - log1p(exp(-|x|))
    **_entry("SiLU", CURVES["silu"][0]), **_entry("SiLUBackward", CURVES["silu"][1]),
    **_entry("GELU", CURVES["gelu"][0]), **_entry("GELUBackward", CURVES["gelu"][1]),
    **_entry("GELUTanh", CURVES["gelu_tanh"][0]), **_entry("GELUTanhBackward", CURVES["gelu_tanh"][1]),
    **_entry("BiasAct", lambda a: _curve(a, 0, 1)), **_entry("BiasActBackward", lambda a: _curve(a, 1, 1)),
    **_entry("Gated", lambda a: _curve(a, 0, 1)),
    **_entry("GatedBackward", lambda a: _curve(a, 0, 1) + _curve(a, 1, 1)),
    **_entry("Dropout", 2),  # times the mask and 1 / (1 - p); making the random numbers is not counted
    **_entry("DropoutAdd", 3),
    **_entry("CrossEntropyBackward", 3, "loss"),  # exp, difference, times the gradient, which is its first operand
}

# for each element of the first operand
PER_INPUT: dict = {
    **_entry("Sum Mean Amax Amin Max Min Argmax Argmin Prod SumToSize", 1, "reduction"),
    **_entry("All Any CountNonzero", 0, "reduction"),
    **_entry("Var Std", 4, "reduction"),  # mean, difference, square, sum
    **_entry("LogSumExp", 4, "reduction"),  # max, difference, exp, sum
    **_entry("Norm", lambda a: 3 if a.params.get("p", 2) not in (1, 2) else 2, "reduction"),
    **_entry("CumSum CumProd", 1, "scan"),
    **_entry("Softmax LogSoftmax", 5, "softmax"),  # max, difference, exp, sum; a division or a difference
    **_entry("SoftmaxBackward LogSoftmaxBackward", 4, "softmax"),
    **_entry("MSELoss L1Loss", lambda a: 3 if a.size < a.there[0].size else 2, "loss"),
    **_entry("SmoothL1Loss HuberLoss", lambda a: 7 if a.size < a.there[0].size else 6, "loss"),
    **_entry("BinaryCrossEntropy BinaryCrossEntropyWithLogits", 8, "loss"),
    **_entry("CrossEntropy", 4, "loss"),  # max, difference, exp, sum
}
