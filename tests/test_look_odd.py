"""Odd programs under the views: what each printed wrongly once, held against what is true."""
from __future__ import annotations

import io

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn
from tinytorch_gpu.autograd.node import REGISTRY
from tinytorch_gpu.cli import main
from tinytorch_gpu.look.chart import Bars, Chart, Series
from tinytorch_gpu.look.terminal import size_of
from tinytorch_gpu.nn import Module
from tinytorch_gpu.utils.checkpoint import checkpoint


def test_nan_walks_the_modules_seldom_however_many_there_are(monkeypatch):
    walks = []
    walked = Module.named_parameters

    def counted(self, *args, **kwargs):
        walks.append(self)
        return walked(self, *args, **kwargs)

    monkeypatch.setattr(Module, "named_parameters", counted)
    model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(60)])
    with look.nan() as found:
        for _ in range(3):
            model(tt.ones(1, 2)).sum().backward()
    assert found.data["operators"] == 3 * 61
    assert len(walks) <= 4  # one when the model is first called, then one for every 120 operators at most


def test_nan_names_a_parameter_that_was_put_in_later():
    model = nn.Sequential(nn.Linear(1, 1))
    with look.nan() as found:
        model(tt.ones(1, 1))
        for _ in range(5):  # the table of names is made again as time goes by
            model(tt.ones(1, 1))
        model[0].weight = nn.Parameter(tt.tensor([[float("nan")]]))
        model(tt.ones(1, 1))
    assert found.data["first"]["name"] == "input 1 (0.weight)"


