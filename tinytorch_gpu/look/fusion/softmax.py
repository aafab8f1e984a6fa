"""Softmax that is written out."""
from __future__ import annotations

from dataclasses import dataclass

from ...nn import functional as F
from .search import Applied, Search
from .steps import Step, Value

__all__ = ["Softmax", "below_top", "find_softmax", "over_one", "softmax_of"]


@dataclass
class Softmax:
    """softmax(x) over one dimension, or its logarithm, by one step or several."""

    steps: list[Step]
    x: Value
    out: Value
    dim: int


def over_one(step) -> int | None:
    axes = step.axes()
    return axes[0] if axes is not None and len(axes) == 1 else None


def below_top(s: Search, value: Value, dim: int) -> tuple[list[Step], Value]:
    """(steps, x) of x - max(x), where `value` is that; else no steps."""
    sub = s.made(value, "Sub")
    if sub is None or not all(isinstance(v, Value) for v in sub.inputs):
        return [], value
    x, top = sub.inputs
    step = top.source.step
    if step is not None and step.name in ("Amax", "Max") and s.free(step) and step.inputs[0] is x:
        return ([sub, step], x) if over_one(step) == dim and len(top.shape) == len(x.shape) else ([], value)
    if top.step is None and not s.program.complete and top.shape == x.shape[:dim] + (1,) + x.shape[dim + 1:]:
        return [sub], x  # of a graph: a constant of that shape, as x.amax().detach() is
    return [], value


def written_softmax(s: Search, div: Step) -> Softmax | None:
    """exp(x) / exp(x).sum(), with or without x - max(x)."""
    if div.name != "Div" or not s.free(div) or not all(isinstance(v, Value) for v in div.inputs):
        return None
    exp, total = s.made(div.inputs[0], "Exp"), s.made(div.inputs[1], "Sum")
    if exp is None or total is None or total.inputs[0] is not exp.out:
        return None
    dim = over_one(total)
    if dim is None or len(total.out.shape) != len(exp.out.shape):
        return None
    top, x = below_top(s, exp.inputs[0], dim)
    steps = [div, exp, total, *top]
    if not s.closed(steps, [div.out]):
        if not top or not s.closed([div, exp, total], [div.out]):
            return None
        steps, x = [div, exp, total], exp.inputs[0]
    return Softmax(steps, x, div.out, dim)


def softmax_of(s: Search, value) -> Softmax | None:
    step = s.made(value, "Softmax", "Div")
    if step is None:
        return None
    if step.name == "Softmax":
        dim = over_one(step)
        return None if dim is None else Softmax([step], step.inputs[0], step.out, dim)
    return written_softmax(s, step)


def find_softmax(s: Search) -> None:
    """Softmax written out, where it is no part of more."""
    for step in s.steps:
        found = written_softmax(s, step)
        if found is not None:
            _add_softmax(s, found)


def _add_softmax(s, found) -> None:
    dim = found.dim - len(found.x.shape)
    s.add("softmax", found.steps, [found.out], use=f"F.softmax(x, dim={dim})",
          by=[Applied("Softmax", [found.x], [found.out])],
          replace=lambda arrays: F.softmax(arrays[found.x], dim))
