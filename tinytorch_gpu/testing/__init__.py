"""assert_close and make_tensor, as torch.testing; `tinytorch_gpu.testing.pytest` is a plugin that suites opt into."""
from __future__ import annotations

from .compare import TOLERANCES, assert_close, make_tensor

__all__ = ["assert_close", "make_tensor"]
