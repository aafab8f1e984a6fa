"""CuPy and its stand-in, the simulated device, as backends: what they do differently from NumPy and from each other.

Imported on first use of a device. `cupy` is imported here and in `device.probe` only.
"""
from __future__ import annotations

import threading

import numpy as np

from . import streams
from .device import Backend, device, recorded


def read(array):
    """A device array's values, when the stream that makes them is done; raises what the device found by then."""
    if streams.several:
        streams.before((array,))
    if not recorded:
        return array.get()
    from . import errors

    return errors.reading(array, array.get)


def look(backend, index=None):
    from . import errors

    errors.look(backend, index=index)


class _Device(Backend):
    def _aside(self, make):
        """`make()` on a stream of its own, which is waited for."""
        with self.xp.cuda.Stream(non_blocking=True) as aside:
            array = make()
            aside.synchronize()
        return array


class Simulated(_Device):
    type = "sim"

    def __init__(self):
        from . import simulated

        self._sim = simulated
        self._device = device("sim", 0)
        self.xp, self.special, self.ndarray = simulated.xp, simulated.special, simulated.ndarray

    def from_host(self, array, index=None):
        return self._sim.asarray_from_host(array)

    def to_host(self, array):
        return read(array)

    def synchronize(self, index=None):
        if recorded:
            look(self)
        self.wait()

    def wait(self, index=None):
        self._sim.synchronize()
        streams.release()

    def capturing(self):
        return self.xp.cuda.get_current_stream().is_capturing()

    def many_streams(self):
        return streams.several

    def lasting(self, make):
        return self._aside(make) if streams.several else make()

    def fetch(self, array):
        return lambda: int(array._np[0])  # no copy is counted: it rides on a read that is

    def memory_stats(self, index=None):
        return self._sim.memory_stats()

    def reset_peak(self, index=None):
        self._sim.reset_peak()

    def empty_cache(self):
        self._sim.empty_cache()


class Cuda(_Device):
    type = "cuda"

    def __init__(self):
        import cupy
        import cupyx.scipy.special

        self.xp, self.special, self.ndarray = cupy, cupyx.scipy.special, cupy.ndarray
        self._peaks: dict = {}  # (device, id of the pool) -> Peak, from the first question for a peak on
        streams.several = True  # a program may enter CuPy's streams without a word

    def from_host(self, array, index=None):
        with self.xp.cuda.Device(index):
            return self.xp.asarray(array)

    def to_host(self, array):
        return read(array)

    def to_index(self, array, index):
        if index is None or array.device.id == index:
            return array
        with self.xp.cuda.Device(index):
            return self.xp.array(array)

    def device_of(self, array):
        return device("cuda", array.device.id)

    def synchronize(self, index=None):
        if recorded:
            look(self, index)
        self.wait(index)

    def wait(self, index=None):
        self.xp.cuda.Device(index).synchronize()
        streams.release()

    def capturing(self):
        return self.xp.cuda.get_current_stream().is_capturing()

    def many_streams(self):
        return True  # the user's own CuPy streams are not known here

    def lasting(self, make):
        return self._aside(make)  # a capture of the current stream would repeat it at every replay

    def fetch(self, array):
        cuda = self.xp.cuda
        stream = cuda.get_current_stream()
        pinned = cuda.alloc_pinned_memory(8)
        cuda.runtime.memcpyAsync(pinned.ptr, array.data.ptr, 8, cuda.runtime.memcpyDeviceToHost, stream.ptr)
        return lambda: int(np.frombuffer(pinned, np.int64, 1)[0])

    def fresh(self, nbytes, index=None):
        with self.xp.cuda.Device(index):
            return self.xp.cuda.Memory(nbytes)

    def pool(self):
        """The pool behind CuPy's current allocator; CuPy's default pool where a program has set something else."""
        found = getattr(self.xp.cuda.get_allocator(), "__self__", None)
        return found if hasattr(found, "used_bytes") else self.xp.get_default_memory_pool()

    def _peak(self, pool):
        key = self.xp.cuda.runtime.getDevice(), id(pool)
        found = self._peaks.get(key)
        if found is None:
            found = self._peaks[key] = make_peak(self.xp.cuda.MemoryHook, pool, key[0])
        found.listen()
        return found

    def memory_stats(self, index=None):
        with self.xp.cuda.Device(index):
            pool = self.pool()
            peak = self._peak(pool)
            used = pool.used_bytes()
            return {"current": used, "peak": peak.read(used), "held": pool.total_bytes(), "limit": pool.get_limit()}

    def reset_peak(self, index=None):
        with self.xp.cuda.Device(index):
            pool = self.pool()
            self._peak(pool).reset(pool.used_bytes())

    def empty_cache(self):
        self.pool().free_all_blocks()


def make_peak(hook_class, pool, number):
    """The high-water mark of a pool on a device, which CuPy's pools do not keep.

    A memory hook adds and subtracts what the pool hands out and takes back, from the first question for memory figures
    on: a call of Python for each allocation, and nothing before. CuPy's hooks belong to a thread: what a thread that
    never asked allocates counts from the next reading.
    """

    class Peak(hook_class):
        name = f"tinytorch_gpu peak of device {number}, pool {id(pool):#x}"

        def __init__(self):
            self.pool = pool  # keeps the number of its key
            self.current = self.peak = pool.used_bytes()
            self.listening = threading.local()

        def listen(self):
            if not getattr(self.listening, "here", False):
                self.listening.here = True
                self.__enter__()

        def malloc_postprocess(self, **what):
            if what["mem_ptr"] and what["device_id"] == number:
                self.current += what["mem_size"]
                if self.current > self.peak:
                    self.peak = self.current

        def free_postprocess(self, **what):
            if what["device_id"] == number:
                self.current -= what["mem_size"]

        def read(self, used):
            self.current = used
            self.peak = max(self.peak, used)
            return self.peak

        def reset(self, used):
            self.current = self.peak = used

    return Peak()
