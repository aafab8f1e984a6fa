"""Norms of sums, attention, gradients of biases and embeddings, cross-entropy by kernels: beyond a line of cases.py.

Against PyTorch in each dtype, by kernel and by formula; what is launched; that nothing waits for the device and nothing
that is given changes; NaN, infinity, classes and rows that are not there, rows of one element and of many blocks.
"""
from __future__ import annotations

import numpy as np
import pytest
from case import host, tensor, torch_tensor

import tinytorch_gpu as tt
from tinytorch_gpu.backend import kernel_embedding, simulated
from tinytorch_gpu.backend.device import backend_for
from tinytorch_gpu.backend.dtypes import from_any
from tinytorch_gpu.backend.kernel import use_kernels
from tinytorch_gpu.backend.simulated.array import empty_raw
from tinytorch_gpu.nn import functional as F

DTYPES = ("float32", "float16", "bfloat16")


def draw(rng, *shape, dtype="float32", scale=1.0):
    return (rng.standard_normal(shape) * scale).astype(from_any(dtype).np)


def put(where, *arrays):
    return [tensor(a, a.dtype.kind not in "biu", where) for a in arrays]


def both(torch, where, arrays, ours, theirs):
    """Results and the gradients of all floating inputs, for the same random cotangents: ours, and PyTorch's in float64.

    PyTorch computes in float64 from the rounded inputs, so that the difference is our rounding alone.
    """
    a = put(where, *arrays)
    b = [torch_tensor(torch, x if x.dtype.kind in "biu" else x.astype(np.float64), x.dtype.kind not in "biu")
         for x in arrays]
    out, want = ours(*a), theirs(*b)
    out, want = (x if isinstance(x, tuple) else (x,) for x in (out, want))
    rng = np.random.default_rng(0)
    loss = total = 0
    for o, w in zip(out, want):
        c = rng.standard_normal(tuple(w.shape)).astype(from_any(o.dtype).np)
        loss = loss + (o * tensor(c, False, where)).sum()
        total = total + (w * torch.from_numpy(c.astype(np.float64))).sum()
    loss.backward()
    total.backward()
    floating = [(x.grad, y.grad) for x, y in zip(a, b) if x.requires_grad]
    return [*out, *[g for g, _ in floating]], [*want, *[g for _, g in floating]]


def near(got, want, dtype, factor):
    """`factor` roundings of the dtype, relative to the largest element; NaN and infinity agree."""
    assert len(got) == len(want)
    eps = float(tt.finfo(from_any(dtype)).eps)
    for i, (g, w) in enumerate(zip(got, want)):
        g, w = host(g).astype(np.float64), w.detach().numpy()
        finite = np.abs(w[np.isfinite(w)]).max(initial=1.0)
        np.testing.assert_allclose(g, w, rtol=0, atol=factor * eps * finite, err_msg=f"number {i}")


# x + residual, normalized

