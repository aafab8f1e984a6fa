"""Operators as functions, with the names of torch.nn.functional."""
from __future__ import annotations

from .. import ops
from ..ops.registry import PUBLIC

# in torch both at the top level and here
_SHARED = (
    "relu", "relu_", "sigmoid", "tanh", "softmax", "log_softmax", "layer_norm", "rms_norm", "group_norm",
    "batch_norm", "cosine_similarity", "conv1d", "conv2d",
)

__all__ = sorted({
    *(name for name, f in PUBLIC.items() if f._functional),
    *(name for name in _SHARED if name in PUBLIC),
    "normalize",
})

globals().update({name: PUBLIC[name] for name in __all__ if name in PUBLIC})


def normalize(input, p=2.0, dim=1, eps=1e-12):
    """`input` divided by its p-norm over `dim`, which counts as at least eps. As torch.nn.functional.normalize."""
    return input / ops.clamp(ops.norm(input, p, dim, keepdim=True), min=eps)
