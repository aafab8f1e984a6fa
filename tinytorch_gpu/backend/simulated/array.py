"""`ndarray` of the simulated device: storage, access from the host, indexing and views, with CuPy's rules.

The private NumPy view lies in a block of the pool; nothing else hands it out. Where CuPy would silently copy a host
array to the device (an index, an assigned value) the simulation raises: such a copy in the package is a mistake.
"""

from __future__ import annotations

import math

import numpy as np

from .layout import DEVICE, Flags, MemoryPointer
from .pool import POOL, count, count_read

side = None  # the module delay.py once a program has made a stream
SCALARS = (int, float, complex, np.generic)  # bool is an int
_new = object.__new__


def unsupported(value) -> TypeError:
    return TypeError(f"Unsupported type {type(value)}")


class ndarray:
    """An array on the simulated device, as `cupy.ndarray` (arithmetic and methods are attached by `methods.py`)."""

    __slots__ = ("__weakref__", "_base", "_np", "_owner")
    __array_priority__ = 100
    __hash__ = None

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        if memptr is not None or strides is not None:
            raise NotImplementedError("[simulated] ndarray(memptr=, strides=) is not simulated: use a view")
        made = _issued(empty, shape, dtype, order)
        self._np, self._owner, self._base = made._np, made._owner, None

    # what an array is
    @property
    def shape(self):
        return self._np.shape

    @shape.setter
    def shape(self, value):
        view = self._np.reshape(value)
        if view.size and not np.may_share_memory(view, self._np):
            raise AttributeError("Incompatible shape for in-place modification.")
        self._np = view

    @property
    def dtype(self):
        return self._np.dtype

    @property
    def ndim(self):
        return self._np.ndim

    @property
    def size(self):
        return self._np.size

    @property
    def itemsize(self):
        return self._np.itemsize

    @property
    def nbytes(self):
        return self._np.nbytes

    @property
    def strides(self):
        return self._np.strides

    @property
    def base(self):
        return self._base

    @property
    def flags(self):
        return Flags(self._np, self._base is None)

    @property
    def device(self):
        return DEVICE

    @property
    def data(self):
        return MemoryPointer(self._np.__array_interface__["data"][0], self._owner)

    @property
    def __cuda_array_interface__(self):
        raw = self._np
        interface = {"shape": raw.shape, "typestr": raw.dtype.str, "descr": raw.dtype.descr, "version": 3}
        interface["data"] = (self.data.ptr if raw.size else 0, False)
        interface["strides"] = None if raw.flags.c_contiguous else raw.strides
        interface["stream"] = 1
        return interface

    # views
    @property
    def T(self):
        return view_of(self, self._np.T)

    @property
    def mT(self):
        if self._np.ndim < 2:
            raise ValueError("matrix transpose with ndim < 2 is undefined")
        return view_of(self, self._np.swapaxes(-1, -2))

    @property
    def real(self):
        return view_of(self, self._np.real) if self._np.dtype.kind == "c" else self

    @real.setter
    def real(self, value):
        self.real[...] = value

    @property
    def imag(self):
        if self._np.dtype.kind == "c":
            return view_of(self, self._np.imag)
        return _issued(zeros, self._np.shape, self._np.dtype)

    @imag.setter
    def imag(self, value):
        if self._np.dtype.kind != "c":
            raise TypeError("cupy.ndarray does not have imaginary part to set")
        self.imag[...] = value

    def view(self, dtype=None, type=None):
        if type is not None and type is not ndarray:
            raise NotImplementedError("[simulated] view(type=) is not simulated")
        return view_of(self, self._np.view() if dtype is None else self._np.view(dtype))

    # the host looks: each is a copy and a synchronisation
    def get(self, stream=None, order="C", out=None, blocking=True):
        if stream is not None:
            with stream:
                return self.get(None, order, out, blocking)
        count_read()
        if out is None:
            return np.array(self._np, order=order, copy=True)
        if type(out) is not np.ndarray:
            raise TypeError(f"Only numpy.ndarray can be obtained from cupy.ndarray, not {type(out)}")
        if out.dtype != self.dtype or out.shape != self.shape:
            raise ValueError(f"Shape or dtype mismatch: {out.shape} {out.dtype} and {self.shape} {self.dtype}")
        out[...] = self._np
        return out

    def set(self, arr, stream=None):
        if stream is not None:
            with stream:
                return self.set(arr)
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if arr.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        _issued(_set, self, arr)

    def item(self):
        count_read()
        return self._np.item()

    def tolist(self):
        count_read()
        return self._np.tolist()

    def tobytes(self, order="C"):
        count_read()
        return self._np.tobytes(order)

    def __bool__(self):
        count_read()
        return bool(self._np)

    def __int__(self):
        return int(self.item())

    def __float__(self):
        return float(self.item())

    def __complex__(self):
        return complex(self.item())

    def __repr__(self):
        count_read()
        return repr(self._np)

    def __str__(self):
        count_read()
        return str(self._np)

    def __format__(self, spec):
        count_read()
        return format(self._np.item() if self._np.ndim == 0 else self._np, spec)

    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __reduce__(self):
        return asarray_from_host, (self.get(),)

    # copies on the device
    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        if subok is not None:
            raise TypeError("subok is not supported yet")
        dtype = np.dtype(dtype)
        raw = self._np
        if casting is not None and not np.can_cast(raw.dtype, dtype, casting):
            raise TypeError(f"Cannot cast array data from {raw.dtype!r} to {dtype!r} according to the rule '{casting}'")
        if not copy and dtype == raw.dtype and (
            order in "KA" or (order == "C" and raw.flags.c_contiguous) or (order == "F" and raw.flags.f_contiguous)
        ):
            return self
        made = empty_raw(raw.shape, dtype, resolve_order(raw, order))
        with np.errstate(all="ignore"):
            np.copyto(made._np, raw, casting="unsafe")
        return made

    def copy(self, order="C"):
        raw = self._np
        made = empty_raw(raw.shape, raw.dtype, resolve_order(raw, order))
        made._np[...] = raw
        return made

    def __copy__(self):
        return self.copy("C")

    def __deepcopy__(self, memo):
        return self.copy("C")

    def fill(self, value):
        if isinstance(value, ndarray):
            if value.ndim:
                raise ValueError("non-scalar cupy.ndarray cannot be used for fill")
            value = value._np
        elif not isinstance(value, SCALARS):
            raise unsupported(value)
        with np.errstate(all="ignore"):
            self._np[...] = value

    # elements
    def __len__(self):
        if not self._np.ndim:
            raise TypeError("len() of unsized object")
        return self._np.shape[0]

    def __iter__(self):
        if not self._np.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(self._np.shape[0]))


