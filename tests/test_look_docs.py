"""The programs of the pages about look run and print what stands under them. Run as a program it writes them anew.

    python tests/test_look_docs.py                   every page
    python tests/test_look_docs.py docs/look/plan.md one page

Under a program stands ```text, whose figures hold to 2%, or ```text measured, where only the words are compared: times
and what follows from them differ from machine to machine.
"""
from __future__ import annotations

import contextlib
import io
import linecache
import os
import re
import sys
from pathlib import Path

import pytest

import tinytorch_gpu as tt
from tinytorch_gpu.backend import threads

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n```text( measured)?\n(.*?)```\n)?", re.S)
NUMBER = re.compile(r"\d+\.\d+(?:e[+-]\d+)?")
# sizes of Python's objects, of what else there is in the process, and moments that differ by little more
VARIES = re.compile(r"^(?:graph records|workspace|unknown|made before|free in pool).*$"
                    r"|^largest workspaces$.*?^over time$.*?^$|\([\d.]+ (?:B|KiB)\)", re.M | re.S)
MEASURED = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"  # a number, with its unit
                      r"(?: ?(?:ns|us|µs|ms|s|min|h|B|KiB|MiB|GiB|TiB|[kMGT]?FLOP(?:/s|s)?|[kMGT]?B/s)\b)?")
SPACED = re.compile(r" +|─+")
DRAWN = re.compile(r"[─━═█▓▒░●▲■◆○△□◇·#=.+*|│┼┌┐└┘├┤┬┴-]+")  # bars and rules, as long as a figure's width


def pages():
    return [DOCS / "look.md", *sorted((DOCS / "look").glob("*.md"))]


def printed(programs):
    """What each program prints, in one namespace; views show their lines as those of example.py."""
    space = {"__name__": "example"}
    for program in programs:
        linecache.cache["example.py"] = (len(program), None, program.splitlines(True), "example.py")
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(program, "example.py", "exec"), space)
        yield out.getvalue()


def words(text):
    """`text` without figures, bars and the spaces that align them."""
    return DRAWN.sub(" ", MEASURED.sub("#", text)).split()


def compare(got, shown, measured, program) -> None:
    """What was printed with what the page shows."""
    got, shown = VARIES.sub("", got), VARIES.sub("", shown)
    if measured:
        assert words(got) == words(shown), program
        return
    got, shown = SPACED.sub(" ", got), SPACED.sub(" ", shown)  # a column is as wide as its widest figure
    assert NUMBER.sub("#", got) == NUMBER.sub("#", shown), program
    # another BLAS rounds otherwise
    assert [float(n) for n in NUMBER.findall(got)] == pytest.approx([float(n) for n in NUMBER.findall(shown)],
                                                                    rel=2e-2), program


@contextlib.contextmanager
def on_the_cpu():
    before, columns = tt.get_default_device(), os.environ.pop("COLUMNS", None)
    several, threads._threads = threads._threads, 1  # how many pieces are there at once is up to the system
    tt.set_default_device("cpu")  # whose figures are shown
    try:
        yield
    finally:
        tt.set_default_device(before)
        threads._threads = several
        if columns is not None:
            os.environ["COLUMNS"] = columns
        linecache.cache.pop("example.py", None)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(DOCS).as_posix())
def test_programs_print_what_is_shown(page, device):
    if device.type != "cpu":
        pytest.skip("the pages show the CPU's figures, which the run on the CPU compares")
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    assert any(shown for _, _, shown in found), f"{page.name} shows nothing"
    with on_the_cpu():
        for got, (program, measured, shown) in zip(printed([f[0] for f in found]), found, strict=True):
            compare(got, shown, measured, program)


def test_measured_blocks_are_compared_by_their_words():
    assert words("Linear  12.5 ms  1.5x █████") == words("Linear  3 us   0.2x ██")
    assert words("Linear  12.5 ms") != words("ReLU  12.5 ms")


def write(page) -> None:
    """Put what the programs of a page print now below them."""
    text = page.read_text(encoding="utf-8")
    with on_the_cpu():
        out = printed([m[1] for m in BLOCK.finditer(text)])

        def renewed(m):
            shown = next(out)
            return f"```python\n{m[1]}```\n" + (f"\n```text{m[2] or ''}\n{shown}```\n" if shown else "")

        page.write_text(BLOCK.sub(renewed, text), encoding="utf-8")


def main() -> None:
    for page in [Path(p) for p in sys.argv[1:]] or pages():
        write(page)


if __name__ == "__main__":
    main()
