"""What a step shows by itself: gradients that are old, lost, counted twice, scaled; one fact for each place."""
from __future__ import annotations

import math

from .records import together

__all__ = ["Fact", "Facts"]


class Fact:
    """One kind of pitfall at one line: the steps in which it was seen, the parameters, and the last figures of it."""

    __slots__ = ("kind", "line", "steps", "parameters", "measured")

    def __init__(self, kind, line):
        self.kind, self.line = kind, line
        self.steps: list[int] = []
        self.parameters: dict[str, None] = {}
        self.measured: dict = {}


class Facts:
    """All facts, in the order in which they were first seen."""

    def __init__(self):
        self.found: dict[tuple, Fact] = {}

    def add(self, kind, line, step, parameters=(), **measured) -> None:
        fact = self.found.setdefault((kind, line), Fact(kind, line))
        if step not in fact.steps:
            fact.steps.append(step)
        fact.parameters.update(dict.fromkeys(parameters))
        fact.measured.update(measured)

    def of_step(self, row, closure) -> None:
        """Judge one step whose figures are read. A closure's gradients are made within the step."""
        self._gradients(row, closure)
        for b in row.backwards:
            if b.twice is not None and b.twice in row.backwards:
                self.add("twice", b.line, row.number, [b.name], first=b.twice.number, second=b.number,
                         norm=together(b.norms.values()) / b.factor(), first_line=b.twice.line)
        for clip in row.clips:
            if clip.scaled and clip.scale.value != 1:
                self.add("clip_scaled", clip.line, row.number, [e.name for e in clip.scaled], scale=clip.scale.value,
                         norm=clip.norm.value, limit=clip.limit, function=clip.function)
        scaled = {e: n for e, n in row.scaled.items() if n.value != 1}
        if scaled:
            self.add("step_scaled", row.line, row.number, [e.name for e in scaled],
                     scale=next(iter(scaled.values())).value, norm=together([row.used[e] for e in scaled]))
        mixed = [e for e in row.own if e.mixed is not None and e.mixed.value > 0]
        if mixed:
            call = mixed[0].added()[-1][0] if mixed[0].added() else None
            self.add("mixed", None if call is None else call.line, row.number, [e.name for e in mixed],
                     held=together([e.mixed for e in mixed]), scale=None if call is None else call.factor())
        if row.skipped:
            bad = [e.name for e, n in row.used.items() if not math.isfinite(n.value)]
            self.add("skipped", row.line, row.number, bad)

    def _gradients(self, row, closure) -> None:
        there = [e for e, n in row.used.items() if n.value != 0]
        if not there:
            lost = [e for e in row.own if any(n.value != 0 for _, n in e.added())]
            if lost:
                self.add("cleared", row.line, row.number, [e.name for e in lost],
                         norm=together([n for e in lost for _, n in e.added()]))
            elif not any(e.added() for e in row.own):
                self.add("no_gradient", row.line, row.number, [e.name for e in row.own], closure=closure)
            return
        if all(e in row.again for e in there):
            self.add("again", row.line, row.number, [e.name for e in there],
                     norm=together([row.used[e] for e in there]), used=there[0].used.step)
            return
        old = {}  # norms of what an earlier step had used
        for e in row.own:
            first = e.events[0] if e.events else None
            if first is not None and first[0] == "held" and first[2] is not None:
                old[e] = first[1]
            elif e in row.again and e in there:
                old[e] = row.used[e]
        if old:
            new = [n for e in old for _, n in e.added()]
            line = next((b.line for e in old for b, _ in e.added()), row.line)
            self.add("zero_grad", line, row.number, [e.name for e in old], old=together(old.values()) / row.factor(),
                     new=together(new) / row.factor(), step_line=row.line)
