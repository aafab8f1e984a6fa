"""Costs of operators against PyTorch's counter and counts by hand; ceilings are measured once and kept."""
from __future__ import annotations

import math

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import look
from tinytorch_gpu.autograd.node import REGISTRY
from tinytorch_gpu.backend import gemm
from tinytorch_gpu.look.cost import ceiling as ceilings
from tinytorch_gpu.look.cost.backward import backward_cost
from tinytorch_gpu.look.cost.ceiling import ceiling
from tinytorch_gpu.look.cost.cost import Cost, cost, launches
from tinytorch_gpu.look.recorder import note_of
from tinytorch_gpu.nn import functional as F

F32 = "float32"


def applied(run):
    """[(name, inputs, outputs)] of the operators that `run()` records."""
    class Watcher:
        def operator(self, node, note, args, outs):
            found.append((node.name(), note.inputs, [(str(o.dtype), o.shape) for o in outs]))

    found: list = []
    watcher = Watcher()
    look.record.watch(watcher)
    try:
        with look.record():
            run()
    finally:
        look.record.unwatch(watcher)
    return [(type_of(name), i, [(F32 if "f4" in d or "float32" in d else d, s) for d, s in o]) for name, i, o in found]


def type_of(name):
    return "Conv" if name.startswith("Conv") else name


def randn(rng, *shape):
    return tt.tensor(rng.standard_normal(shape).astype("f4"), requires_grad=True)


def counted(torch, run, *shapes):
    """FLOPs of forward and of backward, as PyTorch counts the products."""
    from torch.utils.flop_counter import FlopCounterMode

    tensors = [torch.randn(s, requires_grad=True) for s in shapes]
    with FlopCounterMode(display=False) as forward:
        out = run(torch, *tensors)
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


def of_products(run):
    rows = applied(run)
    return (sum(cost(*row).products for row in rows), sum(backward_cost(*row).products for row in rows))


def test_products_against_pytorch(torch, rng):
    for _ in range(5):
        b, m, k, n = map(int, rng.integers(1, 9, 4))
        x, y, w, bias = randn(rng, b, m, k), randn(rng, b, k, n), randn(rng, n, k), randn(rng, n)
        assert of_products(lambda: x @ y) == counted(torch, lambda t, x, y: x @ y, x.shape, y.shape)
        assert of_products(lambda: x @ w.T) == counted(torch, lambda t, x, w: x @ w.T, x.shape, w.shape)
        assert of_products(lambda: F.linear(x, w, bias)) == counted(
            torch, lambda t, x, w, b: t.nn.functional.linear(x, w, b), x.shape, w.shape, bias.shape)
        u, v, c = randn(rng, m, k), randn(rng, k, n), randn(rng, m, n)
        assert of_products(lambda: tt.addmm(c, u, v)) == counted(
            torch, lambda t, c, u, v: t.addmm(c, u, v), c.shape, u.shape, v.shape)


def test_convolution_against_pytorch(torch, rng):
    for space in (1, 2):
        for groups in (1, 2):
            n, c, o, k = (int(v) for v in rng.integers(1, 4, 4))
            x = randn(rng, n, c * groups, *([9] * space))
            w, bias = randn(rng, o * groups, c, *([k] * space)), randn(rng, o * groups)
            args = dict(stride=int(rng.integers(1, 3)), padding=int(rng.integers(0, 2)), groups=groups)
            name = f"conv{space}d"
            ours = of_products(lambda: getattr(F, name)(x, w, bias, **args))
            theirs = counted(torch, lambda t, x, w, b: getattr(t.nn.functional, name)(x, w, b, **args), x.shape,
                             w.shape, bias.shape)
            assert ours[0] == theirs[0]
            if groups == 1:  # PyTorch counts the weight's gradient of groups as if all channels met all others
                assert ours == theirs
            else:
                assert ours[1] == 2 * theirs[0]


