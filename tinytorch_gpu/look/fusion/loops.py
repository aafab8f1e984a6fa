"""Updates of many tensors, one after the other: optimizers written as a loop."""
from __future__ import annotations

import functools

from ..cost.cost import Cost
from .search import Finding, Search, elementwise
from .steps import Step
from .updates import both_ways, descent_of

__all__ = ["update_loops"]

FEWEST = 2  # tensors of a loop


def update_loops(s: Search) -> None:
    """Elementwise steps without gradients that end in place, the same ones for several tensors."""
    parts = _connected([x for x in s.steps if not x.recorded and x not in s.taken and elementwise(x)])
    loops: dict[tuple, list[list[Step]]] = {}
    for part in parts:
        if any(x.target is not None for x in part):
            signature = tuple((x.name, x.target is not None, x.frame) for x in part)
            loops.setdefault(signature, []).append(part)
    for found in loops.values():
        if len(found) >= FEWEST:
            _loop(s, found)


def _connected(steps) -> list[list[Step]]:
    """Steps that hand arrays with elements to each other, or write into one, together."""
    owner: dict[Step, Step] = {x: x for x in steps}

    def root(x):
        while owner[x] is not x:
            x = owner[x]
        return x

    by_memory: dict[object, Step] = {}
    for x in steps:
        values = [v for v in (*x.values, *x.outputs, x.target) if v is not None and v.shape]
        for v in values:
            key = id(v.held) if v.held is not None else id(v)
            other = by_memory.setdefault(key, x)
            owner[root(x)] = root(other)
    found: dict[Step, list[Step]] = {}
    for x in steps:
        found.setdefault(root(x), []).append(x)
    return list(found.values())


def _loop(s: Search, parts: list[list[Step]]) -> None:
    steps = [x for part in parts for x in part]
    outside, targets = [], []
    for part in parts:
        written = list(dict.fromkeys(id(x.target.held) for x in part if x.target is not None))
        first = {}
        for x in part:
            for v in x.values:
                if v.step is None or v.step not in part:
                    first.setdefault(id(v.held), v)
        outside += list(first.values())
        targets += [next(x.target for x in part if x.target is not None and id(x.target.held) == w) for w in written]
    costs = [x.cost().flops for x in steps]
    fused = Cost("elementwise", None if None in costs else sum(c for c in costs if c is not None),
                 sum(v.array.nbytes for v in outside), sum(v.array.nbytes for v in targets))
    names = {x.name for x in parts[0]}
    adaptive = bool(names & {"Sqrt", "Rsqrt", "Pow"}) and "Div" in names or "Rsqrt" in names
    descent = None if adaptive else descent_of(parts)
    use = "tt.optim.AdamW(parameters), or Adam" if adaptive else "tt.optim.SGD(parameters)"
    notes = [f"{len(parts)} tensors, {len(parts[0])} operators for each"]
    if descent is None:
        notes.append("what the constants of the update are is not known: set the optimizer's own")
    else:
        use = descent.use
        if descent.scale != 1:
            notes.append(f"momentum_buffer is the loop's divided by {descent.scale:g}, and lr has that factor")
    ways = None if descent is None else functools.partial(both_ways, parts, descent)
    found = Finding("update loop", steps, outside, targets, [fused], use, notes=notes, ways=ways)
    s.taken.update(steps)
    s.findings.append(found)
