"""The curves of a training run from the columns of its metrics."""
from __future__ import annotations

import math
import statistics

from ..chart import Chart, Series
from ..terminal import figure, size_of

__all__ = ["curves", "memory_name"]

TITLES = {"loss": "loss", "held_out": "held out", "lr": "learning rate", "grad_norm": "norm of the gradient",
          "per_second": "throughput"}
UNITS = {"lr": "learning rate", "grad_norm": "norm before clipping", "per_second": "per second", "memory_mib": "memory"}
FROM_ZERO = ("per_second", "memory_mib")  # whose small changes are not news
POINTS = 500  # of a curve: more rows are means
MARKED = 30  # points: a curve of no more has its points marked


def curves(data) -> list[Chart]:
    """A chart for each column; the held-out loss beside the loss where both are in one unit."""
    metrics, units = data["metrics"], data["units"]
    steps = metrics.get("step", [])
    found = []
    held = [(s, v) for s, v in zip(steps, metrics.get("held_out", ())) if _there(v)]
    together = bool(held) and units.get("held_out") == units.get("loss") is not None
    for name, column in metrics.items():
        if name == "step" or (name == "held_out" and together) or not any(_there(v) for v in column):
            continue
        unit = units.get(name) or UNITS.get(name) or name
        title = memory_name(data) if name == "memory_mib" else TITLES.get(name, name)
        series = _curve("training" if name == "loss" else title, steps, column)
        if name == "loss" and together:
            title = "loss in training and held out"
            series.append(Series("held out", [s for s, _ in held], [v for _, v in held]))
        clip = (data["settings"] or {}).get("clip")
        if name == "grad_norm" and isinstance(clip, (int, float)) and clip > 0:
            series.append(Series("clipped above", [steps[0], steps[-1]], [clip, clip], marks=False, dashed=True))
        if name == "memory_mib":
            series = [Series(s.name, s.xs, [None if v is None else v * 2**20 for v in s.ys], marks=s.marks)
                      for s in series]
        chart = Chart(title, "step", unit, series, x_text=_whole, y_text=size_of if name == "memory_mib" else _amount,
                      whole=True)
        if name in FROM_ZERO:
            chart.up.low = 0.0
        found.append(chart)
    return found


def memory_name(data) -> str:
    """What the column memory_mib measures: not what look.memory does, which counts the step's arrays alone."""
    where = (data["memory"] or {}).get("device")
    if where is None or data["program"] not in ("gpt", "digits"):
        return "memory, of metrics.csv"
    return "resident memory of the process" if where == "cpu" else f"memory in use on {where}"


def _there(v) -> bool:
    return v is not None and math.isfinite(v)


def _curve(name, steps, column) -> list[Series]:
    """The rows, or means of as many as make POINTS; of a long one a running mean beside it."""
    points = [(s, v) for s, v in zip(steps, column) if _there(v)]
    each = math.ceil(len(points) / POINTS)
    if each > 1:
        parts = [points[k:k + each] for k in range(0, len(points), each)]
        points = [(statistics.fmean(s for s, _ in part), statistics.fmean(v for _, v in part)) for part in parts]
        name += f", means of {each} rows"
    xs, ys = [s for s, _ in points], [v for _, v in points]
    return [Series(name, xs, ys, marks=len(points) <= MARKED)]


def _whole(v) -> str:
    return f"{v:,.0f}"


def _amount(v) -> str:
    return f"{v:,.0f}" if 1000 <= abs(v) < 1e7 else figure(v)
