"""The timeline of a profile in the Trace Event Format, which Perfetto and chrome://tracing read."""
from __future__ import annotations

import os

from ..terminal import shape_of
from .watch import names_of

__all__ = ["trace_events"]

HOST, DEVICE = 1, 2  # the rows' groups: processes to the viewer
LABELS = {"operator": "operator", "inplace": "operator", "backward": "backward", "leaf": "backward", "pass": "backward",
          "module": "module", "step": "optimizer", "kernel": "kernel", "again": "checkpoint"}
ENDINGS = {"backward": " backward", "again": " again"}


def trace_events(ran, thread, start: float, seconds: float, zero, device: str, others: dict) -> dict:
    """{"traceEvents": [...]} of spans: one complete event each, on a row for each thread; what has device times once
    more on the device's row; an arrow from an operator to its node in the backward. Times in microseconds from the
    block's beginning, which was in `thread`. `zero`: the event at the device's beginning; `others`: goes into
    "otherData"."""
    threads = {thread: 1}
    for one in ran:
        threads.setdefault(one.thread, len(threads) + 1)
    events = [_meta("process_name", HOST, 0, {"name": "host"}), _meta("process_sort_index", HOST, 0, {"sort_index": 1})]
    for found, number in threads.items():
        events += [_meta("thread_name", HOST, number, {"name": found.name}),
                   _meta("thread_sort_index", HOST, number, {"sort_index": number})]
    events.append(_complete("the block", "profile", HOST, 1, 0.0, seconds, {}))
    if any(one.device is not None for one in ran):
        events += [_meta("process_name", DEVICE, 0, {"name": f"{device}, between events"}),
                   _meta("process_sort_index", DEVICE, 0, {"sort_index": 2}),
                   _meta("thread_name", DEVICE, 1, {"name": "stream"})]
    there = set(map(id, ran))
    arrows = 0
    for one in sorted(ran, key=lambda r: (r.start, -r.stop)):
        label, row = LABELS[one.kind], threads[one.thread]
        name = one.name + ENDINGS.get(one.kind, "")
        begin = one.start - start
        events.append(_complete(name, label, HOST, row, begin, one.stop - one.start, _args(one)))
        if one.device is not None:
            events.append(_complete(name, label, DEVICE, 1, zero.elapsed_time(one.first) / 1e3, one.device, {}))
        if one.kind == "backward" and id(one.source) in there:
            arrows += 1
            source = one.source
            for phase, at_row, at, more in (("s", threads[source.thread], source.start - start, {}),
                                            ("f", row, begin, {"bp": "e"})):
                events.append({"ph": phase, "id": arrows, "name": "gradient", "cat": "gradient", "pid": HOST,
                               "tid": at_row, "ts": _us(at), **more})
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {**others, "process": str(os.getpid())}}


def _us(seconds) -> float:
    return round(seconds * 1e6, 3)


def _meta(name, pid, tid, args) -> dict:
    return {"ph": "M", "name": name, "pid": pid, "tid": tid, "ts": 0, "args": args}


def _complete(name, label, pid, tid, begin, seconds, args) -> dict:
    return {"ph": "X", "name": name, "cat": label, "pid": pid, "tid": tid, "ts": _us(begin), "dur": _us(seconds),
            "args": args}


def _args(one) -> dict:
    """What the viewer shows of a span that is clicked."""
    args: dict = {"own_us": _us(one.own)}
    if one.seconds < one.stop - one.start:
        args["without_profiler_us"] = _us(one.seconds)
    if one.place is not None:
        name, kind = one.place
        args["module"] = f"{name or ''} ({kind})".strip()
    if one.signature is not None:
        args["inputs"], args["outputs"] = ["; ".join("-" if a is None else shape_of(*a) for a in side)
                                           for side in names_of(one.signature)]
    if one.cost is not None and one.cost.known:
        args["flops"], args["bytes"] = one.cost.flops, one.cost.bytes
    if one.bytes is not None:
        args["bytes"] = one.bytes
    if one.failed:
        args["failed"] = True
    return args
