"""What every view of look can do, asked of each one: text for any width and stream, pages, files, plain data, and a
clear word where there is nothing to see.

A new view needs a line in CASES. Every public name of look is a view, its class, or in NO_VIEW with the reason.
"""
from __future__ import annotations

import inspect
import io
import json
import math
import re
import struct
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from browser import Browser, Missing
from floors import changed, floors
from pages import Page, refused, whole

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn, optim
from tinytorch_gpu.look.terminal import columns

SVG = "{http://www.w3.org/2000/svg}"
WIDTHS = (20, 60, 80, 200)
NASTY = "up</script><i>&\"'$x_1$"  # a name that means something to HTML, XML, scripts and matplotlib


# one small model, and what each view shows of it


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Linear(8, 4)
        self.add_module(NASTY, nn.Linear(4, 8))

    def forward(self, x):
        return x + self.down(tt.relu(self._modules[NASTY](x)))


class Net(nn.Module):
    def __init__(self, depth=3):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.blocks = nn.ModuleList([Block() for _ in range(depth)])

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


Net.__qualname__ = Net.__name__ = NASTY


def square(out, *batch):
    return out.square().mean()


def trained():
    """A model, its optimizer, and a function that does one training step and returns its loss."""
    tt.manual_seed(1)
    model = Net()
    optimizer = optim.Adam(model.parameters())

    def step():
        optimizer.zero_grad()
        loss = square(model(tt.ones(2, 3)))
        loss.backward()
        optimizer.step()
        return loss.detach()

    return model, optimizer, step


def recorded():
    with look.record():
        loss = square(Net()(tt.ones(2, 3)))
        loss.backward()
    return loss


def watched(make, steps=3):
    """The view `make(model, optimizer)` after a block with some steps; none of them without a view of a block."""
    model, optimizer, step = trained()
    view = make(model, optimizer)
    with view:
        for _ in range(steps):
            step()
    return view


def shown_nan():
    with look.nan() as view:
        tt.log(-(tt.ones(2, requires_grad=True) * 2)).sum().backward()
    return view


def written(folder, steps=8):
    """A run's folder with all that a report can show."""
    model, optimizer, step = trained()
    about = {"program": NASTY, "settings": {NASTY: NASTY, "lr": 0.1}, "environment": {"trained on": NASTY}}
    recording = look.Recording(folder, model, optimizer, steps, about)
    rows = ["step,loss,lr"]
    for k in range(1, steps + 1):
        recording.begin(k)
        rows.append(f"{k},{step().item()},{0.1 / k}")
        recording.end()
    recording.close()
    recording.save()
    (folder / "metrics.csv").write_text("\n".join(rows))
    return folder


def grown(depths):
    return look.growth(Net, depths=depths, make_batch=lambda: tt.ones(2, 3), loss=square, repeats=0)


def precise(model):
    return look.precision(model, tt.ones(2, 3), square, steps=2, repeats=1, scales=[1.0, 1024.0])


def planned(layers):
    return look.plan({"layers": layers, "width": 8, "heads": 2, "vocabulary": 16, "context": 4})


def detached():
    return tt.ones(3).detach()


@dataclass
class Case:
    """One view. `make(folder)`: of something; `word` of it is read in the text and on the page. `empty(folder)`: of
    nothing, which raises or makes a view; `says`: what is said then. `endings`: files beside those of every view."""

    make: Callable
    word: str
    empty: Callable
    says: str
    endings: tuple = ()


