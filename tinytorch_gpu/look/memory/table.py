"""The story of a block as plain data: who owned what at the peak and over time; what checkpoints would free."""
from __future__ import annotations

import linecache
from itertools import accumulate, pairwise

from .ledger import in_blocks

__all__ = ["OWNERS", "tabulate"]

# in the order of the tables; the last three are no pieces
OWNERS = {
    "parameters": "parameters", "buffers": "buffers", "gradients": "gradients", "optimizer": "optimizer state",
    "saved": "saved for backward", "checkpoints": "kept by checkpoints", "inputs": "inputs and constants",
    "flowing": "gradients on their way",
    "tensors": "other tensors", "records": "graph records", "workspace": "workspace", "rounding": "rounding to blocks",
    "unknown": "unknown",
}
FIXED = ("parameters", "buffers", "gradients", "optimizer")  # whatever an operator saves of them exists anyway
COLUMNS = 240  # of the timeline


def segments(piece, end):
    """[(from, to, role, label)]: what a piece was for, over its life; the event that tells of a death still has it."""
    stop = end if piece.died is None else piece.died + 1
    if len(piece.roles) == 1 and not piece.savers and not piece.keepers:
        return [(piece.born, stop, *piece.roles[0][1:])] if piece.born < stop else []
    cuts = {piece.born, stop, *(t for t, _, _ in piece.roles)}
    for a in (*piece.savers, *piece.keepers):
        cuts |= {a.born, _until(a, end)}
    cuts = sorted(t for t in cuts if piece.born <= t <= stop)
    return [(a, b, *role_at(piece, a, end)) for a, b in pairwise(cuts)]


def role_at(piece, t, end):
    """(role, label) of a piece at an event."""
    role, label = next(r[1:] for r in reversed(piece.roles) if r[0] <= t)
    if role in FIXED or piece.existed and role == "inputs" and not _old(piece):
        return role, label
    for a in piece.savers:
        if a.born <= t < _until(a, end):
            return "saved", a
    for a in piece.keepers:
        if a.born <= t < _until(a, end):
            return "checkpoints", label
    return role, label


def _old(piece):
    return any(a.existed for a in piece.savers)  # kept by a graph from before


def _until(applied, end):
    """When an operator no longer keeps what it saved; the event in which that was seen has still some of it."""
    return end if applied.released is None else applied.released


class _Sums:
    """Bytes of each owner at each event."""

    def __init__(self, story):
        self.end = len(story.levels)
        self.steps = {name: [0] * (self.end + 1) for name in OWNERS}
        pool = not story.meter.counts_objects
        self.pieces = [(p, segments(p, self.end)) for p in story.pieces if p.used or _old(p)]
        others = [0] * (self.end + 1)  # what was there before and nothing here has to do with
        for p in story.pieces:
            if not p.used and not _old(p):
                size = in_blocks(p.bytes) if pool else p.bytes
                others[p.born] += size
                if p.died is not None:
                    others[p.died + 1] -= size
        self.told = [stage != "" for stage, _ in story.labels]  # not a death, which falls in the midst of operators
        self.others = list(accumulate(others))[:self.end]
        self.levels = [n - o for n, o in zip(story.levels, self.others)]
        self.peaks = [n - o for n, o in zip(story.peaks, self.others)]
        for piece, parts in self.pieces:
            for a, b, role, _ in parts:
                self.add(role, a, b, piece.bytes)
                if pool:
                    self.add("rounding", a, b, in_blocks(piece.bytes) - piece.bytes)
        if not pool:
            for a in story.applied:
                if not a.existed:
                    self.add("records", a.born, self.end if a.died is None else a.died, a.records)
                    self.add("records", a.born, _until(a, self.end), a.keeping)
        self.lines = {name: list(accumulate(d))[:self.end] for name, d in self.steps.items()}
        # what the meter saw beside all owners
        self.nobodys = [n - sum(of) for n, of in zip(self.levels, zip(*self.lines.values()))]
        self.making = self._making()

    def add(self, name, a, b, size):
        self.steps[name][a] += size
        self.steps[name][b] -= size

    def _making(self):
        """What is nobody's here and was not there at the event before, nor at the one after: an operand that is
        widened, a result that the operator is about to return."""
        after, following = [], self.end - 1
        for t in range(self.end - 1, -1, -1):
            after.append(following)
            following = t if self.told[t] else following
        found, before = [], 0
        for t, (mine, later) in enumerate(zip(self.nobodys, reversed(after))):
            found.append(max(0, mine - max(0, self.nobodys[before], self.nobodys[later])))
            before = t if self.told[t] else before
        return found

    def at(self, t):
        """Bytes of each owner at an event's highest moment, "workspace" and "unknown" too: together its peak."""
        found = {name: line[t] for name, line in self.lines.items()}
        found["workspace"] = self.peaks[t] - self.levels[t] + self.making[t]
        found["unknown"] = self.nobodys[t] - self.making[t]
        return found

    def arrays(self, t):
        """Bytes of arrays at an event's highest moment, as `forward_only` counts them: no records, no rounding, nothing
        that is nobody's, and as workspace only what came and went since the event before, not what that one had."""
        gone = max(0, min(self.levels[t - 1], self.peaks[t]) - self.levels[t]) if t else 0
        beside = self.lines["records"][t] + self.lines["rounding"][t] + self.nobodys[t] - self.making[t]
        return self.peaks[t] - gone - beside


