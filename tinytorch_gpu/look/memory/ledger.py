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

__all__ = ["BLOCK", "Applied", "Entry", "Ledger", "Piece", "Pieces", "in_blocks", "own"]

BLOCK = 512  # bytes: what CuPy's pool rounds sizes to


# Emptied lists and tuples are kept by the interpreter and handed out again, and tracemalloc counts them all the while:
# one that is taken from there and stays shows as no memory of the ledger's, and one more of the program's. Those of
# subclasses are made anew.
class Pieces(list):
    """A list that stays."""

    __slots__ = ()


class Entry(tuple):
    """A tuple that stays."""

    __slots__ = ()


class Piece:
    """One piece of memory. `roles`: [(time, role, label)], the last one that has begun holds; `savers`: operators that
    keep it for backward, which goes before the roles that are not `FIXED`; `keepers`: those whose checkpoint keeps it
    to run again. `used`: whether it has to do with what ran in the block; what was there before and has not is nobody's
    here."""

    __slots__ = ("bytes", "born", "died", "roles", "savers", "keepers", "existed", "used", "ref")

    def __init__(self, size, born, role, label, existed=False):
        self.bytes, self.born, self.died, self.existed = size, born, None, existed
        self.roles, self.savers, self.keepers = Pieces([Entry((born, role, label))]), Pieces(), Pieces()
        self.used, self.ref = not existed, None


class Applied:
    """One operator that was recorded: where, what it took, made and saved, how long its node and that lived, and in
    which backward it ran. `records`: bytes of the node, `keeping`: of what goes with what it saved. `extra`: what the
    watcher made and the node only refers to, so that it goes when the ledger lets go of it, and is measured then."""

    __slots__ = ("name", "place", "line", "born", "inputs", "outputs", "saved", "released", "died",
                 "records", "keeping", "extra", "handles", "ref", "run", "workspace", "existed")

    def __init__(self, name, place, born, existed=False):
        self.name, self.place, self.born, self.existed = name, place, born, existed
        self.line = self.released = self.died = self.ref = self.run = self.extra = None
        self.inputs = self.outputs = self.saved = self.handles = ()
        self.records = self.keeping = self.workspace = 0

    def __str__(self):
        """The operator and its module."""
        where = "" if self.place is None else self.place.name or self.place.kind
        return f"{self.name} of {where}" if where else self.name


def in_blocks(size) -> int:
    """Bytes that a device's pool takes for an array."""
    return size + -size % BLOCK


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


def own(method):
    """What such a call takes, and leaves behind, is the ledger's own. The garbage collector rests meanwhile: what it
    frees is the program's."""
    @functools.wraps(method)
    def measured(self, *args):
        ledger = getattr(self, "ledger", self)
        with ledger.lock:
            outermost = ledger.begin()
            try:
                return method(self, *args)
            finally:
                if outermost:
                    ledger.finish()

    return measured


def _emptied(x) -> None:
    """Leave some lists, tuples and dictionaries with the interpreter, so that what the ledger makes for a moment comes
    from these: what was made anew would stay with the interpreter, for the program, and be counted as the ledger's."""
    made = [[x], [x], [x], {0: x}, {0: x}, (x,), (x,), (x,), (x, x), (x, x), (x, x), (x, x), (x, x, x), (x, x, x),
            (x, x, x), (x, x, x, x)]
    made.clear()


