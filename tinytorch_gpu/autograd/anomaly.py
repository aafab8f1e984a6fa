"""What anomaly mode says: the operator, the shapes, the user's line."""
from __future__ import annotations

import os
import traceback

from ..backend import dtypes
from ..backend.device import xp_of
from ..tensor import Tensor
from .operator import wide

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def user_stack():
    """The call stack without this package's own frames, the innermost call last."""
    frames = traceback.extract_stack()
    outside = [f for f in frames if not f.filename.startswith(_PACKAGE)]
    return outside or frames


def describe(node) -> str:
    """A sentence with the operator, its inputs and the user's line."""
    trace = node.trace
    return f"{node.name()}({', '.join(trace.inputs)}) was called at {trace.line}"


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
