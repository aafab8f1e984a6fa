"""look.trace against finite differences and backward(); look.explain's formulas evaluated beside the real gradients."""
from __future__ import annotations

import html.parser
import io
import json
import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn
from tinytorch_gpu.autograd.node import REGISTRY, AccumulateGrad, endpoint
from tinytorch_gpu.look.trace.examples import EXAMPLES
from tinytorch_gpu.look.trace.examples import leaf as example_leaf
from tinytorch_gpu.ops.registry import PUBLIC
from tinytorch_gpu.utils.checkpoint import checkpoint


def leaf(values):
    return tt.tensor(np.array(values, np.float64), requires_grad=True)


def host(t):
    return t.detach().cpu().numpy()


def steps(view):
    """{name of a node: its step}, for nodes of different names."""
    names = {n["id"]: n["name"] for n in view.data["nodes"]}
    return {names[s["node"]]: s for s in view.data["steps"]}


def total(step, output=0):
    return step["gradient"][output]["values"]


def slope(f, arrays, eps=1e-6):
    """Central differences of the scalar f in each array."""
    found = []
    for k, a in enumerate(arrays):
        g = np.zeros_like(a)
        for i in np.ndindex(a.shape):
            up, down = [b.copy() for b in arrays], [b.copy() for b in arrays]
            up[k][i] += eps
            down[k][i] -= eps
            g[i] = (f(*up) - f(*down)) / (2 * eps)
        found.append(g)
    return found


# the chain rule


def test_x_plus_two_times_three():
    x = leaf([5.0])
    with look.record():
        y = (x + 2) * 3
    view = look.trace(y, {"x": x})
    assert view.data["forward"] == {"1": "x + 2", "2": "#1 * 3"}
    values = {n["name"]: n["outputs"][0]["value"]["values"] for n in view.data["nodes"]}
    assert values == {"x": [5.0], "Add": [7.0], "Mul": [21.0]}
    mul, add, end = view.data["steps"]
    assert mul["arrived"] == [[{"from": None, "gradient": mul["gradient"][0]}]] and total(mul) == [1.0]
    assert [(i["formula"], i["derivative"], i["gradient"]["values"]) for i in mul["inputs"]] == [
        ("grad * 3", {"kind": "elementwise", "values": [3.0]}, [3.0])]
    assert total(add) == [3.0] and [(i["input"], i["formula"], i["gradient"]["values"]) for i in add["inputs"]] == [
        ("a", "grad", [3.0])]
    assert end["arrived"][0][0]["from"] == add["node"] and total(end) == [3.0] and not view.data["missing"]


def test_two_products_with_different_numbers_have_rules_of_their_own():
    x = leaf([1.0])
    view = look.trace(x * 3 * 5)
    assert [i["formula"] for s in view.data["steps"] for i in s["inputs"]] == ["grad * 5", "grad * 3"]
    three = look.trace(x ** 3 * x ** 4)
    powers = [i["formula"] for s in three.data["steps"] if s["name"] == "Pow" for i in s["inputs"]]
    assert sorted(powers) == ["grad * (a ** 2.0 * 3)", "grad * (a ** 3.0 * 4)"] or sorted(powers) == [
        "grad * (a ** 2 * 3)", "grad * (a ** 3 * 4)"]


def program(w, b, x):
    h = tt.tanh(x @ w + b)
    return (h * h / (1 + tt.exp(-h))).sum() + (b * h.mean(0)).sum()


def test_every_gradient_is_that_of_finite_differences(rng):
    w, b = rng.standard_normal((3, 2)), rng.standard_normal(2)
    x = tt.tensor(rng.standard_normal((4, 3)))
    tensors = leaf(w), leaf(b)
    view = look.trace(program(*tensors, x), dict(zip("wb", tensors)))
    want = slope(lambda *arrays: program(*map(tt.tensor, arrays), x).item(), [w, b])
    for name, expected in zip("wb", want):
        # central differences of a smooth function of size 1: eps^2 and rounding / eps
        np.testing.assert_allclose(total(steps(view)[name]), expected, atol=1e-8)
    assert len(steps(view)["b"]["arrived"][0]) == 2


