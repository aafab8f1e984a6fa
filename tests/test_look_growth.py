"""look.growth: bytes against counts by hand, PyTorch and tracemalloc; exponents of constructed cases; bad input."""
from __future__ import annotations

import gc
import io
import json
import math
import re
import tracemalloc
import weakref
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn
from tinytorch_gpu.look.growth.fit import fit


def mlp(depth=3, width=64):
    return nn.Sequential(*[m for _ in range(depth) for m in (nn.Linear(width, width), nn.ReLU())])


def rows_of(batch=32, width=64):
    return tt.randn(batch, width)


def square(out, *_):
    return out.square().mean()


class Attention(nn.Module):
    """One head whose queries, keys and values are the same: h, and softmax(h h^T) h."""

    def __init__(self, width):
        super().__init__()
        self.project = nn.Linear(width, width)

    def forward(self, x):
        h = self.project(x)
        return (tt.softmax(h @ h.transpose(-2, -1), -1) @ h).sum()


def grown(**options):
    options = {"make_batch": rows_of, "loss": square, "repeats": 0} | options
    return look.growth(options.pop("make_model", mlp), **options)


def by_name(view, axis=0):
    return {q["name"]: q for q in view.data["axes"][axis]["quantities"]}


def figures(view, name, axis=0):
    return by_name(view, axis)[name]["figures"]


def exponent(view, name, axis=0):
    return by_name(view, axis)[name]["fit"]["exponent"]


def parts(view, name, axis=0):
    return {p["power"]: p["coefficient"] for p in by_name(view, axis)[name]["fit"]["parts"]}


# bytes


def test_a_perceptron_by_hand(device):
    """Activations: what each ReLU keeps, batch * width floats, and the loss. The peaks follow with depth and batch."""
    depths, widths, batches = [2, 4, 8], [64, 128, 256], [32, 64, 128]
    view = grown(depths=depths, widths=widths, batches=batches)
    loss = 4 if device.type == "cpu" else 512
    assert view.data["meter"] == ("tracemalloc" if device.type == "cpu" else "pool")
    for axis, sizes in enumerate(([(d, 128, 64) for d in depths], [(4, w, 64) for w in widths],
                                  [(4, 128, b) for b in batches])):
        assert view.data["axes"][axis]["sizes"] == [depths, widths, batches][axis]
        assert figures(view, "parameters", axis) == [4 * d * (w * w + w) for d, w, b in sizes]
        assert figures(view, "activations", axis) == [4 * d * w * b + loss for d, w, b in sizes]
        for step, *both in zip(figures(view, "step peak", axis), figures(view, "parameters", axis)):
            assert step > sum(both), "the gradients are there at the end"
    assert view.data["axes"][1]["at"] == {"depth": 4, "batch": 64}


def test_exponents_of_a_perceptron(device):
    view = grown(depths=[2, 4, 8], widths=[128, 256, 512], batches=[32, 64, 128])
    near = 0.01 if device.type == "cpu" else 0.02  # blocks of 512 bytes
    assert exponent(view, "activations", 0) == pytest.approx(1, abs=near)  # depth
    assert exponent(view, "activations", 1) == pytest.approx(1, abs=near)  # width
    assert exponent(view, "activations", 2) == pytest.approx(1, abs=near)  # batch
    assert exponent(view, "parameters", 0) == pytest.approx(1, abs=1e-9)
    assert exponent(view, "parameters", 1) == pytest.approx(2, abs=0.01)
    assert exponent(view, "parameters", 2) == pytest.approx(0, abs=1e-9)
    assert parts(view, "parameters", 1) == pytest.approx({1: 16, 2: 16}, rel=1e-9)  # 4 layers of w * w + w floats
    if device.type == "cpu":
        assert parts(view, "activations", 0) == pytest.approx({0: 4, 1: 4 * 256 * 64})


