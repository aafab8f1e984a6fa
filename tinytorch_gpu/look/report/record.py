"""What a training run notes for its report: graph, memory, profile of its first steps, gradients of some of all."""
from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path

from ..backward_calls import BackwardCalls
from ..cost.ceiling import ceiling
from ..gradients.gradients import gradients
from ..graph.graph import graph
from ..memory.memory import memory
from ..profile.profile import Profile, profile
from ..recorder import record
from ..view import strict_json

__all__ = ["FILE", "FORMAT", "Recording", "read"]

FILE = "report.json"
FORMAT = "tinytorch_gpu report 1"
WATCHED = 60  # steps, evenly spaced over the run, whose gradients are measured
PROFILED = 3  # steps
WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def read(path: Path) -> dict:
    """The contents of a report.json. Raises: ValueError for another file, OSError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:  # bytes that are no text, too
        raise ValueError(f"[report] {path} is damaged ({e}): remove it, the page is made from the other "
                         "files") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"[report] {path} has not the format {FORMAT!r}: remove it, the page is made from the other "
                         "files")
    return _numbers(found)


def _numbers(value):
    """`value` with the numbers that JSON lacks."""
    if isinstance(value, dict):
        return {k: _numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    return WORDS.get(value, value) if isinstance(value, str) else value


class Recording:
    """Looks into the training steps of `model` and `optimizer` and keeps what it saw in `folder`/report.json.

        recording = Recording(folder, model, optimizer, steps=1000, about={"program": "mine"})
        for step in range(1, 1001):
            recording.begin(step)
            ...  # one training step
            recording.end()
        recording.close()
        recording.save()
        look.report(folder).save("report.html")

    The first step's graph, the memory of the second, the profile of three more, and of 60 steps over the run the norms
    of gradients and updates: the steps from there on that are not among these run as ever. Nothing changes a result.
    `about` is put beside it: "program", "environment", "settings" (dictionaries of texts and numbers), "units" (column
    of metrics.csv: what it is measured in). `done` are the steps that an earlier process did: its file is continued.

    Raises: TypeError for another model, optimizer or `about`; ValueError where there is no such folder, for numbers of
    steps that are none, an optimizer of other parameters and a damaged file.
    """

    def __init__(self, folder, model, optimizer, steps: int, about: dict, done: int = 0):
        if not Path(folder).is_dir():
            raise ValueError(f"[Recording] {folder} is no folder: make it before")
        for name, value, least in (("steps", steps, 1), ("done", done, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"[Recording] {name} must be a whole number of at least {least}, got {value!r}")
        if not isinstance(about, dict):
            raise TypeError(f"[Recording] about must be a dictionary, got {type(about).__name__}")
        self.path = Path(folder) / FILE
        self.model, self.optimizer, self.steps, self.done = model, optimizer, steps, done
        self.data = read(self.path) if done and self.path.is_file() else {}
        self.data |= {"format": FORMAT, **about}
        self._earlier = self.data.pop("gradients", None)
        self._view = gradients(model, optimizer)
        self._view._watch.rows.clear()  # what .grad held before
        self._measured: list[int] = []  # steps whose gradients were measured
        self._profile: Profile | None = None
        self._step = self._profile_from = done
        self._open: contextlib.ExitStack | None = None
        if "profile" not in self.data:  # measuring it takes memory, which there may be none of between steps
            ceiling(next(model.parameters()).device)

    # steps

    def watched(self, step: int) -> bool:
        """Whether something is measured in a step, which then takes longer than others."""
        return any((self._graph_now(step), self._memory_now(step), self._profile_now(step), self._gradients_now(step)))

    def _graph_now(self, step) -> bool:
        return step == self.done + 1 and "graph" not in self.data

    def _memory_now(self, step) -> bool:
        return step == self.done + 2 and "memory" not in self.data

    def _profile_now(self, step) -> bool:
        return self.done + 3 <= step < self.done + 3 + PROFILED and "profile" not in self.data

    def _gradients_now(self, step) -> bool:
        if self._memory_now(step) or self._profile_now(step):
            return False  # its copies of the weights would be seen there
        each = max(2, math.ceil(self.steps / WATCHED))  # others in between tell how fast the run is
        return (step - 1) % each == 0

    def begin(self, step: int) -> None:
        """Before a step; the one before it ends, if it has not."""
        self.end()
        self._step = step
        stack = self._open = contextlib.ExitStack()
        if self._gradients_now(step):
            watch = self._view._watch
            before = len(watch.rows)
            stack.callback(lambda: self._measured.extend([step] * (len(watch.rows) - before)))
            stack.callback(watch.close)
            watch.open()
        if self._graph_now(step):
            stack.enter_context(record())
            stack.enter_context(BackwardCalls(after=self._graph))
        elif self._memory_now(step):
            view = memory(self.model, self.optimizer)
            stack.callback(lambda: self.data.update(memory=view.data, memory_step=step))
            stack.enter_context(view)
        elif self._profile_now(step) and self._profile is None:
            self._profile = profile(self.model)
            self._profile.__enter__()
            self._profile_from = step

    def end(self) -> None:
        """After a step; does nothing where none is open."""
        stack, self._open = self._open, None
        if stack is not None:
            stack.close()
            if self._profile is not None and not self._profile_now(self._step + 1):
                self._end_profile()

    def close(self) -> None:
        """After the last step, or in the middle of one: nothing is hooked any more."""
        self.end()
        self._end_profile()

    def _end_profile(self) -> None:
        view, self._profile = self._profile, None
        if view is not None:
            view.__exit__(None, None, None)
            self.data |= {"profile": view.data, "profile_steps": [self._profile_from, self._step]}

    def _graph(self, tensors, what) -> None:
        if "graph" not in self.data:
            self.data["graph"] = graph(list(tensors), self.model).data
            self.data["graph_step"] = self.done + 1

    def _gradients(self) -> dict:
        """By layer, those of an earlier process before those of this one."""
        d = self._view.data
        keys = ("signal", "norm", "ratio")
        found = {"model": d["model"], "steps": list(self._measured), "total": list(d["total"]), "relus": d["relus"],
                 "skipped": [self._measured[k - 1] for k in d["skipped"]],
                 "layers": [{"name": x["name"], "class": x["class"], **{k: list(x[k]) for k in keys}}
                            for x in d["layers"]]}
        old = self._earlier
        if old is None:
            return found
        kept = [k for k, step in enumerate(old["steps"]) if step <= self.done]
        none = [None] * len(kept)
        before = {x["name"]: x for x in old["layers"]}
        found["steps"] = [old["steps"][k] for k in kept] + found["steps"]
        found["total"] = [old["total"][k] for k in kept] + found["total"]
        found["skipped"] = [step for step in old["skipped"] if step <= self.done] + found["skipped"]
        for x in found["layers"]:
            for key in keys:
                x[key] = ([before[x["name"]][key][k] for k in kept] if x["name"] in before else none) + x[key]
        if not d["steps"]:  # no call told this process the layers' order
            order = list(before)
            found["layers"].sort(key=lambda x: order.index(x["name"]) if x["name"] in before else len(order))
        return found

    # the file

    def save(self, seconds: float | None = None) -> None:
        """Write the file in one piece; `seconds`: how long the run has trained. Raises: OSError."""
        self.data["seconds"] = seconds
        text = strict_json({**self.data, "gradients": self._gradients()}, separators=(",", ":"))
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_text(text + "\n", encoding="utf-8", newline="\n")
        os.replace(partial, self.path)
