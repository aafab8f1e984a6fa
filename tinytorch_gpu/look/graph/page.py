"""The page of a graph: what graph.js needs to draw, fold and search it."""
from __future__ import annotations

import html

from ..page import page as whole
from ..sample import values_text
from ..terminal import shape_of, size_of
from .fold import Op
from .layout import about, layers

__all__ = ["page"]

BODY = """<header>
<h1>{summary}</h1>
<div class="tools">
<input id="search" type="search" placeholder="operator, module, leaf, line ..." aria-label="search">
<span id="found" class="soft"></span>
<button id="smaller" aria-label="smaller">&minus;</button><button id="larger" aria-label="larger">+</button>
<button id="fit">fit</button><button id="open">unfold all</button><button id="close">fold all</button>
<span><span class="forward">forward: value and its norm &darr;</span>
<span class="backward">backward: norm of the gradient &uarr;</span></span>
</div>{missing}
</header>
<div id="view"><div id="sheet"></div></div>
<div id="facts"></div>
<noscript>This page draws the graph by a script.</noscript>
<script>document.body.className = "graph"</script>"""


def page(view) -> str:
    """The whole page of a `Graph`."""
    missing = "".join(f'\n<div class="soft">{html.escape(m)}</div>' for m in view.data["missing"])
    body = BODY.format(summary=html.escape(view._summary()), missing=missing)
    # what the script shows and no more: ten thousand operators take some megabytes else
    nodes = {n["id"]: _brief(view, n) for n in view.data["nodes"]}
    return whole("look.graph", body, "graph.js", {"nodes": nodes, "tree": _tree(view)})


def _brief(view, n) -> dict:
    found = {"name": n["name"], "kind": n["kind"], "out": [_brief_output(o) for o in n["outputs"]]}
    if n["kind"] == "leaf":
        return {**found, "bytes": size_of(n["bytes"]), "in": []}
    found["in"] = [{"node": e["node"], "is": view.source(e, n)} for e in n["inputs"]]
    for brief, e in zip(found["in"], n["inputs"]):
        if e["gradient"]:
            brief["grad"] = e["gradient"]["norm"]
    if n["line"]:
        found["line"] = f"{n['line']['file']}:{n['line']['number']}  {n['line']['source']}"
    if n["module"] is not None:
        call = view.data["modules"][n["module"]]
        found["module"] = f"{call['class']} {call['name'] or ''}".strip()
    found["saved"] = None if n["saved"] is None else [
        f"{s['what']} {shape_of(s['dtype'], s['shape'])}{'' if s['counted'] else ', counted before'}"
        for s in n["saved"]]
    found["saved_bytes"] = size_of(n["saved_bytes"])
    return found


def _brief_output(o) -> dict:
    found = {"is": shape_of(o["dtype"], o["shape"])}
    for key in ("value", "gradient"):
        if o[key]:
            found[key] = o[key]
            if "values" in o[key] and o["dtype"].startswith("complex"):
                found[key] = {**o[key], "values": values_text(o[key]["values"], o["dtype"])}
    return found


def _tree(view) -> dict:
    """The tree with each leaf in the innermost list that holds all its users, and the layers of every list."""
    paths: dict[int, tuple] = {}

    def copied(items, path):
        own: list = []
        here = (*path, own)
        for item in items:
            if isinstance(item, Op):
                paths[item.id] = here
                own.append({"node": item.id, **({"name": item.name} if item.name else {})})
            else:
                parts = item.parts if item.kind == "repeat" else [item.items]
                own.append({"kind": item.kind, "label": item.label, "name": item.name, "open": item.open,
                            "about": about(view, item), "result": view.result_of(item)["id"],
                            "parts": [copied(part, here) for part in parts]})
        return own

    top = copied(view.tree, ())
    users: dict[int, list[int]] = {}
    for n in view.data["nodes"]:
        for e in n["inputs"]:
            if e["node"] is not None and view.nodes[e["node"]]["kind"] == "leaf":
                users.setdefault(e["node"], []).append(n["id"])
    for leaf, by in users.items():
        place = top
        for level in zip(*(paths[u] for u in by)):
            if any(lists is not level[0] for lists in level):
                break
            place = level[0]
        place.insert(0, {"node": leaf})
    return _layered(top, view.nodes)[0]


def _layered(items, nodes):
    """({"items", "layers"}, the numbers inside)."""
    members, found = [], []
    for item in items:
        if "node" in item:
            members.append([item["node"]])
            found.append(item)
        else:
            parts = [_layered(part, nodes) for part in item["parts"]]
            inside = [i for _, ids in parts for i in ids]
            members.append(inside)
            found.append({**item, "parts": [part for part, _ in parts]})
    return {"items": found, "layers": layers(members, nodes)}, [i for m in members for i in m]
