"""Memory of a device in bytes. CuPy's pool on a GPU, the simulated pool, the process (or tracemalloc) on the CPU."""
from __future__ import annotations

from ..backend.device import backend_for
from .places import _number, _runtime, place


def memory_stats(device=None) -> dict:
    """What the device tells: `current` and `peak` bytes; pools add `held` and `limit`, the CPU the `source`.

    On a GPU the peak is counted from the first call of these functions in a thread on (CuPy's pool keeps none), which
    costs each allocation of that thread a call of Python from then on.
    """
    where = place(device)
    return backend_for(where).memory_stats(where.index)


def memory_allocated(device=None) -> int:
    """Bytes in use. As torch.cuda.memory_allocated."""
    return memory_stats(device)["current"]


def max_memory_allocated(device=None) -> int:
    """The peak of `memory_allocated` since the last reset. As torch.cuda.max_memory_allocated."""
    return memory_stats(device)["peak"]


def memory_reserved(device=None) -> int:
    """Bytes that the device's pool holds; on the CPU, which has none, the bytes in use."""
    stats = memory_stats(device)
    return stats.get("held", stats["current"])


def reset_peak_memory_stats(device=None) -> None:
    """Start a new peak at the present figure. As torch.cuda.reset_peak_memory_stats."""
    where = place(device)
    backend_for(where).reset_peak(where.index)


def empty_cache(device=None) -> None:
    """Give the free blocks of the device's pool back. As torch.cuda.empty_cache."""
    backend_for(place(device)).empty_cache()


def mem_get_info(device=None) -> tuple[int, int]:
    """(free, total) bytes of a GPU, other programs' use included. As torch.cuda.mem_get_info."""
    number = _number("mem_get_info", device)
    with _runtime().Device(number):
        return tuple(_runtime().runtime.memGetInfo())


def memory_summary(device=None) -> str:
    """`memory_stats` as text, a line per figure. As torch.cuda.memory_summary."""
    lines = [f"memory of {place(device)}"]
    for name, value in memory_stats(device).items():
        is_size = isinstance(value, int) and not isinstance(value, bool)
        lines.append(f"  {name:<8} {f'{value / 2**20:12,.1f} MiB' if is_size else value}")
    return "\n".join(lines)
