"""The sums of a profile: by operator, forward and backward, by module, kernel and optimizer, beside the ceilings."""
from __future__ import annotations

from collections import Counter

from ..cost.ceiling import Ceiling
from .watch import APPLICATIONS, Ran

__all__ = ["Sums", "rates"]


class Sum:
    """What spans of one name took together. `seconds` counts a span within another of the same name once."""

    def __init__(self):
        self.calls = self.failed = 0
        self.seconds = self.own = 0.0
        self.device: float | None = None
        self.applications = self.unknown = 0  # operators, and those of them whose cost is not known
        self.flops = self.products = 0.0
        self.bytes = 0
        self.dtypes: Counter[str] = Counter()

    def took(self, ran: Ran) -> None:
        self.calls += 1
        self.failed += ran.failed
        self.own += ran.own
        if not ran.again:
            self.seconds += ran.seconds - ran.recomputed
            if ran.device is not None:
                self.device = (self.device or 0.0) + ran.device - ran.recomputed_device

    def costs(self, ran: Ran) -> None:
        """What one operator application computes and moves."""
        self.applications += 1
        cost = ran.cost
        if cost is None or not cost.known:
            self.unknown += 1
            return
        self.flops += cost.flops
        self.products += cost.products
        self.bytes += cost.bytes
        form = next((a for side in reversed(ran.signature) for a in side if a is not None), None)
        if form is not None:
            self.dtypes[form[0].name] += 1

    @property
    def dtype(self) -> str | None:
        """The dtype of most results."""
        return next((name for name, _ in self.dtypes.most_common(1)), None)


class Module:
    """The calls of a module, and the backward of what they made. `own`: without the modules within."""

    def __init__(self, name, kind):
        self.name, self.kind = name, kind
        self.forward, self.backward = Sum(), Sum()


class Sums:
    """Everything that was taken from a Watch so far."""

    def __init__(self):
        self.thread = None  # of the block: its parts add up to the block's time
        self.forward: dict[str, Sum] = {}
        self.backward: dict[str, Sum] = {}
        self.rules: dict[str, Sum] = {}
        self.again: dict[str, Sum] = {}  # what checkpoints ran a second time
        self.kernels: dict[str, Sum] = {}
        self.steps: dict[str, Sum] = {}
        self.modules: dict[tuple, Module] = {}
        self.areas: Counter = Counter()
        self.threads: set = set()
        self.counts: Counter = Counter()
        self.device: float | None = None  # of the outermost spans with events

    def add(self, ran: Ran) -> None:
        self.counts[ran.kind] += 1
        self.threads.add(ran.thread)
        if ran.thread is self.thread:
            self.areas[ran.area] += ran.own
        if ran.device is not None and not any(a.first is not None for a in _around(ran)):
            self.device = (self.device or 0.0) + ran.device
        if ran.second and ran.kind in APPLICATIONS:
            of(self.again, ran.name).took(ran)
            if ran.kind == "operator":
                of(self.again, ran.name).costs(ran)
            return
        if ran.kind == "again" or ran.second and ran.kind == "module":
            return
        if ran.kind in APPLICATIONS:
            self._application(ran)
        elif ran.kind == "backward":
            of(self.backward, ran.name).took(ran)
        elif ran.kind == "kernel":
            found = of(self.kernels, ran.name)
            found.took(ran)
            found.bytes += ran.bytes
        elif ran.kind == "step":
            of(self.steps, ran.name).took(ran)
        self._module(ran)

    def _application(self, ran) -> None:
        table = self.rules if ran.rule else self.forward
        found = of(table, ran.name)
        found.took(ran)
        if ran.kind == "inplace":
            return
        found.costs(ran)
        if ran.rule and not ran.inside:
            node = ran.under("backward")
            of(self.backward, node.name).costs(ran)
            for place in _modules(node.source):
                self._of(place).backward.costs(ran)
        elif not ran.inside:
            for place in _modules(ran):
                self._of(place).forward.costs(ran)

    def _module(self, ran) -> None:
        if ran.kind == "module":
            if not ran.rule:
                self._of(ran).forward.took(ran)
        elif ran.kind == "backward":
            for k, place in enumerate(_modules(ran.source)):
                found = self._of(place).backward
                found.calls += 1
                found.seconds += ran.seconds - ran.recomputed
                found.own += 0.0 if k else ran.seconds - ran.recomputed
                if ran.device is not None:
                    found.device = (found.device or 0.0) + ran.device - ran.recomputed_device
        elif not ran.rule:  # what runs in a module's own code is its own
            inner = next(_modules(ran), None)
            if inner is not None:
                self._of(inner).forward.own += ran.own

    def _of(self, place) -> Module:
        key = place.place
        if key not in self.modules:
            self.modules[key] = Module(*key)
        return self.modules[key]


def of(table, name) -> Sum:
    found = table.get(name)
    if found is None:
        found = table[name] = Sum()
    return found


def _around(ran):
    above = ran.parent
    while above is not None:
        yield above
        above = above.parent


def _modules(ran):
    """The calls of modules around a span, the innermost first; none for None, none of a module within itself."""
    seen = set()
    for above in () if ran is None else _around(ran):
        if above.kind == "module" and above.place not in seen:
            seen.add(above.place)
            yield above


# beside the ceilings

def rates(found: Sum, seconds: float | None, ceiling: Ceiling | None, gpu: bool = False) -> dict:
    """What was reached in `seconds`, and the bound: the longest of the times that bytes, operations and launches need
    at the measured ceilings. `share` is that time's share of what was needed; None where a cost is not known. A
    GPU's own time has no launches in it: they are the host's."""
    known = found.applications > 0 and not found.unknown
    row: dict = {"flops": found.flops if known else None, "products": found.products if known else None,
           "bytes": found.bytes if known else None, "dtype": found.dtype,
           "intensity": found.flops / found.bytes if known and found.bytes else None,
           "bytes_per_s": None, "flops_per_s": None, "bound": None, "share": None}
    if not known or not seconds:
        return row
    row["bytes_per_s"], row["flops_per_s"] = found.bytes / seconds, found.flops / seconds
    if ceiling is not None:
        speed = ceiling.products.get(found.dtype or "") or ceiling.products["float32"]
        least = {"memory": found.bytes / ceiling.bandwidth, "arithmetic": found.flops / speed,
                 "launch": 0.0 if gpu else found.applications * ceiling.launch}
        row["bound"] = max(least, key=lambda k: least[k])
        row["share"] = least[row["bound"]] / seconds
    return row


def figures(found: Sum, taken: float, ceiling: Ceiling | None, gpu: bool) -> dict:
    """A row of a table: calls, seconds, share of what the program took, and rates."""
    return {"calls": found.calls, "failed": found.failed, "seconds": found.seconds, "own_seconds": found.own,
            "device_seconds": found.device, "time_share": found.seconds / taken if taken else None,
            "operators": found.applications, "unknown": found.unknown,
            **rates(found, found.device if gpu else found.seconds, ceiling, gpu)}
