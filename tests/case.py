"""One line per operator: what a line of cases.py is made of, and how it is evaluated with both packages."""
from __future__ import annotations

import contextlib
import functools

import ml_dtypes
import numpy as np

import tinytorch_gpu
from tinytorch_gpu import ops
from tinytorch_gpu.autograd import operator
from tinytorch_gpu.backend import dtypes
from tinytorch_gpu.backend.device import backend_for, backend_of, resolve
from tinytorch_gpu.tensor import Tensor, make

BF16 = np.dtype(ml_dtypes.bfloat16)
EPS = {name: float(ml_dtypes.finfo(dtypes.from_any(name).np).eps) for name in
       ("float64", "float32", "float16", "bfloat16", "complex64", "complex128")}
CASES: list[Case] = []


class R:
    """A random real input, complex in the complex checks unless `real`; integers in the integer checks.

    `low`, `high`: the interval. `positive`: from 0.3 to 2. `nonzero`: at least 0.3 from zero. `distinct`: no two
    elements are near each other (for max, sort, ...). `grad=False`: no gradient is asked for it.
    """

    def __init__(self, *shape, low=-2.0, high=2.0, positive=False, nonzero=False, distinct=False, grad=True,
                 real=False):
        self.shape = shape
        self.low, self.high = (max(low, 0.3), high) if positive else (low, high)
        self.nonzero, self.distinct, self.grad, self.real = nonzero, distinct, grad, real

    def draw(self, rng, dtype, shape=None):
        """A host array of numpy dtype `dtype`."""
        shape = self.shape if shape is None else shape
        if dtype.kind == "b":
            return rng.integers(0, 2, shape).astype(bool)
        if dtype.kind in "iu":
            low = max(int(np.ceil(self.low)), 0 if dtype.kind == "u" else -128)
            values = rng.integers(low, max(int(np.floor(self.high)), low + 1) + 1, shape)
            if self.distinct:
                values = low + rng.permutation(int(np.prod(shape))).reshape(shape)
            return np.where(values == 0, max(low, 1), values).astype(dtype) if self.nonzero else values.astype(dtype)
        values = self._real(rng, shape)
        if dtype.kind == "c" and not self.real:
            values = values + 1j * rng.uniform(-1, 1, shape)
        elif dtype.kind == "c":
            dtype = dtypes.of(np.empty(0, dtype)).to_real().np
        return np.asarray(values).astype(dtype)

    def _real(self, rng, shape):
        n = int(np.prod(shape))
        if self.distinct:
            grid = rng.permutation(n) + rng.uniform(0.25, 0.75, n)
            values = self.low + (self.high - self.low) * grid.reshape(shape) / max(n, 1)
        else:
            values = rng.uniform(self.low, self.high, shape)
        if self.nonzero:
            values = np.where(np.abs(values) < 0.3, np.copysign(0.3 + np.abs(values), values), values)
        return values


class S(R):
    """A batch of symmetric (Hermitian) positive definite matrices with a condition number of at most about 10."""

    def draw(self, rng, dtype, shape=None):
        shape = self.shape if shape is None else shape
        a = rng.uniform(-1, 1, shape)
        if dtype.kind == "c":
            a = a + 1j * rng.uniform(-1, 1, shape)
        a = a @ a.conj().swapaxes(-1, -2)
        n = shape[-1]
        return (a + n / 2 * np.eye(n)).astype(dtype)


class I:  # noqa: E742  (read in a table of lines)
    """Random integers from `low` (0) to below `n`, int64 unless `dtype` says otherwise; `distinct`: no two equal."""

    grad = False

    def __init__(self, *shape, n, low=0, dtype="int64", distinct=False):
        self.shape, self.n, self.low, self.distinct = shape, n, low, distinct
        self.dtype = np.dtype(dtype)

    def draw(self, rng, dtype, shape=None):
        shape = self.shape if shape is None else shape
        if self.distinct:
            values = self.low + rng.permutation(self.n - self.low)[: int(np.prod(shape))]
            return values.reshape(shape).astype(self.dtype)
        return rng.integers(self.low, self.n, shape).astype(self.dtype)


class B:
    """Random booleans; `p` is the share of True."""

    grad = False

    def __init__(self, *shape, p=0.5):
        self.shape, self.p = shape, p

    def draw(self, rng, dtype, shape=None):
        return rng.random(self.shape if shape is None else shape) < self.p


