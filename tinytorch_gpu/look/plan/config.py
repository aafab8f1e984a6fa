"""What a plan is made for: a transformer and how it is trained; the published sizes of GPT-2 and GPT-3."""
from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass

__all__ = ["CHECKPOINTING", "OPTIMIZERS", "PRECISIONS", "PRESETS", "STAGES", "WEIGHTS", "PlanConfig", "config_of"]

PRECISIONS = ("fp32", "fp16", "bf16")
WEIGHTS = ("float32", "master", "half")
CHECKPOINTING = ("none", "selective", "full")
OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
# stages of ZeRO, what each cuts over the shards (Rajbhandari et al. 2020, "ZeRO", section 5)
STAGES = {0: "nothing", 1: "optimizer state", 2: "optimizer state and gradients",
          3: "optimizer state, gradients and parameters"}


@dataclass(frozen=True)
class PlanConfig:
    """A decoder-only transformer as GPT-2, and its training.

    Model: `layers` pre-norm blocks of `width`, attention in `heads`, a GELU network of `hidden` (4 width) units,
    learned positions for `context` tokens, `vocabulary` tokens; `tied`: the output layer is the token embedding.

    Training: `batch` sequences of `sequence` tokens (context) in a step, on each device. `precision`: "fp32", or "fp16"
    or "bf16" with `weights` in "float32" (amp.autocast), in half precision with a float32 "master" in the optimizer
    (optim's master_weights), or in "half" alone. `checkpointing`: "none", "selective" (attention is computed again,
    Korthikanti et al. 2022), "full" (each block is, Chen et al. 2016). `optimizer`: "sgd", "momentum", "adam", "adamw".
    `shards`: devices over which ZeRO's `stage` (3 unless given) cuts what it cuts: 1 optimizer state, 2 gradients too,
    3 parameters too.

    Raises: TypeError, ValueError for what is no such number or word, and for heads that do not divide the width.
    """

    layers: int
    width: int
    heads: int
    vocabulary: int
    context: int
    hidden: int = None  # type: ignore[assignment]  # None is derived
    tied: bool = True
    batch: int = 1
    sequence: int = None  # type: ignore[assignment]
    precision: str = "fp32"
    weights: str = "float32"
    checkpointing: str = "none"
    optimizer: str = "adamw"
    shards: int = 1
    stage: int = None  # type: ignore[assignment]

    def __post_init__(self):
        for name, least in (("layers", 0), ("width", 1), ("heads", 1), ("vocabulary", 2), ("context", 1),
                            ("hidden", 1), ("batch", 1), ("sequence", 1), ("shards", 1)):
            value = getattr(self, name)
            if value is None and name in ("hidden", "sequence"):
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"[plan] {name} must be a whole number, got {value!r}")
            if value < least:
                raise ValueError(f"[plan] {name} must be at least {least}, got {value}")
        for name, words in (("precision", PRECISIONS), ("weights", WEIGHTS), ("checkpointing", CHECKPOINTING),
                            ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in words:
                raise ValueError(f"[plan] {name} must be one of {', '.join(words)}, got {getattr(self, name)!r}")
        if not isinstance(self.tied, bool):
            raise TypeError(f"[plan] tied must be True or False, got {self.tied!r}")
        self._complete()

    def _complete(self):
        if self.hidden is None:
            object.__setattr__(self, "hidden", 4 * self.width)
        if self.sequence is None:
            object.__setattr__(self, "sequence", self.context)
        if self.stage is None:
            object.__setattr__(self, "stage", 3 if self.shards > 1 else 0)
        if self.width % self.heads:
            raise ValueError(f"[plan] width {self.width} does not divide into {self.heads} heads: make it a multiple")
        if self.sequence > self.context:
            raise ValueError(f"[plan] a sequence of {self.sequence} tokens has positions for {self.context} only: give "
                             f"context={self.sequence} too")
        if self.stage not in STAGES or isinstance(self.stage, bool):
            raise ValueError(f"[plan] stage must be one of {', '.join(map(str, STAGES))}, got {self.stage!r}")
        if self.shards == 1 and self.stage:
            raise ValueError(f"[plan] stage {self.stage} needs shards to cut over: give shards= above 1")
        if self.precision == "fp32" and self.weights != "float32":
            raise ValueError(f"[plan] weights={self.weights!r} are half precision: give precision='bf16' or 'fp16' "
                             "with them")

    def but(self, **changes) -> PlanConfig:
        """The same with other settings; what was derived from a changed one is derived anew."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if "width" in changes and self.hidden == 4 * self.width:
            values["hidden"] = None
        if "context" in changes and self.sequence == self.context:
            values["sequence"] = None
        if "shards" in changes and 1 in (self.shards, changes["shards"]):
            values["stage"] = None
        if changes.get("precision") == "fp32":
            values["weights"] = "float32"
        return PlanConfig(**{**values, **changes})

    def parameters(self) -> dict[str, int]:
        """Elements of the parameters by where they are; a tied output layer has none of its own."""
        c, h = self.width, self.hidden
        block = (3 * c * c + 3 * c) + (c * c + c) + (h * c + h) + (c * h + c) + 4 * c
        return {"token embedding": self.vocabulary * c, "positions": self.context * c, "blocks": self.layers * block,
                "last norm": 2 * c, "output layer": 0 if self.tied else self.vocabulary * c}


def _gpt2(layers, width, heads):
    return dict(layers=layers, width=width, heads=heads, vocabulary=50257, context=1024)


def _gpt3(layers, width, heads):
    return dict(layers=layers, width=width, heads=heads, vocabulary=50257, context=2048)


# GPT-2: layers and widths of table 2 of Radford et al. 2019, heads of the released models. GPT-3: table 2.1 of Brown et
# al. 2020, where two rows do not fit themselves: XL's 24 heads of 128 make 3072, not its width of 2048 (16 do), and
# 13B's width is printed as 5140, its 40 heads of 128 make 5120; with these two the sizes are those of its table D.1.
PRESETS = {
    "gpt2": _gpt2(12, 768, 12), "gpt2-medium": _gpt2(24, 1024, 16), "gpt2-large": _gpt2(36, 1280, 20),
    "gpt2-xl": _gpt2(48, 1600, 25),
    "gpt3-small": _gpt3(12, 768, 12), "gpt3-medium": _gpt3(24, 1024, 16), "gpt3-large": _gpt3(24, 1536, 16),
    "gpt3-xl": _gpt3(24, 2048, 16), "gpt3-2.7b": _gpt3(32, 2560, 32), "gpt3-6.7b": _gpt3(32, 4096, 32),
    "gpt3-13b": _gpt3(40, 5120, 40), "gpt3-175b": _gpt3(96, 12288, 96),
}


def config_of(config, overrides: dict) -> tuple[str, PlanConfig]:
    """(a name, the config) of a preset's name, a dictionary or a PlanConfig, with some settings replaced."""
    known = [f.name for f in dataclasses.fields(PlanConfig)]
    given = {**config, **overrides} if isinstance(config, dict) else overrides
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f": did you mean {near[0]}?" if near else f": there are {', '.join(known)}"
            raise TypeError(f"[plan] no setting is named {name!r}{hint}")
    if isinstance(config, PlanConfig):
        return "transformer", config.but(**overrides)
    if isinstance(config, str):
        if config not in PRESETS:
            raise ValueError(f"[plan] no preset is named {config!r}: there are {', '.join(PRESETS)}")
        return config, PlanConfig(**{**PRESETS[config], **overrides})
    if not isinstance(config, dict):
        raise TypeError("[plan] config must be a preset's name, a dictionary or a look.PlanConfig, got "
                        f"{type(config).__name__}")
    missing = [f.name for f in dataclasses.fields(PlanConfig)
               if f.default is dataclasses.MISSING and f.name not in given]
    if missing:
        raise ValueError(f"[plan] the config lacks {', '.join(missing)}")
    return "transformer", PlanConfig(**given)
