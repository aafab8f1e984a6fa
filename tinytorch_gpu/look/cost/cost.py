"""Floating point operations and bytes of one operator application, from its class name and its operands' shapes.

Counted: an addition, a multiplication, a comparison and a function such as exp() as one operation each; a product of
(M, K) and (K, N) as 2 M K N, as everywhere; complex products in real operations. Bytes: every operand is read once,
every result written once, views move nothing. That is the least an operator that runs on its own can move; a formula
on the CPU, which passes several times over its array, moves more. A bias of a product takes passes of its own over
the result, on every device: `launches` tells them apart.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ...autograd.node import REGISTRY
from ...backend import dtypes
from ...backend.device import is_array
from ...tensor import Tensor
from .rules import ELEMENTWISE, PER_INPUT, Unknown

__all__ = ["UNKNOWN", "Array", "Cost", "arrays_of", "cost", "launches", "product_flops"]


@dataclass(frozen=True)
class Array:
    """An operand or a result: dtype's name and shape."""

    dtype: str
    shape: tuple

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * dtypes.from_any(self.dtype).itemsize

    @property
    def complex(self) -> bool:
        return self.dtype.startswith("complex")


@dataclass(frozen=True)
class Cost:
    """`flops`, of which `products` in matrix products; bytes `read` and `written`. None: unknown.

    `family`: "products", "elementwise", "reduction", "softmax", "normalization", "loss", "gather", "scatter", "copy",
    "view", "pooling", "scan", "sorting", "factorization" or "unknown".
    """

    family: str
    flops: float | None
    read: int | None
    written: int | None
    products: float = 0.0

    @property
    def bytes(self) -> int | None:
        """Bytes read and written."""
        return None if self.read is None or self.written is None else self.read + self.written

    @property
    def intensity(self) -> float | None:
        """Floating point operations for each byte moved."""
        return None if self.flops is None or not self.bytes else self.flops / self.bytes

    @property
    def known(self) -> bool:
        return self.flops is not None and self.bytes is not None

    def __add__(self, other: Cost) -> Cost:
        def both(a, b):
            return None if a is None or b is None else a + b

        return Cost(self.family if self.family == other.family else "several", both(self.flops, other.flops),
                    both(self.read, other.read), both(self.written, other.written), self.products + other.products)


UNKNOWN = Cost("unknown", None, None, None)


def arrays_of(operands: Sequence) -> list[Array | None]:
    """Operands as Arrays: (dtype name, shape) pairs, as in a Note's inputs; None in the place of anything else."""
    return [a if isinstance(a, Array) else Array(a[0], tuple(a[1])) if isinstance(a, tuple) and len(a) == 2
            and isinstance(a[0], str) else None for a in operands]


def cost(name: str, inputs: Sequence, outputs: Sequence, params: Mapping | None = None) -> Cost:
    """The cost of one application of the operator class `name`.

    `inputs` and `outputs`: (dtype name, shape) pairs; numbers, None and anything else among the inputs move nothing.
    `params`: the operator's parameters; arrays among them, such as an index or a mask, are read too. Without them what
    depends on them is unknown: the windows of pooling, the layout of a normalization's backward.
    An operator that has no rule here, a user's own among them, is `family="unknown"` with None for its figures.
    """
    params = params or {}
    given, out = arrays_of(inputs), [a for a in arrays_of(outputs) if a is not None]
    there = [a for a in given if a is not None]
    rule = _RULES.get(name)
    cls = REGISTRY.get(name)
    if rule is None and cls is not None and cls.view:
        return Cost("view", 0.0, 0, 0)
    if rule is None and name in ELEMENTWISE:
        rule = _elementwise
    elif rule is None and name in PER_INPUT:
        rule = _per_input
    if rule is None or not out:
        return UNKNOWN
    try:
        return rule(_Application(name, given, there, out, params))
    except Unknown as e:
        read = sum(a.nbytes for a in there) + _param_bytes(params)
        return Cost(e.family, None, read, sum(a.nbytes for a in out))


class _Application:
    """One application, as the rules read it."""

    def __init__(self, name, given, there, out, params):
        self.name, self.given, self.there, self.out, self.params = name, given, there, out, params

    def cost(self, family, flops, products=0.0, read=None) -> Cost:
        """All operands read (or `read` bytes) and all results written."""
        read = sum(a.nbytes for a in self.there) if read is None else read
        return Cost(family, float(flops), read + _param_bytes(self.params), sum(a.nbytes for a in self.out),
                    float(products))

    def param(self, name, family):
        if name not in self.params:
            raise Unknown(family)
        return self.params[name]

    @property
    def size(self) -> int:
        """Elements of the first result."""
        return self.out[0].size


def _param_bytes(params) -> int:
    total = 0
    for value in params.values():
        for v in value if isinstance(value, (tuple, list)) else (value,):
            array = v._array if isinstance(v, Tensor) else v
            total += array.nbytes if is_array(array) else 0
    return total


# elementwise, reductions and what is like them

