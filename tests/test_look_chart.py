"""Charts and bars: every point where it belongs, in the text, in the picture; any width and encoding."""
from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from tinytorch_gpu.look.chart import HEIGHT, LEFT, TOP, WIDTH, Axis, Bars, Chart, Series, stack
from tinytorch_gpu.look.terminal import Paper, columns, size_of

SVG = "{http://www.w3.org/2000/svg}"


def paper(width, encoding="utf-8"):
    return Paper(io.TextIOWrapper(io.BytesIO(), encoding=encoding), width)


def points(chart):
    """[(x, y)] of the dots of a picture, in pixels."""
    root = ElementTree.fromstring(chart.drawing().svg())
    return [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter(SVG + "circle")]


def test_dots_lie_at_their_values(rng):
    xs, ys = np.sort(rng.uniform(5, 9, 12)), rng.uniform(100, 120, 12)
    found = points(Chart("t", "x", "y", [Series("a", xs.tolist(), ys.tolist())]))
    for (px, py), x, y in zip(found, xs, ys, strict=True):  # SVG's coordinates have one decimal
        assert px == pytest.approx(LEFT + WIDTH * (x - xs.min()) / (xs.max() - xs.min()), abs=0.06)
        assert py == pytest.approx(TOP + HEIGHT * (ys.max() - y) / (ys.max() - ys.min()), abs=0.06)


def test_a_power_law_is_straight_on_logarithmic_axes(rng):
    xs = [1, 3, 10, 55, 210]
    power = rng.uniform(0.5, 3)
    found = points(Chart("t", "x", "y", [Series("a", xs, [7 * x ** power for x in xs])], log_x=True, log_y=True))
    for px, py in found:
        assert (px - LEFT) / WIDTH == pytest.approx(1 - (py - TOP) / HEIGHT, abs=0.001)


def test_zero_is_shown_where_it_is_near():
    assert Axis([0.1, 1.0], log=False).low == 0.0
    assert Axis([0.9, 1.0], log=False).low == 0.9


@pytest.mark.parametrize("log", [False, True])
def test_ticks_lie_within_and_are_round(log, rng):
    for _ in range(200):
        low = 10 ** rng.uniform(-6, 6)
        axis = Axis([low, low * 10 ** rng.uniform(0.01, 9)], log)
        for binary in (False, True):
            ticks = axis.ticks(6, binary)
            assert 2 <= len(ticks) <= 13
            assert all(-1e-6 <= axis.share(t) <= 1 + 1e-6 for t in ticks if t > 0 or not log)
            if binary and log and axis.value(1.0) / axis.value(0.0) >= 8:
                assert all(np.log2(t) == pytest.approx(round(np.log2(t))) for t in ticks)


def test_text_shows_the_cells_of_the_points():
    lines = Chart("t", "x", "y", [Series("a", [0, 1, 2], [0, 1, 0], line=False)]).lines(paper(43), rows=5)
    head, *cells, floor, ends = lines
    assert head == "t: y over x"
    left = cells[0].index("│") + 1
    where = [(r, c - left) for r, row in enumerate(cells) for c, sign in enumerate(row) if sign == "●"]
    wide = floor.count("─")
    assert where == [(0, wide // 2), (4, 0), (4, wide - 1)]
    assert ends.split() == ["0", "1", "2"]


@pytest.mark.parametrize("width", [20, 60, 80, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_nothing_is_wider_than_the_paper(width, encoding):
    sheet = paper(width, encoding)
    chart = Chart("a title that is long enough to be broken", "steps", "bytes",
                  [Series(f"série {k}", [1, 10, 100], [k, 10.0 ** k, 5]) for k in range(1, 11)], log_y=True,
                  y_text=size_of)
    bars = Bars("time", [("forward", [("一", 2.0), ("b", 1.0)], "x" * 90), ("none", None, "not there")])
    for line in chart.lines(sheet) + bars.lines(sheet):
        line.encode(encoding)
        assert columns(line) <= width


def test_what_cannot_be_drawn():
    empty = Chart("t", "x", "y", [Series("a", [1, 2, 3], [None, float("nan"), 0.0])], log_y=True)
    assert empty.lines(paper(60)) == ["t: nothing to draw"] and points(empty) == []
    assert len(points(Chart("t", "x", "y", [Series("a", [1, 2, 3], [None, 4.0, float("inf")])]))) == 1
    assert Bars("t", []).lines(paper(60)) == ["t: nothing to draw"]
    with pytest.raises(ValueError, match="at least 0"):
        Bars("t", [("a", -1.0, "")])
    with pytest.raises(ValueError, match="zip"):
        Chart("t", "x", "y", [Series("a", [1, 2], [1])])


def test_bars_are_as_long_as_their_values():
    rows = [("a", 4.0, ""), ("bb", 1.0, "note"), ("c", 0.0, "")]
    lines = Bars("title", rows).lines(paper(60))[1:]
    long = [line.count("█") for line in lines]
    assert long[1] == round(long[0] / 4) > 4 and long[2] == 0 and lines[1].endswith("1  note")
    root = ElementTree.fromstring(Bars("title", rows).drawing().svg())
    widths = [float(b.get("width")) for b in root.iter(SVG + "rect") if b.get("class", "").startswith("bar")]
    assert widths == [WIDTH, WIDTH / 4]


def test_parts_of_a_bar_add_up():
    rows = [("a", [("forward", 1.0), ("backward", 3.0)], ""), ("b", [("forward", 2.0), ("backward", None)], "")]
    legend, first, second = Bars("title", rows).lines(paper(80))[1:]
    assert legend == "█ forward ▓ backward"
    assert first.count("▓") == pytest.approx(3 * first.count("█"), abs=2)
    assert second.count("█") == pytest.approx((first.count("█") + first.count("▓")) / 2, abs=1)


def test_stacked_pictures_keep_their_parts():
    one = Chart("t", "x", "y", [Series("a", [1, 2], [3, 4])]).drawing()
    both = stack(one, one)
    assert both.height == 2 * one.height + 18
    assert [m[1] for m in both.marks] == [m[1] for m in one.marks] + [m[1] + one.height + 18 for m in one.marks]
    assert b"PNG" in both.png()[:8]
