"""Where the boxes and arrows of a graph's picture lie: each list of operators in layers, modules as boxes around."""
from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..drawing import Drawing
from ..terminal import count_of, figure, size_of
from .fold import Group, Item, Op, ids_of

__all__ = ["about", "layers", "layout", "said", "with_leaves"]

BOLD, PLAIN, LINE = 8.0, 6.8, 15  # pixels of a letter of the names and of the rest, rather too many, and of a line
PAD, GAP_X, GAP_Y, TITLE = 9, 26, 40, 22


def with_leaves(tree, data, opened) -> list[Item]:
    """The tree as it is drawn: closed groups without what is in them, open repeats by their first part, each leaf in
    the innermost list that holds all who use it."""
    users: dict[int, list[int]] = {n["id"]: [] for n in data["nodes"] if n["kind"] == "leaf"}
    for n in data["nodes"]:
        for e in n["inputs"]:
            if e["node"] in users:
                users[e["node"]].append(n["id"])
    paths: dict[int, tuple] = {}
    hidden: dict[int, Group] = {}  # operators of closed groups and of the later parts of open repeats

    def copy(items, path):
        found: list[Item] = []
        for item in items:
            if isinstance(item, Op):
                paths[item.id] = path
                found.append(item)
            else:
                shown = item in opened
                g = Group(item.kind, item.label, item.name, [], item.parts or [item.items], shown)
                if shown:
                    g.items = copy(item.items, (*path, g))
                for i in ids_of(item):
                    if i not in paths:
                        paths[i], hidden[i] = path, g
                found.append(g)
        return found

    top = copy(tree, ())
    for leaf, by in users.items():
        if len({id(hidden.get(u)) for u in by}) == 1 and by[0] in hidden:
            continue  # it is hidden with all who use it
        shared = []
        for level in zip(*(paths[u] for u in by)):
            if any(g is not level[0] for g in level):
                break
            shared.append(level[0])
        (shared[-1].items if shared else top).insert(0, Op(leaf))
    return top


def _inside(item):
    """Operators and leaves in an item as it is drawn."""
    if isinstance(item, Op):
        return [item.id]
    found = list(ids_of([p for part in item.parts for p in part]))
    stack = list(item.items)
    while stack:
        top = stack.pop()
        if isinstance(top, Op):
            found.append(top.id)
        else:
            stack += top.items
    return found


