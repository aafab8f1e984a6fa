"""Tensors from data and sizes: dtypes, sharing and errors are PyTorch's."""
from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
from case import host

import tinytorch_gpu as tt
from tinytorch_gpu.backend import dtypes

DATA = {
    "float": 1.5, "int": 3, "bool": True, "complex": 1 + 2j, "floats": [1.0, 2.0], "ints": [[1, 2], [3, 4]],
    "bools": [True, False], "mixed": [1, 2.5], "bool and int": [True, 2], "complex list": [1, 2.0, 3j], "empty": [],
    "nested empty": [[], []], "tuple": ((1, 2), (3, 4)), "range": range(4), "list of tuples": [(1.0, 2), (3, 4)],
    "np.float32": np.float32(2), "np.float64": np.float64(2), "np.int32": np.int32(2), "np.bool": np.bool_(True),
    "np scalars": [np.float32(1), np.float32(2)], "np float64 scalars": [np.float64(1), np.float64(2)],
    "np and python": [np.float32(1), 2.0], "np int and float": [np.int64(1), 2.5],
    "np arrays": [np.zeros(2), np.ones(2)],
    "float32 array": np.ones((2, 2), np.float32), "int8 array": np.ones(3, np.int8), "0-d array": np.array(3.5),
    "negative stride": np.arange(6.0)[::-2], "large int": 2**40,
}


def same(ours, theirs):
    assert str(ours.dtype).removeprefix("tinytorch_gpu.") == str(theirs.dtype).removeprefix("torch.")
    assert ours.shape == tuple(theirs.shape)
    np.testing.assert_array_equal(host(ours), host(theirs))


@pytest.mark.parametrize("name", DATA)
def test_tensor_infers_pytorchs_dtype(name, torch):
    data = DATA[name]
    theirs = data.copy() if name == "negative stride" else data  # PyTorch refuses negative strides
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns that lists of arrays are slow
        same(tt.tensor(data), torch.tensor(theirs))


@pytest.mark.parametrize("dtype", [d.name for d in dtypes.ALL])
@pytest.mark.parametrize("data", [[1.7, -2.2, 0.0], [1, 0, 3], [True, False]], ids=["floats", "ints", "bools"])
def test_tensor_with_dtype(data, dtype, torch):
    if dtype == "uint8":
        data = [abs(v) for v in data]  # PyTorch's conversion of negative floats to uint8 is undefined in C
    same(tt.tensor(data, dtype=getattr(tt, dtype)), torch.tensor(data, dtype=getattr(torch, dtype)))


def test_default_dtype(torch):
    for d in ("float64", "float16", "bfloat16"):
        tt.set_default_dtype(getattr(tt, d))
        torch.set_default_dtype(getattr(torch, d))
        try:
            for data in ([1.5, 2.25], 1.5, 1, [], [1j] if d == "float64" else 2.5):
                same(tt.tensor(data), torch.tensor(data))
            same(tt.zeros(2), torch.zeros(2))
            same(tt.arange(0, 1, 0.25), torch.arange(0, 1, 0.25))
        finally:
            tt.set_default_dtype(tt.float32)
            torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("data, error", [
    ([[1, 2], [3]], ValueError), ([1, [2]], (ValueError, TypeError)), ("abc", TypeError), (["a"], ValueError),
    (None, RuntimeError), (2**63, ValueError), ([2**63], ValueError), ({1: 2}, RuntimeError), ([None], RuntimeError),
    (np.array(["a"]), TypeError), (np.array([object()]), TypeError),
])
def test_data_that_is_none(data, error, torch):
    with pytest.raises(error):
        torch.tensor(data)
    with pytest.raises(error, match=r"^\[tensor\]"):
        tt.tensor(data)


def test_numbers_that_do_not_fit(torch):
    for t in (tt, torch):
        with pytest.raises(RuntimeError):
            t.tensor(300, dtype=t.uint8)
        with pytest.raises(TypeError):
            t.tensor(1 + 2j, dtype=t.float32)
        with pytest.raises(TypeError):
            t.tensor([1 + 2j], dtype=t.float32)
        with pytest.raises(RuntimeError):
            t.full((2,), 300, dtype=t.int8)


