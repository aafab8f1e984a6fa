"""Normalization that is written out, and a sum before a normalization."""
from __future__ import annotations

import math
from dataclasses import dataclass

from ...nn import functional as F
from ...ops.normalization import Layout
from .search import Applied, Search
from .steps import Step, Value

__all__ = ["normalization", "residual_norm"]


@dataclass
class _Spread:
    """The mean square of x, or of x less its mean: `center`; from `steps`, over the `axes`."""

    steps: list[Step]
    x: Value
    center: bool
    axes: tuple
    correction: float


def _mean_of(s: Search, value, x) -> Step | None:
    """The mean over some dimensions of x that `value` is (a view of)."""
    step = s.made(value.source, "Mean") if isinstance(value, Value) else None
    return step if step is not None and step.inputs[0] is x else None


def _centered(s: Search, value) -> tuple[list[Step], Value, tuple] | None:
    """(steps, x, axes) where `value` is x - mean(x)."""
    sub = s.made(value, "Sub")
    if sub is None or not all(isinstance(v, Value) for v in sub.inputs):
        return None
    mean = _mean_of(s, sub.inputs[1], sub.inputs[0])
    axes = None if mean is None else mean.axes()
    return None if mean is None or axes is None else ([sub, mean], sub.inputs[0], axes)


def _spread(s: Search, value) -> _Spread | None:
    """The variance or mean square that a value is."""
    step = s.made(value.source, "Var", "Mean") if isinstance(value, Value) else None
    axes = None if step is None else step.axes()
    if step is None or axes is None:
        return None
    x = step.inputs[0]
    if step.name == "Var":
        correction = step.params.get("correction")
        if correction is None:  # of a graph: what it divides by is kept
            count = 1
            for d in axes:
                count *= x.shape[d]
            correction = count - step.params.get("freedom", count)
        return _Spread([step], x, True, axes, correction)
    square = s.made(x, "Pow", "Mul")
    if square is None:
        return None
    inner = square.inputs[0]
    if square.name == "Pow" and square.number_at(1) != 2 or square.name == "Mul" and square.inputs[1] is not inner:
        return None
    centered = _centered(s, inner)
    if centered is None:
        return _Spread([step, square], inner, False, axes, 0)
    return _Spread([step, square, *centered[0]], centered[1], True, axes, 0) if centered[2] == axes else None


def normalization(s: Search, root: Step) -> bool:
    """(x - mean) / sqrt(variance + eps) or x / sqrt(mean square + eps), from its root on."""
    if root.name not in ("Rsqrt", "Sqrt", "Pow") or not s.free(root):
        return False
    power = root.number_at(1) if root.name == "Pow" else {"Rsqrt": -0.5, "Sqrt": 0.5}[root.name]
    if power not in (-0.5, 0.5):
        return False
    under = power == -0.5
    steps, inside, eps = [root], root.inputs[0], 0.0
    if (add := s.made(inside, "Add")) is not None:
        number = add.number_at(1) if add.number_at(1) is not None else add.number_at(0)
        values = [v for v in add.inputs if isinstance(v, Value)]
        if number is None or len(values) != 1:
            return False
        steps.append(add)
        inside, eps = values[0], number
    spread = _spread(s, inside)
    if spread is None:
        return False
    steps += spread.steps
    factor = root.out
    if not under and (inverse := s.only(factor, "Reciprocal", "Div")) is not None and (
            inverse.name == "Reciprocal" or inverse.number_at(0) == 1):
        steps.append(inverse)
        factor, under = inverse.out, True
    last = s.only(factor, "Mul" if under else "Div")
    if last is None:
        return False
    apart = last.inputs[0] if last.inputs[1] is factor else last.inputs[1]
    if not under and last.inputs[1] is not factor or not isinstance(apart, Value):
        return False
    if spread.center:
        centered = _centered(s, apart)
        if centered is None or centered[1] is not spread.x or centered[2] != spread.axes:
            return False
        steps += centered[0]
    elif apart is not spread.x:
        return False
    steps.append(last)
    if not s.closed(steps, [last.out]):
        return False
    _add_norm(s, steps, last.out, spread, eps)
    return True


def _affine(s: Search, y: Value, shape) -> tuple[Value | None, Value | None, list[Step], Value]:
    """A weight and a bias over the last dimensions that follow."""
    found: list[Value | None] = [None, None]
    steps: list[Step] = []
    for i, name in enumerate(("Mul", "Add")):
        step = s.only(y, name)
        if step is None or not all(isinstance(v, Value) for v in step.inputs):
            continue
        other = step.inputs[1] if step.inputs[0] is y else step.inputs[0]
        if other.shape != shape or step.out.shape != y.shape or other is y:
            continue
        found[i] = other
        steps.append(step)
        y = step.out
    return found[0], found[1], steps, y


