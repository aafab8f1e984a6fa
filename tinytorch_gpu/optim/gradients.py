"""Passes over many gradients at once: unscaling with its check for infinities, scaling, and the global norm.

One launch for each dtype where the kernels fit (backend/kernel_multi_tensor.py), array operations elsewhere. Factor,
flag (float32) and norm are 0-d arrays on the gradients' device; the host reads none of them.
"""
from __future__ import annotations

import contextlib
import math

from ..backend import dtypes, streams
from ..backend import kernel_multi_tensor as multi
from ..backend.device import xp_of

__all__ = ["in_order", "multiply", "norm_by_kernels"]


@contextlib.contextmanager
def in_order(written, read=()):
    """The block's work, on arrays of one device, waits for what other streams do to them, and they for it."""
    crossing = streams.before((*written, *read)) if streams.several else None
    if crossing is not None:
        for array in written:
            streams.writing(array)
    yield
    if crossing is not None:
        streams.after(crossing, ())


def _lists(arrays):
    """(lists for the kernels, one for each dtype, and the arrays that they do not take)."""
    alike: dict = {}
    rest = []
    for array in arrays:
        if multi.fits(array):
            alike.setdefault(array.dtype, []).append(array)
        else:
            rest.append(array)
    return [multi.TensorLists(arrays) for arrays in alike.values()], rest


def multiply(grads, factor=None, found=None) -> None:
    """Multiply tensors of one device in place by `factor`, if there is one; set `found`, if it is given, to 1 where an
    element is not finite then."""
    arrays = [g._array for g in grads]
    others = [a for a in (factor, found) if a is not None]
    with dtypes.quiet(), in_order(arrays, others):  # infinity times 0
        lists, rest = _lists(arrays)
        single = None if factor is None or not lists else factor.astype(dtypes.float32.np)
        for kernel in lists:
            multi.unscale(kernel, single, found=found)
        for array in rest:
            _multiply(array, factor, found)
    if factor is not None:
        for g in grads:
            g._bump()


def _multiply(array, factor, found):
    xp = xp_of(array)
    wide = array
    if factor is not None:
        factor = factor.astype(dtypes.accumulation(dtypes.of(array).to_real().np))
        if array.dtype in dtypes.HALF:
            wide = array.astype(factor.dtype) * factor
            array[...] = wide.astype(array.dtype)
        else:
            xp.multiply(array, factor, out=array)
    if found is not None:
        if wide.dtype in dtypes.HALF:
            wide = wide.astype(dtypes.float32.np)
        xp.maximum(found, (~xp.isfinite(wide).all()).astype(found.dtype), out=found)


def norm_by_kernels(grads, max_norm=None):
    """The 2-norm of all tensors together; with `max_norm` they are scaled down to it, where it is larger. None, and
    nothing is done, where the kernels do not fit."""
    if len({g.device for g in grads}) != 1:
        return None
    arrays = [g._array for g in grads]
    lists, rest = _lists(arrays)
    blocks = sum(kernel.blocks for kernel in lists)
    if rest or not blocks:
        return None
    with in_order(() if max_norm is None else arrays, arrays):
        parts = xp_of(arrays[0]).empty(blocks, dtype=dtypes.float32.np)
        start = 0
        for kernel in lists:
            if kernel.blocks:
                multi.unscale(kernel, parts=parts[start:start + kernel.blocks])
            start += kernel.blocks
        norm, factor = multi.finish_norm(parts, math.inf if max_norm is None else max_norm)
        if max_norm is not None:  # always, so that the host need not know: the kernel does nothing for a factor of 1
            for kernel in lists:
                multi.unscale(kernel, factor)
            for g in grads:
                g._bump()
    return norm
