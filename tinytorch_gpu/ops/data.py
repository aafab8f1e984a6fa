"""Tensors from data: tensor, as_tensor, asarray, from_numpy, Tensor(...)."""
from __future__ import annotations

import math
import warnings

import numpy as np

from .. import ops
from ..backend import dtypes
from ..backend.device import backend_for, backend_of, device_of, is_array, resolve
from ..tensor import Tensor, _fill, attach, make
from .foundation import move
from .registry import public

_LEAVES = {bool: 0, int: 1, float: 2, complex: 3}
_KIND = (dtypes.bool_, dtypes.int64, None, None)  # a float becomes the default dtype, a complex number its complex one


def number(op, value, dtype):
    """A Python number for an array of `dtype`, checked. Raises: RuntimeError where it does not fit."""
    if isinstance(value, Tensor) or isinstance(value, (np.generic, np.ndarray)):
        value = value.item()
    if not isinstance(value, (bool, int, float, complex)):
        raise TypeError(f"[{op}] the value must be a number, got {type(value).__name__}")
    category = dtype.category
    if isinstance(value, complex) and category != dtypes.COMPLEX:
        if value.imag != 0:
            raise RuntimeError(f"[{op}] value {value} cannot be converted to type {dtype.name} without overflow")
        value = value.real
    if category == dtypes.INT:
        info = np.iinfo(dtype.np)
        if isinstance(value, float) and not math.isfinite(value) or not (
            min(info.min, -info.max) <= value <= info.max
        ):
            raise RuntimeError(f"[{op}] value {value} cannot be converted to type {dtype.name} without overflow")
        value = int(np.asarray(int(value)).astype(dtype.np))
    return value


def finish(array, requires_grad=False) -> Tensor:
    """The tensor over a new array."""
    t = make(array)
    if requires_grad:
        t.requires_grad = True
    return t


# from nested sequences

def _scan(data, found):
    """Collect the leaf types of nested lists; True when all are Python numbers."""
    kinds = set(map(type, data))
    plain = True
    for kind in kinds:
        if kind in _LEAVES:
            found.add(kind)
        elif kind is list or kind is tuple:
            for item in data:
                if item.__class__ is list or item.__class__ is tuple:
                    plain &= _scan(item, found)
        else:
            plain = False
    return plain


def _infer(data, where):
    """The promoted dtype of nested data that holds more than Python numbers; None when it holds nothing."""
    if isinstance(data, Tensor):
        return data.dtype
    if isinstance(data, (np.ndarray, np.generic)) or is_array(data):
        return _array_dtype(data)
    if isinstance(data, (str, bytes)):
        if where:
            raise ValueError(f"[tensor] too many dimensions {type(data).__name__!r}: expected numbers")
        raise TypeError(f"[tensor] invalid data type {type(data).__name__!r}: expected numbers, lists or arrays")
    for kind in (bool, int, float, complex):
        if isinstance(data, kind):
            return dtypes.scalar_dtype(kind(data))
    if not _is_sequence(data):
        raise RuntimeError(
            f"[tensor] could not infer dtype of {type(data).__name__}: expected numbers, lists or arrays"
        )
    result = None
    for item in data:
        d = _infer(item, True)
        if d is not None:
            result = d if result is None else dtypes.promote_types(result, d)
    return result


def _is_sequence(data):
    return hasattr(data, "__len__") and hasattr(data, "__getitem__") and not hasattr(data, "keys")


def _array_dtype(array):
    try:
        return dtypes.of(array)
    except TypeError:
        raise TypeError(
            f"[tensor] can't convert an array of type {array.dtype}: the supported types are "
            f"{', '.join(d.name for d in dtypes.ALL)}"
        ) from None


def _host(data):
    """Nested data with every tensor and array in it as nested lists."""
    if isinstance(data, Tensor) or is_array(data):
        return host_array(data).tolist()
    if isinstance(data, np.generic):
        return data.item()
    if _is_sequence(data):
        return [_host(item) for item in data]
    return data


