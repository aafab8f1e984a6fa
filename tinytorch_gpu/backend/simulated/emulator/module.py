"""`Module`: a .cu source compiled for the emulator, whose functions are called like a `cupy.RawKernel`."""

from __future__ import annotations

import ctypes
import math
import os
import re
import sys
import threading

import numpy as np

from . import arguments
from .build import HERE, CompileError, build, cuda_headers, preprocessed, runtime
from .faults import RawFault, RawLaunch, RawParameter, RawRegion, explain
from .vocabulary import OutsideVocabulary, first_outside, own_lines, without_comments

ABI = 5  # TT_ABI of runtime/abi.hpp
SHARED = 48 << 10  # bytes a block may have without asking for more
SHARED_MOST = 227 << 10
MANY_THREADS = 32768  # of a launch: below it one host thread is quicker
OUTPUT = 1 << 20
# NVRTC's options that change nothing here: architecture, optimisation, debug information
_IGNORED = re.compile(
    r"--?(use_fast_math|ftz|prec-div|prec-sqrt|fmad|lineinfo|generate-line-info|device-debug|G|dopt|"
    r"extra-device-vectorization|default-device|maxrregcount|ptxas-options|Xptxas|restrict|gpu-architecture|arch|"
    r"device-as-default-execution-space|split-compile|w|disable-warnings|modify-stack-limit|relocatable-device-code|"
    r"rdc|builtin-move-forward|dlink-time-opt|dlto|diag-suppress|diag_suppress|std=c\+\+(03|11|14))([=:].*)?$")
_TAKEN = re.compile(r"-(D|U|I)|--(define-macro|undefine-macro|include-path|pre-include)=|--?std=c\+\+(17|20)$")


def _options(name: str, options) -> tuple[str, ...]:
    taken = []
    for option in options:
        if _TAKEN.match(option):
            for long, short in (("--define-macro=", "-D"), ("--undefine-macro=", "-U"), ("--include-path=", "-I"),
                                ("--pre-include=", "-include"), ("--std", "-std")):
                if option.startswith(long):
                    option = short + option.removeprefix(long)
            taken.append(option)
        elif not _IGNORED.match(option):
            raise ValueError(f"[{name}] option {option!r} is not one the emulator knows: -D, -U, -I and -std reach the "
                             "compiler, NVRTC's others change nothing here")
    return tuple(taken)


def kernels_in(source: str) -> list[str]:
    """Names of the plain kernels of a source: `__global__` functions at file scope that are no templates."""
    code = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda m: re.sub(r"[^\n]", " ", m[0]), without_comments(source),
                  flags=re.MULTILINE)
    names = []
    for match in re.finditer(r"\b__global__\b", code):
        before = code[: match.start()]
        opened = re.sub(r"\bextern\s*\{", " ", before)
        closed_extern = len(re.findall(r"\bextern\s*\{", before))
        depth = opened.count("{") - opened.count("}")
        statement = re.split(r"[;{}]", before)[-1]
        if depth > 0 or depth < -closed_extern or re.search(r"\btemplate\b", statement):
            continue
        rest = code[match.end():]
        while True:
            token = re.match(r"\s*(\w+|\[\[.*?\]\])\s*(\(?)", rest)
            if token is None:
                break
            if token[2] and token[1] not in ("__launch_bounds__", "__attribute__", "__maxnreg__", "__align__"):
                if token[1] not in names:
                    names.append(token[1])
                break
            rest = rest[token.end():]
            if token[2]:
                rest = rest[_closing(rest):]
    return names


def _closing(text: str) -> int:
    """The place after the bracket that closes one opened before the text."""
    depth = 1
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if not depth:
            return i + 1
    return len(text)


def _dynamic(source: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r"\bextern\s+__shared__\s[^;]*?(\w+)\s*\[\s*\]", without_comments(source))))


