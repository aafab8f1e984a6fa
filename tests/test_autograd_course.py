"""docs/autograd.md: its programs run, print what stands under them and draw its pictures. As a program it writes both.

    python tests/test_autograd_course.py

The pictures are what the programs save below autograd/; texts and figures in them are compared as those of the page.
"""
from __future__ import annotations

import contextlib
import re
import xml.etree.ElementTree as ElementTree

import pytest
from test_look_docs import BLOCK, DOCS, NUMBER, compare, on_the_cpu, printed, words, write

import tinytorch_gpu as tt

PAGE = DOCS / "autograd.md"
PICTURES = DOCS / "autograd"
# pictures of times, and of bytes among which are Python's own: their words are compared
MEASURED = {"checkpoints", "fusion", "growth", "memory", "overhead", "precision"}
SHOWN = re.compile(r"!\[[^]]*\]\((autograd/[\w-]+\.svg)\)")


def texts(picture) -> list[str]:
    """The texts of a picture."""
    return ["".join(e.itertext()) for e in ElementTree.fromstring(picture).iter() if e.tag.endswith("text")]


def numbers(picture) -> list[float]:
    return [float(n) for n in NUMBER.findall(picture)]


@pytest.fixture(scope="module")
def course(tmp_path_factory, request):
    """(what the programs of the page print, the folder of their pictures), run once for all tests."""
    if request.config.getoption("--device") != "cpu":  # before minutes of programs run
        pytest.skip("the page shows the CPU's figures, which the run on the CPU compares")
    folder = tmp_path_factory.mktemp("course")
    (folder / "autograd").mkdir()
    found = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    tt.manual_seed(0)
    with contextlib.chdir(folder), on_the_cpu():
        return list(zip(found, printed([f[0] for f in found]), strict=True)), folder


@pytest.fixture(autouse=True)
def once(device):
    if device.type != "cpu":
        pytest.skip("the page shows the CPU's figures, which the run on the CPU compares")


def test_programs_print_what_is_shown(course):
    for (program, measured, shown), got in course[0]:
        compare(got, shown, measured, program)


def test_pictures_are_those_of_the_programs(course):
    shown = set(SHOWN.findall(PAGE.read_text(encoding="utf-8")))
    drawn = {f"autograd/{p.name}" for p in (course[1] / "autograd").iterdir()}
    kept = {f"autograd/{p.name}" for p in PICTURES.iterdir()}
    assert drawn == shown == kept
    for name in sorted(drawn):
        got, want = ((folder / name).read_text(encoding="utf-8") for folder in (course[1], DOCS))
        if name[9:-4] in MEASURED:
            assert set(words(" ".join(texts(got)))) == set(words(" ".join(texts(want)))), name
        else:
            assert [NUMBER.sub("#", t) for t in texts(got)] == [NUMBER.sub("#", t) for t in texts(want)], name
            assert numbers(got) == pytest.approx(numbers(want), rel=2e-2, abs=0.5), name


def program(*parts) -> str:
    """The page's only program with these parts."""
    found = [f[0] for f in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if all(p in f[0] for p in parts)]
    assert len(found) == 1, parts
    return found[0]


def test_other_numbers_give_other_figures():
    start = "import tinytorch_gpu as tt\nfrom tinytorch_gpu import look, nn\n"
    chain = program("(x + 2) * 3").replace("5.0", "7.5")
    meeting = program("look.trace((x + y) * (x - y)").replace("3.0", "4.0")
    with on_the_cpu():
        _, one, two = printed([start, chain, meeting])
    assert re.search(r"^#2 Mul +#1 \* 3 +28.5$", one, re.M) and re.search(r"^x +3 \(#1\)$", one, re.M)
    assert re.search(r"^x +6 \(#2\) \+ 2 \(#1\) = 8$", two, re.M)  # 2 x
    assert re.search(r"^y +-6 \(#2\) \+ 2 \(#1\) = -4$", two, re.M)  # -2 y


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    for old in PICTURES.iterdir():
        old.unlink()
    tt.manual_seed(0)
    with contextlib.chdir(DOCS):
        write(PAGE)


if __name__ == "__main__":
    main()