def test_attention_is_quadratic_in_its_sequence(device):
    """A layer keeps h, batch * sequence * width floats, and the weights, batch * sequence ** 2."""
    batch, width = 2, 8
    options = {"make_model": lambda: Attention(width), "loss": None,
               "make_batch": lambda sequence: tt.randn(batch, sequence, width)}
    view = grown(sequences=[64, 128, 256, 512], **options)
    loss = 4 if device.type == "cpu" else 512
    assert figures(view, "activations") == [4 * batch * s * (width + s) + loss for s in (64, 128, 256, 512)]
    assert by_name(view)["activations"]["fit"]["end"] == pytest.approx(2, abs=0.03)
    assert exponent(view, "activations") == pytest.approx(2, abs=0.1) and exponent(view, "activations") < 2
    if device.type == "cpu":
        assert parts(view, "activations") == pytest.approx({0: 4, 1: 4 * batch * width, 2: 4 * batch})


def test_activations_are_pytorchs(torch):
    """What PyTorch saves of the same layers, parameters and the batch apart, each piece of memory once."""
    def saved(depth):
        model = torch.nn.Sequential(*[m for _ in range(depth) for m in (torch.nn.Linear(64, 64), torch.nn.ReLU())])
        x, kept = torch.ones(32, 64), {}
        others = {t.untyped_storage().data_ptr() for t in (*model.parameters(), x)}

        def pack(t):
            if t.untyped_storage().data_ptr() not in others:
                kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = (model(x) ** 2).mean()
        return sum(kept.values()) + loss.nbytes

    with tt.device("cpu"):
        assert figures(grown(depths=[2, 3, 7]), "activations") == [saved(d) for d in (2, 3, 7)]


def test_one_more_layer_and_one_more_unit_change_what_they_must(device, rng):
    width, depth = 64 * int(rng.integers(1, 4)), int(rng.integers(2, 6))
    view = grown(depths=[depth, depth + 1], at={"width": width, "batch": 32})
    a, b = figures(view, "activations")
    assert b - a == 4 * width * 32
    a, b = figures(view, "parameters")
    assert b - a == 4 * (width * width + width)
    view = grown(widths=[width, width + 64], at={"depth": depth})
    a, b = figures(view, "activations")
    assert b - a == 4 * depth * 64 * 32


def test_peaks_are_those_of_a_step_alone(device):
    """tracemalloc, or the pool, around one step that nobody looks at."""
    peaks = figures(grown(depths=[3, 6], at={"width": 256, "batch": 64}), "step peak")
    for depth, peak in zip((3, 6), peaks):
        model, x = mlp(depth, 256), rows_of(64, 256)
        square(model(x)).backward()
        model.zero_grad()
        gc.collect()
        if device.type == "cpu":
            tracemalloc.start()
            square(model(x)).backward()
            measured = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        else:
            before = tt.cuda.memory_allocated(device)
            tt.cuda.reset_peak_memory_stats(device)
            square(model(x)).backward()
            measured = tt.cuda.max_memory_allocated(device) - before
        assert peak == pytest.approx(measured, rel=0.01)


def test_bytes_are_the_same_each_time(device):
    first, second = (grown(depths=[2, 4]) for _ in range(2))
    for name in ("parameters", "activations"):
        assert figures(first, name) == figures(second, name)
    for name in ("forward peak", "step peak"):
        assert figures(first, name) == pytest.approx(figures(second, name), rel=0.02)


# times


def test_times(device):
    view = grown(depths=[1, 2], repeats=3)
    for name in ("forward", "backward"):
        q = by_name(view)[name]
        assert q["unit"] == "seconds" and len(q["figures"]) == 2
        for least, median, most in zip(q["least"], q["figures"], q["most"]):
            assert 0 < least <= median <= most
    assert "times are medians of 3" in str(view)
    assert any("no GPU's" in n for n in view.data["notes"]) == (device.type == "sim")
    assert set(by_name(grown(depths=[1, 2]))) == {"parameters", "activations", "forward peak", "step peak"}


def test_a_trace_that_is_on_is_told():
    tracemalloc.start()
    try:
        with tt.device("cpu"):
            view = grown(depths=[1, 2], repeats=1)
        assert tracemalloc.is_tracing() and "tracemalloc was on already" in view.data["notes"][0]
        assert figures(view, "activations") == [4 * d * 64 * 32 + 4 for d in (1, 2)]
    finally:
        tracemalloc.stop()


# the fit


