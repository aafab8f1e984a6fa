"""Devices: which there are, which is the default, and the array library behind each.

`cupy` is imported here, on first use of a GPU only. Everything above asks `backend_of(array)` and never
"is this a GPU?".
"""
from __future__ import annotations

import functools
import logging
import mmap
import os
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import memory

__all__ = [
    "device", "Backend", "Probe", "probe", "backend_of", "backend_for", "xp_of", "device_of",
    "default_device", "set_default_device", "get_default_device", "resolve",
]

log = logging.getLogger("tinytorch_gpu")
TYPES = ("cpu", "cuda", "sim")


class device:
    """A place where tensors live: `device("cpu")`, `device("cuda", 1)`, `device("cuda:1")`, `device("sim")`.

    `sim` is the simulated device: CuPy's rules over NumPy memory. As torch.device; used with `with`, it is the
    default device of the block.

    Raises: RuntimeError for a type that does not exist.
    """

    __slots__ = ("type", "index", "_outer")

    def __init__(self, type, index=None):
        if isinstance(type, device):
            type, index = type.type, type.index
        elif isinstance(type, str):
            name, colon, number = type.partition(":")
            if colon:
                if index is not None:
                    raise RuntimeError(f"[device] {type!r} has an index already, got index={index} too")
                if not number.isdecimal():
                    raise RuntimeError(f"[device] invalid device string {type!r}: write 'cuda:0'")
                index = int(number)
            type = name
        elif isinstance(type, int):
            type, index = "cuda", type
        if type not in TYPES:
            raise RuntimeError(f"[device] expected one of {', '.join(TYPES)}, got {type!r}")
        self.type, self.index = type, index
        self._outer = []

    def __eq__(self, other):
        return isinstance(other, device) and (self.type, self.index) == (other.type, other.index)

    def __hash__(self):
        return hash((self.type, self.index))

    def __str__(self):
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self):
        index = "" if self.index is None else f", index={self.index}"
        return f"device(type='{self.type}'{index})"

    def __reduce__(self):
        return device, (self.type, self.index)

    def __enter__(self):
        backend_for(self)
        self._outer.append(getattr(_local, "default", None))
        _local.default = self
        return self

    def __exit__(self, *exc):
        _local.default = self._outer.pop()


_local = threading.local()
_lock = threading.Lock()


class Backend:
    """One array library: its namespace, its array class, and the few things libraries do differently."""

    type: str
    xp: Any = None
    special: Any = None
    ndarray: Any

    def from_host(self, array, index=None):
        """A device array with the values of a host array."""
        raise NotImplementedError

    def to_host(self, array):
        """A host array with the values of a device array."""
        raise NotImplementedError

    def to_index(self, array, index):
        """The array on device number `index` of this type."""
        return array

    def device_of(self, array) -> device:
        return self._device

    def synchronize(self, index=None) -> None:
        """Wait for all work queued on the device. Raises: IndexOutOfRange for what its kernels found (errors.py)."""

    def wait(self, index=None) -> None:
        """Wait for all work queued on the device."""

    def capturing(self) -> bool:
        """Whether the current stream records a graph: nothing may wait for the device."""
        return False

    def many_streams(self) -> bool:
        """Whether work may be under way on more than one stream."""
        return False

    def lasting(self, make):
        """`make()`, an array that is there at once for every stream, also while a graph is captured."""
        return make()

    def fetch(self, array):
        """Start a copy of one int64 to the host; what comes back gives it after the next wait."""
        raise NotImplementedError

    def memory_stats(self, index=None) -> dict:
        """`current` and `peak` bytes, and what the library adds to them."""
        raise NotImplementedError

    def reset_peak(self, index=None) -> None:
        raise NotImplementedError

    def empty_cache(self) -> None:
        """Give cached blocks back."""

    def fresh(self, nbytes: int, index=None):
        """A block of memory that comes from the system or the driver and goes back there with the object."""
        return mmap.mmap(-1, nbytes)


class _Cpu(Backend):
    type = "cpu"
    xp = np
    ndarray = np.ndarray

    def __init__(self):
        self._device = device("cpu")
        if os.environ.get("TINYTORCH_KEEP_FREED", "1") != "0":
            memory.keep_freed_memory()

    @functools.cached_property
    def special(self):
        """scipy.special, on first use: 0.2 s of import."""
        import scipy.special

        return scipy.special

    def from_host(self, array, index=None):
        return array

    def to_host(self, array):
        return array

    def memory_stats(self, index=None):
        return memory.cpu_memory_stats()

    def reset_peak(self, index=None):
        memory.reset_cpu_peak()


recorded: dict = {}  # the error words of devices on which something may be wrong, by device (errors.py)


CPU = _Cpu()
_by_type: dict[str, Backend] = {"cpu": CPU}
_by_class: dict[type, Backend] = {np.ndarray: CPU}


@dataclass(frozen=True)
class Probe:
    """Whether a GPU can be used, and why not."""

    available: bool
    reason: str
    name: str = ""
    count: int = 0


_probe: Probe | None = None


