"""look.fusion: what is found in programs written by hand, what is not, bytes and times by formula, values measured."""
from __future__ import annotations

import gc
import io
import json
import math
import re
import weakref
import xml.etree.ElementTree as ElementTree
from collections import Counter

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn
from tinytorch_gpu.autograd import modes
from tinytorch_gpu.autograd.operator import Operator
from tinytorch_gpu.look import fusion, spans
from tinytorch_gpu.look.cost.cost import cost
from tinytorch_gpu.look.fusion import gain as fusion_gain
from tinytorch_gpu.look.fusion import products as fusion_products
from tinytorch_gpu.look.fusion.call import of_call
from tinytorch_gpu.look.fusion.patterns import findings
from tinytorch_gpu.look.fusion.products import cheapest
from tinytorch_gpu.look.saved import saved_of
from tinytorch_gpu.nn import functional as F
from tinytorch_gpu.nn import hooks as module_hooks

INF = float("inf")


def randn(rng, *shape, grad=True):
    return tt.tensor(rng.standard_normal(shape).astype("f4"), requires_grad=grad)


def kinds(view):
    return [(f["kind"], f["operators"]) for f in view.data["findings"]]


def on_cpu():
    return tt.ones(1).device.type == "cpu"


def only(view):
    (found,) = view.data["findings"]
    return found


# what is found, and that the operator that is named computes the same


def attention(rng, scale=None, mask=None, dropout=0.0, softmax=None):
    q, k, v = randn(rng, 2, 3, 6, 4), randn(rng, 2, 3, 6, 4), randn(rng, 2, 3, 6, 5)

    def run():
        scores = q @ k.transpose(-1, -2)
        scores = scores if scale is None else scores * scale
        scores = scores if mask is None else mask(scores)
        p = scores.softmax(-1) if softmax is None else softmax(scores)
        return F.dropout(p, dropout) @ v

    return run


def written_softmax(x):
    e = (x - x.amax(-1, keepdim=True).detach()).exp()
    return e / e.sum(-1, keepdim=True)


def upper(t=6):
    return tt.ones(t, t).tril() == 0


def layer_norm(rng, affine=True, variance="written", shape=(5, 7, 8)):
    x, w, b = randn(rng, *shape), randn(rng, shape[-1]), randn(rng, shape[-1])

    def run():
        mean = x.mean(-1, keepdim=True)
        var = ((x - mean) ** 2).mean(-1, keepdim=True) if variance == "written" else x.var(
            -1, unbiased=False, keepdim=True)
        y = (x - mean) / (var + 1e-5).sqrt() if variance == "written" else (x - mean) * tt.rsqrt(var + 1e-5)
        return y * w + b if affine else y

    return run


def rms_norm(rng):
    x, w = randn(rng, 5, 8), randn(rng, 8)
    return lambda: x * tt.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * w


def cross_entropy(rng, how):
    x, y = randn(rng, 9, 5), tt.tensor(rng.integers(0, 5, 9))
    rows = tt.arange(9)
    return {
        "log_softmax": lambda: -F.log_softmax(x, -1)[rows, y].mean(),
        "nll": lambda: F.nll_loss(F.log_softmax(x, 1), y),
        "log of softmax": lambda: -F.softmax(x, -1).log().gather(1, y[:, None]).sum(),
        "log of written": lambda: F.nll_loss(written_softmax(x).log(), y),
        "logsumexp": lambda: (x.logsumexp(1, keepdim=True) - x.gather(1, y[:, None])).mean(),
        "logsumexp flat": lambda: (x.logsumexp(1) - x[rows, y]).mean(),
    }[how]


def products(rng, how):
    x, w, b = randn(rng, 6, 4), randn(rng, 4, 7), randn(rng, 7)
    return {
        "bias": lambda: x @ w + b,
        "bias gelu": lambda: F.gelu(x @ w + b),
        "bias silu": lambda: F.silu(F.linear(x, w.T) + b),
        "bias relu": lambda: (x @ w + b).relu(),
    }[how]


def elementwise(rng, how):
    x, y = randn(rng, 6, 8), randn(rng, 6, 8)
    return {
        "gelu": lambda: x * 0.5 * (1 + tt.erf(x / math.sqrt(2))),
        "gelu tanh": lambda: 0.5 * x * (1 + tt.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3))),
        "silu": lambda: x * tt.sigmoid(x),
        "silu exp": lambda: x / (1 + (-x).exp()),
        "swiglu": lambda: F.silu(x) * y,
        "geglu": lambda: y * F.gelu(x),
        "mse": lambda: ((x - y) ** 2).mean(),
        "mse sum": lambda: (x - y).square().sum(),
        "l1": lambda: (x - y).abs().mean(),
        "dropout": lambda: F.dropout(x, 0.3) + y,
        "softmax": lambda: written_softmax(x),
        "sigmoid": lambda: 1 / (1 + (-x).exp()),
    }[how]


PROGRAMS = [
    ("plain", attention, {}, "attention", "F.scaled_dot_product_attention(q, k, v, scale=1)"),
    ("scaled", attention, {"scale": 0.5}, "attention", "F.scaled_dot_product_attention(q, k, v)"),
    ("causal", attention, {"scale": 0.5, "mask": lambda s: s.masked_fill(upper(), -INF)}, "attention",
     "F.scaled_dot_product_attention(q, k, v, is_causal=True)"),
    ("where", attention, {"mask": lambda s: tt.where(tt.ones(6, 6).tril() > 0, s, -INF), "scale": 0.25}, "attention",
     "F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.25)"),
    ("masked", attention, {"scale": 0.5, "mask": lambda s: s.masked_fill(upper().T, -1e9)}, "attention",
     "F.scaled_dot_product_attention(q, k, v, attn_mask=~mask)"),
    ("biased", attention, {"scale": 0.5, "mask": lambda s: s + tt.ones(6, 6).triu() * 2}, "attention",
     "F.scaled_dot_product_attention(q, k, v, attn_mask=mask)"),
    ("dropped", attention, {"scale": 0.5, "dropout": 0.4}, "attention",
     "F.scaled_dot_product_attention(q, k, v, dropout_p=0.4)"),
    ("by hand", attention, {"scale": 0.5, "softmax": written_softmax}, "attention",
     "F.scaled_dot_product_attention(q, k, v)"),
    ("layer norm", layer_norm, {}, "layer norm", "F.layer_norm(x, (8,), weight, bias, eps=1e-05)"),
    ("without affine", layer_norm, {"affine": False}, "layer norm", "F.layer_norm(x, (8,), eps=1e-05)"),
    ("variance", layer_norm, {"variance": "var"}, "layer norm", "F.layer_norm(x, (8,), weight, bias, eps=1e-05)"),
    ("rms norm", rms_norm, {}, "RMS norm", "F.rms_norm(x, (8,), weight, eps=1e-06)"),
    *[(how, cross_entropy, {"how": how}, "cross entropy",
       'F.cross_entropy(logits, target, reduction="sum")' if how == "log of softmax" else
       "F.cross_entropy(logits, target)")
      for how in ("log_softmax", "nll", "log of softmax", "log of written", "logsumexp", "logsumexp flat")],
    ("bias", products, {"how": "bias"}, "matmul + bias", "tt.addmm(bias, x, w)"),
    ("bias gelu", products, {"how": "bias gelu"}, "matmul + bias + activation", 'F.bias_act(x @ w, bias, "gelu")'),
    ("bias relu", products, {"how": "bias relu"}, "matmul + bias + activation", 'F.bias_act(x @ w, bias, "relu")'),
    ("bias silu", products, {"how": "bias silu"}, "matmul + bias + activation",
     'F.bias_act(F.linear(x, w), bias, "silu")'),
    *[(how, elementwise, {"how": how}, kind, use) for how, kind, use in (
        ("gelu", "elementwise chain", "F.gelu(x)"),
        ("gelu tanh", "elementwise chain", 'F.gelu(x, approximate="tanh")'),
        ("silu", "elementwise chain", "F.silu(x)"), ("silu exp", "elementwise chain", "F.silu(x)"),
        ("swiglu", "elementwise chain", "F.swiglu(a, b)"), ("geglu", "elementwise chain", "F.geglu(a, b)"),
        ("mse", "reduction with its neighbours", "F.mse_loss(a, b)"),
        ("mse sum", "reduction with its neighbours", 'F.mse_loss(a, b, reduction="sum")'),
        ("l1", "reduction with its neighbours", "F.l1_loss(a, b)"),
        ("dropout", "dropout + residual", "F.dropout_add(x, residual, p=0.3)"),
        ("softmax", "softmax", "F.softmax(x, dim=-1)"), ("sigmoid", "elementwise chain", "F.sigmoid(x)"))],
]


