"""Optimizers by kernels: equal to the formula and to PyTorch, one launch for a group, masters, tables of addresses."""
from __future__ import annotations

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest

from tinytorch_gpu import optim
from tinytorch_gpu.backend import kernel_multi_tensor as multi
from tinytorch_gpu.backend.device import backend_for, backend_of, default_device
from tinytorch_gpu.backend.kernel import use_kernels
from tinytorch_gpu.tensor import Tensor

SHAPES = [(3, 4), (5,), (), (7, 9), (0, 3), (2, 3, 2), (1,), (20, 30), (130, 130)]
HALF = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
OPTIONS = [
    ("SGD", dict(lr=0.05)),
    ("SGD", dict(lr=0.05, weight_decay=0.1, maximize=True)),
    ("SGD", dict(lr=0.05, momentum=0.9)),
    ("SGD", dict(lr=0.05, momentum=0.9, dampening=0.3, weight_decay=0.02)),
    ("SGD", dict(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.02, maximize=True)),
    ("Adam", dict(lr=0.02, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.05)),
    ("Adam", dict(lr=0.02, betas=(0.0, 0.5), maximize=True)),
    ("AdamW", dict()),
    ("AdamW", dict(lr=0.02, betas=(0.8, 0.99), weight_decay=0.3)),
    ("AdamW", dict(lr=0.0)),
]
MAIN = [("SGD", dict(lr=0.05, momentum=0.9)), ("Adam", dict(lr=0.01, weight_decay=0.05)), ("AdamW", dict(lr=0.01))]


def place(array, offset=0):
    """On the default device; `offset` elements behind an aligned address."""
    array = np.asarray(array)
    padded = np.concatenate([np.zeros(offset, array.dtype), array.reshape(-1)])
    return backend_for(default_device()).from_host(padded)[offset:].reshape(array.shape)


def host(tensor):
    array = tensor._array if isinstance(tensor, Tensor) else tensor
    return np.array(backend_of(array).to_host(array))


def leaves(arrays, offsets=False):
    return [Tensor(place(a, i % 4 if offsets else 0), requires_grad=True) for i, a in enumerate(arrays)]


def draw(rng, dtype=np.float32):
    return [np.asarray(rng.standard_normal(s)).astype(dtype) for s in SHAPES]


