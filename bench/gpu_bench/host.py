"""What the host spends: microseconds to queue an operator, beside PyTorch; a checked launch beside a bare one."""
from __future__ import annotations

import time

import numpy as np

from . import sides

QUEUED = 100  # calls between two waits: the GPU's queue never fills, so the host never waits inside the time


def run(job) -> None:
    both = sides.both(job.device)
    rng = np.random.default_rng(0)
    for name, (arrays, call) in _operators(rng).items():
        if job.over(name):
            return
        for direction in ("forward", "forward + backward"):
            for side in both:
                inputs = [side.tensor(a, "float32", a.dtype.kind == "f") for a in arrays]
                ones = side.t.ones_like(call(side.t, *inputs).detach())
                work = _forward if direction == "forward" else _both_ways
                values = _queue(job, side, lambda s=side, x=inputs, w=work, g=ones, f=call: w(s.t, f, x, g))
                job.add(name, side.name, "float32", "x".join(map(str, arrays[0].shape)), direction, values, "us")
    _launches(job, both[0])


def _operators(rng):
    x, y = sides.draw(rng, (32, 64)), sides.draw(rng, (32, 64))
    w, b = sides.draw(rng, (64, 64)), sides.draw(rng, (64,))
    classes = rng.integers(0, 64, 32)
    return {
        "add": ((x, y), lambda t, x, y: x + y),
        "mul": ((x, y), lambda t, x, y: x * y),
        "tanh": ((x,), lambda t, x: t.tanh(x)),
        "sum": ((x,), lambda t, x: x.sum()),
        "transpose": ((x,), lambda t, x: x.transpose(0, 1)),
        "matmul": ((x, w), lambda t, x, w: x @ w),
        "linear": ((x, w, b), lambda t, x, w, b: t.nn.functional.linear(x, w, b)),
        "gelu": ((x,), lambda t, x: t.nn.functional.gelu(x)),
        "softmax": ((x,), lambda t, x: t.softmax(x, -1)),
        "layer_norm": ((x, b, b), lambda t, x, w, b: t.nn.functional.layer_norm(x, (64,), w, b)),
        "cross_entropy": ((x, classes), lambda t, x, y: t.nn.functional.cross_entropy(x, y)),
    }


def _forward(t, call, inputs, ones):
    call(t, *inputs)


def _both_ways(t, call, inputs, ones):
    call(t, *inputs).backward(ones)


def _queue(job, side, work, least=5):
    """Microseconds of the host for one call, of batches that wait only between themselves."""
    calls, batches = (3, 1) if job.sim else (QUEUED, least if job.quick else 4 * least)
    for _ in range(calls):
        work()
    values = []
    for _ in range(batches):
        side.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            work()
        values.append((time.perf_counter() - start) / calls * 1e6)
    side.synchronize()
    return values


def _launches(job, side):
    """A launch through Kernel, which checks it, and of the compiled function itself."""
    from tinytorch_gpu.backend.device import backend_for, device
    from tinytorch_gpu.backend.kernel import Kernel, ready

    backend = backend_for(device(job.device))
    if not ready(backend):
        print("  no compiler for kernels: launches left out", flush=True)
        return
    scale = Kernel("""
        __global__ void scale(const float* x, float* y, float by, long long n) {
            const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
            if (i < n) y[i] = x[i] * by;
        }""")
    x, y = backend.xp.ones(256, np.float32), backend.xp.empty(256, np.float32)
    scale((1,), (256,), x, y, 2.0, 256)
    (function,) = scale._functions.values()
    bare = (x, y, np.float32(2.0), np.int64(256))
    values = _queue(job, side, lambda: scale((1,), (256,), x, y, 2.0, 256))
    plain = _queue(job, side, lambda: function((1,), (256,), bare))
    job.add("launch", "Kernel", "float32", "256", "forward", values, "us")
    job.add("launch", "bare function", "float32", "256", "forward", plain, "us")
