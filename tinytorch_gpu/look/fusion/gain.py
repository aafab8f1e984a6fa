"""What a finding moves, computes and takes now and fused, predicted; and both run on the same arrays, measured."""
from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable

import numpy as np

from ...autograd import grad as gradients_of
from ...autograd.modes import enable_grad, no_grad
from ...backend.device import backend_for, host_array
from ...ops.data import tensor
from ...tensor import Tensor, make
from ..cost.ceiling import Ceiling
from ..cost.cost import Cost
from ..graph.collect import walk
from ..saved import saved_of
from .elementwise import replay
from .search import Finding, sums, total
from .steps import Program, Step

__all__ = ["forecast", "gain_of", "measure", "measured_both", "of_finding", "worth"]

GATHERS = ("gather", "scatter")
# how far two ways to compute the same may differ, of the largest magnitude
TOLERANCE = {"float64": 1e-10, "float32": 2e-5, "float16": 5e-3, "bfloat16": 4e-2}
ROUNDS, LEAST_ROUNDS, BUDGET = 9, 3, 0.25  # timings of each way, and seconds for all of one finding's
LEAST_SECONDS = 1e-3  # of one timing
MEASURED_GAIN, PREDICTED_GAIN = 1.05, 1.001  # less is noise of a clock, or a rounding of a model: not recommended


def seconds_of(parts: Iterable[Cost], ceiling: Ceiling, dtype: str) -> float:
    """Of launches one after the other; those whose bytes are not known count as their launch."""
    return math.fsum(ceiling.seconds(c.bytes or 0, c.products, 1, dtype) for c in parts)


def dtype_of(steps) -> str:
    """The dtype in which products run."""
    return next((s.out.array.dtype for s in steps if s.outputs and s.cost().products), "float32")


def predicted(steps: list[Step], ceiling: Ceiling) -> float:
    """Seconds of the forward of steps that run one after the other."""
    return math.fsum(seconds_of(s.launches(ceiling.host), ceiling, s.out.array.dtype) for s in steps if s.outputs)


def launches_of(steps, ceiling) -> int:
    return sum(len(s.launches(ceiling.host)) for s in steps)


def access_of(finding: Finding) -> dict[str, int]:
    """Bytes that the steps move now, by how they lie: contiguous, strided, repeated (a broadcast view), gathered."""
    found = {"contiguous": 0, "strided": 0, "repeated": 0, "gathered": 0}
    for s in finding.steps:
        cost = s.cost()
        if not cost.bytes:
            continue
        if cost.family in GATHERS:
            found["gathered"] += cost.bytes
            continue
        for v in s.values:
            found["contiguous" if v.access == "copied" else v.access] += v.array.nbytes
        found["contiguous"] += cost.bytes - sum(v.array.nbytes for v in s.values)
    return found


def side(cost: Cost, launches: int, seconds) -> dict:
    """One way, as data."""
    return {"bytes": cost.bytes, "flops": cost.flops, "intensity": cost.intensity, "launches": launches,
            "seconds": seconds}


def pair(now: dict, fused: dict) -> dict:
    """Both ways with the gain that is predicted."""
    known = fused["bytes"] is not None
    fused = fused if known else {**fused, "seconds": None}
    return {"now": now, "fused": fused, "gain": now["seconds"] - fused["seconds"] if known else None,
            "speedup": now["seconds"] / fused["seconds"] if known and fused["seconds"] else None, "measured": None}


def both_of(forward: dict, backward: dict) -> dict:
    """Forward and backward together."""
    def one(way) -> dict:
        a, b = forward[way], backward[way]

        whole = {name: None if a[name] is None or b[name] is None else a[name] + b[name]
                 for name in ("bytes", "flops", "launches", "seconds")}
        flops, moved = whole["flops"], whole["bytes"]
        return {**whole, "intensity": None if flops is None or not moved else flops / moved}

    return pair(one("now"), one("fused"))


