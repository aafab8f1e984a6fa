"""Charts and bars: every point where it belongs, in the text, in the picture; any width and encoding."""
from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from tinytorch_gpu.look.chart import HEIGHT, INSET, LEFT, TOP, WIDTH, Axis, Bars, Chart, Series, stack
from tinytorch_gpu.look.terminal import Paper, columns, size_of, time_of

SVG = "{http://www.w3.org/2000/svg}"


def paper(width, encoding="utf-8"):
    return Paper(io.TextIOWrapper(io.BytesIO(), encoding=encoding), width)


def points(chart):
    """[(x, y)] of the dots of a picture, in pixels."""
    root = ElementTree.fromstring(chart.drawing().svg())
    return [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter(SVG + "circle")]


def ticks(chart):
    """({text: pixel} of the x axis, {text: pixel} of the y axis) of a picture."""
    root = ElementTree.fromstring(chart.drawing().svg())
    texts = [t for t in root.iter(SVG + "text") if t.get("fill") == "#333333"]
    return ({t.text: float(t.get("x")) for t in texts if t.get("text-anchor") == "middle"},
            {t.text: float(t.get("y")) - 4 for t in texts if t.get("text-anchor") == "end"})


def drawn(lines):
    """({row: label}, [(row, column, sign)], width) of a chart's text."""
    floor = next(k for k, line in enumerate(lines) if "└" in line)
    rows = [line.partition("│") for line in lines[:floor] if "│" in line]
    labels = {r: label.strip() for r, (label, _, _) in enumerate(rows) if label.strip()}
    signs = [(r, c, sign) for r, (_, _, cells) in enumerate(rows) for c, sign in enumerate(cells) if sign != " "]
    return labels, signs, lines[floor].count("─")


def test_dots_lie_at_their_values(rng):
    xs, ys = np.sort(rng.uniform(5, 9, 12)), rng.uniform(100, 120, 12)
    found = points(Chart("t", "x", "y", [Series("a", xs.tolist(), ys.tolist())]))
    inner = 1 - 2 * INSET
    for (px, py), x, y in zip(found, xs, ys, strict=True):  # SVG's coordinates have one decimal
        right, down = (x - xs.min()) / (xs.max() - xs.min()), (ys.max() - y) / (ys.max() - ys.min())
        assert px == pytest.approx(LEFT + WIDTH * (INSET + inner * right), abs=0.06)
        assert py == pytest.approx(TOP + HEIGHT * (INSET + inner * down), abs=0.06)


@pytest.mark.parametrize("log", [False, True])
def test_no_dot_lies_on_a_frame_and_ticks_are_where_their_values_are(log, rng):
    ys = [1.0, 10.0, 1000.0, *(10 ** rng.uniform(0, 3, 5))] if log else [2.0, 2.5, 3.0]
    chart = Chart("t", "x", "y", [Series("a", [2.0, 2.5, 3.0, *range(4, 4 + len(ys) - 3)], ys)], log_y=log)
    found = points(chart)
    for px, py in found:  # a dot has a radius of 3.2
        assert LEFT + 4 < px < LEFT + WIDTH - 4 and TOP + 4 < py < TOP + HEIGHT - 4
    _, up = ticks(chart)
    for text, (_, py) in zip(["1", "10", "1e+03"] if log else ["2", None, "3"], found):
        assert text is None or up[text] == pytest.approx(py, abs=0.11)
    zero = points(Chart("t", "x", "y", [Series("a", [0.0, 0.5], [0.0, 1.0])]))[0]
    assert zero == (LEFT, TOP + HEIGHT)  # what begins at zero begins at the axes


