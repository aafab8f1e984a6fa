"""`tinytorch-gpu kernels`: every kernel of the library, who launches it, what the compilers and a GPU said of it."""
from __future__ import annotations

import json
import re
from dataclasses import dataclass

from ..backend import kernel_source
from ..backend.architecture import TOOLKITS
from ..backend.kernel_source import C_TYPES, Signature
from . import figures, library
from .nvrtc import Figures
from .screen import Screen, columns, wrapped

__all__ = ["Row", "markdown", "rows", "show"]

ORDER = ("float32", "float16", "bfloat16")
UNMEASURED = "not yet measured"
ARCHITECTURES = tuple(a for names in TOOLKITS.values() for a in names)


@dataclass(frozen=True)
class Row:
    """One `__global__` function: {expression: {architecture: (registers, spills, shared) or None: lacks a feature}}."""

    kernel: str
    file: str
    line: int
    operators: list[str]
    dtypes: list[str]
    moved: str  # bytes, in the words of the file's comment
    compiled: dict[str, dict[str, Figures | None]]
    measured: list[figures.Measured]
    old: bool  # the source has changed since it was compiled

    def of(self, architecture: str) -> list[Figures]:
        return [found for by in self.compiled.values() if (found := by.get(architecture)) is not None]

    def rate(self) -> str:
        best: dict[str, float] = {}
        for m in self.measured:
            best[m.dtype] = max(best.get(m.dtype, 0.0), m.rate)
        return ", ".join(f"{rate:.0f} {dtype}".strip() for dtype, rate in best.items()) or UNMEASURED


def rows(names=()) -> list[Row]:
    """The kernels of the library, or those of these names. Raises: LookupError for a name that none has."""
    sources = library.instantiations()
    path = figures.kernels_file()
    recorded = figures.load(path)["files"] if path else {}
    old = {file for file, _ in figures.stale(recorded, sources)}
    measured = figures.measured()
    found = []
    for source in kernel_source.library_files():
        for name, signature in kernel_source.read(source).signatures.items():
            needs = {e: n for e, n in sources.get(source.name, {}).items() if e.split("<")[0] == name}
            known = recorded.get(source.name, {}).get("kernels", {})
            found.append(Row(name, source.name, signature.line, library.operators_of(source.name, name),
                             _dtypes(signature, [types for _, types in needs.values()]),
                             _moved(source).get(name, "-"),
                             {e: known.get(e, {}) for e in needs}, [m for m in measured if m.kernel == name],
                             source.name in old))
    if unknown := set(names) - {row.kernel for row in found}:
        raise LookupError(f"[kernels] no kernel {', '.join(sorted(unknown))}: there are "
                          f"{', '.join(row.kernel for row in found)}")
    return [row for row in found if not names or row.kernel in names]


def _moved(path) -> dict[str, str]:
    """{kernel: bytes moved} from the table in the comment at the head of a file: name, what it computes, bytes."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("//"):
            break
        if row := re.fullmatch(r"//   (\w+)  +(?:.*\S  +)?(\S.*)", line):
            found[row[1]] = row[2]
    return found


def _dtypes(signature: Signature, combinations) -> list[str]:
    """Of the template's first type; of the arrays where there is no template."""
    if signature.types:
        found = {C_TYPES[types[0]].name for types in combinations if types}
    else:
        found = {p.kind.name for p in signature.parameters if p.pointer and not isinstance(p.kind, str)}
    return sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def show(screen: Screen, names=(), architecture=None, as_json=False) -> None:
    """Print the kernels: a table where it fits the screen, else a paragraph each; named kernels by instances."""
    found = rows(names)
    chosen = (architecture,) if architecture else ARCHITECTURES
    if as_json:
        screen.line(json.dumps([_plain(row, chosen) for row in found], indent=1))
        return
    table = _table(screen, found, chosen, bool(names))
    if table:
        screen.lines(table)
    else:
        for i, row in enumerate(found):
            screen.lines(([""] if i else []) + _paragraph(screen, row, chosen, bool(names)))
    screen.lines(_notes(screen, found, chosen))


