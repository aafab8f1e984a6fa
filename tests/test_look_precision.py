"""look.precision: float16's losses against NumPy's cast, bytes by hand and by tracemalloc, hand-written steps, the
scaler's way down, and the model bit for bit as it was."""
from __future__ import annotations

import copy
import gc
import io
import math
import random as python_random
import re
import tracemalloc
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn, optim
from tinytorch_gpu.amp import GradScaler, autocast
from tinytorch_gpu.backend import threads
from tinytorch_gpu.look.batch import run_of
from tinytorch_gpu.look.precision.scale import counts
from tinytorch_gpu.nn import hooks as module_hooks

QUICK = dict(steps=2, repeats=1)


@pytest.fixture(scope="module", autouse=True)
def small_heap():
    """Measuring collects garbage eleven times in each view: what the other tests left is put aside, 0.4 s for each."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def host(t):
    return t.detach().cpu().numpy()


def raw(values):
    return tt.tensor(np.asarray(values))._array


def net(width=16, dropout=0.2):
    return nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.GELU(), nn.Dropout(dropout),
                         nn.Linear(width, 4))


def square(out, *batch):
    return out.square().mean()


def total(out, *batch):
    return out.sum()


def way(view, name):
    return next(w for w in view.data["ways"] if w["name"] == name)


# what float16 holds


def expected(gradient, scale):
    """By NumPy's own cast from float64, which rounds once."""
    with np.errstate(all="ignore"):
        g = np.abs(np.asarray(gradient, np.float64))
        half = (g * scale).astype(np.float16)
    real = g > 0
    return {"nonzero": int(real.sum()), "zero": int((real & (half == 0)).sum()),
            "subnormal": int(((half > 0) & (half < np.float16(2.0**-14))).sum()),
            "infinite": int((real & np.isinf(half)).sum())}


def test_counts_against_numpys_cast(rng):
    g = (rng.standard_normal(4000) * 2.0 ** rng.uniform(-40, 20, 4000)).astype(np.float32)
    g[:200] = 0
    scales = [1.0, 3.7, 2.0**10, 2.0**20]
    found = counts(raw(g.reshape(40, 100)), scales)
    for k, scale in enumerate(scales):
        e = expected(g, scale)
        assert {key: found[key][k] for key in ("zero", "subnormal", "infinite")} == {
            key: e[key] for key in ("zero", "subnormal", "infinite")}
        assert found["nonzero"] == e["nonzero"] and found["elements"] == 4000
    there = np.abs(g[g != 0].astype(np.float64))
    assert (found["least"], found["most"]) == (there.min(), there.max())


@pytest.mark.parametrize("scale", [1.0, 256.0])
def test_counts_at_the_borders(scale):
    borders = [2.0**-25, 2.0**-24, 2.0**-14, 2.0**-14 - 2.0**-25, 65504.0, 65520.0]
    g = np.array([np.nextafter(np.float32(b), np.float32(to)) if to is not None else np.float32(b)
                  for b in borders for to in (None, 0, np.inf)], np.float32) / np.float32(scale)
    found, e = counts(raw(g), [scale]), expected(g, scale)
    assert e["zero"] == 2 and e["infinite"] == 2  # 2**-25 itself is halfway to zero, which is even
    assert {key: found[key][0] for key in ("zero", "subnormal", "infinite")} == {
        key: e[key] for key in ("zero", "subnormal", "infinite")}


def test_counts_of_what_is_not_finite_and_of_nothing():
    found = counts(raw(np.array([np.nan, np.inf, -np.inf, 0, 1], np.float32)), [1.0])
    assert (found["nonzero"], found["infinite"], found["zero"]) == (3, [2], [0])
    assert (found["least"], found["most"]) == (1, 1)
    assert counts(raw(np.zeros((0, 3), np.float32)), [1.0, 2.0])["zero"] == [0, 0]
    assert counts(raw(np.zeros(3, np.float32)), [1.0])["least"] is None