def of_finding(finding: Finding, program: Program, ceiling: Ceiling) -> dict:
    """Both ways of a finding with their predictions: of the forward, of the "backward" and of "both", which are None
    where no gradient goes through it or a rule is not known; and the bytes "saved" for backward."""
    host = ceiling.host
    dtype, access = dtype_of(finding.steps), access_of(finding)
    whole = sum(access.values())
    forward = pair(side(finding.now(), launches_of(finding.steps, ceiling), predicted(finding.steps, ceiling)),
                   side(finding.fused(), len(finding.parts), seconds_of(finding.parts, ceiling, dtype)))
    found = {**forward, "access": {k: {"bytes": b, "share": b / whole if whole else 0.0} for k, b in access.items()},
             "backward": None, "both": None, "saved": None}
    if not finding.active:
        return found
    found["saved"] = {"now": finding.saved(program.leaves), "fused": finding.fused_saved(program.leaves)}
    now, fused = finding.backward(host), finding.fused_backward(host)
    if not finding.unknown_backward(host) and fused is not None:
        found["backward"] = pair(side(total(now), len(now), seconds_of(now, ceiling, dtype)),
                                 side(total(fused), len(fused), seconds_of(fused, ceiling, dtype)))
        found["both"] = both_of(forward, found["backward"])
    return found


def measured_both(forward: dict, backward: dict) -> dict:
    """What was measured of forward and backward, together."""
    now, fused = (forward[way] + backward[way] for way in ("now", "fused"))
    return {"now": now, "fused": fused, "gain": now - fused, "speedup": now / fused,
            "agrees": forward["agrees"] and backward["agrees"]}


def worth(row: dict) -> bool | None:
    """Whether a finding gains: as measured, else as predicted; None where neither is known."""
    found = row["both"] or row
    m = found["measured"] or row["measured"]
    if m is not None:
        return m["agrees"] and m["speedup"] >= MEASURED_GAIN
    return None if found["speedup"] is None else found["speedup"] >= PREDICTED_GAIN


def gain_of(row: dict) -> float:
    """Seconds that are predicted to be gained, forward and backward; 0 of what is not recommended."""
    return max(0.0, (row["both"] or row)["gain"] or 0.0) if row["recommended"] else 0.0


def forecast(program: Program, found: list[dict], ceiling: Ceiling) -> dict:
    """The time of all steps as they are, and what the findings would take off; the backward of what was recorded."""
    active = [s for s in program.steps if s in program.active]
    rules = {s: s.backward(ceiling.host) for s in active}
    unknown = [s.name for s, r in rules.items() if r is None]
    added = sums(active, [v for s in active for v in s.outputs if v.root])
    backward = {
        "launches": sum(len(r or ()) for r in rules.values()) + len(unknown) + len(added),
        "bytes": sum(c.bytes or 0 for r in (*rules.values(), added) for c in r or ()),
        "seconds": math.fsum(seconds_of(r or (), ceiling, s.out.array.dtype) for s, r in rules.items())
        + seconds_of(added, ceiling, "float32") + len(unknown) * ceiling.launch,
    }
    return {
        "steps": len(program.steps), "launches": launches_of(program.steps, ceiling),
        "bytes": sum(s.cost().bytes or 0 for s in program.steps),
        "seconds": predicted(program.steps, ceiling), "backward": backward if active else None,
        "unknown": sorted(set(unknown)),
        "gain": math.fsum(gain_of(f) for f in found if f["use"] is not None),
        "gain_of_own": math.fsum(gain_of(f) for f in found if f["use"] is None),
    }


# measured


