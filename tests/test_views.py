"""Views and in-place changes: small programs that must do in this package what they do in PyTorch, errors included.

A program takes the namespace and two leaves of shape (3, 4) and returns tensors; their values, the gradients of a
weighted sum of them, or the class of the error are compared.
"""
from __future__ import annotations

import numpy as np
import pytest
from case import close, host, is_tensor, ours, tensor, torch_tensor

from tinytorch_gpu import ops
from tinytorch_gpu.autograd.operator import REGISTRY

PROGRAMS = []


def program(f):
    PROGRAMS.append(pytest.param(f, id=f.__name__))
    return f


def run(t, f, leaves):
    """(values of the outputs, gradients of the leaves), or the class of the error."""
    try:
        outs = f(t, *leaves)
        values = [host(o).copy() if is_tensor(o) else o for o in outs]
        loss = None
        for k, o in enumerate(outs):
            if is_tensor(o) and o.requires_grad:
                part = t.sum(t.mul(t.tanh(o), k + 1))
                loss = part if loss is None else t.add(loss, part)
        if loss is not None:
            loss.backward()
        return values, [None if x.grad is None else host(x.grad) for x in leaves]
    except (RuntimeError, TypeError, IndexError, ValueError) as e:
        return type(e), str(e)


@pytest.mark.parametrize("f", PROGRAMS)
def test_same_as_pytorch(f, rng, torch):
    values = [rng.uniform(0.2, 0.9, (3, 4)) for _ in range(2)]
    mine = run(ours, f, [tensor(v, True) for v in values])
    theirs = run(torch, f, [torch_tensor(torch, v, True) for v in values])
    if isinstance(theirs[0], type):
        assert mine[0] is theirs[0], f"PyTorch: {theirs}; here: {mine}"
        return
    assert not isinstance(mine[0], type), f"PyTorch has a result, here: {mine}"
    for what, found, expected in (("value", mine[0], theirs[0]), ("gradient of leaf", mine[1], theirs[1])):
        assert len(found) == len(expected)
        for i, (a, e) in enumerate(zip(found, expected)):
            if isinstance(e, np.ndarray) and isinstance(a, np.ndarray):
                close(a, e, 1e-13, f"{what} {i}")
            else:
                assert type(a) is type(e) and (a is e or a == e), f"{what} {i}: {a!r}, expected {e!r}"


# the base is changed through a view

@program
def view_then_add_(t, x, w):
    b = x.clone()
    b[0].add_(w[1])
    return [b]


@program
def view_of_a_view(t, x, w):
    b = x.clone()
    v = b[1:]
    u = v[0]
    u.mul_(w[0])
    return [b, v, u]


@program
def change_the_middle_of_a_chain_of_views(t, x, w):
    b = x.clone()
    v = b.view(2, 6)
    u = v[1]
    q = u[2:]
    u.mul_(3)
    return [b, v, u, q]


@program
def transposed_view(t, x, w):
    b = x.clone()
    v = b.transpose(0, 1)
    v.mul_(w.transpose(0, 1))
    return [b, v]


@program
def strided_view(t, x, w):
    b = x.clone()
    b[:, ::2].add_(w[:, 1::2])
    return [b]


@program
def permuted_and_unsqueezed(t, x, w):
    b = x.clone()
    v = b.unsqueeze(0).permute(2, 0, 1)
    v.mul_(2)
    v[0].add_(w[:, 0])
    return [b, v]


@program
def two_overlapping_views(t, x, w):
    b = x.clone()
    top, bottom = b[:2], b[1:]
    top.mul_(w[:2])
    bottom.add_(w[1:])
    return [b, top, bottom]


@program
def constant_into_a_view(t, x, w):
    b = x.clone()
    b[1].zero_()
    return [b]


@program
def fill_a_view(t, x, w):
    b = x.clone()
    v = b[:, 1]
    v.fill_(0.5)
    return [b, v]


@program
def copy_into_a_view(t, x, w):
    b = x.clone()
    b[1:].copy_(w[:2])
    return [b]


@program
def assign_rows(t, x, w):
    b = x.clone()
    b[0] = w[1]
    b[1:, :2] = 3.0
    return [b]


