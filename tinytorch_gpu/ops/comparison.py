"""Comparison, logic and selection: eq ... ge, logical_*, bitwise_*, isnan ..., where, clamp."""
from __future__ import annotations

from .. import ops
from ..autograd.operator import array_of
from ..autograd.pointwise import Pointwise
from ..backend import dtypes
from ..backend.device import xp_of
from ..tensor import Tensor, attach
from .registry import public


class _Compare(Pointwise):
    """A boolean result; half operands compare as they are."""

    __slots__ = ()
    differentiable = False


def _binary(name, ufunc, methods, doc, operator_base=_Compare, inplace=False):
    cls = type(operator_base)("".join(w.capitalize() for w in name.split("_")), (operator_base,), {
        "__slots__": (), "function" if operator_base is _Logical else "ufunc": ufunc, "__module__": __name__,
        "__doc__": doc,
    })

    def f(input, other):
        return cls.apply(input, other)

    f.__name__ = f.__qualname__ = name
    f.__doc__ = f"{doc} Broadcast. As torch.{name}."
    globals()[cls.__name__] = cls
    return public(f, method=methods, inplace=inplace)


class _Order(_Compare):
    """Complex numbers have no order; NumPy compares their parts."""

    __slots__ = ()

    @classmethod
    def apply(cls, a, b):
        for x in (a, b):
            if x._array.dtype.kind == "c" if isinstance(x, Tensor) else x.__class__ is complex:
                raise NotImplementedError(f"[{cls.__name__}] not implemented for complex numbers: compare abs()")
        return super().apply(a, b)


class _Logical(_Compare):
    """Operands count as true where they are not 0. CuPy's logical functions take no complex numbers."""

    __slots__ = ()

    def forward(node, *operands):
        truth = [x != 0 if getattr(x, "dtype", None) is not None and x.dtype.kind == "c" else x for x in operands]
        return getattr(node.xp, node.function)(*truth)


lt = _binary("lt", "less", ["lt", "__lt__", "less"], "input < other.", _Order)
le = _binary("le", "less_equal", ["le", "__le__", "less_equal"], "input <= other.", _Order)
gt = _binary("gt", "greater", ["gt", "__gt__", "greater"], "input > other.", _Order)
ge = _binary("ge", "greater_equal", ["ge", "__ge__", "greater_equal"], "input >= other.", _Order)
eq = _binary("eq", "equal", ["eq"], "input == other.")
ne = _binary("ne", "not_equal", ["ne", "not_equal"], "input != other.")
logical_and = _binary("logical_and", "logical_and", True, "Both are not 0.", _Logical)
logical_or = _binary("logical_or", "logical_or", True, "One is not 0.", _Logical)
logical_xor = _binary("logical_xor", "logical_xor", True, "Exactly one is not 0.", _Logical)
bitwise_and = _binary("bitwise_and", "bitwise_and", ["bitwise_and", "__and__", "__rand__"],
                      "The bits that both have (integers, booleans).", inplace=True)
bitwise_or = _binary("bitwise_or", "bitwise_or", ["bitwise_or", "__or__", "__ror__"],
                     "The bits that one has (integers, booleans).", inplace=True)
bitwise_xor = _binary("bitwise_xor", "bitwise_xor", ["bitwise_xor", "__xor__", "__rxor__"],
                      "The bits in which they differ (integers, booleans).", inplace=True)
bitwise_left_shift = _binary("bitwise_left_shift", "left_shift", ["bitwise_left_shift", "__lshift__"],
                             "input * 2 ** other (integers).")
bitwise_right_shift = _binary("bitwise_right_shift", "right_shift", ["bitwise_right_shift", "__rshift__"],
                              "floor(input / 2 ** other) (integers).")


@attach("__eq__")
def _eq(self, other):
    return eq(self, other) if _comparable(other) else NotImplemented


@attach("__ne__")
def _ne(self, other):
    return ne(self, other) if _comparable(other) else NotImplemented


def _comparable(x):
    return isinstance(x, (Tensor, bool, int, float, complex)) or hasattr(x, "dtype")


class BitwiseNot(_Compare):
    """The inverted bits; for booleans the logical not."""

    __slots__ = ()
    ufunc = "invert"


class LogicalNot(_Logical):
    """True where the operand is 0."""

    __slots__ = ()
    function = "logical_not"


class Isnan(_Compare):
    """True where NaN."""

    __slots__ = ()
    ufunc = "isnan"


class Isinf(_Compare):
    """True where infinite."""

    __slots__ = ()
    ufunc = "isinf"


class Isfinite(_Compare):
    """True where neither NaN nor infinite."""

    __slots__ = ()
    ufunc = "isfinite"


@public(method=["bitwise_not", "__invert__"])
def bitwise_not(input):
    """The inverted bits of integers, the logical not of booleans. As torch.bitwise_not.

    Raises: TypeError for floating and complex tensors.
    """
    if array_of(input).dtype.kind not in "iub":
        raise TypeError(f"[bitwise_not] ~ is for integers and booleans, got {array_of(input).dtype}: compare first")
    return BitwiseNot.apply(input)


@public(method=True)
def logical_not(input):
    """True where input is 0. As torch.logical_not."""
    return LogicalNot.apply(input)


@public(method=True)
def isnan(input):
    """True where NaN. As torch.isnan."""
    return Isnan.apply(input)


@public(method=True)
def isinf(input):
    """True where infinite. As torch.isinf."""
    return Isinf.apply(input)


@public(method=True)
def isfinite(input):
    """True where neither NaN nor infinite. As torch.isfinite."""
    return Isfinite.apply(input)


