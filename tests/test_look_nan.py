"""look.nan: the operator that makes NaN or Inf first, forward and backward, with figures, module and line."""
from __future__ import annotations

import gc
import io
import math
import weakref
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn
from tinytorch_gpu.autograd import modes
from tinytorch_gpu.look.nan.watch import KEPT
from tinytorch_gpu.look.recorder import record
from tinytorch_gpu.nn import hooks as module_hooks
from tinytorch_gpu.utils.checkpoint import checkpoint

INF = float("inf")
# NumPy warns of what these tests are about
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow|divide by zero) encountered:RuntimeWarning")


def leaf(*values, dtype=None):
    return tt.tensor(list(values), dtype=dtype or tt.float32, requires_grad=True)


def first(view):
    e = view.data["first"]
    return e["direction"], e["what"], e["operator"], e["kinds"]


def roles(view):
    return {a["role"]: a for a in view.data["first"]["arrays"]}


def seen(events):
    return [(e["what"], e["operator"]) for e in events]


def test_nothing_is_told_twice_of_a_view_that_is_changed_in_place():
    """Log makes NaN forward, the gradient of the square is NaN, and nothing comes from outside."""
    x = leaf(1.0, 2.0, 3.0)
    with look.nan() as found:
        h = x * 1
        h[0].sub_(5).log_()
        (h * h).sum().backward()
    events = found.data["events"]
    assert [(e["direction"], e["what"], e["operator"]) for e in events] == [
        ("forward", "made", "Log"), ("backward", "made", "Mul")]
    board = tt.zeros(4)
    with look.nan() as found:
        board[1:3] = tt.log(x[:2] - 5)  # into constants, which are no origin
        board.sum().backward()
    assert seen(found.data["events"]) == [("made", "Log")]


def test_a_parameter_of_two_models_has_the_name_in_the_one_that_was_called_first():
    """In each of many programs, wherever their models lie in memory."""
    found, kept = [], []
    for k in range(12):
        kept.append([object() for _ in range(k)])
        part = nn.Linear(2, 2)
        models = [nn.Sequential(part), nn.ModuleDict({"part": part})["part"], nn.Sequential(nn.Identity(), part)]
        kept.append(models)
        with look.nan() as view:
            for model in models:
                model(tt.ones(1, 2)).sum()
            part.weight.data.fill_(math.nan)
            part(tt.ones(1, 2)).sum()
        found.append(view.data["first"]["name"] or [a["role"] for a in view.data["first"]["arrays"]])
    assert found == [found[0]] * 12 and "0.weight" in str(found[0])


def test_log_of_a_negative():
    x = leaf(1.0, -2.0, 4.0)
    with look.nan() as found:
        y = x * 2
        z = tt.log(y)
        z.sum().backward()
    assert first(found) == ("forward", "made", "Log", ["NaN"])
    arrays = roles(found)
    assert (arrays["input 0"]["min"], arrays["input 0"]["max"], arrays["input 0"]["nan"]) == (-4, 8, 0)
    assert arrays["result"]["nan"] == 1 and arrays["result"]["max"] == pytest.approx(math.log(8))
    assert arrays["result"]["norm"] == pytest.approx(math.hypot(math.log(2), math.log(8)), rel=1e-5)  # the finite ones
    line = found.data["first"]["line"]
    assert line["source"] == "z = tt.log(y)" and line["file"].endswith("test_look_nan.py")
    assert line["function"] == "test_log_of_a_negative"
    text = str(found)
    assert text.startswith("Log made NaN\nline: ") and "z = tt.log(y)" in text and "-4" in text


def test_sqrt_at_zero_in_backward():
    x = leaf(0.0, 4.0)
    with look.nan() as found:
        y = tt.sqrt(x)
        y.sum().backward()
    assert first(found) == ("backward", "made", "Sqrt", ["Inf"])
    arrays = roles(found)
    assert (arrays["grad"]["min"], arrays["grad"]["max"]) == (1, 1)
    assert (arrays["input 0 (leaf)"]["min"], arrays["grad of input 0"]["inf"]) == (0, 1)
    assert found.data["first"]["line"]["source"] == "y = tt.sqrt(x)" and "NaN: none followed" in str(found)


