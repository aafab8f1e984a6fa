"""GradScaler beside torch.amp.GradScaler: scales, skipped steps, growth, errors; nothing but the scale moves when an
infinity is found."""
from __future__ import annotations

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest

from tinytorch_gpu import Tensor, nn, optim, tensor
from tinytorch_gpu.amp import GradScaler
from tinytorch_gpu.backend.device import backend_for, backend_of, default_device
from tinytorch_gpu.backend.kernel import use_kernels

OPTIMIZERS = {
    "SGD": (optim.SGD, dict(lr=0.1), np.float32),
    "SGD momentum": (optim.SGD, dict(lr=0.1, momentum=0.9, dampening=0.1), np.float32),
    "Adam": (optim.Adam, dict(lr=0.1), np.float32),
    "AdamW": (optim.AdamW, dict(lr=0.1), np.float32),
    "AMSGrad": (optim.AdamW, dict(lr=0.1, amsgrad=True), np.float32),
    "float64": (optim.AdamW, dict(lr=0.1), np.float64),
    "half": (optim.AdamW, dict(lr=0.1), np.float16),
    "SGD masters": (optim.SGD, dict(lr=0.1, momentum=0.9, master_weights=True), ml_dtypes.bfloat16),
    "AdamW masters": (optim.AdamW, dict(lr=0.1, master_weights=True), np.float16),
}


def place(array):
    return backend_for(default_device()).from_host(np.asarray(array))


def host(t):
    return np.array(backend_of(t._array).to_host(t._array))


def leaves(rng, dtype=np.float32):
    return [Tensor(place(rng.standard_normal(s).astype(dtype)), requires_grad=True) for s in ((3, 4), (70, 80), (5,))]


def backward(scaler, params, bad=None):
    """Gradients of a quadratic, scaled; `bad` is written into one of them."""
    loss = sum((p.float() ** 2).sum() for p in params)
    scaler.scale(loss).backward()
    if bad is not None:
        params[1].grad._array[3, 5] = bad


def bits(opt):
    """Every byte that an optimizer changes, without the gradients."""
    params = opt.param_groups[0]["params"]
    state = {(i, k): host(v).tobytes() for i, p in enumerate(params) for k, v in opt.state[p].items()}
    return [host(p).tobytes() for p in params], state


@pytest.mark.parametrize("fused", [True, False], ids=["kernels", "formulas"])
@pytest.mark.parametrize(("kind", "unscaled"), [
    pytest.param(kind, unscaled, id=f"{kind}-{'unscale_' if unscaled else 'step'}")
    for kind, (_, _, dtype) in OPTIMIZERS.items() for unscaled in (False, True)
    if not (unscaled and dtype == np.float16)])  # unscale_ refuses float16 gradients
