"""Every piece of memory that was seen in a block: when it came, what it was for, when it went."""
from __future__ import annotations

import functools
import gc
import threading
import tracemalloc
import weakref
from array import array as numbers

import numpy as np

from ...backend.device import backend_for, device_of
from ..measure import meter_of
from ..saved import root_of

__all__ = ["Applied", "Ledger", "Piece"]


class Piece:
    """One piece of memory. `roles`: [(time, role, label)], the last one that has begun holds; `savers`: operators that
    keep it for backward, which goes before the roles that are not `FIXED`. `used`: whether it has to do with what ran
    in the block; what was there before and has not is nobody's here."""

    __slots__ = ("bytes", "born", "died", "roles", "savers", "existed", "used", "ref")

    def __init__(self, size, born, role, label, existed=False):
        self.bytes, self.born, self.died, self.existed = size, born, None, existed
        self.roles, self.savers = [(born, role, label)], []
        self.used, self.ref = not existed, None


class Applied:
    """One operator that was recorded: where, what it took, made and saved, how long its node and that lived, and in
    which backward it ran."""

    __slots__ = ("name", "place", "line", "born", "inputs", "outputs", "saved", "released", "died", "records", "own",
                 "ref", "run", "workspace", "existed")

    def __init__(self, name, place, born, existed=False):
        self.name, self.place, self.born, self.existed = name, place, born, existed
        self.line = self.released = self.died = self.ref = self.run = None
        self.inputs = self.outputs = self.saved = ()
        self.records = self.own = self.workspace = 0

    def __str__(self):
        """The operator and its module."""
        where = "" if self.place is None else self.place.name or self.place.kind
        return f"{self.name} of {where}" if where else self.name


class _Ref(weakref.ref):
    __slots__ = ("key", "what")

    def __new__(cls, value, callback, key, what):
        self = super().__new__(cls, value, callback)
        self.key, self.what = key, what
        return self

    def __init__(self, value, callback, key, what):
        super().__init__(value, callback)


@functools.cache
def frees_first() -> bool:
    """Whether NumPy gives an array's memory back before weak references to it are told, as from 2.5 on."""
    found: list[int] = []
    probe = np.empty(1 << 16, np.uint8)
    ref = weakref.ref(probe, lambda _: found.append(tracemalloc.get_traced_memory()[0]))
    before = tracemalloc.get_traced_memory()[0]
    del probe
    del ref
    return found[0] < before - (1 << 15)


class Ledger:
    """Pieces, operators and events. An event is a reading of the meter: at an operator, at a node of the backward, at a
    step, and whenever a piece dies, so that between two events memory only comes, and what comes and goes between them
    is workspace. What the ledger itself takes is measured and left out."""

    def __init__(self, device):
        self.device = device
        self.meter = meter_of(device)
        self.backend = backend_for(device)
        self.lock = threading.RLock()  # a death may be told inside of any allocation, our own too
        self.closed = False
        self.pieces: dict[int, Piece] = {}  # alive, by the number of the owner
        self.all: list[Piece] = []
        self.applied: list[Applied] = []
        self.levels, self.peaks, self.slacks = numbers("q"), numbers("q"), numbers("q")
        self.labels: list[tuple] = []  # (stage, what) of each event; ("", "") for a death
        self.own = 0  # bytes of the ledger
        self.base = 0  # bytes that were there before the meter began
        self.strays = 0  # of a device: bytes of arrays from before that are in no tensor
        self._start = 0
        self._frees_first = self.meter.counts_objects and frees_first()

    # events

    @property
    def now(self) -> int:
        """The number of the event that is being written, or of the next."""
        return len(self.levels)

    def start(self) -> None:
        """From here on it is measured; what was seen before is there already."""
        self.meter.reset()
        if self.meter.counts_objects:
            self.base = sum(p.bytes for p in self.all)
            self._start = self.meter.read()[0]
        else:
            gc.collect()  # what garbage holds would be a stray, and be missing when it goes
            self.strays = self._start = max(0, self.meter.read()[0] - sum(p.bytes for p in self.all))
        self.event("start", "start", lambda: None)

    def event(self, stage, what, act, going=0) -> None:
        """Read the meter, then let `act()` write down what happened; what that takes is the ledger's own. `going`:
        bytes that the meter no longer has, and that are counted in this event for the last time."""
        with self.lock:
            if self.closed:
                return
            current, peak = self.meter.read()
            level = current + going - self._start - self.own + self.base
            high = peak - self._start - self.own + self.base
            if self.levels and high <= self.levels[-1]:  # no more than what the last event has told already
                high = level
            result = act()
            self.levels.append(level)
            self.peaks.append(max(level, high))
            self.slacks.append(self.meter.slack())
            self.labels.append((stage, what))
            if isinstance(result, Applied):
                result.workspace = self.peaks[-1] - level
            if self.meter.counts_objects:
                self.own += self.meter.read()[0] - current
            self.meter.reset()

    # pieces

    def see(self, array, role, label, existed=False) -> Piece | None:
        """The piece of an array, written down when it is new; None for another device's."""
        if not isinstance(array, self.backend.ndarray) or self.device.index not in (None, device_of(array).index):
            return None
        root, size = root_of(array)
        piece = self.pieces.get(id(root))
        if piece is None:
            piece = Piece(size, self.now, role, label, existed)
            try:
                piece.ref = _Ref(root, self._gone, id(root), piece)
            except TypeError:  # bytes and the like, which NumPy was given: they are taken to stay
                piece.ref = root
            self.pieces[id(root)] = piece
            self.all.append(piece)
        piece.used |= not existed
        return piece

    def becomes(self, array, role, label) -> Piece | None:
        """From now on the array's memory is for this."""
        piece = self.see(array, role, label)
        if piece is not None and piece.roles[-1][1:] != (role, label):
            piece.roles.append((self.now, role, label))
        return piece

    def _gone(self, ref) -> None:
        if self.closed:
            return
        piece = ref.what

        def act():
            piece.died = self.now
            piece.ref = None
            if self.pieces.get(ref.key) is piece:
                del self.pieces[ref.key]

        if piece.existed and self.meter.started:  # tracemalloc never knew it
            self.event("", "", act)
            self.base -= piece.bytes
        else:
            self.event("", "", act, piece.bytes if self._frees_first else 0)

    # operators

    def watch(self, node, applied) -> None:
        """Note when a node dies."""
        applied.ref = _Ref(node, self._node_gone, id(node), applied)
        self.applied.append(applied)

    def _node_gone(self, ref) -> None:
        if self.closed:
            return
        applied = ref.what
        with self.lock:
            applied.died = self.now
            if applied.released is None:
                applied.released = self.now
            self.own -= applied.own  # its hooks and its line go with it

    def close(self) -> None:
        with self.lock:
            self.closed = True
        self.meter.close()
