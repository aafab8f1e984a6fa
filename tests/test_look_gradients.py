"""look.gradients: norms, updates, dead units against formulas; the rule on networks built to vanish or explode."""
from __future__ import annotations

import gc
import io
import json
import math
import re
import weakref
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn, optim
from tinytorch_gpu.amp import GradScaler
from tinytorch_gpu.autograd import engine
from tinytorch_gpu.autograd.operator import Operator
from tinytorch_gpu.look.gradients.heat import bins, level
from tinytorch_gpu.look.gradients.rule import verdict
from tinytorch_gpu.nn import hooks as module_hooks
from tinytorch_gpu.nn.call import Callable
from tinytorch_gpu.optim import optimizer as step_hooks
from tinytorch_gpu.utils.checkpoint import checkpoint

F = nn.functional


def host(t):
    return np.asarray(t.detach().cpu().numpy(), np.float64)


def norm(t):
    return float(np.linalg.norm(host(t).ravel()))


def small():
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


def loss_of(model, x):
    return model(x).square().mean()


def by_name(view, what="parameters"):
    return {p["name"]: p for p in view.data[what]}


class Residual(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.inside = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, x):
        return x + self.inside(x)


# the rule, on constructed networks


def watched(model, x, **options):
    with look.gradients(model, **options) as view:
        loss_of(model, x).backward()
    return view


@pytest.fixture
def seeded(seed):
    tt.manual_seed(seed)
    print(f"tt.manual_seed({seed})")


@pytest.mark.parametrize("depth", [10, 30])
def test_a_deep_sigmoid_stack_vanishes(seeded, depth):
    layers = [m for _ in range(depth) for m in (nn.Linear(16, 16), nn.Sigmoid())]
    v = watched(nn.Sequential(*layers, nn.Linear(16, 4)), tt.randn(8, 16)).data["verdict"]
    assert v["kind"] == "vanishing" and v["measured"] < 1e-3 and v["layers"] == depth + 1
    assert 0.05 < v["growth"] < 0.3  # the sigmoid's slope is 0.25 at most; the default weights give 1 / sqrt(3)
    assert v["fitted"] == pytest.approx(v["growth"] ** depth, rel=1e-6)
    assert int(v["begins"]) >= 2 * depth - 6  # from the last layers on


def test_a_scaled_linear_stack_explodes(seeded):
    model = nn.Sequential(*[nn.Linear(24, 24, bias=False) for _ in range(12)])
    for p in model.parameters():
        nn.init.orthogonal_(p)
        p.data.mul_(3.0)
    v = watched(model, tt.randn(8, 24)).data["verdict"]
    # an orthogonal matrix keeps the norm: exactly the scale remains
    assert v["kind"] == "exploding" and v["growth"] == pytest.approx(3, rel=1e-4)
    assert v["measured"] == pytest.approx(3.0 ** 11, rel=1e-4) and v["residual"] < 1e-4
    assert v["begins"] == "8"  # 3 ** 3 is above ten, 3 ** 2 is not


def test_a_residual_network_does_neither(seeded):
    model = nn.Sequential(nn.Linear(16, 16), *[Residual(16) for _ in range(12)], nn.Linear(16, 4))
    v = watched(model, tt.randn(8, 16)).data["verdict"]
    assert v["kind"] == "neither" and v["begins"] is None and 0.8 < v["growth"] < 1.25


def test_the_same_stack_is_judged_by_the_scale_alone(seeded):
    found = []
    for scale in (0.3, 1.0, 3.0):
        model = nn.Sequential(*[nn.Linear(8, 8, bias=False) for _ in range(10)])
        for p in model.parameters():
            nn.init.orthogonal_(p)
            p.data.mul_(scale)
        found.append(watched(model, tt.randn(4, 8)).data["verdict"])
    assert [v["kind"] for v in found] == ["vanishing", "neither", "exploding"]
    assert [v["growth"] for v in found] == pytest.approx([0.3, 1, 3], rel=1e-4)


def test_the_threshold_is_the_users(seeded):
    model = nn.Sequential(*[nn.Linear(8, 8, bias=False) for _ in range(5)])
    for p in model.parameters():
        nn.init.orthogonal_(p)
        p.data.mul_(2.0)
    x = tt.randn(4, 8)
    assert watched(model, x).data["verdict"]["kind"] == "neither"  # 2 ** 4 = 16
    assert watched(model, x, threshold=15).data["verdict"]["kind"] == "exploding"
    assert watched(model, x, threshold=17).data["verdict"]["kind"] == "neither"


