"""Modules and parameters in sequences and dictionaries."""
from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping

from ..tensor import Tensor
from .module import Module, indent
from .parameter import Parameter

__all__ = ["Sequential", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict"]


def _position(index, length):
    index = operator.index(index)
    if not -length <= index < length:
        raise IndexError(f"[index] index {index} is out of range for {length} entries")
    return index % length


class _Indexed(Module):
    """Modules under the names "0", "1", ..."""

    def __len__(self):
        return len(self._modules)

    def __iter__(self):
        return iter(self._modules.values())

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self._part(index)
        return list(self._modules.values())[_position(index, len(self))]

    def __setitem__(self, index, module):
        setattr(self, list(self._modules)[_position(index, len(self))], module)

    def __delitem__(self, index):
        names = list(self._modules)
        for name in names[index] if isinstance(index, slice) else [names[_position(index, len(self))]]:
            delattr(self, name)
        self._renumber(self._modules.values())

    def _renumber(self, modules):
        modules = list(modules)
        self._modules.clear()
        for i, module in enumerate(modules):
            self._modules[str(i)] = module

    def append(self, module):
        """Add a module at the end."""
        self.add_module(str(len(self)), module)
        return self

    def insert(self, index, module) -> None:
        """Add a module before `index`."""
        if not isinstance(module, Module):
            raise AssertionError(f"[{type(self).__name__}.insert] module should be of type: {Module}")
        modules = list(self._modules.values())
        if not -len(modules) <= index <= len(modules):
            raise IndexError(f"[{type(self).__name__}.insert] Index out of range: {index}")
        modules.insert(index, module)
        self._renumber(modules)

    def extend(self, modules):
        """Add several modules at the end."""
        if not isinstance(modules, Iterable):
            raise TypeError(f"[{type(self).__name__}.extend] should be called with an iterable, but got "
                            f"{type(modules).__name__}")
        for module in list(modules):
            self.append(module)
        return self

    def pop(self, index=-1):
        """Take a module out and return it."""
        module = self[index]
        del self[index]
        return module


class Sequential(_Indexed):
    """Modules called one after the other, each with what the one before returned. As torch.nn.Sequential.

    Takes modules, or one ordered dict of them.
    """

    def __init__(self, *args):
        super().__init__()
        named = args[0].items() if len(args) == 1 and isinstance(args[0], Mapping) else (
            (str(i), module) for i, module in enumerate(args))
        for name, module in named:
            self.add_module(name, module)

    def forward(self, input):
        """The last module's output."""
        for module in self._modules.values():
            input = module(input)
        return input

    def _part(self, index):
        part = self.__class__.__new__(self.__class__)
        Sequential.__init__(part, dict(list(self._modules.items())[index]))
        return part

    def __add__(self, other):
        if not isinstance(other, Sequential):
            raise ValueError(f"[Sequential] add operator supports only objects of Sequential class, but {type(other)} "
                             "is given.")
        return Sequential(*self, *other)

    def __iadd__(self, other):
        if not isinstance(other, Sequential):
            raise ValueError(f"[Sequential] add operator supports only objects of Sequential class, but {type(other)} "
                             "is given.")
        return self.extend(other)


class ModuleList(_Indexed):
    """A list of modules. As torch.nn.ModuleList."""

    def __init__(self, modules=None):
        super().__init__()
        if modules is not None:
            self.extend(modules)

    def _part(self, index):
        return self.__class__(list(self._modules.values())[index])

    def __iadd__(self, modules):
        return self.extend(modules)

    def __add__(self, other):
        return ModuleList([*self, *other])

    def __repr__(self):
        """Runs of equal modules stand once: `(0-3): 4 x Linear(...)`."""
        runs = []  # [first, last, text]
        for i, module in enumerate(self):
            text = repr(module)
            if runs and runs[-1][2] == text:
                runs[-1][1] = i
            else:
                runs.append([i, i, text])
        if not runs:
            return f"{self._get_name()}()"
        lines = [
            indent(f"({first}): {text}" if first == last else f"({first}-{last}): {last - first + 1} x {text}")
            for first, last, text in runs
        ]
        return f"{self._get_name()}(\n  " + "\n  ".join(lines) + "\n)"


def _pairs(kind, values):
    if not isinstance(values, Iterable):
        raise TypeError(f"[{kind}.update] should be called with an iterable of key/value pairs, but got "
                        f"{type(values).__name__}")
    if hasattr(values, "items"):
        return list(values.items())
    pairs = [tuple(pair) for pair in values]
    for i, pair in enumerate(pairs):
        if len(pair) != 2:
            raise ValueError(f"[{kind}.update] {kind} update sequence element #{i} has length {len(pair)}; 2 is "
                             "required")
    return pairs


class ModuleDict(Module):
    """A dictionary of modules, in the order they were added. As torch.nn.ModuleDict."""

    def __init__(self, modules=None):
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key):
        return self._modules[key]

    def __setitem__(self, key, module):
        self.add_module(key, module)

    def __delitem__(self, key):
        del self._modules[key]

    def __len__(self):
        return len(self._modules)

    def __iter__(self):
        return iter(self._modules)

    def __contains__(self, key):
        return key in self._modules

    def clear(self) -> None:
        """Take all modules out."""
        self._modules.clear()

    def pop(self, key):
        """Take a module out and return it."""
        return self._modules.pop(key)

    def keys(self):
        """The names."""
        return self._modules.keys()

    def items(self):
        """(name, module) pairs."""
        return self._modules.items()

    def values(self):
        """The modules."""
        return self._modules.values()

    def update(self, modules) -> None:
        """Add modules from a mapping or from pairs."""
        for key, module in _pairs("ModuleDict", modules):
            self[key] = module