def chosen_gradients(c, x, **options):
    """A layer whose output's gradient is c, whose weight's is the outer product with x."""
    model = nn.Linear(len(x), len(c), bias=False)
    c = tt.tensor(np.asarray(c, np.float32))
    return look.precision(model, tt.tensor(np.asarray([x], np.float32)), lambda out, x: (out * c).sum(),
                          **QUICK, **options)


def test_shares_of_chosen_gradients(rng):
    c = (rng.standard_normal(30) * 2.0 ** rng.uniform(-30, 15, 30)).astype(np.float32)
    x = (2.0 ** rng.integers(-3, 4, 5)).astype(np.float32)
    scales = [1, 2**6, 2**12]
    d = chosen_gradients(c, x, scales=scales).data
    (layer,) = d["layers"]
    weight = c.astype(np.float64)[:, None] * x
    for k, scale in enumerate(scales):
        for what, g in (("parameters", weight), ("output", c)):
            e = expected(g, scale)
            for key in ("zero", "subnormal", "infinite"):
                assert layer[what][key][k] == e[key] == d["totals"][what][key][k], (what, key, scale)
            assert layer[what]["nonzero"] == e["nonzero"]
    assert layer["dtype"] == "float16"


def test_one_entry_changes_exactly_its_count():
    c = np.full(6, 1.0)
    before = chosen_gradients(c, [1.0], scales=[1, 2**8]).data["totals"]
    c[2] = 2.0**-30  # zero at 1; 2**-22 at 2**8: subnormal
    after = chosen_gradients(c, [1.0], scales=[1, 2**8]).data["totals"]
    for what in ("parameters", "output"):
        assert before[what]["zero"] == before[what]["subnormal"] == [0, 0]
        assert after[what]["zero"] == [1, 0] and after[what]["subnormal"] == [0, 1]
        assert after[what]["lost"] == [1, 0] and after[what]["nonzero"] == 6


def test_what_autocast_loses_is_what_its_dtype_cannot_hold(rng):
    """With one sample of ones the weight's gradient is the output's, rounded to float16 once."""
    c = (rng.standard_normal(50) * 2.0 ** rng.uniform(-32, 15, 50)).astype(np.float32)
    scales = [1, 2**7, 2**14]
    d = chosen_gradients(c, [1.0], scales=scales).data["totals"]
    for k, scale in enumerate(scales):
        e = expected(c, scale)
        for what in ("parameters", "output"):
            assert (d[what]["lost"][k], d[what]["not_finite"][k]) == (e["zero"], e["infinite"])


def test_a_layer_called_twice_counts_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = nn.Linear(3, 3)

        def forward(self, x):
            return self.inside(self.inside(x))

    (layer,) = look.precision(Twice(), tt.ones(2, 3), square, **QUICK, scales=[1]).data["layers"]
    assert layer["output"]["elements"] == 2 * 6 and layer["parameters"]["elements"] == 12


def test_layers_stand_in_the_order_of_their_calls_with_the_dtype_of_autocast():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.last, self.first = nn.LayerNorm(3), nn.Linear(3, 2), nn.Linear(2, 3)
            self.unused = nn.Linear(1, 1)

        def forward(self, x):
            return self.last(self.norm(self.first(x)))

    view = look.precision(Backwards(), tt.ones(4, 2), square, **QUICK)
    assert [(x["name"], x["dtype"]) for x in view.data["layers"]] == [
        ("first", "float16"), ("norm", "float32"), ("last", "float16"), ("unused", None)]
    assert "no gradient, or only zeros, in float32: unused" in " ".join(str(view).split())


# bytes


