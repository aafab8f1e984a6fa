"""nn.init: distributions, gains, orthogonality."""
from __future__ import annotations

import math

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu.backend.device import backend_of
from tinytorch_gpu.nn import init


def host(tensor):
    return np.array(backend_of(tensor._array).to_host(tensor._array)).astype(np.float64)


@pytest.fixture(autouse=True)
def seeded(seed):
    tt.manual_seed(seed)


# 60,000 values: a standard deviation is known to 0.3%, a mean to 0.4% of it; the bounds are 5 times as wide
SHAPE = (200, 30, 2, 5)
FAN_IN, FAN_OUT = 300, 2000
DISTRIBUTIONS = [
    ("uniform_", (-2.0, 4.0), 6 / math.sqrt(12), 1.0),
    ("normal_", (3.0, 0.5), 0.5, 3.0),
    ("xavier_uniform_", (), math.sqrt(2 / (FAN_IN + FAN_OUT)), 0),
    ("xavier_normal_", (1.5,), 1.5 * math.sqrt(2 / (FAN_IN + FAN_OUT)), 0),
    ("kaiming_uniform_", (0, "fan_in", "relu"), math.sqrt(2 / FAN_IN), 0),
    ("kaiming_normal_", (0.2, "fan_out"), math.sqrt(2 / 1.04 / FAN_OUT), 0),
    ("trunc_normal_", (0.0, 1.0, -2.0, 2.0), 0.879626, 0),  # scipy.stats.truncnorm(-2, 2).std()
    ("trunc_normal_", (1.0, 2.0, 1.0, 9.0), 2 * 0.602659, 1 + 2 * 0.797651),  # truncnorm(0, 4)
]


@pytest.mark.parametrize(("name", "args", "std", "mean"), DISTRIBUTIONS)
def test_distribution(name, args, std, mean):
    t = tt.empty(*SHAPE)
    version = t._version
    assert getattr(init, name)(t, *args) is t and t._version > version
    values = host(t)
    assert abs(values.std() / std - 1) < 0.015
    assert abs(values.mean() - mean) < 0.02 * std
    if "uniform" in name:
        bound = (6 / 2, mean) if name == "uniform_" else (math.sqrt(3) * std, 0)
        assert np.abs(values - bound[1]).max() <= bound[0] * (1 + 1e-6)
    if name == "trunc_normal_":
        assert values.min() >= args[2] and values.max() <= args[3]


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_dtypes(dtype):
    for name in ("uniform_", "trunc_normal_", "kaiming_uniform_", "orthogonal_"):
        t = getattr(init, name)(tt.empty(20, 10, dtype=getattr(tt, dtype)))
        assert t.dtype is getattr(tt, dtype) and np.isfinite(host(t)).all() and host(t).std() > 0


def test_same_seed_same_values():
    a = init.kaiming_normal_(tt.empty(5, 5), generator=tt.Generator(tt.zeros(1).device).manual_seed(3))
    b = init.kaiming_normal_(tt.empty(5, 5), generator=tt.Generator(tt.zeros(1).device).manual_seed(3))
    np.testing.assert_array_equal(host(a), host(b))


def test_plain_values():
    np.testing.assert_array_equal(host(init.constant_(tt.empty(2, 3), 2.5)), np.full((2, 3), 2.5))
    np.testing.assert_array_equal(host(init.ones_(tt.empty(2))), [1, 1])
    np.testing.assert_array_equal(host(init.zeros_(tt.empty(2))), [0, 0])
    np.testing.assert_array_equal(host(init.eye_(tt.empty(2, 3))), np.eye(2, 3))
    p = tt.nn.Parameter(tt.empty(3))
    assert init.ones_(p) is p and p.requires_grad and p.is_leaf


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("shape", [(4, 3, 3), (4, 2, 3, 5)])
def test_dirac(torch, shape, groups):
    ref = torch.nn.init.dirac_(torch.empty(shape), groups).numpy()
    np.testing.assert_array_equal(host(init.dirac_(tt.empty(*shape), groups)), ref)


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3), (4, 2, 3)])
def test_orthogonal(shape):
    q = host(init.orthogonal_(tt.empty(*shape, dtype=tt.float64), gain=2.0)).reshape(shape[0], -1) / 2
    small = q @ q.T if q.shape[0] <= q.shape[1] else q.T @ q
    np.testing.assert_allclose(small, np.eye(len(small)), atol=1e-12)


@pytest.mark.parametrize(("name", "param"), [
    ("linear", None), ("conv2d", None), ("sigmoid", None), ("tanh", None), ("relu", None), ("leaky_relu", None),
    ("leaky_relu", 0.3), ("selu", None),
])
def test_gain(torch, name, param):
    assert init.calculate_gain(name, param) == pytest.approx(torch.nn.init.calculate_gain(name, param), rel=1e-15)


@pytest.mark.parametrize(("message", "call"), [
    ("Unsupported nonlinearity", lambda: init.calculate_gain("step")),
    ("negative_slope", lambda: init.calculate_gain("leaky_relu", "x")),
    ("fewer than 2 dimensions", lambda: init.xavier_normal_(tt.empty(3))),
    ("Mode fan_both not supported", lambda: init.kaiming_normal_(tt.empty(3, 3), mode="fan_both")),
    ("2 dimensions", lambda: init.eye_(tt.empty(3))),
    ("2 or more dimensions", lambda: init.orthogonal_(tt.empty(3))),
    ("3, 4, or 5", lambda: init.dirac_(tt.empty(3, 3))),
    ("divisible by groups", lambda: init.dirac_(tt.empty(3, 3, 3), 2)),
])
def test_errors(message, call):
    with pytest.raises(ValueError, match=message):
        call()


def test_warnings():
    with pytest.warns(UserWarning, match="zero-element"):
        init.kaiming_uniform_(tt.empty(0, 3))
    with pytest.warns(UserWarning, match="more than 2 std"):
        init.trunc_normal_(tt.empty(3), mean=9.0)
