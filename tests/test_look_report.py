"""look.report: what a run's files hold is what the page shows, and recording it changes no result."""
from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pages import whole

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn
from tinytorch_gpu.autograd import engine, modes
from tinytorch_gpu.examples import gpt, run
from tinytorch_gpu.look.report import record as report_record
from tinytorch_gpu.look.terminal import Paper
from tinytorch_gpu.nn import hooks as module_hooks
from tinytorch_gpu.optim import optimizer as step_hooks

DIM = 16
TINY = ("--dim 16 --heads 2 --context 16 --table 64 --batch 2 --warmup 3 --log-every 1 --sample 0 --validate-every 6 "
        "--save-every 5 --data text.txt").split()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYTORCH_DEVICE", str(tt.get_default_device()))
    random = np.random.default_rng(3)
    Path("text.txt").write_text(" ".join(random.choice(["def", "return", "tensor", "for", "\n"], 4000)))
    before = engine._roots, engine.run
    yield tmp_path
    assert (engine._roots, engine.run) == before and modes.recorder is None
    assert not (module_hooks.forward or module_hooks.forward_pre or step_hooks._pre_hooks or step_hooks._post_hooks)


def train(out, *args, layers=1, steps=8) -> int:
    return gpt.main([*TINY, "--layers", str(layers), "--steps", str(steps), "--out", out, *map(str, args)])


def rows(out) -> list[dict]:
    with open(Path(out, "metrics.csv"), newline="") as file:
        return list(csv.DictReader(file))