def layers(members, nodes) -> list[list[int]]:
    """Places of the items of a list by layer: each below all that it needs, leaves right above their first user.

    `members` are the numbers of the operators and leaves in each item, `nodes` the nodes by number.
    """
    place = {i: k for k, member in enumerate(members) for i in member}
    pairs: dict[tuple[int, int], None] = {}
    for i, k in place.items():
        for e in nodes[i]["inputs"]:
            j = place.get(e["node"])
            if j is not None and j != k:
                pairs.setdefault((j, k))
    before: dict[int, list[int]] = {k: [] for k in range(len(members))}
    after: dict[int, list[int]] = {k: [] for k in range(len(members))}
    for j, k in pairs:
        before[k].append(j)
        after[j].append(k)
    leaf = [len(m) == 1 and nodes[m[0]]["kind"] == "leaf" for m in members]
    order = sorted(range(len(members)), key=lambda k: (not leaf[k], min(members[k])))
    rank = {k: n for n, k in enumerate(order)}
    depth: dict[int, int] = {}
    for k in order:
        depth[k] = max((depth[j] + 1 for j in before[k] if rank[j] < rank[k]), default=0)
    for k in order:
        if leaf[k] and after[k]:
            depth[k] = min(depth[a] for a in after[k]) - 1
    found: list[list[int]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for k in order:
        found[depth[k]].append(k)
    position = {k: n for row in found for n, k in enumerate(row)}
    for sweep in range(4):
        near = before if sweep % 2 == 0 else after
        for row in found if sweep % 2 == 0 else reversed(found):
            centre = {k: sum(position[j] / max(1, len(found[depth[j]])) for j in near[k]) / len(near[k]) if near[k]
                      else (position[k] + 0.5) / len(row) for k in row}
            row.sort(key=lambda k: centre[k])
            position.update({k: n for n, k in enumerate(row)})
    return found


@dataclass
class _Box:
    item: Item
    width: float
    height: float
    x: float = 0.0
    y: float = 0.0
    inner: list[_Box] = field(default_factory=list)


def layout(view, opened) -> Drawing:
    """The picture of a `Graph`, as boxes, arrows and texts."""
    tree = with_leaves(view.tree, view.data, opened)
    boxes, width, height = _arrange(view, tree)
    title = view._summary()
    drawing = Drawing(max(width + 2 * PAD, len(title) * 8.9 + 2 * PAD, 420), height + 2 * PAD + 3 * LINE)
    drawing.text(PAD, LINE + 2, title, "title")
    drawing.text(PAD, 2 * LINE + 6, "forward: value and its norm", "forward")
    drawing.text(PAD + 190, 2 * LINE + 6, "backward: norm of the gradient", "backward")
    _shift(boxes, (drawing.width - width) / 2, PAD + 3 * LINE)
    where: dict[int, _Box] = {}
    _paint(view, drawing, boxes, where)
    _arrows(view, drawing, where)
    return drawing


def _arrange(view, items):
    boxes = []
    for item in items:
        texts, forward, backward = said(view, item)
        norms = [f"{forward}   {backward}"] if forward or backward else []
        wide, lines = _width([*texts, *norms]), len(texts) + len(norms)
        if isinstance(item, Op) or not item.open:
            boxes.append(_Box(item, wide + 2 * PAD, lines * LINE + PAD))
            continue
        inner, width, height = _arrange(view, item.items)
        box = _Box(item, max(width, wide) + 2 * PAD, height + TITLE + (lines - 1) * LINE + 2 * PAD, inner=inner)
        _shift(inner, (box.width - width) / 2, TITLE + PAD)
        boxes.append(box)
    rows = [[boxes[k] for k in row] for row in layers([_inside(i) for i in items], view.nodes)]
    total = max((sum(b.width for b in row) + GAP_X * (len(row) - 1) for row in rows), default=0)
    y = 0.0
    for row in rows:
        x = (total - sum(b.width for b in row) - GAP_X * (len(row) - 1)) / 2
        high = max(b.height for b in row)
        for b in row:
            leaf = isinstance(b.item, Op) and view.nodes[b.item.id]["kind"] == "leaf"
            b.x, b.y = x, y + (high - b.height) / (1 if leaf else 2)
            x += b.width + GAP_X
        y += high + GAP_Y
    return boxes, total, max(0.0, y - GAP_Y)


def _width(texts) -> float:
    """Of a name and lines below it."""
    return max(len(texts[0]) * BOLD, *(len(t) * PLAIN for t in texts))


def _shift(boxes, x, y) -> None:
    for b in boxes:
        b.x += x
        b.y += y


def about(view, group) -> str:
    """What is in a group, and what it keeps."""
    held = view.saved(group)
    return count_of(len(ids_of(group)), "operator") + ("" if held is None else f", saves {size_of(held)}")


def said(view, item) -> tuple[list[str], str, str]:
    """(what a box says, its name first; the norm of what it computes; that of the gradient that arrived there)."""
    shape, *norms = view.flow(item)
    forward, backward = [f"{mark} {norm}" if norm else "" for mark, norm in zip("↓↑", norms)]
    if isinstance(item, Op):
        n = view.nodes[item.id]
        name = n["name"] if n["kind"] == "leaf" else f"{n['name']} #{item.id} {item.name}".rstrip()
        return [name, shape], forward, backward
    if not item.open:
        return [item.title, *([item.name] if item.name else []), about(view, item), shape], forward, backward
    if item.kind == "repeat":  # of which the first is inside
        name = f"{item.title}, the first: {item.name}".strip()
        return [name, f"all {item.count}: {about(view, item)}", shape], forward, backward
    return [f"{item.title} {item.name}".strip()], "", ""


def _paint(view, drawing, boxes, where, x=0.0, y=0.0) -> None:
    for b in boxes:
        b.x += x
        b.y += y
        (name, *texts), forward, backward = said(view, b.item)
        centre, below = b.x + b.width / 2, b.y + LINE
        if isinstance(b.item, Op):
            n = view.nodes[b.item.id]
            drawing.box(b.x, b.y, b.width, b.height, n["kind"], tip=_tip(n))
        else:
            drawing.box(b.x, b.y, b.width, b.height, b.item.kind + ("-open" if b.item.open else ""))
        if b.inner:
            drawing.text(b.x + PAD, below + 1, name, "name")
            _paint(view, drawing, b.inner, where, b.x, b.y)
            below = b.y + b.height - PAD - LINE * (len(texts) + bool(forward or backward)) + 1
            apart = (centre - PAD, "end", centre + PAD, "start")
        else:
            drawing.text(centre, below, name, "name", "middle")
            apart = (b.x + PAD, "start", b.x + b.width - PAD, "end")
        for k, text in enumerate(texts, 1):
            drawing.text(centre, below + k * LINE, text, "shape", "middle")
        below += (len(texts) + 1) * LINE
        if forward:
            drawing.text(apart[0], below, forward, "forward", apart[1])
        if backward:
            drawing.text(apart[2], below, backward, "backward", apart[3])
        for i in _inside(b.item):  # those of a closed group, and of a repeat's parts that are not drawn
            where.setdefault(i, b)


def _tip(n) -> str:
    line = n.get("line")
    return f"{line['file']}:{line['number']}\n{line['source']}" if line else ""


def _arrows(view, drawing, where) -> None:
    edges: dict[tuple[int, int], tuple] = {}
    for n in view.data["nodes"]:
        for e in n["inputs"]:
            a, b = where.get(e["node"]), where[n["id"]] if n["inputs"] else None
            if a is None:
                continue
            if a is not b and not _around(a, b) and not _around(b, a):
                known = edges.get((id(a), id(b)))
                edges[id(a), id(b)] = (a, b, e["gradient"] if known is None else None)
    arriving: dict[int, list] = {}
    leaving: dict[int, list] = {}
    for a, b, _ in edges.values():
        arriving.setdefault(id(b), []).append(a)
        leaving.setdefault(id(a), []).append(b)
    into, out_of = _ports(arriving, -1), _ports(leaving, 1)
    lanes = _Lanes({id(box): box for box in where.values() if isinstance(box.item, Op) or not box.item.open})
    for a, b, gradient in edges.values():
        x1, y1 = a.x + a.width * out_of[id(a)][id(b)], a.y + a.height
        x2, y2 = b.x + b.width * into[id(b)][id(a)], b.y
        lane = lanes.take(x1, y1, x2, y2, a, b) if y2 - y1 > 2.2 * GAP_Y else None  # past other boxes
        drawing.arrow(x1 - 3, y1, x2 - 3, y2, "forward", None if lane is None else lane - 3)
        drawing.arrow(x2 + 3, y2, x1 + 3, y1, "backward", None if lane is None else lane + 3)
        if gradient:  # nearer to the reader: curves cross in the middle
            x, t = (x1 + (x2 - x1) * 0.8, 0.7) if lane is None else (lane, 0.5)
            drawing.text(x + 7, y1 + t * (y2 - y1) + 3, figure(gradient["norm"]), "edge")


def _ports(others, down) -> dict[int, dict[int, float]]:
    """{box: {other: the share of the box's width where their arrow meets it}}, by ids, from the others of each box. Of
    those above one another the farther ones are on the right; `down`: 1 where the others lie below, -1 above."""
    found = {}
    for box, several in others.items():
        ranked = sorted(several, key=lambda o: (round(o.x + o.width / 2), down * o.y))
        found[box] = {id(o): (k + 1) / (len(ranked) + 1) for k, o in enumerate(ranked)}
    return found


class _Lanes:
    """Where long arrows run up and down between boxes."""

    def __init__(self, boxes):
        self._places = {key: k for k, key in enumerate(boxes)}
        self._boxes = np.array([(b.x - 9, b.x + b.width + 9, b.y, b.y + b.height) for b in boxes.values()],
                               np.float64).reshape(-1, 4)
        self._taken = np.empty((16, 4))  # as the boxes: lanes in use
        self._count = 0

    def take(self, x1, y1, x2, y2, a, b) -> float:
        """An x where a vertical line meets no box but `a` and `b` and no arrow in a lane, as near to both ends as there
        is one."""
        left, right, top, bottom = self._boxes.T
        near = (top < y2 - 20) & (bottom > y1 + 20)
        near[[k for k in map(self._places.get, (id(a), id(b))) if k is not None]] = False
        left2, right2, top2, bottom2 = self._taken[:self._count].T
        beside = (top2 < y2) & (bottom2 > y1)
        lefts, rights = np.r_[left[near], left2[beside]], np.r_[right[near], right2[beside]]
        able = np.r_[x1, x2, (x1 + x2) / 2, lefts - 5, rights + 5]
        order = np.argsort(lefts)
        farthest = np.r_[-np.inf, np.maximum.accumulate(rights[order])]  # of all that begin before a place
        able = able[farthest[np.searchsorted(lefts[order], able)] <= able]
        way = np.abs(able - x1) + np.abs(able - x2)
        lane = float(able[way == way.min()].min())
        if self._count == len(self._taken):
            self._taken = np.r_[self._taken, np.empty_like(self._taken)]
        self._taken[self._count] = lane - 12, lane + 12, y1, y2
        self._count += 1
        return lane


def _around(outer, inner) -> bool:
    return (outer.x <= inner.x and outer.y <= inner.y and outer.x + outer.width >= inner.x + inner.width
            and outer.y + outer.height >= inner.y + inner.height)
