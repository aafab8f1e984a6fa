"""Tuned: a kernel in several block sizes or template constants; the fastest is found on first use and remembered.

    cube = Tuned(source, threads=(128, 256, 512), ITEMS=(1, 2, 4))
    cube(lambda c: -(-n // (c["threads"] * c["ITEMS"])), x, y, n)

What is fastest depends on the GPU, the dtypes and the size, so each of these is tried once: all choices run on the
user's own arrays, whose contents are put back after each trial, and are timed by events. The result is kept in the
process and in the user's cache folder. Nothing is timed on the simulated device, whose times mean nothing, nor while a
graph is captured: the first choice is taken.
"""
from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import tempfile
import threading

from .cache import cache_folder
from .device import backend_of, is_array
from .kernel import Kernel
from .kernel_source import read

__all__ = ["Tuned"]

log = logging.getLogger("tinytorch_gpu")
TRIALS = 5  # timed launches of each choice; the fastest counts, since everything else on the machine only adds
_lock = threading.Lock()


class Tuned:
    """A `__global__` function with choices: `threads` of a block, and template constants given as tuples.

    Calling it launches the choice that is fastest here. `source`, `name`, `optional`, `types`, `options`, `needs` and
    constants that are no tuples are Kernel's. Raises as Kernel does, for every choice alike; ValueError without a
    choice to make.
    """

    def __init__(self, source, name=None, *, threads=(128, 256, 512), optional=(), types=None, options=(), needs=(),
                 **constants):
        lists = {"threads": threads, **{k: v for k, v in constants.items() if isinstance(v, tuple)}}
        fixed = {k: v for k, v in constants.items() if k not in lists}
        if empty := [k for k, v in lists.items() if not v]:
            raise ValueError(f"[kernel] no choice for {', '.join(empty)}: give a tuple of at least one value")
        self.choices = [dict(zip(lists, values)) for values in itertools.product(*lists.values())]
        self.kernels = [
            Kernel(source, name, optional=optional, types=types, options=options, needs=needs, **fixed,
                   **{k: v for k, v in choice.items() if k != "threads"})
            for choice in self.choices
        ]
        self._best: dict[tuple, int] = {}
        self._identity = None

    def __repr__(self):
        return f"Tuned({self.kernels[0]!r}, {len(self.choices)} choices)"

    def __call__(self, grid, *args, shared=0):
        """Launch. `grid`: blocks, a tuple of up to 3, or a function of the choice ({"threads": 256, ...}) giving
        either; `shared` dynamic bytes, or a function of the choice."""
        arrays = [a for a in args if is_array(a)]
        if not arrays:
            self._launch(0, grid, args, shared)  # refused there, with the reason
            return
        backend = backend_of(arrays[0])
        if backend.type != "cuda":
            self._launch(0, grid, args, shared)
            return
        # a size class is a factor of two: neighbours of it behave alike
        size = sum(a.nbytes for a in arrays).bit_length()
        key = (backend.xp.cuda.runtime.getDevice(), size, *(str(a.dtype) for a in arrays))
        best = self._best.get(key)
        if best is None:
            if _capturing(backend):
                best = 0
            else:
                best = self._best[key] = self._find(backend, key, lambda i: self._launch(i, grid, args, shared), args)
        self._launch(best, grid, args, shared)

    def _launch(self, i, grid, args, shared):
        choice = self.choices[i]
        blocks = grid(choice) if callable(grid) else grid
        bytes_ = shared(choice) if callable(shared) else shared
        self.kernels[i](blocks if isinstance(blocks, tuple) else (blocks,), (choice["threads"],), *args, shared=bytes_)

    def _find(self, backend, key, launch, args):
        """The number of the fastest choice: from the disk, or by trying."""
        device = backend.xp.cuda.runtime.getDeviceProperties(key[0])["name"].decode()
        name = json.dumps([self._name(), device, *key[1:], self.choices])
        with _lock:
            known = _load().get(name)
        if isinstance(known, int) and 0 <= known < len(self.choices):
            return known
        parameters = self.kernels[0].signature.parameters
        written = [a for p, a in zip(parameters, args) if p.pointer and not p.constant and a is not None]
        before = [a.copy() for a in written]
        times = []
        for i in range(len(self.choices)):
            times.append(fastest_of(TRIALS, backend.xp, lambda i=i: launch(i), written, before))
        best = min(range(len(times)), key=times.__getitem__)
        log.info("%s on %s: %s of %d choices, %.1f us (slowest %.1f us)", self.kernels[0].signature.name, device,
                 self.choices[best], len(times), 1e3 * times[best], 1e3 * max(times))
        with _lock:
            _store(name, best)
        return best

    def _name(self):
        if self._identity is None:
            text = read(self.kernels[0].source).text
            self._identity = [self.kernels[0].signature.name, hashlib.sha256(text.encode()).hexdigest()[:16]]
        return self._identity


def fastest_of(trials, xp, launch, written, before):
    """Milliseconds of the fastest of some launches, after one that compiles and warms up; arrays are put back."""
    best = float("inf")
    for trial in range(trials + 1):
        start, end = xp.cuda.Event(), xp.cuda.Event()
        start.record()
        launch()
        end.record()
        end.synchronize()
        if trial:
            best = min(best, xp.cuda.get_elapsed_time(start, end))
        for a, b in zip(written, before):
            a[...] = b
    return best


def _capturing(backend):
    return backend.xp.cuda.get_current_stream().is_capturing()


def _file():
    return cache_folder("tuning") / "choices.json"


def _load():
    try:
        known = json.loads(_file().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as e:
        log.warning("%s cannot be read (%s): block sizes are tried again", _file(), e)
        return {}
    return known if isinstance(known, dict) else {}


def _store(name, choice):
    """Add one result; written aside and moved in place, so that another process never reads half a file."""
    path = _file()
    known = {**_load(), name: choice}
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".json")
    with os.fdopen(handle, "w", encoding="utf-8") as f:
        json.dump(known, f, indent=0)
    os.replace(temporary, path)
