"""The loss of a run over its steps, as a chart: lines of text for a terminal, a PNG where matplotlib is."""

from __future__ import annotations

import math

from ..look.chart import Chart, Series


def smooth(values, width: int) -> list[float]:
    """Running mean over `width` values, centred; the ends average what there is."""
    half, out = width // 2, []
    for i in range(len(values)):
        part = values[max(0, i - half) : i + half + 1]
        out.append(sum(part) / len(part))
    return out


def loss_chart(rows: list[dict], unit: str, held_out: str | None = None) -> Chart:
    """The loss of a run's rows, a running mean of a fortieth of them; with `held_out` that column too, by this name."""
    steps = [int(row["step"]) for row in rows]
    losses = smooth([row["loss"] for row in rows], max(1, len(rows) // 40))
    series = [Series("training", steps, losses, marks=False)]
    if held_out and any(math.isfinite(row["held_out"]) for row in rows):
        series.append(Series(held_out, steps, [row["held_out"] for row in rows], line=False))
    return Chart("loss", "step", unit, series, whole=True)