@program
def assign_with_integers_and_masks(t, x, w):
    b = x.clone()
    b[[0, 2]] = w[:2]
    b[b > 0.5] = 0.25
    return [b]


@program
def assign_a_broadcast_value(t, x, w):
    b = x.clone()
    b[:] = w[0]
    b[..., 1] = w[0, 0]
    return [b]


@program
def assign_to_a_view(t, x, w):
    b = x.clone()
    v = b[1:]
    v[0] = w[0]
    return [b, v]


@program
def assign_a_tensor_that_requires_grad_into_constants(t, x, w):
    b = t.zeros_like(x)
    b[1] = w[0]
    return [b, b.requires_grad]


@program
def change_a_view_of_constants(t, x, w):
    b = t.zeros_like(x)
    v = b[1]
    v.add_(w[0])
    return [b, v, b.requires_grad, v.requires_grad]


@program
def many_changes(t, x, w):
    b = x.clone()
    for i in range(3):
        b[i].mul_(w[i])
        b[:, i].add_(b[:, i + 1])
    return [b]


# the base is changed after the view was made

@program
def base_changed_after_the_view(t, x, w):
    b = x.clone()
    v = b[1]
    b.mul_(w)
    return [b, v]


@program
def base_changed_and_then_the_view(t, x, w):
    b = x.clone()
    v = b.view(12)
    b.mul_(2)
    v.add_(w.reshape(12))
    return [b, v]


@program
def base_changed_twice(t, x, w):
    b = x.clone()
    v = b[:, 1]
    b.mul_(w)
    b.add_(x)
    return [v]


@program
def base_changed_by_assignment(t, x, w):
    b = x.clone()
    v = b[0:2]
    b[1] = w[0]
    return [v]


@program
def sibling_views_see_each_other(t, x, w):
    b = x.clone()
    v, u = b[1], b[:, 1]
    v.mul_(w[0])
    return [u, v]


@program
def view_made_between_two_changes(t, x, w):
    b = x.clone()
    b.mul_(w)
    v = b[0]
    b.add_(1)
    return [v, b]


@program
def is_view_and_base(t, x, w):
    b = x.clone()
    v = b[1]
    return [v._is_view(), v[0]._base is b, b._is_view(), b._base is None]


# plain in-place chains

@program
def in_place_chain(t, x, w):
    y = x * 2
    y.add_(w)
    y.mul_(w)
    y.sub_(1)
    return [y]


@program
def in_place_functions(t, x, w):
    y = x * 1
    y.tanh_()
    y.exp_()
    y.sqrt_()
    return [y]


@program
def augmented_assignment(t, x, w):
    y = x * 1
    y += w
    y *= 2
    y -= 0.5
    y /= w
    return [y]


@program
def in_place_broadcast(t, x, w):
    y = x * 1
    y.add_(w[0])
    y.mul_(w[:, :1])
    return [y]


@program
def constant_becomes_recorded(t, x, w):
    y = t.ones_like(x)
    y.mul_(w)
    return [y, y.requires_grad, y.is_leaf]


@program
def zero_cuts_the_graph(t, x, w):
    y = x * 2
    y.zero_()
    y.add_(w)
    return [y]


@program
def in_place_returns_self(t, x, w):
    y = x * 1
    z = y.add_(1)
    return [z is y, z]


@program
def older_use_of_a_changed_tensor(t, x, w):
    y = x * 2
    z = y + w  # addition saves nothing
    y.mul_(3)
    return [y, z]


# saved values that were changed

@program
def output_of_tanh_changed(t, x, w):
    y = t.tanh(x)
    y.mul_(2)
    return [y]


@program
def factor_changed(t, x, w):
    y = x * 1
    z = y * w
    y.add_(1)
    return [z]


@program
def factor_changed_through_a_view(t, x, w):
    y = x * 1
    z = y * w
    y[0].add_(1)
    return [z]


@program
def view_saved_and_base_changed(t, x, w):
    y = x * 1
    z = y[0] * w[0]
    y.add_(1)
    return [z]


@program
def detached_alias_changed(t, x, w):
    y = x * 1
    z = y * w
    y.detach().add_(1)
    return [z]


@program
def data_alias_changed(t, x, w):
    y = x * 1
    z = y * y  # the change is not noticed, as in PyTorch: its gradient is that of the new values
    y.data.mul_(2)
    return [z.detach() * 0, z]