def column(out, name) -> list[float]:
    return [float(r[name]) for r in rows(out)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run with a report, made once."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("trained"))
    try:
        Path("text.txt").write_text("def f(x):\n    return x + 1\n" * 400)
        assert train("with", "--report") == 0
        yield Path("with").resolve()
    finally:
        os.chdir(before)


# a run


def test_recording_changes_no_result(trained):
    os.chdir(trained.parent)
    assert train("without") == 0
    a, b = (tt.load(Path(f, "checkpoint.safetensors"), map_location="cpu") for f in ("with", "without"))
    for part in ("model", "optimizer", "random"):
        assert flat(a[part]) == flat(b[part])
    for name in ("step", "loss", "lr", "grad_norm", "held_out"):
        assert [r[name] for r in rows("with")] == [r[name] for r in rows("without")]
    assert not Path("without", "report.json").exists() and not Path("without", "report.html").exists()


def flat(value):
    if isinstance(value, dict):
        return {k: flat(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [flat(v) for v in value]
    return value.numpy().tobytes() if isinstance(value, tt.Tensor) else value


def test_what_is_recorded_is_what_ran(trained):
    d = look.report(trained).data
    assert d["program"] == "gpt" and d["step"] == d["steps"] == 8 and not d["missing"]
    assert d["metrics"]["loss"] == column(trained, "loss") and d["metrics"]["held_out"].count(None) == 7
    root = [n for n in d["graph"]["nodes"] if n["kind"] == "operator"][-1]
    assert root["outputs"][0]["value"]["norm"] == pytest.approx(column(trained, "loss")[0] * math.log(2), rel=1e-6)
    # what the step uses is the gradient after clipping to 1
    norms = dict(enumerate(column(trained, "grad_norm"), 1))
    g = d["gradients"]
    assert g["steps"] == [1, 7]  # every second one, but those of memory and profile
    assert g["total"] == pytest.approx([min(1.0, norms[s]) for s in g["steps"]], rel=1e-4)
    assert d["settings"]["dim"] == DIM and d["settings"]["layers"] == 1 and "resume" not in d["settings"]
    assert d["environment"]["tinytorch_gpu"] == tt.__version__
    assert (d["graph_step"], d["memory_step"], d["profile_steps"]) == (1, 2, [3, 5])
    assert [s["calls"] for s in d["profile"]["steps"]] == [3]


def test_a_layer_more_adds_what_a_layer_has(trained):
    os.chdir(trained.parent)
    assert train("deeper", "--report", layers=2, steps=5) == 0
    one, two = (look.report(f).data for f in ("with", "deeper"))

    def parameters(d):
        return next(r["bytes"] for r in d["memory"]["peak"]["rows"] if r["title"] == "parameters")

    def called(d, name):
        return sum(o["forward"]["calls"] for o in d["profile"]["operators"] if o["forward"] and o["name"] == name)

    assert parameters(two) - parameters(one) == 4 * (12 * DIM * DIM + 2 * DIM)  # float32
    names = [[n["name"] for n in d["graph"]["nodes"] if n["kind"] == "operator"] for d in (one, two)]
    # norm, qkv, reshape, transpose, split, attention, transpose, reshape, out, add; norm, up, relu, mul, down, add
    assert len(names[1]) - len(names[0]) == 16
    for name, each in (("RMSNorm", 2), ("Linear", 4), ("Attention", 1), ("Add", 2), ("ReLU", 1)):
        assert names[1].count(name) - names[0].count(name) == each
        assert called(two, name) - called(one, name) == 3 * each  # of three steps
    assert len(two["gradients"]["layers"]) - len(one["gradients"]["layers"]) == 6


def test_ctrl_c_writes_the_report_and_resume_continues_it(monkeypatch, capsys):
    update, calls = gpt.update, []

    def stopping(*args):
        calls.append(1)
        if len(calls) == 7:
            signal.raise_signal(signal.SIGINT)
        return update(*args)

    monkeypatch.setattr(gpt, "update", stopping)
    assert train("a", "--report", steps=14) == 130
    assert "the report of the run is a" in capsys.readouterr().out
    first = look.report("a").data
    assert first["step"] == 8 and first["steps"] == 14 and Path("a", "report.html").is_file()
    assert "8 steps of 14" in str(look.report("a"))
    monkeypatch.setattr(gpt, "update", update)
    assert gpt.main(["--resume", "--out", "a"]) == 0
    d = look.report("a").data
    assert d["step"] == 14 and d["graph_step"] == 1 and d["memory"] == first["memory"]
    assert d["gradients"]["steps"] == [*first["gradients"]["steps"], 9, 11, 13]
    for old, new in zip(first["gradients"]["layers"], d["gradients"]["layers"]):
        assert new["name"] == old["name"] and new["norm"][:len(old["norm"])] == old["norm"]
        assert len(new["norm"]) == len(d["gradients"]["steps"]) and None not in new["norm"]
    norms = dict(enumerate(column("a", "grad_norm"), 1))
    assert d["gradients"]["total"] == pytest.approx([min(1.0, norms[s]) for s in d["gradients"]["steps"]], rel=1e-4)


def test_a_run_that_ends_early_says_what_is_missing(capsys):
    assert train("a", "--report", steps=1) == 0
    d = look.report("a").data
    assert d["graph"] is not None and d["memory"] is d["profile"] is None
    assert [m.split(":")[0] for m in d["missing"]] == ["no memory", "no profile"]
    assert "second step after the beginning, which the run did not reach" in d["missing"][0]
    assert train("b", "--report", steps=4) == 0
    assert look.report("b").data["profile_steps"] == [3, 4]


def test_a_diverging_run_has_a_report(capsys):
    assert train("a", "--report", "--lr", "1e30", "--clip", "1e30", steps=12) == 1
    assert "the loss is" in capsys.readouterr().err
    assert Path("a", "report.html").is_file()


def test_a_run_of_an_earlier_version_can_be_resumed():
    assert train("a", steps=3) == 0
    path = Path("a", "checkpoint.safetensors")
    saved = tt.load(path, map_location="cpu")
    del saved["settings"]["report"]
    saved["settings"]["steps"] = 5
    tt.save(saved, path)
    assert gpt.main(["--resume", "--out", "a", "--report"]) == 0
    d = look.report("a").data
    assert d["graph_step"] == 4 and d["memory_step"] == 5 and "no profile" in d["missing"][0]


def test_steps_that_are_looked_into_do_not_count_as_speed(monkeypatch):
    @dataclass
    class Settings:
        steps: int = 40
        report: bool = False
        device: str = "cpu"

    class Clock:
        now = 0.0

    class Looked:
        def watched(self, step):
            return step % 3 == 0

        def begin(self, step):
            Clock.now += 50

        end = close = lambda self: None

        def save(self, seconds):
            pass

    monkeypatch.setattr(run.time, "perf_counter", lambda: Clock.now)
    monkeypatch.setattr(run.options, "fill", lambda cls, given, on_gpu: cls())
    monkeypatch.setattr(run, "report", None, raising=False)
    r = run.Run("gpt", Settings, {"out": "a", "device": "cpu"}, "tokens", loss="bits")
    r.begin("")
    r._recording = Looked()
    done = 0
    with r:
        for step in r.steps():
            Clock.now += 50 if step % 3 == 0 else 2  # a plain step takes 2 s
            done += 100
            if step in (4, 9, 20, 40):
                with r.paused():
                    Clock.now += 1000
                r.log(done, loss=1.0)
                done = 0
            if step == 40:
                r._recording = None  # there is nothing to report
    assert [row["per_second"] for row in r.rows] == pytest.approx([50.0] * 4)


# a folder


def make(rng, count=30):
    """metrics.csv of random figures, and these."""
    found = {"step": list(range(10, 10 * count + 1, 10)), "loss": rng.uniform(1, 5, count).tolist(),
             "mine": rng.uniform(1e5, 2e5, count).tolist()}
    Path("r").mkdir()
    with open("r/metrics.csv", "w", newline="") as file:
        csv.writer(file).writerows([found, *zip(*found.values())])
    return found


def test_any_table_with_steps_has_curves(rng):
    found = make(rng)
    with open("r/metrics.csv", "a") as file:
        file.write("7,2.5\n8,x,3\n5,,4\n310,1.25,")  # too short, no number, an empty cell, half-written
    view = look.report("r")
    assert view.data["metrics"]["step"] == [5, *found["step"], 310]
    assert view.data["metrics"]["loss"] == [None, *found["loss"], 1.25]
    assert view.data["metrics"]["mine"] == [4.0, *found["mine"], None]
    assert [c.title for c in view.curves] == ["loss", "mine"]
    assert view.curves[0].points[0] == list(zip([*found["step"], 310], [*found["loss"], 1.25]))
    line = len(found["step"]) + 2
    assert view.data["missing"] == [
        f"metrics.csv has 2 lines that are no rows of 3 numbers, left out: {line}, {line + 1}",
        "graph, memory, profile, gradients and environment were not recorded: `tinytorch-gpu train gpt --report` notes "
        "them; with --resume --out r it does for the steps that come"]
    assert json.loads(view.to_json()) == view.data


def test_the_known_columns_are_drawn_as_what_they_are():
    Path("r").mkdir()
    Path("r/metrics.csv").write_text("step,loss,held_out,per_second,memory_mib,grad_norm\n"
                                     "1,3,,1000,200,5\n2,2.5,2.75,1001,201,4\n3,2,,,202,\n")
    noted = {"format": report_record.FORMAT, "units": {"loss": "bits", "held_out": "bits", "per_second": "words/s"},
             "settings": {"clip": 2.0}}
    Path("r/report.json").write_text(json.dumps(noted))
    loss, speed, memory, norm = look.report("r").curves
    assert [s.name for s in loss.series] == ["training", "held out"] and loss.points[1] == [(2, 2.75)]
    assert speed.y == "words/s" and speed.points[0] == [(1, 1000), (2, 1001)] and speed.up.low == memory.up.low == 0
    assert memory.points[0] == [(k, (199 + k) * 2**20) for k in (1, 2, 3)]
    assert norm.points == [[(1, 5), (2, 4)], [(1, 2), (3, 2)]] and norm.series[1].name == "clipped above"
    Path("r/report.json").write_text(json.dumps({**noted, "units": {"loss": "bits", "held_out": "share"}}))
    assert [c.title for c in look.report("r").curves][:2] == ["loss", "held out"]
    assert look.report("r").facts()[:2] == [("loss (bits)", "3 to 2"), ("held out (share)", "2.75 at last")]


def test_the_memory_column_is_named_by_what_it_measures(trained, device):
    """Beside the peak of a step's arrays stands another figure: what the operating system, or the pool, counted."""
    view = look.report(trained)
    most = max(float(r["memory_mib"]) for r in rows(trained) if r["memory_mib"])  # none where a step was looked into
    name = "resident memory of the process" if device.type == "cpu" else f"memory in use on {device}"
    facts = dict(view.facts())
    assert "memory" not in facts and facts[name].endswith(" at most")
    amount, unit = facts[name].split()[:2]
    assert float(amount) * {"KiB": 2**-10, "MiB": 1, "GiB": 2**10}[unit] == pytest.approx(most, rel=0.01)
    assert name in [c.title for c in view.curves] and f"<dt>{name}</dt>" in view.to_html()
    Path("r").mkdir()
    Path("r/metrics.csv").write_text("step,memory_mib\n1,20\n2,30\n")
    assert look.report("r").facts() == [("memory, of metrics.csv", "30 MiB at most")]  # of a loop that nobody knows


def test_curves_stand_side_by_side_in_one_size(trained):
    """A page scales a drawing that is wider than its column: with a legend or without, they are equally wide."""
    view = look.report(trained)
    assert len({len(c.series) for c in view.curves}) == 2  # the losses have a legend
    assert len({c.drawing().frame()[2] for c in view.curves}) == 1


def test_curves_begin_at_their_first_step(rng):
    make(rng, 1600)
    for chart in look.report("r").curves:  # of means
        assert chart.across.low > 10 and all(x == round(x) for x in chart.across.labelled())
        assert "0" not in chart.lines(Paper(width=80), 8)[-1].split()


def test_long_runs_are_drawn_by_means(rng):
    found = make(rng, 1600)
    (chart, _), means = look.report("r").curves, 4
    points = chart.points[0]
    assert len(points) == 400 and chart.series[0].name == "training, means of 4 rows"
    assert points[7] == pytest.approx((np.mean(found["step"][28:32]), np.mean(found["loss"][28:32])))
    assert means * len(points) == 1600


def test_settings_come_from_the_checkpoint_where_nothing_was_recorded(trained):
    os.chdir(trained.parent)
    if not Path("plain").exists():
        assert train("plain", steps=2) == 0
    d = look.report("plain").data
    assert d["settings"]["dim"] == DIM and d["program"] == "gpt" and d["seconds"] > 0
    Path("plain", "checkpoint.safetensors").write_bytes(b"rubbish")
    d = look.report("plain").data
    assert d["settings"] is None and d["missing"][0].startswith("settings: [load] ")
    assert "plain" in str(look.report("plain"))


def decaying(factor, layers=6, steps=5):
    return {"model": "Net", "steps": list(range(1, steps + 1)), "total": [1.0] * steps, "relus": [], "skipped": [2],
            "layers": [{"name": f"layer{k}", "class": "Linear", "norm": [1.0] * steps, "ratio": [None] * steps,
                        "signal": [factor ** (layers - 1 - k)] * (steps - 1) + [math.nan if factor == 1 else 1e9]}
                       for k in range(layers)]}


@pytest.mark.parametrize("factor, kind", [(0.1, "vanishing"), (10.0, "exploding"), (0.9, "neither"),
                                          (1, "not finite")])
def test_vanishing_is_told_over_the_run(factor, kind):
    Path("r").mkdir()
    text = look.view.strict_json({"format": report_record.FORMAT, "gradients": decaying(factor)})
    Path("r/report.json").write_text(text)
    view = look.report("r")
    v = view.data["gradients"]["verdict"]
    assert v["kind"] == kind  # by the median: the last step's value decides nothing
    if kind == "vanishing":
        assert v["growth"] == pytest.approx(0.1) and v["begins"] == "layer3"
        assert "gradients vanish from layer layer3 on towards the input" in " ".join(str(view).split())
    assert "log scale" in str(view) and ("not finite" in str(view)) == (kind == "not finite")


def test_bad_folders(rng):
    with pytest.raises(TypeError, match=r"\[report\] expected the folder of a run, got int"):
        look.report(3)
    with pytest.raises(ValueError, match=r"\[report\] nothing is no folder: give the folder of a run"):
        look.report("nothing")
    Path("empty").mkdir()
    with pytest.raises(ValueError, match=r"\[report\] empty holds no run: it has neither metrics.csv nor report.json"):
        look.report("empty")
    make(rng)
    for text, message in (("{", "is damaged"), ("[]", "has not the format"), ('{"format": "other"}', "has not the for"),
                          (json.dumps({"format": report_record.FORMAT, "graph": {"nodes": []}}), "does not fit toget"),
                          (json.dumps({"format": report_record.FORMAT, "gradients": [1]}), "does not fit together"),
                          (json.dumps({"format": report_record.FORMAT, "memory": {"view": 1}}), "does not fit"),
                          (json.dumps({"format": report_record.FORMAT, "profile": {}}), "does not fit")):
        Path("r/report.json").write_text(text)
        with pytest.raises(ValueError, match=rf"\[report\] .*report.json {message}.*remove it, the page is made"):
            look.report("r")
    Path("r/report.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is damaged"):
        look.report("r")
    Path("r/report.json").unlink()
    Path("r/metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"metrics.csv has no column `step` in its first line"):
        look.report("r")
    Path("r/metrics.csv").write_text("step,loss\n")
    view = look.report("r")
    assert view.data["missing"][0] == "no curves: metrics.csv is not there or has no row" and str(view)
    with pytest.raises(ValueError, match=r"\[save\] there is nothing to draw: no curves"):
        view.to_svg()


# a loop of one's own


def test_a_loop_of_ones_own(rng):
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1))
    optimizer = tt.optim.SGD(model.parameters(), lr=0.1)
    x, norms = tt.tensor(rng.standard_normal((8, 3)), dtype=tt.float32), {}
    recording = look.Recording(".", model, optimizer, steps=10, about={"program": "mine", "settings": {"lr": 0.1}})
    for step in range(1, 11):
        recording.begin(step)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        norms[step] = math.sqrt(sum(float((p.grad.detach().cpu().numpy().astype(float) ** 2).sum())
                                    for p in model.parameters()))
        optimizer.step()
        recording.end()
    recording.close()
    recording.save()
    d = look.report(".").data
    assert d["gradients"]["total"] == pytest.approx([norms[s] for s in d["gradients"]["steps"]], rel=1e-5)
    assert d["program"] == "mine" and d["settings"] == {"lr": 0.1} and d["graph"] and d["memory"] and d["profile"]
    assert [n["name"] for n in d["graph"]["nodes"] if n["kind"] == "operator"] == [
        "Linear", "ReLU", "Linear", "Pow", "Mean"]


def test_a_recording_that_is_left_in_the_middle_leaves_nothing():
    model = nn.Linear(2, 1)
    optimizer = tt.optim.SGD(model.parameters(), lr=0.1)
    for at in range(1, 8):
        recording = look.Recording(".", model, optimizer, steps=100, about={})
        for step in range(1, at + 1):
            recording.begin(step)
            model(tt.ones(1, 2)).sum().backward()
        recording.close()
        assert not model._forward_hooks and not optimizer._optimizer_step_post_hooks
        recording.save()
        assert look.report(".").data["graph"] is not None


def test_bad_recordings():
    model = nn.Linear(2, 1)
    optimizer = tt.optim.SGD(model.parameters(), lr=0.1)
    good = {"folder": ".", "model": model, "optimizer": optimizer, "steps": 3, "about": {}}
    for wrong, error, message in (
            ({"folder": "no"}, ValueError, r"\[Recording\] no is no folder: make it before"),
            ({"steps": 0}, ValueError, "steps must be a whole number of at least 1, got 0"),
            ({"steps": True}, ValueError, "steps must be a whole number"),
            ({"steps": 2.0}, ValueError, "steps must be a whole number of at least 1, got 2.0"),
            ({"done": -1}, ValueError, "done must be a whole number of at least 0, got -1"),
            ({"about": None}, TypeError, "about must be a dictionary, got NoneType"),
            ({"model": 3}, TypeError, "expected a Module"), ({"optimizer": model}, TypeError, "expected an Optimizer"),
            ({"optimizer": tt.optim.SGD(nn.Linear(2, 1).parameters(), lr=1)}, ValueError, "steps none of the model's")):
        with pytest.raises(error, match=message):
            look.Recording(**{**good, **wrong})


def test_figures_that_json_lacks_come_back():
    Path("report.json").write_text(look.view.strict_json({
        "format": report_record.FORMAT, "x": [math.nan, math.inf, -math.inf, 1.5, "NaN?", None]}))
    x = report_record.read(Path("report.json"))["x"]
    assert math.isnan(x[0]) and x[1:] == [math.inf, -math.inf, 1.5, "NaN?", None]


# text and files


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_text(trained, width):
    view = look.report(trained)
    out = io.StringIO()
    view.print(out, width)
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    if width >= 60:
        flat = " ".join(text.split())
        assert "loss (bits per byte): " in flat and "gradient at the layers' outputs, 2 steps from 1 to 7" in flat
        assert re.search(r"step 2: memory on \S+: peak", flat) and "steps 3 to 5: " in flat
        assert "step 1: graph of CrossEntropy: " in flat and "settings: " in flat and "environment: " in flat


def test_the_page_has_all_sections(trained):
    text = (trained / "report.html").read_text(encoding="utf-8")
    assert "<title>look.report: gpt in with: 8 steps</title>" in text
    page = whole(text)[0]
    names = ["curves", "gradients", "memory", "profile", "graph", "settings", "environment"]
    assert page.addresses == ["#" + n for n in names] and set(names) <= set(page.ids)
    (frame,) = page.frames
    inner, = whole(frame)
    assert not inner.addresses and {"search", "view", "data"} <= set(inner.ids)
    assert str(DIM) in text and "AdamW.step" in text


def test_what_a_user_writes_cannot_break_the_page(rng):
    make(rng)
    name = '</section><script>alert("1")</script>&'
    Path("r/report.json").write_text(json.dumps({
        "format": report_record.FORMAT, "program": name, "settings": {name: name}, "environment": {name: name},
        "units": {"loss": name}}))
    text = look.report("r").to_html()
    whole(text)
    assert "<script>" not in text and text.count("&lt;/section&gt;") >= 5


def test_it_is_called_by_program_and_folder(trained):
    view = look.report(trained)
    assert repr(view).startswith("<look.report: gpt in ")