_COMPLEX = {"Add": 2, "Sub": 2, "Neg": 2, "Conj": 1, "Mul": 6, "Sum": 2, "Mean": 2, "SumToSize": 2, "Cast": 0,
            "Clone": 0, "Copy": 0, "Fill": 0, "Where": 0, "MaskedFill": 0}


def _each(a, table):
    if any(x.complex for x in (*a.there, *a.out)):
        if a.name not in _COMPLEX:
            raise Unknown(table[a.name][0])
        return _COMPLEX[a.name]
    return table[a.name][1]


def _elementwise(a) -> Cost:
    each = _each(a, ELEMENTWISE)
    if callable(each):
        each = each(a)
    return a.cost(ELEMENTWISE[a.name][0], each * a.size)


def _per_input(a) -> Cost:
    each = _each(a, PER_INPUT)
    if callable(each):
        each = each(a)
    return a.cost(PER_INPUT[a.name][0], each * a.there[0].size)


def _unbroadcast(a) -> Cost:
    if a.there[0].shape == a.out[0].shape:
        return Cost("reduction", 0.0, 0, 0)
    return _per_input(a)


# products

def product_flops(size, inner, complex_) -> float:
    """Operations of `size` sums of `inner` products."""
    return size * inner * (8.0 if complex_ else 2.0)


def _inner(a, x, w) -> int:
    """K, of whichever operand is known: x is (..., M, K) or (..., K, M), w (..., K, N) or (..., N, K)."""
    if x is None and w is None:
        raise Unknown("products")
    known, rows = (x, a.out[0].shape[-2]) if x is not None else (w, a.out[0].shape[-1])
    return 0 if not known.size or not rows else math.prod(known.shape[-2:]) // rows


def _gemm(a) -> Cost:
    out = a.out[0]
    done = product_flops(out.size, _inner(a, *a.given[:2]), out.complex)
    return a.cost("products", done, done)


def _added(name, given, params) -> Array | None:
    """What a product adds to its result: backend/gemm.py writes it there before cuBLAS adds the product to it, and
    adds it afterwards on the CPU; the result is read and written once more either way."""
    if name == "Linear":
        return given[2] if len(given) > 2 else None
    return given[0] if name == "AddMm" and params.get("beta", 1) else None


def _linear(a) -> Cost:
    factors = [x for x in a.given[:2] if x is not None]
    if not factors:
        raise Unknown("products")
    return _product(a, factors, factors[0].shape[-1], 0)


def _addmm(a) -> Cost:
    factors = a.given[1:3]
    scaled = (a.params.get("alpha", 1) != 1) + (a.params.get("beta", 1) not in (0, 1))
    return _product(a, [x for x in factors if x is not None], _inner(a, *factors), scaled)


def _product(a, factors, inner, scaled) -> Cost:
    """With what is added to it; `scaled`: how many numbers other than 1 its terms are multiplied by."""
    out, added = a.out[0], _added(a.name, a.given, a.params)
    done, each = product_flops(out.size, inner, out.complex), 2 if out.complex else 1
    passes = 0 if added is None else out.nbytes
    read = sum(x.nbytes for x in factors) + passes + (0 if added is None else added.nbytes)
    found = a.cost("products", done + ((added is not None) + scaled) * each * out.size, done, read)
    return replace(found, written=out.nbytes + passes)


def launches(whole: Cost, name: str, inputs: Sequence, outputs: Sequence, params: Mapping | None = None, *,
             host: bool) -> list[Cost]:
    """What one application of cost `whole` starts one after the other: all at once, none for a view; a product with a
    bias two, on a CPU (`host`) the sum behind it, elsewhere the copy of the bias before it."""
    if whole.family == "view":
        return []
    added = _added(name, arrays_of(inputs), params or {})
    out = arrays_of(outputs)[0]
    if added is None or out is None or whole.flops is None or whole.read is None or whole.written is None:
        return [whole]
    sums = float(out.size * (2 if out.complex else 1)) if host else 0.0
    read = added.nbytes + (out.nbytes if host else 0)
    own = Cost("elementwise" if host else "copy", sums, read, out.nbytes)
    product = replace(whole, flops=whole.flops - sums, read=whole.read - read, written=whole.written - out.nbytes)
    return [product, own] if host else [own, product]


def _convolution(a) -> Cost:
    """2 operations for each position of the smaller side, its filter taps and input channels."""
    if a.name == "ConvWeight":
        places, w = a.there[1], a.out[0]
    else:
        places, w = a.there[0] if a.name == "ConvInput" else a.out[0], a.there[1]
    done = product_flops(places.size, math.prod(w.shape[1:]), places.complex)
    bias = a.name == "Conv" and len(a.there) > 2
    return a.cost("products", done + bias * places.size, done)


