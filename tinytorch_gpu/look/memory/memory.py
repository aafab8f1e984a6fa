"""look.memory: every byte of a training step by owner, over time and at the peak, and what holds it."""
from __future__ import annotations

import gc
import html

from ...backend.device import resolve
from ...backend.out_of_memory import OutOfMemoryError
from ...nn import Module
from ...optim import Optimizer
from .. import page
from ..drawing import Drawing
from ..graph.collect import short_file
from ..measure import elsewhere
from ..recorder import record
from ..terminal import Column, Paper, bar, count_of, figure, size_of, table, time_of, with_notes, wrap
from ..view import View
from .holders import held
from .pool import allocation as again
from .story import Story
from .table import OWNERS, tabulate
from .watch import Watcher

__all__ = ["Memory", "memory"]

PARTS = 3  # of each owner that the text names
ROWS = 12  # of a table in the text
LARGEST = 10  # owners that an out-of-memory error names


def memory(model=None, optimizer=None, device=None, allocation=False) -> Memory:
    """A block whose memory is written down: every byte at the peak by owner, over time, and what holds it at the end.

        with look.memory(model, optimizer) as m:
            loss = loss_of(model(x), y)
            loss.backward()
            optimizer.step()
        m.print()

    `model` (a Module) names modules, parameters and buffers, `optimizer` (or a list) its state before its first step in
    the block; `device` is the model's unless given, else the default one. On the CPU tracemalloc counts: it is started
    for the block, or, where it runs already, its peak is reset over and over. On a device its pool counts. `allocation`
    times, after the block, its largest blocks of memory taken again from the pool and fresh from the system.

    Raises: TypeError for another model or optimizer, RuntimeError inside another look.memory().
    """
    if model is not None and not isinstance(model, Module):
        raise TypeError(f"[memory] model must be a Module, got {type(model).__name__}")
    several = list(optimizer) if isinstance(optimizer, (list, tuple)) else [] if optimizer is None else [optimizer]
    for o in several:
        if not isinstance(o, Optimizer):
            raise TypeError(f"[memory] optimizer must be an Optimizer or a list of them, got {type(o).__name__}")
    if device is None:
        first = next(iter(model.parameters()), None) if model is not None else None
        device = first.device if first is not None else None
    return Memory(model, several, resolve(device), allocation)


