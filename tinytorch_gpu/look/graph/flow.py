"""One backward watched step by step, on the side: no hooks run, no `.grad` changes, nothing is freed."""
from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np

from ...autograd.engine import _many, _roots
from ...autograd.gradients import add, as_array, fit, padded
from ...autograd.modes import no_grad, state
from ...autograd.node import AccumulateGrad, endpoint
from ...autograd.operands import F32
from ...backend import dtypes
from ...backend.device import host_array, xp_of
from ..sample import SMALL, Sample, sample

__all__ = ["Step", "flow"]


@dataclass
class Step:
    """What happened at one node. `arrived`: for each output, the (sender, sample) that met there; `total`: their sums;
    `sent`: one for each input; `local`: for each input its derivative, where small enough to be shown."""

    arrived: list[list[tuple[object, Sample]]]
    total: list[Sample | None] = field(default_factory=list)
    sent: list[Sample | None] = field(default_factory=list)
    local: list[dict | None] = field(default_factory=list)


def flow(loss, gradient) -> dict[object, Step]:
    """{node: Step}, in the order of the backward.

    Raises: RuntimeError for a loss of several elements without a gradient, and where a backward has freed the graph.
    """
    steps: dict[object, Step] = {}
    buffers: dict[object, list] = {}
    heap: list = []

    def deliver(edge, value, sender):
        node, i = endpoint(edge)
        if node not in buffers:
            n = 1 if node.metas is None else len(node.metas)
            buffers[node] = [None] * n
            steps[node] = Step([[] for _ in range(n)])
            heappush(heap, (node.order, node))
        slots = buffers[node]
        slots[i] = value if slots[i] is None else add(slots[i], value)
        steps[node].arrived[i].append((sender, sample(value)))

    casts, state.autocast = state.autocast, None
    order = []
    try:
        with no_grad():
            for edge, value in _roots((loss,), gradient, False, "trace"):
                deliver(edge, value, None)
            while heap:
                node = heappop(heap)[1]
                order.append(node)
                slots, step = buffers.pop(node), steps[node]
                step.total = [None if s is None else sample(s) for s in slots]
                if node.__class__ is AccumulateGrad:
                    continue
                for i, (edge, value) in enumerate(zip(node.edges, _backward(node, slots))):
                    step.sent.append(None if value is None else sample(value))
                    step.local.append(None if value is None else _local(node, i, value))
                    if value is not None:
                        deliver(edge, value, node)
    finally:
        state.autocast = casts
    return {node: steps[node] for node in order}


def _backward(node, slots) -> list:
    """The rule on raw arrays, fitted to each input; None where no gradient goes."""
    if node.metas is not None:
        grads = _many(node, slots)
    else:
        (value,) = slots
        dtype = F32 if node._widen else node.dtype
        grads = (value if value.dtype == dtype else value.astype(dtype),)
    out = node.backward(*grads)
    out = out if out.__class__ is tuple else (out,)
    if len(out) != len(node.edges):
        out = padded(node, out, node.edges)
    found: list = []
    for i, (edge, value) in enumerate(zip(node.edges, out)):
        if edge is None or value is None:
            found.append(None)
            continue
        target, k = endpoint(edge)
        shape, dtype = (target.shape, target.dtype) if target.metas is None else target.metas[k]
        found.append(fit(as_array(node, value), shape, dtype, node, i))
    return found


def _local(node, i, value) -> dict | None:
    """The derivative of the node's output in input `i`, for up to SMALL elements of each, by the rule on unit vectors.

    "elementwise": values in the input's shape; "jacobian": a row for each element of the output.
    """
    size = int(np.prod(node.shape))
    if (node.metas is not None and len(node.metas) > 1 or not 0 < size <= SMALL or not 0 < value.size <= SMALL
            or dtypes.of(value).is_complex or node.dtype.kind == "c"):
        return None
    xp = xp_of(value)
    rows = []
    for k in range(size):
        unit = xp.zeros(size, node.dtype)
        unit[k] = 1
        row = _backward(node, [unit.reshape(node.shape)])[i]
        rows.append(host_array(row).astype(np.float64).reshape(-1))
    table = np.stack(rows)
    if node.shape == value.shape and not np.any(table[~np.eye(size, dtype=bool)]):
        return {"kind": "elementwise", "values": np.diag(table).tolist()}
    return {"kind": "jacobian", "values": table.tolist()}
