"""`look.overhead(fn)`: what gradients cost a computation, in time and memory; recorded beside captured."""
from __future__ import annotations

import html

from .. import page
from ..chart import Bars, stack
from ..drawing import Drawing
from ..terminal import Column, Paper, Tables, count_of, figure, shape_of, size_of, time_of, with_notes, wrap
from ..view import View
from .run import measured, name_of

__all__ = ["Overhead", "overhead"]


def overhead(fn, *args, repeats: int = 10) -> Overhead:
    """Time and memory of one computation under `no_grad()`, with gradients, and with its backward.

        look.overhead(lambda: loss_of(model(x), y)).print()
        look.overhead(model, x).print()

    `fn(*args)` computes a Tensor that requires a gradient; the view runs its backward, with ones where it has several
    elements. It is called some `3 * repeats + 10` times with the same random numbers, which go on afterwards as if
    nothing had run; `.grad` is put aside and is the same object afterwards. Running statistics move, and hooks of
    modules and tensors are called.

    Bytes: at the worst moment, and what is there when the result is; of that the arrays and, on the CPU, the Python
    objects. tracemalloc counts them on the CPU, on a device the pool. Seconds: `repeats` runs of each way in turns,
    after one that does not count. The largest leaf is shown as a tensor without and with gradients, part by part. Where
    the device can capture a graph of launches, the forward under no_grad() and the whole are captured once, launched,
    timed, and compared with what was recorded; where it cannot, or refuses, the reason stands there.

    Raises: TypeError for what cannot be called or returns no Tensor, ValueError for a result without a graph, one that
    is the same in two calls, and repeats below 1.
    """
    if not callable(fn):
        raise TypeError(f"[overhead] expected a function, got {type(fn).__name__}: write lambda: ...")
    if not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 1:
        raise ValueError(f"[overhead] repeats must be a whole number of at least 1, got {repeats!r}")
    return Overhead(measured((lambda: fn(*args)) if args else fn, name_of(fn), repeats))


