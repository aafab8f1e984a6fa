"""tinytorch-gpu look VIEW script.py: the program runs as it is, and what is shown is what it computed."""
from __future__ import annotations

import importlib
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import cli
from tinytorch_gpu.autograd import engine, modes
from tinytorch_gpu.look.backward_calls import BackwardCalls
from tinytorch_gpu.look_commands.options import _steps
from tinytorch_gpu.nn import hooks as module_hooks
from tinytorch_gpu.optim import Optimizer
from tinytorch_gpu.optim import optimizer as step_hooks
from tinytorch_gpu.utils.checkpoint import checkpoint

ROOT = Path(__file__).resolve().parents[1]
ORIGINALS = engine._roots, engine.run, Optimizer._init_hooks

SMALL = """import tinytorch_gpu as tt
print("the program speaks")
x = tt.tensor([3.0], requires_grad=True)
y = tt.tensor([2.0], requires_grad=True)
z = (x + y) * (x - y)
z.backward()
"""

# writes down what the looks are compared with
TRAIN = """import json, sys
import numpy as np
import tinytorch_gpu as tt
from tinytorch_gpu import nn

width, steps = int(sys.argv[1]), int(sys.argv[2])
seen = {"losses": [], "norms": [], "ended": False}

def main():
    tt.manual_seed(5)
    net = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))
    optimizer = tt.optim.Adam(net.parameters(), lr=0.01)
    x = tt.randn(32, 4)
    try:
        for step in range(steps):
            optimizer.zero_grad()
            loss = net(x).square().mean()
            loss.backward()
            seen["losses"].append(loss.item())
            seen["norms"].append({n: float(np.linalg.norm(p.grad.cpu().numpy().astype(np.float64)))
                                  for n, p in net.named_parameters()})
            optimizer.step()
        seen["ended"] = True
    finally:
        with open("seen.json", "w") as file:
            json.dump(seen, file)

main()
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command in a folder; (status, stdout, stderr). Nothing of it may stay behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def command(*argv):
        capsys.readouterr()
        before = sys.modules["__main__"], list(sys.argv), list(sys.path)
        try:
            status = cli.main(["look", *map(str, argv)])
        except SystemExit as e:  # argparse
            status = e.code
        out, err = capsys.readouterr()
        assert (engine._roots, engine.run, Optimizer._init_hooks) == ORIGINALS and modes.recorder is None
        assert not (module_hooks.forward_pre or module_hooks.forward or step_hooks._pre_hooks
                    or step_hooks._post_hooks or BackwardCalls._listeners)
        assert (sys.modules["__main__"], sys.argv, sys.path) == before
        return status, out, err

    return command


def write(text, name="mine.py"):
    Path(name).write_text(text, encoding="utf-8")
    return name


def data(name="view.json"):
    return json.loads(Path(name).read_text(encoding="utf-8"))


def seen():
    return data("seen.json")


# the views


def test_graph(run):
    status, out, err = run("graph", "--save", "view.json", "--save", "view.html", write(SMALL))
    assert status == 0 and "the program speaks" in err and "the program speaks" not in out
    assert out.startswith("graph of Mul: 3 operators, 2 leaves") and "[look] view.html is written" in err
    leaves = {n["name"]: n["outputs"][0]["gradient"]["norm"] for n in data()["nodes"] if n["kind"] == "leaf"}
    assert leaves == {"x": 6.0, "y": 4.0}  # of x^2 - y^2, by hand
    assert [n["line"]["number"] for n in data()["nodes"] if n["kind"] == "operator"] == [5, 5, 5]
    assert Path("view.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("step", [1, 3])
def test_the_step_that_is_asked_for(run, step):
    status, _, _ = run("graph", "--step", step, "--save", "view.json", write(TRAIN), 8, 4)
    assert status == 0 and seen()["ended"] and len(seen()["losses"]) == 4
    nodes = data()["nodes"]
    last = [n for n in nodes if n["kind"] == "operator"][-1]
    assert last["outputs"][0]["value"]["norm"] == pytest.approx(abs(seen()["losses"][step - 1]), rel=1e-5)
    leaves = {n["name"]: n["outputs"][0]["gradient"]["norm"] for n in nodes if n["kind"] == "leaf"}
    assert leaves == pytest.approx(seen()["norms"][step - 1], rel=1e-4)


def test_stop_ends_the_program_after_the_step(run):
    text = TRAIN.replace("            optimizer.step()\n", "            try:\n                optimizer.step()\n"
                         "            except Exception:\n                pass\n")
    status, out, err = run("graph", "--step", 2, "--stop", write(text), 8, 100)
    assert status == 0 and len(seen()["losses"]) == 2 and not seen()["ended"] and out.startswith("graph of Mean")
    assert "[look] stopped after step 2" in err


def test_which_backward_of_a_step(run):
    write("""import tinytorch_gpu as tt
