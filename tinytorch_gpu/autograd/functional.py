"""Derivatives of functions: vjp, jvp, jacobian, hessian, vhp, hvp. As torch.autograd.functional."""
from __future__ import annotations

from .. import ops
from ..backend.device import xp_of
from ..tensor import Tensor, make
from .engine import grad as _grad
from .modes import enable_grad

__all__ = ["vjp", "jvp", "jacobian", "hessian", "vhp", "hvp"]


def _tuple(value, what):
    if isinstance(value, Tensor):
        return (value,), False
    if not isinstance(value, (tuple, list)) or not all(isinstance(v, Tensor) for v in value):
        raise TypeError(f"[{what}] expected a Tensor or a tuple of Tensors, got {type(value).__name__}")
    return tuple(value), True


def _untuple(values, many):
    return values if many else values[0]


def _zeros(t):
    return make(xp_of(t._array).zeros(t.shape, t._array.dtype))


def _inputs(inputs, create_graph):
    """Fresh leaves, or views of the given tensors if the caller wants the graph to reach them."""
    out = []
    for t in inputs:
        if create_graph and t.requires_grad:
            out.append(t.view_as(t))
        else:
            out.append(t.detach().requires_grad_())
    return tuple(out)


def _direction(v, like, what):
    if v is None:
        if len(like) != 1 or like[0].numel() != 1:
            raise RuntimeError(f"[{what}] the vector v can only be None if the function has a single scalar there")
        return (make(xp_of(like[0]._array).ones(like[0].shape, like[0]._array.dtype)),)
    v, _ = _tuple(v, what)
    if len(v) != len(like) or any(a.shape != b.shape for a, b in zip(v, like)):
        raise RuntimeError(
            f"[{what}] v must have the shapes {[list(t.shape) for t in like]}, got {[list(t.shape) for t in v]}"
        )
    return v


def _gradients(outputs, inputs, v, create_graph, strict, what):
    reached = [(o, w) for o, w in zip(outputs, v) if o.requires_grad]
    if not reached:
        if strict:
            raise RuntimeError(f"[{what}] the outputs do not depend on the inputs (strict=True)")
        return tuple(_zeros(t) for t in inputs)
    found = _grad([o for o, _ in reached], inputs, [w for _, w in reached], retain_graph=True,
                  create_graph=create_graph, allow_unused=True)
    if strict and any(g is None for g in found):
        raise RuntimeError(f"[{what}] the outputs are independent of input {found.index(None)} (strict=True)")
    return tuple(_zeros(t) if g is None else g for g, t in zip(found, inputs))


def _result(tensors, create_graph):
    return tuple(t if create_graph else t.detach() for t in tensors)


@enable_grad()
def vjp(func, inputs, v=None, create_graph=False, strict=False):
    """(func(inputs), v^T J): the vector-Jacobian product. As torch.autograd.functional.vjp."""
    inputs, many = _tuple(inputs, "vjp")
    x = _inputs(inputs, create_graph)
    outputs, many_out = _tuple(func(*x), "vjp")
    v = _direction(v, outputs, "vjp")
    g = _gradients(outputs, x, v, create_graph, strict, "vjp")
    return _untuple(_result(outputs, create_graph), many_out), _untuple(_result(g, create_graph), many)


@enable_grad()
def jvp(func, inputs, v=None, create_graph=False, strict=False):
    """(func(inputs), J v), by differentiating the vector-Jacobian product. As torch.autograd.functional.jvp."""
    inputs, _ = _tuple(inputs, "jvp")
    x = _inputs(inputs, create_graph)
    v = _direction(v, x, "jvp")
    outputs, many_out = _tuple(func(*x), "jvp")
    w = tuple(_zeros(o).requires_grad_() for o in outputs)
    g = _gradients(outputs, x, w, True, strict, "jvp")
    product = _gradients(g, w, v, create_graph, False, "jvp")  # J^T w is linear in w: its derivative along v is J v
    return _untuple(_result(outputs, create_graph), many_out), _untuple(_result(product, create_graph), many_out)


