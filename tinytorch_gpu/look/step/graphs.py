"""Graphs of training steps that live longer than they should, and who holds them."""
from __future__ import annotations

import gc
import weakref

from ...autograd.node import AccumulateGrad, endpoint
from ..memory.holders import chain_of, names_in_frames
from .records import Backward, Kept, Row

__all__ = ["Graphs"]

COLLECTS = 3  # garbage collections that a suspicion may cost before the end
TOP = 32  # nodes of a graph, from its loss on, whose life is watched


class Graphs:
    """The graphs of backward passes, all held weakly. `kept`: those that survived, when there were most."""

    def __init__(self):
        self.kept: Kept | None = None
        self._alive: list[tuple[Backward, Row]] = []
        self._tops: weakref.WeakSet = weakref.WeakSet()  # nodes whose life is watched
        self._counted: weakref.WeakSet = weakref.WeakSet()  # nodes of graphs that survived
        self._collected = 0

    def new(self, roots) -> list:
        """The first nodes of these graphs, weakly: their results are what a program holds. No one's twice."""
        found, level = [], [n for n in roots if n is not None]
        while level and len(found) < TOP:
            level = [n for n in dict.fromkeys(level) if n not in self._tops and n.__class__ is not AccumulateGrad]
            for node in level[:TOP - len(found)]:
                self._tops.add(node)
                found.append(weakref.ref(node))
            level = [endpoint(e)[0] for n in level for e in n.edges if e is not None]
        return found

    def passed(self, rows, end=False) -> None:
        """Look whether the graphs of these steps, which are over, are still there."""
        self._alive = [(b, r) for b, r in self._alive if b.alive()]
        known = {b for b, _ in self._alive}
        found = [(b, r) for r in rows for b in r.backwards if b not in known and b.alive()]
        self._alive += found
        most = 0 if self.kept is None else len(self.kept.rows)
        if not self._alive:
            return
        if not (end or (found and 1 < len(self._alive) > most and (most or self._collected < COLLECTS))):
            return
        if end or not most:
            self._collected += 1
            gc.collect()  # what only garbage holds is no finding
            self._alive = [(b, r) for b, r in self._alive if b.alive()]
        if len(self._alive) > max(most, 0 if end else 1):
            holder = self.kept.holder if self.kept is not None else None
            self.kept = Kept([r.number for _, r in self._alive], self._alive[-1][0].line, self._nodes(),
                             holder or self._holder())

    def _holder(self) -> list[str] | None:
        for b, _ in reversed(self._alive):
            for ref in b.tops:
                node = ref()
                if node is not None:
                    return chain_of(node, names_in_frames())
        return None

    def _nodes(self) -> int:
        """How many nodes the graphs that survive have together; each is visited once in all."""
        stack = [n for b, _ in self._alive for r in b.tops if (n := r()) is not None]
        while stack:
            node = stack.pop()
            if node not in self._counted and node.__class__ is not AccumulateGrad:
                self._counted.add(node)
                stack.extend([endpoint(e)[0] for e in node.edges if e is not None])
        return len(self._counted)
