"""Hooks on tensors and nodes, retain_grad, saved_tensors_hooks: order and effects as PyTorch's."""
from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from case import close, host, ours, tensor, torch_tensor

from tinytorch_gpu import ops
from tinytorch_gpu.autograd import engine
from tinytorch_gpu.autograd.modes import saved_tensors_hooks


def sides(torch):
    """(namespace, tensor from host values) of both packages."""
    return (ours, lambda a, r=True: tensor(np.array(a, np.float64), r)), \
           (torch, lambda a, r=True: torch_tensor(torch, np.array(a, np.float64), r))


def agree(program, torch):
    """`program(t, make)` gives the same list of values and words in both packages."""
    mine, theirs = (program(t, make) for t, make in sides(torch))
    assert len(mine) == len(theirs)
    for a, e in zip(mine, theirs):
        if hasattr(e, "shape"):
            close(a, e, 1e-14, "value")
        else:
            assert a == e, f"{mine} and {theirs}"


def test_order_of_all_kinds_of_hooks(torch):
    def program(t, make):
        log = []
        x = make([1.0, 2.0])
        y = t.mul(x, x)
        z = t.sum(t.mul(y, 3))
        x.register_hook(lambda g: log.append("x first"))
        x.register_hook(lambda g: log.append("x second"))
        x.register_post_accumulate_grad_hook(lambda p: log.extend(["x accumulated", p.grad]))
        y.register_hook(lambda g: log.append("y"))
        y.retain_grad()
        y.grad_fn.register_prehook(lambda grads: log.append("before y's node"))
        y.grad_fn.register_hook(lambda inputs, outputs: log.append("after y's node"))
        z.register_hook(lambda g: log.extend(["z", g]))
        z.backward()
        return [*log, x.grad, y.grad]

    agree(program, torch)


def test_hooks_replace_gradients_in_turn(torch):
    def program(t, make):
        x = make([1.0, 2.0])
        y = t.mul(x, x)
        y.register_hook(lambda g: t.mul(g, 2))
        y.register_hook(lambda g: t.add(g, 1))
        x.register_hook(lambda g: t.mul(g, 10))
        t.sum(y).backward()
        return [x.grad]

    agree(program, torch)


def test_node_hooks_replace_gradients(torch):
    def program(t, make):
        x = make([1.0, 2.0])
        y = t.mul(x, x)
        y.grad_fn.register_prehook(lambda grads: (t.mul(grads[0], 2),))
        y.grad_fn.register_hook(lambda inputs, outputs: tuple(t.mul(g, 5) for g in inputs))
        t.sum(y).backward()
        return [x.grad]

    agree(program, torch)


def test_retained_gradient_and_hooks_on_the_same_tensor(torch):
    """A retained gradient is what the hooks made of it, also of those registered later."""
    def program(t, make):
        x = make([1.0, 2.0])
        y = t.mul(x, x)
        y.register_hook(lambda g: t.mul(g, 2))
        y.retain_grad()
        y.register_hook(lambda g: t.mul(g, 3))
        t.sum(y).backward()
        return [y.grad, x.grad, y.retains_grad, x.retains_grad]

    agree(program, torch)


def test_retain_grad_accumulates(torch):
    def program(t, make):
        x = make([1.0, 2.0])
        y = t.mul(x, x)
        y.retain_grad()
        y.retain_grad()
        z = t.sum(y)
        z.backward(retain_graph=True)
        z.backward()
        return [y.grad, x.grad]

    agree(program, torch)


def test_hooks_run_for_grad_too(torch):
    def program(t, make):
        grad = engine.grad if t is ours else t.autograd.grad
        log = []
        x, w = make([1.0, 2.0]), make([3.0, 4.0])
        y = t.mul(x, w)
        y.register_hook(lambda g: log.append("y"))
        x.register_hook(lambda g: t.mul(g, 2))
        w.register_hook(lambda g: log.append("w is not asked for"))
        x.register_post_accumulate_grad_hook(lambda p: log.append("nothing is accumulated"))
        (g,) = grad(t.sum(y), x)
        return [*log, g, x.grad is None]

    agree(program, torch)


def test_a_removed_hook_is_silent(torch):
    def program(t, make):
        log = []
        x = make([1.0])
        y = t.mul(x, x)
        handle = x.register_hook(lambda g: log.append("removed"))
        handle.remove()
        handle.remove()
        with y.register_hook(lambda g: log.append("left")):
            pass
        y.register_hook(lambda g: log.append("kept"))
        t.sum(y).backward()
        return log

    agree(program, torch)


def test_a_post_accumulate_hook_may_take_the_gradient(torch):
    def program(t, make):
        taken = []
        x = make([1.0, 2.0])

        def hook(p):
            taken.append(p.grad)
            p.grad = None

        x.register_post_accumulate_grad_hook(hook)
        t.sum(t.mul(x, 2)).backward()
        t.sum(t.mul(x, 3)).backward()
        return [*taken, x.grad is None]

    agree(program, torch)


def test_hooks_under_create_graph_are_differentiated(torch):
    def program(t, make):
        grad = engine.grad if t is ours else t.autograd.grad
        x = make([1.0, 2.0])
        y = t.mul(x, x)
        y.register_hook(lambda g: t.mul(g, x))
        (g,) = grad(t.sum(y), x, create_graph=True)
        (h,) = grad(t.sum(g), x)
        return [g, h]

    agree(program, torch)


