"""How an operator's public function reaches `ops.*`, the package's top level and Tensor's methods."""
from __future__ import annotations

import sys

from ..autograd.casting import autocasting
from ..autograd.operator import inplace as write_inplace
from ..backend.out_of_memory import retried
from ..tensor import attach

__all__ = ["public", "PUBLIC", "INPLACE"]

PUBLIC: dict[str, object] = {}  # name -> function, in `ops`, at the top level unless functional

ALLOCATE = {"tinytorch_gpu.ops.creation", "tinytorch_gpu.ops.data"}  # their functions make arrays without an operator
INPLACE = {"add": "__iadd__", "sub": "__isub__", "mul": "__imul__", "div": "__itruediv__", "pow": "__ipow__",
           "remainder": "__imod__", "floor_divide": "__ifloordiv__", "bitwise_and": "__iand__", "bitwise_or": "__ior__",
           "bitwise_xor": "__ixor__"}


def _attach_inplace(f):
    name = f.__name__ + "_"

    def method(self, *args, **kwargs):
        return write_inplace(name, self, lambda: f(self, *args, **kwargs))

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"`{f.__name__}`, written into this tensor; returns it. As torch.Tensor.{name}."
    attach([name, INPLACE[f.__name__]] if f.__name__ in INPLACE else name)(method)


def public(function=None, *, method=None, functional=False, inplace=False, autocast=None):
    """Decorator: the function becomes `ops.<name>`.

    `method`: True for a Tensor method of the same name, or a list of names (`["__add__", "add"]`).
    `inplace`: Tensor also gets `<name>_`, which writes the result into the tensor.
    `functional`: it lives in nn.functional and not at the top level, as in PyTorch.
    `autocast`: the rule for a function of several operators; one of a single operator has it on its class.
    """
    def put(f):
        if autocast is not None:
            f = autocasting(f, autocast)
        if f.__module__ in ALLOCATE:
            f = retried(f)
        PUBLIC[f.__name__] = f
        f._functional = functional
        setattr(sys.modules["tinytorch_gpu.ops"], f.__name__, f)
        if method is True:
            attach(f.__name__)(f)
        elif method:
            attach(method)(f)
        if inplace:
            _attach_inplace(f)
        return f

    return put if function is None else put(function)