w = tt.ones(3, requires_grad=True)
optimizer = tt.optim.SGD([w], lr=0.1)
for k in range(2):
    (w * 2).sum().backward()
    (w * 5).sum().backward()
    optimizer.step()
""")
    for which, norm in ((1, 2 * math.sqrt(3)), (2, 5 * math.sqrt(3))):
        assert run("graph", "--backward", which, "--save", "view.json", "mine.py")[0] == 0
        assert data()["nodes"][-1]["outputs"][0]["gradient"]["norm"] == pytest.approx(norm)
    status, _, err = run("graph", "--backward", 3, "mine.py")
    assert status == 1 and "had no backward pass number 3: choose another with --step and --backward" in err


def test_steps_without_an_optimizer_end_with_backward_or_grad(run):
    write("""import tinytorch_gpu as tt
w = tt.ones(3, requires_grad=True)
for k in range(1, 5):
    (g,) = tt.autograd.grad((w * k).sum(), w)
    w = (w - 0.1 * g).detach().requires_grad_()
""")
    assert run("graph", "--step", 3, "--save", "view.json", "mine.py")[0] == 0
    literals = [e["literal"] for n in data()["nodes"] for e in n["inputs"]]
    assert "3" in literals and data()["nodes"][-1]["name"] == "w"


def test_leaves_are_named_by_variables_lists_and_parameters(run):
    write("""import tinytorch_gpu as tt
def make():
    inner = tt.ones(2, requires_grad=True)
    weights = [tt.ones(2, requires_grad=True), tt.ones(2, requires_grad=True)]
    by_name = {"b": tt.ones(2, requires_grad=True)}
    (inner * weights[0] * weights[1] + by_name["b"] + top).sum().backward()
top = tt.ones(2, requires_grad=True)
make()
""")
    assert run("graph", "--save", "view.json", "mine.py")[0] == 0
    assert {n["name"] for n in data()["nodes"] if n["kind"] == "leaf"} == {
        "inner", "weights[0]", "weights[1]", "by_name['b']", "top"}


def test_unfold(run):
    assert run("graph", "--unfold", "all", write(TRAIN), 8, 1)[0] == 0
    status, out, err = run("graph", "--unfold", "nothing", write(TRAIN), 8, 1)
    assert status == 1 and not out and "nothing" in err and "Traceback" not in err


def test_trace(run):
    status, out, _ = run("trace", "--save", "view.json", write(SMALL))
    assert status == 0 and out.startswith("the chain rule of Mul") and not data()["missing"]
    leaves = [n for n in data()["nodes"] if n["kind"] == "leaf"]
    assert {n["name"]: n["outputs"][0]["gradient"]["values"] for n in leaves} == {"x": [6.0], "y": [-4.0]}


@pytest.mark.parametrize("width", [4096, 8192])
def test_memory(run, width):
    status, out, _ = run("memory", "--save", "view.json", write(TRAIN), width, 3)
    assert status == 0 and out.startswith("memory on ")
    rows = {r["title"]: r["bytes"] for r in data()["peak"]["rows"]}
    count = 4 * (4 * width + width + width + 1)  # float32 of both layers
    assert rows["parameters"] == count
    parts = {p["what"]: p["bytes"] for r in data()["peak"]["rows"] if r["title"] == "optimizer state"
             for p in r["parts"]}
    assert parts["exp_avg"] == parts["exp_avg_sq"] == count  # the second step has both
    assert {r["module"] for r in data()["saved"]} >= {"1"}  # Tanh, under its name: the outermost call was seen too
    assert {e["during"] for e in data()["timeline"]} >= {"Adam.step"}


def test_gradients_of_all_steps(run):
    status, out, _ = run("gradients", "--save", "view.json", write(TRAIN), 8, 5)
    assert status == 0 and "5 steps watched" in out
    for p in data()["parameters"]:
        assert p["norm"] == pytest.approx([n[p["name"]] for n in seen()["norms"]], rel=1e-4)
    assert [x["name"] for x in data()["layers"]] == ["0", "2"]
    assert all(v is not None for x in data()["layers"] for v in x["signal"])  # of the first step too


def test_gradients_of_two_models_and_of_layers_that_a_function_calls(run):
    write("""import tinytorch_gpu as tt
