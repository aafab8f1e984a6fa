"""Memory: with the garbage collector off, dropping a loss frees every byte; a training loop does not grow."""
from __future__ import annotations

import gc
import sys
import tracemalloc
import weakref

import numpy as np
import pytest
from case import ours, tensor

from tinytorch_gpu import ops
from tinytorch_gpu.autograd import engine
from tinytorch_gpu.autograd.modes import saved_tensors_hooks
from tinytorch_gpu.autograd.operator import REGISTRY
from tinytorch_gpu.backend.device import backend_for

BYTES = 1 << 16  # of one activation: far above what Python objects of a small graph take


@pytest.fixture(autouse=True)
def no_gc():
    """Only reference counts free memory."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def leaf(n=BYTES // 8):
    return tensor(np.linspace(0.1, 0.9, n), True)


def held(device):
    """Bytes in live arrays: of the CPU by tracemalloc, of another device by its own pool."""
    if device.type == "cpu":
        return tracemalloc.get_traced_memory()[0]
    return backend_for(device).memory_stats(0)["current"]


def growth(device, work, warm=2, times=4):
    """Bytes held after `work` beyond those before, after a few runs that fill caches; no container may be left."""
    tracing = device.type == "cpu"
    if tracing:
        tracemalloc.start()
    try:
        for _ in range(warm):
            work()
        tries = []
        for _ in range(3):  # a leak shows each time; what pytest-xdist's own thread allocates meanwhile does not
            before, objects = held(device), len(gc.get_objects())
            for _ in range(times):
                work()
            left = len(gc.get_objects()) - objects
            tries.append((left > 1, held(device) - before, left))
        bad, grown, left = min(tries)
        assert not bad, f"{left} Python objects are left, by reference cycles or lists that grow"
        return grown
    finally:
        if tracing:
            tracemalloc.stop()


def chain(x):
    h = x
    for _ in range(5):
        h = ops.mul(ops.tanh(h), h)
    return ops.sum(ops.expand(h, 2, h.shape[0]))


def changed_in_place(x):
    h = ops.mul(x, 2)
    REGISTRY["Add"].inplace(h, x)
    v = ops.expand(ops.tanh(h), 2, h.shape[0])
    return ops.sum(v)


def view_changed(x):
    b = ops.clone(x)
    v = b[10:]
    v.mul_(2)
    u = v[5:]
    b.add_(1)
    u.mul_(u)
    return ops.sum(ops.add(ops.sum(b), ops.sum(u)))


def split(x):
    a, b = ours.split(ops.tanh(x), x.shape[0] // 2)
    return ops.sum(ops.mul(a, b))


def hooked(x):
    y = ops.tanh(x)
    y.retain_grad()
    y.register_hook(lambda g: ops.mul(g, 2))
    return ops.sum(y)


def packed(x):
    with saved_tensors_hooks(lambda s: s, lambda s: s):
        return ops.sum(ops.tanh(x))


GRAPHS = [chain, changed_in_place, view_changed, split, hooked, packed]


@pytest.mark.parametrize("graph", GRAPHS)
def test_dropping_a_loss_frees_every_byte(graph, device):
    x = leaf()
    assert growth(device, lambda: graph(x)) < BYTES // 2


@pytest.mark.parametrize("graph", GRAPHS)
def test_backward_leaves_the_gradient_only(graph, device):
    x = leaf()

    def work():
        x.grad = None
        graph(x).backward()

    assert growth(device, work) < BYTES // 2


@pytest.mark.parametrize("graph", [chain, split, view_changed])
def test_higher_derivatives_are_freed(graph, device):
    x = leaf()

    def work():
        (g,) = engine.grad(graph(x), x, create_graph=True)
        if g.requires_grad:
            engine.grad(ops.sum(g), x)

    assert growth(device, work) < BYTES // 2


def test_a_failed_backward_leaves_nothing(device):
    x = leaf()

    def work():
        y = ops.tanh(x)
        REGISTRY["Mul"].inplace(y, 2)
        with pytest.raises(RuntimeError):
            ops.sum(y).backward()

    work()
    assert growth(device, work) < BYTES // 2


def test_backward_frees_saved_values_on_its_way(device):
    """After backward, while the loss still lives, the activations are gone."""
    x = leaf()
    tracing = device.type == "cpu"
    if tracing:
        tracemalloc.start()
    try:
        before = held(device)
        loss = chain(x)
        full = held(device) - before
        loss.backward()
        after = held(device) - before
    finally:
        if tracing:
            tracemalloc.stop()
    assert full > 8 * BYTES  # the chain saves ten activations
    assert after < 1.5 * BYTES, "more than x.grad is left"


def test_nodes_and_tensors_die_with_the_last_reference():
    x = leaf(4)
    y = ops.tanh(x)
    z = ops.mul(y, y)
    things = [weakref.ref(o) for o in (y, z, y.grad_fn, z.grad_fn)]
    del y
    assert things[0]() is None and things[2]() is not None  # z's graph holds the node, not the tensor
    del z
    assert all(t() is None for t in things)


def test_a_leaf_in_a_graph_lives_and_dies_with_it():
    x = leaf(4)
    y = ops.sum(ops.tanh(x))
    alive = weakref.ref(x)
    del x
    assert alive() is not None  # its gradient has to go somewhere
    y.backward()
    assert alive().grad is not None
    del y
    assert alive() is None


def test_a_view_and_its_base_make_no_cycle():
    b = ops.mul(leaf(4), 1)
    v = b[1:]
    v.mul_(2)
    things = [weakref.ref(o) for o in (b, v)]
    del b
    assert things[0]() is not None  # a view holds its base
    del v
    assert all(t() is None for t in things)


@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_make_no_cycle_unless_asked_for(create_graph):
    """backward(create_graph=True) joins x.grad to the graph of x: freeing it is up to the user, as in PyTorch."""
    x = leaf(4)
    ops.sum(ops.tanh(x)).backward(create_graph=create_graph)
    alive = weakref.ref(x)
    if create_graph:
        x.grad = None
    del x
    assert alive() is None


def test_a_training_loop_does_not_grow(device):
    rng = np.random.default_rng(0)
    w1, w2 = (tensor(rng.uniform(-0.1, 0.1, s).astype(np.float32), True) for s in ((64, 128), (128, 8)))
    data = tensor(rng.uniform(-1, 1, (32, 64)).astype(np.float32))
    losses = []

    def step():
        loss = ops.sum(ops.mul(ops.matmul(ops.tanh(ops.matmul(data, w1)), w2), 0.01))
        loss.backward()
        for w in (w1, w2):
            w._array -= np.float32(0.1) * w.grad._array
            w.grad = None
        losses.append(loss.item())

    # NumPy keeps small buffers: up to 100 kB, after 1,000 steps
    assert growth(device, step, warm=5, times=50) < BYTES // 2
    assert losses[-1] < losses[0]


def test_reference_counts_of_arrays_return():
    x = leaf(4)
    refs = sys.getrefcount(x._array)
    y = ops.sum(ops.mul(x, x))
    during = sys.getrefcount(x._array)  # outside of assert, which would hold references itself
    y.backward()
    after = sys.getrefcount(x._array)
    assert (during, after) == (refs + 2, refs)


def test_200_layers_hold_one_activation_each(device):
    """Linear saves its input, ReLU its output: the same array. So forward + backward of 200 x (Linear + ReLU) peaks at
    no more than 201 activations, the parameters' gradients and 2 activations in flight."""
    if device.type != "cpu":
        pytest.skip("tracemalloc sees the memory of NumPy arrays only")
    from tinytorch_gpu import nn

    width, batch, depth = 32, 2048, 200
    model = nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(width, width), nn.ReLU())))
    x = tensor(np.random.default_rng(0).standard_normal((batch, width)).astype(np.float32))
    model(x).sum().backward()  # what is made once
    model.zero_grad()
    activation, gradients = batch * width * 4, sum(p.nbytes for p in model.parameters())
    tracemalloc.start()
    try:
        model(x).sum().backward()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 199 * activation < peak < 203 * activation + gradients
