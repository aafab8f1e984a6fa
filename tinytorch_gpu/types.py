"""Questions about dtypes that take Tensors and numbers together."""
from __future__ import annotations

from .backend import dtypes
from .tensor import Tensor

__all__ = ["result_type"]


def result_type(tensor1, tensor2):
    """The dtype in which two Tensors or numbers are combined. As torch.result_type.

    Raises: TypeError for other objects.
    """
    return dtypes.result_type(*[x._array if isinstance(x, Tensor) else x for x in (tensor1, tensor2)])