def test_tensor_copies_and_warns_for_a_tensor():
    array = np.ones(3)
    t = tt.tensor(array)
    array[0] = 5
    assert t.tolist() == [1, 1, 1]
    with pytest.warns(UserWarning, match="detach"):
        u = tt.tensor(t)
    u[0] = 7
    assert t[0].item() == 1
    x = tt.ones(2, requires_grad=True)
    with pytest.warns(UserWarning):
        assert not tt.tensor(x).requires_grad
    assert tt.tensor([1.0], requires_grad=True).requires_grad
    with pytest.raises(RuntimeError):
        tt.tensor([1], requires_grad=True)


def test_sharing():
    array = np.zeros(3)
    cpu = dict(device="cpu")
    for t in (tt.from_numpy(array), tt.as_tensor(array, **cpu), tt.Tensor(array), tt.asarray(array, **cpu)):
        before = array[0]
        t += 1
        assert array[0] == before + 1
    x = tt.ones(2, requires_grad=True)
    assert tt.as_tensor(x) is x
    assert tt.as_tensor(x, dtype=tt.float64).requires_grad
    assert tt.asarray(array, copy=True, device="cpu").data_ptr() != tt.from_numpy(array).data_ptr()
    with pytest.raises(ValueError):
        tt.asarray([1, 2], copy=False)
    with pytest.raises(TypeError):
        tt.from_numpy([1])
    with pytest.raises(TypeError):
        tt.from_numpy(np.zeros(2, np.uint32))


def test_constructor():
    assert tt.Tensor([1, 2]).dtype is tt.float32
    assert tt.Tensor(2, 3).shape == (2, 3)
    assert tt.Tensor().shape == (0,)
    assert tt.Tensor(tt.ones(2)).tolist() == [1, 1]
    with pytest.raises(TypeError):
        tt.Tensor("abc")


