"""Time on the device: events of the stream, contenders in turn, a cold L2 cache, the host kept ahead of the GPU."""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass
class Contender:
    """`run(prepare())` is timed, `prepare()` is not."""

    run: Callable
    prepare: Callable = lambda: None
    covers: int = 1  # overwritings of the cache that the host needs to queue a run


class EventClock:
    """CUDA events on the default stream, which PyTorch uses too.

    Before each start a buffer larger than the L2 cache is overwritten, often enough that the host has queued all
    launches of the run before the GPU comes to them: else the time of small kernels would be the host's.
    """

    def __init__(self, xp, cache: int):
        """`xp`: CuPy or the simulated namespace; `cache`: bytes to overwrite before each run."""
        self.cuda = xp.cuda
        self.buffer = xp.empty(cache, np.uint8)
        self.begin, self.end = xp.cuda.Event(), xp.cuda.Event()
        self._cover(1)
        self.cover_us = max(self._between(lambda: self._cover(4)) / 4, 1.0)

    def _cover(self, times):
        for _ in range(times):
            self.buffer.fill(0)

    def _between(self, work) -> float:
        self.begin.record()
        work()
        self.end.record()
        self.end.synchronize()
        return self.cuda.get_elapsed_time(self.begin, self.end) * 1e3

    def warm(self, contender) -> None:
        contender.run(contender.prepare())
        state = contender.prepare()
        self.wait()
        start = time.perf_counter()
        contender.run(state)
        queued = (time.perf_counter() - start) * 1e6
        self.wait()
        contender.covers = min(64, 1 + int(1.5 * queued / self.cover_us))

    def time(self, contender) -> float:
        """Microseconds of one run on the GPU."""
        state = contender.prepare()
        self._cover(contender.covers)
        return self._between(lambda: contender.run(state))

    def wait(self) -> None:
        self.cuda.Device().synchronize()


def clock_for(device: str) -> EventClock:
    """The clock of "cuda", or of the simulated device, whose events tell the time of the simulating process."""
    from tinytorch_gpu.backend import device as devices

    xp = devices.backend_for(devices.device(device)).xp
    if device == "sim":
        return EventClock(xp, 1 << 16)
    return EventClock(xp, max(256 << 20, 2 * xp.cuda.Device().attributes["L2CacheSize"]))


def in_turn(clock, contenders: dict, seconds: float, most: int = 100, warm_up: int = 3) -> dict:
    """{name: [microseconds]}: every contender once, again and again, until the time is over (3 rounds at least)."""
    for contender in contenders.values():
        for _ in range(warm_up):
            clock.warm(contender)
    clock.wait()
    times: dict = {name: [] for name in contenders}
    end = time.perf_counter() + seconds
    for turn in range(most):
        if turn >= min(3, most) and time.perf_counter() > end:
            break
        order = list(contenders) if turn % 2 == 0 else list(contenders)[::-1]
        for name in order:
            times[name].append(clock.time(contenders[name]))
    return times
