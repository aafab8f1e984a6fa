"""Which tensors backward() and autograd.grad() begin from, told before and after, while somebody listens."""
from __future__ import annotations

import threading
from collections.abc import Callable

from ..autograd import engine
from .replaced import abandon, revive, standing

__all__ = ["BackwardCalls"]


class _Calls(threading.local):
    """Of this thread: the call that is about to run, and how many are running, one inside the other."""

    def __init__(self):
        self.waiting: tuple | None = None
        self.given = None  # the gradients that were passed to it
        self.running = 0


class BackwardCalls:
    """Inside `with`, `before(tensors, what)` and `after(tensors, what)` around each backward pass of any thread.

    `what` is "backward" or "grad". A pass inside another one, as of a checkpoint that computes again, is not told.
    `after` is not called for a pass that raised. The engine is put back when the last block ends.
    """

    _lock = threading.Lock()
    _listeners: tuple[BackwardCalls, ...] = ()
    _calls = _Calls()
    _originals: tuple = ()

    def __init__(self, before: Callable | None = None, after: Callable | None = None):
        self.before, self.after = before, after

    def __enter__(self):
        with BackwardCalls._lock:
            if not BackwardCalls._listeners:
                run = BackwardCalls._originals[1] if revive(_run) else engine.run
                if run is engine.run:
                    engine.run = _run
                BackwardCalls._originals = (engine._roots, run)
                engine._roots = _roots
            BackwardCalls._listeners += (self,)
        return self

    def __exit__(self, *exc):
        with BackwardCalls._lock:
            BackwardCalls._listeners = tuple(x for x in BackwardCalls._listeners if x is not self)
            if not BackwardCalls._listeners:
                engine._roots, run = BackwardCalls._originals
                if engine.run is _run:
                    engine.run = standing(run)
                else:  # inside another wrapper
                    abandon(_run, run)
            BackwardCalls._calls.waiting = None  # of a call that raised before its pass

    @staticmethod
    def given():
        """Within `before`: the gradients that were passed to backward() or grad(), None where none were."""
        return BackwardCalls._calls.given


def _roots(outputs, gradients, create_graph, what):
    roots = BackwardCalls._originals[0](outputs, gradients, create_graph, what)
    calls = BackwardCalls._calls
    if not calls.running:
        calls.waiting, calls.given = (outputs, what), gradients
    return roots


def _run(roots, create_graph, keep_graph, targets=None, into_leaves=False):
    calls = BackwardCalls._calls
    call, calls.waiting = calls.waiting, None
    told = call if calls.running == 0 else None
    calls.running += 1  # a pass that a listener runs is not told either
    try:
        if told is not None:
            _tell("before", *told)
            calls.given = None
        captured = BackwardCalls._originals[1](roots, create_graph, keep_graph, targets, into_leaves)
        if told is not None:
            _tell("after", *told)
    finally:
        calls.running -= 1
    return captured


def _tell(when, tensors, what):
    for listener in BackwardCalls._listeners:
        function = getattr(listener, when)
        if function is not None:
            function(tensors, what)
