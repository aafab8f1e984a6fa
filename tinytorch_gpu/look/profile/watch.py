"""What `look.profile` writes down of each span: times, the module, the operator's cost, the device's own time."""
from __future__ import annotations

import threading
import tracemalloc
import weakref
from collections import Counter, deque

import numpy as np

from ...autograd import modes
from ...autograd.node import REGISTRY, endpoint
from ...autograd.views import CopySlices
from ...backend import dtypes
from ...backend.device import backend_for, device_of, is_array
from ...cuda.streams import Event, current_stream
from ...tensor import Tensor
from .. import spans
from ..cost.cost import UNKNOWN, Cost, cost
from ..measure import differs

__all__ = ["KEPT", "Ran", "Watch", "names_of"]

KEPT = 100_000  # spans of the timeline; the tables count all
MADE = 1_000_000  # operators whose backward is still awaited
NOTHING: dict = {}
AREAS = {"backward": "rules", "pass": "engine", "leaf": "engine", "step": "steps", "module": "modules",
         "again": "again"}
APPLICATIONS = ("operator", "inplace")
ON_DEVICE = (*APPLICATIONS, "backward", "leaf", "step", "kernel", "again")
_PLAIN = (int, float, bool, str, type(None), np.dtype, dtypes.dtype)


class Ran:
    """One span that was seen, in the tree of those that this profile saw begin. `area`: which part of the program its
    own time belongs to. `inside`: it is part of an operator; `rule`: of a node's rule. `again`: a thing of the same
    name is around it. `source`: of a node, the operator that made it. `device`: seconds between its two events.
    `second`: it runs once more, for a checkpoint; `recomputed`: seconds that a node's rule waited for that, its own and
    the device's."""

    __slots__ = ("kind", "name", "place", "parent", "thread", "area", "inside", "rule", "again", "failed",
                 "start", "stop", "seconds", "own", "first", "last", "device",
                 "cost", "signature", "params", "bytes", "source", "second", "recomputed", "recomputed_device")

    def __init__(self, span, parent):
        kind = self.kind = span.kind
        self.name, self.place, self.parent = span.name, span.place, parent
        self.first = self.last = self.device = None
        self.cost = self.signature = self.params = self.bytes = self.source = None
        self.area = AREAS.get(kind, "forward")
        self.inside = self.rule = self.again = self.second = False
        self.recomputed = self.recomputed_device = 0.0
        if parent is None:
            self.thread = threading.current_thread()
            return
        self.thread = parent.thread
        self.inside = parent.inside or parent.kind == "operator"
        self.rule = parent.rule or parent.kind == "backward"
        self.second = parent.second or parent.kind == "again"
        if kind != "again" and (parent.area in ("rules", "steps", "again")
                                or parent.area == "engine" and kind != "backward"):
            self.area = parent.area
        above = parent
        while above is not None and not self.again:
            self.again = above.kind == kind and above.name == self.name and above.place == self.place
            above = above.parent

    def under(self, kind) -> Ran | None:
        """The nearest span of that kind around this one."""
        above = self.parent
        while above is not None and above.kind != kind:
            above = above.parent
        return above


class _Top(threading.local):
    def __init__(self):  # once in each thread
        self.ran: Ran | None = None