@pytest.fixture
def quick(monkeypatch):
    """Timings too short to mean anything: only values are looked at."""
    monkeypatch.setattr(fusion_gain, "ROUNDS", 1)
    monkeypatch.setattr(fusion_gain, "LEAST_ROUNDS", 1)
    monkeypatch.setattr(fusion_gain, "LEAST_SECONDS", 0.0)


@pytest.mark.parametrize("make, options, kind, use", [p[1:] for p in PROGRAMS], ids=[p[0] for p in PROGRAMS])
def test_programs_written_out(make, options, kind, use, rng, quick):
    run = make(rng, **options)
    found = only(fusion(run, measure=True))
    assert (found["kind"], found["use"]) == (kind, use)
    for measured in (found["measured"], found["backward"]["measured"]):
        assert measured["agrees"] and measured["difference"] <= measured["tolerance"] <= 2e-5
        assert measured["now"] > 0 and measured["fused"] > 0
    both = found["both"]["measured"]
    assert both["now"] == found["measured"]["now"] + found["backward"]["measured"]["now"] and both["agrees"]
    predicted = only(fusion(run))
    # predicted from shapes, and of the nodes that ran; a kernel's cross entropy keeps 1 / rows as an array too
    one = 4 if kind == "cross entropy" and predicted["saved"] != found["saved"] and not on_cpu() else 0
    assert found["saved"] == {"now": predicted["saved"]["now"], "fused": predicted["saved"]["fused"] + one}
    for side in ("backward", "both"):
        assert all(predicted[side][way] == found[side][way] for way in ("now", "fused"))
    if "scale=1)" in use and "mask" not in use:  # two products and a softmax either way
        assert found["fused"]["bytes"] == found["now"]["bytes"]
        assert found["gain"] == pytest.approx(0, abs=1e-12)
    elif kind == "matmul + bias":  # addmm passes over the result for the bias as often; test below
        assert found["fused"]["bytes"] == found["now"]["bytes"]
        assert found["fused"]["launches"] == found["now"]["launches"] == 2
    else:
        assert found["fused"]["bytes"] < found["now"]["bytes"] and found["gain"] > 0
        assert found["fused"]["launches"] < found["now"]["launches"]
    with look.record():
        out = run()
    graph = only(fusion(out))
    assert graph["kind"] == kind and graph["measured"] is None
    assert graph["saved"] == predicted["saved"] and graph["backward"]["now"] == found["backward"]["now"]
    assert graph["backward"]["fused"] == found["backward"]["fused"]
    if "is_causal" not in use:  # the mask's values are gone
        assert graph["use"] == use


def test_what_is_named_exists():
    names = {match for p in PROGRAMS for match in re.findall(r"\b(?:F|tt)\.([\w.]+)\(", p[-1])}
    for name in names | {"add_layer_norm", "add_rms_norm"}:
        assert hasattr(F, name) or hasattr(tt, name), name
    for place, name in ((tt.linalg, "multi_dot"), (tt.optim, "SGD"), (tt.optim, "AdamW"), (tt, "kernel")):
        assert hasattr(place, name)


def test_imaginary_parts_are_compared_too(rng, quick, monkeypatch):
    x = tt.tensor(rng.standard_normal((3, 3)) + 1j * rng.standard_normal((3, 3)))
    found = only(fusion(lambda: x @ x + x[0], measure=True))
    assert found["use"] == "tt.addmm(bias, x, w)" and found["measured"]["agrees"]
    monkeypatch.setattr(fusion_products.ops, "addmm", lambda c, a, b: (a @ b + c).conj() * 1)
    assert not only(fusion(lambda: x @ x + x[0], measure=True))["measured"]["agrees"]


def test_a_wrong_replacement_is_told(rng, monkeypatch, quick):
    from tinytorch_gpu.look.fusion import softmax as fusion_softmax

    x = randn(rng, 6, 8)
    run = lambda: written_softmax(x)  # noqa: E731
    monkeypatch.setattr(fusion_softmax.F, "softmax", lambda x, dim: x * 2)
    view = fusion(run, measure=True)
    found = only(view)
    assert not found["measured"]["agrees"] and not found["recommended"]
    assert view.data["total"]["gain"] == 0.0
    assert "values DIFFER" in str(view) and "leave it: not the same (F.softmax(x, dim=-1))" in str(view)
    # the right values, with another gradient
    monkeypatch.setattr(fusion_softmax.F, "softmax", lambda x, dim: x.softmax(dim) + (x - x.detach()))
    view = fusion(run, measure=True)
    found = only(view)
    assert found["measured"]["agrees"] and not found["backward"]["measured"]["agrees"] and not found["recommended"]
    assert not found["both"]["measured"]["agrees"] and view.data["total"]["gain"] == 0.0
    assert "values differ" in str(view) and "gradients DIFFER" in str(view)


def parts_of_a_norm(rows, width):
    """(bytes, launches) of a device's kernels beyond those of one: parts of two gradients, written and added up."""
    return (0, 0) if on_cpu() else (2 * 2 * 4 * min(rows, 512) * width, 2)


def test_residual_and_norm(rng, quick):
    x, y, norm = randn(rng, 5, 8), randn(rng, 5, 8), nn.LayerNorm(8)

    def run():
        total = x + y
        return norm(total), total

    found = only(fusion(run, measure=True))
    assert found["kind"] == "residual + norm" and "add_layer_norm" in found["use"]
    assert found["measured"]["agrees"] and len(found["writes"]) == 2 and found["backward"]["measured"]["agrees"]
    # the norm reads gradient, sum, weight, mean and 1 / deviation and writes three gradients; the sum's own gradient is
    # added behind it, fused it is read by the same kernel
    array, row, each = 4 * 40, 4 * 8, 4 * 5
    norms = 3 * array + 3 * row + 2 * each + parts_of_a_norm(5, 8)[0]
    assert found["backward"]["now"]["bytes"] == norms + 3 * array and found["backward"]["now"]["launches"] == (
        2 + parts_of_a_norm(5, 8)[1])
    assert found["backward"]["fused"]["bytes"] == norms + array
    assert found["backward"]["fused"]["launches"] == 1 + parts_of_a_norm(5, 8)[1]
    assert found["saved"] == {"now": array + 2 * each, "fused": array + 2 * each}  # the sum, mean, 1 / deviation
    rms = nn.RMSNorm(8)
    found = only(fusion(lambda: rms(x + y), measure=True))
    assert "add_rms_norm" in found["use"] and found["measured"]["agrees"]


# what is not found


def test_an_intermediate_that_is_used_twice_is_no_chain(rng):
    x = randn(rng, 4, 6)

    def once():
        return (x * 2).exp()

    def returned():
        h = x * 2
        return h, h.exp()

    def twice():
        h = x * 2
        return h.exp() @ h.T

    assert only(fusion(once))["operators"] == ["Mul", "Exp"]
    assert fusion(returned).data["findings"] == []
    assert fusion(twice).data["findings"] == []