class Module:
    """A CUDA source for the CPU. `check=True`: every memory access is checked, which takes longer.

    `name_expressions` as NVRTC's, `"kernel<float, 4>"`; plain kernels need none. `file` stands in messages. Compiled
    on the first `get_function`. Raises: OutsideVocabulary, CompileError, EmulatorUnavailable, ValueError (an option).
    """

    def __init__(self, source: str, options=(), name_expressions=(), check: bool = False, file: str = "kernel.cu"):
        self.source = source
        self.file = file
        self.check = check
        self.options = _options(file, options)
        plain = [name for name in kernels_in(source) if name not in name_expressions]
        self.names = (*name_expressions, *plain)
        self._lock = threading.Lock()
        self._library = None

    def unit(self) -> str:
        """The translation unit: the source, its dynamic shared arrays, and an entry for each kernel."""
        escaped = self.file.replace("\\", "\\\\").replace('"', '\\"')
        tail = [f'#line 1 "{HERE / "entries"}"']
        dynamic = _dynamic(self.source)
        if dynamic:  # all names are the same memory, as on a GPU
            section = '.pushsection .tbss,\\"awT\\",@nobits\\n.p2align 8\\n'
            spaces = re.findall(r"\bnamespace\s+(\w+)\s*\{", without_comments(self.source))
            inside = [f"_ZN{len(s)}{s}{len(n)}{n}E" for s in dict.fromkeys(spaces) for n in dynamic]
            labels = "".join(f".hidden {n}\\n.globl {n}\\n.type {n},@object\\n.size {n}, {SHARED_MOST}\\n{n}:\\n"
                             for n in [*dynamic, *inside])
            tail += [
                f'asm("{section}{labels}.zero {SHARED_MOST}\\n.popsection");',
                f'extern __attribute__((visibility("hidden"))) thread_local char tt_dynamic[] __asm__("{dynamic[0]}");',
                'extern "C" __attribute__((visibility("default"))) char* tt_dynamic_base() { return tt_dynamic; }',
            ]
        tail += [f"TT_KERNEL({i}, {name})" for i, name in enumerate(self.names)]
        return f'#line 1 "{escaped}"\n{self.source}\n' + "\n".join(tail) + "\n"

    def _refuse_outside(self) -> None:
        if first_outside(self.source) is None:
            return
        # it may stand where the preprocessor leaves it out
        system = (str(HERE), "/usr/", *map(str, cuda_headers()))
        text = f'#line 1 "{self.file}"\n{self.source}\n'
        what, line = first_outside(self.source)
        try:
            rows = list(own_lines(preprocessed(text, self.options), system))
        except CompileError:  # a header that is not there
            raise OutsideVocabulary(self.file, what, self.file, line) from None
        hit = first_outside("\n".join(row for _, _, row in rows))
        if hit is not None:
            file, line, _ = rows[hit[1] - 1]
            raise OutsideVocabulary(self.file, hit[0], file, line)
        if "include" in self.source.splitlines()[line - 1]:
            raise OutsideVocabulary(self.file, what, self.file, line)

    def compile(self) -> Module:
        """Compiles now (or finds the result in the cache)."""
        with self._lock:
            if self._library is None:
                runtime()  # says what is missing
                self._refuse_outside()
                try:
                    path, facts = build(self.unit(), self.options, self.check)
                except CompileError as error:
                    raise CompileError(f"[{self.file}] g++ refuses the source:\n{error}") from None
                self._load(path, facts)
        return self

    def _load(self, path, facts) -> None:
        launcher = ctypes.CDLL(str(runtime()))
        if launcher.tt_abi() != ABI:
            raise RuntimeError(f"[emulator] {runtime()} has ABI {launcher.tt_abi()}, not {ABI}: delete it")
        library = ctypes.CDLL(str(path))
        self.launcher, self.path = launcher.tt_launch, path
        self.warnings = facts["warnings"]
        symbols = facts["symbols"]
        offsets = {s["name"]: s["offset"] for s in symbols}
        self.base = _pointer(library.tt_shared_base) - next(
            s["offset"] for s in symbols if s["name"] == "tt_shared_base" and s["kind"] == "FUNC")
        self.shared_base = _pointer(library.tt_shared_base)
        self.shared_shift = -offsets["tt_anchor"]
        dynamic = _dynamic(self.source)
        self.dynamic_base = _pointer(library.tt_dynamic_base) if dynamic else 0
        self.code = max(s["offset"] + s["size"] for s in symbols if s["kind"] == "FUNC")
        self.data = [s for s in symbols if s["kind"] == "OBJECT" and s["size"]]
        self.shared = [s for s in symbols if s["kind"] == "TLS" and s["size"] and s["name"] != "tt_anchor"
                       and s["name"].rpartition("::")[2] not in dynamic]
        self._library = library

    def get_function(self, name: str) -> Function:
        """The kernel of that name or name expression. Raises: LookupError when the module has none."""
        if name not in self.names:
            have = ", ".join(self.names) or "none"
            raise LookupError(f"[{name}] {self.file} has no such kernel (it has {have}): an instance of a template is "
                              "named in name_expressions")
        self.compile()
        return Function(self, name, self.names.index(name))


