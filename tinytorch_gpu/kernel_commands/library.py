"""What the library's kernels are: instantiations, and which operators and optimizers launch them.

The second is found in the code: from `fused` of an operator (or the methods of a class, or a function) through the
functions it names to the `Kernel` objects that those call. `tests/test_kernel_commands.py` runs operators and compares.
"""
from __future__ import annotations

import dis
import functools
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path

from .. import backend
from ..autograd.node import REGISTRY, Node
from ..backend.kernel import LIBRARY, Kernel
from ..backend.kernel_tuning import Tuned
from ..tensor import Tensor

__all__ = ["bound_by", "instantiations", "launchers", "operators_of"]

PACKAGE = __package__.rpartition(".")[0]
USERS = ("ops", "optim", "amp", "nn", "random")  # where kernels are launched outside of operators


def launchers() -> None:
    """Import every module of the backend that has kernels, which fills LIBRARY."""
    for path in sorted(Path(backend.__file__).parent.glob("*.py")):
        if "Kernel(" in path.read_text(encoding="utf-8") or path.stem.startswith("kernel"):
            importlib.import_module(f"{PACKAGE}.backend.{path.stem}")


def instantiations() -> dict[str, dict[str, tuple]]:
    """{file: {name expression: (features it needs, its types)}} of the library, sorted."""
    launchers()
    found: dict[str, dict] = {}
    for kernel in LIBRARY:
        kernel.signature  # noqa: B018  (reads the source, which raises what is wrong with it)
        for types_, expression in zip(kernel.types or [()], kernel.expressions()):
            found.setdefault(str(kernel.source), {})[expression] = (kernel.needs, tuple(types_))
    return {file: dict(sorted(rows.items())) for file, rows in sorted(found.items())}


def _kernels_in(value) -> Iterator[Kernel]:
    if isinstance(value, Kernel):
        yield value
    elif isinstance(value, Tuned):
        yield from value.kernels
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from _kernels_in(v)
    elif isinstance(value, dict):
        yield from _kernels_in(list(value.values()))


def _codes(code) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


class _Own(str):
    """The name of an attribute of a method's first argument."""


@functools.cache
def _named(function) -> tuple[object, ...]:
    """The objects that a function's code names: globals, attributes of modules, names imported inside it, and
    attributes of its first argument."""
    found: dict[int, object] = {}
    space, code = function.__globals__, function.__code__
    first = code.co_varnames[0] if code.co_argcount else None
    for part in _codes(code):
        imported: dict[str, object] = {}
        value: object = None  # what the instruction before has put on the stack, as far as it is known
        package = None
        for step in dis.get_instructions(part):
            name, argument = step.opname, step.argval
            if name in ("LOAD_GLOBAL", "LOAD_NAME"):
                value = space.get(argument)
            elif name in ("LOAD_ATTR", "LOAD_METHOD") and isinstance(value, types.ModuleType):
                value = getattr(value, argument, None)
            elif name in ("LOAD_ATTR", "LOAD_METHOD") and value is first and first is not None:
                value = _Own(argument)
            elif name.startswith("LOAD_FAST") or name.startswith("LOAD_DEREF"):
                local = argument[-1] if isinstance(argument, tuple) else argument
                value = imported.get(local, first if local == first else None)
            elif name == "STORE_FAST_LOAD_FAST":  # from Python 3.13 on
                imported[argument[0]] = value
                value = imported.get(argument[1], first if argument[1] == first else None)
            elif name == "IMPORT_NAME":
                package = argument
            elif name == "IMPORT_FROM":
                value = _imported(space, package, argument)
            elif name.startswith("STORE_") and isinstance(argument, str):
                imported[argument] = value
                value = None
            elif name not in ("PUSH_NULL", "CACHE", "NOP", "RESUME", "PRECALL"):
                value = None
            if isinstance(value, (_Own, types.FunctionType, types.MethodType, staticmethod, classmethod, Kernel, Tuned,
                                  list, tuple, dict)):
                found[id(value)] = value
    return tuple(found.values())