@pytest.mark.parametrize("make", [
    lambda x, w: tt.tanh(x), lambda x, w: x * w, lambda x, w: x @ w.T, lambda x, w: tt.softmax(x, 1),
    lambda x, w: x.sum(0), lambda x, w: x.T, lambda x, w: tt.cumsum(x, 0), lambda x, w: w[0] - x, lambda x, w: x[1:],
    lambda x, w: x.amax(1),
], ids="tanh mul matmul softmax sum transpose cumsum broadcast slice amax".split())
def test_local_derivatives_are_those_of_finite_differences(make, rng):
    x0, w0 = rng.standard_normal((2, 3)), rng.standard_normal((2, 3))
    x, w = leaf(x0), tt.tensor(w0)
    out = make(x, w)
    view = look.trace(out, gradient=tt.ones_like(out))
    y0 = host(out)
    table = np.zeros((y0.size, x0.size))
    for k in range(y0.size):
        table[k] = slope(lambda a: host(make(tt.tensor(a), w)).reshape(-1)[k], [x0])[0].reshape(-1)
    found = next(i["derivative"] for s in view.data["steps"] for i in s["inputs"])
    got = np.diag(found["values"]) if found["kind"] == "elementwise" else np.array(found["values"])
    np.testing.assert_allclose(got, table, atol=1e-8)


def test_what_arrives_times_the_local_derivative_is_sent(rng):
    tensors = leaf(rng.standard_normal((3, 2))), leaf(rng.standard_normal(2))
    view = look.trace(program(*tensors, tt.tensor(rng.standard_normal((4, 3)))))
    checked = 0
    for step in view.data["steps"]:
        for i in step["inputs"]:
            if i["derivative"] is not None:
                local = np.array(i["derivative"]["values"])
                local = np.diag(local) if i["derivative"]["kind"] == "elementwise" else local
                arrived = np.array(total(step)).reshape(-1)
                np.testing.assert_allclose(arrived @ local, np.array(i["gradient"]["values"]).reshape(-1), rtol=1e-12,
                                           atol=1e-15)
                checked += 1
    assert checked > 10


def test_it_agrees_with_backward_and_leaves_no_mark(rng):
    model = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.LayerNorm(7), nn.Linear(7, 3))
    x = tt.tensor(rng.standard_normal((4, 5)), dtype=tt.float32)
    calls = []
    loss = nn.functional.cross_entropy(model(x), tt.tensor([0, 1, 2, 1]))
    handle = loss.grad_fn.register_hook(lambda a, b: calls.append(1) and None)
    view = look.trace(loss, model)
    assert not calls and all(p.grad is None for p in model.parameters())
    assert any(m.startswith("hooks on this graph") for m in view.data["missing"])
    handle.remove()
    loss.backward()  # the graph is whole
    for name, p in model.named_parameters():
        got = steps(view)[name]["gradient"][0]
        assert got["norm"] == pytest.approx(np.linalg.norm(host(p.grad).astype(np.float64)), rel=1e-6)
        if p.grad.nbytes <= 64:
            assert np.array_equal(np.array(got["values"], np.float32), host(p.grad))


def test_where_gradients_are_added():
    x = leaf([2.0])
    h = tt.exp(x)
    view = look.trace(h * 3 + h * 4 - h, {"x": x})
    exp = steps(view)["Exp"]
    assert sorted(m["gradient"]["values"][0] for m in exp["arrived"][0]) == [-1.0, 3.0, 4.0] and total(exp) == [6.0]
    assert len({m["from"] for m in exp["arrived"][0]}) == 3
    text = str(view)
    assert "added at" in text and "= 6" in text
    assert "added at" not in str(look.trace(tt.exp(x)))


def test_large_arrays_by_statistics():
    x = leaf(np.linspace(0, 1, 17))
    with look.record():
        y = tt.sin(x)
    view = look.trace(y.sum())
    sin = steps(view)["Sin"]
    assert "values" not in sin["gradient"][0] and sin["inputs"][0]["derivative"] is None
    sent = sin["inputs"][0]["gradient"]
    want = np.cos(np.linspace(0, 1, 17))
    assert (sent["norm"], sent["min"], sent["max"], sent["mean"]) == pytest.approx(
        (np.linalg.norm(want), want.min(), want.max(), want.mean()), rel=1e-12)
    assert "norm" in str(view)


