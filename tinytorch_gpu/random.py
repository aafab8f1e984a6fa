"""Generators and their state as Tensors. As torch.random; the numbers themselves come from `backend.random`."""
from __future__ import annotations

import contextlib

import numpy as np

from .backend import random as _backend
from .backend.random import initial_seed, manual_seed, seed
from .tensor import Tensor, make

__all__ = ["Generator", "manual_seed", "seed", "initial_seed", "get_rng_state", "set_rng_state", "fork_rng"]


class Generator(_backend.Generator):
    """A source of random numbers with a state of its own. As torch.Generator."""

    def get_state(self) -> Tensor:  # type: ignore[override]
        """The state, a uint8 Tensor on the CPU."""
        return make(super().get_state())

    def set_state(self, new_state) -> None:
        """Continue from a state that get_state() returned."""
        super().set_state(_bytes(new_state))


def _bytes(state):
    return state._array if isinstance(state, Tensor) else np.asarray(state)


def get_rng_state(device="cpu") -> Tensor:
    """The state of a device's default generator, a uint8 Tensor on the CPU. As torch.get_rng_state."""
    return make(_backend.get_rng_state(device))


def set_rng_state(new_state, device="cpu") -> None:
    """Continue a device's default generator from a state. As torch.set_rng_state."""
    _backend.set_rng_state(_bytes(new_state), device)


@contextlib.contextmanager
def fork_rng(devices=("cpu",), enabled=True):
    """Inside, random numbers leave the default generators as they were. As torch.random.fork_rng."""
    states = {d: _backend.get_rng_state(d) for d in devices} if enabled else {}
    try:
        yield
    finally:
        for d, state in states.items():
            _backend.set_rng_state(state, d)