def test_what_a_users_function_reads_is_used(rng):
    class Own(tt.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad

    x = randn(rng, 4, 6)

    def run():
        h = x * 2
        return h.exp(), Own.apply(h)

    view = fusion(run)
    assert view.data["findings"] == []
    assert any("Own" in note for note in view.data["missing"])
    with look.record():
        out = run()
    assert fusion(list(out)).data["findings"] == []


def test_results_of_another_size_end_a_chain(rng):
    x, small = randn(rng, 4, 6), randn(rng, 6)
    found = only(fusion(lambda: x * (small * 2).exp()))
    assert found["operators"] == ["Mul", "Exp"]  # of the small array; the product reads it again and again


def test_parts_of_patterns_that_are_needed_outside(rng):
    run = attention(rng, scale=0.5)
    q, k, v = randn(rng, 6, 4), randn(rng, 6, 4), randn(rng, 6, 4)

    def shown():  # the probabilities are returned
        p = ((q @ k.T) * 0.5).softmax(-1)
        return p @ v, p

    assert kinds(fusion(shown)) == [("softmax and elementwise", ["Mul", "Softmax"])]
    assert only(fusion(run))["kind"] == "attention"

    def read():  # and here another operator reads them
        p = ((q @ k.T) * 0.5).softmax(-1)
        return p @ v, p.sum()

    assert kinds(fusion(read)) == [("softmax and elementwise", ["Mul", "Softmax"])]

    def dim():  # softmax over queries is not attention
        return ((q @ k.T) * 0.5).softmax(0) @ v

    assert kinds(fusion(dim)) == [("softmax and elementwise", ["Mul", "Softmax"])]


def test_a_variance_with_another_divisor_is_no_layer_norm(rng):
    x = randn(rng, 5, 8)
    found = only(fusion(lambda: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt()))
    assert found["kind"] == "normalization" and found["use"] is None and "n - 1" in found["notes"][0]
    other = only(fusion(lambda: (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()))
    assert other["use"] is None and "last dimensions" in other["notes"][0]


def test_what_only_looks_like_a_pattern(rng, quick):
    x, w, r, y = randn(rng, 5, 5), randn(rng, 5, 5), randn(rng, 5), tt.tensor([4, 3, 2, 1, 0])

    def found(run):
        view = fusion(run, measure=True)
        assert all(f["measured"] is None or f["measured"]["agrees"] for f in view.data["findings"])
        return kinds(view)

    # another class of another row
    assert "cross entropy" not in dict(found(lambda: -F.log_softmax(x, -1)[y, y].mean()))
    # the mean of columns, the variance of rows
    assert "layer norm" not in dict(found(
        lambda: (x - x.mean(0)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()))
    # a weight for each element is none of the norm's
    normed = ["Pow", "Mean", "Add", "Rsqrt", "Mul"]
    assert ("RMS norm", normed) in found(lambda: x * tt.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * w)
    assert ("RMS norm", [*normed, "Mul"]) in found(
        lambda: x * tt.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * r + r)  # which has no bias
    assert ("RMS norm", normed) in found(lambda: x * tt.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) + r)
    # a matrix is no bias, a row no residual
    assert found(lambda: x @ w + w) == []
    assert "dropout + residual" not in dict(found(lambda: F.dropout(x, 0.5) + r))
    # classes of every pixel
    z, t = randn(rng, 2, 5, 3), tt.tensor(rng.integers(0, 5, (2, 3)))
    assert found(lambda: F.nll_loss(F.log_softmax(z, 1), t)) == [("cross entropy", ["LogSoftmax", "NLLLoss"])]
    # less a number for each column, which softmax does not leave out
    with look.record():
        e = (x - tt.arange(5).float()).exp()
        p = e / e.sum(-1, keepdim=True)
    assert kinds(fusion(p)) == [("softmax", ["Exp", "Sum", "Div"])]


def test_nothing_to_fuse_is_said(rng):
    x, w = randn(rng, 4, 6), randn(rng, 6, 3)
    view = fusion(lambda: x @ w)
    assert view.data["findings"] == [] and view.data["total"]["gain"] == 0
    assert str(view).startswith("nothing to fuse in 1 operator")
    with pytest.raises(ValueError, match="nothing was found"):
        view.to_svg()
    assert "nothing to fuse" in view.page()


def test_a_mask_that_is_scaled_too_is_no_attention_of_ours(rng):
    bias = tt.ones(6, 6)
    view = fusion(attention(rng, mask=lambda s: (s + bias) * 0.5))
    assert "attention" not in [f["kind"] for f in view.data["findings"]]


# normalizations and what stands around them


@pytest.mark.parametrize("kind, layer, shape, weights", [
    ("norm", lambda: nn.BatchNorm2d(3), (2, 3, 4, 5), 2), ("norm", lambda: nn.LayerNorm(5), (2, 3, 4, 5), 2),
    ("norm", lambda: nn.RMSNorm(5), (6, 5), 1),
    ("norm", lambda: nn.GroupNorm(2, 4, affine=False), (2, 4, 3), 0),
    ("softmax", lambda: lambda x: x.softmax(-1), (6, 5), 0),
    ("softmax", lambda: lambda x: F.log_softmax(x, 0), (6, 5), 0),
], ids=["batch", "layer", "RMS", "group", "softmax", "log_softmax"])
def test_normalizations_and_their_neighbours(kind, layer, shape, weights, rng, quick):
    norm, x, n = layer(), randn(rng, *shape), math.prod(shape)
    affine = 4 * sum(p.numel() for p in norm.parameters()) if weights else 0
    for run, extra in ((lambda: norm(x).relu(), 1), (lambda: norm(x) * 2 + 1, 2), (lambda: norm(x * 2), 1),
                       (lambda: (norm(x.exp()) + 1).relu(), 3)):
        for view in (fusion(run, measure=True), fusion(recorded(run))):
            found = only(view)
            assert found["kind"] == f"{kind} and elementwise" and found["use"] is None and found["measured"] is None
            assert len([name for name in found["operators"] if name != "Reshape"]) == 1 + extra
            assert found["now"]["launches"] == 1 + extra
            # each of them reads and writes all of x; the norm its weight and bias too
            assert found["now"]["bytes"] == (1 + extra) * 2 * 4 * n + affine
            assert found["fused"]["bytes"] == 2 * 4 * n + affine and found["fused"]["launches"] == 1
            assert len(found["reads"]) == 1 + weights and found["gain"] > 0


def recorded(run):
    with look.record():
        return run()


def test_a_residual_network_and_a_reduction_behind_a_norm(rng):
    x, one, other = randn(rng, 2, 3, 4), nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    y = randn(rng, 2, 3, 4)
    found = only(fusion(lambda: (one(x) + y * 2).relu()))  # the other side of the sum is made in the same kernel
    assert found["operators"] == ["BatchNorm", "Mul", "Add", "ReLU"] and found["reads"].count("f32[2,3,4]") == 2
    found = only(fusion(lambda: (one(x) + other(y)).relu()))  # which reads what the other norm wrote
    assert found["operators"] == ["BatchNorm", "Add", "ReLU"]
    found = only(fusion(lambda: one(x).square().mean()))
    assert found["operators"] == ["BatchNorm", "Pow", "Mean"] and found["writes"] == ["f32[]"]


def test_a_norm_whose_result_goes_elsewhere_too_stays_alone(rng):
    x, w, norm = randn(rng, 6, 5), randn(rng, 5, 5), nn.LayerNorm(5)

    def read():
        h = norm(x)
        return h.relu(), h @ w

    def kept():
        h = norm(x)
        return h.relu(), h

    def source():  # x * 2 is needed beside the norm
        h = x * 2
        return norm(h), h

    def wider():
        return norm(x) * tt.ones(3, 6, 5)

    for run in (read, kept, source, wider, lambda: norm(x) @ w, lambda: norm(x.relu().T @ x)):
        assert fusion(run).data["findings"] == []
    assert kinds(fusion(lambda: (lambda h: h * tt.sigmoid(h))(norm(x)))) == [("elementwise chain", ["Sigmoid", "Mul"])]
    # what an operator of this package does comes first: silu here; the rest is the norm's
    assert [f["operators"] for f in fusion(lambda: (lambda h: h * tt.sigmoid(h))(norm(x) + 1)).data["findings"]] == [
        ["LayerNorm", "Add"], ["Sigmoid", "Mul"]]


def test_a_norm_with_two_results(rng):
    x, r, w = randn(rng, 6, 5), randn(rng, 6, 5), randn(rng, 5, 5)

    def both():
        y, total = F.add_layer_norm(x, r, (5,))
        return y.relu() + total * 2, total

    found = only(fusion(both))
    assert found["operators"] == ["AddLayerNorm", "ReLU", "Mul", "Add"] and found["reads"] == ["f32[6,5]"] * 2
    assert found["writes"] == ["f32[6,5]"] * 2

    def waiting():  # the sum needs a product, which needs the norm's other result: no kernel has both
        y, total = F.add_layer_norm(x, r, (5,))
        return y.relu() + total @ w

    assert kinds(fusion(waiting)) == [("elementwise chain", ["ReLU", "Add"])]


def test_numbers_are_those_of_the_listing(rng, quick):
    small, large = randn(rng, 4, 5), randn(rng, 40, 50)

    def run():
        return (small * 2).exp(), [(large * 3).sin() for _ in range(2)], large.square().cos().exp(), (small + 1).tanh()

    view = fusion(run, measure=True)
    text = str(view)
    shown = [int(n) for n in re.findall(r"^(\d+) elementwise chain: ", text, re.M)]
    assert shown == [1, 2, 3, 4]
    assert [f["operators"][0] for f in view.data["findings"]] == ["Mul", "Mul", "Mul", "Pow", "Add"]
    # by what is written and read less. Forward: 4 to 2 arrays, 6 to 2 of pow, cos, exp. Backward: of mul, sin 7 to 3
    # (cos: 2, a product: 3, times 3: 2), of pow, cos, exp 15 to 3, of add, tanh 8 to 3, of mul, exp 5 to 3. So 16 of
    # 2000 elements, twice 6 of them, 7 of 20 and 4 of 20; the repetition comes last
    assert [f["id"] for f in view.data["findings"]] == [4, 2, 5, 1, 3]
    assert [f["like"] for f in view.data["findings"]] == [4, 2, 2, 1, 3]


def test_sentences_that_can_be_read(rng):
    x, layer = randn(rng, 6, 4), nn.Linear(4, 7)
    view = fusion(lambda: x @ x.T)
    assert "nothing to fuse in 2 operators: none of the patterns looked for" in " ".join(str(view).split())
    text = " ".join(str(fusion(lambda: layer(x).sigmoid())).split())
    assert text.count("a kernel of your own") == 1
    assert any("a graph does not show" in m for m in fusion(recorded(lambda: (x * 2).exp())).data["missing"])


# bytes, times, patterns of access


@pytest.mark.parametrize("width", [8, 9])
def test_bytes_of_a_chain_by_hand(width):
    n = 3 * width
    x = tt.ones(3, width, requires_grad=True)
    found = only(fusion(lambda: ((x + 1) * 2).sin().exp()))
    assert found["now"]["bytes"] == 4 * 2 * 4 * n and found["fused"]["bytes"] == 2 * 4 * n
    assert found["now"]["flops"] == found["fused"]["flops"] == 4 * n
    assert found["now"]["intensity"] == 4 * n / (32 * n) and found["fused"]["intensity"] == 4 * n / (8 * n)
    assert (found["now"]["launches"], found["fused"]["launches"]) == (4, 1)
    assert found["use"] is None and found["access"]["contiguous"] == {"bytes": 32 * n, "share": 1.0}


def test_bytes_of_attention_by_hand():
    b, h, t, d = 2, 3, 10, 8
    q, k, v = (tt.ones(b, h, t, d, requires_grad=True) for _ in range(3))
    found = only(fusion(lambda: ((q @ k.transpose(-1, -2)) * 0.3).softmax(-1) @ v))
    array, scores = 4 * b * h * t * d, 4 * b * h * t * t
    # q k^T: two read, scores written; scale and softmax: read and written; probabilities and v read, one written
    assert found["now"]["bytes"] == 2 * array + scores + 2 * 2 * scores + scores + 2 * array
    assert found["fused"]["bytes"] == 4 * array + 4 * scores
    assert found["now"]["flops"] == 2 * 2 * b * h * t * t * d + 6 * b * h * t * t
    q, out, probs = ("float32", (b, h, t, d)), ("float32", (b, h, t, d)), ("float32", (b, h, t, t))
    whole = cost("Attention", [q, q, q, None], [out, probs])  # the same as the operator's own cost
    assert (found["fused"]["bytes"], found["fused"]["flops"]) == (whole.bytes, whole.flops)


def test_predicted_seconds_follow_from_the_ceiling():
    x = tt.ones(64, 32, requires_grad=True)
    view = fusion(lambda: (x * 2).exp())
    c, found = view.data["ceiling"], only(view)
    n = 4 * 64 * 32
    assert found["now"]["seconds"] == pytest.approx(2 * (2 * n / c["bandwidth"] + c["launch"]))
    assert found["fused"]["seconds"] == pytest.approx(2 * n / c["bandwidth"] + c["launch"])
    assert found["gain"] == pytest.approx(found["now"]["seconds"] - found["fused"]["seconds"])
    total = view.data["total"]
    assert total["seconds"] == pytest.approx(found["now"]["seconds"])
    # exp: the gradient times the result, mul: times 2; a kernel of one's own reads x and the gradient, writes one
    back = found["backward"]
    assert back["now"]["seconds"] == pytest.approx(2.5 * 2 * n / c["bandwidth"] + 2 * c["launch"])
    assert back["fused"]["seconds"] == pytest.approx(3 * n / c["bandwidth"] + c["launch"])
    assert total["backward"] == {"launches": 2, "bytes": 5 * n, "seconds": pytest.approx(back["now"]["seconds"])}
    for key in ("bytes", "flops", "launches", "seconds"):
        assert found["both"]["now"][key] == pytest.approx(found["now"][key] + back["now"][key])
    assert found["both"]["gain"] == pytest.approx(found["gain"] + back["gain"])
    assert total["gain"] == 0 and total["gain_of_own"] == pytest.approx(found["both"]["gain"])
    assert total["launches"] == 2 and total["bytes"] == 4 * n
    turned = fusion(lambda: (x.T * 2).exp())  # a view takes no time
    assert turned.data["total"]["seconds"] == pytest.approx(total["seconds"])


def test_how_the_bytes_lie():
    x, row = tt.ones(6, 8, requires_grad=True), tt.ones(8, requires_grad=True)
    found = only(fusion(lambda: (x.T * 2).exp()))
    # x.T read strided; the elementwise result keeps the order of its operand's memory
    strided = found["access"]["strided"]["bytes"]
    assert strided >= 4 * 48 and sum(a["bytes"] for a in found["access"].values()) == found["now"]["bytes"]
    found = only(fusion(lambda: (row.expand(6, 8) * x).exp()))
    assert found["access"]["repeated"] == {"bytes": 4 * 48, "share": 48 / (5 * 48)}
    logits, y = tt.ones(4, 5, requires_grad=True), tt.tensor([0, 1, 2, 3])
    found = only(fusion(lambda: -F.log_softmax(logits, -1).gather(1, y[:, None]).mean()))
    assert found["access"]["gathered"]["bytes"] == 4 * 4 * 2 + 8 * 4  # 4 floats picked by int64, written
    assert sum(a["share"] for a in found["access"].values()) == pytest.approx(1)


# the backward, and what stays for it


class Rules(spans.Listener):
    """What gradient rules apply, pass by pass; views apart."""

    def __init__(self):
        self.passes = []

    def begin(self, span):
        if span.kind == "pass":
            self.passes.append([])

    def end(self, span, mark):
        around = span.parent
        if span.kind != "operator" or around is None or around.kind != "backward" or span.what.view:
            return
        results = span.result if isinstance(span.result, tuple) else (span.result,)
        outs = [named(r) for r in results]
        found = cost(span.what.__name__, [named(a) for a in span.given], outs, span.params)
        if found.bytes and (span.what.__name__ != "Cast" or named(span.given[0]) != outs[0]):
            self.passes[-1].append(figures(found))


def named(array):
    return (str(array.dtype), array.shape) if hasattr(array, "dtype") else array


def figures(c):
    return c.flops, c.read, c.written, c.products


@pytest.mark.parametrize("make, options, kind, use", [p[1:] for p in PROGRAMS], ids=[p[0] for p in PROGRAMS])
def test_the_backward_counts_what_both_ways_really_apply(make, options, kind, use, rng, quick):
    program = of_call(make(rng, **options), ())
    (found,) = findings(program)
    host, listener = program.device.type == "cpu", Rules()
    spans.listen(listener)
    try:
        fusion_gain.measure(found, program)
    finally:
        spans.leave(listener)
    whole = host or "norm" in kind  # a norm's kernels are several
    for ran, predicted in zip(listener.passes, (found.backward(host), found.fused_backward(whole))):
        more = Counter(map(figures, predicted))
        more.subtract(Counter(ran))
        # beyond rules: sums of two gradients that come to one value, by the engine; passes of rules over raw arrays;
        # the classes that cross entropy reads again, where they are no operand
        sums = {figures(cost("Add", [v.array] * 2, [v.array])) for s in found.steps for v in s.wants()}
        assert all(n >= 0 for x, n in more.items() if kind != "cross entropy"), more
        if kind != "cross entropy" and "logsumexp" not in str(options):
            assert {x for x, n in more.items() if n and x[1]} <= sums  # zeros that are written are no operator either
    assert len(listener.passes) >= 2


def gelu_of(n):
    x = tt.ones(3, n, requires_grad=True)
    y = x * 1
    return lambda: y * 0.5 * (1 + tt.erf(y / 2 ** 0.5))


@pytest.mark.parametrize("width", [8, 9])
def test_the_backward_of_a_chain_by_hand(width):
    found = only(fusion(gelu_of(width)))
    n = 4 * 3 * width
    # the last product: two; 1 + erf: none; erf: x x (2 + 1 arrays), -, exp, times a number (2 each), times the gradient
    # (3); y / sqrt(2) (2); 0.5 y (2); and what comes to y on both ways is added (3)
    assert found["backward"]["now"]["bytes"] == n * (2 * 3 + 3 + 2 * 3 + 3 + 2 + 2 + 3)
    assert found["backward"]["now"]["launches"] == 2 + 5 + 1 + 1 + 1
    # the kernel reads the gradient and x and writes one
    assert found["use"] == "F.gelu(x)" and found["backward"]["fused"]["bytes"] == 3 * n
    assert found["backward"]["fused"]["flops"] == 11 * 3 * width and found["backward"]["fused"]["launches"] == 1
    # kept: y / sqrt(2) for erf, both factors of the last product; fused: y alone
    assert found["saved"] == {"now": 3 * n, "fused": n}


@pytest.mark.parametrize("width", [16, 17])
def test_the_backward_of_a_norm_and_a_softmax_by_hand(width):
    rows = 5
    x, w, b = (tt.ones(*s, requires_grad=True) for s in ((rows, width), (width,), (width,)))
    h = x * 1
    array, row, each = 4 * rows * width, 4 * width, 4 * rows

    def norm():
        mean = h.mean(-1, keepdim=True)
        return (h - mean) / (((h - mean) ** 2).mean(-1, keepdim=True) + 1e-5).sqrt() * w + b

    found = only(fusion(norm))
    # gradient, x, weight, mean and 1 / deviation are read, three gradients are written
    more, sums = parts_of_a_norm(rows, width)
    assert found["backward"]["fused"]["bytes"] == 3 * array + 3 * row + 2 * each + more
    assert found["backward"]["fused"]["launches"] == 1 + sums
    assert found["saved"]["fused"] == array + 2 * each  # x, mean, 1 / deviation; the weight is there anyway
    found = only(fusion(lambda: written_softmax(h)))
    assert found["backward"]["fused"]["bytes"] == 3 * array and found["saved"]["fused"] == array  # of the result
    found = only(fusion(lambda: F.silu(h) * x))
    assert found["use"] == "F.swiglu(a, b)" and found["backward"]["fused"]["bytes"] == 5 * array
    found = only(fusion(lambda: F.nll_loss(F.log_softmax(h, -1), tt.zeros(rows).long())))
    # the mean's gradient times 1 / rows (2 numbers); that, x, the sums of rows and classes read, one written
    assert found["backward"]["fused"]["bytes"] == 2 * 4 + 4 + 2 * array + each + 8 * rows
    assert found["saved"]["fused"] == array + each


def test_one_width_changes_exactly_its_figures_of_the_backward():
    a, b = (only(fusion(gelu_of(n))) for n in (30, 31))
    c = fusion(gelu_of(30)).data["ceiling"]
    for way, arrays in (("now", 25), ("fused", 3)):
        x, y = (f["backward"][way] for f in (a, b))
        assert y["bytes"] - x["bytes"] == 4 * 3 * arrays and y["launches"] == x["launches"]
        assert y["seconds"] - x["seconds"] == pytest.approx(4 * 3 * arrays / c["bandwidth"], rel=1e-6)
    assert b["saved"]["now"] - a["saved"]["now"] == 3 * 4 * 3 and b["saved"]["fused"] - a["saved"]["fused"] == 4 * 3


def test_saved_bytes_are_those_of_the_nodes(rng):
    x = randn(rng, 4, 6)
    with look.record():
        h = x * 3
        out = (h.exp() * h.sin()).tanh()
    found = only(fusion(out))
    nodes, seen = [out.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, Operator):
            seen |= {(s.memory, s.held) for s in saved_of(node) if not s.leaf}
            nodes += [e[0] if isinstance(e, tuple) else e for e in node.edges if e is not None]
    # exp, the product's other factor, what sin was given, the result: 4 arrays
    assert found["saved"]["now"] == sum(size for _, size in seen) == 4 * 4 * 24
    out.sum().backward()
    assert only(fusion(out))["saved"]["now"] == 4 * 4 * 24  # noted when it ran
    y = (x * 3).exp().tanh()
    y.sum().backward()
    view = fusion(y)  # not recorded, and freed
    assert only(view)["saved"]["now"] is None and "kept for backward, beside leaves: freed" in str(view)


def test_without_gradients_there_is_no_backward(rng, quick):
    x = randn(rng, 6, 8)

    def chain():
        return x * tt.sigmoid(x)

    def no_grad():
        with tt.no_grad():
            return chain()

    constant = x.detach()
    for run in (no_grad, lambda: chain().detach(), lambda: constant * tt.sigmoid(constant)):
        for measured in (False, True):
            view = fusion(run, measure=measured)
            found = only(view)
            assert found["backward"] is found["both"] is found["saved"] is view.data["total"]["backward"] is None
            text = " ".join(str(view).split())
            assert "forward only: no gradient goes through what was found" in text
            assert "backward: " not in text and "both: " not in text and "kept for" not in text
    for run in (chain, lambda: chain().sum().backward()):
        view = fusion(run)
        assert only(view)["backward"] is not None and "forward only" not in str(view)


def test_a_gradient_that_goes_nowhere_is_not_counted(rng):
    x = randn(rng, 6, 8)

    def counted(detached):
        def run():
            scale = (x * 2).exp()
            return (x * 3).sin() * (scale.detach() if detached else scale)

        return fusion(run).data

    one, both = counted(True), counted(False)
    assert one["total"]["backward"]["launches"] == 2 + 1 + 1  # cos and a product, times 3, times the detached factor
    assert both["total"]["backward"]["launches"] == 4 + 1 + 1 + 1 + 1  # the other factor, exp, times 2, and a sum at x


@pytest.mark.parametrize("factor, recommended", [(2.0, True), (1.04, False), (0.5, False)])
def test_what_gains_nothing_is_not_recommended(factor, recommended, rng, quick, monkeypatch):
    x = randn(rng, 6, 8)
    monkeypatch.setattr(fusion_gain, "_in_turn", lambda *args: (factor * 1e-3, 1e-3))
    view = fusion(lambda: x * tt.sigmoid(x), measure=True)
    found, text = only(view), " ".join(str(view).split())
    assert found["recommended"] is recommended and (view.data["total"]["gain"] > 0) is recommended
    for side in (found, found["backward"], found["both"]):
        assert side["measured"]["speedup"] == pytest.approx(factor)
    assert ("use F.silu(x)" in text) is recommended
    assert (f"leave it: no gain measured, {factor:.2g}x (F.silu(x))" in text) is not recommended
    assert ("no gain here, leave as they are: 1" in text) is not recommended
    if not view.data["ceiling"]["gpu"]:
        assert "many gain nothing here" in text


def test_what_is_predicted_to_gain_nothing_is_not_recommended(rng):
    x, w, b = randn(rng, 6, 4), randn(rng, 4, 7), randn(rng, 7)
    view = fusion(lambda: x @ w + b)
    if view.data["ceiling"]["device"] == "cpu":
        assert only(view)["recommended"] is False and view.data["total"]["gain"] == 0
        assert "leave it: no gain predicted (tt.addmm(bias, x, w))" in str(view)


def test_a_rule_that_is_not_known_is_named():
    z = tt.tensor(np.ones((3, 4), "c8"), requires_grad=True)
    view = fusion(lambda: (z * 2).exp())
    found = only(view)
    assert found["backward"] is None and found["saved"]["now"] == 8 * 12
    assert "the gradient rule of Exp is not known: forward only" in found["notes"]
    assert view.data["total"]["unknown"] == ["Exp"]


# chains of products


def brute(sizes):
    """The least operations over all bracketings."""
    if len(sizes) == 2:
        return 0
    return min(brute(sizes[:k + 1]) + brute(sizes[k:]) + 2 * sizes[0] * sizes[k] * sizes[-1]
               for k in range(1, len(sizes) - 1))


def test_the_cheapest_order_against_all_orders(rng):
    for n in (3, 4, 5, 6):
        for _ in range(5):
            sizes = [int(s) for s in rng.integers(1, 30, n + 1)]
            assert cheapest(sizes)[0] == brute(sizes)


def test_product_chains(rng, quick):
    a, b, c, d = randn(rng, 3, 20), randn(rng, 20, 2), randn(rng, 2, 20), randn(rng, 20, 4)
    found = only(fusion(lambda: a @ b @ c @ d, measure=True))
    assert found["kind"] == "matmul chain" and found["use"] == "tt.linalg.multi_dot([A, B, C, D])"
    assert found["now"]["flops"] == 2 * (3 * 20 * 2 + 3 * 2 * 20 + 3 * 20 * 4)
    assert found["fused"]["flops"] == brute([3, 20, 2, 20, 4]) == 2 * (3 * 20 * 2 + 2 * 20 * 4 + 3 * 2 * 4)
    assert "(A B) (C D)" in found["notes"][0] and found["measured"]["agrees"]
    assert fusion(lambda: (a @ b) @ (c @ d)).data["findings"] == []  # as cheap as can be

    def used():  # a part is needed on its own
        part = a @ b @ c
        return part @ d, part

    assert fusion(used).data["findings"] == []


def test_other_ways_to_write_them(rng, quick):
    q = randn(rng, 2, 3, 8, 4)

    def einsum():
        scores = tt.einsum("bhid,bhjd->bhij", q, q) / 2
        return tt.einsum("bhij,bhjd->bhid", scores.softmax(-1), q)

    found = only(fusion(einsum, measure=True))
    assert found["kind"] == "attention" and found["measured"]["agrees"]
    with look.record():
        out = einsum()
    assert only(fusion(out))["kind"] == "attention"
    x = randn(rng, 6, 8)
    assert only(fusion(lambda: x * 0.5 * (1 + tt.erf(x / 1.41421))))["use"] == "F.gelu(x)"
    # of numbers that are not there, or too few to tell, nothing is said
    assert only(fusion(lambda: (tt.zeros(0, 3) + 1).exp()))["use"] is None
    assert only(fusion(lambda: tt.ones(1).neg().neg()))["use"] is None
    y = randn(rng, 6, 8)
    for gated in (lambda: F.silu(x) * y.exp(), lambda: y.exp() * F.silu(x)):
        found = only(fusion(gated, measure=True))  # the other factor is what it may be
        assert (found["operators"], found["use"]) == (["SiLU", "Mul"], "F.swiglu(a, b)")
        assert found["measured"]["agrees"]
    parts = fusion(lambda: (F.silu(x) * y * 0.5).sin()).data["findings"]
    assert [(f["operators"], f["use"]) for f in parts] == [(["SiLU", "Mul"], "F.swiglu(a, b)"), (["Mul", "Sin"], None)]


def test_a_long_chain_is_one_finding(rng):
    def run():
        y = randn(rng, 4)
        for _ in range(1000):
            y = (y * 1.01).sin()
        return y

    assert only(fusion(run))["operators"] == ["Mul", "Sin"] * 1000


LINEAR = 4 * (6 * 4 + 7 * 4)  # bytes of x and w, and of what they make
OUT = 4 * 6 * 7
BEHIND = {
    "gelu": (F.gelu, "gelu"), "gelu_tanh": (lambda y: F.gelu(y, approximate="tanh"), "gelu_tanh"),
    "relu": (F.relu, "relu"), "silu": (F.silu, "silu"),
    "tanh": (tt.tanh, None), "sigmoid": (tt.sigmoid, None),
}


@pytest.mark.parametrize("how", ["gelu", "gelu_tanh", "relu", "silu"])
@pytest.mark.parametrize("product", ["Linear", "addmm"])
def test_an_activation_behind_a_bias_in_the_product(product, how, rng, quick):
    layer, x = nn.Linear(4, 7), randn(rng, 6, 4)
    activation, curve = BEHIND[how]
    w = layer.weight.T.detach()

    def run():
        return activation(layer(x) if product == "Linear" else tt.addmm(layer.bias, x, w))

    use = f'F.bias_act({"F.linear(x, w)" if product == "Linear" else "x @ w"}, bias, "{curve}")'
    for found in (only(fusion(run, measure=True)), only(fusion(recorded(run)))):
        assert (found["kind"], found["use"]) == ("matmul + bias + activation", use)
        # the bias passes over the product's result: written, read, written; the activation reads and writes
        assert found["now"]["bytes"] == LINEAR + 4 * 7 + 5 * OUT and found["now"]["launches"] == 3
        assert found["fused"]["bytes"] == LINEAR + 4 * 7 + 3 * OUT and found["fused"]["launches"] == 2
        assert found["gain"] > 0
    measured = only(fusion(run, measure=True))["measured"]
    assert measured["agrees"] and measured["now"] > 0 and measured["fused"] > 0
    given = {"F": F, "x": x, "w": layer.weight if product == "Linear" else w, "bias": layer.bias}
    made, wanted = (t.detach().cpu().numpy() for t in (eval(use, given), run()))  # the call as it is written
    np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-6)


def test_activations_written_out_and_others_behind_a_bias(rng, quick):
    layer, x = nn.Linear(4, 7), randn(rng, 6, 4)
    for how in ("tanh", "sigmoid"):  # bias_act has none of them
        found = only(fusion(lambda how=how: BEHIND[how][0](layer(x)), measure=True))
        assert found["kind"] == "matmul + bias + activation" and found["use"] is found["measured"] is None
        assert found["fused"]["bytes"] == LINEAR + 4 * 7 + 3 * OUT and found["fused"]["launches"] == 2
        assert "bias_act has gelu, gelu_tanh, relu, silu" in " ".join(found["notes"])
    with pytest.raises(ValueError, match="must be one of gelu, gelu_tanh, relu, silu"):
        F.bias_act(x, layer.bias, "tanh")
    i = tt.arange(16).reshape(4, 4)
    assert fusion(lambda: F.linear(i, i, i[0]).relu()).data["findings"] == []  # of integers bias_act makes floats
    # what follows the activation stays alone, where it is one operator
    found = only(fusion(lambda: F.dropout(F.gelu(layer(x)), 0.5), measure=True))
    assert (found["operators"], found["use"]) == (["Linear", "GELU"], 'F.bias_act(F.linear(x, w), bias, "gelu")')
    assert found["measured"]["agrees"]
    assert only(fusion(lambda: (F.gelu(layer(x)) * 2).sin()))["operators"] == ["GELU", "Mul", "Sin"]
    # a bias that bias_act does not take, and one that is scaled
    c, w = randn(rng, 6, 7), randn(rng, 4, 7)
    for run in (lambda: F.gelu(tt.addmm(c, x, w)), lambda: F.gelu(tt.addmm(layer.bias, x, w, beta=2)),
                lambda: F.gelu(tt.addmm(layer.bias, x, w, alpha=2))):
        assert not any("bias_act" in (f["use"] or "") for f in fusion(run).data["findings"])


def test_a_bias_beside_the_product_gains_nothing_inside_of_it(rng, quick):
    """backend/gemm.py passes over the result for the bias as the sum does."""
    for shape in ((6, 4, 7), (60, 400, 70), (200, 3, 200)):
        x, w, b = randn(rng, *shape[:2]), randn(rng, *shape[1:]), randn(rng, shape[2])
        for run in (lambda x=x, w=w, b=b: x @ w + b, lambda x=x, w=w, b=b: F.linear(x, w.T) + b):
            view = fusion(run)
            found, c = only(view), view.data["ceiling"]
            assert found["kind"] == "matmul + bias" and found["now"]["bytes"] == found["fused"]["bytes"]
            assert found["now"]["launches"] == found["fused"]["launches"] == 2
            # on a device the product may read what the bias was written into while it multiplies
            hidden = 0 if c["device"] == "cpu" else 4 * shape[0] * shape[2] / c["bandwidth"]
            assert -1e-12 <= found["gain"] <= hidden + 1e-12
            assert any("a pass over the result" in note for note in found["notes"])


# loops of updates


def test_an_optimizer_written_as_a_loop(rng, quick):
    params = [randn(rng, 4, 3), randn(rng, 3), randn(rng, 5)]
    for p in params:
        p.grad = tt.ones_like(p)
    before = [p.detach().cpu().numpy().copy() for p in params]

    def step():
        with tt.no_grad():
            for p in params:
                p -= 0.5 * p.grad

    view = fusion(step, measure=True)
    found = only(view)
    assert "(Mul, Sub) ×3" in str(view)
    n = 12 + 3 + 5
    assert found["kind"] == "update loop" and found["use"] == "tt.optim.SGD(parameters, lr=0.5)"
    assert found["operators"] == ["Mul", "Sub"] * 3 and found["measured"]["agrees"]
    # lr * g: read, written; p - that: two read, one written; and written into p: read, written
    assert found["now"]["bytes"] == 4 * n * (2 + 3 + 2) and found["fused"]["bytes"] == 4 * 3 * n
    for p, was in zip(params, before):  # the function ran once; measuring changed copies
        np.testing.assert_allclose(p.detach().cpu().numpy(), was - 0.5, rtol=1e-5, atol=1e-6)

    def by_data():
        for p in params:
            p.data.sub_(p.grad, alpha=0.25)

    assert only(fusion(by_data))["use"] == "tt.optim.SGD(parameters, lr=0.25)"

    class Own(tt.optim.Optimizer):
        def step(self, rates=(0.1, 0.1, 0.1)):
            with tt.no_grad():
                for p, rate in zip(self.param_groups[0]["params"], rates, strict=True):
                    p += rate * p.grad

    own = Own(params, {})
    found = only(fusion(own.step, (-0.1, -0.1, -0.1), measure=True))
    assert found["use"] == "tt.optim.SGD(parameters, lr=0.1)" and found["measured"]["agrees"]
    for rates in ((-0.1, -0.2, -0.1), (0.1, 0.1, 0.1)):  # of each its own; uphill
        assert only(fusion(own.step, rates, measure=True))["use"] == "tt.optim.SGD(parameters)"


LOOPS = {  # (of parameter, gradient and momentum, what is named)
    "momentum": (lambda p, g, b: (b.mul_(0.9).add_(g), p.sub_(b, alpha=0.1)), "lr=0.1, momentum=0.9"),
    "operators": (lambda p, g, b: (b.__imul__(0.8), b.__iadd__(g), p.__isub__(0.3 * b)), "lr=0.3, momentum=0.8"),
    "negative": (lambda p, g, b: (b.mul_(0.9).add_(g), p.add_(b, alpha=-0.1)), "lr=0.1, momentum=0.9"),
    "copied": (lambda p, g, b: (b.copy_(0.9 * b + g), p.copy_(p - b * 0.1)), "lr=0.1, momentum=0.9"),
    "velocity": (lambda p, g, b: (b.mul_(0.75).sub_(g, alpha=0.5), p.add_(b)), "lr=0.5, momentum=0.75"),
    "decay": (lambda p, g, b: (b.mul_(0.9).add_(g + 0.25 * p), p.sub_(b / 8)),
              "lr=0.125, momentum=0.9, weight_decay=0.25"),
    "nesterov": (lambda p, g, b: (b.mul_(0.9).add_(g), p.sub_(g + 0.9 * b, alpha=0.1)),
                 "lr=0.1, momentum=0.9, nesterov=True"),
    "plain decay": (lambda p, g, b: p.sub_(g + p * 1e-4, alpha=0.1), "lr=0.1, weight_decay=0.0001"),
    # what SGD does not do: the momentum before its change, another one, upwards, the gradient twice, a square
    "late": (lambda p, g, b: (p.sub_(b, alpha=0.1), b.mul_(0.9).add_(g)), None),
    "lookahead": (lambda p, g, b: (b.mul_(0.9).add_(g), p.sub_(g + 0.5 * b, alpha=0.1)), None),
    "uphill": (lambda p, g, b: (b.mul_(0.9).add_(g), p.add_(b, alpha=0.1)), None),
    "twice": (lambda p, g, b: (b.mul_(0.9).add_(g), p.sub_(b + g, alpha=0.1)), None),
    "square": (lambda p, g, b: (b.mul_(0.9).add_(g * g), p.sub_(b, alpha=0.1)), None),
    "shrunk": (lambda p, g, b: (b.mul_(0.9).add_(g), p.mul_(0.99).sub_(b, alpha=0.1)), None),
    "endless": (lambda p, g, b: (b.mul_(0.9).add_(g), p.sub_(b, alpha=INF)), None),
}


@pytest.mark.parametrize("how", LOOPS)
def test_momentum_written_as_a_loop_against_pytorch(how, rng, quick, torch):
    update, options = LOOPS[how]
    params, grads = [randn(rng, 4, 3), randn(rng, 3)], [[randn(rng, 4, 3), randn(rng, 3)] for _ in range(4)]
    buffers = [tt.zeros_like(p).detach() for p in params]
    theirs = [torch.tensor(p.detach().cpu().numpy()) for p in params]

    def step(k):
        with tt.no_grad():
            for p, g, b in zip(params, grads[k], buffers, strict=True):
                update(p, g, b)

    found = only(fusion(step, 0, measure=True))
    if options is None:
        assert found["use"] == "tt.optim.SGD(parameters)" and found["measured"] is None
        assert any("constants" in note for note in found["notes"])
        return
    assert found["kind"] == "update loop" and found["use"] == f"tt.optim.SGD(parameters, {options})"
    assert found["measured"]["agrees"] and not any("constants" in note for note in found["notes"])
    step(1)
    found = only(fusion(step, 2, measure=True))  # of a momentum that is not zero
    assert found["measured"]["agrees"] and found["use"] == f"tt.optim.SGD(parameters, {options})"
    step(3)
    optimizer = eval(found["use"], {"tt": torch, "parameters": theirs})
    for given in grads:
        for p, g in zip(theirs, given, strict=True):
            p.grad = torch.tensor(g.detach().cpu().numpy())
        optimizer.step()
    for p, q in zip(params, theirs, strict=True):
        np.testing.assert_allclose(p.detach().cpu().numpy(), q.numpy(), rtol=1e-5, atol=1e-6)
    assert ("divided by -0.5" in str(fusion(step, 2))) == (how == "velocity")


def test_a_loop_of_other_constants_for_each_tensor_is_not_named(rng):
    params = [randn(rng, 4), randn(rng, 5)]
    buffers = [tt.zeros_like(p).detach() for p in params]

    def step():
        with tt.no_grad():
            for p, b, kept in zip(params, buffers, (0.9, 0.8), strict=True):
                b.mul_(kept).add_(p)
                p.sub_(b, alpha=0.1)

    assert only(fusion(step))["use"] == "tt.optim.SGD(parameters)"


def test_a_whole_step_with_an_optimizer_of_ours(rng):
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    optimizer = tt.optim.Adam(model.parameters())
    x = randn(rng, 3, 4)

    def step():
        loss = ((model(x) * 2).exp() + 1).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    found = only(fusion(step))  # the backward and the optimizer are no part of it, nor what they write in place
    assert found["operators"] == ["Tanh", "Mul", "Exp", "Add", "Sum"]

    def written():  # in a backward, where it is the last operator's size
        y = (x * 2).exp()
        handle = y.register_hook(lambda grad: grad.mul_(3))
        y.backward(tt.ones_like(y))
        handle.remove()
        return y

    assert only(fusion(written))["operators"] == ["Mul", "Exp"]

    def twice():
        y = (x * 2).exp().sum()
        return tt.autograd.grad(y, x, create_graph=True)[0]

    assert fusion(twice).data["total"]["steps"] == 3  # those of the backward are no part of it


def test_adam_written_as_a_loop_and_what_is_no_loop(rng):
    params = [randn(rng, 4), randn(rng, 5)]
    state = [(tt.zeros_like(p), tt.zeros_like(p)) for p in params]
    for p in params:
        p.grad = tt.ones_like(p)

    def adam(params=params):
        with tt.no_grad():
            for p, (m, v) in zip(params, state):
                m.mul_(0.9).add_(p.grad * 0.1)
                v.mul_(0.999).add_(p.grad * p.grad * 0.001)
                p -= 1e-3 * m / (v.sqrt() + 1e-8)

    view = fusion(adam, measure=True)
    found = only(view)
    assert found["kind"] == "update loop" and "AdamW" in found["use"] and found["measured"] is None
    assert found["fused"]["bytes"] == 4 * 9 * (4 + 3)  # p, g, m, v read; p, m, v written
    assert "constants" in str(view)
    assert "update loop" not in [f["kind"] for f in fusion(lambda: adam(params[:1])).data["findings"]]


# one finding for each operator, names, repetitions


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.qkv, self.out, self.norm = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim), nn.LayerNorm(dim)
        self.dim = dim

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).split(self.dim, -1)
        y = (q @ k.transpose(-1, -2) / math.sqrt(self.dim)).softmax(-1) @ v
        y = self.out(y)
        return x + y * tt.sigmoid(y)


