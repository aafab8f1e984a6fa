"""Chains of matrix products in the cheapest order; a product with the bias and activation behind it."""
from __future__ import annotations

from ... import linalg, ops
from ...nn import functional as F
from ..cost.cost import Array, Cost, cost
from .elementwise import groups, name_of
from .search import Applied, Search
from .steps import Step, Value

__all__ = ["bias_activation", "product_chains"]

CURVES = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "ReLU": "relu", "SiLU": "silu"}  # F.bias_act's, by operator
ACTIVATIONS = {*CURVES, "Sigmoid", "Tanh"}


# chains


def product_chains(s: Search) -> None:
    """Products of three matrices and more whose order can be better."""
    for last in reversed(s.steps):
        if _plain(s, last):
            following = s.only(last.out)
            if following is None or not _plain(s, following):
                _chain(s, last)


def _plain(s, step) -> bool:
    return (step.name == "Gemm" and s.free(step) and not step.params.get("ta") and not step.params.get("tb")
            and all(isinstance(v, Value) and len(v.shape) == 2 for v in step.inputs))


def _flat(s, value, steps) -> tuple:
    """The factors of a product and how it is bracketed now, as nested pairs of their numbers."""
    step = value.step
    if step is None or not _plain(s, step) or s.only(value) is None:
        return [value], None
    steps.append(step)
    left, a = _flat(s, step.inputs[0], steps)
    right, b = _flat(s, step.inputs[1], steps)
    return left + right, (a, b)


def _chain(s: Search, last: Step) -> None:
    steps = [last]
    left, _ = _flat(s, last.inputs[0], steps)
    right, _ = _flat(s, last.inputs[1], steps)
    factors = left + right
    if len(factors) < 3:
        return
    sizes = [f.shape[0] for f in factors] + [factors[-1].shape[1]]
    flops, cut = cheapest(sizes)
    now = sum(x.cost().products for x in steps)
    if flops >= now:
        return
    dtype = last.out.array.dtype
    by = _bracketed(factors, sizes, cut, 0, len(factors) - 1, dtype)[1]
    by[-1].outputs = [last.out]

    def replace(arrays):
        return linalg.multi_dot([arrays[f] for f in factors])

    order = bracketing(cut, 0, len(factors) - 1)
    letters = ", ".join(_letter(i) for i in range(len(factors)))
    s.add("matmul chain", steps, [last.out], use=f"tt.linalg.multi_dot([{letters}])", by=by, replace=replace,
          notes=[f"cheapest order {order} of sizes {' x '.join(map(str, sizes))}: {flops:.4g} instead of {now:.4g} "
                 "operations"])


def cheapest(sizes) -> tuple[float, dict]:
    """(operations, {(i, j): k}) of a product of matrices of sizes[i] by sizes[i + 1], cut after factor k in each
    stretch: dynamic programming over stretches (Cormen et al., Introduction to Algorithms, 15.2)."""
    n = len(sizes) - 1
    best, cut = {(i, i): 0.0 for i in range(n)}, {}
    for length in range(1, n):
        for i in range(n - length):
            j = i + length
            best[i, j], cut[i, j] = min((best[i, k] + best[k + 1, j] + 2.0 * sizes[i] * sizes[k + 1] * sizes[j + 1], k)
                                        for k in range(i, j))
    return best[0, n - 1], cut


def _letter(i) -> str:
    return chr(65 + i) if i < 26 else f"M{i + 1}"


def bracketing(cut, i, j) -> str:
    """(A B) C."""
    if i == j:
        return _letter(i)
    k = cut[i, j]

    def part(a, b):
        return bracketing(cut, a, b) if a == b else f"({bracketing(cut, a, b)})"

    return f"{part(i, k)} {part(k + 1, j)}"


def _bracketed(factors, sizes, cut, i, j, dtype) -> tuple[Value, list[Applied]]:
    """What comes out, and each product."""
    if i == j:
        return factors[i], []
    k = cut[i, j]
    a, before = _bracketed(factors, sizes, cut, i, k, dtype)
    b, after = _bracketed(factors, sizes, cut, k + 1, j, dtype)
    out = Value(Array(dtype, (sizes[i], sizes[j + 1])))
    return out, [*before, *after, Applied("Gemm", [a, b], [out])]


# product, bias, activation


def bias_activation(s: Search) -> None:
    """A product whose result only a bias or an activation reads."""
    tails = {v: tree for tree in groups(s) for v in s.reads(tree)}
    for product in s.steps:
        if product.name in ("Gemm", "Linear", "AddMm") and s.free(product):
            tree = tails.get(product.out)
            if tree is not None and s.only(product.out) in tree and not any(x in s.taken for x in tree):
                _tail(s, product, tree)


