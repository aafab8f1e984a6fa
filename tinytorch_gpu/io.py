"""save and load: nested containers of tensors in one safetensors file. Reading never runs code.

The tensors lie in the file as any safetensors reader sees them, named by where they stood ("model.0.weight"); what
safetensors cannot say (nesting, numbers, key types, which tensors are one) is JSON in the file's metadata.
"""
from __future__ import annotations

import base64
import collections
import contextlib
import json
import math
import os
import secrets
import stat
import sys
import time

import numpy as np

from .backend import dtypes
from .backend.device import backend_for, backend_of
from .backend.device import device as Device
from .container import CODES, HEADER_LIMIT, Damaged, read_arrays, read_header
from .tensor import Tensor, make

__all__ = ["save", "load"]

FORMAT = "1"
ABANDONED = 3600  # seconds without a write, after which a temporary file belongs to a process that was killed

_CODE_OF = {dtype: code for code, dtype in CODES.items()}
_MAPS = {dict: "dict", collections.OrderedDict: "ordered"}
_SEQUENCES = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset"}


# the object as JSON and a table of arrays

class _Writer:
    """Walks an object once: `tree` is its structure, `arrays` what has to be written, each memory once."""

    def __init__(self, obj):
        self.arrays: dict[str, object] = {}  # name in the file -> raw array
        self.objects: list = []  # [kind, name, more...] of each distinct Tensor or NumPy array
        self._numbers: dict[int, int] = {}  # id of such an object -> its place in `objects`
        self._names: dict[tuple, str] = {}  # memory, shape, strides and dtype -> name
        self._alive: list = []  # ids hold only while the object lives
        self._open: set[int] = set()
        nn = sys.modules.get("tinytorch_gpu.nn")  # nobody has a Parameter before nn is imported
        self._parameter = getattr(nn, "Parameter", ())
        try:
            self.tree = self._encode(obj, "")
        except RecursionError:
            raise ValueError("[save] the object is nested too deeply: flatten it") from None

    def _encode(self, x, path):
        kind = type(x)
        if isinstance(x, collections.OrderedDict) and hasattr(x, "_metadata"):  # a Module's state_dict
            return ["state", self._encode(x._metadata, "the state_dict's _metadata"), self._mapping(x, path)]
        if x is None or kind is bool or kind is str:
            return x
        if kind is int:
            return x if -(2**63) <= x < 2**63 else ["int", hex(x)]
        if kind is float:
            return x if math.isfinite(x) else ["float", repr(x)]
        if kind in _MAPS or kind in _SEQUENCES:
            if id(x) in self._open:
                raise ValueError(f"[save] {path or 'the object'} contains itself: a file holds trees only")
            self._open.add(id(x))
            out = self._mapping(x, path) if kind in _MAPS else [_SEQUENCES[kind]] + [
                self._encode(item, f"{path}[{i}]") for i, item in enumerate(x)]
            self._open.remove(id(x))
            return out
        if isinstance(x, Tensor) or isinstance(x, np.ndarray):
            return ["object", self._number(x, path)]
        if isinstance(x, np.generic):
            return ["scalar", self._place(np.asarray(x), path)]
        if kind is complex:
            return ["complex", *[v if math.isfinite(v) else repr(v) for v in (x.real, x.imag)]]
        if kind is bytes:
            return ["bytes", base64.b64encode(x).decode()]
        if kind is dtypes.dtype:
            return ["dtype", x.name]
        if kind is Device:
            return ["device", str(x)]
        raise TypeError(
            f"[save] {path or 'the object'} is a {kind.__name__}: tensors, NumPy arrays, numbers, strings, bytes and "
            "None, in dicts, lists, tuples and sets, can be stored; save a state_dict(), or convert it"
        )

    def _mapping(self, x, path):
        if type(x) is dict and all(type(key) is str for key in x):
            return {key: self._encode(value, f"{path}[{key!r}]") for key, value in x.items()}
        return [_MAPS.get(type(x), "ordered")] + [
            [self._encode(key, f"a key of {path or 'the object'}"), self._encode(value, f"{path}[{key!r}]")]
            for key, value in x.items()]

    def _number(self, x, path):
        found = self._numbers.get(id(x))
        if found is not None:
            return found
        if isinstance(x, Tensor):
            name = self._place(x._array, path)
            entry = ["tensor", name, str(x.device), x.dtype.name]
            if self._parameter and isinstance(x, self._parameter):
                entry = ["parameter", *entry[1:], x.requires_grad]
        else:
            name = self._place(x, path)
            entry = ["array", name, x.dtype.name]
        self._alive.append(x)
        self._numbers[id(x)] = len(self.objects)
        self.objects.append(entry)
        return len(self.objects) - 1

    def _place(self, array, path):
        """The name under which an array is stored."""
        if array.dtype not in _CODE_OF and array.dtype != dtypes.complex128.np:
            if not isinstance(array, np.ndarray) or array.dtype.newbyteorder("=") not in _CODE_OF:
                raise TypeError(f"[save] {path or 'the object'} is an array of {array.dtype}: safetensors holds "
                                "booleans, integers and floating numbers only; convert it")
            array = array.astype(array.dtype.newbyteorder("="))
        address = array.__array_interface__["data"][0] if isinstance(array, np.ndarray) else array.data.ptr
        key = (address, array.shape, array.strides, array.dtype, backend_of(array).device_of(array))
        if array.size and key in self._names:
            return self._names[key]
        wish = path.replace("['", ".").replace("']", "").replace("[", ".").replace("]", "").lstrip(".") or "value"
        name, count = wish, 0
        while name in self.arrays or name == "__metadata__":
            count += 1
            name = f"{wish}#{count}"
        self.arrays[name] = array
        self._names[key] = name
        return name

    def header(self):
        """The file's head, and the arrays in the order of their bytes (wide elements first, so all are aligned)."""
        structure = json.dumps({"objects": self.objects, "value": self.tree}, separators=(",", ":"))
        head: dict = {"__metadata__": {"tinytorch_gpu": FORMAT, "structure": structure}}
        order = sorted(self.arrays.items(), key=lambda item: -min(item[1].dtype.itemsize, 8))
        offset = 0
        for name, array in order:
            code, shape = _CODE_OF.get(array.dtype), list(array.shape)
            if code is None:  # safetensors has no complex128: pairs of float64
                code, shape = "F64", [*shape, 2]
            end = offset + array.size * array.dtype.itemsize
            head[name] = {"dtype": code, "shape": shape, "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(head, separators=(",", ":")).encode()
        if len(text) > HEADER_LIMIT:
            raise ValueError(f"[save] numbers, strings and names take {len(text):,} bytes, and a safetensors header "
                             f"holds {HEADER_LIMIT:,}: put long lists of numbers into tensors")
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text, [array for _, array in order]

    def write(self, file):
        head, arrays = self.header()
        file.write(head)
        for array in arrays:  # one at a time: a second copy of one tensor at most
            if array.size:
                host = np.ascontiguousarray(backend_of(array).to_host(array))
                file.write(host.reshape(-1).view(np.uint8))


def save(obj, f) -> None:
    """Store an object in one safetensors file, in one piece: until it is whole, an older file stays. As torch.save.

    obj: Tensors of every dtype, Parameters, NumPy arrays, numbers, strings, bytes, None, dtypes, devices, in dicts with
    any such keys, lists, tuples and sets. f: a path, or a file object open for writing bytes.
    A Tensor (or memory) that occurs twice is stored once and comes back shared. Values only: no graph, and
    `requires_grad` of Parameters alone; other subclasses of Tensor come back as Tensor.
    Raises: TypeError naming what cannot be stored, OSError when the file cannot be written.
    """
    writer = _Writer(obj)
    if hasattr(f, "write"):
        writer.write(f)
        return
    path = os.path.realpath(os.fspath(f))  # a link stays a link, what it names is replaced
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    temporary = None
    try:
        if os.path.isdir(path):
            raise IsADirectoryError(21, "is a directory")
        folder, name = os.path.split(path)
        _remove_abandoned(folder, name)
        temporary = os.path.join(folder, f".{name}.{secrets.token_hex(6)}.tmp")
        with open(temporary, "xb") as file:
            writer.write(file)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            os.chmod(temporary, stat.S_IMODE(os.stat(path).st_mode))
        os.replace(temporary, path)
        temporary = None
        _sync_folder(folder)
    except OSError as error:
        told = type(error)(f"[save] {os.fspath(f)} cannot be written: {error.strerror or error}; what was there before "
                           "is whole: make room, or name another place")
        told.errno = error.errno
        raise told from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):  # it may never have been made; the error above is what counts
                os.remove(temporary)


