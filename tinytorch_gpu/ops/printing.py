"""How a tensor prints: PyTorch's text, from its values on the host."""
from __future__ import annotations

import math

import numpy as np

from ..backend import dtypes
from ..tensor import attach
from .data import host_array
from .registry import public

_INDENT = 7  # the length of "tensor("
_INF = float("inf")


class _Options:
    precision, threshold, edgeitems, linewidth, sci_mode = 4, 1000, 3, 80, None


_PROFILES = {"default": (4, 1000, 3, 80), "short": (2, 1000, 2, 80), "full": (4, _INF, 3, 80)}


@public
def set_printoptions(precision=None, threshold=None, edgeitems=None, linewidth=None, profile=None, sci_mode=None):
    """Digits, size above which tensors are summarised, items at the edges, line width. As torch.set_printoptions."""
    if profile is not None:
        if profile not in _PROFILES:
            raise ValueError(f"[set_printoptions] unknown profile {profile!r}: use one of {', '.join(_PROFILES)}")
        _Options.precision, _Options.threshold, _Options.edgeitems, _Options.linewidth = _PROFILES[profile]
    for name, value in (("precision", precision), ("threshold", threshold), ("edgeitems", edgeitems),
                        ("linewidth", linewidth)):
        if value is not None:
            setattr(_Options, name, value)
    _Options.sci_mode = sci_mode


class _Format:
    """The common format of all shown numbers: integers, fixed point or powers of ten, and their width."""

    def __init__(self, values):
        self.floating = values.dtype.kind == "f"
        self.whole, self.powers, self.width = True, False, 1
        if not self.floating:
            self.width = max([len(str(v)) for v in values.reshape(-1).tolist()], default=1)
            return
        shown = values.reshape(-1).astype(np.float64)
        shown = shown[np.isfinite(shown) & (shown != 0)]
        if not shown.size:
            return
        size = np.abs(shown)
        largest, smallest = size.max(), size.min()
        self.whole = bool((shown == np.ceil(shown)).all())
        if self.whole:
            self.powers = largest / smallest > 1000.0 or largest > 1.0e8
        else:
            self.powers = largest / smallest > 1000.0 or largest > 1.0e8 or smallest < 1.0e-4
        if _Options.sci_mode is not None:
            self.powers = _Options.sci_mode
        spec = f".{_Options.precision}e" if self.powers else ".0f" if self.whole else f".{_Options.precision}f"
        extra = 1 if self.whole and not self.powers else 0
        self.width = max(1, *[len(format(v, spec)) + extra for v in shown.tolist()])

    def text(self, value):
        if self.floating:
            if self.powers:
                out = f"{value:{self.width}.{_Options.precision}e}"
            elif self.whole:
                out = f"{value:.0f}" + ("." if math.isfinite(value) else "")
            else:
                out = f"{value:.{_Options.precision}f}"
        else:
            out = str(value)
        return out.rjust(self.width)


class _ComplexFormat:
    """Real and imaginary parts, each in its own format."""

    def __init__(self, values):
        self.real, self.imag = _Format(values.real), _Format(values.imag)
        self.width = self.real.width + self.imag.width + 1

    def text(self, value):
        imag = self.imag.text(value.imag).lstrip()
        return self.real.text(value.real) + (imag + "j" if imag[0] in "+-" else "+" + imag + "j")


def _summary(array):
    """The corners that are shown of a large array."""
    edge = _Options.edgeitems
    for d, n in enumerate(array.shape):
        if n > 2 * edge:
            array = np.concatenate([array.take(range(edge), d), array.take(range(n - edge, n), d)], axis=d)
    return array


def _row(array, indent, summarize, form):
    per_line = max(1, (_Options.linewidth - indent) // (form.width + 2))
    edge = _Options.edgeitems
    if summarize and len(array) > 2 * edge and edge:
        first, last = array[:edge].tolist(), array[-edge:].tolist()
        cells = [form.text(v) for v in first] + [" ..."] + [form.text(v) for v in last]
    else:
        cells = [form.text(v) for v in array.tolist()]
    lines = [", ".join(cells[i:i + per_line]) for i in range(0, len(cells), per_line)]
    return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"


def _nested(array, indent, summarize, form):
    if array.ndim == 0:
        return form.text(array.item())
    if array.ndim == 1:
        return _row(array, indent, summarize, form)
    edge = _Options.edgeitems
    if summarize and len(array) > 2 * edge:
        parts = [_nested(a, indent + 1, summarize, form) for a in array[:edge]] + ["..."] + [
            _nested(a, indent + 1, summarize, form) for a in (array[-edge:] if edge else ())]
    else:
        parts = [_nested(a, indent + 1, summarize, form) for a in array]
    return "[" + ("," + "\n" * (array.ndim - 1) + " " * (indent + 1)).join(parts) + "]"


def _body(array, indent):
    if array.dtype == dtypes.bfloat16.np or array.dtype == np.float16:
        array = array.astype(np.float32)
    summarize = array.size > _Options.threshold
    shown = _summary(array) if summarize else array
    form = _ComplexFormat(shown) if array.dtype.kind == "c" else _Format(shown)
    return _nested(array, indent, summarize, form)


def _is_default(dtype):
    default = dtypes.get_default_dtype()
    return dtype in (default, dtypes.int64, dtypes.bool_, default.to_complex())


def text(t):
    """What repr(tensor) says."""
    prefix = "tensor("
    suffixes = []
    where = t.device
    if where.type != "cpu":
        suffixes.append(f"device='{where}'")
    array = host_array(t)
    if array.size == 0:
        if array.ndim != 1:
            suffixes.append(f"size={tuple(array.shape)}")
        if t.dtype is not dtypes.get_default_dtype():
            suffixes.append(f"dtype={t.dtype!r}")
        body = "[]"
    else:
        if not _is_default(t.dtype):
            suffixes.append(f"dtype={t.dtype!r}")
        body = _body(array, _INDENT)
    node = t.grad_fn
    if node is not None:
        suffixes.append(f"grad_fn=<{node.name()}>")
    elif t.requires_grad:
        suffixes.append("requires_grad=True")
    return _suffixed(prefix + body, suffixes)


def _suffixed(out, suffixes):
    """Suffixes go on the last line as long as it is not too long."""
    parts = [out]
    last = len(out) - out.rfind("\n") + 1
    for s in suffixes:
        if last + len(s) + 2 > _Options.linewidth:
            parts.append(",\n" + " " * _INDENT + s)
            last = _INDENT + len(s)
        else:
            parts.append(", " + s)
            last += len(s) + 2
    return "".join(parts) + ")"


@attach("__repr__")
def __repr__(self):
    return text(self)


@attach("__format__")
def __format__(self, spec):
    if self.ndim == 0:
        return format(self.item(), spec)
    if spec:
        raise TypeError(f"[format] a tensor of shape {list(self.shape)} takes no format {spec!r}: format its elements")
    return text(self)
