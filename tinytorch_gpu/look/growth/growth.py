"""`look.growth(make_model, depths, ...)`: memory and time of a training step, measured against the sizes of a model."""
from __future__ import annotations

import html

from .. import page
from ..chart import Chart, Series, stack
from ..drawing import Drawing
from ..terminal import Column, Paper, Tables, count_of, figure, size_of, time_of, with_notes, wrap
from ..view import View
from .fit import RULE, fit
from .run import Sweep

__all__ = ["Growth", "growth"]


def growth(make_model, depths=None, widths=None, batches=None, sequences=None, *, make_batch, loss=None, axes=None,
           at=None, device=None, repeats: int = 5) -> Growth:
    """Memory and time of forward and backward, measured for each size of a model, and the exponents of their growth.

        def make_model(depth, width):
            return nn.Sequential(*[nn.Linear(width, width) for _ in range(depth)])

        look.growth(make_model, depths=[2, 4, 8], widths=[64, 128, 256], batches=[16, 32, 64],
                    make_batch=lambda batch, width: tt.randn(batch, width), loss=lambda out, x: out.sum()).print()

    Each axis is swept alone, the others stay at the middle of their sizes, or where `at` puts them: `at={"width": 64}`,
    which may also name an axis that is not swept. `make_model` and `make_batch` are called with the axes that their
    parameters are named after: depth, width, batch, sequence, and those of `axes={"heads": [1, 2, 4]}`; where there is
    one axis alone, a single parameter may have any name. `make_batch` returns what the model is called with: a Tensor,
    a tuple of arguments, a dictionary of keyword arguments. `loss(output, *arguments)` makes one number of the output;
    without it the output must be one.

    Bytes: the parameters; the activations, which are the arrays that a forward leaves for its backward; the peaks of a
    forward and of a forward with its backward, above model and batch, gradients of the parameters included. On the CPU
    tracemalloc counts them, on a device the pool, in blocks of 512. Seconds: medians of `repeats` runs after a warm
    one, of a forward and of a backward; `repeats=0` measures memory alone.

    Runs on `device`, the default one if None, which is the default while model and batch are made. Each model is
    dropped before the next is made.
    Raises: ValueError for no axis, fewer than two sizes, sizes that are not above zero, an axis that nothing takes, a
    parameter that is no axis; TypeError for what cannot be called, no Module, no Tensor. What make_model, make_batch or
    a run raise has a note with the sizes.
    """
    named = {"depth": depths, "width": widths, "batch": batches, "sequence": sequences}
    return Growth(Sweep(make_model, make_batch, loss, named, axes, at, device, repeats).run())


class Growth(View):
    """The view of `look.growth`. `data["axes"]`: for each axis its sizes, the other axes, and "quantities": name, unit,
    figures (of times the medians, with "least" and "most"), and "fit", as `data["rule"]` says."""

    def __init__(self, measured: dict):
        for axis in measured["axes"]:
            for quantity in axis["quantities"]:
                quantity["fit"] = fit(axis["sizes"], quantity["figures"])
        self.data = measured | {"rule": RULE}

    def __repr__(self):
        swept = ", ".join(f"{count_of(len(a['sizes']), a['axis'])}" for a in self.data["axes"])
        return f"<look.growth: {swept} on {self.data['device']}>"

    # text

    def lines(self, paper: Paper) -> list[str]:
        lines = wrap(paper, self._title(), "  ")
        tables = Tables(paper)
        for axis in self.data["axes"]:
            lines += ["", *wrap(paper, _over(axis), "  "), *tables.write(*_table(axis))]
            for quantity in axis["quantities"]:
                if said := _sum(quantity, axis["axis"]):
                    lines += wrap(paper, f"{paper.dot} {said}", "    ")
            for chart in _charts(axis):
                lines += ["", *chart.lines(paper, rows=9)]
        return lines + with_notes(paper, self.data["notes"], tables.hidden())

    def _title(self) -> str:
        d = self.data
        times = f"; times are medians of {d['repeats']}" if d["repeats"] else ""
        return f"growth of {d['model']} on {d['device']}: bytes by {d['meter']}{times}"

    # files

    def page(self) -> str:
        parts = [f"<header><h1>{html.escape(self._title())}</h1></header>", "<main>"]
        for axis in self.data["axes"]:
            head, rows = _table(axis)
            parts += [f"<h2>{html.escape(_over(axis))}</h2>",
                      page.table([c.title for c in head], rows, [i for i, c in enumerate(head) if c.right])]
            sums = [html.escape(said) for q in axis["quantities"] if (said := _sum(q, axis["axis"]))]
            parts += [f"<p>{'<br>'.join(sums)}</p>"] if sums else []
            parts.append(stack(*[c.drawing() for c in _charts(axis)]).svg())
        parts += [f'<p class="soft">{html.escape(text)}</p>' for text in (*self.data["notes"], self.data["rule"])]
        return page.page("look.growth", "\n".join([*parts, "</main>"]))

    def picture(self) -> Drawing:
        """The growth plots of all axes, one below the other."""
        return stack(*[chart.drawing() for axis in self.data["axes"] for chart in _charts(axis, whole=True)])

    def height(self) -> int:
        return 720