def _imported(space, module, name):
    """What `from module import name` inside a function gives, if that is loaded: kernels are of loaded modules."""
    package = space.get("__package__", "")
    for base in (f"{package.rsplit('.', level)[0]}" for level in range(package.count(".") + 1)):
        full = ".".join(filter(None, (base, module)))
        found = sys.modules.get(f"{full}.{name}") or getattr(sys.modules.get(full), name, None)
        if found is not None:
            return found
    return None


@functools.cache
def _next(function, owner) -> tuple[frozenset[Kernel], tuple[types.FunctionType, ...]]:
    """The kernels and the functions of this package that a function names. Classes are not entered: an operator that a
    backward applies is one of its own."""
    kernels: set[Kernel] = set()
    functions: dict[types.FunctionType, None] = {}
    for value in _named(function):
        if isinstance(value, _Own):
            value = inspect.getattr_static(owner, value, None) if owner is not None else None
        value = getattr(value, "__func__", value)
        if isinstance(value, types.FunctionType):
            value = inspect.unwrap(value)
            if value.__module__.startswith(PACKAGE + "."):
                functions[value] = None
        else:
            kernels.update(_kernels_in(value))
    return frozenset(kernels), tuple(functions)


def _reached(functions, owner=None) -> set[Kernel]:
    """The kernels that functions can launch, by themselves or through others of this package."""
    found: set[Kernel] = set()
    ahead = list(functions)
    seen = set(ahead)
    while ahead:
        function = ahead.pop()
        # only a method's first argument is the owner
        kernels, named = _next(function, owner if function in functions else None)
        found |= kernels
        new = [f for f in named if f not in seen]
        seen.update(new)
        ahead += new
    return found


def _functions(cls, within) -> Iterator[types.FunctionType]:
    """The functions of a class and of those of its bases that modules under `within` define. A gradient rule is left
    out: it is written with other operators."""
    for base in cls.__mro__:
        if base.__module__.startswith(within):
            for name, value in vars(base).items():
                if name == "backward" or inspect.getattr_static(cls, name) is None:  # a subclass has taken it away
                    continue
                value = getattr(value, "__func__", getattr(value, "fget", value))
                if isinstance(value, types.FunctionType):
                    yield inspect.unwrap(value)


def _modules() -> Iterator[types.ModuleType]:
    root = sys.modules[PACKAGE]
    for name in USERS:
        if importlib.util.find_spec(f"{PACKAGE}.{name}") is None:
            continue
        top = importlib.import_module(f"{PACKAGE}.{name}")
        yield top
        for info in pkgutil.walk_packages(getattr(top, "__path__", ()), f"{root.__name__}.{name}."):
            yield importlib.import_module(info.name)


def _public(name, function) -> bool:
    """Whether users can call it: by the package's name, nn.functional's or nn.utils', or as a method of tensors."""
    places = (importlib.import_module(PACKAGE + module) for module in ("", ".nn.functional", ".nn.utils"))
    return any(name in getattr(place, "__all__", (name,)) and getattr(place, name, None) is function
               for place in places) or (
        function.__module__.startswith(f"{PACKAGE}.ops.") and name.rstrip("_") == name and hasattr(Tensor, name))


@functools.cache
def bound_by() -> dict[tuple[str, str], list[str]]:
    """{(file, kernel): names of the operators, else of the classes and functions, that launch it}."""
    importlib.import_module(f"{PACKAGE}.ops")
    launchers()
    found: dict[tuple[str, str], list[str]] = {}

    def add(label, kernels):
        for kernel in kernels:
            names = found.setdefault((str(kernel.source), kernel.signature.name), [])
            if label not in names:
                names.append(label)

    for name in sorted(REGISTRY):
        add(name, _reached([*_functions(REGISTRY[name], f"{PACKAGE}.ops.")], REGISTRY[name]))
    for module in _modules():
        for name, value in sorted(vars(module).items()):
            if getattr(value, "__module__", None) != module.__name__ or name.startswith("_"):
                continue
            if isinstance(value, type) and not issubclass(value, (Tensor, Node)):
                add(name, _reached([*_functions(value, PACKAGE + ".")], value))
            elif isinstance(value, types.FunctionType) and _public(name, value):
                add(name, _reached([inspect.unwrap(value)]))
    return found


def operators_of(file, kernel) -> list[str]:
    """Who launches a kernel of the library; empty where nothing does yet."""
    return bound_by().get((file, kernel), [])
