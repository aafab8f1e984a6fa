"""Launchers of kernels/multi_tensor.cu: one launch for all tensors of a group; nothing is read back by the host.

`found` (int32, one element), `factor`, `step` (float32, one element) and `corrections` (float32, two) are arrays on the
device. A `found` that is not 0 leaves parameters, state and step as they are.
"""
from __future__ import annotations

import numpy as np

from .device import backend_of, xp_of
from .kernel import FLOATS, Kernel, kernels_enabled, ready

__all__ = ["TensorLists", "unscale", "finish_norm", "advance", "adam", "sgd"]

FILE = "multi_tensor.cu"
TYPES = ("float", "__half", "__nv_bfloat16")
# parameters and gradients alike, or half gradients of float32 parameters
PAIRS = tuple((t, t) for t in TYPES) + tuple(("float", t) for t in TYPES[1:])
F32 = np.dtype(np.float32)
CHUNK = 1 << 16  # elements of a block: some hundred blocks for a million parameters, a launch costs little beside them

_unscale = Kernel(FILE, "unscale", types=TYPES, optional=("factor",))
_finish_norm = Kernel(FILE, "finish_norm")
_advance = Kernel(FILE, "advance", optional=("found",))
_adam = {(d, m): Kernel(FILE, "adam", types=PAIRS, optional=("factor", "found"), DECOUPLED=d, MASTER=m)
         for d in (False, True) for m in (False, True)}
_sgd = {(v, m): Kernel(FILE, "sgd", types=PAIRS, optional=("factor", "found"), MOMENTUM=v, MASTER=m)
        for v in (False, True) for m in (False, True)}


class TensorLists:
    """Lists of arrays, equally long and of equal sizes, as tables on the device: made once, used by many launches.

    Keeps the arrays alive. Raises: ValueError for arrays that kernels cannot take: another device, dtype or size in a
    list, not contiguous.
    """

    def __init__(self, *lists):
        first = lists[0][0]
        self.lists, self.backend = lists, backend_of(first)
        for arrays in lists:
            for a, like in zip(arrays, lists[0], strict=True):
                if a.__class__ is not first.__class__ or a.dtype != arrays[0].dtype or a.size != like.size:
                    raise ValueError(f"[multi_tensor] expected {like.size} elements of {arrays[0].dtype} on "
                                     f"{self.backend.type}, got {a.size} of {a.dtype} on {backend_of(a).type}")
                if not a.flags.c_contiguous:
                    raise ValueError(f"[multi_tensor] an array {a.shape} is not contiguous: pass .contiguous()")
        self.dtypes = tuple(arrays[0].dtype for arrays in lists)
        sizes = [a.size for a in lists[0]]
        chunks = [(i, start) for i, size in enumerate(sizes) for start in range(0, size, CHUNK)]
        self.blocks, self.tensors = len(chunks), len(sizes)
        put = self.backend.from_host
        self.addresses = put(np.array([[a.data.ptr for a in arrays] for arrays in lists], np.int64))
        self.sizes = put(np.array(sizes, np.int64))
        self.chunk_tensor = put(np.array([i for i, _ in chunks], np.int32))
        self.chunk_start = put(np.array([start for _, start in chunks], np.int64))

    @property
    def tables(self):
        return self.addresses, self.sizes, self.chunk_tensor, self.chunk_start

    def fits(self):
        """Whether the kernels take these dtypes here: parameters and gradients, then float32 state."""
        return (kernels_enabled() and ready(self.backend) and all(d in FLOATS for d in self.dtypes[:2])
                and all(d == F32 for d in self.dtypes[2:]))


def unscale(grads, found, factor=None):
    """Multiply the one list of gradients in place by `factor` (none: leave them); set `found` where one is not finite.

    Returns the sums of squares of the blocks, for `finish_norm`.
    """
    parts = xp_of(found).empty(max(grads.blocks, 1), F32)
    if not grads.blocks:
        parts.fill(0)
        return parts
    kernel = _unscale.of(grads.dtypes[0])
    kernel((grads.blocks,), (256,), *grads.tables, factor, parts, found, CHUNK)
    return parts


def finish_norm(parts, max_norm):
    """(norm, factor that clips it to `max_norm`), float32 of one element each."""
    xp = xp_of(parts)
    norm, clip = xp.empty((1,), F32), xp.empty((1,), F32)
    _finish_norm((1,), (256,), parts, norm, clip, parts.size, max_norm)
    return norm, clip


def advance(step, found, corrections, beta1, beta2):
    """step += 1 and corrections = 1 - beta^step, unless `found`."""
    _advance((1,), (1,), step, found, corrections, beta1, beta2)


def adam(lists, corrections, lr, betas, eps, weight_decay, decoupled, found=None, factor=None, maximize=False):
    """One step of Adam or AdamW over lists (param, grad, exp_avg, exp_avg_sq[, float32 master]) in place."""
    kernel = _adam[decoupled, len(lists.lists) == 5].of(*lists.dtypes[:2])
    if lists.blocks:
        kernel((lists.blocks,), (256,), *lists.tables, factor, found, corrections, CHUNK, lists.tensors, lr,
               1 - betas[0], 1 - betas[1], eps, weight_decay, maximize)


def sgd(lists, step, lr, momentum, dampening, weight_decay, nesterov, master=False, found=None, factor=None,
        maximize=False):
    """One step of SGD over lists (param, grad[, momentum][, float32 master]) in place; `step` counts this one."""
    kernel = _sgd[momentum != 0, master].of(*lists.dtypes[:2])
    if lists.blocks:
        kernel((lists.blocks,), (256,), *lists.tables, factor, found, step, CHUNK, lists.tensors, lr, momentum,
               dampening, weight_decay, nesterov, maximize)