def _remove_abandoned(folder, name):
    """Delete what a killed save() of the same file left behind."""
    for entry in os.scandir(folder):
        if entry.name.startswith(f".{name}.") and entry.name.endswith(".tmp"):
            with contextlib.suppress(OSError):  # another process was quicker
                if time.time() - entry.stat().st_mtime > ABANDONED:
                    os.remove(entry.path)


def _sync_folder(folder):
    """The new name reaches the disk too. Windows has no such call."""
    if os.name == "nt":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


# the object again

class _Builder:
    """The object from its structure and arrays."""

    def __init__(self, arrays, where):
        self.arrays, self.where = arrays, where
        self._moved: dict[tuple, object] = {}

    def build(self, structure):
        self.objects = [self._object(*entry) for entry in structure["objects"]]
        return self._decode(structure["value"])

    def place(self, name, home, dtype):
        """The raw array of a stored tensor on its device; asked twice, the same one."""
        key = (name, home, dtype)
        if key not in self._moved:
            try:
                where = Device(home) if self.where is None else self.where
                backend = backend_for(where)
            except RuntimeError as e:
                raise RuntimeError(f"[load] tensor {name!r} was saved on {home}, which cannot be used here ({e}): "
                                   "pass map_location='cpu'") from None
            self._moved[key] = backend.from_host(self._host(name, dtype), where.index)
        return self._moved[key]

    def _host(self, name, dtype):
        array = self.arrays[name]
        if dtype == "complex128":
            array = array.view(np.complex128).reshape(array.shape[:-1])
        if array.dtype.name != dtype:
            raise ValueError(f"{name!r} is {array.dtype}, not {dtype}")
        return array

    def _object(self, kind, name, *more):
        if kind == "array":
            return self._host(name, *more)
        home, dtype, *flags = more
        if kind == "tensor":
            return make(self.place(name, home, dtype))
        if kind == "parameter":
            from .nn import Parameter

            return Parameter(make(self.place(name, home, dtype)), requires_grad=flags[0] is True)
        raise ValueError(f"unknown kind {kind!r}")

    def _decode(self, x):
        if type(x) is dict:
            return {key: self._decode(value) for key, value in x.items()}
        if type(x) is not list:
            return x
        kind, *rest = x
        if kind == "object":
            return self.objects[rest[0]]
        if kind in ("dict", "ordered"):
            pairs = [(self._decode(key), self._decode(value)) for key, value in rest]
            return dict(pairs) if kind == "dict" else collections.OrderedDict(pairs)
        if kind == "state":
            metadata, state = map(self._decode, rest)
            state._metadata = metadata
            return state
        if kind in _BUILD:
            return _BUILD[kind](self._decode(item) for item in rest)
        if kind == "scalar":
            array = self.arrays[rest[0]]
            return (array if array.shape == () else array.view(np.complex128).reshape(()))[()]
        return _SIMPLE[kind](*rest)


