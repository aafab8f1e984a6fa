"""When gradients vanish or explode, said as a rule: the gradient's norm at the layers' outputs, fitted in log space."""
from __future__ import annotations

import math
import statistics

__all__ = ["LEAST", "middle", "verdict"]

LEAST = 4  # layers: fewer make no trend
BEGINS = 10.0  # times smaller or greater than at the last layer: there it begins


def middle(values) -> float | None:
    """The median of the values that are there; NaN or infinity as soon as one of them is; None for none."""
    found = [v for v in values if v is not None]
    bad = [v for v in found if not math.isfinite(v)]
    return bad[0] if bad else statistics.median(found) if found else None


def verdict(names, norms, threshold) -> dict:
    """`names` and `norms`: layers in forward order and the norm of the loss's gradient at each one's output, or None.

    "kind": "vanishing", "exploding", "neither", "not finite" or "unknown"; "growth": the factor per layer towards the
    input of the least-squares line through log10(norm); "fitted": that line's factor from the last layer to the first;
    "measured": the same of the two norms themselves; "residual": the root mean square of log10(norm) about the line;
    "begins": the layer nearest to the output from which on towards the input all norms are below a tenth, or above ten
    times, the last layer's.
    """
    given = [(name, norm) for name, norm in zip(names, norms) if norm is not None]
    found: dict = {"kind": "unknown", "growth": None, "fitted": None, "measured": None, "residual": None,
                   "begins": None, "layers": len(given), "threshold": threshold, "rule": rule(threshold)}
    bad = [name for name, norm in given if not math.isfinite(norm)]
    if bad:
        return {**found, "kind": "not finite", "begins": bad[-1]}  # the backward meets the last layer first
    if len(given) < LEAST or given[-1][1] == 0:
        return found
    back = given[::-1]
    last = back[0][1]
    positive = [(k, math.log10(norm)) for k, (_, norm) in enumerate(back) if norm > 0]
    if len(positive) >= 2:
        slope, intercept = _line(positive)
        found["growth"] = _power(slope)
        found["fitted"] = _power(slope * (len(back) - 1))
        found["residual"] = math.sqrt(sum((y - intercept - slope * k) ** 2 for k, y in positive) / len(positive))
    found["measured"] = back[-1][1] / last
    fitted = found["fitted"]
    if found["measured"] == 0:  # below the least number of the dtype, or cut off: no line has a zero
        found["kind"] = "vanishing"
    elif fitted is not None and max(fitted, found["measured"]) <= 1 / threshold:
        found["kind"] = "vanishing"
    elif fitted is not None and min(fitted, found["measured"]) >= threshold:
        found["kind"] = "exploding"
    else:
        found["kind"] = "neither"
    beyond = {"vanishing": lambda norm: norm < last / BEGINS, "exploding": lambda norm: norm > last * BEGINS}
    test = beyond.get(found["kind"])
    if test is not None:
        for name, norm in given:  # from the input
            if not test(norm):
                break
            found["begins"] = name
    return found


def rule(threshold) -> str:
    """The rule in words."""
    return ("vanishing (exploding): from the last layer's output to the first one's, the gradient's norm falls (grows) "
            f"{threshold:g} times or more, in the line fitted to log10(norm) and in the two norms themselves; it "
            "begins at the layer nearest to the output from which on towards the input all norms are "
            f"{BEGINS:g} times smaller (greater) than the last layer's; needs {LEAST} layers; of several steps the "
            "median counts")


def _line(points):
    """(slope, intercept) by least squares."""
    x = statistics.fmean(k for k, _ in points)
    y = statistics.fmean(v for _, v in points)
    slope = sum((k - x) * (v - y) for k, v in points) / sum((k - x) ** 2 for k, _ in points)
    return slope, y - slope * x


def _power(exponent) -> float:
    return 10.0 ** max(-320.0, min(308.0, exponent))
