"""`utils.data` and `utils.checkpoint`, imported when they are named first."""
from __future__ import annotations

import importlib

__all__ = ["checkpoint", "data"]


def __getattr__(name):
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}: there are {', '.join(__all__)}")


def __dir__():
    return __all__
