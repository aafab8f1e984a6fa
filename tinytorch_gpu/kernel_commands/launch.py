"""Launches for a kernel that a command was given: arguments from its signature, the command line, `// check:` lines.

    // check: scale T=float n=1000 x=[n] y=[n] by=0.5 grid=(n+255)//256 block=256

A line (or the command line) gives numbers, which may be written with the other numbers; arrays as `[shape]`,
`dtype[shape]` or `null`, with `:fill` behind: a number, `low..high` (random, high left out), `random`, or `out`
(nothing is written in it: what arrays behind non-const pointers are unless they are filled); types and constants of the
template; `grid`, `block`, `shared`. What is not given is chosen by name, and printed with the launch.
"""
from __future__ import annotations

import ast
import itertools
import math
import operator
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..backend.kernel import LIBRARY, Kernel
from ..backend.kernel_source import C_NAMES, C_TYPES, Parameter, Signature, Source, library_files, library_folder, read
from . import library

__all__ = ["Array", "File", "Launch", "Wish", "find", "plan"]

COUNTS = {"n", "size", "count", "length", "len", "numel", "total", "elements", "num_elements"}
ROWS = {"rows", "height", "batch"}
COLUMNS = {"columns", "cols", "width", "dim"}
SOME_ROWS = 3
BLOCK = 256
SETTINGS = ("grid", "block", "shared")


@dataclass(frozen=True)
class Array:
    """An array of a launch: `fill` is None for one that the kernel fills, a number, (low, high), or "random"."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fill: object = "random"

    def __str__(self):
        words = {None: "", "random": ""}.get(self.fill) if self.fill in (None, "random") else (
            f" of {self.fill}" if not isinstance(self.fill, tuple) else f" of {self.fill[0]} to {self.fill[1] - 1}")
        return f"{self.dtype.name}[{', '.join(map(str, self.shape))}]{words}"

    def host(self, rng) -> np.ndarray:
        """Its values. The array is unwritten (`fill` None): zeros, which the caller covers up."""
        if self.fill is None:
            return np.zeros(self.shape, self.dtype)
        if not isinstance(self.fill, (tuple, str)):
            return np.full(self.shape, self.fill, self.dtype)
        if self.fill == "random" and self.dtype.kind not in "iub":
            return rng.standard_normal(self.shape).astype(self.dtype)
        low, high = self.fill if isinstance(self.fill, tuple) else (0, 2)
        return rng.integers(low, high, self.shape).astype(self.dtype)


@dataclass
class Wish:
    """What the command line asks for. `values` are those of --arg, --type, --grid, --block and --shared; `defines` are
    constants of the templates, or macros where no template has the name."""

    names: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    defines: dict[str, str] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class File:
    """A .cu file: `key` is what `Kernel` takes for it."""

    key: str
    text: str
    source: Source


def find(name: str) -> File:
    """A user's file by its path, else a library file by its name. Raises: FileNotFoundError, ValueError."""
    path = Path(name)
    if path.is_file():
        key = str(path.resolve())
    elif path.parent == Path(".") and (library_folder() / name).is_file():
        path, key = library_folder() / name, name
    else:
        what = "is a folder" if path.is_dir() else "is not there"
        raise FileNotFoundError(f"[kernel] {name} {what}; the library has "
                                f"{', '.join(p.name for p in library_files())}")
    return File(key, path.read_text(encoding="utf-8"), read(key))


@dataclass(frozen=True)
class Launch:
    """A kernel with everything that a launch needs; `values` in the order of the parameters: Array, number or None."""

    kernel: Kernel
    expression: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared: int
    values: tuple
    guessed: tuple[str, ...] = ()  # whole numbers that nobody gave and no name tells

    def __str__(self):
        named = zip(self.kernel.signature.parameters, self.values)
        parts = [f"{p.name} {'null' if v is None else v}" for p, v in named]
        shared = f", {self.shared} bytes shared" if self.shared else ""
        return f"{self.expression}: grid {self.grid}, block {self.block}{shared}, {', '.join(parts)}"

    @property
    def moved(self) -> int:
        """Bytes of all arrays, each read or written once; those that are read and written count twice."""
        total = 0
        for p, v in zip(self.kernel.signature.parameters, self.values):
            if isinstance(v, Array):
                twice = not p.constant and v.fill is not None
                total += math.prod(v.shape) * v.dtype.itemsize * (2 if twice else 1)
        return total


def wrong(what) -> ValueError:
    return ValueError(f"[kernel] {what}")


_ALLOWED = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
            ast.Div: operator.truediv, ast.Mod: operator.mod}


def number(text: str, known: dict, what: str):
    """The value of a number, or of arithmetic over numbers and `known` names. Raises: ValueError."""

    def value(node):
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return node.value
        if isinstance(node, ast.Name) and node.id in known:
            return known[node.id]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in _ALLOWED:
            return _ALLOWED[type(node.op)](value(node.left), value(node.right))
        raise wrong(f"{what}: {text!r} is no number; it may use + - * / // %, brackets and "
                    f"{', '.join(known) or 'no names here'}")

    if text.strip().lower() in ("true", "false"):
        return text.strip().lower() == "true"
    try:
        return value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ZeroDivisionError) as e:
        raise wrong(f"{what}: {text!r} cannot be computed ({e.__class__.__name__})") from None


