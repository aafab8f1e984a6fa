"""`tinytorch-gpu kernel check`: a kernel in the emulator's check build under several orders of its threads.

What it reports: faults with their .cu line, block and thread; elements that nothing wrote; registers, spills and shared
memory by NVRTC; sectors and bank conflicts of each line.
"""
from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..backend import kernel as kernels
from ..backend.architecture import number as capability
from ..backend.device import backend_for, device
from ..backend.kernel import OPTIONS, checking
from ..backend.kernel_source import library_folder
from ..backend.simulated import emulator
from ..backend.simulated.emulator import CompileError, EmulatorUnavailable, KernelFault, OutsideVocabulary
from .background import run
from .launch import Array, Launch, Wish, find, plan
from .nvrtc import CompileFailed, Nvrtc, NvrtcMissing
from .screen import Screen, columns, wrapped

__all__ = ["CLEAN", "FAULTS", "NOT_CHECKED", "WRONG", "check"]

CLEAN, FAULTS, WRONG, NOT_CHECKED = 0, 1, 2, 3  # exit statuses
SIZES = (1, 33, 1000, 4099)
# (schedule, byte in unwritten memory): the first one makes the results that the others are compared with
RUNS = ((0, 0xFF), (1, 0x5A), (2, 0xFF), (2, 0x5A))
ORDERS = ("ascending", "descending", "random", "random")
LINES = 20  # of traffic, the ones that move most
SHOWN = 12  # faults
ROUNDS = 8  # of a launch, each with the faults of the one before out of the way
ROOM = 1 << 14  # elements behind an array whose end was passed


@dataclasses.dataclass
class Found:
    """A fault, and the launches that showed it."""

    words: str
    place: str
    code: str
    launches: list[str]


def check(screen: Screen, name: str, wish: Wish, architectures=(), seed=0, rtol=0.0) -> int:
    """Check the kernels of a file and print the report. Returns the exit status."""
    file = find(name)
    screen.names[file.source.label] = name
    launches = plan(file, wish, wish.sizes or SIZES)
    status, compiles = CLEAN, False
    try:
        _compiled(screen, file, launches, architectures)
        compiles = True
    except CompileFailed as e:
        screen.line(str(e))
        return WRONG
    except NvrtcMissing as e:
        screen.lines(wrapped(screen, "", f"registers and spills: not known. {e}"))
    reason = emulator.unavailable()
    if reason:
        screen.lines(wrapped(screen, "", f"not checked: {reason}"))
        return NOT_CHECKED
    for expression in dict.fromkeys(launch.expression for launch in launches):
        own = [launch for launch in launches if launch.expression == expression]
        screen.line()
        screen.line(screen.strong(expression))
        try:
            found = _faults(screen, own, seed, rtol)
        except OutsideVocabulary as e:
            screen.lines(wrapped(screen, "  ", str(e)))
            status = status or NOT_CHECKED
            continue
        except CompileError as e:
            screen.line(f"  not checked, NVRTC compiles what the emulator cannot:\n{e}" if compiles else str(e))
            return NOT_CHECKED if compiles else WRONG
        except EmulatorUnavailable as e:  # its own sources do not build here
            screen.line(str(e))
            return NOT_CHECKED
        if found:
            status = FAULTS
        else:
            _traffic(screen, file, own[-1], seed)
    return status


# compiling

def _compiled(screen, file, launches, architectures) -> None:
    """Registers, spills and shared memory of what is launched."""
    nvrtc = Nvrtc()
    known = nvrtc.architectures()
    if unknown := [a for a in architectures if a.rstrip("af") not in known]:
        raise ValueError(f"[kernel] CUDA {nvrtc.version} does not compile for {', '.join(unknown)}: it has "
                         f"{', '.join(known)}")
    chosen = architectures or [a for a in kernels.architecture.TOOLKITS["13.0"] if a in known] or known
    expressions = list(dict.fromkeys(launch.expression for launch in launches))
    options = launches[0].kernel.options[len(OPTIONS):]
    rows: dict[str, dict] = {e: {} for e in expressions}
    for a in sorted(chosen, key=capability):
        text = file.source.text_for(" ".join(expressions))
        for e, found in nvrtc.figures(text, file.source.label, a, expressions, options).items():
            rows[e][a] = found
    head = ["compiled by NVRTC " + nvrtc.version, "registers", "spills", "shared"]
    lines = []
    for e, by in rows.items():
        # architectures with the same figures share a line
        alike: dict[tuple, list[str]] = {}
        for a, figures in by.items():
            alike.setdefault(figures, []).append(a)
        lines += [[f"{e} {' '.join(names)}", str(r), str(s), str(m)] for (r, s, m), names in alike.items()]
    table = columns(screen, head, lines, flexible=(0,), right=(1, 2, 3))
    screen.lines(table or [" ".join(row) for row in lines])


# running

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