@pytest.mark.parametrize("width", [16, 48])
def test_weights_and_state_by_hand(width):
    model = net(width)
    optimizer = optim.AdamW(model.parameters())
    d = look.precision(model, tt.ones(4, 8), square, optimizer, **QUICK).data
    matrices, vectors, buffers = 12 * width, 3 * width + 4, 2 * 4 * width + 8  # and the number of batches
    for w in d["ways"]:
        half = w["half_weights"]
        assert w["weights"] == (2 if half else 4) * matrices + 4 * vectors + buffers
        assert w["state"] == 8 * (matrices + vectors) + 4 * matrices * half + 4 * 6  # each tensor counts its steps
        assert w["peak"] == w["weights"] + w["state"] + w["step"]


@pytest.mark.parametrize("name", ["float32", "float16 autocast", "bfloat16 autocast"])
def test_bytes_of_a_step_as_tracemalloc_sees_a_hand_written_one(name, monkeypatch):
    monkeypatch.setattr(threads, "_threads", 1)  # how many pieces of a GELU are there at once is up to the system
    model = nn.Sequential(nn.Linear(128, 512), nn.Tanh(), nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 8)).to("cpu")
    optimizer = optim.AdamW(model.parameters())
    x = tt.ones(256, 128, device="cpu")
    view = look.precision(model, x, square, optimizer, **QUICK)
    dtype = {"float16": tt.float16, "bfloat16": tt.bfloat16}.get(name.split()[0])
    scaler = GradScaler("cpu", enabled=dtype is tt.float16)

    def step():
        optimizer.zero_grad()
        with autocast("cpu", dtype or tt.float16, enabled=dtype is not None):
            loss = square(model(x))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    step()
    optimizer.zero_grad()
    gc.collect()
    tracemalloc.start()
    try:
        step()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert way(view, name)["step"] == pytest.approx(peak, rel=0.02)


def test_more_rows_take_more_bytes_in_a_step_and_no_more_weights():
    one, two = (look.precision(nn.Linear(64, 64), tt.ones(n, 64), square, **QUICK).data["ways"][0]
                for n in (512, 1024))
    assert two["weights"] == one["weights"] and two["state"] == one["state"]
    # at the worst moment: output, its square's saved input is the output; the gradient on its way, once or twice
    added = (two["step"] - one["step"]) / (512 * 64 * 4)
    assert round(added) in (2, 3) and added == pytest.approx(round(added), rel=0.02)


# losses and scales


def test_losses_are_those_of_hand_written_steps(seed):
    tt.manual_seed(seed)
    x, model = tt.randn(16, 8), net()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    view = look.precision(model, x, square, optimizer, steps=3, repeats=1)
    for name, dtype in (("float32", None), ("float16 autocast", tt.float16), ("bfloat16 autocast", tt.bfloat16)):
        m = copy.deepcopy(model)
        o = optim.SGD(m.parameters(), lr=0.1, momentum=0.9)
        tt.manual_seed(seed)
        tt.randn(16, 8), net()
        scaler = GradScaler(x.device.type, enabled=dtype is tt.float16)
        losses = []
        for _ in range(4):
            o.zero_grad()
            with autocast(x.device.type, dtype or tt.float16, enabled=dtype is not None):
                loss = square(m(x))
            losses.append(loss.item())
            scaler.scale(loss).backward()
            scaler.step(o)
            scaler.update()
        assert way(view, name)["losses"] == losses, name
    base = way(view, "float32")["losses"]
    half = way(view, "bfloat16 autocast")
    assert half["difference"] == [pytest.approx((a - b) / b) for a, b in zip(half["losses"], base)]
    assert 0 < max(map(abs, half["difference"])) < 0.05


