"""The parent's side of worker processes: start them, ask them, and leave nothing behind."""
from __future__ import annotations

import multiprocessing
import os
import secrets
import sys
import time
from multiprocessing.connection import wait
from pathlib import Path

from .shared import SlotReader
from .worker import BATCH, HostOnly, Job, main

GRACE = 2.0  # seconds that a worker has to end the batch it is at, before it is terminated


def context_of(wish):
    """A multiprocessing context that starts processes afresh.

    Raises: ValueError for "fork": a copied process has the parent's threads' locks and a GPU driver it cannot use.
    """
    if wish is None:
        wish = "forkserver" if sys.platform == "linux" else "spawn"
    if isinstance(wish, str):
        if wish not in multiprocessing.get_all_start_methods():
            raise ValueError(f"[DataLoader] multiprocessing_context should be forkserver or spawn, got {wish!r}")
        wish = multiprocessing.get_context(wish)
    if not hasattr(wish, "get_start_method"):
        raise TypeError(f"[DataLoader] multiprocessing_context should be a name or a context, got {wish!r:.60}")
    if wish.get_start_method() == "fork":
        raise ValueError("[DataLoader] workers cannot be forked: a forked process has a GPU driver that it cannot use "
                         "and copies of held locks; use multiprocessing_context='forkserver' or 'spawn'")
    if wish.get_start_method() == "forkserver":
        _preload(wish)
    return wish


def _preload(context):
    """Let the fork server import once what every worker needs: two workers are there after 0.15 s instead of 3.5.

    (On two busy cores.) A program that has named modules of its own keeps them. Before Python 3.13.1 the server looks
    in the current folder first, not where this process did: another copy of the package there must not be taken.
    """
    from multiprocessing import forkserver

    if getattr(forkserver._forkserver, "_preload_modules", None) != ["__main__"]:
        return
    package = __name__.partition(".")[0]
    ours, there = Path(sys.modules[package].__file__).parent, Path(package)
    shadowed = there.exists() and not there.samefile(ours)
    context.set_forkserver_preload(["__main__", "numpy", "ml_dtypes", *([] if shadowed else [f"{__package__}.worker"])])


class Pool:
    """The worker processes of a DataLoader, their pipes and the segments that batches come through."""

    def __init__(self, loader, fetcher):
        self.owner = os.getpid()
        self.epoch = 0
        self.processes, self.requests, self.results = [], [], []
        segment = f"tt{self.owner:x}x{secrets.token_hex(3)}"  # macOS allows 31 characters for the whole name
        self.slots = [
            [SlotReader(f"{segment}_{w}_{i}") for i in range(loader.prefetch_factor)]
            for w in range(loader.num_workers)
        ]
        self.sent = [0] * loader.num_workers
        context = context_of(loader.multiprocessing_context)
        try:
            for w in range(loader.num_workers):
                job = Job(w, loader.num_workers, loader.dataset, fetcher, loader.collate_fn, loader.batched,
                          loader.drop_last, loader.worker_init_fn, segment, loader.prefetch_factor)
                self._start(context, w, job)
        except BaseException as e:
            e.add_note("[DataLoader] dataset, collate_fn and worker_init_fn are pickled for worker processes: define "
                       "them at the top of a module, or use num_workers=0")
            self.close()
            raise

    def _start(self, context, w, job):
        take, ask = context.Pipe(duplex=False)
        hear, tell = context.Pipe(duplex=False)
        try:
            process = context.Process(
                target=main, args=(take, tell, HostOnly(), job), name=f"DataLoader-{w}", daemon=True
            )
            process.start()
        except BaseException:
            ask.close()
            hear.close()
            raise
        finally:  # the worker has its own; with ours closed, its death is the end of the pipe
            take.close()
            tell.close()
        self.processes.append(process)
        self.requests.append(ask)
        self.results.append(hear)

    def begin(self, seed) -> int:
        """Start an epoch; what earlier ones asked for is forgotten. Returns the epoch's number."""
        self.epoch += 1
        for w in range(len(self.processes)):
            self._send(w, ("epoch", self.epoch, seed))
        return self.epoch

    def ask(self, w, number, wanted) -> None:
        """Ask worker `w` for batch `number`."""
        self._send(w, ("batch", self.epoch, number, self.sent[w] % len(self.slots[w]), wanted))
        self.sent[w] += 1

    def _send(self, w, request):
        try:
            self.requests[w].send(request)
        except (BrokenPipeError, ConnectionResetError):
            self._died(w)

    def answers(self, timeout):
        """Wait for answers of this epoch: a list of (number, worker, slot, kind, content); empty at the time limit.

        Raises: RuntimeError when a worker has died.
        """
        found = []
        for ready in wait(self.results, timeout):
            w = self.results.index(ready)
            try:
                epoch, number, slot, kind, content = ready.recv()
            except (EOFError, ConnectionResetError):
                self._died(w)
            if kind == BATCH:
                self.slots[w][slot].announced = content
            if epoch == self.epoch:
                found.append((number, w, slot, kind, content))
        return found

    def _died(self, w):
        process = self.processes[w]
        process.join(GRACE)
        code = process.exitcode
        why = f"exited unexpectedly with exit code {code}"
        if code is not None and code < 0:
            why = f"was killed by signal {-code}" + (": out of memory, perhaps" if code == -9 else "")
        elif code == 1:
            why += (". What it printed says why; if it could not be started: guard the program's main part with "
                    "`if __name__ == '__main__':`, and keep classes out of notebooks, in a module")
        message = f"[DataLoader] worker {w} (pid {process.pid}) {why}"
        self.close()
        raise RuntimeError(message)

    def close(self) -> None:
        """End the workers, those that do not follow by force, and remove their segments."""
        if os.getpid() != self.owner or self.owner == 0:
            return  # a forked copy of the parent: the workers are not its own
        self.owner = 0
        for pipe in self.requests:
            try:
                pipe.send(None)
            except OSError:  # it is dead already
                continue
        deadline = time.monotonic() + GRACE
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                process.terminate()
                process.join(GRACE)
            if process.exitcode is None:
                process.kill()
                process.join()
            process.close()
        for w, pipe in enumerate(self.results):
            self._hear_out(w, pipe)
        for pipe in (*self.requests, *self.results):
            pipe.close()
        for slots in self.slots:
            for slot in slots:
                slot.remove()

    def _hear_out(self, w, pipe):
        """Read what a dead worker still said: it may speak of segments that it left."""
        try:
            while pipe.poll():
                _, _, slot, kind, content = pipe.recv()
                if kind == BATCH:
                    self.slots[w][slot].announced = content
        except (EOFError, OSError):
            return