class Memory(View):
    """The context manager and view of `look.memory`; its figures are there when the block has ended."""

    def __init__(self, model, optimizers, device, allocation):
        self._given = (model, optimizers, device)
        self._allocation = allocation
        self._watcher: Watcher | None = None

    def __enter__(self):
        if self._given is None:
            raise RuntimeError("[memory] a view watches one block: call look.memory() again for another")
        model, optimizers, device = self._given
        with record._lock:
            if record.memory is not None:
                raise RuntimeError("[memory] another look.memory() is open, whose notes take memory of their own: end "
                                   "that block first")
            self._given = None
            if device.type == "cpu":
                _empty_free_lists()
            self._watcher = Watcher(device, model, optimizers)
            self._blocks = record.blocks - (record._active is not None)
            record.remember(self._watcher.note)
        return self

    def __exit__(self, kind, error, trace):
        watcher, self._watcher = self._watcher, None
        missing = []
        with record._lock:
            record.remember(None)
            if record.blocks != self._blocks:
                missing.append("look.record() was open: what its notes take is in workspace and unknown")
            watcher.close()
        if kind is not None:
            missing.append(f"the block was left by {kind.__name__}: the table ends there")
        missing += elsewhere(watcher.elsewhere, "the memory", watcher.device)
        data = self._data(watcher)
        if not data["records"]["nodes"]:
            missing.append("no operator was recorded: a step under no_grad() saves nothing, and what it makes is not "
                           "told apart")
        self.data = {"view": "memory", "device": str(watcher.device), **data, "missing": missing}
        if isinstance(error, (OutOfMemoryError, MemoryError)):  # a device's, NumPy's
            error.add_note("\n".join(self._out_of_memory(Paper())))

    def _data(self, watcher):
        collects = gc.isenabled()
        gc.disable()  # nothing here is garbage, and there may be millions of other things to look through
        try:
            story = Story(watcher)
            data = tabulate(story)
            data["held"] = held(story)
        finally:
            if collects:
                gc.enable()
        data["allocation"] = None
        if self._allocation:
            data["allocation"] = again(watcher.device, [p.bytes for p in story.pieces if not p.existed])
        return data

    def _out_of_memory(self, paper):
        """The table and the largest owners, for the error."""
        _, head, rows = next(self._tables(paper))
        body, _ = table(paper, head, rows)
        parts = [(p["bytes"], r["title"], p["what"]) for r in self.data["peak"]["rows"] for p in r["parts"]]
        largest = [[size_of(n), title, what] for n, title, what in sorted(parts, key=lambda p: -p[0])[:LARGEST]]
        head = [Column("bytes", right=True), Column("owner", least=8), Column("what", least=8)]
        found, _ = table(paper, head, largest)
        return [*wrap(paper, self._title()), "", *body, "", "the largest owners", *found]

    def __getattr__(self, name):
        if name == "data":
            raise RuntimeError("[memory] the figures are there when the block has ended: use the view after the `with`")
        raise AttributeError(f"'Memory' object has no attribute {name!r}")

    def __repr__(self):
        if "data" not in self.__dict__:
            return "<look.memory: its block has not ended>"
        return f"<look.memory: peak {size_of(self.data['peak']['bytes'])} ({self._during()})>"

    def _during(self) -> str:
        peak = self.data["peak"]
        return f"{peak['stage']}, {peak['during']}" if peak["stage"] == "forward" else peak["during"]

    # text

    def lines(self, paper: Paper) -> list[str]:
        d = self.data
        lines = wrap(paper, self._title())
        lines += wrap(paper, self._ratio()) if d["ratio"] else []
        lines += wrap(paper, self._again()) if d["allocation"] else []
        for title, head, rows in self._tables(paper):
            body, _ = table(paper, head, rows)
            lines += ["", *([paper.strong(t) for t in wrap(paper, title)] if title else []), *body]
        return lines + with_notes(paper, [*self._held(), *d["missing"]])

    def _title(self) -> str:
        d = self.data
        how = "tracemalloc" if d["source"] == "tracemalloc" else "the pool's count"
        return f"memory on {d['device']}: peak {size_of(d['peak']['bytes'])} ({self._during()}), by {how}"

    def _ratio(self) -> str:
        forward = self.data["forward_only"]
        return (f"training / forward only: {self.data['ratio']:.2f}, of arrays and workspace: training "
                f"{size_of(self.data['arrays'])}, forward only {size_of(forward['bytes'])}, computed from the record "
                "(each value until its last use)")

    def _again(self) -> str:
        a = self.data["allocation"]
        where = " (host memory: nothing of a GPU's)" if self.data["device"].startswith("sim") else ""
        return (f"{count_of(a['blocks'], 'block')} of {size_of(a['bytes'])} taken and given back one by one: pooled "
                f"{time_of(a['pooled'])}, fresh from the system {time_of(a['fresh'])}, "
                f"{figure(a['fresh'] / a['pooled'])} times that{where}")

    def _tables(self, paper, limit=ROWS, parts=PARTS):
        d = self.data
        peak = d["peak"]
        yield "", [Column("at the peak", least=12), Column("bytes", right=True), Column("share", right=True),
                   Column("", keep=1), Column("largest", least=12, keep=1)], [
            *([r["title"], size_of(r["bytes"]), f"{r['bytes'] / peak['bytes']:.1%}",
               bar(paper, r["bytes"] / peak["bytes"], 12), _parts(r["parts"], parts)] for r in peak["rows"]),
            *([["made before", size_of(peak["others"]), "", "", "beside it: not used here"]] if peak["others"] else []),
            *([["free in pool", size_of(peak["slack"]), "", "", "beside it"]] if peak["slack"] is not None else [])]
        if d["saved"]:
            yield (f"saved for backward at most: {size_of(d['saved_bytes'])}",
                   [Column("operator", least=6), Column("module", least=6), Column("bytes", right=True),
                    Column("line", least=10, keep=1)],
                   _first([[r["operator"], r["module"] or r["class"] or "", size_of(r["bytes"]), _line(r["line"])]
                           for r in d["saved"]], limit))
        if d["checkpoint"]:
            yield ("a checkpoint around one module would free, until its backward",
                   [Column("module", least=6), Column("class", least=6), Column("bytes", right=True),
                    Column("of what is saved", right=True, keep=1)],
                   _first([[r["module"] or "(the model)", r["class"], size_of(r["bytes"]),
                            f"{r['bytes'] / d['saved_bytes']:.1%}"] for r in d["checkpoint"]], limit))
        if d["workspaces"]:
            yield ("largest workspaces", [Column("during", least=8), Column("bytes", right=True)],
                   [[r["what"], size_of(r["bytes"])] for r in d["workspaces"][:3]])
        yield ("over time", [Column("at", least=8), Column("bytes", right=True), Column("", least=8)],
               self._timeline(paper))

    def _timeline(self, paper, rows=16):
        line = self.data["timeline"]
        top = max(self.data["peak"]["bytes"], 1)
        size, wide = max(1, -(-len(line) // rows)), max(8, min(30, paper.width // 3))
        found = []
        for start in range(0, len(line), size):
            e = max(line[start:start + size], key=lambda e: e["bytes"])
            found.append([e["during"], size_of(e["bytes"]), bar(paper, e["bytes"] / top, wide)])
        return found

    def _held(self):
        for row in self.data["held"]:
            if row["holder"] is None:
                who = "nobody that was found" if row["searched"] else "not searched, there are larger ones"
            else:
                who = ", ".join(row["holder"])
            grows = row["passes"] > 1
            steps = f" that ran in {row['passes']} backwards and grows with each" if grows else ""
            advice = ": detach() or item() what is only added up" if grows else ""
            yield (f"a graph of {count_of(row['nodes'], 'node')} ending in {row['operator']}{steps} is still there "
                   f"({size_of(row['bytes'])}), held by {who}{advice}")

    # files

    def page(self) -> str:
        parts = [f"<header><h1>{html.escape(self._title())}</h1>"]
        if self.data["ratio"]:
            parts.append(f'<span class="soft">{html.escape(self._ratio())}</span>')
        if self.data["allocation"]:
            parts.append(f'<div class="soft">{html.escape(self._again())}</div>')
        parts += ["</header>", "<main>", self.to_svg()]
        for title, head, rows in self._tables(Paper(), 2000, 20):
            right = [i for i, c in enumerate(head) if c.right]
            parts.append(page.table([c.title for c in head], rows, right, title))
        parts += [f'<p class="soft">{html.escape(m)}</p>' for m in (*self._held(), *self.data["missing"])]
        return page.page("look.memory", "\n".join([*parts, "</main>"]))

    def picture(self) -> Drawing:
        """The timeline: each owner's bytes, one above the other."""
        line = self.data["timeline"]
        # owners can be more than the meter saw, where an array of before that nobody owned has gone
        top = max(1, self.data["peak"]["bytes"], *(sum(n for n in e["owners"].values() if n > 0) for e in line))
        wide = max(2.0, 900.0 / max(len(line), 1))
        high, left, above = 260.0, 20.0, 40.0
        shown = [name for name in OWNERS if any(e["owners"].get(name, 0) > 0 for e in line)]
        picture = Drawing(left + max(wide * len(line), 700) + 20, above + high + 40 + 20 * -(-len(shown) // 4))
        picture.text(left, 24, self._title(), "title")
        for i, e in enumerate(line):
            y = above + high
            for name in shown:
                height = high * max(0, e["owners"].get(name, 0)) / top
                if height >= 0.1:
                    y -= height
                    picture.box(left + i * wide, y, wide, height, "memory-" + name,
                                f"{OWNERS[name]}: {size_of(e['owners'][name])} of {size_of(e['bytes'])}, {e['during']}")
        for i, name in enumerate(shown):
            x, y = left + (i % 4) * 175, above + high + 24 + 20 * (i // 4)
            picture.box(x, y, 14, 14, "memory-" + name)
            picture.text(x + 20, y + 11, OWNERS[name], "shape")
        return picture


def _empty_free_lists() -> None:
    """CPython keeps freed tuples, lists and dicts, which tracemalloc would not see when the program takes them again. A
    full collection lets go of them; it is quick where all that is there is put aside meanwhile."""
    aside = gc.get_freeze_count() == 0
    if aside:
        gc.freeze()
    gc.collect()
    if aside:
        gc.unfreeze()


def _parts(found, limit) -> str:
    text = ", ".join(f"{p['what']} {size_of(p['bytes'])}" for p in found[:limit])
    return text + (f" and {len(found) - limit} more" if len(found) > limit else "")


def _line(line) -> str:
    return "" if line is None else f"{short_file(line['file'])}:{line['number']} {line['source']}"


def _first(rows, limit):
    if len(rows) <= limit:
        return rows
    return [*rows[:limit], [f"{len(rows) - limit:,} more", *[""] * (len(rows[0]) - 1)]]
