"""`tinytorch-gpu kernel check`: a kernel in the emulator's check build under several orders of its threads.

What it reports: faults with their .cu line, block and thread; elements that nothing wrote; registers, spills and shared
memory by NVRTC; sectors and bank conflicts of each line.
"""
from __future__ import annotations

from ..backend.architecture import TOOLKITS
from ..backend.architecture import number as capability
from ..backend.kernel import OPTIONS
from ..backend.simulated import emulator
from ..backend.simulated.emulator import CompileError, EmulatorUnavailable, OutsideVocabulary
from .background import run
from .faults import RUNS, faults, line_of, moved, short
from .launch import Wish, find, plan
from .nvrtc import CompileFailed, Nvrtc, NvrtcMissing
from .screen import Screen, columns, wrapped

__all__ = ["CLEAN", "FAULTS", "NOT_CHECKED", "WRONG", "check"]

CLEAN, FAULTS, WRONG, NOT_CHECKED = 0, 1, 2, 3  # exit statuses
SIZES = (1, 33, 1000, 4099)
LINES = 20  # of traffic, the ones that move most
SHOWN = 12  # faults


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
            found, notes = faults(own, seed, rtol)
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
        _report(screen, own, found, notes)
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
    chosen = architectures or [a for a in TOOLKITS["13.0"] if a in known] or known
    expressions = list(dict.fromkeys(launch.expression for launch in launches))
    options = launches[0].kernel.options[len(OPTIONS):]
    text = file.source.text_for(" ".join(expressions))
    rows: dict[str, dict] = {e: {} for e in expressions}
    refused: dict[str, CompileFailed] = {}
    for a in sorted(chosen, key=capability):
        try:
            figures = run(lambda a=a: nvrtc.figures(text, file.source.label, a, expressions, options))
        except CompileFailed as error:
            refused[a] = error
            continue
        for e, found in figures.items():
            rows[e][a] = found
    if refused and (architectures or len(refused) == len(chosen)):
        raise refused[max(refused, key=capability)]  # the newest has everything that the source may ask for
    head = ["compiled by NVRTC " + nvrtc.version, "registers", "spills", "shared"]
    lines = []
    for e, by in rows.items():
        # architectures with the same figures share a line
        alike: dict[tuple, list[str]] = {}
        for a, found in by.items():
            alike.setdefault(found, []).append(a)
        lines += [[f"{e} {' '.join(names)}", str(r), str(s), str(m)] for (r, s, m), names in alike.items()]
    table = columns(screen, head, lines, flexible=(0,), right=(1, 2, 3))
    screen.lines(table or [" ".join(row) for row in lines])
    for a, failure in refused.items():
        why = next((line for line in str(failure).splitlines() if "error" in line), str(failure))
        screen.lines(wrapped(screen, f"not for {a}: ", why.strip(), lead=4))


# the report

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
    rows = moved(launch, seed)
    lines, room = [], max(20, screen.width - 70)
    for row in sorted(sorted(rows, key=lambda r: -r.transfers)[:LINES], key=lambda r: (r.file, r.line)):
        own = row.file == file.source.label
        place = str(row.line) if own else f"{row.file.rpartition('/')[2]}:{row.line}"
        code = line_of(row.file, row.line)
        ratio = row.transfers / max(row.least, 1)
        over = f"{ratio:.1f}x" if ratio >= 1.05 else ""
        lines.append([place, f"{row.space} {'write' if row.write else 'read'}", str(row.requests), str(row.transfers),
                      str(row.least), over, code if len(code) <= room else code[:room - 3] + "..."])
    if not lines:
        return
    what = "32-byte sectors of global memory, passes over the banks of shared memory"
    screen.lines(wrapped(screen, "  ", f"memory traffic with {short(launch)}: {what}"))
    head = ["line", "memory", "requests", "moves", "least", "over", "code"]
    table = columns(screen, head, lines, flexible=(6,), right=(2, 3, 4, 5))
    table = table or columns(screen, head[:-1], [row[:-1] for row in lines], right=(2, 3, 4, 5))
    screen.lines("  " + line for line in table)
