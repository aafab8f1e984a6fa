"""Charts of the views: lines over two axes, and bars; as text for any stream, and as a Drawing for SVG and PNG."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .drawing import BOXES, STROKES, Drawing, stack
from .terminal import Paper, columns, figure, size_of, time_of, wrap

__all__ = ["Bars", "Chart", "Series", "stack"]

COLORS = ("#1f5fbf", "#c0392b", "#3f8f57", "#8468b5", "#d98a1f", "#2aa5a0", "#7d6648", "#d4569c")
SIGNS, ASCII_SIGNS = "●▲■◆○△□◇", "ox+*#@%&"
FILLS, ASCII_FILLS = "█▓▒░■", "#=-.:"
WIDTH, HEIGHT = 560, 260  # pixels within the axes
LEFT, TOP, BOTTOM = 84, 34, 46
INSET = 0.025  # of the axes, between their ends and the first and the last point: no dot lies on a frame

STROKES.update({f"series-{k}": (color, 1.8, "") for k, color in enumerate(COLORS)})
STROKES.update({f"series-{k}-dashed": (color, 1.4, "5 4") for k, color in enumerate(COLORS)})
BOXES.update({f"bar-{k}": (color, "none", 1, 0) for k, color in enumerate(COLORS)})


@dataclass
class Series:
    """One line of a chart: points in the order of drawing, joined if `line`, dotted if `marks`.

    A point whose x or y is None or not finite is left out, on a logarithmic axis one at or below zero too.
    """

    name: str
    xs: Sequence[float | None]
    ys: Sequence[float | None]
    line: bool = True
    marks: bool = True
    dashed: bool = False


class Axis:
    """One direction of a chart: the range of its values, where a value lies in it (0 to 1), and ticks.

    `whole`: a count of things, as steps: it begins at its first value, and no tick lies between two whole numbers.
    """

    def __init__(self, values, log, whole=False):
        self.log, self.whole = log, whole
        low, high = min(values), max(values)
        if log:
            low, high = math.log10(low), math.log10(high)
            if high - low < 1e-9:
                low, high = low - 0.5, high + 0.5
        else:
            if low >= 0 and low < 0.4 * high and not whole:  # zero is shown where it is near
                low = 0.0
            if high <= low:
                margin = 0.5 if whole else abs(low) / 2 or 1.0
                low, high = low - margin if low or whole else 0.0, high + margin
        self.low, self.high = low, high

    def share(self, value) -> float:
        value = math.log10(value) if self.log else value
        return (value - self.low) / (self.high - self.low)

    def value(self, share) -> float:
        value = self.low + share * (self.high - self.low)
        return 10 ** value if self.log else value

    def place(self, value) -> float:
        """`share` in a picture, where the ends are inset; an axis from zero keeps zero at its end."""
        low = 0.0 if self.low == 0 and not self.log and not self.whole else INSET
        return low + self.share(value) * (1 - low - INSET)

    def labelled(self) -> list[float]:
        """First, middle and last value, of a whole axis the whole ones among them."""
        ends = [self.value(0.0), self.value(0.5), self.value(1.0)]
        if not self.whole:
            return ends
        first, last = math.ceil(ends[0] - 1e-9), math.floor(ends[2] + 1e-9)
        if last < first:  # of means that lie between two
            return ends
        return sorted({float(v) for v in (first, max(first, min(last, round(ends[1]))), last)})

    def ticks(self, about: int, binary: bool) -> list[float]:
        """Round values within the range, about as many as asked for; powers of two times 1024 to a power if binary."""
        low, high = self.value(0.0), self.value(1.0)
        if self.log and high / low >= 8:
            base = 2.0 if binary else 10.0
            first, last = math.ceil(math.log(low, base) - 1e-9), math.floor(math.log(high, base) + 1e-9)
            if not binary and last - first < 3:
                return [m * 10.0 ** k for k in range(first - 1, last + 1) for m in (1, 2, 5)
                        if low * (1 - 1e-9) <= m * 10.0 ** k <= high * (1 + 1e-9)]
            each = max(1, math.ceil((last - first) / about))
            return [base ** k for k in range(first, last + 1, each)]
        rough = (high - low) / about
        if binary:
            step = 2.0 ** math.ceil(math.log2(rough) - 1e-9)
        else:
            unit = 10.0 ** math.floor(math.log10(rough))
            step = next((m * unit for m in (1, 2, 5) if m * unit >= rough * 0.999), 10 * unit)
        step = max(step, 1.0) if self.whole else step
        first = math.ceil(low / step - 1e-9)
        return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


class Chart:
    """Lines over two axes. `x_text`, `y_text` write a value; axes named `x` and `y`, logarithmic if asked.

    `whole`: x counts, as steps do: no tick between two whole numbers, and the axis begins at the first one; by itself
    where all x are whole numbers other than bytes and seconds. Dashed series are drawn below the others.
    """

    def __init__(self, title: str, x: str, y: str, series: Sequence[Series], log_x=False, log_y=False,
                 x_text: Callable = figure, y_text: Callable = figure, whole: bool | None = None):
        self.title, self.x, self.y, self.series = title, x, y, list(series)
        self.log_x, self.log_y, self.y_text = log_x, log_y, y_text
        self.points = [self._shown(s) for s in self.series]
        everything = [p for points in self.points for p in points]
        self.empty = not everything
        if whole is None:
            whole = x_text not in (size_of, time_of) and all(p[0] == round(p[0]) for p in everything)
        self.x_text = _whole if whole and x_text is figure else x_text
        self.across = Axis([p[0] for p in everything] or [1.0], log_x, whole)
        self.up = Axis([p[1] for p in everything] or [1.0], log_y)

    def _shown(self, series) -> list[tuple[float, float]]:
        def there(value, log):
            return value is not None and math.isfinite(value) and (value > 0 or not log)

        return [(float(x), float(y)) for x, y in zip(series.xs, series.ys, strict=True)
                if there(x, self.log_x) and there(y, self.log_y)]

    def _in_order(self):
        """(place, series, points), what is drawn above the others last."""
        several = enumerate(zip(self.series, self.points))
        return [(k, s, points) for k, (s, points) in sorted(several, key=lambda x: not x[1][0].dashed)]

    def _axes(self) -> str:
        def named(name, log):
            return name + (", log scale" if log else "")

        return f"{named(self.y, self.log_y)} over {named(self.x, self.log_x)}"

    # text

    def lines(self, paper: Paper, rows: int = 12) -> list[str]:
        """The chart in `rows` lines of cells, at least 2, between its axes, and what is around them."""
        if self.empty:
            return wrap(paper, f"{self.title}: nothing to draw")
        fancy = paper.shows(SIGNS)
        signs = SIGNS if fancy else ASCII_SIGNS
        parts = max(1, (rows - 1) // 3)  # a label at every third row or so, at the first and the last one
        named = {round(k * (rows - 1) / parts) for k in range(parts + 1)}
        said = dict(zip(sorted(named), _apart([self.up.value(1 - r / (rows - 1)) for r in sorted(named)], self.y_text)))
        labels = [said.get(r, "") for r in range(rows)]
        left = min(max(map(columns, labels)), paper.width // 3)
        wide = max(4, min(paper.width - left - 2, 96))
        out = wrap(paper, f"{self.title}: {self._axes()}")
        if len(self.series) > 1:
            out += _legend(paper, [(signs[k % len(signs)], s.name) for k, s in enumerate(self.series)])
        out += [f"{paper.cut(label, left, right=True)} {paper.v}{''.join(row)}".rstrip()
                for label, row in zip(labels, self._grid(rows, wide, signs, paper.dot))]
        out.append(" " * (left + 1) + paper.bl + paper.h * wide)
        out.append(paper.cut(" " * (left + 2) + self._below(wide), paper.width).rstrip())
        return out

    def _below(self, wide) -> str:
        """The values of the first, the middle and the last cell, below these."""
        values = self.across.labelled()
        texts = _apart(values, self.x_text)
        if sum(map(columns, texts)) + 4 * len(texts) > wide:
            return texts[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]}"
        line = ""
        for value, text in zip(values, texts):
            begin = min(round(self.across.share(value) * (wide - 1) - (columns(text) - 1) / 2), wide - columns(text))
            line += " " * (max(0, begin) - columns(line)) + text
        return line

    def _grid(self, rows, wide, signs, dot) -> list[list[str]]:
        """Cells: the lines of dashed series, the others', then the points: what comes later stands above."""
        grid = [[" "] * wide for _ in range(rows)]
        cells = {k: [(round(self.across.share(x) * (wide - 1)), round((1 - self.up.share(y)) * (rows - 1)))
                     for x, y in points] for k, _, points in self._in_order()}
        for dashed in (True, False):
            taken = set()  # by lines of this kind: the first one stays
            for k, series, _ in self._in_order():
                if not series.line or series.dashed != dashed:
                    continue
                sign = dot if series.marks else signs[k % len(signs)]
                line = [cell for a, b in zip(cells[k], cells[k][1:]) for cell in _between(a, b)]
                for x, y in [*line, *(() if series.marks else cells[k])]:
                    if (x, y) not in taken:
                        grid[y][x] = sign
                taken.update(line, () if series.marks else cells[k])
        for k, series, _ in self._in_order():
            if series.marks or not series.line or len(cells[k]) == 1:
                for x, y in cells[k]:
                    grid[y][x] = signs[k % len(signs)]
        return grid

    # picture

    def drawing(self) -> Drawing:
        """The chart with axes, grid and legend."""
        names = [s.name for s in self.series] if len(self.series) > 1 else []
        right = LEFT + WIDTH
        longest = max([len(n) * 6.8 + 44 for n in names], default=0)
        picture = Drawing(max(right + 24, LEFT + longest, len(self.title) * 8.9 + 24), TOP + HEIGHT + BOTTOM)
        picture.text(10, 18, self.title, "title")
        if self.empty:
            picture.text(LEFT, TOP + 24, "nothing to draw", "shape")
            return picture
        picture.boxes.append((LEFT, TOP, WIDTH, HEIGHT, "plot", ""))

        def at(x, y):
            return LEFT + self.across.place(x) * WIDTH, TOP + (1 - self.up.place(y)) * HEIGHT

        ticks = self.up.ticks(6, self.y_text is size_of)
        for y, text in zip(ticks, _apart(ticks, self.y_text)):
            height = at(self.across.value(0.0), y)[1]
            picture.stroke([(LEFT, height), (right, height)], "grid")
            picture.text(LEFT - 7, height + 4, text, "tick", "end")
        ticks = self.across.ticks(7, self.x_text is size_of)
        for x, text in zip(ticks, _apart(ticks, self.x_text)):
            place = at(x, self.up.value(0.0))[0]
            picture.stroke([(place, TOP), (place, TOP + HEIGHT)], "grid")
            picture.text(place, TOP + HEIGHT + 15, text, "tick", "middle")
        picture.stroke([(LEFT, TOP), (LEFT, TOP + HEIGHT), (right, TOP + HEIGHT)], "axis")
        picture.text(LEFT + WIDTH / 2, TOP + HEIGHT + 34, self._axes(), "shape", "middle")
        for k, series, points in self._in_order():
            color, places = f"series-{k % len(COLORS)}", [at(*p) for p in points]
            if series.line and len(places) > 1:
                picture.stroke(places, color + ("-dashed" if series.dashed else ""))
            if series.marks or len(places) == 1:
                for (x, y), (mx, my) in zip(points, places):
                    picture.mark(mx, my, color, f"{series.name}: {self.x_text(x)}, {self.y_text(y)}")
        if names:
            self._name(picture, names)
        return picture

    def _name(self, picture, names) -> None:
        """The legend, in rows below the axes: charts are as wide with it as without."""
        x, y = float(LEFT), picture.height
        for k, (series, points, name) in enumerate(zip(self.series, self.points, names)):
            color, wide = f"series-{k % len(COLORS)}", len(name) * 6.8 + 44
            if x > LEFT and x + wide > LEFT + WIDTH:
                x, y = float(LEFT), y + 18
            if series.line and len(points) != 1:
                picture.stroke([(x, y), (x + 18, y)], color + ("-dashed" if series.dashed else ""))
            else:
                picture.mark(x + 9, y, color)
            picture.text(x + 24, y + 4, name, "tick")
            x += wide
        picture.height = y + 16


