"""One computation measured without gradients, with them, with its backward, and captured where a device can capture."""
from __future__ import annotations

import contextlib
import gc
import math

import numpy as np

from ...autograd import enable_grad, no_grad
from ...backend import random
from ...backend.device import backend_for
from ...backend.device import device as Device
from ...nn import Module
from ...ops import empty, ones, ones_like
from ...tensor import Tensor
from ..graph.collect import roots_of, walk
from ..measure import memory, meter_of, seconds, spread

__all__ = ["measured", "name_of"]

WAYS = ("no_grad", "forward", "forward and backward")
PART_NAMES = ("array", "objects", "gradient", "objects of the gradient", "record of one use")
COPIES = 128  # objects of some hundred bytes are made so often, and their bytes divided


def measured(call, what, repeats) -> dict:
    """The data of `look.overhead`."""
    drawn = {g: g.get_state() for g in _generators()}
    with enable_grad():
        first = _result(call)
        for g in _generators():
            if g not in drawn:  # the call made it, to draw from
                drawn[g] = g.manual_seed(g.initial_seed()).get_state()
        again = _result(call)
        if first is again or first.grad_fn is again.grad_fn:
            raise ValueError("[overhead] the function returned the same tensor twice: it must compute it in each call, "
                             "lambda: model(x).sum() and not lambda: loss")
        del again
        operators, accumulators = walk(roots_of("overhead", first))
        leaves = [a.variable for a in accumulators]
        device, count = first.device, len(operators)
        seed = ones_like(first.detach())
        del first, operators, accumulators
        before = [leaf._grad for leaf in leaves]
        try:
            runs = _Runs(call, leaves, seed, drawn)
            ways = _ways(runs, device, repeats)
            tensor = _tensor(max(leaves, key=lambda leaf: leaf.nbytes), device)
            captured = _captured(runs, device, repeats)
        finally:
            for leaf, grad in zip(leaves, before):
                leaf._grad = grad
            for g, state in drawn.items():
                g.set_state(state)
    meter = meter_of(device)
    meter.close()
    recording = ways[1]["seconds"]["least"] - ways[0]["seconds"]["least"]
    notes = []
    if device.type == "sim":
        notes.append("times and Python objects are those of the simulated device, which computes on the CPU: no GPU's")
    return {"view": "overhead", "function": what, "device": str(device), "meter": meter.source, "repeats": repeats,
            "operators": count, "leaves": len(leaves), "ways": ways,
            "recording": {"seconds": recording, "each": recording / count if recording > 0 else None},
            "tensor": tensor, "captured": captured, "notes": notes}


def _generators() -> list:
    """The default generators of all devices that have drawn."""
    return [random.default_generator(Device(*where)) for where in list(random._defaults)]


def _result(call) -> Tensor:
    value = call()
    if not isinstance(value, Tensor):
        raise TypeError(f"[overhead] the function must return a Tensor, got {type(value).__name__}")
    roots_of("overhead", value)
    return value


class _Runs:
    """The computation in each way. Before each run `begin` makes the gradients of the leaves None, and the random
    numbers the same."""

    def __init__(self, call, leaves, seed, drawn):
        self.call, self.leaves, self.seed, self.drawn = call, leaves, seed, drawn

    def begin(self):
        for leaf in self.leaves:
            leaf._grad = None
        for g, state in self.drawn.items():
            g.set_state(state)

    def of(self, way):
        """The function that computes in a way; it returns the result."""
        return {"no_grad": self._without, "forward": self.call, "forward and backward": self._whole}[way]

    def _without(self):
        try:
            with no_grad():
                return self.call()
        except Exception as e:
            e.add_note("[overhead] under no_grad(), where the function is called too: leave the backward to the view")
            raise

    def _whole(self):
        result = self.call()
        result.backward(self.seed)
        return result.detach()


def _ways(runs, device, repeats) -> list[dict]:
    """Bytes of each way, then its times, in turns: what else the machine does meets all of them."""
    found = []
    for way in WAYS:
        runs.begin()
        runs.of(way)()  # what the first run alone leaves behind
        runs.begin()
        use = memory(runs.of(way), device, arrays=True)
        found.append({"name": way, "peak": use.peak, "held": use.held, "arrays": use.arrays})
        del use
    times: dict = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way in WAYS:
            runs.begin()
            times[way] += seconds(runs.of(way), device, repeats=1, warm=0)
    runs.begin()
    for entry in found:
        entry["seconds"] = spread(times[entry["name"]])
    return found


# a tensor


