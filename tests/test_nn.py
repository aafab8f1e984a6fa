"""Layers beside torch.nn: values, gradients, text, starting distributions; nn.functional, nn.utils."""
from __future__ import annotations

import inspect

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import nn
from tinytorch_gpu.backend.device import backend_of
from tinytorch_gpu.nn import functional as F


def host(tensor):
    return np.array(backend_of(tensor._array).to_host(tensor._array))


# name of the layer, its arguments, shape of the input
LAYERS = [
    ("Linear", (3, 4), {}, (5, 3)),
    ("Linear", (3, 4), {"bias": False}, (2, 5, 3)),
    ("Identity", (54,), {"unused": 1}, (2,)),
    ("Flatten", (), {}, (2, 3, 4)),
    ("Flatten", (0, 1), {}, (2, 3, 4)),
    ("Unflatten", (1, (2, 3)), {}, (2, 6)),
    ("ReLU", (), {}, (3, 4)),
    ("LeakyReLU", (0.2,), {}, (3, 4)),
    ("GELU", (), {}, (3, 4)),
    ("GELU", ("tanh",), {}, (3, 4)),
    ("SiLU", (), {}, (3, 4)),
    ("Sigmoid", (), {}, (3, 4)),
    ("LogSigmoid", (), {}, (3, 4)),
    ("Tanh", (), {}, (3, 4)),
    ("Softplus", (2, 1), {}, (3, 4)),
    ("ELU", (), {"alpha": 0.5}, (3, 4)),
    ("SELU", (), {}, (3, 4)),
    ("ReLU6", (), {}, (3, 4)),
    ("Hardtanh", (-0.5,), {}, (3, 4)),
    ("Softmax", (), {"dim": -1}, (3, 4)),
    ("Softmin", (0,), {}, (3, 4)),
    ("LogSoftmax", (1,), {}, (3, 4)),
    ("GLU", (), {}, (3, 4)),
    ("GLU", (1,), {}, (3, 4, 5)),
    ("LayerNorm", (4,), {}, (2, 3, 4)),
    ("LayerNorm", ((3, 4),), {"bias": False}, (2, 3, 4)),
    ("LayerNorm", (4,), {"elementwise_affine": False, "eps": 1e-3}, (2, 4)),
    ("RMSNorm", (4,), {}, (2, 3, 4)),
    ("RMSNorm", ((3, 4),), {"eps": 1e-3, "elementwise_affine": False}, (2, 3, 4)),
    ("GroupNorm", (2, 4), {}, (3, 4, 5)),
    ("BatchNorm1d", (4,), {}, (6, 4)),
    ("BatchNorm1d", (4,), {"momentum": None, "affine": False}, (6, 4, 3)),
    ("BatchNorm2d", (3,), {"track_running_stats": False}, (4, 3, 2, 5)),
    ("BatchNorm2d", (3,), {"momentum": 0.3, "bias": False}, (4, 3, 2, 5)),
    ("Conv1d", (4, 6, 3), {"stride": 2, "padding": 1}, (2, 4, 9)),
    ("Conv1d", (4, 6, 4), {"padding": "same", "dilation": 2, "groups": 2}, (2, 4, 9)),
    ("Conv1d", (4, 6, 3), {"padding": "valid", "bias": False}, (4, 9)),
    ("Conv2d", (3, 4, 3), {}, (2, 3, 7, 8)),
    ("Conv2d", (3, 4, (2, 3)), {"padding": (1, 2), "padding_mode": "circular"}, (2, 3, 7, 8)),
    ("Conv2d", (3, 4, 3), {"padding": "same", "padding_mode": "reflect"}, (2, 3, 7, 8)),
    ("Conv2d", (4, 4, 3), {"groups": 4, "stride": (2, 1), "dilation": 2}, (2, 4, 9, 8)),
    ("MaxPool1d", (2,), {}, (2, 3, 8)),
    ("MaxPool2d", (3,), {"stride": 2, "padding": 1, "ceil_mode": True}, (2, 3, 8, 7)),
    ("AvgPool1d", (2,), {"stride": 1}, (2, 3, 8)),
    ("AvgPool2d", ((2, 3),), {"padding": 1, "count_include_pad": False}, (2, 3, 8, 7)),
    ("AdaptiveAvgPool1d", (3,), {}, (2, 3, 8)),
    ("AdaptiveAvgPool2d", ((None, 2),), {}, (2, 3, 8, 7)),
    ("Dropout", (0.0,), {}, (3, 4)),
    ("Dropout2d", (), {"p": 0.0}, (3, 4, 2, 2)),
]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("name", "args", "kwargs", "shape"), LAYERS)
def test_layer(torch, rng, name, args, kwargs, shape, training):
    ours, theirs = getattr(nn, name)(*args, **kwargs).double(), getattr(torch.nn, name)(*args, **kwargs).double()
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    values = {k: rng.uniform(0.5, 1.5, v.shape) if v.dtype.is_floating_point else np.array(3)
              for k, v in theirs.state_dict().items()}
    ours.load_state_dict({k: tt.tensor(v) for k, v in values.items()})
    theirs.load_state_dict({k: torch.tensor(v) for k, v in values.items()})
    ours.train(training)
    theirs.train(training)
    x = rng.standard_normal(shape)
    a, b = tt.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    for _ in range(2):  # running statistics move twice
        out, ref = ours(a), theirs(b)
        g = rng.standard_normal(ref.shape)
        out.backward(tt.tensor(g))
        ref.backward(torch.tensor(g))
    # float64 sums of at most a few hundred terms; normalisation divides by spreads of about 1
    close = dict(rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(host(out.detach()), ref.detach().numpy(), **close)
    np.testing.assert_allclose(host(a.grad), b.grad.numpy(), **close)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(host(p.grad), q.grad.numpy(), **close)
    for p, q in zip(ours.buffers(), theirs.buffers(), strict=True):
        np.testing.assert_allclose(host(p), q.numpy(), **close)


LOSSES = [
    ("MSELoss", {}, "same"), ("L1Loss", {"reduction": "sum"}, "same"), ("SmoothL1Loss", {"beta": 0.5}, "same"),
    ("HuberLoss", {"delta": 0.7}, "same"), ("BCELoss", {}, "probability"),
    ("BCELoss", {"weight": [1.0, 2, 3, 4], "reduction": "none"}, "probability"),
    ("BCEWithLogitsLoss", {"pos_weight": [1.0, 2, 3, 4]}, "target"),
    ("NLLLoss", {"ignore_index": 1, "weight": [1.0, 2, 3, 4]}, "class"),
    ("CrossEntropyLoss", {"label_smoothing": 0.1, "weight": [1.0, 2, 3, 4]}, "class"),
    ("CrossEntropyLoss", {"ignore_index": 2, "reduction": "sum"}, "class"),
    ("CrossEntropyLoss", {}, "target"),
    ("KLDivLoss", {"reduction": "batchmean"}, "target"),
    ("KLDivLoss", {"log_target": True, "reduction": "sum"}, "same"),
]


@pytest.mark.parametrize(("name", "options", "kind"), LOSSES)
def test_loss(torch, rng, name, options, kind):
    def made(lib):
        return getattr(lib.nn, name)(**{
            k: lib.tensor(v, dtype=lib.float64) if isinstance(v, list) else v for k, v in options.items()})

    ours, theirs = made(tt), made(torch)
    assert repr(ours) == repr(theirs) and list(ours.state_dict()) == list(theirs.state_dict())
    x = rng.uniform(0.1, 0.9, (6, 4)) if kind == "probability" else rng.standard_normal((6, 4))
    y = {"same": rng.standard_normal((6, 4)), "class": rng.integers(0, 4, 6)}.get(kind, rng.uniform(0, 1, (6, 4)))
    a, b = tt.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    out, ref = ours(a, tt.tensor(y)), theirs(b, torch.tensor(y))
    np.testing.assert_allclose(host(out.detach()), ref.detach().numpy(), rtol=1e-12)
    out.sum().backward()
    ref.sum().backward()
    np.testing.assert_allclose(host(a.grad), b.grad.numpy(), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", sorted({n for n, *_ in LAYERS + LOSSES} - {
    "ReLU", "LeakyReLU", "GELU", "SiLU", "Softplus", "ELU", "SELU", "ReLU6", "Hardtanh", "Softmax", "Softmin",
    "LogSoftmax"}))