def test_the_rule_on_numbers():
    names = list("abcdef")
    assert verdict(names, [1, 1, 1, 1, 1, 1], 1e3)["kind"] == "neither"
    v = verdict(names, [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1], 1e3)
    assert v["kind"] == "vanishing" and v["growth"] == pytest.approx(0.1) and v["begins"] == "d"
    assert verdict(names, [1e-4, 1, 1, 1, 1, 1], 1e3)["kind"] == "neither"  # one layer is no trend: the line says 0.007
    v = verdict(names, [0, 0, 0, 1, 1, 1], 1e3)
    assert v["kind"] == "vanishing" and v["measured"] == 0 and v["begins"] == "c"
    v = verdict(names, [0, 0, 0, 0, 0, 1], 1e3)
    assert v["kind"] == "vanishing" and v["growth"] is None and v["begins"] == "e"
    assert verdict(names, [1, 1, math.nan, math.inf, 1, 1], 1e3)["kind"] == "not finite"
    assert verdict(names, [1, 1, math.nan, math.inf, 1, 1], 1e3)["begins"] == "d"
    assert verdict(names, [None, None, None, 1, 2, 3], 1e3)["kind"] == "unknown"
    assert verdict(names, [1, 1, 1, 1, 1, 0], 1e3)["kind"] == "unknown"
    assert verdict(names, [1e300, 1e200, 1e100, 1, 1e-100, 1e-300], 1e3)["kind"] == "exploding"


# figures


def test_what_grad_holds(rng):
    model = small()
    x = tt.tensor(rng.standard_normal((4, 5)), dtype=tt.float32)
    loss_of(model, x).backward()
    view = look.gradients(model)
    for name, p in model.named_parameters():
        d = by_name(view)[name]
        assert d["norm"] == [pytest.approx(norm(p.grad), rel=1e-5)]
        assert d["weight"] == [pytest.approx(norm(p), rel=1e-5)]
        assert d["zeros"] == [pytest.approx(float((host(p.grad) == 0).mean()))]
        assert d["update"] == d["ratio"] == [None] and d["nan"] == d["inf"] == [0]
    first = by_name(view, "layers")["0"]
    assert first["norm"] == [pytest.approx(math.hypot(norm(model[0].weight.grad), norm(model[0].bias.grad)), rel=1e-5)]
    assert view.data["total"] == [pytest.approx(math.hypot(*[norm(p.grad) for p in model.parameters()]), rel=1e-5)]
    assert view.data["verdict"]["kind"] == "unknown" and "with look.gradients" in str(view)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_updates_are_the_change_of_the_weights(rng, kind):
    model = small()
    optimizer = (optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01) if kind == "sgd"
                 else optim.AdamW(model.parameters(), lr=0.01))
    x = tt.tensor(rng.standard_normal((4, 5)), dtype=tt.float32)
    expected = {name: [] for name, _ in model.named_parameters()}
    with look.gradients(model, optimizer) as view:
        for _ in range(4):
            optimizer.zero_grad()
            loss_of(model, x).backward()
            before = {name: host(p).copy() for name, p in model.named_parameters()}
            optimizer.step()
            for name, p in model.named_parameters():
                change = np.linalg.norm((host(p) - before[name]).ravel())
                expected[name].append((norm(p.grad), change, np.linalg.norm(before[name].ravel())))
    assert view.data["steps"] == 4 and view.data["state"] == "watched"
    for name, rows in expected.items():
        d = by_name(view)[name]
        for key, column in zip(("norm", "update", "weight"), zip(*rows)):
            assert d[key] == [pytest.approx(float(v), rel=1e-4, abs=1e-12) for v in column]
        assert d["ratio"] == [pytest.approx(float(u / w), rel=1e-4, abs=1e-12) for _, u, w in rows]


def test_the_gradient_at_outputs_is_that_of_autograd(rng):
    model = small()
    x = tt.tensor(rng.standard_normal((4, 5)), dtype=tt.float32)
    middle = model[0](x)
    out = model[2](model[1](middle))
    expected = [norm(g) for g in tt.autograd.grad(out.square().mean(), [middle, out])]
    view = watched(model, x)
    assert [d["signal"][0] for d in view.data["layers"]] == pytest.approx(expected, rel=1e-5)


def test_watching_changes_no_result(rng):
    x0 = rng.standard_normal((4, 5)).astype(np.float32)
    results = []
    for watch in (False, True):
        tt.manual_seed(3)
        model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Dropout(0.5), nn.Linear(7, 3))
        optimizer = optim.Adam(model.parameters(), lr=0.01)

        def train(model=model, optimizer=optimizer):
            for _ in range(3):
                optimizer.zero_grad()
                loss_of(model, tt.tensor(x0)).backward()
                optimizer.step()

        if watch:
            with look.gradients(model, optimizer):
                train()
        else:
            train()
        results.append([host(p) for p in model.parameters()])
    assert all(np.array_equal(a, b) for a, b in zip(*results))


