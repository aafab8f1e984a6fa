"""The figures of a profile as plain dictionaries."""
from __future__ import annotations

from .. import spans
from ..cost.ceiling import ceiling
from ..measure import elsewhere
from .table import Sums, figures
from .watch import KEPT, Watch

__all__ = ["figures_of"]

AREAS = (("forward", "operators forward"), ("rules", "backward rules"), ("again", "run again by checkpoints"),
         ("engine", "engine, .grad, hooks"), ("steps", "optimizer steps"), ("modules", "modules' own code"))


def figures_of(watch: Watch, sums: Sums, state: str) -> dict:
    """What `data` is, while the block is open (without the ceilings, whose measuring would be in it) or closed."""
    wall, gpu = watch.seconds, watch.device.type == "cuda"
    spent = watch.spent if state == "closed" else spans.spent() - watch._spent
    taken = wall - spent  # by the program: what all shares are of
    top = ceiling(watch.device) if state == "closed" and sums.counts else None
    table = {way: {name: figures(s, taken, top, gpu) for name, s in found.items()}
             for way, found in (("forward", sums.forward), ("backward", sums.backward))}
    operators: list[dict] = [{"name": name, **{way: rows.get(name) for way, rows in table.items()}}
                             for name in dict.fromkeys([*table["forward"], *table["backward"]])]
    operators.sort(key=lambda o: -sum(table[way][o["name"]]["seconds"] for way in table if o[way] is not None))
    parts: list[dict] = [{"part": title, "seconds": sums.areas[key]} for key, title in AREAS if sums.areas[key]]
    if watch.timed and state == "closed":
        parts.append({"part": "waiting for the device at the end", "seconds": watch.waited})
    parts.append({"part": "all else", "seconds": max(0.0, taken - sum(p["seconds"] for p in parts))})
    for p in parts:
        p["share"] = p["seconds"] / taken if taken else None
    residual = spans.residual() if state == "closed" else 0.0
    c = sums.counts
    return {
        "view": "profile", "state": state, "device": str(watch.device), "gpu": gpu, "seconds": wall,
        "program_seconds": taken, "device_seconds": sums.device, "threads": len(sums.threads),
        "counts": {"spans": watch.count, "operators": sum(s.calls for s in sums.forward.values()),
                   "again": sum(s.calls for s in sums.again.values()),
                   "nodes": c["backward"], "passes": c["pass"], "leaves": c["leaf"], "steps": c["step"],
                   "kernels": c["kernel"], "module_calls": c["module"]},
        "overhead": {"seconds": spent, "share": spent / wall if wall else None, "spans": watch.count,
                     "residual_per_span": residual, "residual_seconds": residual * watch.count},
        "parts": parts, "operators": operators,
        "rules": _sorted(sums.rules, lambda s: figures(s, taken, top, gpu)),
        "again": _sorted(sums.again, lambda s: figures(s, taken, top, gpu)),
        "kernels": _sorted(sums.kernels, lambda s: _kernel(s, taken, top, gpu)),
        "steps": _sorted(sums.steps, lambda s: figures(s, taken, None, gpu)),
        "modules": sorted((_module(m, taken, top, gpu) for m in sums.modules.values()), key=lambda m: -m["seconds"]),
        "ceiling": None if top is None else {"bandwidth": top.bandwidth, "copied": top.copied, "launch": top.launch,
                                             "products": dict(top.products), "note": top.note},
        "missing": _missing(watch, sums, operators, top, state),
    }


def _sorted(table, row) -> list[dict]:
    return sorted(({"name": name, **row(found)} for name, found in table.items()), key=lambda r: -r["seconds"])


def _kernel(found, taken, top, gpu) -> dict:
    """A kernel's bytes are those of the arrays it was given; what it computes is not known."""
    row = figures(found, taken, None, gpu)
    seconds = row["device_seconds"] if gpu else row["seconds"]
    row["bytes"] = found.bytes
    row["bytes_per_s"] = found.bytes / seconds if seconds else None
    row["bound"] = None if top is None else "memory"
    row["share"] = None if top is None or not seconds else row["bytes_per_s"] / top.bandwidth
    return row


def _module(m, taken, top, gpu) -> dict:
    forward, backward = figures(m.forward, taken, top, gpu), figures(m.backward, taken, top, gpu)
    both = [w for w in (forward, backward) if w["calls"]]
    flops = [w["flops"] for w in both if w["operators"]]
    devices = [w["device_seconds"] for w in both if w["device_seconds"] is not None]
    return {"name": m.name, "class": m.kind, "forward": forward, "backward": backward,
            "seconds": sum(w["seconds"] for w in both),
            "device_seconds": sum(devices) if devices else None, "time_share": sum(w["time_share"] or 0 for w in both),
            "flops": None if None in flops else sum(flops)}


def _missing(watch, sums, operators, top, state) -> list[str]:
    notes = []
    if not sums.counts:
        return ["nothing ran inside the block" if state == "closed" else "nothing has ended yet"]
    if state == "open":
        notes.append("the block is still open: these are the figures so far, without the ceilings")
    rows = [(o["name"], r) for o in operators for r in (o["forward"], o["backward"]) if r is not None]
    for why, test in (("what they compute is not known", lambda r: r["unknown"] > r["failed"]),
                      ("an exception ended one", lambda r: 0 < r["unknown"] <= r["failed"])):
        names = list(dict.fromkeys(name for name, r in rows if test(r)))
        if names:
            notes.append(f"no rates, for {why}: {', '.join(names[:6])}"
                         + (f" and {len(names) - 6} more" if len(names) > 6 else ""))
    cut = [name for name, found in sums.again.items() if found.failed]
    if cut:
        notes.append("what checkpoints run again ends where the last value is there, which leaves no rates for "
                     f"{', '.join(cut)}")
    if top is not None:
        other = sorted({r["dtype"] for _, r in rows if r["products"] and r["dtype"] not in top.products})
        if other:
            notes.append(f"products of {', '.join(other)} are held against the ceiling of float32")
    notes += elsewhere(watch.elsewhere, "the device's time", watch.device)
    if watch.recorded:
        notes.append("look.record(), anomaly mode or a view that records was on: what it reads is in these times")
    if watch.traced:
        notes.append("tracemalloc was tracing: every array and object took longer")
    if watch.count > KEPT:
        notes.append(f"the timeline holds the first {KEPT:,} of {watch.count:,} spans, the tables all")
    if len(sums.threads) > 1:
        notes.append(f"{len(sums.threads)} threads ran: the parts of the time are those of {sums.thread.name}, "
                     "the other tables have all")
    return notes
