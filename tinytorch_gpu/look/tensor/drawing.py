"""The memory of a tensor drawn: its elements in the order in which they lie, for the terminal and as a picture."""
from __future__ import annotations

from ..drawing import BOXES, Drawing
from ..terminal import Paper, columns, shape_of, size_of
from .layout import Layout

__all__ = ["bucket_shares", "memory_lines", "memory_picture"]

SHADES, ASCII = "·░▒▓█", ".-=+#"
MAP = 100  # parts of a picture's map
CELL, PER_ROW = 54.0, 14  # of a picture

BOXES.update({
    "cell": ("#cfe0fb", "#4a72b8", 0, 1.2), "cell-free": ("#f4f5f7", "#b6bdc8", 0, 0.8),
    "fact": ("#ffffff", "#667085", 5, 1.2),
    "map-0": ("#f4f5f7", "none", 0, 0), "map-1": ("#dbe7fb", "none", 0, 0), "map-2": ("#a9c4f2", "none", 0, 0),
    "map-3": ("#7097d8", "none", 0, 0), "map-4": ("#3f67ac", "none", 0, 0),
})


def bucket_shares(layout: Layout, count: int) -> list[float] | None:
    """The share of the bytes that the tensor touches in each of `count` equal parts of the memory."""
    count = max(1, min(count, layout.memory // layout.itemsize))
    edges = [layout.memory * k // count for k in range(count + 1)]
    found = []
    for a, b in zip(edges, edges[1:]):
        touched = layout.touched(a, b)
        if touched is None:
            return None
        found.append(touched / (b - a))
    return found


def level(share: float) -> int:
    """0 for nothing, 4 for all, 1 to 3 between."""
    return 0 if share <= 0 else 4 if share >= 1 else 1 + min(2, int(share * 3))


def index_of(indices: list[str], times: int) -> str:
    """What a cell is called: the first index that leads there, and how many more do."""
    return "" if not indices else indices[0] + (f" +{times - 1}" if times > 1 else "")


# text


def memory_lines(paper: Paper, data: dict, layout: Layout) -> list[str]:
    """The map of a large memory, and its cells."""
    lines = []
    if data["whole"] is False:
        shares = bucket_shares(layout, paper.width)
        if shares is not None:
            signs = SHADES if not paper.ascii and paper.shows(SHADES) else ASCII
            end = size_of(layout.memory)
            lines += ["".join(signs[level(s)] for s in shares), "0 B" + end.rjust(len(shares) - 3), ""]
    cells = data["cells"]
    if not cells:
        return lines
    texts = [(str(c["byte"]), (c["value"] if c["touched"] else None) or paper.dot, index_of(c["index"], c["times"]))
             for c in cells]
    left = 6
    width = min(max(columns(paper.clean(t)) for row in texts for t in row) + 2, paper.width - left - 2)
    per = max(1, (paper.width - left - 2) // (width + 1))
    if data["whole"] is False:  # a part tells as much in few lines
        texts, cells = texts[:2 * per], cells[:2 * per]
    for k in range(0, len(texts), per):
        lines += [""] if k else []
        lines += _strip(paper, texts[k:k + per], width, left)
    return lines


def _strip(paper, texts, width, left) -> list[str]:
    def row(title, i, edge):
        return (paper.cut(title, left) + edge + edge.join(_middle(paper, t[i], width) for t in texts) + edge).rstrip()

    def line(first, between, last):
        return " " * left + first + between.join(paper.h * width for _ in texts) + last

    return [row("byte", 0, " "), line(paper.tl, paper.top, paper.tr), row("value", 1, paper.v),
            line(paper.bl, paper.bottom, paper.br), row("index", 2, " ")]


def _middle(paper, text, width) -> str:
    text = paper.cut(text, min(width, columns(paper.clean(text))))
    space = width - columns(text)
    return " " * (space // 2) + text + " " * (space - space // 2)


# picture


def memory_picture(data: dict) -> Drawing:
    """A tensor and what it leads to: its memory, its gradient, the operator that made it and what that saved."""
    left, top, gap = 250.0, 40.0, 26.0
    drawing = Drawing(0, 0)
    drawing.text(12, 22, title_of(data), "title")
    facts = fact_lines(data)
    drawing.box(12, top, 200, 18.0 * len(facts) + 12, "fact")
    for k, (text, kind) in enumerate(facts):
        drawing.text(22, top + 20 + 18 * k, _short(text, 29), kind)
    middle = top + 9.0 * len(facts) + 6
    y = top
    for draw in (_draw_memory, _draw_grad, _draw_function):
        end = draw(drawing, data, left, y + 16)
        if end is not None:
            drawing.line(212, min(max(y + 12, top + 10), max(middle * 2 - top - 10, top + 10)), left - 4, y + 12,
                         "backward" if draw is not _draw_memory else "forward")
            y = end + gap
    drawing.height = max(y, top + 18.0 * len(facts) + 30)
    ends = [x + w for x, _, w, *_ in drawing.boxes]
    ends += [x + 8.0 * len(text) for x, _, text, _, anchor in drawing.texts if anchor == "start"]
    drawing.width = max(ends) + 16
    return drawing


def title_of(data) -> str:
    """What a tensor is, in few words."""
    name = f"{data['name']}: " if data["name"] else ""
    return f"{name}{shape_of(data['dtype'], data['shape'])} on {data['device']}, {size_of(data['bytes'])}"


def fact_lines(data) -> list[tuple[str, str]]:
    """(text, kind) of the lines in a tensor's box."""
    view, f = data["view_of"], data["grad_fn"]
    found = [(f"{data['class']} {shape_of(data['dtype'], data['shape'])}", "name"),
             (f"strides {data['strides']}", "shape"), (f"offset {size_of(data['memory']['offset'])}", "shape"),
             (f"version {data['version']}", "shape"),
             (f"requires_grad {data['requires_grad']}", "shape"),
             ("leaf" if f is None else f"result {f['output']} of {f['name']}", "shape")]
    if view is not None:
        found.append((f"view of {view['name'] or shape_of(view['dtype'], view['shape'])}", "shape"))
    return found


def _draw_memory(drawing, data, x, y):
    m = data["memory"]
    touched = f", of which it touches {size_of(m['touched'])}" if m["touched"] is not None else ""
    drawing.text(x, y, f"memory: {size_of(m['bytes'])}, {shape_of(m['dtype'], m['shape'])}{touched}", "name")
    y += 10
    if m["whole"] is False and m["map"]:
        cell = PER_ROW * CELL / len(m["map"])
        for k, share in enumerate(m["map"]):
            drawing.box(x + k * cell, y, cell, 22, f"map-{level(share)}", f"part {k + 1}: {share:.1%} touched")
        drawing.text(x, y + 36, "0 B", "shape")
        drawing.text(x + PER_ROW * CELL, y + 36, size_of(m["bytes"]), "shape", "end")
        y += 48
    for k, c in enumerate(m["cells"] if m["whole"] else m["cells"][:PER_ROW]):
        if k and k % PER_ROW == 0:
            y += 62
        cx = x + (k % PER_ROW) * CELL
        drawing.box(cx, y, CELL, 26, "cell" if c["touched"] else "cell-free", f"byte {c['byte']}")
        drawing.text(cx + CELL / 2, y + 17, _short(c["value"] or "", 8), "shape", "middle")
        if c["index"]:
            drawing.text(cx + CELL / 2, y + 40, _short(index_of(c["index"], c["times"]), 9), "forward", "middle")
        if k % PER_ROW == 0:
            drawing.text(x - 6, y + 17, size_of(c["byte"]), "shape", "end")
    return y + (48 if m["cells"] else 8)


def _draw_grad(drawing, data, x, y):
    g = data["grad"]
    if g is None:
        return None
    drawing.text(x, y, f"grad: {shape_of(g['dtype'], g['shape'])}, {size_of(g['bytes'])}, norm {g['norm']:.3g}", "name")
    values = g.get("values")
    y += 10
    for k, v in enumerate(values[:PER_ROW] if values else []):
        drawing.box(x + k * CELL, y, CELL, 26, "cell")
        drawing.text(x + k * CELL + CELL / 2, y + 17, _short(v, 8), "shape", "middle")
    return y + (30 if values else 4)


def _draw_function(drawing, data, x, y):
    f = data["grad_fn"]
    if f is None:
        return None
    drawing.box(x, y - 8, 140, 30, "operator")
    drawing.text(x + 70, y + 11, f"grad_fn: {_short(f['name'], 12)}", "name", "middle")
    if f["saved"] is None:
        drawing.text(x + 160, y + 11, "what it saved was freed by a backward", "shape")
        return y + 26
    if not f["saved"]:
        drawing.text(x + 160, y + 11, "saves nothing for backward", "shape")
        return y + 26
    for k, s in enumerate(f["saved"][:8]):
        drawing.line(x + 140, y + 7, x + 186, y + 7 + 30 * k, "backward")
        drawing.box(x + 190, y - 8 + 30 * k, 330, 24, "leaf")
        drawing.text(x + 200, y + 8 + 30 * k, f"saved {s['source']}: {shape_of(s['dtype'], s['shape'])}, "
                                              f"{size_of(s['bytes'])}", "shape")
    if len(f["saved"]) > 8:
        drawing.text(x + 530, y + 8, f"and {len(f['saved']) - 8} more", "shape")
    return y + 30 * min(8, len(f["saved"])) - 4


def _short(text, most) -> str:
    return text if len(text) <= most else text[:most - 1] + "…"
