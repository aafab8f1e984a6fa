"""The pages of look in a real browser: nothing fails, nothing is asked of a network, what matters is seen and works."""
from __future__ import annotations

import time

import pytest
from browser import Browser, Missing

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn

pytestmark = pytest.mark.slow
NARROW, WIDE = (390, 800), (1280, 800)


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("matplotlib", reason="matplotlib reads the screenshots: pip install 'tinytorch-gpu[viz]'")
    try:
        found = Browser.start()
    except Missing as e:
        pytest.skip(str(e))
    yield found
    found.close()


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        return x + self.down(tt.relu(self.up(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 16)
        self.blocks = nn.ModuleList([Block() for _ in range(4)])
        self.norm = nn.LayerNorm(16)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def step(model, optimizer):
    optimizer.zero_grad()
    loss = model(tt.ones(8, 4)).square().mean()
    loss.backward()
    optimizer.step()
    return loss


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    """{name: (view, a word that must be read on its page)}, made once, and a run's folder for the report."""
    model = Net()
    optimizer = tt.optim.Adam(model.parameters())
    with look.record():
        loss = step(model, optimizer)
    found = {"graph": (look.graph(loss), "LayerNorm"), "fusion": (look.fusion(loss), "bytes")}
    x = tt.tensor([5.0], requires_grad=True)
    found["trace"] = look.trace((x + 2) * 3, {"x": x}), "grad * 3"
    found["explain"] = look.explain("div"), "grad / b"
    found["tensor"] = look.tensor(tt.arange(6.0).reshape(2, 3).T), "stride"
    with look.memory(model, optimizer) as memory:
        step(model, optimizer)
    found["memory"] = memory, "saved for backward"
    for name, block in (("gradients", look.gradients(model, optimizer)), ("profile", look.profile(model)),
                        ("step", look.step(model, optimizer))):
        with block:
            for _ in range(3):
                step(model, optimizer)
        found[name] = block, {"gradients": "blocks.0.up.weight", "profile": "AdamW.step"[:4], "step": "blocks"}[name]
    with look.nan() as nan:
        tt.log(tt.tensor([-1.0], requires_grad=True)).backward()
    found["nan"] = nan, "Log made NaN"
    folder = tmp_path_factory.mktemp("run")
    recording = look.Recording(folder, model, optimizer, 8, {"program": "mine", "settings": {"lr": 0.1},
                                                             "environment": {"trained on": "this machine"}})
    rows = ["step,loss,lr,memory_mib"]
    for k in range(1, 9):
        recording.begin(k)
        rows.append(f"{k},{step(model, optimizer).item()},{0.1 / k},{100 + k}")
        recording.end()
    recording.close()
    recording.save()
    (folder / "metrics.csv").write_text("\n".join(rows))
    found["report"] = look.report(folder), "this machine"
    return found


NAMES = ["graph", "trace", "explain", "tensor", "memory", "gradients", "fusion", "profile", "step", "nan", "report"]


def contrast(pixels) -> float:
    """Standard deviation of the brightness: 0 for an empty page."""
    return float(pixels.mean(2).std())


@pytest.mark.parametrize("name", NAMES)
def test_a_page(browser, views, tmp_path, name):
    view, word = views[name]
    path = view.save(tmp_path / f"{name}.html")
    page = browser.open(path, *WIDE)
    assert word in page.run("document.body.innerText")
    light = page.pixels()
    assert contrast(light) > 0.03 and light.mean() > 0.7
    page.look(*WIDE, dark=True)
    time.sleep(0.2)
    dark = page.pixels()
    assert contrast(dark) > 0.03 and dark.mean() < 0.35
    page.look(*NARROW)
    assert page.run("document.documentElement.scrollWidth <= innerWidth"), "wider than the window"
    assert contrast(page.pixels()) > 0.03
    assert not page.complaints() and not page.requests()
    page.close()


def test_the_graph_unfolds_searches_and_zooms(browser, views, tmp_path):
    view, _ = views["graph"]
    page = browser.open(view.save(tmp_path / "graph.html"), *WIDE)
    shown = "document.querySelectorAll('.node').length"

    def place(selector):
        """The middle of the first such element in the window."""
        box = page.run(f"(b => [b.x + b.width / 2, b.y + b.height / 2])"
                       f"(document.querySelector({selector!r}).getBoundingClientRect())")
        assert 0 < box[0] < WIDE[0] and 0 < box[1] < WIDE[1], selector
        return box

    nodes = view.data["nodes"]
    folded = page.run(shown)
    assert folded < len(nodes)
    page.click(*place(".group.repeat > .title"))  # the mouse, not the script's own function
    assert page.run("document.querySelectorAll('.group.repeat .group.module').length") == 4
    page.click(*place(".group.repeat .group.module > .title"))
    assert page.run(shown) == folded + 8  # of one block: four operators, four parameters
    page.click(*place(".group.repeat.open > .title"))
    assert page.run(shown) == folded
    page.click(*place("#open"))
    assert page.run(shown) == len(nodes)
    page.click(*place("#close"))
    assert page.run(shown) == 2  # outside of the model: Pow and Mean

    page.click(*place("#search"))
    page.type("tt.relu")  # in the line of each block, whose four operators are shown then
    assert page.run("document.getElementById('found').textContent") == "16 found"
    assert page.run("document.querySelectorAll('.node.hit').length") == 16
    page.run("document.querySelector('.node.hit').scrollIntoView({block: 'center', inline: 'center'})")
    page.click(*place(".node.hit"))
    facts = page.run("document.getElementById('facts').innerText")
    assert "saved" in facts and "return x + self.down(tt.relu(self.up(x)))" in facts

    size = "document.querySelector('.node').getBoundingClientRect().width"
    before = page.run(size)
    page.click(*place("#larger"))
    assert page.run(size) > before * 1.05
    wide = page.run(size)
    page.wheel(*place("#view"), 240, control=True)
    time.sleep(0.2)
    assert page.run(size) < wide * 0.95
    page.click(*place("#fit"))
    assert page.run("(v => v.scrollWidth <= v.clientWidth + 1)(document.getElementById('view'))")
    assert not page.complaints() and not page.requests()
    page.close()


def test_the_report_shows_all_its_sections(browser, views, tmp_path):
    view, _ = views["report"]
    page = browser.open(view.save(tmp_path / "report.html"), *WIDE)
    names = page.run("[...document.querySelectorAll('section')].map(s => s.id)")
    assert names == ["curves", "gradients", "memory", "profile", "graph", "settings", "environment"]
    for k, name in enumerate(names):
        page.run(f"document.querySelectorAll('nav a')[{k}].click()")
        time.sleep(0.1)
        # the section that was asked for begins in the window, or the page ends there
        top, end = page.run(f"[document.getElementById({name!r}).getBoundingClientRect().top, "
                            "document.documentElement.scrollHeight - innerHeight - scrollY]")
        assert -2 < top < WIDE[1] and (top < 5 or end < 5 or k == 0), name
    drawn = page.run("[...document.querySelectorAll('.charts svg')].map(s => s.getBoundingClientRect().width)")
    assert len(drawn) == 3 + 3 and min(drawn) > 300  # loss, lr, memory; three heat maps
    page.run("document.getElementById('graph').scrollIntoView()")
    box = page.run("(b => [b.x, b.y, b.width, b.height])(document.querySelector('iframe').getBoundingClientRect())")
    x, y, w, h = map(round, box)
    ends = time.monotonic() + 20  # a frame that was out of sight is drawn when it comes
    while contrast(page.pixels()[max(y, 0) + 90:y + h - 5, x + 5:x + w - 5]) < 0.01:
        assert time.monotonic() < ends, "the graph's frame is empty"
        time.sleep(0.2)
    page.look(*NARROW)
    assert page.run("Math.max(...[...document.querySelectorAll('.drawn svg')]"
                    ".map(s => s.getBoundingClientRect().right)) <= innerWidth")
    assert not page.complaints() and not page.requests()
    page.close()


def test_a_notebooks_cell(browser, views, tmp_path):
    """The frame of a notebook allows scripts and nothing else: the graph is drawn all the same."""
    path = tmp_path / "cell.html"
    path.write_text(f"<!DOCTYPE html><body>{views['graph'][0]._repr_html_()}</body>", encoding="utf-8")
    page = browser.open(path, *WIDE)
    time.sleep(0.3)
    assert contrast(page.pixels()[120:600, 20:-20]) > 0.01
    assert not page.complaints() and not page.requests()
    page.close()


def test_what_is_looked_for_is_seen(browser, tmp_path):
    """The checks find what they look for."""
    path = tmp_path / "bad.html"
    path.write_text("<!DOCTYPE html><body><p style='width:3000px'>.</p><script>console.error('one'); fetch('http://127.0.0.1:1/x')"
                    ".catch(() => 0); setTimeout(() => { throw new Error('two') })</script>", encoding="utf-8")
    page = browser.open(path, *NARROW)
    ends = time.monotonic() + 20
    while len(page.complaints()) < 2 and time.monotonic() < ends:
        page.run("1")
    text = " ".join(page.complaints())
    assert "one" in text and "two" in text and page.requests() == ["http://127.0.0.1:1/x"]
    assert not page.run("document.documentElement.scrollWidth <= innerWidth")
    assert contrast(page.pixels()) < 0.01
    page.close()


def test_why_there_is_no_browser(monkeypatch, tmp_path):
    monkeypatch.setenv("TINYTORCH_BROWSER", "no-such-browser")
    with pytest.raises(Missing, match="TINYTORCH_BROWSER=no-such-browser is no program"):
        Browser.start()
    monkeypatch.delenv("TINYTORCH_BROWSER")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Missing, match="no Chromium on this machine: install chromium, or name one with"):
        Browser.start()
    monkeypatch.setenv("TINYTORCH_BROWSER", "/bin/false")
    with pytest.raises(Missing, match="/bin/false does not answer"):
        Browser.start()