def test_exponents_are_those_of_a_line_through_logarithms(rng):
    x = np.sort(rng.choice(np.arange(2, 500), 6, replace=False)).astype(float)
    y = rng.uniform(1, 9) * x ** rng.uniform(0.2, 3) * np.exp(0.05 * rng.standard_normal(6))
    found = fit(list(x), list(y))
    (slope, level), left, *_ = np.polyfit(np.log(x), np.log(y), 1, full=True)
    assert found["exponent"] == pytest.approx(slope, rel=1e-6)
    assert found["factor"] == pytest.approx(math.exp(level), rel=1e-6)
    assert found["residual"] == pytest.approx(math.sqrt(left[0] / 6), rel=1e-6)
    assert found["end"] == pytest.approx(math.log(y[-1] / y[-2]) / math.log(x[-1] / x[-2]))


@pytest.mark.parametrize("powers", [(0,), (1,), (2,), (3,), (0, 1), (0, 2), (1, 2), (0, 1, 2), (1, 3), (0, 1, 3)])
def test_sums_of_powers_are_found(powers, rng):
    x = [3, 5, 8, 13, 21]
    true = {p: float(rng.uniform(0.5, 2) * 8.0 ** (1 - p)) for p in powers}
    y = [sum(c * n ** p for p, c in true.items()) for n in x]
    found = fit(x, y)
    assert {p["power"]: p["coefficient"] for p in found["parts"]} == pytest.approx(true, rel=1e-5)
    assert found["parts_residual"] < 1e-8
    if len(powers) == 1:
        assert found["exponent"] == pytest.approx(powers[0], abs=1e-9) and found["residual"] < 1e-9
        assert found["above_constant"] is None
    if len(powers) == 2 and powers[0] == 0:
        assert found["exponent"] < powers[1] - 0.05, "a constant bends the line"
        assert found["above_constant"] == pytest.approx(powers[1], abs=1e-4)


def test_noise_is_not_taken_for_parts(rng):
    x = [2, 4, 8, 16, 32]
    for _ in range(20):
        found = fit(x, [7 * n * (1 + 0.01 * z) for n, z in zip(x, rng.standard_normal(5))])
        shares = {p["power"]: p["coefficient"] * 8.0 ** p["power"] / 56 for p in found["parts"]}
        assert shares.get(1, 0) > 0.75 and abs(found["exponent"] - 1) < 0.1


def test_what_no_sum_of_powers_fits():
    found = fit([1, 2, 3, 4], [1, 100, 2, 300])
    assert found["parts"] is None and found["parts_residual"] is None and found["residual"] > 1


def test_three_sizes_show_a_second_part_only_where_it_is_exact():
    assert [p["power"] for p in fit([2, 4, 8], [5 + 3 * n for n in (2, 4, 8)])["parts"]] == [0, 1]
    assert len(fit([2, 4, 8], [5 + 3 * n + 0.01 * (n == 4) for n in (2, 4, 8)])["parts"] or [1]) == 1


def test_two_sizes_have_no_residual():
    found = fit([2, 4], [3, 12])
    assert found["exponent"] == pytest.approx(2) and found["residual"] is None and found["end"] == pytest.approx(2)


@pytest.mark.parametrize("figures", [[1, 0], [None, 1], [1, math.nan], [1, -2]])
def test_figures_that_have_no_logarithm(figures):
    assert fit([1, 2], figures) is None


def test_one_size_is_no_growth():
    with pytest.raises(ValueError, match=r"\[fit\] a growth needs two sizes or more, got 1"):
        fit([1], [2])


# arguments


def test_parameters_get_the_axes_that_they_are_named_after(device):
    seen = []

    def make_model(width, heads=7, depth=1):
        seen.append((width, heads, depth))
        return mlp(depth, width)

    grown(make_model=make_model, axes={"heads": [1, 2]}, widths=[8, 16, 24], at={"batch": 4})
    # each axis with the others in the middle; a pair that two axes share is measured once
    assert seen == [(8, 2, 1), (16, 2, 1), (24, 2, 1), (16, 1, 1)]
    seen.clear()

    def anything(**sizes):
        seen.append(sizes)
        return mlp()

    grown(make_model=anything, depths=[4, 2], at={"batch": 3, "depth": 2})
    assert seen == [{"depth": 2, "batch": 3}, {"depth": 4, "batch": 3}]