def measure(finding: Finding, program: Program) -> tuple[dict | None, dict | None, dict | None]:
    """(forward, backward, saved bytes): seconds of the steps and of their replacement, in turn, on the same arrays, how
    far their results and gradients differ, and what the nodes of both keep. None for what cannot run."""
    device = program.device
    if finding.replace is None and finding.ways is None:
        return None, None, None
    if finding.ways is not None:
        with no_grad():
            old, new, changed = finding.ways()
            old()
            new()
            return _compared(device, old, new, changed()), None, None
    wanted = finding.wanted()
    with no_grad():
        arrays = {v: make(v.held) for v in finding.reads}
        forward = _compared(device, *_ways(finding, arrays))
    if not wanted:
        return forward, None, None
    for v in wanted:
        arrays[v] = make(v.held).requires_grad_()
    with enable_grad():
        made = [way() for way in _ways(finding, arrays)]
    saved = {name: _kept_by(outs, program.leaves) for name, outs in zip(("now", "fused"), made, strict=True)}
    there = [i for i, outs in enumerate(zip(*made, strict=True)) if all(t.requires_grad for t in outs)]
    rng = np.random.default_rng(0)
    grads = [_drawn(rng, made[0][i]) for i in there]
    leaves = [arrays[v] for v in wanted]

    def backward(outs):
        def run():
            found = gradients_of([outs[i] for i in there], leaves, grads, retain_graph=True, allow_unused=True,
                                 materialize_grads=True)
            return list(found)

        return run

    return forward, _compared(device, *map(backward, made)), saved


def _ways(finding, arrays):
    """The steps, and the replacement, as functions."""
    def old():
        made = replay(finding.steps, arrays)
        return [made[v] for v in finding.writes]

    def new():
        made = finding.replace(arrays)
        return list(made) if isinstance(made, tuple) else [made]

    return old, new


def _compared(device, old, new, made=None) -> dict:
    """What both take, and how far what they make differs, or have `made` already."""
    difference, tolerance = _difference(*made or (old(), new()))
    a, b = _in_turn(old, new, device)
    return {"now": a, "fused": b, "gain": a - b, "speedup": a / b, "difference": difference, "tolerance": tolerance,
            "agrees": difference <= tolerance}


def _drawn(rng, like: Tensor) -> Tensor:
    """Random numbers of its shape, dtype and device: a gradient of ones is one that softmax makes nothing of."""
    return tensor(rng.standard_normal(like.shape), dtype=like.dtype, device=like.device)


def _kept_by(outs, leaves) -> int | None:
    """Bytes that the nodes of a graph keep, each piece of memory once, leaves of the program apart."""
    nodes, _ = walk([t._edge() for t in outs if t.requires_grad])
    found = [s for node in nodes for s in saved_of(node) or ()]
    return sum({s.memory: s.held for s in found if s.memory not in leaves}.values())


def _difference(ours: list[Tensor], theirs: list[Tensor]) -> tuple[float, float]:
    """(the largest difference as a share of the largest magnitude, what is allowed)."""
    worst, allowed = 0.0, 0.0
    for a, b in zip(ours, theirs, strict=True):
        allowed = max(allowed, TOLERANCE.get(a.dtype.name, 2e-5))
        wide = np.complex128 if a.dtype.name.startswith("complex") else np.float64
        x, y = (np.asarray(host_array(t._array), wide) for t in (a, b))
        if x.shape != y.shape or not np.array_equal(np.isfinite(x), np.isfinite(y)):
            return math.inf, allowed
        there = np.isfinite(x)
        if there.any():
            scale = max(float(np.abs(x[there]).max()), 1e-30)
            worst = max(worst, float(np.abs(x[there] - y[there]).max()) / scale)
    return worst, allowed


def _in_turn(first, second, device) -> tuple[float, float]:
    """Median seconds of both, each round one after the other, so that what disturbs one disturbs the other."""
    backend, index = backend_for(device), device.index

    def timed(run, times) -> float:
        backend.synchronize(index)
        begin = time.perf_counter()
        for _ in range(times):
            run()
        backend.synchronize(index)
        return (time.perf_counter() - begin) / times

    once = max(timed(first, 1), timed(second, 1), 1e-7)
    times = max(1, min(1000, round(LEAST_SECONDS / once)))  # short ones often enough for the clock
    found: list[tuple[float, float]] = []
    begin = time.perf_counter()
    while len(found) < LEAST_ROUNDS or len(found) < ROUNDS and time.perf_counter() - begin < BUDGET:
        found.append((timed(first, times), timed(second, times)))
    return statistics.median(f[0] for f in found), statistics.median(f[1] for f in found)