def test_values_that_were_not_kept_are_said():
    x = leaf([1.0])
    view = look.trace((x + 2) * 3)
    add = next(n for n in view.data["nodes"] if n["name"] == "Add")
    assert add["outputs"][0]["value"] is None and "not kept" in str(view)
    assert any("1 of 2 operators were not kept" in m for m in view.data["missing"])
    assert view.data["forward"]["1"].endswith("+ constant") and view.data["forward"]["2"] == "#1 * 3"
    kept = look.trace(tt.exp(x) * tt.sin(x))  # saved for backward: known without recording
    assert all(n["outputs"][0]["value"] for n in kept.data["nodes"])


def test_several_outputs_functions_and_checkpoints():
    class Twice(tt.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    x = leaf([1.0, 2.0, 3.0, 4.0])
    a, b = checkpoint(lambda v: tt.sin(v) * 2, Twice.apply(x)).chunk(2)
    loss = (a * b).sum()
    view = look.trace(loss, {"x": x})
    loss.backward()
    np.testing.assert_allclose(total(steps(view)["x"]), host(x.grad), rtol=1e-14)
    twice = steps(view)["Twice"]
    assert twice["inputs"][0]["formula"] is None and twice["inputs"][0]["derivative"]["values"] == [2.0] * 4
    assert "its rule" in str(view)


def test_half_types_and_in_place_changes():
    x = tt.tensor([1.0, 2.0, 3.0], dtype=tt.bfloat16, requires_grad=True)
    y = x * 1
    y[:2] = y[1:] * 2
    z = (tt.tanh(y) * x).sum()
    view = look.trace(z, {"x": x})
    z.backward()
    # the trace shows the sum before it is rounded to 8 bits
    assert total(steps(view)["x"]) == pytest.approx(host(x.grad.float()).tolist(), rel=2 ** -8)


def test_several_elements_need_a_gradient():
    x = leaf([1.0, 2.0])
    with pytest.raises(RuntimeError, match=r"\[trace\] grad can be implicitly created only for scalar outputs"):
        look.trace(x * 2)
    view = look.trace(x * 2, gradient=tt.tensor([1.0, 10.0], dtype=tt.float64))
    assert total(view.data["steps"][-1]) == [2.0, 20.0]


def test_what_cannot_be_traced():
    x = leaf([1.0])
    y = tt.exp(x)
    y.backward()
    with pytest.raises(RuntimeError, match=r"\[trace\] Exp was freed by a backward: call look.trace\(loss\) before"):
        look.trace(y)
    with pytest.raises(ValueError, match=r"\[trace\] the tensor of shape \[1\] has no graph; it is a leaf"):
        look.trace(x)
    with pytest.raises(TypeError, match=r"\[trace\] expected one Tensor"):
        look.trace([tt.exp(x), tt.sin(x)])
    with pytest.raises(TypeError, match=r"\[trace\] expected a Tensor or a list"):
        look.trace(3)


@pytest.fixture(scope="module")
def view():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    with look.record():
        loss = model(tt.ones(2, 2)).square().mean()
    return look.trace(loss, model)


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_text(view, width):
    out = io.StringIO()
    view.print(out, width)
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert width < 80 or ("grad * (1 - y * y)" in text and "2.weight" in text)


def opened(text):
    class Page(html.parser.HTMLParser):
        tags: list = []

        def handle_starttag(self, tag, attrs):
            assert "src" not in dict(attrs) and "href" not in dict(attrs)
            self.tags = [*self.tags, tag]

    page = Page()
    page.feed(text)
    page.close()
    return page


def test_the_page_has_the_graph_and_the_steps(view):
    assert {"svg", "table"} <= set(opened(view.to_html()).tags) and repr(view) == "<look.trace: 5 operators, 4 leaves>"


def test_a_long_chain_is_cut_in_the_text_alone():
    x = h = leaf([0.5])
    for _ in range(300):
        h = tt.sin(h)
    view = look.trace(h, {"x": x})
    assert len(view.data["steps"]) == 301 and len(str(view).splitlines()) < 270 and "181 more" in str(view)


def random_program(r, leaves):
    """A scalar from a random program of 3 x 3 matrices: arithmetic, views, changes in place, several outputs."""
    pool = list(leaves)
    for _ in range(r.integers(1, 20)):
        a, b = (pool[i] for i in r.integers(0, len(pool), 2))
        k = r.integers(0, 11)
        if k == 7:
            t = a * 1
            t[0] = b[1]
        else:
            t = [lambda: a * b, lambda: a + b * 2, lambda: tt.tanh(a), lambda: a @ b / 3, lambda: a.T - b,
                 lambda: tt.cat([a, b])[1:4], lambda: tt.softmax(a, 1), None, lambda: a.sum(0) + b,
                 lambda: tt.where(a > b, a, b), lambda: a.max(1)[0].unsqueeze(1) * a.split(1)[2]][k]()
        pool.append(t)
    return sum(p.sum() for p in pool[-3:])


@pytest.mark.parametrize("turn", range(8))
def test_any_graph_is_drawn_and_traced(turn, rng):
    tensors = {name: leaf(rng.uniform(0.5, 1.5, (3, 3))) for name in "xyz"[:1 + turn % 3]}
    if turn % 2:
        with look.record():
            loss = random_program(rng, tensors.values())
    else:
        loss = random_program(rng, tensors.values())
    for unfold in ((), True):
        view = look.graph(loss, tensors, unfold)
        for width in (20, 60, 120):
            out = io.StringIO()
            view.print(out, width)
            assert max(map(len, out.getvalue().splitlines())) <= width
        ElementTree.fromstring(view.to_svg())
        assert view.to_html() and view.to_dot() and json.loads(view.to_json())
    traced = look.trace(loss, tensors)
    assert str(traced) and traced.to_html()
    loss.backward()
    for name, t in tensors.items():
        assert (t.grad is None) == (name not in steps(traced))
        if t.grad is not None:
            np.testing.assert_allclose(total(steps(traced)[name]), host(t.grad), rtol=1e-12)


def written(view):
    """{name of the operator: the rules as they are printed}"""
    return {s["name"]: [i["written"] for i in s["inputs"]] for s in view.data["steps"] if s["inputs"]}


def test_a_rules_names_are_not_those_of_other_leaves():
    a, b = leaf([2.0]), leaf([3.0])
    leaves = {"a": a, "b": b}
    square = look.trace(a * a + tt.sin(b) * b, leaves)
    rules = written(square)
    sine = next(n["id"] for n in square.data["nodes"] if n["name"] == "Sin")
    products = sorted(s["node"] for s in square.data["steps"] if s["name"] == "Mul")
    by_node = {s["node"]: [i["written"] for i in s["inputs"]] for s in square.data["steps"]}
    assert by_node[products[0]] == ["grad * a", "grad * a"] and by_node[products[1]] == ["grad * b", f"grad * #{sine}"]
    assert rules["Sin"] == ["grad * cos(x)"]  # no leaf is called x
    assert [i["formula"] for s in square.data["steps"] if s["node"] == products[0] for i in s["inputs"]] == [
        "grad * b", "grad * a"]
    text = str(square)
    assert text.count("grad * a") == 2 and text.count("grad * b") == 1 and f"grad * #{sine}" in text

    assert written(look.trace(a * b, leaves)) == {"Mul": ["grad * b", "grad * a"]}
    assert written(look.trace(b * a, leaves)) == {"Mul": ["grad * a", "grad * b"]}
    assert written(look.trace(a * a, {"w": a})) == {"Mul": ["grad * b", "grad * a"]}
    assert written(look.trace(tt.exp(tt.sin(a)), {"y": a})) == {"Exp": ["grad * #2"], "Sin": ["grad * cos(x)"]}
    assert written(look.trace(tt.sin(tt.exp(a)), {"x": a}))["Sin"] == ["grad * cos(#1)"]
    assert written(look.trace(a * 5, {"b": a})) == {"Mul": ["grad * 5"]}
    assert written(look.trace(tt.tanh(a), {"grad": a})) == {"Tanh": ["grad(#1) * (1 - #1 * #1)"]}
    w = leaf([[1.0, 2.0]])
    both = look.trace((w @ w.T).sum() * a.sum(), {"a": w, "b": a})
    assert written(both)["Gemm"] == ["grad @ #1.T", "a.T @ grad"]
    constant = look.trace(tt.tensor([4.0], dtype=tt.float64) * a, {"b": b, "a": a})
    assert written(constant)["Mul"] == ["grad * constant"]


# operators explained


UNARY = """abs acos acosh asin asinh atan atanh cos cosh erf erfc erfinv exp exp2 expm1 log log10 log1p log2 neg
reciprocal rsqrt sigmoid sin sinh sqrt square tan tanh""".split()


@pytest.mark.parametrize("name", [n for n in UNARY if n.replace("_", "") in {k.lower() for k in REGISTRY}])
def test_a_formula_is_the_gradient(name, rng):
    x0 = rng.uniform(0.2, 0.8, (2, 2)) + (name == "acosh")
    x, grad = leaf(x0), tt.tensor(rng.standard_normal((2, 2)))
    y = getattr(tt, name)(x)
    data = look.explain(y).data
    (g,) = data["gradients"]
    y.backward(grad)
    named = {f: getattr(tt, f) for f in dir(tt) if callable(getattr(tt, f)) and f.islower()}
    got = eval(g["formula"], {**named, "grad": grad, data["inputs"][0]: x.detach(), "y": y.detach()})
    np.testing.assert_allclose(host(got), host(x.grad), rtol=1e-13)
    same = look.explain(name).data
    assert [g["formula"] for g in same["gradients"]] == [g["formula"] for g in data["gradients"]]


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "pow", "matmul"])
def test_formulas_of_two_operands(name, rng):
    a, b = leaf(rng.uniform(0.5, 2, (2, 2))), leaf(rng.uniform(0.5, 2, (2, 2)))
    grad = tt.tensor(rng.standard_normal((2, 2)))
    y = getattr(tt, name)(a, b)
    data = look.explain(y).data
    y.backward(grad)
    for g, t in zip(data["gradients"], (a, b)):
        if name == "pow":
            assert g["formula"].startswith("grad * where(condition, ")
            continue
        got = eval(g["formula"], {"grad": grad, "a": a.detach(), "b": b.detach(), "y": y.detach()})
        np.testing.assert_allclose(host(got), host(t.grad), rtol=1e-13, err_msg=g["formula"])


