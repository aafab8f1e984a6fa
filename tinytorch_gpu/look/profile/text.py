"""What a profile says: its sentences, and its tables for the text and the page."""
from __future__ import annotations

from ..terminal import Column, count_of, figure, size_of, time_of

__all__ = ["headline", "sentences", "tables_of"]

TITLES = {"rules": "operators that backward rules ran", "again": "operators that checkpoints ran again",
          "kernels": "kernels", "steps": "optimizer steps"}
UNNAMED = {"": "(outermost)", None: "(no part of it)"}


def headline(d) -> str:
    """Its time, its device and its counts."""
    c = d["counts"]
    seen = [count_of(c["operators"], "operator") + " forward"]
    seen += [f"{count_of(c['nodes'], 'node')} backward"] if c["nodes"] else []
    seen += [f"{count_of(c['again'], 'operator')} again for checkpoints"] if c.get("again") else []
    for key, word in (("kernels", "kernel launch"), ("steps", "optimizer step")):
        if c[key]:
            seen.append(f"{c[key]:,} {word}{'' if c[key] == 1 else 'es' if word.endswith('ch') else 's'}")
    return f"{time_of(d['seconds'])} on {d['device']}: {', '.join(seen)}"


def sentences(d) -> list[str]:
    """What stands above the tables."""
    found = [f"profile of {headline(d)}"]
    o = d["overhead"]
    if o["spans"]:
        found.append(f"the profiler took {time_of(o['seconds'])} of it ({o['share']:.0%}), which is taken out: "
                     f"shares are of the {time_of(d['program_seconds'])} that remain; about "
                     f"{time_of(o['residual_seconds'])} more, {time_of(o['residual_per_span'])} around each of "
                     f"{count_of(o['spans'], 'span')}, stay in (measured with empty ones)")
    if d["device_seconds"] is not None:
        found.append(f"on the device {time_of(d['device_seconds'])} between events on the stream: its work, and where "
                     "the host is slower its waiting")
    c = d["ceiling"]
    if c is not None:
        products = ", ".join(f"{figure(v / 1e9)} {k}" for k, v in c["products"].items())
        found.append(f"ceilings measured here: copies {figure(c['bandwidth'] / 1e9)} GB/s, products {products} "
                     f"GFLOP/s, an operator on one element {time_of(c['launch'])}")
        if c["note"]:
            found.append(c["note"])
    return found


def _percent(share) -> str:
    return "" if share is None else "<1%" if 0 < share < 0.01 else f"{share:.0%}"


def _rates(r) -> list[str]:
    return [size_of(r["bytes"]), figure(None if r["flops"] is None else r["flops"] / 1e9),
            figure(r["bytes_per_s"] and r["bytes_per_s"] / 1e9), figure(r["flops_per_s"] and r["flops_per_s"] / 1e9),
            r["bound"] or "", _percent(r["share"])]


def _rate_columns():
    return [Column("bytes", right=True, keep=6, rule=True), Column("GFLOP", right=True, keep=5),
            Column("GB/s", right=True, keep=3), Column("GFLOP/s", right=True, keep=3), Column("bound", keep=2),
            Column("reached", right=True, keep=1)]


def _times(device: bool):
    return [Column("time", right=True), Column("own", right=True, keep=4),
            *([Column("device", right=True)] if device else []), Column("share", right=True, keep=1)]


def _taken(r, device: bool) -> list[str]:
    return [time_of(r["seconds"]), time_of(r["own_seconds"]), *([time_of(r["device_seconds"])] if device else []),
            _percent(r["time_share"])]


def tables_of(d):
    """(title, head, rows) of each table that has rows."""
    on = d["device_seconds"] is not None
    head = [Column("part of the time"), Column("time", right=True), Column("share", right=True)]
    yield "the program's time", head, [
        [p["part"], time_of(p["seconds"]), _percent(p["share"])] for p in d["parts"]]
    base = "device_seconds" if on else "seconds"
    both = [(o["name"], way, o[way]) for o in d["operators"] for way in ("forward", "backward") if o[way] is not None]
    both.sort(key=lambda row: row[2][base] or 0.0, reverse=True)
    if both:
        yield "operators", [Column("operator", least=18), Column("way"), Column("calls", right=True), *_times(on),
                            *_rate_columns()], [
            [name, way, f"{r['calls']:,}", *_taken(r, on), *_rates(r)] for name, way, r in both]
    for key, title, columns in (("rules", "in rules", _rate_columns()), ("again", "run again", _rate_columns()),
                                ("kernels", "kernel", [Column("bytes", right=True, keep=4, rule=True),
                                                       Column("GB/s", right=True, keep=2),
                                                       Column("of copies", right=True, keep=2)]),
                                ("steps", "optimizer", [])):
        if d.get(key):
            head = [Column(title, least=18), Column("calls", right=True), *_times(on), *columns]
            yield TITLES[key], head, [[r["name"], f"{r['calls']:,}", *_taken(r, on), *_ends(key, r)] for r in d[key]]
    if d["modules"]:
        head = [Column("module", least=16), Column("class", least=6, keep=3), Column("calls", right=True, keep=3),
                Column("forward", right=True), Column("own", right=True, keep=4), Column("backward", right=True),
                Column("own", right=True, keep=4), *([Column("device", right=True)] if on else []),
                Column("share", right=True), Column("GFLOP", right=True, keep=1, rule=True)]
        yield "modules", head, [
            [UNNAMED.get(m["name"], m["name"]), m["class"], f"{m['forward']['calls']:,}",
             *[time_of(m[way][s]) for way in ("forward", "backward") for s in ("seconds", "own_seconds")],
             *([time_of(m["device_seconds"])] if on else []), _percent(m["time_share"]),
             figure(None if m["flops"] is None else m["flops"] / 1e9)] for m in d["modules"]]


def _ends(key, r) -> list[str]:
    if key in ("rules", "again"):
        return _rates(r)
    if key == "kernels":
        return [size_of(r["bytes"]), figure(r["bytes_per_s"] and r["bytes_per_s"] / 1e9), _percent(r["share"])]
    return []
