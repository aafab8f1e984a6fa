"""Tensors from sizes: zeros, ones, empty, full, eye, arange, linspace, *_like, new_*, tril_indices."""
from __future__ import annotations

import math
import operator

import numpy as np

from .. import ops
from ..backend import dtypes
from ..backend.device import backend_for, backend_of, default_device, resolve
from ..backend.device import device as Device
from ..tensor import Tensor, attach, make
from .data import finish, number
from .registry import public

# sizes and places


def sizes(op, size) -> tuple:
    """A shape from `f(2, 3)`, `f((2, 3))` or `f(torch_size)`. Raises: RuntimeError for negative sizes."""
    if len(size) == 1 and not hasattr(size[0], "__index__") or len(size) == 1 and isinstance(size[0], (tuple, list)):
        size = size[0]
    try:
        shape = tuple([operator.index(n) for n in size])
    except TypeError:
        raise TypeError(f"[{op}] the size must be integers, got {size!r:.60}") from None
    if shape and min(shape) < 0:
        raise RuntimeError(f"[{op}] trying to create a tensor with negative dimension {min(shape)}: {list(shape)}")
    return shape


def put(array, where):
    """A new array of the backend of `where`, on the device number asked for."""
    return array if where.index is None else backend_for(where).to_index(array, where.index)


def _float_dtype(dtype):
    return dtypes.get_default_dtype() if dtype is None else dtypes.from_any(dtype)


def _like(input, array, requires_grad=False):
    return finish(array, requires_grad) if isinstance(input, Tensor) else array


# from sizes

def _fill_new(name, op, size, given, dtype, device, requires_grad):
    shape = sizes(op, size if given is None else (given,))
    where = default_device() if device is None else Device(device)
    backend = backend_for(where)
    array = getattr(backend.xp, name)(shape, dtype=_float_dtype(dtype).np)
    return finish(put(array, where), requires_grad)


@public
def zeros(*size, dtype=None, device=None, requires_grad=False, **named):
    """Zeros of shape `size`. As torch.zeros."""
    return _fill_new("zeros", "zeros", size, _size_name("zeros", size, named), dtype, device, requires_grad)


@public
def ones(*size, dtype=None, device=None, requires_grad=False, **named):
    """Ones of shape `size`. As torch.ones."""
    return _fill_new("ones", "ones", size, _size_name("ones", size, named), dtype, device, requires_grad)


@public
def empty(*size, dtype=None, device=None, requires_grad=False, **named):
    """A tensor of shape `size` with whatever lies in memory. As torch.empty."""
    return _fill_new("empty", "empty", size, _size_name("empty", size, named), dtype, device, requires_grad)


def _size_name(op, size, named):
    """The `size=` keyword of functions whose sizes are usually positional; any other name is an error."""
    given = named.pop("size", None)
    if named:
        raise TypeError(f"[{op}] got an unexpected keyword argument {next(iter(named))!r}")
    if given is not None and size:
        raise TypeError(f"[{op}] got the size twice")
    return given


@public
def full(size, fill_value, *, dtype=None, device=None, requires_grad=False):
    """`fill_value` everywhere; without dtype it is that of the value. As torch.full."""
    if isinstance(fill_value, Tensor):
        fill_value = fill_value.item()
    d = dtypes.scalar_dtype(fill_value) if dtype is None else dtypes.from_any(dtype)
    where = resolve(device)
    array = backend_for(where).xp.full(sizes("full", (size,)), number("full", fill_value, d), dtype=d.np)
    return finish(put(array, where), requires_grad)


@public
def eye(n, m=None, *, dtype=None, device=None, requires_grad=False):
    """Ones on the diagonal, (n, m). As torch.eye."""
    if n < 0 or (m is not None and m < 0):
        raise RuntimeError(f"[eye] n and m must be at least 0, got {n} and {m}")
    where = resolve(device)
    array = backend_for(where).xp.eye(n, m, dtype=_float_dtype(dtype).np)
    return finish(put(array, where), requires_grad)


def _integers(*values):
    return all(isinstance(v, (int, np.integer)) for v in values)


