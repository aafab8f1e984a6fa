"""Reductions, activations, norms and losses where a line of cases.py does not reach: zeros, ties, state, bad input."""
from __future__ import annotations

import numpy as np
import pytest
from case import host, tensor

from tinytorch_gpu import ops
from tinytorch_gpu.autograd import engine
from tinytorch_gpu.backend import dtypes
from tinytorch_gpu.backend.device import resolve


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")


@pytest.mark.parametrize("zeros", [0, 1, 2, 3])
@pytest.mark.parametrize("name", ["prod", "cumprod"])
def test_products_have_right_gradients_at_zeros_to_the_second_order(name, zeros, torch):
    rng = np.random.default_rng(zeros)
    x = rng.uniform(0.5, 2, (2, 6))
    x[:, rng.permutation(6)[:zeros]] = 0
    v, u = rng.uniform(-1, 1, (2, 6)), rng.uniform(-1, 1, (2, 6))
    if name == "prod":
        v = v[:, 0]
    a, b = tensor(x, True), torch.tensor(x, requires_grad=True)
    (ga,) = engine.grad(getattr(ops, name)(a, 1), a, tensor(v), create_graph=True)
    (gb,) = torch.autograd.grad(getattr(torch, name)(b, 1), b, torch.tensor(v), create_graph=True)
    np.testing.assert_allclose(host(ga), gb.detach().numpy(), rtol=1e-12, atol=1e-12)
    (ha,) = engine.grad(ga, a, tensor(u))
    (hb,) = torch.autograd.grad(gb, b, torch.tensor(u))
    np.testing.assert_allclose(host(ha), hb.numpy(), rtol=1e-12, atol=1e-12)


def test_equal_extremes_share_the_gradient_and_a_dimension_takes_one():
    x = tensor(np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]), True)
    (whole,) = engine.grad(ops.sum(ops.amax(x, 1)), x)
    np.testing.assert_allclose(host(whole), [[0, 0.5, 0.5], [1 / 3] * 3])
    values, indices = ops.max(x, 1)
    (one,) = engine.grad(ops.sum(values), x)
    np.testing.assert_array_equal(host(one).sum(1), [1, 1])
    assert indices.dtype is dtypes.int64 and ops.max(x, 1).values.shape == (2,)


@pytest.mark.parametrize("p", [1, 2, 3.0, float("inf")])
def test_the_norm_of_zero_has_gradient_zero(p):
    x = tensor(np.zeros((2, 3)), True)
    (g,) = engine.grad(ops.sum(ops.norm(x, p, 1)), x)
    np.testing.assert_array_equal(host(g), np.zeros((2, 3)))


def test_half_sums_accumulate_in_float32():
    x = tensor(np.full((4096, 2), 0.1, dtypes.bfloat16.np))
    exact = 4096 * float(np.asarray(0.1, dtypes.bfloat16.np))
    for total in (ops.sum(x, 0), ops.cumsum(x, 0)[-1]):
        np.testing.assert_allclose(host(total).astype(float), exact, rtol=2 ** -8)
    assert ops.sum(x).dtype is dtypes.bfloat16


@pytest.mark.parametrize("momentum", [0.1, 0.7])
def test_running_statistics_move_in_place(momentum, torch):
    rng = np.random.default_rng(1)
    x, mean, var = rng.normal(2, 3, (5, 3, 4)), rng.normal(size=3), rng.uniform(0.5, 2, 3)
    for name, arguments in (("batch_norm", (None, None, True)), ("instance_norm", (None, None, True))):
        ours, theirs = [tensor(mean), tensor(var)], [torch.tensor(mean), torch.tensor(var)]
        y = getattr(ops, name)(tensor(x), *ours, *arguments, momentum)
        z = getattr(torch.nn.functional, name)(torch.tensor(x), *theirs, *arguments, momentum)
        np.testing.assert_allclose(host(y), z.numpy(), rtol=1e-10, atol=1e-10)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(host(a), b.numpy(), rtol=1e-12)
            assert a._version == 1


def test_third_derivative_of_layer_norm_against_differences():
    rng = np.random.default_rng(2)
    x, u, v, q, d, w = [rng.uniform(-1, 1, s) for s in [(2, 4)] * 5 + [(4,)]]

    def second(x):
        y = ops.layer_norm(x, (4,), tensor(w))
        (g,) = engine.grad(y, x, tensor(v), create_graph=True)
        return engine.grad(g, x, tensor(u), create_graph=True)[0]

    start = tensor(x, True)
    (third,) = engine.grad(second(start), start, tensor(q))
    step = 1e-5
    ahead, behind = [(host(second(tensor(x + s * step * d, True))) * q).sum() for s in (1, -1)]
    np.testing.assert_allclose((host(third) * d).sum(), (ahead - behind) / (2 * step), rtol=1e-6)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_in_float32_is_accurate_everywhere(approximate, torch):
    x = np.linspace(-12, 12, 200_001, dtype=np.float32)  # more than one block
    a, b = tensor(x, True), torch.tensor(x, dtype=torch.float64, requires_grad=True)
    y, z = ops.gelu(a, approximate=approximate), torch.nn.functional.gelu(b, approximate=approximate)
    # values up to 12 carry an error of 12 * 2^-24 by rounding alone
    np.testing.assert_allclose(host(y), z.detach().numpy(), rtol=2e-7, atol=7e-7)
    (ga,), (gb,) = engine.grad(ops.sum(y), a), torch.autograd.grad(z.sum(), b)
    # 1 + tanh(u) near u = -3 is a difference of numbers near 1 times a slope of about 10
    np.testing.assert_allclose(host(ga), gb.numpy(), rtol=2e-7, atol=2e-6)