def give(params, grads, offset=0):
    for p, g in zip(params, grads, strict=True):
        p.grad = None if g is None else Tensor(place(g, offset))


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_as_pytorch_over_many_steps(name, options, kernel_device, torch, rng, counted):
    """float32 roundings of 6e-8 in each of 15 steps; where a sum cancels they stand beside values of size 1. Some
    parameters have no gradient now and then: each counts its own steps."""
    start = draw(rng)
    ours, theirs = leaves(start, offsets=True), [torch.tensor(a, requires_grad=True) for a in start]
    a, b = getattr(optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    for step in range(15):
        grads = [None if step > 3 and (step + i) % 7 == 0 else g for i, g in enumerate(draw(rng))]
        give(ours, grads, step % 3)
        for q, g in zip(theirs, grads, strict=True):
            q.grad = None if g is None else torch.tensor(g)
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(host(p), q.detach().numpy(), rtol=2e-5, atol=2e-5)
    theirs_state = b.state_dict()["state"]
    for i, entry in a.state_dict()["state"].items():
        for key, value in entry.items():
            np.testing.assert_allclose(host(value), theirs_state[i][key].numpy(), rtol=2e-5, atol=2e-5)
            assert value.device == kernel_device
    with_count = name != "SGD" or "momentum" in options
    assert counted == [
        n for _ in range(15) for n in (["advance"] if with_count else []) + ["sgd" if name == "SGD" else "adam"]]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("master", [False, True])
@pytest.mark.parametrize(("name", "options"), MAIN)
def test_half_parameters_kernel_and_formula(name, options, master, dtype, kernel_device, rng):
    """Where float32 differs in its last digit, a half value may round to its neighbour, and later steps start there."""
    dtype = HALF[dtype]
    start = draw(rng, dtype)
    ours, theirs = leaves(start, offsets=True), leaves(start)
    a, b = (getattr(optim, name)(params, master_weights=master, **options) for params in (ours, theirs))
    for _ in range(6):
        grads = draw(rng, dtype)
        give(ours, grads)
        give(theirs, grads)
        a.step()
        with use_kernels(False):
            b.step()
    eps = float(ml_dtypes.finfo(dtype).eps)
    for p, q in zip(ours, theirs, strict=True):
        assert p._array.dtype == dtype
        np.testing.assert_allclose(host(p).astype(float), host(q).astype(float), rtol=2 * eps, atol=eps / 8)
        assert list(a.state[p]) == list(b.state[q])
        assert ("master" in a.state[p]) == master
        for key, value in a.state[p].items():
            assert value._array.dtype == np.float32
            if not (key == "momentum_buffer" or key.startswith("exp")) or not master:
                continue
            np.testing.assert_allclose(host(value), host(b.state[q][key]), rtol=1e-5, atol=1e-6)
        if master:
            np.testing.assert_array_equal(host(a.state[p]["master"]).astype(dtype), host(p))
            np.testing.assert_allclose(host(a.state[p]["master"]), host(b.state[q]["master"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "options"), [
    ("SGD", dict(lr=1.0)), ("SGD", dict(lr=1.0, momentum=0.5)), ("Adam", dict(lr=1e-5)), ("AdamW", dict(lr=1e-5))])
@pytest.mark.parametrize("fused", [False, True])
def test_tiny_updates_move_bfloat16_weights_with_masters_only(name, options, fused, device, rng):
    """A weight of 1 in bfloat16 moves by 0.0039 at least (its ulp below 1); 220 updates of 1e-5 add up to 0.0022,
    which rounds to the neighbour below 1, and only the float32 master sees them."""
    steps, start = 220, np.ones(40, ml_dtypes.bfloat16)
    grad = np.full(40, 1e-5 if name == "SGD" else 1.0, ml_dtypes.bfloat16)
    kept, lost, exact = leaves([start]), leaves([start]), leaves([start.astype(np.float64)])
    a = getattr(optim, name)(kept, master_weights=True, **options)
    b = getattr(optim, name)(lost, **options)
    c = getattr(optim, name)(exact, **options)
    with use_kernels(fused):
        for _ in range(steps):
            give(kept, [grad])
            give(lost, [grad])
            give(exact, [grad.astype(np.float64)])
            for opt in (a, b, c):
                opt.step()
    np.testing.assert_array_equal(host(lost[0]).astype(float), 1.0)
    master = host(a.state[kept[0]]["master"]).astype(float)
    np.testing.assert_allclose(master, host(exact[0]), rtol=0, atol=steps * 6e-8)  # float32 of numbers near 1
    assert (host(exact[0]) < 0.998).all()
    np.testing.assert_array_equal(host(kept[0]), master.astype(ml_dtypes.bfloat16))
    assert (host(kept[0]).astype(float) < 1).all()


@pytest.mark.parametrize("fused", [False, True])
def test_what_is_written_into_a_parameter_reaches_its_master(fused, device, rng):
    params = leaves([np.linspace(1, 2, 50).astype(np.float16)])
    opt = optim.SGD(params, lr=2.0**-14, master_weights=True)
    with use_kernels(fused):
        give(params, [np.ones(50, np.float16)])
        opt.step()
        params[0].data._array[:5] = 7.0  # no version counter of the parameter sees it
        give(params, [np.ones(50, np.float16)])
        opt.step()
    master = host(opt.state[params[0]]["master"])
    np.testing.assert_array_equal(master[:5], np.float32(7 - 2.0**-14))
    start = np.linspace(1, 2, 50).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(master[5:], start[5:] - 2.0**-13)


def test_masters_are_part_of_the_state(device, rng):
    dtype = ml_dtypes.bfloat16
    start, grads = draw(rng, dtype), [draw(rng, dtype) for _ in range(4)]
    params = leaves(start)
    opt = optim.AdamW(params, lr=1e-4, master_weights=True)
    for g in grads[:2]:
        give(params, g)
        opt.step()
    others = [copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))]
    loaded = leaves([host(p) for p in params])
    again = optim.AdamW(loaded, lr=1.0, master_weights=True)
    again.load_state_dict(copy.deepcopy(opt.state_dict()))
    others.append(again)
    for g in grads[2:]:
        for o in (opt, *others):
            give(o.param_groups[0]["params"], g)
            o.step()
    for o in others:
        for p, q in zip(params, o.param_groups[0]["params"], strict=True):
            np.testing.assert_array_equal(host(p), host(q))
            np.testing.assert_array_equal(host(opt.state[p]["master"]), host(o.state[q]["master"]))