def test_nan_that_a_backward_makes():
    x = leaf(0.0, 4.0)
    with look.nan() as found:
        (tt.sqrt(x) * tt.tensor([0.0, 1.0])).sum().backward()  # 0 * inf
    assert first(found) == ("backward", "made", "Sqrt", ["NaN"])


@pytest.mark.parametrize(("dtype", "value"), [("float16", 300.0), ("bfloat16", 2e19), ("float32", 2e19)])
def test_overflow(dtype, value):
    x = leaf(value, 1.0, dtype=getattr(tt, dtype))
    with look.nan() as found:
        x * x
    assert first(found) == ("forward", "made", "Mul", ["Inf"])
    assert roles(found)["input 0 (leaf)"]["dtype"] == dtype
    assert roles(found)["input 0 (leaf)"]["norm"] == pytest.approx(value, rel=1e-2)
    assert roles(found)["result"]["inf"] == 1


def test_a_gradient_that_overflows_float16():
    x = leaf(1.0, 1.0, dtype=tt.float16)
    with look.nan() as found:
        (x * 400.0 * 0.5).backward(tt.tensor([600.0, 1.0], dtype=tt.float16))  # 600 * 0.5 * 400 > 65504
    assert first(found) == ("backward", "made", "Mul", ["Inf"])


def test_an_infinity_in_a_constant_input():
    x = leaf(1.0, 2.0)
    data = tt.tensor([1.0, INF])
    with look.nan() as found:
        x * data
    assert first(found) == ("forward", "operand", "Mul", ["Inf"])
    assert found.data["first"]["name"] == "input 1 (constant)" and roles(found)["input 1 (constant)"]["inf"] == 1
    assert "input 1 (constant) of Mul had Inf already" in str(found) and "under no_grad()" in str(found)
    assert seen(found.data["events"]) == [("operand", "Mul")]  # its result has Inf because it was given one


def test_an_operand_is_told_once_until_it_changes():
    x, data = leaf(1.0), tt.tensor([INF])
    with look.nan() as found:
        for _ in range(3):
            x * data
        data.fill_(float("nan"))
        x * data
    assert [e["kinds"] for e in found.data["events"]] == [["Inf"], ["NaN"]]


def test_a_parameter_is_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Tanh(), nn.Linear(2, 2)))
    with tt.no_grad():
        model[1][1].weight.mul_(float("nan"))  # as an optimizer's step
    with look.nan() as found:
        model(tt.ones(1, 2))
    assert first(found) == ("forward", "operand", "Linear", ["NaN"])
    assert found.data["first"]["name"] == "input 1 (1.1.weight)"


class Ratio(nn.Module):
    def forward(self, x):
        centred = x - x
        return x / centred


