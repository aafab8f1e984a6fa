"""A graph in Graphviz's language: modules and repeats as clusters, closed ones as single boxes."""
from __future__ import annotations

from ..terminal import figure
from .fold import Op, ids_of
from .layout import _inside, said, with_leaves

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

    def label(item):
        texts, forward, backward = said(view, item)
        return quoted("\n".join([*texts, *([f"{forward}   {backward}"] if forward or backward else [])]))

    def put(items, indent):
        for item in items:
            if isinstance(item, Op):
                n = view.nodes[item.id]
                where[item.id] = f"n{item.id}"
                look = "box" if n["kind"] == "operator" else "ellipse"
                lines.append(f"{indent}n{item.id} [shape={look} label={label(item)}];")
            elif item.open:
                k = next(numbers)
                lines.append(f"{indent}subgraph cluster_{k} {{ label={label(item)};")
                put(item.items, indent + "  ")
                lines.append(indent + "}")
                last = where[max(ids_of(item.parts[0]))]  # stands for the parts that are not drawn
                for i in ids_of(item):
                    where.setdefault(i, last)
            else:
                k = next(numbers)
                lines.append(f"{indent}g{k} [shape=box3d label={label(item)}];")
                where.update(dict.fromkeys(_inside(item), f"g{k}"))

    put(with_leaves(view.tree, view.data, opened), "  ")
    pairs: dict[tuple[str, str], list] = {}
    for n in view.data["nodes"]:
        for e in n["inputs"]:
            if e["node"] in where and where[e["node"]] != where[n["id"]]:
                pairs.setdefault((where[e["node"]], where[n["id"]]), []).append(e)
    for (a, b), edges in pairs.items():
        gradient = edges[0]["gradient"] if len(edges) == 1 else None
        written = f" [label={quoted(figure(gradient['norm']))}]" if gradient else ""
        lines.append(f"  {a} -> {b}{written};")
    return "\n".join([*lines, "}", ""])
