"""The drawings of a profile: where the time goes, and operators under the roofline."""
from __future__ import annotations

from ..chart import Bars, Chart, Series, stack
from ..drawing import Drawing
from ..terminal import figure, time_of

__all__ = ["reached", "roofline", "whole"]

NAMED = 6  # operators with a mark of their own
LEAST = 0.01  # of the program's time


def reached(d) -> list[tuple]:
    """[(name, operations for each byte, operations in a second)] of operators that compute and take 1% of the
    program's time, the longest first."""
    found = []
    for o in d["operators"]:
        for way in ("forward", "backward"):
            r = o[way]
            if r is not None and r["intensity"] and r["flops_per_s"] and r["time_share"] >= LEAST:
                name = o["name"] if way == "forward" else f"{o['name']} backward"
                found.append((r["device_seconds"] or r["seconds"], name, r["intensity"], r["flops_per_s"]))
    return [row[1:] for row in sorted(found, reverse=True)]


def roofline(d) -> Chart:
    """Operations in a second over operations for each byte, below what copies and products were measured to reach."""
    points = reached(d)
    series = []
    if d["ceiling"] is not None:
        top, speed = d["ceiling"], d["ceiling"]["products"]["float32"]
        ridge = speed / top["bandwidth"]
        left = min([ridge, *(p[1] for p in points)]) / 2
        right = max([ridge, *(p[1] for p in points)]) * 2
        series.append(Series("ceiling, float32", [left, ridge, right], [left * top["bandwidth"] / 1e9, speed / 1e9,
                                                                        speed / 1e9], marks=False))
    series += [Series(name, [x], [y / 1e9], line=False) for name, x, y in points[:NAMED]]
    if len(points) > NAMED:
        series.append(Series(f"{len(points) - NAMED} more", [p[1] for p in points[NAMED:]],
                             [p[2] / 1e9 for p in points[NAMED:]], line=False))
    return Chart("roofline", "FLOP/byte", "GFLOP/s", series, log_x=True, log_y=True, x_text=figure, y_text=figure)


def whole(d) -> Drawing:
    """Bars of the block's parts and of operators, and the roofline."""
    drawings = [Bars("the program's time", [(p["part"], p["seconds"], f"{p['share']:.0%}") for p in d["parts"]],
                     text=time_of).drawing()]
    rows = [(o["name"], [(way, (o[way] or {"seconds": 0.0})["seconds"]) for way in ("forward", "backward")], "")
            for o in d["operators"][:16]]
    if rows:
        drawings.append(Bars("operators", rows, text=time_of).drawing())
    if reached(d):
        drawings.append(roofline(d).drawing())
    return stack(*drawings)
