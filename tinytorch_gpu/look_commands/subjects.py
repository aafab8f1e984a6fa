"""What a running program trains, found without its help: optimizers, the model, and names of its tensors."""
from __future__ import annotations

import gc
import os
import sys
import weakref

from ..look.memory.holders import visit_locals
from ..nn import Module, ModuleDict
from ..optim import Optimizer
from ..tensor import Tensor

__all__ = ["Made", "Models", "Tensors", "loose_of", "model_of", "named_tensors", "names_of"]

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
EXAMPLES = os.path.join(PACKAGE, "examples") + os.sep  # programs


class Models(ModuleDict):
    """Several models that a program trains, under their names; views call it by these: `gen and disc`."""

    @staticmethod
    def of(models: dict[str, Module]) -> Models:
        shown = [*models] if len(models) <= 3 else [*list(models)[:2], f"{len(models) - 2} more"]
        kind = type(" and ".join([", ".join(shown[:-1]), shown[-1]]), (Models,), {})
        made = kind()
        for name, model in models.items():
            made[name] = model
        return made


class Tensors(Module):
    """The tensors that optimizers step in a program without Modules, under the names of their variables."""

    def __init__(self, tensors: dict[str, Tensor]):
        super().__init__()
        self._parameters.update(tensors)  # not Parameters, and with names such as w[0]


class Made:
    """The optimizers that are made inside `with`, in that order; `alive()` are those that are still there."""

    def __init__(self):
        self._found: list[weakref.ref] = []

    def __enter__(self):
        original = self._original = Optimizer._init_hooks

        def noticed(optimizer):
            original(optimizer)
            self._found.append(weakref.ref(optimizer))

        Optimizer._init_hooks = noticed
        return self

    def __exit__(self, *exc):
        Optimizer._init_hooks = self._original

    def alive(self) -> list[Optimizer]:
        return [o for o in (ref() for ref in self._found) if o is not None and hasattr(o, "param_groups")]


def model_of(called: Module | None, several: list[Optimizer]) -> Module | None:
    """The model of a program that calls the module `called`, or none.

    The outermost Modules with parameters of the program's optimizers: one as it is, several, such as the two of a GAN
    or layers that a function calls one by one, as `Models`. Without optimizers it is `called`.
    """
    trained = {id(p) for o in several for group in o.param_groups for p in group["params"]}
    if not trained:
        return called
    # by its type: isinstance asks a stranger's object for its __class__
    every = [m for m in gc.get_objects() if issubclass(type(m), Module) and "_modules" in m.__dict__]
    inner = {id(child) for m in every for child in m._modules.values() if child is not None}
    found = [m for m in every if id(m) not in inner and not issubclass(type(m), Models)
             and any(id(p) in trained for p in m.parameters())]
    if not found:
        return called
    if len(found) == 1:
        return found[0]
    names = _names(Module)
    models: dict[str, Module] = {}
    for m in sorted(found, key=lambda m: list(names).index(id(m)) if id(m) in names else len(names)):
        name = names.get(id(m), type(m).__name__).replace(".", "_")
        while name in models or not name.isidentifier() or hasattr(ModuleDict, name):
            name += "_"
        models[name] = m
    return Models.of(models)


def loose_of(several: list[Optimizer]) -> Tensors | None:
    """What a program trains that calls no Module: the tensors of its optimizers; None where it has none yet."""
    names = {id(t): name for name, t in named_tensors(None).items()}
    found: dict[str, Tensor] = {}
    for o in several:
        for g, group in enumerate(o.param_groups):
            for i, p in enumerate(group["params"]):
                name = names.get(id(p), f"{type(o).__name__}'s group {g} [{i}]")
                if not any(p is t for t in found.values()):
                    found[name if name not in found else f"{name}, {len(found)}"] = p
    return Tensors(found) if found else None


def names_of(several: list[Optimizer]) -> dict[str, Optimizer]:
    """{name: optimizer} as the program's variables call them; {} where one has no name."""
    names = _names(Optimizer)
    found = {names[id(o)]: o for o in several if id(o) in names}
    return found if len(found) == len(several) else {}


def named_tensors(model: Module | None) -> dict[str, Tensor]:
    """Tensors by name: the model's parameters, then those of the running functions' variables, also in lists and
    dictionaries there."""
    found: dict[str, Tensor] = {}
    if model is not None:
        found.update(model.named_parameters())
    known = {id(t) for t in found.values()}
    for name, value in [pair for frame in _variables() for pair in frame]:
        inside = [(name, value)]
        if isinstance(value, (list, tuple)):
            inside = [(f"{name}[{i}]", v) for i, v in enumerate(value)]
        elif isinstance(value, dict):
            inside = [(f"{name}[{k!r}]", v) for k, v in value.items()]
        for full, t in inside:
            if issubclass(type(t), Tensor) and full not in found and id(t) not in known:
                found[full] = t
                known.add(id(t))
    return found


def _names(kind) -> dict[int, str]:
    """{id: name} of the variables that are of class `kind`: the outermost function's, there the first, so that none is
    called by the variable of a loop."""
    names: dict[int, str] = {}
    for frame in reversed(_variables()):
        for name, value in frame:
            if issubclass(type(value), kind):
                names.setdefault(id(value), name)
    return names


def _variables() -> list[list[tuple[str, object]]]:
    """(name, value) of the variables of each of the program's running functions, the innermost first, then its
    globals."""
    found: dict[tuple[str, str], list] = {}

    def visit(name, value, where, file):
        if not file.startswith(PACKAGE) or file.startswith(EXAMPLES):
            found.setdefault((where, file), []).append((name, value))

    visit_locals(visit)
    return [*found.values(), list(sys.modules["__main__"].__dict__.items())]
