"""A program's own CUDA kernels: `Kernel`, `Tuned`, what is needed around them, and `Operator` to differentiate them.

docs/kernels.md goes from a formula to a kernel to its proof.
"""
from __future__ import annotations

from .autograd.custom import custom_vjp
from .autograd.operator import Operator
from .backend.kernel import Kernel, checking, fits, kernels_enabled, use_kernels
from .backend.kernel_cupy import from_cupy
from .backend.kernel_tuning import Tuned

__all__ = ["Kernel", "Operator", "Tuned", "checking", "custom_vjp", "fits", "from_cupy", "kernels_enabled",
           "use_kernels"]