NORMS = {
    "layer": (lambda x, r, w, b: F.add_layer_norm(x, r, w.shape, w, b),
              lambda t, s, w, b: t.nn.functional.layer_norm(s, tuple(w.shape), w, b)),
    "rms": (lambda x, r, w, b: F.add_rms_norm(x, r, w.shape, w, 1e-5),
            lambda t, s, w, b: t.nn.functional.rms_norm(s, tuple(w.shape), w, 1e-5)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", NORMS)
def test_the_norm_of_a_sum_is_pytorchs_and_is_two_launches(kind, dtype, where, rng, torch, counted):
    ours, theirs = NORMS[kind]
    rounded = torch.float64 if dtype == "float32" else getattr(torch, dtype)
    for columns in (24, 35, 1):
        arrays = [draw(rng, 6, columns, dtype=dtype) for _ in range(2)] + [draw(rng, columns, dtype=dtype) + 1] * 2
        used = arrays[: 4 if kind == "layer" else 3]
        counted.clear()

        def reference(x, r, w, b=None):
            s = x + r
            seen = s + (s.detach().to(rounded).double() - s.detach())  # what is normalized is rounded
            return theirs(torch, seen, w, b), s

        got, want = both(torch, where, used, lambda x, r, w, b=None: ours(x, r, w, b), reference)
        near(got, want, dtype, 60 if columns == 1 else 12)  # one element: a difference of equal numbers over sqrt(eps)
        assert counted[:1] == ["norm_forward"] and "norm_backward" in counted
        assert set(counted) == {"norm_forward", "norm_backward", "column_sums"}


@pytest.mark.parametrize("used", ["normalized", "sum"])
def test_one_of_the_two_results_may_be_unused(used, where, rng, torch, counted):
    arrays = draw(rng, 5, 16), draw(rng, 5, 16), draw(rng, 16), draw(rng, 16)
    i = int(used == "sum")
    got, want = both(torch, where, arrays, lambda x, r, w, b: F.add_layer_norm(x, r, 16, w, b)[i] * w,
                     lambda x, r, w, b: (torch.nn.functional.layer_norm(x + r, (16,), w, b), x + r)[i] * w + 0 * b)
    near([g for g in got if g is not None], [w for g, w in zip(got, want) if g is not None], "float32", 12)
    assert ("norm_backward" in counted) == (i == 0)


def test_kernel_and_formula_of_a_sum_agree_to_the_second_order(where, rng):
    arrays = draw(rng, 4, 12), draw(rng, 4, 12), draw(rng, 12), draw(rng, 12)

    def second():
        leaves = put(where, *arrays)
        y, s = F.add_layer_norm(leaves[0], leaves[1], 12, leaves[2], leaves[3])
        first = tt.autograd.grad((y * y * s).sum(), leaves, create_graph=True)
        return [*first, *tt.autograd.grad(sum((g * g).sum() for g in first), leaves)]

    fused = [host(g) for g in second()]
    with use_kernels(False):
        plain = [host(g) for g in second()]
    for a, b in zip(fused, plain):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4 * np.abs(b).max())  # second derivatives cancel


# attention

def _attention_masks(rng, batch, heads, queries, keys):
    """Masks of every layout that is asked for, some with rows that see nothing."""
    padding = np.arange(keys) < rng.integers(1, keys + 1, (batch, 1, 1, 1))
    full = rng.random((batch, heads, queries, keys)) < 0.7
    full[0, 0, 0] = False
    one = rng.random((batch, 1, queries, keys)) < 0.7
    one[-1, 0, -1] = False
    return {"padding": padding, "of all": full, "of a batch": one, "of rows": np.tril(np.ones((queries, keys), bool)),
            "of keys": (np.arange(keys) > 0)[None]}


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_is_pytorchs_with_every_mask(dtype, where, rng, torch, counted):
    b, h, t, s, d = 2, 3, 5, 7, 8
    arrays = [draw(rng, b, h, n, d, dtype=dtype) for n in (t, s, s)]
    masks = _attention_masks(rng, b, h, t, s)

    def check(ours, theirs, extra=()):
        counted.clear()
        got, want = both(torch, where, [*arrays, *extra],
                         lambda q, k, v, *m: F.scaled_dot_product_attention(q, k, v, *m, **ours),
                         lambda q, k, v, *m: torch.nn.functional.scaled_dot_product_attention(q, k, v, *m, **theirs))
        near(got, want, dtype, 16)  # probabilities and their gradient are rounded between the products
        assert counted.count("masked_softmax") == counted.count("softmax_backward") == 1
        assert set(counted) <= {"masked_softmax", "softmax_backward", "column_sums"}

    check({}, {})
    check({"is_causal": True}, {"is_causal": True})
    check({"scale": 0.3}, {"scale": 0.3})
    for mask in masks.values():
        check({}, {}, [mask])
    for mask in (masks["of all"], masks["of rows"]):  # added, with a gradient of its own
        bias = np.where(mask, draw(rng, *mask.shape), -np.inf).astype(arrays[0].dtype)
        bias = np.where(mask.any(-1, keepdims=True), bias, 0).astype(arrays[0].dtype)
        check({}, {}, [bias])


def test_a_row_that_sees_nothing_is_zero(where, rng):
    q, k, v = put(where, *[draw(rng, 1, 2, 3, 4) for _ in range(3)])
    for mask in (np.zeros((3, 3), bool), np.full((3, 3), -np.inf, np.float32)):
        out = F.scaled_dot_product_attention(q, k, v, tensor(mask, False, where))
        assert not host(out).any()
        out.sum().backward()
        assert not host(q.grad).any() and not host(k.grad).any() and not host(v.grad).any()


def test_attention_that_kernels_do_not_take_is_the_formula(where, rng, torch, counted):
    arrays = [draw(rng, 2, 3, 2, 3, 4, 8) for _ in range(3)]
    mask = rng.random((2, 1, 2, 1, 4, 4)) < 0.8  # three runs of rows
    mask[..., 0] = True
    attention = torch.nn.functional.scaled_dot_product_attention
    got, want = both(torch, where, [*arrays, mask], F.scaled_dot_product_attention, attention)
    near(got, want, "float32", 16)
    assert "masked_softmax" not in counted


def test_grouped_queries_share_keys(where, rng, torch, counted):
    arrays = draw(rng, 2, 6, 4, 8), draw(rng, 2, 3, 5, 8), draw(rng, 2, 3, 5, 8)
    mask = rng.random((2, 1, 4, 5)) < 0.8
    mask[..., 0] = True
    attention = torch.nn.functional.scaled_dot_product_attention
    got, want = both(torch, where, [*arrays, mask],
                     lambda *a: F.scaled_dot_product_attention(*a, enable_gqa=True),
                     lambda *a: attention(*a, enable_gqa=True))
    near(got, want, "float32", 16)
    assert "masked_softmax" in counted


def test_attention_drops_the_same_probabilities_by_kernel_and_by_formula(where, rng):
    arrays = [draw(rng, 2, 2, 9, 8) for _ in range(3)]

    def run():
        tt.manual_seed(3)
        leaves = put(where, *arrays)
        out = F.scaled_dot_product_attention(*leaves, dropout_p=0.4, is_causal=True)
        (out * out).sum().backward()
        return [host(x) for x in (out, *[t.grad for t in leaves])]

    fused = run()
    with use_kernels(False):
        plain = run()
    for a, b in zip(fused, plain):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def test_scores_beyond_float16_are_no_infinity(where):
    """q k is 131,072 before it is scaled to 16,384."""
    q = tensor(np.full((1, 2, 64), 45.2548, np.float16), False, where)
    v = tensor(np.array([[[1.0], [3.0]]], np.float16), False, where)
    assert (host(F.scaled_dot_product_attention(q, q, v)) == 2).all()


# sums over rows

def test_gradients_of_biases_are_sums_of_columns(where, rng, counted):
    x, w, b = put(where, draw(rng, 3, 70, 5), draw(rng, 9, 5), draw(rng, 9))
    grad = draw(rng, 3, 70, 9)
    F.linear(x, w, b).backward(tensor(grad, False, where))
    assert counted == ["column_sums", "column_sums"]  # two stages
    np.testing.assert_allclose(host(b.grad), grad.astype(np.float64).sum((0, 1)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_over_leading_dimensions(dtype, where, rng, counted):
    x = draw(rng, 4, 700, 3, dtype=dtype)
    (t,) = put(where, x)
    for axes, keepdim in (((0,), False), ((0, 1), False), ((0, 1), True)):
        counted.clear()
        got = t.sum(axes, keepdim)
        assert set(counted) == {"column_sums"}
        want = x.astype(np.float64).sum(axes, keepdims=keepdim)
        assert got.shape == want.shape and got.dtype is t.dtype
        room = float(tt.finfo(t.dtype).eps) * np.abs(want) + 1e-6 * np.abs(x.astype(np.float64)).sum(axes).max()
        assert (np.abs(host(got).astype(np.float64) - want) <= room).all()
    counted.clear()
    t.sum((1, 2)), t.sum(), t.transpose(0, 1).sum(0)
    assert not counted
    ones = tensor(np.ones((4096, 2), from_any(dtype).np), True, where)  # a running half would stop at 2048 or 256
    assert (host(ones.sum(0)) == 4096).all()


# embedding

@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"padding_idx": 2}, {"scale_grad_by_freq": True},
                                     {"padding_idx": 0, "scale_grad_by_freq": True}], ids=str)
