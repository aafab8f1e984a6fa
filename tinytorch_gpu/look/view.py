"""View: what every function of `look` returns. Its data, as text, as a page, as files."""
from __future__ import annotations

import html
import json
import math
import sys
from pathlib import Path

from .drawing import Drawing
from .terminal import Paper

__all__ = ["View", "strict_json"]


class View:
    """A result to look at: `print()`, `str()`, a notebook's cell, `save("x.html")`; `data` holds the figures.

    `data` is made of dictionaries, lists, strings, numbers, booleans and None. Subclasses write `lines(paper)`,
    `page()` for HTML, `picture()` for .svg and .png, and `to_<ending>` for further files: `to_trace_json` is what
    .trace.json holds.
    """

    data: dict

    def lines(self, paper: Paper) -> list[str]:
        """The text, line by line, none wider than the paper."""
        raise NotImplementedError(f"[{type(self).__name__}] lines is not written")

    def page(self) -> str:
        """A whole HTML page that needs nothing else."""
        raise NotImplementedError(f"[{type(self).__name__}] page is not written")

    def picture(self) -> Drawing:
        """What .svg and .png show. Raises: ValueError where there is nothing to draw."""
        raise NotImplementedError(f"[{type(self).__name__}] picture is not written")

    def print(self, file=None, width: int | None = None) -> None:
        """Write the text to `file`, sys.stdout by default, in `width` columns: without it COLUMNS of the
        environment, the terminal's, or 80 elsewhere.

        Colour on terminals without NO_COLOR; plain ASCII where the stream's encoding lacks box characters.
        """
        file = sys.stdout if file is None else file
        for line in self.lines(Paper(file, width)):
            file.write(line + "\n")

    def __str__(self):
        return "\n".join(self.lines(Paper()))

    def _repr_html_(self) -> str:
        """For notebooks: the page, in a frame of its own, so that its style stays inside."""
        return (f'<iframe srcdoc="{html.escape(self.page(), quote=True)}" style="width:100%;height:{self.height()}px;'
                'border:1px solid #8884;border-radius:6px" sandbox="allow-scripts"></iframe>')

    def height(self) -> int:
        """Pixels of the notebook's frame."""
        return 520

    def endings(self) -> list[str]:
        """The endings that `save` knows."""
        found = [name[3:].replace("_", ".") for name in dir(self) if name.startswith("to_")]
        order = "html svg png dot json txt".split()
        return sorted(found, key=lambda e: (order.index(e) if e in order else len(order), e))

    def save(self, path) -> Path:
        """Write a file in the format of its ending; returns its path.

        Raises: TypeError for what is no path, ValueError for an ending that this view has not and where nothing is
        there to draw, ImportError for .png without matplotlib. No file is written then.
        """
        try:
            path = Path(path)
        except TypeError:
            raise TypeError(f"[save] expected a path, got {type(path).__name__}") from None
        known = self.endings()
        ending = max((e for e in known if path.name.lower()[1:].endswith("." + e)), key=len, default=None)
        if ending is None:
            raise ValueError(f"[save] {path.name!r} has no ending that {type(self).__name__} can write: use "
                             f"{', '.join('.' + e for e in known)}")
        content = getattr(self, "to_" + ending.replace(".", "_"))()
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content, encoding="utf-8", newline="\n")
        return path

    def to_html(self) -> str:
        return self.page()

    def to_svg(self) -> str:
        return self.picture().svg()

    def to_png(self) -> bytes:
        return self.picture().png()

    def to_json(self) -> str:
        return strict_json(self.data, indent=1) + "\n"

    def to_txt(self) -> str:
        return str(self) + "\n"


def strict_json(value, **options) -> str:
    """JSON; NaN and infinities, which it lacks, become "NaN", "Infinity", "-Infinity"."""
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        return json.dumps(strict(value), allow_nan=False, **options)


def strict(value):
    """`value` with strings in the place of numbers that JSON lacks."""
    if isinstance(value, dict):
        return {k: strict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
