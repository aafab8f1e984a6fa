"""The two libraries that are compared, each with its device: the same calls on both, PyTorch's names."""
from __future__ import annotations

import contextlib
import importlib.util
import math

import numpy as np


class Side:
    """A library `t` and where its tensors are; `name` stands in the rows."""

    def __init__(self, name, t, device):
        self.name, self.t, self.device = name, t, device

    def tensor(self, array, dtype=None, requires_grad=False):
        """A NumPy array as a tensor on the device; floating ones in `dtype` (a name)."""
        made = self.t.from_numpy(array).to(self.device)
        if dtype is not None and array.dtype.kind == "f":
            made = made.to(getattr(self.t, dtype))
        return made.requires_grad_() if requires_grad else made

    def autocast(self, dtype):
        """autocast to a half dtype, nothing for float32."""
        if dtype == "float32":
            return contextlib.nullcontext()
        return self.t.amp.autocast(self.device, dtype=getattr(self.t, dtype))

    def synchronize(self):
        if self.device != "cpu":
            self.t.cuda.synchronize()

    def reset_peak(self):
        if self.device != "cpu":
            self.t.cuda.empty_cache()
            self.t.cuda.reset_peak_memory_stats()

    def used(self) -> int:
        """Bytes in use now."""
        return self.t.cuda.memory_allocated() if self.device != "cpu" else 0

    def peak(self) -> int | None:
        """Bytes; None where PyTorch's CPU build has no such figure."""
        return self.t.cuda.max_memory_allocated() if self.device != "cpu" else None


def ours(device: str) -> Side:
    import tinytorch_gpu as tt

    tt.set_default_device(device)
    return Side("tinytorch_gpu", tt, device)


def theirs(device: str) -> Side | None:
    """PyTorch beside a GPU on the GPU, beside the simulated device on the CPU; None where it is missing."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        print("PyTorch is here, but without CUDA: no comparison", flush=True)
        return None
    return Side("torch", torch, "cuda" if device == "cuda" else "cpu")


def both(device: str) -> list[Side]:
    return [side for side in (ours(device), theirs(device)) if side is not None]


BLOCK = 1 << 20


def draw(rng, shape, scale=1.0):
    """Normal numbers, float32; beyond a million they repeat, on which no time depends (200 million: 4 s)."""
    size = math.prod(shape)
    values = (rng.standard_normal(min(size, BLOCK)) * scale).astype(np.float32)
    return np.resize(values, shape) if size > BLOCK else values.reshape(shape)