class Watch(spans.Listener):
    """Listens between `open` and `close`; `take` hands over what has ended since."""

    def __init__(self, device, model):
        self.device, self.timed = device, device.type != "cpu"
        self._model = None if model is None else weakref.ref(model)
        self._top = _Top()
        self._ended: deque[Ran] = deque()  # threads put in and take out without a lock
        self._made: dict[int, Ran] = {}  # creation number of a node -> the operator that made it
        self._costs: dict[tuple, Cost] = {}
        self._signatures: dict[tuple, tuple] = {}
        self.count = 0
        self.elsewhere: Counter = Counter()  # operators by the device they ran on, where it is another one
        self.recorded = self.traced = False
        self.on_full = None  # called when many have ended, with nothing

    def open(self) -> None:
        backend_for(self.device).synchronize(self.device.index)
        self.thread = threading.current_thread()
        self.zero_event = self._event() if self.timed else None
        self._spent = spans.spent()
        spans.listen(self)
        model = None if self._model is None else self._model()
        if model is not None:
            spans.name_modules(model)
        self.start = spans.clock()
        self.stop: float | None = None

    def close(self) -> None:
        spans.leave(self)
        idle = spans.clock()
        backend_for(self.device).synchronize(self.device.index)
        self.stop = spans.clock()
        self.waited = self.stop - idle
        self.spent = spans.spent() - self._spent
        self._made.clear()
        self._costs.clear()
        self._signatures.clear()

    @property
    def seconds(self) -> float:
        """Of the block so far."""
        return (spans.clock() if self.stop is None else self.stop) - self.start

    def take(self) -> list[Ran]:
        found = []
        while self._ended:
            found.append(self._ended.popleft())
        if len(self._made) > MADE:  # the oldest; most have had their backward
            for order in list(self._made)[:MADE // 2]:
                self._made.pop(order, None)
        if self.timed and found:
            backend_for(self.device).synchronize(self.device.index)
        for ran in found:
            self.count += 1
            if ran.signature is not None and ran.cost is None:
                ran.cost = self._cost(ran)
            if ran.last is not None:
                ran.device = ran.first.elapsed_time(ran.last) / 1e3
                if ran.kind == "again" and (node := ran.under("backward")) is not None:
                    node.recomputed_device += ran.device
        return found

    # told by spans

    def begin(self, span):
        parent = self._top.ran
        ran = self._top.ran = Ran(span, parent)
        if parent is None:
            self.recorded |= modes.anomaly is not None  # a recorder sets it too
            self.traced |= tracemalloc.is_tracing()
        elif span.kind == "backward":
            self._from(span.what, ran)
        if self.timed and span.kind in ON_DEVICE:
            ran.first = self._event()
        return ran

    def end(self, span, ran):
        if ran.first is not None:
            ran.last = self._event()
            if ran.last is None:
                ran.first = None
        self._top.ran = ran.parent
        ran.start, ran.stop, ran.failed = span.start, span.stop, span.failed
        ran.seconds, ran.own = span.seconds, span.own
        if span.kind == "operator":
            self._applied(span, ran)
        elif span.kind == "again":
            if (node := ran.under("backward")) is not None:
                node.recomputed += ran.seconds
        elif span.kind == "kernel":
            there = {id(a): a.nbytes for a in span.given or () if is_array(a)}
            ran.bytes = sum(there.values())
        self._ended.append(ran)
        if len(self._ended) >= KEPT and self.on_full is not None:
            self.on_full()

    def _event(self) -> Event | None:
        """An event on the stream to which work goes; None while that is being captured into a graph."""
        stream = current_stream(self.device)
        if stream._raw.is_capturing():
            return None
        event = Event(enable_timing=True)
        event.record(stream)
        return event

    def _from(self, node, ran) -> None:
        source = self._made.get(node.order)
        if source is None and node.__class__ is CopySlices:  # the operator that wrote into the view
            edge = node.edges[1]
            source = None if edge is None else self._made.get(endpoint(edge)[0].order)
        if source is not None:
            ran.source, ran.place = source, source.place

    def _applied(self, span, ran) -> None:
        results = span.result if span.result.__class__ is tuple else (span.result,)
        for r in results:
            if isinstance(r, Tensor) and r._node is not None:
                self._made.setdefault(r._node.order, ran)  # what returns its operand made no node
                break
        if span.failed or REGISTRY.get(span.what.__name__) is not span.what:
            ran.cost = UNKNOWN  # of a user's own one too, perhaps of a known name
        elif not span.params:
            ran.params = NOTHING
        elif _plain(span.params.values()):
            ran.params = span.params
        else:  # arrays, which may not live on here
            ran.cost = cost(span.name, *names_of((_forms(span.given), _forms(results))), span.params)
        first = results[0]._array if isinstance(results[0], Tensor) else results[0]
        if not span.failed and is_array(first) and differs(where := device_of(first), self.device):
            self.elsewhere[str(where)] += 1
        signature = (_forms(span.given), _forms(results))
        # one object for all that are alike: fewer for the garbage collector, which took most of a long block's time
        ran.signature = self._signatures.setdefault(signature, signature)

    def _cost(self, ran) -> Cost:
        key = (ran.name, ran.signature, tuple(ran.params.items()))
        found = self._costs.get(key)
        if found is None:
            found = self._costs[key] = cost(ran.name, *names_of(ran.signature), ran.params)
        return found


def _forms(values) -> tuple:
    """(NumPy's dtype, shape) of Tensors and raw arrays, None for anything else."""
    found = []
    for v in values:
        v = v._array if isinstance(v, Tensor) else v
        found.append((v.dtype, v.shape) if is_array(v) else None)
    return tuple(found)


def names_of(signature) -> tuple[list, list]:
    """Inputs and outputs as (dtype's name, shape)."""
    given, made = ([None if a is None else (a[0].name, a[1]) for a in side] for side in signature)
    return given, made


def _plain(values) -> bool:
    """Whether they are numbers and words, which may be kept and compared."""
    return all([isinstance(v, _PLAIN) or isinstance(v, tuple) and _plain(v) for v in values])
