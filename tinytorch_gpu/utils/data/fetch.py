"""Batches of a dataset, in the main process and in workers alike."""
from __future__ import annotations

import itertools

END = object()  # a stream has no batch left


def fetch(dataset, indices) -> list:
    """The samples at the indices, by one `__getitems__` where the dataset has it."""
    if hasattr(dataset, "__getitems__"):
        samples = dataset.__getitems__(indices)
        if len(samples) != len(indices):
            raise ValueError(f"[DataLoader] {type(dataset).__name__}.__getitems__ gave {len(samples)} samples for "
                             f"{len(indices)} indices")
        return samples
    return [dataset[i] for i in indices]


class ByIndex:
    """Batches of a dataset that is indexed; a request is a list of indices, or one index where nothing is batched."""

    def __init__(self, dataset, collate, batched, drop_last):
        self.dataset = dataset
        self.collate = collate
        self.batched = batched

    def __call__(self, indices):
        return self.collate(fetch(self.dataset, indices) if self.batched else self.dataset[indices])


class InOrder:
    """Batches of a stream; a request is how many samples to take. END when there are none left."""

    def __init__(self, dataset, collate, batched, drop_last):
        self.stream = iter(dataset)
        self.collate = collate
        self.batched = batched
        self.drop_last = drop_last

    def __call__(self, count):
        samples = list(itertools.islice(self.stream, count))
        if not samples or (self.drop_last and len(samples) < count):
            return END
        return self.collate(samples if self.batched else samples[0])