def test_large_logits_stay_finite_and_rows_of_minus_infinity_are_nan():
    x = np.array([[1000.0, 0.0], [-1000.0, -1001.0], [-np.inf, -np.inf]])
    y = host(ops.softmax(tensor(x), 1))
    np.testing.assert_allclose(y[:2], [[1, 0], [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))]])
    assert np.isnan(y[2]).all()
    loss = ops.cross_entropy(tensor(x[:2]), tensor(np.array([1, 0])), reduction="none")
    np.testing.assert_allclose(host(loss), [1000, np.log1p(np.exp(-1))])


def test_cross_entropy_of_only_ignored_targets_is_nan_with_gradient_zero():
    x = tensor(np.ones((2, 3)), True)
    loss = ops.cross_entropy(x, tensor(np.array([-100, -100])))
    assert np.isnan(loss.item())
    np.testing.assert_array_equal(host(engine.grad(loss, x)[0]), np.zeros((2, 3)))


BAD = [  # what, exception, words of the message
    (lambda: ops.mean(tensor(np.arange(3))), RuntimeError, "could not infer output dtype"),
    (lambda: ops.max(tensor(np.zeros(0))), RuntimeError, "Expected reduction dim to be specified"),
    (lambda: ops.max(tensor(np.zeros((0, 3))), 0), IndexError, "non-zero size"),
    (lambda: ops.amax(tensor(np.zeros((2, 0))), 1), IndexError, "non-zero size"),
    (lambda: ops.argmax(tensor(np.zeros(0))), IndexError, "Expected reduction dim"),
    (lambda: ops.sum(tensor(np.zeros((2, 3))), 2), IndexError, "Dimension out of range"),
    (lambda: ops.sum(tensor(np.zeros((2, 3))), (0, -2)), RuntimeError, "appears multiple times"),
    (lambda: ops.max(tensor(np.zeros(3, complex))), RuntimeError, "no order"),
    (lambda: ops.var(tensor(np.arange(3))), RuntimeError, "floating point"),
    (lambda: ops.softmax(tensor(np.zeros(3))), TypeError, "dim"),
    (lambda: ops.softmax(tensor(np.zeros(3, complex)), 0), NotImplementedError, "complex"),
    (lambda: ops.gelu(tensor(np.zeros(3)), approximate="fast"), RuntimeError, "none or tanh"),
    (lambda: ops.layer_norm(tensor(np.zeros((3, 4))), (5,)), RuntimeError, "Given normalized_shape"),
    (lambda: ops.layer_norm(tensor(np.zeros((3, 4))), (4,), tensor(np.zeros(5))), RuntimeError, "weight"),
    (lambda: ops.batch_norm(tensor(np.zeros((1, 4))), None, None, training=True), ValueError, "more than 1 value"),
    (lambda: ops.batch_norm(tensor(np.zeros((2, 4))), None, None), RuntimeError, "running_mean"),
    (lambda: ops.group_norm(tensor(np.zeros((2, 4))), 3), RuntimeError, "divisible"),
    (lambda: ops.cross_entropy(tensor(np.zeros((2, 3))), tensor(np.zeros(3, int))), ValueError, "batch_size"),
    (lambda: ops.cross_entropy(tensor(np.zeros((2, 3))), tensor(np.zeros(2, np.int32))), RuntimeError, "Long"),
    (lambda: ops.cross_entropy(tensor(np.zeros((2, 3))), tensor(np.zeros((2, 3), int))), RuntimeError, "probabilities"),
    (lambda: ops.cross_entropy(tensor(np.zeros((2, 3))), tensor(np.zeros(2, int)), reduction="avg"), ValueError, "avg"),
    (lambda: ops.cross_entropy(tensor(np.zeros((2, 3))), tensor(np.zeros(2, int)), label_smoothing=2.0), RuntimeError,
     "label_smoothing"),
    (lambda: ops.nll_loss(tensor(np.zeros((2, 3))), tensor(np.zeros(2, int)), tensor(np.zeros(2))), RuntimeError,
     "weight"),
    (lambda: ops.binary_cross_entropy(tensor(np.zeros(3)), tensor(np.zeros(4))), ValueError, "size"),
    (lambda: ops.smooth_l1_loss(tensor(np.zeros(3)), tensor(np.zeros(3)), beta=-1), RuntimeError, "beta"),
    (lambda: ops.huber_loss(tensor(np.zeros(3)), tensor(np.zeros(3)), delta=0), RuntimeError, "delta"),
]


@pytest.mark.parametrize("call, error, words", BAD)
def test_bad_input_has_pytorchs_exception_and_says_what(call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert str(caught.value).startswith("[")


@pytest.mark.parametrize("target", [3, -1])
@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_a_class_out_of_range_is_an_index_error_on_the_cpu(name, target):
    if resolve().type != "cpu":
        pytest.skip("asking would wait for the device")
    with pytest.raises(IndexError, match=f"Target {target} is out of bounds"):
        getattr(ops, name)(tensor(np.zeros((2, 3))), tensor(np.array([0, target])))


def test_old_reduction_flags_warn_and_hold():
    x = tensor(np.array([1.0, 3.0]))
    with pytest.warns(UserWarning, match="reduction='sum'"):
        assert ops.mse_loss(x, tensor(np.zeros(2)), size_average=False).item() == 10
    with pytest.warns(UserWarning, match="target size"):
        ops.mse_loss(x, tensor(np.zeros((2, 1))))
