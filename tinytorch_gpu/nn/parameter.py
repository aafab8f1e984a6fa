"""Tensors that a Module finds by their class: parameters and buffers."""
from __future__ import annotations

from .. import ops
from ..tensor import Tensor, _fill

__all__ = ["Parameter", "Buffer"]


class Parameter(Tensor):
    """A leaf that a Module counts among its parameters when assigned to it; shares `data`'s memory.

    As torch.nn.Parameter. Raises: TypeError when `data` is no Tensor.
    """

    def __init__(self, data=None, requires_grad: bool = True):
        _take(self, "Parameter", data)
        self.requires_grad = requires_grad

    def __repr__(self):
        return "Parameter containing:\n" + super().__repr__()


class Buffer(Tensor):
    """A tensor that a Module registers as a buffer when assigned to it; shares `data`'s memory. As torch.nn.Buffer."""

    def __init__(self, data=None, *, persistent: bool = True):
        _take(self, "Buffer", data)
        self.persistent = persistent


def _take(self, name, data):
    if data is None:
        data = ops.empty(0)
    if not isinstance(data, Tensor):
        raise TypeError(f"[{name}] data must be a Tensor, got {type(data).__name__}: convert it with tensor()")
    _fill(self, data._array)
