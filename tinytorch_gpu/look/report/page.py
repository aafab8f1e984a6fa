"""The page of a training run: one column of sections, drawings inside, the graph in a frame of its own."""
from __future__ import annotations

import html
import re

from .. import page as pages

__all__ = ["page"]

GRAPH = 620  # pixels: the height of the graph's frame
FIGURE = '<div class="drawn">{}</div>'


def page(view) -> str:
    """The whole page of a `Report`."""
    sections = list(_sections(view))
    parts = ["<header>", f"<h1>{html.escape(view.title())}</h1>", '<dl class="facts">']
    parts += [f"<div><dt>{html.escape(what)}</dt><dd>{html.escape(value)}</dd></div>" for what, value in view.facts()]
    parts.append("</dl>")
    if view.data["missing"]:
        parts += ['<ul class="soft">', *(f"<li>{html.escape(m)}</li>" for m in view.data["missing"]), "</ul>"]
    parts += ['<nav class="tools">', *(f'<a href="#{name}">{name}</a>' for name, _ in sections), "</nav>", "</header>",
              '<main class="report">']
    for name, body in sections:
        parts += [f'<section id="{name}">', f"<h2>{name}</h2>", body, "</section>"]
    return pages.page(f"look.report: {view.title()}", "\n".join([*parts, "</main>"]))


def _sections(view):
    """(name, HTML) of what is there."""
    d = view.data
    if view.curves:
        yield "curves", "\n".join(['<div class="charts">', *(FIGURE.format(c.drawing().svg()) for c in view.curves),
                                   "</div>"])
    heat = [FIGURE.format(view.heat([part]).svg()) for part in view.maps()]
    if heat:
        rule = f'<p class="soft">{html.escape(d["gradients"]["verdict"]["rule"])}</p>'
        yield "gradients", "\n".join(['<div class="charts">', *heat, "</div>", rule])
    if view.memory is not None:
        yield "memory", f"<p>measured in step {d['memory_step']}</p>" + _main(view.memory)
    if view.profile is not None:
        yield "profile", f"<p>measured in {html.escape(view.profiled())}</p>" + _main(view.profile)
    if view.graph is not None:
        yield "graph", (f"<p>recorded in step {d['graph_step']}</p>"
                        f'<iframe title="graph" srcdoc="{html.escape(view.graph.page(), quote=True)}" '
                        f'style="height:{GRAPH}px" sandbox="allow-scripts"></iframe>')
    for name in ("settings", "environment"):
        if d[name]:
            rows = [(key.replace("_", " "), value) for key, value in d[name].items() if value not in ("", None)]
            yield name, pages.table(("", ""), rows).replace("<thead><tr><th></th><th></th></tr></thead>\n", "")


def _main(view) -> str:
    """What a view's own page has below its head; drawings may be wider than the window, and so may tables."""
    _, _, body = view.page().partition("<main>")
    body = body.rpartition("</main>")[0].replace("<h2>", "<h3>").replace("</h2>", "</h3>")
    body = re.sub("(<svg .*?</svg>)", lambda m: FIGURE.format(m[1]), body, flags=re.S)
    return re.sub("(<table>.*?</table>)", r'<div class="wide">\1</div>', body, flags=re.S)
