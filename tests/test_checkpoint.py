"""Checkpointing: the same values and gradients in less memory, with dropout replayed, nested, of any order."""
from __future__ import annotations

import gc
import tracemalloc
import weakref

import numpy as np
import pytest
from case import host, tensor

import tinytorch_gpu as tt
from tinytorch_gpu import nn
from tinytorch_gpu.autograd.modes import saved_tensors_hooks
from tinytorch_gpu.utils.checkpoint import CheckpointError, checkpoint, checkpoint_sequential


def gradients(model, x, run):
    model.zero_grad()
    x.grad = None
    tt.manual_seed(5)
    out = run(x)
    out.sum().backward()
    return [host(out.detach()), host(x.grad), *(host(p.grad) for p in model.parameters())]


def same(a, b):
    for u, v in zip(a, b, strict=True):
        np.testing.assert_array_equal(u, v)  # the same operators on the same numbers: equal bits


@pytest.fixture
def block(rng):
    tt.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(0.4), nn.Linear(8, 6), nn.Tanh())
    return model, tensor(rng.standard_normal((5, 6)).astype(np.float32), True)


def test_gradients_and_dropout_are_the_same(block):
    model, x = block
    plain = gradients(model, x, model)
    same(plain, gradients(model, x, lambda z: checkpoint(model, z, use_reentrant=False)))
    same(plain, gradients(model, x, lambda z: checkpoint_sequential(model, 3, z)))


def test_random_numbers_after_it_go_on_undisturbed(block):
    model, x = block
    tt.manual_seed(2)
    out = checkpoint(model, x)
    before = tt.rand(3).tolist()
    out.sum().backward()
    after = tt.rand(3).tolist()
    tt.manual_seed(2)
    model(x)
    assert [before, after] == [tt.rand(3).tolist(), tt.rand(3).tolist()]


def test_it_nests(block):
    model, x = block
    first, second = model[:3], model[3:]

    def outer(z):
        z = checkpoint(first, z)
        return checkpoint(lambda y: checkpoint(second, y) * 2, z)

    same(gradients(model, x, lambda z: second(first(z)) * 2), gradients(model, x, lambda z: checkpoint(outer, z)))


def test_each_part_runs_twice_and_stops_early():
    ran = []

    def f(x):
        ran.append("a")
        y = x.sin()
        y = y.exp()
        ran.append("b")
        z = y + 1
        ran.append("c")  # nothing after the last saved value is needed again
        return z

    x = tt.ones(3, requires_grad=True)
    checkpoint(f, x).sum().backward()
    assert ran in (["a", "b", "c", "a"], ["a", "b", "c", "a", "b"])


def test_second_order_retained_graphs_and_grad(rng):
    a = rng.standard_normal(4)

    def f(x):
        return (x.sin() * x).exp()

    x, y = tensor(a, True), tensor(a, True)
    (g,) = tt.autograd.grad(checkpoint(f, x).sum(), x, create_graph=True)
    (h,) = tt.autograd.grad(f(y).sum(), y, create_graph=True)
    same([host(g.detach())], [host(h.detach())])
    same([host(tt.autograd.grad(g.sum(), x)[0])], [host(tt.autograd.grad(h.sum(), y)[0])])
    out = checkpoint(f, x).sum()
    first = host(tt.autograd.grad(out, x, retain_graph=True)[0])
    same([first], [host(tt.autograd.grad(out, x)[0])])


def test_tensors_in_keywords_and_in_closures(rng):
    x, w = tensor(rng.standard_normal(3), True), tensor(rng.standard_normal(3), True)
    checkpoint(lambda a, *, scale: (a * scale * w).sin(), x, scale=w).sum().backward()
    y, v = tensor(host(x.detach()), True), tensor(host(w.detach()), True)
    (y * v * v).sin().sum().backward()
    same([host(x.grad), host(w.grad)], [host(y.grad), host(v.grad)])


def test_it_keeps_inputs_only(device):
    """By tracemalloc: ten blocks hold ten inputs instead of seventy activations."""
    if device.type != "cpu":
        pytest.skip("tracemalloc sees the memory of NumPy arrays only")
    blocks = [nn.Sequential(*(m for _ in range(3) for m in (nn.Linear(64, 64), nn.Tanh()))) for _ in range(10)]
    x = tt.randn(512, 64)
    size = 512 * 64 * 4

    def held(run):
        tracemalloc.start()
        try:
            y = x
            for b in blocks:
                y = run(b, y)
            return tracemalloc.get_traced_memory()[0] / size, y
        finally:
            tracemalloc.stop()

    plain, _ = held(lambda b, y: b(y))
    kept, _ = held(lambda b, y: checkpoint(b, y))
    assert plain > 28  # a Tanh saves its output, which the next Linear saves too: 30
    assert kept < 12  # ten inputs, and the last output


def test_inputs_are_freed_when_their_part_has_run_backward():
    """Not when the graph dies, or when the garbage collector runs."""
    x = tt.ones(4, requires_grad=True)
    middle = checkpoint(lambda t: t.tanh().exp(), x)
    loss = checkpoint(lambda t: t.tanh().exp(), middle).sum()
    kept = weakref.ref(middle._array)
    del middle
    seen = []
    first = loss.grad_fn.next_functions[0][0].next_functions[0][0].next_functions[0][0]  # of the first part
    assert first.name() == "Exp" and kept() is not None
    first.register_hook(lambda sent, arrived: seen.append(kept() is None))
    gc.disable()
    try:
        loss.backward()
    finally:
        gc.enable()
    assert seen == [True] and kept() is None and loss.grad_fn is not None


def test_operands_without_a_counter_are_not_kept_either(device):
    """An operator that saves an input which was never changed in place does not hold the Tensor it came from."""
    x = tt.ones(4, requires_grad=True)
    seen = []

    def run(a):
        h = a * 2
        seen.append(weakref.ref(h))
        return (h * h).sum()

    out = checkpoint(run, x)
    assert seen[0]() is None
    out.backward()
    assert x.grad.tolist() == [8.0] * 4


def test_an_operator_runs_once_under_hooks_on_saved_values():
    x = tt.ones(1 << 16, requires_grad=True, device="cpu")
    size = x.nbytes
    for mode in (saved_tensors_hooks(lambda t: t, lambda t: t), tt.autograd.detect_anomaly(check_nan=False)):
        with mode:
            tracemalloc.start()
            y = tt.sin(x)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert y.requires_grad and peak < 1.5 * size


def test_no_grad_and_errors():
    x = tt.ones(3, requires_grad=True)
    with tt.no_grad():
        assert not checkpoint(lambda a: a * 2, x).requires_grad
    with pytest.raises(NotImplementedError, match="use_reentrant"):
        checkpoint(lambda a: a, x, use_reentrant=True)
    with pytest.raises(ValueError, match="determinism_check"):
        checkpoint(lambda a: a, x, determinism_check="sometimes")
    with pytest.raises(ValueError, match="segments"):
        checkpoint_sequential([lambda a: a], 2, x)
    calls = []

    def moody(a):
        calls.append(1)
        return a.sin() if len(calls) == 1 else (a[:2] * a[:2]).sin().sum()

    with pytest.raises(CheckpointError, match="same on every run"):
        checkpoint(moody, x).sum().backward()
