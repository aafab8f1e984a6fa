"""Losses whose gradients meet in the same parameters: each one's norm there, and whether two pull one way."""
from __future__ import annotations

import math
import statistics

from .records import together

__all__ = ["ALIKE", "Meetings"]

ALIKE = 1000  # times that one gradient may be greater than another, for the angle between them to be known


class Loss:
    """A loss as the program writes it: one name at one line. `norms`: {Entry: norm of each of its gradients}."""

    __slots__ = ("name", "line", "norms", "totals")

    def __init__(self, name, line):
        self.name, self.line = name, line
        self.norms: dict = {}
        self.totals: list[float] = []

    def add(self, norms, each) -> None:
        """`each`: keep the parameters' norms too, because another loss meets it."""
        for e, n in norms.items() if each else ():
            self.norms.setdefault(e, []).append(n)
        self.totals.append(together(norms.values()))


class Meetings:
    """What several losses sent in the same steps. Norms are those of one backward pass, without a loss scale."""

    def __init__(self):
        self.losses: dict[tuple, Loss] = {}
        self.cosines: dict[tuple, list[float]] = {}  # (loss, loss) -> of each step
        self.pairs: dict[tuple, int] = {}  # (loss, loss) -> steps in which they met

    def step(self, row) -> None:
        """Take the contributions of a step whose figures are read."""
        sent: dict = {b: {} for b in row.backwards}
        for e in row.own:
            for b, n in e.added():
                sent[b][e] = n
        found: dict[tuple, list[dict]] = {}
        for b in row.backwards:
            factor = b.factor()
            for name, line, norms in b.terms or [(b.name, b.line, sent[b])]:
                norms = {e: n.value / factor for e, n in norms.items() if e in sent[b]}
                found.setdefault((name, line or b.line), []).append(norms)
        for key, several in found.items():
            loss = self.losses.setdefault(key, Loss(*key))
            for norms in several:
                loss.add(norms, len(found) > 1)
        keys = list(found)
        for i, a in enumerate(keys):
            for b in keys[:i]:
                if any(e in found[b][0] for e in found[a][0]):
                    self.pairs[b, a] = self.pairs.get((b, a), 0) + 1
        if len(keys) == 2 and all(len(several) == 1 for several in found.values()):
            self._cosine(row, keys, found[keys[0]][0], found[keys[1]][0], sent)

    def _cosine(self, row, keys, first, second, sent) -> None:
        """Of the angle between two gradients, from the norms of both and of their sum."""
        shared = [e for e in first if e in second]
        if len(row.backwards) == 1:  # terms of one sum
            b = row.backwards[0]
            total = [sent[b][e].value / b.factor() for e in shared]
        else:
            if any(ev[0] == "held" and ev[2] is not None for e in shared for ev in e.events):
                return  # an old gradient is in the sum
            if any(e.later for e in shared):
                return  # what was added to is what clipping has left
            total = [row.before[e].value / row.factor() for e in shared if e in row.before]
            scales = {b.factor() for b in row.backwards}
            if len(total) != len(shared) or len(scales) > 1 or (row.scale is None and scales != {1.0}
                                                                and not all(e.unscaled for e in shared)):
                return
        a, b, both = (math.hypot(*norms) for norms in ([first[e] for e in shared], [second[e] for e in shared], total))
        # beside a gradient that is greater by far, the other one is in the rounding of the sum
        if all(map(math.isfinite, (a, b, both))) and 0 < max(a, b) <= ALIKE * min(a, b):
            cosine = (both * both - a * a - b * b) / (2 * a * b)
            self.cosines.setdefault(tuple(keys), []).append(max(-1.0, min(1.0, cosine)))

    def together(self) -> list[dict]:
        """For each two losses that met: {"losses": [{"name", "line", "norm"}, ...], "parameters": how many, "steps",
        "cosine": median}; norms are medians over the passes, of the parameters that both reach."""
        found = []
        for (a, b), steps in self.pairs.items():
            first, second = self.losses[a], self.losses[b]
            shared = [e for e in first.norms if e in second.norms]
            if not shared:
                continue
            cosines = self.cosines.get((a, b)) or self.cosines.get((b, a))
            found.append({"losses": [{"name": x.name, "line": x.line, "norm": _middle(x, shared)}
                                     for x in (first, second)], "parameters": len(shared), "steps": steps,
                          "cosine": None if cosines is None else statistics.median(cosines)})
        return found

    def met(self) -> list[Loss]:
        """The losses that met another one."""
        keys = {k for pair in self.pairs for k in pair}
        return [loss for key, loss in self.losses.items() if key in keys]


def _middle(loss, shared) -> float:
    return math.hypot(*[statistics.median(loss.norms[e]) for e in shared])
