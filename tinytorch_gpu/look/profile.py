"""`look.profile()`: where a program's time goes, by operator, module, kernel, beside what the machine can do."""
from __future__ import annotations

import html
from pathlib import Path

from ..backend.device import device as Device
from ..backend.device import resolve
from ..nn import Module
from . import page, spans
from .ceiling import ceiling
from .drawing import Drawing
from .profile_draw import reached, roofline, whole
from .profile_table import Sums, figures
from .profile_trace import trace_events
from .profile_watch import KEPT, Watch
from .terminal import Column, Paper, count_of, figure, size_of, tables, time_of, with_notes, wrap
from .view import View, strict_json

__all__ = ["Profile", "profile"]

SHOWN = 20  # rows of a table of the text
TITLES = {"rules": "operators that backward rules ran", "kernels": "kernels", "steps": "optimizer steps"}
AREAS = (("forward", "operators forward"), ("rules", "backward rules"), ("engine", "engine, .grad, hooks"),
         ("steps", "optimizer steps"), ("modules", "modules' own code"))


def profile(model=None, *, device=None) -> Profile:
    """Times, counts, bytes and floating point operations of everything that runs in a `with` block.

        with look.profile(model) as p:
            for x, y in batches:
                ...  # training steps
        p.print()
        p.save("step.trace.json")  # a timeline for ui.perfetto.dev

    By operator and direction, by module, kernel and optimizer, each with its rates and their share of the ceilings of
    this machine, which are measured once in a process (0.1 to 0.5 s, when the figures are first asked for). `model`
    gives modules their names, where the outermost one that is called is only a part of it. `device`: whose stream gets
    the events that time it, the model's where there is one, else the default device. All threads are seen. What the
    profiler takes itself is measured, told and taken out.

    Raises: TypeError for what is no Module.
    """
    if model is not None and not isinstance(model, Module):
        raise TypeError(f"[profile] expected a Module or None, got {type(model).__name__}: run the program inside "
                        "`with look.profile() as p:`")
    if device is None:
        first = None if model is None else next(iter(model.parameters()), None)
        where = resolve(None) if first is None else first.device
    else:
        where = resolve(Device(device))
    return Profile(Watch(where, model))


