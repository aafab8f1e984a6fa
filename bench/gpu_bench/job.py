"""What a section is given: where to run, how long, how large, and where its rows go."""
from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from .rows import Rows

FACTS = ("s", "nats")  # units of figures that the simulated device has as well


@dataclass
class Job:
    device: str  # "cuda" or "sim"
    seconds: float  # after which a section begins nothing new
    quick: bool
    rows: Rows
    out: Path
    section: str = ""
    started: float = field(default_factory=time.perf_counter)

    @property
    def sim(self) -> bool:
        return self.device == "sim"

    def left(self) -> float:
        return self.seconds - (time.perf_counter() - self.started)

    def over(self, what="") -> bool:
        """Whether the time is used up; says what is left out."""
        if self.left() > 0:
            return False
        print(f"  time is over: {what or 'the rest'} left out", flush=True)
        return True

    def add(self, op, by, dtype, shape, direction, values, unit, **more) -> dict:
        """A row, printed and kept. One of the simulated device has no time or rate: it would be read as a GPU's."""
        if self.sim and unit not in FACTS:
            more = {k: v for k, v in more.items() if k not in ("GB/s", "share of copy", "peak MiB")}
            more["samples"], values = len(values), []
        row = self.rows.add(self.section, op, by, dtype, shape, direction, values, unit, **more)
        figure = f"{row['p50']} ({row['p20']} to {row['p80']}) {unit}" if values else more.get("state", "ran")
        note = f", {more['GB/s']} GB/s" if "GB/s" in more else ""
        print("  " + " ".join(str(v) for v in (op, direction, dtype, shape, by) if v) + f": {figure}{note}", flush=True)
        return row
