"""Arrays that cross streams wait by events, and their memory stays until every stream is through with it.

CuPy orders work inside a stream only. Here each block of memory that an operator wrote on another stream than the null
stream is remembered with that stream, by its address. An operator that gets such an array on a different stream makes
its own stream wait for an event recorded there now, once for each new piece of work; holds the array until the work is
done (CuPy would give its block to the other stream at once when the program drops it); and an in-place change waits for
the streams that read. Raw CuPy code in between is ordered by the streams it runs on, which are CuPy's current ones.

Without a second stream an operator pays one look at `several`; on a GPU, where a program may enter CuPy's streams
without a word to us, one call that asks for the current stream.
"""
from __future__ import annotations

import weakref
from collections import deque

from .device import CPU, _by_class

__all__ = ["Trip", "after", "before", "born", "forget", "note", "note_here", "release", "several", "writing"]

several = False  # whether arrays may live on more than one stream; set by the backends
KEPT = 64  # pieces of work whose arrays are kept before the oldest are asked whether they are done
MOST = 1 << 16  # remembered blocks

_homes: dict[int, int] = {}  # address of a block -> handle of the stream that wrote it; the null stream is left out
_readers: dict[int, set[int]] = {}  # address of a block -> handles of other streams that read it
_streams: weakref.WeakValueDictionary = weakref.WeakValueDictionary()  # handle -> the library's stream object
_issued: dict[int, int] = {}  # handle -> pieces of work put on the stream so far
_waited: dict[tuple[int, int], int] = {}  # (who, for whom) -> how many of those it has waited for
_held: deque = deque()  # (event, arrays that may go when it has come)
_nodes: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # node -> stream of its forward, if not the null stream


class _Crossing:
    """An operator's run on a stream: `away` are the operands that another stream made."""

    __slots__ = ("away", "backend", "blocks", "here")

    def __init__(self, backend, here, blocks, away):
        self.backend, self.here, self.blocks, self.away = backend, here, blocks, away


def _backend_of(arrays):
    for a in arrays:
        found = _by_class.get(a.__class__)
        if found is not None and found is not CPU:
            return found
    return None


def _block(array) -> int:
    return array.data.mem.ptr


def _wait(backend, here, home: int) -> None:
    """`here` waits for what the stream `home` has been given so far, unless it has done so."""
    work, pair = _issued.get(home, 0), (here.ptr, home)
    if _waited.get(pair) == work:
        return
    there = _streams.get(home) if home else backend.xp.cuda.Stream.null
    if there is None:  # the stream is gone: nothing is left to record an event on
        backend.wait()
    elif there.is_capturing() != here.is_capturing():
        return  # a capture waits for nothing outside, and nothing outside for it
    else:
        here.wait_event(there.record())
    _waited[pair] = work


def before(arrays):
    """Wait for what other streams do to the operands. What comes back goes to `after`; None: there is one stream."""
    backend = _backend_of(arrays)
    if backend is None:
        return None
    here = backend.xp.cuda.get_current_stream()
    if not here.ptr and not _homes and not _waited:
        return None
    blocks, away = set(), []
    for a in arrays:
        if _by_class.get(a.__class__) is backend:
            block = _block(a)
            home = _homes.get(block, 0)
            blocks.add(block)
            if home != here.ptr:
                _wait(backend, here, home)
                away.append(a)
    return _Crossing(backend, here, blocks, away)


def after(crossing, outs) -> None:
    """What an operator made belongs to its stream; operands of other streams stay until that has read them."""
    here = crossing.here
    for out in outs:
        if _by_class.get(out.__class__) is crossing.backend and _block(out) not in crossing.blocks:
            _place(crossing.backend, here, out)
    _issued[here.ptr] = _issued.get(here.ptr, 0) + 1
    if crossing.away and not here.is_capturing():
        for a in crossing.away:
            _readers.setdefault(_block(a), set()).add(here.ptr)
        _streams.setdefault(here.ptr, here)
        _held.append((here.record(), crossing.away))
        while len(_held) > KEPT and _held[0][0].done:
            _held.popleft()


def _place(backend, here, array):
    block = _block(array)
    _readers.pop(block, None)
    if not here.ptr:
        _homes.pop(block, None)
        return
    if len(_homes) >= MOST and not here.is_capturing():
        backend.wait()
        _homes.clear()
    _streams.setdefault(here.ptr, here)
    _homes[block] = here.ptr


def born(array) -> None:
    """An array came to be on the current stream without an operator."""
    backend = _by_class.get(array.__class__)
    if backend is None or backend is CPU:
        return
    here = backend.xp.cuda.get_current_stream()
    if here.ptr or _homes or _waited:
        if array.base is None:
            _place(backend, here, array)
        _issued[here.ptr] = _issued.get(here.ptr, 0) + 1


def writing(array) -> None:
    """The current stream is about to write into an array: it waits for its last writer and its readers."""
    crossing = before((array,))
    if crossing is None:
        return
    for reader in _readers.get(_block(array), set()) - {crossing.here.ptr}:
        _wait(crossing.backend, crossing.here, reader)
    _place(crossing.backend, crossing.here, array)
    _issued[crossing.here.ptr] = _issued.get(crossing.here.ptr, 0) + 1


def release() -> None:
    """Let go of arrays that other streams have read; after a synchronisation that is all of them."""
    for _ in range(len(_held)):
        event, arrays = _held.popleft()
        if not event.done:
            _held.append((event, arrays))


def forget() -> None:
    """There is one stream again, and no work is left."""
    global several
    several = False
    for held in (_homes, _readers, _issued, _waited, _held):
        held.clear()


def note(node, crossing) -> None:
    """Remember on which stream a node's forward ran."""
    if crossing.here.ptr:
        _nodes[node] = crossing.here


def note_here(node, arrays) -> None:
    """The same for a node whose forward was Python code on the current stream."""
    backend = _backend_of(arrays)
    if backend is not None and (here := backend.xp.cuda.get_current_stream()).ptr:
        _nodes[node] = here


class Trip:
    """A backward pass over streams: each node runs where its forward ran; the caller's stream waits for all in the end.
    """

    def __init__(self, backend):
        self.caller = self.current = backend.xp.cuda.get_current_stream()
        self.null = backend.xp.cuda.Stream.null
        self.seen = {self.caller.ptr: self.caller}

    @classmethod
    def plan(cls, arrays):
        """The trip, or None where every node ran on the null stream and that is current."""
        backend = _backend_of(arrays)
        if backend is None or not (_nodes or backend.xp.cuda.get_current_stream().ptr):
            return None
        return cls(backend)

    def to(self, node) -> None:
        # leaves are the caller's, who changes them next
        where = _nodes.get(node, self.null) if node.edges else self.caller
        if self.caller.is_capturing() and not where.is_capturing():
            where = self.caller
        if where.ptr != self.current.ptr:
            where.use()
            self.current = where
            if where.ptr not in self.seen:
                self.seen[where.ptr] = where
                _wait_now(where, self.caller)  # what the caller put on its stream before backward() is there

    def back(self) -> None:
        self.caller.use()
        for stream in self.seen.values():
            if stream.ptr != self.caller.ptr:
                _wait_now(self.caller, stream)


def _wait_now(here, there):
    if here.is_capturing() == there.is_capturing():
        here.wait_event(there.record())
