"""Datasets: what can be indexed, what can only be iterated, and parts and chains of them."""
from __future__ import annotations

import bisect
import itertools
import math
import warnings
from typing import Generic, TypeVar

from ...backend.device import CPU
from ...backend.random import default_generator, randperm
from .fetch import fetch

T_co = TypeVar("T_co", covariant=True)


class Dataset(Generic[T_co]):
    """Samples by index: a subclass has `__getitem__`, and `__len__` where a sampler needs it.

    `__getitems__(indices)`, where a subclass has it, fetches a whole batch in one call. As torch.utils.data.Dataset.
    """

    def __getitem__(self, index) -> T_co:
        raise NotImplementedError(f"[Dataset] {type(self).__name__} has no __getitem__: write one")

    def __add__(self, other):
        return ConcatDataset([self, other])


class IterableDataset(Dataset[T_co]):
    """Samples as a stream: a subclass has `__iter__`. As torch.utils.data.IterableDataset.

    Every worker process iterates its own copy; `get_worker_info()` tells which share of the stream it should give.
    """

    def __iter__(self):
        raise NotImplementedError(f"[IterableDataset] {type(self).__name__} has no __iter__: write one")

    def __add__(self, other):
        return ChainDataset([self, other])


class TensorDataset(Dataset):
    """Rows of tensors of equal first size: sample i is `(t[i] for t in tensors)`. As torch.utils.data.TensorDataset.

    Raises: AssertionError when the first sizes differ.
    """

    def __init__(self, *tensors):
        sizes = [len(t) for t in tensors]
        if len(set(sizes)) > 1:
            raise AssertionError(f"[TensorDataset] size mismatch between tensors: first dimensions {sizes}: "
                                 "make them equal")
        self.tensors = tensors

    def __getitem__(self, index):
        return tuple(t[index] for t in self.tensors)

    def __len__(self):
        return len(self.tensors[0])


class Subset(Dataset[T_co]):
    """The samples of a dataset at the given indices. As torch.utils.data.Subset."""

    def __init__(self, dataset, indices):
        self.dataset = dataset
        self.indices = indices

    def __getitem__(self, index):
        if isinstance(index, list):
            return self.dataset[[self.indices[i] for i in index]]
        return self.dataset[self.indices[index]]

    def __getitems__(self, indices):
        return fetch(self.dataset, [self.indices[i] for i in indices])

    def __len__(self):
        return len(self.indices)


class ConcatDataset(Dataset[T_co]):
    """One dataset after the other. As torch.utils.data.ConcatDataset.

    Raises: AssertionError for no dataset or an IterableDataset, ValueError for an index before the first sample.
    """

    def __init__(self, datasets):
        self.datasets = list(datasets)
        if not self.datasets:
            raise AssertionError("[ConcatDataset] datasets should not be an empty iterable")
        for dataset in self.datasets:
            if isinstance(dataset, IterableDataset):
                raise AssertionError("[ConcatDataset] got an IterableDataset: use ChainDataset for streams")
        self.cumulative_sizes = list(itertools.accumulate(len(d) for d in self.datasets))

    def __getitem__(self, index):
        at = index
        if at < 0:
            at += len(self)
            if at < 0:
                raise ValueError(f"[ConcatDataset] index {index} lies before the first of {len(self)} samples")
        which = bisect.bisect_right(self.cumulative_sizes, at)
        if which == len(self.datasets):
            raise IndexError(f"[ConcatDataset] index {index} is out of range for {len(self)} samples")
        return self.datasets[which][at - (self.cumulative_sizes[which - 1] if which else 0)]

    def __len__(self):
        return self.cumulative_sizes[-1]


class ChainDataset(IterableDataset):
    """One stream after the other. As torch.utils.data.ChainDataset."""

    def __init__(self, datasets):
        self.datasets = datasets

    def __iter__(self):
        for dataset in self.datasets:
            if not isinstance(dataset, IterableDataset):
                raise AssertionError("[ChainDataset] only supports IterableDataset: use ConcatDataset for indexed ones")
            yield from dataset

    def __len__(self):
        return sum(len(dataset) for dataset in self.datasets)


def random_split(dataset, lengths, generator=None) -> list[Subset]:
    """Disjoint random parts of a dataset; lengths are sizes, or fractions that sum to 1. As torch's random_split.

    Fractions are rounded down and what remains is dealt out one by one from the first part on.
    Raises: ValueError when the lengths do not sum to the dataset's size, or a fraction lies outside [0, 1].
    """
    n = len(dataset)
    lengths = list(lengths)
    if math.isclose(sum(lengths), 1) and sum(lengths) <= 1:
        for i, fraction in enumerate(lengths):
            if not 0 <= fraction <= 1:
                raise ValueError(f"[random_split] fraction at index {i} is not between 0 and 1: {fraction}")
        sizes = [math.floor(n * fraction) for fraction in lengths]
        for i in range(n - sum(sizes)):
            sizes[i % len(sizes)] += 1
        for i, size in enumerate(sizes):
            if size == 0:
                warnings.warn(f"[random_split] length of split at index {i} is 0: an empty dataset", stacklevel=2)
        lengths = sizes
    if sum(lengths) != n:
        raise ValueError(f"[random_split] sum of input lengths does not equal the length of the dataset: "
                         f"{lengths} sum to {sum(lengths)}, the dataset has {n}")
    order = randperm(CPU, n, (generator or default_generator()).reserve(n)).tolist()
    ends = itertools.accumulate(lengths)
    return [Subset(dataset, order[end - size:end]) for end, size in zip(ends, lengths, strict=True)]
