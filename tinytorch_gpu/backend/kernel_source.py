"""CUDA sources: where they lie, headers inlined, signatures of their `__global__` functions.

Headers are written into the source because CuPy's compile cache hashes the source only: a header found by `-I` could
change and the old binary would run on. `#line` keeps error messages pointing into the file that was written.
"""
from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .dtypes import bfloat16

__all__ = ["Parameter", "Signature", "Source", "library_folder", "library_files", "is_library", "read", "C_NAMES"]

_INSIDE = Path(__file__).resolve().parents[1] / "cuda_sources"  # where the wheel puts them
_CHECKOUT = Path(__file__).resolve().parents[2] / "kernels"

C_TYPES = {
    "bool": np.bool_, "char": np.int8, "signed char": np.int8, "unsigned char": np.uint8, "short": np.int16,
    "unsigned short": np.uint16, "int": np.int32, "unsigned": np.uint32, "unsigned int": np.uint32,
    "long long": np.int64, "unsigned long long": np.uint64, "long long int": np.int64, "int8_t": np.int8,
    "uint8_t": np.uint8, "int16_t": np.int16, "uint16_t": np.uint16, "int32_t": np.int32, "uint32_t": np.uint32,
    "int64_t": np.int64, "uint64_t": np.uint64, "size_t": np.uint64, "float": np.float32, "double": np.float64,
    "half": np.float16, "__half": np.float16, "nv_bfloat16": bfloat16.np, "__nv_bfloat16": bfloat16.np,
}
C_TYPES = {name: np.dtype(kind) for name, kind in C_TYPES.items()}
C_NAMES = {  # how a template argument is written for each dtype of an array
    np.dtype(kind): name for name, kind in (
        ("bool", np.bool_), ("signed char", np.int8), ("unsigned char", np.uint8), ("short", np.int16),
        ("unsigned short", np.uint16), ("int", np.int32), ("unsigned int", np.uint32), ("long long", np.int64),
        ("unsigned long long", np.uint64), ("float", np.float32), ("double", np.float64), ("__half", np.float16),
        ("__nv_bfloat16", bfloat16.np),
    )
}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel: a pointer to `kind`, or a number of it; `kind` is a dtype or a template's type."""

    name: str
    kind: np.dtype | str
    pointer: bool
    constant: bool

    def __str__(self):
        kind = self.kind if isinstance(self.kind, str) else C_NAMES[self.kind]
        return f"{'const ' if self.constant else ''}{kind}{'*' if self.pointer else ''} {self.name}"


@dataclass(frozen=True)
class Signature:
    """A `__global__` function: its parameters, its template's types and constants, the threads it is bounded to."""

    name: str
    types: tuple[str, ...]
    constants: tuple[str, ...]
    template: tuple[str, ...]  # both, in their order
    parameters: tuple[Parameter, ...]
    max_threads: int | None
    line: int

    def __str__(self):
        return f"{self.name}({', '.join(map(str, self.parameters))})"


@dataclass(frozen=True)
class Source:
    """A source with its headers inlined."""

    label: str
    text: str
    signatures: dict[str, Signature]

    def text_for(self, expression: str) -> str:
        """The text for an instantiation. A template of any type includes no header of halves: it comes with them."""
        headers = (("__half", "cuda_fp16.h"), ("__nv_bfloat16", "cuda_bf16.h"))
        return "".join(f"#include <{header}>\n" for kind, header in headers
                       if kind in expression and header not in self.text) + self.text


def library_folder() -> Path:
    """The folder of the library's own sources: a checkout's first, so that an edited file is what runs.

    Raises: FileNotFoundError when the installation has lost them.
    """
    for folder in (_CHECKOUT, _INSIDE):
        # the folder beside the package could be anything in site-packages, where another distribution has this name
        if (folder / "vector.cuh").is_file():
            return folder
    raise FileNotFoundError(f"[kernel] found no CUDA sources, neither in {_CHECKOUT} nor in {_INSIDE}: "
                            "reinstall tinytorch-gpu")


def library_files() -> list[Path]:
    """The .cu files of the library."""
    return sorted(library_folder().glob("*.cu"))


def is_library(source) -> bool:
    """Whether a Kernel's source is a file of the library."""
    return (isinstance(source, str) and source.endswith(".cu") and "/" not in source and "\\" not in source
            and (library_folder() / source).is_file())


