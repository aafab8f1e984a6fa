"""A finding, and what all patterns search with: who made a value, who alone reads it, whether a part is closed."""
from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from ..cost.backward import backward_launches, kept
from ..cost.cost import Array, Cost, cost, launches
from ..cost.rules import ELEMENTWISE
from .steps import Program, Step, Value

__all__ = ["OWN", "Applied", "Finding", "Search", "elementwise", "sums", "total"]

OWN = "a kernel of your own: tinytorch_gpu.kernel"
_FUSED = {"Gated", "BiasAct", "DropoutAdd"}  # operators that are several already


@dataclass
class Applied:
    """An operator of this package that is used instead. `arrays`: its operands where they lie otherwise than `inputs`,
    the values they come from; what it makes for itself among its results is an Array."""

    name: str
    inputs: list[Value | None]
    outputs: list[Value | Array]
    params: dict = field(default_factory=dict)
    arrays: list[Array | None] | None = None

    def _application(self) -> tuple[str, list, list, dict]:
        given = self.arrays or [None if v is None else v.array for v in self.inputs]
        return self.name, given, [v.array if isinstance(v, Value) else v for v in self.outputs], self.params

    def cost(self) -> Cost:
        return cost(*self._application())

    def launches(self, host: bool) -> list[Cost]:
        return launches(self.cost(), *self._application(), host=host)

    def backward(self, wanted, host) -> list[Cost] | None:
        """What its gradient rule starts where the values in `wanted` want a gradient."""
        return backward_launches(*self._application(), needs=[v in wanted for v in self.inputs], host=host)

    def kept(self, wanted) -> list[Value | Array]:
        """What it keeps for its backward."""
        found = kept(*self._application(), needs=[v in wanted for v in self.inputs])
        if found is None:
            raise ValueError(f"[fusion] what {self.name} keeps for its backward is not in look/cost/backward.py")
        every = [k if isinstance(k, Array) else self.inputs[k] if k >= 0 else self.outputs[-1 - k] for k in found]
        return [v for v in every if v is not None]


@dataclass
class Finding:
    """Steps that could be one. `use`: the call that does it, None where this package has none; `by`: the operators that
    this call applies; `parts`: what each of its launches moves and computes in the forward; `replace(arrays)` makes the
    result from {value: Tensor}; `active`: the steps that a backward goes through, the last first; `met`: those of
    `writes` to which a gradient comes from outside."""

    kind: str
    steps: list[Step]
    reads: list[Value]
    writes: list[Value]
    parts: list[Cost]
    use: str | None = None
    replace: Callable | None = None
    notes: list[str] = field(default_factory=list)
    by: list[Applied] = field(default_factory=list)
    active: list[Step] = field(default_factory=list)
    met: list[Value] = field(default_factory=list)
    ways: Callable | None = None  # of an update loop: (the steps, the replacement, what each changed)

    def now(self) -> Cost:
        """What the steps move and compute as they are."""
        return total(s.cost() for s in self.steps)

    def fused(self) -> Cost:
        """What would be moved and computed instead."""
        return total(self.parts)

    def wanted(self) -> list[Value]:
        """What is read from outside and wants a gradient, each once."""
        sent = {v for s in self.active for v in s.wants()}
        return [v for v in self.reads if v in sent]

    def unknown_backward(self, host) -> list[str]:
        """The operators whose gradient rule is not known."""
        return list(dict.fromkeys(s.name for s in self.active if s.backward(host) is None))

    def backward(self, host: bool) -> list[Cost]:
        """What the backward of the steps starts: their rules, and sums of what comes to one value on several ways."""
        return [c for s in self.active for c in s.backward(host) or ()] + sums(self.active, self.met)

    def _reached(self) -> Iterator[tuple[Applied, set[Value]]]:
        """The operators of `by` through which a backward goes, with the values that want a gradient."""
        wanted = set(self.wanted())
        for applied in self.by:
            if not wanted.isdisjoint(applied.inputs):
                yield applied, wanted
                wanted.update(v for v in applied.outputs if isinstance(v, Value))

    def fused_backward(self, host: bool) -> list[Cost] | None:
        """What the backward of the replacement starts. A kernel of one's own reads what the forward read and the
        gradients of what it wrote, and writes those of what it read; around products nothing changes."""
        now = self.backward(host)
        if not self.by:
            if any(c.products for c in now):
                return now
            moved = total(now)
            return [Cost(moved.family, moved.flops, sum(v.array.nbytes for v in self.reads) + sum(
                v.array.nbytes for v in self.writes), sum(v.array.nbytes for v in self.wanted()))]
        found = [applied.backward(wanted, host) for applied, wanted in self._reached()]
        return None if any(part is None for part in found) else [c for part in found for c in part or ()]

    def saved(self, leaves) -> int | None:
        """Bytes that the steps keep for backward, each piece of memory once, leaves apart; None where they are gone."""
        if any(s.saved is None for s in self.active):
            return None
        return sum({x.memory: x.held for s in self.active for x in s.saved or () if x.memory not in leaves}.values())

    def fused_saved(self, leaves) -> int | None:
        """Bytes that the replacement would keep; a kernel of one's own what it reads, if that is less than now."""
        keeps: list[Value | Array] = [v for applied, wanted in self._reached() for v in applied.kept(wanted)]
        found = {}
        for n, v in enumerate(keeps if self.by else self.reads):
            key, size, leaf = v.memory if isinstance(v, Value) else (n, v.nbytes, False)
            if not leaf and key not in leaves:
                found[key] = size
        now = self.saved(leaves)
        return sum(found.values()) if self.by or now is None else min(now, sum(found.values()))


