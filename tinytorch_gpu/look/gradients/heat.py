"""A heat map of layers by steps: shading in the terminal, boxes in a picture. Colours and signs are powers of ten."""
from __future__ import annotations

import math
import statistics

from ..drawing import BOXES, Drawing
from ..terminal import Paper, columns, figure, wrap

__all__ = ["COLORS", "bins", "heat_lines", "heat_picture", "levels"]

COLORS = ("#fff7e0", "#fee3a8", "#fdc27a", "#f99a58", "#ec6f4b", "#cc4860", "#9b2f6f", "#612a6c", "#2a1f4f")
SHADES, ASCII = "·░▒▓█", ".:-=+*#%@"
BAD, NONE = "!", " "
ROWS, COLUMNS = 60, 60  # cells of a picture

BOXES.update({f"heat-{k}": (color, "none", 0, 0) for k, color in enumerate(COLORS)})
BOXES.update({"heat-bad": ("#00a0ff", "none", 0, 0), "heat-zero": ("#d9d9d9", "none", 0, 0)})


def bins(values, most) -> list[float | None]:
    """At most `most` cells: each the median of as many steps; NaN or infinity where one of them is not finite."""
    each = max(1, math.ceil(len(values) / most))
    found: list[float | None] = []
    for i in range(0, len(values), each):
        part = [v for v in values[i:i + each] if v is not None]
        bad = [v for v in part if not math.isfinite(v)]
        found.append(bad[0] if bad else statistics.median(part) if part else None)
    return found


def levels(rows) -> tuple[float, float] | None:
    """(lowest, highest) positive finite value; None where there is none."""
    found = [v for row in rows for v in row if v is not None and math.isfinite(v) and v > 0]
    return (min(found), max(found)) if found else None


def level(value, low, high, count) -> int:
    """Which of `count` equal parts of log10(low) to log10(high) a positive value lies in."""
    if high <= low:
        return count - 1
    share = math.log10(value / low) / math.log10(high / low)
    return max(0, min(count - 1, int(share * count)))


def heat_lines(paper: Paper, title, names, rows) -> list[str]:
    """A row of shades for each layer, a column for one step or several; [] where nothing is positive."""
    width = min(max(map(columns, names), default=0), paper.width // 3)
    rows = [bins(row, paper.width - width - 1) for row in rows]
    span = levels(rows)
    if span is None:
        return []
    signs = SHADES if not paper.ascii and paper.shows(SHADES) else ASCII

    def sign(v):
        if v is None:
            return NONE
        if not math.isfinite(v):
            return BAD
        return "0" if v == 0 else signs[level(v, *span, len(signs))]

    legend = f"{title}, log scale: {signs[0]} {figure(span[0])} to {signs[-1]} {figure(span[1])}"
    if any(v is not None and not math.isfinite(v) for row in rows for v in row):
        legend += f", {BAD} not finite"
    if any(v == 0 for row in rows for v in row):
        legend += ", 0 zero"
    lines = wrap(paper, legend, "  ")
    return lines + [f"{paper.cut(name, width)} {''.join(map(sign, row))}".rstrip() for name, row in zip(names, rows)]


def heat_picture(parts, steps, said: str | None = None) -> Drawing:
    """`parts`: (title, names, rows) of heat maps, one below the other. Many layers: evenly chosen ones, named so.

    `said` stands below each in the place of "step 1 to `steps`".
    """
    shown = []
    for title, names, rows in parts:
        every = max(1, math.ceil(len(names) / ROWS))
        if every > 1:
            title += f" (every {every}th layer)"
        shown.append((title, names[::every], [bins(row, COLUMNS) for row in rows[::every]]))
    left = max([len(n) for _, names, _ in shown for n in names], default=4) * 7.0 + 24
    count = max([len(row) for _, _, rows in shown for row in rows], default=1)
    cell = max(10.0, min(48.0, 660.0 / count))
    drawing = Drawing(max(left + count * cell + 30, left + 420, *(len(t) * 8.9 + 40 for t, _, _ in shown)), 0)
    y = 10.0
    for title, names, rows in shown:
        drawing.text(10, y + 14, title, "title")
        y += 26
        span = levels(rows)
        for name, row in zip(names, rows):
            drawing.text(left - 8, y + 13, name, "shape", "end")
            for k, v in enumerate(row):
                if v is None:
                    continue
                kind = "heat-bad" if not math.isfinite(v) else "heat-zero"
                if span is not None and math.isfinite(v) and v > 0:
                    kind = f"heat-{level(v, span[0], span[1], len(COLORS))}"
                drawing.box(left + k * cell, y, cell, 18, kind, f"{name}: {figure(v)}")
            y += 18
        each = max(1, math.ceil(steps / COLUMNS))
        several = f", {each} in a cell" if each > 1 else ""
        drawing.text(left, y + 14, (said or f"step 1 to {steps}") + several, "shape")
        y += 24
        if span is not None:
            drawing.text(left, y + 13, figure(span[0]), "shape")
            for k in range(len(COLORS)):
                drawing.box(left + 64 + 16 * k, y + 2, 16, 12, f"heat-{k}")
            drawing.text(left + 72 + 16 * len(COLORS), y + 13, f"{figure(span[1])}, log scale", "shape")
            for k, (kind, word) in enumerate((("heat-zero", "zero"), ("heat-bad", "not finite"))):
                drawing.box(left + 340 + 60 * k, y + 2, 12, 12, kind)
                drawing.text(left + 356 + 60 * k, y + 13, word, "shape")
        y += 30
    drawing.width = max(drawing.width, left + 500)
    drawing.height = y
    return drawing