def test_formulas_of_rules_that_hand_on_arrays():
    relu = look.explain("relu").data
    assert [g["formula"] for g in relu["gradients"]] == ["relu_backward(grad, y)"]
    for name in sorted(REGISTRY):
        try:
            data = look.explain(name).data
        except ValueError:  # one that has no example
            continue
        for g in data["gradients"]:
            assert "array(" not in (g["formula"] or "") and "np." not in (g["formula"] or ""), name


def test_explanations_say_what_they_should():
    data = look.explain("mul").data
    assert data["name"] == "Mul" and data["forward"] == "y = a * b" and data["inputs"] == ["a", "b"]
    assert [g["formula"] for g in data["gradients"]] == ["grad * b", "grad * a"]
    assert data["doc"] == REGISTRY["Mul"].__doc__ and "def backward(node, grad):" in data["rule"]
    x = leaf([[1.0, 2.0]])
    soft = look.explain(tt.log_softmax(x, 1)).data
    assert soft["gradients"][0]["formula"] == "log_softmax_backward(grad, y)"
    assert soft["uses"]["log_softmax_backward"].startswith("grad - exp(y) * sum(grad)")
    half = look.explain(x * tt.ones(1, 2, dtype=tt.float64)).data
    assert [g["needs"] for g in half["gradients"]] == [True, False]
    assert look.explain(tt.tanh).data["name"] == look.explain(REGISTRY["Tanh"]).data["name"] == "Tanh"
    assert look.explain("log_softmax").data["note"] == "read off an example: x f64[2,3], y f64[2,3]"
    assert look.explain("isnan").data["note"] == "it has no gradient"
    assert "derivative" in look.explain("sin").data["rule"] or "ops.cos" in look.explain("sin").data["rule"]