def _as_parameter(value):
    return Parameter(value) if isinstance(value, Tensor) and not isinstance(value, Parameter) else value


def _describe(name, value):
    if not isinstance(value, Tensor):
        return f"  ({name}): Object of type: {type(value).__name__}"
    size = "x".join(str(n) for n in value.shape)
    where = f" ({value.device})" if value.device.type != "cpu" else ""
    kind = "Parameter" if isinstance(value, Parameter) else "Tensor"
    return f"  ({name}): {kind} containing: [{value.dtype} of size {size}{where}]"


class ParameterList(Module):
    """A list whose tensors are parameters; other values are kept as they are. As torch.nn.ParameterList."""

    def __init__(self, values=None):
        super().__init__()
        self._size = 0
        if values is not None:
            self.extend(values)

    def __len__(self):
        return self._size

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.__class__([self[i] for i in range(*index.indices(len(self)))])
        return getattr(self, str(_position(index, len(self))))

    def __setitem__(self, index, value):
        setattr(self, str(_position(index, len(self))), _as_parameter(value))

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def append(self, value):
        """Add a value at the end."""
        self._size += 1
        self[self._size - 1] = value
        return self

    def extend(self, values):
        """Add several values at the end."""
        if not isinstance(values, Iterable) or isinstance(values, Tensor):
            raise TypeError("[ParameterList.extend] should be called with an iterable, but got "
                            f"{type(values).__name__}")
        for value in list(values):
            self.append(value)
        return self

    __iadd__ = extend

    def extra_repr(self):
        """One line a value."""
        return "\n".join(_describe(i, value) for i, value in enumerate(self))

    def forward(self, *args, **kwargs):
        """A list is not called."""
        raise RuntimeError("[ParameterList.forward] ParameterList should not be called.")


class ParameterDict(Module):
    """A dictionary whose tensors are parameters; other values are kept as they are. As torch.nn.ParameterDict."""

    def __init__(self, parameters=None):
        super().__init__()
        self._keys = {}
        if parameters is not None:
            self.update(parameters)

    def __getitem__(self, key):
        if key not in self._keys:
            raise KeyError(key)
        return getattr(self, self._name(key))

    def __setitem__(self, key, value):
        setattr(self, self._name(key), _as_parameter(value))
        self._keys[key] = None

    @staticmethod
    def _name(key):
        if not isinstance(key, str):
            raise TypeError("[ParameterDict] Index given to ParameterDict cannot be used as a key as it is not a "
                            f"string (type is '{type(key).__name__}').")
        return key

    def __delitem__(self, key):
        del self._keys[key]
        delattr(self, key)

    def __len__(self):
        return len(self._keys)

    def __iter__(self):
        return iter(self._keys)

    def __contains__(self, key):
        return key in self._keys

    def clear(self) -> None:
        """Take all values out."""
        for key in list(self._keys):
            del self[key]

    def pop(self, key):
        """Take a value out and return it."""
        value = self[key]
        del self[key]
        return value

    def get(self, key, default=None):
        """The value of a key, or the default."""
        return self[key] if key in self else default

    def keys(self):
        """The keys."""
        return self._keys.keys()

    def items(self):
        """(key, value) pairs."""
        return ((key, self[key]) for key in self._keys)

    def values(self):
        """The values."""
        return (self[key] for key in self._keys)

    def update(self, parameters) -> None:
        """Add values from a mapping or from pairs."""
        for key, value in _pairs("ParameterDict", parameters):
            self[key] = value

    def extra_repr(self):
        """One line a value."""
        return "\n".join(_describe(key, value) for key, value in self.items())

    def forward(self, *args, **kwargs):
        """A dictionary is not called."""
        raise RuntimeError("[ParameterDict.forward] ParameterDict should not be called.")
