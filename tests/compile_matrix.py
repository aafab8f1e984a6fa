"""Compile every kernel instantiation of the library for every architecture, without a GPU or a driver.

    python tests/compile_matrix.py            compile what changed, compare, write bench/results/kernels.json
    python tests/compile_matrix.py --check    the same without writing: fails when the file is not up to date
    python tests/compile_matrix.py --all      compile everything again

NVRTC comes from wheels: pip install "cuda-toolkit[nvrtc,cudart,crt,cccl]==13.0.*". The result of each file holds the
hash of its source with the headers inlined, so that only changed files compile. A spill that the file did not have
before fails with the kernel named.
"""
from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import re
import sys
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tinytorch_gpu.backend import kernel_source  # noqa: E402
from tinytorch_gpu.backend.kernel import LIBRARY, OPTIONS  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "kernels.json"
ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
FLAGS = (*OPTIONS, "-ftz=true", "--ptxas-options=-v")  # CuPy adds -ftz=true to all it compiles


class Nvrtc:
    """The few calls of libnvrtc that turn a source into a CUBIN. Raises: OSError when the wheels are not installed."""

    def __init__(self):
        files = [Path(f.locate()) for f in metadata.files("nvidia-cuda-nvrtc") or ()]
        libraries = [f for f in files if re.fullmatch(r"libnvrtc\.so\.\d+|nvrtc64_\w+\.dll", f.name)]
        if not libraries:
            raise OSError("no libnvrtc in the wheel nvidia-cuda-nvrtc")
        for f in files:  # NVRTC looks for it by name, outside of its own folder
            if re.fullmatch(r"libnvrtc-builtins\.so\.[\d.]+", f.name):
                ctypes.CDLL(str(f), mode=ctypes.RTLD_GLOBAL)
        self.lib = ctypes.CDLL(str(libraries[0]))
        headers = [Path(f.locate()) for f in metadata.files("nvidia-cuda-runtime") or ()]
        self.include = next(f.parent for f in headers if f.name == "cuda_fp16.h")
        self.version = metadata.version("nvidia-cuda-nvrtc")

    def call(self, name, *args):
        status = getattr(self.lib, name)(*args)
        if status:
            self.lib.nvrtcGetErrorString.restype = ctypes.c_char_p
            raise RuntimeError(f"{name}: {self.lib.nvrtcGetErrorString(status).decode()}")

    def compile(self, text, label, architecture, expressions):
        """(CUBIN, log, {expression: name in the CUBIN}). Raises: RuntimeError with the compiler's messages."""
        program = ctypes.c_void_p()
        self.call("nvrtcCreateProgram", ctypes.byref(program), text.encode(), label.encode(), 0, None, None)
        try:
            for e in expressions:
                self.call("nvrtcAddNameExpression", program, e.encode())
            options = [o.encode() for o in (*FLAGS, f"-arch={architecture}", f"-I{self.include}",
                                            f"-I{self.include / 'cccl'}")]
            status = self.lib.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
            log = self._bytes(program, "nvrtcGetProgramLog").decode(errors="replace").rstrip("\0")
            if status:
                raise RuntimeError(f"{label} does not compile for {architecture}:\n{log}")
            names = {}
            for e in expressions:
                lowered = ctypes.c_char_p()
                self.call("nvrtcGetLoweredName", program, e.encode(), ctypes.byref(lowered))
                names[e] = lowered.value.decode()
            return self._bytes(program, "nvrtcGetCUBIN"), log, names
        finally:
            self.call("nvrtcDestroyProgram", ctypes.byref(program))

    def _bytes(self, program, what):
        size = ctypes.c_size_t()
        self.call(what + "Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self.call(what, program, buffer)
        return buffer.raw


_ENTRY = re.compile(
    r"Compiling entry function '(?P<name>[^']+)'.*?\d+ bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)", re.S)


def figures(log, names):
    """{expression: {registers, spills (bytes), shared (bytes)}} from what ptxas printed."""
    expressions = {mangled: e for e, mangled in names.items()}
    found = {}
    for m in _ENTRY.finditer(log):
        shared = re.search(r"(\d+) bytes smem", m["rest"])
        found[expressions[m["name"]]] = {
            "registers": int(m["registers"]), "spills": int(m["stores"]) + int(m["loads"]),
            "shared": int(shared[1]) if shared else 0,
        }
    if missing := set(names) - set(found):
        raise RuntimeError(f"ptxas said nothing about {', '.join(sorted(missing))}:\n{log}")
    return found


def load_launchers():
    """Import every module of launchers, which fills LIBRARY."""
    import importlib

    for path in sorted((ROOT / "tinytorch_gpu" / "backend").glob("kernel_*.py")):
        importlib.import_module(f"tinytorch_gpu.backend.{path.stem}")


def instantiations():
    """{file: sorted name expressions} of the library."""
    load_launchers()
    found = {}
    for kernel in LIBRARY:
        kernel.signature  # noqa: B018  (reads the source, which raises what is wrong with it)
        found.setdefault(kernel.source, set()).update(kernel.expressions())
    return {file: sorted(names) for file, names in sorted(found.items())}


def state(file, expressions, version):
    """What a file's figures depend on."""
    text = "\n".join((kernel_source.read(file).text, *expressions, *FLAGS, *ARCHITECTURES, version))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def compile_file(nvrtc, file, expressions):
    """{expression: {architecture: figures}}."""
    source = kernel_source.read(file)
    rows = {e: {} for e in expressions}
    for architecture in ARCHITECTURES:
        _, log, names = nvrtc.compile(source.text, source.label, architecture, expressions)
        for e, row in figures(log, names).items():
            rows[e][architecture] = row
    return rows


def new_spills(old, new):
    """Lines about kernels that spill more bytes than before."""
    for e, rows in new.items():
        for architecture, row in rows.items():
            before = old.get(e, {}).get(architecture, {}).get("spills", 0)
            if row["spills"] > before:
                yield f"{e} spills {row['spills']} bytes on {architecture}, {before} before"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="compile unchanged files too")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the recorded figures are old")
    parser.add_argument("--allow-spills", action="store_true", help="record new spills instead of failing")
    given = parser.parse_args(arguments)
    nvrtc = Nvrtc()
    recorded = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"files": {}}
    files, spills, changed = {}, [], []
    for file, expressions in instantiations().items():
        old = recorded["files"].get(file, {"source": "", "kernels": {}})
        source = state(file, expressions, nvrtc.version)
        if old["source"] == source and not given.all:
            files[file] = old
            continue
        began = time.perf_counter()
        kernels = compile_file(nvrtc, file, expressions)
        print(f"{file}: {len(expressions)} kernels x {len(ARCHITECTURES)} architectures in "
              f"{time.perf_counter() - began:.1f} s")
        found = [] if given.allow_spills else list(new_spills(old["kernels"], kernels))
        if found:
            spills += found
            continue
        files[file] = {"source": source, "kernels": kernels}
        if files[file] != old:
            changed.append(file)
            if not given.check:
                write(nvrtc, recorded["files"] | files)  # at once: what is compiled stays if a later file fails
    if spills:
        print("\n".join(spills), file=sys.stderr)
        return 1
    gone = set(recorded["files"]) - set(files)
    if given.check:
        for file in (*changed, *gone):
            print(f"bench/results/kernels.json is not up to date for {file}: run python tests/compile_matrix.py",
                  file=sys.stderr)
        return 1 if changed or gone else 0
    if gone:
        write(nvrtc, files)
    return 0


def write(nvrtc, files):
    """Write the figures of these files, one architecture a line."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    whole = {"nvrtc": nvrtc.version, "flags": list(FLAGS), "architectures": list(ARCHITECTURES), "files": files}
    text = json.dumps(whole, indent=1, sort_keys=True)
    text = re.sub(r'\{\s*"registers": (\d+),\s*"shared": (\d+),\s*"spills": (\d+)\s*\}',
                  r'{"registers": \1, "shared": \2, "spills": \3}', text)
    RESULTS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
