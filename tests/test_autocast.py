"""autocast against PyTorch's own table of operators and dtypes for CUDA, which is applied on every device here."""
from __future__ import annotations

import threading

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import nn
from tinytorch_gpu.amp import autocast, custom_bwd, custom_fwd
from tinytorch_gpu.autograd.modes import state
from tinytorch_gpu.autograd.operator import Operator

F = nn.functional


@pytest.fixture
def on(device):
    """autocast's device type for the device under test."""
    return device.type


# What PyTorch's table (torch.testing._internal.autocast_test_lists) has and this package lacks: outside of its scope,
# and so without a rule. A name that is in the package and not here is tested.
LACKING = {
    "_convolution", "conv3d", "conv_tbc", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution",
    "cudnn_convolution", "cudnn_convolution_transpose", "prelu", "addr", "chain_matmul", "addbmm", "lstm_cell",
    "gru_cell", "rnn_tanh_cell", "rnn_relu_cell", "cosine_similarity", "poisson_nll_loss", "cosine_embedding_loss",
    "hinge_embedding_loss", "margin_ranking_loss", "triplet_margin_loss", "dist", "pdist", "cdist", "renorm",
    "bilinear",
    "cross", "grid_sampler", "nll_loss2d", "multilabel_margin_loss", "soft_margin_loss", "multi_margin_loss",
    "linalg_vecdot", "linalg_multi_dot", "__div__",
}
EXPECTED = {"torch_fp16": "half", "nn_fp16": "half", "methods_fp16": "half", "linalg_fp16": "half",
            "torch_fp32": tt.float32, "nn_fp32": tt.float32, "methods_fp32": tt.float32,
            "torch_need_autocast_promote": tt.float32}


def table(torch):
    lists = pytest.importorskip("torch.testing._internal.autocast_test_lists").AutocastTestLists("cpu")
    for group, expected in EXPECTED.items():
        for name, args, *rest in getattr(lists, group):
            if isinstance(args, str):  # einsum's equation comes first; its operands in the table do not fit it
                args, rest = ("ij,jk->ik", *rest[0]), ()
            yield group, name, args, next((r for r in rest if isinstance(r, dict)), {}), expected
    for name, args, expected in lists.torch_expect_builtin_promote + lists.methods_expect_builtin_promote:
        yield "promotes", name, args, {}, expected if name == "equal" else getattr(tt, str(expected)[6:])


def ours(value, device):
    """The arguments of the table as ours; PyTorch's enum of a reduction becomes its name."""
    if isinstance(value, (tuple, list)):
        return type(value)(ours(v, device) for v in value)
    if type(value).__module__ == "torch":
        raw = value.float().numpy() if value.dtype.is_floating_point else value.numpy()
        return tt.tensor(raw, dtype=getattr(tt, str(value.dtype)[6:]), device=device)
    return value


def function_of(name):
    for place in () if name.startswith("__") else (tt, F):
        if hasattr(place, name):
            return getattr(place, name)
    if hasattr(tt.Tensor, name):
        return getattr(tt.Tensor, name)
    return None


@pytest.mark.parametrize("dtype", [tt.float16, tt.bfloat16], ids=lambda d: d.name)
def test_pytorchs_table(torch, device, on, dtype):
    seen = 0
    for group, name, args, kwargs, expected in table(torch):
        f = function_of(name)
        if f is None:
            assert name in LACKING, f"{name} has no function here: add it to LACKING, or the function"
            continue
        assert name not in LACKING, f"{name} is here now: take it off LACKING"
        if name == "linear":  # the table's bias has a row for each row of the input, which only addmm takes
            args = (*args[:2], args[2][0])
        with autocast(on, dtype):
            out = f(*ours(args, device), **kwargs)
        if name == "equal":
            assert isinstance(out, bool)
            continue
        wanted = dtype if expected == "half" else expected
        assert out.dtype == wanted, f"{group}: {name} gave {out.dtype.name}, PyTorch's table says {wanted.name}"
        seen += 1
    assert seen > 70


def test_values_are_those_of_cast_operands(torch, on, rng):
    a, b = (tt.tensor(rng.standard_normal((5, 7)).astype(np.float32)) for _ in "ab")
    with autocast(on, tt.bfloat16):
        out, probabilities = a @ b.T, (a @ b.T).softmax(-1)
    assert tt.equal(out, a.bfloat16() @ b.bfloat16().T)
    assert tt.equal(probabilities, out.float().softmax(-1))


