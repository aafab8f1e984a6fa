"""Which gradients float16 holds at a scale of the loss: float32's rounded, and those of autocast beside them."""
from __future__ import annotations

from functools import partial

import numpy as np

from ...amp import autocast
from ...backend import dtypes
from ...backend.device import backend_of, host_array
from ...tensor import Tensor
from ..recorder import unhook

__all__ = ["HALFWAY_TO_INFINITY", "HALFWAY_TO_ZERO", "LEAST_NORMAL", "counts", "rule", "underflow"]

# float16 rounds to nearest, ties to even: up to here to zero; from here on to a normal number; from here on to infinity
HALFWAY_TO_ZERO = 2.0**-25
LEAST_NORMAL = 2.0**-14 - 2.0**-25
HALFWAY_TO_INFINITY = 65520.0


def rule() -> str:
    """What is counted, in words."""
    return ("of the entries of float32's gradient that are neither zero nor NaN, times the scale, rounded to float16 "
            "(to nearest, ties to even): zero up to 2**-25, subnormal below 2**-14, infinite from 65520 on; "
            "in autocast: the same entries of the gradients that a float16 autocast backward of the scaled loss gave, "
            "and how many are zero there, or not finite")


def counts(gradient, scales) -> dict:
    """Entries of a raw array of gradients: how many there are, "nonzero" (neither zero nor NaN), and of these, at each
    scale, how many of them float16 would make zero, subnormal and infinite. "least", "most": the least and greatest
    magnitude of the finite ones, None where there is none. Read to the host in one copy."""
    xp = backend_of(gradient).xp
    x = xp.abs(gradient).astype(np.float64).reshape(-1)
    if x.size == 0:
        return {"elements": 0, "nonzero": 0, **{key: [0] * len(scales) for key in KEYS}, "least": None, "most": None}
    real = x > 0  # not NaN
    finite = real & (x < np.inf)
    rows = [real.sum()]
    for scale in scales:
        with dtypes.quiet():
            y = x * scale
        rows += [(real & (y <= HALFWAY_TO_ZERO)).sum(), ((y > HALFWAY_TO_ZERO) & (y < LEAST_NORMAL)).sum(),
                 (y >= HALFWAY_TO_INFINITY).sum()]
    rows += [xp.where(finite, x, np.inf).min(), xp.where(finite, x, 0.0).max()]
    nonzero, *found, least, most = host_array(xp.stack([row.astype(np.float64) for row in rows])).tolist()
    return {"elements": x.size, "nonzero": int(nonzero),
            **{key: [int(v) for v in found[i::3]] for i, key in enumerate(KEYS)},
            "least": least if most else None, "most": most or None}


KEYS = ("zero", "subnormal", "infinite")


class _Layer:
    """A module with parameters of its own that require gradients, under the name of its first place in the model."""

    def __init__(self, name, module, parameters):
        self.name, self.module, self.parameters = name, module, parameters
        self.order: int | None = None  # of its first call
        self.dtype: str | None = None  # of its output under autocast


def layers_of(model) -> list[_Layer]:
    seen: set[int] = set()
    found = []
    for name, module in model.named_modules():
        own = []
        for p in module._parameters.values():
            if p is not None and p.requires_grad and id(p) not in seen:
                seen.add(id(p))
                own.append(p)
        if own:
            found.append(_Layer(name, module, own))
    return found


class _Outputs:
    """Tells the gradients that arrive at the layers' outputs in one forward and backward: `take(layer, number, array)`,
    where the number counts the tensors that the layer gave."""

    def __init__(self, layers, take):
        self.layers, self.take = layers, take
        self._given = dict.fromkeys(map(id, layers), 0)
        self._calls = 0

    def __enter__(self):
        self._hooked: list = []
        self._handles = [layer.module.register_forward_hook(partial(self._called, layer)) for layer in self.layers]
        return self

    def __exit__(self, *exc):
        for handle in self._handles:
            handle.remove()
        for node, handle in self._hooked:
            unhook(node, handle)
        self._hooked = []

    def _called(self, layer, module, args, output) -> None:
        self._calls += 1
        if layer.order is None:
            layer.order = self._calls
        several = output.values() if isinstance(output, dict) else output
        for t in several if isinstance(output, (tuple, list, dict)) else (output,):
            if isinstance(t, Tensor) and t.grad_fn is not None:
                layer.dtype = t.dtype.name
                number = self._given[id(layer)]
                self._given[id(layer)] += 1
                handle = t.grad_fn.register_prehook(partial(self._arrived, layer, number, t._index))
                self._hooked.append((t.grad_fn, handle))

    def _arrived(self, layer, number, index, grads) -> None:
        if grads[index] is not None:
            self.take(layer, number, grads[index]._array)


