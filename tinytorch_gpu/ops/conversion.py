"""What a tensor is and becomes: sizes and strides, dtype shortcuts, numpy(), tolist(), copies, pickles."""
from __future__ import annotations

import copy

import numpy as np

from .. import ops
from ..backend import dtypes, streams
from ..backend.device import backend_for
from ..backend.device import device as Device
from ..tensor import Tensor, _fill, attach
from .data import host_array
from .registry import public
from .shape import dim_of


def _shortcut(name, dtype):
    def method(self):
        return ops.to(self, dtype)

    method.__name__ = name
    method.__doc__ = f"The tensor as {dtype.name}; itself if it is already. As torch.Tensor.{name}."
    attach(name)(method)


for _name, _dtype in {
    "float": dtypes.float32, "double": dtypes.float64, "half": dtypes.float16, "bfloat16": dtypes.bfloat16,
    "long": dtypes.int64, "int": dtypes.int32, "short": dtypes.int16, "char": dtypes.int8, "byte": dtypes.uint8,
    "bool": dtypes.bool_, "cfloat": dtypes.complex64, "cdouble": dtypes.complex128,
}.items():
    _shortcut(_name, _dtype)


@attach("type")
def type_(self, dtype=None):
    """The tensor in another dtype, or without argument its dtype's name. As torch.Tensor.type."""
    return f"tinytorch_gpu.{self.dtype.name}" if dtype is None else ops.to(self, dtypes.from_any(dtype))


@attach("type_as")
def type_as(self, other):
    """The tensor in the dtype and on the device of `other`. As torch.Tensor.type_as."""
    return ops.to(self, other)


@attach("cpu")
def cpu(self):
    """The tensor in host memory; itself if it is there. As torch.Tensor.cpu."""
    return ops.to(self, device=Device("cpu"))


@attach("cuda")
def cuda(self, device=None, non_blocking=False):
    """The tensor on a GPU (the current one by default). As torch.Tensor.cuda; copies are ordered on the stream."""
    where = Device("cuda") if device is None else Device(device)
    if where.type != "cuda":
        raise ValueError(f"[cuda] expected a cuda device, got {where}: use to()")
    return ops.to(self, device=where)


@attach("record_stream")
def record_stream(self, stream) -> None:
    """Keep the tensor's memory until the work that `stream` has now is done. As torch.Tensor.record_stream.

    Operators do this by themselves; raw code on another stream needs it.
    Raises: RuntimeError for a tensor on the CPU, which has no streams.
    """
    if self.device.type == "cpu":
        raise RuntimeError("[record_stream] the CPU has no streams: the tensor must be on a device")
    streams.keep(self._array, stream._raw)


# sizes

@attach("size")
def size(self, dim=None):
    """The shape, or the size of one dimension. As torch.Tensor.size."""
    shape = self._array.shape
    return shape if dim is None else shape[dim_of("size", dim, len(shape))]


@attach(["dim", "ndimension"])
def dim(self) -> int:
    """The number of dimensions."""
    return self._array.ndim


@public(method=["numel", "nelement"])
def numel(input) -> int:
    """The number of elements. As torch.numel."""
    return input._array.size if isinstance(input, Tensor) else input.size