class Case:
    """A line of the table: `fn(t, *inputs)` is evaluated with t = tinytorch_gpu and t = torch.

    What does not hold of an operator is said in the line, with `why` for the reader:
    `complex`, `half`: False where PyTorch has no such operator; `real`: False for complex and integer ones only;
    `integer`, `boolean`: True to run on int64, int32, uint8 / bool too;
    `differentiable`: False (results must not require grad); `order2`: False where only first derivatives exist;
    `gradcheck`: False where differences say nothing (the result is coarser than float64);
    `raw`: False where fn uses methods of its inputs, which raw arrays have not;
    `nonfinite`: False to leave NaN and infinity out; `layouts`: False to leave strides out;
    `tolerance`: a factor on every tolerance; `torch`: another function for t = torch;
    `dtype_differs`: the reason why result dtypes are not compared with PyTorch's;
    `shapes`: False where an elementwise line does not do with inputs of every shape;
    `torch_gradients`: False where PyTorch's own backward fails;
    `inplace_guard`: False where fn itself changes its inputs or outputs in place.
    """

    def __init__(
        self, name, fn, *inputs, torch=None, complex=True, half=True, real=True, integer=False, boolean=False,
        differentiable=True, gradcheck=True, order2=True, raw=True, nonfinite=True, layouts=True, tolerance=1.0,
        dtype_differs="", inplace_guard=True, shapes=True, torch_gradients=True, why="",
    ):
        for spec in inputs:
            if not isinstance(spec, (R, I, B)):
                raise TypeError(f"[{name}] inputs are R, S, I or B, got {spec!r}: close over constants in fn")
        relaxed = tolerance != 1 or not all(
            (gradcheck, order2, nonfinite, layouts, inplace_guard, shapes, torch_gradients))
        if relaxed and not why:
            raise ValueError(f"[{name}] give the reason in why= for a check that is left out or relaxed")
        self.name, self.fn, self.inputs, self.torch_fn = name, fn, inputs, torch or fn
        self.complex, self.half, self.real, self.integer, self.boolean = complex, half, real, integer, boolean
        self.differentiable = differentiable and any(s.grad for s in inputs)
        self.declared_constant = not differentiable
        self.gradcheck, self.order2 = gradcheck, gradcheck and order2
        self.raw, self.nonfinite, self.layouts = raw, nonfinite, layouts
        self.tolerance, self.dtype_differs, self.inplace_guard = tolerance, dtype_differs, inplace_guard
        self.shapes, self.torch_gradients = shapes, torch_gradients
        same = sum(c.name == name for c in CASES)
        self.id = name if not same else f"{name}-{same + 1}"
        CASES.append(self)

    def __repr__(self):
        return f"<Case {self.id}>"

    def dtypes(self, floating_only=False):
        """The names of the dtypes in which the line is run."""
        names = ["float64", "float32"] if self.real else []
        if self.half and self.real:
            names += ["float16", "bfloat16"]
        if self.complex:
            names += ["complex128", "complex64"]
        if self.integer and not floating_only:
            names += ["int64", "int32", "uint8"]
        if self.boolean and not floating_only:
            names += ["bool"]
        return names

    def draw(self, rng, name, shapes=None):
        """Host arrays for the inputs, in dtype `name`."""
        dtype = dtypes.from_any(name).np
        shapes = shapes or [None] * len(self.inputs)
        return [spec.draw(rng, dtype, shape) for spec, shape in zip(self.inputs, shapes)]

    def wanting(self, arrays):
        """Which inputs get a gradient."""
        return [spec.grad and dtypes.is_float(a.dtype) for spec, a in zip(self.inputs, arrays)]


class _Lookup:
    """A namespace that finds public names before and after the package's top level exports them."""

    def __getattr__(self, name):
        if name in ops.PUBLIC:
            return ops.PUBLIC[name]
        if name in dtypes.NAMES:
            return dtypes.NAMES[name]
        return getattr(tinytorch_gpu, name)


class _Ours(_Lookup):
    pass


ours = _Ours()
_Ours.nn = _Ours.functional = _Ours.special = ours
for _area in ("linalg", "fft"):
    setattr(_Ours, _area, type(_area, (_Lookup,), {
        "__getattr__": lambda self, name, area=_area: ops.PUBLIC.get(f"{area}_{name}") or getattr(ours, name)})())


# values: host arrays into tensors of both packages, and back

def tensor(array, requires_grad=False, where=None):
    """Our tensor from a host array, on the default device."""
    where = resolve(where)
    t = make(backend_for(where).from_host(np.array(array), where.index))
    t._req = requires_grad
    return t


def torch_tensor(torch, array, requires_grad=False):
    """PyTorch's tensor from a host array."""
    array = np.array(array)
    if array.dtype == BF16:
        t = torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    else:
        t = torch.from_numpy(array)
    return t.requires_grad_() if requires_grad else t