from tinytorch_gpu import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
    def forward(self, x):
        return self.layer(x)
maker, judge, unused = Net(), Net(), Net()
one = tt.optim.SGD(maker.parameters(), lr=0.1)
two = tt.optim.SGD(judge.parameters(), lr=0.1)
for k in range(2):
    for optimizer in (two, one):
        optimizer.zero_grad()
        judge(maker(tt.ones(2, 3))).sum().backward()
        optimizer.step()
""")
    assert run("gradients", "--save", "view.json", "mine.py")[0] == 0
    assert [p["name"] for p in data()["parameters"]] == [
        f"{m}.layer.{p}" for m in ("maker", "judge") for p in ("weight", "bias")]
    write("""import tinytorch_gpu as tt
from tinytorch_gpu import nn
first, second = nn.Linear(3, 3), nn.Linear(3, 1)
optimizer = tt.optim.SGD([*first.parameters(), *second.parameters()], lr=0.1)
for k in range(2):
    second(first(tt.ones(2, 3))).sum().backward()
    optimizer.step()
""")
    assert run("gradients", "--save", "view.json", "mine.py")[0] == 0
    assert [x["name"] for x in data()["layers"]] == ["first", "second"]
    assert all(v is not None for x in data()["layers"] for v in x["signal"])


BAD = """import tinytorch_gpu as tt
w = tt.tensor([-1.0, 4.0], requires_grad=True)
for k in range(3):
    y = tt.sqrt(w) if k == 1 else w * 2
    y.sum().backward()
    print("after", k)
"""


def test_nan(run):
    status, out, err = run("nan", "--save", "view.json", write(BAD))
    assert status == 0 and out.startswith("Sqrt made NaN") and "after 2" in err
    assert data()["first"]["line"]["number"] == 4
    status, out, err = run("nan", "--stop", "mine.py")
    assert status == 0 and out.startswith("Sqrt made NaN") and "after 0" in err and "after 1" not in err
    assert "Traceback" not in err and "[look] stopped in step 2" in err


def test_profile(run):
    status, out, _ = run("profile", "--save", "view.json", "--save", "t.trace.json", write(TRAIN), 8, 3)
    assert status == 0 and out.startswith("profile of ")
    operators = {o["name"]: o["forward"]["calls"] for o in data()["operators"] if o["forward"]}
    assert operators["Linear"] == 6 and operators["Tanh"] == 3
    assert {s["name"]: s["calls"] for s in data()["steps"]} == {"Adam.step": 3}
    assert data("t.trace.json")["traceEvents"]


def test_fusion(run):
    write("""import sys
import tinytorch_gpu as tt
rows = int(sys.argv[1])
x, w = tt.ones(rows, 64), tt.ones(64, requires_grad=True)
y = (x * w).exp()
(y / y.sum(-1, keepdim=True)).sum().backward()
""")
    moved = {}
    for rows in (64, 128):
        status, out, _ = run("fusion", "--save", "view.json", "mine.py", rows)
        assert status == 0 and data()["findings"]
        moved[rows] = data()["total"]["bytes"]
        assert "mine.py" in json.dumps(data()["findings"])
    assert 1.9 < moved[128] / moved[64] <= 2
    status, out, err = run("fusion", "--measure", "mine.py", 64)
    assert status == 1 and not out and "--measure runs the forward of the outermost Module again" in err


def test_fusion_measured_ends_the_program(run):
    write("""import tinytorch_gpu as tt
from tinytorch_gpu import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(tt.ones(64))
    def forward(self, x, *, times):
        y = (x * self.scale * times).exp()
        return y / y.sum(-1, keepdim=True)
net = Net()
for k in range(3):
    net(tt.ones(256, 64), times=2).sum().backward()
    print("after", k)
