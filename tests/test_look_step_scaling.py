"""look.step: gradients that are clipped, scaled for float16, skipped, and losses that are not finite."""
from __future__ import annotations

import math

import numpy as np
import pytest
from step_program import batch, finding, host, kinds, loss_of, net, program, scaler_of, together

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn, optim
from tinytorch_gpu.amp import GradScaler
from tinytorch_gpu.nn import utils
from tinytorch_gpu.nn.utils import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm

made = pytest.fixture(program)

# clipping


def test_norms_before_and_after_clipping(made):
    model, optimizer, x = made
    expected = []
    with look.step(model, optimizer, percentile=75) as view:
        for k in range(6):
            optimizer.zero_grad()
            (loss_of(model, x) * (k + 1)).backward()
            before = together(model)
            clip_grad_norm_(model.parameters(), 0.3)
            expected.append((before, together(model)))
            optimizer.step()
    steps, c = view.data["steps"], view.data["clipping"]
    assert [s["unclipped"] for s in steps] == [pytest.approx(b, rel=1e-5) for b, _ in expected]
    assert [s["norm"] for s in steps] == [pytest.approx(a, rel=1e-4) for _, a in expected]
    assert c["steps"] == 6 and c["clipped"] == sum(b > 0.3 for b, _ in expected) and c["thresholds"] == [0.3]
    assert c["share"] == c["clipped"] / 6
    assert c["suggested"] == pytest.approx(float(np.percentile([b for b, _ in expected], 75)), rel=1e-5)
    assert c["share_suggested"] == sum(b > c["suggested"] * (1 + 1e-6) for b, _ in expected) / 6
    assert steps[0]["clips"][0]["function"] == "clip_grad_norm_"
    assert steps[0]["clips"][0]["line"]["source"] == "clip_grad_norm_(model.parameters(), 0.3)"
    assert kinds(view) == []


def test_a_threshold_twice_as_high_clips_other_steps_alone(seed):
    shares = []
    for threshold in (1.0, 2.0, 4.0, 8.0):
        model = nn.Linear(2, 1, bias=False)
        optimizer = optim.SGD(model.parameters(), lr=1e-9)
        with look.step(model, optimizer) as view:
            for size in (0.5, 1.5, 3.0, 6.0):
                optimizer.zero_grad()
                (model(tt.tensor([[size, 0.0]])).sum()).backward()  # a gradient of this norm
                utils.clip_grad_norm_(model.parameters(), threshold)
                optimizer.step()
        assert [s["unclipped"] for s in view.data["steps"]] == pytest.approx([0.5, 1.5, 3, 6])
        assert [s["norm"] for s in view.data["steps"]] == pytest.approx(
            [min(n, threshold) for n in (0.5, 1.5, 3, 6)], rel=1e-4)
        shares.append(view.data["clipping"]["share"])
    assert shares == [0.75, 0.5, 0.25, 0.0]


def test_other_ways_to_clip(made):
    model, optimizer, x = made
    parameters = list(model.parameters())
    ways = [lambda: clip_grad_value_(parameters, 0.01), lambda: clip_grad_norm_(parameters, 0.01, math.inf),
            lambda: clip_grad_norm_(parameters, 0.01, 1.0),
            lambda: clip_grads_with_norm_(parameters, 0.01, get_total_norm([p.grad for p in parameters]))]
    sizes = []
    with look.step(model, optimizer) as view:
        for way in ways:
            optimizer.zero_grad()
            loss_of(model, x).backward()
            sizes.append(np.concatenate([host(p.grad).ravel() for p in parameters]))
            way()
            optimizer.step()
    clips = [s["clips"][0] for s in view.data["steps"]]
    assert [c["function"] for c in clips] == ["clip_grad_value_", "clip_grad_norm_", "clip_grad_norm_",
                                              "clip_grads_with_norm_"]
    orders = [math.inf, math.inf, 1, 2]
    assert [c["norm"] for c in clips] == [pytest.approx(float(np.linalg.norm(s, p)), rel=1e-5)
                                          for s, p in zip(sizes, orders)]
    assert [c["norm_type"] for c in clips] == [math.inf, math.inf, 1.0, None] and all(c["active"] for c in clips)
    assert view.data["clipping"]["suggested"] is None and view.data["clipping"]["norm_type"] is None  # of several kinds


