"""Loss curves of 200 steps in float32, float16 and bfloat16, from the same weights and batches as PyTorch's."""
from __future__ import annotations

import models
import numpy as np

from . import sides
from .rows import ROOT
from .training import Trainer, load, weights

STEPS = 200
SIZES = {"vocabulary": 256, "layers": 4, "width": 256, "heads": 4, "context": 256}
TINY = {"vocabulary": 256, "layers": 1, "width": 16, "heads": 2, "context": 8}


def text() -> np.ndarray:
    """The bytes of this project's documents and operators: a text that every checkout has."""
    files = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "tinytorch_gpu" / "ops").glob("*.py")])
    return np.frombuffer(b"".join(f.read_bytes() for f in files), np.uint8).astype(np.int64)


def run(job) -> None:
    both = sides.both(job.device)
    for side in both:
        side.t.set_float32_matmul_precision("highest")
    sizes, batch, steps = (TINY, 2, 3) if job.sim else (SIZES, 16, STEPS)
    for dtype in ("float32", "bfloat16", "float16"):
        if job.over(dtype):
            return
        curves = {side.name: curve(side, sizes, batch, steps, dtype) for side in both}
        for name, losses in curves.items():
            more = {}
            if name == "tinytorch_gpu" and "torch" in curves:
                more["largest difference"] = largest_difference(losses, curves["torch"])
            job.add("GPT 4x256", name, dtype, f"B{batch}xT{sizes['context']}", f"{steps} steps", losses[-20:], "nats",
                    losses=[round(v, 4) for v in losses], **more)


def curve(side, sizes, batch, steps, dtype) -> list[float]:
    """The losses of a training; they are read at the end, so that no step waits for the host."""
    rng = np.random.default_rng(1)
    model = models.make_gpt2(side.t, **sizes)
    load(side, model, weights(model, rng))
    trainer = Trainer(side, model, dtype, lr=1e-3)
    data, context = text(), sizes["context"]
    losses = []
    for _ in range(steps):
        starts = rng.integers(0, len(data) - context - 1, batch)
        block = np.stack([data[s:s + context + 1] for s in starts])
        losses.append(trainer.step(side.tensor(block[:, :-1].copy()), side.tensor(block[:, 1:].copy())))
    return [float(v) for v in losses]


def largest_difference(ours, theirs) -> float:
    """Of the curves averaged over 10 steps, relative to PyTorch's."""
    window = min(10, len(ours))
    smooth = [np.convolve(c, np.ones(window) / window, "valid") for c in (ours, theirs)]
    return float(f"{np.max(np.abs(smooth[0] - smooth[1]) / smooth[1]):.3g}")
