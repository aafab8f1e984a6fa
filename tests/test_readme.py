"""The README's programs run, and print what it says."""
from __future__ import annotations

import re
from pathlib import Path

import pytest

import tinytorch_gpu as tt

README = Path(__file__).resolve().parents[1] / "README.md"


def blocks():
    text = README.read_text(encoding="utf-8")
    programs = list(re.finditer(r"```python\n(.*?)```", text, re.S))
    for found, following in zip(programs, [*programs[1:], None]):
        end = following.start() if following else len(text)
        printed = re.search(r"prints.*?\n\n```\n(.*?)```", text[found.end():end], re.S)
        yield found[1], printed[1] if printed else None


@pytest.mark.parametrize(("program", "printed"), list(blocks()))
def test_programs(program, printed, capsys, device):
    assert printed is not None, "a program of the README does not show what it prints"
    before = tt.get_default_device()
    tt.set_default_device("cpu")  # the README says whose output it shows
    try:
        exec(compile(program, "README.md", "exec"), {"__name__": "readme"})
    finally:
        tt.set_default_device(before)
    out = capsys.readouterr().out
    # digits that another BLAS or compiler could round otherwise are compared to three places
    number = re.compile(r"\d+\.\d+")
    assert number.sub("#", out) == number.sub("#", printed)
    for got, shown in zip(number.findall(out), number.findall(printed)):
        assert float(got) == pytest.approx(float(shown), rel=2e-3, abs=2e-3)
