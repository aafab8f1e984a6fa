"""What anomaly mode says: the operator, the shapes, the user's line."""
from __future__ import annotations

import os
import traceback

from ..backend import dtypes
from ..backend.device import backend_of, xp_of
from ..tensor import Tensor
from . import modes
from .operands import wide

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def user_stack():
    """The call stack without this package's own frames, the innermost call last."""
    frames = traceback.extract_stack()
    outside = [f for f in frames if not f.filename.startswith(_PACKAGE)]
    return outside or frames


class Trace:
    """Where an operator was called: kept under anomaly mode only."""

    __slots__ = ("line", "stack", "inputs", "output_has_nan")

    def __init__(self, line, stack, inputs, output_has_nan):
        self.line, self.stack, self.inputs, self.output_has_nan = line, stack, inputs, output_has_nan


def trace_of(node, args, outs) -> Trace:
    """Where and with what an operator was called; reads its outputs for NaN when anomaly mode checks."""
    stack = user_stack()
    shapes = tuple(
        f"{dtypes.of(a._array).name}{list(a.shape)}" if isinstance(a, Tensor) else repr(a)[:40] for a in args
    )
    bad = False
    if modes.anomaly == "check":
        for o in outs:
            if dtypes.is_float(o.dtype):
                xp = backend_of(o).xp
                bad = bad or bool(xp.isnan(wide(o)).any())
    line = f"{stack[-1].filename}:{stack[-1].lineno} ({stack[-1].line})" if stack else "an unknown line"
    return Trace(line, stack, shapes, bad)


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
