"""look.graph and look.record: nodes, norms, saved bytes, lines, modules, folding; what stays behind (nothing)."""
from __future__ import annotations

import gc
import io
import json
import re
import threading
import weakref

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn
from tinytorch_gpu.autograd import modes
from tinytorch_gpu.autograd.modes import detect_anomaly
from tinytorch_gpu.nn import hooks as module_hooks
from tinytorch_gpu.utils.checkpoint import checkpoint

F = nn.functional


class Block(nn.Module):
    def __init__(self, dim, wide):
        super().__init__()
        self.up, self.down = nn.Linear(dim, wide), nn.Linear(wide, dim)

    def forward(self, x):
        return x + self.down(tt.tanh(self.up(x)))


class Net(nn.Module):
    def __init__(self, depth, dim=6, wide=10):
        super().__init__()
        self.first = nn.Linear(3, dim)
        self.layers = nn.ModuleList([Block(dim, wide) for _ in range(depth)])

    def forward(self, x):
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return x.square().mean()


def leaf(*values):
    return tt.tensor(np.array(values, np.float64), requires_grad=True)


def host(t):
    return t.detach().cpu().numpy()


def recorded(depth=3, batch=4, backward=True, **sizes):
    model = Net(depth, **sizes)
    with look.record():
        loss = model(tt.ones(batch, 3))
        if backward:
            loss.backward()
    return model, loss, look.graph(loss)


def operators(view):
    return [n for n in view.data["nodes"] if n["kind"] == "operator"]


def leaves(view):
    return {n["name"]: n for n in view.data["nodes"] if n["kind"] == "leaf"}


def groups(items, kind):
    """All groups of a kind in the plain tree."""
    for item in items:
        if "node" in item:
            continue
        if item["kind"] == kind:
            yield item
        for part in item.get("parts", [item.get("items", [])]):
            yield from groups(part, kind)


# what is there


def test_shared_nodes_are_there_once():
    x, y = leaf(3.0), leaf(2.0)
    with look.record():
        z = (x + y) * (x - y)
        z.backward()
    view = look.graph(z, {"x": x, "y": y})
    assert [n["name"] for n in operators(view)] == ["Add", "Sub", "Mul"] and set(leaves(view)) == {"x", "y"}
    add, sub, mul = operators(view)
    ids = {name: n["id"] for name, n in leaves(view).items()}
    assert [[e["node"] for e in n["inputs"]] for n in (add, sub, mul)] == [
        [ids["x"], ids["y"]], [ids["x"], ids["y"]], [add["id"], sub["id"]]]
    assert [n["outputs"][0]["value"]["values"] for n in (add, sub, mul)] == [[5.0], [1.0], [5.0]]
    assert [n["outputs"][0]["gradient"]["values"] for n in (add, sub, mul)] == [[1.0], [5.0], [1.0]]
    assert [e["gradient"]["values"] for n in (add, sub) for e in n["inputs"]] == [[1.0], [1.0], [5.0], [-5.0]]
    assert leaves(view)["x"]["outputs"][0]["gradient"]["values"] == [6.0]  # 1 + 5: where two meet
    assert leaves(view)["y"]["outputs"][0]["gradient"]["values"] == [-4.0]
    assert view.data["outputs"] == [{"node": mul["id"], "output": 0}] and not view.data["missing"]