def tabulate(story) -> dict:
    """The data of `look.memory`, without what is held at the end."""
    sums = _Sums(story)
    peak = max(range(sums.end), key=lambda t: sums.peaks[t])
    saving = max(range(sums.end), key=lambda t: (sums.lines["saved"][t], t))
    rows = _rows(story, sums, peak)
    named = sum(r["bytes"] for r in rows if r["owner"] != "unknown")
    forward = forward_only(story, sums)
    training = sums.peaks[peak]
    arrays = max(map(sums.arrays, range(sums.end)))
    pool = not story.meter.counts_objects
    return {
        "view": "memory", "source": story.meter.source,
        "peak": {"bytes": training, "event": peak, **_when(story, peak), "named": named,
                 "others": sums.others[peak] + story.strays,
                 "slack": story.slacks[peak] if pool else None, "rows": rows},
        "records": {"nodes": sum(not (a.existed or a.end) for a in story.applied),
                    "bytes": sum(a.records + a.keeping for a in story.applied if not a.existed)},
        "arrays": arrays, "forward_only": forward,
        "ratio": arrays / forward["bytes"] if forward and forward["bytes"] else None,
        "saved": _saved(sums, saving),
        "saved_bytes": sums.lines["saved"][saving],
        "checkpoint": checkpoint(story, sums, saving),
        "workspaces": _workspaces(story),
        "timeline": _timeline(story, sums),
    }


def _when(story, t) -> dict:
    """The stage of an event and what ran: a death belongs to what was told next."""
    while t < len(story.labels) - 1 and not story.labels[t][0]:
        t += 1
    return {"stage": story.labels[t][0], "during": story.labels[t][1]}


def _rows(story, sums, t) -> list[dict]:
    """Owners at an event, with their parts, the largest first."""
    bytes_of = sums.at(t)
    parts: dict[str, dict] = {name: {} for name in OWNERS}
    for piece, life in sums.pieces:
        for a, b, role, label in life:
            if a <= t < b:
                text = str(label)
                parts[role][text] = parts[role].get(text, 0) + piece.bytes
    if bytes_of["workspace"]:
        parts["workspace"][_when(story, t)["during"]] = bytes_of["workspace"]
    rows = []
    for name, title in OWNERS.items():
        if bytes_of[name]:
            found = sorted(parts[name].items(), key=lambda kv: -kv[1])
            rows.append({"owner": name, "title": title, "bytes": bytes_of[name],
                         "parts": [{"what": k, "bytes": v} for k, v in found]})
    return rows


def line_of(applied):
    """The user's line of an operator, None where it is not known."""
    if applied.line is None:
        return None
    file, number, function = applied.line
    return {"file": file, "number": number, "function": function, "source": linecache.getline(file, number).strip()}


