"""Kernel: a `__global__` function of a CUDA source, compiled on first use and checked at every launch.

    scale = Kernel("template <typename T> __global__ void scale(const T* x, T* y, float by, long long n) {...}")
    scale((blocks,), (256,), x, y, 2.0, x.size)          # T from the dtype of x

On a GPU it is compiled by NVRTC through CuPy, on the simulated device by a C++ compiler, from the same source. CUDA
itself checks nothing: a wrong dtype gives zeros, a wrong count crashes, strides are ignored. So a launch is checked in
full once for each (grid, block, dtypes, contiguity, alignment), and what passed is remembered.

`TINYTORCH_FUSED=0` or `with use_kernels(False)` keeps operators to their formulas.
"""
from __future__ import annotations

import contextlib
import logging
import os
import threading

import numpy as np

from . import architecture
from .device import CPU, backend_of, device, is_array, probe
from .kernel_source import C_NAMES, C_TYPES, Signature, is_library, read

__all__ = ["Kernel", "LIBRARY", "fits", "ready", "reason", "use_kernels", "kernels_enabled", "checking"]

log = logging.getLogger("tinytorch_gpu")
OPTIONS = ("-std=c++17",)
LIBRARY: list[Kernel] = []  # the library's own kernels, for the compile matrix and the tests
# Without a GPU, the limits that every supported architecture has (shared memory: sm_86, 89 and 120 have the least
# after sm_75, which has 64 KiB)
LIMITS = {
    "MaxThreadsPerBlock": 1024, "MaxBlockDimX": 1024, "MaxBlockDimY": 1024, "MaxBlockDimZ": 64,
    "MaxGridDimX": 2**31 - 1, "MaxGridDimY": 65535, "MaxGridDimZ": 65535, "MaxSharedMemoryPerBlockOptin": 99 << 10,
}
STATIC_SHARED = 48 << 10  # above this a function must ask for dynamic shared memory
REMEMBERED = 4096  # checked launches kept for each kernel; a program with more shapes starts over

_local = threading.local()


def kernels_enabled() -> bool:
    """Whether operators may choose kernels here: `use_kernels`, else TINYTORCH_FUSED (1 unless set)."""
    chosen = getattr(_local, "enabled", None)
    if chosen is None:
        wish = os.environ.get("TINYTORCH_FUSED", "1").strip() or "1"
        if wish not in ("0", "1"):
            raise ValueError(f"[kernel] TINYTORCH_FUSED must be 0 (formulas only) or 1, got {wish!r}")
        chosen = _local.enabled = wish == "1"
    return chosen


@contextlib.contextmanager
def use_kernels(enabled=True):
    """Operators inside the block use kernels where they fit (True), or only their formulas (False). Per thread."""
    outer = getattr(_local, "enabled", None)
    _local.enabled = bool(enabled)
    try:
        yield
    finally:
        _local.enabled = outer


@contextlib.contextmanager
def checking(orders=False):
    """Launches on the simulated device inside the block run in its check build (memory, races, initialisation).

    `orders`: each launch runs in several orders of its threads, with several contents of unwritten memory, and must
    give the same bits; for kernels that only write what they get by non-constant pointers.
    """
    outer = getattr(_local, "check", "")
    _local.check = "orders" if orders else "once"
    try:
        yield
    finally:
        _local.check = outer


_reasons: dict[str, str] = {}


def ready(backend) -> bool:
    """Whether kernels can be compiled for a backend; the reason why not is logged once."""
    kind = backend.type
    if kind not in _reasons:
        reason = ""
        if kind == "cpu":
            reason = "kernels run on a GPU or on the simulated device"
        elif kind == "sim":
            from .simulated import emulator

            reason = emulator.unavailable() or ""
            if reason:
                log.warning("operators use their formulas: %s", reason)
        _reasons[kind] = reason
    return not _reasons[kind]