def _plain(name: str) -> str:
    """The bare name of a function, without result, template arguments and parameters."""
    return re.split(r"[<(]", name)[0].split(" ")[-1].strip()


def _pointer(function) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value


def _three(name: str, what: str, value) -> tuple[int, int, int]:
    value = (value,) if isinstance(value, int | np.integer) else tuple(value)
    if not 1 <= len(value) <= 3 or not all(isinstance(n, int | np.integer) for n in value):
        raise ValueError(f"[{name}] {what} {value}: give one to three whole numbers")
    value = tuple(int(n) for n in value) + (1,) * (3 - len(value))
    most = (2**31 - 1, 65535, 65535) if what == "grid" else (1024, 1024, 64)
    if any(n < 1 or n > m for n, m in zip(value, most)):
        raise ValueError(f"[{name}] {what} {value}: each of the three is at least 1 and at most {most}")
    if what == "block" and math.prod(value) > 1024:
        raise ValueError(f"[{name}] block {value} has {math.prod(value)} threads, at most 1024 fit")
    return value


def host_threads() -> int:
    """Host threads for the blocks of a large launch: `TINYTORCH_EMULATOR_THREADS`, else the cores, at most 8."""
    given = os.environ.get("TINYTORCH_EMULATOR_THREADS", "")
    if given:
        if not given.isdecimal() or not 1 <= int(given) <= 8:
            raise ValueError(f"TINYTORCH_EMULATOR_THREADS must be 1 to 8, got {given!r}")
        return int(given)
    return min(len(os.sched_getaffinity(0)), 8)


def _seconds() -> float:
    given = os.environ.get("TINYTORCH_EMULATOR_SECONDS", "60")
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"TINYTORCH_EMULATOR_SECONDS must be a number above 0, got {given!r}")
    return seconds