""")
    status, out, err = run("fusion", "--step", 2, "--measure", "--save", "view.json", "mine.py")
    assert status == 0 and "after 0" in err and "after 1" not in err and "[look] stopped in step 2" in err
    assert any(f["measured"] for f in data()["findings"]) and "measured" in out


def test_tensor(run):
    status, out, _ = run("tensor", write(SMALL))
    assert status == 0 and out.startswith("Tensor z: f32[1]")
    assert run("tensor", "--name", "0.bias", "--save", "view.json", write(TRAIN), 16, 1)[0] == 0
    assert data()["shape"] == [16] and data()["grad"] is not None
    status, out, err = run("tensor", "--name", "bias", "mine.py", 16, 1)
    assert status == 1 and not out and "no tensor 'bias' at that backward pass: there are " in err and "0.bias" in err


def test_one_step_has_a_picture(run):
    status, out, err = run("step", "--save", "x.svg", write(TRAIN), 8, 1)
    assert status == 0 and "1 step" in out and err == "[look] x.svg is written\n"
    (norms,) = seen()["norms"]
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", Path("x.svg").read_text(encoding="utf-8"))
    for name, norm in norms.items():
        assert texts[texts.index(name) + 1] == f"{norm:.3g}"


def test_step(run):
    status, out, _ = run("step", "--save", "view.json", write(TRAIN), 8, 4)
    assert status == 0 and len(data()["steps"]) == 4 and not data()["findings"]
    run("step", "--save", "view.json", write(TRAIN.replace("            optimizer.zero_grad()\n", "")), 8, 4)
    assert any("zero_grad" in json.dumps(f) for f in data()["findings"])


# a function of tensors alone: the gradient of sum((x w)^2) is 2 x^T x w
TENSORS = """import json, sys
import numpy as np
import tinytorch_gpu as tt

class State:
    pass

seen, state = [], State()
def main():
    rng = np.random.default_rng(3)
    w = [tt.tensor(rng.normal(size=(4, 2)), requires_grad=True), tt.tensor(rng.normal(size=(4, 1)), requires_grad=True)]
    state.scale = tt.tensor(rng.normal(size=4), requires_grad=True)
    optimizer = tt.optim.SGD([*w, state.scale], lr=0.01)
    x = rng.normal(size=(8, 4))
    for _ in range(3):
        optimizer.zero_grad()
        loss = sum((tt.tensor(x) @ v).square().sum() for v in w) + state.scale.square().sum()
        loss.backward()
        grads = [2 * x.T @ x @ v.detach().cpu().numpy() for v in w] + [2 * state.scale.detach().cpu().numpy()]
        seen.append([float(np.linalg.norm(g)) for g in grads])
        optimizer.step()
main()
with open("seen.json", "w") as file:
    json.dump(seen, file)
"""
CALLED = ["w[0]", "w[1]", "SGD's group 0 [2]"]


def test_step_of_a_program_without_modules(run):
    status, out, _ = run("step", "--save", "view.json", write(TENSORS))
    d = data()
    assert status == 0 and d["findings"] == [] and out.startswith("steps of Tensors by SGD: 3 steps, 3 backward, no pi")
    assert {p["name"]: p["norms"] for p in d["parameters"]} == {
        name: pytest.approx([row[k] for row in seen()], rel=1e-6) for k, name in enumerate(CALLED)}
    assert {p["state"] for p in d["parameters"]} == {"trained"} and {p["reached"] for p in d["parameters"]} == {3}
    run("step", "--step", "2-", "--save", "view.json", write(TENSORS.replace("        optimizer.zero_grad()\n", "")))
    assert [(f["kind"], f["steps"]) for f in data()["findings"]] == [("zero_grad", [2])] and data()["backwards"] == 2
    run("step", "--save", "view.json", "mine.py")  # from the first backward pass on
    assert [(f["kind"], f["steps"]) for f in data()["findings"]] == [("zero_grad", [2, 3])] and data()["backwards"] == 3


def test_gradients_of_a_program_without_modules(run):
    status, out, _ = run("gradients", "--save", "view.json", write(TENSORS))
    assert status == 0 and out.startswith("gradients of Tensors: 3 parameters")
    assert {p["name"]: p["norm"] for p in data()["parameters"]} == {
        name: pytest.approx([row[k] for row in seen()], rel=1e-6) for k, name in enumerate(CALLED)}


def test_modules_of_which_only_parameters_are_used(run):
    write("""import tinytorch_gpu as tt
layer = tt.nn.Linear(2, 1)
optimizer = tt.optim.SGD(layer.parameters(), lr=0.1)
for _ in range(2):
    optimizer.zero_grad()
    (tt.ones(3, 2) @ layer.weight.T + layer.bias).sum().backward()
    optimizer.step()
""")
    assert run("step", "--save", "view.json", "mine.py")[0] == 0
    assert {p["name"]: p["norms"] for p in data()["parameters"]} == {
        "weight": pytest.approx([18 ** 0.5] * 2), "bias": [3.0] * 2} and data()["models"] == ["Linear"]


def test_step_calls_models_and_optimizers_by_their_variables(run):
    write("""import tinytorch_gpu as tt