@program
def leaf_changed_in_no_grad(t, x, w):
    z = x * w
    with t.no_grad():
        x.add_(1)
    return [z]


@program
def leaf_data_changed(t, x, w):
    z = x * w
    x.data.add_(1)
    return [z.detach(), z]


@program
def saved_only_where_needed(t, x, w):
    y = (x * 1).detach()
    z = y * w  # y is saved for w's gradient
    y.add_(1)
    return [z]


@program
def not_saved_where_not_needed(t, x, w):
    y = x * 1
    c = w.detach()
    z = y * c  # y is not needed for anything
    y.add_(1)
    return [z, y]


# refusals

@program
def leaf_in_place(t, x, w):
    x.add_(1)
    return [x]


@program
def view_of_a_leaf_in_place(t, x, w):
    x[0].add_(1)
    return [x]


@program
def leaf_assignment(t, x, w):
    x[0] = 1.0
    return [x]


@program
def leaf_in_place_in_no_grad(t, x, w):
    with t.no_grad():
        x.add_(1)
        x[0].mul_(2)
    return [x * w, x._version]


@program
def expanded_in_place(t, x, w):
    y = (x[:1] * 1).expand(3, 4)
    y.add_(1)
    return [y]


@program
def growing_in_place(t, x, w):
    y = x[0] * 1
    y.add_(w)
    return [y]


@program
def integers_cannot_take_floats(t, x, w):
    k = t.arange(4)
    k.add_(w[0])
    return [k]


@program
def detached_views(t, x, w):
    b = x.clone()
    v = b.detach()[0]
    v.mul_(2)
    return [b, v, b._version, v._version, v.requires_grad]


@program
def view_made_in_no_grad_then_changed(t, x, w):
    b = x.clone()
    with t.no_grad():
        v = b[0]
    v.mul_(2)
    return [b, v]


@program
def view_made_in_no_grad_changed_by_a_recorded_value(t, x, w):
    b = t.zeros_like(x)
    with t.no_grad():
        v = b[0]
    v.mul_(w[0])
    return [b]


@program
def view_made_in_inference_mode_then_changed(t, x, w):
    b = x.clone()
    with t.inference_mode():
        v = b[0]
    v.mul_(2)
    return [b]


@program
def view_of_constants_made_in_no_grad(t, x, w):
    b = t.zeros_like(x)
    with t.no_grad():
        v = b[0]
    v.add_(2)
    return [b, b * w]


@program
def update_of_a_leaf_through_views_in_no_grad(t, x, w):
    with t.no_grad():
        x[0].mul_(w[0])
        x[1:, 0] = 0.5
        x.view(12)[3:5].zero_()
    return [x * w, x.requires_grad, x.is_leaf]


@program
def change_in_no_grad_keeps_the_graph(t, x, w):
    b = x.clone()
    with t.no_grad():
        b[0].mul_(2)
    return [b]


# versions

@program
def versions_are_shared(t, x, w):
    b = x.clone()
    v, d, data = b[0], b.detach(), b.data
    b.add_(1)
    v.mul_(2)
    d.add_(1)
    return [b._version, v._version, d._version, data._version]


@program
def data_has_its_own_version(t, x, w):
    b = x.clone()
    b.data.add_(1)
    return [b._version, b]


# several outputs

@program
def unbind_is_read(t, x, w):
    a, b, c = x.clone().unbind(0)
    return [a * b, c]


@program
def split_is_read(t, x, w):
    a, b = t.split(x.clone(), [1, 2])
    return [a * 2, b * w[1:]]


@program
def base_of_unbind_changed(t, x, w):
    b = x.clone()
    parts = b.unbind(0)  # not used again: only their being there counts
    b.mul_(w)
    return [b, len(parts)]


@program
def chunk_then_use_after_base_change_of_constants(t, x, w):
    b = t.zeros_like(x)
    b[1] = w[1]
    parts = b.unbind(0)
    return list(parts)


# hooks

@program
def hook_on_a_tensor_that_is_changed_later(t, x, w):
    y = x * 2
    y.register_hook(lambda g: g * 10)
    y.mul_(w)
    return [y]


@program
def hook_after_the_change(t, x, w):
    y = x * 2
    y.mul_(w)
    y.register_hook(lambda g: g * 10)
    return [y]