def _faults(screen, launches, seed, rtol) -> list[Found]:
    """Run every launch in every order, print what is wrong, return it."""
    found: dict[tuple, Found] = {}
    notes: dict[str, None] = {}
    for launch in launches:
        if any(kind == "endless" for kind, *_ in found):
            break
        results = _rounds(found, launch, seed)
        for text in _differences(launch, results, rtol):
            key = ("different results", launch.expression, "")
            found.setdefault(key, Found(text, "", "", [])).launches.append(_short(launch))
        for text in _unwritten(launch, results):
            notes.setdefault(text)
    _report(screen, launches, list(found.values()), list(notes))
    return list(found.values())


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


def _run(launch: Launch, args, schedule, byte, seed, traffic=None):
    """One launch, checked as every launch is, then in the emulator's own order. In the background: Ctrl-C ends it."""
    unwritten = frozenset(i for i, v in enumerate(launch.values) if isinstance(v, Array) and v.fill is None)

    def work():
        with checking():
            function, converters = launch.kernel._check(launch.grid, launch.block, launch.shared, tuple(args))
        ready = list(args)
        for i, convert in converters:
            ready[i] = convert(ready[i])
        function.max_dynamic_shared_size_bytes = max(function.max_dynamic_shared_size_bytes, launch.shared)
        if traffic is not None:
            return traffic(function, launch.grid, launch.block, ready, launch.shared)
        return function.launch(launch.grid, launch.block, ready, launch.shared, schedule, byte, seed + 1, unwritten)

    return run(work)


def _short(launch: Launch) -> str:
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
        found[key] = Found(words, place, _line_of(fault.file, fault.line), [])
    short = _short(launch)
    if short not in found[key].launches:
        found[key].launches.append(short)
    return new


def _argument(message: str):
    """The number of the argument that a fault's message names, None without one."""
    found = re.search(r"\bargument (\d+)", message)
    return int(found[1]) if found else None


def _output(launch: Launch, message: str) -> str:
    """The array that was read before it was written."""
    k = _argument(message)
    return "" if k is None else launch.kernel.signature.parameters[k].name


@functools.cache
def _text(label: str) -> list[str]:
    """The lines of a file by its name in messages."""
    path = library_folder() / label.removeprefix("kernels/") if label.startswith("kernels/") else Path(label)
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _line_of(label: str, line: int) -> str:
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
                yield f"{p.name}: {count} of {results[0][1][k].size} elements were not written ({_short(launch)})"


def _report(screen, launches, found, notes) -> None:
    for launch in launches:
        screen.lines(wrapped(screen, "  ", str(launch)[len(launch.expression) + 2:], lead=6))
    for fault in found[:SHOWN]:
        mark = screen.bad("fault")
        screen.lines(wrapped(screen, f"  {mark} ", f"{fault.place + ': ' if fault.place else ''}{fault.words}", lead=8))
        if fault.code:
            screen.lines([f"        | {fault.code}"])
        screen.lines(wrapped(screen, "        ", f"seen with {'; '.join(dict.fromkeys(fault.launches))}"))
    if len(found) > SHOWN:
        screen.line(f"  and {len(found) - SHOWN} more faults")
    if guessed := sorted({name for launch in launches for name in launch.guessed}):
        notes = [*notes, f"{', '.join(guessed)}: nobody gave a number, 1 is a guess. Give one by --arg, or all in "
                         "a line // check: of the file, before you believe the rest"]
    for note in notes:
        screen.lines(wrapped(screen, "  note ", note))
    count = f"{len(launches)} launch{'es' * (len(launches) != 1)} x {len(RUNS)} orders of threads"
    screen.line(f"  {len(found)} fault{'s' * (len(found) != 1)} in {count}" if found else f"  no fault in {count}")


def _traffic(screen, file, launch, seed) -> None:
    """Sectors of global memory and bank conflicts of shared memory, line by line, of one launch."""
    args = _device_arrays(launch, _host(launch, seed), 0xFF)
    with contextlib.redirect_stdout(io.StringIO()):
        rows = _run(launch, args, 0, -1, seed, emulator.traffic)
    lines, room = [], max(20, screen.width - 70)
    for row in sorted(sorted(rows, key=lambda r: -r.transfers)[:LINES], key=lambda r: (r.file, r.line)):
        own = row.file == file.source.label
        place = str(row.line) if own else f"{row.file.rpartition('/')[2]}:{row.line}"
        code = _line_of(row.file, row.line)
        ratio = row.transfers / max(row.least, 1)
        over = f"{ratio:.1f}x" if ratio >= 1.05 else ""
        lines.append([place, f"{row.space} {'write' if row.write else 'read'}", str(row.requests), str(row.transfers),
                      str(row.least), over, code if len(code) <= room else code[:room - 3] + "..."])
    if not lines:
        return
    what = "32-byte sectors of global memory, passes over the banks of shared memory"
    screen.lines(wrapped(screen, "  ", f"memory traffic with {_short(launch)}: {what}"))
    head = ["line", "memory", "requests", "moves", "least", "over", "code"]
    table = columns(screen, head, lines, flexible=(6,), right=(2, 3, 4, 5))
    table = table or columns(screen, head[:-1], [row[:-1] for row in lines], right=(2, 3, 4, 5))
    screen.lines("  " + line for line in table)
