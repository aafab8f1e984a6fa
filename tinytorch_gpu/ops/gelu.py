"""GELU, exact and in its tanh form, and their gradients, in blocks that stay in the cache, over threads."""
from __future__ import annotations

import math

from .. import ops
from ..autograd.operator import Operator, array_of
from ..autograd.pointwise import Pointwise
from ..backend import dtypes, kernel_elementwise, threads
from ..backend.device import backend_of
from .axes import real_only
from .registry import public

BLOCK = 65536  # elements: the arrays that a block needs stay in the cache, and only the result is allocated in full


def blockwise(function, x, *others):
    """`function(xp, work, out, *blocks)` over flat blocks of contiguous CPU arrays, else once over the whole.

    `work(n)` gives n scratch arrays like the block.
    """
    xp = backend_of(x).xp
    out = xp.empty(x.shape, x.dtype)
    if not x.ndim:
        x, others = x.reshape(1), [a.reshape(1) for a in others]
    flat = out.reshape(-1)
    arrays = (x, *others)
    split = backend_of(x).type == "cpu" and x.size > BLOCK and all(a.flags.c_contiguous for a in arrays)
    if not split:
        function(xp, lambda n: [xp.empty(x.shape, x.dtype) for _ in range(n)], flat.reshape(x.shape), *arrays)
        return out
    arrays = [a.reshape(-1) for a in arrays]
    scratch = threads.Scratch(xp, x.dtype)

    def run(a):
        b = min(a + BLOCK, flat.size)
        with dtypes.quiet():  # NumPy's error state belongs to the thread
            function(xp, lambda n: [scratch(i, b - a) for i in range(n)], flat[a:b], *[array[a:b] for array in arrays])

    threads.each(run, range(0, flat.size, BLOCK))
    return out


# atanh(2 Phi(x) - 1) = x P(x^2): least squares weighted for the error of x Phi(x), at most 7e-8 in exact arithmetic;
# in float32 6e-7 where x Phi(x) is about 3. The same form as the tanh approximation of GELU, whose P has degree 1.
# (2048, 512) float32 on one thread: 1.9 ms; scipy.special.erf alone takes 18 ms.
NORMAL = (1.8139270432243591e-09, -1.3378319432890272e-07, 3.97407081277208e-06, -5.527338849220372e-05,
          -3.3026688222791086e-05, 0.03633414908228488, 0.7978842684374937)
DENSITY = 1 / math.sqrt(2 * math.pi)
ROOT, CUBE = math.sqrt(2 / math.pi), 0.044715


def _tanh_of_normal(xp, square, out, x):
    """out = 2 Phi(x) - 1, from square = x * x."""
    if x.dtype != dtypes.float32.np:
        xp.multiply(x, math.sqrt(0.5), out=out)
        backend_of(x).special.erf(out, out=out)
        return
    xp.multiply(square, NORMAL[0], out=out)
    for c in NORMAL[1:-1]:
        xp.add(out, c, out=out)
        xp.multiply(out, square, out=out)
    xp.add(out, NORMAL[-1], out=out)
    xp.multiply(out, x, out=out)
    xp.tanh(out, out=out)  # far out the polynomial is infinite, and tanh is 1


def _tanh_of_cube(xp, square, out, x):
    """out = tanh(sqrt(2 / pi) (x + 0.044715 x^3)), from square = x * x."""
    xp.multiply(square, ROOT * CUBE, out=out)
    xp.add(out, ROOT, out=out)
    xp.multiply(out, x, out=out)
    xp.tanh(out, out=out)


def _gelu(inner):
    def block(xp, work, out, x):
        (half,) = work(1)
        xp.multiply(x, x, out=half)
        inner(xp, half, out, x)
        xp.multiply(x, 0.5, out=half)
        xp.multiply(out, half, out=out)
        xp.add(out, half, out=out)

    return block


def _gelu_backward(xp, work, out, x, grad):
    square, phi = work(2)
    xp.multiply(x, x, out=square)
    _tanh_of_normal(xp, square, out, x)
    xp.multiply(square, -0.5, out=phi)
    xp.exp(phi, out=phi)
    xp.multiply(phi, x, out=phi)
    xp.multiply(phi, 2 * DENSITY, out=phi)
    xp.add(out, phi, out=out)
    xp.add(out, 1, out=out)
    xp.multiply(out, 0.5, out=out)
    xp.multiply(out, grad, out=out)