def test_an_infinity_moves_nothing_but_the_scale(kind, unscaled, fused, device, rng):
    """Infinite and NaN gradients at several steps, the first among them; afterwards training goes on as if those steps
    had not been: to the last bit, since scales are powers of two."""
    make, options, dtype = OPTIMIZERS[kind]
    seed = int(rng.integers(2**32))
    params, clean = (leaves(np.random.default_rng(seed), dtype) for _ in range(2))
    a, b = make(params, **options), make(clean, **options)
    scaler = GradScaler(init_scale=64.0)
    clean_scale = GradScaler(init_scale=1.0)
    with use_kernels(fused):
        for bad in (np.inf, None, np.nan, None, -np.inf, None):
            backward(scaler, params, bad)
            before, scale = bits(a), scaler.get_scale()
            if unscaled:
                scaler.unscale_(a)
            scaler.step(a)
            scaler.update()
            a.zero_grad()
            if bad is not None:
                after = bits(a)
                assert after[0] == before[0]
                for (i, name), value in after[1].items():  # where the device skips, a first step has made its state
                    made = host(params[i]).astype(np.float32).tobytes() if name == "master" else bytes(len(value))
                    assert value == before[1].get((i, name), made)
                assert scaler.get_scale() == scale / 2
                continue
            assert scaler.get_scale() == scale
            backward(clean_scale, clean)
            clean_scale.step(b)
            clean_scale.update()
            b.zero_grad()
    got, want = bits(a), bits(b)
    assert got == want


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize("fused", [True, False], ids=["kernels", "formulas"])
def test_scales_are_pytorchs(name, fused, device, torch, rng):
    """A random run of good and bad steps, growth after 3, clipping now and then: scale, tracker and weights.

    A large eps: without it Adam's step of a gradient near zero is a matter of its last digits, and here gradients are
    twice the weights."""
    options = dict(lr=0.01, **({"eps": 1e-2} if name == "AdamW" else {}))
    start = [host(p) for p in leaves(rng)]
    params = [Tensor(place(a), requires_grad=True) for a in start]
    theirs = [torch.tensor(a, requires_grad=True) for a in start]
    a, b = getattr(optim, name)(params, **options), getattr(torch.optim, name)(theirs, **options)
    ours, reference = GradScaler(init_scale=2.0**10, growth_interval=3), torch.amp.GradScaler(
        "cpu", init_scale=2.0**10, growth_interval=3)
    with use_kernels(fused):
        for step in range(25):
            bad = rng.choice([np.inf, np.nan]) if rng.random() < 0.2 else None
            backward(ours, params, bad)
            reference.scale(sum((q**2).sum() for q in theirs)).backward()
            if bad is not None:
                theirs[1].grad[3, 5] = bad
            if step % 2:
                ours.unscale_(a)
                reference.unscale_(b)
                norm = nn.utils.clip_grad_norm_(params, 5.0)
                want = torch.nn.utils.clip_grad_norm_(theirs, 5.0)
                np.testing.assert_allclose(norm.item(), want.item(), rtol=1e-5)
            ours.step(a)
            reference.step(b)
            if bad is None:
                for p, q in zip(params, theirs, strict=True):
                    np.testing.assert_allclose(host(p.grad), q.grad.numpy(), rtol=1e-4, atol=1e-5)
            ours.update()
            reference.update()
            assert ours.state_dict() == reference.state_dict()
            a.zero_grad()
            b.zero_grad()
    for p, q in zip(params, theirs, strict=True):
        np.testing.assert_allclose(host(p), q.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_the_scale_stays_finite(device):
    scaler = GradScaler(init_scale=2.0**127, growth_interval=1)
    p = Tensor(place(np.ones(3, np.float32)), requires_grad=True)
    opt = optim.SGD([p], lr=0.0)
    for _ in range(2):
        scaler.scale((p * 1e-30).sum()).backward()
        scaler.step(opt)
        scaler.update()
        assert scaler.get_scale() == 2.0**127


def test_scale_of_tensors_and_nests(device):
    scaler = GradScaler(init_scale=4.0)
    x = tensor([1.0, 2.0], requires_grad=True)
    assert scaler.get_scale() == 4.0
    np.testing.assert_array_equal(host(scaler.scale(x)), [4, 8])
    a, (b, c) = scaler.scale([x, (x * 2, x.sum())])
    assert (host(a).tolist(), host(b).tolist(), c.item()) == ([4, 8], [8, 16], 12)
    assert [t.item() for t in scaler.scale(t for t in (x.sum(), x.sum()))] == [12, 12]
    half = scaler.scale(tensor(2.0).half())
    assert half.dtype is tensor(1.0).dtype and half.item() == 8  # 0-d: float32 wins, as in PyTorch
    with pytest.raises(ValueError, match="must be a Tensor or an iterable"):
        scaler.scale(3.0)
    with pytest.raises(ValueError, match="must be a Tensor or an iterable"):
        scaler.scale([x, "loss"])


@pytest.mark.parametrize("fused", [True, False], ids=["kernels", "formulas"])
def test_small_float16_gradients_reach_a_master(fused, device):
    """1e-8 is nothing in float16; scaled it is, and `step` divides in float32."""
    scaler = GradScaler(init_scale=2.0**16)
    p = Tensor(place(np.ones(100, np.float16)), requires_grad=True)
    opt = optim.SGD([p], lr=1.0, master_weights=True)
    scaler.scale(p.float().mean() * 1e-4).backward()
    with use_kernels(fused):
        scaler.step(opt)
    np.testing.assert_allclose(host(opt.state[p]["master"]) - 1, -1e-6, rtol=0.05)  # 1 - 1e-6 has 17 units of its ulp
    scaler.update()
    scaler.scale(p.float().mean()).backward()
    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
        scaler.unscale_(opt)


class Plain(optim.Optimizer):
    """A user's optimizer, which knows nothing of scales."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.5})
        self.steps = 0

    def step(self, closure=None):
        self.steps += 1
        for p in self.param_groups[0]["params"]:
            p.data -= 0.5 * p.grad
        return "stepped"


class Knowing(Plain):
    _step_supports_amp_scaling = True

    def step(self, closure=None):
        self.seen = self.grad_scale, self.found_inf
        return super().step()


class Own(optim.SGD):
    """Overrides a step that knows of the flag by one that may not."""

    def step(self, closure=None):
        self.called = getattr(self, "called", 0) + 1
        return super().step(closure)


@pytest.mark.parametrize("kind", [Plain, Own])
def test_other_optimizers_get_unscaled_gradients_or_no_call(kind, device):
    p = Tensor(place(np.ones(2, np.float32)), requires_grad=True)
    opt, scaler = kind([p]) if kind is Plain else kind([p], lr=0.5), GradScaler(init_scale=8.0)
    for bad in (False, True):
        scaler.scale((p * (np.inf if bad else 1.0)).sum()).backward()
        assert scaler.step(opt) == ("stepped" if kind is Plain and not bad else None)
        scaler.update()
        opt.zero_grad()
    assert (opt.steps if kind is Plain else opt.called) == 1
    np.testing.assert_array_equal(host(p), 0.5)
    assert scaler.get_scale() == 4.0


def test_optimizers_that_claim_it_get_scale_and_flag(device):
    p = Tensor(place(np.ones(2, np.float32)), requires_grad=True)
    opt, scaler = Knowing([p]), GradScaler(init_scale=8.0)
    scaler.scale(p.sum()).backward()
    assert scaler.step(opt) == "stepped"
    assert [t.item() for t in opt.seen] == [8.0, 0.0] and not hasattr(opt, "grad_scale")
    np.testing.assert_array_equal(host(p.grad), 8.0)
    scaler.update()
    scaler.scale((p * np.inf).sum()).backward()
    scaler.unscale_(opt)
    opt.grad_scale = tensor(3.0)  # the user's own is kept
    scaler.step(opt)
    assert [t.item() for t in opt.seen] == [3.0, 1.0]


def test_two_optimizers_share_one_scale(device):
    """An infinity in one skips that one only, and shrinks the scale of both."""
    p, q = (Tensor(place(np.ones(2, np.float32)), requires_grad=True) for _ in range(2))
    a, b = optim.SGD([p], lr=1.0), optim.Adam([q], lr=1.0)
    scaler = GradScaler(init_scale=8.0)
    scaler.scale(p.sum() + (q * np.inf).sum()).backward()
    scaler.step(a)
    scaler.step(b)
    scaler.update()
    np.testing.assert_array_equal(host(p), 0.0)
    np.testing.assert_array_equal(host(q), 1.0)
    assert scaler.get_scale() == 4.0


def test_state_is_saved_and_copied(device):
    p = Tensor(place(np.ones(2, np.float32)), requires_grad=True)
    opt, scaler = optim.SGD([p]), GradScaler(init_scale=8.0, growth_factor=3.0, backoff_factor=0.25, growth_interval=5)
    for _ in range(2):
        scaler.scale(p.sum()).backward()
        scaler.step(opt)
        scaler.update()
    want = {"scale": 8.0, "growth_factor": 3.0, "backoff_factor": 0.25, "growth_interval": 5, "_growth_tracker": 2}
    assert scaler.state_dict() == want
    loaded = GradScaler()
    loaded.load_state_dict(want)
    for other in (loaded, copy.deepcopy(scaler), pickle.loads(pickle.dumps(scaler))):
        assert other.state_dict() == want
        for _ in range(3):
            other.scale(p.sum()).backward()
            other.step(opt)
            other.update()
        assert other.get_scale() == 24.0
    scaler.load_state_dict({**want, "scale": 2.0})
    assert scaler.get_scale() == 2.0
    scaler.update(5.0)
    assert scaler.get_scale() == 5.0
    scaler.update(tensor(7.0))
    assert scaler.get_scale() == 7.0
    scaler.set_growth_factor(4.0), scaler.set_backoff_factor(0.1), scaler.set_growth_interval(9)
    assert (scaler.get_growth_factor(), scaler.get_backoff_factor(), scaler.get_growth_interval()) == (4.0, 0.1, 9)


def test_disabled(device):
    p = Tensor(place(np.ones(2, np.float32)), requires_grad=True)
    opt, scaler = optim.SGD([p], lr=1.0), GradScaler(enabled=False)
    loss = p.sum()
    assert scaler.scale(loss) is loss and not scaler.is_enabled()
    loss.backward()
    scaler.unscale_(opt)
    scaler.step(opt, None)
    scaler.update()
    np.testing.assert_array_equal(host(p), 0.0)
    assert (scaler.get_scale(), scaler.state_dict()) == (1.0, {})
    scaler.load_state_dict({})
    assert not pickle.loads(pickle.dumps(scaler)).is_enabled()


def test_cuda_without_a_gpu_is_disabled_with_a_warning():
    from tinytorch_gpu.backend.device import probe

    if probe().available:
        assert GradScaler("cuda").is_enabled()
        return
    with pytest.warns(UserWarning, match="no GPU answers"):
        scaler = GradScaler("cuda")
    assert not scaler.is_enabled()


def bad_calls():
    def fresh(claims=True):
        p = Tensor(place(np.ones(2, np.float32)), requires_grad=True)
        opt, scaler = optim.SGD([p]) if claims else Plain([p]), GradScaler()
        return p, opt, scaler

    def begun(claims=True):
        p, opt, scaler = fresh(claims)
        scaler.scale(p.sum()).backward()
        return p, opt, scaler

    p, opt, scaler = begun()
    scaler.unscale_(opt)
    yield RuntimeError, "already been called on this optimizer", lambda: scaler.unscale_(opt)
    _, opt2, scaler2 = begun()
    scaler2.step(opt2)
    yield RuntimeError, "called after step", lambda: scaler2.unscale_(opt2)
    yield RuntimeError, r"step\(\) has already been called", lambda: scaler2.step(opt2)
    yield AssertionError, "may only be pickled", lambda: pickle.dumps(scaler2)
    _, opt3, scaler3 = fresh()
    yield AssertionError, "Attempted unscale_ but _scale is None", lambda: scaler3.unscale_(opt3)
    yield AssertionError, "Attempted step but _scale is None", lambda: scaler3.step(opt3)
    yield AssertionError, "Attempted update but _scale is None", lambda: scaler3.update()
    _, opt4, scaler4 = begun()
    yield AssertionError, "No inf checks were recorded prior to update", lambda: scaler4.update()
    yield RuntimeError, "Closure use is not", lambda: scaler4.step(opt4, closure=lambda: 1)
    yield RuntimeError, "Closure use is not", lambda: scaler4.step(opt4, lambda: 1)
    yield AssertionError, "1-element", lambda: scaler4.update(tensor([1.0, 2.0]))
    yield AssertionError, "1-element", lambda: scaler4.update(tensor(1.0, requires_grad=True))
    _, opt5, scaler5 = begun(False)
    opt5.zero_grad()
    yield AssertionError, "No inf checks were recorded for this optimizer", lambda: scaler5.step(opt5)
    yield AssertionError, "growth factor must be > 1.0", lambda: GradScaler(growth_factor=1.0)
    yield AssertionError, "backoff factor must be < 1.0", lambda: GradScaler(backoff_factor=1.0)
    yield RuntimeError, "source state dict is empty", lambda: GradScaler().load_state_dict({})
    yield RuntimeError, "expected one of", lambda: GradScaler("tpu")


def test_bad_calls(device):
    for error, message, call in bad_calls():
        with pytest.raises(error, match=message):
            call()
