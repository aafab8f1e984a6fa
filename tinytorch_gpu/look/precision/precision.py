"""`look.precision(model, batch)`: mixed precision measured: memory, time, gradients lost, overflows, losses."""
from __future__ import annotations

import html
import math

from ...autograd.modes import enable_grad
from ...backend import dtypes
from ...optim import AdamW, Optimizer
from .. import measure, page
from ..batch import run_of
from ..chart import Bars, Chart, Series, stack
from ..drawing import Drawing
from ..kept import kept
from ..terminal import Column, Paper, Tables, count_of, figure, size_of, time_of, with_notes, wrap
from ..view import View
from .scale import rule, underflow
from .step import WAYS, measured

__all__ = ["Precision", "precision"]

SHOWN = 20  # layers in a table of the text, those that lose most; all are in the data
SCALES = (1, 2**4, 2**8, 2**12, 2**16, 2**20)


def precision(model, batch, loss=None, optimizer=None, *, steps: int = 8, scales=SCALES, repeats: int = 5) -> Precision:
    """Train steps in float32, float16 and bfloat16, measured; and what float16 loses of the gradients, by layer.

        look.precision(model, x, lambda out, x: F.cross_entropy(out, y), optimizer).print()

    Five ways: float32; autocast to float16, with amp.GradScaler, and to bfloat16; the same with weights of two
    dimensions and more kept in the half type and float32 masters in the optimizer. Of each: bytes of weights,
    optimizer's state and of a step at its worst moment, seconds of a step, the loss at first and after `steps` steps
    beside float32's, the scaler's scale and the steps it skipped. All begin with the same weights, random numbers and
    optimizer's state. And for each of `scales` of the loss: the share of the entries of the gradients, of parameters
    and at the layers' outputs, that rounding to float16 makes zero, subnormal or infinite (computed from float32's
    gradients), and the share that autocast's own backward lost.

    `batch` and `loss` as in `look.batch.run_of`: a Tensor, a tuple of the model's arguments or a dictionary of them,
    and `loss(output, *batch)`; without it the output is the loss. `optimizer` steps the model's parameters, a copy of
    it is used; without it `optim.AdamW(model.parameters())`. `repeats`: steps that are timed. The model runs in the
    mode it is in, and is afterwards bit for bit what it was: weights, buffers, gradients, random numbers, optimizer.

    Raises: TypeError for what is no Module, no Optimizer, no batch; ValueError for parameters that are not float32 or
    require no gradient, an optimizer of other parameters, scales that are no positive numbers, steps or repeats below
    1, and a loss that is not one number with a gradient.
    """
    run = run_of(model, batch, loss, "precision")
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise TypeError(f"[precision] expected an Optimizer, got {type(optimizer).__name__}")
    for name, value in (("steps", steps), ("repeats", repeats)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"[precision] {name} must be a whole number of at least 1, got {value!r}")
    scales = _checked(scales)
    _check_parameters(model, optimizer)
    chosen = optimizer is None
    used = AdamW(model.parameters()) if chosen else optimizer
    with enable_grad(), kept(run, used) as state:
        ways = [measured(run, used, way, state, steps, repeats) for way in WAYS]
        found = underflow(run, state, scales, in_autocast=ways[1]["error"] is None)
    _compare(ways)
    meter = measure.meter_of(run.device)
    meter.close()
    data = {
        "view": "precision", "model": type(model).__name__, "device": str(run.device), "meter": meter.source,
        "training": model.training, "optimizer": type(used).__name__, "optimizer_given": not chosen, "steps": steps,
        "ways": ways, "scales": scales, **found, "rule": rule()}
    data["best"] = _best(data)
    return Precision(data)


def _checked(scales) -> list[float]:
    if isinstance(scales, (int, float)) or not scales:
        raise ValueError(f"[precision] scales must be a list of positive numbers, got {scales!r}")
    for s in scales:
        if isinstance(s, bool) or not isinstance(s, (int, float)) or not 0 < s < math.inf:
            raise ValueError(f"[precision] scales must be positive numbers, got {s!r}")
    return sorted({float(s) for s in scales})


