"""Chains of matrix products in the cheapest order; a product with the bias and activation behind it."""
from __future__ import annotations

from ... import linalg, ops
from ...nn import functional as F
from ..cost.cost import Array, Cost, cost
from .elementwise import groups, name_of
from .search import OWN, Search
from .steps import Step, Value

__all__ = ["bias_activation", "product_chains"]


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
    parts = _bracketed(factors, sizes, cut, 0, len(factors) - 1, dtype)[1]

    def replace(arrays):
        return linalg.multi_dot([arrays[f] for f in factors])

    order = bracketing(cut, 0, len(factors) - 1)
    letters = ", ".join(_letter(i) for i in range(len(factors)))
    s.add("matmul chain", steps, [last.out], use=f"tt.linalg.multi_dot([{letters}])", parts=parts,
          replace=replace,
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


def _bracketed(factors, sizes, cut, i, j, dtype) -> tuple[Array, list[Cost]]:
    """What comes out, and each product."""
    if i == j:
        return factors[i].array, []
    k = cut[i, j]
    a, before = _bracketed(factors, sizes, cut, i, k, dtype)
    b, after = _bracketed(factors, sizes, cut, k + 1, j, dtype)
    out = Array(dtype, (sizes[i], sizes[j + 1]))
    return out, [*before, *after, cost("Gemm", [a, b], [out])]


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
    reads = s.reads(tree)
    others = [v for v in reads if v is not y]
    biased = product.name != "Gemm" and len([v for v in product.inputs if isinstance(v, Value)]) > 2
    if out.shape != y.shape or len(others) > 1 or any(v.shape != y.shape[-1:] for v in others):
        return
    steps, bias = [product, *tree], others[0] if others else None
    if bias is not None and len(tree) == 1 and tree[0].name == "Add" and not biased:
        _linear(s, product, steps, bias, out)
        return
    known = name_of(tree, reads, out) if len(tree) > 1 or bias is not None else _single(tree[0])
    if known is None:
        return
    if bias is None:  # the product writes its result, the activation reads it: nothing of ours does both
        notes = [f"{OWN}, an epilogue of the product: the library's products end before the activation"]
        if len(tree) == 1:
            s.add("matmul + activation" if not biased else "matmul + bias + activation", steps, [out],
                  notes=notes)
        return  # a written-out activation alone is an elementwise chain
    if biased:
        return
    text, order, function, (name, params) = known
    a, b = [v for v in product.inputs if isinstance(v, Value)][:2]
    left = "x @ w" if product.name == "Gemm" and not product.params.get("tb") else "F.linear(x, w)"
    parts = [product.cost(), cost(name, [y.array, bias.array], [out.array], params)]

    def replace(arrays):
        made = _product(product, arrays, a, b)
        return function(made, arrays[bias])

    s.add("matmul + bias + activation", steps, [out], use=text.replace("(x, ", f"({left}, ", 1), parts=parts,
          replace=replace)


def _product(product, arrays, a, b):
    if product.name == "Linear":
        return F.linear(arrays[a], arrays[b])
    return ops.gemm(arrays[a], arrays[b], product.params.get("ta", False), product.params.get("tb", False))


def _single(step):
    """Whether a step is an activation."""
    return step.name if step.name in ("GELU", "GELUTanh", "ReLU", "SiLU", "Sigmoid", "Tanh") else None


def _linear(s: Search, product, steps, bias, out) -> None:
    """A bias that is added in an operator of its own."""
    a, b = [v for v in product.inputs if isinstance(v, Value)][:2]
    if product.params.get("ta") or product.name == "AddMm" or len(b.shape) != 2:
        return
    turned = product.name == "Gemm" and not product.params.get("tb")
    use = "tt.addmm(bias, x, w)" if turned and len(a.shape) == 2 else f"F.linear(x, {'w.T' if turned else 'w'}, bias)"

    def replace(arrays):
        if turned and len(a.shape) == 2:
            return ops.addmm(arrays[bias], arrays[a], arrays[b])
        return F.linear(arrays[a], ops.transpose(arrays[b], 0, 1) if turned else arrays[b], arrays[bias])

    weight = Array(b.array.dtype, b.shape[::-1]) if turned else b.array
    s.add("matmul + bias", steps, [out], use=use, parts=[cost("Linear", [a.array, weight, bias.array], [out.array])],
          replace=replace)