def underflow(run, state, scales, in_autocast=True) -> dict:
    """{"layers": in forward order, each with "parameters" and "output": `counts` and, of autocast, "lost" and
    "not_finite" at each scale, None unless `in_autocast`; "totals": the same over all layers}."""
    layers = layers_of(run.model)
    found = {id(layer): {"parameters": [], "output": []} for layer in layers}
    there: dict = {}  # (layer, what, number) -> where float32's gradient is not zero

    def take(layer, number, array):
        found[id(layer)]["output"].append(counts(array, scales))
        there[id(layer), "output", number] = _nonzero(array)

    with autocast(run.device.type, dtypes.float16, enabled=False):
        _backward(run, state, layers, take, 1.0)
    for layer in layers:
        for i, p in enumerate(layer.parameters):
            if p.grad is not None:
                found[id(layer)]["parameters"].append(counts(p.grad._array, scales))
                there[id(layer), "parameters", i] = _nonzero(p.grad._array)
    seen = [_in_autocast(run, state, layers, there, scale) for scale in scales] if in_autocast else []
    state.back()
    rows = []
    for layer in sorted(layers, key=lambda x: (x.order is None, x.order)):
        row = {"name": layer.name, "class": type(layer.module).__name__, "dtype": layer.dtype}
        for what, parts in found[id(layer)].items():
            row[what] = _together(parts, len(scales))
            for key in ("lost", "not_finite"):
                row[what][key] = [s.get((id(layer), what), {}).get(key, 0) for s in seen] or None
        rows.append(row)
    totals = {what: _totals([row[what] for row in rows], len(scales)) for what in ("parameters", "output")}
    return {"layers": rows, "totals": totals}


def _backward(run, state, layers, take, scale) -> None:
    state.back()
    with dtypes.quiet(), _Outputs(layers, take):  # overflows are what is looked for
        (run() * scale).backward()


def _in_autocast(run, state, layers, there, scale) -> dict:
    """{(layer, what): {"lost", "not_finite"}} of a float16 autocast backward of the loss times the scale."""
    found: dict = {}

    def compare(layer, what, number, array):
        where = there.get((id(layer), what, number))
        if where is None or where.shape != array.shape:
            return
        xp = backend_of(array).xp
        lost, bad = ((array == 0) & where).sum(), (~xp.isfinite(array.astype(np.float32)) & where).sum()
        row = found.setdefault((id(layer), what), {"lost": 0, "not_finite": 0})
        row["lost"] += int(lost)
        row["not_finite"] += int(bad)

    with autocast(run.device.type, dtypes.float16):
        _backward(run, state, layers, lambda layer, number, array: compare(layer, "output", number, array), scale)
    for layer in layers:
        for i, p in enumerate(layer.parameters):
            if p.grad is not None:
                compare(layer, "parameters", i, p.grad._array)
    return found


def _nonzero(array):
    with dtypes.quiet():
        return abs(array) > 0


def _together(parts, n) -> dict:
    """The counts of several arrays as one."""
    least = [p["least"] for p in parts if p["least"] is not None]
    most = [p["most"] for p in parts if p["most"] is not None]
    return {"elements": sum(p["elements"] for p in parts), "nonzero": sum(p["nonzero"] for p in parts),
            **{key: [sum(p[key][k] for p in parts) for k in range(n)] for key in KEYS},
            "least": min(least, default=None), "most": max(most, default=None)}


def _totals(parts, n) -> dict:
    total = _together(parts, n)
    for key in ("lost", "not_finite"):
        given = [p[key] for p in parts if p[key] is not None]
        total[key] = [sum(p[k] for p in given) for k in range(n)] if given else None
    return total
