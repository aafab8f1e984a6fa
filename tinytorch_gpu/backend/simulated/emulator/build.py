"""g++ for the emulator: finding it and NVIDIA's headers, compiling the runtime and modules, the cache of the results.

The cache is a folder of the user (`TINYTORCH_CACHE`, else the system's); an entry's name is the hash of everything that
went into it. Entries are made in a folder of their own and moved in place, so two processes may build the same one.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ...cache import cache_folder as _folder

HERE = Path(__file__).resolve().parent
LANGUAGE = "cuda_emulator.hpp"
COMMON = (
    "-std=c++17", "-fPIC", "-fno-extern-tls-init", "-fno-gnu-unique", "-fvisibility=hidden", "-fno-strict-aliasing",
    "-fwrapv", "-fno-math-errno", "-ffp-contract=off", "-fno-exceptions", "-fno-rtti", "-gdwarf-4",
    "-Wno-unknown-pragmas", "-Wno-attributes", "-Werror=return-type",
)
FAST = ("-O2", "-g1")
# -fno-tree-sra, -fno-ipa-sra: GCC would split a float4 load into four before the hooks are put in
CHECK = (
    "-O1", "-g", "-DTT_CHECK", "-fsanitize=thread,bounds,alignment", "-fno-tree-sra", "-fno-ipa-sra",
    "-fno-optimize-sibling-calls", "-finline-functions", "-finline-small-functions", "-ftrivial-auto-var-init=pattern",
)
HEADERS = "pip install 'cuda-toolkit[cudart,crt,cccl]==13.0.*', or set CUDA_PATH to a CUDA toolkit"


class EmulatorUnavailable(RuntimeError):
    """The emulator cannot work here; the message says what is missing."""


class CompileError(RuntimeError):
    """g++ refuses a kernel's source; the message has its lines, with the source's file and line numbers."""


def run(command: list[str], **options) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, errors="replace", **options)


@functools.cache
def compiler() -> tuple[str, str]:
    """(path, version text) of g++; `TINYTORCH_CXX` names another one. Raises EmulatorUnavailable."""
    if sys.platform != "linux":
        raise EmulatorUnavailable(f"[emulator] kernels are executed on Linux only, this is {sys.platform}")
    name = os.environ.get("TINYTORCH_CXX") or "g++"
    path = shutil.which(name)
    if path is None:
        raise EmulatorUnavailable(f"[emulator] {name} was not found: install g++ 10 or newer (apt install g++), or set "
                                  "TINYTORCH_CXX to its path")
    version = run([path, "--version"]).stdout.splitlines()
    macros = run([path, "-dM", "-E", "-x", "c++", "-"], stdin=subprocess.DEVNULL).stdout
    if "__clang__" in macros or "__GNUC__" not in macros:
        raise EmulatorUnavailable(f"[emulator] {path} is not GNU's g++ ({version[0] if version else 'no version'}): "
                                  "set TINYTORCH_CXX to g++ 10 or newer")
    return path, version[0]


@functools.cache
def cuda_headers() -> tuple[Path, ...]:
    """Folders with cuda_fp16.h and nv/target: NVIDIA's wheels, or a toolkit. Raises EmulatorUnavailable."""
    roots = []
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        roots += [Path(folder, "cu13", "include"), Path(folder, "cuda_runtime", "include")]
    toolkits = [os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    roots += [Path(t, "include") for t in toolkits if t]
    for root in roots:
        if (root / "cuda_fp16.h").is_file() and (root / "crt" / "host_defines.h").is_file():
            for cccl in (root / "cccl", root, root.parents[1] / "cuda_cccl" / "include"):
                if (cccl / "nv" / "target").is_file():
                    return (root,) if cccl == root else (root, cccl)
    raise EmulatorUnavailable(f"[emulator] NVIDIA's headers (cuda_fp16.h, nv/target) were not found: {HEADERS}")


@functools.cache
def unavailable() -> str | None:
    """Why the emulator cannot work here, None when it can."""
    try:
        compiler()
        cuda_headers()
        for tool in ("readelf", "addr2line"):
            if shutil.which(tool) is None:
                return f"[emulator] {tool} was not found: install binutils"
    except EmulatorUnavailable as error:
        return str(error)
    return None


def cache_folder() -> Path:
    """Where built modules are kept."""
    return _folder("emulator")


@functools.cache
def _own_sources() -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in HERE.rglob("*") if p.suffix in (".hpp", ".cpp", ".h", "")):
        if path.is_file():
            digest.update(path.relative_to(HERE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _key(*parts: str) -> str:
    text = "\0".join((*compiler(), *map(str, cuda_headers()), _own_sources(), platform.machine(), *parts))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _includes() -> list[str]:
    return [f"-I{HERE / 'include'}", f"-I{HERE / 'runtime'}", *(f"-isystem{p}" for p in cuda_headers())]


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _entry(key: str, make) -> tuple[Path, dict]:
    """(library, facts) of a cache entry; `make(folder)` compiles library.so there and returns the facts as a dict."""
    folder = cache_folder()
    library, facts = folder / f"{key}.so", folder / f"{key}.json"
    try:
        known = json.loads(facts.read_text(encoding="utf-8"))
        if known["sum"] == _sum(library):
            return library, known
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or damaged: made (again)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as made:
        made = Path(made)
        known = make(made)
        known["sum"] = _sum(made / "library.so")
        (made / "facts.json").write_text(json.dumps(known), encoding="utf-8")
        os.replace(made / "library.so", library)
        os.replace(made / "facts.json", facts)
    return library, known


@functools.cache
def runtime() -> Path:
    """The runtime's shared library, compiled on first use (some seconds)."""

    def make(folder):
        command = [compiler()[0], "-std=c++17", "-O2", "-fPIC", "-shared", "-fno-extern-tls-init", "-U_FORTIFY_SOURCE",
                   "-g1", *_includes(), str(HERE / "runtime" / "runtime.cpp"), "-o", str(folder / "library.so"),
                   "-pthread"]
        done = run(command)
        if done.returncode:
            raise EmulatorUnavailable(f"[emulator] g++ cannot compile the emulator's runtime:\n{done.stderr}")
        return {}

    reason = unavailable()
    if reason:
        raise EmulatorUnavailable(reason)
    return _entry(_key("runtime"), make)[0]


def _flags(check: bool) -> list[str]:
    return [*COMMON, *(CHECK if check else FAST), *_includes()]


@functools.cache
def _precompiled(check: bool) -> Path | None:
    """A folder with the language header precompiled (it saves 0.3 s a module), None if g++ cannot."""
    folder = cache_folder() / ("header-" + _key("header", str(check), *_flags(check)))
    if not (folder / f"{LANGUAGE}.gch").is_file():
        with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".making-") as made:
            made = Path(made)
            command = [compiler()[0], *_flags(check), "-x", "c++-header", str(HERE / "include" / LANGUAGE),
                       "-o", str(made / f"{LANGUAGE}.gch")]
            if run(command).returncode:
                return None
            folder.mkdir(exist_ok=True)
            os.replace(made / f"{LANGUAGE}.gch", folder / f"{LANGUAGE}.gch")
    return folder


def _symbols(library: Path) -> list[dict]:
    """Name, kind, offset and size of the data and functions in a library."""
    found = []
    for line in run(["readelf", "-sWC", str(library)]).stdout.splitlines():
        match = re.match(r"\s*\d+: ([0-9a-f]+)\s+(\w+) (TLS|OBJECT|FUNC)\s+\w+\s+\w+(?:\s+\[.*?\])?\s+\d+ (.+)$", line)
        if match:
            value, size, kind, name = match.groups()
            row = {"name": name.strip(), "kind": kind, "offset": int(value, 16), "size": int(size, 0)}
            if row not in found:
                found.append(row)
    return found


def build(unit: str, options: tuple[str, ...], check: bool) -> tuple[Path, dict]:
    """(library, facts) of a translation unit. Raises CompileError with g++'s messages, EmulatorUnavailable."""
    linked = runtime()
    flags = [*_flags(check), *options]

    def make(folder):
        source, made, library = folder / "module.cu", folder / "module.o", folder / "library.so"
        source.write_text(unit, encoding="utf-8")
        ready = _precompiled(check)
        first = [f"-I{ready}"] if ready else []  # g++ leaves it alone where an option does not fit
        command = [compiler()[0], *first, *flags, f"-fdebug-prefix-map={folder}=.", "-include", LANGUAGE, "-x", "c++",
                   "-c", str(source), "-o", str(made)]
        done = run(command, cwd=folder)
        if not done.returncode:
            done = run([compiler()[0], "-shared", "-Wl,-z,defs", str(made), str(linked), "-lm", "-o", str(library)])
        if done.returncode:
            raise CompileError(done.stderr.strip() or done.stdout.strip())
        return {"symbols": _symbols(library), "warnings": done.stderr}

    return _entry(_key("module", unit, *flags, str(linked)), make)


def preprocessed(unit: str, options: tuple[str, ...]) -> str:
    """The translation unit after g++'s preprocessor, with its line markers."""
    command = [compiler()[0], *_flags(False), *options, "-include", LANGUAGE, "-x", "c++", "-E", "-"]
    done = run(command, input=unit)
    if done.returncode:
        raise CompileError(done.stderr.strip())
    return done.stdout
