"""The table of operators: one line each (more for options); tests/test_ops.py makes the tests. See case.py for the words."""
from __future__ import annotations

from case import CASES, B, Case, I, R, S  # noqa: F401

from tinytorch_gpu.autograd.operator import REGISTRY
from tinytorch_gpu.backend.device import device, resolve

# foundation

Case("Cast", lambda t, x: x.to(t.complex128), R(3, 4), raw=False, integer=True, boolean=True)
Case("Cast down", lambda t, x: x.to(t.float32), R(3, 4), complex=False, raw=False, integer=True, gradcheck=False,
     why="the result is float32, too coarse for differences of float64")
Case("Clone", lambda t, x: t.clone(x), R(3, 4), integer=True, boolean=True)
Case("SumToSize", lambda t, x: t.sum_to_size(x, (4, 1)), R(2, 4, 3), torch=lambda t, x: x.sum_to_size(4, 1))
Case("Expand", lambda t, x: t.expand(x, 2, -1, 4), R(3, 1), torch=lambda t, x: x.expand(2, -1, 4), integer=True)
Case("Transfer", lambda t, x: t.transfer(t.transfer(x, device("cpu")), resolve()), R(3, 4), torch=lambda t, x: t.clone(x),
     integer=True, boolean=True)
Case("ViewScatter", lambda t, x, y: t.view_scatter(x, y, ((REGISTRY["Slice"], {"index": (slice(1, 3),)}),)), R(4, 3), R(2, 3),
     torch=lambda t, x, y: t.cat([x[:1], y, x[3:]]))

# arithmetic

Case("Add", lambda t, x, y: t.add(x, y), R(3, 4), R(4), integer=True, boolean=True)
Case("Add alpha", lambda t, x, y: t.add(x, y, alpha=3), R(3, 1), R(4), integer=True)
Case("Sub", lambda t, x, y: t.sub(x, y), R(3, 4), R(3, 1), integer=True)
Case("Mul", lambda t, x, y: t.mul(x, y), R(3, 4), R(4), integer=True, boolean=True)
Case("Neg", lambda t, x: t.neg(x), R(3, 4), integer=True)
Case("Conj", lambda t, x: t.conj(x), R(3, 4), integer=True)
Case("Tanh", lambda t, x: t.tanh(x), R(3, 4), integer=True, boolean=True)
