"""Writes tensor.pyi and __init__.pyi: what the operator families attach to Tensor and to the package, for editors.

PYTHONPATH=. python tests/make_stubs.py
"""

from __future__ import annotations

import inspect
import pathlib

import tinytorch_gpu

Tensor = tinytorch_gpu.Tensor
MODULE = inspect.getmodule(Tensor.detach)
FOLDER = pathlib.Path(tinytorch_gpu.__file__).parent

HEAD = '''"""Tensor with its attached methods. Written by tests/make_stubs.py; a test compares."""
import builtins
from collections.abc import Callable, Iterator
from typing import Any

import numpy

from .autograd.hooks import RemovableHandle
from .backend.device import device as Device
from .backend.dtypes import dtype as DType

'''

PAIR, MANY = "tuple[Tensor, Tensor]", "tuple[Tensor, ...]"
# what is no Tensor, where the function itself does not say it
RETURNS = {
    "item": "Any",
    "tolist": "Any",
    "numpy": "numpy.ndarray[Any, Any]",
    "__array__": "numpy.ndarray[Any, Any]",
    "size": "Any",
    "stride": "Any",
    "type": "Any",
    "max": "Any",
    "min": "Any",
    "median": "Any",
    "unique": "Any",
    "nonzero": "Any",
    "backward": "None",
    "equal": "builtins.bool",
    "allclose": "builtins.bool",
    "sort": PAIR,
    "topk": PAIR,
    "kthvalue": PAIR,
    "slogdet": PAIR,
    "split": MANY,
    "chunk": MANY,
    "tensor_split": MANY,
    "unbind": MANY,
    "shape": "tuple[builtins.int, ...]",
    "dtype": "DType",
    "device": "Device",
    "grad_fn": "Any",
    "is_cuda": "builtins.bool",
    "grad": "Tensor | None",
    "_base": "Tensor | None",
    "_edge": "Any",
    "__init__": "None",
    "__bool__": "builtins.bool",
    "__float__": "builtins.float",
    "__int__": "builtins.int",
    "__complex__": "builtins.complex",
    "__index__": "builtins.int",
    "__len__": "builtins.int",
    "__iter__": "Iterator[Tensor]",
    "__setitem__": "None",
    "__contains__": "builtins.bool",
    "__dlpack__": "Any",
    "__cuda_array_interface__": "dict[builtins.str, Any]",
    "__dlpack_device__": "tuple[builtins.int, builtins.int]",
    "__reduce_ex__": "tuple[Any, ...]",
    "__repr__": "builtins.str",
    "__format__": "builtins.str",
    "leaf_node": "Any",
    "attach": "Callable[[Any], Any]",
    "_raw": "Any",
    "is_tensor": "builtins.bool",
    "where": "Any",
    "meshgrid": MANY,
    "broadcast_tensors": MANY,
    "broadcast_shapes": "tuple[builtins.int, ...]",
    "var_mean": PAIR,
    "std_mean": PAIR,
    "atleast_1d": "Any",
    "atleast_2d": "Any",
    "atleast_3d": "Any",
    "set_printoptions": "None",
}
BUILTIN = {"int", "bool", "float", "str", "complex", "tuple", "list", "dict"}
SKIPPED = {"__module__", "__doc__", "__slots__", "__dict__", "__weakref__", "__new__", "__hash__"}


def returns(name, function) -> str:
    annotation = inspect.signature(function).return_annotation
    if annotation is not inspect.Signature.empty:
        text = annotation if isinstance(annotation, str) else annotation.__name__
        return f"builtins.{text}" if text in BUILTIN else text
    private = name.startswith("_") and not name.startswith("__")
    return RETURNS.get(name, "Any" if private else "Tensor")


def first_line(thing, indent) -> str:
    doc = (inspect.getdoc(thing) or "").strip().split("\n")[0].replace("\\", "\\\\").replace('"""', "'''")
    if not doc:
        return f"{indent}..."
    return f'{indent}"""{doc}"""' if not doc.endswith('"') else f'{indent}"""{doc} """'


def parameters(function, bound) -> str:
    """The parameter list without types; defaults only where they can be read as they are."""
    out, starred = [], False
    for i, p in enumerate(inspect.signature(function).parameters.values()):
        text = "self" if bound and i == 0 and p.kind is not p.VAR_POSITIONAL else p.name
        if p.kind is p.VAR_POSITIONAL:
            text, starred = "*" + text, True
        elif p.kind is p.VAR_KEYWORD:
            text = "**" + text
        elif p.kind is p.KEYWORD_ONLY and not starred:
            out.append("*")
            starred = True
        if p.default is not p.empty:
            plain = (
                p.default is None
                or type(p.default) in (bool, int, float, str)
                and repr(p.default) not in ("inf", "nan")
            )
            text += f"={p.default!r}" if plain else "=..."
        out.append(text)
    return ", ".join(out)


