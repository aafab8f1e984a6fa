"""Every piece of memory that was seen in a block: when it came, what it was for, when it went."""
from __future__ import annotations

import functools
import gc
import threading
import tracemalloc
import weakref
from array import array as numbers
from sys import getsizeof

import numpy as np

from ...backend.device import backend_for, device_of
from ..measure import meter_of

__all__ = ["BLOCK", "LABELS", "ROLES", "STAGES", "WHAT", "Ledger", "Ref", "in_blocks", "own"]

BLOCK = 512  # bytes: what CuPy's pool rounds sizes to

# The first number of a note says what it is; the others are, in order:
(READ,  # bytes now, at most since the last note of this kind, of the notes themselves
 EVENT,  # slack, stage, kind of WHAT, what of that kind
 PIECE,  # piece, bytes, role, kind of LABELS, what of that kind
 ROLE,  # piece, role, kind, what
 USED,  # piece
 GONE,  # piece, whether the next event is about that
 OPERATOR,  # text of its name, place, whether it was there before, whether it is an end of the graph
 LINE,  # operator, code, instruction
 INPUT,  # operator, piece
 OUTPUT,  # operator, piece
 SAVED,  # operator, piece
 KEPT,  # operator, piece: by its checkpoint
 RECORDS,  # operator, bytes until it dies, bytes until what it saved is released; several add up
 RELEASED,  # operator
 DIED,  # operator
 RAN,  # operator
 CALL,  # place
 GIVEN,  # piece: an argument of the last call
 COUNTED,  # one more key in `counted`
 TOOK,  # bytes that the ledger keeps from now on
 GREW,  # which of those things that grow, its bytes
 START,  # bytes now; what was seen before was there before
 ) = range(22)
SIZES = (3, 4, 5, 4, 1, 2, 4, 3, 2, 2, 2, 2, 3, 1, 1, 1, 1, 1, 0, 1, 2, 1)  # of the notes, without their first number
FRAME = 6  # what grows beside the six things of the ledger: the program's function that was looked at
STAGES = ("", "start", "forward", "backward", "optimizer", "end")
ROLES = ("parameters", "buffers", "gradients", "optimizer", "inputs", "flowing", "tensors")
WHAT = ("death", "text", "operator", "again", "reaches", "backward", "leaf", "call")
LABELS = ("text", "operator", "given", "arrives", "sent", "sum", "cast", "argument")
_NONE, _START, FORWARD, BACKWARD, STEP, END = range(len(STAGES))
_DEATH, SAID, RUNS, AGAIN, REACHES, BACK, LEAF, CALLED = range(len(WHAT))
PARAMETERS, BUFFERS, GRADIENTS, OPTIMIZER, INPUTS, FLOWING, TENSORS = range(len(ROLES))
TEXT, OF, GIVEN_TO, ARRIVES, SENT, SUM, CAST, ARGUMENT = range(len(LABELS))


def in_blocks(size) -> int:
    """Bytes that a device's pool takes for an array."""
    return size + -size % BLOCK


class Ref(weakref.ref):
    """A weak reference that knows the number of a piece or an operator."""

    __slots__ = ("key", "number")
    key: int
    number: int


