"""The safetensors container: 8 bytes of length, a JSON header, the arrays' bytes. Everything read is checked."""
from __future__ import annotations

import json
import math

import numpy as np

from .backend import dtypes

__all__ = ["CODES", "HEADER_LIMIT", "Damaged", "read_arrays", "read_header"]

HEADER_LIMIT = 100_000_000  # safetensors' own readers refuse longer ones
CODES = {"F64": dtypes.float64.np, "F32": dtypes.float32.np, "F16": dtypes.float16.np, "BF16": dtypes.bfloat16.np,
         "I64": dtypes.int64.np, "I32": dtypes.int32.np, "I16": dtypes.int16.np, "I8": dtypes.int8.np,
         "U8": dtypes.uint8.np, "BOOL": dtypes.bool_.np, "C64": dtypes.complex64.np,
         "U16": np.dtype(np.uint16), "U32": np.dtype(np.uint32), "U64": np.dtype(np.uint64)}


class Damaged(Exception):
    """What is wrong with a file."""


def _read_exactly(file, buffer):
    view = memoryview(buffer)
    done = 0
    while done < len(view):
        if hasattr(file, "readinto"):
            n = file.readinto(view[done:])
        else:
            piece = file.read(len(view) - done)
            n = len(piece)
            view[done:done + n] = piece
        if not n:
            raise Damaged(f"it ends after {done} of {len(view)} bytes: it was cut off")
        done += n


def _unique(pairs):
    out = dict(pairs)
    if len(out) != len(pairs):
        raise Damaged("a name occurs twice in its header")
    return out


def _no_constant(name):
    raise Damaged(f"{name} is no JSON")


def read_header(file, size):
    """(metadata, {name: (numpy dtype, shape)} in the order of the bytes), everything checked."""
    start = bytearray(8)
    if size is not None and size < 8:
        raise Damaged(f"it has {size} bytes, a safetensors file at least 8: it was cut off, or is something else")
    _read_exactly(file, start)
    length = int.from_bytes(start, "little")
    if not 2 <= length <= HEADER_LIMIT or size is not None and 8 + length > size:
        if start.startswith((b"PK\x03\x04", b"\x80")):
            raise Damaged("it is a file of torch.save or pickle, and unpickling runs code from the file: convert it "
                          "with PyTorch and safetensors.torch.save_file")
        raise Damaged(f"its header would have {length} bytes: it is no safetensors file, or was cut off")
    text = bytearray(length)
    _read_exactly(file, text)
    try:
        head = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as e:
        raise Damaged(f"its header is no JSON ({e}): it is no safetensors file, or damaged") from None
    if type(head) is not dict:
        raise Damaged("its header is no JSON object")
    metadata = head.pop("__metadata__", {})
    if type(metadata) is not dict or any(type(value) is not str for value in metadata.values()):
        raise Damaged("its metadata is no table of strings")
    entries, offset = {}, 0
    for name, entry in sorted(head.items(), key=_begin):
        code, shape, (begin, end) = entry.get("dtype"), entry.get("shape"), entry["data_offsets"]
        if type(code) is not str or code not in CODES:
            raise Damaged(f"tensor {name!r} has the dtype {code!r}, which is not supported: convert it")
        if type(shape) is not list or any(type(n) is not int or n < 0 for n in shape):
            raise Damaged(f"tensor {name!r} has the shape {shape!r}")
        if begin != offset or end - begin != math.prod(shape) * CODES[code].itemsize:
            raise Damaged(f"tensor {name!r} of {code} {shape} cannot lie at bytes {begin} to {end}")
        entries[name] = (CODES[code], tuple(shape))
        offset = end
    if size is not None and 8 + length + offset != size:
        raise Damaged(f"it has {size} bytes, its header describes {8 + length + offset}: it was cut off or changed")
    return metadata, entries


def _begin(item):
    name, entry = item
    offsets = entry.get("data_offsets") if type(entry) is dict else None
    if type(offsets) is not list or len(offsets) != 2 or any(type(n) is not int for n in offsets):
        raise Damaged(f"the entry of tensor {name!r} has no data_offsets")
    return offsets[0], offsets[1]


def read_arrays(file, entries):
    arrays = {}
    for name, (dtype, shape) in entries.items():
        arrays[name] = array = np.empty(shape, dtype)
        bits = array.reshape(-1).view(np.uint8)
        _read_exactly(file, bits)
        if dtype.kind == "b" and bits.size and bits.max() > 1:
            raise Damaged(f"tensor {name!r} of bool has a byte that is neither 0 nor 1")
    return arrays