def test_one_axis_may_have_any_name(device):
    view = grown(make_model=lambda n: mlp(n, 16), make_batch=lambda: tt.ones(2, 16), depths=[1, 2])
    assert figures(view, "parameters") == [4 * n * (16 * 16 + 16) for n in (1, 2)]
    view = grown(make_model=lambda: mlp(1, 16), make_batch=lambda n: tt.ones(n, 16), batches=[32, 64])
    assert figures(view, "activations")[1] - figures(view, "activations")[0] == 4 * 16 * 32


def test_sizes_of_numpy_and_ranges(device, tmp_path):
    made = []
    view = grown(make_model=lambda depth, share: made.append((depth, share)) or mlp(depth, 16), depths=range(1, 4),
                 axes={"share": np.array([0.5, 0.25], dtype=np.float32)}, make_batch=lambda: tt.ones(2, 16))
    assert made == [(1, 0.5), (2, 0.5), (3, 0.5), (2, 0.25)] and {type(v) for m in made for v in m} == {int, float}
    assert view.data["axes"][1]["sizes"] == [0.25, 0.5]
    assert json.loads(view.save(tmp_path / "g.json").read_text(encoding="utf-8"))["axes"][0]["sizes"] == [1, 2, 3]


def test_batches_of_several_arguments(device):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(tt.ones(4))

        def forward(self, x, scale):
            return (x * self.weight * scale).sum()

    for pack in (lambda x, s: (x, s), lambda x, s: [x, s], lambda x, s: {"x": x, "scale": s}):
        view = grown(make_model=Two, batches=[128, 256], loss=None,
                     make_batch=lambda batch: pack(tt.ones(batch, 4), 2.0))
        assert figures(view, "parameters") == [16, 16] and exponent(view, "parameters") == 0


def test_a_batch_that_requires_a_gradient(device):
    view = grown(depths=[1, 2], make_batch=lambda: tt.randn(32, 64, requires_grad=True))
    assert figures(view, "activations") == figures(grown(depths=[1, 2]), "activations")


def test_models_are_dropped_and_nothing_stays(device):
    made = []

    def make_model(depth):
        model = mlp(depth)
        made.append((weakref.ref(model), weakref.ref(model[0].weight)))
        return model

    before = tt.get_default_device()
    gc.collect()
    gc.disable()
    try:
        grown(make_model=make_model, depths=[1, 2], repeats=1)
    finally:
        gc.enable()
    gc.collect()
    assert len(made) == 2 and all(ref() is None for pair in made for ref in pair)
    assert not tracemalloc.is_tracing() and tt.get_default_device() == before


def test_measured_where_it_is_asked():
    view = grown(depths=[1, 2], device="sim")
    assert view.data["device"] == "sim" and view.data["meter"] == "pool"
    assert figures(view, "activations") == [4 * d * 64 * 32 + 512 for d in (1, 2)]
    with pytest.raises(ValueError, match=r"\[growth\] measures on cpu, the loss is on sim:0: pass device='sim:0'"):
        grown(depths=[1, 2], device="cpu", make_model=lambda depth: mlp(depth).to("sim"),
              make_batch=lambda: tt.ones(2, 64, device="sim"))


# the view


@pytest.fixture(scope="module")
def view():
    with tt.device("cpu"):
        return grown(depths=[1, 2, 4, 8], widths=[16, 32, 64], repeats=1)


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_the_text_says_what_was_measured(view, width):
    out = io.StringIO()
    view.print(out, width)
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    if width >= 60:
        assert "growth of Sequential on cpu" in text and "over depth, 1 to 8 (width 32)" in text
        assert re.search(r"^activations +4 KiB .*32 KiB .* 1\.00", text, re.M)
        assert "activations = 4 B + 4 KiB * depth" in text and "parameters = 16 B * width + 16 B * width^2" in text
        assert text.count("memory: bytes, log scale over") == 2 == text.count("time: seconds, log scale over")
    if width == 200:
        assert "not shown" not in text
        assert re.search(r"^parameters +4\.12 KiB +8\.25 KiB +16\.5 KiB +33 KiB", text, re.M)
    if width == 60:
        assert "not shown in 60 columns: " in text