def transformer(rng, depth=3, dim=8):
    model = nn.Sequential(*[Block(dim) for _ in range(depth)])
    x = randn(rng, 2, 5, dim, grad=False)
    return model, lambda: (model(x) ** 2).mean()


def test_an_operator_belongs_to_one_finding_and_blocks_repeat(rng, quick):
    model, run = transformer(rng)
    view = fusion(run, measure=True)
    steps = [s for f in view.data["findings"] for s in f["steps"]]
    assert len(steps) == len(set(steps))
    found = [f for f in view.data["findings"] if f["kind"] == "attention"]
    assert [f["module"] for f in found] == ["0 (Block)", "1 (Block)", "2 (Block)"]
    assert {f["like"] for f in found} == {found[0]["id"]}
    assert found[0]["measured"] is not None and found[1]["measured"] is None  # one of each is measured
    assert "softmax(-1) @ v" in found[0]["line"]["source"] and found[0]["line"]["file"] == __file__
    assert "attention: Gemm, Div, Softmax, Gemm, 3 times" in str(view)
    with look.record():
        loss = run()
        loss.backward()
    graph = fusion(loss)
    assert kinds(graph) == kinds(view)
    assert [f["module"] for f in graph.data["findings"]] == [f["module"] for f in view.data["findings"]]


