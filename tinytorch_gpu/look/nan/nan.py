"""`look.nan()`: the first operator, forward or backward, that makes NaN or an infinity."""
from __future__ import annotations

import html

from .. import page
from ..drawing import Drawing
from ..graph.collect import short_file
from ..recorder import record
from ..terminal import Column, Paper, count_of, figure, shape_of, tables, with_notes, wrap
from ..view import View
from .watch import Origins

__all__ = ["Nan", "nan"]

SHOWN = 12  # later events of the text; all that are kept are in the data


def nan(run=None, *, stop: bool = False) -> Nan:
    """The first operator whose result, or gradient, has NaN or Inf that nothing it was given has.

        with look.nan() as found:
            loss = model(x).sum()
            loss.backward()
        found.print()

    `look.nan(run)` calls `run()` inside such a block and returns the view. It names the operator, forward or backward,
    figures of what it was given and made, its module and the user's line; where something came from outside, that: an
    operand, a number, the gradient given to backward(). With `stop=True` the program ends there with a
    FloatingPointError that says so. Results are those without it. It waits for the device at each operator.

    It sees what `look.record` notes: operators that are recorded for backward, none under no_grad(); what those make is
    an operand from outside. An infinity that is written out as a number, as in masked_fill(), and -inf in an operand
    that needs no gradient, as in an additive mask, are meant: they are listed apart.
    Raises: TypeError for a `run` that cannot be called.
    """
    if run is not None and not callable(run):
        raise TypeError(f"[nan] expected a function to run, got {type(run).__name__}: or use "
                        "`with look.nan() as found:`")
    found = Nan(stop)
    if run is not None:
        with found:
            run()
    return found


class Nan(View):
    """The view of `look.nan`. `data["first"]` is the event to look at, None where all is finite; `data["events"]` all
    that were kept, in order, those of numbers written out among them; what came again at the same place counts in the
    "times" of the first."""

    def __init__(self, stop=False):
        self._origins = Origins(self._stop if stop else None)
        self._record: record | None = None
        self._watching = False

    def _stop(self, event) -> None:
        if not event["meant"]:
            raise FloatingPointError(f"[nan] {message(event)}")

    def __enter__(self):
        if self._record is not None:
            raise RuntimeError("[nan] a view watches one block: call look.nan() again for another")
        self._record = record()
        self._record.__enter__()
        record.watch(self._origins)
        self._watching = True
        return self

    def __exit__(self, *exc):
        record.unwatch(self._origins)
        self._watching = False
        self._record.__exit__(*exc)
        self._origins.end()

    @property
    def data(self) -> dict:  # type: ignore[override]
        """Plain dictionaries of what has been found so far."""
        o = self._origins
        events = list(o.events)
        first = next((e for e in events if not e["meant"]), None)
        return {"view": "nan", "first": first, "events": events, "count": o.count, "operators": o.operators,
                "backwards": o.backwards, "missing": self._missing(first)}

    def _missing(self, first) -> list[str]:
        notes = []
        if self._record is None:
            notes.append("nothing was watched: run the program inside `with look.nan() as found:`")
        elif not self._origins.operators:
            notes.append("no operator was recorded for backward inside the block: nothing in it required a gradient")
        elif first is None or first["what"] == "operand":
            notes.append("operators under no_grad() and those that need no gradient are not watched")
        if first is not None and first["kinds"] == ["Inf"] and first["what"] in ("operand", "given"):
            notes.append("an infinity may be meant, as in an additive mask: look whether NaN follows")
        return notes

    def __repr__(self):
        first = self.data["first"]
        return f"<look.nan: {'all finite' if first is None else message(first)}>"

    # text

    def lines(self, paper: Paper) -> list[str]:
        d = self.data
        lines: list[str] = []
        for sentence in self._sentences(d):
            lines += wrap(paper, sentence, "    ")
        body, hidden = tables(paper, self._tables(d), SHOWN)
        return lines + body + with_notes(paper, d["missing"], hidden)

    def _sentences(self, d) -> list[str]:
        first = d["first"]
        if first is None:
            seen = f"{count_of(d['operators'], 'operator')} forward, {d['backwards']:,} backward"
            meant = " but what is meant" if d["events"] else ""
            return [f"no NaN and no Inf in {seen}{meant}"]
        found = [says(first) + (f", {first['times']:,} times" if first["times"] > 1 else "")]
        if first["module"] is not None:
            found.append(f"module: {module_text(first['module'])}")
        if first["line"] is not None:
            found.append(f"line: {line_text(first['line'])}")
        if "NaN" not in first["kinds"]:
            later = next((e for e in d["events"] if "NaN" in e["kinds"]), None)
            found.append("NaN: none followed" if later is None else f"NaN: {says(later)}"
                         + (f" at {line_text(later['line'])}" if later["line"] else ""))
        return found

    def _tables(self, d):
        first = d["first"]
        if first is not None:
            head = [Column("array", least=8), Column("shape", least=6), Column("NaN", right=True, rule=True),
                    Column("Inf", right=True), Column("min", right=True, rule=True), Column("max", right=True),
                    Column("mean", right=True, keep=2), Column("norm", right=True, keep=1)]
            yield head, [[a["role"], shape_of(a["dtype"], a["shape"]), _count(a["nan"]), _count(a["inf"]),
                          *[figure(a[k]) for k in ("min", "max", "mean", "norm")]] for a in first["arrays"]]
        others = [e for e in d["events"] if e is not first]
        if others:
            again = any(e["times"] > 1 for e in others)
            head = [Column("besides, in order" if first is None else "also", least=12),
                    *([Column("times", right=True)] if again else []),
                    Column("module", least=8, keep=2), Column("line", least=12, keep=1)]
            yield head, [[says(e), *([f"x {e['times']:,}" if e["times"] > 1 else ""] if again else []),
                          module_text(e["module"]) if e["module"] else "",
                          line_text(e["line"]) if e["line"] else ""] for e in others]

    # files

    def page(self) -> str:
        d = self.data
        first, *others = self._sentences(d)
        parts = [f"<header><h1>{html.escape(first)}</h1></header>", "<main>"]
        parts += [f"<p>{html.escape(s)}</p>" for s in others]
        parts += [self.to_svg()] if d["first"] is not None else []
        for head, rows in self._tables(d):
            right = [i for i, c in enumerate(head) if c.right]
            parts.append(page.table([c.title for c in head], rows, right))
        parts += [f'<p class="soft">{html.escape(m)}</p>' for m in d["missing"]]
        return page.page("look.nan", "\n".join([*parts, "</main>"]))

    def picture(self) -> Drawing:
        """What the operator was given and what it made; where all is finite, that in words."""
        d = self.data
        first = d["first"]
        if first is None:
            return _written([*self._sentences(d), *d["missing"]])
        back = first["direction"] == "backward"
        made = [a for a in first["arrays"] if a["role"].startswith("grad of input" if back else "result")]
        given = [a for a in first["arrays"] if a not in made]
        way = "backward" if back else "forward"
        title = says(first)
        wide, high = 330.0, 50.0 * max(len(given), len(made), 1)
        drawing = Drawing(max(2 * wide + 300, len(title) * 8.9 + 20), high + 64)
        drawing.text(10, 18, title, "title")
        x, y = wide + 60, 40.0
        drawing.box(x, y, 150, high - 10, "operator")
        drawing.text(x + 75, y + high / 2, first["operator"], "name", "middle")
        for left, arrays in ((10.0, given), (x + 200, made)):
            for k, a in enumerate(arrays):
                top = y + 50 * k
                drawing.box(left, top, wide, 40, "leaf")
                drawing.text(left + 10, top + 16, f"{a['role']}  {shape_of(a['dtype'], a['shape'])}", "name")
                drawing.text(left + 10, top + 32, array_text(a), "backward" if a["nan"] or a["inf"] else "shape")
                if arrays is given:
                    drawing.line(left + wide, top + 20, x, top + 20, way)
                else:
                    drawing.line(x + 150, top + 20, left, top + 20, way)
        return drawing


