"""look.tensor: layouts against every element's address, figures against NumPy, sharing, versions, gradients, cells."""
from __future__ import annotations

import gc
import io
import json
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import look, nn
from tinytorch_gpu.look.tensor.layout import Layout, layout_of, share_elements


def host(t):
    return np.asarray(t.detach().cpu().numpy())


def by_hand(layout):
    """{byte: how many elements lie there}, by visiting every element."""
    found = {}
    for index in np.ndindex(*layout.shape):
        at = layout.start + sum(i * s for i, s in zip(index, layout.strides))
        for byte in range(at, at + layout.itemsize):
            found[byte] = found.get(byte, 0) + 1
    return found


# the layout


def random_view(rng):
    """A NumPy array of random size, looked at by random slices, transposes, broadcasts and windows."""
    whole = np.zeros(tuple(rng.integers(1, 7, rng.integers(1, 4))), rng.choice(["i1", "f4", "c16"]))
    a = whole
    for _ in range(rng.integers(0, 4)):
        kind = rng.integers(0, 5)
        if kind == 0:
            a = a[tuple(slice(int(rng.integers(0, max(n, 1))), None, int(rng.integers(1, 4))) for n in a.shape)]
        elif kind == 1:
            a = a.transpose(rng.permutation(a.ndim))
        elif kind == 2:
            a = np.broadcast_to(a, (int(rng.integers(1, 4)), *a.shape))
        elif kind == 3 and a.ndim and a.size:
            a = np.lib.stride_tricks.sliding_window_view(a, int(rng.integers(1, a.shape[-1] + 1)), axis=-1)
        elif kind == 4 and a.ndim:
            a = a[::-1]
    return whole, a


@pytest.mark.parametrize("_", range(60))
def test_touched_bytes_are_those_of_every_element(rng, _):
    whole, a = random_view(rng)
    layout = layout_of(a)
    print(a.shape, a.strides, layout)
    expected = by_hand(layout)
    assert layout.memory == whole.nbytes and layout.elements == a.size
    assert layout.touched() == len(expected)
    if expected:
        assert layout.span == (min(expected), max(expected) + 1)
    for _ in range(5):
        low, high = sorted(rng.integers(0, whole.nbytes + 1, 2).tolist())
        assert layout.touched(low, high) == sum(low <= b < high for b in expected)
        inside = {}
        for at, index in layout.inside(low, high):
            back = layout.start + sum(i * s for i, s in zip((i or 0 for i in index), layout.strides))
            assert back == at and all((i is None) == (s == 0 and n > 1)
                                      for i, s, n in zip(index, layout.strides, layout.shape))
            inside[at] = inside.get(at, 0) + layout.repeats
        assert inside == {b: n for b, n in element_starts(layout).items() if low <= b < high}


def element_starts(layout):
    found = {}
    for index in np.ndindex(*layout.shape):
        at = layout.start + sum(i * s for i, s in zip(index, layout.strides))
        found[at] = found.get(at, 0) + 1
    return found


