"""Which GPUs there are, which is current, and what each can do."""
from __future__ import annotations

from dataclasses import dataclass

from ..backend.device import backend_for, default_device, probe
from ..backend.device import device as Device


def is_available() -> bool:
    """Whether a GPU answers through CuPy: a kernel and a product ran on it. As torch.cuda.is_available."""
    return probe().available


def device_count() -> int:
    """The number of GPUs, 0 when none can be used. As torch.cuda.device_count."""
    return probe().count


def _runtime():
    return backend_for(Device("cuda")).xp.cuda  # RuntimeError with the probe's reason where there is no GPU


def current_device() -> int:
    """The number of the GPU that "cuda" without a number means. Raises: RuntimeError without a GPU."""
    return _runtime().runtime.getDevice()


def _number(op, device) -> int:
    if device is None:
        return current_device()
    where = Device(device)
    if where.type != "cuda":
        raise ValueError(f"[{op}] expected a cuda device, got {where}")
    backend_for(where)
    return current_device() if where.index is None else where.index


def set_device(device) -> None:
    """Make a GPU the current one of this thread, CuPy's included. As torch.cuda.set_device.

    Raises: ValueError for a device that is no GPU, RuntimeError for one that does not exist.
    """
    number = _number("set_device", device)
    _runtime().Device(number).use()


class device:
    """`with cuda.device(1):` makes a GPU the current one inside. As torch.cuda.device; None changes nothing."""

    def __init__(self, device):
        self.idx = None if device is None else _number("device", device)
        self._outer = []

    def __enter__(self):
        if self.idx is not None:
            self._outer.append(current_device())
            set_device(self.idx)
        return self

    def __exit__(self, *exc):
        if self.idx is not None:
            set_device(self._outer.pop())


def place(device=None) -> Device:
    """The device that `device` names; None is the current GPU, without a GPU the default device."""
    if device is not None:
        where = Device(device)
        backend_for(where)
        return Device("cuda", current_device()) if where == Device("cuda") else where
    return Device("cuda", current_device()) if is_available() else default_device()


def synchronize(device=None) -> None:
    """Wait for all work queued on a device. As torch.cuda.synchronize."""
    where = place(device)
    backend_for(where).synchronize(where.index)


@dataclass(frozen=True)
class Properties:
    """What a GPU is: `total_memory` in bytes."""

    name: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int


def get_device_properties(device=None) -> Properties:
    """Name, compute capability, memory and multiprocessors of a GPU. As torch.cuda.get_device_properties.

    Raises: RuntimeError without a GPU, ValueError for a device that is none.
    """
    read = _runtime().runtime.getDeviceProperties(_number("get_device_properties", device))
    return Properties(read["name"].decode(), read["major"], read["minor"], read["totalGlobalMem"],
                      read["multiProcessorCount"])


def get_device_name(device=None) -> str:
    """The name of a GPU. As torch.cuda.get_device_name."""
    return get_device_properties(device).name


def get_device_capability(device=None) -> tuple[int, int]:
    """The compute capability of a GPU, (major, minor). As torch.cuda.get_device_capability."""
    read = get_device_properties(device)
    return read.major, read.minor


def is_bf16_supported() -> bool:
    """Whether the current GPU computes in bfloat16 (capability 8.0 on); False without one."""
    return is_available() and get_device_capability()[0] >= 8
