"""Train steps of GPT-2 124M: tokens per second and peak memory, beside PyTorch eager and torch.compile.

One model for both (bench/models.py), the same weights and batches, in one process, in turn. PyTorch at its best: AMP,
fused AdamW, its flash attention, TF32 for what stays in float32; the vocabulary is padded to 50,304 for both.
"""
from __future__ import annotations

import gc
import time

import models
import numpy as np

from . import sides
from .clock import Contender
from .kernels import launched
from .training import Trainer, load, weights

SIZES = {"vocabulary": 50304, "layers": 12, "width": 768, "heads": 12, "context": 1024}
TINY = {"vocabulary": 64, "layers": 1, "width": 16, "heads": 2, "context": 8}
BATCHES = (4, 8, 16, 32, 64)
ROUND = 5  # steps between two looks at the clock


def run(job) -> None:
    both = sides.both(job.device)
    sizes = TINY if job.sim else SIZES
    for side in both:
        side.t.set_float32_matmul_precision("high")
    for dtype in ("bfloat16", "float16"):
        for batch in (2,) if job.sim else (8,) if job.quick else BATCHES:
            if job.over(f"batches of {batch} in {dtype}"):
                return
            _compare(job, both, sizes, dtype, batch)


def _compare(job, both, sizes, dtype, batch):
    """Each contender alone for its peak memory, then all in turn; one that does not fit is named and left out."""
    ways = [(side, False) for side in both]
    if not job.quick:  # compiling takes a minute for each size
        ways += [(side, True) for side in both if side.t.__name__ == "torch"]
    tokens = batch * sizes["context"]
    shape = f"B{batch}xT{sizes['context']}"
    runs, losses = {}, {}
    for side, compiled in ways:
        name = "torch.compile" if compiled else side.name
        _tidy(both)
        before = side.used()  # PyTorch's two share an allocator
        try:
            steps = _make(side, sizes, dtype, batch, compiled)
            # warm-up: kernels and graphs are compiled here
            losses[name] = [float(steps()) for _ in range(1 if job.sim else 3)]
            side.reset_peak()
            steps()
            side.synchronize()
            peak = None if side.peak() is None else side.peak() - before
        except (MemoryError, side.t.cuda.OutOfMemoryError) as e:
            print(f"  {name} {dtype} {shape}: out of memory ({str(e)[:80]})", flush=True)
            job.add("GPT-2 124M", name, dtype, shape, "train step", [], "tokens/s", state="out of memory")
            continue
        runs[name] = (side, steps, peak, launched(Contender(lambda _, s=steps: s())) if side is both[0] else [])
    values: dict = {name: [] for name in runs}
    end = time.perf_counter() + (0 if job.sim else min(job.left() / 3, 6 if job.quick else 25))
    for turn in range(1 if job.sim else 20):
        if turn >= 3 and time.perf_counter() > end:
            break
        for name in list(runs) if turn % 2 == 0 else list(runs)[::-1]:
            side, steps, *_ = runs[name]
            count = 1 if job.sim else ROUND
            values[name].append(tokens * count / _seconds(side, steps, count))
    for name, rates in values.items():
        _, _, peak, kernels = runs[name]
        job.add("GPT-2 124M", name, dtype, shape, "train step", rates, "tokens/s", loss=losses[name][-1],
                kernels=kernels, **{"peak MiB": None if peak is None else round(peak / 2**20)})
    runs.clear()
    _tidy(both)
    for side, compiled in ways:
        if compiled:
            side.t.compiler.reset()  # or it gives up compiling after 8 sizes


def _make(side, sizes, dtype, batch, compiled):
    """A function that queues one step on the next of four batches."""
    rng = np.random.default_rng(0)
    model = models.make_gpt2(side.t, **sizes)
    load(side, model, weights(model, rng))
    trainer = Trainer(side, model, dtype, lr=3e-4, compiled=compiled)
    batches = [[side.tensor(rng.integers(0, sizes["vocabulary"], (batch, sizes["context"]))) for _ in range(2)]
               for _ in range(4)]
    count = iter(range(10**9))

    def step():
        return trainer.step(*batches[next(count) % 4])

    return step


def _seconds(side, step, count):
    side.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        step()
    side.synchronize()
    return time.perf_counter() - start


def _tidy(both):
    gc.collect()
    for side in both:
        side.reset_peak()