def _pieces(text: str) -> list[str]:
    """Split at commas outside of brackets."""
    depth, pieces = 0, [""]
    for c in text:
        depth += (c in "([") - (c in ")]")
        if c == "," and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += c
    return [p for p in pieces if p.strip()]


def _sizes(text: str, known: dict, what: str) -> tuple[int, ...]:
    found = tuple(number(p, known, what) for p in _pieces(text))
    if not found or not all(type(n) is int for n in found):
        raise wrong(f"{what}: {text!r} is not one to three whole numbers")
    return found


_ARRAY = re.compile(r"(?P<dtype>[\w ]*)\[(?P<shape>.*?)\](?::(?P<fill>.+))?", re.S)


def _array(p: Parameter, text: str, bound: dict, known: dict) -> Array | None:
    if text in ("null", "none", "None"):
        return None
    found = _ARRAY.fullmatch(text.strip())
    if found is None:
        raise wrong(f"{p.name}={text}: write an array as [shape], float32[shape] or null, with :fill behind it")
    dtype = bound[p.kind] if isinstance(p.kind, str) else p.kind
    if found["dtype"].strip():
        dtype = _dtype(found["dtype"].strip(), p.name)
        if isinstance(p.kind, str):
            bound[p.kind] = dtype
    shape = _sizes(found["shape"], known, p.name)
    fill: object = None if not p.constant else "random"
    if given := found["fill"]:
        if given == "out" and p.constant:
            raise wrong(f"{p.name}={text}: the kernel only reads it (const), so it needs values")
        span = re.fullmatch(r"(.+?)\.\.(.+)", given)
        fill = (None if given == "out" else "random" if given == "random"
                else tuple(_sizes(f"{span[1]},{span[2]}", known, p.name)) if span else number(given, known, p.name))
    return Array(shape, dtype, fill)


def _dtype(text: str, what: str) -> np.dtype:
    if text in C_TYPES:
        return C_TYPES[text]
    for dtype in C_NAMES:
        if text == dtype.name:
            return dtype
    raise wrong(f"{what}: no dtype {text!r}: {', '.join(d.name for d in C_NAMES)}, or as in C")


_LINE = re.compile(r"^[ \t]*//[ \t]*check:[ \t]*(.*)$", re.M)


def _lines(text: str, source: Source) -> list[tuple[str, dict[str, str]]]:
    """[(kernel, values)] of the `// check:` lines of a file."""
    found = []
    for match in _LINE.finditer(text):
        where = f"{source.label}:{text.count(chr(10), 0, match.start()) + 1}"
        name, values = None, {}
        for token in shlex.split(match[1]):
            key, mark, value = token.partition("=")
            if mark:
                values[key] = value
            elif name is None:
                name = token
            else:
                raise wrong(f"{where}: {token!r} is no name=value")
        if name is None and len(source.signatures) == 1:
            (name,) = source.signatures
        if name not in source.signatures:
            raise wrong(f"{where}: {name or 'no name'} is none of the kernels {', '.join(source.signatures)}")
        found.append((name, values))
    return found


def plan(file: File, wish: Wish, sizes) -> list[Launch]:
    """The launches for a file: its `// check:` lines, else its kernels with one launch for each of `sizes`.

    Raises: ValueError for what is wrong with a line or with the command line.
    """
    source = file.source
    if not source.signatures:
        raise wrong(f"{source.label} has no __global__ function")
    if unknown := [n for n in wish.names if n not in source.signatures]:
        raise wrong(f"{source.label} has no kernel {', '.join(unknown)}: it has {', '.join(source.signatures)}")
    chosen = wish.names or list(source.signatures)
    lines = [(name, values) for name, values in _lines(file.text, source) if name in chosen]
    used: set[str] = set()
    constants = {c for name in chosen for c in source.signatures[name].constants}
    options = tuple(f"-D{k}={v}" for k, v in wish.defines.items() if k not in constants)
    launches = []
    for name in chosen:
        signature = source.signatures[name]
        given = [values for own, values in lines if own == name] or [{}]
        for values in given:
            mine = {p.name for p in signature.parameters} | set(signature.template) | set(SETTINGS)
            if unknown := [k for k in values if k not in mine]:
                raise wrong(f"{name} has no {', '.join(unknown)}: it has {', '.join(sorted(mine))}")
            used |= mine & set(wish.values)
            merged = values | {k: v for k, v in (wish.values | wish.defines).items() if k in mine}
            for types in _types(name, signature, file.key, merged):
                for size in (sizes if wish.sizes or _free(signature, merged) else sizes[:1]):
                    launch = _launch(file.key, signature, merged | types, size, options)
                    if launch not in launches:
                        launches.append(launch)
    if unknown := set(wish.values) - used:
        raise wrong(f"no kernel has {', '.join(sorted(unknown))}: they have "
                    + "; ".join(str(source.signatures[n]) for n in chosen))
    return launches


