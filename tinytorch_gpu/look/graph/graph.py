"""`look.graph(loss)`: the graph that produced a tensor, forward beside backward."""
from __future__ import annotations

from .. import drawing
from ..terminal import Column, Paper, Tables, count_of, figure, shape_of, size_of, table, with_notes, wrap
from ..view import View
from . import dot
from . import page as graph_page
from .collect import collect, roots_of, short_file
from .fold import Group, Op, fold, ids_of
from .layout import layout

__all__ = ["Graph", "graph"]

DRAWN = 60  # boxes of a picture, unless the user unfolds more


def graph(loss, model=None, unfold=()) -> Graph:
    """The graph that produced `loss`, a Tensor or a list of them: operators, shapes, saved bytes, lines, norms.

    `model`, a Module or a dictionary of names and Tensors, names the leaves; modules called under `look.record()` name
    their own. Repeated structure is folded; `unfold` is True, or names of modules ("layers.3"), of classes ("Block")
    or of repeats to show whole. What was not recorded is missing, and the view says so.

    Raises: TypeError for what is no Tensor, ValueError for one without a graph and for an unknown name in `unfold`.
    """
    return Graph(collect(roots_of("graph", loss), model), unfold)


class Graph(View):
    """The view of `look.graph`. `data["nodes"]` are the operators in order and then the leaves."""

    def __init__(self, data: dict, unfold=()):
        self.tree = fold(data, unfold)
        self.nodes = {n["id"]: n for n in data["nodes"]}
        self.data = {**data, "folded": [_plain(item) for item in self.tree]}
        self._all = unfold is True

    def __repr__(self):
        totals = self.data["totals"]
        return (f"<look.graph: {count_of(totals['operators'], 'operator')}, {count_of(totals['leaves'], 'leaf')}, "
                f"{size_of(totals['saved_bytes'])} saved>")

    # text

    def lines(self, paper: Paper) -> list[str]:
        head = [
            Column(f"forward {paper.down}", least=max(18, paper.width // 6)),
            Column("from", keep=1, least=max(8, paper.width // 8)), Column("output", least=9),
            Column(f"{paper.norm}output{paper.norm}", right=True, keep=3),
            Column(f"{paper.norm}grad{paper.norm} {paper.up}", right=True, keep=2, rule=True),
            Column("to inputs", keep=5, least=15), Column("saves", right=True, keep=4, rule=True),
            Column("line", keep=6, least=20),
        ]
        leaves = self._leaves(paper)
        opened = open_groups(self.tree, None if self._all else paper.rows - len(leaves))
        tables = Tables(paper)
        lines = [*wrap(paper, self._summary()), "", *tables.write(head, self._rows(paper, self.tree, opened)), *leaves]
        return lines + with_notes(paper, [*self._folded(opened), *self.data["missing"]], tables.hidden(),
                                  '; print with a greater width, or save("graph.html")')

    def _summary(self) -> str:
        totals = self.data["totals"]
        roots = [self.nodes[o["node"]] for o in self.data["outputs"]]
        kinds = ", ".join(f"{size_of(n)} {kind if kind == 'packed' else kind + 's'}"
                          for kind, n in totals["saved_by_kind"].items() if n and kind != "parameter")
        text = (f"graph of {', '.join(n['name'] for n in roots)}: {count_of(totals['operators'], 'operator')}, "
                f"{count_of(totals['leaves'], 'leaf')} of {size_of(totals['leaf_bytes'])}; saves "
                f"{size_of(totals['saved_bytes'])} for backward")
        return text + (f" ({kinds})" if kinds else "")

    def _rows(self, paper, items, opened, depth=0, inside="") -> list[list[str]]:
        rows = []
        indent = f"{paper.v} " * depth
        for item in items:
            if isinstance(item, Op):
                rows.append(self._row(paper, item, indent, inside))
                continue
            shown = item in opened
            what = count_of(len(ids_of(item)), "operator")
            if item.kind == "repeat":
                what += f" in all, the first of {item.count}{':' if shown else ' alike'}"
            where = _within(item.name, inside)
            where = f"({where})" if where and item.kind == "repeat" else where
            name = f"{indent}{'' if shown else '+ '}{item.title} {where}".rstrip()
            rows.append([name, what, *self.flow(item), "", size_of(self.saved(item)), ""])
            if shown:
                rows += self._rows(paper, item.items, opened, depth + 1, item.name if item.kind == "module" else inside)
        return rows

    def _row(self, paper, item, indent, inside) -> list[str]:
        n = self.nodes[item.id]
        line = n["line"]
        sent = [f"{self.source(e, n)} {figure(e['gradient']['norm'])}" for e in n["inputs"]
                if e["node"] is not None and e["gradient"] is not None]
        return [
            f"{indent}#{n['id']} {n['name']} {_within(item.name, inside)}".rstrip(), self.sources(n), *self.flow(item),
            ", ".join(sent), "freed" if n["saved_bytes"] is None else size_of(n["saved_bytes"] or None),
            f"{short_file(line['file'])}:{line['number']} {line['source']}" if line else "",
        ]

    def result_of(self, item) -> dict:
        """The node whose result is that of an item: its own, or the last operator of a group."""
        return self.nodes[item.id if isinstance(item, Op) else max(ids_of(item))]

    def flow(self, item) -> list[str]:
        """The result's type and shape, its norm, and the norm of the gradient that arrived at it."""
        first, *others = self.result_of(item)["outputs"]
        more = f" +{len(others)}" if others else ""
        value, gradient = first["value"], first["gradient"]
        return [shape_of(first["dtype"], first["shape"]) + more, figure(value and value["norm"]),
                figure(gradient and gradient["norm"])]

    def sources(self, n) -> str:
        """All inputs of a node that are there."""
        return ", ".join(self.source(e, n) for e in n["inputs"] if e["literal"] != "None")

    def source(self, e, reader) -> str:
        """What an input is: #3, a leaf's name within the reader's module, a number, or the shape of constant data."""
        if e["node"] is None:
            return e["literal"] or (shape_of(e["dtype"], e["shape"]) if e["shape"] is not None else "data")
        n = self.nodes[e["node"]]
        if n["kind"] == "leaf":
            call = None if reader["module"] is None else self.data["modules"][reader["module"]]
            return _within(n["name"], call["name"]) if call else n["name"]
        return f"#{n['id']}" + (f".{e['output']}" if e["output"] else "")

    def saved(self, item) -> int | None:
        """Bytes that the operators of an item keep; None where a backward has freed them."""
        found = [self.nodes[i]["saved_bytes"] for i in ids_of(item)]
        return None if None in found else sum(found) or None

    def _folded(self, opened) -> list[str]:
        """How to see what is folded, where something is."""
        stack, found = list(self.tree), []
        while stack:
            item = stack.pop(0)
            if isinstance(item, Group):
                if item.kind == "repeat" or item not in opened:
                    found.append(item)
                stack += item.items if item in opened else []
        names = [g.label if g.kind == "repeat" else g.name for g in found if g.kind != "bundle" and (
            g.kind == "repeat" or g.name)]
        if not found:
            return []
        way = f'"{names[0]}") or unfold=True' if names else "True)"
        return [f"folded: look.graph(loss, unfold={way} shows more"]

    def _leaves(self, paper) -> list[str]:
        leaves = [n for n in self.data["nodes"] if n["kind"] == "leaf"]
        shown = leaves if self._all else leaves[:12]
        rows = [[n["name"], shape_of(n["outputs"][0]["dtype"], n["outputs"][0]["shape"]), size_of(n["bytes"]),
                 figure(n["outputs"][0]["gradient"] and n["outputs"][0]["gradient"]["norm"])] for n in shown]
        head = [Column("leaf", least=10), Column("array", least=8), Column("memory", right=True, keep=2),
                Column(f"{paper.norm}grad{paper.norm} {paper.up}", right=True, keep=1, rule=True)]
        more = [f"and {count_of(len(leaves) - len(shown), 'more leaf')}"] if len(leaves) > len(shown) else []
        return ["", *table(paper, head, rows)[0], *more]

    # files

    def page(self) -> str:
        return graph_page.page(self)

    def height(self) -> int:
        return 640

    def picture(self) -> drawing.Drawing:
        """The picture that .svg and .png show."""
        return layout(self, open_groups(self.tree, None if self._all else DRAWN))

    def to_dot(self) -> str:
        return dot.write(self, open_groups(self.tree, None if self._all else DRAWN))


def open_groups(tree, limit) -> set[Group]:
    """The groups to show open: those asked for, then from the outside in as long as `limit` rows suffice."""
    opened, rows, level = set(), len(tree), [i for i in tree if isinstance(i, Group)]
    while level:
        inner: list[Group] = []
        for g in level:
            if limit is None or g.open or (g.kind != "bundle" and rows + len(g.items) <= limit):
                opened.add(g)
                rows += len(g.items)
                inner += [i for i in g.items if isinstance(i, Group)]
        level = inner
    return opened


def _within(name, around) -> str:
    """A dotted name without the part that is clear from where it stands."""
    return name[len(around) + 1:] if around and name.startswith(around + ".") else name


def _plain(item) -> dict:
    if isinstance(item, Op):
        return {"node": item.id}
    found = {"kind": item.kind, "label": item.label, "name": item.name, "count": item.count, "open": item.open,
             "operators": len(ids_of(item))}
    if item.kind == "repeat":
        return {**found, "parts": [[_plain(i) for i in part] for part in item.parts]}
    return {**found, "items": [_plain(i) for i in item.items]}
