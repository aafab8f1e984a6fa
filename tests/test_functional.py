"""autograd.functional and grad's options beside PyTorch's."""
from __future__ import annotations

import numpy as np
import pytest
from case import host, tensor, torch_tensor

import tinytorch_gpu as tt


def f(t):
    return lambda x, y: (x.sin() @ y.T + x.sum(), (x * x).sum(0) * y[0])


def scalar(t):
    return lambda x, y: (x.sin() @ y.T).exp().sum() * 0.1 + (x * x * x).sum()


def flat(out):
    if isinstance(out, (tuple, list)):
        return [z for o in out for z in flat(o)]
    return [host(out.detach())]


def compare(torch, call, rng):
    arrays = [rng.standard_normal((2, 3)) for _ in range(2)]
    ours = flat(call(tt, [tensor(a) for a in arrays]))
    theirs = flat(call(torch, [torch_tensor(torch, a) for a in arrays]))
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        # float64 and some thirty operations on numbers up to about 10
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


def like(t, *arrays):
    return tuple(tensor(a) if t is tt else t.from_numpy(a) for a in arrays)


CALLS = {
    "jacobian": lambda t, x, v: t.autograd.functional.jacobian(f(t), tuple(x)),
    "jacobian of one": lambda t, x, v: t.autograd.functional.jacobian(lambda a: (a * a).cumsum(0), x[0]),
    "jacobian differentiable": lambda t, x, v: t.autograd.functional.jacobian(f(t), tuple(x), create_graph=True),
    "hessian": lambda t, x, v: t.autograd.functional.hessian(scalar(t), tuple(x)),
    "hessian of one": lambda t, x, v: t.autograd.functional.hessian(lambda a: (a.sin() * a).sum(), x[0]),
    "vjp": lambda t, x, v: t.autograd.functional.vjp(f(t), tuple(x), like(t, v[:2, :2], v[0])),
    "jvp": lambda t, x, v: t.autograd.functional.jvp(f(t), tuple(x), like(t, v[:2], v[1:])),
    "vhp": lambda t, x, v: t.autograd.functional.vhp(scalar(t), tuple(x), like(t, v[:2], v[1:])),
    "hvp": lambda t, x, v: t.autograd.functional.hvp(scalar(t), tuple(x), like(t, v[:2], v[1:])),
}


@pytest.mark.parametrize("name", CALLS)
def test_against_pytorch(torch, rng, name):
    v = rng.standard_normal((3, 3))
    compare(torch, lambda t, x: CALLS[name](t, x, v), rng)


def test_the_jacobian_itself_is_differentiable(torch, rng):
    def third(t, x):
        (a, _) = x
        a = a.requires_grad_()
        j = t.autograd.functional.jacobian(lambda z: z * z * z, a, create_graph=True)
        return t.autograd.grad(j.sum(), a)

    compare(torch, third, rng)


def test_options_and_errors(rng):
    x = tensor(rng.standard_normal(3))
    with pytest.raises(RuntimeError, match="strict"):
        tt.autograd.functional.jacobian(lambda a: tt.ones(2), x, strict=True)
    assert host(tt.autograd.functional.jacobian(lambda a: tt.ones(2), x)).tolist() == [[0, 0, 0]] * 2
    with pytest.raises(RuntimeError, match="shapes"):
        tt.autograd.functional.vjp(lambda a: a * 2, x, tensor(rng.standard_normal(4)))
    with pytest.raises(RuntimeError, match="single"):
        tt.autograd.functional.hessian(lambda a: a * 2, x)
    with pytest.raises(NotImplementedError, match="vectorize"):
        tt.autograd.functional.jacobian(lambda a: a, x, vectorize=True)
    with pytest.raises(TypeError, match="Tensor"):
        tt.autograd.functional.vjp(lambda a: a, 3.0)
