"""`look.gradients(model)`: norms of gradients and updates, dead units, vanishing and exploding, over training."""
from __future__ import annotations

import html
import math

from ...nn import Module
from ...optim import Optimizer
from .. import page
from ..drawing import Drawing
from ..graph.collect import short_file
from ..terminal import Column, Paper, count_of, figure, shape_of, tables, with_notes, wrap
from ..view import View
from .heat import heat_lines, heat_picture
from .rule import LEAST, middle, verdict
from .units import named
from .watch import Watch

__all__ = ["Gradients", "gradients"]

SHOWN = 40  # rows of a table of the text; all are in the data


def gradients(model, optimizer=None, *, threshold: float = 1e3) -> Gradients:
    """Norms of the gradients of a Module's parameters; inside `with`, of each training step, with updates.

        loss.backward()
        look.gradients(model).print()

        with look.gradients(model, optimizer) as g:
            ...  # training steps
        g.print()

    After a backward it reads `.grad`: norms, shares of zeros, NaN and Inf, rows that are zero. As a block it measures
    at each `optimizer.step()` the gradients that the step used (divided by amp.GradScaler's scale; steps that it skips
    are counted, and in no other figure), the change of the weights, which rows of gradients stayed zero, which units
    never were positive of nn.ReLU and nn.ReLU6, and of relu(), relu6() and clamp(min=0) in a module's forward, and the
    gradient's norm at each layer's output, by which vanishing and exploding are told: `data["verdict"]`, whose "rule"
    says how. `optimizer` is one or a list; without it every optimizer that steps the model's parameters counts. A block
    without a step measures what its backward left. Each step copies the weights once and waits for the device.

    `threshold`: how many times the norm must fall or grow from the last layer to the first.
    Raises: TypeError for what is no Module, no Optimizer; ValueError where no parameter requires a gradient, for an
    optimizer of other parameters, and for a threshold of 1 or less.
    """
    if not isinstance(model, Module):
        raise TypeError(f"[gradients] expected a Module, got {type(model).__name__}")
    several = optimizer if isinstance(optimizer, (list, tuple)) else [] if optimizer is None else [optimizer]
    for o in several:
        if not isinstance(o, Optimizer):
            raise TypeError(f"[gradients] expected an Optimizer or a list of them, got {type(o).__name__}")
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 1 < threshold < math.inf:
        raise ValueError(f"[gradients] threshold must be a number above 1, got {threshold!r}")
    watch = Watch(model, list(several))
    if not watch.parameters:
        raise ValueError(f"[gradients] no parameter of {type(model).__name__} requires a gradient")
    for o in several:
        if not any(id(p) in watch.parameters for group in o.param_groups for p in group["params"]):
            raise ValueError(f"[gradients] {type(o).__name__} steps none of the model's parameters: give it "
                             "model.parameters()")
    return Gradients(watch, float(threshold))