@pytest.mark.parametrize("times", [0.5, 3, 10, 100])
def test_the_scale_comes_down_until_the_gradient_fits(times):
    model = nn.Linear(1, 1, bias=False)
    view = look.precision(model, tt.ones(1, 1), lambda out, x: out.sum() * times, steps=10, repeats=1,
                          optimizer=optim.SGD(model.parameters(), lr=1e-3))
    scale, scales = 65536.0, []
    for _ in range(11):
        scales.append(scale)
        if times * scale >= 65520:
            scale /= 2
    skipped = sum(a > b for a, b in zip(scales, scales[1:]))
    for name in ("float16 autocast", "float16 weights"):
        w = way(view, name)
        assert w["scales"] == scales and w["overflows"] == list(range(1, skipped + 1))
    assert way(view, "bfloat16 autocast")["scales"] == way(view, "float32")["overflows"] == []
    assert (f"{skipped} of 10 steps skipped after an overflow" in str(view)) == (skipped > 0)


def test_the_best_scale_is_the_one_that_loses_least():
    c = [2.0**-30] * 3 + [1.0] + [2.0**4]
    view = chosen_gradients(c, [1.0], scales=[1, 2**10, 2**14])
    # 1 loses the small ones, 2**14 the largest, 2**10 nothing
    assert view.data["best"] == {"scale": 1024.0, "lost": 0.0} and "2^10 loses least" in str(view)


# the model as it was


class Counting(nn.Module):
    """Changes a buffer, draws random numbers from everywhere, and changes its input."""

    def __init__(self):
        super().__init__()
        self.inside = net()
        self.register_buffer("calls", tt.zeros(3))

    def forward(self, x):
        self.calls = self.calls + 1
        self.inside[2].training = False
        with tt.no_grad():
            x.add_(1)
        return self.inside(x) * (1 + python_random.random() + np.random.random())


def bits(model, optimizer, x):
    def of(t):
        return None if t is None else (t.dtype.name, t.shape, host(t).tobytes())

    state = optimizer.state_dict()["state"]
    return {
        "parameters": [of(p) for p in model.parameters()], "buffers": [of(b) for b in model.buffers()],
        "arrays": [id(p._array) for p in model.parameters()], "versions": [p._version for p in model.parameters()],
        "grads": [id(p.grad) for p in model.parameters()], "grad bits": [of(p.grad) for p in model.parameters()],
        "state": {k: {n: of(v) if isinstance(v, tt.Tensor) else v for n, v in s.items()} for k, s in state.items()},
        "groups": str(optimizer.state_dict()["param_groups"]), "modes": [m.training for m in model.modules()],
        "random": [tt.random.get_rng_state().tolist(), python_random.getstate(), np.random.get_state()[1].tolist(),
                   np.random.get_state()[2]],
        "batch": (of(x), of(x.grad)), "requires": [p.requires_grad for p in model.parameters()],
        "hooks": [len(t) for m in model.modules() for t in (m._forward_hooks, m._forward_pre_hooks)],
        "global hooks": [len(module_hooks.forward), len(module_hooks.forward_pre)],
        "names": [name for name, _ in model.named_parameters()],
    }


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_everything_is_left_bit_for_bit(seed, kind):
    tt.manual_seed(seed)
    model = Counting()
    model.inside[3].eval()
    model.inside[4].bias.requires_grad_(False)
    optimizer = (optim.SGD if kind == "sgd" else optim.AdamW)(model.parameters(), lr=0.01)
    x = tt.randn(4, 8)
    for _ in range(2):
        optimizer.zero_grad()
        square(model(x)).backward()
        optimizer.step()
    model.inside[2].train()
    before = bits(model, optimizer, x)
    view = look.precision(model, x, square, optimizer, **QUICK)
    assert all(w["error"] is None for w in view.data["ways"])
    assert bits(model, optimizer, x) == before


def test_training_goes_on_as_if_nobody_had_looked(seed):
    results = []
    for watch in (False, True):
        tt.manual_seed(seed)
        model = net()
        optimizer = optim.AdamW(model.parameters(), lr=0.01)
        x = tt.randn(4, 8)
        for k in range(4):
            optimizer.zero_grad()
            loss = square(model(x))
            if watch and k == 2:
                look.precision(model, x, square, optimizer, **QUICK)  # a graph of the model is alive meanwhile
            loss.backward()
            optimizer.step()
        results.append([host(t).tobytes() for t in (*model.parameters(), *model.buffers())])
    assert results[0] == results[1]