class Block(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(3), inner

    def forward(self, x):
        return x + self.inner(self.norm(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 3)
        self.blocks = nn.ModuleList([Block(nn.Tanh()), Block(nn.Tanh()), Block(Ratio()), Block(nn.Tanh())])

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x.sum()


def test_a_division_in_a_module_of_a_bigger_model():
    with look.nan() as found:
        Net()(tt.tensor([[1.0, 2.0]])).backward()
    assert first(found)[1:3] == ("made", "Div")
    e = found.data["first"]
    assert e["module"] == {"name": "blocks.2.inner", "class": "Ratio", "model": "Net"}
    assert e["line"]["source"] == "return x / centred" and e["line"]["function"] == "forward"
    text = str(found)
    assert "module: blocks.2.inner (Ratio) of Net" in text and "return x / centred" in text
    assert "blocks.2.inner" in found.to_html() and "blocks.2.inner" in repr(found)


def test_the_gradient_given_to_backward():
    x = leaf(1.0, 2.0)
    with look.nan() as found:
        (x * 2).backward(tt.tensor([1.0, float("nan")]))
    assert first(found) == ("backward", "given", "Mul", ["NaN"])
    assert "the gradient given to backward() for the result of Mul had NaN already" in str(found)
    assert seen(found.data["events"]) == [("given", "Mul")]


def test_a_sum_of_gradients_that_makes_nan():
    x = leaf(1.0)
    with look.nan() as found:
        y = x * 1.0
        (y * 1e30 + y * -1e30).backward(tt.tensor([1e30]))  # inf + -inf where they meet
    made = [e for e in found.data["events"] if "NaN" in e["kinds"]]
    assert first(found) == ("backward", "made", "Mul", ["Inf"])
    assert seen(made)[0] == ("sum", "Mul") and "adding the gradients of the result of Mul made NaN" in str(found)


def test_a_sum_at_a_leaf():
    x = leaf(1.0)
    with look.nan() as found:
        (x * 1e30 + x * -1e30).backward(tt.tensor([1e30]))
    last = found.data["events"][-1]
    assert (last["what"], last["operator"], last["kinds"]) == ("sum", "AccumulateGrad", ["NaN"])


def test_an_additive_mask_is_meant_and_hides_nothing():
    mask = tt.tensor([[0.0, -INF], [0.0, 0.0]])
    for wrong in (mask.clone().requires_grad_(), tt.tensor([[0.0, INF], [0.0, 0.0]])):  # a weight; the other sign
        with look.nan() as found:
            (tt.ones(2, 2, requires_grad=True) + wrong).exp().sum()
        assert found.data["first"]["what"] == "operand"
    x = tt.ones(2, 2, requires_grad=True)
    with look.nan(stop=True) as found:
        tt.softmax(x + mask, 1).sum().backward()
    assert found.data["first"] is None
    assert [(e["what"], e["operator"], e["meant"]) for e in found.data["events"]] == [("operand", "Add", True)]
    with look.nan() as found:
        tt.log(tt.softmax(x + mask, 1) - 1.5).sum()
    assert (found.data["first"]["what"], found.data["first"]["operator"]) == ("made", "Log")


def test_masks_are_meant():
    x = tt.ones(2, 2, requires_grad=True)
    good, bad = tt.tensor([[True, False], [False, False]]), tt.tensor([[True, True], [False, False]])
    with look.nan() as found:
        tt.softmax(x.masked_fill(good, -INF), 1).sum().backward()
    assert found.data["first"] is None and seen(found.data["events"]) == [("number", "MaskedFill")]
    assert "no NaN and no Inf in 3 operators forward, 3 backward but what is meant" in str(found)
    with look.nan() as found:
        tt.softmax(x.masked_fill(bad, -INF), 1).sum().backward()
    assert first(found) == ("forward", "made", "Softmax", ["NaN"])  # a row of -inf alone


def test_nan_from_infinity_is_made_and_nan_from_nan_is_not():
    x = leaf(1e38)
    with look.nan() as found:
        y = x * 10
        z = y - y
        tt.exp(z) + 1
    assert [(e["operator"], e["kinds"]) for e in found.data["events"]] == [("Mul", ["Inf"]), ("Sub", ["NaN"])]
    assert "NaN: Sub made NaN at" in str(found)


def test_a_change_in_place_and_a_view():
    x = leaf(1.0, -1.0, 2.0)
    with look.nan() as found:
        y = x * 1
        y[1:].log_()
        y.sum().backward()
    assert seen(found.data["events"])[0] == ("made", "Log")
    assert not any(e["what"] == "operand" for e in found.data["events"])


def test_complex_numbers():
    x = tt.tensor([complex(3e38, 3e38)], requires_grad=True, dtype=tt.complex64)
    with look.nan() as found:
        y = x * 1  # its magnitude is above float32, its parts are not
    assert found.data["first"] is None
    with look.nan() as found:
        y = x * complex(10.0, 0.0)
    assert first(found)[1:3] == ("made", "Mul") and "Inf" in found.data["first"]["kinds"]
    assert y.requires_grad


def test_a_function_of_the_users_own():
    class Bad(tt.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad / 0.0

    with look.nan() as found:
        Bad.apply(leaf(1.0)).sum().backward()
    assert found.data["first"]["direction"] == "backward" and "Bad" in found.data["first"]["operator"]


def test_a_segment_that_is_computed_again():
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    x = tt.ones(1, 2, requires_grad=True)
    with look.nan() as found:
        y = checkpoint(lambda x: tt.sqrt(model(x) * 0), x, use_reentrant=False)
        y.sum().backward()
    assert first(found)[:3] == ("backward", "made", "Sqrt")


def test_gradients_of_gradients():
    x = leaf(0.5, 0.0)
    with look.nan() as found:
        (g,) = tt.autograd.grad((x * tt.sqrt(x)).sum(), x, create_graph=True)
        g.sum().backward()
    assert first(found)[1:3] == ("made", "Div")  # sqrt's own rule, 0 * 1 / (2 * sqrt(0)), is recorded too


def test_anomaly_mode_around_it():
    x = leaf(0.0)
    with tt.autograd.detect_anomaly(), look.nan() as found:
        with pytest.raises(RuntimeError, match="nan values"):
            (tt.sqrt(x) * 0.0).sum().backward()
    assert modes.anomaly is None and modes.recorder is None and found.data["operators"] == 3


def test_several_steps_tell_of_each_and_keep_the_first():
    x = leaf(-1.0)
    with look.nan() as found:
        for _ in range(KEPT + 20):
            tt.log(x)
    assert found.data["count"] == KEPT + 20 and [e["times"] for e in found.data["events"]] == [KEPT + 20]
    assert str(found).startswith(f"Log made NaN, {KEPT + 20} times\n")
    with look.nan() as found:  # at as many places
        for k in range(KEPT + 20):
            exec(compile("\n" * k + "tt.log(x)", "places.py", "exec"), {"tt": tt, "x": x})
    assert found.data["count"] == KEPT + 20 and len(found.data["events"]) == KEPT


def test_a_mask_of_each_step_is_one_row_and_hides_nothing():
    x, mask = tt.ones(2, 2, requires_grad=True), tt.tensor([[True, False], [False, False]])
    for steps in (1, 3, KEPT + 5):
        with look.nan() as found:
            for _ in range(steps):
                tt.softmax(x.masked_fill(mask, -INF), 1).sum().backward()
            tt.log(leaf(-1.0))
        assert seen(found.data["events"]) == [("number", "MaskedFill"), ("made", "Log")]
        assert [e["times"] for e in found.data["events"]] == [steps, 1] and first(found)[2] == "Log"
        rows = [line for line in str(found).splitlines() if "MaskedFill" in line]
        assert len(rows) == 1 and (f" x {steps} " in rows[0]) == (steps > 1), rows


def test_stop_ends_the_program_there():
    x = leaf(-1.0)
    with pytest.raises(FloatingPointError, match=r"\[nan\] Log made NaN: input 0 \(leaf\) f32\[1\] -1 to -1; result "
                                                 r"f32\[1\] 1 NaN; at .*test_look_nan.py:\d+ tt.log\(x\)"):
        with look.nan(stop=True):
            tt.log(x)
    x = leaf(0.0)
    with look.nan(stop=True) as found, pytest.raises(FloatingPointError, match=r"\[nan\] the backward of Sqrt made"):
        tt.sqrt(x).backward()
    assert first(found)[2] == "Sqrt" and modes.recorder is None
    with look.nan(stop=True) as found:
        tt.ones(2, requires_grad=True).masked_fill(tt.tensor([True, False]), -INF)
    assert found.data["first"] is None


def test_a_function_to_run():
    x, calls = leaf(-1.0), []

    def run():
        calls.append(1)
        return tt.log(x)

    assert first(look.nan(run))[2] == "Log" and calls == [1]
    for wrong in (3, "run", tt.ones(1)):
        with pytest.raises(TypeError, match=r"\[nan\] expected a function to run, got"):
            look.nan(wrong)


def test_nothing_to_find():
    with look.nan() as found:
        (leaf(1.0) * 2).backward()
    assert found.data["first"] is None and found.data["events"] == []
    assert str(found).startswith("no NaN and no Inf in 1 operator forward, 1 backward\n")
    texts = [t.text for t in ElementTree.fromstring(found.to_svg()).iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["no NaN and no Inf in 1 operator forward, 1 backward",
                     "operators under no_grad() and those that need no gradient are not watched"]
    assert "no NaN" in found.to_html()
    with look.nan() as found:
        tt.log(tt.tensor([-1.0]))
    assert "no operator was recorded for backward inside the block" in str(found)
    assert "nothing was watched" in str(look.nan())
    with pytest.raises(RuntimeError, match=r"\[nan\] a view watches one block"), found:
        pass


def test_results_are_those_without_it(rng):
    x0 = rng.standard_normal((4, 3)).astype(np.float32)
    found = []
    for watch in (False, True):
        tt.manual_seed(5)
        model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.3), nn.LayerNorm(8), nn.Linear(8, 2))
        model(tt.zeros(1, 3))

        def step(model=model):
            model(tt.tensor(x0)).square().sum().backward()

        if watch:
            look.nan(step)
        else:
            step()
        found.append([np.asarray(p.grad.cpu().numpy()) for p in model.parameters()])
    assert all(np.array_equal(a, b) for a, b in zip(*found))


def test_nothing_stays_behind():
    before = (len(module_hooks.forward), len(module_hooks.forward_pre))
    model = Net()
    with look.nan() as found:
        assert modes.recorder is not None
        loss = model(tt.ones(1, 2))
    with pytest.raises(KeyError), look.nan():
        raise KeyError
    assert modes.recorder is None and modes.anomaly is None and record.watchers == ()
    assert (len(module_hooks.forward), len(module_hooks.forward_pre)) == before
    count = found.data["count"]
    stack, nodes = [loss.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            assert node.hooks is None
            stack += [n for n, _ in node.next_functions]
    loss.backward()
    assert found.data["count"] == count


def test_it_holds_no_graph():
    gc.collect()
    gc.disable()
    try:
        x = leaf(-1.0)
        with look.nan():
            loss = tt.log(x * 2).sum()
            loss.backward(retain_graph=True)
            node = weakref.ref(loss.grad_fn)
            del loss
            assert node() is None
    finally:
        gc.enable()


def test_it_nests_in_recording_and_in_itself():
    x = leaf(-1.0)
    with look.record():
        with look.nan() as outer, look.nan() as inner:
            y = tt.log(x)
        z = tt.log(x)
    assert first(outer) == first(inner) and outer.data["count"] == 1
    assert look.graph([y, z]).data["nodes"][0]["outputs"][0]["value"] is not None


def test_the_picture_shows_what_was_given_and_made():
    with look.nan() as found:
        Net()(tt.ones(1, 2)).backward()
    root = ElementTree.fromstring(found.to_svg())
    texts = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any(t.startswith("Div made") for t in texts) and any("3 " in t for t in texts)
    assert len([r for r in root.iter("{http://www.w3.org/2000/svg}rect") if r.get("class") == "leaf"]) == 3
    assert found.data["first"]["operator"] == "Div" and "<svg" in found.to_html()
    for width in (20, 60, 80, 200):
        out = io.StringIO()
        found.print(out, width)
        assert max(map(len, out.getvalue().splitlines())) <= width and "│" in out.getvalue()
