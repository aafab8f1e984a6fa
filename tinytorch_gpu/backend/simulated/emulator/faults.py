"""What the runtime reports about a kernel, and the exception that says it with .cu line, block and thread."""

from __future__ import annotations

import ctypes
import dataclasses
import re

from .build import HERE, cuda_headers, run

u32, i32, u64, i64, text = ctypes.c_uint32, ctypes.c_int32, ctypes.c_uint64, ctypes.c_int64, ctypes.c_char


class RawRegion(ctypes.Structure):  # tt_Region of runtime/abi.hpp, as the following ones
    _fields_ = [
        ("low", u64), ("high", u64), ("argument", i32), ("float_size", i32), ("uninitialised", i32), ("shared", i32),
        ("granule_log2", i32), ("unused", i32), ("cells", u64), ("cell_count", u64),
    ]


class RawFault(ctypes.Structure):
    _fields_ = [
        ("kind", i32), ("line", i32), ("argument", i32), ("region", i32), ("offset", i64), ("address", u64),
        ("size", i32), ("write", i32), ("block", u32 * 3), ("thread", u32 * 3), ("pcs", u64 * 16), ("pc_count", i32),
        ("has_other", i32), ("other_pc", u64), ("other_block", u32 * 3), ("other_thread", u32 * 3),
        ("file", text * 256), ("text", text * 512),
    ]


class RawLaunch(ctypes.Structure):
    _fields_ = [
        ("call", u64), ("arguments", u64), ("shared_base", u64), ("dynamic_base", u64), ("grid", u32 * 3),
        ("block", u32 * 3), ("shared_bytes", u64), ("shared_shift", i64), ("schedule", i32), ("poison", i32),
        ("seed", u64), ("workers", i32), ("check", i32), ("seconds", ctypes.c_double), ("regions", u64),
        ("region_count", i32), ("shared_region_count", i32), ("module_base", u64), ("module_bytes", u64),
        ("fault", u64), ("output", u64),
        ("output_capacity", u64), ("output_size", u64), ("accesses", u64),
        ("traffic", u64), ("traffic_capacity", i32), ("traffic_count", i32),
    ]


class RawTraffic(ctypes.Structure):
    _fields_ = [
        ("pc", u64), ("requests", u64), ("transfers", u64), ("least", u64), ("write", i32), ("shared", i32),
    ]


class RawParameter(ctypes.Structure):
    _fields_ = [
        ("pointer", ctypes.c_int8), ("kind", text), ("align", ctypes.c_uint16), ("size", u32), ("base_kind", text),
        ("base_size", ctypes.c_int8), ("unused", ctypes.c_uint16),
    ]


KINDS = (
    "", "bounds", "misaligned", "race", "uninitialised", "barrier", "warp", "endless", "assert", "crash", "arithmetic",
    "stack",
)


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault of a kernel: its kind (one of KINDS), where it is in the .cu file, which block and thread.

    `calls` are the places it was called from, `other` is the place of the other access of a race.
    """

    kind: str
    kernel: str
    file: str
    line: int
    block: tuple[int, int, int]
    thread: tuple[int, int, int]
    message: str
    calls: tuple[str, ...] = ()
    other: str = ""


class KernelFault(RuntimeError):
    """A kernel did what it must not; `fault` has the parts of the message."""

    def __init__(self, fault: Fault):
        place = f"{fault.file}:{fault.line}: " if fault.line else ""
        calls = f" (called from {', '.join(fault.calls)})" if fault.calls else ""
        who = f", block {fault.block}, thread {fault.thread}" if fault.kind != "different results" else ""
        super().__init__(f"[{fault.kernel}] {place}{fault.message}{who}{calls}")
        self.fault = fault


def places(library, pcs) -> list[list[tuple[str, int]]]:
    """For each address of a library its (file, line) in the kernel's own sources, innermost of inlined calls first."""
    if not pcs:
        return []
    command = ["addr2line", "-e", str(library), "-a", "-i", *(hex(max(pc - 1, 0)) for pc in pcs)]
    system = (str(HERE), "/usr/", *map(str, cuda_headers()))
    found: list[list[tuple[str, int]]] = []
    for row in run(command).stdout.splitlines():
        if re.match(r"0x[0-9a-f]+$", row):
            found.append([])
            continue
        file, _, line = row.partition(" (")[0].rpartition(":")
        file = file.removeprefix("./")
        if line.isdecimal() and not file.startswith(system) and file != "??":
            found[-1].append((file, int(line)))
    return found


