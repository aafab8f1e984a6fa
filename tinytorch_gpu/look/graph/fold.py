"""Folding: the operators of a graph as a tree of modules, with repeated structure found and put together."""
from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Group", "Item", "Op", "fold", "ids_of"]

LONG = 36  # items in one list; longer ones are bundled
PERIOD = 400  # the longest repeated stretch that is looked for
WORTH = 3  # operators that folding must hide


@dataclass(eq=False)
class Op:
    """One operator, by its number; `name` is that of a module of which it is all."""

    id: int
    name: str = ""


@dataclass(eq=False)
class Group:
    """`kind`: "module" (one call), "repeat" (`parts` alike, the first of them in `items`) or "bundle" (of a long list).

    `label` is a module's class or the names of what repeats; `name` the module's dotted name, or those from first to
    last; `open`: asked for by `unfold`."""

    kind: str
    label: str
    name: str
    items: list[Item] = field(default_factory=list)
    parts: list[list[Item]] = field(default_factory=list)
    open: bool = False

    @property
    def count(self) -> int:
        """How often it stands there."""
        return max(1, len(self.parts))

    @property
    def title(self) -> str:
        """Its label; the count of a repeat stands before it, where no narrow column cuts it off."""
        return times(self.count, self.label, "×") if self.kind == "repeat" else self.label


Item = Op | Group


def times(count: int, label: str, sign="x") -> str:
    """2 x Linear, 99 x (Add, Tanh)."""
    return f"{count} {sign} ({label})" if "," in label else f"{count} {sign} {label}"


def ids_of(item) -> list[int]:
    """The operators in an item or a list of them."""
    found, stack = [], [item]
    while stack:
        top = stack.pop()
        if isinstance(top, Op):
            found.append(top.id)
        elif isinstance(top, list):
            stack += reversed(top)
        else:
            stack += reversed(top.parts or top.items)
    return found


def fold(data, unfold=()) -> list[Item]:
    """The tree of a graph's data. `unfold`: True for everything, or names of modules, classes or repeats to show whole.

    Raises: ValueError for a name that nothing has.
    """
    if unfold is None or unfold is False:
        unfold = ()
    names = {unfold} if isinstance(unfold, str) else set() if unfold is True else set(unfold)
    folder = _Folder(data, names)
    tree = folder.tree()
    if unfold is not True:
        tree = folder.folded(tree)
        if unknown := names - folder.met:
            known = sorted({m["name"] for m in data["modules"] if m["name"]} | folder.labels)
            raise ValueError(f"[graph] nothing to unfold is called {', '.join(map(repr, sorted(unknown)))}; there are "
                             f"{', '.join(known[:40]) or 'no modules recorded and no repeats'}")
    return tree