@pytest.mark.parametrize("rows", [5, 8, 9, 12])
@pytest.mark.parametrize("log", [False, True])
def test_labels_of_the_text_are_the_values_of_their_rows(rows, log, rng):
    ys = [7.046, *rng.uniform(0.1, 7, 8), 0.05 if log else 0.0]
    lines = Chart("t", "x", "y", [Series("a", list(range(10)), ys, line=False)], log_y=log,
                  y_text=lambda v: f"{v:.9g}").lines(paper(80), rows)
    labels, signs, wide = drawn(lines)
    assert labels[0] == "7.046" and float(labels[rows - 1]) == pytest.approx(ys[-1]) and len(labels) >= 2
    value = (lambda v: np.log(v)) if log else (lambda v: v)
    for row, label in labels.items():
        share = (value(7.046) - value(float(label))) / (value(7.046) - value(ys[-1]))
        assert share * (rows - 1) == pytest.approx(row, abs=1e-6)
    for k, y in enumerate(ys):
        row = (value(7.046) - value(y)) / (value(7.046) - value(ys[-1])) * (rows - 1)
        column = k / 9 * (wide - 1)
        assert any(abs(r - row) <= 0.5 + 1e-9 and abs(c - column) <= 0.5 + 1e-9 for r, c, _ in signs), (k, y)


def test_an_axis_of_zeros_begins_at_zero():
    lines = Chart("t", "x", "%", [Series("a", [1, 2, 3], [0.0, 0.0, 0.0])]).lines(paper(60))
    labels, signs, _ = drawn(lines)
    assert labels[11] == "0" and all(not label.startswith("-") for label in labels.values())
    assert {r for r, _, _ in signs} == {11}
    assert Axis([0.0], log=False).low == 0.0 and Axis([-3.0], log=False).low < -3 < Axis([-3.0], log=False).high
    assert Axis([5.0], log=False).low < 5 < Axis([5.0], log=False).high


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 1234])
def test_steps_are_whole_and_begin_at_the_first(steps):
    chart = Chart("t", "step", "y", [Series("a", list(range(1, steps + 1)), [1.0] * steps)])
    *_, below = chart.lines(paper(80))
    shown = [int(w.replace(",", "")) for w in below.split()]  # no fraction, no exponent
    assert shown[0] == 1 and shown[-1] == steps and all(1 <= v <= steps for v in shown) and len(shown) <= 3
    across = {int(text.replace(",", "")): px for text, px in ticks(chart)[0].items()}
    assert across and all(1 <= v <= steps for v in across)
    places = points(chart)
    assert all(px == pytest.approx(places[v - 1][0], abs=0.11) for v, px in across.items())


def test_each_label_below_the_text_stands_at_its_value():
    lines = Chart("t", "step", "y", [Series("a", [1, 2, 4, 6], [1.0, 5.0, 2.0, 3.0])]).lines(paper(60))
    _, signs, wide = drawn(lines)
    left = lines[-2].index("└") + 1
    assert lines[-1].split() == ["1", "4", "6"]  # 3.5 is no step
    assert [lines[-1].index(w) - left for w in "146"] == [0, round(3 / 5 * (wide - 1)), wide - 1]


def test_bytes_and_seconds_begin_at_a_zero_that_is_near():
    for text, y in ((size_of, 2048), (time_of, 3)):
        *_, below = Chart("t", "x", "y", [Series("a", [1024, 4096], [y, y])], x_text=text).lines(paper(80))
        assert below.split()[0] == "0"
    mean = Chart("t", "step", "y", [Series("a", [1.5, 3.5, 5.5], [1.0, 2.0, 3.0])], whole=True)
    assert mean.lines(paper(80))[-1].split() == ["2", "4", "5"]  # whole steps within the means


def test_odd_ranges():
    for xs in ([-3, -1, 2], [0, 2**60], [1.25, 1.75], [1e-12, 2e-12], [7, 7, 7], [-5.0]):
        for log in (False, True):
            if log and min(xs) <= 0:
                continue
            chart = Chart("t", "x", "y", [Series("a", xs, [-1.0] * len(xs))], log_x=log, whole=xs[0] == 1.25 or None)
            lines = chart.lines(paper(60), 2)
            assert len([line for line in lines if "●" in line]) == 1 and lines[-1].strip() and chart.drawing().svg()
            assert all(LEFT <= px <= LEFT + WIDTH and TOP <= py <= TOP + HEIGHT for px, py in points(chart))


