"""Every kernel of the library, forward and backward, beside PyTorch eager and torch.compile: GB/s, share of a copy.

Which kernels ran is taken from the launches themselves; those that no case reaches are named at the end, and the
section fails.
"""
from __future__ import annotations

import numpy as np

from . import sides
from .clock import Contender, clock_for, in_turn
from .kernel_table import CASES, OPTIMIZERS
from .limits import copy_rate

DTYPES = ("bfloat16", "float16", "float32")
ITEM = {"float32": 4, "float16": 2, "bfloat16": 2}


def run(job, group: str) -> None:
    clock = clock_for(job.device)
    both = sides.both(job.device)
    rate = copy_rate(job.rows.path, job.rows.machine)
    if group == "optimizer":
        _optimizers(job, clock, both, rate)
        return
    for i, case in enumerate(c for c in CASES if c.group == group):
        # the quick simulated run takes the dtypes in turn, that of a GPU bfloat16
        for dtype in DTYPES if not job.quick else (DTYPES[i % 3 if job.sim else 0],):
            if job.over(f"{case.name} {dtype}"):
                return
            _case(job, clock, both, rate, case, dtype)
            for side in both:
                side.reset_peak()


def _case(job, clock, both, rate, case, dtype):
    rng = np.random.default_rng(0)
    rows, columns = case.tiny if job.sim else (case.rows, case.columns)
    arrays = case.make(sides.draw, rng, rows, columns)
    forward, backward, names = {}, {}, {}
    for side in both:
        fn = case.ours if side.t.__name__ != "torch" or case.theirs is None else case.theirs
        ways = {side.name: fn}
        if side.t.__name__ == "torch" and not job.quick:  # seconds of compiling for each
            ways["torch.compile"] = side.t.compile(fn, dynamic=False)
        inputs = [side.tensor(a, dtype, a.dtype.kind == "f" and i not in case.constants) for i, a in enumerate(arrays)]
        for by, way in ways.items():
            forward[by] = Contender(lambda _, s=side, f=way, x=inputs: f(s.t, *x))
            if case.backward is not None:
                backward[by] = _backward(side, way, inputs)
    passes = {"forward": case.forward, "backward": case.backward}
    shape = f"{rows}x{columns}"
    for direction, contenders in (("forward", forward), ("backward", backward)):
        if not contenders:
            continue
        names[direction] = launched(contenders["tinytorch_gpu"])
        times = in_turn(clock, contenders, _slot(job), most=30 if job.quick else 100)
        moved = passes[direction] * rows * columns * ITEM[dtype]
        for by, values in times.items():
            _row(job, case.name, by, dtype, shape, direction, values, moved, rate, names[direction],
                 case.kernel_of(direction))


def _slot(job):
    """Seconds for one comparison: all cases must fit into the section's time."""
    return 0 if job.sim else min(1.0, job.seconds / 150)


def _backward(side, forward, inputs):
    """Only the backward is timed; the graph is recorded anew for each run."""
    wanted = [x for x in inputs if x.requires_grad]

    def run(out):
        return side.t.autograd.grad(out, wanted, ones, allow_unused=True)

    def prepare():
        return forward(side.t, *inputs)

    first = prepare()
    ones = [side.t.ones_like(x.detach()) for x in (first if isinstance(first, tuple) else (first,))]
    del first
    return Contender(run, prepare)


def launched(contender) -> list[str]:
    """The names of the library's kernels in the order of their launches in one run."""
    from tinytorch_gpu.backend.kernel import Kernel

    names: list[str] = []
    plain = Kernel.__call__

    def noting(self, *args, **kwargs):
        names.append(self.signature.name)
        return plain(self, *args, **kwargs)

    state = contender.prepare()
    Kernel.__call__ = noting
    try:
        contender.run(state)
    finally:
        Kernel.__call__ = plain
    return list(dict.fromkeys(names))


def _row(job, name, by, dtype, shape, direction, values, moved, rate, kernels, named):
    """`kernels` ran on our side; the figures are those of the one that is `named`, if it was among them."""
    middle = sorted(values)[len(values) // 2]
    speed = float(f"{moved / middle / 1e3:.4g}")
    more = {"kernels": kernels} if by == "tinytorch_gpu" else {}
    if more and named in kernels:
        more["kernel"] = named
    if rate:
        more["share of copy"] = float(f"{speed / rate:.3g}")
    job.add(name, by, dtype, shape, direction, values, "us", bytes=int(moved), **{"GB/s": speed}, **more)


def _optimizers(job, clock, both, rate):
    """A step over parameters with the shapes of GPT-2 124M in float32, and unscaling with its check and norm."""
    rng = np.random.default_rng(0)
    width, layers, vocabulary = (8, 1, 16) if job.sim else (768, 12, 50304)
    shapes = [(vocabulary, width), *[s for _ in range(layers) for s in (
        (width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,), (width,), (width,),
        (4 * width, width), (4 * width,), (width, 4 * width), (width,))], (width,), (width,)]
    count = sum(int(np.prod(s)) for s in shapes)
    arrays = [sides.draw(rng, s, 0.02) for s in shapes]
    gradients = [sides.draw(rng, s, 0.01) for s in shapes]

    def parameters(side):
        made = [side.t.nn.Parameter(side.tensor(a)) for a in arrays]
        for p, g in zip(made, gradients):
            p.grad = side.tensor(g)
        return made

    for entry in OPTIMIZERS:
        if job.over(entry.name):
            return
        contenders = {}
        for side in both:
            best = {"fused": True} if side.device == "cuda" and side.t.__name__ == "torch" else {}
            optimizer = entry.make(side.t, parameters(side), best)
            contenders[side.name] = Contender(lambda _, o=optimizer: o.step())
        names = launched(contenders["tinytorch_gpu"])
        times = in_turn(clock, contenders, _slot(job) * 2, most=50)
        for by, values in times.items():
            _row(job, entry.name, by, "float32", f"{count} parameters", "step", values, entry.passes * 4 * count, rate,
                 names, entry.kernel)
    contenders = {}
    for side in both:
        mine = parameters(side)
        contenders[side.name] = Contender(lambda _, s=side, p=mine: s.t.nn.utils.clip_grad_norm_(p, 1e9))
    names = launched(contenders["tinytorch_gpu"])
    for by, values in in_turn(clock, contenders, _slot(job), most=50).items():
        _row(job, "clip_grad_norm_", by, "float32", f"{count} parameters", "step", values, 3 * 4 * count, rate,
             names, "unscale")


def uncovered(rows) -> list[str]:
    """Kernels that an operator or optimizer of the library launches, and that no row names."""
    from tinytorch_gpu.kernel_commands.library import bound_by

    return sorted({kernel for _, kernel in bound_by()} - {k for row in rows for k in row.get("kernels", ())})