G, D = tt.nn.Sequential(tt.nn.Linear(2, 3)), tt.nn.Sequential(tt.nn.Linear(3, 1))
class Trainer:
    def __init__(self, hidden):
        self.hidden = hidden
        og, od = tt.optim.Adam(G.parameters(), lr=0.1), tt.optim.Adam(D.parameters(), lr=0.1)
        if hidden:
            self.both = [og, od]
            og, od = None, None
        self.train(*(self.both if hidden else (og, od)))
    def train(self, *several):
        for k in range(2):
            for o in several:
                G.zero_grad(); D.zero_grad()
                D(G(tt.ones(4, 2))).sum().backward()
                o.step()
import sys
Trainer(len(sys.argv) > 1)
""")
    status, out, _ = run("step", "--save", "view.json", "mine.py")
    d = data()
    assert (status, sorted(d["models"]), d["optimizers"]) == (0, ["D", "G"], ["og (Adam)", "od (Adam)"])
    assert {p["name"] for p in d["parameters"]} == {"G.0.weight", "G.0.bias", "D.0.weight", "D.0.bias"}
    assert "by og (Adam) and od (Adam): 4 steps (2 by og, 2 by od, numbered together)" in " ".join(out.split())
    run("step", "--save", "view.json", "mine.py", "hidden")  # no variable of their own: by the model
    assert data()["optimizers"] == ["Adam of G", "Adam of D"]


def test_tensor_by_its_name_needs_no_loss(run):
    write("""import numpy as np
import tinytorch_gpu as tt
t = tt.tensor(np.arange(15.0).reshape(5, 3))
parts = [t[1:], t.T]
print("sum", np.asarray(t.cpu()).sum())
""")
    status, out, err = run("tensor", "--name", "t", "--save", "view.json", "mine.py")
    assert status == 0 and out.startswith("Tensor") and "f64[5,3]" in out and "sum 105.0" in err
    assert data()["shape"] == [5, 3] and data()["strides"] == [3, 1]
    assert run("tensor", "--name", "parts[1]", "--save", "view.json", "mine.py")[0] == 0
    assert data()["shape"] == [3, 5] and data()["strides"] == [1, 3]
    status, out, err = run("tensor", "--name", "u", "mine.py")
    assert status == 1 and not out and "[look] no tensor 'u' when the program ended, which had no backward" in err
    assert "there are t, parts[0], parts[1]" in err
    status, _, err = run("tensor", "mine.py")
    assert status == 1 and "so there is no loss to look at: call one of them on what is to be seen, or give the" in err
    write("import tinytorch_gpu as tt\nt = tt.ones(2)\nraise SystemExit(3)")
    assert run("tensor", "--name", "t", "mine.py")[0] == 3


def test_a_clean_result_is_no_failure(run):
    status, out, err = run("nan", "--save", "view.svg", write(SMALL))
    assert status == 0 and out.startswith("no NaN and no Inf in 3 operators forward, 3 backward")
    assert "no NaN and no Inf in 3 operators forward, 3 backward" in Path("view.svg").read_text(encoding="utf-8")


MODULE = """import json, sys
from . import part
__import__("tinytorch_gpu").tensor([3.0], requires_grad=True).log().backward()
with open("seen.json", "w") as file:
    json.dump([sys.argv, __name__, __package__, __file__, __spec__.name, part.name, sys.path[0]], file)
"""


@pytest.mark.parametrize("name", ["inside", "inside.train"])
def test_a_module(run, name):
    Path("inside").mkdir()
    write("", "inside/__init__.py")
    write("name = __name__", "inside/part.py")
    write(MODULE, "inside/train.py")
    write(MODULE, "inside/__main__.py")
    try:
        status, out, _ = run("graph", "--step", 1, "-m", name, "--lr", "3", "-m")
        ours = seen()
        assert status == 0 and out.startswith("graph of Log: 1 operator")
        assert ("__main__.py:3 " if name == "inside" else "train.py:3 ") in out
        subprocess.run([sys.executable, "-m", name, "--lr", "3", "-m"], check=True,
                       env=os.environ | {"PYTHONPATH": str(ROOT)})
        assert ours == seen()  # as Python runs it
        status, out, err = run("graph", "-m", "inside.nothing")
        assert status == 1 and not out and "[look] there is no module inside.nothing to run in" in err
        write("import no_such_module", "inside/train.py")
        status, _, err = run("graph", "-m", "inside.train")
        assert status == 1 and "ModuleNotFoundError: No module named 'no_such_module'" in err
    finally:
        for module in [m for m in sys.modules if m.split(".")[0] == "inside"]:
            del sys.modules[module]
        importlib.invalidate_caches()


@pytest.mark.parametrize("name", ["nowhere", "nowhere.train", ".train", "-"])
def test_a_module_that_is_not_there(run, name):
    status, out, err = run("graph", "-m", name)
    assert status == 1 and not out and "there is no module" in err and "Traceback" not in err


def test_what_a_view_refuses_does_not_reach_the_program(run):
    write("""import tinytorch_gpu as tt