def _check_parameters(model, optimizer) -> None:
    wanted = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not wanted:
        raise ValueError(f"[precision] no parameter of {type(model).__name__} requires a gradient")
    for name, p in wanted:
        if p.dtype is not dtypes.float32:
            raise ValueError(f"[precision] float32 is what the others are compared with, but {name} is {p.dtype.name}: "
                             "give model.float()")
    if optimizer is not None:
        own = {id(p) for _, p in wanted}
        if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            raise ValueError(f"[precision] {type(optimizer).__name__} steps none of the model's parameters: give it "
                             "model.parameters()")


def _compare(ways) -> None:
    """To each way its ratios and differences to float32."""
    base = ways[0]
    for way in ways:
        if way["error"] is not None:
            continue
        way["time"] = measure.spread(way["seconds"])
        way["memory_ratio"] = way["peak"] / base["peak"]
        way["time_ratio"] = way["time"]["median"] / base["time"]["median"]
        way["difference"] = [_relative(a, b) for a, b in zip(way["losses"], base["losses"])]


def _relative(a, b) -> float:
    """(a - b) / |b|; the difference itself where b is zero."""
    return (a - b) / (abs(b) or 1.0)


def _best(data) -> dict | None:
    """The scale, of those tried, at which the fewest entries of all gradients become zero or infinite; of equals the
    one with the fewest subnormal ones, then the smallest."""
    both = list(data["totals"].values())
    if not sum(t["nonzero"] for t in both):
        return None

    def lost(k):
        return sum(t["zero"][k] + t["infinite"][k] for t in both), sum(t["subnormal"][k] for t in both)

    k = min(range(len(data["scales"])), key=lambda k: (lost(k), k))
    return {"scale": data["scales"][k], "lost": lost(k)[0] / sum(t["nonzero"] for t in both)}


