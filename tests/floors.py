"""What of the lower floors a view may replace while it looks, and must put back."""
from __future__ import annotations

from tinytorch_gpu import nn
from tinytorch_gpu.autograd import engine, operator
from tinytorch_gpu.autograd.function import Function
from tinytorch_gpu.autograd.operator import Operator
from tinytorch_gpu.backend import kernel as kernels
from tinytorch_gpu.look import spans
from tinytorch_gpu.nn.call import Callable
from tinytorch_gpu.ops import registry
from tinytorch_gpu.optim.optimizer import Optimizer


def family(cls):
    yield cls
    for one in cls.__subclasses__():
        yield from family(one)


def floors():
    """Every object of the lower floors that listening may replace, by where it lies."""
    found = {}
    for base, names in ((Operator, ("apply", "inplace", "__init_subclass__")), (Function, ("apply",)),
                        (Optimizer, ("step", "__init_subclass__")), (nn.Module, ("__call__", "forward"))):
        for cls in dict.fromkeys(family(base)):
            found.update({(cls, n): vars(cls).get(n) for n in (*names, "__call__")})
    for owner in (engine, operator, registry, Callable, kernels.Kernel, Function):
        found.update({(owner, n): v for n, v in vars(owner).items()
                      if not n.startswith("__") or n in ("__call__", "__init_subclass__")})
    return found


def changed(before):
    """The places whose object is another one than before, those of what listens among them."""
    after = floors()
    return [k for k in before if after.get(k) is not before[k]] + list(spans._listeners) + spans._replaced._all
