"""What a finding moves, computes and takes now and fused, predicted; and both run on the same arrays, measured."""
from __future__ import annotations

import math
import statistics
import time

import numpy as np

from ...autograd.modes import no_grad
from ...backend.device import backend_for, host_array
from ...tensor import Tensor, make
from ..cost.ceiling import Ceiling
from ..cost.cost import Cost
from .elementwise import replay
from .search import Finding
from .steps import Program, Step

__all__ = ["access_of", "forecast", "measure", "of_finding", "predicted"]

GATHERS = ("gather", "scatter")
# how far two ways to compute the same may differ, of the largest magnitude
TOLERANCE = {"float64": 1e-10, "float32": 2e-5, "float16": 5e-3, "bfloat16": 4e-2}
ROUNDS, LEAST_ROUNDS, BUDGET = 9, 3, 0.25  # timings of each way, and seconds for all of one finding's
LEAST_SECONDS = 1e-3  # of one timing


def seconds_of(parts: list[Cost], ceiling: Ceiling, dtype: str) -> float | None:
    """Of launches one after the other."""
    if any(c.bytes is None for c in parts):
        return None
    return math.fsum(ceiling.seconds(c.bytes or 0, c.products, 1, dtype) for c in parts)


def dtype_of(steps) -> str:
    """The dtype in which products run."""
    return next((s.out.array.dtype for s in steps if s.outputs and s.cost().products), "float32")


def predicted(steps: list[Step], ceiling: Ceiling) -> float:
    """Seconds of steps that run one after the other; those whose bytes are not known count as their launch."""
    return math.fsum(ceiling.seconds(c.bytes or 0, c.products, 1, s.out.array.dtype)
                     for s in steps if s.outputs for c in s.launches(ceiling.host))


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


def of_finding(finding: Finding, ceiling: Ceiling) -> dict:
    """Both ways of a finding with their predictions."""
    now = finding.now()
    seconds = predicted(finding.steps, ceiling)
    fused = seconds_of(finding.parts, ceiling, dtype_of(finding.steps))
    access = access_of(finding)
    whole = sum(access.values())
    return {
        "now": side(now, launches_of(finding.steps, ceiling), seconds),
        "fused": side(finding.fused(), len(finding.parts), fused),
        "gain": None if fused is None else seconds - fused,
        "speedup": None if not fused else seconds / fused,
        "access": {k: {"bytes": b, "share": b / whole if whole else 0.0} for k, b in access.items()},
        "measured": None,
    }


def forecast(program: Program, found: list[dict], ceiling: Ceiling) -> dict:
    """The time of all steps as they are, and what the findings would take off."""
    return {
        "steps": len(program.steps), "launches": launches_of(program.steps, ceiling),
        "bytes": sum(s.cost().bytes or 0 for s in program.steps),
        "seconds": predicted(program.steps, ceiling),
        "gain": math.fsum(f["gain"] for f in found if f["use"] is not None and (f["gain"] or 0) > 0),
        "gain_of_own": math.fsum(f["gain"] for f in found if f["use"] is None and (f["gain"] or 0) > 0),
    }


# measured


def measure(finding: Finding, device) -> dict | None:
    """Seconds of the steps and of their replacement, in turn, on the same arrays, and how far their results differ."""
    if finding.replace is None and finding.ways is None:
        return None
    with no_grad():
        if finding.ways is not None:
            old, new, changed = finding.ways()
            old()
            new()
            difference, tolerance = _difference(*changed())
        else:
            arrays = {v: make(v.held) for v in finding.reads}

            def old():
                made = replay(finding.steps, arrays)
                return [made[v] for v in finding.writes]

            def new():
                made = finding.replace(arrays)
                return list(made) if isinstance(made, tuple) else [made]

            difference, tolerance = _difference(old(), new())
        a, b = _in_turn(old, new, device)
    return {"now": a, "fused": b, "gain": a - b, "speedup": a / b, "difference": difference, "tolerance": tolerance,
            "agrees": difference <= tolerance}


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
