"""`verify`: a kernel under several orders of its threads and contents of unwritten memory must give the same bits."""

from __future__ import annotations

import numpy as np

from ..array import ndarray
from .faults import Fault, KernelFault
from .module import Function

# (schedule, byte in unwritten memory, seed): the first one makes the result that the others are compared with
RUNS = ((0, 0xFF, 1), (1, 0x5A, 2), (2, 0xFF, 3), (2, 0x5A, 4))
_ORDER = ("ascending", "descending", "random")


def verify(fn: Function, grid, block, args, shared_mem: int = 0, outputs=(), exact=True, rtol: float = 0.0,
           atol: float = 0.0, seed: int = 0) -> None:
    """Runs a kernel of the check build in four orders and compares every array argument bit for bit.

    `outputs` are the indices of the arguments that the kernel only writes: they hold two different patterns before it,
    and reading them first is a fault. `exact=False` allows `rtol`, `atol` (float atomics add in any order). The arrays
    hold the first run's results after it. Raises: KernelFault, also of kind "different results"; ValueError.
    """
    if not fn.module.check:
        raise ValueError(f"[{fn.name}] verify needs the check build: Module(..., check=True)")
    outputs = frozenset(outputs)
    arrays = {i: a for i, a in enumerate(args) if isinstance(a, ndarray)}
    if outputs - set(arrays):
        raise ValueError(f"[{fn.name}] outputs {sorted(outputs)}: the arrays are arguments {sorted(arrays)}")
    before = {i: a._np.copy() for i, a in arrays.items()}
    first = None
    for schedule, poison, offset in RUNS:
        for i, a in arrays.items():
            if i in outputs:
                _fill(a._np, poison)
            else:
                a._np[...] = before[i]
        fn.launch(grid, block, args, shared_mem, schedule, poison, seed + offset, outputs)
        results = {i: a._np.copy() for i, a in arrays.items()}
        if first is None:
            first = results
            continue
        for i in arrays:
            _compare(fn, i, first[i], results[i], f"{_ORDER[schedule]} order, byte {poison:#x}", exact, rtol, atol)
    for i, a in arrays.items():
        a._np[...] = first[i]


def _fill(raw: np.ndarray, byte: int) -> None:
    pattern = np.frombuffer(bytes([byte if raw.dtype.kind != "b" else byte & 1]) * raw.dtype.itemsize, raw.dtype)
    raw[...] = pattern[0]


def _bits(raw: np.ndarray) -> np.ndarray:
    flat = np.ascontiguousarray(raw).reshape(-1)
    return flat.view(np.uint8).reshape(flat.size, raw.dtype.itemsize)


def _compare(fn, index, first, other, run, exact, rtol, atol) -> None:
    different = (_bits(first) != _bits(other)).any(1)
    if not exact and different.any():
        wide = np.complex128 if first.dtype.kind == "c" else np.float64
        close = np.isclose(first.astype(wide).ravel(), other.astype(wide).ravel(), rtol, atol, equal_nan=True)
        different &= ~close
    if not different.any():
        return
    at = int(different.argmax())
    place = tuple(int(n) for n in np.unravel_index(at, first.shape))
    text = (f"different results: argument {index} has {first.ravel()[at]!r} at {place} in ascending order (byte 0xff "
            f"in unwritten memory) and {other.ravel()[at]!r} in {run}; {int(different.sum())} of {different.size} "
            "elements differ: the kernel reads what it did not write, or its result depends on the order of threads")
    zero = (0, 0, 0)
    raise KernelFault(Fault("different results", fn.name, fn.module.file, 0, zero, zero, text))
