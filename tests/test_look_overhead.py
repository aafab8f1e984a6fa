"""look.overhead: bytes against counts by hand and tracemalloc, what is left as it was, capture and its refusals."""
from __future__ import annotations

import gc
import io
import sys
import tracemalloc
import xml.etree.ElementTree as ElementTree

import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn
from tinytorch_gpu.backend import random
from tinytorch_gpu.backend.simulated import streams as machinery


def net(depth=2, width=64):
    return nn.Sequential(*[m for _ in range(depth) for m in (nn.Linear(width, width), nn.ReLU())])


def computing(depth=2, width=64, batch=32):
    model, x = net(depth, width), tt.randn(batch, width)
    return model, lambda: model(x).square().mean()


def seen(fn, *args, **options):
    return look.overhead(fn, *args, **{"repeats": 1} | options)


def ways(view):
    return {w["name"]: w for w in view.data["ways"]}


def part(view, name):
    return next((p["without"], p["with"]) for p in view.data["tensor"]["parts"] if p["part"] == name)


def whole(n, device):
    """Bytes of an array as the meter counts them."""
    return n if device.type == "cpu" else -(-n // 512) * 512


# bytes


@pytest.mark.parametrize("depth, width", [(2, 64), (3, 64), (2, 128)])
def test_bytes_by_hand(depth, width, device):
    """no_grad() leaves the result; a forward what each ReLU keeps too; a backward the gradients."""
    model, run = computing(depth, width)
    view = seen(run)
    found, loss = ways(view), whole(4, device)
    assert found["no_grad"]["arrays"] == loss
    assert found["forward"]["arrays"] == 4 * depth * width * 32 + loss
    assert found["forward and backward"]["arrays"] == sum(whole(p.nbytes, device) for p in model.parameters()) + loss
    assert view.data["operators"] == 2 * depth + 2 and view.data["leaves"] == 2 * depth
    # two activations at once, and what is left of the forward and of the backward
    peaks = [found[name]["peak"] for name in ("no_grad", "forward", "forward and backward")]
    assert peaks[0] >= 2 * 4 * width * 32 and peaks[1] >= found["forward"]["arrays"]
    assert peaks[2] > max(peaks[1], found["forward and backward"]["arrays"])
    for way in found.values():
        objects = way["held"] - way["arrays"]
        assert 0 < objects < 12_000 if device.type == "cpu" else objects == 0


def test_peaks_are_those_of_the_computation_alone(device):
    model, run = computing(3, 256, 512)
    found = ways(seen(run))

    def without():
        with tt.no_grad():
            return run()

    for name, alone in (("no_grad", without), ("forward", run), ("forward and backward", lambda: run().backward())):
        alone()
        model.zero_grad()
        gc.collect()
        if device.type == "cpu":
            tracemalloc.start()
            result = alone()
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        else:
            before = tt.cuda.memory_allocated(device)
            tt.cuda.reset_peak_memory_stats(device)
            result = alone()
            peak = tt.cuda.max_memory_allocated(device) - before
        del result
        assert found[name]["peak"] == pytest.approx(peak, rel=0.02), name


@pytest.mark.parametrize("dtype, shape", [("float16", (300,)), ("float32", (20, 30)), ("float64", (2, 3, 50))])
def test_a_tensor_without_and_with_gradients(dtype, shape, device):
    small, leaf = tt.ones(1, requires_grad=True), tt.ones(*shape, dtype=getattr(tt, dtype), requires_grad=True)
    view = seen(lambda: (leaf.float() * small).sum())
    assert view.data["tensor"]["shape"] == list(shape) and view.data["tensor"]["dtype"] == dtype
    size = whole(leaf.nbytes, device)
    assert part(view, "array") == (size, size) and part(view, "gradient") == (0, size)
    without, with_gradients = part(view, "objects")
    one = leaf.detach()
    if device.type == "cpu":  # the Tensor and NumPy's array object, without its contents
        assert abs(with_gradients - without) <= 8, "the flag itself is for free"
        assert without == pytest.approx(sys.getsizeof(one) + sys.getsizeof(one._array) - one._array.nbytes, abs=40)
        assert part(view, "objects of the gradient")[1] == pytest.approx(without, abs=40)
        node, accumulator = (-leaf).grad_fn, (-leaf).grad_fn.next_functions[0][0]
        record = sum(map(sys.getsizeof, (node, accumulator, node.edges)))
        assert record - 40 <= part(view, "record of one use")[1] <= record + 300
    assert part(view, "record of one use")[0] == 0 and 100 < part(view, "record of one use")[1] < 2000
    d = view.data["tensor"]
    assert d["with"] == sum(p["with"] for p in d["parts"]) and d["without"] == sum(p["without"] for p in d["parts"])


def test_an_operator_more_changes_what_it_keeps(device):
    x = tt.randn(64, 64, requires_grad=True)
    one, two = (ways(seen(f)) for f in (lambda: x.exp().sum(), lambda: x.exp().exp().sum()))
    assert two["forward"]["arrays"] - one["forward"]["arrays"] == 4 * 64 * 64
    assert two["no_grad"]["arrays"] == one["no_grad"]["arrays"]


# times


def test_times(device):
    view = seen(computing()[1], repeats=3)
    for way in (*view.data["ways"], *view.data["captured"]["ways"]):
        s = way["seconds"]
        assert 0 < s["least"] <= s["median"] <= s["most"] and s["runs"] == 3
    recording = ways(view)["forward"]["seconds"]["least"] - ways(view)["no_grad"]["seconds"]["least"]
    assert view.data["recording"]["seconds"] == recording
    assert view.data["recording"]["each"] == (recording / 6 if recording > 0 else None)
    assert any("no GPU's" in n for n in view.data["notes"]) == (device.type == "sim")


def test_what_is_lost_in_the_spread_is_said():
    view = seen(computing()[1])
    data = view.data | {"recording": {"seconds": -1e-6, "each": None}}
    assert "lost in the spread" in str(look.Overhead(data)) and "nan" not in str(look.Overhead(data))


# nothing changes


def test_gradients_are_the_same_objects_afterwards(device):
    model, run = computing()
    run().backward()
    model[0].bias.grad = None
    before = [p.grad for p in model.parameters()]
    values = [None if g is None else g.numpy(force=True).copy() for g in before]
    seen(run)
    for p, g, v in zip(model.parameters(), before, values):
        assert p.grad is g and (v is None or (g.numpy(force=True) == v).all())


def test_gradients_are_back_after_an_error(device):
    model, run = computing()
    run().backward()
    before, calls = [p.grad for p in model.parameters()], []

    def failing():
        calls.append(1)
        if len(calls) > 4:
            raise KeyError("later")
        return run()

    with pytest.raises(KeyError):
        seen(failing)
    assert all(p.grad is g for p, g in zip(model.parameters(), before)) and not tracemalloc.is_tracing()


def test_each_way_draws_the_same_numbers_and_they_go_on_as_if_nothing_had_run(device):
    x, drawn = tt.ones(1000, requires_grad=True), []

    def run():
        y = nn.functional.dropout(x, 0.5)
        if not tt.is_grad_enabled() and device.type == "cpu":
            drawn.append(y.numpy(force=True).copy())
        return y.sum()

    tt.manual_seed(5)
    expected = nn.functional.dropout(x, 0.5).numpy(force=True), tt.rand(3).numpy(force=True)
    tt.manual_seed(5)
    view = seen(run)
    assert [w["difference"] for w in view.data["captured"]["ways"]] == ([0, 0] if device.type == "sim" else [])
    assert all((d == expected[0]).all() for d in drawn)
    assert (nn.functional.dropout(x, 0.5).numpy(force=True) == expected[0]).all()
    assert (tt.rand(3).numpy(force=True) == expected[1]).all()


def test_a_generator_that_the_first_call_makes(device, monkeypatch):
    monkeypatch.setattr(random, "_global_seed", 7)
    monkeypatch.setattr(random, "_defaults", {})
    expected = tt.rand(3).numpy(force=True)
    random._defaults.clear()
    seen(lambda: nn.functional.dropout(tt.ones(9, requires_grad=True), 0.5).sum())
    assert (tt.rand(3).numpy(force=True) == expected).all()


def test_nothing_stays(device):
    model, run = computing()
    with tt.no_grad():
        view = seen(run)
        assert not tt.is_grad_enabled()
    assert view.data["operators"] == 6 and tt.is_grad_enabled()
    assert all(p.grad is None for p in model.parameters()) and not tracemalloc.is_tracing()
    gc.collect()
    assert not machinery.active(), "a stream is left"


# captured


def test_captured_where_the_device_can(device):
    captured = seen(computing()[1]).data["captured"]
    if device.type == "cpu":
        assert captured["ways"] == [] and captured["reason"].startswith("cpu cannot capture")
        return
    assert captured["reason"] is None and [w["name"] for w in captured["ways"]] == ["no_grad", "forward and backward"]
    assert [w["difference"] for w in captured["ways"]] == [0, 0]


def test_a_computation_that_reads_from_the_device_is_not_captured():
    with tt.device("sim"):
        _, run = computing()
        captured = seen(lambda: run() * run().item()).data["captured"]
        assert captured["ways"] == []
        assert captured["reason"].startswith("no_grad cannot be captured: CUDARuntimeError: ")
        assert "not permitted when stream is capturing" in captured["reason"]
        assert run().item() > 0, "the device works on"
    gc.collect()
    assert not machinery.active()


def test_only_the_backward_refuses():
    class Reads(tt.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            grad.sum().item()
            return grad * 2

    with tt.device("sim"):
        x = tt.ones(3, requires_grad=True)
        view = seen(lambda: Reads.apply(x).sum())
    assert [w["name"] for w in view.data["captured"]["ways"]] == ["no_grad"]
    assert view.data["captured"]["reason"].startswith("forward and backward cannot be captured")
    assert "captured (static), no_grad: one launch, equal bits" in str(view) and "cannot be captured" in str(view)
    assert x.grad is None


def test_a_captured_result_that_is_another_is_told():
    with tt.device("sim"):
        x, calls = tt.ones(3, requires_grad=True), []

        def run():
            calls.append(1)
            return (x * len(calls)).sum()

        view = seen(run)
    # two calls lie between the recorded and the captured one: three times 2 apart
    assert view.data["captured"]["ways"][0]["difference"] == 6
    assert "up to 6 apart from what was recorded" in " ".join(str(view).split())


# the view


@pytest.fixture(scope="module")
def views():
    with tt.device("cpu"):
        first = seen(computing()[1], repeats=2)
    with tt.device("sim"):
        return first, seen(computing()[1], repeats=2)


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_the_text_says_what_was_measured(views, width):
    for view, device in zip(views, ("cpu", "sim:0")):
        out = io.StringIO()
        view.print(out, width)
        text = out.getvalue()
        assert max(map(len, text.splitlines())) <= width and "█" in text
        if width >= 60:
            words = " ".join(text.split())
            assert f"overhead of gradients in the function on {device}: 6 operators, 4 leaves" in words
            assert "the largest leaf, f32[64,64], without and with gradients" in words
            assert ("no_grad, captured" in words) == (device != "cpu")
        if width == 200:
            assert "not shown" not in text


def test_the_page_and_the_picture_show_all_ways(views):
    view = views[1]
    words = [t.text for t in ElementTree.fromstring(view.to_svg()).iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("forward and backward") == 3 and "a tensor f32[64,64] without and with gradients" in words
    assert "<svg" in view.to_html() and "no GPU" in view.to_html()
    assert [w["name"] for w in view.data["ways"]] == ["no_grad", "forward", "forward and backward"]
    assert repr(view) == "<look.overhead: the function on sim:0, 6 operators>"


# arguments


def test_a_model_and_its_arguments(device):
    model = net()
    view = seen(model, tt.randn(32, 64))
    assert view.data["function"] == "Sequential" and view.data["operators"] == 4
    assert ways(view)["no_grad"]["arrays"] == 4 * 32 * 64, "a result of several elements: its backward gets ones"
    assert ways(view)["forward"]["arrays"] == 2 * 4 * 32 * 64


def test_bad_arguments(device):
    x = tt.ones(3, requires_grad=True)
    with pytest.raises(TypeError, match=r"\[overhead\] expected a function, got Tensor: write lambda"):
        look.overhead(x)
    for repeats in (0, -1, 1.5, True, None):
        with pytest.raises(ValueError, match=r"\[overhead\] repeats must be a whole number of at least 1, got"):
            look.overhead(lambda: x.sum(), repeats=repeats)
    with pytest.raises(TypeError, match=r"\[overhead\] the function must return a Tensor, got float"):
        look.overhead(lambda: 3.0)
    with pytest.raises(ValueError, match=r"\[overhead\] the tensor of shape \[3\] has no graph"):
        look.overhead(lambda: x.detach())
    with pytest.raises(ValueError, match=r"\[overhead\] the tensor of shape \[3\] has no graph; it is a leaf"):
        look.overhead(lambda: x)
    loss = x.sum()
    with pytest.raises(ValueError, match=r"\[overhead\] the function returned the same tensor twice"):
        look.overhead(lambda: loss)


def test_a_function_that_runs_its_own_backward(device):
    x = tt.ones(3, requires_grad=True)

    def step():
        loss = (x * 2).sum()
        loss.backward(retain_graph=True)
        return loss

    with pytest.raises(RuntimeError) as e:
        look.overhead(step)
    assert "leave the backward to the view" in e.value.__notes__[0]
    assert x.grad is not None, "its own backward's"
