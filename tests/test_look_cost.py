"""Costs of operators against PyTorch's counter and counts by hand; ceilings are measured once and kept."""
from __future__ import annotations

import functools
import math
import operator
from collections import Counter

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import look
from tinytorch_gpu.autograd.node import REGISTRY
from tinytorch_gpu.backend import dtypes, gemm
from tinytorch_gpu.look import spans
from tinytorch_gpu.look.cost import ceiling as ceilings
from tinytorch_gpu.look.cost.backward import backward_launches, kept
from tinytorch_gpu.look.cost.ceiling import ceiling
from tinytorch_gpu.look.cost.cost import Array, Cost, cost, launches
from tinytorch_gpu.look.cost.gradients import RULES
from tinytorch_gpu.look.cost.several import NORMS
from tinytorch_gpu.look.recorder import note_of
from tinytorch_gpu.look.saved import saved_of
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
    return (sum(cost(*row).products for row in rows), sum(backward_of(*row).products for row in rows))


def backward_of(*args, **kwargs):
    """The sum of what a rule starts."""
    return functools.reduce(operator.add, backward_launches(*args, **kwargs), Cost("products", 0.0, 0, 0))


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
    both = backward_of("Linear", [x, w, b], [y])
    assert both.products == 2 * 2 * 32 * 10 * 7
    assert both.flops == both.products + 32 * 7  # the bias's sum
    (one,) = backward_launches("Linear", [x, w, b], [y], needs=[False, True, False])
    assert one.flops == one.products == 2 * 32 * 10 * 7
    assert (one.read, one.written) == (4 * (32 * 7 + 32 * 10), 4 * 70)
    assert backward_launches("Linear", [x, w, b], [y], needs=[False] * 3) == []


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


# backward


def test_backward_of_elementwise_operators_by_hand():
    x, y = (F32, (8, 6)), (F32, (6,))
    each = Cost("elementwise", 48.0, 4 * 48 * 2, 4 * 48)
    # the gradient times y, and times x, which is summed to y's size
    assert backward_launches("Mul", [x, y], [x]) == [
        Cost("elementwise", 48.0, 4 * 54, 4 * 48), each, Cost("reduction", 48.0, 4 * 48, 4 * 6)]
    assert backward_launches("Mul", [x, "2.0"], [x]) == [Cost("elementwise", 48.0, 4 * 48, 4 * 48)]
    square, less, times = backward_launches("Tanh", [x], [x])
    assert (square, less, times) == (each, Cost("elementwise", 48.0, 4 * 48, 4 * 48), each)
    assert backward_launches("GELU", [x], [x]) == [Cost("elementwise", 11.0 * 48, 8 * 48, 4 * 48)]
    assert backward_launches("Reshape", [x], [(F32, (48,))]) == []
    assert backward_launches("Pow", [x, 2], [x]) == [Cost("elementwise", 48.0, 4 * 48, 4 * 48), each]
    assert len(backward_launches("Pow", [x, 3.0], [x])) == 3
    # another dtype comes back as its own
    assert backward_launches("Cast", [("float16", (6,))], [y]) == [Cost("copy", 0.0, 24, 12)]
    for unknown in ("Sort", "CumProd", "NotAnOperator"):  # no rule: said, not guessed
        assert backward_launches(unknown, [x], [x]) is None
    assert backward_launches("Exp", [("complex64", (6,))], [("complex64", (6,))]) is None


class Heard(spans.Listener):
    """The applications of a program, and those inside gradient rules: (name, operands, results, parameters, needs)."""

    def __init__(self):
        self.forward, self.rules, self.nodes = [], [], []

    def end(self, span, mark):
        around = span.parent
        while around is not None and around.kind not in ("operator", "backward"):
            around = around.parent
        if span.kind != "operator" or around is not None and around.kind == "operator":
            return
        results = span.result if isinstance(span.result, tuple) else (span.result,)
        row = (span.what.__name__, [described(x) for x in span.given], [described(x) for x in results],
               dict(span.params), [isinstance(x, tt.Tensor) and x.requires_grad for x in span.given])
        if around is not None:
            self.rules.append(row)
        elif any(row[-1]) and results[0].grad_fn is not None:
            self.forward.append(row)
            self.nodes.append(results[0].grad_fn)


def described(x):
    array = getattr(x, "_array", x)
    return (dtypes.of(array).name, array.shape) if hasattr(array, "dtype") else x


def heard(run):
    listener = Heard()
    spans.listen(listener)
    try:
        out = run()
        out = out[0] if isinstance(out, tuple) else out
        out.backward(tt.ones_like(out))
    finally:
        spans.leave(listener)
    return listener


