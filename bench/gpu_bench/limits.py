"""What this GPU can do at most: bytes per second of a copy, operations per second of a matrix product."""
from __future__ import annotations

import numpy as np

from . import sides
from .clock import Contender, clock_for, in_turn
from .rows import read

SIZES = (1 << 20, 16 << 20, 256 << 20, 1 << 30)  # bytes copied; the share of the copy is of the largest
SQUARE = 8192
# GPT-2 124M with 16 x 1024 tokens: (rows, in, out) of its products
LAYERS = {"qkv": (16384, 768, 2304), "up": (16384, 768, 3072), "down": (16384, 3072, 768), "head": (16384, 768, 50304)}


def run(job) -> None:
    clock = clock_for(job.device)
    _copy(job, clock)
    _products(job, clock)


def _copy(job, clock):
    from tinytorch_gpu.backend.device import backend_for, device

    xp = backend_for(device(job.device)).xp
    for size in (4096,) if job.sim else SIZES:
        source, target = xp.ones(size // 4, np.float32), xp.empty(size // 4, np.float32)
        for by, copy in {"copy": lambda _, t=target, s=source: t.__setitem__(..., s),
                         "kernel": lambda _, t=target, s=source: xp.add(s, np.float32(1), out=t)}.items():
            times = in_turn(clock, {by: Contender(copy)}, min(1.0, job.left() / 20), most=50)[by]
            rate = [2 * size / t / 1e3 for t in times]  # read and written
            job.add("copy", by, "float32", str(size), "", rate, "GB/s")


def _products(job, clock):
    both = sides.both(job.device)
    rng = np.random.default_rng(0)
    square = 32 if job.sim else SQUARE
    shapes = {"square": (square, square, square)}
    if not job.sim:
        shapes.update(LAYERS)
    for dtype, precision in (("float16", "highest"), ("bfloat16", "highest"), ("float32", "high"),
                             ("float32", "highest"), ("float64", "highest")):
        for name, (rows, inner, columns) in shapes.items():
            if dtype == "float64" and name != "square" or (job.quick and name in ("up", "down")):
                continue
            if job.over(f"products from {dtype} {name} on"):
                return
            a, b = sides.draw(rng, (rows, inner)), sides.draw(rng, (columns, inner))
            contenders = {}
            for side in both:
                side.t.set_float32_matmul_precision(precision)
                x, w = side.tensor(a, dtype), side.tensor(b, dtype)
                contenders[side.name] = Contender(lambda _, s=side, x=x, w=w: s.t.nn.functional.linear(x, w))
            times = in_turn(clock, contenders, min(0.7, job.left() / 30), most=50)
            for by, values in times.items():
                rate = [2 * rows * inner * columns / t / 1e6 for t in values]
                job.add("product", by, "tf32" if precision == "high" else dtype, f"{rows}x{inner}x{columns}", name,
                        rate, "TFLOP/s")
            del contenders
            for side in both:
                side.reset_peak()
    for side in both:
        side.t.set_float32_matmul_precision("highest")
    from tinytorch_gpu.backend import cublas
    from tinytorch_gpu.backend.device import backend_for, device

    library = cublas.library(backend_for(device(job.device)))
    print(f"  our products go through the binding of {library.name}", flush=True)


def copy_rate(path, machine) -> float | None:
    """GB/s of the largest copy on this GPU in the newest run that measured it; None if none did."""
    found = [r for r in read(path) if r["section"] == r["op"] == "copy" and r["gpu"] == machine["gpu"]]
    if not found:
        return None
    return max(found, key=lambda r: (r["run"], r["by"] == "copy", int(r["shape"])))["p50"]