def test_a_hook_on_one_of_several_outputs(torch):
    """PyTorch calls the hook of an unused output with None; here no gradient is no call."""
    log = []

    def program(t, make):
        x = make([1.0, 2.0, 3.0, 4.0])
        a, b = t.split(x, 2)
        a.register_hook(lambda g: t.mul(g, 5))
        b.register_hook(lambda g: log.append(t))
        t.sum(t.mul(a, a)).backward()
        return [x.grad]

    agree(program, torch)
    assert ours not in log


def test_hooks_that_return_nonsense():
    x = tensor(np.ones(2), True)
    x.register_hook(lambda g: 3)
    with pytest.raises(TypeError, match="must return a Tensor or None"):
        ops.sum(x).backward()
    x = tensor(np.ones(2), True)
    x.register_hook(lambda g: ops.sum(g))
    with pytest.raises(RuntimeError, match="changed the size"):
        ops.sum(x).backward()


def test_a_hook_that_raises_stops_backward(torch):
    def hook(g):
        raise ZeroDivisionError("mine")

    for t, make in sides(torch):
        x = make([1.0])
        x.register_hook(hook)
        with pytest.raises(ZeroDivisionError, match="mine"):
            t.sum(x).backward()
        assert x.grad is None


def test_retain_grad_does_not_keep_the_tensor_alive():
    gc.collect()
    gc.disable()
    try:
        x = tensor(np.ones(2), True)
        y = ops.mul(x, x)
        y.retain_grad()
        z, held = ops.sum(y), weakref.ref(y)
        del y
        assert held() is None
        z.backward()
    finally:
        gc.enable()


# saved_tensors_hooks

def test_saved_values_go_through_pack_and_unpack(torch):
    def program(t, make):
        log = []
        hooks = saved_tensors_hooks if t is ours else t.autograd.graph.saved_tensors_hooks
        x = make([1.0, 2.0])

        def pack(saved):
            log.append("pack")
            return (saved.shape[0], saved)

        def unpack(packed):
            log.append("unpack")
            assert packed[0] == 2
            return packed[1]

        with hooks(pack, unpack):
            y = t.tanh(x)
        z = t.tanh(y)  # outside: not packed
        t.sum(z).backward()
        return [*log, x.grad]

    agree(program, torch)


def test_unpack_decides_the_value(torch):
    def program(t, make):
        hooks = saved_tensors_hooks if t is ours else t.autograd.graph.saved_tensors_hooks
        x = make([1.0, 2.0])
        with hooks(lambda s: None, lambda _: make([5.0, 6.0], False)):
            y = t.mul(x, make([3.0, 4.0], False))
        t.sum(y).backward()
        return [x.grad]

    agree(program, torch)


def test_saved_values_under_hooks_have_higher_derivatives(torch):
    def program(t, make):
        grad = engine.grad if t is ours else t.autograd.grad
        hooks = saved_tensors_hooks if t is ours else t.autograd.graph.saved_tensors_hooks
        x = make([0.5, 0.7])
        with hooks(lambda s: s.detach(), lambda s: s):
            y = t.sum(t.mul(t.mul(x, x), x))
        (g,) = grad(y, x, create_graph=True)
        return [g]

    agree(program, torch)


def test_the_innermost_hooks_hold_and_are_taken_away():
    log = []
    x = tensor(np.ones(2), True)
    with saved_tensors_hooks(lambda s: log.append("outer") or s, lambda s: s):
        with saved_tensors_hooks(lambda s: log.append("inner") or s, lambda s: s):
            ops.tanh(x)
        ops.tanh(x)
    ops.tanh(x)
    assert log == ["inner", "outer"]
    assert (host(x) == 1).all()


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
@pytest.mark.parametrize("how", ["backward", "inputs", "inputs_of_both", "grad", "grad_of_both", "grad_of_middle",
                                 "create_graph"])
def test_hooks_of_a_leaf_and_of_its_node(torch, how):
    """The tensor's hooks, the node's pre-hooks, the sum, post-accumulate hooks, the node's hooks; autograd.grad takes
    what the tensor's hooks leave."""
    def program(t, make):
        log = []

        def told(name, give=lambda g: None):
            def hook(*args):
                log.extend([name, *[a.detach().clone() for several in args for a in
                                    (several if isinstance(several, tuple) else (several,))]])
                return give(args[0])
            return hook

        x, w = make([1.0, 2.0]), make([3.0, -1.0])
        y = t.mul(x, t.mul(w, w))
        node = y.grad_fn.next_functions[0][0]
        node.register_hook(told("node"))
        node.register_prehook(told("before", lambda g: (t.mul(g[0], 10),)))
        x.register_post_accumulate_grad_hook(lambda p: log.extend(["accumulated", p.grad.detach().clone()]))
        x.register_hook(told("tensor", lambda g: t.add(g, 1)))
        y.register_hook(told("middle"))
        y.grad_fn.register_prehook(told("before middle"))
        z = t.sum(t.mul(y, y))
        for _ in range(2):
            got = ()
            if how == "backward":
                z.backward(retain_graph=True)
            elif how == "create_graph":
                z.backward(create_graph=True)
            elif how.startswith("inputs"):
                z.backward(inputs=[x, y] if how == "inputs_of_both" else [x], retain_graph=True)
            else:
                of = {"grad": (x,), "grad_of_both": (x, y), "grad_of_middle": (y,)}[how]
                got = t.autograd.grad(z, of, retain_graph=True)
            log.extend(["got", *got, *[v.grad.detach().clone() for v in (x, w) if v.grad is not None]])
        if how == "inputs_of_both":
            log.append(y.grad)
        return log

    agree(program, torch)
