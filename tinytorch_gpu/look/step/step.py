"""`look.step(model, optimizer)`: watches training steps for the classic pitfalls and names the culprit."""
from __future__ import annotations

import html
import math
import statistics

import numpy as np

from ...nn import Module
from ...optim import Optimizer
from .. import page
from ..chart import Bars, Chart, Series, stack
from ..drawing import Drawing
from ..graph.collect import short_file
from ..terminal import Column, Paper, count_of, figure, shape_of, tables, with_notes, wrap
from ..view import View
from .names import labels, named
from .rules import findings, line_of, standing
from .watch import Watch

__all__ = ["Step", "step"]

SHOWN = 20  # rows of a table of the text; all are in the data
DRAWN = 60  # bars of a picture
PAIRS = 3  # pairs of losses that have a sentence each


def step(model, optimizer=None, *, percentile: float = 90.0, apart: int = 10) -> Step:
    """Watches the training steps inside `with` for the classic pitfalls; of each it says what was measured, and where.

        with look.step(model, optimizer) as s:
            ...  # training steps
        s.print()

    `model` is a Module, a list of them or a dictionary with their names, `optimizer` the same of Optimizers; every
    other optimizer that steps parameters of the models counts too. A finding is a pitfall, or a note where it may be
    meant: docs/look/step.md has the rule of each. A clean loop has none; several backward() before one step() are
    clean.

    It measures at each backward() what is in `.grad` and what is added, and at each step() the gradient that is used,
    before clipping and after; it waits for the device once a step. `percentile`: of the norms before clipping, which
    gives the threshold that would clip the rest. `apart`: where one backward() starts from a sum of losses, each
    term's gradient is measured by a pass of its own, in the first such backward and in every `apart`-th (0: never).

    Raises: TypeError for what is no Module or Optimizer; ValueError for a model without parameters, and for numbers out
    of range.
    """
    models = named(model, Module, "Module")
    several = {} if optimizer is None else named(optimizer, Optimizer, "Optimizer")
    if not any(True for m in models.values() for _ in m.parameters()):
        raise ValueError(f"[step] {', '.join(models) or 'an empty list'} has no parameters: there is nothing to train")
    if isinstance(percentile, bool) or not isinstance(percentile, (int, float)) or not 0 < percentile <= 100:
        raise ValueError(f"[step] percentile must be above 0 and at most 100, got {percentile!r}")
    if isinstance(apart, bool) or not isinstance(apart, int) or apart < 0:
        raise ValueError(f"[step] apart must be a whole number, 0 for never, got {apart!r}")
    names = {id(o): name for name, o in several.items()} if isinstance(optimizer, dict) else {}
    return Step(Watch(models, list(several.values()), apart, names), float(percentile))


