"""look.plan: memory and arithmetic of training a transformer before it is built, and the largest that fits."""
from __future__ import annotations

import dataclasses
import html

from ...backend.device import device as Device
from .. import page
from ..chart import Bars
from ..drawing import Drawing
from ..terminal import Column, Paper, Tables, figure, size_of, with_notes, wrap
from ..view import View
from .config import STAGES, PlanConfig, config_of
from .model import measured
from .step import Outcome, predict

__all__ = ["Plan", "plan"]

OWNERS = {"parameters": "parameters", "gathered": "gathered weights", "casts": "weights in half",
          "gradients": "gradients", "optimizer": "optimizer state", "scratch": "optimizer's scratch",
          "saved": "saved activations", "logits": "logits", "flowing": "gradients on their way",
          "values": "other values", "inputs": "inputs", "workspace": "workspace"}
NAMES = {"sgd": "SGD", "momentum": "SGD with momentum", "adam": "Adam", "adamw": "AdamW"}
FAR = 1 << 40  # no batch is larger
SEEN = 0.02  # of a column's peak: what is drawn by its name


def plan(config="gpt2", *, device="cuda", **settings) -> Plan:
    """Memory and matrix products of a train step of a transformer, from its sizes alone: nothing is built.

        look.plan("gpt3-175b", batch=1, precision="fp16", checkpointing="full", shards=64).print()
        look.plan({"layers": 6, "width": 384, "heads": 6, "vocabulary": 256, "context": 256}, batch=32).peak
        look.plan("gpt2", precision="bf16").largest_batch(24)

    `config`: a preset ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "gpt3-small", "gpt3-medium", "gpt3-large",
    "gpt3-xl", "gpt3-2.7b", "gpt3-6.7b", "gpt3-13b", "gpt3-175b"), a dictionary of settings, or a `look.PlanConfig`,
    which says what settings there are; `settings` replace some of them. `device`: whose arithmetic: "cpu" (formulas, in
    which half types are computed in float32) or "cuda" ("sim" is the same: kernels, a pool of 512-byte blocks).

    Raises: TypeError and ValueError for an unknown preset, an unknown setting, or a value that it cannot have.
    """
    name, found = config_of(config, settings)
    where = Device(device)
    return Plan(name, found, where.type != "cpu")