def test_the_option_stays_when_pytorchs_groups_are_loaded(device):
    """Groups have the key only where it is used; a state dict without it does not switch masters off."""
    params = leaves([np.ones(3, np.float16)])
    plain, master = optim.AdamW(params), optim.AdamW(params, master_weights=True)
    assert "master_weights" not in plain.param_groups[0]
    master.load_state_dict(plain.state_dict())
    give(params, [np.ones(3, np.float16)])
    master.step()
    assert "master" in master.state[params[0]]
    full = leaves([np.ones(3, np.float32)])
    opt = optim.SGD(full, master_weights=True)
    give(full, [np.ones(3, np.float32)])
    opt.step()
    assert not opt.state[full[0]]  # float32 parameters are their own masters


@pytest.mark.parametrize(("name", "options"), MAIN)
def test_kernels_switched_between_steps(name, options, kernel_device, rng):
    """One state for both: any order of kernel and formula gives the formula's numbers to float32 rounding."""
    start = draw(rng)
    ours, theirs = leaves(start), leaves(start)
    a, b = getattr(optim, name)(ours, **options), getattr(optim, name)(theirs, **options)
    for step in range(12):
        grads = [None if (step + i) % 5 == 0 else g for i, g in enumerate(draw(rng))]
        give(ours, grads)
        give(theirs, grads)
        with use_kernels(step % 3 != 1):
            a.step()
        with use_kernels(False):
            b.step()
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(host(p), host(q), rtol=1e-5, atol=1e-5)
        for key, value in a.state[p].items():
            np.testing.assert_allclose(host(value), host(b.state[q][key]), rtol=1e-5, atol=1e-5)


