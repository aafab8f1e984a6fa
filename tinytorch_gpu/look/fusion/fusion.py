"""`look.fusion(...)`: what could run as one operator, what it would move and take less, and what it really gains."""
from __future__ import annotations

import html

from ...tensor import Tensor
from .. import page
from ..chart import Bars
from ..cost.ceiling import Ceiling, ceiling
from ..drawing import Drawing
from ..graph.collect import short_file
from ..terminal import Column, Paper, count_of, figure, shape_of, size_of, table, time_of, with_notes, wrap
from ..view import View
from .call import of_call
from .gain import forecast, measure, measured_both, of_finding, worth
from .patterns import findings
from .search import OWN, Finding
from .steps import Program, of_graph

__all__ = ["Fusion", "fusion"]

SHOWN, DRAWN = 24, 8  # findings of the text, those with bars; all are in the data


def fusion(what, *args, measure: bool = False) -> Fusion:
    """What could be fused in a recorded graph, or in what a function runs: with predictions, and measured if asked.

        with look.record():
            loss = model(x).square().mean()
        look.fusion(loss).print()

        look.fusion(lambda: model(x).square().mean(), measure=True).print()

    `what`: a Tensor, or a list of them, whose forward ran under `look.record()`; or a function, which is called once
    with `args` (a Module too). Of a function everything is seen that it runs in this thread, also without gradients,
    such as the update of parameters in a loop; all its arrays stay until the view is made.

    It finds attention, normalization, softmax and cross entropy that are written out; a sum before a normalization;
    optimizers written as a loop; products with bias and activation; chains of products in another order than the
    cheapest; dropout and residual; chains of elementwise operators, into a reduction or not. An operator belongs to
    one finding, the largest.

    Predicted are the bytes that each operator must move, and that the fused one must, and the time of both at the copy
    bandwidth, the speed of products and the cost of a launch, which are measured on the device once in a process; of
    the forward and, where a gradient goes through it, of the backward: of what each gradient rule applies. And the
    bytes that stay for backward. `measure=True` runs forward and backward of each finding as it is and as the operator
    of this package on the same arrays, in turn, and compares results and gradients. What gains nothing is not
    recommended.

    Raises: TypeError for what is neither, ValueError for a tensor without a graph, for `measure` of a graph (which no
    longer has its arrays) and for a function that applies no operator.
    """
    if isinstance(what, (Tensor, list, tuple)):
        if args:
            raise TypeError(f"[fusion] {count_of(len(args), 'argument')} given beside a Tensor: arguments belong to a "
                            "function")
        if measure:
            raise ValueError("[fusion] measure=True needs the arrays, which a recorded graph no longer has: give a "
                             "function, look.fusion(lambda: loss_of(batch), measure=True)")
        program = of_graph(what)
    elif callable(what):
        program = of_call(what, args)
    else:
        raise TypeError(f"[fusion] expected a Tensor that was computed, a list of them, or a function, got "
                        f"{type(what).__name__}")
    return Fusion(program, measure, what)