class Gradients(View):
    """The view of `look.gradients`. `data`: "layers" in forward order, "parameters", "relus", "verdict", "steps"."""

    def __init__(self, watch: Watch, threshold: float):
        self._watch, self._threshold, self._state = watch, threshold, "read"
        self._taken: tuple | None = None
        watch.measure()

    def __enter__(self):
        if self._state != "read":
            raise RuntimeError("[gradients] a view watches one block: call look.gradients() again for another")
        self._state = "watching"
        self._watch.rows.clear()
        self._watch.alive.clear()
        self._watch.open()
        return self

    def __exit__(self, *exc):
        self._state = "watched" if self._watch.rows else "kept"
        self._watch.close()

    @property
    def data(self) -> dict:  # type: ignore[override]
        """Plain dictionaries of what has been measured so far."""
        key = (len(self._watch.rows), self._state)
        if self._taken is None or self._taken[0] != key or self._state == "watching":
            self._taken = (key, _data(self._watch, self._threshold, self._state))
        return self._taken[1]

    def __repr__(self):
        d = self.data
        return (f"<look.gradients: {count_of(len(d['parameters']), 'parameter')}, {count_of(d['steps'], 'step')}, "
                f"{d['verdict']['kind']}>")

    # text

    def lines(self, paper: Paper) -> list[str]:
        d = self.data
        lines = []
        for k, sentence in enumerate(self._sentences(d)):
            lines += wrap(paper, sentence, "" if k == 0 else "  ")
        body, hidden = tables(paper, self._tables(d, paper), SHOWN)
        lines += body
        if d["steps"] > 1:
            for title, names, rows in self._maps(d):
                picture = heat_lines(paper, title, names[:SHOWN], rows[:SHOWN])
                lines += ["", *picture] if picture else []
        return lines + with_notes(paper, d["missing"], hidden)

    def _sentences(self, d) -> list[str]:
        counts = f"{count_of(len(d['parameters']), 'parameter')} in {count_of(len(d['layers']), 'layer')}"
        steps = count_of(d["steps"], "step")
        how = {"read": "as .grad holds them", "watching": f"{steps} so far", "watched": f"{steps} watched",
               "kept": "no step watched, as .grad holds them"}[d["state"]]
        how += f", {len(d['skipped']):,} of them skipped by the gradient scaler" if d["skipped"] else ""
        total = d["median_total"]
        norm = "" if total is None else f"; norm of all {figure(total)}" + (" (median)" if d["steps"] > 1 else "")
        found = [f"gradients of {d['model']}: {counts}, {how}{norm}", said(d["verdict"])]
        for r in d["relus"]:
            if r["dead"]:
                line = f" ({short_file(r['line']['file'])}:{r['line']['number']})" if r["line"] else ""
                found.append(f"dead: {r['dead']} of {r['units']} units of {named(r)}{line} never were positive")
        return found

    def _tables(self, d, paper=None):
        paper = Paper() if paper is None else paper
        norm = f"{paper.norm}grad{paper.norm}"
        head = [Column("layer", least=8), Column(f"{norm} at output", right=True, keep=1),
                Column(norm, right=True, rule=True), Column(f"{paper.norm}w{paper.norm}", right=True, keep=3),
                Column("update/w", right=True, keep=1), Column("zeros", right=True, keep=2),
                Column("zero rows", right=True, keep=4), Column("NaN, Inf", right=True, keep=5)]
        yield head, [[_layer_name(x), figure(x["median"]["signal"]), *_cells(x)] for x in d["layers"]]
        head = [Column("parameter", least=10), Column("array", least=8, keep=6), *head[2:]]
        yield head, [[p["name"], shape_of(p["dtype"], p["shape"]), *_cells(p)] for p in d["parameters"]]

    def _maps(self, d):
        """(title, names, rows) of what was measured: a heat map each."""
        names = [_layer_name(x) for x in d["layers"]]
        for key, title in (("signal", "norm of the gradient at the layers' outputs"),
                           ("norm", "norm of the gradient of the layers' parameters"),
                           ("ratio", "update / weight")):
            rows = [x[key] for x in d["layers"]]
            if any(v is not None for row in rows for v in row):
                yield title, names, rows

    # files

    def page(self) -> str:
        d = self.data
        first, *others = self._sentences(d)
        parts = [f"<header><h1>{html.escape(first)}</h1></header>", "<main>"]
        parts += [f"<p>{html.escape(s)}</p>" for s in others if s]
        parts += [self.to_svg()] if d["steps"] else []
        for title, (head, rows) in zip(("layers", "parameters"), self._tables(d)):
            parts += [f"<h2>{title}</h2>", page.table([c.title for c in head], rows,
                                                       [i for i, c in enumerate(head) if c.right])]
        parts.append(f'<p class="soft">{html.escape(d["verdict"]["rule"])}</p>')
        parts += [f'<p class="soft">{html.escape(m)}</p>' for m in d["missing"]]
        return page.page("look.gradients", "\n".join([*parts, "</main>"]))

    def picture(self) -> Drawing:
        """The heat maps. Raises: ValueError where nothing was measured."""
        d = self.data
        if not d["steps"]:
            raise ValueError(f"[save] there is nothing to draw: {d['missing'][0]}")
        return heat_picture(list(self._maps(d)), d["steps"])


def said(v) -> str:
    """A verdict as a sentence."""
    if v["kind"] == "unknown":
        return ""
    if v["kind"] == "not finite":
        return f"not finite at the output of {v['begins'] or 'the model'}: look.nan() finds the operator"
    direction = "vanish" if v["kind"] == "vanishing" else "explode"
    growth = "" if v["growth"] is None else f"times {figure(v['growth'])} a layer (fitted), "
    measured = f"{growth}times {figure(v['measured'])} from the last layer's output to the first one's"
    if v["kind"] == "neither":
        return f"gradients neither vanish nor explode: the norm goes {measured}"
    return f"gradients {direction} from layer {v['begins'] or 'the model'} on towards the input: {measured}"


def _layer_name(x) -> str:
    return x["name"] or x["class"]


def _cells(x) -> list[str]:
    """The figures of a layer or a parameter: medians over the steps, the last step's zeros, what stayed zero, what was
    not finite; of no step that the gradient scaler skipped."""
    bad, share = x["not_finite"], x["last_zeros"]
    rows = f"{x['zero_rows']} of {x['rows']}" if x["zero_rows"] else ""
    there = any(v is not None for v in x["norm"])
    return [figure(x["median"]["norm"]) or ("" if there else "none"), figure(x["median"]["weight"]),
            figure(x["median"]["ratio"]), "" if not share else "<1%" if share < 0.01 else f"{share:.0%}", rows,
            f"{bad:,}" if bad else ""]


# data


