"""The table of operators: one line each (more for options); test_ops.py makes the tests. See case.py for the words."""
from __future__ import annotations

import numpy as np
from case import CASES, B, Case, I, R, S  # noqa: F401

from tinytorch_gpu.autograd.engine import grad as our_grad
from tinytorch_gpu.autograd.operator import REGISTRY, array_of
from tinytorch_gpu.backend.device import backend_for, device, resolve
from tinytorch_gpu.backend.random import bernoulli
from tinytorch_gpu.ops.convolution import Geometry
from tinytorch_gpu.ops.pooling import Windows
from tinytorch_gpu.tensor import Tensor


def on_device(array):
    """A constant host array on the default device."""
    return backend_for(resolve()).from_host(array)

# foundation

Case("Cast", lambda t, x: x.to(t.complex128), R(3, 4), raw=False, integer=True, boolean=True)
Case("Cast down", lambda t, x: x.to(t.float32), R(3, 4), complex=False, raw=False, integer=True, gradcheck=False,
     why="the result is float32, too coarse for differences of float64")
Case("Clone", lambda t, x: t.clone(x), R(3, 4), integer=True, boolean=True)
Case("SumToSize", lambda t, x: t.sum_to_size(x, (4, 1)), R(2, 4, 3), torch=lambda t, x: x.sum_to_size(4, 1))
Case("Expand", lambda t, x: t.expand(x, 2, -1, 4), R(3, 1), torch=lambda t, x: x.expand(2, -1, 4), integer=True)
Case("Transfer", lambda t, x: t.transfer(t.transfer(x, device("cpu")), resolve()), R(3, 4),
     torch=lambda t, x: t.clone(x), integer=True, boolean=True)
Case("ViewScatter", lambda t, x, y: t.view_scatter(x, y, ((REGISTRY["Slice"], {"index": (slice(1, 3),)}),)), R(4, 3),
     R(2, 3), torch=lambda t, x, y: t.cat([x[:1], y, x[3:]]))

# arithmetic

Case("Add", lambda t, x, y: t.add(x, y), R(3, 4), R(4), integer=True, boolean=True)
Case("Add alpha", lambda t, x, y: t.add(x, y, alpha=3), R(3, 1), R(4), integer=True)
Case("Sub", lambda t, x, y: t.sub(x, y), R(3, 4), R(3, 1), integer=True)
Case("Mul", lambda t, x, y: t.mul(x, y), R(3, 4), R(4), integer=True, boolean=True)
Case("Neg", lambda t, x: t.neg(x), R(3, 4), integer=True)
Case("Conj", lambda t, x: t.conj(x), R(3, 4), integer=True)
Case("Tanh", lambda t, x: t.tanh(x), R(3, 4), integer=True, boolean=True)

# arithmetic of two operands, and functions of one

Case("Div", lambda t, x, y: t.div(x, y), R(3, 4), R(4, nonzero=True), integer=True)
Case("Div floor", lambda t, x, y: t.div(x, y, rounding_mode="floor"), R(3, 4), R(4, nonzero=True), complex=False,
     integer=True, differentiable=False, nonfinite=False, half=False,
     why="inf // x is NaN in NumPy and inf in PyTorch; half divides in float32 here")
Case("Div trunc", lambda t, x, y: t.div(x, y, rounding_mode="trunc"), R(3, 4), R(4, nonzero=True), complex=False,
     integer=True, gradcheck=False, half=False, why="piecewise constant; half divides in float32 here")
Case("Pow", lambda t, x, y: t.pow(x, y), R(3, 4, positive=True), R(4))
Case("Pow number", lambda t, x: t.pow(x, 3), R(3, 4), integer=True)
Case("Pow square", lambda t, x: t.pow(x, 2), R(3, 4), integer=True)
Case("Pow root", lambda t, x: t.pow(x, 0.5), R(3, 4, positive=True))
Case("Pow base", lambda t, x: t.pow(2.5, x), R(3, 4))
Case("Maximum", lambda t, x, y: t.maximum(x, y), R(3, 4), R(4), complex=False, integer=True, boolean=True)
Case("Minimum", lambda t, x, y: t.minimum(x, y), R(3, 4), R(3, 1), complex=False, integer=True, boolean=True)
Case("Remainder", lambda t, x, y: t.remainder(x, y), R(3, 4, low=0.1, high=0.9), R(4, low=1.0, high=2.0), complex=False,
     half=False, nonfinite=False,
     why="remainders of half types round before the floor; of infinity they differ by library")
Case("Fmod", lambda t, x, y: t.fmod(x, y), R(3, 4, low=0.1, high=0.9), R(4, low=1.0, high=2.0), complex=False,
     half=False, nonfinite=False, why="as Remainder")
Case("FloorDivide", lambda t, x, y: t.floor_divide(x, y), R(3, 4), R(4, nonzero=True), complex=False, integer=True,
     half=False, differentiable=False, nonfinite=False, why="as Div floor")
Case("Atan2", lambda t, x, y: t.atan2(x, y), R(3, 4, nonzero=True), R(4, nonzero=True), complex=False, integer=True)
Case("Lerp", lambda t, x, y, w: t.lerp(x, y, w), R(3, 4), R(3, 4), R(4), nonfinite=False,
     why="inf - inf inside: PyTorch switches the formula at weight 0.5")
Case("Add addcmul", lambda t, x, y, z: t.addcmul(x, y, z, value=2), R(3, 4), R(4), R(3, 1))
Case("Add addcdiv", lambda t, x, y, z: t.addcdiv(x, y, z, value=2), R(3, 4), R(4), R(3, 1, nonzero=True))
Case("Abs", lambda t, x: t.abs(x), R(3, 4, nonzero=True), integer=True)
Case("Sgn", lambda t, x: t.sgn(x), R(3, 4, nonzero=True), integer=True)
Case("Exp", lambda t, x: t.exp(x), R(3, 4), integer=True)
Case("Exp2", lambda t, x: t.exp2(x), R(3, 4), complex=False, integer=True)
Case("Expm1", lambda t, x: t.expm1(x), R(3, 4), integer=True)
Case("Log", lambda t, x: t.log(x), R(3, 4, positive=True), integer=True)
Case("Log2", lambda t, x: t.log2(x), R(3, 4, positive=True))
Case("Log10", lambda t, x: t.log10(x), R(3, 4, positive=True))
Case("Log1p", lambda t, x: t.log1p(x), R(3, 4, positive=True))
Case("Sin", lambda t, x: t.sin(x), R(3, 4), integer=True)
Case("Cos", lambda t, x: t.cos(x), R(3, 4), integer=True)
Case("Tan", lambda t, x: t.tan(x), R(3, 4, low=-1, high=1))
Case("Asin", lambda t, x: t.asin(x), R(3, 4, low=-0.9, high=0.9))
Case("Acos", lambda t, x: t.acos(x), R(3, 4, low=-0.9, high=0.9))
Case("Atan", lambda t, x: t.atan(x), R(3, 4, low=-0.9, high=0.9))
Case("Sinh", lambda t, x: t.sinh(x), R(3, 4))
Case("Cosh", lambda t, x: t.cosh(x), R(3, 4))
Case("Asinh", lambda t, x: t.asinh(x), R(3, 4, low=-0.9, high=0.9))
Case("Acosh", lambda t, x: t.acosh(x), R(3, 4, low=1.2, high=3))
Case("Atanh", lambda t, x: t.atanh(x), R(3, 4, low=-0.9, high=0.9))
Case("Sqrt", lambda t, x: t.sqrt(x), R(3, 4, positive=True), integer=True)
Case("Rsqrt", lambda t, x: t.rsqrt(x), R(3, 4, positive=True))
Case("Reciprocal", lambda t, x: t.reciprocal(x), R(3, 4, nonzero=True))
Case("Erf", lambda t, x: t.erf(x), R(3, 4), complex=False)
Case("Erfc", lambda t, x: t.erfc(x), R(3, 4), complex=False)
Case("Erfinv", lambda t, x: t.erfinv(x), R(3, 4, low=-0.9, high=0.9), complex=False)
Case("Floor", lambda t, x: t.floor(x), R(3, 4), complex=False, integer=True)
Case("Ceil", lambda t, x: t.ceil(x), R(3, 4), complex=False, integer=True)
Case("Trunc", lambda t, x: t.trunc(x), R(3, 4), complex=False, integer=True)
Case("Round", lambda t, x: t.round(x), R(3, 4), complex=False, integer=True)
Case("Sub frac", lambda t, x: t.frac(x), R(3, 4), complex=False, nonfinite=False,
     why="inf - inf is NaN, PyTorch's frac too")

