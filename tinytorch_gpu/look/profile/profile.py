"""`look.profile()`: where a program's time goes, by operator, module, kernel, beside what the machine can do."""
from __future__ import annotations

import html

from ...backend.device import device as Device
from ...backend.device import resolve
from ...nn import Module
from .. import page
from ..drawing import Drawing
from ..terminal import Paper, tables, with_notes, wrap
from ..view import View, strict_json
from .data import figures_of
from .draw import reached, roofline, whole
from .table import Sums
from .text import headline, sentences, tables_of
from .trace import trace_events
from .watch import KEPT, Watch

__all__ = ["Profile", "profile"]

SHOWN = 20  # rows of a table of the text


def profile(model=None, *, device=None) -> Profile:
    """Times, counts, bytes and floating point operations of everything that runs in a `with` block.

        with look.profile(model) as p:
            for x, y in batches:
                ...  # training steps
        p.print()
        p.save("step.trace.json")  # a timeline for ui.perfetto.dev

    By operator and direction, by module, kernel and optimizer, each with its rates and their share of the ceilings of
    this machine, which are measured once in a process (0.1 to 0.5 s, when the figures are first asked for). `model`
    gives modules their names, where the outermost one that is called is only a part of it. `device`: whose stream gets
    the events that time it, the model's where there is one, else the default device. All threads are seen. What the
    profiler takes itself is measured, told and taken out.

    Raises: TypeError for what is no Module.
    """
    if model is not None and not isinstance(model, Module):
        raise TypeError(f"[profile] expected a Module or None, got {type(model).__name__}: run the program inside "
                        "`with look.profile() as p:`")
    if device is None:
        first = None if model is None else next(iter(model.parameters()), None)
        where = resolve(None) if first is None else first.device
    else:
        where = resolve(Device(device))
    return Profile(Watch(where, model))


class Profile(View):
    """The view of `look.profile`. `data`: "program_seconds", the block's without the profiler's, and their
    "parts", "operators" with "forward" and "backward", "rules", "modules", "kernels", "steps", each with its share of
    these seconds, "ceiling", "overhead". `trace()` is the timeline."""

    def __init__(self, watch: Watch):
        self._watch, self._sums = watch, Sums()
        self._state = "new"
        self._kept: list = []
        self._data: dict | None = None
        watch.on_full = self._fold

    def __enter__(self):
        if self._state != "new":
            raise RuntimeError("[profile] a view watches one block: call look.profile() again for another")
        self._watch.open()
        self._sums.thread = self._watch.thread
        self._state = "open"
        return self

    def __exit__(self, *exc):
        self._state = "closed"
        self._watch.close()

    def _fold(self) -> None:
        """Add what has ended to the sums; the first spans are kept for the timeline."""
        for ran in self._watch.take():
            self._sums.add(ran)
            if len(self._kept) < KEPT:
                self._kept.append(ran)

    @property
    def data(self) -> dict:  # type: ignore[override]
        """Plain dictionaries. Seconds are the host's but for "device_seconds"; inside the block, of what has ended."""
        if self._data is not None:
            return self._data
        if self._state == "new":
            return {"view": "profile", "state": "new", "missing": ["nothing was watched: run the program inside `with "
                                                                   "look.profile() as p:`"]}
        self._fold()
        found = figures_of(self._watch, self._sums, self._state)
        if self._state == "closed":
            self._data = found
        return found

    def __repr__(self):
        d = self.data
        return "<look.profile: nothing was watched>" if d["state"] == "new" else f"<look.profile: {headline(d)}>"

    # text

    def lines(self, paper: Paper) -> list[str]:
        d = self.data
        if d["state"] == "new":
            return with_notes(paper, d["missing"])[1:]
        lines: list[str] = []
        for k, sentence in enumerate(sentences(d)):
            lines += wrap(paper, sentence, "" if k == 0 else "  ")
        body, hidden = tables(paper, [(head, rows) for _, head, rows in tables_of(d)], SHOWN)
        lines += body
        if reached(d):
            lines += ["", *roofline(d).lines(paper)]
        return lines + with_notes(paper, d["missing"], hidden)

    # files

    def page(self) -> str:
        d = self.data
        if d["state"] == "new":
            return page.page("look.profile", "<header><h1>look.profile</h1></header>\n<main><p>"
                             f"{html.escape(d['missing'][0])}</p></main>")
        title, *others = sentences(d)
        parts = [f"<header><h1>{html.escape(title)}</h1></header>", "<main>"]
        parts += [f"<p>{html.escape(s)}</p>" for s in others]
        parts.append(self.to_svg())
        for title, head, rows in tables_of(d):
            parts += [f"<h2>{html.escape(title)}</h2>",
                      page.table([c.title for c in head], rows, [i for i, c in enumerate(head) if c.right])]
        parts += [f'<p class="soft">{html.escape(m)}</p>' for m in d["missing"]]
        return page.page("look.profile", "\n".join([*parts, "</main>"]))

    def picture(self) -> Drawing:
        """Bars of the block's parts and of the operators, and the roofline. Raises: ValueError before the block."""
        d = self.data
        if d["state"] == "new":
            raise ValueError(f"[save] there is nothing to draw: {d['missing'][0]}")
        return whole(d)

    def trace(self) -> dict:
        """The timeline in the Trace Event Format: spans by thread, on a device also by its events, and an arrow from
        each operator to its backward. At most the first 100,000 spans. Raises: ValueError before the block."""
        if self._state == "new":
            raise ValueError(f"[trace] {self.data['missing'][0]}")
        self._fold()
        w = self._watch
        return trace_events(self._kept, w.thread, w.start, w.seconds, w.zero_event, str(w.device),
                            {"program": "tinytorch_gpu look.profile", "device": str(w.device), "spans": str(w.count)})

    def to_trace_json(self) -> str:
        """The timeline for ui.perfetto.dev and chrome://tracing; other `.json` files hold the figures."""
        return strict_json(self.trace()) + "\n"
