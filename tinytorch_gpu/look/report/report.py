"""`look.report(folder)`: one page of a training run, made from the files in its folder."""
from __future__ import annotations

import csv
import math
import statistics
from pathlib import Path

from ... import io
from ..chart import Chart, stack
from ..drawing import Drawing
from ..gradients.gradients import said
from ..gradients.heat import heat_lines, heat_picture
from ..gradients.rule import middle, verdict
from ..graph.collect import short_file
from ..graph.graph import Graph
from ..memory.memory import Memory
from ..profile.profile import Profile
from ..terminal import Paper, count_of, figure, size_of, time_of, with_notes, wrap
from ..view import View
from . import page as report_page
from .curves import curves, memory_name
from .record import FILE, PROFILED, read

__all__ = ["Report", "report"]

METRICS, CHECKPOINT = "metrics.csv", "checkpoint.safetensors"
THRESHOLD = 1e3  # of vanishing and exploding, as look.gradients has it
ROWS = 40  # layers of the text's heat map
MAPS = (("signal", "norm of the gradient at the layers' outputs"),
        ("norm", "norm of the gradient of the layers' parameters"), ("ratio", "update / weight"))


def report(folder) -> Report:
    """The page of a training run: curves, gradients over training, memory, profile, graph, settings, environment.

        look.report("runs/gpt-1").save("report.html")

    Reads `metrics.csv` (columns "step" and any others), `report.json`, which `tinytorch-gpu train gpt --report` writes
    (or a look.Recording in a loop of your own), and the settings in `checkpoint.safetensors`. What is not there is
    missing, and the page says how to get it. No file is changed, and reading runs no code.

    Raises: TypeError for what is no path, ValueError where there is no such folder, no run in it, or a file in it is
    damaged.
    """
    try:
        folder = Path(folder)
    except TypeError:
        raise TypeError(f"[report] expected the folder of a run, got {type(folder).__name__}") from None
    if not folder.is_dir():
        raise ValueError(f"[report] {folder} is no folder: give the folder of a run, such as runs/gpt-1")
    there = [name for name in (METRICS, FILE, CHECKPOINT) if (folder / name).is_file()]
    if not there:
        raise ValueError(f"[report] {folder} holds no run: it has neither {METRICS} nor {FILE} nor {CHECKPOINT}")
    noted = read(folder / FILE) if FILE in there else {}
    data = {
        "view": "report", "folder": str(folder), "program": noted.get("program"), "step": 0, "steps": None,
        "seconds": noted.get("seconds"), "units": noted.get("units", {}), "settings": noted.get("settings"),
        "environment": noted.get("environment"),
        "metrics": {},
        **{key: noted.get(key) for key in ("graph", "graph_step", "memory", "memory_step", "profile",
                                           "profile_steps", "gradients")},
    }
    missing: list[str] = []
    if METRICS in there:
        data["metrics"] = _metrics(folder / METRICS, missing)
    if CHECKPOINT in there and (data["settings"] is None or data["seconds"] is None):
        _from_checkpoint(data, folder / CHECKPOINT, missing)
    try:
        if data["settings"] is not None:
            data["steps"] = data["settings"].get("steps")
        measured = (data["gradients"] or {}).get("steps", ())
        data["step"] = int(max([0, *data["metrics"].get("step", ()), *measured]))
        if data["gradients"] is not None:
            _judge(data["gradients"])
        data["missing"] = missing + _missing(data, FILE in there)
        return Report(data)
    except (AttributeError, IndexError, KeyError, TypeError) as e:
        raise ValueError(f"[report] {folder / FILE} does not fit together ({type(e).__name__}: {e}): remove it, the "
                         "page is made from the other files") from e