@public(method=True)
def isclose(input, other, rtol=1e-05, atol=1e-08, equal_nan=False):
    """|input - other| <= atol + rtol * |other|, elementwise. As torch.isclose.

    Raises: RuntimeError when the dtypes differ.
    """
    a, b = array_of(input), array_of(other)
    if a.dtype != b.dtype:
        raise RuntimeError(f"[isclose] expected equal dtypes, got {dtypes.of(a).name} and {dtypes.of(b).name}")
    with dtypes.quiet():
        near = ops.le(ops.abs(ops.sub(input, other)), ops.add(ops.mul(ops.abs(other), rtol), atol))
    finite = ops.logical_and(ops.isfinite(input), ops.isfinite(other))
    close = ops.logical_or(ops.eq(input, other), ops.logical_and(near, finite))
    if equal_nan:
        close = ops.logical_or(close, ops.logical_and(isnan(input), isnan(other)))
    return close


@public(method=True)
def allclose(input, other, rtol=1e-05, atol=1e-08, equal_nan=False):
    """Whether all elements are close (a bool; waits for the device). As torch.allclose."""
    close = isclose(input, other, rtol, atol, equal_nan)
    return bool(array_of(close).all())


@public(method=True)
def equal(input, other):
    """Whether shapes and all elements are equal (a bool; waits for the device). As torch.equal."""
    a, b = array_of(input), array_of(other)
    return a.shape == b.shape and bool(array_of(eq(input, other)).all())


class Where(Pointwise):
    """a where `condition`, else b; the condition is a constant."""

    __slots__ = ("condition",)

    def forward(node, a, b, condition):
        node.condition = condition
        return node.xp.where(condition, a, b)

    def backward(node, grad):
        c = node.condition
        return (
            ops.where(c, grad, ops.zeros_like(grad)) if node.need(0) else None,
            ops.where(c, ops.zeros_like(grad), grad) if node.need(1) else None,
        )


@public(method=False)
def where(condition, input=None, other=None):
    """`input` where `condition` (bool), else `other`, broadcast; with the condition alone the indices of its nonzeros.

    As torch.where. Raises: RuntimeError when the condition is not boolean.
    """
    c = array_of(condition)
    if input is None and other is None:
        return ops.nonzero(condition, as_tuple=True)
    if c.dtype.kind != "b":
        if c.dtype != dtypes.uint8.np:
            raise RuntimeError(f"[where] expected condition to be a boolean tensor, got {dtypes.of(c).name}")
        c = c != 0
    scalars = (bool, int, float, complex)
    if input.__class__ in scalars and other.__class__ in scalars:  # where(c, 1.0, 0.0): a tensor of the default dtype
        d = dtypes.result_type(input, other).np
        out = xp_of(c).where(c, xp_of(c).asarray(input, d), xp_of(c).asarray(other, d))
        return ops.wrap(out) if isinstance(condition, Tensor) else out
    return Where.apply(input, other, condition=c)


@attach("where")
def _where_method(self, condition, other):
    """`self` where `condition`, else `other`. As torch.Tensor.where."""
    return where(condition, self, other)


class Clamp(Pointwise):
    """min(max(x, low), high); inside (bounds included) the gradient is x's, outside the bound's."""

    __slots__ = ()

    def forward(node, x, low, high):
        node.save(x, low, high)
        xp = node.xp
        if low is not None:
            x = xp.maximum(x, low)
        return x if high is None else xp.minimum(x, high)

    def backward(node, grad):
        x, low, high = node.saved
        below = ops.lt(x, low) if low is not None else None
        above = ops.gt(x, high) if high is not None else None
        zero = ops.zeros_like(grad)
        gx, gl, gh = grad, None, None
        if below is not None:
            gx = ops.where(below, zero, gx)
        if above is not None:
            gx = ops.where(above, zero, gx)
        if node.need(1):
            taken = below if high is None else ops.logical_and(below, ops.lt(low, high))
            gl = ops.where(taken, grad, zero)
        if node.need(2):
            taken = above if low is None else ops.logical_or(above, ops.lt(high, low))
            gh = ops.where(taken, grad, zero)
        return gx, gl, gh


@public(method=["clamp", "clip"], inplace=True)
def clamp(input, min=None, max=None):
    """input limited to [min, max] (numbers or tensors; either may be None). As torch.clamp.

    Raises: RuntimeError when both are None, or for complex input.
    """
    if min is None and max is None:
        raise RuntimeError("[clamp] at least one of 'min' or 'max' must not be None")
    if array_of(input).dtype.kind == "c":
        raise NotImplementedError("[clamp] not implemented for complex tensors: they have no order")
    return Clamp.apply(input, min, max)


@public(method=True, inplace=True)
def clamp_min(input, min):
    """max(input, min). As torch.clamp_min."""
    return clamp(input, min=min)


@public(method=True, inplace=True)
def clamp_max(input, max):
    """min(input, max). As torch.clamp_max."""
    return clamp(input, max=max)


class NanToNum(Pointwise):
    """NaN and infinities replaced; the gradient is 0 there."""

    __slots__ = ()

    def forward(node, x, nan, posinf, neginf):
        node.save(x)
        info = dtypes.limits(x.dtype)
        return node.xp.nan_to_num(x, nan=nan, posinf=info.max if posinf is None else posinf,
                                  neginf=info.min if neginf is None else neginf)

    def backward(node, grad):
        (x,) = node.saved
        return ops.where(ops.isfinite(x), grad, ops.zeros_like(grad))


@public(method=True, inplace=True)
def nan_to_num(input, nan=0.0, posinf=None, neginf=None):
    """NaN becomes `nan`, infinities the largest numbers of the dtype or `posinf`, `neginf`. As torch.nan_to_num."""
    if array_of(input).dtype.kind in "biu":
        return ops.clone(input)
    return NanToNum.apply(input, nan=nan, posinf=posinf, neginf=neginf)


