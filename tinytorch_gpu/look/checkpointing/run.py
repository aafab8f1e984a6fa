"""The ways to put checkpoints around blocks, and a train step in each: bytes, seconds, loss and gradients."""
from __future__ import annotations

import contextlib
import math

import numpy as np

from ...backend.device import backend_of, host_array
from .. import measure
from .blocks import checkpointed

__all__ = ["Way", "held_with", "measured", "ways_of"]


class Way:
    """`segments`: lists of modules, each of which runs in one checkpoint; `sizes`: how many blocks each has."""

    def __init__(self, name, kind, segments, sizes):
        self.name, self.kind, self.segments, self.sizes = name, kind, segments, sizes


def ways_of(blocks, every=None) -> list[Way]:
    """No checkpoints first. Of chained blocks: segments of k blocks, the last one of the rest; sqrt(n) segments, and
    the same with the last segment run plainly. Of others: every k-th block, from the first on; sqrt(n) of them."""
    n = len(blocks)
    root = round(math.sqrt(n))
    ways = [Way("none", "none", [], [])]
    steps = every or [2**i for i in range(n.bit_length()) if 2**i < n or n == 1]
    if not blocks.chained:
        for k in steps:
            ways.append(_single(blocks, range(0, n, k), "all blocks" if k == 1 else f"every {_nth(k)} block", "every"))
        if all(len(way.sizes) != root for way in ways):
            ways.append(_single(blocks, [i * n // root for i in range(root)], f"{root} of {n} blocks (sqrt n)", "sqrt"))
        return ways
    size = math.ceil(n / root)
    for k in sorted({*steps, size}):
        cuts = [(i, min(i + k, n)) for i in range(0, n, k)]
        name = f"{len(cuts)} segment{'s' * (len(cuts) > 1)} of {k}"
        if k != size:
            ways.append(_segments(blocks, cuts, name, "every"))
            continue
        ways.append(_segments(blocks, cuts, f"{name} (sqrt n)", "sqrt"))
        if len(cuts) > 1:
            ways.append(_segments(blocks, cuts[:-1], f"{name}, last plain", "sqrt, last plain"))
    return ways


def _segments(blocks, cuts, name, kind) -> Way:
    return Way(name, kind, [[m for unit in blocks.units[a:b] for m in unit] for a, b in cuts], [b - a for a, b in cuts])


def _single(blocks, chosen, name, kind) -> Way:
    return Way(name, kind, [[m] for i in chosen for m in blocks.units[i]], [1 for _ in chosen])


def _nth(k) -> str:
    return f"{k}{'th' if 10 < k % 100 < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(k % 10, 'th')}"


def measured(run, state, ways, repeats) -> list[dict]:
    """Of each way: "name", "kind", "sizes" (blocks of each segment), "held" (bytes after the forward, above the start),
    "peak" (bytes of forward and backward at the worst moment, above the start), "seconds", "loss", "same_bits" and
    "difference": the largest of a gradient from that without checkpoints, over the parameter's largest gradient;
    "buffers": names of those that are others than without, such as statistics that the second run updated again."""
    parameters = [p for p in run.model.parameters() if p.requires_grad]
    leaves = [*parameters, *(t for t in run.tensors() if t.requires_grad and t.is_leaf)]

    def clear():
        for t in leaves:
            t.grad = None

    def step():
        clear()
        loss = run()
        loss.backward()
        return loss.detach()

    rows, reference, plain = [], None, {}
    for way in ways:
        state.back()
        with _placed(way):
            loss = step().item()
            found = [None if t.grad is None else t.grad._array for t in leaves]
            reference = found if reference is None else reference
            difference, same = _compare(found, reference)
            buffers = {name: b._array.copy() for name, b in run.model.named_buffers()}
            plain = plain or buffers
            others = [name for name, b in buffers.items() if not bool((b == plain[name]).all())]
            clear()
            del found, buffers
            state.back()
            held = measure.memory(run, run.device).held
            state.back()
            peak = measure.peak(step, run.device)[1]
            clear()
        rows.append({"name": way.name, "kind": way.kind, "sizes": way.sizes, "held": held, "peak": peak, "loss": loss,
                     "same_bits": same, "difference": difference, "buffers": others, "seconds": []})
    del reference
    state.back()
    for turn in range(repeats):  # in turn, so that a slower moment of the machine meets all of them
        for way, row in zip(ways, rows):
            with _placed(way):
                row["seconds"] += measure.seconds(step, run.device, repeats=1, warm=1 if turn == 0 else 0)
    return rows


def held_with(run, state, blocks) -> int:
    """Bytes after the forward, above its start, with each block in a checkpoint."""
    state.back()
    with checkpointed([[m] for m in blocks.modules]):
        return measure.memory(run, run.device).held


def _placed(way):
    return checkpointed(way.segments) if way.segments else contextlib.nullcontext()


def _compare(found, reference) -> tuple[float, bool]:
    """(largest difference over the largest magnitude, of all gradients; whether all bits are equal)."""
    worst, same = 0.0, True
    for a, b in zip(found, reference):
        if a is None or b is None:
            same, worst = same and a is b, worst if a is b else math.inf
            continue
        xp = backend_of(a).xp
        if a is b or bool((a == b).all()):
            continue
        same = False
        x, y = a.astype(np.float64), b.astype(np.float64)
        gap, most = host_array(xp.stack([xp.abs(x - y).max(), xp.abs(y).max()])).tolist()
        worst = max(worst, gap / most if most and math.isfinite(gap / most) else math.inf)
    return worst, same