class Ledger:
    """Pieces, operators and events. An event is a reading of the meter: at an operator, at a node of the backward, at a
    step, and whenever a piece dies, so that between two events memory only comes, and what comes and goes between them
    is workspace. What the ledger itself takes is measured and left out."""

    def __init__(self, device):
        self.device = device
        self.meter = meter_of(device)
        self.backend = backend_for(device)
        self.lock = threading.RLock()  # a death may be told inside of any allocation, our own too
        self.closed = self.busy = self._collects = False
        self.pieces: dict[int, Piece] = {}  # alive, by the number of the owner
        self.all: list[Piece] = []
        self.applied: list[Applied] = []
        self.gone: list[Applied] = []  # whose nodes died, with what the watcher made for them
        self.levels, self.peaks, self.slacks = numbers("q"), numbers("q"), numbers("q")
        self.labels: list[tuple] = []  # (stage, what) of each event; ("", "") for a death
        self.own = 0  # bytes of the ledger
        self.base = 0  # bytes that were there before the meter began
        self.strays = 0  # of a device: bytes of arrays from before that are in no tensor
        self._start = 0
        self._high: int | None = None  # the highest moment since the last event, as far as it was read
        self._reading = (0, 0)  # at the begin of a call that is the ledger's own; kept, so that it is no difference
        # made once: a weak reference lets go of its callback after the call
        self._told_gone, self._told_node_gone = self._gone, self._node_gone
        self._frees_first = self.meter.counts_objects and frees_first()

    def begin(self) -> bool:
        """Whether this call is not inside of another one of the ledger's own."""
        if self.busy:
            return False
        _emptied(self)
        self._reading = self.meter.read()
        self.busy, self._collects = True, gc.isenabled()
        gc.disable()
        high = self._reading[1] - self._start - self.own + self.base
        self._high = high if self._high is None else max(self._high, high)
        return True

    def finish(self) -> None:
        if not self.closed:
            if self.meter.counts_objects:
                self.own += self.meter.read()[0] - self._reading[0]
            self.meter.reset()
        self.busy = False
        if self._collects:
            gc.enable()

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
            self.strays = self._start = max(0, self.meter.read()[0] - sum(in_blocks(p.bytes) for p in self.all))
        self._first()

    @own
    def _first(self):
        self.event("start", "start", lambda: None)

    def event(self, stage, what, act, going=0) -> None:
        """Write down what the meter said at the begin of this call, which is `own`, then what `act()` knows. `going`:
        bytes that the meter no longer has, and that are counted in this event for the last time."""
        if self.closed:
            return
        level = self._reading[0] + going - self._start - self.own + self.base
        high, self._high = self._high, None
        if high is None or self.levels and high <= self.levels[-1]:  # no more than what the last event has told already
            high = level
        result = act()
        self.levels.append(level)
        self.peaks.append(max(level, high))
        self.slacks.append(self.meter.slack())
        self.labels.append(Entry((stage, what)))
        if isinstance(result, Applied):
            result.workspace = self.peaks[-1] - level

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
                piece.ref = _Ref(root, self._told_gone, id(root), piece)
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
            piece.roles.append(Entry((self.now, role, label)))
        return piece

    def _gone(self, ref) -> None:
        with self.lock:
            if self.closed:
                return
            if self.begin():
                try:
                    self._dies(ref.what, ref.key)
                finally:
                    self.finish()
            else:
                self._dies_inside(ref.what, ref.key)

    def _dies(self, piece, key):
        unknown = piece.existed and self.meter.started  # tracemalloc never knew it
        piece.died = self.now
        self.event("", "", lambda: None, piece.bytes if self._frees_first and not unknown else 0)
        self._forget(piece, key, unknown)

    def _dies_inside(self, piece, key):
        """In a call of the ledger's own, whose difference it is not; the event that is being written still has it."""
        unknown = piece.existed and self.meter.started
        piece.died = self.now
        if self.meter.counts_objects and not unknown:
            self.own += piece.bytes
        self._forget(piece, key, unknown)

    def _forget(self, piece, key, unknown):
        if unknown:
            self.base -= piece.bytes
        if self.pieces.get(key) is piece:  # the weak reference stays: it would go after this call
            del self.pieces[key]

    # operators

    def watch(self, node, applied) -> None:
        """Note when a node dies."""
        applied.ref = _Ref(node, self._told_node_gone, id(node), applied)
        self.applied.append(applied)

    @own
    def _node_gone(self, ref) -> None:
        if self.closed:
            return
        applied = ref.what
        applied.died = self.now
        if applied.released is None:
            applied.released = self.now
        self.gone.append(applied)

    def let_go(self) -> None:
        """Of what the watcher made for nodes that are gone: only now, since what a node refers to goes after itself."""
        for applied in self.gone:
            applied.extra, applied.handles = None, ()
        self.gone.clear()

    def close(self) -> None:
        with self.lock:
            self.closed = True
            self._told_gone = self._told_node_gone = None  # these refer to the ledger
        self.meter.close()
