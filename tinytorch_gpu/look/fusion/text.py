"""The words and tables of `look.fusion`, from its data."""
from __future__ import annotations

from ..graph.collect import short_file
from ..terminal import Column, Paper, count_of, figure, size_of, time_of
from .search import OWN

__all__ = ["columns_of", "details", "groups", "narrow", "potential", "seconds", "sentences"]


def sentences(d) -> list[str]:
    t, c = d["total"], d["ceiling"]
    found = len(d["findings"])
    count = count_of(t["steps"], "operator")
    first = (f"fusion: {count_of(found, 'finding')} in {count}" if found
             else f"nothing to fuse in {count}: none of the patterns looked for is in them")
    speeds = (f"ceilings of {c['device']}, measured: {c['bandwidth'] / 1e9:.3g} GB/s copied (read + written), "
              f"{time_of(c['launch'])} for a launch, {c['products']['float32'] / 1e9:.4g} GFLOP/s in products of "
              "float32")
    both = ["the table is of forward and backward together, where a gradient goes through"]
    return [first, speeds, *([c["note"]] if c["note"] else []),
            *(both if any(f["both"] for f in d["findings"]) else [])]


def potential(d) -> list[str]:
    """What all of it would take off the predicted time, and what was measured."""
    t = d["total"]

    def moved(way):
        launches = f"{way['launches']:,} launches" if way["launches"] != 1 else "1 launch"
        return f"{launches} and {size_of(way['bytes'])}, {time_of(way['seconds'])}"

    text = f"total: as it is, predicted, forward {moved(t)}"
    whole = t["seconds"]
    if t["backward"]:
        text += f"; backward {moved(t['backward'])}"
        whole += t["backward"]["seconds"]
    if t["gain"]:
        text += f"; operators of this package take off {time_of(t['gain'])} ({t['gain'] / (whole or 1):.0%})"
    if t["gain_of_own"]:
        text += (f"; kernels of your own {'another ' if t['gain'] else 'would take off '}"
                 f"{time_of(t['gain_of_own'])} ({t['gain_of_own'] / (whole or 1):.0%})")
    found = [text]
    named = [f for f, _ in groups(d) if f["use"]]
    measured = [f for f in named if f["measured"] is not None]
    for name, sides in (("forward", measured), ("backward", [f["backward"] for f in measured if f["backward"]])):
        pairs = [(x["measured"]["gain"], x["gain"]) for x in sides if x["measured"] and x["measured"]["agrees"]]
        if pairs:
            found.append(f"measured, one of each, {name}: {_taken_off(sum(p[0] for p in pairs))} where "
                         f"{_taken_off(sum(p[1] or 0.0 for p in pairs))} predicted")
    useless = [str(f["id"]) for f in named if f["recommended"] is False]
    if useless:
        found.append(f"no gain here, leave as they are: {', '.join(useless)}")
    if named and not d["ceiling"]["gpu"]:
        found.append("the prediction is of kernels that make one pass; without a GPU the operators run their formulas, "
                     "of several passes, and small arrays stay in the cache: many gain nothing here"
                     + ("" if measured else ", measure=True tells which"))
    return found


def _taken_off(seconds) -> str:
    return f"{time_of(seconds)} less" if seconds >= 0 else f"{time_of(-seconds)} more"


def groups(d) -> list[tuple[dict, int]]:
    """The findings without their repetitions, with how many there are of each; those that save most bytes first."""
    counts: dict[int, int] = {}
    for f in d["findings"]:
        counts[f["like"]] = counts.get(f["like"], 0) + 1
    found = [(f, counts[f["id"]]) for f in d["findings"] if f["like"] == f["id"]]
    return sorted(found, key=lambda x: -_less(x[0]) * x[1])


def _less(f) -> int:
    """Bytes that are not moved any more, forward and backward."""
    whole = f["both"] or f
    return (whole["now"]["bytes"] or 0) - (whole["fused"]["bytes"] or 0)


def seconds(side, kind, way) -> float | None:
    """Of one direction, predicted or measured, as it is or fused."""
    if kind == "predicted":
        return side[way]["seconds"]
    return None if side["measured"] is None else side["measured"][way]


def columns_of(groups, paper):
    head = [Column("", right=True), Column("found", least=16), Column(paper.times, right=True, keep=1),
            Column("bytes", right=True), Column("FLOP/B", right=True, keep=4), Column("kept", right=True, keep=5),
            Column("predicted", right=True, keep=3, rule=True), Column("gain", right=True),
            Column("measured", right=True, keep=2)]
    rows = []
    for f, count in groups:
        whole = f["both"] or f
        m = whole["measured"]
        rows.append([
            str(f["id"]), f["kind"], str(count) if count > 1 else "", _change(whole, "bytes", size_of, paper),
            _change(whole, "intensity", figure, paper), _kept(f, paper), _change(whole, "seconds", time_of, paper),
            "" if whole["speedup"] is None else f"{whole['speedup']:.2g}x",
            "" if m is None else f"{m['speedup']:.2g}x"])
    return head, rows