def test_figures_are_those_of_the_arrays(rng):
    w = tt.tensor(rng.standard_normal((5, 4)), requires_grad=True)
    b = tt.tensor(rng.standard_normal(4), requires_grad=True)
    x = tt.tensor(rng.standard_normal((7, 5)))
    with look.record():
        h = x @ w + b
        h.retain_grad()
        loss = (h * h).sum()
        loss.backward()
    view = look.graph(loss, {"w": w, "b": b})
    add = next(n for n in operators(view) if n["name"] == "Add")["outputs"][0]
    want = host(h)
    assert add["value"] == {k: pytest.approx(v, rel=1e-12) for k, v in dict(
        norm=np.linalg.norm(want), mean=want.mean(), min=want.min(), max=want.max()).items()}
    assert add["gradient"]["norm"] == pytest.approx(np.linalg.norm(host(h.grad)), rel=1e-12)
    for name, t in (("w", w), ("b", b)):
        assert leaves(view)[name]["outputs"][0]["gradient"]["norm"] == pytest.approx(
            np.linalg.norm(host(t.grad)), rel=1e-12)
    # the bias was broadcast: its edge carries what is summed over the batch
    edge = next(n for n in operators(view) if n["name"] == "Add")["inputs"][1]
    assert edge["shape"] == [4] and edge["gradient"]["values"] == pytest.approx(host(b.grad).tolist(), rel=1e-12)


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("width", [8, 32])
def test_saved_bytes_grow_exactly_with_depth_and_width(depth, width):
    h = x = tt.ones(width, requires_grad=True)
    for _ in range(depth):
        h = tt.tanh(h)
    totals = look.graph(h.sum()).data["totals"]
    assert totals["saved_bytes"] == depth * width * 4 and totals["operators"] == depth + 1
    assert totals["leaf_bytes"] == width * 4
    assert x.grad is None  # looking is no backward


def test_memory_is_counted_once_and_by_its_base():
    w = tt.ones(6, 8, requires_grad=True)
    h = tt.exp(w)  # saves its output, 192 bytes
    part = h[:2]
    y = part * part  # saves a view of that output, twice
    view = look.graph(y.sum())
    exp, mul = (next(n for n in operators(view) if n["name"] == name) for name in ("Exp", "Mul"))
    assert exp["saved_bytes"] == 192 and mul["saved_bytes"] == 0
    assert [(s["bytes"], s["memory_bytes"], s["counted"]) for s in mul["saved"]] == [(64, 192, False)] * 2
    assert view.data["totals"]["saved_by_kind"] == {"activation": 192, "input": 0, "constant": 0, "packed": 0,
                                                    "parameter": 0}
    keep = look.graph((h.detach().clone()[:2] * w[:2]).sum())  # a view alone keeps all of its memory
    mul = next(n for n in operators(keep) if n["name"] == "Mul")
    assert mul["saved_bytes"] == 192 and [s["what"] for s in mul["saved"]] == ["input"]


def test_parameters_among_the_saved_are_flagged():
    w, x = tt.ones(5, 3, requires_grad=True), tt.ones(4, 5)
    view = look.graph((tt.exp(x @ w) @ w.T).sum())
    matmuls = [n for n in operators(view) if n["name"] == "Gemm"]
    assert [[s["what"] for s in n["saved"]] for n in matmuls] == [["input"], ["activation", "parameter"]]
    assert view.data["totals"]["saved_by_kind"]["parameter"] == 60
    assert view.data["totals"]["saved_bytes"] == 4 * 5 * 4 + 4 * 3 * 4


def test_what_a_backward_freed_is_said_or_was_recorded():
    x = tt.ones(8, requires_grad=True)
    loss = tt.exp(x).sum()
    loss.backward()
    view = look.graph(loss)
    assert [n["saved_bytes"] for n in operators(view)] == [None, 0] or operators(view)[0]["saved_bytes"] is None
    assert view.data["totals"]["freed"] >= 1 and any("freed" in m for m in view.data["missing"])
    assert "freed" in str(view)
    with look.record():
        loss = tt.exp(x).sum()
        loss.backward()
    view = look.graph(loss)
    assert view.data["totals"]["freed"] == 0 and view.data["totals"]["saved_bytes"] == 32


def test_inputs_that_need_no_gradient_are_shown_where_recorded():
    w, x = tt.ones(3, requires_grad=True), tt.ones(3)
    with look.record():
        loss = (w * x * 2.5).sum()
    first, second, _ = operators(look.graph(loss, {"w": w}))
    assert first["inputs"][1] == {"node": None, "output": None, "shape": [3], "dtype": "float32", "literal": None,
                                  "gradient": None}
    assert second["inputs"][1]["literal"] == "2.5" and "#1, 2.5" in str(look.graph(loss))