def _set(array, host):
    count("host_to_device")
    array._np[...] = host


def view_of(array: ndarray, raw: np.ndarray) -> ndarray:
    made = _new(ndarray)
    made._np = raw
    made._owner = array._owner
    made._base = array if array._base is None else array._base
    return made


def empty_raw(shape: tuple, dtype: np.dtype, order: str = "C") -> ndarray:
    """A new array of a checked shape and dtype: the one way into the pool."""
    if side is not None:
        placed = side.place(shape, dtype)
        if placed is not None:
            return placed
    owner = POOL.malloc(math.prod(shape) * dtype.itemsize)
    made = _new(ndarray)
    made._np = np.ndarray(shape, dtype, owner.block, 0, None, order)
    made._owner = owner
    made._base = None
    if side is not None:
        side.made_one(made)
    return made


def _issued(function, *args):
    """A call that is work of the current stream."""
    return function(*args) if side is None else side.issue(function, args, {})


def resolve_order(raw: np.ndarray, order: str) -> str:
    if order not in ("C", "F", "A", "K"):
        raise TypeError("order not understood")
    if order in "CF":
        return order
    return "F" if raw.flags.f_contiguous and not raw.flags.c_contiguous else "C"


def own(raw, order: str = "C") -> ndarray:
    """A copy of a NumPy result in the pool's memory."""
    if not isinstance(raw, np.ndarray):
        raw = np.asarray(raw)
    made = empty_raw(raw.shape, raw.dtype, order)
    made._np[...] = raw
    return made


def normal_shape(shape) -> tuple:
    if isinstance(shape, (int, np.integer)):
        shape = (shape,)
    shape = tuple(int(n) for n in shape)
    if any(n < 0 for n in shape):
        raise ValueError("Negative dimensions are not allowed")
    return shape


def empty(shape, dtype=float, order="C") -> ndarray:
    made = empty_raw(normal_shape(shape), checked_dtype(dtype), order or "C")
    # New device memory holds whatever was there. NaN in floats, -1 in integers: a read before a write is seen.
    _set_bytes(made, 1 if made.dtype.kind == "b" else 255)
    return made


def zeros(shape, dtype=float) -> ndarray:
    made = empty_raw(normal_shape(shape), checked_dtype(dtype))
    _set_bytes(made, 0)
    return made


def _set_bytes(made, byte) -> None:
    if side is None:
        made._owner.block[:] = byte
    else:  # a call that is tried has its results elsewhere
        made._np.ravel("K").view(np.uint8)[:] = byte


def checked_dtype(dtype) -> np.dtype:
    dtype = np.dtype(dtype)
    if dtype.kind not in "biufc" and dtype.name != "bfloat16":
        raise ValueError(f"Unsupported dtype {dtype}")
    if dtype.itemsize > 8 and dtype.kind in "iuf" or dtype.itemsize > 16:
        raise ValueError(f"Unsupported dtype {dtype}")
    return dtype


def asarray_from_host(array) -> ndarray:
    """A counted copy of a NumPy array (or anything `np.asarray` reads) to the device."""
    return _issued(_from_host, np.asarray(array))


def _from_host(array):
    raw = np.asarray(array)
    checked_dtype(raw.dtype)
    count("host_to_device")
    return own(raw)


def to_host(array: ndarray) -> np.ndarray:
    """A counted copy of an array to the host."""
    return array.get()
