"""DataLoader: the batches of a dataset, made here or in worker processes, in an order that both agree on."""
from __future__ import annotations

import itertools
import time
import weakref
from collections import deque

from .collate import default_collate, default_convert
from .dataset import IterableDataset
from .fetch import END, ByIndex, InOrder
from .sampler import BatchSampler, RandomSampler, SequentialSampler, draw_seed


class DataLoader:
    """Batches of a dataset, epoch after epoch. As torch.utils.data.DataLoader.

    The order comes from `generator` (without one from `manual_seed`) and is the same for any `num_workers`.
    Worker processes hand batches over in shared memory, see no GPU, and end with the iteration or the parent. They
    are started afresh: the dataset is pickled, and a program that uses them guards its main part with
    `if __name__ == "__main__":`. Tensors that they make arrive on the parent's default device.
    Differences: `pin_memory=True` is refused, and so is forking.
    Raises: ValueError for arguments that contradict each other, the worker's exception with its traceback,
    RuntimeError when no batch comes within `timeout` seconds or a worker dies.
    """

    def __init__(self, dataset, batch_size=1, shuffle=None, sampler=None, batch_sampler=None, num_workers=0,
                 collate_fn=None, pin_memory=False, drop_last=False, timeout=0, worker_init_fn=None,
                 multiprocessing_context=None, generator=None, *, prefetch_factor=None, persistent_workers=False):
        if pin_memory:
            raise NotImplementedError("[DataLoader] pin_memory is not there: leave it out, batches made by workers are "
                                      "copied to the default device as they arrive")
        self.iterable = isinstance(dataset, IterableDataset)
        _check_order(self.iterable, batch_size, shuffle, sampler, batch_sampler, drop_last)
        _check_workers(num_workers, timeout, prefetch_factor, persistent_workers, multiprocessing_context)
        self.dataset = dataset
        self.num_workers = num_workers
        self.timeout = timeout
        self.worker_init_fn = worker_init_fn
        self.multiprocessing_context = multiprocessing_context
        self.generator = generator
        self.prefetch_factor = 2 if num_workers and prefetch_factor is None else prefetch_factor
        self.persistent_workers = persistent_workers
        if sampler is None and not self.iterable:
            sampler = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
        if batch_sampler is not None:
            batch_size, drop_last = None, False
        elif batch_size is not None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.batched = batch_sampler is not None
        self.collate_fn = collate_fn or (default_collate if self.batched else default_convert)
        self._pool = None
        self._end_pool = None

    def __iter__(self):
        return _InProcess(self) if self.num_workers == 0 else _InWorkers(self)

    def __len__(self):
        """How many batches an epoch has. Raises: TypeError where the dataset or sampler has no length."""
        if self.iterable:
            n = len(self.dataset)
            if self.batch_size is None:
                return n
            return n // self.batch_size if self.drop_last else -(-n // self.batch_size)
        return len(self.batch_sampler if self.batched else self.sampler)

    def __getstate__(self):
        return {**self.__dict__, "_pool": None, "_end_pool": None}

    def _requests(self):
        """What one epoch asks a fetcher for: indices, or for a stream how many samples each time."""
        if self.iterable:
            return itertools.repeat(self.batch_size or 1)
        return iter(self.batch_sampler if self.batched else self.sampler)

    def _workers(self):
        """(the pool, the call that ends it): kept from epoch to epoch with `persistent_workers`."""
        from .pool import Pool

        if self._pool is not None and self._pool.owner:
            return self._pool, None
        pool = Pool(self, InOrder if self.iterable else ByIndex)
        if not self.persistent_workers:
            return pool, pool.close
        self._pool, self._end_pool = pool, weakref.finalize(self, pool.close)
        return pool, None


def _check_order(iterable, batch_size, shuffle, sampler, batch_sampler, drop_last):
    if iterable:
        for name, value in (("shuffle", shuffle), ("sampler", sampler), ("batch_sampler", batch_sampler)):
            if value is not None and value is not False:
                raise ValueError(f"[DataLoader] an IterableDataset decides its own order: expected unspecified {name} "
                                 f"option, got {name}={value}")
    if sampler is not None and shuffle:
        raise ValueError("[DataLoader] sampler option is mutually exclusive with shuffle: leave one out")
    if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
        raise ValueError("[DataLoader] batch_sampler option is mutually exclusive with batch_size, shuffle, sampler, "
                         "and drop_last: leave them out")
    if batch_size is None and drop_last:
        raise ValueError("[DataLoader] batch_size=None option disables auto-batching and is mutually exclusive with "
                         "drop_last")


