"""NVTX ranges for NVIDIA's profilers: operators, backward nodes, modules, optimizer steps, kernels by their names."""
from __future__ import annotations

import logging
import os
import sys
import threading

from .. import spans

log = logging.getLogger("tinytorch_gpu")

__all__ = ["nvtx"]

DOMAIN = "tinytorch_gpu"
# kind of span -> (category, colour)
KINDS = {"operator": ("operator", "blue"), "inplace": ("operator", "blue"), "pass": ("backward", "orange"),
         "backward": ("backward", "red"), "leaf": ("backward", "orange"), "module": ("module", "purple"),
         "step": ("optimizer", "green"), "kernel": ("kernel", "yellow"), "again": ("checkpoint", "cyan")}


class nvtx:
    """Ranges of the domain "tinytorch_gpu" while the block is open, for Nsight Systems and Nsight Compute.

        with look.nvtx():
            step()  # under: nsys profile python train.py

    Operators, backward nodes ("Linear backward"), modules ("1.up Linear"), optimizer steps ("AdamW.step") and kernels,
    in all threads, nested as they run. Blocks nest: there is one range for each. When the package is imported a block
    is opened for the whole program where a profiler that reads ranges has started it, or TINYTORCH_NVTX=1 asks;
    TINYTORCH_NVTX=0 leaves it.

    Raises: ImportError without the `nvtx` package, which macOS lacks.
    """

    _lock = threading.Lock()
    _open = 0
    _ranges: _Ranges | None = None

    def __enter__(self):
        with nvtx._lock:
            if nvtx._open == 0:
                ranges = _Ranges(_domain())
                spans.listen(ranges)
                nvtx._ranges = ranges
            nvtx._open += 1
        return self

    def __exit__(self, *exc):
        with nvtx._lock:
            nvtx._open -= 1
            if nvtx._open == 0:
                ranges, nvtx._ranges = nvtx._ranges, None
                spans.leave(ranges)

    @staticmethod
    def from_environment() -> None:
        """Open a block for the whole program if TINYTORCH_NVTX=1, or if it is not set and a profiler is there.

        A profiler tells the NVTX library of itself by NVTX_INJECTION64_PATH (NVIDIA's guide to CUPTI for Python).
        Raises: ValueError for other than 0 or 1, ImportError for 1 without the `nvtx` package.
        """
        wish = os.environ.get("TINYTORCH_NVTX", "").strip()
        if wish not in ("", "0", "1"):
            raise ValueError(f"[nvtx] TINYTORCH_NVTX must be 0 or 1, got {wish!r}")
        if wish == "1":
            nvtx().__enter__()
        elif not wish and os.environ.get("NVTX_INJECTION64_PATH"):
            try:
                nvtx().__enter__()
            except ImportError as e:  # nobody asked us
                log.warning("%s", e)


def _domain():
    try:
        import nvtx as package
    except ImportError as e:
        why = ("there is no nvtx package for macOS, and no profiler there that would show ranges"
               if sys.platform == "darwin" else "install it with pip install nvtx")
        raise ImportError(f"[nvtx] the nvtx package is not installed: {why}, or leave out look.nvtx() and "
                          "TINYTORCH_NVTX") from e
    return package.get_domain(DOMAIN)


class _Ranges(spans.Listener):
    """Pushes a range at each begin and pops it at the end, in the same thread. Attributes are made once for a name."""

    def __init__(self, domain):
        self._push, self._pop, self._domain = domain.push_range, domain.pop_range, domain
        self._attributes: dict[tuple, object] = {}

    def begin(self, span):
        key = (span.kind, span.name, span.place) if span.kind == "module" else (span.kind, span.name)
        try:
            attributes = self._attributes[key]
        except KeyError:
            attributes = self._attributes[key] = self._made(span)
        self._push(attributes)

    def end(self, span, mark):
        self._pop()

    def _made(self, span):
        category, color = KINDS.get(span.kind, (span.kind, "white"))
        text = span.name
        if span.kind == "backward":
            text += " backward"
        elif span.kind == "again":
            text += " again"
        elif span.kind == "module" and span.place[0]:
            text = f"{span.place[0]} {text}"
        return self._domain.get_event_attributes(message=text, color=color,
                                                 category=self._domain.get_category_id(category))