# comparison, logic, selection

for _name in ("eq", "ne"):
    Case(_name.capitalize(), lambda t, x, y, name=_name: getattr(t, name)(x, y), R(3, 4), R(4), integer=True,
         boolean=True, differentiable=False)
for _name in ("lt", "le", "gt", "ge"):
    Case(_name.capitalize(), lambda t, x, y, name=_name: getattr(t, name)(x, y), R(3, 4), R(4), integer=True,
         boolean=True, complex=False, differentiable=False)
for _name in ("and", "or", "xor"):
    Case("Logical" + _name.capitalize(), lambda t, x, y, name=_name: getattr(t, "logical_" + name)(x, y), R(3, 4), R(4),
         integer=True, boolean=True, differentiable=False)
    Case("Bitwise" + _name.capitalize(), lambda t, x, y, name=_name: getattr(t, "bitwise_" + name)(x, y),
         I(3, 4, n=50), I(4, n=50), differentiable=False)
Case("BitwiseLeftShift", lambda t, x, y: t.bitwise_left_shift(x, y), I(3, 4, n=50), I(4, n=5), differentiable=False)
Case("BitwiseRightShift", lambda t, x, y: t.bitwise_right_shift(x, y), I(3, 4, n=50), I(4, n=5), differentiable=False)
Case("BitwiseNot", lambda t, x: t.bitwise_not(x), I(3, 4, n=50), differentiable=False)
Case("BitwiseNot bool", lambda t, x: t.bitwise_not(x), B(3, 4), differentiable=False)
Case("LogicalNot", lambda t, x: t.logical_not(x), R(3, 4), integer=True, boolean=True, differentiable=False)
for _name in ("isnan", "isinf", "isfinite"):
    Case(_name.capitalize(), lambda t, x, name=_name: getattr(t, name)(x), R(3, 4), integer=True, differentiable=False)
Case("LogicalOr isclose", lambda t, x, y: t.isclose(x, y, rtol=0.5), R(3, 4), R(4), differentiable=False)
Case("Where", lambda t, c, x, y: t.where(c, x, y), B(3, 4), R(3, 1), R(4), integer=True)
Case("Clamp", lambda t, x: t.clamp(x, -0.7, 1.1), R(3, 4), complex=False, integer=True)
Case("Clamp tensors", lambda t, x, a, b: t.clamp(*t.broadcast_tensors(x, a, b)), R(3, 4), R(3, 4, low=-2, high=-0.5),
     R(3, 4, low=0.5, high=2), complex=False)
Case("Clamp broadcast", lambda t, x, a: t.clamp(x, a), R(3, 4), R(4, low=-2, high=-0.5), complex=False)
Case("Clamp min", lambda t, x: t.clamp_min(x, 0.3), R(3, 4), complex=False)
Case("Clamp max", lambda t, x: t.clamp_max(x, 0.3), R(3, 4), complex=False)
Case("NanToNum", lambda t, x: t.nan_to_num(x, 0.5, 2.0, -2.0), R(3, 4), complex=False, integer=True)

# products

Case("Gemm", lambda t, a, b: t.matmul(a, b), R(3, 4), R(4, 5), nonfinite=False, integer=True,
     why="0 * inf inside a blocked product depends on the library's order")
Case("Gemm batched", lambda t, a, b: t.matmul(a, b), R(2, 1, 3, 4), R(5, 4, 2), nonfinite=False, why="as Gemm")
Case("Gemm folded", lambda t, a, b: t.matmul(a, b), R(2, 3, 4), R(4, 2), nonfinite=False, why="as Gemm")
Case("Gemm vectors", lambda t, a, b: t.matmul(a, b), R(4), R(4), nonfinite=False, why="as Gemm")
Case("Gemm vector left", lambda t, a, b: t.matmul(a, b), R(4), R(2, 4, 3), nonfinite=False, why="as Gemm")
Case("Gemm vector right", lambda t, a, b: t.matmul(a, b), R(2, 3, 4), R(4), nonfinite=False, why="as Gemm")
Case("AddMm", lambda t, c, a, b: t.addmm(c, a, b, beta=0.5, alpha=2), R(5), R(3, 4), R(4, 5), nonfinite=False,
     why="as Gemm")
Case("AddMm plain", lambda t, c, a, b: t.addmm(c, a, b), R(3, 5), R(3, 4), R(4, 5), nonfinite=False, why="as Gemm")
Case("Gemm addmm", lambda t, c, a, b: t.addmm(c, a, b, beta=0, alpha=2), R(5, grad=False), R(3, 4), R(4, 5),
     nonfinite=False, why="as Gemm")
Case("Gemm flags", lambda t, a, b: t.gemm(a, b, True, True), R(2, 4, 3), R(2, 5, 4), nonfinite=False, why="as Gemm",
     torch=lambda t, a, b: t.matmul(a.mT, b.mT))
Case("Mul outer", lambda t, a, b: t.outer(a, b), R(3), R(4))
Case("Gemm vdot", lambda t, a, b: t.vdot(a, b), R(4), R(4), nonfinite=False, why="as Gemm")
Case("Gemm tensordot", lambda t, a, b: t.tensordot(a, b, ([2, 0], [1, 2])), R(2, 3, 4), R(5, 4, 2), nonfinite=False,
     why="as Gemm", torch=lambda t, a, b: t.tensordot(a, b, dims=([2, 0], [1, 2])))
for _equation, _shapes in (("bij,bjk->bik", ((2, 3, 4), (2, 4, 5))), ("...ij,...kj->...ik", ((2, 3, 4), (5, 4))),
                           ("ii->i", ((3, 3),)), ("ij,ij->", ((3, 4), (3, 4))), ("i,j,k->kij", ((3,), (2,), (4,))),
                           ("bhtd,bhsd->bhts", ((2, 2, 3, 4), (2, 2, 5, 4))), ("ij->ji", ((3, 4),)),
                           ("ijk->k", ((2, 3, 4),)), ("ij,jk", ((3, 4), (4, 2)))):
    Case(f"Gemm einsum {_equation}", lambda t, *x, e=_equation: t.einsum(e, *x), *(R(*s) for s in _shapes),
         nonfinite=False, why="as Gemm")
Case("Linear", lambda t, x, w, b: t.nn.functional.linear(x, w, b), R(2, 3, 4), R(5, 4), R(5), nonfinite=False,
     why="as Gemm")
Case("Linear plain", lambda t, x, w: t.nn.functional.linear(x, w), R(4), R(5, 4), nonfinite=False, why="as Gemm")

# convolution and pooling

