"""Graph capture of the simulated device: work is recorded, and refused where CUDA or CuPy refuse it.

Refused while a stream records: host reads and every other wait, copies of pageable host memory, CuPy's cuBLAS and
cuSOLVER, waiting for work outside, the null stream while a blocking stream records. A refusal by CUDA spoils the
capture: its end raises too. The graph runs the recorded functions again on the same memory at each launch.
"""
from __future__ import annotations

import contextlib

from . import streams
from .streams import NULL, CUDARuntimeError, Queue, Stream

RELAXED = 2


class Capture:
    """What streams have recorded since one of them began."""

    def __init__(self, origin):
        self.origin, self.items = origin, []
        self.invalid = self.ended = False
        self.joined: dict[Queue, bool] = {}  # other streams that take part: whether the origin waited for them

    def put(self, queue, run):
        if self.invalid:
            raise CUDARuntimeError("StreamCaptureInvalidated")
        if queue is not self.origin:
            self.joined[queue] = False
        if run is not None:
            self.items.append(run)

    def join(self, queue, recorded_on):
        """`queue` waits for an event of this capture."""
        if queue is self.origin or queue in self.joined:
            if recorded_on is not self.origin and queue is self.origin:
                self.joined[recorded_on] = True
            return
        if queue is NULL:
            self.invalid = True
            raise CUDARuntimeError("StreamCaptureImplicit")
        queue.capture = self
        self.joined[queue] = False


class Graph:
    """As `cupy.cuda.Graph`."""

    def __init__(self, items):
        self._items = tuple(items)

    def launch(self, stream=None):
        """Put the recorded work on a stream (the current one)."""
        queue = streams.current() if stream is None else stream.queue
        for run in self._items:
            streams.put(queue, run)

    def __len__(self):
        return len(self._items)


def begin(queue, mode=None) -> None:
    if mode not in (None, RELAXED):
        raise NotImplementedError(f"[simulated] begin_capture knows the relaxed mode (2), got {mode}")
    if queue is NULL or queue.capture is not None:
        raise CUDARuntimeError("StreamCaptureUnsupported")
    queue.capture = Capture(queue)


def end(queue) -> Graph:
    found = queue.capture
    if found is None or found.origin is not queue:
        raise CUDARuntimeError("StreamCaptureUnmatched")
    found.ended = True
    for member in (queue, *found.joined):
        member.capture = None
    if found.invalid:
        raise CUDARuntimeError("StreamCaptureInvalidated")
    if not all(found.joined.values()):
        raise CUDARuntimeError("StreamCaptureUnjoined")
    return Graph(found.items)


class Captured:
    """What `capture` yields: `stream`, and after the block `graph`."""

    def __init__(self, stream):
        self.stream, self.graph = stream, None

    def launch(self):
        """Run the graph on the current stream."""
        self.graph.launch()


@contextlib.contextmanager
def capture():
    """`with simulated.capture() as c:` records the block's work on a non-blocking stream of its own; nothing runs
    before `c.launch()`. What CUDA and CuPy refuse while a stream records raises their errors."""
    streams.synchronize_device()
    captured = Captured(Stream(non_blocking=True))
    with captured.stream:
        captured.stream.begin_capture()
        try:
            yield captured
        except BaseException:
            with contextlib.suppress(CUDARuntimeError):  # the first error is the one to show
                captured.stream.end_capture()
            raise
        captured.graph = captured.stream.end_capture()
