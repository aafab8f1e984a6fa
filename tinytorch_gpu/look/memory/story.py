"""The notes of a ledger, read after the block: pieces of memory with their roles, operators with what they saved."""
from __future__ import annotations

from sys import getsizeof

from .ledger import (
    CALL,
    COUNTED,
    DIED,
    EVENT,
    GIVEN,
    GONE,
    GREW,
    INPUT,
    KEPT,
    LABELS,
    LINE,
    OPERATOR,
    OUTPUT,
    PIECE,
    RAN,
    READ,
    RECORDS,
    RELEASED,
    ROLE,
    ROLES,
    SAVED,
    SIZES,
    STAGES,
    START,
    TOOK,
    USED,
    WHAT,
    Ref,
)

__all__ = ["Applied", "Piece", "Story"]


class Piece:
    """One piece of memory. `roles`: [(time, role, label)], the last one that has begun holds; `savers`: operators that
    keep it for backward, which goes before the roles that are not `FIXED`; `keepers`: those whose checkpoint keeps it
    to run again. `used`: whether it has to do with what ran in the block; what was there before and has not is nobody's
    here."""

    __slots__ = ("bytes", "born", "died", "roles", "savers", "keepers", "existed", "used")

    def __init__(self, size, born, role, label, existed):
        self.bytes, self.born, self.died, self.existed, self.used = size, born, None, existed, not existed
        self.roles = [(born, role, label)]
        self.savers: list[Applied] = []
        self.keepers: list[Applied] = []


class Applied:
    """One operator that was recorded: where, what it took, made and saved, how long its node and that lived, and in
    which backward it ran. `records`: bytes of the node, `keeping`: of what goes with what it saved. `end`: the end of
    a path, which is no operator."""

    __slots__ = ("name", "place", "line", "born", "inputs", "outputs", "saved", "released", "died", "records",
                 "keeping", "run", "workspace", "existed", "end", "node")

    def __init__(self, name, place, born, existed, end):
        self.name, self.place, self.born, self.existed, self.end = name, place, born, existed, end
        self.line = self.released = self.died = self.run = self.node = None
        self.inputs, self.outputs, self.saved = [], [], []
        self.records = self.keeping = self.workspace = 0

    def __str__(self):
        """The operator and its module."""
        where = "" if self.place is None else self.place.name or self.place.kind
        return f"{self.name} of {where}" if where else self.name


class _Label:
    """Words about an operator, written only when somebody reads them."""

    __slots__ = ("words", "applied")

    def __init__(self, words, applied):
        self.words, self.applied = words, applied

    def __str__(self):
        return f"{self.words} {self.applied}"


class _Meter:
    """What the readings say, without what the ledger takes."""

    def __init__(self, ledger):
        self.counts = ledger.meter.counts_objects
        self.unseen = self.counts and ledger.meter.started  # tracemalloc never knew what was there before
        self.key = getsizeof(1 << 40)  # of the number of an object
        self.reference = getsizeof(Ref(Ref)) + self.key
        self.fixed = self.grown = self.notes = self.first = 0  # bytes of the ledger; those at the start
        self.zero = 0  # what the meter said then
        self._sizes = [0] * 7  # of the things that grow
        self.base = 0  # bytes that were there before the meter began
        self.current = 0
        self.high: int | None = None  # the highest moment since the last event, as far as it was read

    def grow(self, which, size) -> None:
        self.grown += size - self._sizes[which]
        self._sizes[which] = size

    def read(self, now, peak, notes) -> None:
        if not self.counts:
            taken = 0
        else:
            if not self.notes:
                self.first = self.fixed + self.grown + notes
            self.notes = notes
            taken = self.fixed + self.grown + notes - self.first
        self.current = now - self.zero - taken + self.base
        high = peak - self.zero - taken + self.base
        if self.high is None or high > self.high:
            self.high = high


