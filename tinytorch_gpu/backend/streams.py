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

__all__ = [
    "Trip", "after", "before", "born", "forget", "keep", "note", "note_here", "release", "several", "touch", "writing",
]

several = False  # whether arrays may live on more than one stream; set by the backends
KEPT = 64  # pieces of work whose foreign arrays are kept together, until an event after the last has come
MOST = 1 << 16  # remembered blocks

_homes: dict[int, int] = {}  # address of a block -> handle of the stream that wrote it last
_readers: dict[int, set[int]] = {}  # address of a block -> handles of other streams that read it
_streams: weakref.WeakValueDictionary = weakref.WeakValueDictionary()  # handle -> the library's stream object
_arrived: weakref.WeakSet = weakref.WeakSet()  # streams that waited once for all that was before them
_issued: dict[int, int] = {}  # handle -> pieces of work put on the stream so far
_waited: dict[tuple[int, int], int] = {}  # (who, for whom) -> how many of those it has waited for
_reading: dict[int, dict] = {}  # handle -> arrays of other streams that its latest work reads
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


def _here(backend):
    """The current stream; None while no other stream than the null stream was ever seen."""
    here = backend.xp.cuda.get_current_stream()
    if here.ptr:
        if here not in _arrived:  # what was made before anybody watched is the null stream's work
            _streams[here.ptr] = here
            if not here.is_capturing():
                _arrived.add(here)
                here.wait_event(backend.xp.cuda.Stream.null.record())
    elif not _arrived and not _homes:
        return None
    return here


def before(arrays, params=None):
    """Wait for what other streams do to the operands, and to arrays among an operator's parameters.

    What comes back goes to `after`; None: there is one stream.
    """
    if params:
        arrays = [*arrays]
        for value in params.values():
            if value.__class__ is tuple or value.__class__ is list:
                arrays.extend(value)
            else:
                arrays.append(value)
    backend = _backend_of(arrays)
    if backend is None:
        return None
    here = _here(backend)
    if here is None:
        return None
    blocks, away = set(), []
    for a in arrays:
        if _by_class.get(a.__class__) is backend:
            block = _block(a)
            home = _homes.get(block)
            blocks.add(block)
            if home is None:  # of before anybody watched, which the stream waited for when it arrived
                _homes[block] = 0
                if here.ptr:
                    away.append(a)
            elif home != here.ptr:
                _wait(backend, here, home)
                away.append(a)
    return _Crossing(backend, here, blocks, away)


def after(crossing, outs) -> None:
    """What an operator made belongs to its stream; operands of other streams stay until that has read them."""
    here = crossing.here
    for out in outs:
        if _by_class.get(out.__class__) is crossing.backend and _block(out) not in crossing.blocks:
            _place(crossing.backend, here, _block(out))
    work = _issued[here.ptr] = _issued.get(here.ptr, 0) + 1
    reading = _reading.setdefault(here.ptr, {})
    for a in crossing.away:
        block = _block(a)
        reading[block] = a
        _readers.setdefault(block, set()).add(here.ptr)
    if reading and work % KEPT == 0:
        _hold(here)


def touch(array) -> None:
    """A function without an operator is about to use an array on the current stream."""
    crossing = before((array,))
    if crossing is not None:
        after(crossing, ())


def _hold(here) -> None:
    """Arrays that a stream's latest work reads go when an event of now has come."""
    reading = _reading.get(here.ptr)
    if reading and not here.is_capturing():
        _held.append((here.record(), list(reading.values())))
        reading.clear()
        while len(_held) > 1 and _held[0][0].done:
            _held.popleft()


def keep(array, stream) -> None:
    """Hold an array until what a stream has now is done."""
    _held.append((stream.record(), [array]))


def _place(backend, here, block) -> None:
    if len(_homes) >= MOST and not here.is_capturing():
        backend.wait()
        _homes.clear()
        _readers.clear()
    _readers.pop(block, None)
    _homes[block] = here.ptr


def born(array) -> None:
    """An array came to be on the current stream without an operator, or is looked at in a new way there."""
    backend = _by_class.get(array.__class__)
    if backend is None or backend is CPU:
        return
    here = _here(backend)
    if here is None:
        return
    block = _block(array)
    home = _homes.get(block)
    if home is None:
        _place(backend, here, block)
    elif home != here.ptr:
        _wait(backend, here, home)
        if array.base is None:  # perhaps new memory at an old address
            _homes[block] = here.ptr
    _issued[here.ptr] = _issued.get(here.ptr, 0) + 1


def writing(array) -> None:
    """The current stream is about to write into an array: it waits for its last writer and its readers."""
    crossing = before((array,))
    if crossing is None:
        return
    block, here = _block(array), crossing.here
    for reader in _readers.get(block, set()) - {here.ptr}:
        _wait(crossing.backend, here, reader)
    _place(crossing.backend, here, block)
    _issued[here.ptr] = _issued.get(here.ptr, 0) + 1


def release() -> None:
    """The device was waited for: no stream reads an array any more."""
    _reading.clear()
    _held.clear()


def forget() -> None:
    """There is one stream again, and no work is left."""
    global several
    several = False
    for held in (_homes, _readers, _arrived, _issued, _waited, _reading, _held):
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
