"""`look.checkpointing(model, batch)`: memory saved and time added by checkpoints around a model's blocks, measured."""
from __future__ import annotations

import html
import math

from ...autograd.modes import enable_grad
from ...nn import Module
from .. import measure, page
from ..batch import run_of
from ..chart import Chart, Series
from ..drawing import Drawing
from ..kept import kept
from ..terminal import Column, Paper, Tables, count_of, figure, size_of, time_of, with_notes, wrap
from ..view import View
from .blocks import Blocks, called_in, example, found_blocks, given_blocks, watch
from .run import held_with, measured, ways_of

__all__ = ["Checkpointing", "checkpointing"]

AGREE = 1e-5  # of a parameter's largest gradient: recomputed gradients differ by no more


def checkpointing(model, batch, loss=None, *, blocks=None, every=None, repeats: int = 5) -> Checkpointing:
    """The train step with none, some and all of a model's blocks in checkpoints: bytes and seconds, measured.

        look.checkpointing(model, x, lambda out, x: F.cross_entropy(out, y)).print()

    `blocks`: a Sequential, a ModuleList or a list of modules; without it the modules of a Sequential or ModuleList
    that repeat, alone or in groups such as (Linear, ReLU); of several places the one where checkpoints leave the least
    after the forward. Where each block gets what the one before it returned and the same other arguments, as in a
    Sequential or in `for block in blocks: x = block(x)`, k blocks in a row share one checkpoint: segments of k. Else
    every k-th block has a checkpoint of its own. `every`: the k to try, without it 1, 2, 4, ...; sqrt(n) segments (or
    blocks) of n are always tried, segments also with the last one run plainly. For the time of a run the blocks'
    `forward` is replaced; gradients are compared with those of the run without checkpoints. A step is forward and
    backward, without an optimizer.

    `batch` and `loss` as in `look.batch.run_of`; `repeats`: steps of each way that are timed, one of each in turn. The
    model runs in the mode it is in, and is afterwards bit for bit what it was.

    Raises: TypeError for what is no Module, no batch, no blocks; ValueError where no blocks are found or called, for
    `every` outside of 1 to the number of blocks, and for a loss that is not one number with a gradient.
    """
    run = run_of(model, batch, loss, "checkpointing")
    if not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 1:
        raise ValueError(f"[checkpointing] repeats must be a whole number of at least 1, got {repeats!r}")
    candidates = found_blocks(model) if blocks is None else [given_blocks(model, blocks)]
    if not candidates:
        raise ValueError(f"[checkpointing] no modules repeat in a Sequential or ModuleList of {type(model).__name__}: "
                         f"pass a list of modules that are called one after another, {example(model)}")
    _check(every)
    with enable_grad(), kept(run) as state:
        found = _chosen(run, state, candidates)
        steps = _within(every, len(found))
        rows = measured(run, state, ways_of(found, steps), repeats)
    meter = measure.meter_of(run.device)
    meter.close()
    data = {"view": "checkpointing", "model": type(model).__name__, "device": str(run.device), "meter": meter.source,
            "training": model.training, "where": found.where, "blocks": found.names,
            "modules": [[type(m).__name__ for m in unit] for unit in found.units], "chained": found.chained,
            "why": found.why, "random": _draws(model), "ways": rows}
    _judge(rows)
    data["choice"] = next(i for i, row in enumerate(rows) if row["choice"])
    return Checkpointing(data)


def _check(every) -> None:
    several = every if isinstance(every, (list, tuple)) else [every]
    if every is not None and not (several and all(isinstance(k, int) and not isinstance(k, bool) for k in several)):
        raise ValueError(f"[checkpointing] every must be a whole number or a list of them, got {every!r}")


def _within(every, n) -> list[int] | None:
    if every is None:
        return None
    several = sorted(set(every if isinstance(every, (list, tuple)) else [every]))
    for k in several:
        if not 1 <= k <= n:
            raise ValueError(f"[checkpointing] every must be from 1 to {n}, the number of blocks, got {k!r}")
    return several


def _chosen(run, state, candidates) -> Blocks:
    """The blocks around which checkpoints leave the fewest bytes after the forward; in the order of their calls."""
    called = []
    for blocks in candidates:
        state.back()
        missing = watch(run, blocks)
        if not missing:
            called.append(blocks)
    if not called:
        state.back()
        raise ValueError(f"[checkpointing] block {missing} is not called in the model's forward: pass the modules that "
                         f"are, {example(run.model, called_in(run))}")
    return called[0] if len(called) == 1 else min(called, key=lambda blocks: held_with(run, state, blocks))


def _draws(model: Module) -> bool:
    """Whether a module in training draws random numbers: what a checkpoint must draw again."""
    return any("Dropout" in type(m).__name__ and m.training for m in model.modules())


def _judge(rows) -> None:
    """Adds ratios to no checkpoints, times being the shortest (what else a machine does only adds to them), `agrees`,
    `dominated` (the row that takes no more bytes and no more time, and less of one), and `choice`: of the others the
    one with the least bytes times seconds."""
    base = rows[0]
    for row in rows:
        row["time"] = measure.spread(row["seconds"])
        row["saved"] = 1 - row["peak"] / base["peak"]
        row["added"] = row["time"]["least"] / base["time"]["least"] - 1
        row["agrees"] = row is base or row["difference"] <= AGREE and abs(row["loss"] - base["loss"]) <= AGREE * abs(
            base["loss"])
        row["dominated"], row["choice"] = None, False
    good = [i for i, row in enumerate(rows) if row["agrees"]]
    for i in good:
        for j in good:
            a, b = _costs(rows[j]), _costs(rows[i])
            if a != b and a[0] <= b[0] and a[1] <= b[1]:
                rows[i]["dominated"] = j
                break
    rows[min(good, key=lambda i: math.prod(_costs(rows[i])))]["choice"] = True  # none that is dominated has the least