BEFORE = "nothing was watched: "
GRAPHLESS = r"the tensor of shape \[3\] has no graph; it was made under no_grad\(\), by detach\(\).*: compute it with"
CASES = {
    "graph": Case(lambda f: look.graph(recorded()), "Linear", lambda f: look.graph(detached()), GRAPHLESS, ("dot",)),
    "trace": Case(lambda f: look.trace(square(Net()(tt.ones(2, 3)))), "Linear", lambda f: look.trace(detached()),
                  GRAPHLESS),
    "fusion": Case(lambda f: look.fusion(recorded()), "relu", lambda f: look.fusion(detached()), GRAPHLESS),
    "explain": Case(lambda f: look.explain("div"), "grad / b", lambda f: look.explain("isnan"), "it has no gradient"),
    "tensor": Case(lambda f: look.tensor(tt.arange(6.0).reshape(2, 3).T), "strides",
                   lambda f: look.tensor(tt.ones(0, 3)), "0 elements"),
    "gradients": Case(lambda f: watched(look.gradients), "blocks.0.down", lambda f: look.gradients(Net()),
                      "no gradient was measured: call it after backward"),
    "memory": Case(lambda f: watched(look.memory), "saved for backward", lambda f: watched(look.memory, 0),
                   "no operator was recorded"),
    "nan": Case(lambda f: shown_nan(), "Log made NaN", lambda f: look.nan(), BEFORE),
    "profile": Case(lambda f: watched(lambda model, optimizer: look.profile(model)), "Linear", lambda f: look.profile(),
                    BEFORE, ("trace.json",)),
    "step": Case(lambda f: watched(look.step), "norm of the gradient", lambda f: look.step(Net()), BEFORE),
    "report": Case(lambda f: look.report(written(f)), "trained on", look.report, "holds no run: it has neither"),
    "growth": Case(lambda f: grown([1, 2, 4]), "depth", lambda f: grown([]), "depth"),
    "checkpointing": Case(lambda f: look.checkpointing(Net(), tt.ones(2, 3), square, repeats=1), "blocks",
                          lambda f: look.checkpointing(nn.Linear(3, 3), tt.ones(2, 3), square),
                          "no modules repeat in a Sequential or ModuleList of Linear: pass"),
    "precision": Case(lambda f: precise(Net()), "float16 autocast", lambda f: precise(nn.ReLU()),
                      "no parameter of ReLU requires a gradient"),
    "overhead": Case(lambda f: look.overhead(Net(), tt.ones(2, 3), repeats=1), "no_grad",
                     lambda f: look.overhead(detached), GRAPHLESS),
    "plan": Case(lambda f: planned(2), "parameters", lambda f: look.plan({}), "the config lacks layers, width"),
}
NO_VIEW = {
    "View": "the class of all views",
    "PlanConfig": "what look.plan is asked",
    "Recording": "writes what look.report shows",
    "record": "a block that notes what look.graph shows",
    "nvtx": "a block whose ranges a profiler of NVIDIA shows",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A function that gives the view of a name, made once."""
    found: dict = {}

    def of(name):
        if name not in found:
            tt.manual_seed(1)
            found[name] = CASES[name].make(tmp_path_factory.mktemp(name))
        return found[name]

    return of


@pytest.fixture(params=CASES)
def name(request):
    return request.param


@pytest.fixture
def case(name):
    return CASES[name]


@pytest.fixture
def view(name, built):
    return built(name)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for variable in ("COLUMNS", "NO_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TERM", "xterm")


# the table is complete


def test_every_public_name_is_here(built):
    names = {n for n, v in vars(look).items()
             if not n.startswith("_") and not inspect.ismodule(v) and n != "annotations"}
    assert names == set(look.__all__) and not set(CASES) & set(NO_VIEW)
    made = {type(built(n)).__name__ for n in CASES}
    assert len(made) == len(CASES)
    assert names == {*CASES, *made, *NO_VIEW}


def test_every_class_of_views_is_here(built):
    def below(cls):
        return {cls, *(c for s in cls.__subclasses__() for c in below(s))}

    classes = {c for c in below(look.View) if c.__module__.startswith("tinytorch_gpu.look.")} - {look.View}
    assert classes == {type(built(n)) for n in CASES}


# text


class Stream(io.TextIOWrapper):
    def __init__(self, encoding="utf-8", terminal=False):
        super().__init__(io.BytesIO(), encoding=encoding, newline="\n")
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    def text(self):
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


def printed(view, width=None, **stream):
    stream = Stream(**stream)
    view.print(stream, width)
    return stream.text()


def widest(text):
    return max(map(columns, text.split("\n")))


def flat(text):
    return " ".join(text.split())


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_the_text_fits_the_width_in_the_signs_of_the_stream(view, case, encoding):
    for width in WIDTHS:
        text = printed(view, width, encoding=encoding)
        assert widest(text) <= width, width
        assert text.endswith("\n") and all(c.isprintable() for c in text.replace("\n", "")), width
        assert text.isascii() == (encoding != "utf-8"), (width, [c for c in text if not c.isascii()][:5])
        if width >= 60:
            assert case.word in flat(text), width
    assert printed(view, 200, encoding=encoding) != printed(view, 60, encoding=encoding)


def test_a_file_gets_80_columns_without_colours(view, tmp_path):
    path = tmp_path / "view.txt"
    with path.open("w", encoding="utf-8") as file:
        view.print(file)
    text = path.read_text(encoding="utf-8")
    assert text == str(view) + "\n" == printed(view, 80) == printed(view)
    assert 60 < widest(text) <= 80


def test_a_pipe_has_the_columns_that_the_environment_says(view, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert printed(view) == printed(view, 60)


def test_colours_on_a_terminal_alone(view, monkeypatch):
    monkeypatch.setenv("LINES", "52")  # a view may show less on a low terminal
    plain = printed(view, 100)
    text = printed(view, 100, terminal=True)
    assert "\033" not in plain and "\033[1m" in text
    assert re.sub("\033\\[[0-9;]*m", "", text) == plain
    for line in text.split("\n"):  # none goes on into the next line
        assert line.count("\033[0m") * 2 == line.count("\033")
    monkeypatch.setenv("TERM", "dumb")
    assert printed(view, 100, terminal=True) == plain
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert printed(view, 100, terminal=True) == plain


def test_print_goes_to_standard_output(view, capsys):
    view.print(width=70)
    assert capsys.readouterr().out == printed(view, 70)


def test_repr_is_one_short_line(view, name):
    assert re.fullmatch(rf"<look\.{name}: [^\n]+>", repr(view)) and len(repr(view)) <= 200


# data


def plain(value, path="data"):
    """Whether a value is of JSON's types, exactly."""
    assert type(value) in (dict, list, str, int, float, bool, type(None)), f"{path} is {type(value).__name__}"
    for key, inner in value.items() if type(value) is dict else ():
        assert type(key) is str, f"{path} has the key {key!r}"
        plain(inner, f"{path}[{key!r}]")
    for k, inner in enumerate(value if type(value) is list else ()):
        plain(inner, f"{path}[{k}]")


def words(value):
    """NaN and infinities, which JSON lacks, as the files write them."""
    if isinstance(value, dict):
        return {k: words(v) for k, v in value.items()}
    if isinstance(value, list):
        return [words(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def test_the_data_is_plain_and_is_the_json_file(view, name, tmp_path):
    plain(view.data)
    assert view.data["view"] == name
    text = view.save(tmp_path / "view.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=refused) == words(view.data)


def test_looking_twice_shows_the_same(view):
    first = words(view.data), str(view), view.to_html(), view.to_svg()
    assert first == (words(view.data), str(view), view.to_html(), view.to_svg())


# files


EVERY = ("html", "svg", "png", "json", "txt")


def test_the_endings(view, case, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'tinytorch-gpu[viz]'")
    for ending in (*EVERY, *case.endings):
        path = tmp_path / f"view.{ending}"
        assert view.save(path) == path and path.stat().st_size > 100
    assert view.save(str(tmp_path / "VIEW.JSON")) == tmp_path / "VIEW.JSON"
    assert (tmp_path / "VIEW.JSON").read_bytes() == (tmp_path / "view.json").read_bytes()
    assert set(view.endings()) == {*EVERY, *case.endings}
    assert (tmp_path / "view.txt").read_text(encoding="utf-8") == str(view) + "\n"
    assert (tmp_path / "view.html").read_text(encoding="utf-8") == view.to_html()
    assert (tmp_path / "view.svg").read_text(encoding="utf-8") == view.to_svg()
    png = (tmp_path / "view.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and png[12:16] == b"IHDR" and min(struct.unpack(">II", png[16:24])) > 50


def test_png_without_matplotlib(view, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(ImportError, match=r"\[save\] a .png needs matplotlib \(pip install"):
        view.save(tmp_path / "view.png")
    assert not list(tmp_path.iterdir())


def test_other_endings_are_told(view, case, tmp_path):
    known = r"\.html, \.svg, \.png, (\.dot, )?\.json, \.txt"
    for file in ("view.pdf", "view", "view.", ".html", "view.dot"):
        if file.partition(".")[2] in case.endings:
            continue
        with pytest.raises(ValueError, match=rf"\[save\] '{re.escape(file)}' has no ending that "
                                             rf"{type(view).__name__} can write: use {known}"):
            view.save(tmp_path / file)
    assert not list(tmp_path.iterdir())


def test_what_is_no_path_is_told(view):
    with pytest.raises(TypeError, match=r"\[save\] expected a path, got NoneType"):
        view.save(None)


def test_the_page_is_whole_and_needs_nothing_else(view, name, case):
    text = view.to_html()
    pages = whole(text)
    assert "prefers-color-scheme: dark" in text and "prefers-color-scheme: dark" in pages[0].texts["style"]
    assert case.word in flat(" ".join(t for page in pages for t in page.texts.values()))


@pytest.mark.parametrize("bad", [
    "<p>", "</p>", "<p><b></p></b>", "<i>x</i>", "<img>", '<a href="x.html">x</a>', '<a href="#far">x</a>',
    '<p onclick="x()">x</p>', '<p id="a"></p><p id="a"></p>', "<script>fetch('x')</script>", '<link href="#">',
    "<script>new Image().src = 'https://x.org'</script>", '<script type="application/json">NaN</script>',
    '<script type="application/json">{"a": 1,}</script>', '<p style="background: url(x.png)">x</p>',
    '<iframe srcdoc="&lt;p&gt;"></iframe>', "<body></body>", "<h1>x</h1>", "<h2></h2>"])
def test_a_page_that_is_not_whole_is_noticed(bad):
    good = ('<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>look.</title><style>p {}</style></head>'
            "<body><h1>x</h1></body></html>")
    whole(good)
    with pytest.raises((AssertionError, ValueError)):
        whole(good.replace("</body>", bad + "</body>"))


def test_a_notebook_shows_the_page_in_a_frame(view):
    page = Page(view._repr_html_())
    assert page.frames == [view.to_html()] and not page.open and page.tags == ["iframe"]
    assert 'sandbox="allow-scripts"' in view._repr_html_() and view.height() >= 300


def test_the_picture_is_whole(view):
    root = ElementTree.fromstring(view.to_svg())
    assert root.tag == SVG + "svg"
    left, top, wide, high = map(float, root.get("viewBox").split())
    drawn = 0
    for element in root.iter():
        if element.tag in (SVG + "rect", SVG + "circle", SVG + "text"):
            x, y = (float(element.get(k)) for k in (("cx", "cy") if element.tag == SVG + "circle" else ("x", "y")))
            right, low = x + float(element.get("width", 0)), y + float(element.get("height", 0))
            assert left - 1 <= x <= right <= left + wide + 1 and top - 1 <= y <= low <= top + high + 1
            drawn += 1
        assert "http" not in " ".join(element.attrib.values())
    assert drawn > 3 and any(t.text.strip() for t in root.iter(SVG + "text"))


@pytest.mark.slow
def test_every_page_in_a_browser(built, tmp_path, device):
    """Its scripts parse and run, and nothing is asked of a network."""
    if device.type != "cpu":
        pytest.skip("styles and scripts are the same on every device: the run on the CPU opens them")
    try:
        browser = Browser.start()
    except Missing as e:
        pytest.skip(str(e))
    try:
        for name, case in CASES.items():
            page = browser.open(built(name).save(tmp_path / f"{name}.html"), 1000, 700)
            assert case.word in flat(page.run("document.body.textContent")), name
            assert not page.complaints() and not page.requests(), name
            page.close()
    finally:
        browser.close()


# nothing to see


def test_nothing_to_see_is_told(case, name, tmp_path):
    try:
        view = case.empty(tmp_path)
    except (TypeError, ValueError) as e:
        assert re.search(rf"^\[{name}\] .*{case.says}", str(e)) and "\n" not in str(e)
        return
    assert type(view) is type(CASES[name].empty(tmp_path))
    for width in WIDTHS[1:]:
        text = printed(view, width, encoding="ascii")
        assert widest(text) <= width and re.search(case.says, flat(text))
    pages = whole(view.to_html())
    assert re.search(case.says, flat(" ".join(t for page in pages for t in page.texts.values())))
    plain(view.data)
    try:
        assert ElementTree.fromstring(view.to_svg()).tag == SVG + "svg"
    except ValueError as e:
        assert re.match(r"\[save\] there is nothing to draw: ", str(e))
        for ending in ("svg", "png"):
            with pytest.raises(ValueError, match=r"\[save\] there is nothing to draw: "):
                view.save(tmp_path / f"view.{ending}")
            assert not (tmp_path / f"view.{ending}").exists()


@pytest.mark.parametrize("name", ["gradients", "memory", "nan", "profile", "step"])
def test_a_view_of_a_block_watches_one(view, name):
    with pytest.raises(RuntimeError, match=rf"^\[{name}\] a view watches one block: call look.{name}\(\) again"), view:
        pass


def test_these_are_the_views_of_blocks(built):
    assert {n for n in CASES if hasattr(built(n), "__enter__")} == {"gradients", "memory", "nan", "profile", "step"}


BLOCKS = {
    "record": lambda model, optimizer: look.record(), "memory": lambda model, optimizer: look.memory(model, optimizer),
    "profile": lambda model, optimizer: look.profile(model), "nvtx": lambda model, optimizer: look.nvtx(),
    "step": lambda model, optimizer: look.step(model, optimizer), "nan": lambda model, optimizer: look.nan(),
    "gradients": lambda model, optimizer: look.gradients(model, optimizer),
}


@pytest.mark.parametrize("crossed", [False, True], ids=["nested", "crossed"])
@pytest.mark.parametrize("first", BLOCKS)
def test_two_blocks_end_in_any_order_and_nothing_stays(first, crossed):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer, x = optim.SGD(model.parameters(), lr=0.1), tt.randn(3, 4)

    def step():
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    before = floors()
    for second in BLOCKS:
        if second == first:
            continue
        a, b = BLOCKS[first](model, optimizer), BLOCKS[second](model, optimizer)
        a.__enter__()
        step()
        b.__enter__()
        step()
        for block in (a, b) if crossed else (b, a):
            block.__exit__(None, None, None)
            step()
        assert not changed(before), (first, second)
        for name, block in ((first, a), (second, b)):
            if name in CASES:
                assert printed(block, 80)