def host_array(value):
    """The values of a Tensor or raw array as a NumPy array."""
    array = value._array if isinstance(value, Tensor) else value
    return backend_of(array).to_host(array)


def _from_nested(data, dtype):
    """A new NumPy array from Python numbers and nested sequences, with PyTorch's dtype where none is given."""
    kind = data.__class__
    if kind in _LEAVES:
        wish = dtype or dtypes.scalar_dtype(data)
        if kind is complex and not wish.is_complex:
            raise TypeError(f"[tensor] expected a real number for {wish.name}, got {data}: take data.real")
        if kind is int and not -(2**63) <= data < 2**63:
            raise ValueError(f"[tensor] {data} does not fit int64")
        if wish.category == dtypes.INT:
            data = number("tensor", data, wish)
        return np.array(data, _via(wish))
    found: set = set()
    if (kind is list or kind is tuple) and _scan(data, found):
        wish = dtype
        if wish is None:
            highest = max([_LEAVES[k] for k in found], default=2)
            default = dtypes.get_default_dtype()
            wish = _KIND[highest] or (default if highest == 2 else default.to_complex())
    else:
        inferred = _infer(data, False)
        wish = dtype or inferred or dtypes.get_default_dtype()
        data = _host(data)
    try:
        return np.array(data, _via(wish))
    except ValueError as e:
        if "NaN" in str(e):
            raise RuntimeError(f"[tensor] {e}") from None
        raise ValueError(f"[tensor] the nested sequences differ in length: {_ragged(data)}") from None
    except OverflowError as e:
        kind = ValueError if wish.category != dtypes.INT or wish is dtypes.int64 else RuntimeError
        raise kind(f"[tensor] a value cannot be converted to {wish.name} without overflow: {e}") from None
    except TypeError as e:
        raise TypeError(f"[tensor] {e}: expected numbers of {wish.name}") from None


def _via(dtype):
    return dtypes.accumulation(dtype.np)  # a half goes through float32, as in PyTorch


def _ragged(data, dim=0):
    def is_sequence(x):
        return isinstance(x, (list, tuple))

    if not is_sequence(data):
        return "a number stands beside sequences"
    lengths = {len(x) if is_sequence(x) else None for x in data}
    if len(lengths) > 1:
        first = next(x for x in data)
        want = len(first) if is_sequence(first) else None
        got = next(len(x) if is_sequence(x) else None for x in data if (len(x) if is_sequence(x) else None) != want)
        if want is None or got is None:
            return f"expected {'a number' if want is None else 'a sequence'} at dim {dim + 1}"
        return f"expected sequence of length {want} at dim {dim + 1} (got {got})"
    return next((m for m in (_ragged(x, dim + 1) for x in data if is_sequence(x)) if m), "")


def _convert(array, dtype):
    """An array in another dtype as Cast does it; the same object when it has it already."""
    return array if dtype is None or array.dtype == dtype.np else ops.cast(array, dtype.np)


@public
def tensor(data, *, dtype=None, device=None, requires_grad=False):
    """A new leaf tensor with a copy of `data`: numbers, nested sequences, arrays. As torch.tensor.

    Floats become the default dtype, integers int64, booleans bool; arrays keep their dtype.
    Raises: ValueError for ragged sequences, RuntimeError for values that do not fit, TypeError for other data.
    """
    dtype = None if dtype is None else dtypes.from_any(dtype)
    if isinstance(data, Tensor):
        warnings.warn(
            "[tensor] to copy from a tensor, use source.detach().clone() or "
            "source.detach().clone().requires_grad_(True) rather than tensor(source)",
            UserWarning, stacklevel=2,
        )
        where = data.device if device is None else resolve(device)
        array = _convert(data._array, dtype)
        array = move(array.copy() if array is data._array else array, where)
    elif isinstance(data, (np.ndarray, np.generic)) or is_array(data):
        array = np.asarray(data) if isinstance(data, (np.ndarray, np.generic)) else data
        _array_dtype(array)
        where = resolve(device) if device is not None or isinstance(array, np.ndarray) else device_of(array)
        new = move(_convert(array, dtype), where)
        array = new.copy() if new is array else new
    else:
        array = _from_nested(data, dtype)
        if dtype is None:
            if array.dtype == np.float32 and dtypes.get_default_dtype().np in dtypes.HALF:
                inferred = _infer(data, False) or dtypes.get_default_dtype()
                array = array.astype(inferred.np)
        elif array.dtype != dtype.np:
            array = array.astype(dtype.np)
        where = resolve(device)
        if where.type != "cpu":
            array = backend_for(where).from_host(array, where.index)
    return finish(array, requires_grad)