class Profile(View):
    """The view of `look.profile`. `data`: "parts" of the block's time, "operators" with "forward" and "backward",
    "rules", "modules", "kernels", "steps", "ceiling", "overhead". `trace()` is the timeline."""

    def __init__(self, watch: Watch):
        self._watch, self._sums = watch, Sums()
        self._state = "new"
        self._kept: list = []
        self._data: dict | None = None
        watch.on_full = self._fold

    def __enter__(self):
        if self._state != "new":
            raise RuntimeError("[profile] a view watches one block: call look.profile() again for another")
        self._watch.open()
        self._sums.thread = self._watch.thread
        self._state = "open"
        return self

    def __exit__(self, *exc):
        self._state = "closed"
        self._watch.close()

    def _fold(self) -> None:
        """Add what has ended to the sums; the first spans are kept for the timeline."""
        for ran in self._watch.take():
            self._sums.add(ran)
            if len(self._kept) < KEPT:
                self._kept.append(ran)

    @property
    def data(self) -> dict:  # type: ignore[override]
        """Plain dictionaries. Seconds are the host's but for "device_seconds"; inside the block, of what has ended."""
        if self._data is not None:
            return self._data
        if self._state == "new":
            return {"view": "profile", "state": "new", "missing": ["nothing was watched: run the program inside `with "
                                                                   "look.profile() as p:`"]}
        self._fold()
        found = _data(self._watch, self._sums, self._state)
        if self._state == "closed":
            self._data = found
        return found

    def __repr__(self):
        d = self.data
        return "<look.profile: nothing was watched>" if d["state"] == "new" else f"<look.profile: {_first(d)}>"

    # text

    def lines(self, paper: Paper) -> list[str]:
        d = self.data
        if d["state"] == "new":
            return with_notes(paper, d["missing"])[1:]
        lines: list[str] = []
        for k, sentence in enumerate(_sentences(d)):
            lines += wrap(paper, sentence, "" if k == 0 else "  ")
        body, hidden = tables(paper, [(head, rows) for _, head, rows in _tables(d)], SHOWN)
        lines += body
        if reached(d):
            lines += ["", *roofline(d).lines(paper)]
        return lines + with_notes(paper, d["missing"], hidden)

    # files

    def page(self) -> str:
        d = self.data
        if d["state"] == "new":
            return page.page("look.profile", f"<main><p>{html.escape(d['missing'][0])}</p></main>")
        first, *others = _sentences(d)
        parts = [f"<header><h1>{html.escape(first)}</h1></header>", "<main>"]
        parts += [f"<p>{html.escape(s)}</p>" for s in others]
        parts.append(self.to_svg())
        for title, head, rows in _tables(d):
            parts += [f"<h2>{html.escape(title)}</h2>",
                      page.table([c.title for c in head], rows, [i for i, c in enumerate(head) if c.right])]
        parts += [f'<p class="soft">{html.escape(m)}</p>' for m in d["missing"]]
        return page.page("look.profile", "\n".join([*parts, "</main>"]))

    def _picture(self) -> Drawing:
        d = self.data
        if d["state"] == "new":
            raise ValueError(f"[save] there is nothing to draw: {d['missing'][0]}")
        return whole(d)

    def to_svg(self) -> str:
        """Bars of the block's parts and of the operators, and the roofline. Raises: ValueError before the block."""
        return self._picture().svg()

    def to_png(self) -> bytes:
        return self._picture().png()

    def trace(self) -> dict:
        """The timeline in the Trace Event Format: spans by thread, on a device also by its events, and an arrow from
        each operator to its backward. At most the first 100,000 spans. Raises: ValueError before the block."""
        if self._state == "new":
            raise ValueError(f"[trace] {self.data['missing'][0]}")
        self._fold()
        w = self._watch
        return trace_events(self._kept, w.thread, w.start, w.seconds, w.zero_event, str(w.device),
                            {"program": "tinytorch_gpu look.profile", "device": str(w.device), "spans": str(w.count)})

    def endings(self) -> list[str]:
        """The endings that `save` knows."""
        return [*super().endings(), "trace.json"]

    def save(self, path) -> Path:
        """Write a file in the format of its ending; `.trace.json` is the timeline for ui.perfetto.dev and
        chrome://tracing, other `.json` the figures. Returns its path."""
        path = Path(path)
        if path.name.lower().endswith(".trace.json"):
            path.write_text(strict_json(self.trace()) + "\n", encoding="utf-8", newline="\n")
            return path
        return super().save(path)


# what is said

def _first(d) -> str:
    c = d["counts"]
    seen = [count_of(c["operators"], "operator") + " forward"]
    seen += [f"{count_of(c['nodes'], 'node')} backward"] if c["nodes"] else []
    for key, word in (("kernels", "kernel launch"), ("steps", "optimizer step")):
        if c[key]:
            seen.append(f"{c[key]:,} {word}{'' if c[key] == 1 else 'es' if word.endswith('ch') else 's'}")
    return f"{time_of(d['seconds'])} on {d['device']}: {', '.join(seen)}"


def _sentences(d) -> list[str]:
    found = [f"profile of {_first(d)}"]
    o = d["overhead"]
    if o["spans"]:
        found.append(f"the profiler took {time_of(o['seconds'])} of it ({o['share']:.0%}), which is taken out below; "
                     f"about {time_of(o['residual_seconds'])} more, {time_of(o['residual_per_span'])} around each of "
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
            _percent(r["wall_share"])]