def _attention(a) -> Cost:
    """The scores pass through memory: written in float32, read, written as probabilities, read by the second product;
    dropout reads and writes those once more."""
    q, _, v = a.there[:3]
    if len(a.out) < 2:
        raise Unknown("products")
    probs = a.out[1]
    done = product_flops(probs.size, q.shape[-1], False) + product_flops(probs.size, v.shape[-1], False)
    masked = a.params.get("allowed") is not None or bool(a.params.get("causal")) or len(a.there) > 3
    dropped = bool(a.params.get("p"))
    whole = a.cost("products", done + (6 + masked + 2 * dropped) * probs.size, done)
    scores = probs.size * max(4, probs.nbytes // max(probs.size, 1))
    return Cost("products", whole.flops, (whole.read or 0) + scores + (1 + dropped) * probs.nbytes,
                (whole.written or 0) + scores + dropped * probs.nbytes, done)


# normalization, losses, positions

def _normalize(a) -> Cost:
    center = a.name not in ("RMSNorm", "AddRMSNorm")
    added = a.name.startswith("Add")
    affine = len(a.there) - 1 - added
    return a.cost("normalization", ((5 if center else 3) + added + affine) * a.there[0].size)


def _normalize_backward(a) -> Cost:
    center = a.param("layout", "normalization").center
    more = len(a.given) > 3 and a.given[3] is not None
    weighted = len(a.out) > 1
    return a.cost("normalization", ((9 if center else 6) + 4 * weighted + more) * a.there[0].size)


def _picked_loss(a) -> Cost:
    """One logarithm of each row is read, and its class."""
    rows = a.there[0].size // max(a.there[0].shape[1 if len(a.there[0].shape) > 1 else 0], 1)
    size = a.there[0].nbytes // max(a.there[0].size, 1)
    return a.cost("loss", 2 * rows, read=rows * size + sum(x.nbytes for x in a.there[1:]))


def _gather(a) -> Cost:
    """As much as is picked is read, not the whole table."""
    index = sum(x.nbytes for x in a.there[1:])
    return a.cost("gather", 0, read=a.out[0].nbytes + index)


def _scatter_add(a) -> Cost:
    return a.cost("scatter", a.there[-1].size if a.name in ("ScatterAdd", "IndexAdd") else a.there[0].size)


def _copy(a) -> Cost:
    return a.cost("copy", 0)


def _write(a) -> Cost:
    return a.cost("copy", 0, read=0)


def _pooling(a) -> Cost:
    taps = math.prod(a.param("windows", "pooling").kernel)
    return a.cost("pooling", taps * (a.there[0] if a.name in ("WindowSpread", "PoolPlace") else a.out[0]).size)


def _rotary(a) -> Cost:
    x, cos = a.there[0], a.there[1]
    turned = 2 * cos.shape[-1] / max(x.shape[-1], 1)
    return a.cost("elementwise", 3 * x.size * turned)


def _sorting(a) -> Cost:
    raise Unknown("sorting")


def _factorization(a) -> Cost:
    """The leading terms of LAPACK's counts (LAPACK Working Note 41)."""
    n = a.there[0].shape[-1]
    each = {"LinalgInv": 2 * n**3, "LinalgCholesky": n**3 / 3, "LinalgDet": 2 * n**3 / 3,
            "LinalgSlogdet": 2 * n**3 / 3}.get(a.name)
    if each is None:
        each = 2 * n**3 / 3 + 2 * n * n * a.there[1].shape[-1]
    return a.cost("factorization", each * math.prod(a.there[0].shape[:-2]) * (4 if a.there[0].complex else 1))


_RULES: dict[str, Callable] = {
    "Gemm": _gemm, "Linear": _linear, "AddMm": _addmm, "Conv": _convolution, "ConvInput": _convolution,
    "ConvWeight": _convolution, "Attention": _attention, "NormalizeBackward": _normalize_backward,
    "NLLLoss": _picked_loss, "SumToSize": _unbroadcast, "Fill": _write, "Rotary": _rotary,
    **dict.fromkeys(("LayerNorm", "RMSNorm", "BatchNorm", "GroupNorm", "AddLayerNorm", "AddRMSNorm"), _normalize),
    **dict.fromkeys(("Embedding", "Gather", "Index", "Pick"), _gather),
    **dict.fromkeys(("EmbeddingBackward", "GatherBackward", "IndexBackward", "ScatterAdd", "IndexAdd"), _scatter_add),
    **dict.fromkeys(("Scatter", "IndexPut", "MaskedScatter", "ViewScatter", "Place", "SliceBackward", "NLLLossBackward",
                     "DiagonalBackward", "Transfer", "Cat", "Stack", "Repeat", "Flip", "Roll", "Tril", "Triu", "Pad",
                     "Unfold", "Complex", "Shift"), _copy),
    **dict.fromkeys(("MaxPool", "WindowSum", "WindowSpread", "PoolPlace", "PoolPick"), _pooling),
    **dict.fromkeys(("Sort", "Topk", "Kth", "Median", "ScatterExtreme", "ScatterProd"), _sorting),
    **dict.fromkeys(("LinalgInv", "LinalgSolve", "LinalgCholesky", "LinalgDet", "LinalgSlogdet"), _factorization),
}