def _apart(values, text: Callable) -> list[str]:
    """The labels of different values: numbers with as many digits as tell them apart, at least 3 and at most 7; of
    others what would be the same again is left out."""
    texts = [text(v) for v in values]
    if text is figure:
        for digits in range(4, 8):
            if len(set(texts)) == len(set(values)):
                break
            texts = [figure(v, digits) for v in values]
    return [t if t not in texts[:k] else "" for k, t in enumerate(texts)]


def _whole(value) -> str:
    return f"{value:,.0f}"


def _between(a, b) -> list[tuple[int, int]]:
    """The cells on the straight way from one to another, without these."""
    far = max(abs(b[0] - a[0]), abs(b[1] - a[1]))
    return [(round(a[0] + (b[0] - a[0]) * k / far), round(a[1] + (b[1] - a[1]) * k / far)) for k in range(1, far)]


def _legend(paper, items) -> list[str]:
    """(sign, name) of each beside the next one, as many in a line as fit; a sign stands with its name's first word."""
    lines: list[str] = []
    for sign, name in items:
        text = f"{sign} {paper.clean(name)}"
        if lines and columns(lines[-1]) + 2 + columns(text) <= paper.width:
            lines[-1] += "  " + text
        else:
            first, *more = wrap(paper, f"{sign}_{name}", "  ")  # a word of them, so that no line ends between
            lines += [first.replace("_", " ", 1), *more]
    return lines