@pytest.mark.parametrize("dtype", [tt.float16, tt.bfloat16], ids=lambda d: d.name)
def test_a_training_step_as_in_pytorch(torch, dtype, rng, on):
    """The CPU build's list casts the same operators of this model, so loss and gradients are comparable."""
    x, w1, w2 = (rng.standard_normal(s).astype(np.float32) for s in ((16, 12), (20, 12), (3, 20)))
    results = []
    for lib, kind in ((tt, on), (torch, "cpu")):
        t1, t2 = (lib.tensor(w, requires_grad=True) for w in (w1, w2))
        with lib.autocast(kind, getattr(lib, dtype.name)):
            hidden = lib.relu(lib.nn.functional.linear(lib.tensor(x), t1))
            out = lib.nn.functional.linear(hidden, t2)
            loss = lib.nn.functional.mse_loss(out.float(), lib.zeros(16, 3))
        loss.backward()
        assert t1.grad.dtype == lib.float32 and str(out.dtype).endswith(dtype.name)
        results.append([np.array(v.detach().cpu().numpy()) for v in (loss, t1.grad, t2.grad)])
    eps = 2.0**-8 if dtype is tt.bfloat16 else 2.0**-11  # half an ulp; both round each product and gradient once
    for got, wanted in zip(*results):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=8 * eps * np.abs(wanted).max())


def casts():
    return len(state.casts)


def test_a_weight_is_cast_once_and_again_when_it_changes(on):
    w, x = tt.ones(3, 3, requires_grad=True), tt.ones(2, 3)
    with autocast(on, tt.bfloat16):
        (x @ w).sum().backward()
        first = x @ w
        assert casts() == 1 and not any(t is x for t, _ in state.casts.values())
        with tt.no_grad():
            w.mul_(2)
        assert tt.equal(x @ w, 2 * first) and casts() == 2
        with autocast(on, tt.float16):
            assert (x @ w).dtype == tt.float16 and casts() == 3
        assert casts() == 3  # the outer one is open still
    assert casts() == 0
    with autocast(on, tt.bfloat16, cache_enabled=False):
        assert tt.equal(x @ w, 2 * first) and casts() == 0
    with autocast(on), pytest.raises(ZeroDivisionError):
        _ = x @ w
        raise ZeroDivisionError
    assert casts() == 0 and state.autocast is None


def test_first_use_under_no_grad_does_not_lose_the_gradient(on):
    w, x = tt.ones(3, 3, requires_grad=True), tt.ones(2, 3)
    with autocast(on, tt.bfloat16):
        with tt.no_grad():
            assert not (x @ w).requires_grad
        with tt.inference_mode():
            _ = x @ w
        loss = (x @ w).sum()
    loss.backward()
    assert tt.equal(w.grad, tt.full((3, 3), 2.0)) and w.grad.dtype == tt.float32


def test_two_forwards_share_the_cast_and_both_gradients_arrive(on):
    w = tt.ones(3, 3, requires_grad=True)
    with autocast(on, tt.bfloat16):
        a, b = tt.ones(2, 3) @ w, tt.ones(4, 3) @ w
    (a.sum() + b.sum()).backward()
    assert tt.equal(w.grad, tt.full((3, 3), 6.0))


def test_checkpoint_runs_again_under_the_same_autocast(on, rng):
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 2))
    x = tt.tensor(rng.standard_normal((5, 6)).astype(np.float32))
    grads, seen = [], []
    model[2].register_forward_hook(lambda m, a, out: seen.append((a[0].dtype, out.dtype)))
    for run in (lambda: model(x), lambda: tt.utils.checkpoint.checkpoint(model, x)):
        model.zero_grad()
        with autocast(on, tt.bfloat16):
            loss = run().float().square().mean()
        loss.backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(tt.equal(a, b) for a, b in zip(*grads))
    assert seen == [(tt.bfloat16, tt.float32)] * 3
    assert state.autocast is None and casts() == 0


def test_backward_inside_the_block_is_not_cast(on):
    a = tt.rand(4, 4, requires_grad=True)
    with autocast(on, tt.float16):
        loss = (a.exp() * 1e-6).sum()  # float32; a gradient cast to float16 would be 0 or rough
        loss.backward()
    assert tt.allclose(a.grad, a.detach().exp() * 1e-6, rtol=1e-6, atol=0)


def test_gradients_have_their_inputs_dtypes(on):
    half = tt.rand(3, 3, dtype=tt.float16, requires_grad=True)
    full = tt.rand(3, 3, requires_grad=True)
    with autocast(on, tt.bfloat16):
        ((half @ full).softmax(-1) * half.exp()).sum().backward()
    assert half.grad.dtype == tt.float16 and full.grad.dtype == tt.float32


def test_in_place_keeps_the_tensors_dtype(on):
    a = tt.ones(2, 2, dtype=tt.float16)
    with autocast(on, tt.float16):
        a.exp_()
        b = tt.ones(2, 2)
        b.add_(a)
    assert a.dtype == tt.float16 and b.dtype == tt.float32


def test_float64_and_integers_are_left_alone(on):
    with autocast(on, tt.bfloat16):
        assert (tt.ones(2, 2, dtype=tt.float64) @ tt.ones(2, 2, dtype=tt.float64)).dtype == tt.float64
        assert (tt.ones(2, 2, dtype=tt.int64) @ tt.ones(2, 2, dtype=tt.int64)).dtype == tt.int64
        assert tt.ones(3, dtype=tt.int64).sum().dtype == tt.int64
        assert tt.ones(3, dtype=tt.float16).sum(dtype=tt.float16).dtype == tt.float16


