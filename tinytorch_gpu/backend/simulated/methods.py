"""Operators and methods of the simulated `ndarray`, attached to the class on import."""

from __future__ import annotations

import numpy as np

from . import indexing, overrides, reductions
from .array import SCALARS, ndarray, unsupported, view_of
from .namespace import xp
from .pool import count_read
from .table import TABLE, Signature
from .ufuncs import scatter, ufunc


def _operand(other) -> bool:
    """Whether an operator is ours; a class of its own (a Tensor) gets its turn, a host array is refused."""
    if type(other) is ndarray or isinstance(other, SCALARS):
        return True
    if isinstance(other, np.ndarray):
        raise unsupported(other)
    return False


def _binary(u: ufunc):
    run = u._run

    def forward(self, other):
        if type(other) is ndarray or type(other) is float or _operand(other):
            return run((self, other))
        return NotImplemented

    def reflected(self, other):
        if _operand(other):
            return run((other, self))
        return NotImplemented

    def in_place(self, other):
        if _operand(other):
            return run((self, other), (self,))
        return NotImplemented

    return forward, reflected, in_place


def _unary(u: ufunc):
    return lambda self: u._run((self,))


_ARITHMETIC = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "floordiv": "floor_divide",
    "mod": "remainder", "pow": "power", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor",
    "lshift": "left_shift", "rshift": "right_shift",
}
_COMPARISONS = {
    "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal", "ne": "not_equal",
}
_UNARY = {"neg": "negative", "pos": "positive", "abs": "absolute", "invert": "invert"}

for _short, _name in _ARITHMETIC.items():
    _forward, _reflected, _in_place = _binary(getattr(xp, _name))
    setattr(ndarray, f"__{_short}__", _forward)
    setattr(ndarray, f"__r{_short}__", _reflected)
    setattr(ndarray, f"__i{_short}__", _in_place)
for _short, _name in _COMPARISONS.items():
    setattr(ndarray, f"__{_short}__", _binary(getattr(xp, _name))[0])
for _short, _name in _UNARY.items():
    setattr(ndarray, f"__{_short}__", _unary(getattr(xp, _name)))


def _divmod(self, other):
    return xp.divmod(self, other) if _operand(other) else NotImplemented


def _rdivmod(self, other):
    return xp.divmod(other, self) if _operand(other) else NotImplemented


def _matmul(self, other):
    return reductions.matmul(self, other) if _operand(other) else NotImplemented


def _rmatmul(self, other):
    return reductions.matmul(other, self) if _operand(other) else NotImplemented


def _array_ufunc(self, function, method, *inputs, **kwargs):
    """NumPy's ufuncs on a device array run on the device, as in CuPy; a host operand is refused."""
    mine = getattr(xp, function.__name__, None)
    if method != "__call__" or mine is None or function.__name__ == "matmul":
        return NotImplemented
    out = kwargs.get("out")
    if out is not None:
        if not all(type(o) is ndarray for o in out):
            raise unsupported(out[0])
        kwargs["out"] = out[0] if len(out) == 1 else out
    return mine(*inputs, **kwargs)


def _array_function(self, function, types, args, kwargs):
    """`numpy.sum(device array)` is `cupy.sum` of it."""
    mine = getattr(xp, function.__name__, None) if function.__module__ == "numpy" else None
    return NotImplemented if mine is None else mine(*args, **kwargs)


def reshape(self, *shape, order="C", copy=None):
    if len(shape) == 1 and not isinstance(shape[0], (int, np.integer)):
        (shape,) = shape
    if isinstance(shape, ndarray):
        raise unsupported(shape)
    raw = self._np.reshape(shape, order=order)
    shares = raw.size and np.may_share_memory(raw, self._np)
    if copy is False and not shares and raw.size:
        raise ValueError("Unable to avoid creating a copy while reshaping.")
    if shares and not copy:
        return view_of(self, raw)
    return overrides.own(raw)


def transpose(self, *axes):
    return view_of(self, self._np.transpose(*axes))