def test_formula_on_the_device_beside_float64(kernel_device, rng):
    """float64, complex and strided parameters: the same optimizer, by array operations; float64 to 1e-12."""
    base = rng.standard_normal((6, 8))
    params = [Tensor(place(base), requires_grad=True), Tensor(place(base).T, requires_grad=True),
              Tensor(place((base + 1j * base).astype(np.complex64)), requires_grad=True),
              Tensor(place(base.astype(np.float32)), requires_grad=True)]
    opt = optim.AdamW(params, lr=0.1)
    want, m, v = base.copy(), 0.0, 0.0
    for t in range(1, 6):
        g = rng.standard_normal(base.shape)
        give(params, [g, g.T, (g + 1j * g).astype(np.complex64), g.astype(np.float32)])
        opt.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        want = want * (1 - 0.1 * 0.01) - 0.1 * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(host(params[0]), want, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(host(params[1]), want.T, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(host(params[2]), want + 1j * want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(host(params[3]), want, rtol=1e-4, atol=1e-5)


def test_a_launch_for_each_dtype(kernel_device, rng, counted):
    params = leaves([a.astype(d) for a, d in zip(
        draw(rng), [np.float32, np.float16, ml_dtypes.bfloat16] * 3, strict=True)])
    opt = optim.AdamW(params)
    for _ in range(2):
        give(params, [host(p) for p in params])
        opt.step()
    assert counted == ["advance", "adam"] * 6
    del counted[:]
    for k, p in enumerate(params):  # parameters that came later, or were loaded, share the launch
        p.grad = None if k == 0 else p.grad
    opt.step()
    give(params, [host(p) for p in params])
    opt.step()
    assert counted == ["advance", "adam"] * 6


def test_amsgrad_has_no_kernel(kernel_device, counted, rng):
    params = leaves(draw(rng))
    opt = optim.AdamW(params, amsgrad=True)
    give(params, draw(rng))
    opt.step()
    assert not counted


def test_gradients_that_stay_are_not_uploaded_again(rng, kernel_device):
    if kernel_device.type != "sim":
        pytest.skip("copies are counted on the simulated device")
    from tinytorch_gpu.backend import simulated

    params = leaves(draw(rng))
    opt = optim.AdamW(params)
    give(params, draw(rng))
    opt.step()
    opt.zero_grad(set_to_none=False)
    with simulated.counters() as c:
        opt.step()
        opt.zero_grad(set_to_none=False)
        opt.step()
    assert (c.host_to_device, c.device_to_host, c.synchronizations) == (0, 0, 0)
    kept = [p.grad for p in params]
    give(params, draw(rng))
    with simulated.counters() as c:
        opt.step()
    assert (c.host_to_device, c.device_to_host, c.synchronizations) == (1, 0, 0)
    del kept


def test_strided_gradients_are_unscaled_too(kernel_device, rng):
    params = leaves([np.ones((4, 6), np.float32), np.ones(3, np.float32)])
    grads = [rng.standard_normal((6, 4)).astype(np.float32), np.ones(3, np.float32)]
    params[0].grad, params[1].grad = Tensor(place(grads[0]).T), Tensor(place(grads[1]))
    opt = optim.SGD(params, lr=1.0)
    opt.grad_scale = Tensor(place(np.float32(4.0)))
    opt.step()
    np.testing.assert_array_equal(host(params[0]), 1 - grads[0].T / 4)
    np.testing.assert_array_equal(host(params[0].grad), grads[0].T / 4)
    np.testing.assert_array_equal(host(params[1].grad), grads[1] / 4)


def test_steps_are_counted_on_the_device(kernel_device, rng):
    params = leaves(draw(rng))
    opt = optim.Adam(params)
    for skip in (0.0, 1.0, 0.0):
        give(params, draw(rng))
        opt.found_inf = Tensor(place(np.float32(skip)))
        opt.step()
    step = opt.state[params[0]]["step"]
    assert step.device == kernel_device and step.shape == () and step.item() == 2
    moved = leaves([host(p) for p in params])
    other = optim.Adam(moved)
    cpu = {i: {k: v.to("cpu") for k, v in s.items()} for i, s in opt.state_dict()["state"].items()}
    other.load_state_dict({"state": cpu, "param_groups": opt.state_dict()["param_groups"]})
    del opt.found_inf
    for o in (opt, other):
        give(o.param_groups[0]["params"], grads := draw(np.random.default_rng(1)))
        o.step()
    assert len(grads) == len(moved)
    for p, q in zip(params, moved, strict=True):
        assert other.state[q]["step"].item() == 3 and other.state[q]["step"].device == kernel_device
        np.testing.assert_array_equal(host(p), host(q))


def test_capturable(kernel_device, rng):
    """Counts are on the device anyway; on the CPU PyTorch refuses it, and so do we."""
    params = leaves(draw(rng))
    opt = optim.AdamW(params, capturable=True)
    give(params, draw(rng))
    opt.step()
    p = Tensor(np.ones(2, np.float32), requires_grad=True)
    p.grad = Tensor(np.ones(2, np.float32))
    with pytest.raises(RuntimeError, match="capturable=True needs parameters on a GPU"):
        optim.Adam([p], capturable=True).step()


def test_lists_refuse_what_kernels_cannot_take(kernel_device):
    a, b = place(np.ones((4, 3), np.float32)), place(np.ones((4, 3), np.float16))
    for lists, message in ((([a, b],), "expected 12 elements of float32"), (([a], [a[:2]]), "got 6 of float32"),
                           (([a.T],), "not contiguous"), (([a, np.ones((4, 3), np.float32)],), "on cpu")):
        with pytest.raises(ValueError, match=message):
            multi.TensorLists(*lists)
    with pytest.raises(ValueError, match="gradients of"):
        multi.TensorLists([a]).tables_with(multi.TensorLists([a, a]))
    with pytest.raises(ValueError, match="gradients of .* of float16, parameters of"):
        multi.TensorLists([a]).tables_with(multi.TensorLists([b]))
