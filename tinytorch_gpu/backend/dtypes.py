"""dtypes and type promotion, by PyTorch's rules, on raw arrays and Python scalars.

NumPy and CuPy promote differently (`int64 + float32` is float64 there, `bfloat16 * 0.5` float32), so every
operator promotes here, before the array library sees its operands.
"""
from __future__ import annotations

import ml_dtypes
import numpy as np

__all__ = [
    "dtype", "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool_",
    "complex64", "complex128", "ALL", "of", "from_any", "promote_types", "result_type", "can_cast",
    "get_default_dtype", "set_default_dtype",
]

BOOL, INT, FLOAT, COMPLEX = 0, 1, 2, 3
HALF = frozenset()  # filled below: the numpy dtypes that accumulate in float32


class dtype:
    """A tensor's element type, as `torch.dtype`: one object per type, compared by identity."""

    __slots__ = ("name", "np", "itemsize", "category", "is_floating_point", "is_complex", "is_signed", "aliases")

    def __init__(self, name, np_type, category, aliases=()):
        self.name = name
        self.np = np.dtype(np_type)
        self.itemsize = self.np.itemsize
        self.category = category
        self.is_floating_point = category == FLOAT
        self.is_complex = category == COMPLEX
        self.is_signed = name not in ("bool", "uint8")
        self.aliases = aliases

    def __repr__(self):
        return f"tinytorch_gpu.{self.name}"

    def __reduce__(self):
        return _by_name, (self.name,)

    def to_complex(self) -> dtype:
        """The complex dtype with this dtype's precision."""
        return self if self.is_complex else complex128 if self is float64 else complex64

    def to_real(self) -> dtype:
        """The real dtype with this dtype's precision."""
        return {complex64: float32, complex128: float64}.get(self, self)


float64 = dtype("float64", np.float64, FLOAT, ("double",))
float32 = dtype("float32", np.float32, FLOAT, ("float",))
float16 = dtype("float16", np.float16, FLOAT, ("half",))
bfloat16 = dtype("bfloat16", ml_dtypes.bfloat16, FLOAT)
int64 = dtype("int64", np.int64, INT, ("long",))
int32 = dtype("int32", np.int32, INT, ("int",))
int16 = dtype("int16", np.int16, INT, ("short",))
int8 = dtype("int8", np.int8, INT)
uint8 = dtype("uint8", np.uint8, INT)
bool_ = dtype("bool", np.bool_, BOOL)
complex64 = dtype("complex64", np.complex64, COMPLEX, ("cfloat",))
complex128 = dtype("complex128", np.complex128, COMPLEX, ("cdouble",))

ALL = (float64, float32, float16, bfloat16, int64, int32, int16, int8, uint8, bool_, complex64, complex128)
HALF = frozenset({float16.np, bfloat16.np})
_FROM_NP = {d.np: d for d in ALL}
NAMES = {name: d for d in ALL for name in (d.name, *d.aliases)}
_FLOATS = (float16, bfloat16, float32, float64)
_INTS = (int8, int16, int32, int64)
_default = float32


def _by_name(name):
    return NAMES[name]


def of(array) -> dtype:
    """The dtype of a raw array."""
    try:
        return _FROM_NP[array.dtype]
    except KeyError:
        raise TypeError(
            f"[dtype] arrays of {array.dtype} are not supported; convert to one of "
            f"{', '.join(d.name for d in ALL)}"
        ) from None


def from_any(d) -> dtype:
    """A dtype from a dtype, a numpy dtype, a Python type or a name.

    Raises: TypeError when it names no supported dtype.
    """
    if d.__class__ is dtype:
        return d
    if d is float:
        return _default
    if d is int:
        return int64
    if d is bool:
        return bool_
    if d is complex:
        return _default.to_complex()
    if isinstance(d, str) and d in NAMES:
        return NAMES[d]
    try:
        return _FROM_NP[np.dtype(d)]
    except (TypeError, KeyError):
        raise TypeError(
            f"[dtype] {d!r} is not a supported dtype; use one of {', '.join(x.name for x in ALL)}"
        ) from None


def get_default_dtype() -> dtype:
    """The floating dtype that Python floats become, float32 unless set. As torch.get_default_dtype."""
    return _default


def set_default_dtype(d) -> None:
    """Set the default floating dtype: float16, bfloat16, float32 or float64. As torch.set_default_dtype.

    Raises: TypeError for a dtype that is not floating.
    """
    global _default
    d = from_any(d)
    if not d.is_floating_point:
        raise TypeError(f"[set_default_dtype] only floating dtypes can be the default, got {d.name}")
    _default = d
    _scalar_cache.clear()


def _promote(a: dtype, b: dtype) -> dtype:
    if a is b:
        return a
    if a.category > b.category:
        a, b = b, a
    if b.category == COMPLEX:
        if a.category == COMPLEX or a is float64:
            return complex128 if complex128 in (a, b) or a is float64 else complex64
        return b
    if b.category == FLOAT:
        if a.category != FLOAT:
            return b
        if {a, b} == {float16, bfloat16}:
            return float32
        return max(a, b, key=lambda d: (d.itemsize, _FLOATS.index(d)))
    if a.category == BOOL:
        return b
    if uint8 in (a, b):  # the smallest signed type that holds both
        other = b if a is uint8 else a
        return int16 if other is int8 else other
    return max(a, b, key=_INTS.index)


