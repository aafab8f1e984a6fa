"""The faults of launches in the emulator's check build: several orders of threads and contents of unwritten memory."""
from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..backend.device import backend_for, device
from ..backend.kernel import checking
from ..backend.kernel_source import library_folder
from ..backend.simulated.emulator import KernelFault, traffic
from .background import run
from .launch import Array, Launch

__all__ = ["RUNS", "Found", "faults", "line_of", "moved", "short"]

# (schedule, byte in unwritten memory): the first one makes the results that the others are compared with
RUNS = ((0, 0xFF), (1, 0x5A), (2, 0xFF), (2, 0x5A))
ORDERS = ("ascending", "descending", "random", "random")
ROUNDS = 8  # of a launch, each with the faults of the one before out of the way
ROOM = 1 << 14  # elements behind an array whose end was passed


@dataclasses.dataclass
class Found:
    """A fault, and the launches that showed it."""

    words: str
    place: str
    code: str
    launches: list[str]


def _device_arrays(launch: Launch, host: list, byte: int):
    """The arguments on the simulated device; what nothing has written holds `byte`."""
    backend = backend_for(device("sim"))
    values: list[object] = []
    for value, array in zip(launch.values, host):
        if isinstance(value, Array):
            made = backend.from_host(array)
            if value.fill is None:
                _bytes(made._np)[...] = byte if value.dtype.kind != "b" else byte & 1
            values.append(made)
        else:
            values.append(value)
    return values


def _bytes(raw: np.ndarray) -> np.ndarray:
    return raw.reshape(-1).view(np.uint8).reshape(raw.size, raw.dtype.itemsize)


def faults(launches, seed, rtol) -> tuple[list[Found], list[str]]:
    """(what is wrong with a kernel, notes), from running every launch in every order.

    Raises: OutsideVocabulary, CompileError, EmulatorUnavailable; TypeError and ValueError for what no launch can be.
    """
    found: dict[tuple, Found] = {}
    notes: dict[str, None] = {}
    for launch in launches:
        if any(kind == "endless" for kind, *_ in found):
            break
        results = _rounds(found, launch, seed)
        for text in _differences(launch, results, rtol):
            key = ("different results", launch.expression, "")
            found.setdefault(key, Found(text, "", "", [])).launches.append(short(launch))
        for text in _unwritten(launch, results):
            notes.setdefault(text)
    return list(found.values()), list(notes)


def moved(launch: Launch, seed) -> list:
    """The traffic of one launch, line by line."""
    args = _device_arrays(launch, _host(launch, seed), 0xFF)
    with contextlib.redirect_stdout(io.StringIO()):
        return _run(launch, args, 0, -1, seed, traffic)


def _rounds(found, launch, seed) -> list:
    """What the orders that ended left in the arrays. A launch ends at its first fault, so it is run again with that
    one out of the way, until nothing new comes up."""
    first: list = []
    current = launch
    for turn in range(ROUNDS):
        host, results, faults = _host(current, seed), [], []
        for i, (schedule, byte) in enumerate(RUNS):
            args = _device_arrays(current, host, byte)
            try:
                # printf of the first run is the user's; the others would repeat it
                with contextlib.redirect_stdout(io.StringIO()) if i or turn else contextlib.nullcontext():
                    _run(current, args, schedule, byte, seed + i)
            except KernelFault as e:
                faults.append((i, e.fault))
                if e.fault.kind == "endless":  # the other orders would take as long
                    break
            else:
                results.append((i, args))
        if turn == 0:
            first = results
        if not any([_add(found, launch, fault, i) for i, fault in faults]):
            break
        relaxed = _relaxed(current, [fault for _, fault in faults])
        if relaxed == current or any(fault.kind == "endless" for _, fault in faults):
            break
        current = relaxed
    return first


def _relaxed(launch: Launch, faults) -> Launch:
    """The launch with room behind the arrays whose end was passed, and values in outputs that were read."""
    values = list(launch.values)
    for fault in faults:
        k = _argument(fault.message)
        value = values[k] if k is not None else None
        if isinstance(value, Array) and fault.kind == "bounds" and "past the end" in fault.message:
            values[k] = dataclasses.replace(value, shape=(math.prod(value.shape) + ROOM,))
        elif isinstance(value, Array) and fault.kind == "uninitialised":
            values[k] = dataclasses.replace(value, fill="random")
    return dataclasses.replace(launch, values=tuple(values))


def _host(launch: Launch, seed) -> list:
    rng = np.random.default_rng(seed)
    return [v.host(rng) if isinstance(v, Array) else v for v in launch.values]