@enable_grad()
def jacobian(func, inputs, create_graph=False, strict=False, vectorize=False, strategy="reverse-mode"):
    """The Jacobian, shape output.shape + input.shape; nested tuples for several. As torch.autograd.functional.jacobian.

    Raises: NotImplementedError for vectorize=True and for the forward-mode strategy.
    """
    if vectorize or strategy != "reverse-mode":
        raise NotImplementedError("[jacobian] vectorize=True and strategy='forward-mode' are not there: rows are "
                                  "computed one by one in reverse mode")
    inputs, many = _tuple(inputs, "jacobian")
    x = _inputs(inputs, create_graph)
    outputs, many_out = _tuple(func(*x), "jacobian")
    rows = []
    for o in outputs:
        per_input = [[] for _ in x]
        for i in range(o.numel()):
            v = _zeros(o)
            v._array.reshape(-1)[i] = 1
            for held, g in zip(per_input, _gradients((o,), x, (v,), create_graph, strict, "jacobian")):
                held.append(g)
        blocks = tuple(
            ops.reshape(ops.stack(held, 0), o.shape + t.shape) if held
            else make(xp_of(t._array).zeros(o.shape + t.shape, t._array.dtype))
            for held, t in zip(per_input, x)
        )
        rows.append(_untuple(_result(blocks, create_graph), many))
    return _untuple(tuple(rows), many_out)


@enable_grad()
def hessian(func, inputs, create_graph=False, strict=False, vectorize=False, outer_jacobian_strategy="reverse-mode"):
    """The Hessian of a scalar function, shape input.shape + input.shape. As torch.autograd.functional.hessian."""
    inputs, many = _tuple(inputs, "hessian")

    def gradient(*x):
        out, _ = _tuple(func(*x), "hessian")
        if len(out) != 1 or out[0].numel() != 1:
            raise RuntimeError("[hessian] the function must return a single element, got "
                               f"{[list(o.shape) for o in out]}")
        return _gradients((ops.reshape(out[0], ()),), x, (_direction(None, (out[0].reshape(()),), "hessian")), True,
                          strict, "hessian")

    out = jacobian(gradient, inputs, create_graph, strict, vectorize, outer_jacobian_strategy)
    return out if many else out[0][0]


def _scalar(out, what):
    out, _ = _tuple(out, what)
    if len(out) != 1 or out[0].numel() != 1:
        raise RuntimeError(f"[{what}] the function must return a single element, got {[list(o.shape) for o in out]}")
    return out


@enable_grad()
def vhp(func, inputs, v=None, create_graph=False, strict=False):
    """(func(inputs), v^T H). As torch.autograd.functional.vhp."""
    inputs, many = _tuple(inputs, "vhp")
    x = _inputs(inputs, create_graph)
    v = _direction(v, x, "vhp")
    out = _scalar(func(*x), "vhp")
    g = _gradients(out, x, _direction(None, out, "vhp"), True, strict, "vhp")
    product = _gradients(g, x, v, create_graph, strict, "vhp")
    return _untuple(_result(out, create_graph), False), _untuple(_result(product, create_graph), many)


@enable_grad()
def hvp(func, inputs, v=None, create_graph=False, strict=False):
    """(func(inputs), H v); H is symmetric for real functions, so vhp is faster. As torch.autograd.functional.hvp."""
    inputs, many = _tuple(inputs, "hvp")
    x = _inputs(inputs, create_graph)
    v = _direction(v, x, "hvp")
    out = _scalar(func(*x), "hvp")
    g = _gradients(out, x, _direction(None, out, "hvp"), True, strict, "hvp")
    w = tuple(_zeros(t).requires_grad_() for t in x)
    back = _gradients(g, x, w, True, False, "hvp")
    product = _gradients(back, w, v, create_graph, False, "hvp")
    return _untuple(_result(out, create_graph), False), _untuple(_result(product, create_graph), many)