def _metrics(path: Path, missing: list[str]) -> dict[str, list]:
    """The columns of a table with a head, in the order of its steps; None for an empty cell. A line that is no row,
    as a process that was killed may leave, does not count, which `missing` is told."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        lines = csv.reader(file)
        head = next(lines, [])
        if "step" not in head:
            raise ValueError(f"[report] {path} has no column `step` in its first line")
        rows, others = [], []
        for texts in lines:
            row = _cells(texts)
            if row is not None and len(row) == len(head):
                rows.append(row)
            elif texts:
                others.append(lines.line_num)
    if others:
        shown = ", ".join(map(str, others[:3])) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        are = "is no row" if len(others) == 1 else "are no rows"
        missing.append(f"{METRICS} has {count_of(len(others), 'line')} that {are} of {count_of(len(head), 'number')}, "
                       f"left out: {shown}")
    place = head.index("step")
    rows = sorted((row for row in rows if row[place] is not None), key=lambda row: row[place] or 0.0)
    return {name: [row[k] for row in rows] for k, name in enumerate(head)}


def _cells(texts) -> list[float | None] | None:
    try:
        return [float(text) if text else None for text in texts]
    except ValueError:
        return None


def _from_checkpoint(data, path, missing) -> None:
    try:
        saved = io.load(path, map_location="cpu")
    except (OSError, RuntimeError) as e:
        missing.append(f"settings: {' '.join(str(e).split())}")
        return
    if isinstance(saved, dict):
        for key in ("settings", "seconds", "program"):
            if data[key] is None and isinstance(saved.get(key), (dict, float, str)):
                data[key] = saved[key]


def _judge(g) -> None:
    """Medians over the measured steps, and whether gradients vanish or explode, as look.gradients tells it."""
    good = [k for k, step in enumerate(g["steps"]) if step not in g["skipped"]]
    for x in g["layers"]:
        x["median"] = {key: middle([x[key][k] for k in good]) for key, _ in MAPS}
    g["verdict"] = verdict([x["name"] or x["class"] for x in g["layers"]],
                           [x["median"]["signal"] for x in g["layers"]], THRESHOLD)


def _missing(d, recorded) -> list[str]:
    program = d["program"] if d["program"] in ("gpt", "digits") else "gpt"
    found = []
    if not d["metrics"].get("step"):
        found.append(f"no curves: {METRICS} is not there or has no row")
    for name, column in d["metrics"].items():
        bad = [s for s, v in zip(d["metrics"]["step"], column) if v is not None and not math.isfinite(v)]
        if bad and name != "step":
            found.append(f"{name} is not finite in {len(bad):,} of {count_of(len(column), 'row')}, first at step "
                         f"{bad[0]:,.0f}; the curves leave these out")
    if not recorded:
        command = f"`tinytorch-gpu train {program} --report`"
        found.append(f"graph, memory, profile, gradients and environment were not recorded: {command} notes them; with "
                     f"--resume --out {d['folder']} it does for the steps that come")
        return found
    for key, where in (("graph", "the first step"), ("memory", "the second step"),
                       ("profile", f"steps 3 to {2 + PROFILED}")):
        if d[key] is None:
            found.append(f"no {key}: it is recorded in {where} after the beginning, which the run did not reach")
    if not (d["gradients"] or {}).get("steps"):
        found.append("no gradients: no step of the optimizer was measured")
    if d["environment"] is None:
        found.append("no environment: it was not recorded")
    return found


class Report(View):
    """The view of `look.report`. `data`: "metrics" by column, "gradients", "memory", "profile", "graph", "settings",
    "environment", "missing"."""

    def __init__(self, data: dict):
        self.data = data
        self.curves: list[Chart] = curves(data)
        self.graph = None if data["graph"] is None else Graph(data["graph"])
        self.memory = self.profile = None
        if data["memory"] is not None:
            self.memory = Memory.__new__(Memory)
            self.memory.__dict__["data"] = data["memory"]
        if data["profile"] is not None:
            self.profile = Profile.__new__(Profile)
            self.profile.__dict__.update(_data=data["profile"], _state="closed")
        for view in (self.graph, self.memory, self.profile):
            if view is not None:
                str(view)  # what does not fit together shows here

    def __repr__(self):
        return f"<look.report: {self.title()}>"

    # what is said

    def title(self) -> str:
        d = self.data
        steps = count_of(d["step"], "step")
        of = f" of {d['steps']:,}" if isinstance(d["steps"], int) and d["steps"] != d["step"] else ""
        return f"{d['program'] or 'a run'} in {short_file(d['folder'])}: {steps}{of}"

    def facts(self) -> list[tuple[str, str]]:
        """(what, figure) of the run as a whole."""
        d = self.data
        m, found = d["metrics"], []

        def there(column):
            return [v for v in m.get(column, ()) if v is not None and math.isfinite(v)]

        if losses := [v for v in m.get("loss", ()) if v is not None]:  # also one that is not finite any more
            found.append((f"loss{self._unit('loss')}", f"{figure(losses[0], 4)} to {figure(losses[-1], 4)}"))
        if held := [v for v in m.get("held_out", ()) if v is not None]:
            found.append((f"held out{self._unit('held_out')}", f"{figure(held[-1], 4)} at last"))
        if d["seconds"] is not None:
            found.append(("trained", time_of(d["seconds"])))
        if speeds := there("per_second"):
            unit = d["units"].get("per_second", "per second")
            found.append(("throughput", f"{statistics.median(speeds):,.0f} {unit} (median)"))
        if sizes := there("memory_mib"):
            found.append((memory_name(d), f"{size_of(max(sizes) * 2**20)} at most"))
        g = d["gradients"]
        if g is not None and g["steps"]:
            found.append(("from layer to layer", said(g["verdict"]) or "neither vanishing nor exploding can be told"))
        return found

    def _unit(self, column) -> str:
        unit = self.data["units"].get(column)
        return f" ({unit})" if unit else ""

    # text

    def lines(self, paper: Paper) -> list[str]:
        d = self.data
        lines = [paper.strong(line) for line in wrap(paper, self.title())]
        for what, value in self.facts():
            lines += wrap(paper, f"{what}: {value}", "    ")
        for chart in self.curves:
            lines += ["", *chart.lines(paper, 8)]
        for title, names, rows in self.maps():
            lines += ["", *heat_lines(paper, f"{title}, {self.measured()}", names[:ROWS], rows[:ROWS])]
        if self.memory is not None:
            lines += ["", *wrap(paper, f"step {d['memory_step']}: {self.memory._title()}", "  ")]
        if self.profile is not None:
            lines += ["", *wrap(paper, f"{self.profiled()}: {repr(self.profile)[15:-1]}", "  ")]
        if self.graph is not None:
            lines += ["", *wrap(paper, f"step {d['graph_step']}: {self.graph._summary()}", "  ")]
        for name in ("settings", "environment"):
            if d[name]:
                pairs = ", ".join(f"{key} {value}" for key, value in d[name].items() if value not in ("", None))
                lines += ["", *wrap(paper, f"{name}: {pairs}", "  ")]
        return lines + with_notes(paper, d["missing"])

    def profiled(self) -> str:
        first, last = self.data["profile_steps"]
        return f"steps {first} to {last}" if last > first else f"step {first}"

    def measured(self) -> str:
        """Which steps a heat map shows."""
        steps = self.data["gradients"]["steps"]
        return f"{count_of(len(steps), 'step')} from {steps[0]:,} to {steps[-1]:,}"

    def maps(self):
        """(title, names, rows) of the heat maps of gradients."""
        g = self.data["gradients"]
        if g is None or not g["steps"]:
            return
        names = [x["name"] or x["class"] for x in g["layers"]]
        for key, title in MAPS:
            rows = [x[key] for x in g["layers"]]
            if any(v is not None for row in rows for v in row):
                yield title, names, rows

    # files

    def page(self) -> str:
        return report_page.page(self)

    def height(self) -> int:
        return 900

    def heat(self, maps) -> Drawing:
        """Heat maps of gradients, one below the other."""
        return heat_picture(maps, len(self.data["gradients"]["steps"]), self.measured())

    def picture(self) -> Drawing:
        """Curves and heat maps. Raises: ValueError where there is neither."""
        maps = list(self.maps())
        parts = [*(c.drawing() for c in self.curves), *([self.heat(maps)] if maps else [])]
        if not parts:
            raise ValueError(f"[save] there is nothing to draw: {self.data['missing'][0]}")
        return stack(*parts)
