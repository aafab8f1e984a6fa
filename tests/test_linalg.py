"""linalg: composed functions against PyTorch, gradients of both orders, and messages. The operators are in cases.py."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tinytorch_gpu as tt
from tinytorch_gpu import linalg
from tinytorch_gpu.autograd.gradcheck import gradgradcheck

CASES = {
    "norm": (lambda L, x: L.norm(x), (2, 3, 4)),
    "norm 1": (lambda L, x: L.norm(x, 1), (3, 4)),
    "norm 3 of vectors": (lambda L, x: L.norm(x, 3, -1, True), (3, 4)),
    "norm inf of a vector": (lambda L, x: L.norm(x, math.inf), (5,)),
    "norm fro": (lambda L, x: L.norm(x, "fro", (0, 2)), (2, 3, 4)),
    "norm -1": (lambda L, x: L.norm(x, -1, (0, -1)), (2, 3, 4)),
    "matrix_norm": (lambda L, x: L.matrix_norm(x), (2, 3, 4)),
    "matrix_norm 1": (lambda L, x: L.matrix_norm(x, 1), (2, 3, 4)),
    "matrix_norm -1 turned": (lambda L, x: L.matrix_norm(x, -1, (2, 0), True), (2, 3, 4)),
    "matrix_norm inf": (lambda L, x: L.matrix_norm(x, math.inf, keepdim=True), (2, 3, 4)),
    "matrix_norm -inf": (lambda L, x: L.matrix_norm(x, -math.inf), (3, 4)),
    "vector_norm": (lambda L, x: L.vector_norm(x, 4, (0, 1)), (2, 3, 4)),
    "multi_dot": (lambda L, x, y, z: L.multi_dot([x, y, z]), (10, 2), (2, 8), (8, 3)),
    "multi_dot of four": (lambda L, x, y, z, w: L.multi_dot([x, y, z, w]), (2, 3), (3, 9), (9, 1), (1, 4)),
    "multi_dot vectors": (lambda L, x, y, z: L.multi_dot([x, y, z]), (4,), (4, 5), (5,)),
    "multi_dot of two": (lambda L, x, y: L.multi_dot([x, y]), (4,), (4, 5)),
    "diagonal": (lambda L, x: L.diagonal(x, offset=1), (2, 3, 4)),
    "vecdot": (lambda L, x, y: L.vecdot(x, y), (2, 3), (3,)),
    "cross": (lambda L, x, y: L.cross(x, y), (4, 3), (4, 3)),
    "cross at 0": (lambda L, x, y: L.cross(x, y, dim=0), (3, 2), (3, 2)),
    "inv": (lambda L, x: L.inv(x), (2, 3, 3)),
    "det": (lambda L, x: L.det(x), (2, 3, 3)),
    "solve": (lambda L, x, y: L.solve(x, y), (3, 3), (2, 3, 1)),
    "matrix_power": (lambda L, x: L.matrix_power(x, 6), (3, 3)),
}


def inputs(rng, shapes, dtype):
    out = []
    for shape in shapes:
        x = rng.normal(size=shape)
        x = x + 1j * rng.normal(size=shape) if dtype == "complex128" else x
        if len(shape) > 1 and shape[-1] == shape[-2]:
            x = x + 3 * np.eye(shape[-1])  # far from singular
        out.append(x)
    return out


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_against_pytorch(torch, rng, device, name, dtype):
    fn, *shapes = CASES[name]
    arrays = inputs(rng, shapes, dtype)
    mine = [tt.tensor(a, requires_grad=True, device=device) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    out, expected = fn(linalg, *mine), fn(torch.linalg, *theirs)
    assert out.shape == tuple(expected.shape) and out.dtype.name == str(expected.dtype).removeprefix("torch.")
    np.testing.assert_allclose(out.detach().cpu().numpy(), expected.detach().numpy(), rtol=1e-11, atol=1e-12)
    weight = rng.normal(size=tuple(expected.shape))
    out.backward(tt.tensor(weight, device=device).to(out.dtype))
    expected.backward(torch.tensor(weight).to(expected.dtype))
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a.grad.cpu().numpy(), b.grad.resolve_conj().numpy(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "name", ["norm 3 of vectors", "matrix_norm 1", "multi_dot", "cross", "vecdot", "inv", "det", "solve"]
)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_second_order(rng, name, dtype):
    fn, *shapes = CASES[name]
    arrays = [tt.tensor(a, requires_grad=True, device="cpu") for a in inputs(rng, shapes, dtype)]
    assert gradgradcheck(lambda *xs: fn(linalg, *xs), arrays)


def test_multi_dot_takes_the_cheapest_order():
    chain = [tt.ones(s) for s in ((200, 2), (2, 200), (200, 2))]
    assert linalg._splits([x.shape for x in chain])[0, 2] == 0  # a (b c): 1,600 products, (a b) c: 160,000
    assert linalg._splits([(2, 200), (200, 2), (2, 200)])[0, 2] == 1


def test_messages(device):
    singular, half = tt.zeros(2, 2, device="cpu"), tt.ones(2, 2, dtype=tt.float16)
    for name in ("inv", "solve"):
        with pytest.raises(linalg.LinAlgError, match=rf"^\[linalg_{name}\] the input matrix is singular"):
            linalg.inv(singular) if name == "inv" else linalg.solve(singular, tt.ones(2, device="cpu"))
    with pytest.raises(linalg.LinAlgError, match=r"^\[linalg_cholesky\] the input is not positive-definite"):
        linalg.cholesky(tt.tensor([[1.0, 2.0], [2.0, 1.0]], device="cpu"))
    assert issubclass(linalg.LinAlgError, RuntimeError)
    for f in (linalg.inv, linalg.det, linalg.slogdet, linalg.cholesky):
        with pytest.raises(RuntimeError, match="low precision dtypes are not supported, got float16"):
            f(half)
        with pytest.raises(RuntimeError, match="expected a floating point or complex tensor as input, got int64"):
            f(tt.ones(2, 2, dtype=tt.int64))
        with pytest.raises(RuntimeError, match="must be batches of square matrices, but they are 2 by 3"):
            f(tt.ones(2, 3))
        with pytest.raises(RuntimeError, match="at least 2 dimensions"):
            f(tt.ones(2))
    with pytest.raises(RuntimeError, match=r"incompatible shapes of A and B for the equation AX = B \(2x2 and 3x1\)"):
        linalg.solve(tt.eye(2), tt.ones(3))
    with pytest.raises(RuntimeError, match="do not broadcast"):
        linalg.solve(tt.ones(3, 2, 2), tt.ones(4, 2, 1))
    with pytest.raises(RuntimeError, match="of one dtype"):
        linalg.solve(tt.eye(2), tt.ones(2, dtype=tt.float64))
    with pytest.raises(ValueError, match=r"^\[matrix_norm\] ord must be 'fro', 1, -1, inf or -inf, got 'nuc'"):
        linalg.matrix_norm(tt.eye(2), "nuc")
    with pytest.raises(RuntimeError, match=r"^\[norm\] with dim=None"):
        linalg.norm(tt.ones(2, 2, 2), 1)
    with pytest.raises(RuntimeError, match="at least 2 tensors"):
        linalg.multi_dot([tt.eye(2)])
    with pytest.raises(RuntimeError, match=r"^\[cross\]"):
        linalg.cross(tt.ones(2), tt.ones(2))


def test_special_values(torch, device):
    a = tt.tensor([[1.0, 2.0], [2.0, 4.0]], device="cpu")
    sign, logabs = linalg.slogdet(a)
    assert sign.item() == 0 and logabs.item() == -math.inf and linalg.det(a).item() == 0
    negative = tt.tensor([[0.0, 1.0], [1.0, 0.0]], device=device)
    assert linalg.slogdet(negative).sign.item() == -1 and math.isnan(tt.logdet(negative).item())
    assert tt.matrix_power(a, 0).tolist() == [[1, 0], [0, 1]] and tt.matrix_power(a, 3).tolist() == [
        [25, 50],
        [50, 100],
    ]
    for empty in ((0, 0), (0, 3, 3)):
        assert linalg.det(tt.ones(empty, device="cpu")).shape == torch.linalg.det(torch.ones(empty)).shape
        assert linalg.inv(tt.ones(empty, device="cpu")).shape == empty
