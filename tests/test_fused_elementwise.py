"""Bias + activation, gated activations, dropout + residual and rotary embedding beyond what cases.py makes of a line:
against programs written with PyTorch, bits of the operands, masks of both devices, what is kept, layouts, bad input."""
from __future__ import annotations

import numpy as np
import pytest
from case import host, tensor, torch_tensor

import tinytorch_gpu as tt
from tinytorch_gpu.amp import autocast
from tinytorch_gpu.autograd.gradcheck import gradcheck, gradgradcheck
from tinytorch_gpu.backend import random
from tinytorch_gpu.backend.device import CPU
from tinytorch_gpu.backend.device import device as Device
from tinytorch_gpu.backend.dtypes import from_any
from tinytorch_gpu.backend.kernel import use_kernels
from tinytorch_gpu.nn import functional as F
from tinytorch_gpu.utils.checkpoint import checkpoint

DTYPES = ("float32", "float16", "bfloat16")
ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu")


def draw(rng, shape, dtype, where=None, requires_grad=True, scale=1.0):
    array = (rng.standard_normal(shape) * scale).astype(from_any(dtype).np)
    return tensor(array, requires_grad, where)


def wide(t):
    return host(t).astype(np.float64)


def close(actual, expected, dtype, factor=4.0):
    """A few roundings of the dtype, relative to the largest element."""
    eps = float(tt.finfo(from_any(dtype)).eps)
    expected = np.asarray(expected, np.float64)
    room = factor * eps * max(np.abs(expected).max(initial=0), 1)
    np.testing.assert_allclose(wide(actual), expected, rtol=0, atol=room)


# every fused operator: what it is given keeps its bits

def rotary_of(x, interleaved=False):
    cos, sin = F.rotary_tables(x.shape[-2], x.shape[-1], device=x.device)
    return F.rotary_embedding(x, cos, sin, interleaved)


OPERATORS = {  # name: (function, shapes of its tensors)
    "gelu": (lambda x: F.gelu(x), [(6, 16)]),
    "gelu tanh": (lambda x: F.gelu(x, approximate="tanh"), [(6, 16)]),
    "relu": (lambda x: F.relu(x), [(6, 16)]),
    "silu": (lambda x: F.silu(x), [(6, 16)]),
    **{f"bias_act {name}": (lambda x, b, name=name: F.bias_act(x, b, name), [(6, 16), (16,)]) for name in ACTIVATIONS},
    "swiglu": (lambda x, y: F.swiglu(x, y), [(6, 16), (6, 16)]),
    "swiglu of halves": (lambda x: F.swiglu(x), [(6, 16)]),
    "geglu of halves": (lambda x: F.geglu(x, dim=0, approximate="tanh"), [(6, 16)]),
    "dropout": (lambda x: F.dropout(x, 0.3), [(6, 16)]),
    "dropout_add": (lambda x, y: F.dropout_add(x, y, 0.3), [(6, 16), (6, 16)]),
    "rotary": (lambda x: rotary_of(x), [(2, 3, 16)]),
    "rotary interleaved": (lambda x: rotary_of(x, True), [(2, 3, 16)]),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPERATORS)
def test_operands_results_and_gradients_keep_their_bits(name, dtype, where, rng, counted):
    f, shapes = OPERATORS[name]
    leaves = [draw(rng, s, dtype, where) for s in shapes]
    inputs = [t * 1 for t in leaves]  # no leaves: nothing says that they are kept
    out = f(*inputs)
    grad = draw(rng, out.shape, dtype, where, False)
    watched = [*leaves, *inputs, out, grad]
    before = [host(t).tobytes() for t in watched]
    counted.clear()
    out.backward(grad)
    assert len(set(counted) - {"column_sums"}) == 1, f"the backward is one kernel and a bias's sum, got {counted}"
    kept = [t.grad for t in leaves]
    grads = [host(g).tobytes() for g in kept]
    assert [host(t).tobytes() for t in watched] == before
    f(*[t * 1 for t in leaves]).backward(grad)  # a second pass adds to the gradients, into the same memory
    assert [host(t).tobytes() for t in watched] == before
    assert all(t.grad is g and host(g).tobytes() != b for t, g, b in zip(leaves, kept, grads))


