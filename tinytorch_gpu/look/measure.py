"""Seconds and bytes of a call, measured: by a clock that waits for the device, by tracemalloc or the device's pool."""
from __future__ import annotations

import gc
import statistics
import time
import tracemalloc
from typing import NamedTuple

import numpy as np

from ..backend.device import backend_for
from ..backend.device import device as Device

__all__ = ["HostMeter", "PoolMeter", "Use", "differs", "elsewhere", "memory", "meter_of", "peak", "seconds", "spread"]


def seconds(run, device, repeats: int = 5, warm: int = 1, prepare=None) -> list[float]:
    """Seconds of each of `repeats` calls of `run()`, after `warm` calls that do not count.

    Each begins on an idle device and ends when the device is idle again. `prepare()`, where it is given, is called
    before each, outside of its time, and `run` gets what it returns. What a call returns is dropped after its time was
    taken. Whatever else the machine does is in there: look at `spread`. While tracemalloc traces, a call's Python takes
    longer.

    Raises: TypeError for what cannot be called, ValueError for no repeat or fewer than no warm ones.
    """
    backend, index = _place("seconds", run, device)
    if prepare is not None and not callable(prepare):
        raise TypeError(f"[seconds] prepare must be a function without arguments, got {type(prepare).__name__}")
    for name, value, least in (("repeats", repeats, 1), ("warm", warm, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"[seconds] {name} must be a whole number of at least {least}, got {value!r}")
    found: list[float] = []
    for k in range(warm + repeats):
        given = () if prepare is None else (prepare(),)
        backend.synchronize(index)
        begin = time.perf_counter()
        result = run(*given)
        backend.synchronize(index)
        if k >= warm:
            found.append(time.perf_counter() - begin)
        del result, given
    return found


def spread(found) -> dict:
    """`{"median", "least", "most", "runs"}` of seconds that were measured. Raises: ValueError for none."""
    if not found:
        raise ValueError("[spread] no times were given")
    return {"median": statistics.median(found), "least": min(found), "most": max(found), "runs": len(found)}


class Use(NamedTuple):
    """Bytes of one call, above what there was when it began: at the worst moment, and while its result is there.
    `arrays`: what of `held` lies in arrays, where it was asked for."""

    result: object
    peak: int
    held: int
    arrays: int | None = None


def memory(run, device, arrays: bool = False) -> Use:
    """The result of `run()` and the bytes it took at the worst moment, and those still there when it returned; with
    `arrays`, how many of these are in arrays, which takes a look at each piece of memory that tracemalloc knows.

    On the CPU as tracemalloc counts them, arrays and Python objects; it is started for the call, or, where it runs
    already, its peak is reset. On a device as the pool counts them, whose peak is reset: blocks of 512 bytes, the slack
    of cached ones left out. What the first call alone leaves behind (imports, caches, compiled kernels) counts too:
    call it once before. What dies meanwhile and was there before lowers both, where it was counted. The garbage
    collector rests meanwhile: neither cycles of the call nor garbage from before go at a time of its choice.

    Raises: TypeError for what cannot be called.
    """
    backend, index = _place("memory", run, device)
    meter = meter_of(Device(device))
    collects = gc.isenabled()
    try:
        gc.disable()
        backend.synchronize(index)
        before = meter.arrays() if arrays else 0
        meter.reset()
        start = meter.read()[0]
        result = run()
        backend.synchronize(index)
        current, high = meter.read()
        there = meter.arrays() - before if arrays else None
    finally:
        meter.close()
        if collects:
            gc.enable()
    return Use(result, max(0, high - start), current - start, there)


def peak(run, device) -> tuple:
    """(result, bytes above the start at the worst moment) of `run()`, as `memory` measures them."""
    use = memory(run, device)
    return use.result, use.peak


def _place(name, run, device):
    """The backend and the device's number."""
    if not callable(run):
        raise TypeError(f"[{name}] expected a function without arguments, got {type(run).__name__}: write lambda: ...")
    where = Device(device)
    return backend_for(where), where.index


def differs(where, device) -> bool:
    """Whether an array's device is another one than `device`, whose number may be left open."""
    return where.type != device.type or None not in (where.index, device.index) and where.index != device.index


def elsewhere(counts, what, device) -> list[str]:
    """A sentence about operators that ran on other devices than the measured one; [] where there were none."""
    if not counts:
        return []
    found = ", ".join(f"{n:,} on {where}" for where, n in counts.items())
    return [f"operators that ran elsewhere: {found}; {what} of {device} alone was measured: pass the model, or device="]


# meters


def meter_of(device) -> HostMeter | PoolMeter:
    """What counts a device's bytes: `read()` gives (current, peak), `reset()` begins a new peak, `close()` ends it."""
    return HostMeter() if device.type == "cpu" else PoolMeter(device)


class HostMeter:
    """Bytes of NumPy's arrays and of Python's objects, as tracemalloc counts them."""

    source = "tracemalloc"
    counts_objects = True

    def __init__(self):
        self.started = not tracemalloc.is_tracing()
        if self.started:
            tracemalloc.start()

    def read(self) -> tuple[int, int]:
        return tracemalloc.get_traced_memory()

    def reset(self) -> None:
        tracemalloc.reset_peak()

    def arrays(self) -> int:
        """Bytes that are in arrays now."""
        chosen = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
        return sum(t.size for t in tracemalloc.take_snapshot().filter_traces([chosen]).traces)

    def slack(self) -> int:
        return 0

    def close(self) -> None:
        if self.started:
            tracemalloc.stop()


class PoolMeter:
    """Bytes of a device's arrays, as its pool counts them."""

    source = "pool"
    counts_objects = started = False

    def __init__(self, device):
        self._backend, self._index = backend_for(device), device.index

    def read(self) -> tuple[int, int]:
        stats = self._backend.memory_stats(self._index)
        return stats["current"], stats["peak"]

    def reset(self) -> None:
        self._backend.reset_peak(self._index)

    def arrays(self) -> int:
        """Bytes that are in arrays now: all."""
        return self.read()[0]

    def slack(self) -> int:
        stats = self._backend.memory_stats(self._index)
        return stats["held"] - stats["current"]

    def close(self) -> None:
        pass