def _over(axis) -> str:
    others = ", ".join(f"{name} {figure(value, 6)}" for name, value in axis["at"].items())
    sizes = [figure(size, 6) for size in axis["sizes"]]
    return f"over {axis['axis']}, {sizes[0]} to {sizes[-1]}" + (f" ({others})" if others else "")


def _table(axis) -> tuple[list[Column], list[list[str]]]:
    """Figures of each size, then how they grow; sizes in the middle go first where the width is short."""
    last = len(axis["sizes"]) - 1
    head = [Column(axis["axis"])]
    head += [Column(figure(size, 6), right=True, keep=0 if k in (0, last) else 4) for k, size in
             enumerate(axis["sizes"])]
    head += [Column("exponent", right=True, rule=True), Column("residual", right=True, keep=1),
             Column("at the end", right=True, keep=3), Column("above a", right=True, keep=2)]
    rows = []
    for q in axis["quantities"]:
        text, f = _text(q), q["fit"]
        row = [q["name"], *(text(v) for v in q["figures"])]
        row += ["", "", "", ""] if f is None else [_exponent(f["exponent"]), _share(f["residual"]),
                                                  _exponent(f["end"]), _exponent(f["above_constant"])]
        rows.append(row)
    return head, rows


def _text(quantity):
    return size_of if quantity["unit"] == "bytes" else time_of


def _exponent(value) -> str:
    return "" if value is None else f"{round(value, 2) + 0.0:.2f}"  # + 0.0: no minus zero


def _share(residual) -> str:
    if residual is None:
        return ""
    return f"{residual:.1%}" if residual < 0.1 else f"{residual:.0%}"


def _sum(quantity, axis) -> str:
    """The sum of powers, as a sentence; "" where there is none, or one that the exponent tells already."""
    found = quantity["fit"]
    if found is None or found["parts"] is None:
        return ""
    text = _small if quantity["unit"] == "bytes" else time_of
    parts = []
    for part in found["parts"]:
        power = {0: "", 1: f" * {axis}"}.get(part["power"], f" * {axis}^{part['power']}")
        parts.append(text(part["coefficient"]) + power)
    left = found["parts_residual"]
    return f"{quantity['name']} = {' + '.join(parts)}" + (f", within {_share(left)}" if left >= 0.0005 else "")


def _small(n) -> str:
    """Bytes, fractions of one too."""
    return size_of(n) if n >= 100 else f"{figure(n)} B"


def _charts(axis, whole=False) -> list[Chart]:
    """Bytes and seconds over the sizes. `whole`: the title names the axis and the others, for a picture by itself."""
    charts = []
    for unit, title, text in (("bytes", "memory", size_of), ("seconds", "time", time_of)):
        series = [Series(q["name"], axis["sizes"], q["figures"]) for q in axis["quantities"]
                  if q["unit"] == unit and q["fit"] is not None]
        if series:
            title = f"{title} {_over(axis)}" if whole else title
            charts.append(Chart(title, axis["axis"], unit, series, log_x=True, log_y=True,
                                x_text=lambda size: f"{size:.0f}" if size >= 100 else figure(size), y_text=text))
    return charts