def test_signature_is_pytorchs(torch, name):
    def arguments(cls):
        return [(p.name, p.default, p.kind) for p in inspect.signature(cls.__init__).parameters.values()]

    if getattr(torch.nn, name).__init__ is torch.nn.Module.__init__:
        assert getattr(nn, name)()
    else:
        assert arguments(getattr(nn, name)) == arguments(getattr(torch.nn, name))


def test_embedding(torch, rng):
    table, index = rng.standard_normal((7, 3)), rng.integers(0, 7, (2, 5))
    for options in ({}, {"padding_idx": -2}):
        ours, theirs = nn.Embedding(7, 3, **options).double(), torch.nn.Embedding(7, 3, **options).double()
        assert repr(ours) == repr(theirs)
        if options:
            assert not host(ours.weight)[5].any() and host(ours.weight)[4].all()
        ours.load_state_dict({"weight": tt.tensor(table)})
        theirs.load_state_dict({"weight": torch.tensor(table)})
        out, ref = ours(tt.tensor(index)), theirs(torch.tensor(index))
        np.testing.assert_array_equal(host(out.detach()), ref.detach().numpy())
        out.sum().backward()
        ref.sum().backward()
        np.testing.assert_allclose(host(ours.weight.grad), theirs.weight.grad.numpy())
    frozen = nn.Embedding.from_pretrained(tt.tensor(table))
    assert not frozen.weight.requires_grad and frozen(tt.tensor([1])).shape == (1, 3)