def probe() -> Probe:
    """Whether CuPy and a GPU answer, found once: a kernel is compiled and a small matrix product run."""
    global _probe
    if _probe is None:
        with _lock:
            if _probe is None:
                _probe = _try_gpu()
    return _probe


def _try_gpu() -> Probe:
    try:
        import cupy
    except ImportError as e:
        return Probe(False, f"CuPy is not installed ({e})")
    except OSError as e:  # it makes a folder for compiled kernels when it is imported
        return Probe(False, f"CuPy cannot be imported: {type(e).__name__}: {e}: set CUPY_CACHE_DIR to a folder that "
                            "can be written")
    try:
        if not cupy.cuda.is_available():
            return Probe(False, "CuPy imports, but no CUDA device answers (no NVIDIA driver or no GPU)")
        # a driver alone proves little: a missing NVRTC or cuBLAS shows at the first kernel and the first product
        one = cupy.zeros(16, cupy.float32)
        kernel = cupy.RawKernel('extern "C" __global__ void probe(float* x) { x[threadIdx.x] = 1.f; }', "probe")
        kernel((1,), (16,), (one,))
        eye = cupy.eye(16, dtype=cupy.float32)
        if float((eye @ eye).sum()) != 16 or float(one.sum()) != 16:
            return Probe(False, "the GPU answered a test kernel or product wrongly")
        name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
        return Probe(True, f"{name}, CuPy {cupy.__version__}", name, cupy.cuda.runtime.getDeviceCount())
    except Exception as e:  # whatever CuPy, NVRTC or cuBLAS raise here is the reason, and it is shown
        return Probe(False, f"CuPy imports, but its test run failed: {type(e).__name__}: {e}")


def backend_for(where) -> Backend:
    """The backend of a device. Raises: RuntimeError when the device cannot be used, with the probe's reason."""
    kind = where.type
    found = _by_type.get(kind)
    if found is None:
        if kind == "cuda":
            p = probe()
            if not p.available:
                raise RuntimeError(f"[device] cuda is not available: {p.reason}")
        with _lock:
            found = _by_type.get(kind)
            if found is None:
                from . import gpu

                found = gpu.Simulated() if kind == "sim" else gpu.Cuda()
                _by_class[found.ndarray] = found
                _by_type[kind] = found
    if where.index is not None and where.index >= (probe().count if kind == "cuda" else 1):
        raise RuntimeError(f"[device] {where} does not exist: there is no {kind} device number {where.index}")
    return found


def backend_of(array) -> Backend:
    """The backend that a raw array (or NumPy scalar) belongs to."""
    found = _by_class.get(array.__class__)
    if found is not None:
        return found
    if isinstance(array, (np.ndarray, np.generic)):
        return CPU
    if type(array).__module__.partition(".")[0] == "cupy":  # the user made it before we needed CuPy
        backend_for(device("cuda"))
        if isinstance(array, _by_type["cuda"].ndarray):
            return _by_type["cuda"]
    raise TypeError(f"[device] expected an array, got {type(array).__name__}")


def is_array(value) -> bool:
    """Whether a value is a raw array of some backend (NumPy scalars are not)."""
    return value.__class__ in _by_class or isinstance(value, np.ndarray) or (
        type(value).__module__.partition(".")[0] == "cupy" and hasattr(value, "__cuda_array_interface__")
    )


def xp_of(array):
    """The namespace (numpy, cupy, the simulated one) that a raw array belongs to."""
    found = _by_class.get(array.__class__)
    return found.xp if found is not None else backend_of(array).xp


def device_of(array) -> device:
    """The device that a raw array lives on."""
    return backend_of(array).device_of(array)


def host_array(array):
    """The values of a raw array as a NumPy array; the array itself on the CPU. Waits for the device."""
    return array if array.__class__ is np.ndarray else backend_of(array).to_host(array)


_process_default: device | None = None


def _from_environment() -> device:
    wish = os.environ.get("TINYTORCH_DEVICE", "auto").strip().lower() or "auto"
    if wish != "auto":
        where = device(wish)
        backend_for(where)
        return where
    p = probe()
    if p.available:
        return device("cuda", 0)
    log.info("using the CPU: %s", p.reason)
    return CPU._device


def default_device() -> device:
    """Where new tensors are made: the innermost `with device(...)`, else set_default_device's, else
    TINYTORCH_DEVICE (auto, cpu, sim, cuda); auto takes the GPU where one answers."""
    where = getattr(_local, "default", None)
    if where is not None:
        return where
    global _process_default
    if _process_default is None:
        _process_default = _from_environment()
    return _process_default


get_default_device = default_device


def set_default_device(where) -> None:
    """Set where new tensors are made; None goes back to TINYTORCH_DEVICE. As torch.set_default_device.

    Raises: RuntimeError when the device does not exist or does not answer.
    """
    global _process_default
    if where is not None:
        where = device(where)
        backend_for(where)
    _process_default = where


def resolve(where=None) -> device:
    """A usable device from a device, a string, an index or None (the default)."""
    return default_device() if where is None else device(where)
