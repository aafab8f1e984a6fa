"""Updates of many tensors, one after the other: optimizers written as a loop."""
from __future__ import annotations

import functools

from ...backend.device import backend_of
from ...nn import Parameter
from ...optim import SGD
from ...tensor import make
from ..cost.cost import Cost
from .elementwise import replay
from .search import Finding, Search, elementwise
from .steps import Step, Value

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
    rate = _plain_step(parts)
    use = "tt.optim.AdamW(parameters), or Adam" if adaptive else "tt.optim.SGD(parameters)"
    notes = [f"{len(parts)} tensors, {len(parts[0])} operators for each"]
    if rate is not None:
        use = f"tt.optim.SGD(parameters, lr={rate:g})"
    else:
        notes.append("what the constants of the update are is not known: set the optimizer's own")
    ways = None if rate is None else functools.partial(both_ways, parts, rate)
    found = Finding("update loop", steps, outside, targets, [fused], use, None, notes, ways)
    s.taken.update(steps)
    s.findings.append(found)


def _plain_step(parts) -> float | None:
    """The learning rate, where every part is p -= lr * g and nothing else."""
    rates = set()
    for part in parts:
        if [x.name for x in part] not in (["Mul", "Sub"], ["Mul", "Add"]):
            return None
        times, step = part
        rate = times.number_at(1) if times.number_at(1) is not None else times.number_at(0)
        if (rate is None or isinstance(rate, complex) or step.target is None or len(step.inputs) != 2
                or step.inputs[1] is not times.out):
            return None
        rates.add(float(rate) if step.name == "Sub" else -float(rate))
    return rates.pop() if len(rates) == 1 and min(rates) > 0 else None


def both_ways(parts, rate):
    """(the loop, the optimizer's step, how to read what each changed), on copies of the same arrays."""
    pairs = [(times, step, next(v for v in times.inputs if isinstance(v, Value))) for times, step in parts]
    grads = [make(g.held.copy()) for _, _, g in pairs]
    ours = [make(step.target.held.copy()) for _, step, _ in pairs]
    theirs = [Parameter(make(step.target.held.copy())) for _, step, _ in pairs]
    for p, g in zip(theirs, grads):
        p.grad = g
    optimizer = SGD(theirs, lr=rate)

    def loop():
        for (times, step, g), p, grad in zip(pairs, ours, grads):
            made = replay([times, step], {g: grad, step.target: p})
            backend_of(p._array).xp.copyto(p._array, made[step.out]._array)

    return loop, optimizer.step, lambda: (ours, theirs)