def _costs(row) -> tuple[int, float]:
    return row["peak"], row["time"]["least"]


class Checkpointing(View):
    """The view of `look.checkpointing`. `data`: "ways" (none first), "choice" (its number), "blocks", "chained"."""

    def __init__(self, data: dict):
        self.data = data

    def __repr__(self):
        d = self.data
        return f"<look.checkpointing: {d['model']}, {count_of(len(d['blocks']), 'block')}, {len(d['ways'])} ways>"

    # text

    def lines(self, paper: Paper) -> list[str]:
        d = self.data
        lines = []
        for k, sentence in enumerate(self._sentences(d)):
            lines += wrap(paper, sentence, "" if k == 0 else "  ")
        tables = Tables(paper)
        lines += ["", *tables.write(*self._table(d)), "", *self._chart(d).lines(paper)]
        return lines + with_notes(paper, self._notes(d), tables.hidden())

    def _sentences(self, d) -> list[str]:
        n = len(d["blocks"])
        kinds = {" + ".join(kinds) for kinds in d["modules"]}
        kind = kinds.pop() if len(kinds) == 1 else "of several kinds"
        yields = "segments of blocks that follow one another" if d["chained"] else "each block by itself"
        best = d["ways"][d["choice"]]
        if d["choice"] == 0:
            said = "no checkpoints: none of the ways has less bytes times seconds"
        else:
            added = best["added"]
            said = (f"{best['name']}: {_percent(abs(best['saved']))} {'less' if best['saved'] >= 0 else 'more'} memory "
                    f"for {_percent(abs(added))} {'more' if added >= 0 else 'less'} time")
        return [f"checkpointing of {d['model']} on {d['device']}: {count_of(n, 'block')} ({kind}) in {d['where']}, "
                f"{yields}; bytes of a step above its start by "
                f"{'tracemalloc' if d['meter'] == 'tracemalloc' else 'the pool of the device'}, time the shortest of "
                f"{count_of(best['time']['runs'], 'step')}",
                f"the Pareto choice, least bytes times seconds: {said}"]

    def _table(self, d):
        head = [Column("checkpoints", least=27), Column("held after forward", right=True, keep=4),
                Column("peak", right=True), Column("saved", right=True), Column("time", right=True, rule=True),
                Column("added", right=True), Column("median", right=True, keep=6), Column("most", right=True, keep=5),
                Column("gradients", keep=3, rule=True), Column("judged", keep=1)]
        rows = []
        for i, row in enumerate(d["ways"]):
            mark = ("differs" if not row["agrees"] else "the choice" if row["choice"] else
                    "dominated" if row["dominated"] is not None else "")
            bits = "" if i == 0 else "same bits" if row["same_bits"] else f"within {figure(row['difference'], 2)}"
            rows.append([row["name"], size_of(row["held"]), size_of(row["peak"]), _percent(row["saved"]) if i else "",
                         time_of(row["time"]["least"]), _percent(row["added"]) if i else "",
                         time_of(row["time"]["median"]), time_of(row["time"]["most"]), bits, mark])
        return head, rows

    def _chart(self, d) -> Chart:
        good = [row for row in d["ways"] if row["agrees"]]
        front = sorted((row for row in good if row["dominated"] is None), key=lambda row: row["peak"])
        best = d["ways"][d["choice"]]
        series = [Series("Pareto front", *_places(front))]
        others = [row for row in good if row["dominated"] is not None]
        series += [Series("dominated", *_places(others), line=False)] if others else []
        series.append(Series(f"the choice, {best['name']}", *_places([best]), line=False))
        return Chart("memory against time", "peak bytes of a step", "time", series, x_text=size_of, y_text=time_of)

    def _notes(self, d) -> list[str]:
        notes = []
        if not d["chained"]:
            notes.append(f"each checkpoint holds one block only: {d['why']}")
        if not d["training"]:
            notes.append("the model is in eval mode, and was run so")
        if d["random"]:
            notes.append("random numbers are replayed in a checkpoint's second run: dropout drops the same")
        again = sorted({name for row in d["ways"] for name in row["buffers"]})
        if again:
            notes.append("buffers that the second run of a checkpoint changes again, as running statistics: "
                         + ", ".join(again[:4]) + (f" and {len(again) - 4} more" if len(again) > 4 else ""))
        wrong = [row["name"] for row in d["ways"] if not row["agrees"]]
        if wrong:
            notes.append(f"not judged, because the loss or the gradients are others than without checkpoints: "
                         f"{', '.join(wrong)}")
        return notes

    # files

    def page(self) -> str:
        d = self.data
        first, *others = self._sentences(d)
        head, rows = self._table(d)
        parts = [f"<header><h1>{html.escape(first)}</h1></header>", "<main>"]
        parts += [f"<p>{html.escape(s)}</p>" for s in others]
        parts += [page.table([c.title for c in head], rows, [i for i, c in enumerate(head) if c.right]), self.to_svg()]
        parts += [f'<p class="soft">{html.escape(m)}</p>' for m in self._notes(d)]
        parts.append(f'<p class="soft">blocks: {html.escape(", ".join(d["blocks"]))}</p>')
        return page.page("look.checkpointing", "\n".join([*parts, "</main>"]))

    def picture(self) -> Drawing:
        """Memory against time, the dominated ways marked."""
        return self._chart(self.data).drawing()


def _places(rows) -> tuple[list, list]:
    return [row["peak"] for row in rows], [row["time"]["least"] for row in rows]


def _percent(share) -> str:
    return f"{100 * share:.3g}%" if abs(share) >= 0.0005 else "0%"
