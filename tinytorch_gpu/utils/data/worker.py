"""A worker process: it takes requests, makes batches and leaves them in shared memory. It never touches a GPU."""
from __future__ import annotations

import os
import pickle
import queue
import random
import signal
import threading
import traceback
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...backend.device import set_default_device
from ...backend.random import manual_seed
from .fetch import END

BATCH, EXHAUSTED, FAILED = "batch", "exhausted", "failed"


@dataclass
class WorkerInfo:
    """What a worker process knows about itself; `dataset` is its own copy. As torch's get_worker_info()."""

    id: int
    num_workers: int
    seed: int
    dataset: Any


_info: WorkerInfo | None = None


def get_worker_info() -> WorkerInfo | None:
    """`id`, `num_workers`, `seed` and `dataset` in a worker process, None in the main one. As torch's."""
    return _info


class HostOnly:
    """Unpickled in a worker before the dataset is: from then on the process has no GPU and its default is the CPU."""

    def __reduce__(self):
        return _leave_gpu, ()


def _leave_gpu():
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ["TINYTORCH_DEVICE"] = "cpu"
    set_default_device("cpu")
    return HostOnly()


@dataclass
class Job:
    """What a worker is started with."""

    worker_id: int
    num_workers: int
    dataset: Any
    fetcher: type
    collate: Any
    batched: bool
    drop_last: bool
    init: Any
    segment: str
    slots: int


class Failure:
    """An exception of a worker, as text and type, to be raised again in the parent."""

    def __init__(self, error, worker_id):
        self.name = type(error).__name__
        self.worker_id = worker_id
        self.text = "".join(traceback.format_exception(error))
        try:
            self.kind = pickle.dumps(type(error))
        except (pickle.PicklingError, AttributeError):  # a class inside a function
            self.kind = None

    def error(self) -> BaseException:
        """An exception of the original type where one can be made from a message, else a RuntimeError."""
        message = f"Caught {self.name} in DataLoader worker process {self.worker_id}.\nOriginal {self.text}"
        try:
            kind = pickle.loads(self.kind) if self.kind is not None else RuntimeError
            if issubclass(kind, (StopIteration, StopAsyncIteration)):
                kind = RuntimeError  # raised from __next__ it would end the epoch in silence
            return kind(_Verbatim(message) if issubclass(kind, KeyError) else message)
        except Exception:  # the class is not there, or takes other arguments: the text has everything
            return RuntimeError(message)


class _Verbatim(str):
    """Text whose repr is itself: KeyError shows the repr of its argument, and \\n for every line of a traceback."""

    def __repr__(self):
        return str(self)


def main(requests, results, host_only, job):
    """The body of a worker process: until the parent says so, or dies."""
    # Ctrl-C reaches the whole terminal group: the parent decides what it means
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from .shared import Slot

    worker = _Worker(results, job, [Slot(f"{job.segment}_{job.worker_id}_{i}") for i in range(job.slots)])
    threading.Thread(target=worker.listen, args=(requests,), daemon=True).start()
    try:
        worker.work()
    except (BrokenPipeError, ConnectionResetError):
        worker.stopped.wait()  # the parent is gone or going: `listen` sees it too, and knows which
    worker.remove_slots()


class _Worker:
    def __init__(self, results, job, slots):
        self.results = results
        self.job = job
        self.slots = slots
        self.inbox: queue.SimpleQueue = queue.SimpleQueue()
        self.epoch = -1
        self.ready = False
        self.stopped = threading.Event()
        self.lock = threading.Lock()  # a segment must not be made while the process is leaving

    def listen(self, requests):
        """Take requests at once, so that the parent never waits to hand one over, and notice its death at any time."""
        try:
            while (request := requests.recv()) is not None:
                if request[0] == "epoch":
                    self.epoch = request[1]  # what older epochs still want is skipped from now on
                self.inbox.put(request)
        except (EOFError, OSError):
            self.lock.acquire()
            self.remove_slots()
            os._exit(1)
        self.epoch = -1
        self.stopped.set()
        self.inbox.put(None)

    def work(self):
        fetch, trouble = None, None
        while (request := self.inbox.get()) is not None:
            if request[0] == "epoch":
                fetch, trouble = None, None
                try:
                    fetch = self.begin(request[2])
                except Exception as e:
                    trouble = e  # the answer to every request of this epoch
                continue
            _, epoch, number, slot, wanted = request
            if epoch != self.epoch:
                continue
            try:
                if trouble is not None:
                    raise trouble
                answer = self.answer(fetch, slot, wanted)
            except Exception as e:
                answer = FAILED, Failure(e, self.job.worker_id)
            self.results.send((epoch, number, slot, *answer))

    def begin(self, seed):
        """Start an epoch: seed every source of random numbers, and the stream anew where there is one."""
        global _info
        job = self.job
        seed = seed + job.worker_id & 2**64 - 1
        random.seed(seed)
        np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
        manual_seed(seed)
        _info = WorkerInfo(job.worker_id, job.num_workers, seed, job.dataset)
        if job.init is not None and not self.ready:
            job.init(job.worker_id)
        self.ready = True
        return job.fetcher(job.dataset, job.collate, job.batched, job.drop_last)

    def answer(self, fetch, slot, wanted):
        from .shared import pack

        batch = fetch(wanted)
        if batch is END:
            return EXHAUSTED, None
        buffers = pack(batch)
        with self.lock:
            return BATCH, self.slots[slot].write(buffers)

    def remove_slots(self):
        for slot in self.slots:
            slot.remove()