def test_the_page_and_the_pictures_show_all_axes(view):
    root = ElementTree.fromstring(view.to_svg())
    dots = list(root.iter("{http://www.w3.org/2000/svg}circle"))
    assert len(dots) == 6 * 4 + 6 * 3
    assert "memory over depth, 1 to 8 (width 32)" in [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
    page = view.to_html()
    assert page.count("<svg") == 2 and "Exponent:" in page
    assert view.data["axes"][0]["quantities"][0]["fit"]["parts"][0]["power"] == 1
    assert repr(view) == "<look.growth: 4 depths, 3 widths on cpu>"


# bad input


@pytest.mark.parametrize("options, kind, message", [
    ({}, ValueError, r"there is nothing to vary: give depths=\[2, 4, 8\]"),
    ({"depths": [2]}, ValueError, r"the sizes of depth must be two or more, got \[2\]"),
    ({"depths": [2, 2]}, ValueError, r"the sizes of depth must be two or more, got \[2\]"),
    ({"depths": 3}, TypeError, r"the sizes of depth must be a list of numbers, got int"),
    ({"depths": [0, 2]}, ValueError, r"a size of depth must be a number above 0, got 0"),
    ({"depths": [2, "4"]}, ValueError, r"a size of depth must be a number above 0, got '4'"),
    ({"depths": [True, 4]}, ValueError, r"a size of depth must be a number above 0, got True"),
    ({"depths": [2, math.inf]}, ValueError, r"a size of depth must be a number above 0, got inf"),
    ({"depths": [1, 2], "at": {"width": None}}, ValueError, r"a size of width must be a number above 0, got None"),
    ({"depths": [1, 2], "at": [("width", 3)]}, TypeError, r"at must be a dictionary of axes and sizes, got list"),
    ({"axes": [3]}, TypeError, r"axes must be a dictionary of names and sizes, got list"),
    ({"axes": {3: [1, 2]}}, ValueError, r"an axis is named after a parameter of make_model, got 3"),
    ({"depths": [1, 2], "axes": {"depth": [1, 2]}}, ValueError, r"the sizes of depth are given twice"),
    ({"depths": [1, 2], "sequences": [1, 2]}, ValueError, r"sequence changes nothing: neither make_model nor make_ba"),
    ({"depths": [1, 2], "widths": [8, 16], "make_model": lambda n: mlp(n)}, ValueError,
     r"make_model has a parameter 'n', which is none of the axes depth, width: name it after one, or say at=\{'n'"),
    ({"depths": [1, 2], "make_model": lambda a, b: mlp(a)}, ValueError, r"make_model has a parameter 'a'"),
    ({"depths": [1, 2], "make_model": nn.Linear(2, 2)}, TypeError, r"make_model must be a function .*, got Linear"),
    ({"depths": [1, 2], "make_model": 3}, TypeError, r"make_model must be a function of the sizes, got int"),
    ({"depths": [1, 2], "make_batch": lambda x, /: x}, ValueError, r"make_batch has a parameter 'x'"),
    ({"depths": [1, 2], "repeats": -1}, ValueError, r"repeats must be a whole number of at least 0, got -1"),
    ({"depths": [1, 2], "repeats": 1.5}, ValueError, r"repeats must be a whole number of at least 0, got 1.5"),
    ({"depths": [1, 2], "make_model": lambda depth: depth}, TypeError, r"expected a Module, got int"),
    ({"depths": [1, 2], "make_batch": lambda: 3}, TypeError, r"batch must be a Tensor, a tuple or a list"),
    ({"depths": [1, 2], "loss": None}, ValueError, r"the output of the model must be one number, got float32"),
    ({"depths": [1, 2], "loss": lambda out, x: out.detach().sum()}, ValueError, r"the loss has no gradient"),
    ({"depths": [1, 2], "loss": 3}, TypeError, r"loss must be a function of \(output, \*batch\), got int"),
    ({"depths": [1, 2], "loss": lambda out: out}, TypeError,
     r"loss is called with \(output, argument 1\) of the batch, its signature is \(out\)"),
])
def test_bad_arguments(options, kind, message):
    with pytest.raises(kind, match=r"\[growth\] .*" + message):
        grown(**options)


def test_what_fails_at_a_size_says_which():
    def make_model(depth):
        return mlp(depth) if depth < 3 else nn.Linear(5, 5)

    with pytest.raises(RuntimeError) as e:
        grown(make_model=make_model, depths=[1, 3], at={"batch": 4})
    assert e.value.__notes__ == ["[growth] at depth 3, batch 4"]
    assert not tracemalloc.is_tracing()