class _Stays:
    """In the place of a reference to what allows none (bytes and the like, which NumPy was given): taken to stay."""

    __slots__ = ("root", "key", "number")
    root: object
    key: int
    number: int


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
    """Pieces of memory, operators and events, by numbers, as notes in one array, which `story.py` reads after the
    block. An event is a reading of the meter: at an operator, at a node of the backward, at a step, and whenever a
    piece dies, so that between two events memory only comes, and what comes and goes between them is workspace.

    What the ledger itself takes is left out: the exact sizes of the few things that it keeps (the notes, and weak
    references and their numbers), added up. A difference of two readings would not do: lists and tuples that were made
    for a moment stay with the interpreter, which hands them to the program, and then they are the program's. Little is
    made while tracemalloc looks on, since it takes microseconds for each number that is: no sums, no differences.
    """

    def __init__(self, device):
        self.device = device
        self.meter = meter_of(device)
        self.backend = backend_for(device)
        self.lock = threading.RLock()  # a death may be told inside of any allocation, our own too
        self.closed = self.busy = self._collects = self._started = False
        self.pieces: dict[int, Ref | _Stays] = {}  # alive, by the number of the object that owns the memory
        self.nodes: dict[int, Ref] = {}  # alive, operators by the number of their node
        self.counted: dict[int, int] = {}  # what a graph keeps beside arrays -> the operator that counts it
        self.saving = bytearray()  # of each operator: whether it has what it saved
        self.numbers: list[int] = []  # of pieces and operators: one object each, whoever has it
        self.made = 0  # pieces so far
        self.notes = numbers("q")
        self.put = self.notes.append
        self.texts: dict[str, int] = {}
        self._kept = (self.pieces, self.nodes, self.counted, self.saving, self.numbers, self.texts)
        self._sizes = numbers("q", map(getsizeof, self._kept))  # of these, as they were noted
        self.existing = 0  # pieces that were there before
        self.held = 0  # bytes of these, in blocks
        self.strays = 0  # of a device: bytes of arrays from before that are in no tensor
        # made once: a weak reference lets go of its callback after the call
        self._told_gone, self._told_node_gone = self._gone, self._node_gone
        self._read, self._reset, self._slack = self.meter.read, self.meter.reset, self.meter.slack
        if self.meter.counts_objects:
            self._read, self._reset = tracemalloc.get_traced_memory, tracemalloc.reset_peak
        self.frees_first = self.meter.counts_objects and frees_first()
        self._any = device.index is None or device.type == "cpu"

    def begin(self) -> bool:
        """Whether this call is not inside of another one of the ledger's own. The garbage collector rests meanwhile:
        what it frees is the program's."""
        if self.busy:
            return False
        now, peak = self._read()
        size = getsizeof(self.notes)
        self.busy, self._collects = True, gc.isenabled()
        gc.disable()
        put = self.put
        put(READ)
        put(now)
        put(peak)
        put(size)
        return True

    def finish(self) -> None:
        if not self.closed:
            self._reset()
        self.busy = False
        if self._collects:
            gc.enable()

    # events

    def start(self) -> None:
        """From here on it is measured; what was seen before is there already."""
        self.existing, self._started = self.made, True
        put = self.put
        if self.meter.counts_objects:
            for which, size in enumerate(self._sizes):
                self.note(GREW, which, size)
            put(START)
            put(self.meter.read()[0])
        else:
            gc.collect()  # what garbage holds would be a stray, and be missing when it goes
            self.strays = max(0, self.meter.read()[0] - self.held)
            put(START)
            put(self.strays)
        self.meter.reset()
        self.begin()
        self.event(STAGES.index("start"), WHAT.index("text"), self.text("start"))
        self.finish()

    def event(self, stage, kind, what) -> None:
        """Write down what the meter said at the begin of this call."""
        put = self.put
        put(EVENT)
        put(self._slack())
        put(stage)
        put(kind)
        put(what)

    def text(self, words) -> int:
        """The number of a text."""
        number = self.texts.get(words)
        if number is None:
            number = self.texts[words] = len(self.texts)
            self.put(TOOK)
            self.put(getsizeof(words))
            self.grew(5)
        return number

    def number(self, count) -> int:
        """A number that is one object, however often it is kept."""
        found = self.numbers
        try:
            return found[count]
        except IndexError:
            pass
        while len(found) <= count:
            found.append(len(found))
            if len(found) > 257:
                self.put(TOOK)
                self.put(28)
        self.grew(4)
        return found[count]

    def grew(self, which) -> None:
        """Something was added to one of what is kept: note its size, where that changed."""
        size = getsizeof(self._kept[which])
        if self._sizes[which] != size:
            self._sizes[which] = size
            put = self.put
            put(GREW)
            put(which)
            put(size)

    def note(self, *numbers) -> None:
        """Write down some numbers."""
        put = self.put
        for n in numbers:
            put(n)

    def took(self, size) -> None:
        """The ledger keeps so many bytes from now on."""
        self.put(TOOK)
        self.put(size)

    # pieces

    def see(self, array, role, kind, what) -> int:
        """The number of an array's piece, which is written down when it is new; -1 for another device's."""
        root = array
        while (base := getattr(root, "base", None)) is not None:
            root = base
        key = id(root)
        ref = self.pieces.get(key)
        if ref is not None:
            return ref.number
        if not isinstance(array, self.backend.ndarray):
            return -1
        if not self._any and device_of(array).index != self.device.index:
            return -1
        number = self.number(self.made)
        size = getattr(root, "nbytes", array.nbytes)
        try:
            made: Ref | _Stays = Ref(root, self._told_gone)
        except TypeError:
            made = _Stays()
            made.root = root
        made.key, made.number = key, number
        self.pieces[key] = made
        self.grew(0)
        self.made += 1
        if not self._started:
            self.held += in_blocks(size)
        put = self.put
        put(PIECE)
        put(number)
        put(size)
        put(role)
        put(kind)
        put(what)
        return number

    def becomes(self, array, role, kind, what) -> None:
        """From now on the array's memory is for this."""
        number = self.see(array, role, kind, what)
        if number >= 0:
            put = self.put
            put(ROLE)
            put(number)
            put(role)
            put(kind)
            put(what)

    def _gone(self, ref: Ref) -> None:
        with self.lock:
            if self.closed:
                return
            outermost = self.begin()
            self.put(GONE)
            self.put(ref.number)
            self.put(outermost)
            if self.pieces.get(ref.key) is ref:
                del self.pieces[ref.key]
            if outermost:  # else the event that is being written still has it
                self.event(0, 0, 0)
                self.finish()

    # operators

    def watch(self, node, name, place=-1, existed=False, end=False) -> int:
        """The number of an operator, new, and a note of when its node dies."""
        number = self.number(len(self.saving))
        key = id(node)
        ref = Ref(node, self._told_node_gone)
        ref.key, ref.number = key, number
        self.nodes[key] = ref
        self.saving.append(1)
        self.grew(1)
        self.grew(3)
        put = self.put
        put(OPERATOR)
        put(name)
        put(place)
        put(existed)
        put(end)
        return number

    def _node_gone(self, ref: Ref) -> None:
        with self.lock:
            if self.closed:
                return
            outermost = self.begin()
            self.put(DIED)
            self.put(ref.number)
            self.saving[ref.number] = 0
            if self.nodes.get(ref.key) is ref:
                del self.nodes[ref.key]
            if outermost:
                self.finish()

    def released(self, number) -> None:
        """What an operator saved is freed."""
        self.put(RELEASED)
        self.put(number)
        self.saving[number] = 0

    def close(self) -> None:
        with self.lock:
            self.closed = True
            self._told_gone = self._told_node_gone = None  # these refer to the ledger
        self.meter.close()


def own(method):
    """What such a call keeps is the ledger's own, and what it needs for a moment is nobody's."""
    @functools.wraps(method)
    def measured(self, *args):
        ledger = self.ledger
        with ledger.lock:
            if ledger.closed:
                return
            outermost = ledger.begin()
            try:
                method(self, *args)
            finally:
                if outermost:
                    ledger.finish()

    return measured