_PROMOTION = {(a, b): _promote(a, b) for a in ALL for b in ALL}


def promote_types(a, b) -> dtype:
    """The smallest dtype that both can be converted to. As torch.promote_types."""
    return _PROMOTION[from_any(a), from_any(b)]


def can_cast(from_, to) -> bool:
    """Whether PyTorch allows the conversion without losing the category. As torch.can_cast."""
    from_, to = from_any(from_), from_any(to)
    if from_.category == INT and to is bool_:
        return False
    return from_.category <= to.category


def scalar_dtype(value) -> dtype:
    """The dtype of a Python or NumPy scalar standing alone."""
    kind = value.__class__
    if kind is bool:
        return bool_
    if kind is int:
        return int64
    if kind is float:
        return _default
    if kind is complex:
        return _default.to_complex()
    if isinstance(value, np.generic):
        return of(value)
    for base in (bool, int, float, complex):
        if isinstance(value, base):
            return scalar_dtype(base(value))  # type: ignore[arg-type]
    raise TypeError(f"[dtype] expected a Tensor, array or number, got {type(value).__name__}: {value!r:.60}")


_scalar_cache: dict = {}


def result_type(*operands) -> dtype:
    """The dtype in which the operands (raw arrays, Python scalars) are combined. As torch.result_type.

    Arrays with dimensions decide; 0-d arrays count only where they are of a higher category
    (bool < integer < floating < complex), Python scalars likewise below those.
    """
    dims = zeros = wrapped = None
    for x in operands:
        shape = getattr(x, "ndim", None)
        if shape is None:
            d = scalar_dtype(x)
            wrapped = d if wrapped is None else _PROMOTION[wrapped, d]
        elif shape == 0:
            d = of(x)
            zeros = d if zeros is None else _PROMOTION[zeros, d]
        else:
            d = of(x)
            dims = d if dims is None else _PROMOTION[dims, d]
    result = dims
    for lower in (zeros, wrapped):
        if lower is None:
            continue
        if result is None:
            result = lower
        elif lower.category > result.category:
            # a real tensor keeps its precision: float32 with complex128() is complex64 (float16 too: no complex32 here)
            if lower.category == COMPLEX and result.category == FLOAT:
                result = result.to_complex()
            else:
                result = _PROMOTION[result, lower]
    return result  # type: ignore[return-value]  # there is an operand


def result_np(a, b):
    """`result_type(a, b).np` for two operands, cached: the hot path of every binary operator."""
    key = (
        (a.dtype, a.ndim == 0) if hasattr(a, "dtype") else a.__class__,
        (b.dtype, b.ndim == 0) if hasattr(b, "dtype") else b.__class__,
    )
    found = _scalar_cache.get(key)
    if found is None:
        found = _scalar_cache[key] = result_type(a, b).np
    return found


def is_float(np_dtype) -> bool:
    """Whether a numpy dtype is floating or complex: it can carry a gradient."""
    return _FROM_NP[np_dtype].category >= FLOAT


def category(np_dtype) -> int:
    """0 bool, 1 integer, 2 floating, 3 complex."""
    return _FROM_NP[np_dtype].category


def accumulation(np_dtype):
    """The numpy dtype in which sums of this dtype are accumulated: float32 for half types."""
    return float32.np if np_dtype in HALF else np_dtype


def quiet():
    """A context that silences NumPy's floating-point warnings: 0.8 us, so only around operators that raise them."""
    return np.errstate(all="ignore")


def limits(np_dtype):
    """numpy's finfo or iinfo of a dtype, bfloat16 included."""
    if np_dtype == bfloat16.np:
        return ml_dtypes.finfo(np_dtype)
    return np.iinfo(np_dtype) if np_dtype.kind in "iu" else np.finfo(np_dtype)


class finfo:
    """Limits of a floating dtype, as torch.finfo: bits, eps, max, min, tiny, smallest_normal, resolution."""

    def __init__(self, dtype=None):
        d = _default if dtype is None else from_any(dtype)
        if d.category < FLOAT:
            raise TypeError(f"[finfo] needs a floating dtype, got {d.name}")
        info = limits(d.to_real().np)
        self.dtype, self.bits = d.name, d.to_real().itemsize * 8
        self.eps, self.max, self.min = float(info.eps), float(info.max), float(info.min)
        self.tiny = self.smallest_normal = float(info.smallest_normal)
        self.resolution = float(info.resolution)

    def __repr__(self):
        return (f"finfo(resolution={self.resolution:g}, min={self.min:g}, max={self.max:g}, eps={self.eps:g}, "
                f"smallest_normal={self.tiny:g}, tiny={self.tiny:g}, dtype={self.dtype})")


class iinfo:
    """Limits of an integer dtype, as torch.iinfo: bits, max, min."""

    def __init__(self, dtype):
        d = from_any(dtype)
        if d.category != INT:
            raise TypeError(f"[iinfo] needs an integer dtype, got {d.name}")
        info = limits(d.np)
        self.dtype, self.bits, self.max, self.min = d.name, info.bits, int(info.max), int(info.min)

    def __repr__(self):
        return f"iinfo(min={self.min}, max={self.max}, dtype={self.dtype})"