def _plain(row: Row, chosen) -> dict:
    compiled = {e: {a: dict(zip(figures.COLUMNS, by[a] or ())) or None for a in chosen if a in by}
                for e, by in row.compiled.items()}
    return {"kernel": row.kernel, "file": row.file, "line": row.line, "operators": row.operators, "dtypes": row.dtypes,
            "bytes moved": row.moved,
            "changed since compiled": row.old, "compiled": compiled,
            "measured": [{"dtype": m.dtype, "gpu": m.gpu, "GB/s": m.rate} for m in row.measured]}


def _operators(row: Row) -> str:
    return ", ".join(row.operators) or "none yet"


def _table(screen, found, chosen, single) -> list[str]:
    """Lines, empty where the screen is too narrow for them."""
    head = ["kernel", "operators", "dtypes", *chosen, "spills", "shared", "GB/s"]
    lines = []
    for row in found:
        mark = "*" if row.old and row.compiled else ""
        everything = [f for a in chosen for f in row.of(a)]
        lines.append([row.kernel + mark, _operators(row), " ".join(row.dtypes),
                      *(figures.span(row.of(a), 0) for a in chosen), figures.span(everything, 1),
                      figures.span(everything, 2), row.rate()])
        if single:
            for e, by in row.compiled.items():
                own = [f for a in chosen if (f := by.get(a)) is not None]
                lines.append(["  " + e[len(row.kernel):], "", "", *(_registers(by, a) for a in chosen),
                              figures.span(own, 1), figures.span(own, 2), ""])
    return columns(screen, head, lines, flexible=(1, 2), right=range(3, len(head) - 1))


def _registers(by, architecture) -> str:
    if architecture not in by:
        return "-"
    return "lacks" if by[architecture] is None else str(by[architecture][0])


def _paragraph(screen, row: Row, chosen, single) -> list[str]:
    count = len(row.compiled)
    changed = ", changed since it was compiled" if row.old and row.compiled else ""
    lines = wrapped(screen, screen.strong(row.kernel) + " ",
                    f"{row.file}:{row.line}, {count} instance{'s' * (count != 1)} of {', '.join(row.dtypes)}{changed}",
                    lead=len(row.kernel) + 1)
    everything = [f for a in chosen for f in row.of(a)]
    facts = [("operators", _operators(row)),
             ("registers", ", ".join(f"{a}\u00a0{figures.span(row.of(a), 0)}" for a in chosen) if everything
              else "not compiled yet")]
    if single:
        facts += [(e[len(row.kernel):] or "()", ", ".join(f"{a}\u00a0{_registers(by, a)}" for a in chosen))
                  for e, by in row.compiled.items()]
    facts.insert(1, ("moves", row.moved))
    facts += [("spills", f"{figures.span(everything, 1)} bytes"), ("shared", f"{figures.span(everything, 2)} bytes"),
              ("GB/s", row.rate())]
    for name, value in facts:
        lines += wrapped(screen, f"  {name:<9} ", value, lead=max(12, len(name) + 3))
    return lines


def _notes(screen, found, chosen) -> list[str]:
    notes = []
    if figures.kernels_file() is None:
        notes.append("Registers, spills and shared memory: this installation has no kernels.json. A checkout has it, "
                     "and python tests/compile_matrix.py makes it.")
    else:
        notes.append("sm_*: registers of a thread, the least and the greatest of the instances; spills and shared "
                     "memory in bytes, over the architectures shown.")
    if any(row.old and row.compiled for row in found):
        notes.append("*: the source has changed since it was compiled; python tests/compile_matrix.py compiles it "
                     "again.")
    if not any(row.measured for row in found):
        notes.append("GB/s: no GPU has measured these kernels yet.")
    return [""] + [line for note in notes for line in wrapped(screen, "", note)]


def markdown() -> str:
    """The table of docs/kernels.md."""
    lines = ["| kernel | file | operators | dtypes | bytes moved | GB/s |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows():
        lines.append(f"| `{row.kernel}` | {row.file} | {_operators(row)} | {', '.join(row.dtypes)} | {row.moved} | "
                     f"{row.rate()} |")
    return "\n".join(lines) + "\n"