def test_it_is_left_so_after_an_error_too(seed):
    tt.manual_seed(seed)
    model = Counting()
    optimizer = optim.AdamW(model.parameters())
    x = tt.randn(4, 8)
    square(model(x)).backward()
    before = bits(model, optimizer, x)
    calls = []

    def failing(out, x):
        calls.append(1)
        if len(calls) == 5:
            raise KeyError("mine")
        return square(out)

    with pytest.raises(KeyError, match="mine"):
        look.precision(model, x, failing, optimizer, steps=3)
    assert bits(model, optimizer, x) == before


def test_gradients_of_the_batch_and_of_the_loss_are_left(seed):
    tt.manual_seed(seed)
    model, loss = nn.Linear(8, 4), nn.Linear(4, 1)
    x = tt.randn(2, 8, requires_grad=True)
    x.grad = tt.ones(2, 8)
    grad = x.grad

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = loss

        def forward(self, out, x):
            return self.head(out).sum()

    both = Loss()
    before = host(loss.weight).tobytes()
    optimizer = optim.SGD([*model.parameters(), *both.parameters()], lr=0.1)
    look.precision(model, x, both, optimizer, **QUICK)
    assert x.grad is grad and host(grad).tobytes() == np.ones((2, 8), np.float32).tobytes()
    assert host(loss.weight).tobytes() == before and loss.weight.grad is None


# ways to call


def test_batches_of_several_kinds():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = nn.Linear(3, 2)

        def forward(self, a, b=None):
            return self.inside(a if b is None else a + b).square().mean()

    model, a = Two(), tt.ones(2, 3)
    found = [look.precision(model, batch, **QUICK).data["ways"][0]["losses"][0]
             for batch in (a, (a,), [a, a * 0], {"a": a, "b": a * 0})]
    assert len(set(found)) == 1
    named = look.precision(model, {"a": a, "b": a}, lambda out, a, b: out * b.sum() / 6, **QUICK)
    assert named.data["ways"][0]["losses"][0] == pytest.approx(model(a, a).item(), rel=1e-6)


def test_no_optimizer_and_eval_mode_are_said():
    view = look.precision(net().eval(), tt.ones(4, 8), square, **QUICK)
    text = " ".join(str(view).split())
    assert "no optimizer was given: AdamW with its defaults" in text and "in eval mode" in text
    assert not view.data["optimizer_given"]


def test_it_runs_under_no_grad_and_autocast():
    x = tt.ones(4, 8)
    with tt.no_grad(), autocast(x.device.type, tt.bfloat16):
        d = look.precision(net(dropout=0.0), x, square, **QUICK).data
    assert all(w["error"] is None for w in d["ways"]) and d["layers"][0]["dtype"] == "float16"
    assert d["ways"][0]["losses"][0] != d["ways"][2]["losses"][0]  # float32 is float32 there too


