"""Memory shared with other libraries: DLPack both ways, `__cuda_array_interface__`.

NumPy and CuPy make and read the capsules. bfloat16, which NumPy cannot export, travels as uint16 with the type code in
the capsule changed.
"""
from __future__ import annotations

import functools

import numpy as np

from .backend import dtypes
from .backend.device import backend_for, backend_of
from .backend.device import device as Device
from .tensor import Tensor, attach, make

__all__ = ["from_dlpack"]

# DLPack's numbers (dlpack.h, 1.0)
CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
UINT, BFLOAT = 1, 4
_DEVICES = {CPU: "cpu", CUDA_HOST: "cpu", CUDA: "cuda", CUDA_MANAGED: "cuda"}
# where a DLTensor begins in what a capsule points to, by the capsule's name; DLTensor: void* data, int32 device type,
# int32 device number, int32 ndim, then the type as uint8 code, uint8 bits, uint16 lanes
_TENSOR_AT = {b"dltensor": 0, b"dltensor_versioned": 32}
_DEVICE_AT, _CODE_AT, _BITS_AT = 8, 20, 21


@functools.cache
def _capsule_api():
    import ctypes

    valid, pointer = ctypes.pythonapi.PyCapsule_IsValid, ctypes.pythonapi.PyCapsule_GetPointer
    valid.argtypes, valid.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_int
    pointer.argtypes, pointer.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p
    return ctypes, valid, pointer


def _is_capsule(value) -> bool:
    return type(value).__name__ == "PyCapsule"


def _address(capsule) -> int:
    """Where the capsule's DLTensor is. Raises: RuntimeError for one that was read already or is no DLPack capsule."""
    _, valid, pointer = _capsule_api()
    for name, at in _TENSOR_AT.items():
        if valid(capsule, name):
            return pointer(capsule, name) + at
    raise RuntimeError("[from_dlpack] the capsule holds no DLPack tensor or was read already: export the tensor again")


def _type(capsule):
    """(code, bits) of the capsule's elements as a writable array of two uint8."""
    return (_capsule_api()[0].c_uint8 * 2).from_address(_address(capsule) + _CODE_AT)


@attach("__dlpack_device__")
def __dlpack_device__(self):
    """(device type, device number) in DLPack's numbers. Raises: BufferError for the simulated device."""
    where = self.device
    if where.type == "sim":
        raise BufferError("[dlpack] other libraries cannot see the simulated device's memory: use .cpu() first")
    return (CPU, 0) if where.type == "cpu" else (CUDA, where.index)


@attach("__dlpack__")
def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
    """A DLPack capsule of this tensor's memory. As torch.Tensor.__dlpack__; read-only memory needs DLPack 1.0.

    Raises: BufferError for a tensor that requires grad, or that cannot be exported without a copy under copy=False.
    """
    __dlpack_device__(self)
    if self._req:
        raise BufferError("[dlpack] can't export tensors that require gradient: use detach()")
    array = self._array
    if any(s < 0 for s in array.strides):  # legal in DLPack, but PyTorch refuses it
        if copy is False:
            raise BufferError("[dlpack] negative strides need a copy, but copy=False: use contiguous()")
        array = array.copy()
    options = {"max_version": max_version, "dl_device": dl_device, "copy": copy}
    options = {name: value for name, value in options.items() if value is not None}
    if array.dtype != dtypes.bfloat16.np:
        return array.__dlpack__(stream=stream, **options)
    capsule = array.view(np.uint16).__dlpack__(stream=stream, **options)
    _type(capsule)[0] = BFLOAT
    return capsule


class _Carrier:
    """What NumPy or CuPy reads instead of the exporter: bfloat16 is shown to it as uint16."""

    def __init__(self, source):
        self.source = source
        self.bfloat16 = False

    def __dlpack_device__(self):
        if not _is_capsule(self.source):
            return self.source.__dlpack_device__()
        device = (_capsule_api()[0].c_int32 * 2).from_address(_address(self.source) + _DEVICE_AT)
        return device[0], device[1]

    def __dlpack__(self, **options):
        capsule = self.source if _is_capsule(self.source) else self.source.__dlpack__(**options)
        kind = _type(capsule)
        if kind[0] == BFLOAT and kind[1] == 16:
            kind[0] = UINT
            self.bfloat16 = True
        return capsule


def from_dlpack(ext_tensor, *, device=None, copy=None):
    """A tensor over the memory of another library's array, or of a DLPack capsule. As torch.from_dlpack.

    device: moved there if it is elsewhere; copy: True always copies, False never does.
    Raises: TypeError for objects without DLPack, BufferError where copy=False is impossible or the device is unknown.
    """
    if not _is_capsule(ext_tensor) and not hasattr(ext_tensor, "__dlpack__"):
        raise TypeError(f"[from_dlpack] expected an array with __dlpack__ or a capsule, got "
                        f"{type(ext_tensor).__name__}: use tensor() to convert data")
    carrier = _Carrier(ext_tensor)
    kind, index = carrier.__dlpack_device__()
    if int(kind) not in _DEVICES:
        raise BufferError(f"[from_dlpack] DLPack device type {int(kind)} is not supported: copy it to the CPU first")
    here = Device(_DEVICES[int(kind)], index if int(kind) in (CUDA, CUDA_MANAGED) else None)
    backend = backend_for(here)
    array = backend.xp.from_dlpack(carrier)
    if carrier.bfloat16:
        array = array.view(dtypes.bfloat16.np)
    dtypes.of(array)  # TypeError for what tensors do not hold, uint16 and the like
    where = here if device is None else Device(device)
    if backend_for(where) is not backend or backend.to_index(array, where.index) is not array:
        if copy is False:
            raise BufferError(f"[from_dlpack] {here} to {where} needs a copy, but copy=False")
        array = backend_for(where).from_host(backend.to_host(array), where.index)
    elif copy:
        array = array.copy()
    return make(array)


def _cuda_array_interface(self):
    """The memory of a cuda tensor for other libraries. As torch.Tensor.__cuda_array_interface__.

    Raises: AttributeError for tensors elsewhere, RuntimeError for one that requires grad.
    """
    if backend_of(self._array).type != "cuda":
        raise AttributeError(f"[__cuda_array_interface__] can't get it on a {self.device} tensor: use .cuda() to copy "
                             "the tensor to device memory")
    if self._req:
        raise RuntimeError("[__cuda_array_interface__] can't get it on a tensor that requires grad: use detach()")
    return self._array.__cuda_array_interface__


Tensor.__cuda_array_interface__ = property(_cuda_array_interface)