def _change(side, name, text, paper) -> str:
    """One figure, as it is and fused; nothing where neither is known."""
    now, fused = side["now"][name], side["fused"][name]
    return "" if now is None and fused is None else f"{text(now) or '?'} {paper.to} {text(fused) or '?'}"


def _kept(f, paper) -> str:
    """What stays for backward."""
    if not f["saved"]:
        return ""
    now = f["saved"]["now"]
    return f"{'freed' if now is None else size_of(now)} {paper.to} {size_of(f['saved']['fused'])}"


def details(f, count, paper) -> list[str]:
    """Lines about one finding: where, what to use, both directions, how it is read, what was measured."""
    where = []
    if f["module"]:
        where.append(f["module"])
    if f["line"]:
        where.append(f"{short_file(f['line']['file'])}:{f['line']['number']} {f['line']['source']}")
    times = f", {count} times" if count > 1 else ""
    lines = [f"{f['id']} {f['kind']}: {_names(f['operators'], paper)}{times}"]
    lines += ["in " + ", ".join(where)] if where else []
    lines.append(f"reads {_some(f['reads'])}; writes {_some(f['writes'])}")
    lines.append(_advice(f))
    for name, side in (("forward", f), ("backward", f["backward"]), ("both", f["both"])):
        if side is not None:
            lines.append(f"{name}: {_direction(side, paper)}")
    if f["saved"]:
        lines.append(f"kept for backward, beside leaves: {_kept(f, paper)}")
    shares = [f"{name} {'<1%' if a['share'] < 0.005 else format(a['share'], '.0%')}"
              for name, a in f["access"].items() if a["bytes"]]
    lines.append(f"bytes moved now, forward: {', '.join(shares)}")
    lines += f["notes"]
    differences = [f"{name} differ by at most {m['difference']:.1g}" if m["agrees"] else
                   f"{name} DIFFER by {m['difference']:.2g}, do not replace"
                   for name, side in (("values", f), ("gradients", f["backward"])) if (m := side and side["measured"])]
    lines += ["; ".join(differences) + "; of the largest"] if differences else []
    return lines + ([f["unmeasured"]] if f["unmeasured"] else [])


def _advice(f) -> str:
    """Use it, or leave it as it is."""
    if f["recommended"] is not False:
        return "use " + (f["use"] or OWN)
    whole = f["both"] or f
    m = whole["measured"] or f["measured"]
    if m is None:
        why = "no gain predicted"
    elif not m["agrees"]:
        why = "not the same"
    else:
        why = f"no gain measured, {m['speedup']:.2g}x"
    return f"leave it: {why} ({f['use'] or OWN})"


def _direction(side, paper) -> str:
    """Both ways in one direction: bytes, launches, intensity, time."""
    m, intensity = side["measured"], _change(side, "intensity", figure, paper)
    line = f"{_change(side, 'bytes', size_of, paper)}, launches {_change(side, 'launches', str, paper)}"
    line += f", {intensity} FLOP/B" if intensity else ""
    line += f"; predicted {_change(side, 'seconds', time_of, paper)}"
    line += "" if side["speedup"] is None else f", {side['speedup']:.2g}x"
    if m is not None:
        line += f"; measured {time_of(m['now'])} {paper.to} {time_of(m['fused'])}, {m['speedup']:.2g}x"
    return line


def _names(operators, paper) -> str:
    """The operators in order, short where they repeat."""
    for period in range(1, 1 + len(operators) // 2):
        times = len(operators) // period
        if operators == operators[:period] * times and times > 2:
            return f"({', '.join(operators[:period])}) {paper.times}{times}"
    runs: list[list] = []
    for name in operators:
        if runs and runs[-1][0] == name:
            runs[-1][1] += 1
        else:
            runs.append([name, 1])
    words = [name if n == 1 else f"{name} {paper.times}{n}" for name, n in runs]
    return ", ".join(words if len(words) <= 16 else [*words[:15], f"{len(words) - 15} more"])


def _some(shapes) -> str:
    return ", ".join(shapes if len(shapes) <= 8 else [*shapes[:6], f"{len(shapes) - 6} more"])


def narrow(paper: Paper) -> Paper:
    """Paper for what is indented."""
    made = object.__new__(Paper)
    made.__dict__.update(paper.__dict__)
    made.width = paper.width - 3
    return made
