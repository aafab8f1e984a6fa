"""Floor 4: a program looked into. Every function returns a view: print(), save("x.html"), data, a notebook's cell.

    with look.record():
        loss = model(x).sum()
        loss.backward()
    look.graph(loss).print()

Nothing below imports this package, and nothing of it stays behind: recording ends with its block.
"""
from __future__ import annotations

from .checkpointing import Checkpointing, checkpointing
from .explain import Explanation, explain
from .fusion import Fusion, fusion
from .gradients import Gradients, gradients
from .graph import Graph, graph
from .growth import Growth, growth
from .memory import Memory, memory
from .nan import Nan, nan
from .nvtx import nvtx
from .overhead import Overhead, overhead
from .plan import Plan, plan
from .plan_config import PlanConfig
from .precision import Precision, precision
from .profile import Profile, profile
from .recorder import record
from .report import Report, report
from .report_record import Recording
from .step import Step, step
from .tensor import TensorView, tensor
from .trace import Trace, trace
from .view import View

__all__ = [
    "Checkpointing", "Explanation", "Fusion", "Gradients", "Graph", "Growth", "Memory", "Nan", "Overhead", "Plan",
    "PlanConfig", "Precision", "Profile", "Recording", "Report", "Step", "TensorView", "Trace", "View", "checkpointing",
    "explain", "fusion", "gradients", "graph", "growth", "memory", "nan", "nvtx", "overhead", "plan", "precision",
    "profile", "record", "report", "step", "tensor", "trace",
]