def _tables(d):
    """(title, head, rows) of each table that has rows."""
    on = d["device_seconds"] is not None
    yield "the block's time", [Column("part of the time"), Column("time", right=True), Column("share", right=True)], [
        [p["part"], time_of(p["seconds"]), _percent(p["share"])] for p in d["parts"]]
    base = "device_seconds" if on else "seconds"
    both = [(o["name"], way, o[way]) for o in d["operators"] for way in ("forward", "backward") if o[way] is not None]
    both.sort(key=lambda row: row[2][base] or 0.0, reverse=True)
    if both:
        yield "operators", [Column("operator", least=18), Column("way"), Column("calls", right=True), *_times(on),
                            *_rate_columns()], [
            [name, way, f"{r['calls']:,}", *_taken(r, on), *_rates(r)] for name, way, r in both]
    for key, title, columns in (("rules", "in rules", _rate_columns()),
                                ("kernels", "kernel", [Column("bytes", right=True, keep=4, rule=True),
                                                       Column("GB/s", right=True, keep=2),
                                                       Column("of copies", right=True, keep=2)]),
                                ("steps", "optimizer", [])):
        if d[key]:
            head = [Column(title, least=18), Column("calls", right=True), *_times(on), *columns]
            yield TITLES[key], head, [[r["name"], f"{r['calls']:,}", *_taken(r, on), *_ends(key, r)] for r in d[key]]
    if d["modules"]:
        head = [Column("module", least=16), Column("class", least=6, keep=3), Column("calls", right=True, keep=3),
                Column("forward", right=True), Column("own", right=True, keep=4), Column("backward", right=True),
                Column("own", right=True, keep=4), *([Column("device", right=True)] if on else []),
                Column("share", right=True), Column("GFLOP", right=True, keep=1, rule=True)]
        yield "modules", head, [
            [{"": "(outermost)", None: "(no part of it)"}.get(m["name"], m["name"]), m["class"], f"{m['forward']['calls']:,}",
             *[time_of(m[way][s]) for way in ("forward", "backward") for s in ("seconds", "own_seconds")],
             *([time_of(m["device_seconds"])] if on else []), _percent(m["wall_share"]),
             figure(None if m["flops"] is None else m["flops"] / 1e9)] for m in d["modules"]]


def _ends(key, r) -> list[str]:
    if key == "rules":
        return _rates(r)
    if key == "kernels":
        return [size_of(r["bytes"]), figure(r["bytes_per_s"] and r["bytes_per_s"] / 1e9), _percent(r["share"])]
    return []


# data

def _data(watch: Watch, sums: Sums, state: str) -> dict:
    wall, gpu = watch.seconds, watch.device.type == "cuda"
    top = ceiling(watch.device) if state == "closed" and sums.counts else None
    table = {way: {name: figures(s, wall, top, gpu) for name, s in found.items()}
             for way, found in (("forward", sums.forward), ("backward", sums.backward))}
    operators: list[dict] = [{"name": name, **{way: rows.get(name) for way, rows in table.items()}}
                             for name in dict.fromkeys([*table["forward"], *table["backward"]])]
    operators.sort(key=lambda o: -sum(table[way][o["name"]]["seconds"] for way in table if o[way] is not None))
    spent = watch.spent if state == "closed" else spans.spent() - watch._spent
    parts: list[dict] = [{"part": title, "seconds": sums.areas[key]} for key, title in AREAS if sums.areas[key]]
    parts.append({"part": "the profiler", "seconds": spent})
    if watch.timed and state == "closed":
        parts.append({"part": "waiting for the device at the end", "seconds": watch.waited})
    parts.append({"part": "all else", "seconds": max(0.0, wall - sum(p["seconds"] for p in parts))})
    for p in parts:
        p["share"] = p["seconds"] / wall if wall else None
    residual = spans.residual() if state == "closed" else 0.0
    c = sums.counts
    return {
        "view": "profile", "state": state, "device": str(watch.device), "gpu": gpu, "seconds": wall,
        "device_seconds": sums.device, "threads": len(sums.threads),
        "counts": {"spans": watch.count, "operators": sum(s.calls for s in sums.forward.values()),
                   "nodes": c["backward"], "passes": c["pass"], "leaves": c["leaf"], "steps": c["step"],
                   "kernels": c["kernel"], "module_calls": c["module"]},
        "overhead": {"seconds": spent, "share": spent / wall if wall else None, "spans": watch.count,
                     "residual_per_span": residual, "residual_seconds": residual * watch.count},
        "parts": parts, "operators": operators,
        "rules": _sorted(sums.rules, lambda s: figures(s, wall, top, gpu)),
        "kernels": _sorted(sums.kernels, lambda s: _kernel(s, wall, top, gpu)),
        "steps": _sorted(sums.steps, lambda s: figures(s, wall, None, gpu)),
        "modules": sorted((_module(m, wall, top, gpu) for m in sums.modules.values()), key=lambda m: -m["seconds"]),
        "ceiling": None if top is None else {"bandwidth": top.bandwidth, "copied": top.copied, "launch": top.launch,
                                             "products": dict(top.products), "note": top.note},
        "missing": _missing(watch, sums, operators, top, state),
    }