w = tt.ones(2, requires_grad=True)
tt.autograd.backward([(w * 2).sum(), (w * 3).sum()])
print("through", w.grad.tolist())
""")
    status, out, err = run("trace", "mine.py")
    assert status == 1 and not out and "through [5.0, 5.0]" in err
    assert "begins from 2 tensors, trace shows one: choose another with --step and --backward" in err
    assert run("graph", "mine.py")[1].startswith("graph of Sum, Sum: ")


# the program


def test_the_program_is_main_with_its_own_arguments(run):
    write("VALUE = 7\n", "beside.py")
    Path("deeper").mkdir()
    write("""import os, sys
import beside, tinytorch_gpu as tt
assert __name__ == "__main__"
VALUE = beside.VALUE
assert sys.modules["__main__"].VALUE == 7 and __file__ == os.path.abspath("../mine.py")
assert sys.argv == ["../mine.py", "--step", "9", "--save"], sys.argv
assert sys.path[0] == os.path.dirname(os.path.abspath("../mine.py"))
tt.ones(1, requires_grad=True).exp().backward()
""")
    os.chdir("deeper")
    try:
        status, out, err = run("graph", "../mine.py", "--step", 9, "--save")
        assert status == 0 and out.startswith("graph of Exp"), err
    finally:
        os.chdir("..")
        sys.modules.pop("beside", None)


def test_an_error_of_the_program_is_printed_as_python_prints_it(run):
    write(SMALL + "def deep():\n    raise KeyError('mine')\ndeep()\n")
    status, out, err = run("graph", "mine.py")
    assert status == 1 and out.startswith("graph of Mul")  # what was seen until then
    alone = subprocess.run([sys.executable, "mine.py"], capture_output=True, text=True,
                           env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert err[err.index("Traceback"):] == alone.stderr and alone.returncode == 1
    status, out, err = run("graph", write("x = = 3\n"))
    assert status == 1 and not out and "SyntaxError: invalid syntax" in err and "look_commands" not in err
    assert "[look]" not in err


@pytest.mark.parametrize("given, status", [("", 0), ("0", 0), ("3", 3), ("'a word'", 1), ("None", 0)])
def test_system_exit(run, given, status):
    found, out, err = run("graph", write(SMALL + f"import sys\nsys.exit({given})\n"))
    assert found == status and out.startswith("graph of Mul") and ("a word" in err) == ("word" in given)


def test_nothing_to_look_at(run):
    status, out, err = run("graph", write("print('no loss')\n"))
    assert status == 1 and not out and "mine.py called neither backward() nor autograd.grad()" in err
    status, _, err = run("graph", "--step", 5, write(TRAIN), 8, 3)
    assert status == 1 and "ended after 3 training steps, step 5 was to be looked at: give a smaller --step" in err
    status, _, err = run("gradients", write(SMALL))
    assert status == 1 and "called no Module with gradients enabled" in err
    status, _, err = run("memory", "--step", "4-", write(TRAIN), 8, 1)
    assert status == 1 and "ended after 1 training step, step 4" in err
    assert run("graph", write("raise SystemExit(4)\n"))[0] == 4


WRONG = [
    (["graph"], "required: PROGRAM", 2), (["graph", "nothing.py"], "[look] nothing.py is not there: give a script", 1),
    (["graph", "."], "[look] . is a folder", 1), ([], "required: VIEW", 2), (["graphs", "mine.py"], "invalid", 2),
    (["graph", "--save", "x.pdf", "mine.py"], "[look] --save x.pdf: Graph writes .html, .svg, .png, .dot, .json", 1),
    (["memory", "--save", "x.dot", "mine.py"], "[look] --save x.dot: Memory writes .html, .svg", 1),
    (["graph", "--save", "no/x.html", "mine.py"], "there is no folder", 1),
    (["graph", "--step", "0", "mine.py"], "write 3, 2-5 or 2-", 2),
    (["graph", "--step", "5-2", "mine.py"], "write 3, 2-5 or 2-", 2),
    (["graph", "--step", "a", "mine.py"], "write 3, 2-5 or 2-", 2),
    (["graph", "--width", "10", "mine.py"], "no whole number of at least 20", 2),
    (["graph", "--backward", "0", "mine.py"], "no whole number above 0", 2),
    (["memory", "--backward=1", "mine.py"], "unrecognized arguments: --backward=1", 2),  # it shows no single pass
    (["gradients", "--threshold", "1", "mine.py"], "threshold must be a number above 1", 1),
    (["report", "nothing"], "[report] nothing is no folder", 1),
]


@pytest.mark.parametrize("argv, message, status", WRONG, ids=[" ".join(w[0]) for w in WRONG])
def test_wrong_usage(run, argv, message, status):
    write(TRAIN.replace("sys.argv[1]", "'4'").replace("sys.argv[2]", "'2'"))
    found, out, err = run(*argv)
    assert (found, out) == (status, "") and message in " ".join(err.split()), err
    assert "Traceback" not in err


def test_steps_are_read():
    assert [_steps(t) for t in ("3", "2-5", "2-", "7-7")] == [(3, 3), (2, 5), (2, None), (7, 7)]


# where it prints


@pytest.mark.parametrize("view, width", [
    *[(view, 60) for view in ("graph", "memory", "gradients", "fusion", "trace", "profile", "step")],
    ("graph", 80), ("graph", 200)])  # tests/test_look_every.py has every view in every width
def test_width(run, view, width):
    status, out, _ = run(view, "--width", width, write(TRAIN), 8, 2)
    widest = max(map(len, out.splitlines()))
    assert status == 0 and widest <= width
    assert view != "graph" or widest > {60: 50, 80: 60, 200: 80}[width]


def start(*argv, **environment):
    return subprocess.Popen([sys.executable, "-m", "tinytorch_gpu", "look", *map(str, argv)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment)


@pytest.mark.parametrize("columns, width", [("200", 200), ("", 80)])
def test_a_pipe_has_the_columns_that_the_environment_says(tmp_path, monkeypatch, columns, width):
    monkeypatch.chdir(tmp_path)
    out, err = start("graph", write(TRAIN), 8, 1, COLUMNS=columns, PYTHONIOENCODING="utf-8").communicate(timeout=60)
    lines = out.decode().splitlines()
    assert max(map(len, lines)) <= width, err
    assert any(len(line) > 80 for line in lines) == (width == 200)


def test_a_stream_without_box_characters_gets_ascii(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    child = start("graph", write(TRAIN), 8, 1, COLUMNS="60", PYTHONIOENCODING="cp1252")
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert out.isascii() and b"forward v" in out and b"-+-" in out
    assert max(map(len, out.splitlines())) <= 60


@pytest.mark.skipif(os.name != "posix", reason="signals as Unix has them")
def test_ctrl_c_shows_what_was_seen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("""import os, signal, time
import tinytorch_gpu as tt
signal.signal(signal.SIGINT, signal.default_int_handler)
w = tt.ones(3, requires_grad=True)
for k in range(1000):
    (w * 2).sum().backward()
    if k == 2:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)