def test_gradients_of_an_embedding_are_pytorchs(options, dtype, where, rng, torch, counted):
    for kind, (rows, columns, shape) in ((np.int64, (7, 24, (4, 40))), (np.int32, (50, 5, (3, 6))),
                                         (np.int64, (3, 1, (1,)))):
        table, index = draw(rng, rows, columns, dtype=dtype), rng.integers(0, rows, shape).astype(kind)
        counted.clear()
        got, want = both(torch, where, [table, index], lambda w, i: F.embedding(i, w, **options),
                         lambda w, i: torch.nn.functional.embedding(i, w, **options))
        near(got, want, dtype, 2)
        assert set(counted) == {"embedding_forward", "embedding_backward"} | (
            {"embedding_join"} if index.size > kernel_embedding.LENGTH else set())


def test_one_token_that_fills_the_batch_is_summed_in_float32(where):
    for dtype in ("float16", "bfloat16"):
        table = tensor(np.zeros((3, 8), from_any(dtype).np), True, where)
        index = tensor(np.ones(4096, np.int64), False, where)
        F.embedding(index, table).sum().backward()
        assert host(table.grad).astype(np.float64).tolist() == [[0] * 8, [4096] * 8, [0] * 8]


def test_gradients_of_indexing_use_the_same_kernel(where, rng, torch, counted):
    x, i = draw(rng, 9, 6), rng.integers(0, 9, 40)
    j = rng.integers(0, 9, (30, 6))
    got, want = both(torch, where, [x, i, j], lambda x, i, j: (x[i], x.index_select(0, i), x.gather(0, j)),
                     lambda x, i, j: (x[i], x.index_select(0, i), x.gather(0, j)))
    near(got, want, "float32", 8)
    assert counted.count("embedding_backward") == 3