def _saved(sums, t) -> list[dict]:
    """What is saved when most is: for each operator of each module on each line."""
    found: dict = {}
    for piece, life in sums.pieces:
        for a, b, role, applied in life:
            if a <= t < b and role == "saved":
                place = applied.place
                key = (applied.name, place.name if place else None, applied.line)
                row = found.setdefault(key, {
                    "operator": applied.name, "module": place.name if place else None,
                    "class": place.kind if place else None, "line": line_of(applied), "bytes": 0, "pieces": 0})
                row["bytes"] += piece.bytes
                row["pieces"] += 1
    return sorted(found.values(), key=lambda r: -r["bytes"])


def checkpoint(story, sums, t) -> list[dict]:
    """What is saved inside each module alone at an event: neither outside, nor its arguments, which a checkpoint keeps.

    One row for each name; a module that was called several times counts with all of its calls.
    """
    given: dict[int, set] = {}
    for place, pieces in story.calls:
        given.setdefault(id(place), set()).update(map(id, pieces))
    rows: dict = {}
    for piece, life in sums.pieces:
        if not any(a <= t < b and role == "saved" for a, b, role, _ in life):
            continue
        chains = [_chain(s.place) for s in piece.savers if s.born <= t < _until(s, sums.end)]
        for place in chains[0]:
            if all(place in c for c in chains) and id(piece) not in given.get(id(place), ()):
                row = rows.setdefault((place.name, place.kind), {
                    "module": place.name, "class": place.kind, "bytes": 0, "calls": set()})
                row["bytes"] += piece.bytes
                row["calls"].add(id(place))
    for row in rows.values():
        row["calls"] = len(row["calls"])
    return sorted(rows.values(), key=lambda r: -r["bytes"])


def _chain(place):
    found = []
    while place is not None:
        found.append(place)
        place = place.parent
    return found


def forward_only(story, sums) -> dict | None:
    """What the first forward would take if nothing were kept: each value until its last use, computed from the record.

    Parameters, buffers and inputs are there all the time; a value that the program itself holds longer is not known.
    """
    stop = next((t for t, (stage, _) in enumerate(story.labels) if stage == "backward"), sums.end)
    run = [a for a in story.applied if not a.existed and a.born < stop]
    if not run:
        return None
    there = {id(p): p for p, life in sums.pieces if life and life[0][2] in ("parameters", "buffers", "inputs")
             and p.born < stop and not _old(p)}
    fixed = sum(p.bytes for p in there.values())
    last: dict[int, int] = {}
    for i, a in enumerate(run):
        for p in (*a.inputs, *a.outputs):
            last[id(p)] = i
    for p in run[-1].outputs:
        last[id(p)] = len(run)
    live, best, at = {}, 0, 0
    for i, a in enumerate(run):
        for p in a.outputs:
            if id(p) not in there:
                live[id(p)] = p.bytes
        total = sum(live.values()) + a.workspace
        if total > best:
            best, at = total, i
        for p in (*a.inputs, *a.outputs):
            if last[id(p)] <= i:
                live.pop(id(p), None)
    return {"bytes": fixed + best, "fixed": fixed, "values": best, "during": str(run[at])}


def _workspaces(story) -> list[dict]:
    """The largest workspace of each operator of each module, of its backward, of each step."""
    found: dict = {}
    for t in range(len(story.levels)):
        size = story.peaks[t] - story.levels[t]
        if size > 0 and story.labels[t][0]:
            what = story.labels[t][1]
            found[what] = max(found.get(what, 0), size)
    return [{"what": k, "bytes": v} for k, v in sorted(found.items(), key=lambda kv: -kv[1])]


def _timeline(story, sums) -> list[dict]:
    """At most COLUMNS stretches of events, each at its highest."""
    rows = []
    size = max(1, -(-sums.end // COLUMNS))
    for start in range(0, sums.end, size):
        t = max(range(start, min(start + size, sums.end)), key=lambda t: sums.peaks[t])
        owners = sums.at(t)
        rows.append({"event": t, **_when(story, t), "bytes": sums.peaks[t],
                     "owners": {k: v for k, v in owners.items() if v}})
    return rows
