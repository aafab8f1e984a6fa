"""The programs of docs/look.md run and print what stands under them. Run as a program it writes them anew."""
from __future__ import annotations

import contextlib
import io
import linecache
import re
from pathlib import Path

import pytest

import tinytorch_gpu as tt

PAGE = Path(__file__).resolve().parents[1] / "docs" / "look.md"
BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.S)
# sizes of Python's objects, of what else there is in the process, and moments that differ by little more
VARIES = re.compile(r"^(?:graph records|workspace|unknown|made before|free in pool).*$"
                    r"|^largest workspaces$.*?^over time$.*?^$|\([\d.]+ (?:B|KiB)\)", re.M | re.S)


def printed(programs):
    """What each program prints, in one namespace; views show their lines as those of example.py."""
    space = {"__name__": "example"}
    for program in programs:
        linecache.cache["example.py"] = (len(program), None, program.splitlines(True), "example.py")
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(program, "example.py", "exec"), space)
        yield out.getvalue()


def test_programs_print_what_is_shown(device):
    before = tt.get_default_device()
    tt.set_default_device("cpu")  # whose figures are shown
    try:
        found = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
        assert len(found) > 4
        number = re.compile(r"\d+\.\d+(?:e[+-]\d+)?")
        for got, (_, shown) in zip(printed([program for program, _ in found]), found, strict=True):
            got, shown = VARIES.sub("", got), VARIES.sub("", shown)
            assert number.sub("#", got) == number.sub("#", shown)
            # another BLAS rounds otherwise
            assert [float(n) for n in number.findall(got)] == pytest.approx([float(n) for n in number.findall(shown)],
                                                                            rel=2e-2)
    finally:
        tt.set_default_device(before)
        linecache.cache.pop("example.py", None)


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    out = printed([m[1] for m in BLOCK.finditer(text)])

    def renewed(m):
        shown = next(out)
        return f"```python\n{m[1]}```\n" + (f"\n```text\n{shown}```\n" if shown else "")

    PAGE.write_text(BLOCK.sub(renewed, text), encoding="utf-8")


if __name__ == "__main__":
    main()