def uniform(*shape):
    rng = np.random.default_rng(math.prod(shape))
    return tt.tensor(rng.uniform(0.1, 0.9, shape).astype("f4"), requires_grad=True)


def plain(name):
    return lambda: getattr(tt, name)(uniform(4, 6))


PLAIN = ("neg abs sgn exp exp2 expm1 log log2 log10 log1p sqrt rsqrt reciprocal erf erfc erfinv floor ceil trunc round "
         "sin cos asin acos atan sinh cosh asinh atanh tan tanh relu sigmoid").split()
# program -> the passes that its rules make over raw arrays, and zeros that they write: no operators, counted by hand
RULE_CASES = {
    **{name: (plain(name), 0) for name in PLAIN},
    "acosh": (lambda: tt.acosh(uniform(4, 6) + 1), 0),
    "add": (lambda: uniform(4, 6) + uniform(6), 0), "sub": (lambda: uniform(6) - uniform(4, 6), 0),
    "mul": (lambda: uniform(4, 6) * uniform(4, 1), 0), "times": (lambda: uniform(4, 6) * 2, 0),
    "div": (lambda: uniform(4, 6) / uniform(6), 0), "over": (lambda: 1 / uniform(4, 6), 0),
    "square": (lambda: uniform(4, 6) ** 2, 0), "cube": (lambda: uniform(4, 6) ** 3.0, 0),
    "power": (lambda: uniform(4, 6) ** uniform(6), 3), "to the power": (lambda: 2.0 ** uniform(4, 6), 3),
    "zeroth power": (lambda: uniform(4, 6) ** 0, 0),
    "maximum": (lambda: tt.maximum(uniform(4, 6), uniform(6)), 2), "minimum": (lambda: tt.minimum(
        uniform(4, 6), uniform(4, 6)), 2),
    "clamp": (lambda: uniform(4, 6).clamp(0.2, 0.5), 1), "clamp below": (lambda: uniform(4, 6).clamp(min=0.2), 1),
    "where": (lambda: tt.where(tt.ones(4, 6) > 0, uniform(4, 6), uniform(4, 6)), 2),
    "masked_fill": (lambda: uniform(4, 6).masked_fill(tt.ones(4, 6) > 0, 0.0), 0),
    "atan2": (lambda: tt.atan2(uniform(4, 6), uniform(6)), 0),
    "lerp": (lambda: tt.lerp(uniform(4, 6), uniform(4, 6), uniform(6)), 0),
    "lerp by a number": (lambda: tt.lerp(uniform(4, 6), uniform(6), 0.3), 0),
    "fmod": (lambda: tt.fmod(uniform(4, 6), uniform(6)), 0),
    "remainder": (lambda: tt.remainder(uniform(4, 6), uniform(6)), 0),
    "nan_to_num": (lambda: tt.nan_to_num(uniform(4, 6)), 1),
    "silu": (lambda: F.silu(uniform(4, 6)), 0), "gelu": (lambda: F.gelu(uniform(4, 6)), 0),
    "gelu tanh": (lambda: F.gelu(uniform(4, 6), approximate="tanh"), 0),
    "logsigmoid": (lambda: F.logsigmoid(uniform(4, 6)), 0),
    "softplus": (lambda: F.softplus(uniform(4, 6)), 2), "elu": (lambda: F.elu(uniform(4, 6)), 1),
    "leaky_relu": (lambda: F.leaky_relu(uniform(4, 6)), 4),
    "hardtanh": (lambda: F.hardtanh(uniform(4, 6), 0.2, 0.4), 3),
    "swiglu": (lambda: F.swiglu(uniform(4, 6), uniform(4, 6)), 0),
    "bias_act": (lambda: F.bias_act(uniform(4, 6), uniform(6)), 0),
    "dropout": (lambda: F.dropout(uniform(4, 6), 0.5), 0),
    "dropout_add": (lambda: F.dropout_add(uniform(4, 6), uniform(4, 6), 0.5), 0),
    "sum": (lambda: uniform(4, 6).sum(0), 0), "mean": (lambda: uniform(4, 6).mean(-1, keepdim=True), 0),
    "amax": (lambda: uniform(4, 6).amax(1), 8), "amin": (lambda: uniform(4, 6).amin(0, keepdim=True), 8),
    "max": (lambda: uniform(4, 6).max(1)[0], 0), "min": (lambda: uniform(4, 6).min(0)[0], 0),
    "var": (lambda: uniform(4, 6).var(1), 0), "std": (lambda: uniform(4, 6).std(0), 2),
    "logsumexp": (lambda: uniform(4, 6).logsumexp(1), 2), "norm": (lambda: uniform(4, 6).norm(dim=1), 2),
    "norm 1": (lambda: uniform(4, 6).norm(p=1, dim=1), 0),
    "softmax": (lambda: uniform(4, 6).softmax(-1), 0), "log_softmax": (lambda: F.log_softmax(uniform(4, 6), 0), 0),
    "product": (lambda: uniform(4, 6) @ uniform(6, 5), 0),
    "products": (lambda: uniform(2, 3, 4, 5) @ uniform(2, 3, 5, 6), 0),
    "products of one": (lambda: uniform(2, 3, 5) @ uniform(5, 6), 0),
    "broadcast products": (lambda: uniform(2, 3, 5) @ uniform(1, 5, 6), 0),
    "linear": (lambda: F.linear(uniform(2, 3, 6), uniform(4, 6), uniform(4)), 0),
    "addmm": (lambda: tt.addmm(uniform(6), uniform(4, 5), uniform(5, 6)), 0),
    "addmm scaled": (lambda: tt.addmm(uniform(6), uniform(4, 5), uniform(5, 6), beta=2, alpha=3), 0),
    "conv": (lambda: F.conv2d(uniform(2, 3, 5, 5), uniform(4, 3, 2, 2), uniform(4)), 0),
    "layer_norm": (lambda: F.layer_norm(uniform(4, 6), (6,), uniform(6), uniform(6)), 0),
    "layer_norm without": (lambda: F.layer_norm(uniform(4, 6), (6,)), 0),
    "layer_norm of weight": (lambda: F.layer_norm(uniform(4, 6), (6,), uniform(6)), 0),
    "layer_norm of bias": (lambda: F.layer_norm(uniform(4, 6), (6,), None, uniform(6)), 0),
    "rms_norm": (lambda: F.rms_norm(uniform(4, 6), (6,), uniform(6)), 0),
    "batch_norm": (lambda: F.batch_norm(uniform(2, 3, 4), None, None, uniform(3), uniform(3), training=True), 0),
    "group_norm": (lambda: F.group_norm(uniform(2, 4, 3), 2), 0),
    "add_layer_norm": (lambda: F.add_layer_norm(uniform(4, 6), uniform(4, 6), (6,), uniform(6), uniform(6)), 0),
    "add_rms_norm": (lambda: F.add_rms_norm(uniform(4, 6), uniform(4, 6), (6,), uniform(6)), 0),
    "mse_loss": (lambda: F.mse_loss(uniform(4, 6), uniform(4, 6)), 0),
    "mse_loss sum": (lambda: F.mse_loss(uniform(4, 6), tt.ones(4, 6), reduction="sum"), 0),
    "l1_loss": (lambda: F.l1_loss(uniform(4, 6), uniform(4, 6)), 0),
    "entropy": (lambda: F.binary_cross_entropy(uniform(4, 6), uniform(4, 6)), 0),
    "entropy of logits": (lambda: F.binary_cross_entropy_with_logits(uniform(4, 6), tt.ones(4, 6)), 0),
    "attention": (lambda: F.scaled_dot_product_attention(*(uniform(2, 3, 5, d) for d in (4, 4, 2))), 0),
    "attention dropped": (lambda: F.scaled_dot_product_attention(
        *(uniform(5, 5, d) for d in (4, 4, 2)), dropout_p=0.3, is_causal=True, scale=1.0), 0),
    "attention biased": (lambda: F.scaled_dot_product_attention(
        *(uniform(5, d) for d in (4, 4, 2)), attn_mask=uniform(5, 5)), 0),
    "cast": (lambda: uniform(4, 6).double(), 0), "expand": (lambda: uniform(6).expand(4, 6), 0),
    "slice": (lambda: uniform(4, 6)[1:3], 0), "index": (lambda: uniform(4, 6)[tt.tensor([0, 1])], 0),
    "gather": (lambda: uniform(4, 6).gather(1, tt.zeros(4, 1).long()), 0),
    "embedding": (lambda: F.embedding(tt.tensor([0, 1]), uniform(4, 6)), 0),
    "split": (lambda: uniform(4, 6).split(3, 1), 0), "unbind": (lambda: uniform(4, 6).unbind(0), 0),
    "cat": (lambda: tt.cat([uniform(4, 6), uniform(2, 6)]), 0), "reshape": (lambda: uniform(4, 6).reshape(24).T, 0),
}