@public
def as_tensor(data, dtype=None, device=None):
    """`data` as a tensor, without a copy where dtype and device allow it. As torch.as_tensor.

    A Tensor stays in its graph; a NumPy array shares its memory on the CPU.
    """
    if isinstance(data, Tensor):
        return ops.to(data, dtype=dtype, device=device)
    if isinstance(data, np.ndarray) or is_array(data):
        _array_dtype(data)
        array = _convert(_plain(data), None if dtype is None else dtypes.from_any(dtype))
        where = resolve(device) if device is not None or isinstance(array, np.ndarray) else None
        return make(array if where is None else move(array, where))
    return tensor(data, dtype=dtype, device=device)


def _plain(array):
    """An array of exactly the backend's class (a NumPy subclass is viewed as ndarray)."""
    if isinstance(array, np.ndarray):
        return array if array.__class__ is np.ndarray else array.view(np.ndarray)
    backend_of(array)  # registers CuPy's class when the user's own array is the first
    return array


@public
def asarray(obj, *, dtype=None, device=None, copy=None, requires_grad=False):
    """`obj` as a tensor; `copy` True always copies, False raises where it must. As torch.asarray.

    Raises: ValueError when copy=False is impossible.
    """
    shares = isinstance(obj, (Tensor, np.ndarray)) or is_array(obj)
    source = (obj._array if isinstance(obj, Tensor) else obj) if shares else None
    out = as_tensor(obj, dtype=dtype, device=device)
    shared = shares and out._array.dtype == source.dtype and backend_of(out._array) is backend_of(source)
    if copy and shared:
        out = ops.clone(out)
    elif copy is False and not shared:
        raise ValueError("[asarray] can't alias the data without a copy: pass copy=None or True")
    if requires_grad:
        if not out.is_leaf:
            out = out.detach()
        out.requires_grad = True
    elif out._req:
        out = out.detach()
    return out


@public
def from_numpy(ndarray):
    """A CPU tensor that shares the memory of a NumPy array. As torch.from_numpy.

    Raises: TypeError for other objects and unsupported dtypes.
    """
    if not isinstance(ndarray, np.ndarray):
        raise TypeError(f"[from_numpy] expected np.ndarray (got {type(ndarray).__name__})")
    _array_dtype(ndarray)
    return make(_plain(ndarray))


@attach("__init__")
def _init(self, *data, requires_grad=False, device=None):
    """`Tensor(array)` shares the array; `Tensor(list)` has the default dtype; `Tensor(2, 3)` is uninitialised."""
    if len(data) == 1 and (isinstance(data[0], np.ndarray) or is_array(data[0])):
        array = _plain(data[0])
        _array_dtype(array)
        if device is not None:
            array = move(array, resolve(device))
    elif len(data) == 1 and isinstance(data[0], Tensor):
        array = data[0]._array if device is None else move(data[0]._array, resolve(device))
    elif len(data) == 1 and not hasattr(data[0], "__index__"):
        if not hasattr(data[0], "__len__") or isinstance(data[0], (str, bytes, dict)):
            raise TypeError(f"[Tensor] expected an array, a sequence or sizes, got {type(data[0]).__name__}: "
                            "use tensor() to convert data")
        array = tensor(data[0], dtype=dtypes.get_default_dtype(), device=device)._array
    else:
        array = ops.empty(*(data or (0,)), device=device)._array
    _fill(self, array)
    if requires_grad:
        self.requires_grad = True
