"""PyTorch-style automatic differentiation on CuPy arrays, and on NumPy arrays where there is no GPU.

    import tinytorch_gpu as tt

The names are PyTorch's. This file is the table of contents; `nn`, `optim` and the other subpackages load on first use.
"""
from __future__ import annotations

import importlib
import os as _os

from ._version import __version__
from .autograd import engine as _engine, hooks as _hooks  # noqa: F401  (attach Tensor.backward and register_hook)
from .autograd.modes import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from .backend.cublas import get_float32_matmul_precision, set_float32_matmul_precision
from .backend.device import device, get_default_device, set_default_device
from .backend.out_of_memory import OutOfMemoryError
from .backend.dtypes import (
    bfloat16,
    bool_ as bool,  # noqa: A004  (PyTorch's name)
    can_cast,
    complex64,
    complex128,
    dtype,
    finfo,
    float16,
    float32,
    float64,
    get_default_dtype,
    iinfo,
    int8,
    int16,
    int32,
    int64,
    promote_types,
    set_default_dtype,
    uint8,
)
from .tensor import Tensor, attach as _attach
from . import interop as _interop, ops  # noqa: F401  (interop attaches Tensor.__dlpack__)
from .random import Generator, get_rng_state, initial_seed, manual_seed, seed, set_rng_state

half, float, double = float16, float32, float64  # noqa: A001
short, int, long = int16, int32, int64  # noqa: A001
cfloat, cdouble = complex64, complex128
pi, e, inf, nan = 3.141592653589793, 2.718281828459045, float64.np.type("inf").item(), float64.np.type("nan").item()

globals().update({name: f for name, f in ops.PUBLIC.items() if not f._functional})

_SUBPACKAGES = ("nn", "optim", "amp", "utils", "cuda", "autograd", "kernel", "linalg", "testing", "io", "random",
                "look")
_LATE = {
    "save": "io", "load": "io", "from_dlpack": "interop", "result_type": "types", "autocast": "amp",
    "is_autocast_enabled": "amp", "get_autocast_dtype": "amp", "is_autocast_cache_enabled": "amp",
    "clear_autocast_cache": "amp", "Kernel": "kernel", "Operator": "kernel", "custom_vjp": "kernel",
    "use_kernels": "kernel",
}


@_attach("_repr_html_")  # here, above all floors: Tensor's own must not know of look, which loads with the first cell
def _cell(*tensor) -> str:
    """A notebook's cell: the text, and `look.tensor` folded below it."""
    return importlib.import_module(f"{__name__}.look.tensor.tensor").cell(*tensor)  # no variable of ours may name it


def __getattr__(name):
    if name in _SUBPACKAGES:
        try:
            return importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    if name in _LATE:
        return getattr(importlib.import_module(f"{__name__}.{_LATE[name]}"), name)
    raise AttributeError(f"tinytorch_gpu has no '{name}'; what is there is listed in dir(tinytorch_gpu)")


def __dir__():
    return sorted({*globals(), *_SUBPACKAGES, *_LATE})


# ranges for NVIDIA's profilers, where one has started this program or they are asked for; else look is not imported
if (_os.environ.get("TINYTORCH_NVTX", "").strip() or _os.environ.get("NVTX_INJECTION64_PATH") or "0") != "0":
    from .look import nvtx as _nvtx

    _nvtx.from_environment()