@pytest.mark.parametrize("case", RULE_CASES)
def test_rules_apply_what_is_counted(case):
    run, more = RULE_CASES[case]
    found = heard(run)
    host = tt.ones(1).device.type == "cpu"
    counted: Counter = Counter()
    for name, inputs, outputs, params, needs in found.forward:
        ran = backward_launches(name, inputs, outputs, params, needs, host=host or name in NORMS)
        assert ran is not None, name
        counted.update(map(figures, ran))
    applied: Counter = Counter()
    for name, inputs, outputs, params, _ in found.rules:
        c = cost(name, inputs, outputs, params)
        if not (REGISTRY[name].view or name == "Cast" and inputs[0] == outputs[0]) and c.bytes:
            applied[figures(c)] += 1
    assert not applied - counted, applied - counted
    assert sum((counted - applied).values()) == more


def figures(c):
    return c.flops, c.read, c.written, c.products


class Kernels(spans.Listener):
    """The arrays that each kernel of a gradient rule is given."""

    def __init__(self):
        self.ran = []

    def end(self, span, mark):
        around = span.parent
        while around is not None and around.kind != "backward":
            around = around.parent
        if span.kind == "kernel" and around is not None:
            self.ran.append([a.nbytes for a in span.given if hasattr(a, "nbytes") and a.ndim])


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("rows, width", [(5, 32), (700, 16), (4, 8192)])
def test_kernels_of_norms_add_up_parts_of_the_gradients_of_weight_and_bias(center, rows, width):
    x, w, b = uniform(rows, width), uniform(width), uniform(width)
    given = [(F32, (rows, width)), (F32, (width,)), (F32, (width,)) if center else None]
    found = backward_launches("LayerNorm" if center else "RMSNorm", given, given[:1])
    sums = 2 if center else 1
    apart = sums * 4 * width > 48 << 10  # more than a block's shared memory
    part, array, stats = 4 * width * (1 if apart else min(rows, 512)), 4 * rows * width, 4 * rows * sums
    assert len(found) == 1 + apart + sums
    read = [2 * array + 4 * width + stats, *([2 * array + stats] if apart else []), *[part] * sums]
    written = [array + (0 if apart else sums * part), *([sums * part] if apart else []), *[4 * width] * sums]
    assert [(c.read, c.written) for c in found] == list(zip(read, written))
    (one,) = backward_launches("LayerNorm" if center else "RMSNorm", given, given[:1], host=True)
    assert (one.read, one.written) == (read[0], array + 2 * 4 * width)
    if tt.ones(1).device.type != "cpu":  # as they really are
        listener = Kernels()
        y = F.layer_norm(x, (width,), w, b) if center else F.rms_norm(x, (width,), w)
        spans.listen(listener)
        try:
            y.backward(tt.ones_like(y))
        finally:
            spans.leave(listener)
        real, counted = [sum(ran) for ran in listener.ran], [a + b for a, b in zip(read, written)]
        assert real[:1 + apart] == counted[:1 + apart]
        # sums over many parts have a stage between
        assert len(real) >= len(counted) and sum(counted) <= sum(real) <= 1.02 * sum(counted)


