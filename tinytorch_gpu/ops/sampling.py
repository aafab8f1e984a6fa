"""Random tensors: rand, randn, randint, randperm, normal, bernoulli, multinomial. Numbers come from backend.random."""
from __future__ import annotations

import math

import numpy as np

from .. import ops
from ..autograd.operator import array_of
from ..backend import dtypes, random
from ..backend.device import backend_for, backend_of, resolve
from ..tensor import Tensor
from .creation import _float_dtype, _size_name, put, sizes
from .data import finish
from .registry import public


def _source(device, generator):
    """(device, its backend, the generator): a given generator decides where no device is named."""
    if device is None and generator is not None:
        where = generator.device
    else:
        where = resolve(device)
    return where, backend_for(where), random.generator_for(where, generator)


def _draw(op, size, given, dtype, device, requires_grad, generator, make):
    shape = sizes(op, size if given is None else (given,))
    d = _float_dtype(dtype)
    where, backend, source = _source(device, generator)
    at = source.reserve(math.prod(shape) * (2 if d.is_complex else 1))
    return finish(put(make(backend, shape, d, 0, 1, at), where), requires_grad)


@public
def rand(*size, generator=None, dtype=None, device=None, requires_grad=False, **named):
    """Uniform random numbers of [0, 1). As torch.rand."""
    given = _size_name("rand", size, named)
    return _draw("rand", size, given, dtype, device, requires_grad, generator, random.uniform)


@public
def randn(*size, generator=None, dtype=None, device=None, requires_grad=False, **named):
    """Normal random numbers with mean 0 and variance 1. As torch.randn."""
    given = _size_name("randn", size, named)
    return _draw("randn", size, given, dtype, device, requires_grad, generator, random.normal)


@public
def rand_like(input, *, generator=None, dtype=None, device=None, requires_grad=False):
    """rand() with the shape, dtype and device of `input`. As torch.rand_like."""
    return rand(input.shape, generator=generator, dtype=dtype or input.dtype, device=device or input.device,
                requires_grad=requires_grad)


@public
def randn_like(input, *, generator=None, dtype=None, device=None, requires_grad=False):
    """randn() with the shape, dtype and device of `input`. As torch.randn_like."""
    return randn(input.shape, generator=generator, dtype=dtype or input.dtype, device=device or input.device,
                 requires_grad=requires_grad)


@public
def randint(low, high=None, size=None, *, generator=None, dtype=None, device=None, requires_grad=False):
    """Random integers of [low, high), int64: `randint(high, size)` or `randint(low, high, size)`. As torch.randint."""
    if size is None:
        low, high, size = 0, low, high
    elif high is None:
        low, high = 0, low
    if size is None or not hasattr(size, "__len__"):
        raise TypeError(f"[randint] size must be a tuple of ints, got {size!r}")
    shape = sizes("randint", (size,))
    where, backend, source = _source(device, generator)
    if low >= high:
        raise RuntimeError(f"[randint] expects low < high, got low={low}, high={high}")
    at = source.reserve(math.prod(shape))
    array = random.randint(backend, low, high, shape, dtypes.from_any(dtype or dtypes.int64), at)
    return finish(put(array, where), requires_grad)


@public
def randint_like(input, low, high=None, *, dtype=None, device=None, requires_grad=False):
    """randint() with the shape, dtype and device of `input`. As torch.randint_like."""
    low, high = (0, low) if high is None else (low, high)
    return randint(low, high, input.shape, dtype=dtype or input.dtype, device=device or input.device,
                   requires_grad=requires_grad)


@public
def randperm(n, *, generator=None, dtype=None, device=None, requires_grad=False):
    """A random order of 0 .. n-1, int64. As torch.randperm."""
    if n < 0:
        raise RuntimeError(f"[randperm] n must be non-negative, got {n}")
    where, backend, source = _source(device, generator)
    array = random.randperm(backend, n, source.reserve(n))
    return finish(put(array.astype(dtypes.from_any(dtype or dtypes.int64).np, copy=False), where), requires_grad)


