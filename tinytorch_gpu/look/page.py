"""HTML pieces of the views: a page that needs no network, light and dark; tables; data for its script."""
from __future__ import annotations

import html
from pathlib import Path

from .view import strict_json

__all__ = ["embedded", "page", "table"]


def page(title: str, body: str, script: str = "", data=None) -> str:
    """A whole page. `script` names a file beside this one; it finds `data` with `JSON.parse` in #data."""
    parts = [
        "<!DOCTYPE html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title>", f"<style>\n{_beside('page.css')}</style>", "</head>", "<body>", body,
    ]
    if data is not None:
        parts.append(f'<script type="application/json" id="data">{embedded(data)}</script>')
    if script:
        parts.append(f"<script>\n{_beside(script)}</script>")
    return "\n".join([*parts, "</body>", "</html>", ""])


def embedded(data) -> str:
    """JSON that may stand inside a script element."""
    text = strict_json(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def table(head, rows, right=(), title="") -> str:
    """An HTML table of plain texts, under its title; the columns in `right` are aligned to the right."""
    def cells(row, tag):
        return "".join(f'<{tag}{" class=right" if i in right else ""}>{html.escape(str(c))}</{tag}>'
                       for i, c in enumerate(row))

    lines = [f"<tr>{cells(row, 'td')}</tr>" for row in rows]
    above = [f"<h2>{html.escape(title)}</h2>"] if title else []
    return "\n".join([*above, "<table>", f"<thead><tr>{cells(head, 'th')}</tr></thead>", "<tbody>", *lines,
                      "</tbody></table>"])


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