""")
    child = start("nan", "mine.py")
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130 and b"Traceback" not in err
    assert out.decode().startswith("no NaN and no Inf in 6 operators forward, 6 backward")


# the examples

TINY = ["--layers", 1, "--dim", 16, "--heads", 2, "--context", 16, "--table", 64, "--batch", 2, "--sample", 0,
        "--data", "text.txt"]


def test_an_example_runs_for_some_steps_and_leaves_nothing(run):
    Path("text.txt").write_text("def f(x):\n    return x\n" * 200)
    status, out, err = run("graph", "gpt", *TINY)
    assert status == 0 and out.startswith("graph of CrossEntropy: ") and "stopped after step 1" in err
    assert "blocks.0.qkv.weight" in out and sorted(p.name for p in Path().iterdir()) == ["text.txt"]
    status, out, err = run("gradients", "--step", "2-4", "gpt", *TINY)
    assert status == 0 and "3 steps watched" in out and "stopped after step 4" in err
    assert run("graph", "gpt", "--dim", "3")[0] == 1  # its own message, its own status
    status, out, err = run("graph", "gpt", "--nonsense")
    assert (status, out) == (2, "") and "[look] --" not in err
    status, _, err = run("graph", "gpt", *TINY, "--save", "view.png")
    assert status == 2 and "[look] --save stands behind gpt, whose option it is there: options of look stand" in err
    status, _, _ = run("graph", "gpt", *TINY, "--out", "kept")
    assert status == 0 and Path("kept", "metrics.csv").is_file()


def test_digits(run):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    status, out, _ = run("step", "--step", "1-2", "digits", "--batch", 8, "--channels", 2)
    assert status == 0 and out.startswith("steps of CNN by AdamW: 2 steps")


# who calls backward


def test_passes_are_told_before_and_after():
    told = []
    w = tt.ones(2, requires_grad=True)
    with BackwardCalls(lambda t, what: told.append(("before", what, len(t), w.grad is None)),
                       lambda t, what: told.append(("after", what, len(t), w.grad is None))):
        (w * 2).sum().backward()
        tt.autograd.grad((w * 2).sum(), w)
        with pytest.raises(RuntimeError, match="scalar"):
            (w * 2).backward()
    (w * 2).sum().backward()
    assert told == [("before", "backward", 1, True), ("after", "backward", 1, False), ("before", "grad", 1, False),
                    ("after", "grad", 1, False)]
    assert (engine._roots, engine.run) == ORIGINALS[:2]


def test_a_pass_inside_a_pass_is_not_told():
    told = []
    w = tt.ones(2, requires_grad=True)
    with BackwardCalls(lambda t, what: told.append(tt.autograd.grad((w * 3).sum(), w)[0].tolist())):
        checkpoint(lambda a: (a * a).sum(), w, use_reentrant=False).backward()
    assert told == [[3.0, 3.0]] and w.grad.tolist() == [2.0, 2.0]


def test_after_is_not_told_of_a_pass_that_raised():
    told = []
    w = tt.ones(2, requires_grad=True)

    def refuse(grad):
        raise ValueError("not this one")

    y = (w * 2)
    y.register_hook(refuse)
    with BackwardCalls(lambda t, what: told.append("before"), lambda t, what: told.append("after")):
        with pytest.raises(ValueError, match="not this one"):
            y.sum().backward()
        w.sum().backward()
    assert told == ["before", "before", "after"]


def test_help_names_all_views(run):
    status, out, _ = run("--help")
    assert status == 0 and all(re.search(rf"\b{v}\b", out) for v in (
        "graph", "memory", "gradients", "fusion", "profile", "trace", "tensor", "nan", "step", "report"))


def test_a_reader_that_goes_away_costs_no_file(tmp_path):
    script = tmp_path / "program.py"
    script.write_text("import tinytorch_gpu as tt\nx = tt.ones(3, requires_grad=True)\n(x * x).sum().backward()\n")
    command = [sys.executable, "-m", "tinytorch_gpu", "look", "graph", "--save", "g.html", "--save", "g.json",
               str(script)]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               env={**os.environ, "PYTHONPATH": str(Path(tt.__file__).parents[1])})
    process.stdout.close()  # `| head` that has read enough
    process.wait(60)
    assert (tmp_path / "g.html").stat().st_size and (tmp_path / "g.json").stat().st_size


CLOSURES = """
import json

