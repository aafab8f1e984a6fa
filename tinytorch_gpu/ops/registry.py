"""How an operator's public function reaches `ops.*`, the package's top level and Tensor's methods."""
from __future__ import annotations

import sys

from ..tensor import attach

__all__ = ["public", "PUBLIC"]

PUBLIC: dict[str, object] = {}  # name -> function, in `ops`, at the top level unless functional


def public(function=None, *, method=None, functional=False):
    """Decorator: the function becomes `ops.<name>`.

    `method`: True for a Tensor method of the same name, or a list of names (`["__add__", "add"]`).
    `functional`: it lives in nn.functional and not at the top level, as in PyTorch.
    """
    def put(f):
        PUBLIC[f.__name__] = f
        f._functional = functional
        setattr(sys.modules["tinytorch_gpu.ops"], f.__name__, f)
        if method is True:
            attach(f.__name__)(f)
        elif method:
            attach(method)(f)
        return f

    return put if function is None else put(function)
