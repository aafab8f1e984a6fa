"""autograd.Function beside PyTorch's: the same class, written once, derived from both packages' Function."""
from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from case import host, tensor, torch_tensor

import tinytorch_gpu as tt


def both(torch, build, *arrays, order=1):
    """build(t) -> function of tensors; compares value and gradients of order 1 or 2 in float64."""
    results = []
    for t, make in ((tt, lambda a: tensor(a, True)), (torch, lambda a: torch_tensor(torch, a, True))):
        inputs = [make(a) for a in arrays]
        out = build(t)(*inputs)
        seed = make(np.cos(np.arange(host(out).size)).reshape(host(out).shape)).detach()
        grads = t.autograd.grad(out, inputs, seed, create_graph=order == 2)
        found = [out, *grads]
        if order == 2:
            total = sum((g * g).sum() for g in grads)
            found += t.autograd.grad(total, inputs)
        results.append([host(x.detach()) for x in found])
    for ours, theirs in zip(*results, strict=True):
        # float64: a dozen operations on numbers near 1
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def cube(t):
    class Cube(t.autograd.Function):
        @staticmethod
        def forward(ctx, x, scale):
            ctx.save_for_backward(x)
            ctx.scale = scale
            return scale * x * x * x

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return 3 * ctx.scale * x * x * grad, None

    return lambda x: Cube.apply(x, 2.0)


def sum_and_product(t):
    class Both(t.autograd.Function):
        @staticmethod
        def forward(x, y):
            return x + y, x * y

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, g, h):
            x, y = ctx.saved_tensors
            return g + h * y, g + h * x

    def f(x, y):
        s, p = Both.apply(x, y)
        return s.sin() * p

    return f


def saved_output(t):
    class Exp(t.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, grad):
            (y,) = ctx.saved_tensors
            return grad * y

    return Exp.apply


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("build, count", [(cube, 1), (sum_and_product, 2), (saved_output, 1)])
def test_values_and_gradients(torch, rng, build, count, order):
    both(torch, build, *(rng.standard_normal((3, 2)) for _ in range(count)), order=order)


def test_unused_outputs_give_zeros_or_none(rng):
    seen = []

    class Two(tt.autograd.Function):
        @staticmethod
        def forward(ctx, x, materialize):
            ctx.set_materialize_grads(materialize)
            return x * 1, x * 2

        @staticmethod
        def backward(ctx, g, h):
            seen.append((g, h))
            return g, None

    for materialize in (True, False):
        x = tensor(rng.standard_normal(3), True)
        Two.apply(x, materialize)[0].sum().backward()
    assert host(seen[0][1]).tolist() == [0, 0, 0] and seen[1][1] is None


def test_mark_dirty_and_non_differentiable(torch, rng):
    def build(t):
        class Double(t.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                x.mul_(2)
                ctx.mark_dirty(x)
                return x

            @staticmethod
            def backward(ctx, grad):
                return 2 * grad

        return lambda x: Double.apply(x * 1).sin()

    both(torch, build, rng.standard_normal(4))

    class Signs(tt.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            positive = (x > 0).to(x.dtype)
            ctx.mark_non_differentiable(positive)
            return x.abs(), positive

        @staticmethod
        def backward(ctx, grad, _):
            return grad

    size, positive = Signs.apply(tensor(rng.standard_normal(4), True))
    assert size.requires_grad and not positive.requires_grad


def test_once_differentiable(rng):
    from tinytorch_gpu.autograd.function import once_differentiable

    class Square(tt.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @once_differentiable
        def backward(ctx, grad):
            return 2 * ctx.saved_tensors[0] * grad

    a = rng.standard_normal(3)
    x = tensor(a, True)
    (g,) = tt.autograd.grad((Square.apply(x) * x).sum(), x, create_graph=True)
    np.testing.assert_allclose(host(g.detach()), 3 * a * a, rtol=1e-15)
    with pytest.raises(RuntimeError, match="twice"):
        g.sum().backward()


def test_errors(rng):
    x = tensor(rng.standard_normal(3), True)

    class Wrong(tt.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            return x * y

        @staticmethod
        def backward(ctx, grad):
            return grad

    with pytest.raises(RuntimeError, match="incorrect number of gradients"):
        Wrong.apply(x, tensor(rng.standard_normal(3), True)).sum().backward()
    with pytest.raises(RuntimeError, match="not instantiated"):
        Wrong()
    with pytest.raises(NotImplementedError, match="forward"):
        tt.autograd.Function.apply(x)
    out = cube(tt)(x)
    out.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        out.sum().backward()
    changed = tensor(rng.standard_normal(3), True) * 1
    out = cube(tt)(changed)
    changed.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        out.sum().backward()


def test_a_saved_output_makes_no_cycle(rng):
    gc.disable()
    try:
        out = saved_output(tt)(tensor(rng.standard_normal(3), True))
        node = weakref.ref(out.grad_fn)
        assert node() is not None
        del out
        assert node() is None
    finally:
        gc.enable()