def test_the_second_derivative_of_a_frequency_scaled_embedding(where, rng):
    index = tensor(np.array([1, 1, 2, 0, 1]), False, where)
    table, grad = put(where, draw(rng, 4, 3), draw(rng, 5, 3))
    out = F.embedding(index, table, padding_idx=0, scale_grad_by_freq=True)
    (gw,) = tt.autograd.grad(out, table, grad, create_graph=True)
    (gg,) = tt.autograd.grad(gw[1].sum() * 3 + gw[0].sum() + gw[2].sum(), grad)
    np.testing.assert_allclose(host(gg), np.array([1, 1, 1, 0, 1])[:, None] * np.ones(3), rtol=1e-6)


# cross-entropy

@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_is_pytorchs(reduction, dtype, where, rng, torch, counted):
    for columns, smoothing, ignore in ((7, 0.0, -100), (40, 0.1, 3), (1, 0.2, 0)):
        x, t = draw(rng, 12, columns, dtype=dtype, scale=3.0), rng.integers(0, columns, 12)
        options = {"reduction": reduction, "ignore_index": ignore, "label_smoothing": smoothing}
        counted.clear()
        got, want = both(torch, where, [x, t], lambda x, t: F.cross_entropy(x, t, **options),
                         lambda x, t: torch.nn.functional.cross_entropy(x, t, **options))
        near(got, want, dtype, 12)
        assert counted == ["cross_entropy_forward", *(["cross_entropy_total"] if reduction != "none" else []),
                           "cross_entropy_backward"]


def test_cross_entropy_of_nan_and_infinity_is_pytorchs(where, torch):
    """An ignored row is 0, and 0 * NaN where its logits are not finite."""
    inf, nan = np.inf, np.nan
    for rows in ([[0, 1, nan], [1, 2, 3]], [[inf, 0, 0], [1, 2, 3]], [[-inf, 0, 1], [1, 2, 3]],
                 [[-inf, -inf, -inf], [1, 2, 3]], [[1e30, 0, -1e30], [1, 2, 3]]):
        for target in ([1, 2], [-100, 2], [0, 2]):
            for reduction in ("none", "mean"):
                arrays = np.array(rows, np.float32), np.array(target)
                got, want = both(torch, where, arrays, lambda x, t: F.cross_entropy(x, t, reduction=reduction),
                                 lambda x, t: torch.nn.functional.cross_entropy(x, t, reduction=reduction))
                near(got, want, "float32", 8)