def test_every_operator_is_explained_in_80_columns():
    for name, cls in REGISTRY.items():
        view = look.explain(cls)
        assert max(map(len, str(view).splitlines())) <= 80 and view.data["doc"]
        assert cls.differentiable == bool(view.data["gradients"]), name


# derivatives of derivatives and recurrences of a page: their source says more than a formula
LONG = {"ScatterProd": "x, src", "LinalgCholesky": "a", "CumProd": "x", "NormalizeBackward": "grad, x, weight",
        "GELUTanhBackward": "x", "GatedBackward": "a"}


@pytest.mark.parametrize("name", [n for n, cls in REGISTRY.items() if cls.differentiable])
def test_every_input_that_needs_a_gradient_has_a_formula(name):
    data = look.explain(name).data
    long = LONG.get(name, "").split(", ")
    assert not LONG.get(name) or f"longer than a line for {LONG[name]}: read the rule's source" in data["note"]
    needing = [g for g in data["gradients"] if g["needs"]]
    assert needing
    variables = {*data["inputs"], *data["outputs"], *data["arrives"]}
    assert len(data["arrives"]) == len(data["outputs"])
    assert len(variables) == len(data["inputs"]) + 2 * len(data["outputs"])  # no two of a name
    variables.add("condition")
    known = {n.replace("_", "").lower() for n in (*REGISTRY, *PUBLIC)}
    for g in needing:
        assert (g["formula"] is None) == (g["input"] in long), g
        text = g["formula"] or ""
        made = re.findall(r"\b[a-z]+\d+\[[\d,]*\]|\bbool\[[\d,]*\]", text)
        assert all(m in data["note"] for m in made), (made, data["note"])
        for array in made:
            text = text.replace(array, "0")
        for word, call in re.findall(r"(?<![\w.=])([A-Za-z]\w*)\b(?!=)(\(?)", text):
            operator = re.sub(r"_|\dd", "", word)  # conv2d is Conv
            assert operator in known if call else word in variables, (word, text)


