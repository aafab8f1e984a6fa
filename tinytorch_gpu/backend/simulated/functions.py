"""Functions of the simulated namespace: NumPy's, called with CuPy's signatures on the pool's memory."""

from __future__ import annotations

import inspect

import numpy as np

from .array import SCALARS, ndarray, own, unsupported, view_of
from .pool import count
from .table import BFLOAT16, Signature

# CuPy reads a size or an index back from the device inside these
SYNCHRONIZES = {
    "nonzero", "flatnonzero", "argwhere", "unique", "unique_all", "unique_counts", "unique_inverse", "unique_values",
    "extract", "compress", "bincount", "histogram", "union1d", "intersect1d", "setdiff1d", "setxor1d", "trim_zeros",
    "place", "array2string", "array_repr", "array_str",
}
# functions of dtypes, shapes and scalars: they need no array
HOST_FUNCTIONS = {
    "broadcast_shapes", "can_cast", "common_type", "isdtype", "isscalar", "issubdtype", "promote_types", "result_type",
    "iterable", "base_repr", "binary_repr", "typename", "mintypecode", "get_printoptions", "set_printoptions",
    "printoptions", "format_float_positional", "format_float_scientific", "min_scalar_type", "ndim", "shape", "size",
    "iscomplexobj", "isrealobj",
}
# answers that NumPy gives as a Python bool and CuPy as a 0-d array
BOOLEAN_ARRAYS = {"allclose", "array_equal", "array_equiv"}
CREATION = {
    "arange", "linspace", "logspace", "eye", "identity", "tri", "indices", "ones", "full", "meshgrid", "ix_",
    "bartlett", "blackman", "hamming", "hanning", "kaiser", "tril_indices", "triu_indices", "diag_indices", "mgrid",
    "fftfreq", "rfftfreq", "atleast_1d", "atleast_2d", "atleast_3d", "require", "unravel_index",
    "ravel_multi_index", "vander",
}
# sums of products, which the GPU accumulates in float32 for the half types
PRODUCTS = {"dot", "inner", "outer", "vdot", "kron", "tensordot", "einsum", "convolve", "correlate", "trace"}
HALVES = (np.dtype(np.float16), BFLOAT16)


def unwrap(value, arrays: list):
    """The NumPy arrays behind an argument; `arrays` collects the device arrays. A host array is refused."""
    kind = type(value)
    if kind is ndarray:
        arrays.append(value)
        return value._np
    if kind is list or kind is tuple:
        return kind([unwrap(v, arrays) for v in value])
    if isinstance(value, np.ndarray):
        raise unsupported(value)
    return value


def rewrap(value, arrays: list):
    """NumPy's answer as device arrays: a view of an argument stays a view, anything else goes to the pool."""
    if isinstance(value, np.ndarray):
        for a in arrays:
            if value is a._np:
                return a
        if value.base is not None and value.size:
            for a in arrays:
                if np.may_share_memory(value, a._np):
                    return view_of(a, value)
        return own(value)
    if isinstance(value, np.generic):
        return own(value)
    if isinstance(value, tuple):
        return tuple([rewrap(v, arrays) for v in value])
    if isinstance(value, list):
        return [rewrap(v, arrays) for v in value]
    return value


def translation(signature: Signature, function):
    """How CuPy's argument names become NumPy's: ({name: NumPy's name}, count of arguments whose position agrees)."""
    try:
        names = list(inspect.signature(function).parameters)
    except ValueError:  # a C function of an older NumPy: the positions agree
        return {}, len(signature.positional)
    renames, agree = {}, None
    for i, name in enumerate(signature.positional):
        if name not in names and i < len(names) and names[i] not in signature.allowed:
            renames[name] = names[i]
        elif i >= len(names) or names[i] != name:
            agree = i if agree is None else agree
    return renames, len(signature.positional) if agree is None else agree


def make_function(name: str, text: str, function, prefix: str = ""):
    """NumPy's function behind CuPy's signature."""
    signature = Signature(name, text)
    renames, agree = translation(signature, function)
    host, creation = name in HOST_FUNCTIONS, name in CREATION
    synchronizes, boolean, product = name in SYNCHRONIZES, name in BOOLEAN_ARRAYS, name in PRODUCTS

    def call(*args, **kwargs):
        signature.check(args, kwargs)
        if len(args) > agree and not signature.var_positional:
            kwargs = dict(zip(signature.positional[agree:], args[agree:], strict=False)) | kwargs
            args = args[:agree]
        arrays: list = []
        args = [unwrap(a, arrays) for a in args]
        kwargs = {renames.get(k, k): unwrap(v, arrays) for k, v in kwargs.items()}
        if not arrays and not host and not creation:
            raise TypeError(f"cupy.{prefix}{name} needs a cupy.ndarray, got {[type(a).__name__ for a in args]}")
        if synchronizes:
            count("synchronizations")
        if host:
            return function(*args, **kwargs)
        half = None
        if product and arrays and any(a.dtype in HALVES for a in arrays):
            half = np.result_type(*[a.dtype for a in arrays])
            args = [widened(a) for a in args]
            if half not in HALVES:
                half = None
        with np.errstate(all="ignore"):
            result = function(*args, **kwargs)
        if half is not None:
            result = np.asarray(result).astype(half)
        if boolean:
            return own(result)
        return rewrap(result, arrays)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"numpy.{prefix}{name} with CuPy's signature ({text})."
    call.simulated_signature = text
    return call


def widened(value):
    """float32 for the half types, inside lists as well."""
    if isinstance(value, np.ndarray) and value.dtype in HALVES:
        return value.astype(np.float32)
    if isinstance(value, (list, tuple)):
        return type(value)([widened(v) for v in value])
    return value


def raw_of(value) -> np.ndarray:
    """The NumPy array behind an operand, or a scalar as it is."""
    if type(value) is ndarray:
        return value._np
    if not isinstance(value, SCALARS):
        raise unsupported(value)
    return value


def finish(value, out, casting="unsafe") -> ndarray:
    """The result of a reduction, in the pool or in `out`."""
    if out is None:
        return own(value)
    if type(out) is not ndarray:
        raise unsupported(out)
    value = np.asarray(value)
    if out.shape != value.shape:
        raise ValueError(f"Output shape mismatch: out {out.shape}, result {value.shape}")
    np.copyto(out._np, value, casting=casting)
    return out