FACTORIES = {
    "zeros": lambda t: (t.zeros(2, 3), t.zeros((2, 3)), t.zeros([2]), t.zeros(()), t.zeros(2, dtype=t.int32),
                        t.zeros(size=(2,))),
    "ones": lambda t: (t.ones(2), t.ones(2, 0), t.ones(2, dtype=t.bool)),
    "full": lambda t: (t.full((2,), 3), t.full((2,), 3.5), t.full((), True), t.full((2,), 1j),
                       t.full((2,), 3, dtype=t.float64)),
    "eye": lambda t: (t.eye(3), t.eye(2, 4), t.eye(2, dtype=t.int64)),
    "arange": lambda t: (t.arange(5), t.arange(5.0), t.arange(1, 4), t.arange(1, 10, 3), t.arange(5, 0, -2),
                         t.arange(0), t.arange(0, 1, 0.1), t.arange(3, dtype=t.float16),
                         t.arange(1, 2.5, dtype=t.int32)),
    "tril_indices": lambda t: (t.tril_indices(3, 4), t.tril_indices(3, 4, -1), t.triu_indices(3, 3, 1)),
    "like": lambda t: (t.zeros_like(t.ones(2, dtype=t.int8)), t.ones_like(t.zeros(2), dtype=t.float64),
                       t.full_like(t.zeros(2, 2), 7), t.empty_like(t.zeros(2, 3)).zero_()),
    "new": lambda t: (t.zeros(2, dtype=t.int32).new_zeros(3), t.zeros(2).new_ones((2, 2)), t.zeros(1).new_full((2,), 5),
                      t.zeros(1, dtype=t.float64).new_tensor([1, 2]), t.zeros(1).new_empty(2, 0)),
    "meshgrid": lambda t: (*t.meshgrid(t.arange(2), t.arange(3), indexing="ij"), *t.meshgrid(t.arange(2), t.arange(3),
                           t.arange(2), indexing="xy")),
    "broadcast": lambda t: t.broadcast_tensors(t.zeros(3, 1), t.zeros(4)),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_factories(name, torch):
    for ours, theirs in zip(FACTORIES[name](tt), FACTORIES[name](torch), strict=True):
        same(ours, theirs)


def test_linspace(torch):
    for arguments in ((0, 1, 5), (3, -2, 7), (0, 10, 1), (1, 2, 0), (0.1, 0.3, 11)):
        ours, theirs = (t.linspace(*arguments) for t in (tt, torch))
        np.testing.assert_allclose(host(ours), host(theirs), rtol=1e-6, atol=1e-7)
        ours, theirs = (t.logspace(*arguments, dtype=t.float64) for t in (tt, torch))
        np.testing.assert_allclose(host(ours), host(theirs), rtol=1e-12)
    assert tt.linspace(0, 1, 7)[-1].item() == 1
    same(tt.linspace(0, 10, 5, dtype=tt.int64), torch.linspace(0, 10, 5, dtype=torch.int64))


def functional(t):
    """Where `pad` is, without importing our layers."""
    return tt.ops if t is tt else t.nn.functional


@pytest.mark.parametrize("call", [
    lambda t: t.zeros(-1), lambda t: t.arange(0, 5, 0), lambda t: t.arange(5, 0), lambda t: t.eye(-1),
    lambda t: t.linspace(0, 1, -1), lambda t: t.complex(t.zeros(2), t.zeros(2, dtype=t.float64)),
    lambda t: t.randint(5, 5, (2,)), lambda t: t.normal(0.0, -1.0, (2,)), lambda t: t.multinomial(t.zeros(3), 1),
    lambda t: t.multinomial(t.ones(3), 4), lambda t: t.multinomial(t.tensor([1.0, -1]), 1), lambda t: t.randperm(-1),
    lambda t: t.zeros(2).uniform_(1, 0), lambda t: t.zeros(2).exponential_(0), lambda t: t.zeros(2).random_(3, 3),
    lambda t: t.zeros(2).copy_(t.zeros(3)), lambda t: t.zeros(2, 3).expand(2, 4),
    lambda t: t.zeros(2).fill_(t.zeros(2)),
    lambda t: t.ones(2, requires_grad=True).numpy(), lambda t: t.zeros(2, 3).item(), lambda t: t.zeros(3).view(2, 2),
    lambda t: t.zeros(2, 3).t().view(6), lambda t: t.zeros(2, 3).reshape(4, -1), lambda t: t.zeros(0, 3).reshape(0, -1),
    lambda t: copy.deepcopy(t.ones(2, requires_grad=True) * 2), lambda t: t.stack([]),
    lambda t: t.stack([t.zeros(2), t.zeros(3)]),
    lambda t: t.cat([t.zeros(2, 2), t.zeros(3, 3)]), lambda t: t.zeros(4).split([1, 2]),
    lambda t: t.zeros(2, 3).permute(0, 0),
    lambda t: t.zeros(4).narrow(0, 2, 3), lambda t: t.zeros(3).imag, lambda t: t.zeros(3).tril(),
    lambda t: t.zeros(3).topk(4),
    lambda t: functional(t).pad(t.zeros(1, 3), (3, 0), mode="reflect"),
    lambda t: functional(t).pad(t.zeros(3), (-4, 0)),
])
def test_bad_arguments_are_runtime_errors(call, torch):
    with pytest.raises(RuntimeError):
        call(torch)
    with pytest.raises(RuntimeError, match=r"^\[\w+\]"):
        call(tt)


@pytest.mark.parametrize("call", [
    lambda t: t.zeros(2, 3).transpose(0, 2), lambda t: t.zeros(2).unsqueeze(3), lambda t: t.zeros(2, 3).select(0, 2),
    lambda t: t.zeros(2).flatten(1), lambda t: t.zeros(3).sort(1), lambda t: t.zeros(()).select(0, 0),
])
def test_dimensions_out_of_range_are_index_errors(call, torch):
    for t in (torch, tt):
        with pytest.raises(IndexError):
            call(t)


def test_unknown_keywords_are_refused():
    with pytest.raises(TypeError, match="layout"):
        tt.zeros(2, layout=None)


def test_random_tensors():
    tt.manual_seed(3)
    draws = [tt.rand(1000), tt.randn(1000), tt.randint(10, (1000,)), tt.randperm(1000)]
    tt.manual_seed(3)
    again = [tt.rand(1000), tt.randn(1000), tt.randint(0, 10, (1000,)), tt.randperm(1000)]
    for a, b in zip(draws, again):
        assert a.tolist() == b.tolist()
    u, n, i, p = (host(d) for d in draws)
    # five standard errors of the mean of 1,000 draws
    assert 0 <= u.min() and u.max() < 1 and abs(u.mean() - 0.5) < 5 * 0.289 / 1000**0.5
    assert abs(n.mean()) < 5 / 1000**0.5 and abs(n.std() - 1) < 5 / 2000**0.5
    assert set(i) == set(range(10)) and sorted(p) == list(range(1000))
    g = tt.Generator(draws[0].device)
    g.manual_seed(1)
    first = tt.rand(5, generator=g, dtype=tt.float64)
    g.manual_seed(1)
    assert tt.empty(5, dtype=tt.float64).uniform_(generator=g).tolist() == first.tolist()
    assert tt.rand_like(tt.zeros(2, dtype=tt.float64)).dtype is tt.float64
    assert tt.randn(2, requires_grad=True).requires_grad


def test_random_fills():
    tt.manual_seed(5)
    x = tt.zeros(4000)
    for fill, mean, deviation in (
        (lambda: x.uniform_(2, 4), 3, 0.577), (lambda: x.normal_(1, 2), 1, 2), (lambda: x.exponential_(2), 0.5, 0.5),
        (lambda: x.bernoulli_(0.25), 0.25, 0.433), (lambda: x.random_(10), 4.5, 2.87),
    ):
        assert fill() is x
        assert abs(host(x).mean() - mean) < 5 * deviation / 4000**0.5
    assert set(host(tt.zeros(200, dtype=tt.bool).random_())) == {False, True}
    assert host(tt.zeros(200, dtype=tt.int8).random_()).min() >= 0
    p = tt.tensor([0.0, 1.0, 1.0])
    assert tt.bernoulli(p).tolist() == [0, 1, 1]
    assert abs(host(tt.normal(tt.full((4000,), 2.0), 0.5)).mean() - 2) < 5 * 0.5 / 4000**0.5
    weights = tt.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 0.0]])
    many = host(tt.multinomial(weights, 4000, replacement=True))
    assert set(many[1]) == {0} and abs((many[0] == 2).mean() - 0.75) < 5 * 0.433 / 4000**0.5
    few = host(tt.multinomial(tt.tensor([1.0, 0.0, 5.0]), 2))
    assert sorted(few) == [0, 2]


