"""Streams and events of the simulated device, with work that is delayed as long as its order allows.

While a stream besides the null stream is alive, whatever is put on a stream waits in that stream's queue, as a
function over the memory itself. It runs when something ordered after it needs it: a host read, a synchronisation, an
event that another stream waits for. So a missing wait reads memory that nothing was written to yet (NaN, -1), or that
was overwritten or given away since. The null stream is CUDA's legacy one: it and the blocking streams wait for each
other, non-blocking streams wait for nobody. Without other streams work runs at once, as if there were no queues.

One order is tried of the many that a GPU may take: as late as possible, or with `others_first` everything unrelated
before what was asked for. A race that shows in neither is not seen, and work inside one stream never overlaps.
"""
from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections import Counter, deque

from . import pool
from .pool import tally

LOCK = threading.RLock()
_numbers = itertools.count(1)
REASONS = {
    "StreamCaptureUnsupported": "operation not permitted when stream is capturing",
    "StreamCaptureInvalidated": "operation failed due to a previous error during capture",
    "StreamCaptureMerge": "operation would result in a merge of separate capture sequences",
    "StreamCaptureUnmatched": "capture was not initiated in this stream",
    "StreamCaptureUnjoined": "capturing stream has unjoined work",
    "StreamCaptureIsolation": "dependency created on uncaptured work in another stream",
    "StreamCaptureImplicit": "operation would make the legacy stream depend on a capturing blocking stream",
    "CapturedEvent": "operation not permitted on an event last recorded in a capturing stream",
    "NotReady": "device not ready",
    "InvalidResourceHandle": "invalid resource handle",
}


class CUDARuntimeError(RuntimeError):
    """As `cupy.cuda.runtime.CUDARuntimeError`."""

    def __init__(self, name):
        super().__init__(f"cudaError{name}: {REASONS[name]}")


class Queue:
    """The work of one stream: `issued` items so far, of which `ran` have run."""

    __slots__ = ("__weakref__", "blocking", "capture", "ident", "issued", "items", "ran")

    def __init__(self, ident, blocking):
        self.ident, self.blocking = ident, blocking
        self.items: deque = deque()
        self.issued = self.ran = 0
        self.capture = None


class _Local(threading.local):
    stream = None
    inside = 0  # work is running: what it calls is part of it


NULL = Queue(0, True)
local = _Local()
_alive: weakref.WeakSet = weakref.WeakSet()  # streams besides the null stream
_queues: weakref.WeakSet = weakref.WeakSet()
_busy: dict[int, Queue] = {}  # queues with work, also of streams that are gone
_touched: Counter = Counter()  # how many items of work use a block, by its address; None: any block
ANY = (None,)
_others_first = False


def active() -> bool:
    """Whether work is delayed: a stream besides the null stream is alive. What the last one left runs here."""
    if len(_alive):
        return True
    if not local.inside:
        if _busy:
            settle(None)
        from . import delay

        delay.uninstall()
    return False


def current() -> Queue:
    stream = local.stream
    return NULL if stream is None else stream.queue


class others_first:
    """`with others_first():` a wait runs all other streams' work before its own: the opposite order of the usual."""

    def __enter__(self):
        global _others_first
        self.outer, _others_first = _others_first, True

    def __exit__(self, *exc):
        global _others_first
        _others_first = self.outer


# the queues

def put(queue: Queue, run, needs=(), touches=()) -> None:
    """Work for a stream; `needs` are (queue, count) that must have run before it, `touches` the addresses of the blocks
    it may use (None: any). At once where nothing is delayed."""
    if queue.capture is not None:
        queue.capture.put(queue, run)
        return
    if not active():
        _run(run)
        return
    with LOCK:
        if queue is NULL:
            _refuse_implicit()
            needs = [*needs, *((q, q.issued) for q in _busy.values() if q.blocking and q is not NULL)]
        elif queue.blocking and NULL.items:
            needs = [*needs, (NULL, NULL.issued)]
        touches = ANY if touches is None else touches
        for ptr in touches:
            _touched[ptr] += 1
        queue.items.append((run, needs, touches))
        queue.issued += 1
        _busy[queue.ident] = queue


def _refuse_implicit():
    if any(q.capture is not None and q.blocking for q in _queues):
        raise CUDARuntimeError("StreamCaptureImplicit")


def _run(run):
    if run is not None:
        local.inside += 1
        try:
            run()
        finally:
            local.inside -= 1


def drain(queue: Queue, upto: int) -> None:
    """Run the work of a stream up to its item number `upto`, and before each item what it waits for."""
    while queue.ran < upto:
        run, needs, touches = queue.items.popleft()
        queue.ran += 1
        if not queue.items:
            _busy.pop(queue.ident, None)
        for other, count in needs:
            drain(other, count)
        for ptr in touches:
            _touched[ptr] -= 1
            if not _touched[ptr]:
                del _touched[ptr]
        _run(run)


def untouched(ptr) -> bool:
    """Whether no work that is left uses the block at an address."""
    return not _touched[ptr] and not _touched[None]


def settle(queue: Queue | None) -> None:
    """Run all work of a stream (None: of the device) that the host now waits for."""
    with LOCK:
        if _others_first:
            for other in [q for q in list(_busy.values()) if q is not queue]:
                drain(other, other.issued)
        if queue is None or queue is NULL:
            for other in list(_busy.values()):
                if queue is None or other.blocking:
                    drain(other, other.issued)
        else:
            drain(queue, queue.issued)
        if not _busy:
            pool.POOL.forget()