def test_norms_beyond_the_squares_of_float32():
    model = nn.Linear(2, 2, bias=False)
    for value in (1e30, 1e-30):
        model.weight.grad = tt.full((2, 2), value)
        assert by_name(look.gradients(model))["weight"]["norm"] == [pytest.approx(2 * value, rel=1e-5)]


def test_bad_values_are_counted():
    model = nn.Linear(2, 2, bias=False)
    model.weight.grad = tt.tensor([[float("nan"), 0.0], [float("inf"), -float("inf")]])
    view = look.gradients(model)
    d = by_name(view)["weight"]
    assert d["nan"] == [1] and d["inf"] == [2] and d["zeros"] == [0.25] and not math.isfinite(d["norm"][0])
    assert json.loads(view.to_json())["parameters"][0]["norm"] == ["NaN"]
    assert " 3\n" in str(view) + "\n"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes(dtype):
    model = nn.Linear(3, 2).to(getattr(tt, dtype))
    loss_of(model, tt.ones(2, 3, dtype=getattr(tt, dtype))).backward()
    d = by_name(look.gradients(model))["weight"]
    assert d["dtype"] == dtype and d["norm"] == [pytest.approx(norm(model.weight.grad.float()), rel=1e-4)]


# dead units


def test_units_that_never_fire_and_rows_without_gradient():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    model[0].weight.data.copy_(tt.ones(4, 3))
    model[0].bias.data.copy_(tt.tensor([0.5, -100.0, 0.5, -100.0]))
    optimizer = optim.SGD(model.parameters(), lr=1e-3)
    with look.gradients(model, optimizer) as view:
        for _ in range(2):
            optimizer.zero_grad()
            loss_of(model, tt.ones(2, 3)).backward()
            optimizer.step()
    assert view.data["relus"] == [{"name": "1", "units": 4, "dead": 2, "function": None, "after": None, "line": None}]
    assert (by_name(view)["0.weight"]["zero_rows"], by_name(view)["0.weight"]["rows"]) == (2, 4)
    assert by_name(view)["2.weight"]["zero_rows"] == 0 and by_name(view)["0.bias"]["rows"] is None
    assert "dead: 2 of 4 units of 1 never were positive" in str(view) and "2 of 4" in view.to_html()


def test_a_unit_that_fires_once_is_alive():
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU())
    model[0].weight.data.copy_(tt.tensor([[1.0], [-1.0]]))
    optimizer = optim.SGD(model.parameters(), lr=0.0)
    with look.gradients(model, optimizer) as view:
        for value in (1.0, -1.0):
            optimizer.zero_grad()
            model(tt.full((1, 1), value)).sum().backward()
            optimizer.step()
    assert view.data["relus"][0]["dead"] == 0 and by_name(view)["0.weight"]["zero_rows"] == 0


def test_channels_of_an_image_are_units():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU())
    model[0].bias.data.copy_(tt.tensor([9.0, -9.0, 9.0]))
    view = watched(model, tt.ones(1, 1, 2, 2))
    assert [(r["name"], r["units"], r["dead"]) for r in view.data["relus"]] == [("1", 3, 1)]


class Acts(nn.Module):
    """Linear layers with one rectifier behind each: `act` of every one, a function or a Module."""

    def __init__(self, act, sizes=(3, 4, 5)):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])])
        self.act = nn.ModuleList([act() for _ in self.layers]) if isinstance(act, type) else [act] * len(self.layers)
        self.last = nn.Linear(sizes[-1], 1)

    def forward(self, x):
        for layer, act in zip(self.layers, self.act):
            x = act(layer(x))
        return self.last(x)


def kill(model, rng):
    """Give the model's layers weights of which some units are never positive; which those are, for positive inputs."""
    dead = []
    for layer in model.layers:
        n, m = layer.weight.shape
        off = rng.permutation(n)[:rng.integers(1, n)]
        weight, bias = rng.uniform(0.1, 1, (n, m)), rng.uniform(0.1, 1, n)
        weight[off], bias[off] = -weight[off], -1
        layer.weight.data.copy_(tt.tensor(weight, dtype=tt.float32))
        layer.bias.data.copy_(tt.tensor(bias, dtype=tt.float32))
        dead.append(len(off))
    return dead


def trained(model, x, steps=2, run=None):
    optimizer = optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    with look.gradients(model, optimizer) as view:
        for _ in range(steps):
            optimizer.zero_grad()
            (run or model)(x).sum().backward()
            optimizer.step()
    return view