def test_nesting_and_switching_off(on):
    a = tt.ones(2, 2)
    with autocast(on, tt.bfloat16):
        assert tt.is_autocast_enabled(on) and tt.get_autocast_dtype(on) == tt.bfloat16
        with autocast(on, enabled=False):
            assert (a @ a).dtype == tt.float32 and not tt.is_autocast_enabled(on)
        with autocast(on, tt.float16):
            assert (a @ a).dtype == tt.float16
        assert (a @ a).dtype == tt.bfloat16
    assert (a @ a).dtype == tt.float32 and not tt.is_autocast_enabled(on)

    @autocast(on, tt.bfloat16)
    def product(x):
        """doc"""
        return x @ x

    assert product(a).dtype == tt.bfloat16 and product.__doc__ == "doc"


def test_only_its_device(on):
    a = tt.ones(2, 2)
    with autocast("cpu" if on != "cpu" else "sim", tt.bfloat16):
        assert (a @ a).dtype == tt.float32


def test_default_dtypes():
    assert autocast("cpu").fast_dtype == tt.bfloat16 and autocast("sim").fast_dtype == tt.float16
    assert tt.amp.is_autocast_available("sim") and not tt.amp.is_autocast_available("tpu")


def test_each_thread_has_its_own(on):
    seen = []
    with autocast(on, tt.bfloat16):
        thread = threading.Thread(target=lambda: seen.append((tt.ones(2, 2) @ tt.ones(2, 2)).dtype))
        with tt.device(on):
            thread.start()
            thread.join()
    assert seen == [tt.float32]


def test_custom_operators_take_part(on):
    class Scaled(Operator):
        autocast = "lower"

        def forward(node, x):
            return x * 2

        def backward(node, grad):
            return tt.ops.mul(grad, 2)

    x = tt.ones(3, requires_grad=True)
    with autocast(on, tt.bfloat16):
        y = Scaled.apply(x)
    y.sum().backward()
    assert y.dtype == tt.bfloat16 and x.grad.dtype == tt.float32 and tt.equal(x.grad, tt.full((3,), 2.0))
    with pytest.raises(ValueError, match="autocast must be one of lower, float32, widest"):
        type("Wrong", (Operator,), {"autocast": "half"})


def test_custom_fwd_and_bwd(on):
    seen = {}

    class Product(tt.autograd.Function):
        @staticmethod
        @custom_fwd(device_type=on, cast_inputs=tt.float32)
        def forward(ctx, a, b):
            ctx.save_for_backward(a, b)
            seen["forward"] = a.dtype, (a @ b).dtype
            return a @ b

        @staticmethod
        @custom_bwd(device_type=on)
        def backward(ctx, g):
            a, b = ctx.saved_tensors
            seen["backward"] = (g @ b.T).dtype
            return g @ b.T, a.T @ g

    class Open(tt.autograd.Function):
        @staticmethod
        @custom_fwd(device_type=on)
        def forward(ctx, a):
            ctx.save_for_backward(a)
            return a.square()

        @staticmethod
        @custom_bwd(device_type=on)
        def backward(ctx, g):
            (a,) = ctx.saved_tensors
            seen["open"] = (a @ a).dtype
            return 2 * a * g

    half = tt.ones(2, 2, dtype=tt.float16, requires_grad=True)
    full = tt.ones(2, 2, requires_grad=True)
    with autocast(on, tt.float16):
        out = Product.apply(half, full).sum() + Open.apply(full).sum()
    out.backward()
    assert seen == {"forward": (tt.float32, tt.float32), "backward": tt.float32, "open": tt.float16}
    assert half.grad.dtype == tt.float16 and full.grad.dtype == tt.float32


def test_bad_input(on):
    with pytest.raises(ValueError, match="device_type to be one of cpu, cuda, sim"):
        autocast("tpu")
    with pytest.raises(ValueError, match="as a string"):
        autocast(tt.device(on))
    with pytest.raises(ValueError, match="float16 or bfloat16"):
        autocast(on, tt.float32)
    with pytest.raises(TypeError, match="decorate functions"):
        autocast(on)(nn.Linear)
    if not tt.cuda.is_available():
        with pytest.warns(UserWarning, match="no GPU answers"), autocast("cuda"):
            assert (tt.ones(2, 2) @ tt.ones(2, 2)).dtype == tt.float32


def test_binary_cross_entropy_is_unsafe(on):
    p, target = tt.full((3,), 0.5), tt.ones(3)
    with autocast(on, tt.float16):
        if on == "cpu":  # PyTorch's list for the CPU has it in float32
            assert F.binary_cross_entropy(p.half(), target.half()).dtype == tt.float32
        else:
            with pytest.raises(RuntimeError, match="binary_cross_entropy_with_logits"):
                F.binary_cross_entropy(p, target)
        assert F.binary_cross_entropy_with_logits(p.half(), target).dtype == tt.float32


def test_gradcheck_under_autocast(on):
    """float64 is left alone, so finite differences hold inside."""
    x = tt.rand(3, 2, dtype=tt.float64, requires_grad=True)
    with autocast(on):
        assert tt.autograd.gradcheck(lambda a: (a @ a.T).softmax(-1), x)