def sums(active: Iterable[Step], met: Iterable[Value]) -> list[Cost]:
    """The sums by which gradients that come to one value on several ways, from steps and from outside, are one."""
    ways = Counter([*met, *(v for s in active for v in s.wants())])
    return [cost("Add", [v.array, v.array], [v.array]) for v, n in ways.items() for _ in range(n - 1)]


def total(costs: Iterable[Cost]) -> Cost:
    """Of several launches together."""
    costs = list(costs)
    return functools.reduce(operator.add, costs) if costs else Cost("view", 0.0, 0, 0)


class Search:
    """The steps of a program, and which of them belong to a finding already."""

    def __init__(self, program: Program):
        self.program, self.steps = program, program.steps
        self.taken: set[Step] = set()
        self.findings: list[Finding] = []

    def free(self, step: Step | None) -> bool:
        """Whether a step may become part of a finding: not part of one, not in place, of a known operator."""
        return step is not None and step not in self.taken and step.target is None and step.cls is not None

    def made(self, value, *names) -> Step | None:
        """The free step that made a value, where it is one of these operators."""
        step = value.step if isinstance(value, Value) else None
        return step if step is not None and step.name in names and self.free(step) else None

    def only(self, value: Value, *names) -> Step | None:
        """The one step that reads a value that nothing else needs, where it is one of these operators, if any given."""
        if len(value.uses) != 1 or value.kept or not self.free(value.uses[0]):
            return None
        return value.uses[0] if not names or value.uses[0].name in names else None

    @staticmethod
    def closed(steps: Iterable[Step], results: Iterable[Value]) -> bool:
        """Whether nothing outside needs what is made inside, `results` apart."""
        inside, out = set(steps), set(results)
        return all(v in out or not v.kept and set(v.uses) <= inside for s in inside for v in s.outputs)

    @staticmethod
    def reads(steps: Iterable[Step]) -> list[Value]:
        """What comes from outside, each once, in order."""
        steps = list(steps)
        inside = {v for s in steps for v in s.outputs}
        return list(dict.fromkeys(v for s in steps for v in s.values if v not in inside))

    def add(self, kind, steps, writes, *, use=None, by=(), parts=(), replace=None, notes=()) -> Finding:
        """Keep a finding; its steps are taken. `parts`: the launches of `by`, unless given; without either one, which
        reads and writes what is outside once."""
        steps = sorted(set(steps), key=lambda s: s.number)
        reads, host = self.reads(steps), self.program.device.type == "cpu"
        active = self.program.active
        found = Finding(kind, steps, reads, list(writes), list(parts), use, replace, list(notes), list(by),
                        [s for s in reversed(steps) if s in active],
                        [v for v in writes if v.root or any(u in active and u not in steps for u in v.uses)])
        if not parts and by:
            found.parts = [c for applied in by for c in applied.launches(host)]
        elif not parts:
            now = found.now()
            found.parts = [Cost(now.family, now.flops, sum(v.array.nbytes for v in reads),
                                sum(v.array.nbytes for v in writes), now.products)]
        self.taken.update(steps)
        self.findings.append(found)
        return found


def elementwise(step: Step | None) -> bool:
    """Whether each element of the result depends on one of each operand; numbers that are drawn apart."""
    return step is not None and step.cls is not None and (step.name in ELEMENTWISE and step.name not in _FUSED
                                                          and not step.name.endswith("Backward"))