def test_several_losses_and_several_outputs():
    x = leaf(1.0, 2.0, 3.0, 4.0)
    a, b = x.chunk(2)
    top, _ = a.max(0)
    view = look.graph([top, b.sum()])
    assert len(view.data["outputs"]) == 2 and len(leaves(view)) == 1
    assert all(n["outputs"] for n in operators(view))
    split = next(n for n in operators(view) if len(n["outputs"]) == 2 and n["name"] != "Max")
    used = {(e["node"], e["output"]) for n in operators(view) for e in n["inputs"] if e["node"] == split["id"]}
    assert used == {(split["id"], 0), (split["id"], 1)} and f"#{split['id']}.1" in str(view)


def test_complex_half_empty_and_integer_outputs():
    z = tt.tensor(np.array([3 + 4j, 0]), requires_grad=True)
    h = tt.tensor(np.ones((2, 20)), dtype=tt.bfloat16, requires_grad=True)
    e = tt.ones(0, 3, requires_grad=True)
    with look.record():
        out = [(z * 1).abs().sum(), (h * 2).sum(), (e * 2).sum(), h.max(1)[0].sum()]
        for o in out:
            o.backward()
    view = look.graph(out)
    by = {tuple(n["outputs"][0]["shape"]): n["outputs"][0] for n in operators(view) if n["name"] == "Mul"}
    assert by[2,]["value"]["values"] == [[3.0, 4.0], [0.0, 0.0]] and by[2,]["value"]["max"] == 5.0
    assert by[2, 20]["value"]["norm"] == pytest.approx((40 * 4) ** 0.5)
    assert by[0, 3]["value"] == {"norm": 0.0, "mean": None, "min": None, "max": None}
    assert str(view) and view.to_html()
    data = json.loads(re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', view.to_html(), re.S)[1])
    values = [o["value"]["values"] for n in data["nodes"].values() for o in n["out"] if "values" in o.get("value", ())]
    assert "[3+4j, 0+0j]" in values and [[3.0, 4.0], [0.0, 0.0]] not in values


@pytest.mark.parametrize("steps", [9, 120])
def test_the_count_of_a_repeat_stands_in_narrow_columns(steps):
    h, x = tt.ones(3, requires_grad=True), tt.ones(3)
    for _ in range(steps):
        h = tt.tanh(h * 2 + x)
    view = look.graph(h.sum())
    (group,) = [item for item in view.data["folded"] if item.get("kind") == "repeat"]
    count = group["count"]
    assert count == sum(n["name"] == "Tanh" for n in operators(view)) - 1 == steps - 1
    for width in (45, 60, 80, 200):
        out = io.StringIO()
        view.print(file=out, width=width)
        assert re.search(rf"^{count} × \(Add, ", out.getvalue(), re.M), width
    assert f"{count} × (Add, Tanh, Mul)" in view.to_svg() and "Add, Tanh, Mul" == group["label"]
    assert "×" not in str(look.graph(h.sum(), unfold="Add, Tanh, Mul")).split("leaf ")[0]


# lines and modules


def test_the_users_line():
    x = leaf(1.0)
    with look.record():
        y = tt.exp(x)  # this very line
    line = operators(look.graph(y))[0]["line"]
    assert line["file"] == __file__ and line["source"] == "y = tt.exp(x)  # this very line"
    assert line["function"] == "test_the_users_line"
    with detect_anomaly():
        y = tt.exp(x) * 2
    view = look.graph(y)
    assert operators(view)[0]["line"]["number"] == line["number"] + 5
    assert any(m.startswith("modules and norms are not known") for m in view.data["missing"])
    view = look.graph(tt.exp(x))
    assert operators(view)[0]["line"] is None
    assert any(m.startswith("lines, modules and norms are not known: run") for m in view.data["missing"])


def test_lines_of_the_packages_own_programs_are_a_users_lines():
    from tinytorch_gpu.examples import gpt

    settings = gpt.Settings()
    settings.layers, settings.dim, settings.table = 3, 16, 8
    model = gpt.GPT(settings)  # it gives the names, as long as it is there
    with look.record():
        out = model(tt.tensor(np.zeros((1, 4), np.int64)))
    view = look.graph(out)
    files = {n["line"]["file"].replace("\\", "/").rpartition("/")[2] for n in operators(view)}
    assert files == {"gpt.py"}
    assert ("Block", 3) in [(r["label"], r["count"]) for r in groups(view.data["folded"], "repeat")]
    table = leaves(view)["bytes.weight"]["id"]  # it embeds, and is the last layer
    assert sum(e["node"] == table for n in operators(view) for e in n["inputs"]) == 2


def test_an_error_in_a_recorded_backward_names_the_line():
    x = leaf(1.0, 2.0)
    with look.record():
        y = x * x  # the line of the error
        x.data.mul_(1)
        y.backward(tt.tensor([1.0, 1.0], dtype=tt.float64))
        z = tt.exp(x)
        with tt.no_grad():
            z.mul_(2)
        with pytest.raises(RuntimeError, match="z = tt.exp"):
            z.sum().backward()


def test_modules_and_the_names_of_their_parameters():
    model, _, view = recorded(depth=2)
    calls = view.data["modules"]
    assert [(c["class"], c["name"]) for c in calls] == [
        ("Net", ""), ("Linear", "first"), ("Block", "layers.0"), ("Linear", "layers.0.up"),
        ("Linear", "layers.0.down"), ("Block", "layers.1"), ("Linear", "layers.1.up"), ("Linear", "layers.1.down")]
    assert calls[3]["parent"] == 2 and calls[2]["parent"] == 0 and calls[0]["parent"] is None
    place = {n["id"]: calls[n["module"]]["name"] for n in operators(view)}
    tanh = [n["id"] for n in operators(view) if n["name"] == "Tanh"]
    assert [place[i] for i in tanh] == ["layers.0", "layers.1"]
    assert set(leaves(view)) == {name for name, _ in model.named_parameters()}


def test_a_model_gives_names_without_recording():
    model = Net(1)
    loss = model(tt.ones(2, 3))
    assert set(leaves(look.graph(loss, model))) == {name for name, _ in model.named_parameters()}
    assert set(leaves(look.graph(loss))) == {f"leaf {i}" for i in range(1, 7)}
    with pytest.raises(TypeError, match=r"\[graph\] expected a Module or a dictionary"):
        look.graph(loss, [model])
    with pytest.raises(TypeError, match="'a' is a int"):
        look.graph(loss, {"a": 1})
    for t in (loss, tt.ones(2)):
        with pytest.raises(ValueError, match=r"\[graph\] 'a' is no leaf"):
            look.graph(loss, {"a": t})


def test_a_module_that_raises_leaves_no_name_behind():
    class Bad(nn.Module):
        def forward(self, x):
            raise ValueError("no")

    model, x = nn.Linear(2, 2), tt.ones(1, 2)
    with look.record():
        with pytest.raises(ValueError, match="no"):
            Bad()(x)
        y = model(x)
    assert [c["class"] for c in look.graph(y).data["modules"]] == ["Linear"]


def test_a_module_added_while_recording_has_a_name():
    model = nn.Sequential(nn.Linear(2, 2))
    with look.record():
        model(tt.ones(1, 2))
        model.append(nn.Linear(2, 2))
        y = model(tt.ones(1, 2))
    assert [c["name"] for c in look.graph(y).data["modules"]] == ["", "0", "1"]


# folding


@pytest.mark.parametrize("depth", [2, 3, 12])
def test_repeated_blocks_are_folded(depth):
    _, _, view = recorded(depth=depth)
    (repeat,) = groups(view.data["folded"], "repeat")
    assert (repeat["label"], repeat["count"]) == ("Block", depth) and repeat["operators"] == 4 * depth
    assert repeat["name"] == f"layers.0 ... layers.{depth - 1}"
    assert f"{depth} × Block" in str(view)


def test_a_block_that_differs_is_not_folded():
    model = Net(4)
    model.layers[2] = Block(6, 11)
    with look.record():
        loss = model(tt.ones(2, 3))
    view = look.graph(loss)
    (repeat,) = groups(view.data["folded"], "repeat")
    assert repeat["name"] == "layers.0 ... layers.1" and {g["name"] for g in groups(view.data["folded"], "module")} >= {
        "layers.2", "layers.3"}


@pytest.mark.parametrize("times", [3, 40])
def test_repeats_without_modules_are_folded(times):
    h = x = tt.ones(4, requires_grad=True)
    for _ in range(times):
        h = tt.tanh(h * x) + h
    view = look.graph(h.sum())
    (repeat,) = groups(view.data["folded"], "repeat")
    # where x is the first h too, the first turn hangs together in another way
    assert repeat["label"] == "Mul, Tanh, Add" and repeat["count"] == times - 1
    assert sum(g["operators"] for g in groups(view.data["folded"], "repeat")) == 3 * (times - 1)


def test_alike_by_name_but_not_in_how_they_hang_together():
    x = tt.ones(4, requires_grad=True)
    a = tt.exp(x)
    b = tt.exp(a)
    for k in range(6):
        c = a * b if k % 2 else b * b  # one of two inputs, in turn
        a, b = b, tt.exp(c)
    for item in groups(look.graph(b.sum()).data["folded"], "repeat"):
        assert item["count"] <= 3, item["label"]


def test_unfolding():
    _, loss, view = recorded(depth=6)

    def rows(unfold):
        return str(look.graph(loss, unfold=unfold))

    assert "#24" not in str(view) and 'unfold="Block") or unfold=True shows more' in str(view)
    whole = rows(True)
    assert "shows more" not in whole
    assert all(f"#{n['id']} " in whole for n in operators(view)) and "×" not in whole
    one = look.graph(loss, unfold="layers.3")
    assert [(r["label"], r["count"]) for r in groups(one.data["folded"], "repeat")] == [("Block", 3), ("Block", 2)]
    tanh = [n["id"] for n in operators(view) if n["name"] == "Tanh"]
    assert f"#{tanh[3]} Tanh" in str(one) and f"#{tanh[5]} Tanh" not in str(one)
    inner = look.graph(loss, unfold="Linear")  # what leads to one is open too
    assert not list(groups(inner.data["folded"], "repeat")) and str(inner).count("Linear layers.") == 0
    assert str(inner).count("Linear up") == 6
    assert "×" not in rows("Block") and "×" not in rows(["layers.1", "Block"])
    with pytest.raises(ValueError, match=r"\[graph\] nothing to unfold is called 'layers.9'; there are .*layers.0"):
        look.graph(loss, unfold="layers.9")
    h = x = tt.ones(2, requires_grad=True)
    for _ in range(9):
        h = tt.exp(h)
    assert list(groups(look.graph(h, unfold="Exp").data["folded"], "repeat")) == [] and x.grad is None


@pytest.mark.parametrize("pattern", ["alike", "mixed", "modules"])
def test_ten_thousand_operators_fit_a_screen_folded(pattern, rng):
    x = h = tt.ones(2, requires_grad=True)
    if pattern == "modules":
        model = Net(300, dim=2, wide=1)  # recording takes longer
        with look.record():
            h = model(tt.ones(1, 3))
    else:
        choices = rng.integers(0, 4, 10_000) if pattern == "mixed" else [0] * 10_000
        functions = [tt.tanh, lambda v: v * 0.5, lambda v: v + x, tt.sin]
        for i in choices:
            h = functions[i](h)
    view = look.graph(h)
    assert view.data["totals"]["operators"] == (300 * 4 + 3 if pattern == "modules" else 10_000)
    text = str(view).splitlines()
    assert len(text) <= 60 and max(map(len, text)) <= 80
    assert view.to_svg().count("<rect") < 150 and view.to_dot().count("[shape") < 150
    shown = set()

    def walk(items):
        for item in items:
            if "node" in item:
                shown.add(item["node"])
            for part in item.get("parts", [item.get("items", [])]):
                walk(part)

    walk(view.data["folded"])
    assert shown == {n["id"] for n in operators(view)}  # folded, and nothing lost


# unusual graphs


def test_what_has_no_graph():
    x = leaf(1.0)
    with pytest.raises(ValueError, match=r"\[graph\] the tensor of shape \[1\] has no graph; it is a leaf"):
        look.graph(x)
    with tt.no_grad():
        y = x * 2
    for t in (y, (x * 2).detach(), tt.ones(2)):
        with pytest.raises(ValueError, match=r"no_grad\(\), by detach\(\)"):
            look.graph(t)
    with pytest.raises(ValueError, match="empty list"):
        look.graph([])
    with pytest.raises(TypeError, match=r"\[graph\] expected a Tensor or a list of them, got float"):
        look.graph(1.0)


def test_a_gradient_that_belongs_to_another_graph_is_not_shown():
    x = leaf(1.0)
    with look.record():
        first, second = x * 2, x * 3
        first.backward()
    assert leaves(look.graph(first))["leaf 1"]["outputs"][0]["gradient"]["values"] == [2.0]
    view = look.graph(second)
    assert leaves(view)["leaf 1"]["outputs"][0]["gradient"] is None
    assert any(m.startswith("gradient norms are not known: run backward()") for m in view.data["missing"])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_call_that_was_broken_off_is_over(error):
    """A program that goes on after an error, or Ctrl-C, inside a module's call is outside of that module."""
    class Fragile(nn.Module):
        broken = True

        def forward(self, x):
            if self.broken:
                raise error
            return x * 2

    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(Fragile(), nn.Linear(2, 2)))
    with look.record():
        with pytest.raises(error):
            model(tt.ones(1, 2))
        model[1][0].broken = False
        loss = model(tt.ones(1, 2)).sum()
    data = look.graph(loss).data
    assert [m["name"] for m in data["modules"]] == ["", "0", "1", "1.0", "1.1"]
    assert next(n["module"] for n in data["nodes"] if n["name"] == "Sum") is None