FUNCTIONS = {
    "relu": (F.relu, tt.relu, tt.Tensor.relu, lambda t: F.relu(t, inplace=True), lambda t: (t * 1).relu_(),
             lambda t: F.bias_act(t, None, "relu")),
    "clamp": (lambda t: t.clamp(min=0), lambda t: tt.clamp(t, 0.0, 100.0), lambda t: t.clamp_min(0),
              lambda t: (t + 0).clamp_(min=0)),
    "relu6": (F.relu6, nn.ReLU6()),  # a Module that no Module holds is none of the model's
    "hardtanh": (lambda t: F.hardtanh(t, 0, 9), nn.Hardtanh(0.0, 9.0)),
}


@pytest.mark.parametrize("kind, act", [(k, f) for k, several in FUNCTIONS.items() for f in several])
def test_a_function_is_found_as_its_module_is(kind, act):
    seed = 5
    x = tt.tensor(np.random.default_rng(2).uniform(0.1, 1, (6, 3)), dtype=tt.float32)
    with_modules, with_functions = Acts(nn.ReLU), Acts(act)
    dead = kill(with_modules, np.random.default_rng(seed))
    assert kill(with_functions, np.random.default_rng(seed)) == dead
    rows = trained(with_modules, x).data["relus"]
    assert [(r["name"], r["units"], r["dead"], r["function"]) for r in rows] == [
        ("act.0", 4, dead[0], None), ("act.1", 5, dead[1], None)]
    view = trained(with_functions, x)
    rows = view.data["relus"]  # each turn of the loop has its own, though line and function are the same
    assert [(r["units"], r["dead"], r["function"], r["after"].rpartition(".")[0]) for r in rows] == [
        (4, dead[0], kind, "layers.0"), (5, dead[1], kind, "layers.1")]
    assert all(r["name"] == "" and r["line"]["file"].endswith("test_look_gradients.py") for r in rows)
    assert f"dead: {dead[0]} of 4 units of {kind} after layers.0 (" in " ".join(str(view).split())
    assert f"units of {kind} after layers.1 (" in view.to_html()


def test_layers_of_one_size_and_frozen_ones_are_told_apart():
    x = tt.tensor(np.random.default_rng(2).uniform(0.1, 1, (6, 4)), dtype=tt.float32)
    model = Acts(F.relu, (4, 4, 4, 4, 4))
    dead = kill(model, np.random.default_rng(8))
    assert len(set(dead)) > 1
    for frozen in range(5):
        for layer in model.layers[:frozen]:
            layer.requires_grad_(False)
        rows = trained(model, x).data["relus"]
        assert [(r["after"].rpartition(".")[0], r["dead"]) for r in rows] == [
            (f"layers.{i}", n) for i, n in enumerate(dead)]


@pytest.mark.parametrize("autocast", [False, True])
def test_the_steps_of_a_recurrent_network_are_one_layers(autocast):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Linear(1, 3), nn.Linear(3, 3, bias=False)

        def forward(self, x):
            h = tt.zeros(len(x), 3)
            for t in range(x.shape[1]):
                h = F.relu(self.inner(x[:, t:t + 1]) + self.outer(h))
            return h

    model = Recurrent()
    model.inner.weight.data.copy_(tt.tensor([[1.0], [1.0], [0.0]]))
    model.inner.bias.data.copy_(tt.tensor([0.0, -2.5, -1.0]))
    model.outer.weight.data.copy_(tt.eye(3))
    x = tt.tensor([[1.0, 2.0, 3.0]])  # the second unit is positive in the last step only, the third never

    def run(x):
        with tt.amp.autocast("cpu", enabled=autocast, dtype=tt.bfloat16):
            return model(x)

    (row,) = trained(model, x, run=run).data["relus"]
    assert (row["units"], row["dead"], row["function"]) == (3, 1, "relu")


def test_parameters_that_are_no_layers_and_inputs_without_a_sample():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.ParameterList([nn.Parameter(tt.full((3, 3), v)) for v in (1.0, -1.0)])
            self.act = nn.ReLU()

        def forward(self, x):
            for w in self.weights:
                x = F.relu(x.abs() @ w)
            return self.act(x + 1)

    for samples in (0, 2):
        view = trained(Net(), tt.ones(samples, 3))
        rows = [(r["name"], r["after"], r["dead"]) for r in view.data["relus"]]
        assert rows == ([("", "weights.0", 0), ("", "weights.1", 3), ("act", None, 0)] if samples else [])
    assert "dead: 3 of 3 units of relu after weights.1 (" in " ".join(str(view).split())


