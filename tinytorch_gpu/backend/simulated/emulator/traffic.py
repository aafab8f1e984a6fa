"""`traffic`: sectors of global memory and bank conflicts of shared memory, for each line of a kernel."""

from __future__ import annotations

import dataclasses

from .faults import RawTraffic, places
from .module import Function

INSTRUCTIONS = 4096


@dataclasses.dataclass
class LineTraffic:
    """What one line of a .cu file asks of memory, summed over the launch.

    `requests` are made by whole warps; `transfers` are 32-byte sectors of global memory, or passes over the 32 banks
    of shared memory; `least` is how few could carry the same bytes. `transfers == least` is the best there is.
    """

    file: str
    line: int
    space: str  # "global" or "shared"
    write: bool
    requests: int = 0
    transfers: int = 0
    least: int = 0


def traffic(fn: Function, grid, block, args, shared_mem: int = 0) -> list[LineTraffic]:
    """Runs a kernel of the check build once and counts its memory traffic by line, in the order of the lines.

    Caches are not simulated: a sector that two requests share counts twice. Raises: KernelFault, ValueError.
    """
    if not fn.module.check:
        raise ValueError(f"[{fn.name}] traffic needs the check build: Module(..., check=True)")
    raws = (RawTraffic * INSTRUCTIONS)()
    fn.launch(grid, block, args, shared_mem, traffic=raws)
    rows = [raw for raw in raws if raw.requests]
    found: dict[tuple, LineTraffic] = {}
    for raw, frames in zip(rows, places(fn.module.path, [raw.pc for raw in rows])):
        file, line = frames[0] if frames else ("", 0)
        key = (file, line, "shared" if raw.shared else "global", bool(raw.write))
        row = found.setdefault(key, LineTraffic(*key))
        row.requests += raw.requests
        row.transfers += raw.transfers
        row.least += raw.least
    return [found[key] for key in sorted(found)]
