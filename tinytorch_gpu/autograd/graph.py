"""What concerns the recorded graph: hooks on saved values. As torch.autograd.graph."""
from __future__ import annotations

from ..backend.device import device
from ..ops.foundation import move
from ..tensor import make
from .modes import saved_tensors_hooks
from .node import Node

__all__ = ["Node", "saved_tensors_hooks", "save_on_cpu"]


class save_on_cpu(saved_tensors_hooks):
    """Inside, values saved for backward wait in host memory. As torch.autograd.graph.save_on_cpu."""

    def __init__(self, pin_memory=False, device_type=None):
        if pin_memory:
            raise NotImplementedError("[save_on_cpu] pin_memory=True is not there: host memory is pageable")

        def pack(tensor):
            return tensor.device, move(tensor._array, device("cpu"))

        def unpack(packed):
            where, array = packed
            return make(move(array, where))

        super().__init__(pack, unpack)
