"""A graph in Graphviz's language: modules and repeats as clusters, closed ones as single boxes."""
from __future__ import annotations

from .fold import Op
from .layout import _closed, _inside, _texts, _title, with_leaves

__all__ = ["write"]


def quoted(text: str) -> str:
    """A string of the language: only quotes and backslashes are special, and newlines written as \\n."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def write(view, opened) -> str:
    """The text of a .dot file."""
    lines = ["digraph graph_of_tensor {", "  rankdir=TB;", '  node [fontname="sans-serif" fontsize=11];',
             '  edge [fontname="sans-serif" fontsize=9 fontcolor="#c0392b"];']
    where: dict[int, str] = {}
    numbers = iter(range(1, 1 << 30))

    def put(items, indent):
        for item in items:
            if isinstance(item, Op):
                n = view.nodes[item.id]
                where[item.id] = f"n{item.id}"
                look = "box" if n["kind"] == "operator" else "ellipse"
                lines.append(f"{indent}n{item.id} [shape={look} label={quoted(chr(10).join(_texts(view, item)))}];")
            elif item.open:
                k = next(numbers)
                lines.append(f"{indent}subgraph cluster_{k} {{ label={quoted(_title(item))};")
                put(item.items, indent + "  ")
                lines.append(indent + "}")
                for i in _inside(item):  # the other parts of a repeat
                    where.setdefault(i, where[item.items[-1].id] if isinstance(item.items[-1], Op) else where[
                        _inside(item.items[-1])[-1]])
            else:
                k = next(numbers)
                lines.append(f"{indent}g{k} [shape=box3d label={quoted(chr(10).join(_closed(view, item)))}];")
                where.update(dict.fromkeys(_inside(item), f"g{k}"))

    put(with_leaves(view.tree, view.data, opened), "  ")
    pairs: dict[tuple[str, str], list] = {}
    for n in view.data["nodes"]:
        for e in n["inputs"]:
            if e["node"] in where and where[e["node"]] != where[n["id"]]:
                pairs.setdefault((where[e["node"]], where[n["id"]]), []).append(e)
    for (a, b), edges in pairs.items():
        gradient = edges[0]["gradient"] if len(edges) == 1 else None
        label = f" [label={quoted(format(gradient['norm'], '.3g'))}]" if gradient else ""
        lines.append(f"  {a} -> {b}{label};")
    return "\n".join([*lines, "}", ""])