def host(value):
    """A host array from a tensor of either package or a raw array."""
    if isinstance(value, Tensor):
        value = value._array
    if type(value).__module__.startswith("torch"):
        value = value.detach().cpu().resolve_conj().resolve_neg()
        if str(value.dtype) == "torch.bfloat16":
            return value.float().numpy().astype(BF16)
        return value.numpy(force=True)
    if isinstance(value, (np.ndarray, np.generic, list, float, int, complex)):
        return np.asarray(value)
    return backend_of(value).to_host(value)


def dtype_name(value):
    """The dtype of a tensor of either package or a raw array, by name."""
    if type(value).__module__.startswith("torch"):
        return str(value.dtype).removeprefix("torch.")
    return dtypes.of(value._array if isinstance(value, Tensor) else value).name


def leaves(out):
    """The results of fn as a flat list."""
    if isinstance(out, (tuple, list)):
        return [x for o in out for x in leaves(o)]
    return [out]


def is_tensor(x):
    return hasattr(x, "dtype") and hasattr(x, "shape")


def close(actual, expected, tolerance, what):
    """AssertionError unless |actual - expected| <= tolerance * max(1, |expected|): NaN and infinity must agree."""
    a, e = host(actual), host(expected)
    assert a.shape == e.shape, f"{what}: shape {a.shape}, expected {e.shape}"
    wide = np.complex128 if "c" in (a.dtype.kind, e.dtype.kind) else np.float64
    if a.dtype.kind in "biu" and e.dtype.kind in "biu":
        wide, tolerance = object, 0
    a, e = a.astype(wide), e.astype(wide)
    if wide is object:
        bad = a != e
    else:
        finite = np.isfinite(a) & np.isfinite(e)
        scale = np.abs(e[finite]).max(initial=1.0)
        same = _same_nonfinite(a, e)
        with np.errstate(all="ignore"):
            bad = np.where(finite, np.abs(a - e) > tolerance * scale, ~same)
    if np.any(bad):
        where = np.argwhere(bad)
        i = tuple(int(k) for k in where[0])
        raise AssertionError(f"{what}: {len(where)} of {a.size} differ by more than {tolerance:.3g} * scale; at {i}: "
                             f"{a[i]}, expected {e[i]}")


def _same_nonfinite(a, e):
    if a.dtype.kind != "c":
        return (a == e) | (np.isnan(a) & np.isnan(e))
    # which part of a complex number is NaN beside an infinity is no convention that two libraries share
    return (a == e) | (~np.isfinite(a) & ~np.isfinite(e))


def identical(actual, expected, what):
    """AssertionError unless dtype, shape and every bit agree (any NaN equals any NaN)."""
    a, e = host(actual), host(expected)
    assert a.dtype == e.dtype, f"{what}: dtype {a.dtype}, expected {e.dtype}"
    assert a.shape == e.shape, f"{what}: shape {a.shape}, expected {e.shape}"
    if a.tobytes() != e.tobytes():
        both = np.complex128 if a.dtype.kind == "c" else np.float64
        equal = (a == e) | (np.isnan(a.astype(both)) & np.isnan(e.astype(both)))
        if a.dtype.kind == "f" or a.dtype == BF16:
            wide_a, wide_e = a.astype(np.float64), e.astype(np.float64)
            equal &= (np.signbit(wide_a) == np.signbit(wide_e)) | np.isnan(wide_a)
        assert equal.all(), f"{what}: {np.sum(~equal)} of {a.size} differ in bits: {a[~equal][:3]} and {e[~equal][:3]}"


@functools.lru_cache(1)
def _applied(registered):
    """The classes with an `apply` of their own among so many operators: found once, until there are more."""
    return {c for found in operator.REGISTRY.values() for c in found.__mro__ if "apply" in vars(c)}


@contextlib.contextmanager
def watched(see):
    """Inside, `see(operator class, args, params, result)` is called for every operator that is applied."""
    classes = _applied(len(operator.REGISTRY))
    originals = {c: vars(c)["apply"] for c in classes}
    inside = []

    def wrap(original):
        def apply(cls, *args, **params):
            out = original.__func__(cls, *args, **params)
            if not inside:
                inside.append(cls)
                try:
                    see(cls, args, params, out)
                finally:
                    inside.pop()
            return out

        return classmethod(apply)

    for c in classes:
        c.apply = wrap(originals[c])
    try:
        yield
    finally:
        for c in classes:
            c.apply = originals[c]


def operators_of(case, name=None):
    """The operator classes that the forward of a line applies, in dtype `name`."""
    seen: list[type] = []
    inputs = [tensor(a) for a in case.draw(np.random.default_rng(0), name or case.dtypes()[0])]
    with watched(lambda cls, *rest: seen.append(cls)):
        case.fn(ours, *inputs)
    return seen