class Story:
    """What a block's notes tell: `pieces`, `applied`, and of each event its `levels`, `peaks`, `slacks` and `labels`,
    (stage, what); `calls`: [(place, pieces of its arguments)]."""

    def __init__(self, watcher):
        ledger = watcher.ledger
        self.meter, self.strays, self._frees_first = ledger.meter, ledger.strays, ledger.frees_first
        self.pieces: list[Piece] = []
        self.applied: list[Applied] = []
        self.levels: list[int] = []
        self.peaks: list[int] = []
        self.slacks: list[int] = []
        self.labels: list[tuple] = []
        self.calls: list[tuple] = []
        self._texts, self._places, self._lines = list(ledger.texts), watcher.places, watcher.lines
        self._numbers: dict[tuple, tuple] = {}
        self._read(ledger, ledger.notes.tolist())
        for ref in ledger.nodes.values():
            self.applied[ref.number].node = ref()

    def _read(self, ledger, notes):
        pieces, applied, levels = self.pieces, self.applied, self.levels
        meter = _Meter(ledger)
        started = False
        going = 0  # bytes that the meter no longer has, and that are counted in the next event for the last time
        passes, before = 0, ""  # backwards that are through; the stage that was told last
        now = i = 0
        while i < len(notes):
            code = notes[i]
            i += 1
            a = notes[i:i + SIZES[code]]
            i += SIZES[code]
            if code == READ:
                meter.read(*a)
            elif code == EVENT:
                slack, stage, kind, what = a
                stage = STAGES[stage]
                level = meter.current + going
                high, meter.high, going = meter.high, None, 0
                if levels and high <= levels[-1]:  # no more than what the last event has told already
                    high = level
                levels.append(level)
                self.peaks.append(max(level, high))
                self.slacks.append(slack)
                self.labels.append((stage, self._what(WHAT[kind], what)))
                if WHAT[kind] in ("operator", "again"):
                    applied[what].workspace = self.peaks[-1] - level
                if stage == "forward" and before in ("backward", "optimizer"):
                    passes += 1
                before = stage if stage in ("forward", "backward", "optimizer") else before
                now = len(levels)
            elif code == PIECE:
                _, size, role, kind, what = a
                pieces.append(Piece(size, now, ROLES[role], self._label(kind, what), not started))
                meter.fixed += meter.reference
            elif code == ROLE:
                piece, role, label = pieces[a[0]], ROLES[a[1]], self._label(a[2], a[3])
                if piece.roles[-1][1:] != (role, label):
                    piece.roles.append((now, role, label))
            elif code == GONE:
                piece = pieces[a[0]]
                piece.died = now
                meter.fixed -= meter.reference
                if piece.existed and meter.unseen:
                    meter.base -= piece.bytes
                elif self._frees_first and a[1]:
                    going = piece.bytes
            elif code == OPERATOR:
                name, place, existed, last = a
                applied.append(Applied(self._texts[name], None if place < 0 else self._places[place], now,
                                       bool(existed), bool(last)))
                meter.fixed += meter.reference
            elif code == DIED:
                one = applied[a[0]]
                one.died = now
                if one.released is None:
                    one.released = now
                meter.fixed -= meter.reference
            elif code == RELEASED:
                applied[a[0]].released = now
            elif code == RECORDS:
                applied[a[0]].records += a[1]
                applied[a[0]].keeping += a[2]
            elif code == INPUT:
                applied[a[0]].inputs.append(pieces[a[1]])
            elif code == OUTPUT:
                applied[a[0]].outputs.append(pieces[a[1]])
            elif code == SAVED:
                applied[a[0]].saved.append(pieces[a[1]])
                pieces[a[1]].savers.append(applied[a[0]])
            elif code == KEPT:
                pieces[a[1]].keepers.append(applied[a[0]])
            elif code == LINE:
                applied[a[0]].line = self._line(a[1], a[2])
            elif code == RAN:
                applied[a[0]].run = passes
            elif code == USED:
                pieces[a[0]].used = True
            elif code == CALL:
                self.calls.append((self._places[a[0]], []))
            elif code == GIVEN:
                self.calls[-1][1].append(pieces[a[0]])
            elif code == COUNTED:
                meter.fixed += meter.key
            elif code == TOOK:
                meter.fixed += a[0]
            elif code == GREW:
                meter.grow(*a)
            elif code == START:
                started, meter.zero = True, a[0]
                meter.base = sum(p.bytes for p in pieces) if meter.counts else 0

    def _what(self, kind, what) -> str:
        if kind == "text":
            return self._texts[what]
        if kind == "call":
            return f"call of {self._places[what].kind}"
        if kind in ("death", "leaf"):
            return "" if kind == "death" else "backward reaches a leaf"
        words = {"operator": "{}", "again": "{}, run in backward", "reaches": "backward reaches {}",
                 "backward": "backward of {}"}
        return words[kind].format(self.applied[what])

    def _label(self, kind, what):
        kind = LABELS[kind]
        if kind == "text":
            return self._texts[what]
        if kind == "argument":
            return f"argument of {self._places[what].kind}"
        if kind == "operator":
            return self.applied[what]
        words = {"given": "given to", "arrives": "arrives at", "sent": "sent by", "sum": "sum for", "cast": "cast for"}
        return _Label(words[kind], self.applied[what] if kind != "given" else self.applied[what].name)

    def _line(self, code, instruction):
        """(file, number, function) of the instruction that was running."""
        code = self._lines[code]
        if code.__class__ is tuple:  # known already
            return code
        found = self._numbers.get((id(code), instruction))
        if found is None:
            number = next((line for start, stop, line in code.co_lines() if start <= instruction < stop), None)
            found = code.co_filename, number or code.co_firstlineno, code.co_name
            self._numbers[id(code), instruction] = found
        return found