def _row(f):
    return lambda x: f(x, axis=1, keepdims=True) if x.ndim == 2 else f(x)


def _turned(f, x, reverse):
    return f(x[:, ::-1], axis=1)[:, ::-1] if reverse else f(x, axis=1)


def _softmax(x):
    e = np.exp(x)
    return e / e.sum(1, keepdims=True)


def _gelu_slope(g, x):
    return g * ((1 + np.vectorize(math.erf)(x / 2 ** 0.5)) / 2 + x * np.exp(-x * x / 2) / (2 * np.pi) ** 0.5)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


# what the names in formulas mean, for matrices, along the dimension 1 of the examples
MEANING = {
    **{f: getattr(np, f) for f in """exp sin cos sinh cosh log floor trunc real imag""".split()},
    "sgn": np.sign, "reciprocal": lambda x: 1 / x, "rsqrt": lambda x: x ** -0.5, "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x), "clamp": lambda x, low, high=None: np.clip(x, low, high), "softmax": _softmax,
    "sum": _row(np.sum), "mean": _row(np.mean), "reshape": lambda x: x[:, None] if x.ndim == 1 else x,
    "expand": lambda x: x, "transpose": np.transpose, "permute": lambda x: np.transpose(x, (1, 2, 0)),
    "complex": lambda a, b: a + 1j * b, "linalg_inv": np.linalg.inv, "linalg_solve": np.linalg.solve,
    "tril": np.tril, "triu": np.triu, "cumsum": lambda x, reverse=False: _turned(np.cumsum, x, reverse),
    "cumprod": lambda x, reverse=False: _turned(np.cumprod, x, reverse), "flip": lambda x: x[:, ::-1],
    "roll": lambda x, shifts: np.roll(x, shifts, 1),
    "cat": lambda a, b: np.concatenate([a, b], 1),
    "stack": lambda a, b: np.stack([a, b]), "relu_backward": lambda g, y: g * (y > 0),
    "silu_backward": lambda g, x: g * (_sigmoid(x) * (1 + x * (1 - _sigmoid(x)))), "gelu_backward": _gelu_slope,
    "softmax_backward": lambda g, y: y * (g - (g * y).sum(1, keepdims=True)),
    "log_softmax_backward": lambda g, y: g - np.exp(y) * g.sum(1, keepdims=True),
}