def test_attention_against_pytorch(torch, rng):
    b, h, t, s, d, e = map(int, rng.integers(1, 7, 6))
    q, k, v = randn(rng, b, h, t, d), randn(rng, b, h, s, d), randn(rng, b, h, s, e)

    def composed(torch, q, k, v):
        return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(d), -1) @ v

    assert of_products(lambda: F.scaled_dot_product_attention(q, k, v)) == counted(
        torch, composed, q.shape, k.shape, v.shape)


def test_convolution_adjoints_cost_what_the_forward_costs():
    x, w, y = (F32, (3, 4, 8, 8)), (F32, (6, 4, 3, 3)), (F32, (3, 6, 6, 6))
    forward = 2 * 3 * 6 * 36 * 4 * 9
    assert cost("Conv", [x, w, None], [y]).flops == forward
    assert cost("ConvInput", [y, w], [x]).flops == forward
    assert cost("ConvWeight", [x, y], [w]).flops == forward


def test_backward_counts_only_what_is_wanted():
    x, w, b, y = (F32, (32, 10)), (F32, (7, 10)), (F32, (7,)), (F32, (32, 7))
    both = backward_cost("Linear", [x, w, b], [y])
    assert both.products == 2 * 2 * 32 * 10 * 7
    assert both.flops == both.products + 32 * 7  # the bias's sum
    one = backward_cost("Linear", [x, w, b], [y], needs=[False, True, False])
    assert one.flops == one.products == 2 * 32 * 10 * 7
    assert (one.read, one.written) == (4 * (32 * 7 + 32 * 10), 4 * 70)
    assert backward_cost("Linear", [x, w, b], [y], needs=[False] * 3).flops == 0