def test_tensor_has_no_name_of_the_packages_own_variables():
    names = []
    w = tt.ones(2, requires_grad=True)

    class Seen(tt.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            names.append(look.tensor(kept[0]).data["name"])
            return grad

    kept = [Seen.apply(w).sum()]  # in a list, and `self` of Tensor.backward
    kept[0].backward()
    assert names == [None]


def test_tensor_that_was_made_flat_is_nobodys_view():
    for t in (tt.randn(4, 4), tt.randn(3, 3), tt.rand(2, 3, 4)):
        view = look.tensor(t)
        assert view.data["view_of"] is None and "view of" not in str(view)
    host = np.arange(6.0)  # the program still has the array
    if tt.get_default_device().type == "cpu":
        assert "view of   no Tensor that autograd knows of" in str(look.tensor(tt.from_numpy(host.reshape(2, 3))))


def test_tensor_without_elements_has_no_further_one():
    rows = [line for line in str(look.tensor(tt.zeros(3, 0, 1))).splitlines() if line[:3].strip().isdecimal()]
    assert len(rows) == 3 and all(row.endswith("nowhere: there is none") for row in rows)


def test_tensor_says_of_a_complex_gradient_that_its_range_is_of_magnitudes():
    z = tt.tensor([3 + 4j, 1j], requires_grad=True)
    (z * z.conj()).real.sum().backward()
    assert z.grad.cpu().numpy().tolist() == [6 + 8j, 2j]
    assert "norm 10.2, min 2, max 10 (of magnitudes)" in str(look.tensor(z))


@pytest.mark.parametrize("width", [20, 24, 40])
def test_tensor_ends_no_line_in_blanks(width):
    t = nn.Linear(4, 4).weight
    assert all(line == line.rstrip() for line in look.tensor(t).lines(look.view.Paper(None, width)))


def test_trace_shows_the_sum_of_many_gradients():
    x = tt.ones(2, requires_grad=True)
    n = 50
    with look.record():
        loss = sum(x * i for i in range(n)).sum()
    view = look.trace(loss, {"x": x})
    for width in (60, 80, 200):
        row = [line for line in view.lines(look.view.Paper(None, width)) if line.startswith("x  ")][-1]
        assert "[1225, 1225]" in row  # 0 + 1 + ... + 49, for both elements
    assert f"+ {n - 8} more = [1225, 1225]" in view.page()


def test_trace_shows_a_large_sum_first_and_a_short_one_last():
    x = tt.ones(5, 5, requires_grad=True)
    y = tt.tensor([3.0], requires_grad=True)
    text = str(look.trace((x * 2 + x * 3).sum() * y * y, {"x": x, "y": y}))
    rows = text[text.index("leaf "):].splitlines()
    assert rows[2].startswith("x     norm 225, mean 45, 45 to 45 = norm ")  # (2 + 3) y^2, 25 times
    assert rows[3].startswith("y     ") and rows[3].endswith(" = 750")  # 2 * 125 * 3


def chart_labels(lines):
    return [found for line in lines if "│" in line and (found := line.split("│")[0].strip())]


def test_chart_labels_of_different_values_differ():
    near = Chart("norm", "step", "norm", [Series("norm", [1, 2], [10.8, 11.02])])
    labels = chart_labels(near.lines(look.view.Paper(None, 60)))
    assert len(labels) >= 4 and len(set(labels)) == len(labels)
    assert [float(t) for t in labels] == sorted(map(float, labels), reverse=True)
    assert float(labels[0]) == pytest.approx(11.02) and float(labels[-1]) == pytest.approx(10.8)
    ticks = [text for _, _, text, kind, anchor in near.drawing().texts if kind == "tick" and anchor == "end"]
    assert len(set(ticks)) == len(ticks) >= 3
    assert np.diff(sorted(map(float, ticks))) == pytest.approx(0.05)


def test_chart_says_a_size_once():
    sizes = Chart("memory", "step", "bytes", [Series("m", [1, 2], [1 << 30, (1 << 30) + 512])], y_text=size_of)
    assert chart_labels(sizes.lines(look.view.Paper(None, 60))) == ["1 GiB"]


def test_explain_speaks_of_one_name_that_is_near():
    with pytest.raises(ValueError, match="near to it is Floor;"):
        look.explain("foo")
    with pytest.raises(ValueError, match="near to it are Softmax, "):
        look.explain("Sofmax")


SEVERAL = """
import tinytorch_gpu as tt
from tinytorch_gpu import nn

{models}
optimizer = tt.optim.SGD([p for m in ({names}) for p in m.parameters()], lr=0.1)
for _ in range(2):
    optimizer.zero_grad()
    x = tt.ones(1, 2)
    for m in ({names}):
        x = m(x)
    x.sum().backward()
    optimizer.step()
"""


@pytest.mark.parametrize("names, said", [(["gen", "disc"], "gen and disc"), (["a", "b", "c"], "a, b and c"),
                                         (list("abcde"), "a, b and 3 more")])
def test_command_calls_several_models_by_their_names(tmp_path, capsys, names, said):
    script = tmp_path / "several.py"
    script.write_text(SEVERAL.format(names=", ".join(names),
                                     models="\n".join(f"{name} = nn.Linear(2, 2)" for name in names)))
    assert main(["look", "gradients", str(script)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"gradients of {said}: {2 * len(names)} parameters in {len(names)} layers, 2 steps watched")
    assert all(f"{name}.weight" in out for name in names)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x):
        return x + self.down(tt.tanh(self.up(x)))


def test_profile_tells_a_checkpoints_second_run_apart_from_the_backward():
    blocks = nn.Sequential(Block(), Block())

    def step(run):
        x = tt.ones(3, 4, requires_grad=True)
        with look.profile(blocks) as p:
            for block in blocks:
                x = run(block, x)
            x.sum().backward()
        return p

    plain, again = step(lambda block, x: block(x)), step(lambda block, x: checkpoint(block, x))
    for key in ("operators", "nodes", "steps"):
        assert again.data["counts"][key] == plain.data["counts"][key]
    ran = {r["name"]: r["calls"] for r in again.data["again"]}
    assert plain.data["again"] == [] and plain.data["counts"]["again"] == 0
    # two blocks: both Linear and tanh; nothing after the last saved value, which is the second Linear's
    assert ran == {"Linear": 4, "Tanh": 2} and again.data["counts"]["again"] == 6
    calls = [{(o["name"], way): o[way]["calls"] for o in p.data["operators"] for way in ("forward", "backward")
              if o[way] is not None} for p in (plain, again)]
    assert calls[0] == calls[1]
    costs = [{o["name"]: (o["backward"]["flops"], o["backward"]["bytes"]) for o in p.data["operators"]
              if o["backward"] is not None} for p in (plain, again)]
    assert costs[0] == costs[1]  # of the rules alone
    assert [{r["name"]: r["calls"] for r in p.data["rules"]} for p in (again,)] == [
        {r["name"]: r["calls"] for r in plain.data["rules"]}]
    parts = {p["part"]: p["seconds"] for p in again.data["parts"]}
    assert parts["run again by checkpoints"] >= sum(r["own_seconds"] for r in again.data["again"]) * 0.999
    backward = sum(o["backward"]["seconds"] for o in again.data["operators"] if o["backward"] is not None)
    whole = again.data["program_seconds"]
    assert backward + parts["run again by checkpoints"] < whole  # which each was in the other once
    text = str(again)
    assert "6 operators again for checkpoints" in " ".join(text.split()) and "run again  calls" in text
    assert "checkpoint" in {e.get("cat") for e in again.trace()["traceEvents"]}


def test_profile_says_that_an_operator_raised():
    with look.profile() as p:
        with pytest.raises(RuntimeError):
            tt.ones(2, 3, requires_grad=True) @ tt.ones(4, 4)
    missing = p.data["missing"]
    assert any(m == "no rates, for an exception ended one: Gemm" for m in missing)
    assert not any("is not known" in m for m in missing)


@pytest.mark.parametrize("encoding", ["utf-8", "cp437", "ascii"])
def test_bars_of_five_parts_have_a_sign_for_each(encoding):
    parts = [(f"part {k}", 20.0) for k in range(5)]
    paper = look.view.Paper(io.TextIOWrapper(io.BytesIO(), encoding=encoding), 100)
    _, legend, bar = Bars("five", [("all", parts, "")]).lines(paper)
    signs = [word for word in legend.split() if word != "part" and not word.isdecimal()]
    assert len(set(signs)) == 5 and all(sign in bar for sign in signs)
    assert ("█" in signs) == (encoding != "ascii")


def told(run):
    with look.nan() as found:
        run()
    return str(found).splitlines()[0], found.data["first"]["what"]


@pytest.mark.parametrize("on", ["tensor", "node"])
def test_nan_tells_a_hook_from_a_sum(on):
    def hooked():
        y = tt.ones(3, requires_grad=True) * 1
        if on == "tensor":
            y.register_hook(lambda g: g * float("nan"))
        else:
            y.grad_fn.register_prehook(lambda grads: (grads[0] * float("nan"),))
        y.sum().backward()

    assert told(hooked) == ("a hook on the result of Mul made NaN", "hook")


def test_nan_tells_a_sum_from_a_hook():
    def summed():
        y = tt.ones(1, requires_grad=True) * 1
        tt.autograd.backward([y * 3, y * 3], [tt.tensor([1e38]), tt.tensor([1e38])])

    assert told(summed) == ("adding the gradients of the result of Mul made Inf", "sum")

    def given_too():  # one gradient is sent to it, one is given
        y = tt.ones(1, requires_grad=True) * 1
        tt.autograd.backward([y * 1, y], [tt.tensor([3e38]), tt.tensor([3e38])])

    assert told(given_too) == ("adding the gradients of the result of Mul made Inf", "sum")


def test_nan_names_what_was_given():
    def given():
        x = tt.ones(1, requires_grad=True)
        tt.autograd.grad((x * 2).sum(), x, grad_outputs=tt.tensor(float("nan")))

    assert told(given) == ("the gradient given to backward() for the result of Sum had NaN already", "given")


def run_of(folder, metrics):
    folder.mkdir()
    (folder / "metrics.csv").write_text(metrics)
    return look.report(folder)


def test_report_says_that_a_run_diverged(tmp_path):
    view = run_of(tmp_path / "run", "step,loss,grad_norm\n10,2.5,1\n20,1.5,inf\n30,nan,nan\n40,nan,\n")
    assert ("loss", "2.5 to nan") in view.facts()
    notes = [m for m in view.data["missing"] if "finite" in m]
    assert notes == ["loss is not finite in 2 of 4 rows, first at step 30; the curves leave these out",
                     "grad_norm is not finite in 2 of 4 rows, first at step 20; the curves leave these out"]
    assert "loss is not finite" in view.page() and "nan" in str(view)
    fine = run_of(tmp_path / "fine", "step,loss\n1,2\n2,1\n")
    assert ("loss", "2 to 1") in fine.facts() and not any("finite" in m for m in fine.data["missing"])


def test_report_names_the_lines_that_are_no_rows(tmp_path):
    view = run_of(tmp_path / "run", "step,loss\n1,2\n2,abc\n3,1,7\n\n4,0.5\n5,\n6\n")
    assert view.data["metrics"] == {"step": [1.0, 4.0, 5.0], "loss": [2.0, 0.5, None]}
    assert "metrics.csv has 3 lines that are no rows of 2 numbers, left out: 3, 4, 8" in view.data["missing"]
    one = run_of(tmp_path / "one", "step,loss\n1,2\n2")
    assert "metrics.csv has 1 line that is no row of 2 numbers, left out: 3" in one.data["missing"]


def test_trace_of_large_arrays_writes_whole_norms_where_columns_are_few():
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 7))
    with look.record():
        loss = model(tt.ones(4, 5)).square().mean()
    view = look.trace(loss, model)
    narrow = "\n".join(view.lines(look.view.Paper(None, 80)))
    sent = {}
    for step in view.data["steps"]:
        for i in step["inputs"]:
            sent[step["node"], i["node"]] = i["gradient"]
    back = narrow[narrow.index("backward "):narrow.index("leaf ")]
    for (_, _), gradient in sent.items():
        if "values" not in gradient:
            assert f"norm {gradient['norm']:.3g}" in back
    assert ", mean " not in back and "not shown in 80 columns: mean and range of gradients" in narrow
    wide = "\n".join(view.lines(look.view.Paper(None, 400)))
    assert "norm" in wide and ", mean " in wide[wide.index("backward "):]


def test_explain_keeps_to_the_width_with_the_longest_name():
    name = max(REGISTRY, key=len)
    assert len(name) > 20
    lines = look.explain(REGISTRY[name]).lines(look.view.Paper(None, 20))
    assert max(map(len, lines)) <= 20 and "".join(lines[:2]) == name