def test_one_width_changes_exactly_its_figures(rng):
    def of(dim):
        _, run = transformer(rng, 1, dim)
        return next(f for f in fusion(run).data["findings"] if f["kind"] == "attention")

    a, b = of(8), of(9)
    pairs = 2 * 5 * 5
    assert b["now"]["flops"] - a["now"]["flops"] == 2 * 2 * pairs
    assert b["now"]["bytes"] - a["now"]["bytes"] == 4 * 4 * 2 * 5


def test_without_gradients_and_under_autocast(rng):
    x, y = randn(rng, 6, 8, grad=False), randn(rng, 8, 8)
    assert only(fusion(lambda: x * tt.sigmoid(x)))["use"] == "F.silu(x)"

    def run():
        with tt.amp.autocast(x.device.type, dtype=tt.bfloat16):
            return ((x @ y) * 2).relu()

    found = only(fusion(run))
    assert found["operators"] == ["Mul", "ReLU"] and found["reads"] == ["bf16[6,8]"]


@pytest.mark.parametrize("dtype", [tt.float16, tt.bfloat16], ids=["float16", "bfloat16"])
def test_in_half_types_with_float32_between(dtype, rng, quick):
    q, k, v = (randn(rng, 2, 6, 8) for _ in range(3))

    def attend():
        with tt.amp.autocast(q.device.type, dtype=dtype):
            a, b, c = (x * 1 for x in (q, k, v))
            return F.dropout(((a @ b.transpose(1, 2)) / math.sqrt(8)).softmax(-1), 0.2) @ c

    found = next(f for f in fusion(attend, measure=True).data["findings"] if f["kind"] == "attention")
    assert found["use"] == "F.scaled_dot_product_attention(q, k, v, dropout_p=0.2)"
    assert found["measured"]["agrees"] and "Cast" in found["operators"]
    x, w = randn(rng, 5, 8).detach().to(dtype), randn(rng, 8).detach().to(dtype)

    def norm():  # as language models write it
        h = x.float()
        return w * (h * tt.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)).to(dtype)

    found = only(fusion(norm, measure=True))
    assert found["use"] == "F.rms_norm(x, (8,), weight, eps=1e-06)" and found["measured"]["agrees"]
    assert found["operators"] == ["Cast", "Pow", "Mean", "Add", "Rsqrt", "Mul", "Cast", "Mul"]
    assert found["fused"]["bytes"] == 2 * (40 + 8 + 40)


