"""How a figure grows with a size: the exponent of a power law, and the sum of powers that it is where it is one."""
from __future__ import annotations

import itertools
import math

import numpy as np

__all__ = ["RULE", "POWERS", "fit"]

POWERS = (0, 1, 2, 3)
EXACT = 1e-8  # least squares in float64 of figures that are a sum of powers leave less
CLOSE = 0.002  # parts that explain less than this much of the figures are not looked for
WORSE = 1.2  # one part less is preferred while the residual is no more than this much larger
POOR = 0.03  # a sum of powers that leaves more is not given

RULE = (
    "Exponent: the slope of the least-squares line through log(figure) over log(size); residual: the root mean square "
    "distance from it, as a share of the figure; at the end: the slope between the two largest sizes. A part that does "
    "not grow bends the line, and the exponent comes out too small. So a sum of parts a + b n + c n^2 + d n^3, none "
    "negative, is fitted too, by least squares of relative distances: of the sums with up to three parts, and two less "
    f"than there are sizes, the one with the fewest parts whose residual is at most {CLOSE:.1%} or {WORSE:g} times the "
    f"best one's; one part more may stand where it is exact. It is given where it leaves at most {POOR:.0%}. Where it "
    "has a part a above 1% of the smallest figure, above a is the exponent of the figure less a.")


def fit(sizes, figures) -> dict | None:
    """How positive figures grow with positive, increasing sizes; None where a figure is missing or not above zero.

    {"exponent", "factor": figure = factor * size ** exponent, "residual": None for two sizes, "end", "parts":
    [{"power", "coefficient"}, ...] or None, "parts_residual", "above_constant": an exponent or None}; RULE
    says how. Raises: ValueError for fewer than two sizes.
    """
    if len(sizes) < 2:
        raise ValueError(f"[fit] a growth needs two sizes or more, got {len(sizes)}")
    if any(y is None or not math.isfinite(y) or y <= 0 for y in figures):
        return None
    x, y = np.asarray(sizes, dtype=np.float64), np.asarray(figures, dtype=np.float64)
    exponent, factor, residual = _line(x, y)
    parts, left = _parts(x, y)
    above = None
    if parts is not None and len(parts) > 1 and parts.get(0, 0.0) > 0.01 * y.min():
        rest = y - parts[0]
        above = _line(x, rest)[0] if (rest > 0).all() else None
    shown = None if parts is None else [{"power": p, "coefficient": c} for p, c in parts.items()]
    return {"exponent": exponent, "factor": factor, "residual": residual, "end": _line(x[-2:], y[-2:])[0],
            "parts": shown, "parts_residual": left, "above_constant": above}


def _line(x, y) -> tuple[float, float, float | None]:
    """(exponent, factor, residual) of the straight line through the logarithms."""
    across, up = np.log(x), np.log(y)
    centred = across - across.mean()
    exponent = float(centred @ (up - up[0]) / (centred @ centred))  # exactly 0 for figures that do not grow
    level = float(up.mean() - exponent * across.mean())
    residual = None if len(x) < 3 else float(np.sqrt(np.mean((up - level - exponent * across) ** 2)))
    return exponent, math.exp(level), residual


def _parts(x, y) -> tuple[dict | None, float | None]:
    """({power: coefficient}, residual) of the sum of powers that RULE chooses."""
    scale = x.max()  # powers of sizes between 0 and 1 are of one magnitude
    found: list[tuple[int, float, dict]] = []
    for count in range(1, min(3, len(x) - 1) + 1):
        for powers in itertools.combinations(POWERS, count):
            columns = np.stack([(x / scale) ** p / y for p in powers], axis=1)
            weight = np.linalg.norm(columns, axis=0)
            solved = np.linalg.lstsq(columns / weight, np.ones(len(x)), rcond=None)[0] / weight
            if (solved <= 0).any():
                continue  # without the negative part it is one of the others
            left = float(np.sqrt(np.mean((columns @ solved - 1) ** 2)))
            if count > max(1, len(x) - 2) and left > EXACT:
                continue  # with one size to spare a part would follow the noise
            found.append((count, left, {p: float(c / scale ** p) for p, c in zip(powers, solved)}))
    best = min(left for _, left, _ in found)
    limit = EXACT if best <= EXACT else max(CLOSE, WORSE * best)
    _, left, parts = min((f for f in found if f[1] <= limit), key=lambda f: f[:2])
    return (parts, left) if left <= POOR else (None, None)