def test_without_clipping_the_norms_suggest_a_threshold(made):
    model, optimizer, x = made
    norms = []
    with look.step(model, optimizer) as view:
        for _ in range(4):
            optimizer.zero_grad()
            loss_of(model, x).backward()
            norms.append(together(model))
            optimizer.step()
    c = view.data["clipping"]
    assert c["steps"] == c["clipped"] == 0 and c["share"] is None
    assert c["suggested"] == pytest.approx(float(np.percentile(norms, 90)), rel=1e-5)


def test_norms_equal_to_the_threshold_are_not_clipped():
    """Nor do they count as above the threshold that is suggested."""
    model = nn.Linear(2, 1, bias=False)
    optimizer = optim.SGD(model.parameters(), lr=1e-9)
    for clip in (True, False):
        with look.step(model, optimizer, percentile=50) as view:
            for size in (1.0, 2.0, 4.0):
                optimizer.zero_grad()
                model(tt.tensor([[size, 0.0]])).sum().backward()
                if clip:
                    clip_grad_norm_(model.parameters(), 2.0)
                optimizer.step()
        c = view.data["clipping"]
        assert (c["clipped"], c["share"]) == ((1, 1 / 3) if clip else (0, None))
        assert c["suggested"] == 2.0 and c["share_suggested"] == pytest.approx(1 / 3)


def test_clipped_twice_the_norm_before_is_that_before_the_first(made):
    model, optimizer, x = made
    with look.step(model, optimizer) as view:
        loss_of(model, x).backward()
        before = together(model)
        clip_grad_norm_(model.parameters(), before / 2)
        clip_grad_norm_(model.parameters(), before / 4)
        optimizer.step()
    step, = view.data["steps"]
    assert step["unclipped"] == pytest.approx(before, rel=1e-4) and step["norm"] == pytest.approx(before / 4, rel=1e-4)


def test_a_norm_that_is_not_finite_suggests_nothing(made):
    model, optimizer, x = made
    norms = []
    with look.step(model, optimizer) as view:
        for factor in (1.0, 2.0, math.nan):
            optimizer.zero_grad()
            (loss_of(model, x) * factor).backward()
            norms.append(together(model))
            if factor == factor:
                optimizer.step()
        optimizer.step()
    c = view.data["clipping"]
    assert len(c["norms"]) == 3 and c["measured"] == 2
    assert c["suggested"] == pytest.approx(float(np.percentile(norms[:2], 90)), rel=1e-5)
    weight = view.data["parameters"][0]
    assert math.isnan(weight["last"]) and weight["median"] == pytest.approx(sum(weight["norms"][:2]) / 2, rel=1e-6)


def test_clipping_that_does_nothing(made):
    model, optimizer, x = made
    used_up = model.parameters()
    list(used_up)
    with look.step(model, optimizer) as view:
        clip_grad_norm_(model.parameters(), 1.0)
        loss_of(model, x).backward()
        clip_grad_norm_(used_up, 1.0)
        optimizer.step()
        clip_grad_norm_(model.parameters(), 1.0)
    assert sorted(kinds(view)) == ["clip_empty", "clip_late", "clip_nothing"]
    assert finding(view, "clip_nothing")["where"]["source"] == "clip_grad_norm_(used_up, 1.0)"
    with look.step(model, optimizer) as view:  # of another model
        clip_grad_norm_(net().parameters(), 1.0)
    assert kinds(view) == []


# the gradient scaler


def test_clipping_scaled_gradients(made):
    model, optimizer, x = made
    scaler = GradScaler(x.device.type, init_scale=1024.0)
    loss_of(model, x).backward()
    true = together(model)
    optimizer.zero_grad()
    with look.step(model, optimizer) as view:
        scaler.scale(loss_of(model, x)).backward()
        clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
    found = finding(view, "clip_scaled")
    assert kinds(view) == ["clip_scaled"] and found["measured"]["scale"] == 1024
    assert found["measured"]["norm"] == pytest.approx(1024 * true, rel=1e-4)
    assert found["where"]["source"] == "clip_grad_norm_(model.parameters(), 1.0)"
    assert found["parameters"] == [name for name, _ in model.named_parameters()]  # in order, whatever their addresses