_CONV = Geometry((2, 4, 5, 6), (6, 4, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
Case("Conv", lambda t, x, w, b: t.nn.functional.conv2d(x, w, b, padding=1), R(2, 4, 5, 6), R(6, 4, 3, 3), R(6),
     nonfinite=False, why="as Gemm")
Case("Conv strided", lambda t, x, w: t.nn.functional.conv2d(x, w, None, (2, 1), (1, 2), (2, 1), 2), R(2, 4, 7, 6),
     R(6, 2, 3, 2), nonfinite=False, why="as Gemm")
Case("Conv 1d", lambda t, x, w, b: t.nn.functional.conv1d(x, w, b, stride=2, padding=1), R(2, 3, 8), R(4, 3, 3), R(4),
     nonfinite=False, why="as Gemm")
Case("Conv same", lambda t, x, w: t.nn.functional.conv1d(x, w, padding="same", dilation=2), R(3, 8), R(4, 3, 2),
     nonfinite=False, why="as Gemm")
Case("ConvInput", lambda t, y, w: t.conv_input(y, w, _CONV), R(2, 6, 5, 6), R(6, 4, 3, 3), nonfinite=False,
     why="as Gemm", torch=lambda t, y, w: t.nn.functional.conv_transpose2d(y, w, padding=1))
Case("ConvWeight", lambda t, x, y: t.conv_weight(x, y, _CONV), R(2, 4, 5, 6), R(2, 6, 5, 6), nonfinite=False,
     why="as Gemm",
     torch=lambda t, x, y: t.nn.functional.conv2d(x.transpose(0, 1), y.transpose(0, 1), padding=1).transpose(0, 1))
Case("MaxPool", lambda t, x: t.nn.functional.max_pool2d(x, 2), R(2, 3, 4, 6, distinct=True), complex=False)
Case("MaxPool overlapping", lambda t, x: t.nn.functional.max_pool2d(x, 3, 2, 1, 1, True), R(2, 3, 6, 7, distinct=True),
     complex=False)
Case("MaxPool 1d", lambda t, x: t.nn.functional.max_pool1d(x, 3, 2, 1, 2), R(2, 3, 9, distinct=True), complex=False)
Case("WindowSum", lambda t, x: t.nn.functional.avg_pool2d(x, 3, 2, 1), R(2, 3, 6, 7), complex=False, nonfinite=False,
     why="0 outside the input is added, PyTorch skips it: -0.0 and inf - inf aside they agree")
Case("WindowSum partial", lambda t, x: t.nn.functional.avg_pool2d(x, 3, 2, 1, True, False), R(2, 3, 6, 7),
     complex=False, nonfinite=False, why="as WindowSum")
Case("WindowSum 1d", lambda t, x: t.nn.functional.avg_pool1d(x, 2), R(2, 3, 6), complex=False)
Case("WindowSum adaptive", lambda t, x: t.nn.functional.adaptive_avg_pool2d(x, (3, 2)), R(2, 3, 7, 5), complex=False,
     nonfinite=False, why="as Gemm: unequal windows are a product")
_POOL = Windows("pool", (4, 6), 2, 2, 0)
_WINNER = np.arange(36).reshape(2, 3, 2, 3).astype(np.uint8) % 4
_PLACES = (np.arange(2)[:, None] * 2 + _WINNER // 2) * 6 + np.arange(3) * 2 + _WINNER % 2
Case("PoolPlace", lambda t, y: t.pool_place(y, on_device(_WINNER), _POOL), R(2, 3, 2, 3), complex=False,
     torch=lambda t, y: t.zeros(2, 3, 24, dtype=y.dtype).scatter(2, t.from_numpy(_PLACES.reshape(2, 3, 6)),
                                                                 y.reshape(2, 3, 6)).reshape(2, 3, 4, 6))
Case("PoolPick", lambda t, x: t.pool_pick(x, on_device(_WINNER), _POOL), R(2, 3, 4, 6), complex=False,
     torch=lambda t, x: x.reshape(2, 3, 24).gather(2, t.from_numpy(_PLACES.reshape(2, 3, 6))).reshape(2, 3, 2, 3))
Case("WindowSpread", lambda t, y: t.window_spread(y, _POOL), R(2, 3, 2, 3),
     torch=lambda t, y: y.repeat_interleave(2, 2).repeat_interleave(2, 3))

# embedding, dropout, attention

Case("Embedding", lambda t, i, w: t.nn.functional.embedding(i, w), I(2, 3, n=5), R(5, 4),
     torch=lambda t, i, w: w[i])  # PyTorch's embedding has no complex gradient
Case("Embedding padding", lambda t, i, w: t.nn.functional.embedding(i, w, 1), I(2, 3, n=5), R(5, 4), complex=False,
     gradcheck=False, why="the padding row has a gradient of 0 by definition, not by differences")
Case("EmbeddingBackward", lambda t, g: t.embedding_backward(g, on_device(np.array([[0, 2], [2, 4]])), 5, None),
     R(2, 2, 3),
     torch=lambda t, g: t.zeros(5, 3, dtype=g.dtype).index_add(0, t.tensor([0, 2, 2, 4]), g.reshape(4, 3)),
     tolerance=2, why="two equal numbers add in float32 here, in the half type in PyTorch")
_MASK = np.array([[1, 0, 1], [1, 1, 1], [0, 0, 0], [1, 1, 0]], bool)
for _label, _options in (("", {}), (" causal", {"is_causal": True}), (" scale", {"scale": 0.3})):
    Case(f"Attention{_label}",
         lambda t, q, k, v, o=_options: t.nn.functional.scaled_dot_product_attention(q, k, v, **o),
         R(2, 4, 5), R(2, 3, 5), R(2, 3, 4), complex=False, nonfinite=False, why="as Gemm")
Case("Attention mask", lambda t, m, q, k, v: t.nn.functional.scaled_dot_product_attention(q, k, v, m), B(4, 3, p=0.7),
     R(2, 2, 4, 5), R(2, 2, 3, 5), R(2, 2, 3, 4), complex=False, nonfinite=False, why="as Gemm")
Case("Attention bias", lambda t, m, q, k, v: t.nn.functional.scaled_dot_product_attention(q, k, v, m), R(2, 1, 4, 3),
     R(2, 2, 4, 5), R(2, 2, 3, 5), R(2, 2, 3, 4), complex=False, nonfinite=False, why="as Gemm")
Case("Attention grouped", lambda t, q, k, v: t.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True),
     R(2, 4, 3, 5), R(2, 2, 3, 5), R(2, 2, 3, 4), complex=False, nonfinite=False, why="as Gemm")
_SEEDED = (0, 0)
Case("Dropout", lambda t, x: t.dropout_apply(x, 0.25, (3, 4), _SEEDED), R(3, 4), nonfinite=False,
     why="0 * inf: PyTorch's result depends on its own random mask",
     torch=lambda t, x: x * t.from_numpy(
         bernoulli(backend_for(device("cpu")), (3, 4), 0.75, _SEEDED)).to(x.dtype) / 0.75)

Case("DropoutAdd", lambda t, x, y: REGISTRY["DropoutAdd"].apply(x, y, p=0.25, seed_offset=_SEEDED), R(3, 4), R(3, 4),
     nonfinite=False, why="as Dropout",
     torch=lambda t, x, y: y + x * t.from_numpy(
         bernoulli(backend_for(device("cpu")), (3, 4), 0.75, _SEEDED)).to(x.dtype) / 0.75)
Case("DropoutAdd in evaluation", lambda t, x, y: t.nn.functional.dropout_add(x, y, 0.5, False), R(3, 4), R(3, 4),
     torch=lambda t, x, y: y + x, shapes=False, why="equal shapes only: add broadcasts")

# creation, fills and copies

def _changed(change):
    """A copy of x, changed in place by `change(copy, *rest)`."""
    def fn(t, x, *rest):
        y = t.clone(x)
        change(y, *rest)
        return y

    return fn


_IN_PLACE = dict(raw=False, inplace_guard=False, why="changes a copy in place")

Case("Fill", _changed(lambda y, v: y.fill_(v)), R(3, 4), R(), **_IN_PLACE)
Case("Fill number", _changed(lambda y: y.fill_(3)), R(3, 4), integer=True, boolean=True, **_IN_PLACE)
Case("Fill zero", _changed(lambda y: y[1].zero_()), R(3, 4), integer=True, **_IN_PLACE)
Case("Copy", _changed(lambda y, v: y.copy_(v)), R(3, 4), R(4), integer=True, boolean=True, **_IN_PLACE)
Case("Copy into view", _changed(lambda y, v: y[:, 1:3].copy_(v)), R(3, 4), R(3, 1), integer=True, **_IN_PLACE)
Case("zeros_like", lambda t, x: t.zeros_like(x), R(3, 4), integer=True, boolean=True, differentiable=False)
Case("ones_like", lambda t, x: t.ones_like(x), R(3, 4), integer=True, boolean=True, differentiable=False)
Case("full_like", lambda t, x: t.full_like(x, 3), R(3, 4), integer=True, differentiable=False)
Case("one_hot", lambda t, i: t.nn.functional.one_hot(i, 5), I(3, 4, n=5), complex=False, half=False,
     differentiable=False)
Case("Complex", lambda t, x, y: t.complex(x, y), R(3, 4, real=True), R(3, 4, real=True), half=False)
Case("Complex broadcast", lambda t, x, y: t.complex(x, y), R(3, 1, real=True), R(4, real=True), half=False)

# shapes

Case("Reshape", lambda t, x: t.reshape(x, (2, -1)), R(3, 4), integer=True, boolean=True)
Case("Reshape of a transposed", lambda t, x: t.reshape(t.transpose(x, 0, 1), (6, 2)), R(3, 4), integer=True)
Case("view", lambda t, x: x.view(4, 3), R(3, 4), raw=False, layouts=False, why="views refuse strides")
Case("flatten", lambda t, x: t.flatten(x, 1), R(2, 3, 4), integer=True)
Case("unflatten", lambda t, x: t.unflatten(x, 1, (2, -1)), R(2, 6), integer=True)
Case("squeeze", lambda t, x: t.squeeze(x), R(1, 3, 1, 2), integer=True)
Case("squeeze dim", lambda t, x: t.squeeze(x, (0, 1)), R(1, 3, 1, 2), integer=True)
Case("unsqueeze", lambda t, x: t.unsqueeze(x, -2), R(3, 4), integer=True)
Case("Transpose", lambda t, x: t.transpose(x, 0, -1), R(2, 3, 4), integer=True, boolean=True)
Case("t", lambda t, x: t.t(x), R(3, 4), integer=True)
Case("swapaxes", lambda t, x: t.swapaxes(x, 0, 1), R(3, 4))
Case("mH", lambda t, x: x.mH, R(2, 3, 4), raw=False)
Case("Permute", lambda t, x: t.permute(x, (2, 0, -2)), R(2, 3, 4), integer=True)
Case("movedim", lambda t, x: t.movedim(x, (0, 1), (-1, 0)), R(2, 3, 4), integer=True)
Case("broadcast_to", lambda t, x: t.broadcast_to(x, (2, 3, 4)), R(3, 1), integer=True)
Case("broadcast_tensors", lambda t, x, y: t.broadcast_tensors(x, y), R(3, 1), R(4), integer=True)
Case("meshgrid", lambda t, x, y: t.meshgrid(x, y, indexing="xy"), R(3), R(4), integer=True)
Case("Real", lambda t, x: t.real(x), R(3, 4), real=False)
Case("Imag", lambda t, x: t.imag(x), R(3, 4), real=False)
Case("ViewAsReal", lambda t, x: t.view_as_real(x), R(3, 4), real=False)
Case("ViewAsComplex", lambda t, x: t.view_as_complex(x), R(3, 2), complex=False, half=False, layouts=False,
     why="needs neighbouring parts")

# joining and splitting

Case("Cat", lambda t, x, y: t.cat((x, y), 1), R(3, 2), R(3, 4), integer=True, boolean=True)
Case("Cat with an empty one", lambda t, x, y: t.cat((x, y), 1), R(0), R(3, 4), integer=True)
Case("Stack", lambda t, x, y: t.stack((x, y), -1), R(3, 4), R(3, 4), integer=True, boolean=True)
Case("hstack", lambda t, x, y: t.hstack((x, y)), R(3), R(2), integer=True)
Case("vstack", lambda t, x, y: t.vstack((x, y)), R(3), R(2, 3), integer=True)
Case("dstack", lambda t, x, y: t.dstack((x, y)), R(2, 3), R(2, 3, 2), integer=True)
Case("column_stack", lambda t, x, y: t.column_stack((x, y)), R(3), R(3, 2), integer=True)
Case("atleast_3d", lambda t, x, y: t.atleast_3d(x, y), R(3), R(3, 2), integer=True)
Case("Split", lambda t, x: t.split(x, 2, 1), R(3, 5), integer=True, boolean=True)
Case("Split lengths", lambda t, x: t.split(x, [1, 3], 1), R(3, 4), integer=True)
Case("chunk", lambda t, x: t.chunk(x, 3, -1), R(3, 7), integer=True)
Case("tensor_split", lambda t, x: t.tensor_split(x, 3), R(7, 2), integer=True)
Case("tensor_split cuts", lambda t, x: t.tensor_split(x, (1, 3)), R(7, 2), integer=True)
Case("Unbind", lambda t, x: t.unbind(x, 1), R(3, 4), integer=True)
Case("narrow", lambda t, x: t.narrow(x, 1, -3, 2), R(3, 4), integer=True)
Case("select", lambda t, x: t.select(x, 1, -1), R(3, 4), integer=True)

# elements repeated, turned or masked by position

Case("Repeat", lambda t, x: t.tile(x, (2, 1, 3)), R(3, 4), integer=True, boolean=True)
Case("Repeat method", lambda t, x: x.repeat(2, 3), R(4), raw=False)
Case("repeat_interleave", lambda t, x: t.repeat_interleave(x, 2, 1), R(3, 4), integer=True)
Case("repeat_interleave counts", lambda t, x, i: t.repeat_interleave(x, i, 0), R(3, 2), I(3, n=4), integer=True)
Case("Flip", lambda t, x: t.flip(x, (0, -1)), R(3, 4), integer=True, boolean=True)
Case("Roll", lambda t, x: t.roll(x, (1, -2), (0, 1)), R(3, 4), integer=True, boolean=True)
Case("Roll flat", lambda t, x: t.roll(x, 5), R(3, 4), integer=True)
Case("rot90", lambda t, x: (t.rot90(x), t.rot90(x, 2), t.rot90(x, -1, (1, 2))), R(2, 3, 4), integer=True)
Case("Tril", lambda t, x: t.tril(x, -1), R(2, 3, 4), integer=True, boolean=True)
Case("Triu", lambda t, x: t.triu(x, 1), R(4, 3), integer=True, boolean=True)
Case("Diagonal", lambda t, x: t.diagonal(x, 1, 0, 2), R(3, 2, 4), integer=True, boolean=True)
Case("Diagonal neighbours", lambda t, x: t.diagonal(x, -1, 1, 2), R(2, 4, 3), integer=True)
Case("DiagonalBackward", lambda t, x: t.diag_embed(x, -1, 0, -1), R(2, 3), integer=True)
Case("diag", lambda t, x, y: (t.diag(x, 1), t.diag(y, -1)), R(3, 4), R(3), integer=True)
Case("Unfold", lambda t, x: x.unfold(1, 3, 2), R(2, 8, 2), raw=False, integer=True)
Case("Pad", lambda t, x: t.nn.functional.pad(x, (1, 2, 0, 1), value=3.0), R(2, 3, 4))
Case("Pad crop", lambda t, x: t.nn.functional.pad(x, (-1, 2, 1, -2)), R(2, 3, 4), integer=True)
Case("Pad reflect", lambda t, x: t.nn.functional.pad(x, (2, 1, 1, 2), mode="reflect"), R(2, 3, 3, 4))
Case("Pad replicate", lambda t, x: t.nn.functional.pad(x, (2, 5), mode="replicate"), R(2, 3, 4))
Case("Pad circular", lambda t, x: t.nn.functional.pad(x, (2, 4), mode="circular"), R(2, 3, 4), integer=True)

# indexing

Case("Slice", lambda t, x: x[1:, None, ..., ::2], R(3, 2, 5), raw=False, integer=True, boolean=True)
Case("SliceBackward", lambda t, x: REGISTRY["SliceBackward"].apply(x, size=(4, 3), index=(slice(1, 3), ...)), R(2, 3),
     torch=lambda t, x: t.nn.functional.pad(x, (0, 0, 1, 1)), integer=True)
Case("Slice one", lambda t, x: x[-1, 2], R(3, 4), raw=False, integer=True)
Case("Index", lambda t, x, i: x[i], R(5, 3), I(4, n=5, low=-5), raw=False, integer=True, boolean=True)
Case("Index two", lambda t, x, i, j: x[i, :, j], R(5, 3, 4), I(2, 1, n=5, low=-5), I(3, n=4), raw=False, integer=True)
Case("Index neighbours", lambda t, x, i, j: x[:, i, j], R(2, 5, 4), I(3, n=5), I(2, 3, n=4), raw=False, integer=True)
Case("Index behind an integer", lambda t, x, i: x[0, :, i], R(2, 3, 4), I(3, n=4), raw=False)
Case("Index lists", lambda t, x: x[[0, 2, 2], ..., [1, 0, -1]], R(3, 2, 3), raw=False)
Case("Index mask", lambda t, x, m: x[m], R(3, 4), B(3, 4), raw=False, integer=True, layouts=False,
     why="x's shape varies")
Case("Index mask behind", lambda t, x, m: x[:, m], R(2, 3, 4), B(3), raw=False)
Case("IndexBackward", lambda t, x, i: REGISTRY["IndexBackward"].apply(x, size=(3, 2), index=(array_of(i),)), R(5, 2),
     I(5, n=3), torch=lambda t, x, i: t.zeros(3, 2, dtype=x.dtype).index_add(0, i, x), integer=True, raw=False)
Case("IndexPut", _changed(lambda y, v, i: y.__setitem__(i, v)), R(5, 3), R(3), I(2, n=5, distinct=True), **_IN_PLACE)
Case("IndexPut of a view", _changed(lambda y, v, i: y[1:].__setitem__((slice(None), i), v)), R(5, 4), R(4, 2),
     I(2, n=4, distinct=True), **_IN_PLACE)
Case("IndexPut mask", _changed(lambda y, m: y.__setitem__(m, 2)), R(3, 4), B(3, 4), integer=True, **_IN_PLACE)
Case("setitem", _changed(lambda y, v: y.__setitem__((slice(1, None), 0), v)), R(3, 4), R(1, 2), **_IN_PLACE)
Case("index_put", lambda t, x, v, i, j: t.index_put(x, (i, j), v), R(4, 3), R(2), I(2, n=4, distinct=True), I(2, n=3),
     integer=True)
Case("index_put accumulate", lambda t, x, v, i: t.index_put(x, (i,), v, accumulate=True), R(4, 3), R(6, 3), I(6, n=4),
     integer=True)
Case("index_select", lambda t, x, i: t.index_select(x, 1, i), R(3, 4), I(5, n=4), integer=True)
Case("IndexAdd", lambda t, x, s, i: t.index_add(x, 1, i, s), R(3, 4), R(3, 6), I(6, n=4), integer=True)
Case("IndexAdd alpha", _changed(lambda y, s, i: y.index_add_(0, i, s, alpha=2)), R(3, 4), R(5, 4), I(5, n=3),
     **_IN_PLACE)
Case("index_copy", lambda t, x, s, i: t.index_copy(x, 0, i, s), R(4, 3), R(2, 3), I(2, n=4, distinct=True),
     integer=True)
Case("index_fill", lambda t, x, i: t.index_fill(x, 1, i, 3), R(3, 4), I(2, n=4), integer=True)
Case("MaskedFill", lambda t, x, m, v: t.masked_fill(x, m, v), R(3, 4), B(4), R())
Case("MaskedFill in place", _changed(lambda y, m: y.masked_fill_(m, 1)), R(3, 4), B(3, 1), integer=True, **_IN_PLACE)
Case("masked_select", lambda t, x, m: t.masked_select(x, m), R(3, 4), B(3, 1), integer=True)
Case("MaskedScatter", lambda t, x, s, m: t.masked_scatter(x, m, s), R(3, 4), R(2, 7), B(4), integer=True)
Case("Gather", lambda t, x, i: t.gather(x, 1, i), R(3, 4), I(2, 6, n=4), integer=True)
Case("Gather one", lambda t, x, i: t.gather(x, -1, i), R(3, 4), I(3, 1, n=4), integer=True)
Case("GatherBackward", lambda t, x, i: REGISTRY["GatherBackward"].apply(x, size=(3, 4), dim=0, index=array_of(i)),
     R(2, 3),
     I(2, 3, n=3), torch=lambda t, x, i: t.zeros(3, 4, dtype=x.dtype).scatter_add(0, i, x), integer=True, raw=False)
Case("Scatter", lambda t, x, s, i: t.scatter(x, 0, i, s), R(4, 3), R(2, 1), I(2, 1, n=4, distinct=True), integer=True)
Case("Scatter number", lambda t, x, i: t.scatter(x, 1, i, 3), R(3, 4), I(3, 2, n=4))
Case("ScatterAdd", lambda t, x, s, i: t.scatter_add(x, 1, i, s), R(3, 4), R(2, 5), I(2, 5, n=4), integer=True)
Case("ScatterAdd in place", _changed(lambda y, s, i: y.scatter_add_(0, i, s)), R(3, 4), R(5, 4), I(5, 4, n=3),
     **_IN_PLACE)
Case("ScatterExtreme", lambda t, x, s, i: t.scatter_reduce(x, 1, i, s, "amax"), R(3, 4, distinct=True),
     R(3, 6, distinct=True), I(3, 6, n=4), complex=False, integer=True)
Case("ScatterExtreme alone", lambda t, x, s, i: t.scatter_reduce(x, 0, i, s, "amin", include_self=False),
     R(3, 4, low=3, high=5, distinct=True), R(5, 4, distinct=True), I(5, 4, n=3), complex=False, integer=True)
Case("ScatterProd", lambda t, x, s, i: t.scatter_reduce(x, 1, i, s, "prod"), R(3, 4, nonzero=True),
     R(3, 3, nonzero=True), I(3, 3, n=4), complex=False, integer=True)
Case("ScatterProd alone", lambda t, x, s, i: t.scatter_reduce(x, 1, i, s, "prod", include_self=False),
     R(3, 4, nonzero=True), R(3, 3, nonzero=True), I(3, 3, n=4), complex=False)
Case("scatter_reduce mean", lambda t, x, s, i: t.scatter_reduce(x, 1, i, s, "mean"), R(3, 4), R(3, 6), I(3, 6, n=4),
     complex=False)
Case("scatter_reduce sum", lambda t, x, s, i: t.scatter_reduce(x, 0, i, s, "sum", include_self=False), R(3, 4), R(5, 4),
     I(5, 4, n=3), complex=False, integer=True)
Case("take", lambda t, x, i: t.take(x, i), R(3, 4), I(2, 5, n=12, low=-12), integer=True)
Case("take_along_dim", lambda t, x, i: t.take_along_dim(x, i, 1), R(3, 4), I(1, 2, n=4), integer=True)
Case("nonzero", lambda t, x: (t.nonzero(x), *t.nonzero(x, as_tuple=True)), R(3, 4), integer=True, differentiable=False)
Case("argwhere", lambda t, m: t.argwhere(m), B(3, 4), differentiable=False)

# sorting

_ORDER = dict(complex=False, integer=True)
Case("Sort", lambda t, x: t.sort(x, 0), R(5, 3, distinct=True), **_ORDER)
Case("Sort down", lambda t, x: t.sort(x, descending=True, stable=True), R(3, 5), **_ORDER)
Case("argsort", lambda t, x: t.argsort(x, dim=1, stable=True), R(3, 5), differentiable=False, **_ORDER)
Case("msort", lambda t, x: t.msort(x), R(5, 3, distinct=True), **_ORDER)
Case("Topk", lambda t, x: t.topk(x, 3), R(2, 6, distinct=True), nonfinite=False, why="which NaN comes first is open",
     **_ORDER)
Case("Topk small", lambda t, x: t.topk(x, 2, 0, largest=False), R(20, 3, distinct=True), nonfinite=False,
     why="which NaN comes first is open", **_ORDER)
Case("Kth", lambda t, x: t.kthvalue(x, 2, 0), R(4, 3, distinct=True), nonfinite=False,
     why="which NaN comes first is open", **_ORDER)
Case("Kth median", lambda t, x: t.median(x, -1, keepdim=True), R(3, 5, distinct=True), **_ORDER)
Case("Median", lambda t, x: t.median(x), R(3, 4, distinct=True), **_ORDER)
Case("unique", lambda t, i: t.unique(i, return_inverse=True, return_counts=True), I(3, 4, n=5), differentiable=False)
Case("searchsorted", lambda t, x, v: t.searchsorted(t.sort(x)[0], v, right=True), R(2, 5), R(2, 3),
     differentiable=False,
     complex=False, integer=True, nonfinite=False, why="PyTorch's search loses its way among NaN")
Case("bincount", lambda t, i: t.bincount(i, minlength=7), I(9, n=5), differentiable=False)
Case("bincount weights", lambda t, i, w: t.bincount(i, w), I(9, n=5), R(9, grad=False), complex=False, half=False,
     differentiable=False)

# reduction

Case("Sum", lambda t, x: t.sum(x), R(3, 4), integer=True, boolean=True)
Case("Sum dim", lambda t, x: t.sum(x, (0, -1), keepdim=True), R(3, 4, 2), integer=True)
Case("Sum dtype", lambda t, x: t.sum(x, 1, dtype=t.float64), R(3, 4), complex=False, integer=True)
Case("Nansum", lambda t, x: t.nansum(x, 1), R(3, 4), complex=False)
Case("Mean", lambda t, x: t.mean(x), R(3, 4))
Case("Mean dim", lambda t, x: t.mean(x, (0, 2)), R(3, 4, 2))
Case("Prod", lambda t, x: t.prod(x), R(3, 2), integer=True)
Case("Prod dim", lambda t, x: t.prod(x, 1, True), R(3, 4), integer=True)
Case("Amax", lambda t, x: t.amax(x, (0, 1)), R(3, 4, 2, distinct=True), complex=False, integer=True)
Case("Amin", lambda t, x: t.amin(x, 1, True), R(3, 4, distinct=True), complex=False, integer=True)
Case("Max", lambda t, x: t.max(x, 1), R(3, 4, distinct=True), complex=False, integer=True)
Case("Max all", lambda t, x: t.max(x), R(3, 4, distinct=True), complex=False, integer=True)
Case("Max of two", lambda t, x, y: t.max(x, y), R(3, 4), R(4), complex=False, integer=True)
Case("Min", lambda t, x: t.min(x, 0, keepdim=True), R(3, 4, distinct=True), complex=False, integer=True)
Case("Min all", lambda t, x: t.min(x), R(3, 4, distinct=True), complex=False, integer=True)
Case("Argmax", lambda t, x: (t.argmax(x), t.argmax(x, 1, True)), R(3, 4, distinct=True), complex=False, integer=True,
     differentiable=False)
Case("Argmin", lambda t, x: (t.argmin(x), t.argmin(x, -1)), R(3, 4, distinct=True), complex=False, integer=True,
     differentiable=False)
Case("All", lambda t, x: (t.all(x), t.all(x, 1)), R(3, 4), integer=True, boolean=True, differentiable=False)
Case("Any", lambda t, x: (t.any(x), t.any(x, (0, 1), keepdim=True)), R(3, 4), integer=True, boolean=True,
     differentiable=False)
Case("CountNonzero", lambda t, x: (t.count_nonzero(x), t.count_nonzero(x, 1)), R(3, 4), integer=True, boolean=True,
     differentiable=False)
Case("CumSum", lambda t, x: t.cumsum(x, 1), R(3, 4), integer=True)
Case("CumProd", lambda t, x: t.cumprod(x, 0), R(4, 2), integer=True)
Case("Var", lambda t, x: t.var(x), R(3, 4))
Case("Var dim", lambda t, x: t.var(x, (0, 1), correction=0, keepdim=True), R(3, 4))
_WELFORD = dict(nonfinite=False, why="PyTorch's mean beside a variance is NaN where the mean alone is infinite")
Case("Var and mean", lambda t, x: t.var_mean(x, 1), R(3, 4), **_WELFORD)
Case("Std", lambda t, x: t.std(x, 1, correction=2), R(3, 4))
Case("Std and mean", lambda t, x: t.std_mean(x, 0), R(3, 4), **_WELFORD)
Case("LogSumExp", lambda t, x: t.logsumexp(x, 1), R(3, 4))
Case("LogSumExp dims", lambda t, x: t.logsumexp(x, (0, 2), True), R(3, 4, 2), complex=False, integer=True)
Case("Norm", lambda t, x: t.norm(x), R(3, 4))
Case("Norm 1", lambda t, x: t.norm(x, 1, 1), R(3, 4, nonzero=True))
Case("Norm 3", lambda t, x: t.norm(x, 3, 0, True), R(3, 4, nonzero=True))
Case("Norm inf", lambda t, x: t.norm(x, float("inf"), 1), R(3, 4, distinct=True))

# activation

Case("ReLU", lambda t, x: t.relu(x), R(3, 4, nonzero=True), complex=False, integer=True)
Case("LeakyReLU", lambda t, x: t.nn.functional.leaky_relu(x, 0.1), R(3, 4, nonzero=True), complex=False)
Case("Sigmoid", lambda t, x: t.sigmoid(x), R(3, 4), integer=True, boolean=True)
Case("SiLU", lambda t, x: t.nn.functional.silu(x), R(3, 4), complex=False)
Case("LogSigmoid", lambda t, x: t.nn.functional.logsigmoid(x), R(3, 4), complex=False)
Case("Softplus", lambda t, x: t.nn.functional.softplus(x), R(3, 4), complex=False)
Case("Softplus options", lambda t, x: t.nn.functional.softplus(x, 2.0, 1.0), R(3, 4, positive=True, low=0.6),
     complex=False)
Case("ELU", lambda t, x: t.nn.functional.elu(x, 0.7), R(3, 4, nonzero=True), complex=False)
Case("SELU", lambda t, x: t.nn.functional.selu(x), R(3, 4, nonzero=True), complex=False)
Case("Hardtanh", lambda t, x: t.nn.functional.hardtanh(x, -5.0, 0.1), R(3, 4, nonzero=True), complex=False)
Case("ReLU6", lambda t, x: t.nn.functional.relu6(x), R(3, 4, nonzero=True), complex=False)
Case("GELU", lambda t, x: t.nn.functional.gelu(x), R(3, 4), complex=False, nonfinite=False,
     why="PyTorch's float32 GELU of infinity is NaN on the CPU, its float64 one is infinity, as here")
Case("GELUTanh", lambda t, x: t.nn.functional.gelu(x, approximate="tanh"), R(3, 4), complex=False)

_ACTIVATIONS = {
    "gelu": lambda t, x: t.nn.functional.gelu(x), "relu": lambda t, x: t.relu(x),
    "gelu_tanh": lambda t, x: t.nn.functional.gelu(x, approximate="tanh"), "silu": lambda t, x: t.nn.functional.silu(x),
}
for _name, _f in _ACTIVATIONS.items():
    Case(f"BiasAct {_name}", lambda t, x, b, name=_name: t.nn.functional.bias_act(x, b, name), R(2, 3, 4, nonzero=True),
         R(4, low=-0.2, high=0.2), torch=lambda t, x, b, f=_f: f(t, x + b), complex=False, nonfinite=_name != "gelu",
         why="as GELU")
Case("BiasAct without", lambda t, x: t.nn.functional.bias_act(x, None, "silu"), R(3, 4), complex=False,
     torch=lambda t, x: t.nn.functional.silu(x))
Case("Gated silu", lambda t, x, y: t.nn.functional.swiglu(x, y), R(3, 4), R(3, 4), complex=False,
     torch=lambda t, x, y: t.nn.functional.silu(x) * y)
Case("Gated gelu", lambda t, x, y: t.nn.functional.geglu(x, y), R(3, 1), R(4), complex=False, nonfinite=False,
     why="as GELU", torch=lambda t, x, y: t.nn.functional.gelu(x) * y)
_HALVES = dict(complex=False, shapes=False, why="the halves of a dimension: not elementwise")
Case("Gated silu halves", lambda t, x: t.nn.functional.swiglu(x), R(3, 8), **_HALVES,
     torch=lambda t, x: t.nn.functional.silu(x[:, :4]) * x[:, 4:])
Case("Gated gelu_tanh halves", lambda t, x: t.nn.functional.geglu(x, dim=1, approximate="tanh"), R(2, 6, 3), **_HALVES,
     torch=lambda t, x: t.nn.functional.gelu(x[:, :3], approximate="tanh") * x[:, 3:])
Case("glu", lambda t, x: t.nn.functional.glu(x, 0), R(4, 3), complex=False)

# rotary embedding

_ANGLES = np.linspace(-3, 3, 15).reshape(5, 3)


def _rotary(interleaved, dim=-2, batch=None):
    """rotary_embedding by tables made from _ANGLES, and as a complex product in PyTorch."""
    angles = _ANGLES if batch is None else _ANGLES + np.arange(batch).reshape(batch, 1, 1)

    def ours(t, x):
        kind = np.dtype(np.float64) if array_of(x).dtype == np.float64 else np.dtype(np.float32)
        cos, sin = (on_device(f(angles).astype(kind)) for f in (np.cos, np.sin))
        return t.nn.functional.rotary_embedding(x, cos, sin, interleaved, dim)

    def theirs(t, x):
        turn = t.polar(t.ones(angles.shape, dtype=t.float64), t.from_numpy(angles)).to(t.promote_types(
            x.dtype, t.complex64))
        turn = turn if dim == -2 else turn.unsqueeze(-2)
        turn = turn.unsqueeze(1) if batch and dim == -2 else turn
        part = x[..., :6]
        part = part.unflatten(-1, (3, 2)) if interleaved else part.unflatten(-1, (2, 3)).mT
        z = t.view_as_real(t.view_as_complex(part.to(turn.real.dtype).contiguous()) * turn)
        z = z.flatten(-2) if interleaved else z.mT.flatten(-2)
        return t.cat([z.to(x.dtype), x[..., 6:]], -1)

    return ours, theirs


for _label, _spec, _options in (
        ("", R(2, 3, 5, 6), (False,)), (" interleaved", R(2, 3, 5, 6), (True,)),
        (" partial", R(2, 5, 8), (False,)), (" heads inside", R(2, 5, 2, 7), (True, -3)),
        (" batched", R(2, 2, 5, 6), (False, -2, 2))):
    _ours, _theirs = _rotary(*_options)
    Case(f"Rotary{_label}", _ours, _spec, torch=_theirs, complex=False, nonfinite=False,
         why="a complex product has NaN where only one of two products is infinite")

# softmax

Case("Softmax", lambda t, x: t.softmax(x, -1), R(3, 4), complex=False)
Case("Softmax first", lambda t, x: t.softmax(x, 0), R(3, 2, 2), complex=False)
Case("LogSoftmax", lambda t, x: t.log_softmax(x, 1), R(3, 4), complex=False)
Case("Softmin", lambda t, x: t.nn.functional.softmin(x, dim=0), R(3, 4), complex=False)

# normalization

Case("LayerNorm", lambda t, x, w, b: t.nn.functional.layer_norm(x, (4,), w, b), R(3, 4), R(4), R(4), complex=False)
Case("LayerNorm plain", lambda t, x: t.nn.functional.layer_norm(x, (2, 4), eps=0.1), R(3, 2, 4), complex=False)
Case("RMSNorm", lambda t, x, w: t.nn.functional.rms_norm(x, (4,), w), R(3, 4), R(4), complex=False)
Case("RMSNorm plain", lambda t, x: t.nn.functional.rms_norm(x, (4,), eps=0.1), R(2, 3, 4), complex=False)
Case("AddLayerNorm", lambda t, x, r, w, b: t.nn.functional.add_layer_norm(x, r, (4,), w, b), R(3, 4), R(3, 4), R(4),
     R(4), complex=False, torch=lambda t, x, r, w, b: (t.nn.functional.layer_norm(x + r, (4,), w, b), x + r))
Case("AddLayerNorm plain", lambda t, x, r: t.nn.functional.add_layer_norm(x, r, (2, 4), eps=0.1)[0], R(3, 2, 4),
     R(3, 2, 4), complex=False, torch=lambda t, x, r: t.nn.functional.layer_norm(x + r, (2, 4), eps=0.1))
Case("AddLayerNorm broadcast", lambda t, x, r: t.nn.functional.add_layer_norm(x, r, 4, eps=0.1)[1], R(3, 4), R(2, 1, 4),
     complex=False, torch=lambda t, x, r: x + r)
Case("AddRMSNorm", lambda t, x, r, w: t.nn.functional.add_rms_norm(x, r, (4,), w), R(3, 4), R(3, 4), R(4),
     complex=False, torch=lambda t, x, r, w: (t.nn.functional.rms_norm(x + r, (4,), w), x + r))
_FOLDED = dict(nonfinite=False, why="PyTorch folds mean and weight into one shift: infinite weights give NaN")
Case("BatchNorm", lambda t, x, w, b: t.nn.functional.batch_norm(x, None, None, w, b, True), R(4, 3, 2), R(3), R(3),
     complex=False, **_FOLDED)
Case("BatchNorm plain", lambda t, x: t.nn.functional.batch_norm(x, None, None, training=True), R(4, 3), complex=False)
Case("BatchNorm eval", lambda t, x, m, v, w, b: t.nn.functional.batch_norm(x, m, v, w, b), R(4, 3, 2), R(3, grad=False),
     R(3, positive=True, grad=False), R(3), R(3), complex=False)
Case("GroupNorm", lambda t, x, w, b: t.nn.functional.group_norm(x, 2, w, b), R(3, 4, 2), R(4), R(4), complex=False,
     **_FOLDED)
Case("InstanceNorm", lambda t, x, w, b: t.nn.functional.instance_norm(x, weight=w, bias=b), R(3, 2, 4), R(2), R(2),
     complex=False, **_FOLDED)

# loss

Case("MSELoss", lambda t, x, y: t.nn.functional.mse_loss(x, y), R(3, 4), R(3, 4), complex=False)
Case("MSELoss weight", lambda t, x, y, w: t.nn.functional.mse_loss(x, y, weight=w), R(3, 4), R(3, 4),
     R(3, 4, positive=True, grad=False), complex=False)
Case("L1Loss", lambda t, x, y: t.nn.functional.l1_loss(x, y, reduction="sum"), R(3, 4), R(3, 4))
Case("SmoothL1Loss", lambda t, x, y: t.nn.functional.smooth_l1_loss(x, y, beta=0.5), R(3, 4), R(3, 4), complex=False)
Case("HuberLoss", lambda t, x, y: t.nn.functional.huber_loss(x, y, "none", 0.5), R(3, 4), R(3, 4), complex=False)
Case("BinaryCrossEntropy", lambda t, x, y: t.nn.functional.binary_cross_entropy(x, y), R(3, 4, low=0.1, high=0.9),
     R(3, 4, low=0.1, high=0.9), complex=False, nonfinite=False, why="outside [0, 1] is an error")
Case("BinaryCrossEntropyWithLogits", lambda t, x, y: t.nn.functional.binary_cross_entropy_with_logits(x, y), R(3, 4),
     R(3, 4, low=0.1, high=0.9), complex=False, nonfinite=False, why="the loss at -inf is infinite, in PyTorch NaN")
Case("BinaryCrossEntropyWithLogits weights", lambda t, x, y, w, p: t.nn.functional.binary_cross_entropy_with_logits(
     x, y, w, pos_weight=p), R(3, 4), R(3, 4, low=0.1, high=0.9, grad=False), R(4, grad=False),
     R(4, positive=True, grad=False), complex=False)
Case("KLDiv", lambda t, x, y: t.nn.functional.kl_div(x, y, reduction="batchmean"), R(3, 4), R(3, 4, positive=True),
     complex=False, nonfinite=False,
     why="t (log t - x) here, t log t - t x in PyTorch: an infinite target is infinity or NaN")
Case("NLLLoss", lambda t, x, i: t.nn.functional.nll_loss(x, i), R(3, 5), I(3, n=5), complex=False)
Case("NLLLoss options", lambda t, x, w, i: t.nn.functional.nll_loss(x, i, w, ignore_index=1, reduction="none"),
     R(2, 5, 3), R(5, positive=True, grad=False), I(2, 3, n=5), complex=False)
Case("CrossEntropy", lambda t, x, i: t.nn.functional.cross_entropy(x, i), R(3, 5), I(3, n=5), complex=False)
Case("CrossEntropy options", lambda t, x, w, i: t.nn.functional.cross_entropy(
     x, i, w, ignore_index=1, reduction="sum", label_smoothing=0.1), R(2, 5, 3), R(5, positive=True, grad=False),
     I(2, 3, n=5), complex=False)
Case("CrossEntropy probabilities", lambda t, x, p: t.nn.functional.cross_entropy(x, p, label_smoothing=0.1), R(3, 5),
     R(3, 5, positive=True), complex=False)

# backward operators of these families


def _gradient(f):
    """The gradient of f(t, *inputs) for a cotangent, the last input."""
    def fn(t, *inputs):
        *xs, g = [x if x.requires_grad or not x.dtype.is_floating_point else x.detach().requires_grad_()
                  for x in inputs]
        grad = our_grad if isinstance(g, Tensor) else t.autograd.grad
        return grad(f(t, *xs), [x for x in xs if x.requires_grad], g, create_graph=True)

    return fn


_INSIDE = dict(nonfinite=False, why="two divisions by a small standard deviation; which of inf - inf and inf * 0 comes "
               "first is the library's order of sums")
Case("Shift", lambda t, x: REGISTRY["Shift"].apply(x, dim=1, by=1, fill=0), R(3, 4),
     torch=lambda t, x: t.cat([t.zeros_like(x[:, :1]), x[:, :3]], 1))
Case("Pick", lambda t, x, i: REGISTRY["Pick"].apply(x, index=array_of(i), dim=1), R(3, 4), I(3, 1, n=4),
     torch=lambda t, x, i: x.gather(1, i))
Case("Place", lambda t, x, i: REGISTRY["Place"].apply(x, index=array_of(i), dim=1, size=4), R(3, 1), I(3, 1, n=4),
     torch=lambda t, x, i: t.zeros(3, 4, dtype=x.dtype).scatter(1, i, x))
Case("SoftmaxBackward", lambda t, g, y: REGISTRY["SoftmaxBackward"].apply(g, y, dim=0), R(3, 4), R(3, 4),
     complex=False, torch=lambda t, g, y: y * (g - (g * y).sum(0, True)), nonfinite=False,
     why="inf - inf in another order")
Case("GELUBackward", lambda t, g, x: REGISTRY["GELUBackward"].apply(g, x), R(3, 4), R(3, 4), complex=False,
     nonfinite=False, why="0 * inf in another order",
     torch=lambda t, g, x: g * ((1 + t.erf(x / 2**0.5)) / 2 + x * t.exp(-x * x / 2) / (2 * t.pi) ** 0.5))
Case("GELUTanhBackward", _gradient(lambda t, x: t.nn.functional.gelu(x, approximate="tanh")), R(3, 4), R(3, 4),
     complex=False, half=False, raw=False, **_INSIDE)
Case("NormalizeBackward", _gradient(lambda t, x, w: t.nn.functional.layer_norm(x, (4,), w)), R(3, 4), R(4), R(3, 4),
     complex=False, half=False, raw=False, tolerance=4, **_INSIDE)
Case("NormalizeBackward of channels",
     _gradient(lambda t, x, w: t.nn.functional.batch_norm(x, None, None, w, training=True)),
     R(4, 3, 2), R(3), R(4, 3, 2), complex=False, half=False, raw=False, tolerance=4, **_INSIDE)
Case("CrossEntropyBackward", _gradient(lambda t, x, i: t.nn.functional.cross_entropy(x, i, reduction="none")), R(3, 5),
     I(3, n=5), R(3), complex=False, half=False, raw=False, **_INSIDE)
Case("NLLLossBackward", _gradient(lambda t, x, i: t.nn.functional.nll_loss(x, i, reduction="none")), R(3, 5),
     I(3, n=5), R(3), complex=False, half=False, raw=False)

# linear algebra

_LINEAR = dict(half=False, nonfinite=False, why="a factorization spreads NaN as it likes, or fails")


def _hermitian(t, x):
    return t.mul(t.add(x, t.conj(t.transpose(x, -2, -1))), 0.5)


Case("LinalgInv", lambda t, x: t.linalg.inv(x), S(2, 3, 3), **_LINEAR)
Case("inverse", lambda t, x: t.inverse(x), S(3, 3), **_LINEAR)
Case("LinalgSolve", lambda t, x, b: t.linalg.solve(x, b), S(2, 3, 3), R(2, 3, 4), **_LINEAR)
Case("LinalgSolve broadcast", lambda t, x, b: t.linalg.solve(x, b), S(3, 3), R(2, 3, 4), **_LINEAR)
Case("LinalgSolve vector", lambda t, x, b: t.linalg.solve(x, b), S(3, 3), R(3), **_LINEAR)
Case("LinalgSolve vectors", lambda t, x, b: t.linalg.solve(x, b), S(2, 3, 3), R(2, 3), **_LINEAR)
Case("LinalgSolve right", lambda t, x, b: t.linalg.solve(x, b, left=False), S(2, 3, 3), R(1, 4, 3), **_LINEAR)
Case("LinalgCholesky", lambda t, x: t.linalg.cholesky(_hermitian(t, x)), S(2, 3, 3), **_LINEAR)
Case("LinalgCholesky upper", lambda t, x: t.linalg.cholesky(_hermitian(t, x), upper=True), S(3, 3), **_LINEAR)
Case("LinalgDet", lambda t, x: t.linalg.det(x), S(2, 3, 3), **_LINEAR)
Case("LinalgSlogdet", lambda t, x: tuple(t.linalg.slogdet(x)), S(2, 3, 3), **_LINEAR)
Case("logdet", lambda t, x: t.logdet(x), S(3, 3), **_LINEAR)
Case("matrix_power", lambda t, x: (t.linalg.matrix_power(x, 5), t.matrix_power(x, -2)), S(2, 3, 3),
     tolerance=30, **_LINEAR)
