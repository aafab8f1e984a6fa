"""Text pieces of the views: what a stream can show, tables that fit its width, figures in few characters."""
from __future__ import annotations

import os
import shutil
import unicodedata
from dataclasses import dataclass

__all__ = ["Column", "Paper", "Tables", "bar", "compact", "count_of", "figure", "shape_of", "size_of", "table",
           "tables", "time_of", "with_notes", "wrap"]

_BOX = dict(h="─", v="│", tl="┌", tr="┐", bl="└", br="┘", left="├", right="┤", top="┬", bottom="┴", cross="┼", down="↓",
            up="↑", to="→", by="←", times="×", more="…", norm="‖", full="█", dot="·", d="∂")
_ASCII = dict(h="-", v="|", tl="+", tr="+", bl="+", br="+", left="+", right="+", top="+", bottom="+", cross="+",
              down="v", up="^", to="->", by="<-", times="x", more="...", norm="|", full="#", dot=".", d="d")
_SHORT = {"float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16", "int64": "i64", "int32": "i32",
          "int16": "i16", "int8": "i8", "uint8": "u8", "bool": "bool", "complex64": "c64", "complex128": "c128"}


class Paper:
    """What is written on: its width in columns, whether it has colour, and its signs (`paper.h`, `paper.times`, ...).

    The width is the argument, else the environment's COLUMNS, else that of a terminal, else `pipe`. Colour: on
    terminals without NO_COLOR. ASCII signs where the stream's encoding lacks the others.
    """

    def __init__(self, file=None, width=None, pipe=80):
        terminal = file is not None and hasattr(file, "isatty") and file.isatty()
        if width is None:
            given = os.environ.get("COLUMNS", "")
            asked = terminal or (given.isdecimal() and int(given) > 0)
            width = max(20, shutil.get_terminal_size((80, 24)).columns) if asked else pipe
        if not isinstance(width, int) or isinstance(width, bool) or width < 20:
            raise ValueError(f"[print] width must be a whole number of at least 20 columns, got {width!r}")
        self.width = width
        self.rows = max(20, shutil.get_terminal_size((80, 24)).lines - 8) if terminal else 44
        self.color = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.encoding = "utf-8" if file is None else getattr(file, "encoding", None) or "utf-8"
        self.signs = _BOX if self.shows("".join(_BOX.values())) else _ASCII
        self.ascii = self.signs is _ASCII

    def __getattr__(self, name):
        try:
            return self.__dict__["signs"][name]
        except KeyError:
            raise AttributeError(f"a Paper has no sign '{name}'") from None

    def shows(self, text) -> bool:
        """Whether the stream's encoding has these characters."""
        try:
            text.encode(self.encoding)
        except (UnicodeEncodeError, LookupError):
            return False
        return True

    def clean(self, text) -> str:
        """`text` in one line, its signs in those of the paper, and what the stream lacks written as escapes."""
        text = "".join(c if c.isprintable() else " " for c in text)
        if self.ascii and not text.isascii():
            for name in ("more", "times", "to", "by"):
                text = text.replace(_BOX[name], self.signs[name])
        if self.shows(text):
            return text
        encoding = self.encoding if self.shows("a") else "ascii"
        return text.encode(encoding, "backslashreplace").decode(encoding)

    def cut(self, text, width, right=False) -> str:
        """`text` in exactly `width` columns, its end cut off where it is longer."""
        text = self.clean(text)
        if columns(text) > width:
            more = self.more[:width]
            while text and columns(text) > width - len(more):
                text = text[:-1]
            text += more
        fill = " " * (width - columns(text))
        return fill + text if right else text + fill

    def strong(self, text) -> str:
        """Bold, where there is colour."""
        return f"\033[1m{text}\033[0m" if self.color and text.strip() else text