@pytest.mark.parametrize("clip", [False, True])
def test_stepping_scaled_gradients(made, clip):
    model, optimizer, x = made
    scaler = GradScaler(x.device.type, init_scale=1024.0)
    with look.step(model, optimizer) as view:
        scaler.scale(loss_of(model, x)).backward()
        if clip:
            clip_grad_norm_(model.parameters(), 1e9)
        optimizer.step()
    assert kinds(view) == [*(["clip_scaled"] if clip else []), "step_scaled"]
    assert finding(view, "step_scaled")["measured"]["scale"] == 1024


def test_scaled_gradients_on_unscaled_ones(made):
    model, optimizer, x = made
    scaler = GradScaler(x.device.type, init_scale=1024.0)
    with look.step(model, optimizer) as view:
        scaler.scale(loss_of(model, x)).backward()
        scaler.unscale_(optimizer)
        scaler.scale(loss_of(model, x)).backward()
        scaler.step(optimizer)
    assert "mixed" in kinds(view) and finding(view, "mixed")["measured"]["scale"] == 1024


def test_clipping_a_sum_of_scaled_losses(made):
    model, optimizer, x = made
    scaler = scaler_of(x)
    with look.step(model, optimizer) as view:
        out = model(x)
        (scaler.scale(out.mean()) + scaler.scale(out.square().mean())).backward()
        clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
    assert kinds(view) == ["clip_scaled"] and finding(view, "clip_scaled")["measured"]["scale"] == 1024