class Precision(View):
    """The view of `look.precision`. `data`: "ways" (float32 first), "scales", "totals", "layers", "best", "rule"."""

    def __init__(self, data: dict):
        self.data = data

    def __repr__(self):
        d = self.data
        return f"<look.precision: {d['model']} on {d['device']}, {len(d['ways'])} ways, {len(d['scales'])} scales>"

    # text

    def lines(self, paper: Paper) -> list[str]:
        d = self.data
        lines = []
        for k, sentence in enumerate(self._sentences(d)):
            lines += wrap(paper, sentence, "" if k == 0 else "  ")
        tables = Tables(paper)
        for title, head, rows in self._tables(d, SHOWN):
            lines += ["", *(wrap(paper, title) if title else []), *tables.write(head, rows)]
        lines += ["", *self._chart(d).lines(paper)]
        return lines + with_notes(paper, self._notes(d), tables.hidden())

    def _sentences(self, d) -> list[str]:
        found = [f"precision of {d['model']} on {d['device']}: a train step with {d['optimizer']} in "
                 f"{count_of(len(d['ways']), 'way')}; bytes by {_meter(d)}, time the median of "
                 f"{count_of(d['ways'][0]['time']['runs'], 'step')}"]
        for way in d["ways"]:
            if way["scaled"] and way["error"] is None:
                first, last = (f"{way['scales'][i]:,.10g}" for i in (0, -1))
                skipped = way["overflows"]
                found.append(f"{way['name']}: " + (
                    f"{len(skipped)} of {count_of(d['steps'], 'step')} skipped after an overflow "
                    f"({_some(skipped)}), the loss scaled by {first} at first and {last} at last" if skipped else
                    f"no overflow in {count_of(d['steps'], 'step')}, the loss scaled by {first}"
                    + (f" to {last}" if first != last else "")))
        if d["best"]:
            found.append(f"of the scales tried {_scale(d['best']['scale'])} loses least in float16: "
                         f"{_percent(d['best']['lost']) if d['best']['lost'] else 'none'} of the gradients' entries "
                         "become zero or infinite")
        return found

    def _tables(self, d, most=10**9):
        """(title, columns, rows) of each table; of the layers at most `most`, those that lose the greatest share."""
        first = Column("", least=16)
        yield ("bytes at the worst moment of a step: weights + optimizer's state + the step's own = peak",
               [first, Column("weights", right=True, keep=3), Column("optimizer's state", right=True, keep=2),
                Column("step's own", right=True, keep=1), Column("peak", right=True),
                Column("× float32", right=True)],
               [_cells(way, _bytes_cells, 3) for way in d["ways"]])
        yield (f"time of a step, of {count_of(d['ways'][0]['time']['runs'], 'run')}",
               [first, Column("median", right=True), Column("least", right=True, keep=2),
                Column("most", right=True, keep=2), Column("median × float32", right=True)],
               [_cells(way, _time_cells, 0) for way in d["ways"]])
        yield (f"loss before the first step and after {count_of(d['steps'], 'step')}, each with its relative "
               "difference from float32's",
               [first, Column("first loss", right=True, keep=1), Column("from float32's", right=True, keep=1),
                Column(f"after {count_of(d['steps'], 'step')}", right=True), Column("from float32's", right=True)],
               [_cells(way, _loss_cells, 2) for way in d["ways"]])
        head = [Column("scale"), Column("zero", right=True, rule=True), Column("subnormal", right=True, keep=3),
                Column("infinite", right=True), Column("lost in autocast", right=True, keep=2),
                Column("zero", right=True, rule=True), Column("subnormal", right=True, keep=3),
                Column("infinite", right=True), Column("lost in autocast", right=True, keep=2)]
        yield ("float16 at scales of the loss: the parameters' gradients | the gradients at the layers' outputs", head,
               [[_scale(s), *_total_cells(d["totals"]["parameters"], k), *_total_cells(d["totals"]["output"], k)]
                for k, s in enumerate(d["scales"])])
        scales = [Column(_scale(s), right=True, keep=k and 1) for k, s in enumerate(d["scales"])]
        ends = [Column("least", right=True, keep=2), Column("most", right=True, keep=2)]
        for what, title in (("parameters", "parameters' gradients"), ("output", "gradients at the layers' outputs")):
            kind = [Column("in autocast", keep=3)] if what == "output" else []
            worst = sorted(d["layers"], key=lambda x: -_worst(x[what]))[:most]
            rows = [[x["name"] or x["class"], *([_dtype(x["dtype"])] if kind else []), figure(x[what]["least"]),
                     figure(x[what]["most"]), *(_cell(x[what], k) for k in range(len(scales)))] for x in d["layers"]
                    if any(x is w for w in worst)]
            chosen = f", the {most} of {len(d['layers'])} layers that lose most" if len(d["layers"]) > most else ""
            yield (f"{title}: share that float16 makes zero (inf: infinite) at the scale{chosen}",
                   [Column("layer", least=8), *kind, *ends, *scales], rows)

    def _chart(self, d) -> Chart:
        series = []
        for what, name in (("parameters", "parameters"), ("output", "outputs")):
            total = d["totals"][what]
            for key in ("zero", "infinite"):
                shares = [100 * v / max(total["nonzero"], 1) for v in total[key]]
                powers = [math.log2(s) for s in d["scales"]]
                series.append(Series(f"{name}, {key}", powers, shares, dashed=what == "output"))
        return Chart("gradients that float16 cannot hold", "scale of the loss", "% of entries", series,
                     x_text=lambda power: f"2^{power:.3g}")

    def _notes(self, d) -> list[str]:
        notes = []
        good = [way for way in d["ways"][1:] if way["error"] is None]
        if d["device"] == "cpu" and good:
            times = ", ".join(f"{figure(way['time_ratio'])} ({way['name']})" for way in good)
            notes.append(f"half precision takes {times} of float32's time here: a CPU computes it in float32 and "
                         "rounds; what a GPU gains is not told by this")
        if any(way["half_weights"] for way in good):
            notes.append("float16 and bfloat16 weights: those of two dimensions and more, under autocast too; their "
                         "float32 masters are in the optimizer's state")
        notes += [f"{way['name']} does not run: {way['error']}" for way in d["ways"] if way["error"] is not None]
        if not d["optimizer_given"]:
            notes.append(f"no optimizer was given: {d['optimizer']} with its defaults")
        if not d["training"]:
            notes.append("the model is in eval mode, and was run so")
        if not all(math.isfinite(v) for v in d["ways"][0]["losses"]):
            notes.append("the loss in float32 is not finite: the differences say nothing")
        silent = [x["name"] or x["class"] for x in d["layers"] if not x["parameters"]["nonzero"]]
        if silent:
            notes.append(f"no gradient, or only zeros, in float32: {_some(silent)}")
        if d["totals"]["parameters"]["lost"] is not None:
            notes.append("lost in autocast: zero or not finite in a float16 autocast backward of the scaled loss, and "
                         "not in float32")
        return notes

    # files

    def page(self) -> str:
        d = self.data
        first, *others = self._sentences(d)
        parts = [f"<header><h1>{html.escape(first)}</h1></header>", "<main>"]
        parts += [f"<p>{html.escape(s)}</p>" for s in others]
        tables = [f"<h2>{html.escape(title)}</h2>" * bool(title)
                  + page.table([c.title for c in head], rows, [i for i, c in enumerate(head) if c.right])
                  for title, head, rows in self._tables(d)]
        parts += [*tables[:3], self.to_svg(), *tables[3:], f'<p class="soft">{html.escape(d["rule"])}</p>']
        parts += [f'<p class="soft">{html.escape(m)}</p>' for m in self._notes(d)]
        return page.page("look.precision", "\n".join([*parts, "</main>"]))

    def height(self) -> int:
        return 640

    def picture(self) -> Drawing:
        """Memory, time, and the shares of lost gradients over the scale."""
        d = self.data
        good = [way for way in d["ways"] if way["error"] is None]
        memory = Bars(f"bytes of a train step with {d['optimizer']}, by {_meter(d)}", [
            (way["name"], [("weights", way["weights"]), ("optimizer's state", way["state"]),
                           ("the step's own", way["step"])], _times(way["memory_ratio"]))
            for way in good], size_of)
        time = Bars(f"time of a train step on {d['device']}, median", [
            (way["name"], way["time"]["median"], _times(way["time_ratio"])) for way in good], time_of)
        return stack(memory.drawing(), time.drawing(), self._chart(d).drawing())