@program
def hook_on_the_base_of_a_changed_view(t, x, w):
    b = x * 2
    b.register_hook(lambda g: g * 10)
    b[0].mul_(w[0])
    return [b]


@program
def retained_gradient_of_a_changed_tensor(t, x, w):
    y = x * 2
    y.retain_grad()
    y.mul_(w)
    t.sum(y).backward()
    return [y.grad, x.grad.clone()]


@program
def retained_gradient_of_a_base_changed_through_a_view(t, x, w):
    b = x * 2
    b.retain_grad()
    b[0].mul_(w[0])
    t.sum(t.mul(b, w)).backward()
    return [b.grad]


# constants

@program
def in_place_with_a_constant_tensor(t, x, w):
    y = x * 1
    y.add_(w.detach())
    return [y]


def test_an_operand_that_is_the_target_itself(rng, torch):
    """y.mul_(y): PyTorch refuses the backward; here the old value is kept, and the gradient is that of y * y."""
    values = rng.uniform(0.2, 0.9, (3, 4))
    x, z = tensor(values, True), torch_tensor(torch, values, True)
    y = x * 1
    y.mul_(y)
    ops.sum(y).backward()
    (z * z).sum().backward()
    close(x.grad, z.grad, 1e-14, "gradient")


def test_outputs_of_unbind_may_be_changed(rng, torch):
    """PyTorch refuses a change of one of several views; here it reaches the base like any other."""
    values = rng.uniform(0.2, 0.9, (3, 4))
    x, z = tensor(values, True), torch_tensor(torch, values, True)
    b = x.clone()
    b.unbind(0)[1].mul_(x[0])
    ops.sum(b).backward()
    torch.stack([z[0], z[1] * z[0], z[2]]).sum().backward()
    close(x.grad, z.grad, 1e-14, "gradient")


def test_operator_inplace_returns_its_target(rng):
    y = ops.mul(tensor(rng.uniform(size=3), True), 1)
    assert REGISTRY["Mul"].inplace(y, 2) is y and y._version == 1


def test_messages_say_how_to_mend(rng):
    x = tensor(rng.uniform(size=(3, 4)), True)
    with pytest.raises(RuntimeError, match=r"^\[Add\] a leaf Variable that requires grad.*no_grad"):
        REGISTRY["Add"].inplace(x, 1)
    y = ops.tanh(x)
    REGISTRY["Mul"].inplace(y, 2)
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation.*output 0, float64 \(3, 4\), "
                                           "is at version 1"):
        ops.sum(y).backward()


def test_random_chains_of_views_and_changes(rng, torch):
    """Ten random programs of views, changes of views and of bases."""
    def views(k, n):
        return [lambda a: a[1:] if a.shape[0] > 1 else a[:], lambda a: a[:, ::2] if a.ndim == 2 else a[::2],
                lambda a: a.reshape(-1) if a.is_contiguous() else a[:], lambda a: a[0] if a.ndim == 2 else a[:],
                lambda a: a.transpose(0, 1) if a.ndim == 2 else a[:], lambda a: a.unsqueeze(0).squeeze(0)][k]

    for _ in range(10):
        steps = [(int(rng.integers(8)), int(rng.integers(6)), float(rng.uniform(0.5, 1.5))) for _ in range(8)]

        def f(t, x, w, steps=steps):
            pool = [x.clone()]
            for which, kind, factor in steps:
                a = pool[which % len(pool)]
                if which % 3 == 0:
                    a.mul_(factor)
                elif which % 3 == 1:
                    a.add_(t.sum(w) * factor)
                else:
                    pool.append(views(kind, 6)(a))
            return pool

        values = [rng.uniform(0.2, 0.9, (3, 4)) for _ in range(2)]
        mine = run(ours, f, [tensor(v, True) for v in values])
        theirs = run(torch, f, [torch_tensor(torch, v, True) for v in values])
        assert not isinstance(mine[0], type) and not isinstance(theirs[0], type), f"{steps}: {mine} {theirs}"
        for a, e in zip(mine[0] + mine[1], theirs[0] + theirs[1]):
            assert (a is None) == (e is None), steps
            if a is not None:
                close(a, e, 1e-12, str(steps))
