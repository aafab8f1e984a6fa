"""One training run in one folder: its settings, checkpoints, metrics and progress line."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import tinytorch_gpu as tt

from .. import environment
from ..backend import device as devices
from ..backend import random
from . import settings as options
from .command import CtrlC, choose_device, describe
from .settings import UserError

FORMAT = "tinytorch_gpu run 1"
CHECKPOINT = "checkpoint.safetensors"
RUNS = Path("runs")
COLUMNS = ("step", "loss", "lr", "grad_norm", "per_second", "memory_mib", "held_out")


class Run:
    """Where a training run stands: `settings`, `device`, `step`, and the folder that remembers them.

    `given` are the options of the command line; a resumed run takes the others from its checkpoint. `unit` is what a
    step's work is counted in, `loss` and `held_out` what these columns are measured in (held_out: as the loss). The
    order of use: construct, `begin` with the parts to save, then `with run:` around `for step in run.steps():`.
    """

    def __init__(self, program: str, cls, given: dict, unit: str, loss: str, held_out: str = ""):
        self.program, self.unit = program, unit
        self.units = {"per_second": f"{unit}/s", "loss": loss, "held_out": held_out or loss}
        self._recording = None  # of --report
        self._steps = self._watched = 0  # since the last row, and those of them that took longer: they were looked into
        self._looking: float | None = None  # since when one of these runs
        self.step, self.seconds, self.rows, self._saved = 0, 0.0, [], None
        out = given.get("out", "")
        self.folder = Path(out) if out else None
        if given.get("resume"):
            self.folder = self.folder or last_run(program)
            self._saved = self._read()
            self.settings = options.resumed(cls, self._saved["settings"], given)
            self.step, self.seconds = self._saved["step"], self._saved["seconds"]
            self.device = choose_device(self.settings.device)
        else:
            if out and self.checkpoint.exists():
                raise UserError(f"[train] {out} holds a run already: continue it with --resume, or name another --out")
            options.fill(cls, given, on_gpu=False)  # bad values are named before a device is looked for
            self.device = choose_device(given.get("device", "auto"))
            self.settings = options.fill(cls, given, on_gpu=self.device.type == "cuda")
        self._on_disk = self.step  # the step of the checkpoint; 0 before there is one

    # ---- checkpoints ----

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINT

    def _read(self) -> dict:
        if not self.checkpoint.is_file():
            raise UserError(f"[resume] {self.folder} has no {CHECKPOINT}: name the folder of a run with --out")
        try:
            saved = tt.load(self.checkpoint, map_location="cpu")  # a run may go on on another device
        except (OSError, RuntimeError) as error:
            why = str(error).removeprefix("[load] ")
            raise UserError(f"[resume] {why}, or start a new run without --resume") from None
        if not isinstance(saved, dict) or saved.get("format") != FORMAT or saved.get("program") != self.program:
            raise UserError(
                f"[resume] {self.checkpoint} is no checkpoint of `train {self.program}`: "
                "name the folder of one with --out"
            )
        return saved

    def begin(self, data: str, **parts) -> None:
        """Puts a resumed run's state into `parts` (each with state_dict and load_state_dict) and opens the folder.

        `data` is a fingerprint of the training data. Raises UserError where it or a part does not fit the checkpoint.
        """
        self._data, self._parts = data, parts
        if self._saved is not None:
            if self._saved["data"] != data:
                raise UserError(
                    "[resume] the training data is not what the run began with (the standard library's source changes "
                    "with Python's version): give the same --data, or start a new run without --resume"
                )
            try:
                for name, part in parts.items():
                    part.load_state_dict(self._saved[name])
                for where, state in self._saved["random"].items():
                    random.set_rng_state(np.array(state, np.uint8), where)
            except (KeyError, ValueError, RuntimeError, TypeError) as error:
                raise UserError(
                    f"[resume] {self.checkpoint} does not fit ({error}): it is damaged or of another version; "
                    "put a copy in its place, or start a new run without --resume"
                ) from None
            self._saved = None
        with self._writing(self.folder or RUNS):
            if self.folder is None:
                self.folder = new_folder(self.program)
            self.folder.mkdir(parents=True, exist_ok=True)
            self._metrics = self._open_metrics(self.folder / "metrics.csv")
        if self.settings.report:
            with self._writing(self.folder):
                self._recording = self._record()
            self._reset_peak()
        self._mark = self._began = time.perf_counter()

    def _record(self):
        """What `--report` notes while the run trains."""
        from ..look import Recording

        given = {k: v for k, v in dataclasses.asdict(self.settings).items() if k not in ("resume", "report")}
        about = {"program": self.program, "units": self.units, "settings": given,
                 "environment": {"trained on": describe(self.device), **dict(environment.rows())}}
        try:
            return Recording(self.folder, self._parts["model"], self._parts["optimizer"], self.settings.steps, about,
                             self.step)
        except ValueError as error:
            raise UserError(str(error)) from None

    def save(self) -> None:
        """Writes the checkpoint in one piece: until it is whole, the one before stays."""
        with self.paused(), self._writing(self.checkpoint):
            self._metrics.flush()
            os.fsync(self._metrics.fileno())  # the rows up to a checkpoint are on disk before it is
            self.seconds += time.perf_counter() - self._began
            self._began = time.perf_counter()
            state = {
                "format": FORMAT, "program": self.program, "settings": dataclasses.asdict(self.settings),
                "step": self.step, "seconds": self.seconds, "data": self._data,
                "random": {
                    where: random.get_rng_state(where).tolist() for where in sorted({"cpu", str(self.device)})
                },
            }  # fmt: skip
            parts = {name: part.state_dict() for name, part in self._parts.items()}
            tt.save(state | parts, self.checkpoint)
            if self._recording is not None:
                self._recording.save(self.seconds)
        self._on_disk = self.step

    @contextlib.contextmanager
    def _writing(self, path):
        try:
            yield
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else error
            if self._on_disk:
                mend = f"make room; the checkpoint of step {self._on_disk} is whole: --resume --out {self.folder}"
            else:
                mend = "make room, or name another folder with --out; nothing was saved before"
            raise UserError(f"[train] {path} cannot be written ({why}): {mend}") from None

    # ---- metrics ----

    def _open_metrics(self, path: Path):
        """Keeps the rows up to the checkpoint, drops what a killed process wrote after it, and appends from there."""
        if self.step and path.exists():
            with path.open(newline="", encoding="utf-8", errors="replace") as file:
                self.rows = [row for row in map(_row, csv.reader(file)) if row and row["step"] <= self.step]
        partial = path.with_name(path.name + ".partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *map(_cells, self.rows)])
        os.replace(partial, path)
        return path.open("a", newline="", encoding="utf-8")

    def log(self, amount: int, **values) -> None:
        """Writes a row of metrics.csv for this step and shows it; `amount` is the work in units since the last row."""
        stats = devices.backend_for(self.device).memory_stats(self.device.index)
        # while a step is looked into, tracemalloc counts arrays alone, not the process as in the other rows
        traced = self._looking is not None and stats.get("source") == "tracemalloc"
        memory = math.nan if traced else stats["peak"] / 2**20
        self._skip()
        amount *= (self._steps - self._watched) / self._steps if self._steps else 1
        speed = amount / max(time.perf_counter() - self._mark, 1e-9) if amount else math.nan
        row = dict.fromkeys(COLUMNS, math.nan) | values
        row |= {"step": self.step, "per_second": speed, "memory_mib": memory}
        if not math.isfinite(row["loss"]):
            raise UserError(
                f"[train] the loss is {row['loss']} at step {self.step}: start again with a smaller --lr or --clip"
                + f" (the checkpoint of step {self._on_disk} is kept)" * bool(self._on_disk)
            )
        self.rows.append(row)
        with self._writing(self.folder / "metrics.csv"):
            csv.writer(self._metrics).writerow(_cells(row))
            self._metrics.flush()
        held = next((row["held_out"] for row in reversed(self.rows) if not math.isnan(row["held_out"])), None)
        text = f"loss {row['loss']:.3f}, {speed:,.0f} {self.unit}/s"
        text += "" if traced else f", {memory:,.0f} MiB"
        self._bar.set_postfix_str(text + (f", held out {held:.3f}" if held is not None else ""), refresh=False)
        self._mark, self._steps, self._watched = time.perf_counter(), 0, 0

    def _reset_peak(self) -> None:
        """What was taken to look into a step does not count in the memory column."""
        devices.backend_for(self.device).reset_peak(self.device.index)

    @contextlib.contextmanager
    def paused(self):
        """Around what is not training: it does not count in the speed column."""
        began = time.perf_counter()
        yield
        if self._looking is None:
            self._mark += time.perf_counter() - began

    def _skip(self) -> None:
        """Takes what has passed of a step that is looked into out of the speed column."""
        if self._looking is not None:
            now = time.perf_counter()
            self._mark += now - self._looking
            self._looking = now

    # ---- the loop ----

    def __enter__(self):
        self._ctrl_c = CtrlC().__enter__()
        self._bar = tqdm(
            total=self.settings.steps, initial=self.step, desc=self.program, dynamic_ncols=True,
            mininterval=0.2 if sys.stderr.isatty() else 10,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {n}/{total} [{elapsed}, {remaining} left{postfix}]",
        )  # fmt: skip
        return self

    def __exit__(self, kind, *exc):
        if self._recording is not None:
            self._recording.close()
        self._bar.close()
        self._metrics.close()
        self._ctrl_c.__exit__(kind, *exc)
        if self._recording is not None and (kind is None or issubclass(kind, Exception)):
            self._report()

    def _report(self):
        """Writes what was recorded and the page that shows it."""
        from ..look import report

        path = self.folder / "report.html"
        with self._writing(path):
            self._recording.save(self.seconds)
            report(self.folder).save(path)
        print(f"the report of the run is {path}")

    def steps(self):
        """The steps still to do, from 1; after Ctrl-C one more, so that `due` is true for it and it is saved."""
        self._mark, self.stopped = time.perf_counter(), 0
        while self.step < self.settings.steps and not self.stopped:
            self.stopped = self._ctrl_c.signal
            self.step += 1
            self._steps += 1
            if self._recording is None or not self._recording.watched(self.step):
                yield self.step
            else:
                self._watched += 1
                self._looking = time.perf_counter()
                self._recording.begin(self.step)
                yield self.step
                self._recording.end()
                self._reset_peak()
                self._skip()
                self._looking = None
            self._bar.update()
        self.stopped = self.stopped or self._ctrl_c.signal

    def due(self, every: int) -> bool:
        """Whether this step is one in `every`, or the last of this process."""
        return self.step % every == 0 or self.step == self.settings.steps or bool(self.stopped)

    # ---- the end ----

    def farewell(self) -> int:
        """Says how to go on after Ctrl-C; returns the exit status."""
        command = f"tinytorch-gpu train {self.program} --resume --out {self.folder}"
        print(f"stopped at step {self.step} of {self.settings.steps}, saved; continue with: {command}")
        return 128 + self.stopped

    def draw(self, ylabel: str, held_out: str | None = None) -> None:
        """Prints the loss curve and writes curve.png; `held_out` names the points of that column, in the same unit."""
        if not self.rows:
            return
        from ..look.terminal import Paper  # only now: the views are more modules than training needs
        from .curve import loss_chart

        chart = loss_chart(self.rows, ylabel, held_out)
        for line in chart.lines(Paper(sys.stdout)):
            print(line)
        path = self.folder / "curve.png"
        try:
            drawn = chart.drawing().png()
        except ImportError:
            wrote, note = "", " (curve.png needs matplotlib: pip install matplotlib)"
        else:
            wrote, note = ", curve.png", ""
            with self._writing(path):
                path.write_bytes(drawn)
        print(f"{self.folder}: {CHECKPOINT}, metrics.csv{wrote}{note}")


def numbered(program: str) -> list[tuple[int, Path]]:
    """(number, folder) of the runs/<program>-<number> there are, in order."""
    found = ((path.name.removeprefix(f"{program}-"), path) for path in RUNS.glob(f"{program}-*"))
    return sorted((int(number), path) for number, path in found if number.isdecimal())


def last_run(program: str) -> Path:
    """The newest numbered folder with a checkpoint. Raises UserError where there is none."""
    for _, path in reversed(numbered(program)):
        if (path / CHECKPOINT).exists():
            return path
    raise UserError(
        f"[resume] {RUNS.resolve()} has no {program} run with a checkpoint: name its folder with --out, "
        "or start a run without --resume"
    )


def new_folder(program: str) -> Path:
    """Makes the next numbered folder; of two processes that start at once, each gets its own."""
    while True:
        path = RUNS / f"{program}-{max((number for number, _ in numbered(program)), default=0) + 1}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if not path.exists():  # `runs` itself is a file
                raise
        else:
            return path


def warmup_cosine(step: int, warmup: int, steps: int) -> float:
    """The share of the highest learning rate after `step` of `steps`: a line up, then a cosine down to nothing."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup)))


def _cells(row: dict) -> list[str]:
    """A row as text; 9 digits tell any two float32 values apart."""
    return ["" if math.isnan(row[name]) else f"{row[name]:.9g}" for name in COLUMNS]


def _row(cells: list[str]) -> dict | None:
    """A line of metrics.csv as a row; None for the header and for what a killed process left half-written."""
    if len(cells) != len(COLUMNS) or not cells[0].isdecimal():
        return None
    try:
        return {name: float(cell) if cell else math.nan for name, cell in zip(COLUMNS, cells, strict=True)}
    except ValueError:
        return None