class Plan(View):
    """The view of `look.plan`. `config` is what was planned, `peak` its bytes, `data` the figures of all columns."""

    def __init__(self, name: str, config: PlanConfig, gpu: bool):
        self.config, self._name, self._gpu = config, name, gpu
        columns = [_column(c, predict(c, gpu)) for c in _variants(config)]
        asked = next(i for i, c in enumerate(columns) if c["settings"] == dataclasses.asdict(config))
        counts = config.parameters()
        products = columns[asked]["flops"]
        self.data = {
            "view": "plan", "name": name, "device": "gpu" if gpu else "cpu", "estimate": gpu,
            "config": dataclasses.asdict(config), "parameters": {**counts, "all": sum(counts.values())},
            "tokens": config.batch * config.sequence, "columns": columns, "asked": asked,
            "flops": {**products, "step": sum(products.values()),
                      "6ND": 6 * sum(counts.values()) * config.batch * config.sequence},
            "measured": [],
        }

    @property
    def peak(self) -> int:
        """Bytes at the worst moment of the step that was asked for, on each device."""
        return self.data["columns"][self.data["asked"]]["peak"]["bytes"]

    def __repr__(self):
        return f"<look.plan: {self._name}, peak {size_of(self.peak)}>"

    # the largest that fits

    def largest_batch(self, gigabytes: float) -> int:
        """The largest batch (of each device) whose peak is at most so many times 10^9 bytes; 0 where 1 does not fit.

        Leave room for what is no array: the driver's context and libraries, 32 MiB for cuBLAS, the pool's slack.
        Raises: ValueError for what is no positive number.
        """
        return self._largest("largest_batch", gigabytes, lambda n: self.config.but(batch=n))

    def largest_sequence(self, gigabytes: float) -> int:
        """The longest sequence at this batch whose peak is at most so many times 10^9 bytes; 0 where 1 does not fit.

        Beyond the config's context the table of positions grows with it. Raises: as `largest_batch`.
        """
        return self._largest("largest_sequence", gigabytes, lambda n: self.config.but(
            sequence=n, context=max(n, self.config.context)))

    def _largest(self, name, gigabytes, config) -> int:
        good = isinstance(gigabytes, (int, float)) and not isinstance(gigabytes, bool)
        if not good or not 0 < gigabytes < float("inf"):
            raise ValueError(f"[{name}] expected a positive number of gigabytes (10^9 bytes), got {gigabytes!r}")
        limit = gigabytes * 1e9

        def fits(n):
            return predict(config(n), self._gpu).peak <= limit

        if not fits(1):
            return 0
        low, high = 1, 2
        while high < FAR and fits(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low

    # the check

    def measure(self, device="cpu") -> dict:
        """Build the model on a device, train two steps on random tokens and compare the peak: {"device", "measured",
        "planned", "error"}, the error as a share of what was measured. The view shows it from then on.

        The plan is that of the device's own arithmetic. On the CPU tracemalloc counts Python's objects too, which no
        plan has. Raises: ValueError for a plan with shards, as nothing here trains on several devices; MemoryError
        where the model is too large for the device.
        """
        if self.config.shards > 1:
            raise ValueError(f"[measure] the plan is for {self.config.shards} devices, and training here is on one: "
                             "give shards=1")
        where = Device(device)
        planned = predict(self.config, where.type != "cpu").peak
        found = measured(self.config, where)
        row = {"device": str(where), "measured": found, "planned": planned, "error": planned / found - 1}
        self.data["measured"].append(row)
        return row

    # text

    def lines(self, paper: Paper) -> list[str]:
        lines = []
        for k, sentence in enumerate(self._sentences()):
            lines += wrap(paper, sentence, "  " if k else "")
        tables = Tables(paper)
        for head, rows in self._tables():
            lines += ["", *tables.write(head, rows)]
        return lines + with_notes(paper, self._notes(), tables.hidden())

    def _sentences(self) -> list[str]:
        d, c = self.data, self.config
        arithmetic = ("an estimate by the kernels' arithmetic, on a GPU" if self._gpu
                      else "by the formulas' arithmetic, on the CPU")
        each = " on each device" if c.shards > 1 else ""
        return [f"plan of {self._name}: {d['parameters']['all']:,} parameters, batch {c.batch} of {c.sequence:,} tokens"
                f"{each}, {NAMES[c.optimizer]}; {arithmetic}",
                f"{_about(c)}: peak {size_of(self.peak)}{each}, {_moment(d['columns'][d['asked']])}"]

    def _tables(self):
        d = self.data
        columns, first = d["columns"], d["columns"][0]["peak"]["bytes"]
        head = [Column("at the peak", least=14)]
        for i, c in enumerate(columns):
            head.append(Column(c["label"], right=True, rule=i == 0, keep=0 if i in (0, d["asked"]) else 2))
        rows = [[title, *(size_of(c["peak"]["rows"].get(owner)) for c in columns)] for owner, title in OWNERS.items()
                if any(c["peak"]["rows"].get(owner) for c in columns)]
        rows.append(["all", *(size_of(c["peak"]["bytes"]) for c in columns)])
        rows.append([f"against {columns[0]['label']}", "", *(f"{c['peak']['bytes'] / first - 1:+.1%}"
                                                            for c in columns[1:])])
        yield head, rows
        head = [dataclasses.replace(head[0], title="each at its most"), *head[1:]]
        yield head, [[title, *(size_of(c["most"].get(owner)) for c in columns)] for owner, title in OWNERS.items()
                         if owner not in ("inputs", "values") and any(c["most"].get(owner) for c in columns)]
        kinds = list(dict.fromkeys(k for c in columns for k in c["saved"]))
        yield [dataclasses.replace(head[0], title="saved for backward by"), *head[1:]], [
            [kind, *(size_of(c["saved"].get(kind)) for c in columns)] for kind in kinds]
        stages = [s for s in ("forward", "backward", "recomputed") if any(s in c["flops"] for c in columns)]
        yield [dataclasses.replace(head[0], title="matrix products"), *head[1:]], [
            *([s, *(_flops(c["flops"].get(s)) for c in columns)] for s in stages),
            ["step", *(_flops(sum(c["flops"].values())) for c in columns)],
            ["6ND, estimate", *(_flops(d["flops"]["6ND"]) for _ in columns)]]

    def _notes(self) -> list[str]:
        d, c = self.data, self.config
        notes = [f"{column['label']}: {column['about']}; peak {_moment(column)}" for column in d["columns"]]
        notes.append("6ND: 6 times all parameters times tokens (after Kaplan et al. 2020), attention left out")
        if c.shards > 1:
            notes.append(f"shards: an estimate, nothing here trains on several devices: ZeRO's stage {c.stage} "
                         f"(Rajbhandari et al. 2020) cuts {STAGES[c.stage]}; buffers of the network are not in it")
        if self._gpu:
            notes.append("not in it: the driver's context, cuBLAS's workspace (32 MiB at most), the pool's slack")
        else:
            notes.append("not in it: Python's own objects, such as modules, tensors and nodes")
        for row in d["measured"]:
            notes.append(f"measured on {row['device']}: {size_of(row['measured'])}, planned {size_of(row['planned'])}, "
                         f"error {row['error']:+.1%}")
        return notes

    # files

    def page(self) -> str:
        first, *others = self._sentences()
        parts = [f"<header><h1>{html.escape(first)}</h1></header>", "<main>"]
        parts += [*(f"<p>{html.escape(s)}</p>" for s in others), self.to_svg()]
        for head, rows in self._tables():
            parts += [f"<h2>{html.escape(head[0].title)}</h2>",
                      page.table(["", *(c.title for c in head[1:])], rows, range(1, len(head)))]
        parts += [f'<p class="soft">{html.escape(note)}</p>' for note in self._notes()]
        return page.page("look.plan", "\n".join([*parts, "</main>"]))

    def picture(self) -> Drawing:
        """The memory at the peak by owner, a bar for each column."""
        columns = self.data["columns"]
        drawn = [o for o in OWNERS if any(c["peak"]["rows"].get(o, 0) > SEEN * c["peak"]["bytes"] for c in columns)]
        rows = []
        for c in columns:
            parts = [(OWNERS[o], c["peak"]["rows"].get(o, 0)) for o in drawn]
            rows.append((c["label"], [*parts, ("the rest", c["peak"]["bytes"] - sum(n for _, n in parts))], ""))
        return Bars(f"memory of a train step of {self._name} at its peak", rows, size_of).drawing()


def _variants(config: PlanConfig) -> list[PlanConfig]:
    """The columns: everything kept in float32 on one device; what was asked, without and with its shards; where that
    is the first, half precision and checkpoints beside it."""
    plain = config.but(precision="fp32", checkpointing="none", shards=1)
    alone = config.but(shards=1)
    found = [plain, alone, config]
    if alone == plain:
        found.insert(2 if config == plain else 1, plain.but(precision="bf16", checkpointing="full"))
    return list(dict.fromkeys(found))


def _label(c: PlanConfig) -> str:
    text = c.precision + {"float32": "", "master": " weights", "half": " alone"}[c.weights]
    text += "" if c.checkpointing == "none" else f" + {c.checkpointing}"
    return text + (f" / {c.shards}" if c.shards > 1 else "")


def _about(c: PlanConfig) -> str:
    """A column in words."""
    words = {"float32": {"fp32": "float32", "fp16": "autocast to float16", "bf16": "autocast to bfloat16"}[c.precision],
             "master": f"{c.precision} weights, float32 masters", "half": f"{c.precision} weights alone"}[c.weights]
    again = {"none": "all activations kept", "selective": "attention computed again", "full": "blocks computed again"}
    shards = f", over {c.shards} devices (stage {c.stage})" if c.shards > 1 else ""
    return f"{words}, {again[c.checkpointing]}{shards}"


def _column(config: PlanConfig, found: Outcome) -> dict:
    stage, during = found.when
    return {"label": _label(config), "about": _about(config), "settings": dataclasses.asdict(config),
            "peak": {"bytes": found.peak, "stage": stage, "during": during, "rows": found.rows},
            "most": found.most, "saved": found.saved, "flops": found.flops}


def _moment(column) -> str:
    return f"in {column['peak']['stage']}, {column['peak']['during']}"


def _flops(n) -> str:
    """Operations in few characters."""
    if not n:
        return ""
    for unit in ("", "k", "M", "G", "T", "P"):
        if n < 1000:
            return f"{figure(n)} {unit}FLOP"
        n /= 1000
    return f"{figure(n, 4)} EFLOP"
