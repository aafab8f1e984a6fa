"""Rotary position embedding (Su et al. 2021, "RoFormer: enhanced transformer with rotary position embedding")."""
from __future__ import annotations

import numpy as np

from ..autograd.operator import Operator, array_of
from ..backend import dtypes, kernel_rotary
from ..backend.device import backend_for, resolve
from ..tensor import Tensor
from .axes import axis_of
from .data import finish
from .registry import public


class Rotary(Operator):
    """Each pair of features turned by its position's angle; the gradient is turned back. Saves the tables only."""

    __slots__ = ("layout", "inverse")
    opmath = widens = True

    def fused(node, x, cos, sin, interleaved, dim, inverse):
        node.layout, node.inverse = {"interleaved": interleaved, "dim": dim}, inverse
        node.save(cos, sin)
        return kernel_rotary.rotary(x, cos, sin, interleaved, dim, inverse)

    def forward(node, x, cos, sin, interleaved, dim, inverse):
        node.layout, node.inverse = {"interleaved": interleaved, "dim": dim}, inverse
        node.save(cos, sin)
        xp, pairs = node.xp, cos.shape[-1]
        shape = [1] * x.ndim
        shape[dim], shape[-1] = x.shape[dim], pairs
        if cos.ndim == 3:
            shape[0] = x.shape[0]
        cos, sin = (table.astype(x.dtype, copy=False).reshape(shape) for table in (cos, sin))
        if inverse:
            sin = xp.negative(sin)
        first, second = slice(0, pairs), slice(pairs, 2 * pairs)
        if interleaved:
            first, second = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
        out = xp.empty(x.shape, x.dtype)
        a, b, ya, yb = x[..., first], x[..., second], out[..., first], out[..., second]
        xp.multiply(a, cos, out=ya)
        ya -= b * sin
        xp.multiply(b, cos, out=yb)
        yb += a * sin
        out[..., 2 * pairs:] = x[..., 2 * pairs:]
        return out

    def backward(node, grad):
        cos, sin = node.saved
        return Rotary.apply(grad, cos, sin, **node.layout, inverse=not node.inverse)


@public(functional=True)
def rotary_embedding(input, cos, sin, interleaved=False, dim=-2):
    """Features of queries or keys turned by their position's angles: a cos - b sin, b cos + a sin for a pair (a, b).

    input (..., T, ..., D), positions along `dim`: -2 for (batch, heads, T, D), -3 for (batch, T, heads, D). cos and sin
    (T, R / 2), or (batch, T, R / 2) for positions that differ in the batch (`cos[positions]`), from `rotary_tables`.
    The first R <= D features are turned, the others stay. Pairs are (j, j + R / 2) as in GPT-NeoX and LLaMA, or
    (2j, 2j + 1) as in GPT-J with `interleaved`. The result has the input's shape and dtype; half types compute in
    float32. Transposed inputs are not copied on a GPU.
    Raises: RuntimeError for other dtypes or shapes, and for tables that require grad (they get none).
    """
    x, c, s = array_of(input), array_of(cos), array_of(sin)
    name = "rotary_embedding"
    if any(dtypes.of(a).category != dtypes.FLOAT for a in (x, c, s)):
        raise RuntimeError(f"[{name}] expected real floating input, cos and sin, got {dtypes.of(x).name}, "
                           f"{dtypes.of(c).name}, {dtypes.of(s).name}: convert with .float()")
    if any(isinstance(t, Tensor) and t.requires_grad for t in (cos, sin)):
        raise RuntimeError(f"[{name}] cos and sin get no gradient, but one requires grad: pass cos.detach(), "
                           "sin.detach()")
    if x.ndim < 2:
        raise RuntimeError(f"[{name}] expected input of at least 2 dimensions (positions, features), got "
                           f"{tuple(x.shape)}")
    axis = axis_of(name, dim, x.ndim)
    if axis == x.ndim - 1:
        raise RuntimeError(f"[{name}] dim is the dimension of positions and cannot be the last, that of features, got "
                           f"{dim} for input {tuple(x.shape)}")
    _check_tables(name, x, c, s, axis)
    return Rotary.apply(input, cos, sin, interleaved=bool(interleaved), dim=axis, inverse=False)


def _check_tables(name, x, c, s, axis):
    if c.shape != s.shape or c.ndim not in (2, 3):
        raise RuntimeError(f"[{name}] expected cos and sin of one shape (T, R / 2) or (batch, T, R / 2), got "
                           f"{tuple(c.shape)} and {tuple(s.shape)}")
    if c.shape[-2] != x.shape[axis]:
        raise RuntimeError(f"[{name}] cos and sin have {c.shape[-2]} positions, dimension {axis} of input "
                           f"{tuple(x.shape)} has {x.shape[axis]}: slice the tables, cos[:T], or pass dim")
    if 2 * c.shape[-1] > x.shape[-1]:
        raise RuntimeError(f"[{name}] cos and sin have {c.shape[-1]} angles for each position, enough for "
                           f"{2 * c.shape[-1]} features, and input {tuple(x.shape)} has {x.shape[-1]}: tables that "
                           "repeat each angle are cut to one of each pair")
    if c.ndim == 3 and (axis == 0 or c.shape[0] != x.shape[0]):
        raise RuntimeError(f"[{name}] cos and sin {tuple(c.shape)} have a batch of {c.shape[0]}, input "
                           f"{tuple(x.shape)} with positions along dimension {axis} has not")


@public(functional=True)
def rotary_tables(length, dim, base=10000.0, dtype=None, device=None):
    """(cos, sin) of the angles t * base^(-2 j / dim): two (length, dim / 2) tensors for `rotary_embedding`.

    `dim` features are turned, at most those of a head. Angles are computed in float64 and rounded once, to float32
    unless `dtype` says otherwise.
    Raises: ValueError for an odd dim, a negative length or a base that is not positive.
    """
    if length < 0 or dim < 0 or dim % 2 or not base > 0:
        raise ValueError(f"[rotary_tables] expected length >= 0, an even dim >= 0 and base > 0, got length={length}, "
                         f"dim={dim}, base={base}")
    where, dtype = resolve(device), dtypes.float32 if dtype is None else dtypes.from_any(dtype)
    angles = np.outer(np.arange(length, dtype=np.float64), float(base) ** (-np.arange(0, dim, 2) / max(dim, 1)))
    put = backend_for(where).from_host
    return tuple(finish(put(f(angles).astype(dtype.np), where.index)) for f in (np.cos, np.sin))
