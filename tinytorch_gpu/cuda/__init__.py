"""GPUs: which there are, the current one, its memory, streams and random numbers. As torch.cuda.

Where a function asks for memory, synchronisation or random numbers, its `device` may be any: "cpu", "sim", "cuda:1".
None is the current GPU, and without a GPU the default device.
"""
from __future__ import annotations

from ..backend import random as _random
from ..backend.device import device as _Device
from ..backend.out_of_memory import OutOfMemoryError
from ..random import get_rng_state as _get_rng_state
from ..random import set_rng_state as _set_rng_state
from .memory import (
    empty_cache,
    max_memory_allocated,
    mem_get_info,
    memory_allocated,
    memory_reserved,
    memory_stats,
    memory_summary,
    reset_peak_memory_stats,
)
from .places import (
    current_device,
    device,
    device_count,
    get_device_capability,
    get_device_name,
    get_device_properties,
    is_available,
    is_bf16_supported,
    place,
    set_device,
    synchronize,
)
from .streams import (
    Event,
    ExternalStream,
    Stream,
    StreamContext,
    current_stream,
    default_stream,
    set_stream,
    stream,
)

__all__ = [
    "Event", "ExternalStream", "OutOfMemoryError", "Stream", "StreamContext", "current_device", "current_stream",
    "default_stream", "device", "device_count", "empty_cache", "get_device_capability", "get_device_name",
    "get_device_properties", "get_rng_state", "get_rng_state_all", "initial_seed", "is_available",
    "is_bf16_supported", "manual_seed", "manual_seed_all", "max_memory_allocated", "mem_get_info", "memory_allocated",
    "memory_reserved", "memory_stats", "memory_summary", "reset_peak_memory_stats", "set_device", "set_rng_state",
    "set_rng_state_all", "set_stream", "stream", "synchronize",
]


def _all():
    return [_Device("cuda", i) for i in range(device_count())] or [place(None)]


def manual_seed(seed) -> None:
    """Seed the current GPU's default generator. As torch.cuda.manual_seed; without a GPU, the default device's."""
    _random.default_generator(place(None)).manual_seed(seed)


def manual_seed_all(seed) -> None:
    """Seed the default generators of all GPUs. As torch.cuda.manual_seed_all; without a GPU, the default device's."""
    for where in _all():
        _random.default_generator(where).manual_seed(seed)


def initial_seed() -> int:
    """The seed of the current GPU's default generator. As torch.cuda.initial_seed."""
    return _random.default_generator(place(None)).initial_seed()


def get_rng_state(device=None):
    """The state of a device's default generator, a uint8 Tensor on the CPU. As torch.cuda.get_rng_state."""
    return _get_rng_state(place(device))


def set_rng_state(new_state, device=None) -> None:
    """Continue a device's default generator from a state. As torch.cuda.set_rng_state."""
    _set_rng_state(new_state, place(device))


def get_rng_state_all() -> list:
    """The states of all GPUs. As torch.cuda.get_rng_state_all; without a GPU, the default device's."""
    return [_get_rng_state(where) for where in _all()]


def set_rng_state_all(new_states) -> None:
    """Continue the default generators of all GPUs. As torch.cuda.set_rng_state_all.

    Raises: ValueError when the number of states is not that of the devices.
    """
    places = _all()
    if len(new_states) != len(places):
        raise ValueError(f"[set_rng_state_all] expected {len(places)} states, got {len(new_states)}")
    for where, state in zip(places, new_states, strict=True):
        _set_rng_state(state, where)
