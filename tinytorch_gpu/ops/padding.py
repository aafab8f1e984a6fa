"""pad: constant, reflect, replicate, circular."""
from __future__ import annotations

from ..autograd.operator import Operator, array_of
from ..backend.device import xp_of
from .indexing import Index, Slice
from .registry import public
from .shape import _ints, shape_of


class Pad(Operator):
    """A border of `value`: `before` and `after` elements for each dimension, all at least 0."""

    def forward(node, x, before, after, value):
        node.before, node.after = before, after
        out = node.xp.full([b + n + a for b, n, a in zip(before, x.shape, after)], value, dtype=x.dtype)
        out[tuple([slice(b, b + n) for b, n in zip(before, x.shape)])] = x
        return out

    def backward(node, grad):
        size = shape_of(grad)
        index = [slice(b, n - a) for b, n, a in zip(node.before, size, node.after)]
        return Slice.apply(grad, index=(*index, ...))


_MODES = ("constant", "reflect", "replicate", "circular")


@public(functional=True)
def pad(input, pad, mode="constant", value=None):
    """A border around the last dimensions: (left, right, top, bottom, ...); negative sizes crop a constant border.

    As torch.nn.functional.pad. Raises: RuntimeError for an odd or too long `pad`, a result of negative size, or
    borders larger than reflect and circular allow; NotImplementedError for an unknown mode.
    """
    border = _ints((pad,))
    shape = shape_of(input)
    if len(border) % 2:
        raise RuntimeError(f"[pad] padding length must be divisible by 2, got {list(border)}")
    if len(border) > 2 * len(shape):
        raise RuntimeError(f"[pad] padding length {len(border)} is too large for {len(shape)} dimensions")
    if mode not in _MODES:
        raise NotImplementedError(f"[pad] unrecognised padding mode {mode!r}: use one of {', '.join(_MODES)}")
    if mode == "constant":
        return _constant(input, shape, border, 0 if value is None else value)
    if value is not None and value != 0:
        raise ValueError(f"[pad] padding mode {mode!r} doesn't take in value argument")
    for i in range(0, len(border), 2):
        d = len(shape) - 1 - i // 2
        if border[i] or border[i + 1]:
            input = _along(input, shape_of(input)[d], d, border[i], border[i + 1], mode)
    return input


def _constant(input, shape, border, value):
    lead = len(shape) - len(border) // 2
    before = (0,) * lead + border[-2::-2] if border else (0,) * lead
    after = (0,) * lead + border[::-2] if border else (0,) * lead
    for n, b, a in zip(shape, before, after):
        if n + b + a < 0:
            raise RuntimeError(f"[pad] the input size {n}, plus negative padding {b} and {a} resulted in a negative "
                               f"output size, which is invalid (shape {list(shape)})")
    if border and min(border) < 0:
        # a crop larger than the dimension eats from the other border
        index = [slice(min(max(-b, 0), n), max(n - max(-a, 0), 0)) for n, b, a in zip(shape, before, after)]
        kept = [len(range(*s.indices(n))) for s, n in zip(index, shape)]
        input = Slice.apply(input, index=(*index, ...))
        total = [n + b + a for n, b, a in zip(shape, before, after)]
        before = tuple([min(max(b, 0), t - k) for b, t, k in zip(before, total, kept)])
        after = tuple([t - k - b for t, k, b in zip(total, kept, before)])
    return Pad.apply(input, before=before, after=after, value=value)


def _along(input, n, d, before, after, mode):
    if mode == "reflect" and max(before, after) >= n:
        raise RuntimeError(f"[pad] reflect: padding size ({before}, {after}) should be less than the dimension {d} of "
                           f"size {n}")
    if mode == "circular" and max(before, after) > n:
        raise RuntimeError(f"[pad] circular: padding value ({before}, {after}) causes wrapping around more than once "
                           f"in dimension {d} of size {n}")
    if n == 0 or n + before + after < 0:
        raise RuntimeError(f"[pad] {mode}: dimension {d} of size {n} cannot be padded by ({before}, {after})")
    xp = xp_of(array_of(input))
    index = xp.arange(-before, n + after)
    if mode == "reflect":
        index = xp.where(index < 0, -index, xp.where(index >= n, 2 * (n - 1) - index, index))
    elif mode == "replicate":
        index = xp.minimum(xp.maximum(index, 0), n - 1)
    else:
        index = (index + n) % n
    return Index.apply(input, index=(slice(None),) * d + (index,))