def reason(backend) -> str:
    """Why kernels cannot be used with a backend; empty where they can."""
    ready(backend)
    return _reasons[backend.type]


FLOATS = frozenset(C_TYPES[name] for name in ("float", "__half", "__nv_bfloat16"))


def fits(*arrays, kernel=None) -> bool:
    """Whether kernels may run on these operands: enabled, one device that has them, one dtype of float32, float16 and
    bfloat16, contiguous, not empty. None stands for an operand that is left out. `kernel`: one with `needs`, which an
    older GPU may lack."""
    first = arrays[0]
    kind, dtype = first.__class__, first.dtype
    if dtype not in FLOATS or not kernels_enabled():
        return False
    for a in arrays:
        if a is not None and (a.__class__ is not kind or a.dtype != dtype or not a.size or not a.flags.c_contiguous):
            return False
    backend = backend_of(first)
    return ready(backend) and (kernel is None or not kernel.needs or not architecture.lacking(
        kernel.needs, (dtype,), architecture.capability_of(backend)))


class _Launches(dict):
    """Checked launches of a kernel on one kind of device: key -> (function, converters of numbers of its types)."""

    __slots__ = ("key", "prepare")


class Kernel:
    """A `__global__` function; calling it launches it on the current stream.

    `source`: a library file's name, a path, or CUDA text; `name` may be left out where the source has one kernel.
    `constants` are the template's values (integers, booleans); its types come from the arrays' dtypes, and `types`
    lists the combinations that are allowed, in the template's order. `optional` names pointers that may be None.
    `needs`: features that not every GPU has (`backend/architecture.py`).
    Raises (at a launch): TypeError for count, order and dtypes, ValueError for layout, alignment and sizes,
    RuntimeError for devices and sources that do not compile. All begin with `[kernel]`.
    """

    def __init__(self, source, name=None, *, optional=(), types=None, options=(), needs=(), **constants):
        self.source, self._name, self.optional = source, name, frozenset(optional)
        self.types = None if types is None else tuple(t if isinstance(t, tuple) else (t,) for t in types)
        self.options, self.constants, self.needs = (*OPTIONS, *options), constants, tuple(needs)
        self._signature = None
        self._launches: dict[type, _Launches] = {}
        self._functions: dict[tuple, object] = {}
        self._of: dict[tuple, Kernel] = {}
        self._lead = 0
        if is_library(source):
            LIBRARY.append(self)

    def __repr__(self):
        constants = "".join(f", {k}={v}" for k, v in self.constants.items())
        return f"Kernel({self._name or 'unread'}{constants})"

    @property
    def signature(self) -> Signature:
        """What the source declares, read on first use."""
        if self._signature is None:
            source = read(self.source)
            if self._name is None and len(source.signatures) == 1:
                (self._name,) = source.signatures
            if self._name not in source.signatures:
                known = ", ".join(source.signatures) or "no __global__ function"
                raise ValueError(f"[kernel] {source.label} has {known}, got {self._name!r}: name one of them")
            found = source.signatures[self._name]
            if missing := set(found.constants) - set(self.constants):
                raise ValueError(f"[kernel] {found.name} has template constants without a value: give "
                                 f"{', '.join(sorted(missing))} to Kernel(...)")
            for what, given, known in (("template constants", self.constants, found.template),
                                       ("pointers", self.optional, [p.name for p in found.parameters if p.pointer])):
                if unknown := set(given) - set(known):
                    raise ValueError(f"[kernel] {found.name} has no {what} {', '.join(sorted(unknown))}: it has "
                                     f"{', '.join(known) or 'none'}")
            pointers = [i for i, p in enumerate(found.parameters) if p.pointer and p.name not in self.optional]
            if not pointers:
                raise ValueError(f"[kernel] {found} takes no array: the device of a launch is that of its arrays")
            self._lead = pointers[0]
            self._signature = found
        return self._signature

    def of(self, *dtypes) -> Kernel:
        """The kernel for given dtypes of its template's types: for kernels whose arrays do not tell them."""
        made = self._of.get(dtypes)
        if made is None:
            types = {name: C_NAMES[d] for name, d in zip(self.signature.types, dtypes, strict=True)}
            made = self._of[dtypes] = Kernel(self.source, self._name, optional=self.optional, types=self.types,
                                             options=self.options[len(OPTIONS):], needs=self.needs,
                                             **self.constants, **types)
            if made in LIBRARY:
                LIBRARY.remove(made)
        return made

    def __call__(self, grid, block, *args, shared=0):
        """Launch. `grid`, `block`: tuples of 1 to 3; arguments in the source's order; `shared` dynamic bytes."""
        try:
            function, args = self._launches[args[self._lead].__class__].prepare(grid, block, shared, *args)
        except (KeyError, IndexError, TypeError, AttributeError, OverflowError):
            function, converters = self._check(grid, block, shared, args)
            args = list(args)
            for i, convert in converters:
                args[i] = convert(args[i])
        function(grid, block, args, shared_mem=shared)

    # checks

    def _refuse(self, kind, what):
        raise kind(f"[kernel] {self.signature.name}: {what}; it takes {self.signature}")

    def _check(self, grid, block, shared, args):
        """Everything that can be wrong with a launch; remembers what passed."""
        signature = self.signature
        parameters = signature.parameters
        if len(args) != len(parameters):
            self._refuse(TypeError, f"expected {len(parameters)} arguments, got {len(args)}")
        lead = args[self._lead]
        if not is_array(lead):
            self._refuse(TypeError, f"expected an array for {parameters[self._lead].name}, got {type(lead).__name__}")
        backend = backend_of(lead)
        if backend is CPU:
            self._refuse(RuntimeError, f"{parameters[self._lead].name} is on the CPU, and kernels run on a GPU or on "
                                       "the simulated device: move it there, or use the formula")
        bound = dict(self._given_types())
        converters = [(i, c) for i, (p, a) in enumerate(zip(parameters, args))
                      if (c := self._argument(p, a, backend, bound)) is not None]
        self._resolve(bound)
        self._sizes(grid, block, shared, backend)
        if self.needs and (lacks := architecture.lacking(self.needs, bound.values(),
                                                         architecture.capability_of(backend))):
            self._refuse(RuntimeError, f"this device lacks {', '.join(lacks)}: use the formula")
        function = self._function(backend, self.expression(bound), shared)
        launches = self._launches.get(lead.__class__)
        if launches is None:
            launches = self._launches[lead.__class__] = _Launches()
            launches.key, launches.prepare = self._written_out(backend, launches)
        if len(launches) >= REMEMBERED:
            launches.clear()
        of_types = [c for i, c in converters if isinstance(parameters[i].kind, str)]
        launches[launches.key(grid, block, shared, *args)] = function, *of_types
        return function, converters

    def _written_out(self, backend, launches):
        """(key, prepare), written out for the signature: a loop over the arguments would take three times as long.

        `key` tells launches apart whose checks could differ; `prepare` gives (function, arguments) of a checked one.
        """
        # a dtype's number stands for it: hashing and comparing dtypes takes 0.1 us each
        contiguous = "_c_contiguous" if backend.type == "cuda" else "flags.c_contiguous"
        known = {"table": launches, "check": _checked}
        seen, passed, of_types = [], [], 0
        for i, p in enumerate(self.signature.parameters):
            array = f"a{i}.__class__, a{i}.dtype.num, a{i}.{contiguous}, a{i}.data.ptr & 7"
            if not p.pointer:
                seen.append(f"a{i}.__class__")
            elif p.name in self.optional:
                seen.append(f"*((None,) if a{i} is None else ({array}))")
            else:
                seen.append(array)
            if p.pointer or (backend.type == "cuda" and p.kind in (np.int64, np.float64)):
                passed.append(f"a{i}")
            elif isinstance(p.kind, str):
                of_types += 1
                passed.append(f"found[{of_types}](a{i})")
            else:
                known[f"n{i}"] = p.kind.type
                passed.append(f"a{i} if a{i}.__class__ is n{i} else n{i}(a{i})")
        if backend.type == "sim":
            seen.append("check()")
        elif probe().count > 1:
            known["device"] = backend.xp.cuda.runtime.getDevice
            seen.append("device()")
        names = "grid, block, shared" + "".join(f", a{i}" for i in range(len(passed)))
        key = f"(grid, block, shared, {', '.join(seen)})"
        exec(f"def key({names}): return {key}\n"
             f"def prepare({names}):\n    found = table[{key}]\n    return found[0], ({', '.join(passed)},)\n", known)
        return known["key"], known["prepare"]

    def _given_types(self):
        for name in self.signature.types:
            if name in self.constants:
                yield name, C_TYPES[self.constants[name]]

    def _argument(self, p, value, backend, bound):
        """Check one argument, bind the template's type to its dtype; the converter that a number needs, or None."""
        if not p.pointer:
            return self._number(p, value, backend, bound)
        if value is None and p.name in self.optional:
            return None
        if not is_array(value):
            self._refuse(TypeError, f"expected an array for {p.name}, got {type(value).__name__}")
        other = backend_of(value)
        where, here = other.device_of(value), _current(backend)
        if other is not backend or where != here:
            self._refuse(RuntimeError, f"{p.name} is on {where}, the launch is on {here}: move it with .to(device)")
        wanted = bound.setdefault(p.kind, value.dtype) if isinstance(p.kind, str) else p.kind
        if value.dtype != wanted or value.dtype not in C_NAMES:
            self._refuse(TypeError, f"expected {p.name} of dtype {wanted}, got {value.dtype}: convert it")
        if not value.flags.c_contiguous:
            self._refuse(ValueError, f"{p.name} {value.shape} is not contiguous (strides {value.strides}), and a "
                                     "kernel sees no strides: pass .contiguous()")
        if value.size and value.data.ptr % value.dtype.itemsize:
            self._refuse(ValueError, f"{p.name} starts at an address that is no multiple of its "
                                     f"{value.dtype.itemsize}-byte elements: pass a copy")
        return None

    def _number(self, p, value, backend, bound):
        if isinstance(p.kind, str):
            if p.kind not in bound:
                self._refuse(TypeError, f"the type {p.kind} of {p.name} is not known: give Kernel({p.kind}='float')")
            wanted = bound[p.kind]
        else:
            wanted = p.kind
        if isinstance(value, np.generic):
            if value.dtype != wanted:
                self._refuse(TypeError, f"expected {p.name} as {wanted} or a Python number, got numpy {value.dtype}")
            return wanted.type if isinstance(p.kind, str) else None
        kinds = {"b": (bool,), "i": (int,), "u": (int,)}.get(wanted.kind, (int, float))
        if type(value) not in kinds:
            self._refuse(TypeError, f"expected {p.name} as {wanted}, got {type(value).__name__} {value!r:.40}")
        if backend.type == "cuda" and p.kind in (np.int64, np.float64):
            return None  # CuPy passes a Python int as 8 bytes, a float as a double
        return self._converter(p, wanted.type, wanted.kind in "iu")

    def _converter(self, p, kind, whole):
        if not whole:
            return kind

        def convert(value):
            try:
                return kind(value)
            except OverflowError:
                self._refuse(TypeError, f"{p.name}={value} does not fit {np.dtype(kind)}")

        return convert

    def _resolve(self, bound):
        """Types that only left-out pointers have are the first type's; the combination must be an allowed one."""
        names = self.signature.types
        for name in names:
            bound.setdefault(name, bound[names[0]] if names[0] in bound else np.dtype(np.float32))
        combination = tuple(C_NAMES[bound[name]] for name in names)
        if self.types is not None and combination not in self.types:
            allowed = "; ".join(", ".join(t) for t in self.types)
            self._refuse(TypeError, f"expected {', '.join(names)} to be one of [{allowed}], got "
                                    f"{', '.join(combination)}")

    def _sizes(self, grid, block, shared, backend):
        limits = LIMITS if backend.type == "sim" else backend.xp.cuda.Device().attributes
        for what, sizes in (("grid", grid), ("block", block)):
            if not (isinstance(sizes, tuple) and 1 <= len(sizes) <= 3 and all(isinstance(n, int) for n in sizes)):
                self._refuse(TypeError, f"expected {what} as a tuple of 1 to 3 integers, got {sizes!r}")
            for n, axis in zip(sizes, "XYZ"):
                limit = limits[f"Max{what.capitalize()}Dim{axis}"]
                if not 1 <= n <= limit:
                    hint = "leave out the launch for empty arrays" if n < 1 else "loop over the rest in the kernel"
                    self._refuse(ValueError, f"{what} {axis.lower()} is {n}, outside of 1 to {limit}: {hint}")
        threads = int(np.prod(block))
        most = min(limits["MaxThreadsPerBlock"], self.signature.max_threads or 1024)
        if threads > most:
            self._refuse(ValueError, f"block {block} has {threads} threads, at most {most} are allowed")
        room = limits["MaxSharedMemoryPerBlockOptin"]
        if not 0 <= shared <= room:
            self._refuse(ValueError, f"{shared} bytes of dynamic shared memory, the device has {room} for a block")

    # compiling

    def expression(self, bound):
        """The instantiation's name in C++, from {type name: dtype}."""
        values = []
        for name in self.signature.template:
            value = C_NAMES[bound[name]] if name in bound else self.constants[name]
            values.append(str(value).lower() if isinstance(value, bool) else str(value))
        return f"{self.signature.name}<{', '.join(values)}>" if values else self.signature.name

    def expressions(self):
        """The names of all allowed instantiations."""
        names = self.signature.types
        for combination in self.types or [()]:
            yield self.expression({n: C_TYPES[t] for n, t in zip(names, combination)})

    def _function(self, backend, expression, shared):
        place = (backend.type, _checked() if backend.type == "sim" else _current(backend).index, expression)
        function = self._functions.get(place)
        if function is None:
            function = self._functions[place] = _compile(
                backend, read(self.source), expression, self.options, self.signature.parameters)
        if backend.type == "cuda" and shared > STATIC_SHARED and function.max_dynamic_shared_size_bytes < shared:
            function.max_dynamic_shared_size_bytes = shared
        return function


def _checked() -> str:
    return getattr(_local, "check", "")


def _current(backend):
    return device("cuda", backend.xp.cuda.runtime.getDevice()) if backend.type == "cuda" else backend._device




def _compile(backend, source, expression, options, parameters):
    """The compiled function. CuPy and the emulator each keep binaries on the disk, by the source with its headers."""
    if backend.type == "sim":
        from .simulated.emulator import Module, verify

        check = _checked()
        module = Module(source.text_for(expression), options, (expression,), bool(check), source.label)
        function = module.get_function(expression)
        if check != "orders":
            return function

        def in_orders(grid, block, args, shared_mem):
            written = [i for i, (p, a) in enumerate(zip(parameters, args))
                       if p.pointer and not p.constant and a is not None]
            verify(function, grid, block, args, shared_mem, written)

        return in_orders
    cupy = backend.xp
    module = cupy.RawModule(code=source.text_for(expression), options=options, name_expressions=(expression,))
    try:
        return module.get_function(expression)
    except cupy.cuda.compiler.CompileException as e:
        raise RuntimeError(f"[kernel] {expression} does not compile:\n{e}") from e