class Fusion(View):
    """The view of `look.fusion`. `data`: "findings" in the order of the program, each with its number in the
    text ("id"; repetitions come after) and that of the one it repeats ("like"), "total", "ceiling", "missing".

    A finding's "now", "fused", "gain", "speedup" and "measured" are those of the forward; those of the "backward" and
    of "both" are one level below, None where no gradient goes through it. "saved": bytes kept for backward, "now" and
    "fused". "recommended": whether it gains, as measured or else as predicted."""

    def __init__(self, program: Program, measured: bool, what):
        top = ceiling(program.device)
        found = findings(program)
        self.data = _data(program, found, top, measured, isinstance(what, (Tensor, list, tuple)))

    def __repr__(self):
        return (f"<look.fusion: {count_of(len(self.data['findings']), 'finding')} in "
                f"{count_of(self.data['total']['steps'], 'operator')}>")

    # text

    def lines(self, paper: Paper) -> list[str]:
        d = self.data
        lines: list[str] = []
        for k, sentence in enumerate(_sentences(d)):
            lines += wrap(paper, sentence, "" if k == 0 else "  ")
        groups = _groups(d)
        hidden: list[str] = []
        if groups:
            head, rows = _table(groups[:SHOWN], paper)
            body, hidden = table(paper, head, rows)
            lines += ["", *body]
            if len(groups) > SHOWN:
                lines.append(f"and {len(groups) - SHOWN:,} more, in data and .html")
            for f, count in groups[:SHOWN]:
                first, *more = _details(f, count, paper)
                lines += ["", *wrap(paper, first, "   ")]
                for text in more:
                    lines += ["   " + line for line in wrap(_narrow(paper), text, "  ")]
            lines += ["", *self._bars(groups[:DRAWN]).lines(paper), ""]
            for sentence in _potential(d):
                lines += wrap(paper, sentence, "  ")
        return lines + with_notes(paper, d["missing"], hidden)

    def _bars(self, groups) -> Bars:
        rows: list[tuple] = []
        trained = any(f["both"] for f, _ in groups)
        for f, _ in groups:
            label = f"{f['id']} {f['kind']}"
            directions = [("forward", f)] + ([("backward", f["backward"])] if f["backward"] else [])
            for kind in ("predicted", "measured"):
                for way, word in (("now", "as it is"), ("fused", "fused")):
                    parts = [(direction if trained else kind, _seconds(side, kind, way))
                             for direction, side in directions]
                    if any(value is not None for _, value in parts):
                        rows.append((label, parts, f"{word}, {kind}" if trained else word))
                        label = ""
        return Bars("time of one of each", rows, time_of)

    # files

    def page(self) -> str:
        d = self.data
        first, *others = _sentences(d)
        parts = [f"<header><h1>{html.escape(first)}</h1></header>", "<main>"]
        parts += [f"<p>{html.escape(s)}</p>" for s in others]
        groups = _groups(d)
        if groups:
            paper = Paper(width=400)
            head, rows = _table(groups, paper)
            parts += [page.table([c.title for c in head], rows, [i for i, c in enumerate(head) if c.right])]
            parts += [self._bars(groups[:SHOWN]).drawing().svg()]
            for f, count in groups:
                title, *more = _details(f, count, paper)
                parts += [f"<h2>{html.escape(title)}</h2>", "<ul>", *[f"<li>{html.escape(m)}</li>" for m in more],
                          "</ul>"]
            parts += [f"<p>{html.escape(s)}</p>" for s in _potential(d)]
        parts += [f'<p class="soft">{html.escape(m)}</p>' for m in d["missing"]]
        return page.page("look.fusion", "\n".join([*parts, "</main>"]))

    def picture(self) -> Drawing:
        """Times as they are and fused, as bars. Raises: ValueError where nothing was found."""
        groups = _groups(self.data)
        if not groups:
            raise ValueError("[save] there is nothing to draw: nothing was found to fuse")
        return self._bars(groups[:SHOWN]).drawing()


# sentences


def _sentences(d) -> list[str]:
    t, c = d["total"], d["ceiling"]
    found = len(d["findings"])
    count = count_of(t["steps"], "operator")
    first = (f"fusion: {count_of(found, 'finding')} in {count}" if found
             else f"nothing to fuse in {count}: none of the patterns looked for is in them")
    speeds = (f"ceilings of {c['device']}, measured: {c['bandwidth'] / 1e9:.3g} GB/s copied (read + written), "
              f"{time_of(c['launch'])} for a launch, {c['products']['float32'] / 1e9:.4g} GFLOP/s in products of "
              "float32")
    return [first, speeds, *([c["note"]] if c["note"] else [])]


def _potential(d) -> list[str]:
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
    named = [f for f, _ in _groups(d) if f["use"]]
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


def _groups(d) -> list[tuple[dict, int]]:
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


def _seconds(side, kind, way) -> float | None:
    """Of one direction, predicted or measured, as it is or fused."""
    if kind == "predicted":
        return side[way]["seconds"]
    return None if side["measured"] is None else side["measured"][way]


def _table(groups, paper):
    head = [Column("", right=True), Column("found", least=16), Column(paper.times, right=True, keep=1),
            Column("bytes", right=True), Column("fused", right=True), Column("FLOP/B", right=True, keep=4, rule=True),
            Column("fused FLOP/B", right=True, keep=5), Column("predicted", right=True, keep=3, rule=True),
            Column("fused", right=True, keep=3), Column("gain", right=True), Column("measured", right=True, keep=2)]
    rows = []
    for f, count in groups:
        whole = f["both"] or f
        m = whole["measured"]
        rows.append([
            str(f["id"]), f["kind"], str(count) if count > 1 else "", size_of(whole["now"]["bytes"]),
            size_of(whole["fused"]["bytes"]), figure(whole["now"]["intensity"]), figure(whole["fused"]["intensity"]),
            time_of(whole["now"]["seconds"]), time_of(whole["fused"]["seconds"]),
            "" if whole["speedup"] is None else f"{whole['speedup']:.2g}x",
            "" if m is None else f"{m['speedup']:.2g}x"])
    return head, rows


def _details(f, count, paper) -> list[str]:
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
        was = "freed already" if f["saved"]["now"] is None else size_of(f["saved"]["now"])
        lines.append(f"kept for backward, beside leaves: {was} {paper.to} {size_of(f['saved']['fused'])}")
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
    now, fused, m = side["now"], side["fused"], side["measured"]

    def change(text, name):
        return f"{text(now[name])} {paper.to} {text(fused[name])}"

    line = f"{change(size_of, 'bytes')}, launches {change(str, 'launches')}"
    line += "" if now["intensity"] is None else f", {change(figure, 'intensity')} FLOP/B"
    line += f"; predicted {change(time_of, 'seconds')}"
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