class Bars:
    """Horizontal bars from zero, one in each row: (label, value, note), or (label, [(part, value), ...], note) for a
    bar of parts. Values are None (no bar: the note says why) or at least 0; `text` writes them."""

    def __init__(self, title: str, rows: Sequence[tuple], text: Callable = figure):
        self.title, self.text = title, text
        self.rows = [(label, [("", value)] if not isinstance(value, (list, tuple)) else list(value), note)
                     for label, value, note in rows]
        self.parts = list(dict.fromkeys(name for _, parts, _ in self.rows for name, _ in parts if name))
        for label, parts, _ in self.rows:
            if any(v is not None and (v < 0 or not math.isfinite(v)) for _, v in parts):
                raise ValueError(f"[Bars] the values of {label!r} must be finite and at least 0, got {parts}")
        self.most = max([_total(parts) or 0.0 for _, parts, _ in self.rows], default=0.0)

    def _words(self, parts, note) -> str:
        total = _total(parts)
        return "  ".join(w for w in ("" if total is None else self.text(total), note) if w)

    def lines(self, paper: Paper) -> list[str]:
        """One line for each bar: its label, the bar, the value, the note."""
        if not self.rows:
            return wrap(paper, f"{self.title}: nothing to draw")
        fills = FILLS if paper.shows(FILLS) else ASCII_FILLS
        out = wrap(paper, self.title)
        if self.parts:
            out += _legend(paper, [(fills[k % len(fills)], name) for k, name in enumerate(self.parts)])
        left = min(max(columns(paper.clean(label)) for label, _, _ in self.rows), paper.width // 3)
        words = [self._words(parts, note) for _, parts, note in self.rows]
        right = min(max(columns(paper.clean(w)) for w in words), paper.width // 2 - 4)
        wide = paper.width - left - right - 4
        for (label, parts, _), word in zip(self.rows, words):
            strip, sum_ = "", 0.0
            for name, value in parts:
                sum_ += value or 0.0
                sign = fills[self.parts.index(name) % len(fills)] if name else fills[0]
                strip += sign * (round(sum_ / self.most * wide) - len(strip) if self.most else 0)
            out.append(f"{paper.cut(label, left)}  {strip}{' ' * (wide - len(strip))}  "
                       f"{paper.cut(word, right)}".rstrip())
        return out

    def drawing(self) -> Drawing:
        """The bars with labels, values and a legend of the parts."""
        left = max([len(label) for label, _, _ in self.rows], default=4) * 6.8 + 24
        right = max([len(self._words(parts, note)) for _, parts, note in self.rows], default=0) * 6.8 + 24
        legend = sum(len(name) * 6.8 + 34 for name in self.parts)
        picture = Drawing(max(left + WIDTH + right, len(self.title) * 8.9 + 24, left + legend), TOP)
        picture.text(10, 18, self.title, "title")
        if self.parts:
            x = left
            for k, name in enumerate(self.parts):
                picture.box(x, picture.height - 4, 12, 12, f"bar-{k % len(COLORS)}")
                picture.text(x + 17, picture.height + 6, name, "tick")
                x += len(name) * 6.8 + 34
            picture.height += 20
        for label, parts, note in self.rows:
            y, x = picture.height, left
            picture.text(left - 8, y + 14, label, "tick", "end")
            for name, value in parts:
                long = (value or 0.0) / self.most * WIDTH if self.most else 0.0
                if long > 0:
                    color = self.parts.index(name) % len(COLORS) if name else 0
                    picture.box(x, y + 2, long, 16, f"bar-{color}", f"{label} {name}: {self.text(value)}")
                x += long
            picture.text(x + 8, y + 14, self._words(parts, note), "tick")
            picture.height += 24
        picture.height += 10
        return picture


def _total(parts) -> float | None:
    found = [value for _, value in parts if value is not None]
    return sum(found) if found else None