def _written(sentences) -> Drawing:
    """A picture of words, the first sentence as its title."""
    title, *others = sentences
    drawing = Drawing(max([len(title) * 8.9, *(len(s) * 6.8 for s in others)]) + 20, 30 + 22 * len(others))
    drawing.text(10, 18, title, "title")
    for k, sentence in enumerate(others):
        drawing.text(10, 42 + 22 * k, sentence, "shape")
    return drawing


def says(e) -> str:
    """An event as a sentence without its place."""
    kinds, op, back = " and ".join(e["kinds"]), e["operator"], e["direction"] == "backward"
    if e["what"] == "made":
        return f"the backward of {op} made {kinds}" if back else f"{op} made {kinds}"
    if e["what"] == "number":
        return f"{e['name']} of {op} is {kinds}, written out"
    if e["what"] == "operand":
        return f"{e['name']} of {op} had {kinds} already"
    where = f"leaf {e['name']}" if op == "AccumulateGrad" else f"the result of {op}"
    if e["what"] == "given":
        return f"the gradient given to backward() for {where} had {kinds} already"
    if e["what"] == "hook":
        return f"a hook on {where} made {kinds}"
    return f"adding the gradients of {where} made {kinds}"


def message(e) -> str:
    """An event in one line, with figures, module and line."""
    parts = [f"{a['role']} {shape_of(a['dtype'], a['shape'])} {array_text(a)}" for a in e["arrays"]]
    text = f"{says(e)}: {'; '.join(parts)}"
    if e["module"] is not None:
        text += f"; in module {module_text(e['module'])}"
    return text + (f"; at {line_text(e['line'])}" if e["line"] is not None else "")


def module_text(m) -> str:
    """blocks.2.norm (LayerNorm) of Net."""
    name = f"{m['name']} ({m['class']})" if m["name"] else m["class"]
    return f"{name} of {m['model']}" if m["name"] and m["model"] else name


def line_text(line) -> str:
    return f"{short_file(line['file'])}:{line['number']} {line['source']}".rstrip()


def array_text(a) -> str:
    """1 NaN, 2 Inf, -1 to 3."""
    parts = [f"{a[k]:,} {word}" for k, word in (("nan", "NaN"), ("inf", "Inf")) if a[k]]
    if a["min"] is not None:
        parts.append(f"{figure(a['min'])} to {figure(a['max'])}")
    return ", ".join(parts) or "empty"


def _count(n) -> str:
    return "" if not n else f"{n:,}"