def _narrow(paper: Paper) -> Paper:
    """Paper for what is indented."""
    made = object.__new__(Paper)
    made.__dict__.update(paper.__dict__)
    made.width = paper.width - 3
    return made


# data


def _data(program: Program, found: list[Finding], top: Ceiling, measured: bool, graph: bool) -> dict:
    rows: list[dict] = []
    seen: dict[tuple, int] = {}
    for place, finding in enumerate(found):
        module, line = _where(finding)
        row = {
            "id": place, "kind": finding.kind, "operators": [s.name for s in finding.steps],
            "steps": [s.number for s in finding.steps], "module": module, "line": line, "use": finding.use,
            "reads": [shape_of(v.array.dtype, v.shape) for v in finding.reads],
            "writes": [shape_of(v.array.dtype, v.shape) for v in finding.writes],
            "notes": list(finding.notes), "unmeasured": None, **of_finding(finding, program, top),
        }
        unknown = finding.unknown_backward(top.host)
        if unknown:
            row["notes"].append(f"the gradient rule of {', '.join(unknown)} is not known: forward only")
        key = (finding.kind, tuple(row["operators"]), tuple(row["reads"]), tuple(row["writes"]), finding.use,
               tuple(row["notes"]), row["both"] and row["both"]["now"]["bytes"],
               row["saved"] and tuple(row["saved"].values()))
        row["like"] = seen.setdefault(key, place)
        rows.append(row)
        if measured and row["like"] == place:
            _measured(row, finding, program)
        row["recommended"] = rows[row["like"]]["recommended"] if row["like"] != place else worth(row)
    _number(rows)
    total = forecast(program, rows, top)
    return {
        "view": "fusion", "source": "graph" if graph else "call", "findings": rows, "total": total,
        "ceiling": {"device": top.device, "gpu": top.gpu, "bandwidth": top.bandwidth, "launch": top.launch,
                    "products": dict(top.products), "note": top.note},
        "missing": _missing(program, rows, measured, graph),
    }


def _measured(row, finding, program) -> None:
    """What running both ways shows."""
    row["measured"], backward, saved = measure(finding, program)
    if row["measured"] is None:
        row["unmeasured"] = ("not measured: there is no operator to measure" if finding.use is None else
                             "not measured: its constants are not known")
    if row["backward"] and backward is not None:
        row["backward"]["measured"] = backward
        row["both"]["measured"] = measured_both(row["measured"], backward)
    row["saved"] = saved or row["saved"]


def _number(rows) -> None:
    """Ids and likes from places to the numbers of the text: as they are listed, repetitions behind."""
    listed = [f["id"] for f, _ in _groups({"findings": rows})]
    numbers = {place: n for n, place in enumerate([*listed, *sorted({f["id"] for f in rows} - set(listed))], 1)}
    for f in rows:
        f["id"], f["like"] = numbers[f["id"]], numbers[f["like"]]


def _where(finding) -> tuple[str | None, dict | None]:
    """The innermost module around all steps that were called in one, and the line of the last step."""
    places = [s.place for s in finding.steps if s.place is not None]
    name = None
    if places:
        chains = [_chain(p) for p in places]
        common = [p for p in chains[0] if all(any(q is p for q in c) for c in chains)]
        if common:
            p = common[0]
            name = f"{p.name} ({p.kind})" if p.name else p.kind
    lines = [s.line for s in finding.steps if s.line is not None]
    return name, lines[-1] if lines else None


def _chain(place) -> list:
    found = []
    while place is not None:
        found.append(place)
        place = place.parent
    return found


def _missing(program, rows, measured, graph) -> list[str]:
    notes = []
    if graph:
        unnoted = sum(s.frame is None for s in program.steps)
        if unnoted:
            notes.append(f"operands without gradients, lines and modules of {unnoted} of "
                         f"{count_of(len(program.steps), 'operator')} are not known, and some chains are not seen: run "
                         "the forward inside `with look.record():`")
        notes.append("a graph does not show which of its results are used outside of it too, nor what ran under "
                     "no_grad(), and nothing can be measured in it: a function shows all, "
                     "look.fusion(lambda: ..., measure=True)")
    elif not measured and any(f["use"] for f in rows):
        notes.append("gains are predicted: measure=True runs both ways")
    unknown = sorted(set(program.unknown))
    if unknown:
        notes.append(f"what these compute is not known, they count as a launch: {', '.join(unknown[:6])}"
                     + (" and more" if len(unknown) > 6 else ""))
    if rows and not any(f["saved"] for f in rows):
        notes.append("forward only: no gradient goes through what was found (it ran under no_grad(), was detached, or "
                     "nothing in it requires grad)")
    elif any(f["both"] for f in rows):
        notes.append("bytes, times and gains of the table are those of forward and backward together")
    return notes