@public
def normal(mean, std=1.0, size=None, *, generator=None, dtype=None, device=None):
    """Normal random numbers; mean and std are numbers (with `size`) or tensors that broadcast. As torch.normal.

    Raises: RuntimeError for a negative std.
    """
    tensors = [v for v in (mean, std) if isinstance(v, Tensor)]
    if not tensors:
        if size is None:
            raise TypeError("[normal] numbers for mean and std need a size")
        if not std >= 0:
            raise RuntimeError(f"[normal] expects std >= 0.0, but found std {std}")
        return _draw("normal", (size,), None, dtype, device, False, generator,
                     lambda backend, shape, d, low, high, at: random.normal(backend, shape, d, mean, std, at))
    if size is not None or dtype is not None or device is not None:
        raise TypeError("[normal] size, dtype and device come from the tensors: give them with numbers only")
    if isinstance(std, Tensor):
        if bool((std < 0).any()):
            raise RuntimeError("[normal] expects all elements of std >= 0.0")
    elif not std >= 0:
        raise RuntimeError(f"[normal] expects std >= 0.0, but found std {std}")
    shape = ops.broadcast_shapes(*[t.shape for t in tensors])
    unit = randn(shape, generator=generator, dtype=tensors[0].dtype, device=tensors[0].device)
    mean, std = [v.detach() if isinstance(v, Tensor) else v for v in (mean, std)]
    return ops.add(ops.mul(unit, std), mean)


@public(method=True)
def bernoulli(input, p=None, *, generator=None):
    """1 with the probability in each element of `input` (or `p`), else 0; of its dtype. As torch.bernoulli.

    Raises: RuntimeError for a probability outside [0, 1] (of a tensor: on the CPU).
    """
    x = array_of(input)
    if p is None and x.dtype.kind in "biu":
        raise RuntimeError(f"[bernoulli] expected a floating tensor of probabilities, got {x.dtype}")
    backend = backend_of(x)
    at = random.generator_for(backend.device_of(x), generator).reserve(x.size)
    return ops.as_tensor(random.bernoulli(backend, x.shape, x if p is None else p, at).astype(x.dtype))


@public(method=True)
def multinomial(input, num_samples, replacement=False, *, generator=None):
    """Indices drawn with the weights in each row of `input` (n,) or (rows, n), int64. As torch.multinomial.

    Without replacement by exponential races: the smallest of Exp(1) / weight (Efraimidis and Spirakis, 2006).
    Raises: RuntimeError for negative, infinite or NaN weights, a row without weight, or too few non-zero weights.
    """
    x = array_of(input)
    if x.ndim not in (1, 2):
        raise RuntimeError(f"[multinomial] prob_dist must be 1 or 2 dim, got {x.ndim}")
    if x.dtype.kind in "biu" or x.dtype.kind == "c":
        raise RuntimeError(f"[multinomial] only supports floating-point dtypes for input, got {x.dtype}")
    n = x.shape[-1]
    if num_samples <= 0:
        raise RuntimeError(f"[multinomial] cannot sample n_sample <= 0 samples, got {num_samples}")
    if not replacement and num_samples > n:
        raise RuntimeError(f"[multinomial] cannot sample {num_samples} of {n} categories without replacement")
    backend = backend_of(x)
    xp = backend.xp
    weights = x.reshape(-1, n).astype(np.float64)
    if not bool((xp.isfinite(weights) & (weights >= 0)).all()):
        raise RuntimeError("[multinomial] probability tensor contains either inf, nan or element < 0")
    if not bool((weights.sum(axis=1) > 0).all()):
        raise RuntimeError("[multinomial] invalid multinomial distribution (sum of probabilities <= 0)")
    source = random.generator_for(backend.device_of(x), generator)
    rows = weights.shape[0]
    if replacement or num_samples == 1:
        at = source.reserve(rows * num_samples)
        u = random.uniform(backend, (rows, num_samples), dtypes.float64, 0, 1, at)
        total = xp.cumsum(weights, axis=1)
        u *= total[:, -1:]
        out = xp.stack([xp.searchsorted(total[r], u[r], side="right") for r in range(rows)]) if rows else xp.zeros(
            (0, num_samples), np.int64)
        # rounding can land on the end: the last category that has weight
        last = n - 1 - xp.argmax(weights[:, ::-1] > 0, axis=1)
        out = xp.minimum(out, last[:, None])
    else:
        if bool(((weights > 0).sum(axis=1) < num_samples).any()):
            raise RuntimeError("[multinomial] invalid multinomial distribution (with replacement=False, not enough "
                               "non-negative category to sample)")
        race = random.exponential(backend, (rows, n), dtypes.float64, 1, source.reserve(rows * n))
        race = race / xp.where(weights > 0, weights, 1)
        race = xp.where(weights > 0, race, np.float64(np.inf))
        out = xp.argsort(race, axis=1)[:, :num_samples]
    return ops.as_tensor(out.astype(np.int64).reshape(x.shape[:-1] + (num_samples,)))