class Function:
    """A kernel. `function(grid, block, args, shared_mem=0)` runs it and returns when it has ended.

    Raises: KernelFault for what the kernel did wrong, TypeError and ValueError for a wrong launch.
    """

    def __init__(self, module: Module, name: str, index: int):
        self.module = module
        self.name = name
        library = module._library
        self.entry = _pointer(getattr(library, f"tt_call_{index}"))
        count = getattr(library, f"tt_count_{index}")()
        parameters = getattr(library, f"tt_parameters_{index}")
        parameters.restype = ctypes.POINTER(RawParameter)
        raw = parameters()
        self.parameters = [arguments.Parameter(raw[i]) for i in range(count)]
        self.max_dynamic_shared_size_bytes = SHARED
        self.accesses = 0  # to memory in the last launch, counted by the check build

    def __call__(self, grid, block, args, shared_mem: int = 0) -> None:
        self.launch(grid, block, args, shared_mem)

    def __repr__(self):
        return f"<emulated kernel {self.name} ({', '.join(map(str, self.parameters))})>"

    def launch(self, grid, block, args, shared_mem=0, schedule=0, poison=-1, seed=0, uninitialised=frozenset(),
               seconds=None, traffic=None) -> None:
        """A launch with the emulator's own settings: `schedule` 0 ascending, 1 descending, 2 random by `seed`;
        `poison` the byte in shared memory before each block; arguments of which nothing is written; time limit;
        an array of RawTraffic to fill."""
        module = self.module
        grid, block = _three(self.name, "grid", grid), _three(self.name, "block", block)
        if not 0 <= shared_mem <= min(self.max_dynamic_shared_size_bytes, SHARED_MOST):
            raise ValueError(f"[{self.name}] {shared_mem} bytes of dynamic shared memory: at most "
                             f"{self.max_dynamic_shared_size_bytes}, up to {SHARED_MOST} by "
                             "max_dynamic_shared_size_bytes")
        values, keep = arguments.pack(self.name, self.parameters, args)
        fault = RawFault()
        launch = RawLaunch(call=self.entry, arguments=ctypes.addressof(values), shared_base=module.shared_base,
                           dynamic_base=module.dynamic_base, grid=grid, block=block, shared_bytes=shared_mem,
                           shared_shift=module.shared_shift, schedule=schedule, poison=poison, seed=seed, workers=1,
                           check=module.check, seconds=seconds or _seconds(), module_base=module.base,
                           module_bytes=module.code, fault=ctypes.addressof(fault))
        words = []
        if module.check:
            words, raws = self._areas(args, uninitialised, shared_mem, launch)
            keep.append(raws)
            if traffic is not None:
                launch.traffic, launch.traffic_capacity = ctypes.addressof(traffic), len(traffic)
        elif math.prod(grid) > 1 and math.prod(grid) * math.prod(block) >= MANY_THREADS and schedule == 0:
            launch.workers = min(host_threads(), math.prod(grid))
        output = None
        if "printf" in module.source:
            output = ctypes.create_string_buffer(OUTPUT)
            launch.output, launch.output_capacity = ctypes.addressof(output), OUTPUT
        if module.launcher(ctypes.byref(launch)):
            raise MemoryError(f"[{self.name}] the host has no address space for the stacks of a block")
        self.accesses = launch.accesses
        if output is not None and launch.output_size:
            sys.stdout.write(output.raw[: min(launch.output_size, OUTPUT)].decode(errors="replace"))
        if fault.kind:
            raise explain(fault, self.name, module.path, words)

    def _areas(self, args, uninitialised, shared_mem, launch):
        """(words for them, C array) of the launch's memory; the module's data and its shared arrays come last."""
        module = self.module
        found = arguments.areas(args, uninitialised)
        found += [arguments.Area(module.base + s["offset"], module.base + s["offset"] + s["size"],
                                 f"{s['name']} ({s['size']} bytes)") for s in module.data]
        rows = [(area.words, area.raw()) for area in found]
        kernels = {_plain(name) for name in module.names} - {_plain(self.name)}
        for s in module.shared:
            owner, _, name = s["name"].rpartition("::")
            if _plain(owner) in kernels:
                continue
            rows.append((f"shared array {name} ({s['size']} bytes)",
                         RawRegion(s["offset"], s["offset"] + s["size"], -1, 0, 1, 1)))
        if module.dynamic_base:
            rows.append((f"dynamic shared memory ({shared_mem} bytes)", RawRegion(0, shared_mem, -1, 0, 1, 2)))
        raws = (RawRegion * max(len(rows), 1))(*[raw for _, raw in rows])
        launch.regions = ctypes.addressof(raws)
        launch.region_count = len(rows)
        launch.shared_region_count = len(rows) - len(found)
        return [words for words, _ in rows], raws