import tinytorch_gpu as tt
from tinytorch_gpu import nn

tt.manual_seed(1)
net, x = nn.Linear(3, 1), tt.randn(8, 3)
optimizer = tt.optim.SGD(net.parameters(), lr=0.1)
norms = []
for step in range(3):
    def closure():
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        norms.append(float(tt.stack([p.grad.norm() for p in net.parameters()]).norm()))
        return loss
    optimizer.step(closure)
with open("seen.json", "w") as file:
    json.dump(norms, file)
"""


@pytest.mark.parametrize("view", ["step", "gradients"])
def test_steps_with_closures_are_all_watched(run, view):
    """The model is found inside the first of them, when that has begun."""
    status, out, err = run(view, "--save", "view.json", write(CLOSURES))
    assert status == 0, err
    d, norms = data(), seen()
    assert len(norms) == 3 and "3 steps" in out
    if view == "step":
        assert [s["norm"] for s in d["steps"]] == [pytest.approx(n, rel=1e-5) for n in norms] and d["findings"] == []
    else:
        totals = [sum(n**2 for n in several) ** 0.5 for several in zip(*[p["norm"] for p in d["parameters"]])]
        assert totals == [pytest.approx(n, rel=1e-5) for n in norms]
        assert all(u is not None for p in d["parameters"] for u in p["update"])