class Plain(optim.Optimizer):
    """An optimizer of a user, which does not know of scalers."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.01})

    def step(self, closure=None):
        with tt.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.sub_(p.grad * group["lr"])


@pytest.mark.parametrize("make", [lambda p: optim.SGD(p, lr=0.01), Plain], ids=["SGD", "a user's"])
def test_steps_that_the_scaler_skips(seed, make):
    model = net()
    optimizer = make(model.parameters())
    for factors, level in (((1.0, math.inf, 1.0), "note"), ((math.inf,) * 3, "pitfall")):
        scaler = GradScaler(model[0].weight.device.type, init_scale=2.0**20)
        with look.step(model, optimizer) as view, np.errstate(invalid="ignore"):
            for factor in factors:
                optimizer.zero_grad()
                out = model(batch(seed)).square().mean()
                out.register_hook(lambda g, factor=factor: g * factor)  # the loss is finite, its gradients are not
                scaler.scale(out).backward()
                scaler.step(optimizer)
                scaler.update()
        found = finding(view, "skipped")
        assert kinds(view) == ["skipped"] and found["level"] == level
        assert found["steps"] == [k + 1 for k, f in enumerate(factors) if math.isinf(f)]
        assert [s["skipped"] for s in view.data["steps"]] == [math.isinf(f) for f in factors]
        assert "2.weight" in found["parameters"]
    assert "scale was lowered again and again" in found["why"]


def scaled_steps(seed, scale, most, steps, clip=None):
    """Steps whose gradients overflow where the loss scale is above `most`; the view, and the scale of each step."""
    model = net()
    optimizer, scaler = optim.SGD(model.parameters(), lr=0.01), GradScaler(model[0].weight.device.type, scale)
    scales = []
    with look.step(model, optimizer) as view, np.errstate(invalid="ignore"):
        for _ in range(steps):
            optimizer.zero_grad()
            scales.append(scaler.get_scale())
            loss = model(batch(seed)).square().mean()
            loss.register_hook(lambda g: g * (math.inf if scales[-1] > most else 1.0))
            scaler.scale(loss).backward()
            if clip is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            scaler.step(optimizer)
            scaler.update()
    return view, scales


@pytest.mark.parametrize("high, least, steps, level, why", [
    (24, 19, 12, "note", "the scaler lowers it and goes on"),  # 24 to 20 are skipped, then it has found its scale
    (24, 19, 6, "note", "the scaler lowers it and goes on"),  # one good step says as much
    (24, 19, 5, "pitfall", "lowered again and again, and the gradients are still not finite"),
    (24, 19, 2, "note", "the scaler lowers it and goes on"),
    (3, -1, 12, "pitfall", "it is not the scale"),  # they overflow at a scale of 1 too
    (0, -1, 2, "pitfall", "it is not the scale"), (1, 0, 2, "note", "the scaler lowers it and goes on"),
])
def test_a_scaler_that_finds_its_scale(seed, high, least, steps, level, why):
    view, scales = scaled_steps(seed, 2.0**high, 2.0**least, steps)
    found = finding(view, "skipped")
    skipped = [k for k, s in enumerate(scales) if s > 2.0**least]
    assert scales[:len(skipped)] == [2.0 ** (high - k) for k in skipped] and len(skipped) == min(high - least, steps)
    assert (found["level"], found["steps"]) == (level, [k + 1 for k in skipped]) and why in found["why"]
    assert found["measured"] == {"longest": len(skipped), "open": len(skipped) if steps <= high - least else 0,
                                 "scales": [scales[k] for k in skipped]}
    assert ("no pitfall found, 1 note" if level == "note" else "1 pitfall") in " ".join(str(view).split())
    if (high, steps) == (24, 12):
        assert "steps 1 to 5 skipped by the gradient scaler, 5 in a row, at the scales 1.68e+07 to 1.05e+06" in found[
            "what"]


@pytest.mark.parametrize("clip, clipped", [(1e-6, 7), (1e6, 0)])
def test_a_skipped_step_is_not_clipped(seed, clip, clipped):
    view, scales = scaled_steps(seed, 2.0**24, 2.0**19, 12, clip)
    c = view.data["clipping"]
    assert (c["steps"], c["skipped"], c["clipped"], c["share"], len(c["norms"])) == (7, 5, clipped, clipped / 7, 7)
    assert f"clipped: {clipped} of 7 steps ({clipped / 7:.0%}) at {clip:g}; 5 skipped steps not counted" in str(view)


def test_norms_of_skipped_steps_suggest_no_threshold(seed):
    view, _ = scaled_steps(seed, 2.0**24, 2.0**19, 12)
    assert len(view.data["clipping"]["norms"]) == view.data["clipping"]["measured"] == 7


def test_a_skipped_step_names_the_parameters_that_are_not_finite(made):
    model, optimizer, x = made
    scaler = scaler_of(x)
    handle = model[2].weight.register_hook(lambda g: g * math.inf)
    with look.step(model, optimizer, apart=0) as view, np.errstate(invalid="ignore"):
        scaler.scale(loss_of(model, x)).backward()
        scaler.step(optimizer)
    handle.remove()
    assert finding(view, "skipped")["parameters"] == ["2.weight"]


def test_a_loss_that_is_not_finite(made):
    model, optimizer, x = made
    with look.step(model, optimizer) as view:
        for k in range(3):
            optimizer.zero_grad()
            loss = loss_of(model, x) * (float("nan") if k == 1 else 1.0)
            loss.backward()
            if k != 1:
                optimizer.step()
    found = finding(view, "loss")
    assert found["parameters"] == ["loss"] and math.isnan(found["measured"]["value"])
    assert "step 2: the loss of `loss` was nan" in found["what"]
    assert found["where"]["source"] == "loss.backward()" and "look.nan" in found["mend"]


def test_a_scaled_loss_that_overflows_is_the_scalers_business(made):
    model, optimizer, x = made
    scaler = GradScaler(x.device.type, init_scale=2.0**127)
    with look.step(model, optimizer) as view, np.errstate(all="ignore"):
        scaler.scale(loss_of(model, x) * 100).backward()
        scaler.step(optimizer)
    assert kinds(view) == ["skipped"] and view.data["steps"][0]["backwards"][0]["values"][0] < 1e4
