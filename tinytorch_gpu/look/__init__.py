"""Floor 4: a program looked into. Every function returns a view: print(), save("x.html"), data, a notebook's cell.

    with look.record():
        loss = model(x).sum()
        loss.backward()
    look.graph(loss).print()

Nothing below imports this package, and nothing of it stays behind: recording ends with its block.
"""
from __future__ import annotations

from .checkpointing.checkpointing import Checkpointing, checkpointing
from .trace.explain import Explanation, explain
from .fusion.fusion import Fusion, fusion
from .gradients.gradients import Gradients, gradients
from .graph.graph import Graph, graph
from .growth.growth import Growth, growth
from .memory.memory import Memory, memory
from .nan.nan import Nan, nan
from .profile.nvtx import nvtx
from .overhead.overhead import Overhead, overhead
from .plan.plan import Plan, plan
from .plan.config import PlanConfig
from .precision.precision import Precision, precision
from .profile.profile import Profile, profile
from .recorder import record
from .report.report import Report, report
from .report.record import Recording
from .step.step import Step, step
from .tensor.tensor import TensorView, tensor
from .trace.trace import Trace, trace
from .view import View

__all__ = [
    "Checkpointing", "Explanation", "Fusion", "Gradients", "Graph", "Growth", "Memory", "Nan", "Overhead", "Plan",
    "PlanConfig", "Precision", "Profile", "Recording", "Report", "Step", "TensorView", "Trace", "View", "checkpointing",
    "explain", "fusion", "gradients", "graph", "growth", "memory", "nan", "nvtx", "overhead", "plan", "precision",
    "profile", "record", "report", "step", "tensor", "trace",
]