_BUILD = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_SIMPLE = {
    "int": lambda text: int(text, 16), "float": float, "complex": lambda re, im: complex(float(re), float(im)),
    "bytes": lambda text: base64.b64decode(text, validate=True), "dtype": dtypes.from_any, "device": Device,
}


def load(f, map_location=None, *, weights_only=True):
    """What `save` stored in f, a path or a file object; of any other safetensors file a dict of tensors. As torch.load.

    map_location: the device (or its name) for all tensors; None puts each where it was saved, foreign files on the CPU.
    Reading never runs code, so `weights_only` can only be True.
    Raises: FileNotFoundError, RuntimeError for a file that is damaged, cut off or no safetensors file.
    """
    if weights_only is not True:
        raise ValueError("[load] weights_only=False would run code from the file, which load never does: leave it out")
    if map_location is not None:
        map_location = Device(map_location)
        backend_for(map_location)
    if hasattr(f, "read"):
        return _load(f, getattr(f, "name", "the file object"), None, map_location)
    path = os.fspath(f)
    if os.path.isdir(path):
        raise IsADirectoryError(f"[load] {path} is a folder: name a file in it")
    try:
        file = open(path, "rb")
    except FileNotFoundError as error:
        told = FileNotFoundError(f"[load] {path} does not exist: check the path")
        told.errno = error.errno
        raise told from None
    with file:
        return _load(file, path, os.fstat(file.fileno()).st_size, map_location)


def _load(file, path, size, where):
    try:
        metadata, entries = read_header(file, size)
        arrays = read_arrays(file, entries)
        version = metadata.get("tinytorch_gpu")
        if version not in (None, FORMAT):
            raise Damaged(f"it has format {version}, this version reads {FORMAT}: update tinytorch_gpu")
        builder = _Builder(arrays, where)
        if version is None:
            for name, array in arrays.items():
                if array.dtype.kind == "u" and array.dtype.itemsize > 1:
                    raise Damaged(f"tensor {name!r} is {array.dtype}, which tensors do not support: convert it")
            return {name: make(builder.place(name, "cpu", a.dtype.name)) for name, a in arrays.items()}
        try:
            return builder.build(json.loads(metadata["structure"]))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as e:
            raise Damaged(f"its structure is damaged ({type(e).__name__}: {e})") from None
    except Damaged as e:
        raise RuntimeError(f"[load] {path}: {e}; put a copy in its place") from None
