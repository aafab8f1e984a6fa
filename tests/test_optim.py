"""Optimizers beside torch.optim, and what the flat state promises."""
from __future__ import annotations

import copy
import itertools
import pickle

import ml_dtypes
import numpy as np
import pytest

from tinytorch_gpu import optim
from tinytorch_gpu.backend.device import backend_for, backend_of, default_device
from tinytorch_gpu.backend.kernel import use_kernels
from tinytorch_gpu.tensor import Tensor

SHAPES = [(3, 4), (5,), (), (70, 80), (2, 3, 2), (1,), (200, 300)]


def place(array):
    return backend_for(default_device()).from_host(np.ascontiguousarray(array).reshape(np.shape(array)))


def host(tensor):
    array = tensor._array if isinstance(tensor, Tensor) else tensor
    return np.array(backend_of(array).to_host(array))


def leaf(array):
    return Tensor(place(array), requires_grad=True)


def random(rng, shape, dtype):
    a = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        a = a + 1j * rng.standard_normal(shape)
    return np.asarray(a).astype(dtype)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


OPTIONS = [
    ("SGD", dict(lr=0.05)),
    ("SGD", dict(lr=0.05, weight_decay=0.1, maximize=True)),
    ("SGD", dict(lr=0.05, momentum=0.9)),
    ("SGD", dict(lr=0.05, momentum=0.9, dampening=0.3, weight_decay=0.02)),
    ("SGD", dict(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.02)),
    ("SGD", dict(lr=0.05, momentum=0.8, dampening=0.5, maximize=True, weight_decay=0.02)),
    ("SGD", dict(lr=0.05, momentum=0.8, nesterov=True, maximize=True)),
    ("SGD", dict(lr=0.05, momentum=0.8, dampening=1.0)),
    ("Adam", dict()),
    ("Adam", dict(lr=0.02, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.05)),
    ("Adam", dict(lr=0.02, amsgrad=True, maximize=True, weight_decay=0.05)),
    ("Adam", dict(lr=0.02, betas=(0.0, 0.5))),
    ("Adam", dict(lr=0.02, weight_decay=0.1, decoupled_weight_decay=True)),
    ("AdamW", dict()),
    ("AdamW", dict(lr=0.02, betas=(0.8, 0.99), weight_decay=0.3, amsgrad=True)),
    ("AdamW", dict(lr=0.02, maximize=True)),
    ("AdamW", dict(lr=0.0)),
]


