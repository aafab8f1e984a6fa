"""Memory of the simulated device: a pool with CuPy's accounting, limits, failures on demand, and counters.

Blocks are rounded up to 512 bytes and start at 256-byte addresses, as CuPy's `MemoryPool` does; a block returns to the
free list when the last array that looks at it dies. `held` is what the pool keeps from the host (CuPy's `total_bytes`).
"""

from __future__ import annotations

import threading

import numpy as np

ALIGNMENT = 256
UNIT = 512


side = None  # the module delay.py once a program has made a stream: it orders memory and waits by streams


class OutOfMemoryError(MemoryError):
    """As `cupy.cuda.memory.OutOfMemoryError`."""


class counters:
    """`with counters() as c:` counts what happened on the device inside the block, on any thread.

    `host_to_device` and `device_to_host` are copies (the second also counts as a synchronisation), `synchronizations`
    are places where the host waits for the device, `allocations` are blocks taken from the pool, of `allocated_bytes`.
    """

    _active: list[counters] = []

    def __init__(self):
        self.host_to_device = 0
        self.device_to_host = 0
        self.synchronizations = 0
        self.allocations = 0
        self.allocated_bytes = 0

    def __enter__(self):
        counters._active.append(self)
        return self

    def __exit__(self, *exc):
        counters._active.remove(self)

    def __repr__(self):
        return "counters(" + ", ".join(f"{k}={v}" for k, v in vars(self).items()) + ")"


def tally(name: str, n: int = 1) -> None:
    for active in counters._active:
        setattr(active, name, getattr(active, name) + n)


def count(name: str, n: int = 1) -> None:
    """Something happens on the device: `synchronizations` wait for the current stream first."""
    if side is not None:
        if name == "synchronizations":
            side.waits()
        elif name == "host_to_device":
            side.copies()
        if not side.counts():
            return
    tally(name, n)


def count_read() -> None:
    """A copy from the device to the host, which waits for the device."""
    if side is not None:
        side.waits()
    for active in counters._active:
        active.device_to_host += 1
        active.synchronizations += 1


class Allocation:
    """One block of the pool; the arrays that look at it share this owner, and its death returns the block."""

    __slots__ = ("__weakref__", "block", "pool", "ptr", "queue", "size")

    def __init__(self, pool, block, ptr, size, queue=None):
        self.queue = queue  # the stream on which it was allocated, None before there were several
        self.pool = pool
        self.block = block
        self.ptr = ptr
        self.size = size

    def __del__(self):
        self.pool._release(self.block, self.ptr, self.size, self.queue)


class MemoryPool:
    """Names of `cupy.get_default_memory_pool()`, and the peak."""

    # CuPy keeps every freed block; a test process that runs thousands of shapes would keep them all, so above this the
    # free blocks go back to the host. (On the class: arrays die after this module's globals at the interpreter's end.)
    IDLE_BYTES = 256 << 20

    def __init__(self):
        self._lock = threading.RLock()  # reentrant: a collection inside `malloc` may free a block
        self._free: dict = {}  # free blocks by size; of a stream's arena by (its number, size)
        self._kept: list = []  # given back while delayed work may still use their addresses
        self._live: dict[int, int] = {}  # bytes asked for, by address
        self._used = 0
        self._held = 0
        self._peak = 0
        self._limit = 0
        self._fail_after = None

    def malloc(self, nbytes: int) -> Allocation:
        size = (nbytes + UNIT - 1) // UNIT * UNIT
        with self._lock:
            if self._fail_after is not None:
                self._fail_after -= 1
                if self._fail_after < 0:
                    self._fail_after = None
                    raise self._out_of_memory(size)
            queue = None if side is None else side.arena()
            stack = self._free.get(size if queue is None or not queue.ident else (queue.ident, size))
            if stack:
                block, ptr = stack.pop()
            else:
                if self._limit and self._held + size > self._limit:
                    self.free_all_blocks()
                    if self._held + size > self._limit:
                        raise self._out_of_memory(size)
                block = np.empty(size + ALIGNMENT, np.uint8)
                address = block.__array_interface__["data"][0]
                offset = -address % ALIGNMENT
                ptr = address + offset
                block = block[offset : offset + size]
                self._held += size
            self._live[ptr] = nbytes
            self._used += size
            if self._used > self._peak:
                self._peak = self._used
        if counters._active:
            count("allocations")
            count("allocated_bytes", size)
        return Allocation(self, block, ptr, size, queue)

    def _out_of_memory(self, size):
        text = f"Out of memory allocating {size:,} bytes (allocated so far: {self._held:,} bytes"
        return OutOfMemoryError(text + (f", limit set to: {self._limit:,} bytes)." if self._limit else ")."))

    def _release(self, block, ptr, size, queue=None):
        with self._lock:
            self._used -= size
            self._live.pop(ptr, None)
            key = size if queue is None or not queue.ident else (queue.ident, size)
            self._free.setdefault(key, []).append((block, ptr))
            if side is not None and side.freed is not None:  # its names are None at the interpreter's end
                side.freed(queue, block, ptr)
            if self._held - self._used > self.IDLE_BYTES:
                self.free_all_blocks()

    def live_blocks(self) -> dict[int, int]:
        """Bytes of every allocation that is alive, by its address."""
        with self._lock:
            return dict(self._live)

    def free_all_blocks(self, stream=None) -> None:
        """Give the free blocks back: of all arenas, or of one stream's."""
        with self._lock:
            mine = list(self._free) if stream is None else [
                key for key in self._free if (key[0] if key.__class__ is tuple else 0) == stream.ptr]
            for key in mine:
                blocks = self._free.pop(key)
                self._held -= sum(block.nbytes for block, _ in blocks)
                if side is not None and side.busy():
                    self._kept.append(blocks)

    def forget(self) -> None:
        """No delayed work is left that could use blocks which were given back."""
        self._kept.clear()

    def used_bytes(self) -> int:
        return self._used

    def total_bytes(self) -> int:
        return self._held

    def free_bytes(self) -> int:
        return self._held - self._used

    def n_free_blocks(self) -> int:
        return sum(map(len, self._free.values()))

    def peak_bytes(self) -> int:
        return self._peak

    def reset_peak(self) -> None:
        with self._lock:
            self._peak = self._used

    def get_limit(self) -> int:
        return self._limit

    def set_limit(self, size=None, fraction=None) -> None:
        """Bytes the pool may hold; 0 or None lifts the limit (`fraction` needs a device's size: not simulated)."""
        if fraction is not None:
            raise NotImplementedError("[simulated] set_limit takes bytes: the simulated device has no size of its own")
        if size is not None and size < 0:
            raise ValueError("size must be greater than or equal to 0")
        self._limit = int(size or 0)

    def fail_next(self, after: int = 0) -> None:
        """The allocation after the next `after` ones raises `OutOfMemoryError`, once."""
        if after < 0:
            raise ValueError(f"[simulated] fail_next_allocation: after must be 0 or more, got {after}")
        self._fail_after = after


POOL = MemoryPool()
