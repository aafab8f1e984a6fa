"""NVRTC without a GPU or a driver: a source becomes a CUBIN, and ptxas says registers, spills and shared memory."""
from __future__ import annotations

import ctypes
import os
import re
import sys
from importlib import metadata
from pathlib import Path

from ..backend.kernel import OPTIONS

__all__ = ["FLAGS", "CompileFailed", "Figures", "Nvrtc", "NvrtcMissing"]

FLAGS = (*OPTIONS, "-ftz=true", "--ptxas-options=-v")  # CuPy adds -ftz=true to all it compiles
INSTALL = "pip install 'cuda-toolkit[nvrtc,cudart,crt,cccl]==13.0.*', or set CUDA_PATH to a CUDA toolkit"
WHEELS = (("nvidia-cuda-nvrtc", "nvidia-cuda-runtime", "nvidia-cuda-cccl"),
          ("nvidia-cuda-nvrtc-cu12", "nvidia-cuda-runtime-cu12", "nvidia-cuda-cccl-cu12"))
LIBRARY = re.compile(r"libnvrtc\.so\.\d+(\.\d+)*|nvrtc64_\d+_0\.dll")
BUILTINS = re.compile(r"libnvrtc-builtins\.so\.[\d.]+")

Figures = tuple[int, int, int]  # registers of a thread, its spilled bytes (stores and loads), shared bytes of a block


class NvrtcMissing(OSError):
    """No NVRTC, or no CUDA headers; the message says what to install."""


class CompileFailed(RuntimeError):
    """NVRTC refuses the source; the message has its lines, with the source's file and line numbers."""


def _files(folder):
    """(files of a CUDA installation, where they were looked for)."""
    if folder is not None:
        return [f for f in Path(folder).rglob("*") if _matters(f.name)], str(folder)
    for names in WHEELS:
        found = []
        for name in names:
            try:
                found += [Path(str(f.locate())) for f in metadata.files(name) or () if _matters(f.name)]
            except metadata.PackageNotFoundError:
                break
        if any(LIBRARY.fullmatch(f.name) for f in found):
            return found, "the installed packages"
    for toolkit in filter(None, (os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda")):
        folders = [Path(toolkit, d) for d in ("lib64", "lib", "bin", "include", "include/cccl/nv", "include/nv")]
        found = [f for d in folders if d.is_dir() for f in d.iterdir() if _matters(f.name)]
        if any(LIBRARY.fullmatch(f.name) for f in found):
            return found, toolkit
    return [], "the installed packages, CUDA_PATH, CUDA_HOME and /usr/local/cuda"


def _matters(name):
    return bool(LIBRARY.fullmatch(name) or BUILTINS.fullmatch(name)) or name in ("cuda_fp16.h", "target")


class Nvrtc:
    """The few calls of libnvrtc that turn a source into a CUBIN.

    `folder`: an installation of its own, such as `pip install --target`; else what is installed here. Several may live
    in one process. Raises: NvrtcMissing.
    """

    def __init__(self, folder=None):
        files, where = _files(folder)
        libraries = sorted((f for f in files if LIBRARY.fullmatch(f.name)), key=lambda f: len(f.name))
        headers = [f.parent for f in files if f.name == "cuda_fp16.h"]
        cccl = [f.parents[1] for f in files if f.name == "target" and f.parent.name == "nv"]
        missing = [what for what, found in (("libnvrtc", libraries), ("cuda_fp16.h", headers), ("nv/target", cccl))
                   if not found]
        if missing:
            raise NvrtcMissing(f"[nvrtc] found no {', no '.join(missing)} in {where}: {INSTALL}")
        try:
            if sys.platform != "win32":
                for f in files:  # NVRTC looks for it by name, outside of its own folder
                    if BUILTINS.fullmatch(f.name):
                        ctypes.CDLL(str(f), mode=ctypes.RTLD_GLOBAL)
            self.lib = ctypes.CDLL(str(libraries[0]))
        except OSError as e:
            raise NvrtcMissing(f"[nvrtc] {libraries[0]} cannot be loaded: {e}") from None
        self.include = list(dict.fromkeys([headers[0], cccl[0]]))
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = f"{major.value}.{minor.value}"

    def architectures(self) -> list[str]:
        """The architectures it compiles for, oldest first."""
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        numbers = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", numbers)
        return [f"sm_{n}" for n in sorted(numbers)]

    def figures(self, text, label, architecture, expressions, options=()) -> dict[str, Figures]:
        """Figures of each name expression. Raises: CompileFailed with the compiler's messages."""
        _, log, names = self.compile(text, label, architecture, expressions, options)
        return _figures(log, names)

    def compile(self, text, label, architecture, expressions, options=()):
        """(CUBIN, log, {expression: name in the CUBIN}). Raises: CompileFailed with the compiler's messages."""
        program = ctypes.c_void_p()
        self._call("nvrtcCreateProgram", ctypes.byref(program), text.encode(), label.encode(), 0, None, None)
        try:
            for e in expressions:
                self._call("nvrtcAddNameExpression", program, e.encode())
            flags = [*FLAGS, *options, f"-arch={architecture}", *(f"-I{folder}" for folder in self.include)]
            raw = (ctypes.c_char_p * len(flags))(*(f.encode() for f in flags))
            status = self.lib.nvrtcCompileProgram(program, len(flags), raw)
            log = self._bytes(program, "nvrtcGetProgramLog").decode(errors="replace").rstrip("\0")
            if status:
                # NVRTC numbers name expressions as lines of the source that no one has written
                raise CompileFailed(f"[nvrtc] {label} does not compile for {architecture}:\n{log.strip()}")
            names = {}
            for e in expressions:
                lowered = ctypes.c_char_p()
                self._call("nvrtcGetLoweredName", program, e.encode(), ctypes.byref(lowered))
                names[e] = (lowered.value or b"").decode()
            return self._bytes(program, "nvrtcGetCUBIN"), log, names
        finally:
            self._call("nvrtcDestroyProgram", ctypes.byref(program))

    def _call(self, name, *args):
        status = getattr(self.lib, name)(*args)
        if status:
            self.lib.nvrtcGetErrorString.restype = ctypes.c_char_p
            raise RuntimeError(f"[nvrtc] {name}: {self.lib.nvrtcGetErrorString(status).decode()}")

    def _bytes(self, program, what):
        size = ctypes.c_size_t()
        self._call(what + "Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(what, program, buffer)
        return buffer.raw


_ENTRY = re.compile(
    r"Compiling entry function '(?P<name>[^']+)'.*?\d+ bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)", re.S)


def _figures(log, names):
    """{expression: figures} from what ptxas printed."""
    expressions = {mangled: e for e, mangled in names.items()}
    found = {}
    for m in _ENTRY.finditer(log):
        shared = re.search(r"(\d+) bytes smem", m["rest"])
        if m["name"] in expressions:
            spilled = int(m["stores"]) + int(m["loads"])
            found[expressions[m["name"]]] = int(m["registers"]), spilled, int(shared[1]) if shared else 0
    if missing := set(names) - set(found):
        raise RuntimeError(f"[nvrtc] ptxas said nothing about {', '.join(sorted(missing))}:\n{log}")
    return found
