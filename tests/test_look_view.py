"""What every view of look can do: text for any width and encoding, pages, files; the graph's pictures opened."""
from __future__ import annotations

import html.parser
import io
import json
import re
import shutil
import subprocess
import sys
import unicodedata
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn
from tinytorch_gpu.look.terminal import (
    Column,
    Paper,
    bar,
    count_of,
    figure,
    shape_of,
    size_of,
    table,
    tables,
    time_of,
    with_notes,
    wrap,
)


class Deep(nn.Module):
    """Modules in modules, blocks that repeat, a skip past some layers, a shared weight."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)) for _ in range(4)])

    def forward(self, x):
        x = skip = self.first(x)
        for layer in self.layers:
            x = x + layer(x)
        return (x * skip @ self.first.weight).sum()


@pytest.fixture(scope="module")
def view():
    model = Deep()
    with look.record():
        loss = model(tt.ones(2, 3))
        loss.backward()
    return look.graph(loss)


class Stream(io.TextIOWrapper):
    def __init__(self, encoding="utf-8", terminal=False):
        super().__init__(io.BytesIO(), encoding=encoding, newline="\n")
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    def text(self):
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


def printed(view, width=None, encoding="utf-8", terminal=False):
    stream = Stream(encoding, terminal)
    view.print(stream, width)
    return stream.text()


# text


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii", "cp437"])
def test_lines_fit_the_width_in_every_encoding(view, width, encoding):
    text = printed(view, width, encoding)
    assert max(map(len, text.splitlines())) <= width
    if width >= 60:
        assert "Tanh" in text and "grad" in text
        assert ("│" in text) == (encoding == "utf-8") and ("|" in text) == (encoding != "utf-8")
    if width == 200:
        assert "test_look_view.py" in text and "to inputs" in text and "not shown" not in text
    if width == 60:
        assert "not shown in 60 columns" in text


@pytest.mark.parametrize("given", [None, "", "0", "-5", "wide"])
def test_a_pipe_has_80_columns_and_no_colour(view, monkeypatch, given):
    if given is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", given)
    text = printed(view)
    assert 60 < max(map(len, text.splitlines())) <= 80 and "\033" not in text
    assert str(view) + "\n" == text


@pytest.mark.parametrize("given, width", [("60", 60), ("200", 200), ("5", 20)])
def test_columns_of_the_environment(view, monkeypatch, given, width):
    monkeypatch.setenv("COLUMNS", given)
    assert printed(view) == printed(view, width) == str(view) + "\n" and "\033" not in printed(view)
    assert printed(view, 70) != printed(view)  # the argument wins


def test_a_terminal_has_its_own_width_and_colour(view, monkeypatch):
    monkeypatch.setenv("COLUMNS", "132")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = printed(view, terminal=True)
    plain = re.sub("\033\\[[0-9]+m", "", text)
    assert 80 < max(map(len, plain.splitlines())) <= 132 and "\033[1m" in text
    monkeypatch.setenv("NO_COLOR", "1")
    assert printed(view, terminal=True) == plain
    assert max(map(len, printed(view, 50, terminal=True).splitlines())) <= 50  # the argument wins


def test_print_goes_to_standard_output(view, capsys):
    view.print(width=70)
    assert capsys.readouterr().out == printed(view, 70)


@pytest.mark.parametrize("width", [0, 19, True, 80.0, "80"])
def test_bad_widths(view, width):
    with pytest.raises(ValueError, match=r"\[print\] width must be a whole number of at least 20"):
        view.print(io.StringIO(), width)


def test_a_stream_that_knows_nothing(view):
    class Bare:
        lines = ""

        def write(self, text):
            self.lines += text

    bare = Bare()
    view.print(bare)
    assert bare.lines == printed(view, 80)


def test_repr(view):
    totals = view.data["totals"]
    assert repr(view).startswith(f"<look.graph: {totals['operators']} operators, ") and len(repr(view)) < 80


def test_tables():
    paper = Paper(width=30)
    lines, left_out = table(paper, [Column("name", least=4), Column("n", right=True), Column("far", keep=1, rule=True)],
                            [["a long name that is cut", "1", "x" * 20], ["b", "22", ""]])
    assert left_out == ["far"] and lines[0].split() == ["name", "n"] and max(map(len, lines)) <= 30
    assert lines[2].endswith(" 1") and lines[3].endswith("22")
    narrow, _ = table(Paper(width=20), [Column("one"), Column("two")], [["a" * 30, "b" * 30]])
    assert max(map(len, narrow)) <= 20 and "…" in narrow[2]
    empty, left_out = table(paper, [Column("a"), Column("b", keep=1)], [["1", ""]])
    assert empty[0] == "a" and not left_out  # a column of nothing is not drawn, nor named


def test_wide_characters_take_two_columns():
    paper = Paper(width=40)
    assert paper.cut("日本語", 8) == "日本語  " and paper.cut("日本語", 5) == "日本…"
    assert paper.cut("é" + unicodedata.normalize("NFD", "é"), 4) == "é" + unicodedata.normalize("NFD", "é") + "  "
    assert Paper(Stream("ascii"), 40).clean("日 ×\t") == "\\u65e5 x "


def test_wrapping():
    assert wrap(Paper(width=20), "aaaa bbbb cccc dddd eeee", "  ") == ["aaaa bbbb cccc dddd", "  eeee"]
    assert wrap(Paper(width=20), "x" * 45) == ["x" * 20, "x" * 20, "x" * 5]
    assert wrap(Paper(width=21), "日本" * 8) == ["日本" * 5, "日本" * 3]  # two columns each


def test_the_end_of_a_text():
    paper = Paper(width=20)
    assert with_notes(paper, []) == []
    assert with_notes(paper, ["one two three four five"]) == ["", "· one two three four", "  five"]
    assert with_notes(Paper(Stream("ascii"), 40), [], ["far", "near"])[1:] == [". not shown in 40 columns: far, near"]


def test_several_tables_tell_what_is_left_out():
    head = [Column("n", least=8), Column("far", keep=1), Column("near", keep=2)]
    several = [(head, [[str(k), "x" * 12, "y" * 12] for k in range(5)]), (head, [["a", "x" * 30, ""]])]
    lines, hidden = tables(Paper(width=24), several, 3)
    assert lines[:3] == ["", "n  far", "─" * 15] and lines[3] == "0  " + "x" * 12
    assert lines[6] == "and 2 more, in data and .html" and lines[7] == ""
    assert hidden == ["near", "far of n"] and tables(Paper(), [], 3) == ([], [])  # the first one has "far"


def test_figures():
    assert [size_of(n) for n in (None, 0, 1023, 1536, 5 << 20, 3 << 40)] == [
        "", "0 B", "1023 B", "1.5 KiB", "5 MiB", "3 TiB"]
    assert figure(1234567.0) == "1.23e+06" and figure(None) == "" and figure(float("nan")) == "nan"
    assert shape_of("bfloat16", [2, 3]) == "bf16[2,3]" and shape_of("float32", []) == "f32[]"
    assert count_of(1, "leaf") == "1 leaf" and count_of(2000, "leaf") == "2,000 leaves"
    assert bar(Paper(), 0.5, 10) == "█" * 5 and bar(Paper(Stream("ascii")), 2, 3) == "###"


# files


class Page(html.parser.HTMLParser):
    """Elements that are open, addresses that are used, and the data of the script."""

    VOID = {"meta", "input", "br", "hr", "img", "link"}

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.data, self.ids, self._in_data = [], [], "", [], False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.addresses += [attrs[a] for a in ("src", "href", "srcset", "action") if a in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag not in self.VOID:
            self.open.append(tag)
        self._in_data = tag == "script" and attrs.get("id") == "data"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self._in_data = False

    def handle_data(self, text):
        if self._in_data:
            self.data += text


def test_the_page_is_whole_and_needs_no_network(view, tmp_path):
    text = view.save(tmp_path / "graph.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open and not page.addresses and {"search", "view", "data", "fit"} <= set(page.ids)
    assert "@import" not in text and "url(http" not in text and "fetch(" not in text
    assert "prefers-color-scheme: dark" in text
    data = json.loads(page.data)
    assert len(data["nodes"]) == len(view.data["nodes"])
    ids = []

    def walk(part):
        assert sorted(k for row in part["layers"] for k in row) == list(range(len(part["items"])))
        for item in part["items"]:
            if "node" in item:
                ids.append(item["node"])
            for inner in item.get("parts", ()):
                walk(inner)

    walk(data["tree"])
    assert sorted(ids) == sorted(n["id"] for n in view.data["nodes"])  # each is drawn once


def test_what_a_user_writes_cannot_break_the_page(tmp_path):
    x = tt.tensor([1.0], requires_grad=True)
    name = '</script><script>alert("1")</script> <!-- & " \u2028'
    view = look.graph(x * 2, {name: x})
    page = Page(view.to_html())
    assert json.loads(page.data)["nodes"]["2"]["name"] == name and page.ids.count("data") == 1
    root = ElementTree.fromstring(view.to_svg())
    assert any(name[:-1] in (t.text or "") for t in root.iter("{http://www.w3.org/2000/svg}text"))
    assert '</script><script>alert(\\"1\\")' in view.to_dot()


def test_a_notebook_shows_the_page_in_a_frame(view):
    class Frame(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            self.found = dict(attrs)

    frame = Frame()
    frame.feed(view._repr_html_())
    assert frame.found["srcdoc"] == view.to_html() and frame.found["sandbox"] == "allow-scripts"


def test_json_is_the_data_and_strict(tmp_path):
    x = tt.tensor(np.array([1.0, np.inf, np.nan, 1.0]), requires_grad=True)
    with look.record():
        view_of = x * 1
    view = look.graph(view_of)
    text = view.save(tmp_path / "g.json").read_text(encoding="utf-8")

    def refuse(constant):
        raise AssertionError(constant)

    read = json.loads(text, parse_constant=refuse)
    assert read["nodes"][0]["outputs"][0]["value"]["values"] == [1.0, "Infinity", "NaN", 1.0]
    assert view.data["nodes"][0]["outputs"][0]["value"]["values"][1] == float("inf")
    Page(view.to_html())
    finite = look.graph(tt.exp(tt.tensor([0.0], requires_grad=True)))
    assert json.loads(finite.to_json()) == finite.data


class Stage(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return tt.tanh(self.linear(x)) * 1.5


class Tail(nn.Module):
    """Too long a list without a repeat, which is bundled."""

    def __init__(self):
        super().__init__()
        self.kinds = np.random.default_rng(4).integers(0, 3, 80).tolist()

    def forward(self, x):
        for k in self.kinds:
            x = (tt.tanh, tt.cos, lambda v: v * 1.1)[k](x)
            x.retain_grad()
            self.kept.append(x)
        return x


class Foldable(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.stages, self.tail = nn.Sequential(*[Stage() for _ in range(3)]), Tail()

    def forward(self, x):
        self.middle = self.stages(self.first(x))
        self.middle.retain_grad()
        self.tail.kept = []
        return self.tail(self.middle)


@pytest.fixture(scope="module")
def folded():
    """(a view, {number of an operator: (norm of its result, of its gradient) as it is written}), from the tensors
    themselves: 1 is `first`, 2 to 10 are the stages, 11 to 90 the tail."""
    with tt.random.fork_rng():
        tt.manual_seed(3)
        model = Foldable()
    with look.record():
        loss = model(tt.linspace(-1, 1, 12).reshape(3, 4)).sum()
        loss.backward()
    tensors = {10: model.middle, **{11 + k: t for k, t in enumerate(model.tail.kept)}}
    norms = {i: [np.linalg.norm(a.detach().cpu().numpy().astype(np.float64)) for a in (t, t.grad)]
             for i, t in tensors.items()}
    return look.graph(loss), {i: [f"↓ {value:.3g}", f"↑ {gradient:.3g}"] for i, (value, gradient) in norms.items()}


def svg_texts(view):
    return [t.text for t in ElementTree.fromstring(view.to_svg()).iter("{http://www.w3.org/2000/svg}text")]


def png_texts(view):
    """What matplotlib is given to write."""
    backend = pytest.importorskip("matplotlib.backends.backend_agg",
                                  reason="matplotlib is not installed: pip install 'tinytorch-gpu[viz]'")
    with pytest.MonkeyPatch.context() as patch:
        found = []
        patch.setattr(backend.FigureCanvasAgg, "print_png",
                      lambda canvas, out: found.extend(t.get_text() for t in canvas.figure.axes[0].texts))
        view.to_png()
    return found


@pytest.mark.parametrize("texts_of", [svg_texts, png_texts])
def test_a_folded_box_says_what_its_row_says(folded, texts_of, monkeypatch):
    view, wanted = folded

    def texts(limit):
        monkeypatch.setattr(sys.modules["tinytorch_gpu.look.graph.graph"], "DRAWN", limit)
        return texts_of(view)

    def has(texts, *stretch):
        return any(tuple(texts[i:i + len(stretch)]) == stretch for i in range(len(texts)))

    def saved(name):
        """As the row of the text says it."""
        (row,) = [line for line in printed(view, 200).splitlines() if line.lstrip("│+ ").startswith(name)]
        return re.findall(r"[\d.]+ (?:KiB|B)\b", row)[0]

    assert saved("3 × Stage") == "288 B"  # the input of each linear, the output of each tanh
    assert has(texts(0), "Foldable", f"90 operators, saves {saved('Foldable')}", "f32[3,4]", *wanted[90])
    some = texts(6)  # the repeat and the tail are closed
    assert has(some, "3 × Stage", "stages.0 ... stages.2", "9 operators, saves 288 B", "f32[3,4]", *wanted[10])
    assert has(some, "Tail", "tail", f"80 operators, saves {saved('Tail')}", "f32[3,4]", *wanted[90])
    most = texts(60)  # of the repeat the first is inside
    assert has(most, "all 3: 9 operators, saves 288 B", "f32[3,4]", *wanted[10]) and not has(most, "3 × Stage")
    bundles = [i for i, t in enumerate(most) if re.fullmatch(r"#\d+ to #\d+", t)]
    assert len(bundles) > 20
    for i in bundles:
        assert most[i + 2:i + 5] == ["f32[3,4]", *wanted[int(most[i].split("#")[-1])]]


def test_a_folded_box_of_a_graph_that_was_not_recorded():
    """Nothing is made up where nothing was noted, and what a backward has freed is not called 0 B."""
    x = tt.ones(3, requires_grad=True)
    h = x * 1.5
    for _ in range(6):
        h = tt.sin(tt.exp(h))  # the sine saves what the exponential has saved
    loss = h.sum()
    for saves in (", saves 72 B", ""):
        texts = svg_texts(look.graph(loss, {"x": x}))
        (at,) = [i for i, t in enumerate(texts) if t.startswith("all 6:")]
        assert texts[at:at + 2] == [f"all 6: 12 operators{saves}", "f32[3]"]
        assert not [t for t in texts if t[0] in "↓↑"]
        if saves:
            loss.backward()


def test_a_folded_box_of_the_page_has_the_last_result(folded):
    view, wanted = folded
    data = json.loads(Page(view.to_html()).data)
    found = {}

    def walk(part):
        for item in part["items"]:
            if "parts" in item:
                out = data["nodes"][str(item["result"])]["out"][0]
                found[item["kind"], item["label"], item["name"]] = (
                    item["about"], out["is"], f"↓ {out['value']['norm']:.3g}", f"↑ {out['gradient']['norm']:.3g}")
                for inner in item["parts"]:
                    walk(inner)

    walk(data["tree"])
    assert found["repeat", "Stage", "stages.0 ... stages.2"] == ("9 operators, saves 288 B", "f32[3,4]", *wanted[10])
    assert found["module", "Foldable", ""][1:] == ("f32[3,4]", *wanted[90])
    bundles = {name: facts for (kind, _, name), facts in found.items() if kind == "bundle"}
    assert len(bundles) > 20
    for name, facts in bundles.items():
        assert facts[1:] == ("f32[3,4]", *wanted[int(name.split("#")[-1])])


def test_the_first_of_a_repeat_stands_for_all_in_dot(folded):
    """An arrow from those that are not drawn leaves the last operator of the first one, and no leaf is arrived at."""
    view, wanted = folded
    text = view.to_dot()
    leaves = {f"n{n['id']}" for n in view.data["nodes"] if n["kind"] == "leaf"}
    ends = re.findall(r"([ng]\d+) -> ([ng]\d+)", text)
    assert ends and not {b for _, b in ends} & leaves
    assert [a for a, b in ends if a == "n4" and b.startswith("g")] == ["n4"]  # from the stages to the tail
    assert f'label="3 × Stage, the first: stages.0 ... stages.2\\nall 3: 9 operators, saves 288 B\\nf32[3,4]\\n' \
           f'{wanted[10][0]}   {wanted[10][1]}"' in text


def test_the_picture_is_whole(view):
    root = ElementTree.fromstring(view.to_svg())
    space = "{http://www.w3.org/2000/svg}"
    x, y, w, h = map(float, root.get("viewBox").split())
    boxes = [r for r in root.iter(space + "rect") if r.get("class")]
    kinds = [r.get("class") for r in boxes]
    assert kinds.count("operator") >= 6 and "leaf" in kinds and "module-open" in kinds
    at = []
    for r in boxes:
        left, top, wide, high = (float(r.get(k)) for k in ("x", "y", "width", "height"))
        assert x <= left and y <= top and left + wide <= x + w and top + high <= y + h
        if not r.get("class").endswith("-open"):
            at.append((left, top, left + wide, top + high))
    for i, a in enumerate(at):  # no box lies on another
        for b in at[:i]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    arrows = [p for p in root.iter(space + "path") if p.get("marker-end")]
    assert len(arrows) % 2 == 0 and len(arrows) >= 2 * 6  # each way there and back
    lines = [r.find(space + "title") for r in boxes]
    assert any(t is not None and "self.first(x)" in t.text for t in lines)


def test_arrows_go_around_boxes():
    x = tt.ones(2, requires_grad=True)
    h = tt.log_softmax(x, 0)  # the widest box: all ways go around it
    for f in (tt.sin, tt.tanh):
        h = f(h)
    for _ in range(3):  # four long ways: some on the same side
        h = h * x
        for f in (tt.exp, tt.sin, tt.tanh):
            h = f(h)
    root = ElementTree.fromstring(look.graph(h * x, unfold=True).to_svg())
    space = "{http://www.w3.org/2000/svg}"
    boxes = [[float(r.get(k)) for k in ("x", "y", "width", "height")] for r in root.iter(space + "rect")
             if r.get("class") == "operator"]
    paths = [p.get("d") for p in root.iter(space + "path") if p.get("marker-end")]
    long = [[tuple(map(float, pair)) for pair in re.findall(r"([-\d.]+),([-\d.]+)", d)]
            for d in paths if d.count(",") > 4]
    assert len(long) == 2 * 4  # with a straight part: there and back of each way from x past three boxes
    lanes = [(way[4][0], *sorted((way[4][1], way[6][1]))) for way in long]
    assert all(way[4][0] == way[6][0] for way in long)
    for lane, top, bottom in lanes:
        for left, upper, wide, high in boxes:
            assert upper + high <= top or bottom <= upper or not left - 5 <= lane <= left + wide + 5
    assert min(np.diff(sorted(lane for lane, _, _ in lanes))) >= 5.9  # none runs on another; rounded to 0.1 in the file


def test_arrows_of_a_leaf_that_hundreds_use_keep_apart():
    h = x = tt.ones(2, requires_grad=True)
    for k in range(300):
        h = (tt.sin, tt.tanh, tt.exp)[k * k % 7 % 3](h) * x
    root = ElementTree.fromstring(look.graph(h, unfold=True).to_svg())
    space = "{http://www.w3.org/2000/svg}"
    boxes = [[float(r.get(k)) for k in ("x", "y", "width", "height")] for r in root.iter(space + "rect")
             if r.get("class") == "operator"]
    assert len(boxes) == 600
    ways = [[tuple(map(float, pair)) for pair in re.findall(r"([-\d.]+),([-\d.]+)", p.get("d"))]
            for p in root.iter(space + "path") if p.get("marker-end") and p.get("d").count(",") > 4]
    lanes = np.array([(way[4][0], *sorted((way[4][1], way[6][1]))) for way in ways])
    assert len(lanes) >= 2 * 299
    for left, upper, wide, high in boxes:
        beside = (lanes[:, 1] < upper + high) & (upper < lanes[:, 2])
        assert not (beside & (left - 5 <= lanes[:, 0]) & (lanes[:, 0] <= left + wide + 5)).any()
    for i, (x, top, bottom) in enumerate(lanes):
        others = np.delete(lanes, i, 0)
        others = others[(others[:, 1] < bottom) & (top < others[:, 2])]
        assert len(others) == 0 or np.abs(others[:, 0] - x).min() >= 5.9


def test_a_picture_is_the_same_each_time():
    def draw():
        x = tt.ones(2, requires_grad=True)
        h = tt.log_softmax(x, 0)
        for f in (tt.sin, tt.tanh, tt.exp):
            h = f(h) * x  # its arrows leave x for boxes that lie below one another
        return look.graph(h, unfold=True).to_svg()

    kept = []
    for _ in range(30):  # at other addresses each time
        kept.append((draw(), [object() for _ in range(np.random.default_rng().integers(100))]))
    numbered = {re.sub(r"#\d+", "#", svg) for svg, _ in kept}
    assert len(numbered) == 1


def test_dot_is_well_formed(view):
    text = view.to_dot()
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', '""', text)
    assert outside.count("{") == outside.count("}") and outside.startswith("digraph")
    known = set(re.findall(r"^ *([ng]\d+) \[shape", outside, re.M))
    ends = re.findall(r"([ng]\d+) -> ([ng]\d+)", outside)
    assert ends and {e for pair in ends for e in pair} <= known and "subgraph cluster_1" in outside


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed: apt install graphviz")
def test_graphviz_reads_it(view):
    done = subprocess.run(["dot", "-Tplain"], input=view.to_dot(), capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == 0, done.stderr


def test_png(view, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'tinytorch-gpu[viz]'")
    data = view.save(str(tmp_path / "g.PNG")).read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 5000


def test_png_without_matplotlib(view, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(ImportError, match=r"\[save\] a .png needs matplotlib \(pip install"):
        view.save(tmp_path / "g.png")
    assert not (tmp_path / "g.png").exists()


@pytest.mark.parametrize("name", ["graph.pdf", "graph", "graph.", ".html"])
def test_endings_that_no_one_writes(view, tmp_path, name):
    with pytest.raises(ValueError, match="no ending that Graph can write: use .html, .svg, .png, .dot, .json, .txt"):
        view.save(tmp_path / name)


def test_text_file(view, tmp_path):
    assert view.save(tmp_path / "g.txt").read_text(encoding="utf-8") == str(view) + "\n"


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: apt install chromium")
def test_the_page_in_a_browser(view, tmp_path):
    script = """<script>
      const shown = () => document.querySelectorAll(".node").length;
      const wires = () => document.querySelectorAll("#wires .f").length;
      const seen = {first: shown(), wires: wires()};
      document.getElementById("open").click(); seen.all = shown(); seen.allWires = wires();
      document.getElementById("close").click(); seen.none = shown();
      const box = document.getElementById("search"); box.value = "tanh"; box.oninput({target: box});
      seen.hits = document.querySelectorAll(".node.hit").length;
      seen.said = document.getElementById("found").textContent;
      document.querySelector(".node.hit").click(); seen.facts = document.getElementById("facts").textContent;
      document.getElementById("larger").click(); seen.zoom = document.getElementById("sheet").style.transform;
      document.title = JSON.stringify(seen);
    </script></body>"""
    seen = in_browser(view, script, tmp_path)
    nodes = view.data["nodes"]
    assert seen["all"] == len(nodes) > seen["first"] > seen["none"]
    assert seen["allWires"] == len({(e["node"], n["id"]) for n in nodes for e in n["inputs"] if e["node"] is not None})
    assert seen["hits"] == sum(n["name"] == "Tanh" for n in nodes) == 4 and seen["said"] == "4 found"
    assert "test_look_view.py" in seen["facts"] and "gradient" in seen["facts"] and "saved" in seen["facts"]
    assert seen["zoom"].startswith("scale(")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: apt install chromium")
def test_folded_boxes_in_a_browser(folded, tmp_path):
    view, wanted = folded
    script = """<script>
      const closed = () => [...document.querySelectorAll(".group:not(.open)")].map(
        g => [...g.querySelectorAll("b, .soft, .forward, .backward")].map(e => e.textContent));
      const seen = {first: closed()};
      document.getElementById("close").click(); seen.none = closed();
      document.querySelector(".group .title").click(); seen.opened = closed();
      document.title = JSON.stringify(seen);
    </script></body>"""
    seen = in_browser(view, script, tmp_path)
    assert [texts[-3:] for texts in seen["none"]] == [["f32[3,4]", *wanted[90]]]
    assert seen["none"][0][0] == "▸ Foldable" and seen["none"][0][2].startswith("90 operators, saves 2")
    tail = next(texts for texts in seen["opened"] if texts[0] == "▸ Tail")
    assert tail[-3:] == ["f32[3,4]", *wanted[90]]
    stages = next(texts for texts in seen["first"] if "Stage" in texts[0])
    assert stages == ["▸ 3 × Stage", "stages.0 ... stages.2", "9 operators, saves 288 B", "f32[3,4]", *wanted[10]]


def in_browser(view, script, tmp_path):
    """What the script, added to the page, leaves in its title."""
    page = tmp_path / "graph.html"
    page.write_text(view.to_html().replace("</body>", script), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile",
               "--window-size=1200,900"]
    done = subprocess.run([BROWSER, *options, "--dump-dom", page.as_uri()], capture_output=True, encoding="utf-8",
                          timeout=120)
    title = re.search("<title>(.*?)</title>", done.stdout, re.S)
    assert title, done.stderr[-2000:]
    return json.loads(html.unescape(title[1]))


def test_what_is_no_path_is_named(view):
    with pytest.raises(TypeError, match=r"\[save\] expected a path, got NoneType"):
        view.save(None)


def test_times_in_their_unit():
    assert [time_of(t) for t in (None, 0.0, 2.5e-8, 1.234e-5, 0.9999e-3, 0.0123, 59.96, 1234.5)] == [
        "", "0 ns", "25 ns", "12.3 us", "1 ms", "12.3 ms", "60 s", "1,234 s"]
