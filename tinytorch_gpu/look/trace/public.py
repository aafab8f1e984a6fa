"""Which operators a public function or method applies: found by calling it on small numbers."""
from __future__ import annotations

import functools
import inspect
import itertools
import warnings

from ... import linalg, random
from ...autograd.modes import enable_grad, inference_mode, state
from ...backend.device import get_default_device
from ...backend.kernel import use_kernels
from ...nn import functional
from ...ops.registry import PUBLIC
from ...tensor import Tensor
from ..graph.collect import walk
from ..terminal import shape_of
from .examples import constant, leaf
from .rule import key

__all__ = ["applied", "public_names"]

MOST = 3  # arguments that are tried
EQUATION = "ij,jk->ik"


@functools.cache
def _functions() -> dict[str, tuple[str, object]]:
    """{key of a name: (the name, the function)}: those of `ops`, `nn.functional` and `linalg`, and Tensor's methods
    that are operators."""
    found: dict[str, tuple[str, object]] = {}
    for name, method in vars(Tensor).items():
        if callable(method) and getattr(method, "__module__", "").startswith("tinytorch_gpu.ops") and not (
                name.endswith("_") and not name.endswith("__")):  # one that writes in place is the other's
            found[key(name)] = (name, method)
    for place in (linalg, functional):
        found.update({key(name): (name, getattr(place, name)) for name in getattr(place, "__all__", ())})
    found.update({key(name): (name, f) for name, f in PUBLIC.items()})
    return found


def public_names() -> dict[str, str]:
    """{key of a name: the name} of what `applied` knows."""
    return {k: name for k, (name, _) in _functions().items()}


def applied(name: str) -> tuple[str, list[type], str] | None:
    """(the public name, the operators that it applies, on which arguments), None for a name that is not there, or that
    no arguments were found for. Views are left out where there are others."""
    if key(name) not in _functions():
        return None
    name, function = _functions()[key(name)]
    casts, state.autocast = state.autocast, None
    device = get_default_device()
    before = random.get_rng_state(device)
    try:
        with enable_grad(), inference_mode(False), use_kernels(False), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for given in _arguments(function):
                operators = _run(function, given)
                if operators:
                    kept = [cls for cls in operators if not getattr(cls, "view", False)] or operators
                    return name, kept, ", ".join(map(_spoken, given))
    finally:
        state.autocast = casts
        random.set_rng_state(before, device)
    return None


def _arguments(function):
    """Lists of arguments, as many as it needs: arrays of one shape first, then numbers, an index, a list, an equation
    among them."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:
        return
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    count = sum(p.default is p.empty for p in places)
    several = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if count > MOST or not count and not several:  # what takes nothing makes or sets something
        return
    count = max(1, count)
    for others in itertools.product(("array", 1, "index"), repeat=count - 1):
        for ndim in (2, 3, 4, 1):
            arrays = [leaf(*(2,) * ndim, at=0.2 + k / 8) for k in range(count)]
            yield [arrays[0], *(arrays[k] if o == "array" else constant([0, 1]) if o == "index" else o
                                for k, o in enumerate(others, 1))]
    for dims in itertools.product((1, 2), repeat=count):
        yield [leaf(*(2,) * ndim, at=0.2 + k / 8) for k, ndim in enumerate(dims)]
    if count == 1:
        a, b = leaf(2, 2), leaf(2, 2, at=0.3)
        yield [[a, b]]
        yield from ([a, b], [EQUATION, a, b]) if several else ([a, 1],) if len(places) > 1 else ()


def _run(function, given) -> list[type]:
    """The classes of the operators between the arguments and the result, each once; none where it refuses them."""
    try:
        made = function(*given)
    except Exception:  # other arguments: each function has its own ways to refuse
        return []
    edges = [t._edge() for t in (made if isinstance(made, (tuple, list)) else (made,))
             if isinstance(t, Tensor) and t.grad_fn is not None]
    if not edges:
        return []
    return list(dict.fromkeys(type(node) for node in walk(edges)[0]))


def _spoken(x) -> str:
    if isinstance(x, Tensor):
        return shape_of(x.dtype.name, x.shape)
    return f"[{', '.join(map(_spoken, x))}]" if isinstance(x, list) else repr(x)
