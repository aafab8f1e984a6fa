"""What anomaly mode says: the operator, the shapes, the user's line."""
from __future__ import annotations

import os
import sys
import traceback

from ..backend import dtypes
from ..backend.device import backend_of, xp_of
from ..tensor import Tensor
from . import modes
from .operands import wide

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_EXAMPLES = os.path.join(_PACKAGE, "examples") + os.sep  # programs, whose lines a user wants to see


def is_package(file) -> bool:
    """Whether a file's lines are this package's own, not those of a program."""
    return file.startswith(_PACKAGE) and not file.startswith(_EXAMPLES)


def user_frames(innermost=False) -> list[tuple[str, int, str]]:
    """(file, line, function) of the calls that led here, without this package's own, the innermost last (or alone)."""
    found, every = [], []
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        every.append((code.co_filename, frame.f_lineno, code.co_name))
        if not is_package(code.co_filename):
            if innermost:
                return every[-1:]
            found.append(every[-1])
        frame = frame.f_back
    return (found or every)[::-1]


class Trace:
    """Where an operator was called: kept under anomaly mode and look.record() only."""

    __slots__ = ("frames", "inputs", "output_has_nan")

    def __init__(self, frames, inputs, output_has_nan):
        self.frames, self.inputs, self.output_has_nan = frames, inputs, output_has_nan

    @property
    def stack(self):
        """The frames with their source lines, which are read now."""
        return traceback.StackSummary.from_list([(*frame, None) for frame in self.frames])

    @property
    def line(self) -> str:
        """The user's line: file, number and source."""
        last = self.stack[-1]
        return f"{last.filename}:{last.lineno} ({last.line})"


def trace_of(node, args, outs) -> Trace | None:
    """Where and with what an operator was called; reads its outputs for NaN when anomaly mode checks. None where a
    recorder only wants to be told."""
    if modes.anomaly == "tell" and modes.recorder is not None:
        modes.recorder(node, args, outs)
        return None
    frames = user_frames(innermost=modes.anomaly == "record")
    shapes = tuple(
        f"{dtypes.of(a._array).name}{list(a.shape)}" if isinstance(a, Tensor) else repr(a)[:40] for a in args
    )
    bad = False
    if modes.anomaly == "check":
        for o in outs:
            if dtypes.is_float(o.dtype):
                xp = backend_of(o).xp
                bad = bad or bool(xp.isnan(wide(o)).any())
    trace = Trace(frames, shapes, bad)
    if modes.recorder is not None:
        modes.recorder(node, args, outs)
    return trace


def describe(node) -> str:
    """A sentence with the operator, its inputs and the user's line."""
    trace = node.trace
    return f"{node.name()}({', '.join(trace.inputs)}) was called at {trace.line}"


def explain(node, error) -> None:
    """Add to an error from a backward which operator it was and, under anomaly mode, where it was called."""
    if node.trace is not None:
        error.add_note(describe(node))
    else:
        error.add_note(f"in the backward of {node.name()}; detect_anomaly() shows the line that made it")


def nan_message(node, i, given) -> str:
    """The message for a backward whose gradient for input `i` has a NaN."""
    sizes = ", ".join(
        "none" if g is None else f"{dtypes.of(_raw(g)).name}{list(_raw(g).shape)}"
        + (" with NaN" if bool(xp_of(_raw(g)).isnan(wide(_raw(g))).any()) else "")
        for g in given
    )
    text = f"[{node.name()}] function returned nan values in its {i}th output (the gradient of input {i}); " \
           f"incoming gradient: {sizes}"
    if node.trace is not None:
        text += f"; {describe(node)}"
        if node.trace.output_has_nan:
            text += "; its forward result had NaN already"
        text += "\nTraceback of the forward call:\n" + "".join(traceback.format_list(node.trace.stack))
    else:
        text += "; the forward ran before anomaly mode was on, so its line is unknown"
    return text


def _raw(g):
    return g._array if isinstance(g, Tensor) else g
