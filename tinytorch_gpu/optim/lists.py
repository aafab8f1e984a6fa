"""An update by one kernel launch for all parameters of a dtype.

The tables of addresses are kept (backend/kernel_multi_tensor.py). Parameters and state stay where they are; gradients
do too after `zero_grad(set_to_none=False)`, and then nothing at all is uploaded: a step that is captured into a CUDA
graph should keep its gradients like that. With `set_to_none=True` they get new memory, mostly that of the step before
from the pool; other addresses are one small upload, for which the host does not wait.
"""
from __future__ import annotations

import numpy as np

from ..backend import kernel_multi_tensor as multi
from ..backend.device import xp_of

__all__ = ["Lists"]


class Lists:
    """Parameters of one dtype on one device, whatever their slabs, as lists for the kernels."""

    def __init__(self, slots):
        self.slots = slots
        self.arrays = [s.param._array for s in slots]
        self.names = slots[0].slab.names
        self.tables = multi.TensorLists(self.arrays, *([s.arrays[name] for s in slots] for name in self.names))
        self.steps = multi.addresses([s.step for s in slots])
        self.corrections = xp_of(self.arrays[0]).empty((len(slots), 2), dtype=np.float32)

    def holds(self):
        """Whether the parameters still lie where they did."""
        return all([slot.param._array is array for slot, array in zip(self.slots, self.arrays, strict=True)])

    def run(self, update, scale=None):
        """Call `update(grads)` with the lists of gradients, which it divides by `scale` where there is one."""
        held = [slot.param._grad._array for slot in self.slots]
        copies = {i: g.copy() for i, g in enumerate(held) if not g.flags.c_contiguous}  # only users make such ones
        update(multi.TensorLists([copies.get(i, g) for i, g in enumerate(held)] if copies else held))
        if scale is not None:
            for i, copy in copies.items():
                held[i][...] = copy
        for slot in self.slots:
            slot.param._bump()
            if scale is not None:
                slot.param._grad._bump()