def test_a_module_with_its_batch(rng):
    model, _ = transformer(rng, 1)
    x = randn(rng, 2, 5, 8, grad=False)
    assert [f["kind"] for f in fusion(model, x).data["findings"]][0] == "attention"


# what stays, errors


def test_nothing_stays_on_the_lower_floors(rng):
    before = Operator.__dict__["apply"], dict(module_hooks.__dict__), modes.recorder, modes.anomaly

    def bad():
        (randn(rng, 3) * 2).exp()
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fusion(bad)
    x = randn(rng, 300)
    gone = []

    def run():
        h = (x * 2).exp()
        gone.append(weakref.ref(h))
        return h.sum()

    view = fusion(run)
    gc.collect()
    assert gone[0]() is None and view.data["findings"]
    assert before == (Operator.__dict__["apply"], dict(module_hooks.__dict__), modes.recorder, modes.anomaly)
    out = (x * 2).exp()
    assert out.grad_fn.hooks is None and out.grad_fn.trace is None


def test_errors(rng):
    x = randn(rng, 3)
    for what, error, words in [
        (3, TypeError, "a list of them, or a function, got int"), (tt.ones(3), ValueError, "no graph"),
        (x, ValueError, "leaf"), ([], ValueError, "empty"), (lambda: 3, ValueError, "no operator"),
    ]:
        with pytest.raises(error, match=re.escape(words)):
            fusion(what)
    with pytest.raises(ValueError, match="give a function"):
        fusion(x * 2, measure=True)
    with pytest.raises(TypeError, match="1 argument given beside a Tensor"):
        fusion(x * 2, x)