@pytest.mark.parametrize("name", OPERATORS)
def test_halves_are_rounded_once(name, where, rng):
    """The kernel's result in a half type is the float32 formula's, rounded: within one unit of the last place."""
    f, shapes = OPERATORS[name]
    for dtype in ("float16", "bfloat16"):
        inputs = [draw(rng, s, dtype, where) for s in shapes]
        tt.manual_seed(3)
        out = f(*inputs)
        with use_kernels(False):
            tt.manual_seed(3)
            exact = wide(f(*[t.detach().float() for t in inputs]))
        assert out.dtype.name == dtype
        room = np.abs(exact) * 0.51 * float(tt.finfo(from_any(dtype)).eps) + 1e-6
        assert (np.abs(wide(out) - exact) <= room).all()


# bias + activation

@pytest.mark.parametrize("shape", [(5,), (1, 5), (7, 5), (2, 3, 5), (0, 5), (2, 3, 1), (2, 64), (3, 257)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bias_gradient_in_every_shape(activation, shape, where, rng, torch):
    plain = {"gelu": torch.nn.functional.gelu, "relu": torch.relu, "silu": torch.nn.functional.silu,
             "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh")}[activation]
    x, b = rng.standard_normal(shape), rng.standard_normal(shape[-1])
    g = rng.standard_normal(shape)
    theirs = [torch_tensor(torch, a.astype(np.float32).astype(np.float64), True) for a in (x, b)]
    expected = plain(theirs[0] + theirs[1])
    expected.backward(torch.from_numpy(g.astype(np.float32).astype(np.float64)))
    for place in (None, where):
        mine = [tensor(a.astype(np.float32), True, place) for a in (x, b)]
        out = F.bias_act(*mine, activation)
        out.backward(tensor(g.astype(np.float32), False, place))
        close(out, expected.detach().numpy(), "float32", 16)
        close(mine[0].grad, theirs[0].grad.numpy(), "float32", 16)
        close(mine[1].grad, theirs[1].grad.numpy(), "float32", 16)


def test_only_the_gradients_that_are_wanted(where, rng):
    for wanted in ((True, False), (False, True)):
        x, b = (draw(rng, s, "float32", where, w) for s, w in zip(((4, 6), (6,)), wanted))
        F.bias_act(x, b).sum().backward()
        assert (x.grad is not None, b.grad is not None) == wanted


def test_one_tensor_for_both_operands(where, rng):
    """The gradient of both uses comes together."""
    for f, plain in ((F.swiglu, lambda x: F.silu(x) * x), (lambda x, y: F.dropout_add(x, y, 0.0), lambda x: x + x),
                     (lambda x, y: F.bias_act(x, y, "silu"), lambda x: F.silu(x + x))):
        x, y = (tensor(np.linspace(-2, 2, 9, dtype=np.float32), True, where) for _ in range(2))
        g = draw(rng, (9,), "float32", where, False)
        f(x, x).backward(g)
        plain(y).backward(g)
        close(x.grad, wide(y.grad), "float32")


# gated

def same(a, b, dtype, where):
    """Equal bits; on a GPU, which may fuse a product and a sum on one path and not on the other, nearly so."""
    if where.type == "cuda":
        close(a, wide(b), dtype, 1)
    else:
        assert host(a).tobytes() == host(b).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape, dim", [((4, 6), -1), ((4, 6), 0), ((2, 10, 7), 1), ((3, 128), 1), ((5, 2), 1)])
def test_halves_are_the_two_tensor_form(shape, dim, dtype, where, rng, counted):
    for f in (F.swiglu, F.geglu):
        x = draw(rng, shape, dtype, where)
        a, b = (t.contiguous().requires_grad_() for t in x.detach().chunk(2, dim))
        whole, parts = f(x, dim=dim), f(a, b)
        same(whole, parts, dtype, where)
        g = draw(rng, whole.shape, dtype, where, False)
        counted.clear()
        whole.backward(g)
        assert counted == ["gated_backward"]  # into the halves of one array: nothing is joined
        parts.backward(g)
        same(x.grad, tt.cat((a.grad, b.grad), dim), dtype, where)


def test_the_first_operand_is_the_gate(torch):
    x = np.array([[-1.0, 0.5, 2.0, 3.0]])
    silu = torch.nn.functional.silu
    t = torch.from_numpy(x)
    np.testing.assert_allclose(host(F.swiglu(tensor(x))), (silu(t[:, :2]) * t[:, 2:]).numpy(), rtol=1e-12)
    np.testing.assert_allclose(host(F.glu(tensor(x))), torch.nn.functional.glu(t).numpy(), rtol=1e-12)
    assert F.swiglu(tensor(x[:, :2]), tensor(np.zeros((1, 2)))).abs().sum().item() == 0


def test_gated_tensors_of_two_shapes_and_dtypes(where, rng, torch):
    a, b, g = rng.standard_normal((4, 1, 3)), rng.standard_normal((5, 3)), rng.standard_normal((4, 5, 3))
    theirs = [torch_tensor(torch, v, True) for v in (a, b)]
    (torch.nn.functional.gelu(theirs[0]) * theirs[1]).backward(torch.from_numpy(g))
    for place in (None, where):
        mine = [tensor(a.astype(np.float32), True, place), tensor(b, True, place)]
        out = F.geglu(*mine)
        assert out.dtype is tt.float64 and out.shape == (4, 5, 3)
        out.backward(tensor(g, False, place))
        assert [t.grad.dtype for t in mine] == [tt.float32, tt.float64]
        for t, e in zip(mine, theirs):
            close(t.grad, e.grad.numpy(), "float32")


# dropout + residual

@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_add_has_the_mask_of_dropout_on_every_device(dtype, where, rng, counted):
    x, r, g = (rng.standard_normal((33, 9)).astype(from_any(dtype).np) for _ in range(3))
    found = []
    for place, enabled in ((Device("cpu"), True), (where, True), (where, False)):
        tt.manual_seed(11)
        with use_kernels(enabled):
            a, b = tensor(x, True, place), tensor(r, True, place)
            out = F.dropout_add(a, b, 0.4)
            out.backward(tensor(g, False, place))
            found.append([host(t).tobytes() for t in (out, a.grad, b.grad)])
    assert counted == ["dropout", "dropout"]
    assert found[0] == found[1] == found[2]
    tt.manual_seed(11)
    close(out, r.astype(np.float64) + wide(F.dropout(tensor(x, False, where), 0.4)), dtype)
    kept = wide(a.grad) != 0
    assert (kept == random.bernoulli(CPU, (33, 9), 0.6, (11, 0))).all()  # the mask of the forward, and of the seed
    assert host(b.grad).tobytes() == g.tobytes()


def test_dropout_add_keeps_two_numbers_and_no_mask(where, rng):
    x, r = draw(rng, (40, 50), "float32", where), draw(rng, (40, 50), "float32", where)
    for enabled in (True, False):
        with use_kernels(enabled):
            node = F.dropout_add(x, r, 0.5).grad_fn
            assert not node.saved and (node.p, node.shape_of_mask) == (0.5, (40, 50)) and len(node.seed_offset) == 2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_input_and_float32_residual(dtype, where, rng, counted):
    """The residual stream stays float32 under autocast: one kernel, and each gradient in its operand's dtype."""
    x, r = draw(rng, (7, 13), dtype, where), draw(rng, (7, 13), "float32", where)
    g = draw(rng, (7, 13), "float32", where, False)
    results = []
    for enabled in (True, False):
        x.grad = r.grad = None
        tt.manual_seed(2)
        with use_kernels(enabled):
            out = F.dropout_add(x, r, 0.25)
            out.backward(g)
        assert out.dtype is tt.float32 and x.grad.dtype.name == dtype and r.grad.dtype is tt.float32
        results.append([host(t).tobytes() for t in (out, x.grad, r.grad)])
    assert results[0] == results[1] and counted == ["dropout", "dropout"]


def test_dropout_add_without_dropping_and_of_all(where, rng):
    x, r = draw(rng, (4, 5), "float32", where), draw(rng, (4, 5), "float32", where)
    state = random.get_rng_state(where)
    for given in ((0.5, False), (0.0, True)):
        assert host(F.dropout_add(x, r, *given)).tobytes() == host(x + r).tobytes()
    assert (random.get_rng_state(where) == state).all()  # no random numbers are taken
    out = F.dropout_add(x, r, 1.0)
    out.sum().backward()
    assert host(out).tobytes() == host(r).tobytes() and not host(x.grad).any() and (host(r.grad) == 1).all()


def test_a_checkpoint_replays_the_mask(where, rng):
    for place in (None, where):
        x, r = draw(rng, (20, 30), "float32", place), draw(rng, (20, 30), "float32", place)
        found = []
        for inside in (True, False):
            x.grad = r.grad = None
            tt.manual_seed(4)
            out = checkpoint(F.dropout_add, x, r, use_reentrant=False) if inside else F.dropout_add(x, r)
            tt.rand(100, device=place)  # the generator moves on between forward and backward
            (out * out).sum().backward()
            found.append([host(t).tobytes() for t in (out, x.grad, r.grad)])
        assert found[0] == found[1]


# under autocast

@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_autocast_keeps_a_layer_in_its_half_type(dtype, where, rng, counted):
    """Weight and bias are cast like a linear layer's, each with a float32 gradient; all of it by kernels."""
    x, w, b = (draw(rng, s, "float32", where) for s in ((6, 8), (10, 8), (10,)))
    r = draw(rng, (6, 5), "float32", where)
    with autocast(where.type, getattr(tt, dtype)):
        hidden = F.bias_act(F.linear(x, w), b, "silu")
        gate = F.swiglu(hidden)
        out = F.dropout_add(gate, r, 0.5)
    assert (hidden.dtype.name, gate.dtype.name, out.dtype.name) == (dtype, dtype, "float32")
    assert counted == ["activation_forward", "gated_forward", "dropout"]
    counted.clear()
    out.sum().backward()
    assert {t.grad.dtype.name for t in (x, w, b, r)} == {"float32"}
    plain = [tensor(host(t), True) for t in (x, w, b)]
    silu = F.silu(F.linear(*plain))
    mask = tensor(host(out) != host(r))
    (F.silu(silu[:, :5]) * silu[:, 5:] * mask * 2).sum().backward()
    for t, e in zip((x, w, b), plain):
        close(t.grad, wide(e.grad), dtype, 16)


# rotary embedding

def half_split(torch, x, cos, sin):
    """As LLaMA programs write it: tables of (T, D) with each angle twice, and a rotated half."""
    cos, sin = torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def every_two(torch, x, cos, sin):
    """As GPT-J programs write it: neighbours are a pair."""
    cos, sin = torch.repeat_interleave(cos, 2, -1), torch.repeat_interleave(sin, 2, -1)
    turned = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
    return x * cos + turned * sin


@pytest.mark.parametrize("dtype", ("float64", *DTYPES))
@pytest.mark.parametrize("interleaved", (False, True))
@pytest.mark.parametrize("inside", (False, True), ids=("BHTD", "BTHD"))
def test_rotary_is_what_pytorch_programs_do(inside, interleaved, dtype, where, rng, torch):
    wide_dtype = np.float64 if dtype == "float64" else np.float32
    x = rng.standard_normal((2, 3, 5, 16)).astype(from_any(dtype).np)
    g = rng.standard_normal(x.shape).astype(x.dtype)
    time = 3 if inside else 5
    cos, sin = (host(t) for t in F.rotary_tables(time, 16, dtype=wide_dtype, device="cpu"))
    theirs = torch_tensor(torch, x.astype(np.float64), True)
    given = [torch.from_numpy(a.astype(np.float64)) for a in (cos, sin)]
    if inside:  # (batch, time, heads, features)
        given = [a[:, None] for a in given]
    expected = (every_two if interleaved else half_split)(torch, theirs, *given)
    expected.backward(torch.from_numpy(g.astype(np.float64)))
    for place in (None, where):
        mine = tensor(x, True, place)
        out = F.rotary_embedding(mine, tensor(cos, False, place), tensor(sin, False, place), interleaved,
                                 dim=1 if inside else -2)
        out.backward(tensor(g, False, place))
        assert out.dtype is mine.dtype
        close(out, expected.detach().numpy(), dtype)
        close(mine.grad, theirs.grad.numpy(), dtype)


def test_rotary_tables(torch):
    cos, sin = F.rotary_tables(7, 10, base=500.0)
    angles = np.arange(7)[:, None] / 500.0 ** (np.arange(5) / 5)
    assert cos.dtype is tt.float32 and cos.shape == (7, 5) and not cos.requires_grad
    # computed in float64: half a unit of float32
    np.testing.assert_allclose(wide(cos), np.cos(angles), rtol=0, atol=2.0**-24)
    np.testing.assert_allclose(wide(sin), np.sin(angles), rtol=0, atol=2.0**-24)
    assert F.rotary_tables(0, 4)[0].shape == (0, 2) and F.rotary_tables(3, 0)[1].shape == (3, 0)
    assert F.rotary_tables(3, 4, dtype=tt.float64)[1].dtype is tt.float64


@pytest.mark.parametrize("interleaved", (False, True))
def test_rotary_scores_depend_on_distances_only(interleaved, rng):
    q, k = (rng.standard_normal(16) for _ in range(2))
    cos, sin = F.rotary_tables(40, 16, dtype=tt.float64)
    turned = [F.rotary_embedding(tensor(np.tile(v, (40, 1))), cos, sin, interleaved) for v in (q, k)]
    scores = host(turned[0] @ turned[1].mT)
    for d in (-7, 0, 5):
        line = np.diagonal(scores, d)
        np.testing.assert_allclose(line, line[0], rtol=0, atol=1e-13 * np.abs(scores).max() * 40)
    np.testing.assert_allclose(np.linalg.norm(host(turned[0]), axis=1), np.linalg.norm(q), rtol=1e-13)


def test_rotary_of_a_cache_and_of_batched_positions(where, rng):
    """One step at position 4 is row 4 of the whole; batched tables give each sequence its own positions."""
    for place in (None, where):
        x = draw(rng, (2, 3, 6, 8), "float32", place, False)
        cos, sin = F.rotary_tables(9, 8, device=place)
        whole = F.rotary_embedding(x, cos[:6], sin[:6])
        step = F.rotary_embedding(x[:, :, 4:5], cos[4:5], sin[4:5])
        assert host(step).tobytes() == host(whole[:, :, 4:5].contiguous()).tobytes()
        positions = tensor(np.array([[0, 1, 2, 3, 4, 5], [3, 4, 5, 6, 7, 8]]), False, place)
        both = F.rotary_embedding(x, cos[positions], sin[positions])
        later = F.rotary_embedding(x[1:], cos[3:], sin[3:])
        assert host(both).tobytes() == host(tt.cat((whole[:1], later))).tobytes()
        inside = F.rotary_embedding(x.transpose(1, 2), cos[positions], sin[positions], dim=1)
        assert host(inside.transpose(1, 2).contiguous()).tobytes() == host(both).tobytes()


def test_rotary_reads_a_transposed_input_as_it_lies(where, rng, counted):
    x = draw(rng, (2, 5, 3, 8), "float16", where)
    cos, sin = F.rotary_tables(5, 8, device=where)
    heads = x.transpose(1, 2)  # (batch, heads, time, features), as attention takes it
    out = F.rotary_embedding(heads, cos, sin)
    assert counted == ["rotary"] and out.stride() == heads.stride()
    plain = F.rotary_embedding(heads.contiguous(), cos, sin)
    assert host(out).tobytes() == host(plain).tobytes()
    out.backward(plain.detach())
    assert counted == ["rotary"] * 3
    with use_kernels(False):
        again = tensor(host(x), True, where)
        F.rotary_embedding(again.transpose(1, 2), cos, sin).backward(plain.detach())
    close(x.grad, wide(again.grad), "float16")


@pytest.mark.parametrize("name", ["partial", "batched", "heads inside"])
def test_rotary_gradients(name, rng):
    shape, pairs, dim, tables = {
        "partial": ((2, 3, 7), 2, -2, (3,)), "batched": ((2, 2, 3, 4), 2, 2, (2, 3)),
        "heads inside": ((2, 3, 2, 4), 2, 1, (3,))}[name]
    angles = rng.uniform(-3, 3, (*tables, pairs))
    x = tensor(rng.standard_normal(shape), True)
    cos, sin = tensor(np.cos(angles)), tensor(np.sin(angles))
    for interleaved in (False, True):
        def f(x, interleaved=interleaved):
            return F.rotary_embedding(x, cos, sin, interleaved, dim) ** 2

        assert gradcheck(f, (x,)) and gradgradcheck(f, (x,))
        back = F.rotary_embedding(F.rotary_embedding(x, cos, sin, interleaved, dim), cos, -sin, interleaved, dim)
        np.testing.assert_allclose(host(back), host(x), rtol=0, atol=1e-13)


# empty tensors and bad input

def test_empty_tensors(where):
    for place in (None, where):
        def zeros(*shape):
            return tt.zeros(*shape, device=place).requires_grad_()

        cos, sin = F.rotary_tables(0, 8, device=place)
        none = F.rotary_tables(4, 0, device=place)
        for f, inputs in ((F.bias_act, (zeros(0, 3), zeros(3))), (F.bias_act, (zeros(3, 0), zeros(0))),
                          (F.swiglu, (zeros(0, 4),)), (F.geglu, (zeros(3, 0),)), (F.swiglu, (zeros(0), zeros(0))),
                          (F.dropout_add, (zeros(0, 2), zeros(0, 2))), (F.dropout_add, (zeros(), zeros())),
                          (lambda x: F.rotary_embedding(x, cos, sin), (zeros(2, 0, 8),)),
                          (lambda x: F.rotary_embedding(x, *none), (zeros(2, 4, 8),))):
            out = f(*inputs)
            out.sum().backward()
            assert all(t.grad.shape == t.shape for t in inputs)


ROTARY = "F.rotary_embedding(tt.zeros(2, 5, 8), "
BAD = [
    ("F.bias_act(tt.zeros(2, 3), tt.zeros(3), 'tanh')", ValueError, "[bias_act] activation gelu_tanh 'tanh'"),
    ("F.bias_act(tt.zeros(2, 3), tt.zeros(3), ['gelu'])", ValueError, "[bias_act] activation ['gelu']"),
    ("F.bias_act(tt.zeros(2, 3), tt.zeros(2))", RuntimeError, "[bias_act] (3,) (2, 3) (2,)"),
    ("F.bias_act(tt.zeros(2, 3), tt.zeros(1))", RuntimeError, "[bias_act] (3,) (1,)"),
    ("F.bias_act(tt.zeros(2, 3), tt.zeros(1, 3))", RuntimeError, "[bias_act] (3,) (1, 3)"),
    ("F.bias_act(tt.zeros(()), tt.zeros(1))", RuntimeError, "[bias_act] (N,) ()"),
    ("F.bias_act(tt.zeros(2, 3).to(tt.complex64), tt.zeros(3))", NotImplementedError, "[bias_act] complex64"),
    ("F.bias_act([1.0], tt.zeros(3))", TypeError, "[bias_act] list"),
    ("F.swiglu(tt.zeros(2, 3))", RuntimeError, "[swiglu] halving dimension must be even 1 3"),
    ("F.swiglu(tt.zeros(()))", RuntimeError, "[swiglu] 0-dimensional"),
    ("F.swiglu(tt.zeros(2, 4), dim=2)", IndexError, "[swiglu] Dimension out of range [-2, 1] 2"),
    ("F.swiglu(tt.zeros(2, 4), tt.zeros(3, 4))", RuntimeError, "(2, 4) (3, 4)"),
    ("F.geglu(tt.zeros(2, 4), approximate='erf')", RuntimeError, "[geglu] none tanh 'erf'"),
    ("F.geglu(tt.zeros(2, 4).to(tt.complex64))", NotImplementedError, "[geglu] complex64"),
    ("F.glu(tt.zeros(2, 4).long())", NotImplementedError, "[glu] int64 .float()"),
    ("F.glu(tt.zeros(3, 4), 0)", RuntimeError, "[glu] halving dimension must be even 0 3"),
    ("F.dropout_add(tt.zeros(2, 3), tt.zeros(3))", RuntimeError, "[dropout_add] (2, 3) (3,)"),
    ("F.dropout_add(tt.zeros(2), tt.zeros(2), 1.5)", ValueError, "[dropout_add] 0 1 1.5"),
    ("F.dropout_add(tt.zeros(2).long(), tt.zeros(2))", RuntimeError, "[dropout_add] int64 .float()"),
    ("F.rotary_tables(4, 5)", ValueError, "[rotary_tables] even dim=5"),
    ("F.rotary_tables(-1, 4)", ValueError, "[rotary_tables] length=-1"),
    ("F.rotary_tables(4, 4, base=0)", ValueError, "[rotary_tables] base=0"),
    (ROTARY + "tt.zeros(4, 4), tt.zeros(4, 4))", RuntimeError, "[rotary_embedding] 4 positions 5 slice cos[:T]"),
    (ROTARY + "tt.zeros(5, 8), tt.zeros(5, 8))", RuntimeError, "[rotary_embedding] 8 angles 16 repeat each angle"),
    (ROTARY + "tt.zeros(5, 4), tt.zeros(5, 3))", RuntimeError, "[rotary_embedding] one shape (5, 4) (5, 3)"),
    (ROTARY + "tt.zeros(8), tt.zeros(8))", RuntimeError, "[rotary_embedding] (T, R / 2) (8,)"),
    (ROTARY + "tt.zeros(3, 5, 4), tt.zeros(3, 5, 4))", RuntimeError, "[rotary_embedding] batch of 3 (2, 5, 8)"),
    (ROTARY + "tt.zeros(5, 2, 4), tt.zeros(5, 2, 4), dim=0)", RuntimeError,
     "[rotary_embedding] batch of 5 along dimension 0"),
    (ROTARY + "tt.zeros(5, 4), tt.zeros(5, 4), dim=-1)", RuntimeError, "[rotary_embedding] features -1"),
    (ROTARY + "tt.zeros(5, 4), tt.zeros(5, 4), dim=3)", IndexError, "[rotary_embedding] Dimension out of range 3"),
    (ROTARY + "tt.zeros(5, 4).requires_grad_(), tt.zeros(5, 4))", RuntimeError,
     "[rotary_embedding] no gradient detach"),
    (ROTARY + "tt.zeros(5, 4).long(), tt.zeros(5, 4))", RuntimeError, "[rotary_embedding] int64 .float()"),
    ("F.rotary_embedding(tt.zeros(8), tt.zeros(8, 4), tt.zeros(8, 4))", RuntimeError,
     "[rotary_embedding] 2 dimensions (8,)"),
    ("F.rotary_embedding(tt.zeros(5, 8).long(), tt.zeros(5, 4), tt.zeros(5, 4))", RuntimeError,
     "[rotary_embedding] int64"),
    ("F.rotary_embedding(tt.zeros(5, 8).to(tt.complex64), tt.zeros(5, 4), tt.zeros(5, 4))", RuntimeError,
     "[rotary_embedding] complex64"),
]


@pytest.mark.parametrize("program, kind, words", BAD, ids=[b[0] for b in BAD])
def test_bad_input(program, kind, words):
    with pytest.raises(kind) as caught:
        eval(program, {"F": F, "tt": tt})
    assert type(caught.value) is kind
    for word in words.split():
        assert word in str(caught.value), f"{caught.value} does not say {word}"


def test_operands_on_two_devices(where):
    here, there = tt.zeros(4, 8, device=where), tt.zeros(4, 8, device="cpu")
    tables = F.rotary_tables(4, 8, device="cpu")
    for f in (lambda: F.bias_act(here, there[0]), lambda: F.swiglu(here, there), lambda: F.dropout_add(here, there),
              lambda: F.rotary_embedding(here, *tables)):
        with pytest.raises(RuntimeError, match="same device"):
            f()


def test_kernels_are_not_used_where_they_do_not_fit(where, counted):
    wide_one = tt.zeros(4, 8, device=where, dtype=tt.float64)
    F.bias_act(wide_one, wide_one[0])
    F.swiglu(wide_one)
    F.swiglu(wide_one, wide_one)
    F.dropout_add(wide_one.float(), wide_one)
    F.rotary_embedding(wide_one, *F.rotary_tables(4, 8, device=where))
    assert not counted
    F.swiglu(wide_one.float().mT)
    F.bias_act(wide_one.half(), wide_one[0].float())
    assert counted == ["activation_forward"] * 2  # inside of their formulas