def _tail(s: Search, product: Step, tree: list[Step]) -> None:
    y, out = product.out, tree[-1].out
    if not all(isinstance(v, Value) for v in _factors(product)):  # of a graph that was not recorded
        return
    added = _bias(product)
    if added is not None:
        _biased(s, product, added, tree)
        return
    reads = s.reads(tree)
    others = [v for v in reads if v is not y]
    if product.name == "AddMm" or out.shape != y.shape or len(others) > 1 or any(
            v.shape != y.shape[-1:] for v in others):
        return
    steps, bias = [product, *tree], others[0] if others else None
    if bias is not None and len(tree) == 1 and tree[0].name == "Add":
        _linear(s, product, steps, bias, out)
        return
    known = name_of(tree, reads, out) if len(tree) > 1 or bias is not None else _single(tree[0])
    if known is None:
        return
    if bias is None:  # the product writes its result, the activation reads it: nothing of ours does both
        if len(tree) == 1:
            s.add("matmul + activation", steps, [out],
                  notes=["an epilogue of the product: the library's products end before the activation"])
        return  # a written-out activation alone is an elementwise chain
    text, _, function, (name, params) = known
    _activated(s, product, steps, bias, text, function, Applied(name, [y, bias], [out], params))


def _bias(product: Step) -> Value | None:
    """What a product adds to its result already."""
    if product.name == "Gemm":
        return None
    given = product.inputs[0 if product.name == "AddMm" else 2:]
    return given[0] if given and isinstance(given[0], Value) else None


def _biased(s: Search, product: Step, bias: Value, tree: list[Step]) -> None:
    """An activation behind a product with its bias: the bias joins the activation's pass instead."""
    y = product.out
    if bias.shape != y.shape[-1:] or any(product.params.get(k, 1) != 1 for k in ("alpha", "beta")):
        return
    known = _single(tree[0])
    if len(tree) == 2 and known in CURVES:  # a chain of the two saves as much, but needs a kernel of one's own
        tree = tree[:1]
    if known is None or len(tree) > 1 or known in CURVES and "float" not in y.array.dtype:  # not of integers
        return
    out, steps = tree[-1].out, [product, *tree]
    if known in CURVES:
        text = f'F.bias_act(x, bias, "{CURVES[known]}")'
        _activated(s, product, steps, bias, text, lambda x, b: F.bias_act(x, b, CURVES[known]),
                   Applied("BiasAct", [y, bias], [out], {"curve": CURVES[known]}))
        return
    alone = cost(known, [y.array], [out.array])
    own = Cost("elementwise", None if alone.flops is None else alone.flops + out.array.size,
               y.array.nbytes + bias.array.nbytes, out.array.nbytes)
    s.add("matmul + bias + activation", steps, [out], parts=[_without(product).cost(), own],
          notes=[f"of bias and activation, behind {_left(product)}: F.bias_act has {', '.join(CURVES.values())}"])


def _activated(s: Search, product, steps, bias, text, function, last: Applied) -> None:
    """A product, and bias and activation in one pass behind it."""
    def replace(arrays):
        return function(_product(product, arrays), arrays[bias])

    s.add("matmul + bias + activation", steps, [steps[-1].out], use=text.replace("(x, ", f"({_left(product)}, ", 1),
          by=[_without(product), last], replace=replace)


def _factors(product) -> list[Value]:
    """The two matrices."""
    return product.inputs[1:3] if product.name == "AddMm" else product.inputs[:2]


def _left(product) -> str:
    """The product without its bias."""
    return "F.linear(x, w)" if product.name == "Linear" or product.params.get("tb") else "x @ w"


def _without(product) -> Applied:
    """The product without a bias."""
    a, b = _factors(product)
    return Applied("Linear" if product.name == "Linear" else "Gemm", [a, b], [product.out], product.params)


def _product(product, arrays):
    a, b = _factors(product)
    if product.name == "Linear":
        return F.linear(arrays[a], arrays[b])
    return ops.gemm(arrays[a], arrays[b], product.params.get("ta", False), product.params.get("tb", False))


def _single(step):
    """Whether a step is an activation."""
    return step.name if step.name in ACTIVATIONS else None


def _linear(s: Search, product, steps, bias, out) -> None:
    """A bias that is added in an operator of its own. The library's products pass over the result for it as well."""
    a, b = product.inputs[:2]
    if product.params.get("ta") or len(b.shape) != 2:
        return
    turned = product.name == "Gemm" and not product.params.get("tb")
    plain = turned and len(a.shape) == 2
    use = "tt.addmm(bias, x, w)" if plain else f"F.linear(x, {'w.T' if turned else 'w'}, bias)"

    def replace(arrays):
        if plain:
            return ops.addmm(arrays[bias], arrays[a], arrays[b])
        return F.linear(arrays[a], ops.transpose(arrays[b], 0, 1) if turned else arrays[b], arrays[bias])

    given = [a.array, Array(b.array.dtype, b.shape[::-1]) if turned else b.array, bias.array]
    whole = Applied("AddMm", [bias, a, b], [out]) if plain else Applied("Linear", [a, b, bias], [out], arrays=given)
    s.add("matmul + bias", steps, [out], use=use, by=[whole], replace=replace,
          notes=["shorter to write; the bias takes a pass over the result inside of it too"])
