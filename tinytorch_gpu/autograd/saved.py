"""A Tensor kept for backward outside an Operator: by `Function` and by checkpointing."""
from __future__ import annotations

from ..backend import dtypes
from ..tensor import INFERENCE, Tensor, make
from .modes import state
from .node import rejoin

__all__ = ["SavedTensor"]


class SavedTensor:
    """The array of a Tensor, its edge, and its version, through the hooks that were active when it was saved."""

    __slots__ = ("array", "edge", "output", "counter", "version", "unpack_hook", "shape", "dtype")

    def __init__(self, tensor, output=None):
        self.output = output  # which output of the saving node it is: its edge would be a reference cycle
        self.edge = None if output is not None else tensor._edge()
        self.counter = tensor._counter()
        if self.counter is INFERENCE:
            raise RuntimeError("[save_for_backward] inference tensors cannot be saved for backward: clone() first")
        self.version = self.counter.value
        self.array, self.unpack_hook = tensor._array, None
        self.shape, self.dtype = tensor.shape, tensor.dtype
        if state.saved_hooks:
            pack, self.unpack_hook = state.saved_hooks[-1]
            hooks, state.saved_hooks = state.saved_hooks, ()
            try:
                self.array = pack(make(self.array))
            finally:
                state.saved_hooks = hooks

    def unpack(self, node=None) -> Tensor:
        """The Tensor, joined to the graph. Raises: RuntimeError when it was changed in place."""
        array = self.array
        if self.unpack_hook is not None:
            array = self.unpack_hook(array)._array
        elif self.counter.value != self.version:
            raise RuntimeError(
                "[save_for_backward] one of the variables needed for gradient computation has been modified by an "
                f"inplace operation: {dtypes.of(array).name} {array.shape} is at version {self.counter.value}; "
                f"expected version {self.version}"
            )
        edge = self.edge if self.output is None else (node, self.output)
        return rejoin(array, edge, None if self.unpack_hook is not None else self.counter)
