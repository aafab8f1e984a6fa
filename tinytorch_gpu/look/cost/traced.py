"""One application of an operator as its gradient rule sees it: what the rule applies is counted, not run."""
from __future__ import annotations

import numpy as np

from .cost import Array, Cost, cost
from .rules import Unknown

__all__ = ["Rule", "there"]

TRUTHS = frozenset(("Eq", "Ne", "Lt", "Le", "Gt", "Ge", "LogicalAnd", "LogicalOr", "LogicalNot", "Isfinite", "Isinf"))


class Rule:
    """One application as its rule sees it: `g` the gradient of the first result, `y` that result, `x` the first
    operand; calling it applies an operator."""

    def __init__(self, name, inputs, given, out, params, wanted, host):
        self.name, self.inputs, self.given, self.out, self.params = name, inputs, given, out, params
        self.wanted, self.host = wanted, host
        self.g = self.y = out[0]
        self.ran: list[Cost] = []

    @property
    def x(self) -> Array:
        return there(self.given[0])

    def operand(self, i):
        """Operand `i`, an Array or a number."""
        found = self.given[i] if self.given[i] is not None else self.inputs[i]
        if found is None:  # of a graph that was not recorded
            raise Unknown("unknown")
        return found

    def need(self, i) -> bool:
        return i < len(self.wanted) and self.wanted[i]

    def __call__(self, name, *operands, out=None, also=(), params=None) -> Array:
        """An operator: of the operands' common shape and the first one's dtype, unless `out` is given; `also`: other
        results."""
        arrays = [a for a in operands if isinstance(a, Array)]
        if out is None:
            shape = np.broadcast_shapes(*[a.shape for a in arrays])
            out = Array("bool" if name in TRUTHS else arrays[0].dtype, shape)
        self.ran.append(cost(name, arrays, [out, *also], params))
        return out

    def zeros(self, like) -> Array:
        return self("Fill", like)

    def conj(self, x):
        return self("Conj", x) if isinstance(x, Array) and x.complex else x

    def fit(self, grad, array) -> None:
        """As the engine makes a gradient that of its operand."""
        if grad.shape != array.shape:
            grad = self("SumToSize", grad, out=Array(grad.dtype, array.shape))
        if grad.dtype != array.dtype:
            self("Cast", grad, out=array)


def there(array) -> Array:
    if array is None:
        raise Unknown("unknown")
    return array
