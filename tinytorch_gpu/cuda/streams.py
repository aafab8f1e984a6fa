"""Streams and events over the array library's own, for a GPU or the simulated device. As torch.cuda.

`with cuda.stream(s):` makes `s` the library's current stream (CuPy's on a GPU), so raw CuPy code inside runs on it too.
Tensors may cross streams without a word: see backend/streams.py.
"""
from __future__ import annotations

from ..backend.device import backend_for
from ..backend.device import device as Device
from .places import place


def _library(op, device):
    """(device, its library's `cuda` namespace). Raises: RuntimeError for a device without streams."""
    where = place(device)
    if where.type == "cpu":
        raise RuntimeError(f"[{op}] the CPU has no streams: give a device, 'cuda' or 'sim'")
    return where, backend_for(where).xp.cuda


class Stream:
    """A sequence of work on a device, in order; independent of other streams. As torch.cuda.Stream.

    It does not wait for the null stream (the default stream) by itself. Equal streams are the same stream.
    Raises: RuntimeError for a device without streams.
    """

    def __init__(self, device=None, priority=0, **kwargs):
        if kwargs:
            raise TypeError(f"[Stream] unexpected arguments {', '.join(kwargs)}: use ExternalStream for a handle")
        self.device, self._cuda = _library("Stream", device)
        with self._cuda.Device(self.device.index):
            self._raw = self._cuda.Stream(non_blocking=True, priority=priority)
        self.priority = priority
        self._outer: list = []

    @classmethod
    def _over(cls, raw, device, library):
        made = object.__new__(Stream)
        made.device, made._cuda, made._raw, made._outer = device, library, raw, []
        made.priority = getattr(raw, "priority", 0) or 0
        return made

    @property
    def cuda_stream(self) -> int:
        """The handle, for other libraries."""
        return self._raw.ptr

    def __eq__(self, other):
        return isinstance(other, Stream) and (self.device, self._raw.ptr) == (other.device, other._raw.ptr)

    def __hash__(self):
        return hash((self.device, self._raw.ptr))

    def __repr__(self):
        return f"<tinytorch_gpu.cuda.Stream device={self.device} cuda_stream={self._raw.ptr:#x}>"

    def query(self) -> bool:
        """Whether all work is done."""
        return self._raw.done

    def synchronize(self) -> None:
        """The host waits for all work of the stream."""
        self._raw.synchronize()

    def record_event(self, event=None):
        """An event at this place of the stream (a new one if None)."""
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event) -> None:
        """Work put on the stream from now on waits for an event."""
        event.wait(self)

    def wait_stream(self, stream) -> None:
        """Work put on this stream from now on waits for what `stream` has now."""
        self.wait_event(stream.record_event())

    def __enter__(self):
        context = StreamContext(self)
        self._outer.append(context)
        context.__enter__()
        return self

    def __exit__(self, *exc):
        self._outer.pop().__exit__(*exc)


class ExternalStream(Stream):
    """A stream of another library by its handle, which must outlive this. As torch.cuda.ExternalStream."""

    def __init__(self, stream_ptr, device=None):
        self.device, self._cuda = _library("ExternalStream", device)
        self._raw = self._cuda.ExternalStream(stream_ptr)
        self.priority, self._outer = 0, []


class Event:
    """A place in a stream's work, to wait for or to measure time between. As torch.cuda.Event.

    Times need `enable_timing=True`. `blocking`: a host that waits sleeps.
    """

    def __init__(self, enable_timing=False, blocking=False, interprocess=False):
        if interprocess:
            raise NotImplementedError("[Event] interprocess=True is not there")
        self._timing, self._blocking = enable_timing, blocking
        self._raw = self._cuda = None  # made on the device of the first stream that it is recorded on

    def __repr__(self):
        return f"<tinytorch_gpu.cuda.Event {'recorded' if self._raw is not None else 'not recorded'}>"

    def record(self, stream=None) -> None:
        """Put the event on a stream (the current one)."""
        stream = current_stream() if stream is None else stream
        if self._raw is None:
            self._cuda = stream._cuda
            self._raw = self._cuda.Event(block=self._blocking, disable_timing=not self._timing)
        self._raw.record(stream._raw)

    def wait(self, stream=None) -> None:
        """Work put on a stream (the current one) from now on waits for the event; nothing if it was not recorded."""
        if self._raw is not None:
            (current_stream() if stream is None else stream)._raw.wait_event(self._raw)

    def query(self) -> bool:
        """Whether the work before the event is done; True if it was not recorded."""
        return self._raw is None or self._raw.done

    def synchronize(self) -> None:
        """The host waits for the work before the event."""
        if self._raw is not None:
            self._raw.synchronize()

    def elapsed_time(self, end_event) -> float:
        """Milliseconds from this event to another. Raises: ValueError without timing, RuntimeError before they came."""
        if not (self._timing and end_event._timing):
            raise ValueError("[elapsed_time] both events should be created with argument enable_timing=True")
        if self._raw is None or end_event._raw is None:
            raise ValueError("[elapsed_time] both events must be recorded first")
        if not (self.query() and end_event.query()):
            raise RuntimeError("[elapsed_time] device not ready: synchronize() the later event first")
        return self._cuda.get_elapsed_time(self._raw, end_event._raw)


class StreamContext:
    """`with cuda.stream(s):` makes `s` current; None changes nothing. As torch.cuda.StreamContext."""

    def __init__(self, stream):
        self.stream, self._outer = stream, []

    def __enter__(self):
        stream = self.stream
        if stream is not None:
            self._outer.append(stream._cuda.get_current_stream())
            stream._raw.use()
        return stream

    def __exit__(self, *exc):
        if self.stream is not None:
            self._outer.pop().use()


def stream(stream) -> StreamContext:
    """Work inside `with cuda.stream(s):` goes to `s`, a Stream or a stream of CuPy. As torch.cuda.stream."""
    if stream is None or isinstance(stream, Stream):
        return StreamContext(stream)
    for kind in ("cuda", "sim"):
        if kind == "cuda" and type(stream).__module__.partition(".")[0] != "cupy":
            continue
        where, library = _library("stream", Device(kind))
        if isinstance(stream, (library.Stream, library.ExternalStream)):
            return StreamContext(Stream._over(stream, where, library))
    raise TypeError(f"[stream] expected a Stream, a stream of CuPy or None, got {type(stream).__name__}")


def current_stream(device=None) -> Stream:
    """The stream to which work goes now. As torch.cuda.current_stream."""
    where, library = _library("current_stream", device)
    return Stream._over(library.get_current_stream(), where, library)


def default_stream(device=None) -> Stream:
    """The null stream. As torch.cuda.default_stream."""
    where, library = _library("default_stream", device)
    return Stream._over(library.Stream.null, where, library)


def set_stream(stream) -> None:
    """Make a stream current from now on; None changes nothing. As torch.cuda.set_stream."""
    if stream is not None:
        stream._raw.use()