def run_both(torch, name, options, dtype, steps=50, seed=0, gaps=False):
    rng = np.random.default_rng(seed)
    start = [random(rng, s, dtype) for s in SHAPES]
    ours, theirs = [leaf(a) for a in start], [torch.tensor(a, requires_grad=True) for a in start]
    a, b = getattr(optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    for step in range(steps):
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            if gaps and (step + i) % 3 == 0:
                p.grad = q.grad = None
                continue
            g = random(rng, p.shape, dtype)
            p.grad, q.grad = Tensor(place(g)), torch.tensor(g)
        a.step()
        b.step()
    return a, b, ours, theirs


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_50_steps_float64(torch, name, options):
    """float64 leaves only the order of roundings: some 50 x 15 operations of 1e-16 each."""
    a, b, ours, theirs = run_both(torch, name, options, np.float64)
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(host(p), q.detach().numpy(), rtol=1e-11, atol=1e-13)
    ours_state, their_state = a.state_dict(), b.state_dict()
    assert ours_state["state"].keys() == their_state["state"].keys()
    for i, entry in their_state["state"].items():
        assert list(ours_state["state"][i]) == [k for k in entry if entry[k] is not None]
        for key, value in entry.items():
            if value is not None:
                np.testing.assert_allclose(host(ours_state["state"][i][key]), value.numpy(), rtol=1e-11, atol=1e-13)
    assert ours_state["param_groups"] == their_state["param_groups"]
    assert repr(a) == repr(b)


@pytest.mark.parametrize(("name", "options"), OPTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_50_steps_single(torch, name, options, dtype):
    """float32 roundings of 6e-8 in each of 50 steps; where a sum cancels they stand beside values of size 1."""
    _, _, ours, theirs = run_both(torch, name, options, dtype, gaps=True)
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(host(p), q.detach().numpy(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_half_parameters_are_updated_in_float32(name, dtype):
    """Equal, step by step, to a float32 update of the same half parameters, rounded once."""
    rng = np.random.default_rng(3)
    options = dict(lr=0.01, **({"momentum": 0.9} if name == "SGD" else {}))
    start = [random(rng, s, dtype) for s in SHAPES]
    half, full = [leaf(a) for a in start], [leaf(a.astype(np.float32)) for a in start]
    a, b = getattr(optim, name)(half, **options), getattr(optim, name)(full, **options)
    for _ in range(10):
        for p, q in zip(half, full, strict=True):
            g = random(rng, p.shape, dtype)
            p.grad, q.grad = Tensor(place(g)), Tensor(place(g.astype(np.float32)))
        a.step()
        b.step()
        for p, q in zip(half, full, strict=True):
            q._array[...] = place(host(q).astype(dtype).astype(np.float32))
            assert p._array.dtype == dtype
            np.testing.assert_array_equal(host(p).astype(np.float32), host(q))
    for p in half:
        for key, value in a.state[p].items():
            assert value._array.dtype == np.float32, key


def test_parameters_with_other_counts_of_steps(torch):
    a, b, *_ = run_both(torch, "AdamW", {}, np.float64, steps=7, gaps=True)
    assert [float(s["step"]) for s in a.state_dict()["state"].values()] == [
        float(s["step"]) for s in b.state_dict()["state"].values()
    ]


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_strided_parameters_and_gradients(torch, name):
    """Transposed, reversed and strided memory; parameters keep their arrays."""
    rng = np.random.default_rng(4)
    bases = [rng.standard_normal((120, 90)), rng.standard_normal((6, 8)), rng.standard_normal(40)]
    views = [lambda a: a.T, lambda a: a[:, ::2], lambda a: a[::-1]]
    ours = [Tensor(view(place(a)), requires_grad=True) for view, a in zip(views, bases, strict=True)]
    theirs = [torch.tensor(view(a).copy(), requires_grad=True) for view, a in zip(views, bases, strict=True)]
    arrays = [p._array for p in ours]
    options = dict(lr=0.1, **({"momentum": 0.9} if name == "SGD" else {}))
    a, b = getattr(optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    for _ in range(3):
        for view, p, q, base in zip(views, ours, theirs, bases, strict=True):
            g = rng.standard_normal(base.shape)
            p.grad, q.grad = Tensor(view(place(g))), torch.tensor(view(g).copy())
        a.step()
        b.step()
    for p, q, array in zip(ours, theirs, arrays, strict=True):
        assert p._array is array
        np.testing.assert_allclose(host(p), q.detach().numpy(), rtol=1e-11, atol=1e-14)


def small(**options):
    rng = np.random.default_rng(5)
    params = [leaf(rng.standard_normal(s)) for s in [(3, 4), (4,), (80, 90)]]
    return params, optim.AdamW(params, **options), rng


def give(params, rng):
    for p in params:
        p.grad = Tensor(place(rng.standard_normal(p.shape)))


def test_gradients_stay_and_versions_rise():
    params, opt, rng = small(weight_decay=0.1)
    give(params, rng)
    before = [(host(p.grad), p._version) for p in params]
    opt.step()
    for p, (grad, version) in zip(params, before, strict=True):
        np.testing.assert_array_equal(host(p.grad), grad)
        assert p._version > version


def test_lr_is_a_plain_value():
    params, opt, rng = small(lr=1.0, weight_decay=0.0, eps=0.0)
    give(params, rng)
    before = [host(p) for p in params]
    opt.param_groups[0]["lr"] = 0.25
    opt.step()
    for p, old in zip(params, before, strict=True):  # Adam's first step is lr in every coordinate
        np.testing.assert_allclose(np.abs(host(p) - old), 0.25, rtol=1e-5)


def test_groups_have_their_own_options():
    a, b = leaf(np.ones(3)), leaf(np.ones(3))
    opt = optim.SGD([{"params": [a]}, {"params": b, "lr": 0.5}], lr=0.1)
    a.grad, b.grad = Tensor(place(np.ones(3))), Tensor(place(np.ones(3)))
    opt.step()
    np.testing.assert_allclose(host(a), 0.9)
    np.testing.assert_allclose(host(b), 0.5)
    c = leaf(np.ones(2))
    opt.add_param_group({"params": [c], "momentum": 0.9})
    assert [g["momentum"] for g in opt.param_groups] == [0, 0, 0.9]


@pytest.mark.parametrize(("name", "options"), [("AdamW", {}), ("AdamW", {"amsgrad": True}), ("SGD", {"momentum": 0.9})])
def test_state_dict_continues_exactly(name, options):
    rng = np.random.default_rng(6)
    grads = [[rng.standard_normal(s) for s in SHAPES] for _ in range(6)]
    start = [rng.standard_normal(s) for s in SHAPES]

    def train(params, opt, steps):
        for i in steps:
            for p, g in zip(params, grads[i], strict=True):
                p.grad = Tensor(place(g))
            opt.step()

    params = [leaf(a) for a in start]
    opt = getattr(optim, name)(params, **options)
    train(params, opt, range(3))
    saved = {"state": {i: {k: Tensor(v._array.copy()) for k, v in s.items()}
                       for i, s in opt.state_dict()["state"].items()},
             "param_groups": copy.deepcopy(opt.state_dict()["param_groups"])}
    values = [host(p) for p in params]
    train(params, opt, range(3, 6))
    again = [leaf(a) for a in values]
    other = getattr(optim, name)(again, lr=9.0)
    other.load_state_dict(saved)
    train(again, other, range(3, 6))
    for p, q in zip(params, again, strict=True):
        np.testing.assert_array_equal(host(p), host(q))
    # loading copies: training on does not change what was loaded
    key = "exp_avg" if name == "AdamW" else "momentum_buffer"
    assert not np.array_equal(host(other.state[again[3]][key]), host(saved["state"][3][key]))


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_copies_and_pickles_continue(name):
    rng = np.random.default_rng(8)
    options = {"momentum": 0.9} if name == "SGD" else {}
    opt = getattr(optim, name)([leaf(rng.standard_normal(s)) for s in SHAPES], lr=0.1, **options)
    give(opt.param_groups[0]["params"], rng)
    opt.step()
    others = [copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))]
    opt.step()
    for other in others:
        assert repr(other) == repr(opt)
        for p, q in zip(opt.param_groups[0]["params"], other.param_groups[0]["params"], strict=True):
            q.grad = Tensor(p.grad._array)
        other.step()
        for p, q in zip(opt.param_groups[0]["params"], other.param_groups[0]["params"], strict=True):
            assert p is not q
            np.testing.assert_array_equal(host(p), host(q))


def test_state_set_by_hand_is_used():
    params, opt, rng = small(lr=0.1)
    give(params, rng)
    opt.step()
    opt.state[params[0]]["exp_avg"] = Tensor(place(np.full((3, 4), 7.0)))
    opt.state[params[1]]["exp_avg"]._array[...] = 5.0
    give(params, rng)
    grads = [host(p.grad) for p in params]
    opt.step()
    np.testing.assert_allclose(host(opt.state[params[0]]["exp_avg"]), 0.9 * 7 + 0.1 * grads[0])
    np.testing.assert_allclose(host(opt.state[params[1]]["exp_avg"]), 0.9 * 5 + 0.1 * grads[1])


def test_replaced_parameter_memory_is_updated():
    params, opt, rng = small(lr=0.1, weight_decay=0.0)
    give(params, rng)
    opt.step()
    fresh = place(np.zeros((80, 90)))
    params[2].data = Tensor(fresh)
    give(params, rng)
    opt.step()
    assert np.abs(host(fresh)).min() > 0
    assert float(opt.state[params[2]]["step"]) == 2


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
@pytest.mark.parametrize("change", ["float32", "sim"])
def test_converted_and_moved_parameters_keep_their_state(name, change):
    """float32: rounding of 6e-8 a step; another device: equal to the last bit but for the order of sums, none here."""
    rng = np.random.default_rng(9)
    options = {"momentum": 0.9} if name == "SGD" else {}
    start = [rng.standard_normal(s) for s in SHAPES]
    grads = [[rng.standard_normal(s) for s in SHAPES] for _ in range(4)]
    kept, changed = [leaf(a) for a in start], [leaf(a) for a in start]
    a, b = (getattr(optim, name)(params, lr=0.1, **options) for params in (kept, changed))
    for step, given in enumerate(grads):
        for p, q, g in zip(kept, changed, given, strict=True):
            if step == 2:
                q.grad = None
                q.data = q.data.to(dtype=change) if change == "float32" else q.data.to(device=change)
            p.grad = Tensor(place(g))
            q.grad = Tensor(place(g)).to(q)
        a.step()
        b.step()
    for p, q in zip(kept, changed, strict=True):
        np.testing.assert_allclose(host(q), host(p), rtol=1e-5 if change == "float32" else 1e-15, atol=1e-6)
        for value in b.state[q].values():
            assert value.dtype is q.dtype or value.ndim == 0


def test_few_array_calls(monkeypatch):
    """The passes over a group do not grow with the number of its small parameters (some calls each: gather, write)."""
    from tinytorch_gpu.optim import adam

    calls = []
    real = adam._update
    monkeypatch.setattr(adam, "_update", lambda *a: (calls.append(1), real(*a)))
    params = [leaf(np.ones(10, np.float32)) for _ in range(300)]
    opt = optim.AdamW(params)
    for p in params:
        p.grad = Tensor(place(np.ones(10, np.float32)))
    with use_kernels(False):
        opt.step()
    assert len(calls) == 1


@pytest.mark.parametrize("value", [0.0, 1e30, np.inf, np.nan])
def test_odd_gradients_give_no_warning(torch, value):
    p, q = leaf(np.ones(3, np.float32)), torch.ones(3, requires_grad=True)
    a, b = optim.AdamW([p]), torch.optim.AdamW([q])
    p.grad, q.grad = Tensor(place(np.full(3, value, np.float32))), torch.full((3,), value)
    a.step()
    b.step()
    np.testing.assert_allclose(host(p), q.detach().numpy(), rtol=1e-6)


def test_zero_grad():
    params, opt, rng = small()
    give(params, rng)
    kept = params[0].grad._array
    opt.zero_grad(set_to_none=False)
    assert params[0].grad._array is kept and not host(kept).any()
    opt.zero_grad()
    assert all(p.grad is None for p in params)


def test_closure_and_hooks():
    from tinytorch_gpu.autograd.modes import is_grad_enabled, no_grad

    params, opt, rng = small()
    give(params, rng)
    seen = []
    handles = [
        opt.register_step_pre_hook(lambda o, args, kwargs: seen.append("pre")),
        opt.register_step_post_hook(lambda o, args, kwargs: seen.append("post")),
        optim.register_optimizer_step_pre_hook(lambda o, args, kwargs: seen.append("all")),
    ]

    def closure():
        seen.append(is_grad_enabled())
        return 3.5

    with no_grad():
        assert opt.step(closure) == 3.5
    assert seen == ["all", "pre", True, "post"]
    for handle in handles:
        handle.remove()
    opt.step()
    assert len(seen) == 4
    handle = opt.register_step_pre_hook(lambda o, args, kwargs: 1)
    with pytest.raises(RuntimeError, match="pre-hook must return None or a tuple"):
        opt.step()
    handle.remove()


def test_state_dict_hooks():
    params, opt, _ = small()
    opt.register_state_dict_post_hook(lambda o, d: {**d, "extra": 1})
    opt.register_load_state_dict_pre_hook(lambda o, d: {k: v for k, v in d.items() if k != "extra"})
    seen = []
    opt.register_load_state_dict_post_hook(lambda o: seen.append(o))
    saved = opt.state_dict()
    assert saved["extra"] == 1
    opt.load_state_dict(saved)
    assert seen == [opt]


def bad_calls():
    p = leaf(np.ones(2))
    q = leaf(np.ones(2))
    yield TypeError, "iterable of Tensors", lambda: optim.SGD(p)
    yield ValueError, "empty parameter list", lambda: optim.SGD([])
    yield TypeError, "can only optimize Tensors", lambda: optim.SGD([1.0])
    yield ValueError, "appears twice", lambda: optim.SGD([p, p])
    yield ValueError, "more than one parameter group", lambda: optim.SGD([{"params": [p]}, {"params": [p]}])
    yield TypeError, "ordered collections", lambda: optim.SGD([{"params": {p, q}}])
    yield ValueError, "Invalid learning rate", lambda: optim.SGD([p], lr=-1.0)
    yield ValueError, "Invalid momentum", lambda: optim.SGD([p], momentum=-1.0)
    yield ValueError, "Nesterov momentum", lambda: optim.SGD([p], nesterov=True)
    yield ValueError, "Invalid beta parameter at index 1", lambda: optim.Adam([p], betas=(0.9, 1.0))
    yield ValueError, "Invalid epsilon", lambda: optim.AdamW([p], eps=-1.0)
    yield NotImplementedError, "differentiable=True", lambda: optim.AdamW([p], differentiable=True)
    yield RuntimeError, "cannot be `True` together", lambda: optim.AdamW([p], fused=True, foreach=True)
    yield ValueError, "different number of parameter groups", lambda: optim.SGD([p]).load_state_dict(
        optim.SGD([{"params": [p]}, {"params": [q]}]).state_dict())
    yield ValueError, "doesn't match the size", lambda: optim.SGD([p]).load_state_dict(optim.SGD([p, q]).state_dict())
    yield NotImplementedError, "define step", lambda: optim.Optimizer([p], {}).step()


@pytest.mark.parametrize("n", range(16))
def test_bad_calls(n):
    error, message, call = next(itertools.islice(bad_calls(), n, None))
    with pytest.raises(error, match=message):
        call()


def test_state_of_another_shape_is_refused():
    p, q = leaf(np.ones(3)), leaf(np.ones(4))
    a, b = optim.AdamW([p]), optim.AdamW([q])
    p.grad, q.grad = Tensor(place(np.ones(3))), Tensor(place(np.ones(4)))
    a.step()
    b.load_state_dict(a.state_dict())
    with pytest.raises(RuntimeError, match=r"shape \(3,\), its parameter \(4,\)"):
        b.step()


def test_named_parameters():
    p, q = leaf(np.ones(2)), leaf(np.ones(2))
    opt = optim.SGD([("a", p), ("b", q)])
    assert opt.state_dict()["param_groups"][0]["param_names"] == ["a", "b"]
    assert opt.param_groups[0]["params"] == [p, q] or opt.param_groups[0]["params"][0] is p