def columns(text: str) -> int:
    """The columns that a text takes: East Asian characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


@dataclass
class Column:
    """`keep`: columns with a higher one are left out first where the width is short; `least`: a flexible column shrinks
    to that; `rule`: a line is drawn before it."""

    title: str
    right: bool = False
    keep: int = 0
    least: int | None = None
    rule: bool = False


def table(paper: Paper, head: list[Column], rows: list[list[str]]) -> tuple[list[str], list[str]]:
    """(lines, titles of the columns that were left out). Never wider than the paper."""
    shown = [i for i, c in enumerate(head) if any(row[i] for row in rows) or c.keep == 0]
    widths = {i: max([columns(paper.clean(head[i].title)), *(columns(paper.clean(row[i])) for row in rows)])
              for i in shown}
    left_out = []

    def total(shrunk=False):
        return sum(min(widths[i], head[i].least) if shrunk and head[i].least is not None else widths[i]
                   for i in shown) + sum(_gap(head[i], n) for n, i in enumerate(shown))

    while total(shrunk=True) > paper.width and any(head[i].keep for i in shown):
        worst = max(shown, key=lambda i: (head[i].keep, i))
        shown.remove(worst)
        left_out.append(head[worst].title)
    floors = {i: widths[i] if (least := head[i].least) is None else least for i in shown}
    for floor in (floors, dict.fromkeys(shown, 1)):  # flexible columns first, the widest of them most; then all
        while total() > paper.width and (able := [i for i in shown if widths[i] > floor[i]]):
            widths[max(able, key=lambda i: widths[i])] -= 1
    lines = [paper.strong(_row(paper, head, shown, widths, [c.title for c in head])),
             "".join((paper.h + paper.cross + paper.h if head[i].rule and n else paper.h * _gap(head[i], n))
                     + paper.h * widths[i] for n, i in enumerate(shown))]
    lines += [_row(paper, head, shown, widths, row) for row in rows]
    return lines, left_out


class Tables:
    """Writes tables and remembers which columns found no room."""

    def __init__(self, paper: Paper):
        self.paper = paper
        self._left: list[tuple[str, str]] = []  # title of a column, and of the first one of its table
        self._there: set[str] = set()

    def write(self, head, rows, shown: int | None = None) -> list[str]:
        """The lines of a table, of its first `shown` rows and how many more there are (None: of all)."""
        lines, left_out = table(self.paper, head, rows[:shown])
        self._left += [(t, head[0].title) for t in reversed(left_out)]
        self._there.update(c.title for i, c in enumerate(head) if c.title not in left_out and any(r[i] for r in rows))
        if shown is not None and len(rows) > shown:
            lines.append(f"and {len(rows) - shown:,} more, in data and .html")
        return lines

    def hidden(self) -> list[str]:
        """The columns that were left out; of which table, where the column of another one is there."""
        return list(dict.fromkeys(f"{t} of {first}" if first and t in self._there else t for t, first in self._left))


def tables(paper: Paper, several, shown: int) -> tuple[list[str], list[str]]:
    """(lines of tables one below the other, titles of the columns that were left out). `several` yields (head, rows);
    of each the first `shown` rows are written, and how many more there are."""
    written = Tables(paper)
    lines = [line for head, rows in several for line in ("", *written.write(head, rows, shown))]
    return lines, written.hidden()


def with_notes(paper: Paper, notes, hidden=(), tip="") -> list[str]:
    """The end of a text: an empty line and what there is to note, the columns that were left out among it; [] for
    nothing. `tip`: how to see those."""
    notes = [*notes, *([f"not shown in {paper.width} columns: {', '.join(hidden)}{tip}"] if hidden else [])]
    lines = [""] if notes else []
    for note in notes:
        lines += wrap(paper, f"{paper.dot} {note}", "  ")
    return lines


def _gap(column, n) -> int:
    return 0 if n == 0 else 3 if column.rule else 2


def _row(paper, head, shown, widths, cells) -> str:
    text = ""
    for n, i in enumerate(shown):
        text += "" if n == 0 else f" {paper.v} " if head[i].rule else "  "
        text += paper.cut(cells[i], widths[i], head[i].right)
    return text.rstrip()


def wrap(paper: Paper, text: str, indent: str = "") -> list[str]:
    """A paragraph in as many lines as it needs, the later ones indented."""
    lines, line = [], ""
    for word in paper.clean(text).split():
        if line and columns(line) + 1 + columns(word) > paper.width:
            lines.append(line)
            line = indent + word
        else:
            line = f"{line} {word}" if line else word
        while columns(line) > paper.width:
            n = _fitting(line, paper.width)
            lines.append(line[:n])
            line = indent + line[n:]
    return [*lines, line] if line else lines


def _fitting(text, width) -> int:
    """How many characters of a text fit into a width."""
    used = 0
    for n, c in enumerate(text):
        used += columns(c)
        if used > width:
            return n
    return len(text)


def bar(paper: Paper, share: float, width: int) -> str:
    """A horizontal bar of `share` of `width`."""
    return paper.full * round(max(0.0, min(1.0, share)) * width)


def figure(x, digits: int = 3) -> str:
    """A number in few characters; "" for None."""
    return "" if x is None else f"{x:.{digits}g}"


def size_of(n) -> str:
    """Bytes, in units of 1024; "" for None."""
    if n is None:
        return ""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n) < 1024:
            return f"{n:.0f} {unit}" if unit == "B" or n >= 100 else f"{n:.3g} {unit}"
        n /= 1024
    return f"{n:.4g} TiB"


def time_of(seconds) -> str:
    """Seconds, in ns, us, ms or s; "" for None."""
    if seconds is None:
        return ""
    for unit, size in (("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3)):
        if abs(seconds) < 999.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s" if abs(seconds) < 999.5 else f"{seconds:,.0f} s"


def compact(dtype: str) -> str:
    """float32 as f32."""
    return _SHORT.get(dtype, dtype)


def shape_of(dtype, shape) -> str:
    """f32[4,2]."""
    return f"{compact(dtype)}[{','.join(map(str, shape))}]"


def count_of(n: int, word: str) -> str:
    """1 operator, 2 operators; leaf, leaves."""
    plural = word[:-1] + "ves" if word.endswith("f") else word + "s"
    return f"{n:,} {word if n == 1 else plural}"