@pytest.mark.parametrize("name, inputs, outputs, params, flops, read, written", [
    ("Add", [(F32, (8, 6)), (F32, (6,))], [(F32, (8, 6))], {}, 48, 4 * 54, 4 * 48),
    ("Mul", [(F32, (8, 6)), "2.0"], [(F32, (8, 6))], {}, 48, 4 * 48, 4 * 48),
    ("Add", [("float16", (8, 6)), (F32, (8, 6))], [(F32, (8, 6))], {}, 48, 6 * 48, 4 * 48),
    ("Mul", [("complex64", (5,)), ("complex64", (5,))], [("complex64", (5,))], {}, 30, 80, 40),
    ("Gemm", [("complex64", (2, 3)), ("complex64", (3, 4))], [("complex64", (2, 4))], {}, 8 * 24, 8 * 18, 64),
    ("Gemm", [(F32, (5, 2)), (F32, (5, 4))], [(F32, (2, 4))], {"ta": True}, 80, 120, 32),
    ("Gemm", [(F32, (0, 5)), (F32, (5, 4))], [(F32, (0, 4))], {}, 0, 80, 0),
    ("Gemm", [(F32, (2, 0)), (F32, (0, 4))], [(F32, (2, 4))], {}, 0, 0, 32),
    ("Gemm", [None, (F32, (5, 4))], [(F32, (2, 4))], {}, 80, 80, 32),  # of a graph without a record
    ("Gemm", [None, None], [(F32, (2, 4))], {}, None, 0, 32),
    ("Linear", [None, (F32, (4, 5)), None], [(F32, (2, 4))], {}, 80, 80, 32),
    ("AddMm", [(F32, (4,)), None, (F32, (5, 4))], [(F32, (2, 4))], {}, 80 + 8, 80 + 16 + 32, 64),
    ("Gelu", [(F32, (3,))], [(F32, (3,))], {}, None, None, None),
    ("GELU", [(F32, (3, 2))], [(F32, (3, 2))], {}, 30, 24, 24),
    ("BiasAct", [(F32, (3, 2)), (F32, (2,))], [(F32, (3, 2))], {"curve": "silu"}, 36, 32, 24),
    ("BiasAct", [(F32, (3, 2)), (F32, (2,))], [(F32, (3, 2))], {}, None, 32, 24),
    ("Sum", [(F32, (3, 7))], [(F32, (3,))], {}, 21, 84, 12),
    ("SumToSize", [(F32, (3, 7))], [(F32, (3, 7))], {}, 0, 0, 0),
    ("Var", [(F32, (3, 7))], [(F32, ())], {}, 84, 84, 4),
    ("MSELoss", [(F32, (3, 7)), (F32, (3, 7))], [(F32, ())], {}, 63, 168, 4),
    ("MSELoss", [(F32, (3, 7)), (F32, (3, 7))], [(F32, (3, 7))], {}, 42, 168, 84),
    ("Softmax", [("bfloat16", (3, 7))], [("bfloat16", (3, 7))], {"dim": 1}, 105, 42, 42),
    ("LayerNorm", [(F32, (9, 4)), (F32, (4,)), (F32, (4,))], [(F32, (9, 4))], {}, 7 * 36, 4 * 44, 144),
    ("RMSNorm", [(F32, (9, 4)), None, None], [(F32, (9, 4))], {}, 3 * 36, 144, 144),
    ("AddLayerNorm", [(F32, (9, 4)), (F32, (9, 4)), None, None], [(F32, (9, 4)), (F32, (9, 4))], {}, 6 * 36, 288, 288),
    ("NormalizeBackward", [(F32, (9, 4)), (F32, (9, 4))], [(F32, (9, 4))], {}, None, 288, 144),
    ("CrossEntropy", [(F32, (5, 10)), ("int64", (5,)), None], [(F32, ())], {}, 200, 240, 4),
    ("NLLLoss", [(F32, (5, 10)), ("int64", (5,)), None], [(F32, ())], {}, 10, 60, 4),
    ("Embedding", [(F32, (100, 8))], [(F32, (6, 8))], {"index": np.zeros(6, "i8")}, 0, 6 * 32 + 48, 6 * 32),
    ("EmbeddingBackward", [(F32, (6, 8))], [(F32, (100, 8))], {"index": np.zeros(6, "i8")}, 48, 192 + 48, 3200),
    ("Reshape", [(F32, (6, 8))], [(F32, (48,))], {}, 0, 0, 0),
    ("Split", [(F32, (6, 8))], [(F32, (3, 8)), (F32, (3, 8))], {}, 0, 0, 0),
    ("Cast", [(F32, (6,))], [("float16", (6,))], {}, 0, 24, 12),
    ("Cat", [(F32, (6,)), (F32, (3,))], [(F32, (9,))], {"dim": 0}, 0, 36, 36),
    ("MaxPool", [(F32, (1, 2, 4, 4))], [(F32, (1, 2, 2, 2))], {}, None, 128, 32),
    ("Sort", [(F32, (7,))], [(F32, (7,)), ("int64", (7,))], {}, None, 28, 84),
    ("LinalgInv", [("float64", (2, 3, 3))], [("float64", (2, 3, 3))], {}, 2 * 2 * 27, 144, 144),
    ("LinalgSolve", [("float64", (3, 3)), ("float64", (3, 2))], [("float64", (3, 2))], {}, 18 + 36, 120, 48),
    ("Rotary", [(F32, (2, 5, 8)), (F32, (5, 2)), (F32, (5, 2))], [(F32, (2, 5, 8))], {}, 3 * 40, 320 + 80, 320),
    ("NotAnOperator", [(F32, (3,))], [(F32, (3,))], {}, None, None, None),
])
def test_counts_by_hand(name, inputs, outputs, params, flops, read, written):
    found = cost(name, inputs, outputs, params)
    assert (found.flops, found.read, found.written) == (flops, read, written)
    assert found.bytes == (None if read is None else read + written)
    assert found.intensity == (flops / (read + written) if flops is not None and read + written else None)