class Step(View):
    """The view of `look.step`. `data`: "findings", "steps", "clipping", "losses", "meetings", "parameters"."""

    def __init__(self, watch: Watch, percentile: float):
        self._watch: Watch | None = watch
        self._percentile, self._state = percentile, "ready"
        self._data: dict = {}

    def __enter__(self):
        if self._state != "ready":
            raise RuntimeError("[step] a view watches one block: call look.step() again for another")
        self._state = "watching"
        self._watch.open()
        return self

    def __exit__(self, *exc):
        self._watch.close()
        self._state = "watched"
        self._data = _data(self._watch, self._percentile, self._state)
        self._watch = None

    @property
    def data(self) -> dict:  # type: ignore[override]
        """Plain dictionaries of what has been seen so far."""
        return self._data if self._watch is None else _data(self._watch, self._percentile, self._state)

    def __repr__(self):
        d = self.data
        return f"<look.step: {count_of(len(d['steps']), 'step')}, {_count(d)}>"

    # text

    def lines(self, paper: Paper) -> list[str]:
        d = self.data
        lines = []
        for k, sentence in enumerate(self._sentences(d)):
            lines += wrap(paper, sentence, "" if k == 0 else "  ")
        for k, f in enumerate(d["findings"], 1):
            first, *rest = wrap(paper, f"{k}. {f['what']}{'' if f['level'] == 'pitfall' else ' (note)'}", "   ")
            lines += ["", paper.strong(first), *map(paper.strong, rest)]
            for name, text in (("where", f["where"] and _line_text(f["where"])), ("why", f["why"]),
                               ("mend", f["mend"])):
                lines += _below(paper, f"{name}: {text}") if text else []
        body, hidden = tables(paper, self._tables(d), SHOWN)
        lines += body
        for chart in self._charts(d):
            lines += ["", *chart.lines(paper)]
        return lines + with_notes(paper, d["missing"], hidden)

    def _sentences(self, d) -> list[str]:
        state = " so far" if d["state"] == "watching" else ""
        how = f"{count_of(len(d['steps']), 'step')}{state}{_together(d)}, {d['backwards']:,} backward"
        found = [f"steps of {' and '.join(d['models'])}{_by(d['optimizers'])}: {how}, {_count(d)}"]
        c = d["clipping"]
        if c["steps"]:
            limits = ", ".join(figure(t) for t in c["thresholds"])
            skipped = f"; {count_of(c['skipped'], 'skipped step')} not counted" if c["skipped"] else ""
            found.append(f"clipped: {c['clipped']} of {count_of(c['steps'], 'step')} ({c['share']:.0%}) at {limits}"
                         f"{skipped}")
        if _suggests(c):
            before = " before clipping" if c["steps"] else ""
            found.append(f"percentile {c['percentile']:g} of {c['measured']} norms{before}: {figure(c['suggested'])}; "
                         f"as a threshold it would have clipped {c['share_suggested']:.0%} of the steps")
        found += _meetings(d["meetings"])
        return found

    def _tables(self, d):
        met = [x for x in d["losses"] if x["met"]]
        if met:
            head = [Column("gradients that meet", least=10), *[Column(x["name"], right=True, rule=k == 0)
                                                               for k, x in enumerate(met)]]
            rows = [[name, *[figure(x["parameters"].get(name)) for x in met]]
                    for name in dict.fromkeys(n for x in met for n in x["parameters"])
                    if sum(name in x["parameters"] for x in met) > 1]
            lines = [f"{short_file(x['line']['file'])}:{x['line']['number']}" for x in met]
            yield head, [*rows, *([["line", *lines]] if len(set(lines)) > 1 else [])]
        head = [Column("parameter", least=10), Column("array", least=8, keep=2), Column("state"),
                Column("backwards", right=True, keep=3), Column("norm", right=True, rule=True),
                Column("last", right=True, keep=1)]
        yield head, [[p["name"], shape_of(p["dtype"], p["shape"]), p["state"], f"{p['reached']:,}" if d["backwards"]
                      else "", figure(p["median"]), figure(p["last"])] for p in d["parameters"]]

    def _charts(self, d) -> list[Chart]:
        """Norms over the steps, one chart for each optimizer."""
        charts = []
        step = "step, numbered over all optimizers" if _together(d) else "step"
        for k, name in enumerate(d["optimizers"]):
            rows = [s for s in d["steps"] if s["optimizer"] == k and s["unclipped"] is not None]
            if len(rows) < 2:
                continue
            xs = [s["number"] for s in rows]
            clipped = any(s["clips"] for s in rows)
            series = []  # the last ones are drawn above the others
            c = d["clipping"]
            if _suggests(c) and c["norm_type"] == 2 and len(d["optimizers"]) == 1:
                series.append(Series(f"percentile {c['percentile']:g}", [xs[0], xs[-1]], [c["suggested"]] * 2,
                                     marks=False, dashed=True))
            limits = [next((c["limit"] for c in s["clips"] if c["norm_type"] == 2), None) for s in rows]
            if any(v is not None and math.isfinite(v) for v in limits):
                series.append(Series("threshold", xs, limits, marks=False, dashed=True))
            series.append(Series("before clipping" if clipped else "norm", xs, [s["unclipped"] for s in rows]))
            if clipped:
                series.append(Series("as the step used it", xs, [s["norm"] for s in rows]))
            ys = [y for s in series for y in s.ys if y and math.isfinite(y)]
            charts.append(Chart(f"norm of the gradient, {name}", step, "norm", series,
                                log_y=bool(ys) and max(ys) > 50 * min(ys)))
        return charts

    # files

    def page(self) -> str:
        d = self.data
        first, *others = self._sentences(d)
        parts = [f"<header><h1>{html.escape(first)}</h1></header>", "<main>"]
        parts += [f"<p>{html.escape(s)}</p>" for s in others]
        for k, f in enumerate(d["findings"], 1):
            note = "" if f["level"] == "pitfall" else " (note)"
            parts.append(f"<h2>{k}. {html.escape(f['what'])}{note}</h2>")
            parts += [f"<p><code>{html.escape(_line_text(f['where']))}</code></p>"] if f["where"] else []
            parts += [f"<p>Why: {html.escape(f['why'])}.<br>Mend: {html.escape(f['mend'])}.</p>"]
        parts += [drawing.svg() for drawing in self._drawings(d)]
        for head, rows in self._tables(d):
            parts += [f"<h2>{html.escape(head[0].title)}s</h2>" if head[0].title == "parameter" else "<h2>losses</h2>",
                      page.table([c.title for c in head], rows, [i for i, c in enumerate(head) if c.right])]
        parts += [f'<p class="soft">{html.escape(m)}</p>' for m in d["missing"]]
        return page.page("look.step", "\n".join([*parts, "</main>"]))

    def _drawings(self, d) -> list[Drawing]:
        """The charts; where no optimizer has two steps that they could join, the parameters' norms."""
        if charts := self._charts(d):
            return [c.drawing() for c in charts]
        there = [p for p in d["parameters"] if p["last"] is not None]
        rows = [(p["name"], p["last"], "") if math.isfinite(p["last"]) else (p["name"], None, figure(p["last"]))
                for p in there[:DRAWN]]
        more = f", {len(rows)} of {len(there)} parameters" if len(there) > len(rows) else ""
        title = f"norm of the gradient of each parameter as the step used it{more}"
        return [Bars(title, rows).drawing()] if rows else []

    def picture(self) -> Drawing:
        """The norms over the steps, of a single step those of the parameters. Raises: ValueError without a step."""
        drawings = self._drawings(self.data)
        if not drawings:
            raise ValueError("[save] there is nothing to draw: norms need a step with gradients inside the block")
        return stack(*drawings)


