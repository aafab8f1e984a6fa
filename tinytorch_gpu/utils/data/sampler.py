"""Samplers: in which order, and how often, the indices of a dataset come."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

import numpy as np

from ...backend.device import CPU
from ...backend.random import Generator, default_generator, randint, randperm, uniform

T_co = TypeVar("T_co", covariant=True)
CHUNK = 1024  # indices drawn together with replacement: 1.7 ns each, against 5 us for a call of its own


def draw_seed(generator) -> int:
    """A seed for one epoch, a non-negative integer below 2^63, from the generator or the default one."""
    return int(randint(CPU, 0, 2**63 - 1, (), "int64", (generator or default_generator()).reserve(1)))


def _check_count(op, num_samples) -> None:
    if not isinstance(num_samples, int) or isinstance(num_samples, bool) or num_samples <= 0:
        raise ValueError(f"[{op}] num_samples should be a positive integer value, got num_samples={num_samples}")


def _check_flag(op, replacement) -> None:
    if not isinstance(replacement, bool):
        raise TypeError(f"[{op}] replacement should be a boolean value, got replacement={replacement!r}")


class Sampler(Generic[T_co]):
    """An order of indices: a subclass has `__iter__`, and `__len__` where it is known. As torch.utils.data.Sampler."""

    def __iter__(self) -> Iterator[T_co]:
        raise NotImplementedError(f"[Sampler] {type(self).__name__} has no __iter__: write one")


class SequentialSampler(Sampler[int]):
    """0, 1, 2, ... As torch.utils.data.SequentialSampler."""

    def __init__(self, data_source):
        self.data_source = data_source

    def __iter__(self):
        return iter(range(len(self.data_source)))

    def __len__(self):
        return len(self.data_source)


class RandomSampler(Sampler[int]):
    """A random order, a new one in each epoch, or draws with replacement. As torch.utils.data.RandomSampler.

    Without a generator the epoch's seed comes from the default one, so `manual_seed` decides the order.
    Raises: TypeError for a replacement that is no bool, ValueError unless num_samples is a positive integer.
    """

    def __init__(self, data_source, replacement=False, num_samples=None, generator=None):
        _check_flag("RandomSampler", replacement)
        self.data_source = data_source
        self.replacement = replacement
        self._num_samples = num_samples
        self.generator = generator
        if num_samples is not None or len(data_source) == 0:
            _check_count("RandomSampler", self.num_samples)

    @property
    def num_samples(self) -> int:
        """How many indices an epoch has; the size of the data source unless it was given."""
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def __iter__(self):
        n, left = len(self.data_source), self.num_samples
        generator = self.generator
        if generator is None:
            generator = Generator().manual_seed(draw_seed(None))
        while left > 0:
            if self.replacement:
                count = min(left, CHUNK)
                piece = randint(CPU, 0, n, (count,), "int64", generator.reserve(count))
            else:
                piece = randperm(CPU, n, generator.reserve(n))[:left]
            yield from piece.tolist()
            left -= piece.size

    def __len__(self):
        return self.num_samples


class SubsetRandomSampler(Sampler[int]):
    """The given indices in a random order. As torch.utils.data.SubsetRandomSampler."""

    def __init__(self, indices, generator=None):
        self.indices = indices
        self.generator = generator

    def __iter__(self):
        n = len(self.indices)
        for i in randperm(CPU, n, (self.generator or default_generator()).reserve(n)).tolist():
            yield self.indices[i]

    def __len__(self):
        return len(self.indices)


class WeightedRandomSampler(Sampler[int]):
    """Indices 0 .. len(weights)-1, each as probable as its weight. As torch.utils.data.WeightedRandomSampler.

    With replacement by the inverse of the cumulative sum; without by the exponential keys of Efraimidis and
    Spirakis (2006). Raises: ValueError for weights that are no non-negative vector with a positive sum, for
    num_samples that is no positive integer, or more draws without replacement than there are positive weights.
    """

    def __init__(self, weights, num_samples, replacement=True, generator=None):
        op = "WeightedRandomSampler"
        _check_count(op, num_samples)
        _check_flag(op, replacement)
        self.weights = np.array(weights.tolist() if hasattr(weights, "tolist") else list(weights), np.float64)
        if self.weights.ndim != 1:
            raise ValueError(f"[{op}] weights should be a 1d sequence, got shape {self.weights.shape}")
        if not (np.isfinite(self.weights).all() and (self.weights >= 0).all() and self.weights.sum() > 0):
            raise ValueError(f"[{op}] weights must be finite and not negative, with a positive sum")
        if not replacement and num_samples > np.count_nonzero(self.weights):
            raise ValueError(f"[{op}] cannot draw {num_samples} samples without replacement from "
                             f"{np.count_nonzero(self.weights)} positive weights: use replacement=True or fewer")
        self.num_samples = num_samples
        self.replacement = replacement
        self.generator = generator

    def __iter__(self):
        generator = self.generator or default_generator()
        count = self.num_samples if self.replacement else self.weights.size
        draws = uniform(CPU, (count,), "float64", 0, 1, generator.reserve(count))
        if self.replacement:
            edges = np.cumsum(self.weights)
            # side="right" never lands on a zero weight: u = 0 skips leading zeros, and u * total < total
            picks = np.searchsorted(edges, np.minimum(draws * edges[-1], np.nextafter(edges[-1], 0)), side="right")
        else:
            keys = np.full(count, np.inf)
            some = self.weights > 0
            keys[some] = -np.log1p(-draws[some]) / self.weights[some]  # Exponential(weight): the smallest are drawn
            picks = np.argsort(keys, kind="stable")[:self.num_samples]
        yield from picks.tolist()

    def __len__(self):
        return self.num_samples


class BatchSampler(Sampler[list[int]]):
    """Lists of `batch_size` indices of another sampler. As torch.utils.data.BatchSampler.

    Raises: ValueError for a batch_size that is no positive integer or a drop_last that is no bool.
    """

    def __init__(self, sampler, batch_size, drop_last):
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size <= 0:
            raise ValueError(f"[BatchSampler] batch_size should be a positive integer value, got {batch_size!r}")
        if not isinstance(drop_last, bool):
            raise ValueError(f"[BatchSampler] drop_last should be a boolean value, got {drop_last!r}")
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last

    def __iter__(self):
        batch = []
        for index in self.sampler:
            batch.append(index)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch and not self.drop_last:
            yield batch

    def __len__(self):
        n = len(self.sampler)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)