def test_functions_checkpoints_and_changes_in_place():
    class Twice(tt.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    x = tt.zeros(10, requires_grad=True)
    with look.record():
        a = Twice.apply(tt.exp(x))
        b = checkpoint(lambda v: tt.exp(tt.exp(v)), a)
        c = b * 1
        c[:2] = 3.0
        loss = c.sum()
        loss.backward()
    view = look.graph(loss)
    by = {n["name"]: n for n in operators(view)}
    assert by["Twice"]["saved"][0]["shape"] == [10] and by["Twice"]["saved_bytes"] == 0  # exp keeps it already
    assert by["Exp"]["saved_bytes"] == 0 and [s["what"] for s in by["Exp"]["saved"]] == ["packed"]
    assert view.data["totals"]["saved_bytes"] == 40  # of the first exp alone
    assert str(view) and view.to_svg() and view.to_html()


def test_a_changed_view_has_figures_like_every_operator(rng):
    """Against the same program in NumPy: h[1:3] *= w, then h[0] = 7, a constant array filled by half, and a sum."""
    x0, w0 = rng.standard_normal((4, 3)), rng.standard_normal(3)
    x, w = tt.tensor(x0, requires_grad=True), tt.tensor(w0, requires_grad=True)
    with look.record():
        h = x * 2
        h[1:3].mul_(w)  # the first change
        h[0] = 7.0
        board = tt.zeros(2, 3, dtype=tt.float64)
        board[1] = h[1]
        loss = (h * h).sum() + (board * 5).sum()
        loss.backward()
    view = look.graph(loss, {"x": x, "w": w})
    first, second, third = [n for n in operators(view) if n["name"] == "CopySlices"]

    was = 2 * x0
    h1 = was.copy()
    h1[1:3] *= w0
    h2 = h1.copy()
    h2[0] = 7
    board2 = np.stack([np.zeros(3), h2[1]])
    g2 = 2 * h2  # of h when it is read
    g2[1] += 5
    g1 = g2.copy()
    g1[0] = 0  # what a constant replaced has no gradient
    g0 = g1.copy()
    g0[1:3] = 0  # what goes around the change; the rest goes through it
    for n, value, gradient, sent in (
            (first, h1, g1, (g0, g1[1:3])), (second, h2, g2, (g1, g2[0])), (third, board2, np.full((2, 3), 5.0),
                                                                          (None, np.full(3, 5.0)))):
        out = n["outputs"][0]
        for found, want in ((out["value"], value), (out["gradient"], gradient)):
            np.testing.assert_allclose(found["values"], want, rtol=1e-12)
            assert {k: found[k] for k in ("norm", "mean", "min", "max")} == pytest.approx(dict(
                norm=np.linalg.norm(want), mean=want.mean(), min=want.min(), max=want.max()), rel=1e-12)
        assert [e["gradient"] and e["gradient"]["norm"] for e in n["inputs"]] == [
            None if s is None else pytest.approx(np.linalg.norm(s), rel=1e-12) for s in sent]
        assert [e["shape"] for e in n["inputs"]] == [list(value.shape), list(np.shape(sent[1]))]
        assert n["saved"] == [] and n["saved_bytes"] == 0
    lines = [n["line"]["source"] for n in (first, second, third)]
    assert lines == ["h[1:3].mul_(w)  # the first change", "h[0] = 7.0", "board[1] = h[1]"]
    assert third["inputs"][0] == {"node": None, "output": None, "shape": [2, 3], "dtype": "float64", "literal": None,
                                  "gradient": None}  # constants that were written into
    assert not view.data["missing"]
    whole = 2 * g0
    whole[1:3] = 2 * g1[1:3] * w0
    np.testing.assert_allclose(host(x.grad), whole, rtol=1e-12)


def test_a_changed_view_is_in_its_module_and_its_line_is_known_under_anomaly_mode():
    class Writes(nn.Module):
        def forward(self, x):
            y = x * 2
            y[0].exp_()
            return y

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Writes()

        def forward(self, x):
            return self.inner(x).sum()

    x = tt.ones(3, 2, requires_grad=True)
    with look.record():
        view = look.graph(Outer()(x))
    node = next(n for n in operators(view) if n["name"] == "CopySlices")
    assert view.data["modules"][node["module"]]["name"] == "inner"
    with detect_anomaly():
        y = Outer()(x)
    node = next(n for n in operators(look.graph(y)) if n["name"] == "CopySlices")
    assert node["line"]["source"] == "y[0].exp_()" and node["outputs"][0]["value"] is None
    # without either nothing is kept
    y = Outer()(x)
    node = next(n for n in operators(look.graph(y)) if n["name"] == "CopySlices")
    assert node["line"] is None


def test_what_is_saved_is_told_alike_recorded_or_not_before_and_after_a_backward():
    """A change in place copies what its operator saved of the old value: of a view the view, not all of its memory."""
    x, w = tt.ones(8, 4, requires_grad=True), tt.ones(4, requires_grad=True)

    def program():
        h = x * 2
        h[1:3].mul_(w)  # saves a copy of two rows, 32 bytes, and w
        g = x * 1
        g.exp_()  # saves its result, which is g: 128 bytes
        k = x * 1
        k.mul_(k)  # saves the old value, once
        return (h + g * 3 + k).sum()

    def told(view):
        return [(n["name"], n["saved_bytes"], [(s["what"], s["shape"], s["bytes"], s["memory_bytes"], s["counted"])
                                               for s in n["saved"]]) for n in operators(view)]

    plain = told(look.graph(program()))
    with look.record():
        loss = program()
        before = told(look.graph(loss))
        loss.backward()
    assert [(name, n) for name, n, kept in plain if kept] == [("Mul", 32), ("Exp", 128), ("Mul", 128)]
    assert before == plain and told(look.graph(loss)) == plain


def test_a_function_that_changes_a_view():
    class Doubles(tt.autograd.Function):
        @staticmethod
        def forward(ctx, v):
            v.mul_(2)
            ctx.mark_dirty(v)
            return v

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    x = tt.tensor([1.0, 2.0, 3.0], requires_grad=True)
    with look.record():
        h = x * 1
        Doubles.apply(h[:2])
        h.sum().backward()
    view = look.graph(h, {"x": x})
    names = [n["name"] for n in operators(view)]
    assert names == ["Mul", "Slice", "Doubles", "CopySlices"]
    own, change = operators(view)[2:]
    assert change["outputs"][0]["value"]["values"] == [2.0, 4.0, 3.0]
    assert [e["gradient"]["values"] for e in change["inputs"]] == [[0.0, 0.0, 1.0], [1.0, 1.0]]
    assert own["inputs"][0]["gradient"]["values"] == [2.0, 2.0] and own["line"]["source"] == "Doubles.apply(h[:2])"
    assert host(x.grad).tolist() == [2.0, 2.0, 1.0]


def test_the_graph_of_a_gradient():
    x = leaf(2.0)
    with look.record():
        y = x ** 3
        (g,) = tt.autograd.grad(y, x, create_graph=True)
        g.backward()
    view = look.graph(g, {"x": x})
    assert leaves(view)["x"]["outputs"][0]["gradient"]["values"] == [12.0]


# recording ends


def test_nothing_stays_behind():
    model = Net(2)
    before = (len(module_hooks.forward), len(module_hooks.forward_pre))
    mine = []
    with look.record():
        assert modes.recorder is not None and not modes.is_anomaly_enabled()
        loss = model(tt.ones(2, 3))
        loss.grad_fn.register_prehook(lambda g: mine.append(1) and None)
    assert modes.recorder is None and modes.anomaly is None
    assert (len(module_hooks.forward), len(module_hooks.forward_pre)) == before
    stack, seen = [loss.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        assert node.hooks is None or (node is loss.grad_fn and len(node.hooks.pre) == 1)
        stack += [n for n, _ in node.next_functions]
    loss.backward()
    assert mine == [1]  # the user's own hook is there
    assert all(n["outputs"][0]["gradient"] is None for n in operators(look.graph(loss)))


def test_an_error_ends_recording():
    with pytest.raises(KeyError), look.record():
        raise KeyError
    assert modes.recorder is None and modes.anomaly is None


def test_recording_makes_no_reference_cycle():
    gc.collect()
    gc.disable()
    try:
        x = leaf(1.0)
        with look.record():
            loss = tt.exp(x * 2)
            loss.backward(retain_graph=True)
            node = weakref.ref(loss.grad_fn)
            view = look.graph(loss)
            del loss
            assert node() is None
        assert view.data["nodes"]  # plain data: it holds no graph
    finally:
        gc.enable()


def test_blocks_nest_and_anomaly_mode_goes_its_own_way():
    x = leaf(1.0)
    with look.record():
        with look.record():
            a = x * 2
        b = a * 2
        with detect_anomaly():
            assert modes.is_anomaly_enabled()
            c = b * 2
        assert not modes.is_anomaly_enabled()
        d = c * 2
    assert all(n["outputs"][0]["value"] for n in operators(look.graph(d)))
    with detect_anomaly():
        with look.record():
            pass
        assert modes.anomaly == "check"
    assert modes.anomaly is None


def test_other_threads_are_recorded_with_modules_of_their_own():
    model, results = nn.Linear(2, 2), {}
    inside, go = threading.Event(), threading.Event()

    class Slow(nn.Module):
        def forward(self, x):
            inside.set()
            go.wait(10)
            return x * 2

    def work():
        results["slow"] = Slow()(tt.ones(2, requires_grad=True))

    with look.record():
        thread = threading.Thread(target=work)
        thread.start()
        assert inside.wait(10)
        y = model(tt.ones(1, 2))
        go.set()
        thread.join()
    assert [c["class"] for c in look.graph(y).data["modules"]] == ["Linear"]
    assert [c["class"] for c in look.graph(results["slow"]).data["modules"]] == ["Slow"]


def test_recording_changes_no_result(rng):
    x0 = rng.standard_normal((4, 3))
    model = Net(2)
    grads = []
    for record in (False, True):
        model.zero_grad()
        x = tt.tensor(x0, dtype=tt.float32)
        if record:
            with look.record():
                model(x).backward()
        else:
            model(x).backward()
        grads.append([host(p.grad).copy() for p in model.parameters()])
    assert all(np.array_equal(a, b) for a, b in zip(*grads))