def test_the_kind_of_a_layout():
    a = np.zeros((4, 6), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(a[0], 3)
    for array, kind in ((a, "contiguous"), (a.T, "permuted"), (a[:, ::2], "strided"), (a[:0], "empty"),
                        (np.broadcast_to(a, (2, 4, 6)), "broadcast"), (windows, "overlapping"), (a[1:], "contiguous"),
                        (a[0, ::-1], "reversed"), (a[:, :1], "strided"), (np.zeros((3, 1)).T, "contiguous")):
        assert layout_of(array).kind == kind, kind


def test_irregular_patterns_are_counted_or_said_to_be_unknown():
    layout = Layout((3, 4), (2, 3), 1, 0, 14)
    assert not layout.nested and layout.touched() == len(by_hand(layout))
    assert Layout((4000, 4000), (2, 3), 1, 0, 20000).touched() is None


def test_common_elements(rng):
    for _ in range(30):
        whole = np.zeros(24, np.float32)
        a, b = (whole.reshape(4, 6)[tuple(slice(int(rng.integers(0, 3)), None, int(rng.integers(1, 4)))
                                          for _ in range(2))] for _ in range(2))
        assert share_elements(a, b) == bool(by_hand(layout_of(a)).keys() & by_hand(layout_of(b)).keys())


# a tensor


def cells_of(t):
    return look.tensor(t).data["memory"]["cells"]


def test_a_transposed_matrix_in_memory_order():
    x = tt.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    d = look.tensor(x.T).data
    assert (d["shape"], d["strides"], d["stride_bytes"], d["layout"]) == ([3, 2], [1, 3], [4, 12], "permuted")
    cells = d["memory"]["cells"]
    assert [c["byte"] for c in cells] == [0, 4, 8, 12, 16, 20]
    assert [c["value"] for c in cells] == list("123456")
    assert [c["index"] for c in cells] == [["0,0"], ["1,0"], ["2,0"], ["0,1"], ["1,1"], ["2,1"]]


def test_a_strided_view_leaves_gaps():
    x = tt.arange(12.0).reshape(3, 4).clone()
    d = look.tensor(x[1:, ::2]).data
    m = d["memory"]
    assert (m["bytes"], m["offset"], m["first"], m["last"], m["touched"]) == (48, 16, 16, 44, 16)
    assert [c["value"] for c in m["cells"]] == [None] * 4 + ["4", None, "6", None, "8", None, "10", None]
    assert d["view_of"]["steps"] == ["Slice([1:, ::2])"] and d["view_of"]["shape"] == [3, 4]


def test_a_broadcast_stands_for_many():
    d = look.tensor(tt.tensor([[1.0], [2.0]]).expand(2, 5)).data
    m = d["memory"]
    assert d["strides"] == [1, 0] and d["bytes"] == 40 and (m["bytes"], m["touched"], m["repeats"]) == (8, 8, 5)
    assert [c["index"] for c in m["cells"]] == [["0,:"], ["1,:"]]
    assert d["values"]["norm"] == pytest.approx(5.0) and d["values"]["mean"] == 1.5


def test_windows_lie_over_each_other():
    whole = np.arange(5, dtype=np.float64)
    t = tt.from_numpy(np.lib.stride_tricks.sliding_window_view(whole, 3).copy())
    assert look.tensor(t).data["layout"] == "contiguous"
    t = tt.from_numpy(np.lib.stride_tricks.sliding_window_view(whole, 3, writeable=True))
    d = look.tensor(t).data
    assert d["layout"] == "overlapping" and [c["times"] for c in d["memory"]["cells"]] == [1, 2, 3, 2, 1]
    assert "+2" in str(look.tensor(t))


@pytest.mark.parametrize("make", [lambda: tt.tensor(3.5), lambda: tt.zeros(0, 3), lambda: tt.zeros(2, 0, 4)[1:],
                                  lambda: tt.tensor([True, False]), lambda: tt.tensor([1 + 2j, -3j]),
                                  lambda: tt.tensor([1, 2**62 + 1, -5]), lambda: tt.ones(3, dtype=tt.bfloat16),
                                  lambda: tt.tensor([float("nan"), float("inf"), -1.0]),
                                  lambda: tt.tensor([1 + 2j]).imag,
                                  lambda: tt.ones(4, dtype=tt.float16) * 300, lambda: tt.ones(2, 3, dtype=tt.uint8).T])
def test_any_dtype_and_shape(make):
    t = make()
    v = look.tensor(t)
    assert (v.data["shape"], v.data["dtype"]) == (list(t.shape), t.dtype.name)
    assert v.data["bytes"] == t.nbytes and v.data["strides"] == list(t.stride())
    for ending in ("html", "svg", "json", "txt"):
        assert getattr(v, "to_" + ending)()
    json.loads(v.to_json())


def test_figures_are_those_of_numpy(rng):
    for dtype in ("float32", "float64", "int32", "int64", "uint8", "bool", "complex64"):
        a = (rng.standard_normal((7, 9)) * 20).astype(dtype)
        found = look.tensor(tt.tensor(a).T[::2]).data["values"]
        b = a.T[::2]
        sizes = np.abs(b) if b.dtype.kind == "c" else b.astype(np.float64)
        assert found["norm"] == pytest.approx(math.sqrt((sizes.astype(np.float64) ** 2).sum()), rel=1e-6)
        assert found["mean"] == pytest.approx(float(sizes.mean(dtype=np.float64)), rel=1e-5, abs=1e-6)
        assert (found["min"], found["max"]) == (pytest.approx(float(sizes.min())), pytest.approx(float(sizes.max())))
        assert found["zeros"] == int((b == 0).sum()) and found["nan"] == found["inf"] == 0


def test_a_large_integer_keeps_its_digits():
    assert look.tensor(tt.tensor([2**62 + 1, 5])).data["values"]["max"] == 2**62 + 1


def test_pieces_of_a_large_tensor_are_put_together(monkeypatch, rng):
    a = rng.standard_normal((13, 17)).astype(np.float32)
    a[3, 4], a[12, 0] = np.nan, np.inf
    t = tt.tensor(a)
    whole = look.tensor(t).data["values"]
    monkeypatch.setattr(sys.modules["tinytorch_gpu.look.tensor.figures"], "PIECE", 10)
    parts = look.tensor(t).data["values"]
    assert (parts["nan"], parts["inf"], parts["zeros"]) == (1, 1, 0) and math.isnan(parts["min"])
    for key in whole:
        assert parts[key] == pytest.approx(whole[key], nan_ok=True)


def test_a_tensor_larger_than_memory():
    t = tt.ones(5).expand(100_000, 100_000, 5)  # 200 GB of elements in 20 bytes
    d = look.tensor(t).data
    assert d["bytes"] == 4 * 5 * 10**10 and d["memory"]["bytes"] == 20 and d["values"]["zeros"] == 0
    assert d["values"]["norm"] == pytest.approx(math.sqrt(5e10))


def test_one_width_changes_what_it_must():
    def read(width):
        d = look.tensor(tt.zeros(8, width)[:, ::4]).data
        return d["elements"], d["bytes"], d["memory"]["bytes"], d["memory"]["touched"], d["strides"], d["itemsize"]

    assert read(64) == (128, 512, 2048, 512, [64, 4], 4)
    assert read(128) == (256, 1024, 4096, 1024, [128, 4], 4)


def test_the_map_of_a_large_memory():
    d = look.tensor(tt.zeros(100, 100)[50:]).data["memory"]
    assert d["whole"] is False and len(d["map"]) == 100
    assert d["map"] == [0.0] * 50 + [1.0] * 50
    assert d["cells"][0]["byte"] == d["first"] == 20_000 and d["cells"][0]["index"] == ["0,0"]
    assert sum(look.tensor(tt.zeros(100, 100)[:, ::10]).data["memory"]["map"]) == pytest.approx(10)


# views, sharing, versions


def test_the_operators_that_lead_from_the_base():
    x = tt.zeros(4, 6)
    steps = look.tensor(x.T[1].unsqueeze(0).expand(3, 1, 4).chunk(2, 0)[1]).data["view_of"]["steps"]
    assert [s.partition("(")[0] for s in steps] == ["Transpose", "Slice", "Reshape", "Expand", "Split"] or \
        [s.partition("(")[0] for s in steps] == ["Transpose", "Slice", "Slice", "Expand", "Split"]
    assert steps[-1].endswith("[1]")
    assert look.tensor(x).data["view_of"] is None and look.tensor(x.detach()).data["view_of"] is None


def test_who_shares_the_memory():
    x = tt.arange(6.0).clone().requires_grad_()
    y, z = x[:3], x[3:]
    other = x.detach()
    product = y * y  # saves y
    found = {r["name"].split("`")[1] if "`" in r["name"] else r["name"]: r
             for r in look.tensor(y).data["shared_by"] if r["name"]}
    assert found["x"]["relation"] == "its base" and found["x"]["common"] == "some"
    assert found["z"]["relation"] == "a view of the same base" and found["z"]["common"] == "none"
    assert (found["z"]["offset"], found["z"]["bytes"]) == (12, 12)
    assert found["other"]["relation"] == "the same memory" and found["other"]["same_version"]
    assert found["saved by Mul (input 0)"]["common"] == "the same"
    assert other.shape == (6,) and "product" not in found and len(look.tensor(y).data["shared_by"]) == 5
    assert {r["relation"] for r in look.tensor(x).data["shared_by"]} == {"a view of it", "the same memory",
                                                                        "saved for backward"}
    del product, z
    assert len(look.tensor(y).data["shared_by"]) == 2


def test_interleaved_elements_are_told_apart():
    x = tt.zeros(4, 4)
    even, odd = x[:, ::2], x[:, 1::2]
    found = {r["name"].split("`")[1]: r["common"] for r in look.tensor(even).data["shared_by"] if r["name"]}
    assert found == {"x": "some", "odd": "none"} and odd.shape == (4, 2)


def test_a_transpose_has_all_elements_in_common():
    x = tt.zeros(2, 3)
    y = x.T
    assert [r["common"] for r in look.tensor(x).data["shared_by"]] == ["all"] and y.shape == (3, 2)


def test_parameters_and_gradients_have_names():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    model(tt.ones(1, 2)).sum().backward()
    weight = model[0].weight
    part = weight.data[0]

    def sharers():  # the base is what .data returned, which has no name
        return [r["name"] and r["name"].split("`")[1] for r in look.tensor(part).data["shared_by"]]

    assert sharers() == [None, "weight"]
    del weight
    assert sharers() == [None, "model.0.weight"]
    assert look.tensor(model[0].weight).data["class"] == "Parameter"
    assert look.tensor(model[0].weight).data["name"] == "model.0.weight"
    w = model[0].weight
    assert look.tensor(w.grad).data["name"] in ("w.grad", "model.0.weight.grad")


def test_versions_and_in_place_changes():
    x = tt.zeros(3)
    y = x[1:]
    assert look.tensor(x).data["version"] == 0
    y.add_(1)
    x[0] = 5
    assert look.tensor(x).data["version"] == look.tensor(y).data["version"] == 2
    assert "changed in place 2 times" in str(look.tensor(y))
    with tt.inference_mode():
        t = tt.ones(2)
    assert look.tensor(t).data["version"] is None and "inference" in str(look.tensor(t))


def test_a_view_made_while_nothing_was_recorded():
    x = tt.zeros(3, requires_grad=True)
    with tt.no_grad():
        y = x[1:]
    assert look.tensor(y).data["view_of"]["constant"] and "nothing was recorded" in str(look.tensor(y))


# autograd


def test_the_gradient(rng):
    a = rng.standard_normal((3, 5))
    x = tt.tensor(a, requires_grad=True)
    (x * x * x).sum().backward()
    g = look.tensor(x).data["grad"]
    expected = 3 * a * a
    assert (g["shape"], g["dtype"], g["bytes"]) == ([3, 5], x.dtype.name, x.nbytes)
    assert g["norm"] == pytest.approx(np.linalg.norm(expected), rel=1e-5)
    assert (g["min"], g["max"]) == (pytest.approx(expected.min(), rel=1e-5), pytest.approx(expected.max(), rel=1e-5))
    assert len(g["values"]) == 15
    assert look.tensor(tt.zeros(2, requires_grad=True)).data["grad"] is None


def test_what_the_operator_saved():
    x, w = tt.ones(4, 3, requires_grad=True), tt.ones(3, 2, requires_grad=True)
    f = look.tensor(x @ w).data["grad_fn"]
    assert [(s["source"], s["shape"], s["leaf"]) for s in f["saved"]] == [("input 0", [4, 3], True),
                                                                          ("input 1", [3, 2], True)]
    assert f["saved_bytes"] == 0  # both are leaves, which are there anyway
    h = x * 2
    f = look.tensor(tt.exp(h)).data["grad_fn"]
    assert (f["name"], f["output"], f["inputs"]) == ("Exp", 0, ["Mul"])
    assert [(s["source"], s["bytes"]) for s in f["saved"]] == [("output 0", 48)] and f["saved_bytes"] == 48
    assert look.tensor(h + h).data["grad_fn"]["saved"] == []


def test_what_a_backward_freed_is_said_to_be():
    x = tt.ones(3, requires_grad=True)
    y = tt.exp(x)
    y.sum().backward()
    v = look.tensor(y)
    assert v.data["grad_fn"]["saved"] is None and v.data["grad_fn"]["saved_bytes"] is None
    assert "freed" in v.to_svg()


def test_the_line_that_made_it_is_told_when_recorded():
    x = tt.ones(3, requires_grad=True)
    with look.record():
        y = x * 7
    assert look.tensor(y).data["grad_fn"]["line"]["source"] == "y = x * 7"
    assert look.tensor(x * 7).data["grad_fn"]["line"] is None


def test_outputs_of_several_are_numbered():
    x = tt.ones(4, requires_grad=True)
    assert look.tensor(x.chunk(2)[1]).data["grad_fn"]["output"] == 1
    y = x * 2
    y.retain_grad()
    assert look.tensor(y).data["retains_grad"] and "keeps its .grad" in " ".join(str(look.tensor(y)).split())


# the view


def test_it_keeps_nothing_alive_and_changes_nothing():
    import weakref

    x = tt.ones(5, requires_grad=True)
    y = x * 2
    before = set(tt.Tensor.__dict__)
    view = look.tensor(y)
    ref = weakref.ref(y)
    del y
    gc.collect()
    assert ref() is None and str(view) and view.to_svg()
    assert set(tt.Tensor.__dict__) == before and x.grad is None


def test_it_can_be_read_while_a_graph_is_recorded():
    x = tt.ones(5, requires_grad=True)
    with look.record():
        y = (x * 2).sum()
        look.tensor(y)
        y.backward()
    assert look.graph(y).data["totals"]["operators"] == 2


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_text_fits(width):
    x = tt.arange(60.0).reshape(6, 10).clone().requires_grad_()
    y = x.T[::3]
    for t in (x, y, y * y, x.expand(4, 6, 10), tt.tensor([1e-30 - 1e30j] * 3), tt.zeros(200, 200)[:, 5:90]):
        out = io.StringIO()
        look.tensor(t).print(out, width)
        assert all(len(line) <= width for line in out.getvalue().splitlines()), out.getvalue()


def test_the_drawing_in_ascii():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    look.tensor(tt.zeros(100, 100)[:, ::2]).print(stream)
    look.tensor(tt.arange(4.0)).print(stream)
    stream.flush()
    text = stream.buffer.getvalue().decode("cp1252")
    assert text.isascii() and "+---" in text and "0 B" in text


def test_the_drawing_in_text():
    x = tt.arange(4.0).reshape(2, 2).clone()
    text = str(look.tensor(x.T[:, :1]))
    assert text[text.index("byte"):].splitlines()[:5] == [
        "byte     0     4     8    12",
        "      ┌─────┬─────┬─────┬─────┐",
        "value │  0  │  1  │  ·  │  ·  │",
        "      └─────┴─────┴─────┴─────┘",
        "index   0,0   1,0",
    ]


def test_the_page_shows_what_was_saved():
    x = tt.arange(24.0).reshape(4, 6).clone().requires_grad_()
    v = look.tensor(tt.exp(x.T[:3]))
    ElementTree.fromstring(v.to_svg())
    assert "Exp saved" in v.to_html() and json.loads(v.to_json()) == v.data


def test_a_notebooks_cell():
    x = tt.tensor([[1.0, 2.0]], requires_grad=True)
    cell = x._repr_html_()
    assert cell.startswith("<pre>tensor([[1., 2.]]") and "<details><summary>Tensor x: f32[1,2]" in cell
    assert "<iframe" in cell and nn.Parameter(x)._repr_html_().startswith("<pre>Parameter containing:")
    assert "&lt;Mul&gt;" in re.sub(r"<iframe.*", "", (x * 2)._repr_html_(), flags=re.S)


def test_look_is_not_imported_before_the_first_cell():
    program = ("import sys, tinytorch_gpu as tt; t = tt.ones(2); assert 'tinytorch_gpu.look' not in sys.modules; "
               "t._repr_html_(); assert 'tinytorch_gpu.look' in sys.modules")
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("wrong", [3, None, [1.0], np.ones(2), nn.Linear(1, 1)])
def test_what_is_no_tensor(wrong):
    with pytest.raises(TypeError, match=r"^\[tensor\] expected a Tensor, got " + type(wrong).__name__):
        look.tensor(wrong)
