"""testing.assert_close against torch.testing.assert_close, and its messages."""
from __future__ import annotations

import numpy as np
import pytest
from case import EPS, tensor, torch_tensor

from tinytorch_gpu.backend import dtypes
from tinytorch_gpu.testing import TOLERANCES, assert_close, make_tensor


def verdict(f, *args, **kwargs):
    try:
        f(*args, **kwargs)
    except (AssertionError, TypeError, ValueError) as e:
        return type(e)
    return None


@pytest.mark.parametrize("name", [*EPS, "int64", "uint8", "bool"])
@pytest.mark.parametrize("share", [0, 0.5, 0.99, 1.01, 2])
def test_same_verdict_as_pytorch_around_the_tolerance(name, share, rng, torch):
    d = dtypes.from_any(name)
    rtol, atol = TOLERANCES.get(d, (0, 0))
    expected = rng.uniform(1, 2, (2, 3)).astype(d.np)
    actual = (expected + np.asarray(share * (atol + rtol * np.abs(expected.astype(np.complex128).real)))).astype(d.np) \
        if d.category >= dtypes.FLOAT else expected
    mine = verdict(assert_close, tensor(actual), tensor(expected))
    assert mine is verdict(torch.testing.assert_close, torch_tensor(torch, actual), torch_tensor(torch, expected))


PAIRS = [
    (1.0, 1.0), (1.0, 1.1), (1, 1), (1, 2), (1, 1.0), (float("nan"), float("nan")), (float("inf"), float("inf")),
    (float("inf"), -float("inf")), (1 + 1j, 1 + 1j), (True, True), ([1.0, 2.0], [1.0, 2.0]), ([1.0], [1.0, 2.0]),
    ({"a": 1.0}, {"a": 1.0}), ({"a": 1.0}, {"b": 1.0}), ({"a": 1.0}, [1.0]), ("a", "a"), (None, None), (None, 1.0),
    ([[1.0, 2], {"x": 3}], [[1.0, 2], {"x": 3}]), ([[1.0, 2], {"x": 3}], [[1.0, 2], {"x": 4}]),
]


@pytest.mark.parametrize("pair", PAIRS, ids=repr)
@pytest.mark.parametrize("options", [{}, {"equal_nan": True}, {"rtol": 0.2, "atol": 0}, {"check_dtype": False}],
                         ids=repr)
def test_same_verdict_as_pytorch_on_numbers_and_containers(pair, options, torch):
    assert verdict(assert_close, *pair, **options) is verdict(torch.testing.assert_close, *pair, **options)


def test_attributes():
    a = tensor(np.ones((2, 3), np.float32))
    with pytest.raises(AssertionError, match="'shape' do not match"):
        assert_close(a, tensor(np.ones((3, 2), np.float32)))
    with pytest.raises(AssertionError, match="'dtype' do not match: tinytorch_gpu.float32"):
        assert_close(a, tensor(np.ones((2, 3))))
    assert_close(a, tensor(np.ones((2, 3))), check_dtype=False)
    other = tensor(np.ones((3, 2), np.float32))
    other._array = other._array.T
    assert_close(a, other)
    with pytest.raises(AssertionError, match="'stride\\(\\)' do not match"):
        assert_close(a, other, check_stride=True)
    assert_close(a._array, a._array.copy())
    with pytest.raises(TypeError, match="no comparison"):
        assert_close(a, 1.0)
    with pytest.raises(ValueError, match="both"):
        assert_close(a, a, rtol=1)


def test_devices_are_compared():
    here, there = tensor(np.ones(2), where="cpu"), tensor(np.ones(2), where="sim")
    with pytest.raises(AssertionError, match="'device' do not match: cpu != sim:0"):
        assert_close(here, there)
    assert_close(here, there, check_device=False)


def test_message_names_the_greatest_difference_and_its_index():
    a, b = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 2.5], [3.0, 4.1]])
    with pytest.raises(AssertionError) as e:
        assert_close(tensor(a), tensor(b))
    text = str(e.value)
    assert "Mismatched elements: 2 / 4 (50.0%)" in text
    assert "Greatest absolute difference: 0.5 at index (0, 1) (up to 1e-07 allowed)" in text
    assert "Greatest relative difference: 0.2 at index (0, 1)" in text
    with pytest.raises(AssertionError, match=r"\['x'\]\[1\]"):
        assert_close({"x": [tensor(a), tensor(a)]}, {"x": [tensor(a), tensor(b)]})
    with pytest.raises(AssertionError, match="^mine$"):
        assert_close(1.0, 2.0, msg="mine")
    with pytest.raises(AssertionError, match="^more: Scalars"):
        assert_close(1.0, 2.0, msg=lambda m: f"more: {m}")


def test_nan_and_infinity():
    odd = tensor(np.array([np.nan, np.inf, -np.inf, 1.0]))
    with pytest.raises(AssertionError, match="1 / 4"):
        assert_close(odd, odd)
    assert_close(odd, odd, equal_nan=True)
    with pytest.raises(AssertionError):
        assert_close(tensor(np.array([np.inf])), tensor(np.array([1e308])), rtol=1, atol=1)


@pytest.mark.parametrize("name", [d.name for d in dtypes.ALL])
def test_make_tensor(name, device):
    d = dtypes.from_any(name)
    t = make_tensor(3, 4, dtype=d)
    assert t.shape == (3, 4) and t.dtype is d and t.device == device
    t = make_tensor((50,), dtype=d, low=0, high=2, noncontiguous=True, exclude_zero=True)
    assert t.shape == (50,) and not t._array.flags.c_contiguous and bool((t._array != 0).all())
    if d.category >= dtypes.FLOAT:
        assert make_tensor((), dtype=d, requires_grad=True).requires_grad
    with pytest.raises(ValueError, match="low must be less"):
        make_tensor(2, dtype=d, low=3, high=3)
