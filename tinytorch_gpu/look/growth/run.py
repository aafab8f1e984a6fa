"""A model made and measured in many sizes: one axis after the other, the rest where they were put."""
from __future__ import annotations

import inspect
import math
import numbers
import tracemalloc
from collections.abc import Mapping

from ...backend.device import backend_for, resolve
from ...backend.device import device as Device
from ...nn import Module
from ..batch import Run, run_of
from ..measure import memory, meter_of, seconds, spread

__all__ = ["QUANTITIES", "Sweep"]

# name of the figure -> its unit
QUANTITIES = (("parameters", "bytes"), ("activations", "bytes"), ("forward peak", "bytes"), ("step peak", "bytes"),
              ("forward", "seconds"), ("backward", "seconds"))


class Sweep:
    """The arguments of `look.growth`, checked; `run()` measures."""

    def __init__(self, make_model, make_batch, loss, named, axes, at, device, repeats):
        if axes is not None and not isinstance(axes, Mapping):
            raise TypeError(f"[growth] axes must be a dictionary of names and sizes, got {type(axes).__name__}")
        if at is not None and not isinstance(at, Mapping):
            raise TypeError(f"[growth] at must be a dictionary of axes and sizes, got {type(at).__name__}")
        for name in axes or {}:
            if not isinstance(name, str) or not name.isidentifier():
                raise ValueError(f"[growth] an axis is named after a parameter of make_model, got {name!r}")
            if named.get(name) is not None:
                raise ValueError(f"[growth] the sizes of {name} are given twice")
        given = {name: sizes for name, sizes in (named | dict(axes or {})).items() if sizes is not None}
        self.sizes = {name: _sizes(name, sizes) for name, sizes in given.items()}
        if not self.sizes:
            raise ValueError("[growth] there is nothing to vary: give depths=[2, 4, 8], widths=, batches=, sequences= "
                             "or axes={'name': [...]}")
        self.at = {name: sizes[len(sizes) // 2] for name, sizes in self.sizes.items()}
        self.at.update({name: _size(name, size) for name, size in (at or {}).items()})
        self.make_model, self.make_batch, self.loss = make_model, make_batch, loss
        self.model_takes = _taken("make_model", make_model, list(self.at))
        self.batch_takes = _taken("make_batch", make_batch, list(self.at))
        for name in self.at:
            if name not in self.model_takes.values() and name not in self.batch_takes.values():
                raise ValueError(f"[growth] {name} changes nothing: neither make_model nor make_batch has a parameter "
                                 f"'{name}'")
        if not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 0:
            raise ValueError(f"[growth] repeats must be a whole number of at least 0, got {repeats!r}")
        self.repeats = repeats
        self.device = resolve() if device is None else Device(device)
        backend_for(self.device)
        self.model = ""

    def run(self) -> dict:
        """The data of the view, without fits."""
        tracing = tracemalloc.is_tracing()
        axes, measured = [], {}
        for name, sizes in self.sizes.items():
            others = {other: size for other, size in self.at.items() if other != name}
            points = []
            for size in sizes:
                chosen = {other: size if other == name else kept for other, kept in self.at.items()}
                key = tuple(chosen.values())
                if key not in measured:
                    measured[key] = self._measured(chosen)
                points.append(measured[key])
            axes.append({"axis": name, "sizes": sizes, "at": others, "quantities": _quantities(points)})
        meter = meter_of(self.device)
        meter.close()
        notes = [] if not (tracing and self.repeats) else [
            "tracemalloc was on already, so that Python's part of the times is longer than without it"]
        if self.device.type == "sim" and self.repeats:
            notes.append("the times are those of the simulated device, which computes on the CPU: no GPU's")
        return {"view": "growth", "model": self.model, "device": str(self.device), "meter": meter.source,
                "repeats": self.repeats, "axes": axes, "notes": notes}

    def _measured(self, chosen) -> dict:
        try:
            with self.device:
                model = self.make_model(**_arguments(self.model_takes, chosen))
                batch = self.make_batch(**_arguments(self.batch_takes, chosen))
            run = run_of(model, batch, self.loss, "growth")
            self.model = type(model).__name__
            return _figures(run, self.device, self.repeats)
        except Exception as e:
            e.add_note(f"[growth] at {', '.join(f'{name} {size}' for name, size in chosen.items())}")
            raise


def _figures(run: Run, device, repeats) -> dict:
    """The quantities of one model: bytes, and of times what `spread` gives."""
    tensors = [*run.model.parameters(), *run.tensors()]

    def forget():
        for t in tensors:
            if t.is_leaf:
                t.grad = None

    loss = run()  # a first step finds what the model, its kernels and the allocator make once
    if loss.device.type != device.type or device.index not in (None, loss.device.index):
        raise ValueError(f"[growth] measures on {device}, the loss is on {loss.device}: pass device='{loss.device}'")
    loss.backward()
    del loss
    forget()
    found: dict = {"parameters": sum(p.nbytes for p in run.model.parameters())}
    use = memory(run, device, arrays=True)
    found["activations"], found["forward peak"] = use.arrays, use.peak
    del use
    found["step peak"] = memory(lambda: run().backward(), device).peak
    forget()
    if repeats:
        found["forward"] = spread(seconds(run, device, repeats))

        def prepared():
            forget()
            return run()

        found["backward"] = spread(seconds(lambda loss: loss.backward(), device, repeats, prepare=prepared))
        forget()
    return found


def _quantities(points) -> list[dict]:
    rows = []
    for name, unit in QUANTITIES:
        if name not in points[0]:
            continue
        figures = [p[name] for p in points]
        if unit == "bytes":
            rows.append({"name": name, "unit": unit, "figures": figures})
        else:
            rows.append({"name": name, "unit": unit, "figures": [f["median"] for f in figures],
                         "least": [f["least"] for f in figures], "most": [f["most"] for f in figures]})
    return rows


# arguments


def _size(name, size):
    if isinstance(size, bool) or not isinstance(size, numbers.Real) or not 0 < size < math.inf:
        raise ValueError(f"[growth] a size of {name} must be a number above 0, got {size!r}")
    return int(size) if isinstance(size, numbers.Integral) else float(size)  # NumPy's too


def _sizes(name, sizes) -> list:
    try:
        found = sorted({_size(name, size) for size in sizes})
    except TypeError:
        raise TypeError(f"[growth] the sizes of {name} must be a list of numbers, got {type(sizes).__name__}") from None
    if len(found) < 2:
        raise ValueError(f"[growth] the sizes of {name} must be two or more, got {found}: an exponent needs a growth")
    return found


def _taken(what, function, axes) -> dict:
    """{parameter: the axis it is given} of make_model or make_batch."""
    if not callable(function) or isinstance(function, Module):
        raise TypeError(f"[growth] {what} must be a function of the sizes, got {type(function).__name__}")
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return {name: name for name in axes}
    able = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    taken = {p.name: p.name for p in able if p.name in axes}
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_POSITIONAL
              and p.name not in axes]
    if needed and len(axes) == 1 and not taken and len(needed) == 1 and needed[0] in [p.name for p in able]:
        return {needed[0]: axes[0]}
    if needed:
        raise ValueError(f"[growth] {what} has a parameter '{needed[0]}', which is none of the axes {', '.join(axes)}: "
                         f"name it after one, or say at={{'{needed[0]}': ...}}")
    return taken


def _arguments(taken, chosen) -> dict:
    return {parameter: chosen[axis] for parameter, axis in taken.items()}