def test_a_way_that_does_not_run_is_said():
    class Mine(optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"lr": 0.1})

        def step(self):
            for group in self.param_groups:
                for p in group["params"]:
                    with tt.no_grad():
                        p.sub_(p.grad * group["lr"])

    class Picky(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            if out.dtype is tt.bfloat16:
                raise TypeError("no bfloat16, please")
            return out

    model = Picky(8, 4)
    view = look.precision(model, tt.ones(2, 8), square, Mine(model.parameters()), **QUICK)
    errors = {w["name"]: w["error"] for w in view.data["ways"]}
    assert errors["float32"] is errors["float16 autocast"] is None
    assert errors["bfloat16 autocast"] == "TypeError: no bfloat16, please"
    assert errors["float16 weights"] == "NotImplementedError: Mine keeps no float32 master weights"
    assert "bfloat16 autocast does not run: TypeError: no bfloat16, please" in " ".join(str(view).split())
    assert view.to_svg() and "fails" in view.to_html()


def test_a_model_that_does_not_run_in_float16():
    class Picky(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            if out.dtype is not tt.float32:
                raise RuntimeError("float32 only")
            return out

    view = look.precision(Picky(8, 4), tt.ones(2, 8), square, **QUICK, scales=[1, 2])
    assert view.data["totals"]["parameters"]["lost"] is None and view.data["layers"][0]["dtype"] == "float32"
    assert view.data["totals"]["parameters"]["zero"] == [0, 0] and view.to_html()


# the view


@pytest.fixture(scope="module")
def view():
    tt.manual_seed(1)
    model = net(64)
    return look.precision(model, tt.randn(32, 8), square, optim.AdamW(model.parameters()), **QUICK)


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_the_text_says_what_was_measured(view, width):
    out = io.StringIO()
    view.print(out, width)
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    if width >= 60:
        assert "precision of Sequential on" in text and "float16 autocast" in text and "2^16" in text
    if width == 200:
        assert "not shown in" not in text and "after 2 steps" in text


def cells(text, title):
    """{name: cells} of the five ways below a title."""
    body = text.split(title, 1)[1]
    body = body.split("\n\n")[0]
    return {m[1]: m[2].split("  ") for m in re.finditer(r"^((?:b?float\d+)(?: \w+)?) {2,}(\S.*)$", body, re.M)}


@pytest.mark.parametrize("width", [80, 110])
def test_the_figures_of_each_way_say_what_they_are_and_none_is_hidden(view, width):
    stream = io.StringIO()
    view.print(stream, width)
    text = stream.getvalue()
    hidden = re.search(r"not shown in \d+ columns: (.*)", text)
    assert (hidden and hidden[1]) == ("subnormal" if width == 80 else None)  # of the other tables
    flat = " ".join(text.split())
    assert "weights + optimizer's state + the step's own = peak" in flat
    assert "loss before the first step and after 2 steps, each with its relative difference from float32's" in flat
    for title in ("weights  optimizer's state  step's own", "first loss  from float32's  after 2 steps"):
        assert title in text
    for w in view.data["ways"]:
        found = cells(text, "bytes at the worst")[w["name"]]
        shown = [c.strip() for c in found if c.strip()]
        parts = [(1024 if c.endswith("KiB") else 1) * float(c.split()[0]) for c in shown[:4]]
        assert sum(parts[:3]) == pytest.approx(parts[3], rel=0.01) and len(shown) == 5
        assert parts[3] == pytest.approx(w["weights"] + w["state"] + w["step"], rel=0.005)
        base = view.data["ways"][0]["losses"]
        shown = [c.strip() for c in cells(text, "loss before the first")[w["name"]] if c.strip()]
        for k, place in ((0, 0), (-1, 2)):
            assert float(shown[place]) == pytest.approx(w["losses"][k], rel=1e-3)
            assert float(shown[place + 1]) == pytest.approx((w["losses"][k] - base[k]) / base[k], rel=0.01)
        shown = [c.strip() for c in cells(text, "time of a step")[w["name"]] if c.strip()]
        assert shown[0] == shown[1] == shown[2] and len(shown) == 4  # of one run


def test_the_page_and_the_picture_show_all_ways(view):
    root = ElementTree.fromstring(view.to_svg())
    boxes = [b for b in root.iter("{http://www.w3.org/2000/svg}rect") if b.get("class", "").startswith("bar-")]
    assert len(boxes) == 3 + 5 * 3 + 5  # a legend, three parts of memory in five bars, five times
    page = view.to_html()
    assert "<svg" in page and "bfloat16 weights" in page and re.search(r"subnormal below 2\*\*-14", page)
    assert "5 ways, 6 scales" in repr(view)


def test_the_cpus_time_is_said_to_be_no_gpus(view):
    d = copy.deepcopy(view.data)
    for k, w in enumerate(d["ways"]):
        w["time_ratio"] = 1 + k / 2
    for device in ("cpu", "cuda:0"):
        d["device"] = device
        text = " ".join(str(look.Precision(d)).split())
        said = "2.5 (float16 weights), 3 (bfloat16 weights) of float32's time here: a CPU computes it in float32"
        assert (f"half precision takes 1.5 (float16 autocast), 2 (bfloat16 autocast), {said}" in text) == (
            device == "cpu")


def test_of_many_layers_the_text_shows_those_that_lose_most():
    model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(24)])
    for k, layer in enumerate(model):
        nn.init.constant_(layer.weight, 1e-3 if k < 5 else 0.5)  # the gradients of the first three underflow
    view = look.precision(model, tt.ones(1, 2), total, **QUICK, scales=[1])
    text, page = str(view), view.to_html()
    assert " ".join(text.split()).count("at the scale, the 20 of 24 layers that lose most") == 2
    shown = re.findall(r"^(\d+) +\S", text.split("parameters' gradients: share")[1].split("\n\n")[0], re.M)
    lost = [x["parameters"]["zero"][0] for x in view.data["layers"]]
    assert len(shown) == 20 and shown == sorted(shown, key=int) and {"0", "1", "2"} <= set(shown) and lost[0] > 0
    assert "that lose most" not in page and page.count("<td>23</td>") == 2