@public
def arange(start, end=None, step=1, *, dtype=None, device=None, requires_grad=False):
    """start, start + step, ... below `end` (`arange(end)` starts at 0): int64 for integers. As torch.arange.

    Raises: RuntimeError for a zero step, or one that leads away from `end`.
    """
    if end is None:
        start, end = 0, start
    start, end, step = (v.item() if isinstance(v, (Tensor, np.generic)) else v for v in (start, end, step))
    if step == 0:
        raise RuntimeError("[arange] step must be nonzero")
    if not all(math.isfinite(v) for v in (start, end)):
        raise RuntimeError(f"[arange] unsupported range: {start} -> {end}")
    if (end - start) * step < 0:
        raise RuntimeError(
            f"[arange] upper bound and lower bound inconsistent with step sign: {start} to {end} by {step}"
        )
    whole = _integers(start, end, step)
    d = (dtypes.int64 if whole else dtypes.get_default_dtype()) if dtype is None else dtypes.from_any(dtype)
    n = -(-(end - start) // step) if whole else math.ceil((end - start) / step)
    where = resolve(device)
    xp = backend_for(where).xp
    if whole and d.category <= dtypes.INT:
        array = xp.arange(start, start + n * step, step, dtype=np.int64).astype(d.np, copy=False)
    else:
        array = xp.arange(n, dtype=np.float64)
        array *= step
        array += start
        array = _through_single(array, d)
    return finish(put(array, where), requires_grad)


def _through_single(array, d):
    if d.np in dtypes.HALF:
        array = array.astype(np.float32)
    return array.astype(d.np, copy=False)


def _evenly(op, start, end, steps, d, device):
    start, end = (v.item() if isinstance(v, (Tensor, np.generic)) else v for v in (start, end))
    steps = operator.index(steps)
    if steps < 0:
        raise RuntimeError(f"[{op}] number of steps must be non-negative, got {steps}")
    xp = backend_for(device).xp
    wide = np.complex128 if d.is_complex else np.float64
    if steps < 2:
        return xp.full((steps,), start, dtype=wide)
    # from both ends, so that the last value is exactly `end`, as in PyTorch
    step = (end - start) / (steps - 1)
    half = steps // 2
    i = xp.arange(steps, dtype=np.float64)
    return xp.concatenate((start + step * i[:half], end - step * (steps - 1 - i[half:]))).astype(wide, copy=False)


@public
def linspace(start, end, steps, *, dtype=None, device=None, requires_grad=False):
    """`steps` values from `start` to `end`, both included. As torch.linspace."""
    d, where = _float_dtype(dtype), resolve(device)
    array = _evenly("linspace", start, end, steps, d, where)
    return finish(put(_through_single(array, d), where), requires_grad)


@public
def logspace(start, end, steps, base=10.0, *, dtype=None, device=None, requires_grad=False):
    """base ** linspace(start, end, steps). As torch.logspace."""
    d, where = _float_dtype(dtype), resolve(device)
    array = base ** _evenly("logspace", start, end, steps, d, where)
    return finish(put(_through_single(array, d), where), requires_grad)


# like another tensor

def _make_like(name, input, dtype, device, requires_grad):
    source = input._array if isinstance(input, Tensor) else input
    d = source.dtype if dtype is None else dtypes.from_any(dtype).np
    if device is None or resolve(device) == backend_of(source).device_of(source):
        return _like(input, getattr(backend_of(source).xp, name)(source, dtype=d), requires_grad)
    where = resolve(device)
    array = getattr(backend_for(where).xp, name.removesuffix("_like"))(source.shape, dtype=d)
    return _like(input, put(array, where), requires_grad)


@public
def zeros_like(input, *, dtype=None, device=None, requires_grad=False):
    """Zeros with the shape, dtype and device of `input`. As torch.zeros_like."""
    return _make_like("zeros_like", input, dtype, device, requires_grad)


@public
def ones_like(input, *, dtype=None, device=None, requires_grad=False):
    """Ones with the shape, dtype and device of `input`. As torch.ones_like."""
    return _make_like("ones_like", input, dtype, device, requires_grad)


@public
def empty_like(input, *, dtype=None, device=None, requires_grad=False):
    """Uninitialised memory with the shape, dtype and device of `input`. As torch.empty_like."""
    return _make_like("empty_like", input, dtype, device, requires_grad)


@public
def full_like(input, fill_value, *, dtype=None, device=None, requires_grad=False):
    """`fill_value` in the shape, dtype and device of `input`. As torch.full_like."""
    out = _make_like("empty_like", input, dtype, device, False)
    array = out._array if isinstance(out, Tensor) else out
    array[...] = number("full_like", fill_value, dtypes.of(array))
    if requires_grad:
        out.requires_grad = True
    return out


def _new(name):
    def method(self, *size, dtype=None, device=None, requires_grad=False, **named):
        given = _size_name(f"new_{name}", size, named)
        return _fill_new(name, f"new_{name}", size, given, self.dtype if dtype is None else dtype,
                         self.device if device is None else device, requires_grad)

    method.__name__ = f"new_{name}"
    method.__doc__ = f"{name}() with this tensor's dtype and device unless given. As torch.Tensor.new_{name}."
    return attach(f"new_{name}")(method)


new_zeros, new_ones, new_empty = _new("zeros"), _new("ones"), _new("empty")


@attach("new_full")
def new_full(self, size, fill_value, *, dtype=None, device=None, requires_grad=False):
    """full() with this tensor's dtype and device unless given. As torch.Tensor.new_full."""
    return full(size, fill_value, dtype=self.dtype if dtype is None else dtype,
                device=self.device if device is None else device, requires_grad=requires_grad)


@attach("new_tensor")
def new_tensor(self, data, *, dtype=None, device=None, requires_grad=False):
    """tensor() with this tensor's dtype and device unless given. As torch.Tensor.new_tensor."""
    return ops.tensor(data, dtype=self.dtype if dtype is None else dtype,
                  device=self.device if device is None else device, requires_grad=requires_grad)


# positions

def _triangle(op, row, col, offset, dtype, device, build):
    if row < 0 or col < 0:
        raise RuntimeError(f"[{op}] row and col must be non-negative, got {row} and {col}")
    where = resolve(device)
    array = np.stack(build(row, offset, col)).astype(dtypes.from_any(dtype or dtypes.int64).np)
    return make(backend_for(where).from_host(array, where.index))


@public
def tril_indices(row, col, offset=0, *, dtype=None, device=None):
    """(2, n) row and column numbers of the lower triangle. As torch.tril_indices."""
    return _triangle("tril_indices", row, col, offset, dtype, device, np.tril_indices)


@public
def triu_indices(row, col, offset=0, *, dtype=None, device=None):
    """(2, n) row and column numbers of the upper triangle. As torch.triu_indices."""
    return _triangle("triu_indices", row, col, offset, dtype, device, np.triu_indices)
