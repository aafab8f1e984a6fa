"""Launchers of kernels/multi_tensor.cu: one launch for all tensors of a list; nothing is read back by the host.

Kernels find the tensors through tables of addresses on the device. A table is a function of the numbers in it alone, so
tables are kept by their contents: as long as tensors stay where they are, nothing is uploaded. An upload goes through
CuPy's pinned buffers, in the order of the stream; the host does not wait for it (but once, while a graph is captured).

`found`, `factor`, `scale` (float32) and `tracker` (int32) are arrays of one element on the device. A `found` that is
not 0 leaves parameters, state and step counts as they are.
"""
from __future__ import annotations

import atexit
import math

import numpy as np

from .device import backend_of, xp_of
from .kernel import FLOATS, Kernel, kernels_enabled, ready

__all__ = ["TensorLists", "addresses", "fits", "unscale", "finish_norm", "advance", "adam", "sgd", "update_scale"]

FILE = "multi_tensor.cu"
TYPES = ("float", "__half", "__nv_bfloat16")
F32 = np.dtype(np.float32)
CHUNK = 1 << 14  # elements of a block: a model of a million parameters still gives 64 blocks
REMEMBERED = 256  # tables kept, the latest used

_unscale = Kernel(FILE, "unscale", types=TYPES, optional=("factor", "parts", "found"))
_finish_norm = Kernel(FILE, "finish_norm")
_advance = Kernel(FILE, "advance", optional=("found", "corrections"))
_adam = {(d, m): Kernel(FILE, "adam", types=TYPES[m:], optional=("scale", "found"), DECOUPLED=d, MASTER=m)
         for d in (False, True) for m in (False, True)}  # a master (m) is for half types
_sgd = {(v, m): Kernel(FILE, "sgd", types=TYPES[m:], optional=("scale", "found", "steps"), MOMENTUM=v, MASTER=m)
        for v in (False, True) for m in (False, True)}
_update_scale = Kernel(FILE, "update_scale")

_tables: dict[tuple, tuple] = {}
_captured: dict[tuple, tuple] = {}  # for CUDA graphs, which read them at each replay: never given up
atexit.register(_tables.clear)  # device memory goes while its allocator is still there
atexit.register(_captured.clear)


def _uploaded(like, numbers, make):
    """`make(numbers)`, host arrays, as arrays on the device of `like`; made once for each device, stream and numbers
    (another stream could not know whether the upload is done)."""
    backend = backend_of(like)
    where, stream = backend.device_of(like), backend.xp.cuda.get_current_stream()
    if stream.is_capturing():
        tables, key = _captured, (where, make, numbers)
    else:
        tables, key = _tables, (where, stream.ptr, make, numbers)
    found = tables.pop(key, None)
    if found is None:
        if len(tables) >= REMEMBERED and tables is _tables:
            tables.pop(next(iter(tables)), None)  # what was not used for the longest time; None: another thread did
        found = (_beside if tables is _captured else _upload)(backend, where.index, make(numbers))
    tables[key] = found
    return found


def _upload(backend, index, tables):
    return tuple(backend.from_host(table, index) for table in tables)


def _beside(backend, index, tables):
    """On a stream of its own: the graph would repeat the copy from host memory that is gone by then."""
    with backend.xp.cuda.Stream(non_blocking=True) as stream:
        found = _upload(backend, index, tables)
        stream.synchronize()
    return found


def _int64(numbers):
    return (np.array(numbers, np.int64),)