def squeeze(self, axis=None):
    return view_of(self, self._np.squeeze(axis))


def swapaxes(self, axis1, axis2):
    return view_of(self, self._np.swapaxes(axis1, axis2))


def diagonal(self, offset=0, axis1=0, axis2=1):
    raw = self._np.diagonal(offset, axis1, axis2)
    raw.flags.writeable = True  # NumPy's is read-only, CuPy's is not
    return view_of(self, raw)


def ravel(self, order="C"):
    return xp.ravel(self, order)


def flatten(self, order="C"):
    return overrides.own(self._np.flatten(order))


def dot(self, b, out=None):
    return xp.dot(self, b, out)


def conj(self):
    return xp.conjugate(self) if self.dtype.kind == "c" else self


def argmax(self, axis=None, out=None, dtype=None, keepdims=False):
    return reductions.argmax(self, axis, dtype, out, keepdims)


def argmin(self, axis=None, out=None, dtype=None, keepdims=False):
    return reductions.argmin(self, axis, dtype, out, keepdims)


def clip(self, min=None, max=None, out=None):
    return overrides.clip(self, min, max, out)


def sort(self, axis=-1, kind=None):
    overrides.check_sort_kind(kind)
    self._np.sort(axis)


def partition(self, kth, axis=-1):
    self._np.partition(kth, axis)


def searchsorted(self, v, side="left", sorter=None):
    return xp.searchsorted(self, v, side, sorter)


def compress(self, condition, axis=None, out=None):
    return xp.compress(condition, self, axis, out)


def choose(self, choices, out=None, mode="raise"):
    return xp.choose(self, choices, out, mode)


def scatter_add(self, slices, value):
    scatter(self, slices, value, "add")


def scatter_max(self, slices, value):
    scatter(self, slices, value, "max")


def scatter_min(self, slices, value):
    scatter(self, slices, value, "min")


def reduced_view(self, dtype=None):
    if dtype is not None:
        raise NotImplementedError("[simulated] reduced_view(dtype=) is not simulated")
    return view_of(self, self._np.reshape(-1)) if self.flags.c_contiguous else self


def put(self, indices, values, mode="wrap"):
    overrides.put(self, indices, values, mode)


def dumps(self):
    count_read()
    return self._np.dumps()


def dump(self, file):
    count_read()
    self._np.dump(file)


_SAME_AS_FUNCTION = {  # the method is the function with the array first
    "all", "any", "argpartition", "argsort", "cumprod", "cumsum", "max", "mean", "min", "nonzero", "prod", "ptp",
    "repeat", "round", "std", "sum", "take", "trace", "var",
}
_OWN = (
    reshape, transpose, squeeze, swapaxes, diagonal, ravel, flatten, dot, conj, argmax, argmin, clip, sort, partition,
    searchsorted, compress, choose, scatter_add, scatter_max, scatter_min, reduced_view, put, dumps, dump,
)


def _from_function(name):
    function, signature = getattr(xp, name), Signature(name, TABLE["methods"][name])
    parameters = signature.positional

    def method(self, *args, **kwargs):
        signature.check(args, kwargs)
        if args:
            kwargs = dict(zip(parameters, args, strict=False)) | kwargs
        return function(self, **kwargs)

    method.__name__ = name
    return method


for _name in _SAME_AS_FUNCTION:
    setattr(ndarray, _name, _from_function(_name))
for _function in _OWN:
    setattr(ndarray, _function.__name__, _function)
ndarray.__getitem__, ndarray.__setitem__ = indexing.getitem, indexing.setitem
ndarray.conjugate = conj
ndarray.__divmod__, ndarray.__rdivmod__ = _divmod, _rdivmod
ndarray.__matmul__, ndarray.__rmatmul__ = _matmul, _rmatmul
ndarray.__array_ufunc__, ndarray.__array_function__ = _array_ufunc, _array_function
ndarray.flat = property(lambda self: (self.ravel()[i] for i in range(self.size)))
