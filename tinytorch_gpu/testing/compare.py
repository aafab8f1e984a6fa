"""assert_close and make_tensor, as torch.testing."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Number

import numpy as np

from ..backend import dtypes
from ..backend.device import backend_for, backend_of, is_array, resolve
from ..tensor import Tensor, make

__all__ = ["assert_close", "make_tensor"]

TOLERANCES = {  # dtype -> (rtol, atol), PyTorch's
    dtypes.float16: (1e-3, 1e-5), dtypes.bfloat16: (1.6e-2, 1e-5), dtypes.float32: (1.3e-6, 1e-5),
    dtypes.float64: (1e-7, 1e-7), dtypes.complex64: (1.3e-6, 1e-5), dtypes.complex128: (1e-7, 1e-7),
}


def assert_close(
    actual, expected, *, allow_subclasses=True, rtol=None, atol=None, equal_nan=False, check_device=True,
    check_dtype=True, check_layout=True, check_stride=False, msg=None,
) -> None:
    """Assert |actual - expected| <= atol + rtol * |expected|; Tensors, arrays, numbers, sequences and mappings of them.

    Default tolerances by dtype, the looser of the two: float64 1e-7, 1e-7; float32 1.3e-6, 1e-5; bfloat16 1.6e-2,
    1e-5; float16 1e-3, 1e-5; integers and bool exact. `msg`: a text, or a function of the generated one.
    `check_layout` compares nothing here: every tensor is strided. As torch.testing.assert_close.
    Raises: AssertionError with the greatest differences and where; ValueError when only one of rtol and atol is
    given; TypeError for what cannot be compared.
    """
    if (rtol is None) != (atol is None):
        raise ValueError(f"[assert_close] rtol and atol must both be given or both be left out, got rtol={rtol}, "
                         f"atol={atol}")
    options = _Options(allow_subclasses, rtol, atol, equal_nan, check_device, check_dtype, check_stride)
    try:
        options.compare(actual, expected, "")
    except _Mismatch as e:
        text = str(e) if msg is None else msg(str(e)) if callable(msg) else msg
        raise AssertionError(text) from None


class _Mismatch(Exception):
    pass


class _Options:
    def __init__(self, allow_subclasses, rtol, atol, equal_nan, device, dtype, stride):
        self.allow_subclasses, self.rtol, self.atol, self.equal_nan = allow_subclasses, rtol, atol, equal_nan
        self.device, self.dtype, self.stride = device, dtype, stride

    def compare(self, actual, expected, where):
        if isinstance(actual, Mapping) and isinstance(expected, Mapping):
            if set(actual) != set(expected):
                missing = sorted(map(repr, set(expected) - set(actual)))
                more = sorted(map(repr, set(actual) - set(expected)))
                raise _Mismatch(f"The keys of the mappings do not match{where}:\nMissing keys in the actual mapping: "
                                f"{missing}\nAdditional keys in the actual mapping: {more}")
            for key in expected:
                self.compare(actual[key], expected[key], f"{where}[{key!r}]")
        elif _is_sequence(actual) and _is_sequence(expected):
            if len(actual) != len(expected):
                raise _Mismatch(f"The length of the sequences mismatch{where}: {len(actual)} != {len(expected)}")
            for i, (a, e) in enumerate(zip(actual, expected)):
                self.compare(a, e, f"{where}[{i}]")
        elif actual is None or expected is None:
            if actual is not expected:
                raise _Mismatch(f"None mismatch{where}: {actual} is not {expected}")
        else:
            self.values(actual, expected, where)

    def values(self, actual, expected, where):
        if type(actual) is not type(expected) and not self.related(actual, expected):
            raise _incomparable(actual, expected)
        kinds = [_kind(v) for v in (actual, expected)]
        if None in kinds:
            raise _incomparable(actual, expected)
        if "number" in kinds:
            if kinds != ["number", "number"]:
                raise _incomparable(actual, expected)
            self.numbers(actual, expected, where)
        else:
            self.tensors(*[v._array if isinstance(v, Tensor) else np.asarray(v) if isinstance(v, np.generic) else v
                           for v in (actual, expected)], where)

    def related(self, actual, expected):
        if self.allow_subclasses and (isinstance(actual, type(expected)) or isinstance(expected, type(actual))):
            return True
        plain = (bool, int, float, complex)
        arrays = [is_array(v) or isinstance(v, np.generic) for v in (actual, expected)]
        return all(arrays) or type(actual) in plain and type(expected) in plain

    def numbers(self, actual, expected, where):
        if self.dtype and type(actual) is not type(expected):
            raise _Mismatch(f"The (d)types do not match{where}: {type(actual)} != {type(expected)}.")
        exact = all(isinstance(v, (bool, int)) for v in (actual, expected))
        rtol, atol = self.tolerances(*[dtypes.int64 if exact else dtypes.float64] * 2)
        if actual == expected or self.equal_nan and actual != actual and expected != expected:
            return
        difference = abs(actual - expected)
        if math.isfinite(difference) and difference <= atol + rtol * abs(expected):
            return
        raise _Mismatch(
            f"Scalars are not {'equal' if rtol == atol == 0 else 'close'}{where}!\n\nExpected {expected} but got "
            f"{actual}.\nAbsolute difference: {difference} (up to {atol} allowed)\nRelative difference: "
            f"{difference / abs(expected) if expected else math.inf} (up to {rtol} allowed)"
        )

    def tensors(self, actual, expected, where):
        if actual.shape != expected.shape:
            raise _Mismatch(
                f"The values for attribute 'shape' do not match{where}: {actual.shape} != {expected.shape}.")
        here, there = backend_of(actual).device_of(actual), backend_of(expected).device_of(expected)
        if self.device and here != there:
            raise _Mismatch(f"The values for attribute 'device' do not match{where}: {here} != {there}.")
        first, second = dtypes.of(actual), dtypes.of(expected)
        if self.dtype and first is not second:
            raise _Mismatch(f"The values for attribute 'dtype' do not match{where}: {first} != {second}.")
        if self.stride:
            strides = [tuple(s // a.dtype.itemsize for s in a.strides) for a in (actual, expected)]
            if strides[0] != strides[1]:
                raise _Mismatch(
                    f"The values for attribute 'stride()' do not match{where}: {strides[0]} != {strides[1]}.")
        rtol, atol = self.tolerances(first, second)
        a, e = (backend_of(v).to_host(v) for v in (actual, expected))
        category = max(first.category, second.category)
        if category <= dtypes.INT:
            rtol = 0.0 if self.rtol is None else rtol
        wide = np.complex128 if category == dtypes.COMPLEX else np.float64 if category == dtypes.FLOAT else np.int64
        a, e = a.astype(wide), e.astype(wide)
        with dtypes.quiet():
            difference = np.abs(a - e)
            good = (a == e) | np.isfinite(difference) & (difference <= atol + rtol * np.abs(e))
            if self.equal_nan:
                good |= np.isnan(a) & np.isnan(e)
            if good.all():
                return
            relative = difference / np.abs(e)
        raise _Mismatch(_message(~good, difference, relative, rtol, atol, where))

    def tolerances(self, first, second):
        if self.rtol is not None:
            return self.rtol, self.atol
        pairs = [TOLERANCES.get(d, (0.0, 0.0)) for d in (first, second)]
        return max(p[0] for p in pairs), max(p[1] for p in pairs)


def _message(bad, difference, relative, rtol, atol, where):
    kind = "equal" if rtol == atol == 0 else "close"
    if bad.ndim == 0:
        return (f"Scalars are not {kind}{where}!\n\nAbsolute difference: {difference[()]} (up to {atol} allowed)\n"
                f"Relative difference: {relative[()]} (up to {rtol} allowed)")
    lines = [f"Tensor-likes are not {kind}{where}!\n",
             f"Mismatched elements: {bad.sum()} / {bad.size} ({bad.sum() / bad.size:.1%})"]
    for name, values, allowed in (("absolute", difference, atol), ("relative", relative, rtol)):
        worst = np.where(bad, values, -1.0)
        at = tuple(int(i) for i in np.unravel_index(np.argmax(worst), bad.shape))  # a NaN is the greatest
        lines.append(f"Greatest {name} difference: {values[at]} at index {at} (up to {allowed} allowed)")
    return "\n".join(lines)


def _is_sequence(value):
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _kind(value):
    if isinstance(value, Tensor) or is_array(value) or isinstance(value, np.generic):
        return "tensor"
    return "number" if isinstance(value, Number) else None


def _incomparable(actual, expected):
    return TypeError(f"[assert_close] no comparison for {type(actual).__name__} and {type(expected).__name__}: "
                     "give two Tensors, arrays, numbers, sequences or mappings")


def make_tensor(
    *shape, dtype, device=None, low=None, high=None, requires_grad=False, noncontiguous=False, exclude_zero=False,
) -> Tensor:
    """A tensor of random values in [low, high); integers and floats default to [-9, 9]. As torch.testing.make_tensor.

    Drawn from NumPy's global generator. Raises: ValueError for an empty interval; RuntimeError for integers that
    would require grad.
    """
    if len(shape) == 1 and not isinstance(shape[0], int):
        shape = tuple(shape[0])
    kind, where = dtypes.from_any(dtype), resolve(device)
    if kind.category <= dtypes.INT:
        low = (0 if kind in (dtypes.bool_, dtypes.uint8) else -9) if low is None else math.ceil(low)
        high = (2 if kind is dtypes.bool_ else 10) if high is None else math.ceil(high)
    else:
        low, high = -9.0 if low is None else low, 9.0 if high is None else high
    if not low < high:
        raise ValueError(f"[make_tensor] low must be less than high, got {low} >= {high}")
    size = (*shape[:-1], 2 * shape[-1]) if noncontiguous and shape else shape
    if kind.category <= dtypes.INT:
        values = np.random.randint(low, high, size)
    else:
        values = np.random.uniform(low, high, size)
        if kind.is_complex:
            values = values + 1j * np.random.uniform(low, high, size)
    values = np.asarray(values).astype(kind.np)
    if exclude_zero:
        least = 1 if kind.category <= dtypes.INT else dtypes.finfo(kind).tiny
        values = np.where(values == 0, np.asarray(least).astype(kind.np), values)
    raw = backend_for(where).from_host(values, where.index)
    return make(raw[..., ::2] if size != shape else raw).requires_grad_(requires_grad)