def _suggests(c) -> bool:
    """Are there so many norms that the percentile leaves one above it?"""
    above = c["measured"] * (1 - c["percentile"] / 100)
    return c["suggested"] is not None and (above >= 1 - 1e-9 or c["percentile"] == 100)


def _meetings(meetings) -> list[str]:
    """A sentence for each two losses that meet; for all of them together where they are many."""
    if len(meetings) > PAIRS:
        losses = {(x["name"], str(x["line"])): x for m in meetings for x in m["losses"]}.values()
        counts = sorted({m["parameters"] for m in meetings})
        low, high = (figure(f(x["norm"] for m in meetings for x in m["losses"])) for f in (min, max))
        return [f"{len(losses)} losses meet in {' to '.join(f'{n:,}' for n in (counts[0], counts[-1])[:len(counts)])} "
                f"parameters, by twos: their norms there are {low} to {high}"]
    found = []
    for m in meetings:
        a, b = m["losses"]
        angle = "" if m["cosine"] is None else f"; the cosine between them is {m['cosine']:.2f}"
        found.append(f"{a['name']} (norm {figure(a['norm'])}) and {b['name']} ({figure(b['norm'])}) meet in "
                     f"{count_of(m['parameters'], 'parameter')}{angle}")
    return found


def _below(paper, text) -> list[str]:
    """A paragraph that is indented, its later lines more."""
    first, *rest = wrap(paper, f"__ {text}", "     ")
    return ["   " + first[3:], *rest]


def _count(d) -> str:
    pitfalls = sum(f["level"] == "pitfall" for f in d["findings"])
    notes = len(d["findings"]) - pitfalls
    text = count_of(pitfalls, "pitfall") if pitfalls else "no pitfall found" if d["steps"] else "no step to judge"
    return text + (f", {count_of(notes, 'note')}" if notes else "")


def _by(optimizers) -> str:
    return f" by {' and '.join(optimizers)}" if optimizers else ""


def _together(d) -> str:
    """How many steps each optimizer had, where several stepped: their steps have one row of numbers."""
    counts = [(sum(s["optimizer"] == k for s in d["steps"]), name.split(" (")[0])
              for k, name in enumerate(d["optimizers"])]
    there = [f"{n:,} by {name}" for n, name in counts if n]
    return f" ({', '.join(there)}, numbered together)" if len(there) > 1 else ""