def _chunks(sizes):
    """sizes, and for each block its tensor and its first element."""
    pieces = [-(-size // CHUNK) for size in sizes]
    starts = [np.arange(n, dtype=np.int64) * CHUNK for n in pieces]
    return (np.array(sizes, np.int64), np.repeat(np.arange(len(sizes), dtype=np.int32), pieces), np.concatenate(starts))


def addresses(arrays):
    """Where arrays of one device begin, as a table on that device."""
    return _uploaded(arrays[0], tuple([a.data.ptr for a in arrays]), _int64)[0]


def fits(array) -> bool:
    """Whether the kernels take an array: float32, float16 or bfloat16, contiguous, where kernels are used."""
    return array.dtype in FLOATS and array.flags.c_contiguous and kernels_enabled() and ready(backend_of(array))


class TensorLists:
    """Lists of arrays, equally long and of equal sizes, as tables on the device. `arrays` holds them all alive.

    Raises: ValueError for arrays that kernels cannot take: another device, dtype or size in a list, not contiguous.
    """

    def __init__(self, *lists):
        first = lists[0][0]
        kind, self.arrays = first.__class__, lists
        self.dtypes = tuple(arrays[0].dtype for arrays in lists)
        self.sizes = tuple([a.size for a in lists[0]])
        pointers = []
        for arrays, dtype in zip(lists, self.dtypes, strict=True):
            for a, size in zip(arrays, self.sizes, strict=True):
                if a.__class__ is not kind or a.dtype != dtype or a.size != size:
                    raise ValueError(f"[multi_tensor] expected {size} elements of {dtype} on {backend_of(first).type}, "
                                     f"got {a.size} of {a.dtype} on {backend_of(a).type}")
                if not a.flags.c_contiguous:
                    raise ValueError(f"[multi_tensor] an array {a.shape} is not contiguous: pass .contiguous()")
                pointers.append(a.data.ptr)
        self.tensors, self.blocks = len(self.sizes), sum([-(-size // CHUNK) for size in self.sizes])
        self.addresses, = _uploaded(first, tuple(pointers), _int64)
        self.chunks = _uploaded(first, self.sizes, _chunks)

    def tables_with(self, grads):
        """The kernels' first arguments, with the gradients' own table."""
        if grads.sizes != self.sizes or grads.dtypes[0] != self.dtypes[0]:
            raise ValueError(f"[multi_tensor] gradients of {grads.sizes} elements of {grads.dtypes[0]}, parameters of "
                             f"{self.sizes} of {self.dtypes[0]}")
        return self.addresses, grads.addresses, *self.chunks


def unscale(grads, factor=None, parts=None, found=None):
    """Multiply the one list of gradients in place by `factor` (none: leave them). `parts` (grads.blocks) gets the sums
    of squares for `finish_norm`, `found` becomes 1 where an element is not finite."""
    if grads.blocks:
        _unscale.of(grads.dtypes[0])((grads.blocks,), (256,), grads.addresses, *grads.chunks, factor, parts, found,
                                     CHUNK)


def finish_norm(parts, max_norm=math.inf):
    """(norm, factor that clips it to `max_norm`), float32, 0-d."""
    xp = xp_of(parts)
    norm, clip = xp.empty((), F32), xp.empty((), F32)
    _finish_norm((1,), (256,), parts, norm, clip, parts.size, max_norm)
    return norm, clip


def advance(steps, found=None, corrections=None, betas=(0.0, 0.0)):
    """Each step count of a table += 1, corrections (tensors, 2) = 1 - beta^step; nothing if `found`."""
    _advance((-(-steps.size // 256),), (256,), steps, found, corrections, steps.size, *betas)


def adam(lists, grads, corrections, lr, betas, eps, weight_decay, decoupled, scale=None, found=None, maximize=False):
    """One step of Adam or AdamW over lists (param, exp_avg, exp_avg_sq[, float32 master]) in place.

    `grads` (TensorLists of one list) are divided by `scale` in place, if there is one.
    """
    if lists.blocks:
        kernel = _adam[decoupled, len(lists.arrays) == 4].of(lists.dtypes[0])
        kernel((lists.blocks,), (256,), *lists.tables_with(grads), scale, found, corrections, CHUNK, lists.tensors, lr,
               1 - betas[0], 1 - betas[1], eps, weight_decay, maximize)


def sgd(lists, grads, steps, lr, momentum, dampening, weight_decay, nesterov, master=False, scale=None, found=None,
        maximize=False):
    """One step of SGD over lists (param[, momentum][, float32 master]) in place; `steps`, a table, count this one."""
    if lists.blocks:
        kernel = _sgd[momentum != 0, master].of(lists.dtypes[0])
        kernel((lists.blocks,), (256,), *lists.tables_with(grads), scale, found, steps, CHUNK, lists.tensors, lr,
               momentum, dampening, weight_decay, nesterov, maximize)


def update_scale(scale, tracker, found, growth, backoff, interval):
    """The scale after a step: times `backoff` if `found`, times `growth` after `interval` steps without."""
    _update_scale((1,), (1,), scale, tracker, found, growth, backoff, interval)