def test_attention_counts_the_scores_that_pass_through_memory():
    q, k, v = (F32, (2, 3, 10, 8)), (F32, (2, 3, 12, 8)), (F32, (2, 3, 12, 4))
    out, probs = (F32, (2, 3, 10, 4)), (F32, (2, 3, 10, 12))
    pairs = 2 * 3 * 10 * 12
    found = cost("Attention", [q, k, v, None], [out, probs])
    assert found.products == 2 * pairs * (8 + 4) and found.flops == found.products + 6 * pairs
    arrays = 4 * 6 * (10 * 8 + 12 * 8 + 12 * 4 + 10 * 4)
    assert found.bytes == arrays + 4 * 4 * pairs  # scores written and read, probabilities written and read
    dropped = cost("Attention", [q, k, v, None], [out, probs], {"p": 0.1})
    assert dropped.bytes == found.bytes + 2 * 4 * pairs
    half = [("float16", s) for _, s in (q, k, v)], [("float16", s) for _, s in (out, probs)]
    assert cost("Attention", *half).bytes == arrays // 2 + 2 * (4 + 2) * pairs  # the scores stay float32


def test_one_width_changes_exactly_its_figures():
    def of(width):
        return cost("Linear", [(F32, (16, 32)), (F32, (width, 32)), (F32, (width,))], [(F32, (16, width))])

    a, b = of(10), of(11)
    assert b.products - a.products == 2 * 16 * 32
    assert b.flops - a.flops == 2 * 16 * 32 + 16
    assert b.read - a.read == 4 * (32 + 1 + 16)  # the weight's row, its bias, and what that was written into
    assert b.written - a.written == 4 * 2 * 16


def test_a_bias_takes_a_pass_of_its_own_over_the_result(rng, monkeypatch):
    """As often as the product's memory is really written before and after it, on a device and on the CPU."""
    x, w, b, c = randn(rng, 5, 3), randn(rng, 4, 3), randn(rng, 4), randn(rng, 5, 4)
    passes = []

    class Counted(np.ndarray):
        def __iadd__(self, other):
            passes.append(("added", np.shape(other)))
            return np.add(self, other, out=self)

    folded, product = gemm._folded, gemm.cublas.product
    monkeypatch.setattr(gemm, "_folded", lambda *args: folded(*args).view(Counted))

    def counted(backend, a, b, out, alpha=1, beta=0):
        if beta:
            passes.append(("copied", out.shape))
        product(backend, a, b, out, alpha, beta)

    monkeypatch.setattr(gemm.cublas, "product", counted)
    host = x.device.type == "cpu"
    shapes = [(F32, (5, 3)), (F32, (4, 3)), (F32, (4,))]
    turned, whole, out = (F32, (3, 4)), (F32, (5, 4)), (F32, (5, 4))
    for run, name, given, params, moved in (
            (lambda: F.linear(x, w, b), "Linear", shapes, {}, 4 * (5 * 3 + 4 * 3 + 4 + 3 * 5 * 4)),
            (lambda: F.linear(x, w), "Linear", [*shapes[:2], None], {}, 4 * (5 * 3 + 4 * 3 + 5 * 4)),
            (lambda: tt.addmm(b, x, w.T), "AddMm", [shapes[2], shapes[0], turned], {"beta": 1, "alpha": 1},
             4 * (5 * 3 + 4 * 3 + 4 + 3 * 5 * 4)),
            (lambda: tt.addmm(c, x, w.T, beta=2), "AddMm", [whole, shapes[0], turned], {"beta": 2, "alpha": 1},
             4 * (5 * 3 + 4 * 3 + 4 * 5 * 4)),
            (lambda: tt.addmm(c, x, w.T, beta=0), "AddMm", [whole, shapes[0], turned], {"beta": 0, "alpha": 1},
             4 * (5 * 3 + 4 * 3 + 5 * 4))):
        passes.clear()
        with tt.no_grad():
            run()
        found = cost(name, given, [out], params)
        parts = launches(found, name, given, [out], params, host=host)
        assert len(parts) == 1 + len(passes) and found.bytes == moved
        assert [(p.family == "copy", p.family == "elementwise") for p in parts if p.family != "products"] == [
            (kind == "copied", kind == "added") for kind, _ in passes]
        assert sum(p.bytes for p in parts) == found.bytes and sum(p.flops for p in parts) == found.flops
        assert sum(p.products for p in parts) == found.products == 2 * 5 * 3 * 4
    view = cost("Reshape", [out], [(F32, (20,))])
    assert launches(view, "Reshape", [out], [(F32, (20,))], host=host) == []