def test_every_rule_is_tried():
    tried = {row[0] for run, _ in RULE_CASES.values() for row in heard(run).forward}
    assert set(RULES) - tried == {"CrossEntropy", "NLLLoss"}  # below


def test_rules_of_losses_over_classes():
    x, y = uniform(4, 6), tt.tensor([0, 1, 2, 3])
    for run, reads in ((lambda: F.cross_entropy(x, y), 4 * 24 + 4 + 4 * 4 + 8 * 4), (lambda: F.nll_loss(x, y), 4)):
        found = heard(run)
        (row,) = found.forward
        scaled, last = backward_launches(*row[:4], needs=row[4])
        assert [r[0] for r in found.rules] == ["Mul", row[0] + "Backward"]
        assert (scaled.read, scaled.written, last.read, last.written) == (4, 4, reads, 4 * 24)


@pytest.mark.parametrize("case", [c for c in RULE_CASES if c in (
    "gelu", "gelu tanh", "silu", "softplus", "logsigmoid", "relu", "sigmoid", "softmax", "swiglu", "bias_act",
    "mse_loss", "l1_loss", "layer_norm", "layer_norm without", "rms_norm", "add_layer_norm", "add_rms_norm",
    "attention", "dropout_add", "mean", "sum", "product", "linear", "addmm", "entropy", "entropy of logits")])
def test_what_replacements_keep_is_what_their_nodes_keep(case):
    listener = Heard()
    spans.listen(listener)
    try:
        RULE_CASES[case][0]()
    finally:
        spans.leave(listener)
    for (name, inputs, outputs, params, needs), node in zip(listener.forward, listener.nodes):
        found = kept(name, inputs, outputs, params, needs)
        sizes = [k if isinstance(k, Array) else Array(*(inputs[k] if k >= 0 else outputs[-1 - k])) for k in found]
        assert sorted(a.nbytes for a in sizes) == sorted(s.bytes for s in saved_of(node)), name


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
