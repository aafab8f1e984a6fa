"""Batches through shared memory: arrays are laid into a segment, the rest is pickled beside them.

A worker has one segment per batch that it may have in flight, and uses it again and again: fresh pages cost more
than the copy. Names are decided by both sides alike, so the parent can remove what a killed worker left.
"""
from __future__ import annotations

import errno
import io
import os
import pickle
import struct
from multiprocessing.shared_memory import SharedMemory

import numpy as np

from ...backend.device import backend_of
from ...tensor import Tensor
from .collate import on_default_device

ALIGN = 64
LEAST = 1 << 16
COUNT = struct.Struct("<Q")
SPAN = struct.Struct("<QQ")  # offset, bytes


class _Packer(pickle.Pickler):
    def reducer_override(self, value):
        if type(value) is Tensor:
            if value.requires_grad:
                raise RuntimeError("[DataLoader] a worker's batch holds a Tensor that requires grad, and graphs do not "
                                   "cross processes: detach() it")
            return _tensor, _parts(backend_of(value._array).to_host(value._array))
        if type(value) is np.ndarray and not value.dtype.hasobject:
            return _array, _parts(value)
        return NotImplemented


def _parts(array):
    # as bytes, because dtypes like bfloat16 do not export a buffer
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return pickle.PickleBuffer(flat), array.dtype, array.shape


def _array(buffer, dtype, shape):
    return np.array(np.ndarray(shape, dtype, buffer))


def _tensor(buffer, dtype, shape):
    return on_default_device(_array(buffer, dtype, shape))


def pack(value) -> list:
    """The value as a list of buffers, the first of them a pickle."""
    stream, buffers = io.BytesIO(), []
    _Packer(stream, protocol=5, buffer_callback=buffers.append).dump(value)
    return [stream.getbuffer(), *(buffer.raw() for buffer in buffers)]


def _aligned(n) -> int:
    return -(-n // ALIGN) * ALIGN


def _write(memory, buffers) -> None:
    at = _aligned(COUNT.size + SPAN.size * len(buffers))
    COUNT.pack_into(memory.buf, 0, len(buffers))
    for i, buffer in enumerate(buffers):
        SPAN.pack_into(memory.buf, COUNT.size + SPAN.size * i, at, buffer.nbytes)
        memory.buf[at:at + buffer.nbytes] = buffer
        at += _aligned(buffer.nbytes)


def _read(memory):
    """The packed value; arrays are copied out, new Tensors are on the default device."""
    spans = [SPAN.unpack_from(memory.buf, COUNT.size + SPAN.size * i) for i in range(COUNT.unpack_from(memory.buf)[0])]
    views = [memory.buf[at:at + size] for at, size in spans]
    try:
        return pickle.loads(views[0], buffers=views[1:])
    finally:
        for view in views:
            view.release()


def _needed(buffers) -> int:
    return _aligned(COUNT.size + SPAN.size * len(buffers)) + sum(_aligned(buffer.nbytes) for buffer in buffers)


def _create(name, size) -> SharedMemory:
    memory = SharedMemory(name, create=True, size=size)
    path = "/dev/shm/" + name
    if os.path.exists(path):  # Linux: take the pages now, for writing into a full /dev/shm kills with SIGBUS
        try:
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as e:
            memory.close()
            memory.unlink()
            if e.errno == errno.ENOSPC:
                raise OSError(errno.ENOSPC, f"[DataLoader] no room in /dev/shm for a batch of {size} bytes: make it "
                                            "larger, or lower num_workers, prefetch_factor or batch_size") from None
            raise
    return memory


class Slot:
    """A worker's side of a segment: batches are written; a larger one takes its place when it is too small."""

    def __init__(self, name):
        self.name = name
        self.generation = 0
        self.memory = None

    def write(self, buffers) -> int:
        """Write the buffers and return the segment's generation."""
        needed = _needed(buffers)
        if self.memory is None or self.memory.size < needed:
            self.remove()
            self.generation += 1
            self.memory = _create(f"{self.name}_{self.generation}", max(LEAST, needed + needed // 8))
        _write(self.memory, buffers)
        return self.generation

    def remove(self) -> None:
        """Give the segment back."""
        memory, self.memory = self.memory, None
        if memory is not None:
            memory.close()
            _unlink(memory)


class SlotReader:
    """The parent's side of a segment."""

    def __init__(self, name):
        self.name = name
        self.announced = 0  # the newest generation that the worker spoke of
        self.generation = 0  # the generation that is open
        self.memory = None

    def read(self, generation):
        """The value in the segment of that generation."""
        if generation != self.generation:
            self.close()
            self.memory = SharedMemory(f"{self.name}_{generation}")
            self.generation = generation
        return _read(self.memory)

    def close(self) -> None:
        """Let the segment go, without removing it."""
        if self.memory is not None:
            self.memory.close()
            self.memory = None

    def remove(self) -> None:
        """Remove the segment after the worker's end.

        The worker removes a segment before it makes the next, so what is left is the last one announced, or the one
        after it.
        """
        self.close()
        for generation in (self.announced, self.announced + 1):
            try:
                memory = SharedMemory(f"{self.name}_{generation}")
            except FileNotFoundError:
                continue
            memory.close()
            _unlink(memory)


def _unlink(memory) -> None:
    try:
        memory.unlink()
    except FileNotFoundError:  # the other side was faster
        return