def test_which_functions_are_no_rectifiers():
    class Others(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.act = nn.Linear(2, 2), nn.ReLU()

        def forward(self, x):
            x = self.layer(x)
            for f in (F.leaky_relu, F.elu, lambda t: t.clamp(min=-1), lambda t: t.clamp(max=0), lambda t: t.clamp(1, 2),
                      lambda t: F.hardtanh(t, -1, 1), lambda t: F.bias_act(t, None, "silu"),
                      lambda t: t.clamp(min=tt.zeros(2)), lambda t: t.clamp(0, 0)):
                x = x + f(x)
            tt.tensor([1, -2]).clamp(min=0)  # whole numbers
            tt.tensor(-2.0).relu()  # no units
            return self.act(x)

    model = Others()
    view = trained(model, tt.ones(1, 2), run=lambda x: tt.relu(model(x)) + tt.relu(tt.ones(1, 2) * -1))
    assert [(r["name"], r["function"]) for r in view.data["relus"]] == [("act", None)]  # and none of outside the model


def test_what_runs_without_gradients_and_what_a_checkpoint_runs_again_counts_as_in_a_module():
    for act in (F.relu, nn.ReLU):
        model = Acts(act, (1, 2))
        model.layers[0].weight.data.copy_(tt.tensor([[1.0], [-1.0]]))
        model.layers[0].bias.data.zero_()
        optimizer = optim.SGD(model.parameters(), lr=0.0)
        with look.gradients(model, optimizer) as view:
            checkpoint(model, tt.ones(1, 1)).sum().backward()
            optimizer.step()
            assert [r["dead"] for r in view.data["relus"]] == [1]
            with tt.no_grad():
                model(-tt.ones(1, 1))
        assert [r["dead"] for r in view.data["relus"]] == [0]


def test_channels_of_an_image_behind_a_function_and_names_of_modules():
    class Stage(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.weight = nn.Conv2d(1, 3, 1), nn.Parameter(tt.ones(1))

        def forward(self, x):
            return F.relu(self.conv(x)), F.relu(tt.ones(2, 3) * -self.weight)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stage = Stage()

        def forward(self, x):
            a, b = self.stage(x)
            return a.sum() + b.sum()

    model = Net()
    model.stage.conv.weight.data.fill_(1)
    model.stage.conv.bias.data.copy_(tt.tensor([9.0, -9.0, 9.0]))
    view = trained(model, tt.ones(1, 1, 2, 2))
    assert [(r["name"], r["units"], r["dead"], r["after"]) for r in view.data["relus"]] == [
        ("stage", 3, 1, "stage.conv.weight"), ("stage", 3, 3, "stage.weight")]
    assert view.data["relus"][0]["line"]["function"] == "forward"
    text = " ".join(str(view).split())
    assert "1 of 3 units of relu after stage.conv (" in text and "3 of 3 units of relu after stage (" in text


# which optimizer, which step


def test_without_an_optimizer_every_one_of_this_model_counts():
    model, other = small(), small()
    mine, theirs = optim.SGD(model.parameters(), lr=0.1), optim.SGD(other.parameters(), lr=0.1)
    with look.gradients(model) as view:
        for m, o in ((model, mine), (other, theirs)):
            loss_of(m, tt.ones(1, 5)).backward()
            o.step()
    assert view.data["steps"] == 1 and by_name(view)["0.weight"]["update"][0] > 0


def test_two_optimizers_share_a_step():
    model = small()
    both = [optim.SGD(model[0].parameters(), lr=0.1), optim.SGD(model[2].parameters(), lr=0.2)]
    with look.gradients(model, both) as view:
        for _ in range(3):
            loss_of(model, tt.ones(1, 5)).backward()
            for o in both:
                o.step()
    assert view.data["steps"] == 3
    assert all(len(p["update"]) == 3 and None not in p["update"] for p in view.data["parameters"])


def test_accumulated_gradients_and_a_closure():
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with look.gradients(model, optimizer) as view:
        for _ in range(2):
            loss_of(model, tt.ones(1, 5)).backward()
        optimizer.step()

        def closure():
            optimizer.zero_grad()
            loss = loss_of(model, tt.ones(1, 5))
            loss.backward()
            return loss

        optimizer.step(closure)
        assert by_name(view)["0.weight"]["norm"][1] == pytest.approx(norm(model[0].weight.grad), rel=1e-5)
    assert view.data["steps"] == 2


def test_a_gradient_scaler(rng):
    x = tt.tensor(rng.standard_normal((4, 5)), dtype=tt.float32)
    model = small()
    loss_of(model, x).backward()
    expected = [norm(p.grad) for p in model.parameters()]
    model.zero_grad()
    optimizer, scaler = optim.SGD(model.parameters(), lr=0.1), GradScaler("cpu", init_scale=1024.0)
    with look.gradients(model, optimizer) as view:
        scaler.scale(loss_of(model, x)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert [p["norm"][0] for p in view.data["parameters"]] == pytest.approx(expected, rel=1e-4)
    assert all(p["update"][0] > 0 for p in view.data["parameters"] if p["norm"][0])


def test_a_step_that_the_scaler_skipped_counts_in_no_median():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    optimizer, scaler = optim.SGD(model.parameters(), lr=0.1), GradScaler("cpu", init_scale=2.0)
    with look.gradients(model, optimizer) as view:
        for scale in (1.0, float("inf"), 1.0):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, tt.ones(1, 2)) * scale).backward()
            scaler.step(optimizer)
            scaler.update()
    d = by_name(view)["1.weight"]
    assert view.data["skipped"] == [2] and view.data["steps"] == 3 and d["update"][1] == 0
    assert not math.isfinite(d["norm"][1]) and d["median"]["norm"] == pytest.approx((d["norm"][0] + d["norm"][2]) / 2)
    assert math.isfinite(view.data["median_total"]) and math.isfinite(view.data["layers"][1]["median"]["signal"])
    assert "1 of 3 steps skipped by the gradient scaler" in str(view)
    assert "3 steps watched, 1 of them" in str(view)
    assert d["inf"][1] + d["nan"][1] > 0 and d["not_finite"] == 0 and "NaN, Inf" not in str(view)  # no finding


class Plain(optim.Optimizer):
    """One that knows nothing of scalers: GradScaler.step divides its gradients by unscale_, and skips it itself."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                with tt.no_grad():
                    p.sub_(p.grad * group["lr"])


@pytest.mark.parametrize("kind", ["unscale_", "unscale_ and clip", "step alone", "an optimizer without scaling"])
def test_gradients_at_outputs_are_those_of_the_loss_whatever_divides_by_the_scale(rng, kind):
    model = small()
    x = tt.tensor(rng.standard_normal((4, 5)), dtype=tt.float32)
    middle = model[0](x)
    out = model[2](model[1](middle))
    expected = [norm(g) for g in tt.autograd.grad(out.square().mean(), [middle, out])]  # no scaler
    optimizer = (Plain if "without" in kind else optim.SGD)(model.parameters())
    scaler = GradScaler("cpu", init_scale=2.0 ** 13, growth_interval=1)  # update() doubles it
    with look.gradients(model, optimizer) as view:
        for _ in range(2):
            for group in optimizer.param_groups:
                group["lr"] = 0.0
            optimizer.zero_grad()
            scaler.scale(loss_of(model, x)).backward()
            if "unscale_" in kind:
                scaler.unscale_(optimizer)
            if "clip" in kind:
                nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            scaler.step(optimizer)
            scaler.update()
    for k in range(2):
        assert [d["signal"][k] for d in view.data["layers"]] == pytest.approx(expected, rel=1e-4)
        total = math.hypot(*[p["norm"][k] for p in view.data["parameters"]])
        assert (total == pytest.approx(0.01, rel=1e-3)) == ("clip" in kind)
    assert scaler.get_scale() == 2.0 ** 15 and not view.data["skipped"]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_of_a_skipped_step_nothing_is_left_in_the_next_ones_figures(plain, given):
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    model[0].weight.data.copy_(tt.tensor([[1.0, 1.0], [-1.0, -1.0]]))  # the second unit is dead
    model[0].bias.data.zero_()
    optimizer = (Plain if plain else optim.SGD)(model.parameters())
    scaler = GradScaler("cpu", init_scale=2.0)
    with look.gradients(model, optimizer if given else None) as view:
        for scale in (1.0, float("inf"), 1.0, 1.0):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, tt.ones(1, 2)) * scale).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
    d = by_name(view)["0.weight"]
    assert view.data["steps"] == 4 and view.data["skipped"] == [2]
    assert all(math.isfinite(x["signal"][k]) for x in view.data["layers"] for k in (0, 2, 3))
    assert d["not_finite"] == 0 and d["zero_rows"] == 1 and d["zeros"][3] == d["last_zeros"] == 0.5


def test_a_scale_that_nobody_divides_by_is_not_guessed(rng):
    model, other = small(), small()
    optimizer, scaler = optim.SGD(model.parameters(), lr=0.1), GradScaler("cpu", init_scale=64.0)
    theirs = optim.SGD(other.parameters(), lr=0.1)
    with look.gradients(model, optimizer) as view:
        for by_hand in (True, False):
            optimizer.zero_grad()
            if by_hand:
                scaler.scale(loss_of(model, tt.ones(1, 5))).backward()
                for p in model.parameters():
                    p.grad.div_(scaler.get_scale())
            else:  # another model's scaler is no matter of this one's steps
                scaler.scale(loss_of(other, tt.ones(1, 5))).backward()
                scaler.step(theirs)
                scaler.update()
                loss_of(model, tt.ones(1, 5)).backward()
            optimizer.step()
    for x in view.data["layers"]:
        assert x["signal"][0] is None and x["signal"][1] > 0 and x["norm"][0] > 0
    assert "gradients at the layers' outputs are not known of 1 of 2 steps" in " ".join(str(view).split())
    with look.gradients(model, optimizer) as view:
        scaler.scale(loss_of(model, tt.ones(1, 5))).backward()
        optimizer.step()
    assert "at output" not in str(view) and "not known of 1 of 1 step:" in " ".join(str(view).split())


def test_outputs_in_a_dictionary():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(tt.ones(2))

        def forward(self, x):
            return {"a": x * self.weight, "b": 3}

    model = Named()
    with look.gradients(model) as view:
        model(tt.ones(2))["a"].backward(tt.tensor([3.0, 4.0]))
    assert view.data["layers"][0]["signal"] == [5]


def test_a_parameter_without_gradient_is_named():
    model = small()
    model[0](tt.ones(1, 5)).sum().backward()
    view = look.gradients(model)
    assert by_name(view)["2.weight"]["norm"] == [None]
    assert any("2 parameters without a gradient: 2.weight, 2.bias" in m for m in view.data["missing"])


def test_layers_stand_in_the_order_of_their_calls():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(3, 2), nn.Linear(2, 3)

        def forward(self, x):
            return self.last(self.first(x))

    assert [x["name"] for x in watched(Backwards(), tt.ones(1, 2)).data["layers"]] == ["first", "last"]


def test_shared_and_frozen_parameters():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[2].requires_grad_(False)
    model(tt.ones(1, 3)).sum().backward()
    assert list(by_name(look.gradients(model))) == ["0.weight", "0.bias", "1.bias"]


# nothing stays


def test_nothing_stays_behind():
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def tables():
        own = [t for m in model.modules() for t in (m._forward_hooks, m._forward_pre_hooks)]
        return [*own, module_hooks.forward, module_hooks.forward_pre, step_hooks._pre_hooks, step_hooks._post_hooks,
                optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks]

    def replaced():
        return [GradScaler.scale, GradScaler.unscale_, GradScaler.step, nn.utils._grads, engine._step, engine.run,
                vars(Operator)["apply"], vars(Callable)["__call__"]]

    own = replaced()
    before = [len(t) for t in tables()]
    for chosen in (optimizer, None):
        with look.gradients(model, chosen):
            loss = loss_of(model, tt.ones(1, 5))
            assert [len(t) for t in tables()] != before
        assert [len(t) for t in tables()] == before
        stack, seen = [loss.grad_fn], set()
        while stack:
            node = stack.pop()
            if node is not None and node not in seen:
                seen.add(node)
                assert node.hooks is None
                stack += [n for n, _ in node.next_functions]
    with pytest.raises(KeyError), look.gradients(model, optimizer), look.step(model, optimizer):
        raise KeyError
    assert [len(t) for t in tables()] == before
    assert all(a is b for a, b in zip(replaced(), own))


def test_graphs_die_while_watched():
    model = small()
    gc.collect()
    gc.disable()
    try:
        with look.gradients(model):
            loss = loss_of(model, tt.ones(1, 5))
            node = weakref.ref(loss.grad_fn)
            loss.backward()
            del loss
            assert node() is None
    finally:
        gc.enable()


# the view


@pytest.fixture(scope="module")
def view():
    tt.manual_seed(1)
    model = nn.Sequential(*[m for _ in range(5) for m in (nn.Linear(6, 6), nn.Tanh())], nn.Linear(6, 1))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    x = tt.randn(4, 6)
    with look.gradients(model, optimizer) as found:
        for _ in range(150):
            optimizer.zero_grad()
            loss_of(model, x).backward()
            optimizer.step()
    return found


@pytest.mark.parametrize("width", [20, 60, 80, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_lines_fit_the_width_in_every_encoding(view, width, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    view.print(stream, width)
    stream.flush()
    text = stream.buffer.getvalue().decode(encoding)
    assert max(map(len, text.splitlines())) <= width
    assert ("░" in text) == (encoding == "utf-8")
    if width >= 60:
        assert "gradients of Sequential: 12 parameters in 6 layers, 150" in text
        assert re.search(r"^10 .{20}", text, re.M)


def test_files(view, tmp_path):
    root = ElementTree.fromstring(view.save(tmp_path / "g.svg").read_text(encoding="utf-8"))
    boxes = [b for b in root.iter("{http://www.w3.org/2000/svg}rect") if "heat" in b.get("class", "")]
    assert len(boxes) == 3 * (6 * 50 + 9 + 2)  # three steps in a cell; each map has its own legend
    page = view.save(tmp_path / "g.html").read_text(encoding="utf-8")
    assert "<svg" in page and "10.weight" in page and "http://" not in page.replace("http://www.w3.org", "")
    assert json.loads(view.save(tmp_path / "g.json").read_text(encoding="utf-8"))["steps"] == 150
    assert view.save(tmp_path / "g.txt").read_text(encoding="utf-8") == str(view) + "\n"
    assert "iframe" in view._repr_html_() and "150 steps" in repr(view)


def test_png(view, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'tinytorch-gpu[viz]'")
    assert view.save(tmp_path / "g.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_cells():
    assert bins([1, 2, 3, 4, 5, 6], 3) == [1.5, 3.5, 5.5] and bins([None, None, 1.0], 2) == [None, 1.0]
    assert math.isnan(bins([1.0, math.nan], 1)[0])
    assert [level(v, 1e-4, 1.0, 4) for v in (1e-4, 2e-3, 2e-2, 1.0)] == [0, 1, 2, 3] and level(2.0, 2.0, 2.0, 5) == 4


def test_a_view_while_it_watches():
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with look.gradients(model, optimizer) as found:
        assert "no gradient was measured" in str(found)
        for k in (1, 2):
            loss_of(model, tt.ones(1, 5)).backward()
            optimizer.step()
            assert found.data["steps"] == k and f"{k} step" in str(found)
    with pytest.raises(RuntimeError, match=r"\[gradients\] a view watches one block"), found:
        pass


# bad input


def test_nothing_measured():
    found = look.gradients(small())
    assert found.data["steps"] == 0 and "call it after backward()" in found.data["missing"][0]
    assert "no gradient was measured" in found.to_html()
    with pytest.raises(ValueError, match=r"\[save\] there is nothing to draw: no gradient was measured"):
        found.to_svg()


@pytest.mark.parametrize("model", [None, "model", lambda: None])
def test_no_module(model):
    with pytest.raises(TypeError, match=r"\[gradients\] expected a Module, got"):
        look.gradients(model)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"\[gradients\] no parameter of ReLU requires a gradient"):
        look.gradients(nn.ReLU())
    with pytest.raises(TypeError, match=r"\[gradients\] expected an Optimizer or a list of them, got int"):
        look.gradients(small(), [3])
    with pytest.raises(ValueError, match=r"\[gradients\] SGD steps none of the model's parameters"):
        look.gradients(small(), optim.SGD(small().parameters(), lr=0.1))
    for threshold in (1, 0.5, math.inf, math.nan, True, "10"):
        with pytest.raises(ValueError, match=r"\[gradients\] threshold must be a number above 1"):
            look.gradients(small(), threshold=threshold)


def test_one_change_of_the_program_changes_what_follows_from_it_alone(rng):
    weights = [rng.standard_normal((6, 6)).astype(np.float32) for _ in range(3)]
    x = tt.tensor(rng.standard_normal((4, 6)), dtype=tt.float32)

    def figures(first=(), scale=1.0, lr=0.5):
        layers = [nn.Linear(6, 6, bias=False) for _ in (*first, *weights)]
        with tt.no_grad():
            for layer, w in zip(layers, (*first, *weights)):
                layer.weight.copy_(tt.tensor(w))
        model = nn.Sequential(*layers)
        optimizer = optim.SGD(model.parameters(), lr=lr)
        with look.gradients(model, optimizer) as view:
            (scale * loss_of(model, x)).backward()
            optimizer.step()
        return [(p["norm"][0], p["weight"][0], p["update"][0]) for p in view.data["parameters"]]

    plain = np.array(figures())  # float32 sums of 36 squares: 1e-5 is a hundred roundings
    np.testing.assert_allclose(figures(scale=2.0), plain * [2, 1, 2], rtol=1e-5)
    np.testing.assert_allclose(figures(lr=1.0), plain * [1, 1, 2], rtol=1e-5)
    deeper = figures(first=[np.eye(6, dtype=np.float32)])  # hands x on as it is
    assert len(deeper) == len(plain) + 1
    np.testing.assert_allclose(deeper[1:], plain, rtol=1e-5)


def test_a_block_without_a_step_says_so():
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    model(tt.randn(3, 4)).sum().backward()
    with look.gradients(model, optimizer) as view:
        pass
    assert "no step watched, as .grad holds them" in " ".join(str(view).split()) and "1 step" not in str(view)
    for name, p in model.named_parameters():
        assert by_name(view)[name]["norm"] == [pytest.approx(norm(p.grad), rel=1e-5)]
    optimizer.zero_grad()
    with look.gradients(model, optimizer) as view:
        pass
    assert "no gradient was measured" in " ".join(str(view).split())