def read(source) -> Source:
    """A library file by its name ("rows.cu"), a file by its path, or CUDA source text.

    A plain string that names a library file means that one, wherever the program runs; "./rows.cu" or a Path is the
    program's own. Raises: FileNotFoundError for a file or header that is not there, ValueError for a signature that
    cannot be checked.
    """
    text = str(source)
    if "__global__" in text:
        return _from_text(text)
    path = Path(source)
    if is_library(source):
        path = library_folder() / path
    if not path.is_file():
        raise FileNotFoundError(f"[kernel] {source} is neither a file nor CUDA source with a __global__ function")
    return _from_file(path.resolve(), path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _from_text(text):
    return _finish("<kernel string>", text, Path("."))


@functools.lru_cache(maxsize=256)
def _from_file(path, _changed):
    inside = path.parent == library_folder()
    return _finish(f"kernels/{path.name}" if inside else path.as_posix(), path.read_text(encoding="utf-8"), path.parent)


def _finish(label, text, folder):
    whole = f'#line 1 "{label}"\n{_inline(label, text, folder, set())}'
    return Source(label, whole, {s.name: s for s in _signatures(label, text)})


_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"')


def _inline(label, text, folder, seen):
    out = []
    for number, line in enumerate(text.splitlines(), 1):
        found = _INCLUDE.match(line)
        if found is None:
            out.append(line)
            continue
        path = next((p for p in (folder / found[1], library_folder() / found[1]) if p.is_file()), None)
        if path is None:
            raise FileNotFoundError(f"[kernel] {label}:{number} includes {found[1]!r}, which is neither in {folder} "
                                    f"nor in {library_folder()}")
        path = path.resolve()
        if path in seen:
            out.append(f"// {found[1]} stands above")
            continue
        seen.add(path)
        header = f"kernels/{path.name}" if path.parent == library_folder() else path.as_posix()
        body = _inline(header, path.read_text(encoding="utf-8"), path.parent, seen)
        out += [f'#line 1 "{header}"', body, f'#line {number + 1} "{label}"']
    return "\n".join(out) + "\n"


_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"", re.S)
_GLOBAL = re.compile(
    r"(?:template\s*<(?P<template>[^>]*)>\s*)?(?:extern\s+\"C\"\s+)?(?:static\s+)?__global__\s+"
    r"(?P<head>(?:void|__launch_bounds__\s*\([^)]*\)|\s)+)(?P<name>\w+)\s*\((?P<parameters>[^)]*)\)", re.S)


def _signatures(label, text):
    # comments go, their line breaks stay; `extern "C"` is the one string that matters
    bare = _COMMENT.sub(lambda m: m[0] if m[0] == '"C"' else "\n" * m[0].count("\n") or " ", text)
    for found in _GLOBAL.finditer(bare):
        line = bare.count("\n", 0, found.start()) + 1
        where = f"{label}:{line}"
        types, constants, order = [], [], []
        for piece in filter(None, map(str.strip, (found["template"] or "").split(","))):
            kind, name = piece.split("=")[0].split()[-2:] if len(piece.split()) > 1 else (piece, "")
            if not name:
                raise ValueError(f"[kernel] {where}: template parameter {piece!r} of {found['name']} has no name")
            (types if kind in ("typename", "class") else constants).append(name)
            order.append(name)
        bound = re.search(r"__launch_bounds__\s*\(\s*(\d+)", found["head"])
        parameters = tuple(
            _parameter(where, found["name"], piece, types)
            for piece in filter(None, map(str.strip, found["parameters"].split(",")))
        )
        yield Signature(found["name"], tuple(types), tuple(constants), tuple(order), parameters,
                        int(bound[1]) if bound else None, line)


def _parameter(where, kernel, text, types):
    words = re.sub(r"\b(__restrict__|__restrict|volatile)\b", " ", text).replace("*", " * ").split()
    constant, pointers = "const" in words, words.count("*")
    words = [w.removeprefix("std::") for w in words if w not in ("const", "*")]
    kind, name = " ".join(words[:-1]), words[-1]
    if kind in types:
        found = kind
    elif kind in C_TYPES:
        found = C_TYPES[kind]
    else:
        raise ValueError(f"[kernel] {where}: {kernel} takes {text!r}, whose type {kind!r} cannot be checked at a "
                         f"launch: use a template's type or one of {', '.join(C_TYPES)}")
    if pointers > 1 or "&" in text or "[" in text:
        raise ValueError(f"[kernel] {where}: {kernel} takes {text!r}: pass a pointer or a number")
    return Parameter(name, found, bool(pointers), constant)