def test_conversions(torch):
    x, y = tt.arange(6.0).reshape(2, 3), torch.arange(6.0).reshape(2, 3)
    for name in ("double", "half", "bfloat16", "long", "int", "short", "char", "byte", "bool", "cfloat", "cdouble",
                 "float"):
        same(getattr(x, name)(), getattr(y, name)())
    assert x.float() is x
    a, b = x.t()[1:], y.t()[1:]
    assert (a.stride(), a.stride(0), a.storage_offset(), a.is_contiguous()) == (
        b.stride(), b.stride(0), b.storage_offset(), b.is_contiguous())
    assert (a.size(), a.size(-1), a.dim(), a.numel(), a.nelement(), a.element_size()) == (
        tuple(b.size()), b.size(-1), b.dim(), b.numel(), b.nelement(), b.element_size())
    assert a.tolist() == b.tolist() and x.sum().item() == 15 and x.is_floating_point() and not x.is_complex()
    assert x.T.shape == (3, 2) and tt.is_tensor(x) and not tt.is_tensor(1)
    assert x.type_as(tt.zeros(1, dtype=tt.float64)).dtype is tt.float64 and x.type(tt.int32).dtype is tt.int32


def test_numpy_protocol():
    t = tt.ones(3, device="cpu")
    assert np.shares_memory(t.numpy(), np.asarray(t))
    assert np.asarray(t, dtype=np.float64).dtype == np.float64
    assert not np.shares_memory(np.array(t), t.numpy())
    with pytest.raises(ValueError):
        np.asarray(t, dtype=np.float64, copy=False)
    r = tt.ones(3, device="cpu", requires_grad=True)
    with pytest.raises(RuntimeError):
        np.asarray(r)
    assert r.numpy(force=True).tolist() == [1, 1, 1]
    s = tt.ones(3, device="sim")
    with pytest.raises(TypeError):
        np.asarray(s)
    assert s.cpu().numpy().tolist() == s.numpy(force=True).tolist() == [1, 1, 1]


def test_pickle_and_deepcopy():
    for t in (tt.randn(2, 3, requires_grad=True), tt.arange(3), tt.tensor([1.5], dtype=tt.bfloat16),
              tt.randn(3, 2).t(), tt.tensor(2.0)):
        t.note = "kept"
        for u in (pickle.loads(pickle.dumps(t)), copy.deepcopy(t)):
            assert u.dtype is t.dtype and u.device == t.device and u.requires_grad == t.requires_grad
            assert u.note == "kept"
            assert u.tolist() == t.tolist() and u.shape == t.shape
            assert u.data_ptr() != t.data_ptr()
    x = tt.ones(2, requires_grad=True)
    (x * x).sum().backward()
    assert copy.deepcopy(x).grad.tolist() == [2, 2]
    pair = [x, x]
    a, b = copy.deepcopy(pair)
    assert a is b
    with pytest.raises(RuntimeError):
        pickle.dumps(x * 2)
