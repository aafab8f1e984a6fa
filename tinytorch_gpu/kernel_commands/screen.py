"""Where the commands print: its width, whether it has colour, which characters it can show."""
from __future__ import annotations

import sys
import textwrap

from ..look.terminal import Paper

__all__ = ["Screen", "columns", "wrapped"]

PIPE = 400  # columns of a pipe: a line for each kernel, for grep


class Screen(Paper):
    """A text stream and what it can show. `COLUMNS` sets the width, `NO_COLOR` takes colour away."""

    def __init__(self, stream=None):
        self.stream = stream or sys.stdout
        super().__init__(self.stream, pipe=PIPE)
        self.names: dict[str, str] = {}  # a file's full name and the one that the user gave

    def line(self, text="") -> None:
        text = self.renamed(text)
        text = text.replace("\u00a0", " ")  # which only kept a line from breaking there
        # a user's file may have names that this screen cannot show
        self.stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding) + "\n")

    def renamed(self, text) -> str:
        """With files as the user named them."""
        for full, short in self.names.items():
            text = text.replace(full, short)
        return text

    def lines(self, lines) -> None:
        for text in lines:
            self.line(text)

    def bad(self, text) -> str:
        return f"\033[31m{text}\033[0m" if self.color else text


def wrapped(screen: Screen, first: str, text: str, lead: int | None = None) -> list[str]:
    """`text` behind `first`, as many lines as the screen needs, the later ones indented by `lead` columns."""
    lead = len(first) if lead is None else lead
    inner = max(20, screen.width - lead)
    pieces = textwrap.wrap(screen.renamed(text), inner, break_long_words=False, break_on_hyphens=False) or [""]
    return [first + pieces[0], *(" " * lead + piece for piece in pieces[1:])]


def columns(screen: Screen, head, rows, flexible=(), right=()) -> list[str]:
    """A table; the `flexible` columns wrap to what the others leave. Empty where the screen is too narrow for it."""
    widths = [max(len(str(r[i])) for r in (head, *rows)) for i in range(len(head))]
    room = screen.width - sum(w for i, w in enumerate(widths) if i not in flexible) - 2 * (len(head) - 1)
    for left, i in zip(range(len(flexible), 0, -1), sorted(flexible, key=lambda i: widths[i])):
        widths[i] = min(widths[i], room // left)
        if widths[i] < max(len(word) for r in (head, *rows) for word in (str(r[i]) or " ").split(" ")):
            return []
        room -= widths[i]
    if room < 0:
        return []

    def words(text, width):
        return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]

    def lines(row):
        cells = [words(str(c), widths[i]) if i in flexible else [str(c)] for i, c in enumerate(row)]
        for k in range(max(map(len, cells))):
            parts = [c[k] if k < len(c) else "" for c in cells]
            yield "  ".join(p.rjust(w) if i in right else p.ljust(w)
                            for i, (p, w) in enumerate(zip(parts, widths))).rstrip()

    out = [screen.strong(line) for line in lines(head)]
    out.append("  ".join(screen.h * w for w in widths))
    for row in rows:
        out += lines(row)
    return out
