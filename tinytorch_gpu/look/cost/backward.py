"""What the gradient rule of one operator application costs, where the forward's shapes tell."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...autograd.node import REGISTRY
from .cost import UNKNOWN, Cost, arrays_of, cost, product_flops

__all__ = ["backward_cost"]


def backward_cost(name: str, inputs: Sequence, outputs: Sequence, params: Mapping | None = None,
                  needs: Sequence[bool] | None = None) -> Cost:
    """The cost of the gradient rule of one application, where it can be derived from the forward's shapes.

    `needs`: which inputs want a gradient, all floating ones unless given. The gradients of the results and what the
    rule reads are counted once, the gradients of the inputs are written once. Unknown for other families.
    """
    given, out = arrays_of(inputs), [a for a in arrays_of(outputs) if a is not None]
    wanted = [a is not None and ("float" in a.dtype or a.complex) and (needs is None or bool(needs[i]))
              for i, a in enumerate(given)]
    forward = cost(name, inputs, outputs, params)
    if not forward.known:
        return UNKNOWN
    cls = REGISTRY.get(name)
    if cls is not None and cls.view or not any(wanted):
        return Cost(forward.family, 0.0, 0, 0)
    there = [a for a in given if a is not None]
    each = _BACKWARD.get(name)
    if name in ("Gemm", "Linear", "AddMm", "Conv"):
        return _products_backward(name, given, out[0], forward, wanted)
    if name == "Attention":
        return _attention_backward(given, out, params or {}, forward, wanted)
    if each is None:
        return UNKNOWN
    flops, reads = each
    read = out[0].nbytes + sum({"input": there[0], "output": out[0]}[r].nbytes for r in reads if r != "other")
    if "other" in reads:
        read += sum(a.nbytes for i, a in enumerate(given) if a is not None and any(wanted[:i] + wanted[i + 1:]))
    written = sum(a.nbytes for a, w in zip(given, wanted) if w and a is not None)
    return Cost(forward.family, float(flops * max(out[0].size, there[0].size) * sum(wanted)), read, written)


def _products_backward(name, given, out, forward, wanted) -> Cost:
    """A product of the forward's size for each factor that wants a gradient; a bias's is a sum."""
    factors = (1, 2) if name == "AddMm" else (0, 1)
    read = written = 0
    flops = products = 0.0
    for i, other in (factors, factors[::-1]):
        if wanted[i]:
            products += forward.products
            read += out.nbytes + given[other].nbytes
            written += given[i].nbytes
    for i, a in enumerate(given):
        if i not in factors and wanted[i]:
            flops, read, written = flops + out.size, read + out.nbytes, written + a.nbytes
    return Cost("products", flops + products, read, written, products)


def _attention_backward(given, out, params, forward, wanted) -> Cost:
    """Four products, and the softmax's rule between them, whose gradients pass through memory."""
    q, k, v = given[:3]
    probs = out[1]
    qk, pv = product_flops(probs.size, q.shape[-1], False), product_flops(probs.size, v.shape[-1], False)
    inner = any(w for i, w in enumerate(wanted) if i != 2)
    products = wanted[2] * pv + inner * pv + wanted[0] * qk + wanted[1] * qk
    dropped = bool(params.get("p"))
    read = wanted[2] * (probs.nbytes + out[0].nbytes)
    written = sum(a.nbytes for a, w in zip(given, wanted) if w and a is not None)
    if inner:
        read += out[0].nbytes + v.nbytes + 2 * probs.nbytes + wanted[0] * (probs.nbytes + k.nbytes) + wanted[1] * (
            probs.nbytes + q.nbytes)
        written += 2 * probs.nbytes
    return Cost("products", products + (5 + 2 * dropped) * inner * probs.size, read, written, products)


# name -> (operations for each element and wanted gradient, what is read beside the gradient)
_BACKWARD: dict[str, tuple[int, tuple[str, ...]]] = {
    "Add": (0, ()), "Sub": (1, ()), "Neg": (1, ()), "Mul": (1, ("other",)), "Div": (2, ("other",)),
    "Exp": (1, ("output",)), "Log": (1, ("input",)), "Sqrt": (2, ("output",)), "Rsqrt": (3, ("output",)),
    "Tanh": (3, ("output",)), "Sigmoid": (3, ("output",)), "ReLU": (1, ("output",)), "SiLU": (9, ("input",)),
    "GELU": (11, ("input",)), "GELUTanh": (18, ("input",)), "Sum": (0, ()), "Mean": (1, ()),
    "Softmax": (4, ("output",)), "LogSoftmax": (4, ("output",)), "LayerNorm": (9, ("input",)),
    "RMSNorm": (6, ("input",)), "Dropout": (2, ()), "CrossEntropy": (3, ("input",)),
}