# bad input


@pytest.mark.parametrize("model", [None, "model", lambda x: x])
def test_no_module(model):
    with pytest.raises(TypeError, match=r"\[precision\] expected a Module, got"):
        look.precision(model, tt.ones(1))


def test_bad_arguments():
    model, x = nn.Linear(8, 4), tt.ones(2, 8)
    for options, error, message in (
            (dict(loss=3), TypeError, "loss must be a function"),
            (dict(optimizer=3), TypeError, "expected an Optimizer, got int"),
            (dict(loss=square, optimizer=optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)), ValueError,
             "SGD steps none of the model's parameters"),
            (dict(steps=0), ValueError, "steps must be a whole number of at least 1, got 0"),
            (dict(repeats=True), ValueError, "repeats must be a whole number of at least 1, got True"),
            (dict(scales=[]), ValueError, "scales must be a list of positive numbers"),
            (dict(scales=16), ValueError, "scales must be a list of positive numbers"),
            (dict(scales=[1, -2]), ValueError, "scales must be positive numbers, got -2"),
            (dict(scales=[math.nan]), ValueError, "scales must be positive numbers, got nan"),
            ({}, ValueError, "the output of the model must be one number, got float32 of shape (2, 4): pass loss="),
            (dict(loss=lambda out, x: 3.0), TypeError, "the loss must be a Tensor, got float"),
            (dict(loss=lambda out, x: out.detach().sum()), ValueError, "the loss has no gradient")):
        with pytest.raises(error, match=r"\[precision\] .*" + re.escape(message)):
            look.precision(model, x, **options)
    for batch, error in ((3, TypeError), ((), ValueError), ({1: x}, TypeError), ({}, ValueError)):
        with pytest.raises(error, match=r"\[precision\] "):
            look.precision(model, batch, square)
    with pytest.raises(ValueError, match=r"\[precision\] float32 is what the others are compared with, but weight is"):
        look.precision(nn.Linear(2, 2).double(), tt.ones(1, 2, dtype=tt.float64), square)
    with pytest.raises(ValueError, match=r"\[precision\] no parameter of ReLU requires a gradient"):
        look.precision(nn.ReLU(), x, square)


def test_the_batch_finds_its_tensors_and_device():
    x = tt.ones(2)
    run = run_of(nn.ReLU(), ([x, {"a": x}], 3), None)
    assert len(run.tensors()) == 2 and run.device == x.device
    assert run_of(nn.ReLU(), (3,)).device == tt.get_default_device()