def _tensor(leaf, device) -> dict:
    """The largest leaf as a tensor without and with gradients: bytes of the parts of each."""
    shape, dtype = tuple(leaf.shape), leaf.dtype

    def held(run):
        return memory(run, device, arrays=True).arrays

    def used(x, seed):
        (-x).backward(seed)

    arrays = [held(lambda need=need: empty(shape, dtype=dtype, device=device, requires_grad=need))
              for need in (False, True)]
    probe = leaf.detach().requires_grad_()  # the same memory, without the program's hooks
    seed = ones((), dtype=dtype, device=device).expand(shape)
    used(probe, seed)
    probe.grad = None
    gradient = held(lambda: used(probe, seed))
    small = tuple(1 for _ in shape)

    def made(need):
        return lambda: empty(small, dtype=dtype, device=device, requires_grad=need)

    count = _Objects()
    tensors = [[made(need)() for _ in range(2 * COPIES)] for need in (False, True)]
    one = ones(small, dtype=dtype, device=device)

    def gradient_of(x):
        used(x, one)
        grad, x.grad = x.grad, None
        return grad

    # in turns, the least: what an allocator keeps for itself grows by the way
    rounds = [[count(made(need)) for need in (False, True)] for _ in range(3)]
    objects = [min(found) for found in zip(*rounds)]
    uses = [count(lambda x: -x, given) for given in tensors]
    values = ((arrays[0], arrays[1]), (objects[0], objects[1]), (0, gradient), (0, count(gradient_of, tensors[1])),
              (0, max(0, uses[1] - uses[0])))
    parts = [{"part": name, "without": a, "with": b} for name, (a, b) in zip(PART_NAMES, values)]
    return {"shape": list(shape), "dtype": dtype.name, "parts": parts,
            **{key: sum(p[key] for p in parts) for key in ("without", "with")}}


class _Objects:
    """Counts the bytes of Python objects, arrays' contents apart, that a call leaves: the mean of many. What it makes
    lives as long as it does: Python keeps what dies in free lists, and tracemalloc sees nothing that comes from there.
    """

    def __init__(self):
        gc.collect()  # empties the free lists
        self.kept: list = []

    def __call__(self, make, given=None) -> int:
        half: list = [None] * COPIES
        self.kept += [half, again := [None] * COPIES]

        def fill(into, start):
            for i in range(COPIES):
                into[i] = make() if given is None else make(given[start + i])

        fill(half, 0)  # what one call takes from the free lists and gives back is in them then
        use = memory(lambda: fill(again, COPIES), "cpu", arrays=True)  # the objects of a device's arrays are the host's
        return round((use.held - (use.arrays or 0)) / COPIES)


# captured


class Refused(Exception):
    """What the device or the program raised while it was captured."""


def _captured(runs, device, repeats) -> dict:
    """Recorded operator by operator, and captured once and launched; or the reason why it is not."""
    backend = backend_for(device)
    if getattr(backend.xp, "cuda", None) is None:
        return {"ways": [], "reason": f"{device} cannot capture: a graph of launches is a GPU's"}
    ways = []
    for way in ("no_grad", "forward and backward"):
        try:
            ways.append({"name": way, **_capture(runs, way, backend, device, repeats)})
        except Refused as e:
            return {"ways": ways, "reason": f"{way} cannot be captured: {e}"}
        finally:
            runs.begin()
    return {"ways": ways, "reason": None}


def _capture(runs, way, backend, device, repeats) -> dict:
    run = runs.of(way)
    runs.begin()
    expected = _values(backend, run(), runs.leaves)
    runs.begin()
    stream = backend.xp.cuda.Stream(non_blocking=True)
    with stream:
        run()  # the stream's own part of the pool has the memory then, nothing is asked of the device meanwhile
        stream.synchronize()
    runs.begin()
    backend.synchronize(device.index)
    use = memory(lambda: _recorded(stream, run), device)
    graph, result = use.result  # type: ignore[misc]
    times = seconds(graph.launch, device, repeats)
    found = _values(backend, result, runs.leaves)
    return {"seconds": spread(times), "peak": use.peak, "held": use.held,
            "difference": max(_difference(a, b) for a, b in zip(expected, found, strict=True))}


def _recorded(stream, run):
    """(graph, result) of what `run` does while the stream records."""
    with stream:
        stream.begin_capture()
        try:
            result = run()
        except BaseException as e:
            with contextlib.suppress(Exception):  # the first error is the one to show
                stream.end_capture()
            if not isinstance(e, Exception):
                raise
            said = str(e).splitlines()
            raise Refused(f"{type(e).__name__}: {said[0] if said else ''}") from None
        return stream.end_capture(), result


def _values(backend, result, leaves) -> list:
    """Result and gradients on the host."""
    found = [result.detach(), *(leaf._grad for leaf in leaves if leaf._grad is not None)]
    return [np.array(backend.to_host(t._array)) for t in found]


def _difference(a, b) -> float:
    """The largest difference between two arrays, 0.0 where they have equal bits."""
    if a.dtype == b.dtype and a.tobytes() == b.tobytes():
        return 0.0
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    apart = np.abs(a.astype(wide) - b.astype(wide))
    return math.inf if np.isnan(apart).any() else float(apart.max())


def name_of(fn) -> str:
    """What the function is called in the text."""
    if isinstance(fn, Module):
        return type(fn).__name__
    name = getattr(fn, "__name__", type(fn).__name__)
    return "the function" if name == "<lambda>" else name