def applied(cls):
    """The example of an operator: (its inputs, its outputs as Tensors)."""
    out = EXAMPLES[cls.__name__]() if cls.__name__ in EXAMPLES else None
    for n in (1, 2, 3):
        if out is None:
            try:
                out = cls.apply(*(example_leaf(2, 2, at=0.2 + k / 8) for k in range(n)))
            except Exception:
                continue
    outs = out if isinstance(out, tuple) else (out,)
    node = next(t.grad_fn for t in outs if t.requires_grad)
    sources = [None if e is None else endpoint(e)[0] for e in node.edges]
    if type(node) is not cls or not all(s is None or s.__class__ is AccumulateGrad for s in sources):
        return None
    return [s and s.variable for s in sources], [t for t in outs if t.requires_grad]


def test_formulas_are_the_gradients(rng):
    checked, seen = 0, set()
    for name, cls in REGISTRY.items():
        found = applied(cls) if cls.differentiable else None
        if found is None:
            continue
        inputs, outs = found
        if max(t.ndim for t in (*filter(lambda t: t is not None, inputs), *outs)) > 2:
            continue
        data = look.explain(cls).data
        grads = [tt.tensor(rng.standard_normal(t.shape), dtype=t.dtype) for t in outs]
        tt.autograd.backward(outs, grads)
        values = dict(zip([*data["outputs"], *data["arrives"]], map(host, [*outs, *grads])))
        values |= {n: host(t) for n, t in zip(data["inputs"], inputs) if t is not None}
        for g, t in zip(data["gradients"], inputs):
            words = set(re.findall(r"\b[a-z]\w*\b(?!=)", g["formula"] or "condition"))
            if t is None or words - {*MEANING, *values} or name in ("Reshape", "Repeat"):  # sizes are not in the text
                continue
            got = np.array(eval(g["formula"], {"__builtins__": {}}, {**values, **MEANING}))
            want = host(t.grad)
            while got.ndim > want.ndim:
                got = got.sum(0)
            for k, n in enumerate(want.shape):
                got = got.sum(k, keepdims=True) if n == 1 else got
            np.testing.assert_allclose(np.broadcast_to(got, want.shape), want, rtol=1e-12, atol=1e-14,
                                       err_msg=f"{name}: {g}")
            checked += 1
            seen.add(name)
    assert checked > 90
    assert {"Sum", "Mean", "Var", "Softmax", "LogSoftmax", "SoftmaxBackward", "LogSoftmaxBackward", "Linear", "AddMm",
            "Transpose", "Tril", "CumSum", "Roll", "MSELoss", "HuberLoss", "ReLU", "Split"} <= seen


def test_examples_are_of_known_operators_and_leave_no_mark():
    assert EXAMPLES.keys() <= REGISTRY.keys()
    before = tt.get_rng_state()
    plain = look.explain("attention").data, look.explain("dropout").data, look.explain("linear").data
    assert np.array_equal(host(before), host(tt.get_rng_state()))
    with tt.no_grad(), tt.autocast("cpu", dtype=tt.bfloat16):
        assert look.explain("linear").data == plain[2] and not tt.is_grad_enabled() and tt.is_autocast_enabled("cpu")
    with tt.inference_mode():
        assert look.explain("attention").data == plain[0] and tt.is_inference_mode_enabled()


def test_where_no_formula_is_found_the_note_says_so():
    assert look.explain("amax").data["note"].endswith("f64[2,3]: made by the rule without a formula, read its source")
    linear = look.explain("linear").data
    assert linear["note"].endswith("what goes to bias is then summed to its shape") and linear["inputs"][2] == "bias"
    assert look.explain("prod").data["gradients"][0]["formula"] == (
        "reshape(grad) * (shift(cumprod(x), by=1) * shift(cumprod(x, reverse=True), by=-1))")
    assert look.explain("rotary").data["gradients"][0]["formula"] == "rotary(grad, cos, sin, inverse=True)"
    text = str(look.explain("cumprod"))
    assert "by its rule" in text and "longer than a line for x" in text and "def backward" in text


