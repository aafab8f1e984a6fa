"""What keeping freed blocks saves: a step's blocks taken again, from the pool and fresh from the system."""
from __future__ import annotations

import numpy as np

from ...backend.device import backend_for
from ..measure import seconds

__all__ = ["BLOCKS", "allocation"]

BLOCKS = 64  # that are taken again, the largest ones
PAGE = 4096


def allocation(device, sizes) -> dict | None:
    """Seconds that the largest blocks take, one after the other, each taken and given back; None for no blocks.

    On the CPU each page is touched, since the system clears a page when it is first touched; the pool there is what
    the C library keeps. On a device it is CuPy's pool beside cudaMalloc and cudaFree.
    """
    sizes = sorted((n for n in sizes if n > 0), reverse=True)[:BLOCKS]
    if not sizes:
        return None
    backend = backend_for(device)
    touched = device.type != "cuda"

    def pooled():
        for n in sizes:
            block = backend.xp.empty(n, np.uint8)
            if touched:
                block[::PAGE] = 1

    def fresh():
        for n in sizes:
            block = backend.fresh(n, device.index)
            if touched:
                pages = np.frombuffer(block, np.uint8)
                pages[::PAGE] = 1
                del pages  # a view of the block keeps it

    return {"blocks": len(sizes), "bytes": sum(sizes),
            # the first run, which does not count, leaves the blocks in the pool
            "pooled": min(seconds(pooled, device)), "fresh": min(seconds(fresh, device))}