def _add_norm(s, steps, out, spread, eps) -> None:
    x, ndim = spread.x, len(spread.x.shape)
    last = spread.axes == tuple(range(ndim - len(spread.axes), ndim))
    kind = "layer norm" if spread.center else "RMS norm"
    if not last or spread.correction:
        why = ("it divides by n - 1, the operators by n" if spread.correction else
               "it is not over the last dimensions: F.batch_norm or F.group_norm where its statistics are theirs")
        s.add("normalization", steps, [out], notes=[why])
        return
    x, steps, out = _in_half(s, x, steps, out)
    shape = x.shape[-len(spread.axes):]
    weight, bias, more, out = _affine(s, out, shape)
    if not spread.center and bias is not None:  # RMS norm has none
        more, out = (more[:-1], more[-1].values[0] if more[-1].values[0].step in more else more[-1].values[1]) \
            if weight is not None else ([], steps[-1].out)
        bias = None
    text = ["x", f"{list(shape)}" if len(shape) > 1 else f"({shape[0]},)"]
    text += ["weight"] if weight is not None else ["weight=None"] if bias is not None else []
    text += ["bias"] if bias is not None else []
    name = "layer_norm" if spread.center else "rms_norm"
    rows = x.array.size // max(math.prod(shape), 1)
    layout = Layout(spread.axes, shape, (rows, math.prod(shape)), True, spread.center, eps)

    def replace(arrays):
        w, b = (None if v is None else arrays[v] for v in (weight, bias))
        if spread.center:
            return F.layer_norm(arrays[x], shape, w, b, eps)
        return F.rms_norm(arrays[x], shape, w, eps)

    s.add(kind, [*steps, *more], [out], use=f"F.{name}({', '.join(text)}, eps={eps:g})",
          by=[Applied("LayerNorm" if spread.center else "RMSNorm", [x, weight, bias], [out], {"layout": layout})],
          replace=replace)


def _in_half(s: Search, x, steps, out):
    """With the casts around, where a half type is normalized in float32: the operators do that themselves."""
    wide, narrow = s.made(x, "Cast"), s.only(out, "Cast")
    if wide is None or narrow is None or narrow.out.array.dtype != wide.inputs[0].array.dtype:
        return x, steps, out
    more = [*steps, wide, narrow]
    if wide.inputs[0].array.dtype not in ("float16", "bfloat16") or not s.closed(more, [narrow.out]):
        return x, steps, out
    return wide.inputs[0], more, narrow.out


def residual_norm(s: Search, norm: Step) -> bool:
    """A sum of two tensors of one shape, and the layer or RMS norm of it."""
    if norm.name not in ("LayerNorm", "RMSNorm") or not s.free(norm):
        return False
    add = s.made(norm.inputs[0], "Add")
    if add is None or not all(isinstance(v, Value) for v in add.inputs):
        return False
    a, b = add.inputs
    if a.array != b.array or a.shape != add.out.shape:
        return False
    weight, bias = (norm.inputs[i] if len(norm.inputs) > i and isinstance(norm.inputs[i], Value) else None
                    for i in (1, 2))
    layout = norm.params["layout"]
    shape = a.shape[len(a.shape) - len(layout.over):]
    both = len(add.out.uses) > 1 or add.out.kept
    name = "add_layer_norm" if norm.name == "LayerNorm" else "add_rms_norm"
    text = f"{', weight' if weight is not None else ''}{', bias' if bias is not None else ''}"

    def replace(arrays):
        w, c = (None if v is None else arrays[v] for v in (weight, bias))
        if norm.name == "LayerNorm":
            y, total = F.add_layer_norm(arrays[a], arrays[b], shape, w, c, layout.eps)
        else:
            y, total = F.add_rms_norm(arrays[a], arrays[b], shape, w, layout.eps)
        return (y, total) if both else y

    writes = [norm.out, add.out] if both else [norm.out]
    s.add("residual + norm", [add, norm], writes,
          use=f"y, total = F.{name}(x, residual, {tuple(shape)}{text})",
          by=[Applied("Add" + norm.name, [a, b, weight, bias], [norm.out, add.out], {"layout": layout, "both": both})],
          replace=replace)
    return True