def test_an_explanation_drawn(tmp_path):
    view = look.explain("div")
    text = str(view)
    assert all(line in text for line in ("a ─", "← grad / b", "│ Div │──→ y", "│←── grad"))
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    view.print(stream, 60)
    root = ElementTree.fromstring(view.save(tmp_path / "div.svg").read_text(encoding="utf-8"))
    words = {t.text for t in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"a", "b", "Div", "y", "grad", "grad / b"} <= words
    assert {"svg", "table", "pre"} <= set(opened(view.to_html()).tags) and repr(view) == "<look.explain: Div>"
    opened(look.explain("log_softmax").to_html())
    with pytest.raises(ValueError, match=r"\[save\] there is nothing to draw: Isnan: it has no gradient"):
        look.explain("isnan").save(tmp_path / "x.svg")


def test_an_operator_of_several_outputs_drawn():
    text = str(look.explain("gated_backward"))
    assert "│ GatedBackward │──→ y0, y1" in text and "│←── h0, h1" in text


def test_a_users_own_operators():
    class Cube(tt.autograd.Function):
        """x ** 3."""

        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x ** 3

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * 3 * x ** 2

    class Twice(tt.autograd.Pointwise):
        """2 x."""

        __slots__ = ()

        def forward(node, x):
            return x * 2

        def backward(node, grad):
            return tt.mul(grad, 2)

    for op in (Cube, Cube.apply(leaf([1.0])), Cube.apply(leaf([1.0])).grad_fn):
        data = look.explain(op).data
        assert (data["name"], data["doc"]) == ("Cube", "x ** 3.") and "return grad * 3 * x ** 2" in data["rule"]
        assert "Function" in data["note"] or "backward of its own" in data["note"]
    data = look.explain(Twice).data
    assert data["forward"] == "y = twice(x)" and data["gradients"][0]["formula"] == "grad * 2"


def test_complex_values_are_written_as_numbers(rng, tmp_path):
    z = tt.tensor(np.array([1 + 2j, 3 - 1j]), requires_grad=True)
    w = tt.tensor(np.array([[0.5 - 1j]]), requires_grad=True)
    with look.record():
        loss = (z * w).abs().square().sum()  # |z|^2 |w|^2, whose gradient is 2 z |w|^2
    view = look.trace(loss)
    assert view.data["nodes"][-1]["outputs"][0]["value"]["values"] == [[[0.5, -1.0]]]  # pairs in the data
    out = io.StringIO()
    view.print(file=out, width=200)
    for text in (view.to_html(), out.getvalue()):
        for shown in ("[1+2j, 3-1j]", "0.5-1j", "[2.5+0j, 0.5-3.5j]",  # z, w, z w
                      "[2.5+5j, 7.5-2.5j]", "15-30j"):  # 2 z |w|^2, 2 w |z|^2 over all of z
            assert shown in text, shown
        assert "[[1, 2], [3, -1]]" not in text
    many = tt.tensor(rng.standard_normal(20) + 1j * rng.standard_normal(20), requires_grad=True)
    out = io.StringIO()
    look.trace((many * 2).abs().sum()).print(file=out, width=200)
    sizes = np.abs(many.detach().cpu().numpy())
    least, most = (f"{x:.3g}" for x in (sizes.min(), sizes.max()))
    assert f"{least} to {most} (of magnitudes)" in out.getvalue()


def test_what_cannot_be_explained():
    with pytest.raises(ValueError, match=r"\[explain\] no operator or function is called 'tanhh'; near to it are Tanh"):
        look.explain("tanhh")
    with pytest.raises(ValueError, match="applies Mul, Add: explain one of them, or look.graph of its result"):
        look.explain(tt.addcmul)
    with pytest.raises(ValueError, match=r"\[explain\] the tensor has no grad_fn"):
        look.explain(tt.ones(2))
    with pytest.raises(TypeError, match=r"\[explain\] expected an operator's name, class or function, .* got int"):
        look.explain(3)
    x = leaf([1.0])
    y = tt.exp(x)
    y.backward()
    with pytest.raises(RuntimeError, match="second time"):
        look.explain(y)
