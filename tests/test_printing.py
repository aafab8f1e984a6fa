"""repr(tensor) is PyTorch's text, for PyTorch's own names of dtypes and nodes."""
from __future__ import annotations

import numpy as np
import pytest

import tinytorch_gpu as tt

CPU = tt.device("cpu")
nan, inf = float("nan"), float("inf")
VALUES = {
    "scalar": np.float32(3.14159),
    "whole": np.array([1.0, 2.0, -30.0]),
    "fixed": np.array([1.5, -2.25, 100.125]),
    "powers": np.array([1e-5, 1.5, 3.0]),
    "large whole": np.array([1.0, 2e9]),
    "ratio": np.array([0.001, 5.5, 9.0]),
    "whole ratio": np.array([1.0, 5000.0]),
    "nan and infinity": np.array([[1.5, nan], [inf, -inf]]),
    "only nan": np.array([nan, nan]),
    "whole and nan": np.array([1.0, nan, inf, -2.0]),
    "zeros": np.zeros((2, 2)),
    "negative zero": np.array([-0.0, 0.5]),
    "integers": np.array([[1, -200], [30, 4]]),
    "int32": np.arange(3, dtype=np.int32),
    "uint8": np.arange(3, dtype=np.uint8),
    "booleans": np.array([True, False]),
    "one boolean": np.array(True),
    "complex": np.array([1 + 2j, -1.5 - 0.25j]),
    "complex64": np.array([1 + 2j, 3 - 4j], np.complex64),
    "complex nan": np.array([complex(nan, 1), complex(2, inf)]),
    "half": np.array([1.5, 2.25], np.float16),
    "float64": np.array([1.123456789, 2.0]),
    "empty": np.zeros((0,), np.float32),
    "empty 2-d": np.zeros((2, 0, 3), np.float32),
    "empty integers": np.zeros((0,), np.int64),
    "empty integers 2-d": np.zeros((0, 2), np.int32),
    "three dimensions": np.arange(24).reshape(2, 3, 4) / 7,
    "four dimensions": np.arange(16.0).reshape(2, 2, 2, 2),
    "long row": np.arange(60) / 3,
    "summarised": np.arange(2000.0),
    "summarised 2-d": np.arange(40 * 50).reshape(40, 50) * 1.5,
    "summarised thin": np.arange(3000.0).reshape(1000, 3),
    "summarised wide": np.arange(3000.0).reshape(2, 1500),
    "summarised 3-d": np.arange(4 * 20 * 30).reshape(4, 20, 30),
    "just not summarised": np.arange(1000),
}


def both(torch, array, **options):
    theirs = torch.tensor(array.tolist(), dtype=getattr(torch, str(array.dtype))).reshape(array.shape)
    return tt.tensor(array, device=CPU, **options), theirs.requires_grad_(options.get("requires_grad", False))


def as_theirs(text):
    return text.replace("tinytorch_gpu.", "torch.")


@pytest.mark.parametrize("name", VALUES)
def test_repr_is_pytorchs(name, torch):
    array = np.asarray(VALUES[name])
    wide = array.astype(np.float32) if array.dtype == np.float64 and name != "float64" else array
    ours, theirs = both(torch, wide)
    if "dtype" in repr(theirs):  # PyTorch breaks lines by the length of its own dtype names
        a, e = (text.replace(",\n       dtype", ", dtype") for text in (as_theirs(repr(ours)), repr(theirs)))
        assert a == e
    else:
        assert repr(ours) == repr(theirs)


def test_random_values(torch, rng):
    for _ in range(60):
        shape = tuple(rng.integers(1, 6, rng.integers(0, 4)))
        array = (rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 9)).astype(np.float32)
        if rng.random() < 0.3:
            array = np.round(array)
        ours, theirs = both(torch, np.asarray(array))
        assert repr(ours) == repr(theirs)


def test_bfloat16(torch):
    values = [1.5, 2.25, -3.0]
    ours = tt.tensor(values, dtype=tt.bfloat16, device=CPU)
    assert as_theirs(repr(ours)) == repr(torch.tensor(values, dtype=torch.bfloat16))


def test_gradients_are_shown(torch):
    ours, theirs = both(torch, np.array([1.5, 2.0], np.float32), requires_grad=True)
    assert repr(ours) == repr(theirs) == "tensor([1.5000, 2.0000], requires_grad=True)"
    assert repr(ours * 2) == "tensor([3., 4.], grad_fn=<Mul>)"
    assert repr(ours.detach()) == "tensor([1.5000, 2.0000])"


def test_device_is_shown_where_it_is_not_the_cpu():
    t = tt.zeros(2, device="sim")
    assert repr(t) == "tensor([0., 0.], device='sim:0')"


def test_other_default_dtype(torch):
    tt.set_default_dtype(tt.float64)
    torch.set_default_dtype(torch.float64)
    try:
        for array in (np.array([1.5]), np.array([1.5], np.float32), np.zeros(0)):
            ours, theirs = both(torch, array)
            assert as_theirs(repr(ours)) == repr(theirs)
    finally:
        tt.set_default_dtype(tt.float32)
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("options", [
    dict(precision=2), dict(threshold=5), dict(threshold=5, edgeitems=1), dict(linewidth=40), dict(sci_mode=True),
    dict(sci_mode=False), dict(profile="short"), dict(profile="full"),
])
def test_print_options(options, torch):
    tt.set_printoptions(**options)
    torch.set_printoptions(**options)
    try:
        for array in (np.arange(12.0, dtype=np.float32) / 3, np.array([1e-7, 2.0], np.float32),
                      np.arange(40.0, dtype=np.float32).reshape(8, 5)):
            ours, theirs = both(torch, array)
            assert repr(ours) == repr(theirs)
    finally:
        tt.set_printoptions(profile="default")
        torch.set_printoptions(profile="default")


def test_unknown_profile():
    with pytest.raises(ValueError, match="profile"):
        tt.set_printoptions(profile="long")


def test_format():
    assert f"{tt.tensor(2.5):.2f}" == "2.50"
    with pytest.raises(TypeError, match="format"):
        f"{tt.zeros(2):.2f}"