def test_a_class_or_row_out_of_range_is_found_at_the_next_read(where, rng, monkeypatch):
    x, table = put(where, draw(rng, 4, 5), draw(rng, 5, 3))
    for fused in (True, False):
        for wrong in (5, -1):
            index = tensor(np.array([0, wrong, 2, 4]), False, where)
            with use_kernels(fused):
                loss = F.cross_entropy(x, index)
                with pytest.raises(IndexError, match=rf"\[cross_entropy\] Target {wrong} is out of bounds"):
                    host(loss)
                rows = F.embedding(index, table)
                with pytest.raises(IndexError, match=rf"\[embedding\] index out of range in self: {wrong} is not"):
                    host(rows)
        index = tensor(np.array([0, -100, 2, 4]), False, where)
        with use_kernels(fused):
            assert np.isfinite(host(F.cross_entropy(x, index)))
    monkeypatch.setenv("TINYTORCH_SYNC", "1")
    with pytest.raises(IndexError, match="Target 7 is out of bounds"):
        F.cross_entropy(x, tensor(np.array([0, 7, 2, 4]), False, where))
    with pytest.raises(IndexError, match="9 is not within the 5 rows"):
        F.embedding(tensor(np.array([9]), False, where), table)


# what holds of all of them

def _block(where, rng, dtype="float32"):
    """The tensors of a small transformer, and a function of them: logits and loss."""
    b, t, d, heads, words = 2, 10, 16, 2, 11
    leaves = put(where, *[draw(rng, *s, dtype=dtype, scale=0.5) for s in (
        (words, d), (t, d), (d,), (d,), (3 * d, d), (3 * d,), (d,), (words, d))])
    index, target = (tensor(rng.integers(0, words, (b, t)), False, where) for _ in range(2))
    target[0, :3] = -100
    mask = tensor(np.arange(t) < np.array([t, t - 3])[:, None, None, None], False, where)

    def run(causal):
        table, position, w, bias, qkv, qkv_bias, scale, head = leaves
        x = F.embedding(index, table, padding_idx=0) + position
        y = F.layer_norm(x, (d,), w, bias)
        q, k, v = F.linear(y, qkv, qkv_bias).reshape(b, t, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        options = {"is_causal": True} if causal else {"attn_mask": mask}
        y = F.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2).reshape(b, t, d)
        y, x = F.add_rms_norm(y, x, (d,), scale)
        logits = F.linear(y + x, head).reshape(b * t, words)
        loss = F.cross_entropy(logits, target.reshape(-1), label_smoothing=0.1)
        return logits, loss

    return leaves, (index, target, mask), run


@pytest.mark.parametrize("fused", [True, False], ids=["kernels", "formulas"])
def test_forward_and_backward_never_wait_for_the_device(fused, where, rng, counted):
    if where.type != "sim":
        pytest.skip("copies and waits are counted on the simulated device")
    for dtype in DTYPES[:2]:
        leaves, _, run = _block(where, rng, dtype)
        with use_kernels(fused):
            run(True)[1].backward()  # compiles, and makes the error word
            for causal in (True, False):
                with simulated.counters() as c:
                    run(causal)[1].backward()
                assert (c.device_to_host, c.synchronizations) == (0, 0), f"{dtype}, causal={causal}: {c}"
        assert all(t.grad is not None for t in leaves)
    assert bool(counted) == fused


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_that_is_given_changes(dtype, where, rng):
    """Logits included: people print the accuracy from them after backward."""
    leaves, others, run = _block(where, rng, dtype)
    logits, loss = run(False)
    watched = [*leaves, *others, logits, loss]
    before = [host(t).tobytes() for t in watched]
    loss.backward()
    grads = [host(t.grad).tobytes() for t in leaves]
    assert [host(t).tobytes() for t in watched] == before
    for t in leaves:
        t.grad = None
    run(False)[1].backward()
    assert [host(t.grad).tobytes() for t in leaves] == grads, "the same bits in every run"


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_empty_tensors(shape, where, rng, torch):
    x = np.zeros(shape, np.float32)
    same = [x, np.zeros(shape[1:], np.float32)]
    cases = [
        (same, lambda x, w: F.add_layer_norm(x, x, w.shape, w)[0], lambda x, w: torch.nn.functional.layer_norm(
            x + x, tuple(w.shape), w)),
        ([x], lambda x: x.sum(0), lambda x: x.sum(0)),
        ([x], lambda x: F.softmax(x, -1), lambda x: torch.softmax(x, -1)),
        ([np.zeros((5, shape[1]), np.float32), np.zeros(shape[0], np.int64)],
         lambda w, i: F.embedding(i, w), lambda w, i: torch.nn.functional.embedding(i, w)),
    ]
    if shape[1]:
        cases.append(([x, np.zeros(shape[0], np.int64)], lambda x, t: F.cross_entropy(x, t, reduction="sum"),
                      lambda x, t: torch.nn.functional.cross_entropy(x, t, reduction="sum")))
    for arrays, ours, theirs in cases:
        near(*both(torch, where, arrays, ours, theirs), "float32", 1)