def test_sums_of_costs_and_what_is_unknown_in_them():
    add = cost("Add", [(F32, (4,)), (F32, (4,))], [(F32, (4,))])
    assert add + add == Cost("elementwise", 8.0, 64, 32)
    assert (add + cost("Sort", [(F32, (4,))], [(F32, (4,))])) == Cost("several", None, 48, 32)
    assert not (add + cost("nothing", [], [])).known and add.known


def test_every_operator_of_the_library_has_a_rule():
    missing = [name for name, cls in REGISTRY.items() if cls.__module__.startswith("tinytorch_gpu.ops.")
               and cost(name, [(F32, (4, 4))] * 3, [(F32, (4, 4)), (F32, (4, 4))]).family == "unknown"]
    assert not missing, f"add these to look/cost/cost.py or look/cost/rules.py: {missing}"


def test_costs_of_a_recorded_network(rng):
    x = tt.tensor(rng.standard_normal((6, 5)).astype("f4"))
    w, b = randn(rng, 3, 5), randn(rng, 3)
    rows = applied(lambda: F.cross_entropy(F.gelu(F.linear(x, w, b)), tt.tensor([0, 1, 2, 0, 1, 2])))
    assert [r[0] for r in rows] == ["Linear", "GELU", "CrossEntropy"]
    assert [cost(*r).flops for r in rows] == [2 * 90 + 18, 5 * 18, 4 * 18]


def test_backward_of_elementwise_operators():
    x, y = (F32, (8, 6)), (F32, (6,))
    assert backward_cost("Mul", [x, y], [x]) == Cost("elementwise", 96.0, 4 * (48 + 48 + 6), 4 * 54)
    assert backward_cost("Mul", [x, "2.0"], [x]) == Cost("elementwise", 48.0, 4 * 48, 4 * 48)
    assert backward_cost("Tanh", [x], [x]) == Cost("elementwise", 144.0, 8 * 48, 4 * 48)
    assert backward_cost("Reshape", [x], [(F32, (48,))]) == Cost("view", 0.0, 0, 0)
    assert not backward_cost("Sort", [x], [x]).known
    assert not backward_cost("CumProd", [x], [x]).known  # no rule: said, not guessed


# ceilings


def test_a_ceiling_is_measured_once_and_again_when_asked(request, monkeypatch):
    device = tt.ones(1).device
    calls = []
    measure = ceilings._measure
    monkeypatch.setattr(ceilings, "_measure", lambda where: calls.append(where) or measure(where))
    monkeypatch.setattr(ceilings, "_found", {})
    first = ceiling()
    assert ceiling(device) is first and calls == [device]
    again = ceiling(device, remeasure=True)
    assert again is not first and ceiling() is again and len(calls) == 2
    assert first.device == str(device) and first.gpu == (device.type == "cuda")
    for value in (first.bandwidth, first.launch, *first.products.values()):
        assert 0 < value < math.inf
    assert set(first.products) == {"float32", "float16", "bfloat16"}
    assert first.note == "" if first.gpu else "no GPU's" in first.note


def test_a_device_that_does_not_answer_is_refused():
    with pytest.raises(RuntimeError, match="cuda"):
        ceiling("cuda:77")


def test_predicted_seconds():
    c = ceilings.Ceiling("cpu", False, 1e10, 1, 1e-6, {"float32": 1e11, "float16": 5e10})
    assert c.seconds(2e10) == 2 + 1e-6
    assert c.seconds(0, 1e11, launches=3) == 1 + 3e-6
    assert c.seconds(1e10, 1e11, launches=0, dtype="float16") == 2  # products and copies overlap
    assert c.seconds(0, 1e11, launches=0, dtype="float64") == 1  # not measured: as float32


def test_measuring_records_nothing_and_leaves_the_grad_mode(rng):
    x = randn(rng, 3)
    with look.record():
        ceiling(remeasure=True)
        loss = (x * 2).sum()
    assert tt.is_grad_enabled() and note_of(loss.grad_fn) is not None