def _data(watch, threshold, state) -> dict:
    rows = watch.rows
    good = [k for k, row in enumerate(rows) if not row["skipped"]]
    order = sorted(range(len(watch.layers)), key=lambda i: (watch.order.get(i, math.inf), i))
    parameters, layers = [], []
    for i in order:
        layer = watch.layers[i]
        own = [_parameter(watch, layer, name, p) for name, p in layer.parameters]
        parameters += own
        layers.append(_layer(layer, own, [row["signals"].get(i) for row in rows]))
    for x in (*layers, *parameters):
        x["median"] = {key: middle([x[key][k] for k in good]) for key in ("signal", "norm", "weight", "ratio")
                       if key in x}
        x["not_finite"] = sum((x["nan"][k] or 0) + (x["inf"][k] or 0) for k in good)
        x["last_zeros"] = next((x["zeros"][k] for k in reversed(good) if x["zeros"][k] is not None), None)
    found = verdict([_layer_name(x) for x in layers], [x["median"]["signal"] for x in layers], threshold)
    total = [_together([p["norm"][k] for p in parameters]) for k in range(len(rows))]
    return {"view": "gradients", "model": watch.model, "state": state, "steps": len(rows),
            "total": total, "median_total": middle([total[k] for k in good]),
            "layers": layers, "parameters": parameters, "relus": watch.units.rows(), "verdict": found,
            "skipped": [k + 1 for k in range(len(rows)) if k not in good],
            "missing": _missing(watch, state, parameters, layers, found)}


def _parameter(watch, layer, name, p) -> dict:
    found = [row["parameters"].get(id(p)) for row in watch.rows]
    alive = watch.alive.get(id(p))
    size = max(p.numel(), 1)
    x = {"name": name, "layer": layer.name, "shape": list(p.shape), "dtype": str(p.dtype).split(".")[-1],
         "elements": p.numel()}
    for key in ("norm", "weight", "update", "nan", "inf"):
        x[key] = [f and f[key] for f in found]
    x["zeros"] = [f and f["zeros"] / size for f in found]
    x["ratio"] = [_ratio(f and f["update"], f and f["weight"]) for f in found]
    x["rows"] = None if alive is None else len(alive)
    x["zero_rows"] = None if alive is None else int(len(alive) - int(alive.sum()))
    return x


def _ratio(update, weight) -> float | None:
    return None if update is None or not weight else update / weight


def _layer(layer, own, signal) -> dict:
    x: dict = {"name": layer.name, "class": type(layer.module).__name__, "parameters": [p["name"] for p in own],
               "elements": sum(p["elements"] for p in own), "signal": signal}
    for key in ("norm", "weight", "update"):
        x[key] = [_together([p[key][k] for p in own]) for k in range(len(signal))]
    for key in ("nan", "inf"):
        x[key] = [_sum([p[key][k] for p in own]) for k in range(len(signal))]
    x["ratio"] = [_ratio(u, w) for u, w in zip(x["update"], x["weight"])]
    x["zeros"] = []
    for k in range(len(signal)):
        there = [p for p in own if p["zeros"][k] is not None]
        size = max(sum(p["elements"] for p in there), 1)
        x["zeros"].append(sum(p["zeros"][k] * p["elements"] for p in there) / size if there else None)
    counted = [p for p in own if p["rows"] is not None]
    x["rows"] = sum(p["rows"] for p in counted) if counted else None
    x["zero_rows"] = sum(p["zero_rows"] for p in counted) if counted else None
    return x


def _together(norms) -> float | None:
    found = [n for n in norms if n is not None]
    return math.hypot(*found) if found else None


def _sum(counts) -> int | None:
    found = [c for c in counts if c is not None]
    return sum(found) if found else None


def _missing(watch, state, parameters, layers, found) -> list[str]:
    notes = []
    if not watch.rows:
        return ["no gradient was measured: call it after backward(), or step an optimizer of this model inside the "
                "block"]
    none = [p["name"] for p in parameters if all(v is None for v in p["norm"])]
    if none:
        notes.append(f"{count_of(len(none), 'parameter')} without a gradient: {', '.join(none[:4])}"
                     + (" and more" if len(none) > 4 else ""))
    if state == "read":
        notes.append("updates, gradients at layers' outputs and units of ReLU are not known, so neither are vanishing "
                     "and exploding: `with look.gradients(model, optimizer):` around training steps")
        return notes
    if all(v is None for p in parameters for v in p["update"]):
        notes.append("updates are not known: no optimizer of this model stepped inside the block")
    if found["kind"] == "unknown":
        why = (f"{count_of(found['layers'], 'layer')} had a gradient at the output, the rule needs {LEAST}"
               if found["layers"] < LEAST else "the gradient at the last layer's output is zero")
        notes.append(f"vanishing and exploding are not told: {why}")
    skipped = sum(row["skipped"] for row in watch.rows)
    if skipped:
        notes.append(f"{skipped:,} of {count_of(len(watch.rows), 'step')} skipped by the gradient scaler after an "
                     "overflow: in no figure, only in the heat maps")
    unknown = sum(row["unknown"] for row in watch.rows)
    if unknown:
        notes.append(f"gradients at the layers' outputs are not known of {unknown:,} of "
                     f"{count_of(len(watch.rows), 'step')}: amp.GradScaler scaled the loss, and neither its unscale_ "
                     "nor its step divided the optimizer's gradients")
    return notes
