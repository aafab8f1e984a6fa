"""custom_vjp: gradients for a function of raw arrays, such as the launch of a program's own CUDA kernel.

    square = from_cupy(cupy.ElementwiseKernel("T x", "T y", "y = x * x", "square"))

    f = custom_vjp(square, formula=lambda x: x * x)
    f.defvjp(lambda x: (square(x), x), lambda x, grad: 2 * x * grad)

As jax.custom_vjp: `fwd` returns (outputs, what backward needs), `bwd` takes (what was needed, *gradients).
"""
from __future__ import annotations

from ..backend.device import CPU, backend_of, is_array
from ..backend.kernel import kernels_enabled, ready
from ..tensor import Tensor
from .engine import grad as _gradients
from .modes import enable_grad
from .operator import Operator

__all__ = ["custom_vjp"]


class custom_vjp:
    """A differentiable function from a function of raw arrays, `function(*arrays, **options)`.

    Tensors among the positional arguments become arrays; other arguments are passed on and have no gradient. The
    result, an array or a tuple of them, becomes Tensors. `formula`, the same computation on Tensors, is used on the
    CPU, under TINYTORCH_FUSED=0, and for gradients of higher order. Without one `function` runs everywhere, and there
    is a first order only. `autocast`: "lower", "float32" or "widest", what inputs are cast to under autocast.

    Raises: RuntimeError when gradients are asked for before `defvjp`, TypeError for results that are no arrays.
    """

    def __init__(self, function, *, formula=None, autocast=None):
        for what, f in (("function", function), ("formula", formula)):
            if not callable(f) and not (f is None and what == "formula"):
                raise TypeError(f"[custom_vjp] expected {what} to be callable, got {type(f).__name__}")
        self.function, self.formula = function, formula
        self.fwd = self.bwd = None
        self.__name__ = getattr(function, "__name__", "function")
        self.__doc__ = function.__doc__
        self._operator = type(f"CustomVJP_{self.__name__}", (_Custom,), {"autocast": autocast, "__slots__": ()})

    def defvjp(self, fwd, bwd):
        """`fwd(*args)` -> (outputs, residuals): arrays or a tuple; `bwd(residuals, *grads)` -> gradients of all
        positional arguments, arrays or None. One argument may give its gradient alone. `grads` are contiguous.
        Returns self."""
        self.fwd, self.bwd = fwd, bwd
        return self

    def __call__(self, *args, **options):
        if self.formula is not None and not self._by_kernel(args):
            return self.formula(*args, **options)
        if not any(isinstance(a, Tensor) for a in args):
            return self.function(*args, **options)
        return self._operator.apply(*args, rule=self, options=options)

    @staticmethod
    def _by_kernel(args):
        for a in args:
            a = a._array if isinstance(a, Tensor) else a
            if is_array(a):
                backend = backend_of(a)
                return backend is not CPU and kernels_enabled() and ready(backend)
        return False

    def __repr__(self):
        return f"custom_vjp({self.__name__})"


class _Custom(Operator):
    """One call of a custom_vjp; saves what `fwd` returns, and with a formula the inputs for higher orders."""

    __slots__ = ("rule", "options", "inputs", "single", "constants")
    autocast: str | None = None

    def name(self):
        return self.rule.__name__

    def forward(node, *args, rule, options):
        node.rule, node.options = rule, options
        if node.edges is None or not any(e is not None for e in node.edges):
            return _arrays(rule, rule.function(*args, **options))
        if rule.fwd is None:
            raise RuntimeError(f"[{rule.__name__}] has no gradient yet: call .defvjp(fwd, bwd) first")
        result = rule.fwd(*args, **options)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(f"[{rule.__name__}] fwd must return (outputs, residuals), got {type(result).__name__}")
        out, kept = result
        node.single = not isinstance(kept, (tuple, list))
        kept = (kept,) if node.single else tuple(kept)
        node.inputs = 0 if rule.formula is None else len(args)
        # what is no array (numbers, None) is kept as it is
        node.constants = [None if is_array(k) else (k,) for k in (*(args if node.inputs else ()), *kept)]
        node.save(*[k if is_array(k) else None for k in (*(args if node.inputs else ()), *kept)])
        return _arrays(rule, out)

    def _values(node):
        return [s if c is None else c[0] for s, c in zip(node.saved, node.constants)]

    def backward(node, *grads):
        rule, values = node.rule, node._values()
        if any(isinstance(g, Tensor) for g in grads):
            return node._again(values, grads)
        kept = values[node.inputs:]
        grads = [node.xp.ascontiguousarray(g) for g in grads]  # a raw kernel reads a broadcast one as if it were whole
        found = rule.bwd(kept[0] if node.single else tuple(kept), *grads)
        found = found if isinstance(found, (tuple, list)) else (found,)
        if len(found) != len(node.edges):
            raise RuntimeError(f"[{rule.__name__}] bwd must return {len(node.edges)} gradients, one for each "
                               f"positional argument, got {len(found)}")
        return tuple(found) if len(found) > 1 else found[0]

    def _again(node, values, grads):
        """Under create_graph: the formula's own gradients, which are differentiable."""
        if node.rule.formula is None:
            raise RuntimeError(f"[{node.rule.__name__}] has gradients of the first order only: give custom_vjp a "
                               "formula for create_graph=True")
        inputs = values[:node.inputs]
        with enable_grad():
            out = node.rule.formula(*inputs, **node.options)
            outs = out if isinstance(out, tuple) else (out,)
            wanted = [i for i, e in enumerate(node.edges) if e is not None]
            found = _gradients([o for o in outs if o.requires_grad], [inputs[i] for i in wanted],
                               [g for o, g in zip(outs, grads) if o.requires_grad], create_graph=True,
                               allow_unused=True)
        result = [None] * len(node.edges)
        for i, g in zip(wanted, found):
            result[i] = g
        return tuple(result) if len(result) > 1 else result[0]


def _arrays(rule, out):
    for o in out if isinstance(out, tuple) else (out,):
        if not is_array(o):
            raise TypeError(f"[{rule.__name__}] expected an array or a tuple of arrays, got {type(o).__name__}")
    return out