def _free(signature, given) -> bool:
    """Whether a launch depends on a size: a count is not given, or, where there is none, an array is not."""
    counts = [p.name for p in signature.parameters if _sized(p)]
    return any(name not in given for name in counts or [p.name for p in signature.parameters if p.pointer])


def _sized(p: Parameter) -> bool:
    return not p.pointer and p.name.lower() in COUNTS | COLUMNS


def _known(name: str, key: str) -> Kernel | None:
    """The library's own kernel of this name, whose types and constants are the defaults."""
    library.launchers()
    return next((k for k in LIBRARY if str(k.source) == key and k.signature.name == name), None)


def _types(name, signature: Signature, key, values) -> list[dict[str, str]]:
    """Every combination of the given types (T=float,__half), else the library's first, else float."""
    kernel = _known(name, key)
    default = dict(zip(signature.types, kernel.types[0])) if kernel is not None and kernel.types else {}
    lists = [[t.strip() for t in values.get(t, default.get(t, "float")).split(",")] for t in signature.types]
    combinations = [dict(zip(signature.types, types)) for types in itertools.product(*lists)]
    constants = {c: str(kernel.constants[c]) for c in signature.constants
                 if kernel is not None and c not in values}
    return [c | constants for c in combinations]


def _launch(key: str, signature: Signature, values: dict[str, str], size: int, options) -> Launch:
    bound = {t: _dtype(values[t], t) for t in signature.types}
    known: dict[str, Any] = {}
    for c in signature.constants:
        if c not in values:
            raise wrong(f"{signature.name} needs a value for its template's {c}: --define {c}=...")
        known[c] = number(values[c], {}, c)
    names = {p.name.lower() for p in signature.parameters if not p.pointer}
    for p in signature.parameters:
        if not p.pointer and p.name not in values:
            known[p.name] = _default(p, bound, size)
    # in the order of the signature, so that a number may use those before it
    for p in signature.parameters:
        if not p.pointer and p.name in values:
            known[p.name] = number(values[p.name], known, p.name)
    block = _sizes(values["block"], known, "block") if "block" in values else (
        min(BLOCK, signature.max_threads or BLOCK),)
    rows = next((known[p.name] for p in signature.parameters if p.name.lower() in ROWS and not p.pointer), None)
    elements = rows * next((known[p.name] for p in signature.parameters if p.name.lower() in COLUMNS and not p.pointer),
                           1) if rows is not None and names & COLUMNS else _elements(signature, known, size)
    grid = _sizes(values["grid"], known, "grid") if "grid" in values else (
        max(1, rows if rows is not None else -(-elements // math.prod(block))),)
    shared = number(values["shared"], known, "shared") if "shared" in values else 0
    arrays: dict[str, Array | None] = {}
    for p in signature.parameters:
        if p.pointer and p.name in values:
            arrays[p.name] = _array(p, values[p.name], bound, known)
    for p in signature.parameters:
        if p.pointer and p.name not in values:
            arrays[p.name] = Array((elements,), bound[p.kind] if isinstance(p.kind, str) else p.kind,
                                   "random" if p.constant else None)
    final = tuple(arrays[p.name] if p.pointer else _fitting(p, known[p.name], bound) for p in signature.parameters)
    types = {t: C_NAMES[bound[t]] for t in signature.types}
    optional = [p.name for p in signature.parameters if p.pointer and arrays[p.name] is None]
    kernel = _kernel(key, read(key).text, signature.name, tuple(optional), options, tuple(types.items()),
                     tuple((c, known[c]) for c in signature.constants))
    guessed = tuple(p.name for p in signature.parameters
                    if p.name not in values and p.name.lower() not in COUNTS | ROWS | COLUMNS
                    and not p.pointer and isinstance(final[signature.parameters.index(p)], int))
    return Launch(kernel, kernel.expression(bound), grid, block, int(shared), final, guessed)


_kernels: dict[tuple, Kernel] = {}


def _kernel(*key) -> Kernel:
    if key not in _kernels:
        path, _, name, optional, options, types, constants = key  # an edited file is another one
        made = _kernels[key] = Kernel(path, name, optional=optional, options=options, **dict(types), **dict(constants))
        if made in LIBRARY:  # it was asked for by name, it is none of the launchers'
            LIBRARY.remove(made)
    return _kernels[key]


def _elements(signature, known, size) -> int:
    return next((int(known[p.name]) for p in signature.parameters if _sized(p)), size)


def _default(p: Parameter, bound, size):
    dtype = bound[p.kind] if isinstance(p.kind, str) else p.kind
    name = p.name.lower()
    if dtype.kind == "b":
        return False
    if dtype.kind not in "iu":
        return 1.0
    return size if name in COUNTS | COLUMNS else SOME_ROWS if name in ROWS else 1


def _fitting(p: Parameter, value, bound):
    dtype = bound[p.kind] if isinstance(p.kind, str) else p.kind
    if dtype.kind == "b":
        return bool(value)
    if dtype.kind in "iu":
        if value != int(value):
            raise wrong(f"{p.name}={value} is no whole number, and the kernel takes {p}")
        return int(value)
    return float(value)
