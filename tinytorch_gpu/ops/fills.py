"""A tensor's memory filled in place: zero_, fill_, copy_, and with random numbers uniform_, normal_, random_, ..."""
from __future__ import annotations

import math

import numpy as np

from .. import ops
from ..autograd.operator import Operator
from ..backend import dtypes, random
from ..backend.device import backend_of
from ..tensor import Tensor, attach
from .data import number


class Fill(Operator):
    """`value` in the shape of x."""

    def forward(node, x, value):
        xp = node.xp
        if not hasattr(value, "dtype"):
            value = x.dtype.type(value)
        elif value.dtype != x.dtype:
            value = value.astype(x.dtype)
        # a stride-0 view: the in-place mechanism copies it into x's memory
        return xp.broadcast_to(xp.asarray(value), x.shape)

    def backward(node, grad):
        return (ops.zeros_like(grad) if node.need(0) else None), grad if node.need(1) else None


class Copy(Operator):
    """`source` in the shape and dtype of x."""

    def forward(node, x, source):
        if source.dtype != x.dtype:
            source = ops.cast(source, x.dtype)
        return node.xp.broadcast_to(source, x.shape)

    def backward(node, grad):
        return (ops.zeros_like(grad) if node.need(0) else None), grad if node.need(1) else None


@attach("fill_")
def fill_(self, value):
    """Every element becomes `value`, a number or 0-d tensor. As torch.Tensor.fill_."""
    if isinstance(value, Tensor):
        if value.ndim:
            raise RuntimeError(f"[fill_] only supports a 0-dimensional value tensor, got {value.ndim} dimensions")
        return Fill.inplace(self, value)
    return Fill.inplace(self, number("fill_", value, self.dtype))


@attach("zero_")
def zero_(self):
    """Every element becomes zero. As torch.Tensor.zero_."""
    return Fill.inplace(self, 0)


@attach("copy_")
def copy_(self, src, non_blocking=False):
    """The values of `src`, broadcast, converted and brought to this device. As torch.Tensor.copy_.

    A copy between devices is ordered on the current stream; `non_blocking` changes nothing.
    Raises: RuntimeError when the shapes do not broadcast.
    """
    if not isinstance(src, Tensor):
        raise TypeError(f"[copy_] src must be a Tensor, got {type(src).__name__}")
    if len(src.shape) > self.ndim or any(a not in (1, b) for a, b in zip(src.shape[::-1], self.shape[::-1])):
        raise RuntimeError(f"[copy_] the size of source {list(src.shape)} must match or broadcast to the size of the "
                           f"tensor {list(self.shape)}")
    if src.device != self.device:
        src = ops.transfer(src, self.device)
    if src._array is self._array:
        src = src.clone()
    return Copy.inplace(self, src)


# random

def _words(tensor, generator):
    where = tensor.device
    words = tensor._array.size * (2 if tensor.dtype.is_complex else 1)
    return backend_of(tensor._array), random.generator_for(where, generator).reserve(words)


@attach("uniform_")
def uniform_(self, from_=0, to=1, *, generator=None):
    """Uniform random numbers of [from_, to). As torch.Tensor.uniform_."""
    if not from_ <= to:
        raise RuntimeError(f"[uniform_] expects to return a [from, to) range, but found from={from_} > to={to}")
    backend, at = _words(self, generator)
    return Copy.inplace(self, random.uniform(backend, self.shape, self.dtype, from_, to, at))


@attach("normal_")
def normal_(self, mean=0, std=1, *, generator=None):
    """Normal random numbers. As torch.Tensor.normal_."""
    if not std >= 0:
        raise RuntimeError(f"[normal_] expects std >= 0.0, but found std {std}")
    backend, at = _words(self, generator)
    return Copy.inplace(self, random.normal(backend, self.shape, self.dtype, mean, std, at))


@attach("exponential_")
def exponential_(self, lambd=1, *, generator=None):
    """Exponential random numbers of rate lambd. As torch.Tensor.exponential_."""
    if not lambd > 0:
        raise RuntimeError(f"[exponential_] expects lambda > 0.0, but found lambda={lambd}")
    backend, at = _words(self, generator)
    return Copy.inplace(self, random.exponential(backend, self.shape, self.dtype, lambd, at))


@attach("bernoulli_")
def bernoulli_(self, p=0.5, *, generator=None):
    """1 with probability p (a number, or a tensor that broadcasts), else 0. As torch.Tensor.bernoulli_."""
    backend, at = _words(self, generator)
    probability = p._array if isinstance(p, Tensor) else p
    return Copy.inplace(self, random.bernoulli(backend, self.shape, probability, at))


@attach("random_")
def random_(self, from_=None, to=None, *, generator=None):
    """Random integers of [from_, to), by default all that the dtype holds exactly. As torch.Tensor.random_."""
    if from_ is not None and to is None:
        from_, to = 0, from_
    dtype = self.dtype
    if to is None:
        if dtype.category == dtypes.BOOL:
            top = 2
        elif dtype.category == dtypes.INT:
            top = int(np.iinfo(dtype.np).max) + 1
        else:
            top = 2 ** (round(-math.log2(dtypes.finfo(dtype).eps)) + 1) + 1
        from_, to = from_ or 0, min(top, 2**63)
    if from_ >= to:
        raise RuntimeError(f"[random_] expects 'from' to be less than 'to', but got from={from_} >= to={to}")
    backend, at = _words(self, generator)
    return Copy.inplace(self, random.randint(backend, from_, to, self.shape, dtype, at))