def _line_text(line) -> str:
    return f"{short_file(line['file'])}:{line['number']} {line['source']}".rstrip()


# data


def _data(watch, percentile, state) -> dict:
    watch.numbers.read()
    called = labels(watch.optimizers, watch.names, watch.models)
    places = {id(o): k for k, o in enumerate(watch.optimizers)}
    steps = [_step(row, places) for row in watch.rows]
    states = standing(watch)
    met = {id(x) for x in watch.meetings.met()}
    losses = [{"name": x.name, "line": line_of(x.line), "norms": x.totals, "met": id(x) in met,
               "parameters": {e.name: statistics.median(n) for e, n in x.norms.items()}}
              for x in watch.meetings.losses.values()]
    meetings = [{**m, "losses": [{**x, "line": line_of(x["line"])} for x in m["losses"]]}
                for m in watch.meetings.together()]
    return {"view": "step", "state": state, "models": list(watch.models), "optimizers": called,
            "backwards": len(watch.backwards), "findings": findings(watch), "steps": steps,
            "clipping": _clipping(watch.rows, percentile), "losses": losses, "meetings": meetings,
            "parameters": [_parameter(e, states[key]) for key, e in watch.entries.items()],
            "missing": _missing(watch, state)}


def _step(row, places) -> dict:
    return {"number": row.number, "optimizer": places[id(row.optimizer)], "line": line_of(row.line),
            "norm": row.norm, "unclipped": row.unclipped,
            "clips": [{"function": c.function, "line": line_of(c.line), "limit": c.limit, "norm": c.norm.value,
                       "norm_type": c.norm_type, "active": c.active()} for c in row.clips],
            "backwards": [{"name": b.name, "line": line_of(b.line), "values": [v.value for v in b.values],
                           "scale": None if b.scale is None else b.scale.value} for b in row.backwards],
            "lr": row.lrs, "scale": None if row.scale is None else row.scale.value, "skipped": row.skipped}


def _parameter(e, state) -> dict:
    there = [n for n in e.norms if n is not None and math.isfinite(n)]
    return {"name": e.name, "shape": list(e.tensor.shape), "dtype": str(e.tensor.dtype).split(".")[-1], "state": state,
            "reached": e.reached, "norms": list(e.norms), "median": statistics.median(there) if there else None,
            "last": e.norms[-1] if e.norms else None}


def _clipping(rows, percentile) -> dict:
    """Norms before clipping, as the clipping function measures them; of all gradients where nothing clips. What was
    skipped used no gradient, clipped or not."""
    clips = [(r, r.clips) for r in rows if r.clips and not r.skipped]
    kinds = {c.norm_type for _, several in clips for c in several}
    found: dict = {"steps": len(clips), "skipped": sum(bool(r.clips) and r.skipped for r in rows),
                   "clipped": sum(any(c.active() for c in several) for _, several in clips),
                   "thresholds": sorted({c.limit for _, several in clips for c in several}), "share": None,
                   "norm_type": next(iter(kinds)) if len(kinds) == 1 else None if kinds else 2.0, "norms": [],
                   "percentile": percentile, "suggested": None, "share_suggested": None}
    if clips:
        found["share"] = found["clipped"] / len(clips)
        if len(kinds) == 1:
            found["norms"] = [c.norm.value for _, several in clips for c in several]
    else:
        found["norms"] = [r.unclipped for r in rows if r.unclipped is not None and not r.skipped]
    good = [n for n in found["norms"] if math.isfinite(n)]
    found["measured"] = len(good)
    if good:
        found["suggested"] = float(np.percentile(good, percentile))
        found["share_suggested"] = sum(n > found["suggested"] for n in good) / len(good)
    return found


def _missing(watch, state) -> list[str]:
    notes = []
    if state == "ready":
        notes.append("nothing was watched: `with look.step(model, optimizer):` around training steps")
    elif not watch.rows:
        both = "" if watch.backwards else ", and no backward() ran: the states of the parameters are not known"
        notes.append(f"no optimizer of this model stepped inside the block{both}; what steps do is not known")
    if not watch.optimizers:
        notes.append("parameters that no optimizer has are not told: give the optimizer, or step one inside the block")
    for why, count in watch.not_apart.items():
        notes.append(f"the terms of a sum of losses were not told apart in {count:,} backward: {why}")
    return notes
