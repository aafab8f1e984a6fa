"""Curves in the terminal (braille, or ASCII where the stream cannot write it) and as a PNG where matplotlib is."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

# Bit of each dot in a braille cell of 2 x 4 dots: BRAILLE[row][column], added to U+2800.
BRAILLE = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def can_write(stream, text: str) -> bool:
    """Whether the stream's encoding has every character of `text`."""
    try:
        text.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def smooth(values, width: int) -> list[float]:
    """Running mean over `width` values, centred; the ends average what there is."""
    half, out = width // 2, []
    for i in range(len(values)):
        part = values[max(0, i - half) : i + half + 1]
        out.append(sum(part) / len(part))
    return out


def text_plot(steps, values, title: str, stream, width: int | None = None, height: int = 10) -> str:
    """`values` over `steps` as lines of text no wider than `width` (the terminal's where it is None)."""
    points = [(s, v) for s, v in zip(steps, values, strict=True) if math.isfinite(v)]
    if not points:
        return f"{title}: nothing to draw"
    width = width or shutil.get_terminal_size((80, 24)).columns
    fancy = can_write(stream, "\u28ff\u2502\u2514\u2500")
    wall, corner, floor = ("\u2502", "\u2514", "\u2500") if fancy else ("|", "+", "-")
    margin = max(len(f"{v:.2f}") for _, v in points) + 2
    columns = max(8, width - margin - 1)
    across, down = (columns * 2, height * 4) if fancy else (columns, height)

    # every dot column shows the mean of the points in it; columns between two points are joined by a line
    first, last, sums = points[0][0], points[-1][0], {}
    for step, value in points:
        x = round((step - first) / max(1, last - first) * (across - 1))
        total, count = sums.get(x, (0.0, 0))
        sums[x] = (total + value, count + 1)
    knots = sorted((x, total / count) for x, (total, count) in sums.items())
    low, high = min(v for _, v in knots), max(v for _, v in knots)
    if low == high:
        low, high = low - 0.5, high + 0.5
    labels = [f"{high - (high - low) * i / max(1, height - 1):.2f}" for i in range(height)]
    grid = [[0] * columns for _ in range(height)]
    above = None
    for (x0, v0), (x1, v1) in zip(knots, knots[1:] or knots, strict=False):
        for x in range(x0, x1 + 1):
            value = v0 + (v1 - v0) * (x - x0) / max(1, x1 - x0)
            y = round((high - value) / (high - low) * (down - 1))
            for dot in range(min(y, above + 1), max(y, above - 1) + 1) if above is not None else [y]:
                if fancy:
                    grid[dot // 4][x // 2] |= BRAILLE[dot % 4][x % 2]
                else:
                    grid[dot][x] = 1
            above = y
    lines = [title[:width]]
    for label, row in zip(labels, grid, strict=True):
        cells = "".join((chr(0x2800 + c) if c else " ") if fancy else ("*" if c else " ") for c in row)
        lines.append(f"{label:>{margin - 2}} {wall}{cells}".rstrip())
    lines.append(" " * (margin - 1) + corner + floor * columns)
    left, right = f"step {first}", str(last)
    lines.append(" " * margin + left + right.rjust(max(len(right) + 1, columns - len(left))))
    return "\n".join(lines)


def png_plot(path: Path, curves: dict[str, tuple[list, list]], ylabel: str) -> bool:
    """Draws name -> (steps, values) into `path`; False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, (steps, values) in curves.items():
        axes.plot(steps, values, label=name, marker="o" if len(steps) < 30 else None, linewidth=1.2)
    axes.set_xlabel("step")
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    return True