ATTENTION = [
    ({}, {}), ({"bias": False}, {"need_weights": False}), ({"kdim": 6, "vdim": 10}, {"average_attn_weights": False}),
    ({"batch_first": True}, {"mask": "bool"}), ({"batch_first": True}, {"mask": "bool", "need_weights": False}),
    ({}, {"mask": "bool", "padding": "bool"}), ({}, {"mask": "float", "padding": "float", "need_weights": False}),
    ({}, {"mask": "heads", "padding": "float"}), ({"add_bias_kv": True, "add_zero_attn": True}, {"padding": "bool"}),
    ({"add_bias_kv": True}, {"mask": "bool", "need_weights": False}), ({}, {"unbatched": True}),
    ({}, {"mask": "bool", "is_causal": True, "need_weights": False}),
]


@pytest.mark.parametrize(("options", "call"), ATTENTION)
def test_multihead_attention(torch, rng, options, call):
    ours = nn.MultiheadAttention(8, 2, **options).double()
    theirs = torch.nn.MultiheadAttention(8, 2, **options).double()
    values = {k: rng.standard_normal(v.shape) for k, v in theirs.state_dict().items()}
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in values.items()}
    ours.load_state_dict({k: tt.tensor(v) for k, v in values.items()})
    theirs.load_state_dict({k: torch.tensor(v) for k, v in values.items()})
    call = dict(call)
    n, t, s = 3, 4, 5
    if call.get("is_causal"):
        s = t
    shapes = [(n, t, 8), (n, s, options.get("kdim", 8)), (n, s, options.get("vdim", 8))]
    if call.pop("unbatched", False):
        shapes = [shape[1:] for shape in shapes]
    elif not options.get("batch_first"):
        shapes = [(b, a, c) for a, b, c in shapes]
    arrays = [rng.standard_normal(shape) for shape in shapes]
    later = np.triu(np.ones((t, s), bool), 1)
    mask = {"bool": later, "float": rng.standard_normal((t, s)), "heads": rng.standard_normal((n * 2, t, s)),
            None: None}[call.pop("mask", None)]
    padding = {"bool": np.arange(s) >= np.array([[5], [3], [1]]), "float": rng.standard_normal((n, s)),
               None: None}[call.pop("padding", None)]

    def run(lib, layer):
        inputs = [lib.tensor(a).requires_grad_(True) for a in arrays]
        out, weights = layer(*inputs, attn_mask=None if mask is None else lib.tensor(mask),
                             key_padding_mask=None if padding is None else lib.tensor(padding), **call)
        total = (out * out).sum() + (0 if weights is None else (weights * weights).sum())
        total.backward()
        grads = [x.grad for x in inputs] + [p.grad for p in layer.parameters()]
        return [x if x is None else x.detach() for x in (out, weights, *grads)]

    for a, b in zip(run(tt, ours), run(torch, theirs), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(host(a), b.numpy(), rtol=1e-9, atol=1e-9)


def test_dropout_drops_in_training_only():
    tt.manual_seed(3)
    layer, x = nn.Dropout(0.25), tt.ones(200, 200)
    kept = host(layer(x)) != 0
    assert abs(kept.mean() - 0.75) < 0.02  # 40,000 draws: 9 standard deviations
    np.testing.assert_allclose(host(layer(x)).max(), 1 / 0.75, rtol=1e-6)
    np.testing.assert_array_equal(host(layer.eval()(x)), host(x))


@pytest.mark.parametrize("make", [
    lambda lib: lib.nn.Linear(50, 400), lambda lib: lib.nn.Conv2d(8, 64, 3, groups=2),
    lambda lib: lib.nn.Embedding(200, 100), lambda lib: lib.nn.BatchNorm2d(5), lambda lib: lib.nn.LayerNorm((2, 3)),
])
def test_starting_values_are_distributed_as_pytorchs(torch, make):
    """Standard deviations of thousands of uniform or normal values agree within 5%; bounds hold."""
    tt.manual_seed(11)
    torch.manual_seed(11)
    for (name, p), (_, q) in zip(make(tt).named_parameters(), make(torch).named_parameters(), strict=True):
        p, q = host(p), q.detach().numpy()
        assert p.shape == q.shape and p.dtype == q.dtype, name
        if q.size >= 1000:
            np.testing.assert_allclose(p.std(), q.std(), rtol=0.05)
            assert abs(p.mean()) < 0.05 * max(p.std(), 1e-9) + 0.02
        assert np.abs(p).max() <= np.abs(q).max() * 1.3


@pytest.mark.parametrize(("error", "message", "call"), [
    (ValueError, "in_channels must be divisible", lambda: nn.Conv2d(3, 4, 3, groups=2)),
    (ValueError, "out_channels must be divisible", lambda: nn.Conv2d(4, 3, 3, groups=2)),
    (ValueError, "groups must be a positive", lambda: nn.Conv1d(4, 4, 3, groups=0)),
    (ValueError, "Invalid padding string", lambda: nn.Conv1d(4, 4, 3, padding="most")),
    (ValueError, "not supported for strided", lambda: nn.Conv1d(4, 4, 3, padding="same", stride=2)),
    (ValueError, "padding_mode must be one of", lambda: nn.Conv1d(4, 4, 3, padding_mode="wrap")),
    (ValueError, "dropout probability", lambda: nn.Dropout(1.5)),
    (ValueError, "expected 4D input", lambda: nn.BatchNorm2d(3)(tt.ones(2, 3))),
    (ValueError, "expected 2D or 3D input", lambda: nn.BatchNorm1d(3)(tt.ones(3))),
    (AssertionError, "divisible by num_heads", lambda: nn.MultiheadAttention(8, 3)),
    (ValueError, "greater than 0", lambda: nn.MultiheadAttention(0, 3)),
    (RuntimeError, "Need attn_mask", lambda: nn.MultiheadAttention(4, 2)(*[tt.ones(2, 4)] * 3, is_causal=True)),
    (RuntimeError, "shape of the 2D attn_mask",
     lambda: nn.MultiheadAttention(4, 2)(*[tt.ones(2, 4)] * 3, attn_mask=tt.ones(3, 3))),
    (RuntimeError, "2-D or 3-D", lambda: nn.MultiheadAttention(4, 2)(*[tt.ones(4)] * 3)),
    (ValueError, "must be divisible by num_groups", lambda: nn.GroupNorm(3, 4)),
    (AssertionError, "Padding_idx", lambda: nn.Embedding(3, 2, padding_idx=3)),
    (TypeError, "unexpected keyword", lambda: nn.ReLU(slope=1)),
    (TypeError, "positional arguments", lambda: nn.Tanh(1)),
    (TypeError, "ints", lambda: nn.Unflatten(1, (2.0, 3))),
    (ValueError, "is not a valid value for reduction", lambda: nn.MSELoss(reduction="most")(tt.ones(1), tt.ones(1))),
])
def test_errors(error, message, call):
    with pytest.raises(error, match=message):
        call()


# what PyTorch has no name for: fused forms of what its users write out
OURS = {"add_layer_norm", "add_rms_norm", "bias_act", "dropout_add", "geglu", "rotary_embedding", "rotary_tables",
        "swiglu"}


def test_functional_has_what_the_layers_need(torch):
    assert set(F.__all__) >= OURS
    for name in F.__all__:
        assert callable(getattr(F, name)), name
        assert hasattr(torch.nn.functional, name) != (name in OURS), f"{name}: PyTorch's, or not"
    for name in ("layer_norm", "rms_norm", "batch_norm", "scaled_dot_product_attention", "cross_entropy", "one_hot"):
        assert name in F.__all__
    np.testing.assert_allclose(host(F.normalize(tt.tensor([[3.0, 4.0]]))), [[0.6, 0.8]], rtol=1e-6)


# nn.utils

def with_grads(lib, arrays, dtype):
    params = []
    for a in arrays:
        p = lib.zeros(*a.shape, dtype=dtype).requires_grad_(True)
        p.grad = lib.tensor(a).to(dtype=dtype)
        params.append(p)
    return params


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3, float("inf")])
@pytest.mark.parametrize("limit", [0.5, 1e3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clip_grad_norm(torch, rng, norm_type, limit, dtype):
    arrays = [rng.standard_normal(s).astype(dtype) for s in [(3, 4), (5,), (40, 30)]]
    ours, theirs = with_grads(tt, arrays, getattr(tt, dtype)), with_grads(torch, arrays, getattr(torch, dtype))
    grads = [p.grad._array for p in ours]
    total = nn.utils.clip_grad_norm_(ours, limit, norm_type)
    ref = torch.nn.utils.clip_grad_norm_(theirs, limit, norm_type)
    assert total.shape == () and total.dtype is getattr(tt, dtype) and not total.requires_grad
    rtol = 1e-5 if dtype == "float32" else 1e-12  # sums of 1,217 terms, in another order
    np.testing.assert_allclose(host(total), ref.numpy(), rtol=rtol)
    for p, q, kept in zip(ours, theirs, grads, strict=True):
        assert p.grad._array is kept
        np.testing.assert_allclose(host(p.grad), q.grad.numpy(), rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_clip_half_gradients_in_float32(dtype):
    """4,096 gradients of 8 have norm 512; a float16 sum of their squares, 262,144, would be infinite."""
    (p,) = with_grads(tt, [np.full(4096, 8.0)], getattr(tt, dtype))
    total = nn.utils.clip_grad_norm_(p, 256.0)
    assert total.dtype is tt.float32 and float(total) == 512.0
    assert p.grad.dtype is getattr(tt, dtype)
    np.testing.assert_allclose(host(p.grad).astype(np.float64), 4.0, rtol=2**-8)


def test_clip_grad_value(torch, rng):
    arrays = [rng.standard_normal(s) for s in [(3, 4), (5,)]]
    ours, theirs = with_grads(tt, arrays, tt.float64), with_grads(torch, arrays, torch.float64)
    total = nn.utils.clip_grad_value_(ours, 0.3)
    torch.nn.utils.clip_grad_value_(theirs, 0.3)
    np.testing.assert_allclose(float(total), np.sqrt(sum((a**2).sum() for a in arrays)))
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(host(p.grad), q.grad.numpy())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_clip_half_values(dtype):
    (p,) = with_grads(tt, [np.array([-3.0, 0.25, 9.0])], getattr(tt, dtype))
    total = nn.utils.clip_grad_value_([p], 0.5)
    assert total.dtype is tt.float32 and p.grad.dtype is getattr(tt, dtype)
    np.testing.assert_array_equal(host(p.grad).astype(np.float64), [-0.5, 0.25, 0.5])


def test_clip_non_finite_and_nothing():
    (p,) = with_grads(tt, [np.array([1.0, np.inf])], tt.float32)
    with pytest.raises(RuntimeError, match="non-finite"):
        nn.utils.clip_grad_norm_([p], 1.0, error_if_nonfinite=True)
    assert np.isinf(host(p.grad)).sum() == 1
    assert float(nn.utils.clip_grad_norm_([p], 1.0)) == np.inf
    assert float(nn.utils.clip_grad_norm_([tt.ones(2).requires_grad_(True)], 1.0)) == 0.0


def test_parameters_as_a_vector():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    vector = nn.utils.parameters_to_vector(model.parameters())
    assert vector.shape == (13,) and vector.requires_grad
    nn.utils.vector_to_parameters(tt.arange(13.0), model.parameters())
    np.testing.assert_array_equal(host(model[1].weight), [[9, 10, 11]])
    with pytest.raises(TypeError, match="expected Tensor"):
        nn.utils.vector_to_parameters([1.0], model.parameters())


def test_training_a_small_network_reduces_the_loss():
    tt.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
    x = tt.rand(64, 2)
    y = (x[:, :1] * x[:, 1:]).detach()
    optimizer, losses = tt.optim.AdamW(model.parameters(), lr=0.02), []
    for _ in range(150):
        optimizer.zero_grad()
        loss = nn.MSELoss()(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 20