@attach("stride")
def stride(self, dim=None):
    """Elements between neighbours in each dimension, or in one. As torch.Tensor.stride."""
    array = self._array
    strides = tuple([s // array.dtype.itemsize for s in array.strides])
    return strides if dim is None else strides[dim_of("stride", dim, len(strides))]


def _address(array):
    return array.__array_interface__["data"][0] if hasattr(array, "__array_interface__") else array.data.ptr


@attach("data_ptr")
def data_ptr(self) -> int:
    """The address of the first element."""
    return _address(self._array)


@attach("storage_offset")
def storage_offset(self) -> int:
    """Elements between the start of the memory and the first element. As torch.Tensor.storage_offset."""
    array = self._array
    owner = array
    while hasattr(owner.base, "strides"):
        owner = owner.base
    return (_address(array) - _address(owner)) // array.dtype.itemsize if array.size else 0


@attach("is_contiguous")
def is_contiguous(self) -> bool:
    """Whether the elements lie in C order without gaps."""
    return bool(self._array.flags.c_contiguous)


@attach("element_size")
def element_size(self) -> int:
    """Bytes of one element."""
    return self._array.dtype.itemsize


Tensor.is_cuda = property(lambda self: self.device.type == "cuda", doc="Whether the tensor lives on a GPU.")


@public
def is_tensor(obj) -> bool:
    """Whether `obj` is a Tensor. As torch.is_tensor."""
    return isinstance(obj, Tensor)


@public(method=True)
def is_floating_point(input) -> bool:
    """Whether the dtype is floating (not complex). As torch.is_floating_point."""
    return dtypes.of(input._array if isinstance(input, Tensor) else input).is_floating_point


@public(method=True)
def is_complex(input) -> bool:
    """Whether the dtype is complex. As torch.is_complex."""
    return dtypes.of(input._array if isinstance(input, Tensor) else input).is_complex


# to the host

@attach("numpy")
def numpy(self, *, force=False):
    """The values as a NumPy array that shares the memory of a CPU tensor. As torch.Tensor.numpy.

    `force` detaches and brings device tensors to the host first.
    Raises: RuntimeError for a tensor that requires grad, TypeError for one on a device.
    """
    if not force:
        if self._req:
            raise RuntimeError("[numpy] can't call numpy() on a Tensor that requires grad: use detach().numpy()")
        if self.device.type != "cpu":
            raise TypeError(f"[numpy] can't convert a {self.device} tensor to numpy: use .cpu() to copy it to the host "
                            "first")
    return host_array(self)


@attach("__array__")
def __array__(self, dtype=None, copy=None):  # noqa: A002
    array = numpy(self)
    if dtype is not None and array.dtype != dtype:
        if copy is False:
            raise ValueError(f"[__array__] {array.dtype} to {np.dtype(dtype)} needs a copy, but copy=False")
        return array.astype(dtype)
    return array.copy() if copy else array


@attach("tolist")
def tolist(self):
    """Nested lists of Python numbers; one number for a 0-d tensor. As torch.Tensor.tolist."""
    array = host_array(self)
    return (array.astype(np.float32) if array.dtype == dtypes.bfloat16.np else array).tolist()


# copies and pickles

@attach("__deepcopy__")
def __deepcopy__(self, memo):
    found = memo.get(id(self))
    if found is not None:
        return found
    if self.grad_fn is not None:
        raise RuntimeError("[deepcopy] only Tensors created explicitly by the user (graph leaves) support deepcopy: "
                           "detach() or clone() it")
    new = object.__new__(type(self))
    _fill(new, self._array.copy())
    new._req = self._req
    if self._grad is not None:
        new._grad = copy.deepcopy(self._grad, memo)
    new.__dict__.update(copy.deepcopy(self.__dict__, memo))
    memo[id(self)] = new
    return new


def _rebuild(cls, array, dtype, device, requires_grad, attributes):
    if dtype is not None:
        array = array.view(dtypes.from_any(dtype).np)
    where = Device(device)
    t = object.__new__(cls)
    _fill(t, backend_for(where).from_host(array, where.index))
    t._req = requires_grad
    t.__dict__.update(attributes)
    return t


@attach("__reduce_ex__")
def __reduce_ex__(self, protocol):
    if self.grad_fn is not None:
        raise RuntimeError("[pickle] only leaf Tensors can be pickled, this one has a grad_fn: detach() it")
    array = np.ascontiguousarray(host_array(self)).reshape(self.shape)
    bits = None
    if array.dtype == dtypes.bfloat16.np:  # the reader may lack the package that names bfloat16 for NumPy
        array, bits = array.view(np.uint16), "bfloat16"
    attributes = dict(self.__dict__)
    return _rebuild, (type(self), array, bits, str(self.device), self._req, attributes)