def _sorted(table, row) -> list[dict]:
    return sorted(({"name": name, **row(found)} for name, found in table.items()), key=lambda r: -r["seconds"])


def _kernel(found, wall, top, gpu) -> dict:
    """A kernel's bytes are those of the arrays it was given; what it computes is not known."""
    row = figures(found, wall, None, gpu)
    seconds = row["device_seconds"] if gpu else row["seconds"]
    row["bytes"] = found.bytes
    row["bytes_per_s"] = found.bytes / seconds if seconds else None
    row["bound"] = None if top is None else "memory"
    row["share"] = None if top is None or not seconds else row["bytes_per_s"] / top.bandwidth
    return row


def _module(m, wall, top, gpu) -> dict:
    forward, backward = figures(m.forward, wall, top, gpu), figures(m.backward, wall, top, gpu)
    both = [w for w in (forward, backward) if w["calls"]]
    flops = [w["flops"] for w in both if w["operators"]]
    devices = [w["device_seconds"] for w in both if w["device_seconds"] is not None]
    return {"name": m.name, "class": m.kind, "forward": forward, "backward": backward,
            "seconds": sum(w["seconds"] for w in both),
            "device_seconds": sum(devices) if devices else None, "wall_share": sum(w["wall_share"] or 0 for w in both),
            "flops": None if None in flops else sum(flops)}


def _missing(watch, sums, operators, top, state) -> list[str]:
    notes = []
    if not sums.counts:
        return ["nothing ran inside the block" if state == "closed" else "nothing has ended yet"]
    if state == "open":
        notes.append("the block is still open: these are the figures so far, without the ceilings")
    rows = [(o["name"], r) for o in operators for r in (o["forward"], o["backward"]) if r is not None]
    unknown = list(dict.fromkeys(name for name, r in rows if r["unknown"]))
    if unknown:
        notes.append(f"no rates, for what they compute is not known: {', '.join(unknown[:6])}"
                     + (f" and {len(unknown) - 6} more" if len(unknown) > 6 else ""))
    if top is not None:
        other = sorted({r["dtype"] for _, r in rows if r["products"] and r["dtype"] not in top.products})
        if other:
            notes.append(f"products of {', '.join(other)} are held against the ceiling of float32")
    if watch.recorded:
        notes.append("look.record(), anomaly mode or a view that records was on: what it reads is in these times")
    if watch.traced:
        notes.append("tracemalloc was tracing: every array and object took longer")
    if watch.count > KEPT:
        notes.append(f"the timeline holds the first {KEPT:,} of {watch.count:,} spans, the tables all")
    if len(sums.threads) > 1:
        notes.append(f"{len(sums.threads)} threads ran: the parts of the time are those of {sums.thread.name}, "
                     "the other tables have all")
    return notes