def method(name, function) -> list[str]:
    shown = function
    base = Tensor.__dict__.get("__" + name[3:] if name.startswith("__i") else name.removesuffix("_"))
    if (
        (name.startswith("__i") or not name.endswith("__"))
        and inspect.isfunction(base)
        and (parameters(function, True) == "self, *args, **kwargs")
    ):
        shown = base  # an in-place form takes what its operator takes
    result = "Tensor" if shown is base and shown is not function else returns(name, function)
    takes = parameters(shown, True)
    ignore = "  # type: ignore[override]" if name in ("__eq__", "__ne__") else ""
    if name.startswith("__i") and "*" in takes:  # mypy 2.4 compares __iadd__ with __add__ and stumbles over keywords
        ignore = "  # type: ignore[misc]"
    return [f"    def {name}({takes}) -> {result}:{ignore}", first_line(function, " " * 8), *_ellipsis(function)]


def _ellipsis(function) -> list[str]:
    return [" " * 8 + "..."] if inspect.getdoc(function) else []


def attribute(name, value) -> list[str]:
    result = returns(name, value.fget)
    out = ["    @property", f"    def {name}(self) -> {result}:", first_line(value, " " * 8), *_ellipsis(value)]
    if value.fset is not None:
        out += [f"    @{name}.setter", f"    def {name}(self, value: Any) -> None: ..."]
    return out


def tensor_stub() -> str:
    """The text of tensor.pyi."""
    lines = [HEAD + "class Tensor:", first_line(Tensor, "    ")]
    lines += [f"    {name}: Any" for name in Tensor.__slots__ if not name.startswith("__")]
    lines += ["    __array_priority__: builtins.int", "    def __hash__(self) -> builtins.int: ..."]
    for name, value in sorted(Tensor.__dict__.items()):
        if name in SKIPPED or name in Tensor.__slots__:
            continue
        if isinstance(value, property):
            lines += attribute(name, value)
        elif inspect.isfunction(value):
            lines += method(name, value)
    for name, value in vars(MODULE).items():
        if inspect.isclass(value) and value.__module__ == MODULE.__name__ and value is not Tensor:
            lines += ["", f"class {name}:", first_line(value, "    ")]
            lines += [f"    {slot}: Any" for slot in value.__slots__]
            lines += [f"    def __init__({parameters(value.__init__, True)}) -> None: ..."]
        elif inspect.isfunction(value) and value.__module__ == MODULE.__name__:
            lines += ["", f"def {name}({parameters(value, False)}) -> {returns(name, value)}: ..."]
    lines += ["", "INFERENCE: Version", "AccumulateGrad: Any", ""]
    return "\n".join(lines)


PACKAGE_HEAD = '''"""The package's names. Written by tests/make_stubs.py; a test compares."""
import builtins
from typing import Any

from .backend.dtypes import dtype as dtype
from .tensor import Tensor as Tensor

'''


def package_stub() -> str:
    """The text of __init__.pyi: without it `tinytorch_gpu.tensor` is the module, not the function."""
    lines, functions = [], []
    for name in sorted(tinytorch_gpu._SUBPACKAGES):
        if (FOLDER / name).is_dir() or (FOLDER / f"{name}.py").is_file():
            lines.append(f"from . import {name} as {name}")
    for name, module in sorted(tinytorch_gpu._LATE.items()):
        if (FOLDER / f"{module}.py").is_file():
            lines.append(f"from .{module} import {name} as {name}")
    for name, value in sorted(vars(tinytorch_gpu).items()):
        if name.startswith("_") and name != "__version__" or name in ("dtype", "Tensor", *tinytorch_gpu._LATE):
            continue
        if inspect.ismodule(value) or name == "annotations":
            continue
        if tinytorch_gpu.ops.PUBLIC.get(name) is value:
            functions += [
                "",
                f"def {name}({parameters(value, False)}) -> {returns(name, value)}:",
                first_line(value, "    "),
                *[line[4:] for line in _ellipsis(value)],
            ]
        elif isinstance(value, tinytorch_gpu.dtype):
            functions += ["", f"{name}: dtype"]
        elif inspect.isfunction(value) or inspect.isclass(value):
            inside = value.__module__.removeprefix("tinytorch_gpu.")
            lines.append(f"from .{inside} import {value.__name__} as {name}")
        else:
            functions += ["", f"{name}: builtins.{type(value).__name__}"]
    return PACKAGE_HEAD + "\n".join([*lines, *functions, ""])


STUBS = {"tensor.pyi": tensor_stub, "__init__.pyi": package_stub}

if __name__ == "__main__":
    for name, text in STUBS.items():
        (FOLDER / name).write_text(text(), encoding="utf-8")
        print(f"wrote {FOLDER / name}")
