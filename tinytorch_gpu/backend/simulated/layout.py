"""What an array of the simulated device says about where it lives: device, address, memory layout."""

from __future__ import annotations


class Device:
    """As `cupy.cuda.Device`: there is one, number 0."""

    id = 0

    def __init__(self, device=None):
        if device not in (None, 0):
            raise ValueError(f"[simulated] there is one device, number 0, got {device!r}")

    def __repr__(self):
        return "<Simulated CUDA Device 0>"

    def __int__(self):
        return 0

    def __eq__(self, other):
        return isinstance(other, Device) or other == 0

    def __hash__(self):
        return 0

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def use(self):
        return self

    def synchronize(self):
        from . import streams

        streams.synchronize_device()


DEVICE = Device()


class MemoryPointer:
    """As `cupy.cuda.MemoryPointer`: `ptr` is the address of the array's first element."""

    __slots__ = ("device", "device_id", "mem", "ptr")

    def __init__(self, ptr, mem):
        self.ptr = ptr
        self.mem = mem
        self.device = DEVICE
        self.device_id = 0

    def __int__(self):
        return self.ptr


class Flags:
    """As `cupy.ndarray.flags`: no `writeable`, CuPy's arrays have no such mark."""

    __slots__ = ("c_contiguous", "f_contiguous", "owndata")
    _keys = {"C_CONTIGUOUS": "c_contiguous", "F_CONTIGUOUS": "f_contiguous", "OWNDATA": "owndata"}

    def __init__(self, raw, owndata):
        self.c_contiguous = raw.flags.c_contiguous
        self.f_contiguous = raw.flags.f_contiguous
        self.owndata = owndata

    @property
    def forc(self):
        return self.f_contiguous or self.c_contiguous

    @property
    def fnc(self):
        return self.f_contiguous and not self.c_contiguous

    def __getitem__(self, name):
        if name not in self._keys:
            raise KeyError(f"{name} is not defined for cupy.ndarray.flags")
        return getattr(self, self._keys[name])

    def __repr__(self):
        return "\n".join(f"  {key} : {getattr(self, name)}" for key, name in self._keys.items())