class Overhead(View):
    """The view of `look.overhead`. `data`: "ways" with "seconds", "peak", "held", "arrays"; "tensor"; "captured"."""

    def __init__(self, data: dict):
        self.data = data

    def __repr__(self):
        d = self.data
        return f"<look.overhead: {d['function']} on {d['device']}, {count_of(d['operators'], 'operator')}>"

    # text

    def lines(self, paper: Paper) -> list[str]:
        first, *others = self._sentences()
        lines = wrap(paper, first, "  ")
        for sentence in others:
            lines += wrap(paper, f"{paper.dot} {sentence}", "  ")
        tables = Tables(paper)
        for title, head, rows in self._tables():
            lines += ["", *(wrap(paper, title) if title else []), *tables.write(head, rows)]
        for bars in self._bars():
            lines += ["", *bars.lines(paper)]
        return lines + with_notes(paper, self.data["notes"], tables.hidden())

    def _sentences(self) -> list[str]:
        d = self.data
        without, forward, whole = d["ways"]
        found = [f"overhead of gradients in {d['function']} on {d['device']}: {count_of(d['operators'], 'operator')}, "
                 f"{count_of(d['leaves'], 'leaf')}; medians of {d['repeats']}, bytes by {d['meter']}"]
        each = d["recording"]["each"]
        long = "as long" if each is None else f"{_times(forward, without, 'seconds')} as long"
        found.append(f"forward: {long} as under no_grad(), and "
                     f"{size_of(forward['held'])} are there afterwards in the place of {size_of(without['held'])}")
        found.append(f"forward and backward: {_times(whole, without, 'seconds')} as long, "
                     f"{_times(whole, without, 'peak')} the bytes at the worst moment")
        found.append("what gradients add to a forward is lost in the spread of the times" if each is None else
                     f"gradients add {time_of(each)} to each operator's forward, by the shortest runs")
        captured = d["captured"]
        if captured["reason"]:
            found.append(f"captured (static): {captured['reason']}")
        for way in captured["ways"]:
            same = ("equal bits" if way["difference"] == 0 else
                    f"up to {figure(way['difference'])} apart from what was recorded")
            found.append(f"captured (static), {way['name']}: one launch, {same}")
        return found

    def _tables(self):
        """(title, columns, rows) of the ways, and of a tensor's parts."""
        d = self.data
        objects = d["meter"] == "tracemalloc"
        head = [Column("way", least=10), Column("time", right=True), Column("least", right=True, keep=3),
                Column("most", right=True, keep=3), Column("peak", right=True), Column("held", right=True),
                Column("arrays", right=True, keep=2)] + [Column("Python", right=True, keep=2)] * objects
        rows = []
        for way in (*d["ways"], *(w | {"name": f"{w['name']}, captured"} for w in d["captured"]["ways"])):
            s = way["seconds"]
            row = [way["name"], time_of(s["median"]), time_of(s["least"]), time_of(s["most"]), size_of(way["peak"]),
                   size_of(way["held"]), size_of(way.get("arrays"))]
            rows.append(row + [size_of(way["held"] - way["arrays"])] if objects else row)
        yield "", head, rows
        t = d["tensor"]
        head = [Column("part"), Column("without", right=True), Column("with", right=True)]
        rows = [[p["part"], size_of(p["without"]), size_of(p["with"])] for p in t["parts"]]
        rows.append(["all", size_of(t["without"]), size_of(t["with"])])
        yield f"the largest leaf, {shape_of(t['dtype'], t['shape'])}, without and with gradients", head, rows

    def _bars(self) -> list[Bars]:
        d = self.data
        captured = d["captured"]["ways"]
        ways = d["ways"]
        first = ways[0]
        times = [(w["name"], w["seconds"]["median"], f"x {_ratio(w, first, 'seconds')}") for w in ways]
        times += [(f"{w['name']}, captured", w["seconds"]["median"], f"x {_ratio(w, first, 'seconds')}")
                  for w in captured]
        held = [(w["name"], [("arrays", max(0, w["arrays"])), ("Python objects", max(0, w["held"] - w["arrays"]))]
                 if d["meter"] == "tracemalloc" else max(0, w["held"]), "") for w in ways]
        t = d["tensor"]
        parts = [(key, [(p["part"], p[key]) for p in t["parts"]], "") for key in ("without", "with")]
        return [Bars("time", times, time_of),
                Bars("memory at the worst moment",
                     [(w["name"], w["peak"], f"x {_ratio(w, first, 'peak')}") for w in ways], size_of),
                Bars("memory that is there with the result", held, size_of),
                Bars(f"a tensor {shape_of(t['dtype'], t['shape'])} without and with gradients", parts, size_of)]

    # files

    def page(self) -> str:
        first, *others = self._sentences()
        parts = [f"<header><h1>{html.escape(first)}</h1></header>", "<main>"]
        parts += [f"<p>{html.escape(s)}</p>" for s in others]
        for title, head, rows in self._tables():
            parts += [f"<h2>{html.escape(title)}</h2>"] if title else []
            parts.append(page.table([c.title for c in head], rows, [i for i, c in enumerate(head) if c.right]))
        parts.append(self.to_svg())
        parts += [f'<p class="soft">{html.escape(note)}</p>' for note in self.data["notes"]]
        return page.page("look.overhead", "\n".join([*parts, "</main>"]))

    def picture(self) -> Drawing:
        """The bars, one below the other."""
        return stack(*[bars.drawing() for bars in self._bars()])

    def height(self) -> int:
        return 720


def _ratio(way, first, key) -> str:
    """How many times the figure of `first`, in few characters."""
    a, b = (w[key]["median"] if key == "seconds" else w[key] for w in (way, first))
    return figure(a / b) if b > 0 else "?"


def _times(way, first, key) -> str:
    return f"{_ratio(way, first, key)} times"