@pytest.mark.parametrize("columns", [1, 9001])
def test_rows_of_one_element_and_of_many_trips(columns, where, rng, torch):
    """9001: more than a block takes at once, and than the sums of weights have shared memory for."""
    x, r = draw(rng, 3, columns), draw(rng, 3, columns)
    w, b, t = draw(rng, columns), draw(rng, columns), rng.integers(0, columns, 3)
    n = torch.nn.functional
    for arrays, ours, theirs in (
            ([x, r, w, b], lambda x, r, w, b: F.add_layer_norm(x, r, columns, w, b, eps=0.1),
             lambda x, r, w, b: (n.layer_norm(x + r, (columns,), w, b, eps=0.1), x + r)),
            ([x], lambda x: F.log_softmax(x, 1), lambda x: n.log_softmax(x, 1)),
            ([x, t], lambda x, t: F.cross_entropy(x, t, label_smoothing=0.1),
             lambda x, t: n.cross_entropy(x, t, label_smoothing=0.1)),
            ([x, np.array([2, 0, 2, 2])], lambda w, i: F.embedding(i, w), lambda w, i: n.embedding(i, w))):
        near(*both(torch, where, arrays, ours, theirs), "float32", 64)


def test_tables_of_more_than_two_to_the_31_elements(where, rng):
    """Memory that was never written costs nothing on the simulated device: only the rows that are used exist."""
    if where.type != "sim":
        pytest.skip("needs memory that exists where it is used: 4 GiB are none on the simulated device")
    backend, columns = backend_for(where), 1 << 20
    rows = 2**31 // columns + 3
    index = np.array([rows - 1, 2, rows - 1, rows - 2])
    try:
        table = empty_raw((rows, columns), np.dtype(np.float16))  # xp.empty fills what it gives with NaN
    except MemoryError:
        pytest.skip("this machine does not promise 4 GiB of memory")
    assert table.size > 2**31
    values = draw(rng, 3, columns, dtype="float16")
    for row, value in zip((rows - 1, 2, rows - 2), values):
        table[row] = backend.from_host(value)
    got = host(kernel_embedding.gather(table, backend.from_host(index), "test"))
    assert (got == values[[0, 1, 0, 2]]).all()
    # the gradient of such a table, in memory that was not cleared: what kernel_embedding.sums does after its zeros
    grad, order = backend.from_host(got), backend.from_host(np.argsort(index, kind="stable"))
    parts = backend.xp.empty((1, 2, columns), np.float32)
    lanes, strips = (32, 8), columns // (8 * 32)
    kernel_embedding._sums((1, strips), lanes, grad, backend.from_host(index), order, table, parts, 4, rows, columns,
                           -1, False)
    twice = (values[0].astype(np.float32) * 2).astype(np.float16)
    for row, value in ((rows - 1, twice), (2, values[1]), (rows - 2, values[2])):
        assert (host(table[row]) == value).all()