def _check_workers(num_workers, timeout, prefetch_factor, persistent_workers, context):
    if not isinstance(num_workers, int) or num_workers < 0:
        raise ValueError(f"[DataLoader] num_workers option should be a non-negative integer, got {num_workers!r}: use "
                         "num_workers=0 to disable multiprocessing")
    if timeout < 0:
        raise ValueError(f"[DataLoader] timeout option should be non-negative, got {timeout}")
    if num_workers == 0:
        if timeout:
            raise ValueError(f"[DataLoader] timeout={timeout} needs num_workers > 0: nothing can be interrupted here")
        if prefetch_factor is not None:
            raise ValueError(f"[DataLoader] prefetch_factor={prefetch_factor} needs num_workers > 0")
        if persistent_workers:
            raise ValueError("[DataLoader] persistent_workers option needs num_workers > 0")
        if context is not None:
            raise ValueError("[DataLoader] multiprocessing_context can only be used with num_workers > 0")
        return
    if prefetch_factor is not None and (not isinstance(prefetch_factor, int) or prefetch_factor <= 0):
        raise ValueError(f"[DataLoader] prefetch_factor should be a positive integer, got {prefetch_factor!r}")
    from .pool import context_of

    context_of(context)


class _InProcess:
    """An epoch made in this process."""

    def __init__(self, loader):
        draw_seed(loader.generator)  # workers are seeded with it: the generator moves on alike without them
        kind = InOrder if loader.iterable else ByIndex
        self.fetch = kind(loader.dataset, loader.collate_fn, loader.batched, loader.drop_last)
        self.requests = loader._requests()

    def __iter__(self):
        return self

    def __next__(self):
        batch = self.fetch(next(self.requests))
        if batch is END:
            raise StopIteration
        return batch


class _InWorkers:
    """An epoch made by worker processes: requests go round robin, batches come back in the order of the requests."""

    def __init__(self, loader):
        self.loader = loader
        seed = draw_seed(loader.generator)
        self.requests = loader._requests()
        self.pool, end = loader._workers()
        # at the last reference, also in the middle of an epoch, and at the interpreter's exit
        self.end = weakref.finalize(self, end) if end is not None else None
        self.epoch = self.pool.begin(seed)
        self.expected: deque = deque()  # (batch number, worker), in the order in which they are given out
        self.arrived: dict = {}
        self.numbers = itertools.count()
        for _ in range(loader.prefetch_factor):
            for w in range(loader.num_workers):
                self._ask(w)

    def __iter__(self):
        return self

    def _ask(self, w):
        try:
            wanted = next(self.requests)
        except StopIteration:
            return
        number = next(self.numbers)
        self.pool.ask(w, number, wanted)
        self.expected.append((number, w))

    def __next__(self):
        from .worker import EXHAUSTED, FAILED

        if self.pool.owner and self.pool.epoch != self.epoch:
            raise RuntimeError("[DataLoader] persistent workers went on to a newer epoch: iterate one at a time, "
                               "or set persistent_workers=False")
        while self.expected:
            number, w = self.expected.popleft()
            slot, kind, content = self._wait_for(number)
            if kind == EXHAUSTED:
                continue
            if kind == FAILED:
                self._ask(w)
                raise content.error()
            batch = self.pool.slots[w][slot].read(content)
            self._ask(w)
            return batch
        if self.end is not None:
            self.end()
        raise StopIteration

    def _wait_for(self, number):
        timeout = self.loader.timeout or None
        deadline = time.monotonic() + timeout if timeout else None
        while number not in self.arrived:
            if not self.pool.owner:
                raise RuntimeError("[DataLoader] the workers of this epoch have ended: start a new one")
            left = max(0.0, deadline - time.monotonic()) if timeout else None
            answers = self.pool.answers(left)
            if timeout and not answers and time.monotonic() >= deadline:
                self.pool.close()
                raise RuntimeError(f"[DataLoader] timed out after {timeout} seconds: raise timeout, or look for what "
                                   "holds the workers up")
            for other, _, slot, kind, content in answers:
                self.arrived[other] = slot, kind, content
        return self.arrived.pop(number)