def explain(raw: RawFault, kernel: str, library, regions: list[str]) -> KernelFault:
    """The exception for what the runtime wrote; `regions` are the words for the launch's memory areas."""
    kind = KINDS[raw.kind]
    found = places(library, [*raw.pcs[: raw.pc_count], *([raw.other_pc] if raw.has_other else [])])
    other = found.pop() if raw.has_other else []
    chain = [place for frames in found for place in frames]
    file, line = raw.file.decode(errors="replace"), raw.line
    if chain:
        file, line = chain.pop(0)
    elif raw.pc_count:
        file, line = "", 0
    calls = tuple(f"{f}:{n}" for f, n in dict.fromkeys(chain) if (f, n) != (file, line))
    second = f"{other[0][0]}:{other[0][1]}" if other else ""
    message = _message(kind, raw, regions, second)
    return KernelFault(Fault(kind, kernel, file, line, tuple(raw.block), tuple(raw.thread), message, calls, second))


def _message(kind: str, raw: RawFault, regions: list[str], other) -> str:
    note = raw.text.decode(errors="replace")
    where = regions[raw.region] if raw.region >= 0 else "memory"
    does = "writes" if raw.write else "reads"
    if kind == "bounds":
        return f"out of bounds: {note}" if note else f"out of bounds: {does} {raw.size} bytes {_outside(raw, where)}"
    if kind == "misaligned":
        return f"misaligned: an access that needs {note}-byte alignment at byte {raw.offset} of {where}" if (
            raw.region >= 0) else f"misaligned: an access that needs {note}-byte alignment at {raw.address:#x}"
    if kind == "race":
        did = "wrote" if raw.has_other == 2 else "read"
        line = f" at {other}" if other else ""
        return (f"race: {does} byte {raw.offset} of {where}, which block {tuple(raw.other_block)}, thread "
                f"{tuple(raw.other_thread)} {did}{line} with nothing between that orders the two (a barrier, "
                "__syncwarp, or a fence with an atomic)")
    if kind == "uninitialised":
        shared = " (is a barrier missing before the read?)" if "shared" in where else ""
        return (f"uninitialised: reads {raw.size} bytes at byte {raw.offset} of {where}, which nothing has written"
                f"{shared}")
    if kind in ("barrier", "warp"):
        return f"divergent {'barrier' if kind == 'barrier' else 'warp function'}: {note}"
    if kind == "endless":
        return "endless loop: the launch passed its time limit here (TINYTORCH_EMULATOR_SECONDS)"
    if kind == "assert":
        return f"assertion failed: {note}"
    if kind == "arithmetic":
        return "an integer division by zero"
    if kind == "stack":
        return note or "stack overflow: more than 128 KiB of local variables and calls"
    return f"crash: an access to the address {raw.address:#x} (the check build says of which argument)"


def _outside(raw: RawFault, where: str) -> str:
    length = int(re.search(r"(\d+) bytes\)?$", where)[1]) if re.search(r"(\d+) bytes\)?$", where) else 0
    if raw.region < 0 or raw.offset < -(1 << 24) or raw.offset > length + (1 << 24):
        return f"at {raw.address:#x}, which lies in no argument and no shared array"
    if raw.offset < 0:
        return f"{-raw.offset} bytes before the start of {where}"
    if raw.offset < length:
        return f"from byte {raw.offset} on, past the end of {where}"
    return f"{raw.offset - length} bytes past the end of {where}"
