"""Checks of optimizer options, with PyTorch's messages."""
from __future__ import annotations

__all__ = ["check_nonnegative", "check_implementation"]


def check_nonnegative(value, name) -> None:
    """Raises: ValueError unless value >= 0."""
    if not 0.0 <= value:
        raise ValueError(f"[optim] Invalid {name}: {value}, must be 0 or more")


def check_implementation(name, *, foreach, fused, differentiable) -> None:
    """Options that choose how PyTorch computes. Raises: RuntimeError for contradictions, NotImplementedError for
    what changes the meaning and does not exist here."""
    if fused and differentiable:
        raise RuntimeError("[optim] `fused` does not support `differentiable`")
    if fused and foreach:
        raise RuntimeError("[optim] `fused` and `foreach` cannot be `True` together.")
    if differentiable:
        raise NotImplementedError(f"[{name}] differentiable=True is not implemented: a step is not recorded")