class _Folder:
    def __init__(self, data, names):
        self.names, self.met, self.labels = names, set(), set()
        self.nodes = {n["id"]: n for n in data["nodes"]}
        self.operators = [n for n in data["nodes"] if n["kind"] == "operator"]
        self.calls = data["modules"]
        self.numbers: dict = {}  # signature -> number

    def tree(self) -> list[Item]:
        top: list[Item] = []
        groups: dict[int, Group] = {}

        def group(i):
            if i not in groups:
                call = self.calls[i]
                g = groups[i] = Group("module", call["class"], call["name"] or "")
                hits = {n for n in self.names if n in (g.name, g.label) or (g.name and n.startswith(g.name + "."))}
                self.met |= hits & {g.name, g.label}
                g.open = bool(hits)
                (top if call["parent"] is None else group(call["parent"]).items).append(g)
            return groups[i]

        for n in self.operators:
            (top if n["module"] is None else group(n["module"]).items).append(Op(n["id"]))
        for i in sorted(groups, reverse=True):  # what leads to an open module is open; calls around come first
            parent = self.calls[i]["parent"]
            if groups[i].open and parent is not None:
                groups[parent].open = True
        return top

    # signatures: what makes two stretches alike

    def number(self, signature) -> int:
        return self.numbers.setdefault(signature, len(self.numbers))

    def key(self, item) -> int:
        if isinstance(item, Op):
            n = self.nodes[item.id]
            return self.number((n["name"], bool(item.name), *_shapes(n)))
        if item.open:
            return self.number(("open", id(item)))
        return self.number((item.label, self.signature([item])))

    def signature(self, items) -> int:
        """Of the operators in some items: names, shapes, and how they hang together."""
        ids = ids_of(items)
        place = {n: i for i, n in enumerate(ids)}
        outside: dict[tuple, int] = {}  # numbered as they come: a * b and b * b differ
        found = []
        for i in ids:
            n = self.nodes[i]
            wires = []
            for e in n["inputs"]:
                source = e["node"]
                if source is None:
                    wires.append(e["literal"] or "constant")
                elif source in place:
                    wires.append((place[source], e["output"]))
                else:
                    k = outside.setdefault((source, e["output"]), len(outside))
                    wires.append((self.nodes[source]["kind"], k, *e["shape"], e["dtype"]))
            found.append((n["name"], _shapes(n), tuple(wires)))
        return self.number(tuple(found))

    # folding

    def folded(self, items) -> list[Item]:
        for i, item in enumerate(items):
            if isinstance(item, Group):
                item.items = self.folded(item.items)
                if not item.open and len(item.items) == 1 and isinstance(item.items[0], Op):
                    items[i] = Op(item.items[0].id, item.name)
        return self.level(items)

    def level(self, items) -> list[Item]:
        """One list folded, whose modules are folded already."""
        found: list[Item] = []
        for start, period, count in self.repeats(items):
            stretch = items[start:start + period * count]
            if count == 1:
                found += stretch
                continue
            parts = [stretch[i:i + period] for i in range(0, len(stretch), period)]
            label = _label(parts[0], self.nodes)
            self.labels.add(label)
            if label in self.names:
                self.met.add(label)
                found += stretch
                continue
            if period > 1:  # a stretch may have repeats of its own; a single item is folded already
                parts = [self.level(part) for part in parts]
            found.append(Group("repeat", label, _span(parts), parts[0], parts))
        return self.bundled(found)

    def repeats(self, items) -> list[tuple[int, int, int]]:
        """[(first, period, count)] that cover the items; where nothing repeats, count is 1."""
        n = len(items)
        keys = np.array([self.key(item) for item in items], np.int64)
        best, period = np.zeros(n, np.int64), np.ones(n, np.int64)
        for p in range(1, min(n // 2, PERIOD) + 1):
            same = keys[:-p] == keys[p:]
            if not same.any():
                continue
            ends = np.where(same, n, np.arange(n - p))
            run = np.minimum.accumulate(ends[::-1])[::-1]
            run = np.minimum(run, n - p) - np.arange(n - p)
            covered = np.where(run >= p, (run // p + 1) * p, 0)
            better = covered > best[:n - p]
            best[:n - p][better] = covered[better]
            period[:n - p][better] = p
        found, i = [], 0
        while i < n:
            p = int(period[i])
            count = self.alike(items, i, p, int(best[i]) // p) if best[i] else 1
            if count > 1 and (count - 1) * len(ids_of(items[i:i + p])) >= WORTH:
                found.append((i, p, count))
                i += p * count
            else:
                found.append((i, 1, 1))
                i += 1
        return found

    def alike(self, items, start, period, count) -> int:
        """How many of the `count` stretches from `start` on hang together like the first."""
        first = self.signature(items[start:start + period])
        for k in range(1, count):
            at = start + k * period
            if self.signature(items[at:at + period]) != first:
                return k
        return count

    def bundled(self, items) -> list[Item]:
        """A list that is too long, in pieces of equal size."""
        while len(items) > LONG:
            size = math.ceil(len(items) / LONG) if len(items) <= LONG * LONG else LONG
            pieces = [items[i:i + size] for i in range(0, len(items), size)]
            bundles: list[Item] = []
            for piece in pieces:
                if any(isinstance(i, Group) and i.open for i in piece) or len(piece) == 1:
                    bundles += piece
                else:
                    ids = ids_of(piece)
                    bundles.append(Group("bundle", _counts(ids, self.nodes), f"#{ids[0]} to #{ids[-1]}", piece))
            if len(bundles) == len(items):
                break
            items = bundles
        return items


def _shapes(n):
    return tuple((*o["shape"], o["dtype"]) for o in n["outputs"])


def _label(part, nodes) -> str:
    names = [nodes[i.id]["name"] if isinstance(i, Op) else times(i.count, i.label) if i.count > 1 else i.label
             for i in part]
    return ", ".join(names if len(names) <= 4 else [*names[:2], "...", names[-1]])


def _span(parts) -> str:
    """The modules' names from the first to the last."""
    ends = [[i.name for i in part if i.name and (isinstance(i, Op) or i.kind == "module")] for part in
            (parts[0], parts[-1])]
    if not ends[0] or not ends[1]:
        return ""
    return ends[0][0] if ends[0] == ends[1] else f"{ends[0][0]} ... {ends[1][-1]}"


def _counts(ids, nodes) -> str:
    """Which operators, most frequent first."""
    found: dict[str, int] = {}
    for i in ids:
        found[nodes[i]["name"]] = found.get(nodes[i]["name"], 0) + 1
    most = sorted(found.items(), key=lambda pair: -pair[1])
    return ", ".join(times(n, name) for name, n in most[:3]) + (", ..." if len(most) > 3 else "")
