"""The arguments of a launch against the kernel's C++ parameters, and the memory that they let the kernel touch."""

from __future__ import annotations

import bisect
import ctypes

import numpy as np

from ..array import ndarray
from ..pool import POOL
from .faults import RawRegion

SCAN = 1 << 16  # words of an integer array that are looked at for addresses


def kind_of(dtype: np.dtype) -> tuple[str, int]:
    """(kind, bytes) as the emulator's C++ side names them."""
    if dtype.name == "bfloat16":
        return "B", 2
    return {"V": "s"}.get(dtype.kind, dtype.kind), dtype.itemsize


class Parameter:
    """One parameter of a kernel, read off its C++ type."""

    def __init__(self, raw):
        self.pointer = bool(raw.pointer)
        self.const = raw.pointer == 2
        self.kind = raw.kind.decode()
        self.size = raw.size
        self.align = raw.align
        self.base = (raw.base_kind.decode(), raw.base_size)

    def __str__(self):
        names = {"f": "float", "i": "int", "u": "uint", "c": "complex"}
        kind, size = (self.kind, self.size) if not self.pointer else self.base
        text = {"b": "bool", "B": "bfloat16", "v": "void", "s": f"struct of {size} bytes", "p": "pointer"}.get(
            kind) or f"{names[kind]}{8 * size}"
        return f"pointer to {text}" if self.pointer else text

    def accepts(self, dtype: np.dtype) -> bool:
        kind, size = kind_of(dtype)
        if self.pointer:
            if self.kind == "v" or self.base[0] in "sp" or (self.size == 1 and self.kind in "iu"):
                return True
            if kind == "c":
                kind, size = "f", size // 2
            same = {"u": "i"}  # the sign is a way to read the bits
            return (same.get(kind, kind), size) == (same.get(self.base[0], self.base[0]), self.base[1])
        return (kind, size) == (self.kind, self.size)


def wrong(kernel: str, index: int, text: str) -> TypeError:
    return TypeError(f"[{kernel}] argument {index}: {text}")


def pack(kernel: str, parameters: list[Parameter], args) -> tuple:
    """(array of pointers to the values, things to keep alive). TypeError for anything but what C++ declares."""
    if len(args) != len(parameters):
        raise TypeError(f"[{kernel}] takes {len(parameters)} arguments, got {len(args)}: pass one for each parameter "
                        "of the __global__ function")
    values = (ctypes.c_void_p * max(len(args), 1))()
    keep = []
    for i, (parameter, value) in enumerate(zip(parameters, args)):
        if parameter.pointer:
            word = ctypes.c_uint64(_address(kernel, i, parameter, value))
            keep.append(word)
            values[i] = ctypes.addressof(word)
            continue
        if isinstance(value, ndarray):
            raise wrong(kernel, i, f"an array of {value.dtype} for a {parameter} passed by value: pass a NumPy scalar")
        if not isinstance(value, np.generic):
            raise wrong(kernel, i, f"{type(value).__name__} for a {parameter}: pass a NumPy scalar of exactly that "
                                   "type (a Python number goes as 8 bytes)")
        if not parameter.accepts(value.dtype):
            raise wrong(kernel, i, f"{value.dtype} for a {parameter}: pass a NumPy scalar of exactly that type")
        buffer = ctypes.create_string_buffer(parameter.size + parameter.align)
        at = -(-ctypes.addressof(buffer) // parameter.align) * parameter.align
        ctypes.memmove(at, value.tobytes(), parameter.size)
        keep.append(buffer)
        values[i] = at
    return values, keep


def _address(kernel, i, parameter, value) -> int:
    if value is None:
        return 0
    if not isinstance(value, ndarray):
        raise wrong(kernel, i, f"{type(value).__name__} for a {parameter}: pass an array of the simulated device")
    if not parameter.accepts(value.dtype):
        raise wrong(kernel, i, f"an array of {value.dtype} for a {parameter}: give the array that type")
    return value._np.__array_interface__["data"][0]


class Area:
    """A region of memory and the words for it."""

    def __init__(self, low, high, words, argument=-1, float_size=0, uninitialised=False):
        self.low, self.high, self.words, self.argument = low, high, words, argument
        self.float_size, self.uninitialised = float_size, uninitialised

    def raw(self) -> RawRegion:
        return RawRegion(self.low, self.high, self.argument, self.float_size, self.uninitialised)


def areas(args, uninitialised=frozenset()) -> list[Area]:
    """Disjoint areas that a launch with these arguments may touch: the arrays, and what addresses in them point to."""
    found = []
    for i, value in enumerate(args):
        if isinstance(value, ndarray) and value.size:
            low, high = np.lib.array_utils.byte_bounds(value._np)
            kind, size = kind_of(value.dtype)
            words = f"argument {i} ({value.dtype}, shape {value.shape}, {high - low} bytes)"
            size = size if kind in "fB" and size in (2, 4, 8) else 0
            found.append(Area(low, high, words, i, size, i in uninitialised))
    pointed = [(i, address) for i, value in enumerate(args) for address in _addresses(value)]
    blocks = POOL.live_blocks() if pointed else {}
    starts = sorted(blocks)
    for i, address in pointed:
        at = bisect.bisect_right(starts, address) - 1
        if at >= 0 and address < starts[at] + blocks[starts[at]]:
            low, size = starts[at], blocks[starts[at]]
            found.append(Area(low, low + size, f"the array that argument {i} points to ({size} bytes)", i))
    found.sort(key=lambda area: area.low)
    merged: list[Area] = []
    for area in found:
        last = merged[-1] if merged else None
        if last is not None and area.low < last.high:
            last.high = max(last.high, area.high)
            last.uninitialised = last.uninitialised and area.uninitialised
            if last.float_size != area.float_size:
                last.float_size = 0
        else:
            merged.append(area)
    return merged


def _addresses(value):
    """Words of an integer array, or of a structure passed by value, that may be addresses."""
    if isinstance(value, np.void):
        raw = value.tobytes()
        return {int(a) for a in np.frombuffer(raw[: len(raw) // 8 * 8], np.uint64)}
    if isinstance(value, ndarray) and value.dtype.kind in "iu" and value.dtype.itemsize == 8 and value.size <= SCAN:
        return {int(a) for a in value._np.ravel()}
    return ()
