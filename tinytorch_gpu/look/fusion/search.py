"""A finding, and what all patterns search with: who made a value, who alone reads it, whether a part is closed."""
from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ..cost.cost import Cost, cost
from ..cost.rules import ELEMENTWISE
from .steps import Program, Step, Value

__all__ = ["OWN", "Finding", "Search", "elementwise"]

OWN = "a kernel of your own: tinytorch_gpu.kernel"
_FUSED = {"Gated", "BiasAct", "DropoutAdd"}  # operators that are several already


@dataclass
class Finding:
    """Steps that could be one. `use`: the call that does it, None where this package has none; `parts`: what each of
    its launches moves and computes; `replace(arrays)` makes the result from {value: Tensor}."""

    kind: str
    steps: list[Step]
    reads: list[Value]
    writes: list[Value]
    parts: list[Cost]
    use: str | None = None
    replace: Callable | None = None
    notes: list[str] = field(default_factory=list)
    ways: Callable | None = None  # of an update loop: (the steps, the replacement, what each changed)

    def now(self) -> Cost:
        """What the steps move and compute as they are."""
        return functools.reduce(operator.add, [s.cost() for s in self.steps])

    def fused(self) -> Cost:
        """What would be moved and computed instead."""
        return functools.reduce(operator.add, self.parts)


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

    def add(self, kind, steps, writes, *, use=None, parts=(), replace=None, notes=()) -> Finding:
        """Keep a finding; its steps are taken. Without `parts`: one, which reads and writes what is outside once."""
        steps = sorted(set(steps), key=lambda s: s.number)
        reads = self.reads(steps)
        found = Finding(kind, steps, reads, list(writes), list(parts), use, replace, list(notes))
        if not parts:
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


def cost_of(name, reads, writes, **params) -> Cost:
    """Of an operator of this package on these values; None stands for an operand that is missing."""
    return cost(name, [None if v is None else v.array for v in reads], [v.array for v in writes], params)