def test_a_graph_that_was_not_recorded_says_what_is_missing(rng):
    x = randn(rng, 3)
    view = fusion((x * x).exp().sin())
    assert only(view)["operators"] == ["Mul", "Exp", "Sin"] and only(view)["line"] is None
    assert any("look.record()" in m for m in view.data["missing"])
    layer, given = nn.Linear(3, 3), randn(rng, 2, 3, grad=False)
    w = randn(rng, 3, 3)
    for run in (lambda: F.gelu(layer(given)), lambda: F.gelu(given @ w), lambda: tt.addmm(w[0], given, w).relu()):
        assert fusion(run()).data["findings"] == []  # an operand of the product is not known
        assert len(fusion(recorded(run)).data["findings"]) == 1


# text, pages, files


@pytest.mark.parametrize("width", [60, 80, 200])
def test_text_fits_its_width(width, rng, quick):
    _, run = transformer(rng)
    out = io.StringIO()
    view = fusion(run, measure=True)
    view.print(file=out, width=width)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(out.getvalue().split())
    for words in ("ceilings of", "attention", "F.scaled_dot_product_attention", "total:", "predicted", "measured",
                  "measured, one of each, backward:", "forward: ", "backward: ", "both: ", "kept for backward",
                  "gradients differ by at most", "forward and backward together"):
        assert words in text
    heads = next(line for line in lines if line.lstrip().startswith("found"))
    assert "gain" in heads and "measured" in heads  # which stay where the width is short
    if not view.data["ceiling"]["gpu"]:
        assert "no GPU's" in text


