"""`look.fusion(...)`: what could run as one operator, what it would move and take less, and what it really gains."""
from __future__ import annotations

import html

from ...tensor import Tensor
from .. import page
from ..chart import Bars
from ..cost.ceiling import Ceiling, ceiling
from ..drawing import Drawing
from ..terminal import Paper, Tables, count_of, shape_of, time_of, with_notes, wrap
from ..view import View
from .call import of_call
from .gain import forecast, measure, measured_both, of_finding, worth
from .patterns import findings
from .search import Finding
from .steps import Program, of_graph
from .text import columns_of, details, groups, narrow, potential, seconds, sentences

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
        for k, sentence in enumerate(sentences(d)):
            lines += wrap(paper, sentence, "" if k == 0 else "  ")
        found = groups(d)
        tables = Tables(paper)
        if found:
            head, rows = columns_of(found, paper)
            lines += ["", *tables.write(head, rows, SHOWN)]
            for f, count in found[:SHOWN]:
                first, *more = details(f, count, paper)
                lines += ["", *wrap(paper, first, "   ")]
                for text in more:
                    lines += ["   " + line for line in wrap(narrow(paper), text, "  ")]
            lines += ["", *self._bars(found[:DRAWN]).lines(paper), ""]
            for sentence in potential(d):
                lines += wrap(paper, sentence, "  ")
        return lines + with_notes(paper, d["missing"], tables.hidden())

    def _bars(self, found) -> Bars:
        rows: list[tuple] = []
        trained = any(f["both"] for f, _ in found)
        for f, _ in found:
            label = f"{f['id']} {f['kind']}"
            directions = [("forward", f)] + ([("backward", f["backward"])] if f["backward"] else [])
            for kind in ("predicted", "measured"):
                for way, word in (("now", "as it is"), ("fused", "fused")):
                    parts = [(direction if trained else kind, seconds(side, kind, way))
                             for direction, side in directions]
                    if any(value is not None for _, value in parts):
                        rows.append((label, parts, f"{word}, {kind}" if trained else word))
                        label = ""
        return Bars("time of one of each", rows, time_of)

    # files

    def page(self) -> str:
        d = self.data
        first, *others = sentences(d)
        parts = [f"<header><h1>{html.escape(first)}</h1></header>", "<main>"]
        parts += [f"<p>{html.escape(s)}</p>" for s in others]
        found = groups(d)
        if found:
            paper = Paper(width=400)
            head, rows = columns_of(found, paper)
            there = [i for i, c in enumerate(head) if c.keep == 0 or any(row[i] for row in rows)]
            head, rows = [head[i] for i in there], [[row[i] for i in there] for row in rows]
            parts += [page.table([c.title for c in head], rows, [i for i, c in enumerate(head) if c.right])]
            parts += [self._bars(found[:SHOWN]).drawing().svg()]
            for f, count in found:
                title, *more = details(f, count, paper)
                parts += [f"<h2>{html.escape(title)}</h2>", "<ul>", *[f"<li>{html.escape(m)}</li>" for m in more],
                          "</ul>"]
            parts += [f"<p>{html.escape(s)}</p>" for s in potential(d)]
        parts += [f'<p class="soft">{html.escape(m)}</p>' for m in d["missing"]]
        return page.page("look.fusion", "\n".join([*parts, "</main>"]))

    def picture(self) -> Drawing:
        """Times as they are and fused, as bars. Raises: ValueError where nothing was found."""
        found = groups(self.data)
        if not found:
            raise ValueError("[save] there is nothing to draw: nothing was found to fuse")
        return self._bars(found[:SHOWN]).drawing()


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
        "missing": _missing(program, rows, measured, graph, total["unknown"]),
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
    listed = [f["id"] for f, _ in groups({"findings": rows})]
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


def _missing(program, rows, measured, graph, unknown_rules) -> list[str]:
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
    if unknown_rules:
        notes.append(f"gradient rules that are not known count as a launch: {', '.join(unknown_rules[:6])}"
                     + (" and more" if len(unknown_rules) > 6 else ""))
    if rows and not any(f["saved"] for f in rows):
        notes.append("forward only: no gradient goes through what was found (it ran under no_grad(), was detached, or "
                     "nothing in it requires grad)")
    return notes
