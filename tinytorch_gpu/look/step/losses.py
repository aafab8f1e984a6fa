"""The losses of a backward: their names in the program, the terms of a sum, and each term's own gradients."""
from __future__ import annotations

import math
import os
from pathlib import Path

from ...autograd import engine
from ...autograd.node import AccumulateGrad, endpoint, rejoin
from ...autograd.operator import Operator
from ...autograd.views import CopySlices
from ...backend.device import xp_of
from ...tensor import Tensor
from ..gradients.watch import norm_of
from ..graph.collect import walk
from ..memory.holders import visit_locals
from ..saved import kept_of

__all__ = ["MOST", "apart", "name_of", "terms_of"]

MOST = 8  # terms of a sum that are told apart
DEEP = 200  # links that are followed for them
THROUGH = {"Add", "Sub", "Mul", "Div", "Neg", "Cast", "Sum", "Mean"}
_PACKAGE = str(Path(__file__).absolute().parents[2]) + os.sep
_EXAMPLES = os.path.join(_PACKAGE, "examples") + os.sep


def name_of(tensors) -> str:
    """The variables that hold these losses, else the operators that made them: "loss", "first, second", "Mean"."""
    names: dict[int, str] = {}
    wanted = {id(t) for t in tensors}

    def visit(name, value, where, file):
        if id(value) in wanted and _of_user(file):
            names.setdefault(id(value), name)

    visit_locals(visit)
    return ", ".join([names.get(id(t)) or _operator(t) for t in tensors])


def _of_user(file) -> bool:
    return not file.startswith(_PACKAGE) or file.startswith(_EXAMPLES)


def _operator(t) -> str:
    return "a leaf" if t.grad_fn is None else t.grad_fn.name()


def terms_of(tensors) -> list[tuple]:
    """[(node, output), ...] of the scalars that are added up; [] where there are fewer than 2 or more than MOST."""
    found: list[tuple] = []
    for t in tensors:
        found += _split(t._edge(), 0)
    found = list(dict.fromkeys(found))
    return found if 2 <= len(found) <= MOST else []


def _split(edge, depth) -> list[tuple]:
    """The terms of one scalar: itself where it is no sum."""
    node, i = endpoint(edge)
    below = [e for e in node.edges if e is not None]
    if depth == DEEP or node.metas is not None:
        return [(node, i)]
    stacked = node.name() == "Stack" and all(_is_scalar(e) for e in below)
    if not stacked and not (node.name() in THROUGH and math.prod(node.shape) == 1):
        return [(node, i)]
    if len(below) > 1 and not stacked and node.name() not in ("Add", "Sub"):
        return [(node, i)]
    found: list[tuple] = []
    for e in below:
        found += _split(e, depth + 1)
        if len(found) > MOST:
            break
    # 0.1 * loss is one term, 0.1 * (first + second) is two
    return found if len(found) > 1 else [(node, i)]


def _is_scalar(edge) -> bool:
    node, i = endpoint(edge)
    shape = node.shape if node.metas is None else node.metas[i][0]
    return math.prod(shape) == 1


def apart(tensors, terms, entries, given, numbers) -> tuple[list[tuple], str]:
    """([(name, line or None, {Entry: norm of the term's gradient}), ...], why not).

    One backward pass for each term, into nothing but norms, before the real one. `given`: the gradients that were
    passed to backward(), or None.
    """
    reason = _blocked(tensors, entries)
    if reason:
        return [], reason
    fakes = []
    for node, i in terms:
        shape, dtype = (node.shape, node.dtype) if node.metas is None else node.metas[i]
        fakes.append(rejoin(xp_of(tensors[0]._array).zeros(shape, dtype), (node, i) if node.metas else node))
    sent = engine.grad(tensors, fakes, given, retain_graph=True, allow_unused=True)
    parameters = [e.tensor for e in entries]
    names, counts = _names(terms), {}
    found = []
    for (node, _), fake, grad in zip(terms, fakes, sent):
        norms = {}
        if grad is not None:
            got = engine.grad([fake], parameters, [grad], retain_graph=True, allow_unused=True)
            norms = {e: numbers.of(norm_of(g._array)) for e, g in zip(entries, got) if g is not None}
        name = names.get(node) or node.name()
        count = counts[name] = counts.get(name, 0) + 1
        line = None if node.trace is None else node.trace.frames[-1]
        found.append((f"{name} {count}" if count > 1 else name, line, norms))
    return found, ""


def _blocked(tensors, entries) -> str:
    """Why a pass more would not be without effect; "" where it is."""
    operators, leaves = walk([t._edge() for t in tensors])
    for node in operators:
        if node.hooks is not None:
            return "there are hooks on its graph (look.record() has some), which would run once more"
        if not isinstance(node, (Operator, CopySlices, AccumulateGrad)):
            return f"{node.name()} is a Function of the program, which would run once more"
        if any(source == "packed" for _, source in kept_of(node) or ()):
            return "it has values packed by hooks or a checkpoint, which would be computed once more"
    own = {id(e.tensor): e.handle.id for e in entries if e.handle is not None}
    for leaf in leaves:
        hooks = leaf.variable._hooks
        if leaf.hooks is not None or (hooks is not None and set(hooks.tensor) - {own.get(id(leaf.variable))}):
            return "there are hooks on tensors, which would run once more"
    return ""


def _names(terms) -> dict:
    """{node of a term: the variable that holds it, or what is multiplied to give it}."""
    held: dict = {}
    for term, _ in terms:
        node = term
        while node is not None:
            held.setdefault(node, term)
            below = [endpoint(e)[0] for e in node.edges if e is not None and _is_scalar(e)]
            single = sum(e is not None for e in node.edges) == 1 and node.name() in THROUGH
            node = below[0] if single and below and below[0].__class__ is not AccumulateGrad else None
    names: dict = {}
    best: dict = {}

    def visit(name, value, where, file):
        if issubclass(type(value), Tensor) and _of_user(file):
            node = value._node
            term = held.get(node)
            if term is not None and (term not in names or (node is term and best[term] is not term)):
                names[term], best[term] = name, node

    visit_locals(visit)
    return names