def forbid_in_capture(queue: Queue) -> None:
    """Raises: CUDARuntimeError where the host would wait for a stream that records a graph."""
    if queue.capture is not None:
        queue.capture.invalid = True
        raise CUDARuntimeError("StreamCaptureUnsupported")
    if queue is NULL:
        _refuse_implicit()


def wait_current() -> None:
    """The host reads from the device: it waits for the current stream."""
    queue = current()
    forbid_in_capture(queue)
    if active():
        settle(queue)


def synchronize_device() -> None:
    for queue in _queues:
        forbid_in_capture(queue)
    tally("synchronizations")
    if active():
        settle(None)


class Stream:
    """As `cupy.cuda.Stream`; `ptds=True`, the stream per thread, is not simulated."""

    null: Stream

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        if ptds:
            raise NotImplementedError("[simulated] Stream(ptds=True) is not simulated: make a stream for each thread")
        self.priority = 0 if priority is None else priority
        self.non_blocking = bool(non_blocking) and not null
        self._outer: list = []
        if null:
            self.queue = NULL
            return
        from . import delay

        delay.install()
        self.queue = Queue(next(_numbers), not non_blocking)
        _queues.add(self.queue)
        _alive.add(self)

    def __eq__(self, other):
        return getattr(other, "ptr", None) == self.ptr

    def __hash__(self):
        return hash(self.ptr)

    def __repr__(self):
        return f"<Simulated CUDA Stream {self.ptr}>"

    @property
    def ptr(self):
        return self.queue.ident

    @property
    def is_non_blocking(self):
        return self.non_blocking

    device_id = 0

    def __enter__(self):
        self._outer.append((threading.get_ident(), local.stream))
        self.use()
        return self

    def __exit__(self, *exc):
        local.stream = self._outer.pop()[1]

    def use(self):
        local.stream = None if self.queue is NULL else self
        return self

    @property
    def done(self) -> bool:
        """Whether all work has run. Asking runs one item, so that a loop that asks comes to its end."""
        return _poll(self.queue, self.queue.issued)

    def synchronize(self):
        forbid_in_capture(self.queue)
        tally("synchronizations")
        if active():
            settle(self.queue)

    def record(self, event=None):
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event):
        mine = self.queue.capture
        if event.capture is not None and not event.capture.ended:
            if mine is not None and mine is not event.capture:
                raise CUDARuntimeError("StreamCaptureMerge")
            event.capture.join(self.queue, event.queue)
            return
        if mine is not None:
            mine.invalid = True
            raise CUDARuntimeError("StreamCaptureIsolation")
        if event.queue is not None and event.queue is not self.queue and event.queue.ran < event.upto:
            put(self.queue, None, [(event.queue, event.upto)])

    def launch_host_func(self, callback, arg):
        put(self.queue, lambda: callback(arg))

    def add_callback(self, callback, arg):
        put(self.queue, lambda: callback(self, 0, arg))

    def begin_capture(self, mode=None):
        """Record what is put on the stream until `end_capture`. `mode` is CuPy's default, relaxed (2)."""
        from . import graphs

        graphs.begin(self.queue, mode)

    def end_capture(self):
        """The recorded work, as a Graph."""
        from . import graphs

        return graphs.end(self.queue)

    def is_capturing(self) -> bool:
        return self.queue.capture is not None


Stream.null = Stream(null=True)


class ExternalStream(Stream):
    """As `cupy.cuda.ExternalStream`: a stream by its handle."""

    def __init__(self, ptr, device_id=-1):
        self.priority, self._outer = 0, []
        found = NULL if ptr == 0 else next((q for q in _queues if q.ident == ptr), None)
        if found is None:
            raise CUDARuntimeError("InvalidResourceHandle")
        self.queue, self.non_blocking = found, not found.blocking


def get_current_stream(device_id=-1) -> Stream:
    return Stream.null if local.stream is None else local.stream


def _poll(queue, upto) -> bool:
    if queue is None:
        return True
    if queue.capture is not None:
        forbid_in_capture(queue)
    if queue.ran >= upto:
        return True
    with LOCK:
        drain(queue, min(queue.ran + 1, upto))
    return False


class Event:
    """As `cupy.cuda.Event`: a place in a stream's work, and the time at which the work came there."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        if interprocess:
            raise NotImplementedError("[simulated] events of other processes are not simulated")
        self.disable_timing = disable_timing
        self.queue = self.capture = self.time = None
        self.upto = 0

    def record(self, stream=None):
        queue = current() if stream is None else stream.queue
        self.queue, self.capture, self.time = queue, queue.capture, None
        if queue.capture is None:
            put(queue, lambda: setattr(self, "time", time.perf_counter()))
            self.upto = queue.issued

    @property
    def done(self) -> bool:
        if self.capture is not None:
            raise CUDARuntimeError("CapturedEvent")
        return _poll(self.queue, self.upto)

    def synchronize(self):
        if self.capture is not None:
            raise CUDARuntimeError("CapturedEvent")
        tally("synchronizations")
        if self.queue is not None:
            with LOCK:
                drain(self.queue, self.upto)


def get_elapsed_time(start_event, end_event) -> float:
    """Milliseconds of the host's clock between two events that have come. Raises: CUDARuntimeError before that."""
    for event in (start_event, end_event):
        if event.disable_timing or event.queue is None:
            raise CUDARuntimeError("InvalidResourceHandle")
        if event.time is None:
            raise CUDARuntimeError("NotReady")
    return (end_event.time - start_event.time) * 1e3
