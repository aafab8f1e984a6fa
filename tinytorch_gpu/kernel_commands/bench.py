"""`tinytorch-gpu kernel bench`: a kernel's time on the GPU by events, and its GB/s beside a copy in the same run."""
from __future__ import annotations

import math
import statistics

import numpy as np

from ..backend.device import backend_for, device
from ..backend.kernel import reason
from .launch import Array, Launch, Wish, find, number, plan
from .screen import Screen, columns, wrapped

__all__ = ["bench"]

SIZES = (1 << 16, 1 << 20, 1 << 24)
COPY = 1 << 28  # bytes of the copy that stands for what the memory gives: larger than any cache
WARM_UP = 5
SIMULATED = "simulated: times mean nothing, so none are shown"


def bench(screen: Screen, name: str, wish: Wish, where="cuda", repeat=50, moved=None, seed=0) -> int:
    """Time the kernels of a file and print the table. Returns the exit status. Raises: RuntimeError without a GPU."""
    file = find(name)
    simulated = where == "sim"
    launches = plan(file, wish, wish.sizes or ((1000,) if simulated else SIZES))
    try:
        backend = backend_for(device(where))
    except RuntimeError as e:
        raise RuntimeError(f"[kernel] bench needs a GPU: {e}. --device sim runs the command without one, and "
                           "kernel check says on the CPU what is wrong with a kernel and what it moves") from None
    if why := reason(backend):
        raise RuntimeError(f"[kernel] bench cannot compile here: {why}")
    timer = _Timer(backend, 3 if simulated else repeat)
    copied = _copy(backend, timer, 1 << 12 if simulated else COPY)
    lines = []
    for launch in launches:
        args = _arrays(backend, launch, seed)
        low, middle, high = timer.quantiles(
            lambda launch=launch, args=args: launch.kernel(launch.grid, launch.block, *args, shared=launch.shared))
        bytes_ = launch.moved if moved is None else _bytes(launch, moved)
        rate = bytes_ / middle / 1e6
        digits = 0 if rate >= 10 else 3  # a small launch must not read as no bandwidth at all
        lines.append([str(launch), f"{bytes_ / 1e6:.3g} MB", *(f"{1e3 * t:.1f}" for t in (middle, low, high)),
                      f"{rate:.{digits}f}", f"{100 * rate / copied:.0f}%"])
    if simulated:
        screen.lines(wrapped(screen, "", f"{SIMULATED}; {len(launches)} launch{'es' * (len(launches) != 1)} ran "
                                         f"{WARM_UP + 3} times each"))
        for row in lines:
            screen.lines(wrapped(screen, "  ", f"{row[0]}: moves {row[1]}".replace(" MB", "\u00a0MB"), lead=4))
        return 0
    screen.line(f"{_gpu(backend)}; a copy of {COPY >> 20} MiB moves {copied:.0f} GB/s; {repeat} launches each")
    head = ["kernel", "moves", "us (median)", "20%", "80%", "GB/s", "of the copy"]
    table = columns(screen, head, lines, flexible=(0,), right=range(1, 7))
    screen.lines(table or [line for row in lines for line in wrapped(screen, "", " ".join(row), lead=2)])
    screen.lines(wrapped(screen, "", "moves: every array once, those that are read and written twice"
                         if moved is None else f"moves: --bytes {moved}"))
    return 0


def _copy(backend, timer, size) -> float:
    """GB/s of a copy of so many bytes, read and written."""
    to, source = (backend.xp.zeros((size,), np.uint8) for _ in range(2))

    def copy():
        to[...] = source

    return 2 * size / timer.quantiles(copy)[1] / 1e6


def _bytes(launch: Launch, text: str) -> int:
    known = {p.name: v for p, v in zip(launch.kernel.signature.parameters, launch.values)
             if not p.pointer and isinstance(v, (int, float))}
    found = number(text, known, "--bytes")
    if not found > 0 or not math.isfinite(found):
        raise ValueError(f"[kernel] --bytes {text!r} is {found}: give what the kernel has to read and write")
    return int(found)


def _arrays(backend, launch: Launch, seed):
    rng = np.random.default_rng(seed)
    return [backend.from_host(v.host(rng)) if isinstance(v, Array) else v for v in launch.values]


def _gpu(backend) -> str:
    properties = backend.xp.cuda.runtime.getDeviceProperties(backend.xp.cuda.runtime.getDevice())
    return properties["name"].decode()


class _Timer:
    """Times by events on the current stream, in milliseconds."""

    def __init__(self, backend, repeat):
        self.cuda, self.repeat = backend.xp.cuda, repeat

    def times(self, work) -> list[float]:
        for _ in range(WARM_UP):
            work()
        # events around each launch are put in the stream before any of it is waited for: the host is ahead
        pairs = []
        for _ in range(self.repeat):
            start, end = self.cuda.Event(), self.cuda.Event()
            start.record()
            work()
            end.record()
            pairs.append((start, end))
        pairs[-1][1].synchronize()
        return [max(self.cuda.get_elapsed_time(start, end), 1e-6) for start, end in pairs]

    def quantiles(self, work) -> tuple[float, float, float]:
        ordered = sorted(self.times(work))
        last = len(ordered) - 1
        return ordered[round(0.2 * last)], statistics.median(ordered), ordered[round(0.8 * last)]