# cells


def _cells(way, figures, place) -> list[str]:
    """The name and the figures, or that the way fails, at a place."""
    if way["error"] is None:
        return [way["name"], *figures(way)]
    cells = [""] * 5
    cells[place] = "fails"
    return [way["name"], *cells]


def _bytes_cells(way) -> list[str]:
    return [*(size_of(way[key]) for key in ("weights", "state", "step", "peak")), figure(way["memory_ratio"])]


def _time_cells(way) -> list[str]:
    return [*(time_of(way["time"][key]) for key in ("median", "least", "most")), figure(way["time_ratio"])]


def _loss_cells(way) -> list[str]:
    losses, difference = way["losses"], way["difference"]
    return [text for k in (0, -1) for text in (figure(losses[k], 4), figure(difference[k]))]


def _times(ratio) -> str:
    return "" if ratio == 1 else f"{figure(ratio)} × float32"


def _total_cells(total, k) -> list[str]:
    nonzero = max(total["nonzero"], 1)
    lost = None if total["lost"] is None else (total["lost"][k] + total["not_finite"][k]) / nonzero
    return [*(_percent(total[key][k] / nonzero) for key in ("zero", "subnormal", "infinite")), _percent(lost)]


def _cell(part, k) -> str:
    if not part["nonzero"]:
        return ""
    zero = _percent(part["zero"][k] / part["nonzero"])
    return zero + (f" inf {_percent(part['infinite'][k] / part['nonzero'])}" if part["infinite"][k] else "")


def _worst(part) -> float:
    """The greatest share that is zero or infinite at a scale."""
    return max(z + i for z, i in zip(part["zero"], part["infinite"])) / max(part["nonzero"], 1)


def _percent(share) -> str:
    if share is None:
        return ""
    return "0" if share == 0 else "<0.1%" if share < 0.001 else f"{100 * share:.3g}%"


def _scale(scale) -> str:
    """2^16 where it is a power of two."""
    power = math.log2(scale)
    return f"2^{power:.0f}" if power == round(power) and scale != 1 else f"{scale:.6g}"


def _dtype(name) -> str:
    return name or ""


def _meter(d) -> str:
    return "tracemalloc" if d["meter"] == "tracemalloc" else "the device's pool"


def _some(names) -> str:
    return ", ".join(map(str, names[:6])) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