def _run(launch: Launch, args, schedule, byte, seed, count=None):
    """One launch, checked as every launch is, then in the emulator's own order. In the background: Ctrl-C ends it."""
    unwritten = frozenset(i for i, v in enumerate(launch.values) if isinstance(v, Array) and v.fill is None)

    def work():
        with checking():
            function, converters = launch.kernel._check(launch.grid, launch.block, launch.shared, tuple(args))
        ready = list(args)
        for i, convert in converters:
            ready[i] = convert(ready[i])
        function.max_dynamic_shared_size_bytes = max(function.max_dynamic_shared_size_bytes, launch.shared)
        if count is not None:
            return count(function, launch.grid, launch.block, ready, launch.shared)
        return function.launch(launch.grid, launch.block, ready, launch.shared, schedule, byte, seed + 1, unwritten)

    return run(work)


def short(launch: Launch) -> str:
    """The whole numbers of a launch."""
    numbers = [f"{p.name} {v}" for p, v in zip(launch.kernel.signature.parameters, launch.values)
               if not p.pointer and isinstance(v, int) and p.name not in launch.guessed]
    return ", ".join(numbers) or f"grid {launch.grid}"


def _named(launch: Launch, text: str) -> str:
    """Fault texts speak of "argument 1 (float32, ...)"; the reader knows its name."""
    names = [p.name for p in launch.kernel.signature.parameters]
    return re.sub(r"\bargument (\d+)", lambda m: names[int(m[1])], text)


def _add(found, launch, fault, run_) -> bool:
    """Whether the fault is a new one."""
    place = f"{fault.file}:{fault.line}" if fault.line else ""
    key = (fault.kind, launch.expression, place)
    new = key not in found
    if new:
        words = f"{_named(launch, fault.message)}; block {fault.block}, thread {fault.thread}, {ORDERS[run_]} order"
        if fault.calls:
            words += f", called from {', '.join(fault.calls)}"
        if fault.kind == "uninitialised" and (name := _output(launch, fault.message)):
            words += (f". {name} was taken for an output: if the kernel reads it on purpose, give it values, "
                      f"--arg '{name}=[...]:random'")
        found[key] = Found(words, place, line_of(fault.file, fault.line), [])
    if short(launch) not in found[key].launches:
        found[key].launches.append(short(launch))
    return new


def _argument(message: str):
    """The number of the argument that a fault's message names, None without one."""
    found = re.search(r"\bargument (\d+)", message)
    return int(found[1]) if found else None


def _output(launch: Launch, message: str) -> str:
    """The array that was read before it was written."""
    k = _argument(message)
    return "" if k is None else launch.kernel.signature.parameters[k].name


def _text(label: str) -> list[str]:
    """The lines of a file by its name in messages."""
    path = library_folder() / label.removeprefix("kernels/") if label.startswith("kernels/") else Path(label)
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def line_of(label: str, line: int) -> str:
    """A line of a source by the file's name in messages, empty where it is not known."""
    return _text(label)[line - 1].strip() if 0 < line <= len(_text(label)) else ""


def _differences(launch, results, rtol) -> Iterator[str]:
    """What is not the same in every order. Elements that no run wrote are left out."""
    if len(results) < 2:
        return
    (_, first), rest = results[0], results[1:]
    for k, (p, value) in enumerate(zip(launch.kernel.signature.parameters, launch.values)):
        if not isinstance(value, Array) or p.constant:
            continue
        a, blank = first[k]._np, _blank(launch, results, k)
        for i, args in rest:
            b = args[k]._np
            different = (_bytes(a) != _bytes(b)).any(1) & ~blank
            if rtol and value.dtype.kind in "fV":
                wide_a, wide_b = (x.astype(np.float64).reshape(-1) for x in (a, b))
                different &= ~np.isclose(wide_a, wide_b, rtol, 0, equal_nan=True)
            if different.any():
                at = int(different.argmax())
                place = ", ".join(str(int(n)) for n in np.unravel_index(at, a.shape))
                yield (f"different results: {p.name}[{place}] is {a.reshape(-1)[at]} in ascending order and "
                       f"{b.reshape(-1)[at]} in {ORDERS[i]} order, {int(different.sum())} of {a.size} elements differ: "
                       "the result depends on the order of threads, or on memory that nothing has written (--rtol "
                       "allows for atomic additions of floats)")
                break


def _blank(launch, results, k) -> np.ndarray:
    """Which elements of an output no run has written: they still hold what stood there, in both patterns."""
    blank = np.ones(results[0][1][k].size, bool)
    if launch.values[k].fill is not None or len({RUNS[i][1] for i, _ in results}) < 2:
        return ~blank
    for i, args in results:
        byte = RUNS[i][1] if launch.values[k].dtype.kind != "b" else RUNS[i][1] & 1
        blank &= (_bytes(args[k]._np) == byte).all(1)
    return blank


def _unwritten(launch, results) -> Iterator[str]:
    for k, (p, value) in enumerate(zip(launch.kernel.signature.parameters, launch.values)):
        if results and isinstance(value, Array) and value.fill is None and not p.constant:
            count = int(_blank(launch, results, k).sum())
            if count:
                yield f"{p.name}: {count} of {results[0][1][k].size} elements were not written ({short(launch)})"