@pytest.mark.parametrize("flat_first", [False, True])
def test_a_dashed_line_lies_below_the_others(flat_first):
    flat = Series("limit", [1, 9], [2.0, 2.0], marks=False, dashed=True)
    data = Series("norm", [1, 3, 5, 7, 9], [0.0, 4.0, 2.0, 2.0, 4.0], marks=False)
    several = [flat, data] if flat_first else [data, flat]
    alone = drawn(Chart("t", "step", "y", [data]).lines(paper(60)))[1]
    lines = Chart("t", "step", "y", several).lines(paper(60))
    sign = "●▲"[several.index(data)]
    _, both, wide = drawn(lines)
    assert {(r, c) for r, c, s in both if s == sign} == {(r, c) for r, c, _ in alone}
    assert sum(r == 6 for r, _, _ in both) >= wide - 1  # where the data is not, the limit is drawn

    dots = Series("norm", data.xs, data.ys)  # with marks, joined by dots
    joined = drawn(Chart("t", "step", "y", [dots]).lines(paper(60)))[1]
    both = drawn(Chart("t", "step", "y", [dots, flat]).lines(paper(60)))[1]
    assert set(joined) <= set(both)
    strokes = [s.get("stroke-dasharray") for s in ElementTree.fromstring(Chart("t", "x", "y", several).drawing().svg())
               .iter(SVG + "polyline") if s.get("stroke") in ("#1f5fbf", "#c0392b")]
    assert strokes[:2] == ["5 4", None]  # the picture draws it first


def test_the_legend_shows_what_is_drawn():
    series = [Series("front", [1, 2, 3], [1, 2, 3]), Series("dominated", [1, 2], [3, 3], line=False),
              Series("limit", [1, 3], [2, 2], marks=False, dashed=True)]
    chart = Chart("t", "x", "y", series)
    root = ElementTree.fromstring(chart.drawing().svg())
    below = TOP + HEIGHT + 40
    lines = [s.get("stroke") for s in root.iter(SVG + "polyline")
             if float(s.get("points").split(",")[1].split()[0]) > below]
    dots = [c.get("fill") for c in root.iter(SVG + "circle") if float(c.get("cy")) > below]
    assert lines == ["#1f5fbf", "#3f8f57"] and dots == ["#c0392b"]
    assert len(list(root.iter(SVG + "circle"))) == 5 + 1
    plain = ElementTree.fromstring(Chart("t", "x", "y", series[:1]).drawing().svg())
    assert root.get("width") == plain.get("width")  # beside each other they are drawn in one size
    many = [Series(f"a series of a long name {k}", [1, 2], [k, k]) for k in range(9)]
    root = ElementTree.fromstring(Chart("t", "x", "y", many).drawing().svg())
    texts = [(float(t.get("x")), len(t.text)) for t in root.iter(SVG + "text") if t.text.startswith("a series")]
    assert len(texts) == 9 and all(x + 7 * n < LEFT + WIDTH + 24 for x, n in texts)


@pytest.mark.parametrize("width", range(20, 60, 3))
def test_a_sign_stands_with_its_name(width):
    names = ["before clipping", "as the step used it", "percentile 90", "Gemmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm"]
    lines = Chart("t", "x", "y", [Series(n, [1, 2], [1, 2]) for n in names]).lines(paper(width))
    legend = lines[next(k for k, line in enumerate(lines) if line.startswith("●")):]
    legend = "\n".join(legend[:next(k for k, line in enumerate(legend) if "│" in line)])
    for sign, name in zip("●▲■◆", names):
        assert f"{sign} {name.split()[0][:width - 2]}" in legend
    lines = Bars("t", [("a", [(n, 1.0) for n in names], "")]).lines(paper(width))
    for sign, name in zip("█▓▒░", names):
        assert f"{sign} {name.split()[0][:width - 2]}" in "\n".join(lines)


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
    assert legend == "█ forward  ▓ backward"
    assert first.count("▓") == pytest.approx(3 * first.count("█"), abs=2)
    assert second.count("█") == pytest.approx((first.count("█") + first.count("▓")) / 2, abs=1)


def test_stacked_pictures_keep_their_parts():
    one = Chart("t", "x", "y", [Series("a", [1, 2], [3, 4])]).drawing()
    both = stack(one, one)
    assert both.height == 2 * one.height + 18
    assert [m[1] for m in both.marks] == [m[1] for m in one.marks] + [m[1] + one.height + 18 for m in one.marks]
    assert b"PNG" in both.png()[:8]
