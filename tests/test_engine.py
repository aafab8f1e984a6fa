"""The engine: what a graph holds, what arrives in .grad, backward and grad with their options and errors."""
from __future__ import annotations

import gc
import sys
import weakref

import numpy as np
import pytest
from case import BF16, close, host, ours, tensor, torch_tensor

import tinytorch_gpu as tt
from tinytorch_gpu import ops
from tinytorch_gpu.autograd import engine
from tinytorch_gpu.autograd.operator import AccumulateGrad, Operator, endpoint
from tinytorch_gpu.tensor import Tensor


def leaf(rng, *shape, dtype=np.float64):
    return tensor(rng.uniform(0.5, 1.5, shape).astype(dtype), True)


@pytest.fixture
def no_gc():
    """Only reference counts free memory inside."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


# the graph

def test_edges_are_nodes_and_not_activations(rng, no_gc):
    x = leaf(rng, 3)
    h = ops.add(x, 1)  # nothing of it is saved
    y = ops.add(h, 1)
    array, gone = weakref.ref(h), h._array
    refs = sys.getrefcount(gone)
    del h
    assert array() is None and sys.getrefcount(gone) == refs - 1, "an activation that nobody saved is held"
    assert all(isinstance(endpoint(e)[0], Operator) for e in y.grad_fn.edges if e is not None)
    node, index = y.grad_fn.next_functions[0]
    assert node.name() == "Add" and index == 0
    assert isinstance(node.next_functions[0][0], AccumulateGrad) and node.next_functions[0][0].variable is x
    assert node.next_functions[1] == (None, 0)


def test_edges_of_a_node_with_several_outputs_carry_the_output_number(rng):
    x = leaf(rng, 4)
    first, second = ours.split(x, 2)
    assert (first.output_nr, second.output_nr) == (0, 1) and first.grad_fn is second.grad_fn
    assert ops.tanh(second).grad_fn.next_functions == ((second.grad_fn, 1),)


def test_saving_an_output_makes_no_reference_cycle(rng, no_gc):
    x = leaf(rng, 3)
    y = ops.tanh(x)
    node, array = weakref.ref(y.grad_fn), y._array
    refs = sys.getrefcount(array)
    del y
    assert node() is None and sys.getrefcount(array) < refs


def test_one_accumulator_for_a_leaf(rng):
    x = leaf(rng, 2)
    y, z = ops.mul(x, x), ops.tanh(x)
    assert y.grad_fn.edges[0] is y.grad_fn.edges[1] is z.grad_fn.edges[0]


def test_saved_values_are_freed_as_soon_as_used(rng):
    class Probe(Operator):
        def forward(node, a):
            return a * 1

        def backward(node, grad):
            seen.append(sys.getrefcount(array))
            return grad

    seen = []
    z = ops.tanh(Probe.apply(leaf(rng, 3)))
    array = z._array
    before = sys.getrefcount(array)
    z.backward(tensor(np.ones(3)))
    assert seen == [before - 1], "the later operator's saved output is still held while the earlier one runs"
    with pytest.raises(RuntimeError, match="second time"):
        _ = z.grad_fn.saved


# what arrives in .grad

def test_add_gives_two_owned_writable_gradients(rng):
    a, b = leaf(rng, 3), leaf(rng, 3)
    ours.sum(ops.add(a, b)).backward()
    for t in (a, b):
        assert t.grad._array.flags.owndata or t.grad._array.base is None
        assert all(s != 0 for s in t.grad._array.strides), "a stride-0 gradient"
    a.grad._array[...] = 7
    assert not (host(b.grad) == 7).any(), "two leaves share one gradient buffer"


@pytest.mark.parametrize("program", [
    lambda x: ours.sum(x), lambda x: ops.sum(ops.expand(x, 4, 3)), lambda x: ops.sum(ops.add(x, x)),
    lambda x: ops.sum(ours.reshape(x, (3, 1))), lambda x: ops.sum(ours.transpose(ours.reshape(x, (3, 1)), 0, 1)),
])
def test_gradients_are_contiguous_and_writable(program, rng):
    x = leaf(rng, 3)
    program(x).backward()
    g = x.grad._array
    assert g.flags.c_contiguous
    g[...] = 0
    program(x).backward()
    assert x.grad._array is g, "the second gradient is added in place"


def test_the_incoming_gradient_is_not_taken_over(rng):
    x = leaf(rng, 3)
    given = tensor(np.ones(3))
    ops.add(x, 1).backward(given)
    x.grad._array[...] = 9
    assert (host(given) == 1).all()
    y = leaf(rng, 3)
    y.backward(given)
    y.grad._array[...] = 9
    assert (host(given) == 1).all()


def test_gradients_accumulate_and_keep_their_dtype(rng):
    for dtype in (np.float32, np.float16, BF16):
        x = leaf(rng, 3, dtype=dtype)
        for k in range(1, 4):
            ops.sum(ops.mul(x, 2)).backward()
            assert x.grad.dtype is x.dtype
            close(x.grad, np.full(3, 2 * k), 0, "gradient")


def test_half_sums_accumulate_in_float32(rng):
    """4096 ones summed one by one in bfloat16 stop at 256."""
    for dtype in (BF16, np.float16):
        x = tensor(np.ones(1, dtype), True)
        ops.expand(x, 4096).backward(tensor(np.ones(4096, dtype)))
        assert float(host(x.grad)[0]) == 4096.0
        x = tensor(np.ones((), dtype), True)
        ops.mul(x, tensor(np.ones(2048, dtype))).backward(tensor(np.ones(2048, dtype)))
        assert float(host(x.grad)) == 2048.0


def test_many_uses_of_one_half_tensor_accumulate_in_float32():
    x = tensor(np.ones(1, BF16), True)
    total = None
    h = ops.mul(x, 1)
    for _ in range(600):  # 600 gradients of one meet at `h`
        total = ops.mul(h, 1) if total is None else ops.add(total, ops.mul(h, 1))
    total.backward()
    assert float(host(x.grad)[0]) == 600.0


def test_tanh_of_bfloat16_has_a_bfloat16_gradient():
    x = tensor(np.array([0.5, -1], BF16), True)
    (g,) = engine.grad(ops.sum(ops.tanh(x)), x)
    assert g.dtype is x.dtype
    (g,) = engine.grad(ops.sum(ops.tanh(x)), x, create_graph=True)
    assert g.dtype is x.dtype and g.requires_grad


# long and wide graphs

def test_a_chain_of_100000_operators_is_linear_and_does_not_recurse():
    def run(n):
        """How many Python and C functions the backward of n operators calls: its work, without a clock."""
        calls = 0

        def count(frame, event, arg):
            nonlocal calls
            calls += event in ("call", "c_call")

        x = tensor(np.ones(1), True)
        y = x
        for _ in range(n):
            y = ops.add(y, 1)
        sys.setprofile(count)
        try:
            y.backward()
        finally:
            sys.setprofile(None)
        assert float(host(x.grad)[0]) == 1.0
        del y  # frees the chain: must not recurse either
        return calls

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(min(limit, 400))
    try:
        short, long = run(10_000), run(100_000)
    finally:
        sys.setrecursionlimit(limit)
    assert 9.9 * short < long < 10.1 * short, f"10,000 operators: {short} calls, 100,000: {long}"


def test_a_chain_of_tanh_is_freed_without_recursion():
    x = tensor(np.ones(1), True)
    y = x
    for _ in range(100_000):
        y = ops.tanh(y)
    del y


def test_each_node_runs_once(rng):
    runs = []

    class Count(Operator):
        def forward(node, a):
            return a * 1

        def backward(node, grad):
            runs.append(1)
            return grad

    x = leaf(rng, 1)
    y = Count.apply(x)
    for _ in range(10):
        y = ops.add(y, y)  # 2^10 paths
    y.backward()
    assert len(runs) == 1 and float(host(x.grad)[0]) == 1024


# backward and grad

def scalar(t, x):
    return t.sum(t.tanh(t.mul(x, x)))


def test_backward_twice_needs_retain_graph(rng):
    x = leaf(rng, 2)
    y = scalar(ours, x)
    y.backward(retain_graph=True)
    once = host(x.grad).copy()
    y.backward()
    close(x.grad, 2 * once, 0, "second backward")
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_a_graph_that_saved_nothing_may_run_again(rng, torch):
    for t, x in ((ours, leaf(rng, 2)), (torch, torch.ones(2, requires_grad=True))):
        y = t.sum(t.add(x, 1))
        y.backward()
        y.backward()
        assert (host(x.grad) == 2).all()


def test_second_and_third_derivatives(rng, torch):
    values = rng.uniform(0.5, 1, 3)
    found = []
    for grad, x in ((engine.grad, tensor(values, True)), (torch.autograd.grad, torch_tensor(torch, values, True))):
        t = ours if isinstance(x, Tensor) else torch
        (g,) = grad(scalar(t, x), x, create_graph=True)
        (h,) = grad(t.sum(t.mul(g, g)), x, create_graph=True)
        (k,) = grad(t.sum(h), x)
        assert g.requires_grad and h.requires_grad and not k.requires_grad
        found.append((g, h, k))
    for i, (a, e) in enumerate(zip(*found)):
        close(a, e, 1e-12, f"derivative {i + 1}")


def test_create_graph_backward_makes_grad_differentiable(rng, torch):
    values = rng.uniform(0.5, 1, 3)
    grads = []
    for t, x in ((ours, tensor(values, True)), (torch, torch_tensor(torch, values, True))):
        if t is torch:
            (g,) = torch.autograd.grad(scalar(t, x), x, create_graph=True)
            (h,) = torch.autograd.grad(g.sum(), x)
        else:
            scalar(t, x).backward(create_graph=True)
            assert x.grad.requires_grad
            (h,) = engine.grad(ops.sum(x.grad), x)
        grads.append(h)
    close(*grads, 1e-12, "second derivative")


def test_inputs_limits_where_gradients_arrive(rng, torch):
    values = rng.uniform(0.5, 1, 3)
    for t, make in ((ours, tensor), (torch, lambda a, r: torch_tensor(torch, a, r))):
        x, w = make(values, True), make(values, True)
        h = t.mul(x, w)
        y = t.sum(t.mul(h, w))
        y.backward(inputs=[w], retain_graph=True)
        assert x.grad is None
        close(w.grad, 2 * values * values, 1e-15, "w.grad")
        y.backward(inputs=x)
        close(x.grad, values * values, 1e-15, "x.grad")
        with pytest.raises(RuntimeError, match="cannot be empty"):
            t.sum(x).backward(inputs=[])


def test_gradients_of_non_leaf_inputs(rng, torch):
    values = rng.uniform(0.5, 1, 3)
    found = []
    for t, grad, x in ((ours, engine.grad, tensor(values, True)),
                       (torch, torch.autograd.grad, torch_tensor(torch, values, True))):
        h = t.tanh(x)
        y = t.sum(t.mul(h, x))
        found.append(grad(y, [h, x, y]))
        assert x.grad is None
    for a, e in zip(*found):
        close(a, e, 1e-14, "gradient")


def test_grad_options(rng):
    x, unused = leaf(rng, 3), leaf(rng, 2)
    y = ops.sum(ops.mul(x, x))
    with pytest.raises(RuntimeError, match="not have been used"):
        engine.grad(y, [x, unused], retain_graph=True)
    g, none = engine.grad(y, [x, unused], allow_unused=True, retain_graph=True)
    assert none is None
    g, zero = engine.grad(y, [x, unused], materialize_grads=True, retain_graph=True)
    assert zero.shape == (2,) and not host(zero).any()
    with pytest.raises(ValueError, match="materialize_grads"):
        engine.grad(y, x, allow_unused=False, materialize_grads=True)
    with pytest.raises(NotImplementedError, match="is_grads_batched"):
        engine.grad(y, x, is_grads_batched=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        engine.grad(y, tensor(np.ones(2)))
    (g,) = engine.grad([y, ops.sum(x)], x, [tensor(np.array(2.0)), None])
    close(g, 4 * host(x) + 1, 1e-15, "gradient of two outputs")


@pytest.mark.parametrize("make", [
    lambda t, f: f(np.ones(3), True).backward(),  # not a scalar
    lambda t, f: t.sum(f(np.ones(3), False)).backward(),  # requires no grad
    lambda t, f: t.tanh(f(np.ones(3), True)).backward(f(np.ones(2), False)),  # shape
    lambda t, f: t.sum(f(np.ones(2) + 1j, True)).backward(),  # complex scalar
    lambda t, f: t.sum(f(np.ones(2), True)).backward(f(np.array(1j), False)),  # complex gradient of a real output
    lambda t, f: f(np.ones(3, np.int64), False).requires_grad_(),  # integers
    lambda t, f: setattr(t.tanh(f(np.ones(3), True)), "requires_grad", False),  # not a leaf
    lambda t, f: setattr(f(np.ones(3), True), "grad", f(np.ones(2), False)),  # shape of .grad
    lambda t, f: setattr(f(np.ones(3), True), "grad", 3),  # no tensor
    lambda t, f: f(np.ones(3), False).register_hook(print),
    lambda t, f: f(np.ones(3), False).retain_grad(),
    lambda t, f: t.tanh(f(np.ones(3), True)).register_post_accumulate_grad_hook(print),
    lambda t, f: t.sum(f(np.ones(3), True)).backward(3.0),  # no tensor
])
def test_errors_are_of_pytorchs_class(make, torch):
    with pytest.raises((RuntimeError, TypeError)) as theirs:
        make(torch, lambda a, r: torch_tensor(torch, a, r))
    with pytest.raises(type(theirs.value), match=r"^\["):
        make(ours, tensor)


def test_integer_operands_get_no_gradient(rng):
    x, k = leaf(rng, 3), tensor(np.array([1, 2, 3]))
    y = ops.mul(x, k)
    assert y.requires_grad and y.grad_fn.next_functions[1] == (None, 0)
    ops.sum(y).backward()
    close(x.grad, [1, 2, 3], 0, "gradient")
    assert not ours.argmax(x).requires_grad and not ours.gt(x, 0).requires_grad


def test_gradient_is_real_for_a_real_input_and_in_the_inputs_dtype(rng):
    x = leaf(rng, 3, dtype=np.float32)
    z = tensor(np.array([1 + 2j, 3j, 1]), True)
    y = ops.mul(x, z)
    y.backward(tensor(np.ones(3, np.complex128)))
    assert x.grad.dtype.name == "float32" and z.grad.dtype.name == "complex128"
    close(x.grad, [1, 0, 1], 1e-6, "real part")


def test_a_rule_that_returns_nonsense_is_named(rng):
    class Short(Operator):
        def forward(node, a, b):
            return a + b

        def backward(node, grad):
            return grad

    class Misshapen(Operator):
        def forward(node, a):
            return a * 1

        def backward(node, grad):
            return ops.expand(ops.sum(grad), 2)

    class Text(Operator):
        def forward(node, a):
            return a * 1

        def backward(node, grad):
            return "gradient"

    x, y = leaf(rng, 3), leaf(rng, 3)
    with pytest.raises(RuntimeError, match=r"^\[Short\].*expected 2, got 1"):
        ops.sum(Short.apply(x, y)).backward()
    with pytest.raises(RuntimeError, match=r"^\[Misshapen\] function returned an invalid gradient at index 0"):
        ops.sum(Misshapen.apply(x)).backward()
    with pytest.raises(TypeError, match=r"^\[Text\] backward must return"):
        ops.sum(Text.apply(x)).backward()


def test_a_failing_rule_leaves_the_modes_as_they_were(rng):
    from tinytorch_gpu.autograd.modes import is_grad_enabled

    class Broken(Operator):
        def forward(node, a):
            return a * 1

        def backward(node, grad):
            raise ZeroDivisionError("rule")

    with pytest.raises(ZeroDivisionError) as e:
        ops.sum(Broken.apply(leaf(rng, 2))).backward()
    assert is_grad_enabled()
    assert any("Broken" in note for note in e.value.__notes__)


def test_operands_on_two_devices_are_refused():
    a, b = tensor(np.ones(2), where="cpu"), tensor(np.ones(2), where="sim")
    with pytest.raises(RuntimeError, match=r"^\[Add\] expected all tensors to be on the same device"):
        ops.add(a, b)
    scalar = tensor(np.array(2.0), True, where="cpu")
    out = ops.mul(b, scalar)
    assert out.device == b.device


def test_infinities_that_meet_in_a_backward_do_not_warn():
    x = tt.tensor([1.0, float("inf"), 1.0], requires_grad=True)
    y = x * 1
    ones = tt.ones(3)
    engine.backward([y * float("inf"), y * float("-inf")], [ones, ones])  # warnings are errors in this suite
    assert x.grad.isnan().all()
    half = tt.full((2,), 1.0, dtype=tt.float16, requires_grad=True)
    (half.expand(3, 2) * tt.full((3, 2), 6e4, dtype=tt.float16)).sum().backward()
    assert half.grad.isinf().all()  # 180,000 is beyond the largest float16
