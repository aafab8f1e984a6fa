"""What a device reaches at best, measured: bytes copied, floating point operations of products, cost of a launch."""
from __future__ import annotations

import functools
import threading
import time
from dataclasses import dataclass

from ... import ops
from ...autograd.modes import no_grad
from ...backend import dtypes
from ...backend.device import backend_for, device_of, resolve
from ...backend.device import device as Device
from ...backend.gemm import gemm
from ...tensor import make

__all__ = ["Ceiling", "ceiling"]

_found: dict[str, Ceiling] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Ceiling:
    """The measured ceilings of one device.

    `bandwidth`: bytes read plus bytes written in a second by a copy of `copied` bytes; `launch`: seconds of one
    operator application on one element, Python included; `products`: floating point operations in a second of a square
    product, by dtype name. `gpu` is False on the CPU and on the simulated device, whose times say nothing of a GPU's.
    """

    device: str
    gpu: bool
    bandwidth: float
    copied: int
    launch: float
    products: dict[str, float]

    @property
    def host(self) -> bool:
        """Whether it is the CPU."""
        return self.device == "cpu"

    @property
    def note(self) -> str:
        """What a reader must know of these figures; "" on a GPU."""
        if self.gpu:
            return ""
        if self.device.startswith("sim"):
            return "times of the simulated device are those of NumPy on this CPU, no GPU's"
        return "times are those of this CPU, no GPU's"

    def seconds(self, moved: float, products: float = 0.0, launches: int = 1, dtype: str = "float32") -> float:
        """The least time of `moved` bytes and `products` floating point operations in matrix products: whichever takes
        longer, and `launches` launches."""
        speed = self.products.get(dtype) or self.products["float32"]
        return max(moved / self.bandwidth, products / speed) + launches * self.launch


def ceiling(device=None, *, remeasure: bool = False) -> Ceiling:
    """The ceilings of a device (the default one unless given): measured once in a process, 0.1 to 0.5 s, then kept.

    The best of several runs counts, others only disturb. Raises: RuntimeError for a device that does not answer.
    """
    where = resolve(None if device is None else Device(device))
    if where.index is None and where.type != "cpu":  # "cuda" is one of them, which has a number
        with where:
            where = device_of(backend_for(where).xp.zeros(1, "float32"))
    key = str(where)
    with _lock:
        if remeasure or key not in _found:
            with no_grad(), where:
                _found[key] = _measure(where)
        return _found[key]


def _measure(where) -> Ceiling:
    backend = backend_for(where)
    xp, index = backend.xp, where.index

    def best(run, repeats, budget=0.1) -> float:
        """The shortest of at most `repeats` runs that begin and end on an idle device."""
        run()
        found, spent = [], 0.0
        while len(found) < repeats and (spent < budget or not found):
            backend.synchronize(index)
            begin = time.perf_counter()
            run()
            backend.synchronize(index)
            found.append(time.perf_counter() - begin)
            spent += found[-1]
        return min(found)

    # two arrays beyond the caches: 32 MiB here and there on a CPU, 50 MB in an H100
    elements = {"cuda": 1 << 26, "cpu": 1 << 24}.get(where.type, 1 << 20)
    source = xp.ones(elements, "float32")
    target = xp.empty_like(source)
    copy = best(functools.partial(xp.copyto, target, source), 5)
    copied = source.nbytes
    del source, target  # products need room too
    one = make(xp.ones(1, "float32"))

    def tiny():
        for _ in range(200):
            ops.add(one, one)

    launch = best(tiny, 5, 0.05) / 200
    products = {}
    for dtype in (dtypes.float32, dtypes.float16, dtypes.bfloat16):
        size = 128 if where.type == "sim" else 256
        while True:
            a = xp.ones((size, size), dtype.np)
            spent = best(functools.partial(gemm, a, a), 3, 0.03)
            if spent > 0.008 or size >= 8192 or where.type == "sim":
                break
            size *= 2
        products[dtype.name] = 2.0 * size**3 / spent
        del a
    return Ceiling(str(where), where.type == "cuda", 2 * copied / copy, copied, launch, products)