def _gelu_tanh_backward(xp, work, out, x, grad):
    square, slope = work(2)
    xp.multiply(x, x, out=square)
    _tanh_of_cube(xp, square, out, x)
    xp.multiply(square, 3 * ROOT * CUBE, out=slope)
    xp.add(slope, ROOT, out=slope)
    xp.multiply(slope, x, out=slope)
    xp.multiply(out, out, out=square)
    xp.subtract(1, square, out=square)
    xp.multiply(slope, square, out=slope)
    xp.add(out, slope, out=out)
    xp.add(out, 1, out=out)
    xp.multiply(out, 0.5, out=out)
    xp.multiply(out, grad, out=out)


class GELU(Pointwise):
    """x Phi(x), Phi the normal distribution's function."""

    __slots__ = ()
    promotion = "float"
    widens = True

    def fused(node, x):
        node.save(x)
        return kernel_elementwise.activation(x, kernel_elementwise.GELU)

    def forward(node, x):
        node.save(x)
        with dtypes.quiet():
            return blockwise(_gelu(_tanh_of_normal), x)

    def backward(node, grad):
        (x,) = node.saved
        return GELUBackward.apply(grad, x)


class GELUBackward(Operator):
    """grad * (Phi(x) + x phi(x)); its own derivative in x is grad * phi(x) (2 - x^2)."""

    __slots__ = ()
    opmath = True

    def fused(node, grad, x):
        node.save(grad, x)
        return kernel_elementwise.activation_backward(grad, x, kernel_elementwise.GELU)

    def forward(node, grad, x):
        node.save(grad, x)
        with dtypes.quiet():
            return blockwise(_gelu_backward, x, grad)

    def backward(node, h):
        grad, x = node.saved
        gx = None
        if node.need(1):
            gx = ops.mul(ops.mul(h, grad), gelu_bend(x))
        return GELUBackward.apply(h, x) if node.need(0) else None, gx


def gelu_bend(x):
    """The second derivative of GELU: phi(x) (2 - x^2)."""
    square = ops.mul(x, x)
    return ops.mul(ops.mul(ops.exp(ops.mul(square, -0.5)), DENSITY), ops.sub(2, square))


class GELUTanh(Pointwise):
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2."""

    __slots__ = ()
    promotion = "float"
    widens = True

    def fused(node, x):
        node.save(x)
        return kernel_elementwise.activation(x, kernel_elementwise.GELU_TANH)

    def forward(node, x):
        node.save(x)
        with dtypes.quiet():
            return blockwise(_gelu(_tanh_of_cube), x)

    def backward(node, grad):
        (x,) = node.saved
        return GELUTanhBackward.apply(grad, x)


class GELUTanhBackward(Operator):
    """grad * (1 + t + x (1 - t^2) u') / 2 with t = tanh(u), u = sqrt(2 / pi) (x + 0.044715 x^3)."""

    __slots__ = ()
    opmath = True

    def fused(node, grad, x):
        node.save(grad, x)
        return kernel_elementwise.activation_backward(grad, x, kernel_elementwise.GELU_TANH)

    def forward(node, grad, x):
        node.save(grad, x)
        with dtypes.quiet():
            return blockwise(_gelu_tanh_backward, x, grad)

    def backward(node, h):
        grad, x = node.saved
        gx = None
        if node.need(1):
            gx = ops.mul(ops.mul(h, grad), gelu_tanh_bend(x))
        return GELUTanhBackward.apply(h, x) if node.need(0) else None, gx


def gelu_tanh_bend(x):
    """The second derivative of GELU's tanh form: (1 - t^2) (u' + x (u'' / 2 - t u'^2))."""
    square = ops.mul(x, x)
    t = ops.tanh(ops.mul(x, ops.add(ops.mul(square, ROOT * CUBE), ROOT)))
    u = ops.add(ops.mul(square, 3 * ROOT * CUBE), ROOT)
    bend = ops.sub(ops.mul(x, 6 * ROOT * CUBE), ops.mul(ops.mul(t, 2), ops.mul(u, u)))
    return ops.mul(ops.sub(1, ops.mul(t, t)), ops.add(u, ops.mul(ops.mul(x, 0.5), bend)))


@public(functional=True)
def gelu(input, *, approximate="none"):
    """input * Phi(input); `approximate` "none" (erf) or "tanh". As torch.nn.functional.gelu.

    Raises: RuntimeError for another `approximate`.
    """
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"[gelu] approximate argument must be either none or tanh, got {approximate!r}")
    real_only("gelu", array_of(input))
    return (GELU if approximate == "none" else GELUTanh).apply(input)
