"""Recording and differentiating: `backward`, `grad`, `Function`, modes, `functional`, `gradcheck`. As torch.autograd.

A table of contents: names load on first use, so that floor 1 (modes, operator, engine, hooks) can be imported
without what is built upon it.
"""
from __future__ import annotations

import importlib
import sys
import types

_HOME = {
    "backward": "engine", "grad": "engine",
    "no_grad": "modes", "enable_grad": "modes", "set_grad_enabled": "modes", "inference_mode": "modes",
    "is_grad_enabled": "modes", "detect_anomaly": "modes", "set_detect_anomaly": "modes",
    "is_anomaly_enabled": "modes", "Function": "function", "gradcheck": "gradcheck", "gradgradcheck": "gradcheck",
    "Operator": "operator", "Pointwise": "pointwise",
}
_MODULES = ("engine", "modes", "node", "operands", "operator", "pointwise", "views", "hooks", "anomaly",
            "function", "functional", "graph")


def __getattr__(name):
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value  # `gradcheck` is a module and a function: the function wins, as in PyTorch
        return value
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"tinytorch_gpu.autograd has no '{name}'")


def __dir__():
    return sorted({*_HOME, *_MODULES})


class _Contents(types.ModuleType):
    """Importing the submodule `gradcheck` must not hide the function of that name."""

    def __setattr__(self, name, value):
        if name not in _HOME or not isinstance(value, types.ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Contents