def test_other_encodings_and_files(rng, tmp_path, quick):
    _, run = transformer(rng)
    view = fusion(run, measure=True)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    view.print(file=stream)
    stream.flush()
    assert stream.buffer.getvalue().decode("ascii")
    page = view.save(tmp_path / "f.html").read_text(encoding="utf-8")
    assert "http" not in page.replace("http://www.w3.org", "") and "attention" in page and "</html>" in page
    svg = view.save(tmp_path / "f.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(svg)
    data = json.loads(view.save(tmp_path / "f.json").read_text(encoding="utf-8"))
    assert data["view"] == "fusion" and len(data["findings"]) == len(view.data["findings"])
    assert repr(view).startswith("<look.fusion: ") and "findings in" in repr(view)
    assert view._repr_html_().startswith("<iframe")


def test_random_chains_move_what_they_must(rng):
    """Chains of random lengths: bytes by formula, and what is broken in two is two."""
    names = ["sin", "exp", "abs", "tanh", "neg"]
    for _ in range(5):
        n, size, cut = int(rng.integers(3, 9)), int(rng.integers(1, 50)), int(rng.integers(2, 5))
        chosen = [names[i] for i in rng.integers(0, len(names), n)]
        x = tt.ones(size, requires_grad=True)

        def run(cut=None, chosen=chosen, x=x):
            y, kept = x, []
            for i, name in enumerate(chosen):
                y = getattr(y, name)()
                if i + 1 == cut:
                    kept.append(y)
            return y, kept

        found = fusion(run).data["findings"]
        assert sum(f["now"]["bytes"] for f in found) == n * 8 * size
        parts = fusion(run, cut).data["findings"]
        lengths = [k for k in (min(cut, n), n - cut) if k > 1]
        assert [len(f["operators"]) for f in parts] == lengths
        assert all(f["fused"]["bytes"] == 8 * size for f in (*found, *parts))


